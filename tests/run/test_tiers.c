/* What coterie pack makes of experts. Repacked: the same bits wherever they are. In a lower precision: a
 * packed file with tiers is the same model as long as nobody asks for them; "low" is the model whose experts
 * were stored that way, bit for bit, in every residency; "miss" meets each expert in one of its two
 * precisions and the expert itself once it is there; what does not fit is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <coterie/convert.h>
#include <coterie/session.h>

#include "moe_file.h"

static char path[64], tiers[80], stored[80];

static int make(void **state) {
    cot_error err;
    cot_pack_options o;
    cot_convert_options c;
    (void)state;
    moe_file(path);
    snprintf(tiers, sizeof tiers, "%s.tiers.gguf", path);
    snprintf(stored, sizeof stored, "%s.q3.gguf", path);
    cot_pack_defaults(&o);
    o.tiers[o.n_tiers++] = COT_Q4_0;
    o.tiers[o.n_tiers++] = COT_Q3_K;
    cot_convert_defaults(&c);
    c.type_experts = COT_Q3_K;
    return cot_pack(path, tiers, &o, &err) != COT_OK || cot_convert(path, stored, &c, &err) != COT_OK;
}

static int drop(void **state) {
    (void)state;
    unlink(path), unlink(tiers), unlink(stored);
    return 0;
}

static cot_model *open_file(const char *file, cot_residency residency, const char *lossy,
                            const char *predict) {
    cot_model *m = NULL;
    cot_error err;
    cot_model_options o;
    cot_model_defaults(&o);
    o.residency = residency;
    o.experts_lossy = lossy;
    o.predict = predict;
    if (cot_model_open(&m, file, &o, &err) != COT_OK) fail_msg("%s: %s", file, err.message);
    return m;
}

static float *logits_of(const char *file, cot_residency residency, const char *lossy, int prompt) {
    float *out = malloc((size_t)TOKENS * VOCAB * sizeof *out);
    cot_error err;
    cot_model *m = open_file(file, residency, lossy, NULL);
    if (moe_say(m, prompt, out, &err) != COT_OK) fail_msg("%s", err.message);
    cot_model_close(&m);
    return out;
}

static const cot_residency ways[] = {COT_RESIDENCY_MMAP, COT_RESIDENCY_MEMORY, COT_RESIDENCY_STREAM};
enum { BYTES = TOKENS * VOCAB * sizeof(float) };

static void unasked_nothing_changes(void **state) {
    (void)state;
    float *want = logits_of(path, COT_RESIDENCY_MMAP, NULL, 10);
    for (int i = 0; i < 3; i++) {
        float *have = logits_of(tiers, ways[i], i ? "none" : NULL, 10);
        assert_memory_equal(have, want, BYTES);
        free(have);
    }
    cot_model *a = open_file(path, COT_RESIDENCY_MMAP, NULL, NULL),
              *b = open_file(tiers, COT_RESIDENCY_MMAP, NULL, NULL);
    cot_model_info x = {.struct_size = sizeof x}, y = x;
    cot_model_get_info(a, &x);
    cot_model_get_info(b, &y);
    assert_int_equal(x.params_total, y.params_total);
    assert_int_equal(x.params_active, y.params_active);
    assert_int_equal(x.bytes_per_token, y.bytes_per_token);
    assert_true(y.bytes_idle > 0 && x.bytes_idle == 0);
    cot_model_close(&a);
    cot_model_close(&b);
    free(want);
}

static void low_is_the_model_stored_so(void **state) {
    (void)state;
    float *want = logits_of(stored, COT_RESIDENCY_MMAP, NULL, 10),
          *exact = logits_of(path, COT_RESIDENCY_MMAP, NULL, 10);
    assert_true(memcmp(want, exact, BYTES) != 0);
    for (int i = 0; i < 3; i++) {
        float *have = logits_of(tiers, ways[i], i == 1 ? "low:q3_k" : "low", 10); /* q3_k is the lowest */
        assert_memory_equal(have, want, BYTES);
        free(have);
        have = logits_of(tiers, ways[i], "low:q4_0", 10);
        assert_true(memcmp(have, want, BYTES) != 0 && memcmp(have, exact, BYTES) != 0);
        free(have);
    }
    cot_model *m = open_file(tiers, COT_RESIDENCY_STREAM, "low", NULL);
    cot_residency_info i = moe_info(m);
    assert_string_equal(i.lossy, "low");
    assert_string_equal(i.lossy_type, "Q3_K");
    assert_true(i.expert_total < (uint64_t)LAYERS * EXPERTS * F * WIDTH * 3); /* F16 would be twice that */
    cot_model_close(&m);
    free(want);
    free(exact);
}

static void a_miss_takes_the_lower(void **state) {
    (void)state;
    float *low = logits_of(tiers, COT_RESIDENCY_STREAM, "low", 1),
          *exact = logits_of(path, COT_RESIDENCY_MMAP, NULL, 1), *out = malloc(BYTES);
    cot_error err;
    /* Nothing is there and nothing is guessed: every choice is a miss, then finds the lower precision. */
    cot_model *m = open_file(tiers, COT_RESIDENCY_STREAM, "miss", "none");
    OK(moe_say(m, 1, out, &err));
    assert_memory_equal(out, low, BYTES);
    cot_residency_info i = moe_info(m);
    assert_int_equal(i.lower, i.acquired);
    assert_true(i.hits > 0 && i.misses > 0 && i.hits + i.misses == i.acquired);
    cot_model_close(&m);
    /* A prompt is a sweep: exact, and it brings in all there is; from then on nothing is missed. */
    m = open_file(tiers, COT_RESIDENCY_STREAM, "miss", "none");
    float *whole = logits_of(path, COT_RESIDENCY_MMAP, NULL, 30);
    OK(moe_say(m, 30, out, &err));
    assert_memory_equal(out, whole, 30 * VOCAB * sizeof(float));
    if (moe_info(m).lower == 0) assert_memory_equal(out, whole, BYTES);
    cot_model_close(&m);
    /* Guesses bring in the experts themselves. */
    m = open_file(tiers, COT_RESIDENCY_STREAM, "miss", "last");
    uint64_t before = 0, share[3];
    for (int r = 0; r < 3; r++) {
        OK(moe_say(m, 1, out, &err));
        i = moe_info(m);
        share[r] = i.lower - before;
        before = i.lower;
    }
    assert_true(share[2] < share[0]);
    cot_model_close(&m);
    /* Where nothing streams, nothing is missed. */
    m = open_file(tiers, COT_RESIDENCY_MMAP, "miss", NULL);
    OK(moe_say(m, 1, out, &err));
    assert_memory_equal(out, exact, BYTES);
    assert_int_equal(moe_info(m).lower, 0);
    cot_model_close(&m);
    free(low), free(exact), free(out), free(whole);
}

/* A cache of few experts: slots of two sizes come and go, and the budget holds. */
static void a_small_cache_holds_both(void **state) {
    (void)state;
    float *out = malloc(BYTES);
    cot_error err;
    cot_model *m = open_file(tiers, COT_RESIDENCY_STREAM, "miss", NULL);
    cot_session *s;
    cot_session_options so;
    cot_session_defaults(&so);
    so.n_ctx = 64;
    so.n_threads = 1;
    OK(cot_session_create(&s, m, &so, &err));
    for (int k = 0; k < 3; k++) {
        OK(cot_model_set_memory(m, moe_info(m).smallest + (uint64_t)k * (1 << 20), &err));
        moe_keep kept = {out, 0};
        for (int at = 0; at < TOKENS; at++) {
            cot_row row = {at % VOCAB, 0, COT_ROLE_GENERATED, true};
            OK(cot_forward(s, &row, 1, moe_take, &kept, &err));
        }
        cot_session_free(&s);
        OK(cot_session_create(&s, m, &so, &err));
        cot_residency_info i = moe_info(m);
        assert_true(i.expert_bytes <= i.expert_capacity);
        assert_true(i.lower > 0);
    }
    cot_session_free(&s);
    cot_model_close(&m);
    free(out);
}

/* Experts in the kernels' order: the same bits wherever they are, with another precision in its own order
 * beside. */
static void repacked_is_the_same(void **state) {
    (void)state;
    char q5[96], file[2][96];
    static const char *const lossy[] = {NULL, "low:q4_k", "low:q3_k"};
    cot_error err;
    cot_pack_options o;
    cot_convert_options c;
    snprintf(q5, sizeof q5, "%s.q5.gguf", path);
    cot_convert_defaults(&c);
    c.type_experts = COT_Q5_K;
    OK(cot_convert(path, q5, &c, &err));
    for (int i = 0; i < 2; i++) {
        snprintf(file[i], sizeof file[i], "%s.%d.gguf", path, i);
        cot_pack_defaults(&o);
        o.repack = i == 1;
        o.tiers[o.n_tiers++] = COT_Q4_K; /* has such an order, too */
        o.tiers[o.n_tiers++] = COT_Q3_K; /* has none */
        if (cot_pack(q5, file[i], &o, &err) != COT_OK) fail_msg("%s", err.message);
    }
    for (int k = 0; k < 3; k++) {
        float *want = logits_of(file[0], COT_RESIDENCY_MMAP, lossy[k], 10);
        for (int i = 0; i < 3; i++) {
            float *have = logits_of(file[1], ways[i], lossy[k], 10);
            assert_memory_equal(have, want, BYTES);
            free(have);
        }
        if (k == 0) { /* the rest of the model repacked, too */
            cot_model_options mo;
            cot_model *m;
            float *have = malloc(BYTES);
            cot_model_defaults(&mo);
            mo.repack = true;
            OK(cot_model_open(&m, file[1], &mo, &err));
            OK(moe_say(m, 10, have, &err));
            assert_memory_equal(have, want, BYTES);
            cot_model_close(&m);
            free(have);
        }
        free(want);
    }
    assert_int_equal(cot_convert(file[1], "/tmp/never.gguf", NULL, &err), COT_UNSUPPORTED);
    assert_non_null(strstr(err.message, "convert the original"));
    /* An order that is not known is no order to guess at. */
    FILE *f = fopen(file[1], "r+b");
    static char head[1 << 14];
    assert_non_null(f);
    size_t n = fread(head, 1, sizeof head, f);
    char *at = memmem(head, n, "Q4_K,Q5_K", 9);
    assert_non_null(at);
    fseek(f, at - head, SEEK_SET);
    fputs("Q9_K", f);
    fclose(f);
    cot_model *never;
    assert_int_equal(cot_model_open(&never, file[1], NULL, &err), COT_UNSUPPORTED);
    assert_non_null(strstr(err.message, "Q9_K"));
    unlink(q5), unlink(file[0]), unlink(file[1]);
}

static void refused(int line, cot_status s, cot_error *err, const char *word) {
    if (s == COT_OK || !strstr(err->message, word))
        fail_msg("line %d: %s", line, s == COT_OK ? "passes" : err->message);
}

static void refusals(void **state) {
    (void)state;
    cot_error err;
    cot_model *m = NULL;
    cot_model_options o;
    cot_pack_options p;
    cot_model_defaults(&o);
    o.experts_lossy = "low";
    refused(__LINE__, cot_model_open(&m, path, &o, &err), &err, "--tiers");
    o.experts_lossy = "low:q2_k";
    refused(__LINE__, cot_model_open(&m, tiers, &o, &err), &err, "q2_k");
    o.experts_lossy = "lower";
    refused(__LINE__, cot_model_open(&m, tiers, &o, &err), &err, "none of none, low");
    cot_pack_defaults(&p);
    p.n_tiers = 1;
    p.tiers[0] = COT_F16;
    refused(__LINE__, cot_pack(path, "/tmp/never.gguf", &p, &err), &err, "F16 cannot be made");
    p.tiers[0] = COT_Q6_K;
    refused(__LINE__, cot_pack(stored, "/tmp/never.gguf", &p, &err), &err, "no lower precision Q6_K");
    p.tiers[0] = p.tiers[1] = COT_Q4_0;
    p.n_tiers = 2;
    refused(__LINE__, cot_pack(path, "/tmp/never.gguf", &p, &err), &err, "named twice");
    p.n_tiers = 99;
    refused(__LINE__, cot_pack(path, "/tmp/never.gguf", &p, &err), &err, "at most");
    assert_int_not_equal(access("/tmp/never.gguf", F_OK), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unasked_nothing_changes), cmocka_unit_test(low_is_the_model_stored_so),
        cmocka_unit_test(a_miss_takes_the_lower),  cmocka_unit_test(a_small_cache_holds_both),
        cmocka_unit_test(repacked_is_the_same),    cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
