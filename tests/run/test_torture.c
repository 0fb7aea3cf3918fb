/* Every allocation, read, write and thread start that fails once on the way from opening a model through one
 * generation, a saved state and closing: an error each time, nothing leaked, nothing torn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <coterie/session.h>

#include "torture.h"

typedef struct life {
    const char *path;
    cot_residency residency;
    int32_t beams;
    cot_type kv;
    char state[64];
} life;

static bool on_text(void *user, const char *text, size_t n, int32_t token) {
    (void)text, (void)n;
    *(int32_t *)user += token >= 0;
    return true;
}

static cot_status save_and_load(cot_session *s, const char *path, cot_error *err) {
    cot_status r = cot_sequence_save(s, 0, path, err);
    if (r == COT_OK) r = cot_sequence_cut(s, 0, 0, err);
    if (r == COT_OK) r = cot_sequence_load(s, 0, path, err);
    unlink(path);
    return r;
}

/* Opens, generates, saves, loads, closes: the whole life of a small program. */
static cot_status live(const life *l, cot_error *err) {
    cot_model *model = NULL;
    cot_session *session = NULL;
    cot_model_options mo;
    cot_model_defaults(&mo);
    mo.residency = l->residency;
    cot_status s = cot_model_open(&model, l->path, &mo, err);
    if (s != COT_OK) {
        assert_null(model);
        return s;
    }
    cot_session_options so;
    cot_session_defaults(&so);
    so.n_ctx = 32, so.n_threads = 2, so.kv_type = l->kv;
    so.n_sequences = l->beams > 1 ? 2 * l->beams : 1;
    s = cot_session_create(&session, model, &so, err);
    assert_true((s == COT_OK) == (session != NULL));
    if (s == COT_OK) {
        const int32_t prompt[] = {1, 5, 9, 2, 7};
        int32_t count = 0;
        cot_generate_options go;
        cot_generate_defaults(&go);
        go.max_tokens = 4, go.ignore_end = true, go.beams = l->beams;
        s = cot_generate(session, prompt, 5, &go, on_text, &count, NULL, err);
        if (s == COT_OK) assert_int_equal(count, 4);
        if (s == COT_OK) s = save_and_load(session, l->state, err);
    }
    cot_session_free(&session);
    cot_model_close(&model);
    return s;
}

static void torture(cot__fault_kind kind, const life *l) {
    COT_TORTURE(kind, {
        cot_error err = {0};
        cot_status s = live(l, &err);
        assert_int_equal(err.status, s);
        if (s != COT_OK) {
            assert_true(err.message[0] != '\0');
            assert_null(strchr(err.message, '\n'));
        }
        assert_int_not_equal(access(l->state, F_OK), 0);
        COT_TORTURE_RESULT(s);
    });
}

static life a_life(const char *path, cot_residency residency, int32_t beams, cot_type kv) {
    life l = {.path = path, .residency = residency, .beams = beams, .kv = kv};
    snprintf(l.state, sizeof l.state, "/tmp/coterie-torture-%d.state", (int)getpid());
    return l;
}

#define GOLDEN "tests/golden/"
static const char *const folders[] = {GOLDEN "qwen3moe/hf", GOLDEN "deepseek3/hf", GOLDEN "gpt-oss/hf"};

static void allocations(void **state) {
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        life l = a_life(folders[i], COT_RESIDENCY_MEMORY, 1, COT_F16);
        torture(COT__FAULT_ALLOC, &l);
    }
}

static void allocations_of_beams(void **state) {
    (void)state;
    life l = a_life(folders[0], COT_RESIDENCY_MMAP, 3, COT_Q8_0);
    torture(COT__FAULT_ALLOC, &l);
}

static void reads(void **state) {
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        life l = a_life(folders[i], COT_RESIDENCY_MEMORY, 1, COT_F32);
        torture(COT__FAULT_READ, &l);
    }
}

static void writes(void **state) {
    (void)state;
    life l = a_life(folders[0], COT_RESIDENCY_MMAP, 1, COT_F16);
    torture(COT__FAULT_WRITE, &l);
}

/* A refused thread is no error: the work goes on with those that there are. */
static void threads(void **state) {
    (void)state;
    life l = a_life(folders[0], COT_RESIDENCY_MMAP, 1, COT_F16);
    cot_error err = {0};
    cot__fault_set(COT__FAULT_THREAD, 1);
    assert_int_equal(live(&l, &err), COT_OK);
    assert_true(cot__fault_count(COT__FAULT_THREAD) > 0);
    cot__fault_set(COT__FAULT_THREAD, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations), cmocka_unit_test(allocations_of_beams),
        cmocka_unit_test(reads),       cmocka_unit_test(writes),
        cmocka_unit_test(threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
