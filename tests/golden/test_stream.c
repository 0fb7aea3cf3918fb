/* Residency changes speed, never a bit: every golden case, as folder and as GGUF, from the smallest budget to
 * the largest, under every retention, way of reading and cut of the work, gives the bytes of the mapped run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/hash.h"
#include "golden.h"

static uint64_t draw(uint64_t n, uint64_t seed, uint64_t i, uint64_t what) {
    return cot__random_u64(seed, 100, i, what) % n;
}

/* Random settings number i. */
static golden_run settings(const char *path, const char *arch, uint64_t seed, uint64_t i) {
    static const char *const retentions[] = {"lru", "lfu", "decay", "layer", "demand"};
    static const char *const predictors[] = {"none", "last", "popularity", "token", "transition", "gate"};
    static const char *const io[] = {"uring", "threads", "uring,buffered", "threads,buffered"};
    static const cot_residency residencies[] = {COT_RESIDENCY_STREAM, COT_RESIDENCY_RING, COT_RESIDENCY_SIM};
    golden_run r = {.path = path, .arch_file = arch, .kv = COT_F16};
    r.act = draw(2, seed, i, 0) ? COT_ACTIVATION_F32 : COT_ACTIVATION_AUTO;
    r.threads = 1 + (int)draw(2, seed, i, 1);
    r.way = (golden_way)draw(GOLDEN_BATCHED + 1, seed, i, 2);
    r.retention = retentions[draw(5, seed, i, 3)];
    r.predict = predictors[draw(6, seed, i, 8)];
    r.residency = residencies[draw(8, seed, i, 4) < 6 ? 0 : 1 + draw(2, seed, i, 5)];
    r.share = i % 3 == 0 ? 0 : (double)draw(1000, seed, i, 6) / 1000;
    setenv("COTERIE_IO", io[draw(4, seed, i, 7)], 1);
    return r;
}

static void check(const golden_case *g, const char *path, const char *arch, uint64_t seed, uint64_t *misses) {
    for (uint64_t i = 0; i < 6; i++) {
        cot_error err;
        cot_residency_info info = {.struct_size = sizeof info};
        golden_run r = settings(path, arch, seed, i), mapped = r;
        mapped.residency = COT_RESIDENCY_MMAP;
        mapped.way = GOLDEN_WHOLE;
        r.info = &info;
        float *want = golden_logits(&mapped, g->ids, g->n_prompt, g->n_vocab, &err);
        if (!want) fail_msg("%s: %s", path, err.message);
        float *have = golden_logits(&r, g->ids, g->n_prompt, g->n_vocab, &err);
        if (!have) fail_msg("%s: setting %llu: %s", path, (unsigned long long)i, err.message);
        if (memcmp(have, want, (size_t)g->n_prompt * (size_t)g->n_vocab * sizeof *have) != 0)
            fail_msg("%s: setting %llu (%s, share %g, way %d): other bits (distance %g)", path,
                     (unsigned long long)i, r.retention, r.share, r.way,
                     golden_distance(have, want, (size_t)g->n_prompt * (size_t)g->n_vocab));
        assert_true(info.hits + info.misses == info.acquired);
        assert_true(info.expert_bytes <= info.expert_capacity);
        *misses += info.misses;
        free(want);
        free(have);
    }
}

static void streamed_is_mapped(void **state) {
    uint64_t misses = 0;
    int files = 0;
    (void)state;
    for (int i = 0; i < golden_count; i++) {
        golden_case g;
        char path[300], arch[300];
        golden_open(&g, golden_names[i]);
        snprintf(path, sizeof path, "%s/hf", g.folder);
        check(&g, path, golden_arch(&g), (uint64_t)i, &misses);
        snprintf(path, sizeof path, "%s/model.gguf", g.folder);
        snprintf(arch, sizeof arch, "%s/gguf.arch.json", g.folder);
        if (!cot__path_exists(arch)) snprintf(arch, sizeof arch, "%s", g.arch);
        if (cot__path_exists(path))
            check(&g, path, arch[0] ? arch : NULL, 1000 + (uint64_t)i, &misses), files++;
        golden_close(&g);
    }
    assert_true(files > 20);
    if (misses < 3000) fail_msg("only %llu misses: they did not stream", (unsigned long long)misses);
}

int main(void) {
    golden_list();
    const struct CMUnitTest tests[] = {cmocka_unit_test(streamed_is_mapped)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
