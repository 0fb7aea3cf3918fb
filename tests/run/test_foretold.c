/* A streamed run with a trained predictor: the bits of the mapped run whatever it says, hints that are nearly
 * all wanted when it knows what comes, by the present id or by the one before; and files for other models. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <coterie/session.h>

#include "moe_file.h"
#include "trained_file.h"

static char path[64], file[80];
static float *want;
static bool chosen[TOKENS][LAYERS][EXPERTS]; /* by position */

static void record(void *user, const cot_route *r) {
    (void)user;
    for (int u = 0; u < r->n_units; u++)
        for (int i = r->first[u]; i < r->first[u + 1]; i++) chosen[r->position[u]][r->bank][r->ids[i]] = true;
}

/* Each id once: both it and the one before it tell the position. */
static int32_t token(int position) { return (position * 37 + 11) % VOCAB; }

/* TOKENS × VOCAB logits; `beside`: in sequence 1, beside another whose ids the predictor does not know. */
static float *run(cot_residency residency, const char *predict, bool beside, cot_residency_info *info) {
    cot_model *m = NULL;
    cot_session *s = NULL;
    cot_error err = {0};
    cot_model_options mo;
    cot_session_options so;
    cot_model_defaults(&mo);
    cot_session_defaults(&so);
    mo.residency = residency;
    mo.predict = predict;
    mo.sim_latency = 1e-4, mo.sim_bandwidth = 4e9;
    so.n_ctx = 64, so.n_threads = 1, so.n_sequences = 2;
    moe_keep k = {malloc((size_t)TOKENS * VOCAB * sizeof(float)), 0};
    assert_non_null(k.out);
    if (cot_model_open(&m, path, &mo, &err) != COT_OK) fail_msg("%s", err.message);
    if (cot_session_create(&s, m, &so, &err) != COT_OK) fail_msg("%s", err.message);
    if (!predict) cot_session_observe(s, record, NULL);
    else {
        cot_residency_info i = {.struct_size = sizeof i};
        OK(cot_model_get_residency(m, -1, &i, &err));
        assert_string_equal(i.predict, "trained");
        OK(cot_model_set_memory(m, i.smallest + i.expert_total / 3, &err));
    }
    for (int i = 0; i < TOKENS; i++) {
        cot_row rows[] = {{token(i), beside, COT_ROLE_PROMPT, true}, {255, 0, COT_ROLE_PROMPT, false}};
        if (cot_forward(s, rows, beside ? 2 : 1, moe_take, &k, &err) != COT_OK) fail_msg("%s", err.message);
    }
    assert_true(k.n == (size_t)TOKENS * VOCAB);
    if (info) OK(cot_model_get_residency(m, -1, info, &err));
    cot_session_free(&s);
    cot_model_close(&m);
    return k.out;
}

static int make(void **state) {
    (void)state;
    moe_file(path);
    snprintf(file, sizeof file, "%s.rpp", path);
    want = run(COT_RESIDENCY_MMAP, NULL, false, NULL);
    return 0;
}

static int drop(void **state) {
    (void)state;
    free(want);
    unlink(file);
    return unlink(path);
}

static void put_choices(float *row0, size_t width, int id, int position, float value) {
    for (int b = 0; b < LAYERS; b++)
        for (int e = 0; e < EXPERTS; e++)
            row0[(size_t)(b * EXPERTS + e) * width + (size_t)id] = chosen[position][b][e] ? value : -value;
}

/* No block: embedding one-hot, the head a table by the present id. */
static void by_present(float value) {
    trained_shape s = {VOCAB, VOCAB, 0, 1, LAYERS, EXPERTS, 1};
    float *w = calloc(trained_floats(&s), sizeof *w), *head = w + trained_head_at(&s);
    for (size_t t = 0; t < VOCAB; t++) w[t * VOCAB + t] = 1, head[(ptrdiff_t)t - VOCAB] = 1;
    for (int i = 0; i < TOKENS; i++) put_choices(head, VOCAB, token(i), i, value);
    trained_write(file, &s, w, trained_floats(&s));
    free(w);
}

/* One block over two ids: attention, which looks at both alike, puts half of each into the upper half of the
 * state; the head's table knows what follows the earlier one, and takes the present one's part out again. */
static void by_the_one_before(void) {
    enum { W = 2 * VOCAB };
    trained_shape s = {VOCAB, W, 1, 1, LAYERS, EXPERTS, 2};
    float *w = calloc(trained_floats(&s), sizeof *w), *norm = w + (size_t)VOCAB * W,
          *v = norm + W + 2 * W * W, *o = v + W * W, *head = w + trained_head_at(&s);
    for (size_t t = 0; t < VOCAB; t++) {
        w[t * W + t] = 1;
        v[t * W + t] = 1 / sqrtf(W); /* the norm has made √W of 1 */
        o[(t + VOCAB) * W + t] = 1;
    }
    for (int i = 0; i < W; i++) norm[i] = head[i - W] = 1;
    for (int i = 0; i + 1 < TOKENS; i++) {
        put_choices(head, W, VOCAB + token(i), i + 1, 4);
        put_choices(head, W, token(i), i + 1, -2);
    }
    trained_write(file, &s, w, trained_floats(&s));
    free(w);
}

static double accuracy(const cot_residency_info *i) {
    return i->hinted ? (double)i->hinted_used / (double)i->hinted : -1;
}

static void same_bits(const char *what, cot_residency residency, bool beside, double least, double most) {
    cot_residency_info i = {.struct_size = sizeof i};
    float *have = run(residency, file, beside, &i);
    assert_memory_equal(have, want, (size_t)TOKENS * VOCAB * sizeof *have);
    free(have);
    if (residency != COT_RESIDENCY_SIM) return; /* a true disk may be too slow or too fast for any */
    if (i.hinted < 20 || accuracy(&i) < least || accuracy(&i) > most)
        fail_msg("%s: %llu of %llu hints were wanted", what, (unsigned long long)i.hinted_used,
                 (unsigned long long)i.hinted);
}

static void one_that_knows(void **state) {
    (void)state;
    by_present(1);
    same_bits("by the present id", COT_RESIDENCY_SIM, false, 0.97, 1);
    same_bits("by the present id", COT_RESIDENCY_STREAM, false, 0, 1);
    same_bits("beside another", COT_RESIDENCY_SIM, true, 0.3, 1);
}

static void one_that_remembers(void **state) {
    (void)state;
    by_the_one_before();
    same_bits("by the id before", COT_RESIDENCY_SIM, false, 0.9, 1);
}

static void one_that_errs(void **state) {
    (void)state;
    by_present(-1);
    same_bits("the opposite", COT_RESIDENCY_SIM, false, 0, 0.2);
    same_bits("the opposite", COT_RESIDENCY_STREAM, true, 0, 1);
}

static void of_another_model(void **state) {
    (void)state;
    static const struct {
        trained_shape shape;
        const char *text;
    } cases[] = {{{VOCAB + 1, 1, 0, 1, LAYERS, EXPERTS, 1}, ".rpp: vocabulary: is 257, here 256 are needed"},
                 {{VOCAB, 1, 0, 1, LAYERS - 1, EXPERTS, 1}, ".rpp: banks: are 2, here 3 are needed"},
                 {{VOCAB, 1, 0, 1, LAYERS, EXPERTS + 1, 1}, ".rpp: experts: are 33, here 32 are needed"}};
    cot_model *m = NULL;
    cot_error err;
    cot_model_options mo;
    cot_model_defaults(&mo);
    mo.predict = file;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float *w = calloc(trained_floats(&cases[i].shape), sizeof *w);
        trained_write(file, &cases[i].shape, w, trained_floats(&cases[i].shape));
        free(w);
        mo.residency = COT_RESIDENCY_STREAM;
        assert_int_equal(cot_model_open(&m, path, &mo, &err), COT_ARGUMENT);
        if (!strstr(err.message, cases[i].text)) fail_msg("%s", err.message);
        assert_null(m);
    }
    mo.residency = COT_RESIDENCY_MMAP; /* where nothing streams it is not read */
    OK(cot_model_open(&m, path, &mo, &err));
    cot_model_close(&m);
    mo.predict = "trained";
    assert_int_equal(cot_model_open(&m, path, &mo, &err), COT_ARGUMENT);
    assert_non_null(strstr(err.message, "and no FILE.rpp"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_knows),
        cmocka_unit_test(one_that_remembers),
        cmocka_unit_test(one_that_errs),
        cmocka_unit_test(of_another_model),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
