/* Repacked weights give the same bits as those of the file, whatever reads them: one row or many, quantised
 * activations or F32, at every number format that has such an order; and what is shared stays as it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <coterie/convert.h>
#include <coterie/session.h>

#include "model/internal.h"
#include "moe_file.h"

static char path[64], packed[80];

typedef struct keep {
    float *out;
    size_t n;
} keep;

static bool take(void *user, size_t row, const float *logits, int64_t n) {
    keep *k = user;
    memcpy(k->out + k->n, logits, (size_t)n * sizeof *logits);
    k->n += (size_t)n;
    return true;
}

/* Logits of a prompt in calls of 1, 2, 3, 5, 8, 21 rows; *together: matrices that were repacked. */
static float *run(bool repack, cot_activation act, int *together) {
    static const int steps[] = {1, 2, 3, 5, 8, 21};
    cot_model *m = NULL;
    cot_session *s = NULL;
    cot_model_options mo;
    cot_session_options so;
    cot_error err;
    cot_model_defaults(&mo);
    cot_session_defaults(&so);
    mo.repack = repack, so.activation = act, so.n_ctx = 64, so.n_threads = 2;
    if (cot_model_open(&m, packed, &mo, &err) != COT_OK || cot_session_create(&s, m, &so, &err) != COT_OK)
        fail_msg("%s", err.message);
    keep k = {malloc((size_t)TOKENS * VOCAB * sizeof(float)), 0};
    assert_non_null(k.out);
    for (int i = 0, at = 0; i < 6; at += steps[i++]) {
        cot_row rows[21];
        for (int j = 0; j < steps[i]; j++)
            rows[j] = (cot_row){(at + j) * 37 % VOCAB, 0, COT_ROLE_PROMPT, true};
        if (cot_forward(s, rows, (size_t)steps[i], take, &k, &err) != COT_OK) fail_msg("%s", err.message);
    }
    *together = m->head.together != 0;
    for (int b = 0; b < cot__store_banks(m->store); b++)
        for (int e = 0; e < EXPERTS; e++)
            for (int p = 0; p <= COT__DOWN; p++)
                *together += cot__store_shape(m->store, b, e)->part[p].together != 0;
    for (size_t i = 0; i < m->n_steps; i++)
        if (m->steps[i].kind == COT__STEP_ATTENTION)
            *together += (m->steps[i].attn->wq.together != 0) + (m->steps[i].attn->wo.together != 0);
    assert_int_equal(m->embed.together, 0);
    cot_session_free(&s);
    cot_model_close(&m);
    return k.out;
}

/* The file's tensors of one type are called another whose blocks have as many bytes. */
static void rename_type(cot_type from, cot_type to) {
    static char text[1 << 16];
    const char end[] = ".weight";
    FILE *f = fopen(packed, "r+b");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text, f);
    for (size_t i = 0; from != to && i + 64 < n; i++) {
        uint32_t dims, type; /* after the name: axes, their lengths, the type */
        if (memcmp(text + i, end, sizeof end - 1) != 0) continue;
        char *at = text + i + sizeof end - 1;
        memcpy(&dims, at, 4);
        if (dims > 4) continue;
        memcpy(&type, at + 4 + 8 * dims, 4);
        if (type == (uint32_t)from) memcpy(at + 4 + 8 * dims, &(uint32_t){(uint32_t)to}, 4);
    }
    rewind(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void repacked_weights_give_the_same_bits(void **state) {
    enum { ALL = 1 + LAYERS * (EXPERTS * 3 + 2) };
    static const struct {
        cot_type type, called; /* written; what the file says then: no encoder makes IQ4_NL */
        int together;          /* wanted */
    } cases[] = {{COT_Q4_K, COT_Q4_K, ALL},   {COT_Q5_K, COT_Q5_K, ALL},   {COT_Q6_K, COT_Q6_K, ALL},
                 {COT_Q8_0, COT_Q8_0, ALL},   {COT_MXFP4, COT_MXFP4, ALL}, {COT_Q4_0, COT_Q4_0, ALL},
                 {COT_Q4_0, COT_IQ4_NL, ALL}, {COT_Q4_1, COT_Q4_1, ALL},   {COT_Q5_0, COT_Q5_0, ALL},
                 {COT_Q5_1, COT_Q5_1, ALL},   {COT_F16, COT_F16, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int act = 0; act < 2; act++) {
            cot_error err;
            cot_convert_options o;
            int none, some;
            cot_convert_defaults(&o);
            o.type = cases[i].type;
            if (cot_convert(path, packed, &o, &err) != COT_OK) fail_msg("%s", err.message);
            rename_type(cases[i].type, cases[i].called);
            float *a = run(false, act ? COT_ACTIVATION_F32 : COT_ACTIVATION_AUTO, &none),
                  *b = run(true, act ? COT_ACTIVATION_F32 : COT_ACTIVATION_AUTO, &some);
            assert_int_equal(none, 0);
            assert_int_equal(some, cases[i].together);
            assert_memory_equal(a, b, (size_t)TOKENS * VOCAB * sizeof *a);
            free(a);
            free(b);
            unlink(packed);
        }
}

static void repacking_needs_memory(void **state) {
    (void)state;
    cot_model *m = NULL;
    cot_model_options mo;
    cot_error err;
    cot_model_defaults(&mo);
    mo.repack = true, mo.residency = COT_RESIDENCY_STREAM;
    assert_int_equal(cot_model_open(&m, path, &mo, &err), COT_ARGUMENT);
    assert_non_null(strstr(err.message, "repack"));
}

static int make(void **state) {
    (void)state;
    moe_file(path);
    snprintf(packed, sizeof packed, "%s.other.gguf", path);
    return 0;
}

static int drop(void **state) {
    (void)state;
    return unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(repacked_weights_give_the_same_bits),
                                       cmocka_unit_test(repacking_needs_memory)};
    return cmocka_run_group_tests(tests, make, drop);
}
