/* Status names, error messages (one line, bounded, printable) and the log. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"

static void names_cover_every_status(void **state) {
    assert_string_equal(cot_status_name(COT_OK), "OK");
    assert_string_equal(cot_status_name(COT_FORMAT), "FORMAT");
    assert_string_equal(cot_status_text(COT_CONTEXT_FULL), "context is full");
    assert_string_equal(cot_status_name((cot_status)-99), "UNKNOWN");
    assert_string_equal(cot_status_text((cot_status)7), "unknown status");
    assert_string_equal(cot_version(), "0.1.0");
}

static void message_names_file_and_field(void **state) {
    cot_error e;
    assert_int_equal(cot__fail(&e, COT_FORMAT, "m.gguf", "n_head", "is %d, must be positive", 0), COT_FORMAT);
    assert_int_equal(e.status, COT_FORMAT);
    assert_string_equal(e.message, "m.gguf: n_head: is 0, must be positive");
    assert_string_equal(e.file, "m.gguf");
    assert_string_equal(e.field, "n_head");
    assert_int_equal(cot__fail(&e, COT_LIMIT, NULL, NULL, "too much"), COT_LIMIT);
    assert_string_equal(e.message, "too much");
    assert_string_equal(e.file, "");
    assert_int_equal(cot__fail(NULL, COT_IO, "f", NULL, "nobody listens"), COT_IO);
    assert_int_equal(cot__fail(&e, COT_OK, "f", NULL, "a failure is never OK"), COT_INTERNAL);
    cot__error_clear(&e);
    assert_int_equal(e.status, COT_OK);
    assert_string_equal(e.message, "");
    cot__error_clear(NULL);
}

static void hostile_names_stay_printable(void **state) {
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"a\nb\x1b[31m", "a?b?[31m"},
        {"t\303\266ken", "t\303\266ken"},         /* two bytes, kept */
        {"\360\237\231\202", "\360\237\231\202"}, /* four bytes, kept */
        {"\302\233x", "??x"},                     /* C1 control */
        {"\342\200\256x", "???x"},                /* right-to-left override */
        {"\300\257", "??"},                       /* overlong */
        {"\355\240\200", "???"},                  /* surrogate */
        {"\364\220\200\200", "????"},             /* above U+10FFFF */
        {"cut\342\202", "cut??"},                 /* truncated */
        {"\377\376", "??"},
    };
    cot_error e;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cot__fail(&e, COT_FORMAT, cases[i].in, NULL, "%s", cases[i].in);
        assert_string_equal(e.file, cases[i].out);
        char want[64];
        strcpy(want, cases[i].out);
        strcat(want, ": ");
        strcat(want, cases[i].out);
        assert_string_equal(e.message, want);
    }
}

static void long_text_is_cut_between_characters(void **state) {
    char text[4001];
    for (size_t i = 0; i < 4000; i += 2) memcpy(text + i, "\303\266", 2);
    text[4000] = 0;
    cot_error e;
    cot__fail(&e, COT_FORMAT, text, text + 1, "x%s", text);
    assert_true(strlen(e.file) < sizeof e.file && strlen(e.file) >= sizeof e.file - 2);
    assert_int_equal(strlen(e.file) % 2, 0);
    assert_true(strlen(e.message) < sizeof e.message);
    assert_true((unsigned char)e.message[strlen(e.message) - 1] == 0xb6 ||
                e.message[strlen(e.message) - 1] == '?');
}

static void message_may_wrap_itself(void **state) {
    cot_error e;
    cot__fail(&e, COT_FORMAT, "f", "g", "inner");
    cot__fail(&e, e.status, e.file, e.field, "outer: %s", e.message);
    assert_string_equal(e.message, "f: g: outer: f: g: inner");
}

static void errno_becomes_status_and_words(void **state) {
    cot_error e;
    errno = ENOENT;
    assert_int_equal(cot__fail_errno(&e, "x", NULL, "cannot open"), COT_NOT_FOUND);
    assert_string_equal(e.message, "x: cannot open: No such file or directory");
    errno = ENOMEM;
    assert_int_equal(cot__fail_errno(&e, "x", NULL, "cannot map"), COT_NO_MEMORY);
    errno = EACCES;
    assert_int_equal(cot__fail_errno(&e, "x", NULL, "cannot open"), COT_IO);
    assert_int_equal(cot__fail_memory(&e, 42), COT_NO_MEMORY);
    assert_non_null(strstr(e.message, "42 bytes"));
}

typedef struct seen {
    int lines;
    cot_log_level level;
    char last[64];
} seen;

static void sink(void *user, cot_log_level level, const char *line) {
    seen *s = user;
    s->lines++;
    s->level = level;
    strncpy(s->last, line, sizeof s->last - 1);
}

static void log_reaches_the_sink_from_its_level_on(void **state) {
    seen s = {0};
    cot__log(COT_LOG_ERROR, "dropped");
    cot_log_set(sink, &s, COT_LOG_WARN);
    cot__log(COT_LOG_INFO, "too low");
    assert_int_equal(s.lines, 0);
    cot__log(COT_LOG_WARN, "threads: %d", 3);
    assert_int_equal(s.lines, 1);
    assert_int_equal(s.level, COT_LOG_WARN);
    assert_string_equal(s.last, "threads: 3");
    cot_log_set(NULL, NULL, COT_LOG_DEBUG);
    cot__log(COT_LOG_ERROR, "dropped");
    assert_int_equal(s.lines, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_cover_every_status),
        cmocka_unit_test(message_names_file_and_field),
        cmocka_unit_test(hostile_names_stay_printable),
        cmocka_unit_test(long_text_is_cut_between_characters),
        cmocka_unit_test(message_may_wrap_itself),
        cmocka_unit_test(errno_becomes_status_and_words),
        cmocka_unit_test(log_reaches_the_sink_from_its_level_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
