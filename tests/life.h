/* The whole life of a small program, to be run with each allocation, read, write or thread start failing
 * once: an error each time, nothing leaked, nothing torn. */
#ifndef COT_TESTS_LIFE_H
#define COT_TESTS_LIFE_H

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <coterie/session.h>

#include "temp.h"
#include "torture.h"

typedef struct life {
    const char *path;
    cot_residency residency;
    int32_t beams;
    cot_type kv;
    char state[64];
} life;

static inline bool on_text(void *user, const char *text, size_t n, int32_t token) {
    (void)text, (void)n;
    *(int32_t *)user += token >= 0;
    return true;
}

static inline cot_status save_and_load(cot_session *s, const char *path, cot_error *err) {
    cot_status r = cot_sequence_save(s, 0, path, err);
    if (r == COT_OK) r = cot_sequence_cut(s, 0, 0, err);
    if (r == COT_OK) r = cot_sequence_load(s, 0, path, err);
    unlink(path);
    return r;
}

/* Text both ways and a conversation's prompt, where the model has a tokenizer. */
static inline cot_status talk(const cot_model *model, cot_error *err) {
    static const char text[] = "The expert \xF0\x9F\x98\x80 of 42 na\xC3\xAFve words",
                      messages[] = "[{\"role\": \"user\", \"content\": \"hello\"}]";
    int32_t *ids = NULL;
    char *back = NULL, *prompt = NULL;
    size_t n = 0, len = 0, n_prompt = 0;
    cot_status s = cot_tokenize(model, text, sizeof text - 1, true, true, &ids, &n, err);
    if (s == COT_OK) s = cot_detokenize(model, ids, n, false, &back, &len, err);
    if (s == COT_OK) assert_int_equal(len, sizeof text - 1);
    if (s == COT_OK) s = cot_chat_render(model, messages, true, &prompt, &n_prompt, err);
    if (s == COT_OK) assert_non_null(strstr(prompt, "hello"));
    cot_free(ids);
    cot_free(back);
    cot_free(prompt);
    return s;
}

/* Opens, talks, generates, saves, loads, closes: the whole life of a small program. */
static inline cot_status live(const life *l, cot_error *err) {
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
    cot_model_info info;
    cot_model_get_info(model, &info);
    assert_int_equal(info.has_tokenizer, strstr(l->path, "noise") != NULL); /* never lost on the way */
    if (info.has_tokenizer) s = talk(model, err);
    if (s == COT_OK) s = cot_session_create(&session, model, &so, err);
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

static inline void torture(cot__fault_kind kind, const life *l) {
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

static inline life a_life(const char *path, cot_residency residency, int32_t beams, cot_type kv) {
    life l = {.path = path, .residency = residency, .beams = beams, .kv = kv};
    snprintf(l.state, sizeof l.state, "%.30s/coterie-torture-%d.state", temp_root(), (int)getpid());
    return l;
}

#endif
