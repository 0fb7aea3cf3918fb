/* The JSON wrapper: strictness, lookups, typed getters, faults. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/json.h"
#include "torture.h"

static json_t *parse(const char *text) {
    json_t *j = NULL;
    cot_error e;
    if (cot__json_parse(&j, "t.json", text, strlen(text), &e) != COT_OK) fail_msg("%s", e.message);
    return j;
}

static void bad_text_is_refused(void **state) {
    static const char *bad[] = {"",        "{",        "{\"a\":1,\"a\":2}", "[1,]",       "nul",
                                "{'a':1}", "\"\xff\"", "[1] trail",         "{\"a\":01}", "\"\\ud800\""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *j = NULL;
        cot_error e;
        assert_int_equal(cot__json_parse(&j, "t.json", bad[i], strlen(bad[i]), &e), COT_FORMAT);
        assert_null(j);
        assert_string_equal(e.file, "t.json");
        assert_null(strchr(e.message, '\n'));
    }
    static char deep[100000];
    memset(deep, '[', sizeof deep);
    json_t *j = NULL;
    assert_int_equal(cot__json_parse(&j, "t.json", deep, sizeof deep, NULL), COT_FORMAT);
}

static void lookups_follow_dots(void **state) {
    json_t *j = parse("{\"a\":{\"b\":{\"c\":5}},\"a.b\":{\"d\":6},\"x.y\":7,\"n\":null,\"z\":[1]}");
    assert_int_equal(json_integer_value(cot__json_at(j, "a.b.c")), 5);
    assert_int_equal(json_integer_value(cot__json_at(j, "a.b.d")), 6);
    assert_int_equal(json_integer_value(cot__json_at(j, "x.y")), 7);
    assert_null(cot__json_at(j, "n"));
    assert_null(cot__json_at(j, "a.b.c.d"));
    assert_null(cot__json_at(j, "q"));
    assert_null(cot__json_at(j, ""));
    assert_null(cot__json_at(j, "..."));
    assert_null(cot__json_at(cot__json_at(j, "z"), "0"));
    assert_null(cot__json_at(NULL, "a"));
    json_decref(j);
}

static void getters_check_type_and_range(void **state) {
    json_t *j = parse("{\"i\":5,\"r\":7.0,\"h\":7.5,\"big\":1e300,\"s\":\"x\",\"t\":true,\"n\":null}");
    int64_t i = -1;
    double d = -1;
    bool b = false;
    const char *s = NULL;
    cot_error e;
    assert_int_equal(cot__json_int(j, "f", "i", 0, 5, &i, &e), COT_OK);
    assert_int_equal(i, 5);
    assert_int_equal(cot__json_int(j, "f", "r", 0, 10, &i, &e), COT_OK);
    assert_int_equal(i, 7);
    assert_int_equal(cot__json_int(j, "f", "absent", 0, 10, &i, &e), COT_OK);
    assert_int_equal(cot__json_int(j, "f", "n", 0, 10, &i, &e), COT_OK);
    assert_int_equal(i, 7);
    assert_int_equal(cot__json_int(j, "f", "i", 6, 10, &i, &e), COT_FORMAT);
    assert_string_equal(e.message, "f: i: is 5, must lie in 6…10");
    assert_int_equal(cot__json_int(j, "f", "h", 0, 10, &i, &e), COT_FORMAT);
    assert_int_equal(cot__json_int(j, "f", "big", 0, 10, &i, &e), COT_FORMAT);
    assert_int_equal(cot__json_int(j, "f", "s", 0, 10, &i, &e), COT_FORMAT);
    assert_int_equal(i, 7);
    assert_int_equal(cot__json_f64(j, "f", "h", &d, &e), COT_OK);
    assert_true(d == 7.5);
    assert_int_equal(cot__json_f64(j, "f", "i", &d, &e), COT_OK);
    assert_true(d == 5);
    assert_int_equal(cot__json_f64(j, "f", "t", &d, &e), COT_FORMAT);
    assert_int_equal(cot__json_bool(j, "f", "t", &b, &e), COT_OK);
    assert_true(b);
    assert_int_equal(cot__json_bool(j, "f", "i", &b, &e), COT_FORMAT);
    assert_int_equal(cot__json_str(j, "f", "s", &s, &e), COT_OK);
    assert_string_equal(s, "x");
    assert_int_equal(cot__json_str(j, "f", "t", &s, &e), COT_FORMAT);
    assert_string_equal(e.field, "t");
    json_decref(j);
}

static void integers_beyond_64_bits_are_read(void **state) {
    json_t *j = parse("{\"model_max_length\":1000000000000000019884624838656,\"k\":12}");
    int64_t i = -1;
    double d = 0;
    cot_error e;
    assert_int_equal(cot__json_int(j, "f", "k", 0, 100, &i, &e), COT_OK);
    assert_int_equal(i, 12);
    assert_int_equal(cot__json_f64(j, "f", "model_max_length", &d, &e), COT_OK);
    assert_true(d > 9e29 && d < 1.1e30);
    assert_int_equal(cot__json_int(j, "f", "model_max_length", 0, 100, &i, &e), COT_FORMAT);
    json_decref(j);
}

static void every_allocation_may_fail(void **state) {
    static const char text[] =
        "{\"a\":[1,2.5,\"text\",{\"b\":null,\"c\":[true,false]}],\"d\":\"\\u00e9\","
        "\"a key longer than the first buffer of the lexer \\n\":"
        "\"a text longer than its second \\u00e9\\t, with escapes that it may lose \\\\\"}";
    COT_TORTURE(COT__FAULT_ALLOC, {
        json_t *j = NULL;
        cot_error e;
        cot_status s = cot__json_parse(&j, "t.json", text, sizeof text - 1, &e);
        if (s != COT_OK) assert_null(j);
        json_decref(j);
        COT_TORTURE_RESULT(s);
    });
}

static void load_names_the_file(void **state) {
    json_t *j = NULL;
    cot_error e;
    assert_int_equal(cot__json_load(&j, "/nonexistent.json", 1000, &e), COT_NOT_FOUND);
    assert_string_equal(e.file, "/nonexistent.json");
    assert_int_equal(cot__json_load(&j, COT_SOURCE_DIR "/CMakePresets.json", 10, &e), COT_LIMIT);
    assert_int_equal(cot__json_load(&j, COT_SOURCE_DIR "/CMakePresets.json", 1 << 20, &e), COT_OK);
    int64_t version = 0;
    assert_int_equal(cot__json_int(j, "presets", "version", 1, 100, &version, &e), COT_OK);
    assert_true(version >= 6);
    json_decref(j);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_text_is_refused),          cmocka_unit_test(lookups_follow_dots),
        cmocka_unit_test(getters_check_type_and_range), cmocka_unit_test(integers_beyond_64_bits_are_read),
        cmocka_unit_test(every_allocation_may_fail),    cmocka_unit_test(load_names_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
