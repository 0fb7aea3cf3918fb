/* A packed file is the same model: the same bits from memory and streamed, one read an expert; what cannot be
 * packed is refused; a disk that fills up leaves nothing behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <coterie/convert.h>

#include "golden.h"
#include "torture.h"

static void packed_is_the_same(void **state) {
    char out[80];
    int packed = 0;
    (void)state;
    snprintf(out, sizeof out, "/tmp/coterie-pack-%d.gguf", (int)getpid());
    for (int i = 0; i < golden_count; i++) {
        golden_case g;
        char path[300], arch[300];
        cot_error err;
        golden_open(&g, golden_names[i]);
        snprintf(path, sizeof path, "%s/model.gguf", g.folder);
        snprintf(arch, sizeof arch, "%s/gguf.arch.json", g.folder);
        if (!cot__path_exists(arch)) snprintf(arch, sizeof arch, "%s", g.arch);
        if (cot__path_exists(path)) {
            cot_status s = cot_pack(path, out, NULL, &err);
            if (s == COT_UNSUPPORTED) assert_non_null(strstr(err.message, "no stacks of experts"));
            else if (s != COT_OK) fail_msg("%s: %s", path, err.message);
            else {
                golden_run r = {.path = path, .arch_file = arch[0] ? arch : NULL, .kv = COT_F16};
                size_t bytes = (size_t)g.n_prompt * (size_t)g.n_vocab * sizeof(float);
                float *want = golden_logits(&r, g.ids, g.n_prompt, g.n_vocab, &err);
                assert_non_null(want);
                r.path = out;
                for (int stream = 0; stream < 2; stream++) {
                    r.residency = stream ? COT_RESIDENCY_STREAM : COT_RESIDENCY_MMAP;
                    float *have = golden_logits(&r, g.ids, g.n_prompt, g.n_vocab, &err);
                    if (!have) fail_msg("%s: %s", path, err.message);
                    assert_memory_equal(have, want, bytes);
                    free(have);
                }
                free(want);
                assert_int_equal(cot_pack(out, "/tmp/never.gguf", NULL, &err), COT_UNSUPPORTED);
                packed++;
            }
        }
        golden_close(&g);
    }
    unlink(out);
    assert_true(packed > 12);
}

static void refusals_and_full_disks(void **state) {
    char out[80];
    cot_error err;
    (void)state;
    snprintf(out, sizeof out, "/tmp/coterie-pack-%d.gguf", (int)getpid());
    assert_int_equal(cot_pack("tests/golden/qwen3moe/hf", out, NULL, &err), COT_ARGUMENT);
    assert_int_equal(cot_pack("tests/golden/qwen3moe/none.gguf", out, NULL, &err), COT_NOT_FOUND);
    for (int kind = 0; kind < 3; kind++)
        COT_TORTURE((cot__fault_kind)(kind == 0   ? COT__FAULT_WRITE
                                      : kind == 1 ? COT__FAULT_READ
                                                  : COT__FAULT_ALLOC),
                    {
                        cot_status s = cot_pack("tests/golden/qwen3moe/model.gguf", out, NULL, &err);
                        if (s == COT_OK) unlink(out);
                        assert_false(cot__path_exists(out));
                        COT_TORTURE_RESULT(s);
                    });
}

int main(void) {
    golden_list();
    const struct CMUnitTest tests[] = {cmocka_unit_test(packed_is_the_same),
                                       cmocka_unit_test(refusals_and_full_disks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
