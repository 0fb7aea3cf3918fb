/* The template evaluator: what jinja2 renders (tests/golden/jinja), bounds that hold, and every allocation
 * failed in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "text/jinja.h"
#include "torture.h"

static json_t *golden, *vars;

static cot_status render(const char *text, size_t n, size_t max, cot__buf *out, cot_error *err) {
    cot__jinja *t = NULL;
    *out = (cot__buf){.max = max};
    cot_status s = cot__jinja_parse(&t, "test", text, n, err);
    assert_true((s == COT_OK) == (t != NULL));
    if (s == COT_OK) s = cot__jinja_render(t, vars, out, err);
    cot__jinja_free(&t);
    return s;
}

static void renders_as_jinja2(void **state) {
    size_t i;
    json_t *c;
    int wrong = 0;
    (void)state;
    json_array_foreach(json_object_get(golden, "cases"), i, c) {
        cot_error err;
        cot__buf out;
        const json_t *text = json_object_get(c, "template"), *want = json_object_get(c, "text");
        cot_status s = render(json_string_value(text), json_string_length(text), 1 << 20, &out, &err);
        const char *got = out.data ? out.data : "";
        if ((s == COT_OK) != (want != NULL) || (want && strcmp(got, json_string_value(want)) != 0)) {
            print_error("%s\n  gives %s\n  wanted %s\n", json_string_value(text),
                        s == COT_OK ? got : err.message, want ? json_string_value(want) : "an error");
            wrong++;
        }
        if (s != COT_OK) assert_non_null(strstr(err.message, "line "));
        cot__buf_free(&out);
    }
    assert_int_equal(wrong, 0);
    assert_true(i > 250);
}

static void must_fail(const char *text, cot_status status, const char *word) {
    cot_error err;
    cot__buf out;
    cot_status s = render(text, strlen(text), 1 << 20, &out, &err);
    if (s != status || !strstr(err.message, word))
        fail_msg("%.80s: status %d: %s", text, s, s ? err.message : "rendered");
    cot__buf_free(&out);
}

static void bounds_hold(void **state) {
    static char deep[4096];
    (void)state;
    must_fail(
        "{% for i in range(1000) %}{% for j in range(1000) %}{% for k in range(1000) %}{% endfor %}{% endfor %}{% endfor %}",
        COT_LIMIT, "steps");
    must_fail("{{ range(1000000000)|list }}", COT_LIMIT, "range");
    must_fail("{{ range(-9223372036854775807, 9223372036854775807) }}", COT_FORMAT, "number");
    must_fail("{{ 'a' * 1000000000 }}", COT_LIMIT, "repetition");
    must_fail("{{ [0] * 1000000000 }}", COT_LIMIT, "repetition");
    must_fail(
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        COT_LIMIT, "MiB");
    must_fail(
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(15) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"
        "{% for i in range(99) %}{{ ns.s }}{% endfor %}",
        COT_LIMIT, "output");
    must_fail("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", COT_LIMIT, "deep");
    must_fail("{{ 2 ** 99999999 }}", COT_LIMIT, "large");
    must_fail("{{ 999999999 * 999999999 * 999999999 }}", COT_LIMIT, "large");
    must_fail("{{ 99999999999999999999999 }}", COT_FORMAT, "number");
    must_fail("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns|tojson }}", COT_LIMIT, "deep");
    memset(deep, '(', sizeof deep - 1);
    memcpy(deep, "{{ ", 3);
    memcpy(deep + sizeof deep - 3, "}}", 2);
    must_fail(deep, COT_FORMAT, "deep");
    for (size_t i = 3; i + 4 < sizeof deep; i += 4) memcpy(deep + i, "not ", 4);
    must_fail(deep, COT_FORMAT, "");
    for (size_t i = 0; i + 12 < sizeof deep; i += 12) memcpy(deep + i, "{% if yes %}", 12);
    must_fail(deep, COT_FORMAT, "");
    must_fail("{% for x in y recursive %}{% endfor %}", COT_FORMAT, "recursive");
    must_fail("{% include 'a' %}", COT_FORMAT, "not supported");
    must_fail("{{ raise_exception('roles must alternate') }}", COT_ARGUMENT, "roles must alternate");
    must_fail("\n\n{{ 1 + none }}", COT_ARGUMENT, "line 3");
}

static void any_bytes_are_refused_or_rendered(void **state) {
    char text[64];
    (void)state;
    for (unsigned seed = 1; seed < 3000; seed++) { /* fragments in any order */
        static const char *const parts[] = {"{{",   "}}", "{%",   "%}", "-",       " if ", " for ",
                                            " in ", "x",  "(",    ")",  "|",       ".",    "'",
                                            "{#",   "#}", "\xff", "1",  " endif ", "\n"};
        unsigned r = seed * 2654435761u;
        size_t n = 0;
        while (n + 8 < sizeof text) {
            const char *p = parts[r % 20];
            r = r * 1664525u + 1013904223u;
            memcpy(text + n, p, strlen(p)), n += strlen(p);
        }
        cot__buf out;
        cot_error err;
        render(text, n, 1 << 16, &out, &err);
        cot__buf_free(&out);
    }
}

static void allocations(void **state) {
    static const char text[] =
        "{% set ns = namespace(a=[]) %}{% macro f(x) %}{{ x|tojson }}{% endmacro %}"
        "{% for m in messages %}{% set ns.a = ns.a + [m.role|upper] %}{{ f(m) }}{% endfor %}{{ ns.a|join(',') }}";
    (void)state;
    COT_TORTURE(COT__FAULT_ALLOC, {
        cot_error err;
        cot__buf out;
        cot_status s = render(text, sizeof text - 1, 1 << 20, &out, &err);
        cot__buf_free(&out);
        COT_TORTURE_RESULT(s);
    });
}

static int load(void **state) {
    cot_error err;
    (void)state;
    if (cot__json_load(&golden, "tests/golden/jinja/cases.json", 8 << 20, &err) != COT_OK) return -1;
    vars = json_object_get(golden, "vars");
    return 0;
}
static int unload(void **state) {
    (void)state;
    json_decref(golden);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(renders_as_jinja2),
        cmocka_unit_test(bounds_hold),
        cmocka_unit_test(any_bytes_are_refused_or_rendered),
        cmocka_unit_test(allocations),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
