/* Text on its way out of a generation: only whole UTF-8, stop strings wherever tokens cut them, the reasons
 * for stopping, a context that is full and says so, and state that goes through a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "run/draft.h"
#include "run/generate.h"
#include "text/tok_utf8.h"
#include "temp.h"

#define NOISE "tests/golden/noise/model.gguf"

typedef struct heard {
    char text[4096];
    size_t n, calls;
    int tokens;
} heard;

static bool hear(void *user, const char *text, size_t n, int32_t token) {
    heard *h = user;
    assert_true(h->n + n < sizeof h->text);
    assert_int_equal(cot__utf8_valid(text, n), n); /* each piece by itself */
    memcpy(h->text + h->n, text, n);
    h->n += n;
    h->text[h->n] = 0;
    h->calls++;
    h->tokens += token >= 0;
    return true;
}

/* Feeds s cut into pieces of `step` bytes. */
static void stream(const char *s, size_t n, size_t step, const char *stop, heard *h, bool *stopped) {
    const char *stops[] = {stop};
    cot_generate_options o;
    cot_generate_defaults(&o);
    o.stop = stops, o.n_stop = stop ? 1 : 0;
    cot__stream t = {.fn = hear, .user = h, .opt = &o, .buf = {.max = 1 << 20}, .out = {.max = 1 << 20}};
    bool go_on = true;
    memset(h, 0, sizeof *h);
    for (size_t i = 0; i < n && go_on; i += step)
        assert_int_equal(cot__stream_put(&t, s + i, n - i < step ? n - i : step, 1, false, &go_on, NULL),
                         COT_OK);
    if (go_on) assert_int_equal(cot__stream_put(&t, "", 0, -1, true, &go_on, NULL), COT_OK);
    *stopped = t.stopped;
    cot__buf_free(&t.buf);
    cot__buf_free(&t.out);
}

static void only_whole_characters_come_out(void **state) {
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"aé€😀z", "aé€😀z"},
        {"a\xF0\x9F\x98", "a\xEF\xBF\xBD"},           /* ends inside a character */
        {"\xFFz", "\xEF\xBF\xBDz"},                   /* starts no character */
        {"a\x80\x80z", "a\xEF\xBF\xBD\xEF\xBF\xBDz"}, /* continues none */
        {"\xE2\x82"
         "A",
         "\xEF\xBF\xBD"
         "A"},                              /* broken off */
        {"\xED\xA0\x80z", "\xEF\xBF\xBDz"}, /* a surrogate */
        {"", ""},
    };
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (size_t step = 1; step < 8; step++) {
            heard h;
            bool stopped;
            stream(cases[c].in, strlen(cases[c].in), step, NULL, &h, &stopped);
            assert_string_equal(h.text, cases[c].out);
            assert_false(stopped);
        }
}

static void stop_strings_are_found_across_tokens(void **state) {
    static const struct {
        const char *in, *stop, *out;
        bool stopped;
    } cases[] = {
        {"one two three", "two", "one ", true},
        {"aab", "ab", "a", true},
        {"ENEND", "END", "EN", true},
        {"END", "END", "", true},
        {"EN", "END", "EN", false},
        {"x😀y", "😀", "x", true},
        {"abc", "", "abc", false},
    };
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (size_t step = 1; step < 8; step++) {
            heard h;
            bool stopped;
            stream(cases[c].in, strlen(cases[c].in), step, cases[c].stop, &h, &stopped);
            assert_string_equal(h.text, cases[c].out);
            assert_int_equal(stopped, cases[c].stopped);
        }
}

/* ---- on the tiny model ---- */

static cot_model *model;

static cot_session *session(int32_t n_ctx, int32_t n_sequences) {
    cot_session *s = NULL;
    cot_session_options o;
    cot_session_defaults(&o);
    o.n_ctx = n_ctx, o.n_sequences = n_sequences, o.n_threads = 1;
    assert_int_equal(cot_session_create(&s, model, &o, NULL), COT_OK);
    return s;
}

static cot_generate_result generate(cot_session *s, cot_generate_options *o, const int32_t *ids, size_t n,
                                    heard *h) {
    cot_generate_result r;
    cot_error err;
    memset(h, 0, sizeof *h);
    if (cot_generate(s, ids, n, o, hear, h, &r, &err) != COT_OK) fail_msg("%s", err.message);
    return r;
}

static void the_context_is_full_and_says_so(void **state) {
    (void)state;
    const int32_t ids[] = {70, 71, 72};
    cot_generate_options o;
    cot_generate_defaults(&o);
    o.sample.temperature = 0, o.ignore_end = true;
    heard h;
    cot_session *s = session(8, 1);
    cot_generate_result r = generate(s, &o, ids, 3, &h);
    assert_int_equal(r.stop, COT_STOP_CONTEXT);
    assert_int_equal(r.generated_tokens, 6); /* the last needs no position */
    assert_int_equal(h.tokens, 6);
    assert_int_equal(cot_sequence_length(s, 0), 8);
    cot_error err;
    assert_int_equal(cot_generate(s, ids, 3, &o, hear, &h, NULL, &err), COT_CONTEXT_FULL);
    assert_non_null(strstr(err.message, "--ctx"));
    assert_int_equal(cot_sequence_length(s, 0), 8); /* nothing was shifted out */
    cot_session_free(&s);
    s = session(0, 1);
    assert_int_equal(cot_session_ctx(s), 512); /* the model's; 4096 at most */
    cot_session_free(&s);
}

static bool stop_at_once(void *user, const char *what, uint64_t done, uint64_t total) {
    (void)what, (void)done, (void)total;
    return !*(bool *)user;
}

static void a_cancelled_prompt_leaves_nothing(void **state) {
    (void)state;
    const int32_t ids[] = {70, 71, 72};
    bool cancel = true;
    heard h = {0};
    cot_generate_options o;
    cot_generate_defaults(&o);
    o.progress = stop_at_once, o.progress_user = &cancel;
    cot_session *s = session(32, 1);
    assert_int_equal(cot_generate(s, ids, 3, &o, hear, &h, NULL, NULL), COT_CANCELLED);
    assert_int_equal(cot_sequence_length(s, 0), 0);
    cancel = false;
    o.max_tokens = 2, o.ignore_end = true;
    assert_int_equal(generate(s, &o, ids, 3, &h).stop, COT_STOP_LENGTH);
    cot_session_free(&s);
}

/* The other half of a text, after its first half went through a file, is the same; into another session, too.
 */
static void state_goes_through_a_file(void **state) {
    (void)state;
    char path[64];
    const int32_t ids[] = {70, 71, 72, 73, 74}, more[] = {80};
    heard a, b;
    cot_generate_options o;
    cot_generate_defaults(&o);
    o.sample.temperature = 0, o.ignore_end = true, o.max_tokens = 6;
    snprintf(path, sizeof path, "%.40s/coterie-test-%d.state", temp_root(), (int)getpid());
    cot_session *s = session(64, 1), *t = session(64, 2);
    generate(s, &o, ids, 5, &a);
    assert_int_equal(cot_sequence_save(s, 0, path, NULL), COT_OK);
    assert_int_equal(cot_sequence_load(t, 0, path, NULL), COT_OK);
    size_t n;
    const int32_t *held = cot_sequence_tokens(t, 0, &n);
    assert_int_equal(n, 10);
    assert_memory_equal(held, ids, sizeof ids);
    generate(s, &o, more, 1, &a);
    generate(t, &o, more, 1, &b);
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.text, b.text, a.n);
    /* one bit anywhere: refused, and the sequence is empty */
    generate(s, &o, ids, 5, &a);
    assert_int_equal(cot_sequence_save(s, 0, path, NULL), COT_OK);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    for (long at = 0; at < size; at += at < 200 ? 7 : size / 40) {
        int c;
        fseek(f, at, SEEK_SET);
        c = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(c ^ 4, f);
        fflush(f);
        assert_int_not_equal(cot_sequence_load(t, 0, path, NULL), COT_OK);
        assert_int_equal(cot_sequence_length(t, 0), 0);
        fseek(f, at, SEEK_SET);
        fputc(c, f);
        fflush(f);
    }
    assert_int_equal(cot_sequence_load(t, 0, path, NULL), COT_OK);
    fclose(f);
    cot_session_free(&s);
    cot_session_free(&t);
    unlink(path);
}

/* With drafts the same text comes, whatever it is chosen by and wherever it ends, and the sequence holds the
 * same. */
static void drafts_change_nothing_but_the_time(void **state) {
    (void)state;
    const int32_t ids[] = {70, 71, 72, 73, 70, 71, 72, 73, 70, 71};
    const char *stops[] = {"e"};
    int accepted = 0, drafted = 0;
    for (int k = 0; k < 60; k++) {
        cot_generate_options o;
        heard a, b;
        cot_generate_defaults(&o);
        /* greedy texts of the noise model repeat themselves; a bias towards few tokens does it for drawn ones
         */
        cot_logit_bias bias[] = {{70, 40}, {71, 40}, {72, 39}};
        o.sample.temperature = k % 3 ? 0.7f : 0;
        o.sample.seed = (uint64_t)k;
        o.sample.bias = bias, o.sample.n_bias = k % 3 == 2 ? 3 : 0;
        o.sample.frequency_penalty = k % 4 == 3 ? 0.5f : 0;
        o.ignore_end = k % 2;
        o.max_tokens = k % 5 == 4 ? -1 : 7 * (k % 5) + 20;
        o.stop = stops, o.n_stop = k % 7 == 6;
        cot_session *s = session(k % 11 == 10 ? 14 : 90, 1), *t = session(k % 11 == 10 ? 14 : 90, 1);
        cot_generate_result r = generate(s, &o, ids, 10, &a), d;
        o.draft = 1 + k % 16;
        d = generate(t, &o, ids, 10, &b);
        assert_int_equal(a.n, b.n);
        assert_memory_equal(a.text, b.text, a.n);
        assert_int_equal(a.tokens, b.tokens);
        assert_int_equal(r.generated_tokens, d.generated_tokens);
        assert_int_equal(r.stop, d.stop);
        assert_int_equal(r.drafted, 0);
        size_t n, m;
        const int32_t *x = cot_sequence_tokens(s, 0, &n), *y = cot_sequence_tokens(t, 0, &m);
        assert_int_equal(n, m);
        assert_memory_equal(x, y, n * sizeof *x);
        accepted += d.accepted, drafted += d.drafted;
        cot_session_free(&s);
        cot_session_free(&t);
    }
    assert_true(accepted > 100 && drafted > accepted);
    cot_generate_options o;
    cot_error err;
    cot_generate_defaults(&o);
    cot_session *s = session(32, 4);
    for (int k = 0; k < 3; k++) {
        o.draft = k == 0 ? -1 : k == 1 ? 17 : 4, o.beams = k == 2 ? 2 : 1;
        assert_int_equal(cot_generate(s, ids, 3, &o, NULL, NULL, NULL, &err), COT_ARGUMENT);
        assert_non_null(strstr(err.message, "draft"));
    }
    cot_session_free(&s);
}

static void drafts_are_what_followed_before(void **state) {
    static const struct {
        int32_t text[12];
        int n, most, want;
        int32_t draft[4];
    } cases[] = {
        {{1, 2, 3, 4, 1, 2}, 6, 4, 4, {3, 4, 1, 2}},
        {{1, 2, 3, 4, 1, 2}, 6, 1, 1, {3}},
        {{1, 2, 3, 9, 1, 2}, 6, 2, 2, {3, 9}},
        {{1, 2, 5, 1, 2, 6, 1, 2}, 8, 1, 1, {6}},        /* the latest */
        {{7, 1, 2, 5, 1, 2, 6, 7, 1, 2}, 10, 1, 1, {5}}, /* the longest */
        {{1, 2, 3, 4, 5, 2}, 6, 4, 0, {0}},
        {{3, 3, 3, 3}, 4, 4, 1, {3}},
        {{1}, 1, 4, 0, {0}},
        {{0}, 0, 4, 0, {0}},
        {{1, 2, 1, 2}, 4, 0, 0, {0}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t out[4] = {0};
        int n = cot__draft_lookup(cases[i].text, (size_t)cases[i].n, cases[i].most, out);
        if (n != cases[i].want) fail_msg("case %zu: %d tokens", i, n);
        assert_memory_equal(out, cases[i].draft, (size_t)n * sizeof *out);
    }
}

static void ends_are_the_union_of_all_that_name_one(void **state) {
    (void)state;
    size_t n;
    int ends = 0;
    for (int32_t i = 0; i < 384; i++) ends += cot_token_is_end(model, i);
    assert_true(ends >= 2); /* the file's end id, and the control token that ends a turn */
    assert_true(cot_token_is_end(model, cot_token_role(model, "eos")));
    for (int32_t i = 0; i < 384; i++)
        if (cot_token_is_end(model, i)) assert_true(cot_token_piece(model, i, false, &n) == NULL || n == 0);
}

static int setup(void **state) {
    (void)state;
    return cot_model_open(&model, NOISE, NULL, NULL);
}

static int teardown(void **state) {
    (void)state;
    cot_model_close(&model);
    return cot__alloc_live() != 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_whole_characters_come_out),
        cmocka_unit_test(stop_strings_are_found_across_tokens),
        cmocka_unit_test(the_context_is_full_and_says_so),
        cmocka_unit_test(a_cancelled_prompt_leaves_nothing),
        cmocka_unit_test(state_goes_through_a_file),
        cmocka_unit_test(drafts_change_nothing_but_the_time),
        cmocka_unit_test(drafts_are_what_followed_before),
        cmocka_unit_test(ends_are_the_union_of_all_that_name_one),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
