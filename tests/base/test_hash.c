/* The map against a plain table, and the random numbers against known values and simple statistics. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "torture.h"

enum { N = 20000 };
static char keys[N][16];

static void map_keeps_every_key(void **state) {
    cot__map *m = NULL;
    assert_int_equal(cot__map_create(&m, 0, NULL), COT_OK);
    uint64_t v;
    bool existed;
    assert_false(cot__map_get(m, "x", 1, &v));
    for (int i = 0; i < N; i++) {
        snprintf(keys[i], sizeof keys[i], "key%d", i);
        assert_int_equal(cot__map_put(m, keys[i], strlen(keys[i]), (uint64_t)i, &existed, NULL), COT_OK);
        assert_false(existed);
    }
    assert_int_equal(cot__map_count(m), N);
    for (int i = 0; i < N; i++) {
        assert_true(cot__map_get(m, keys[i], strlen(keys[i]), &v));
        assert_int_equal(v, i);
    }
    assert_int_equal(cot__map_put(m, "key7", 4, 99, &existed, NULL), COT_OK);
    assert_true(existed);
    assert_true(cot__map_get(m, "key7", 4, &v));
    assert_int_equal(v, 7); /* the first value stays */
    assert_int_equal(cot__map_count(m), N);
    assert_false(cot__map_get(m, "key", 3, &v));
    assert_false(cot__map_get(m, "key20000", 8, &v));
    cot__map_free(&m);
    assert_null(m);
    cot__map_free(&m);
}

static void keys_are_bytes(void **state) {
    cot__map *m = NULL;
    uint64_t v = 0;
    assert_int_equal(cot__map_create(&m, 4, NULL), COT_OK);
    assert_int_equal(cot__map_put(m, "a\0b", 3, 1, NULL, NULL), COT_OK);
    assert_int_equal(cot__map_put(m, "a\0c", 3, 2, NULL, NULL), COT_OK);
    assert_int_equal(cot__map_put(m, "a", 1, 3, NULL, NULL), COT_OK);
    assert_int_equal(cot__map_put(m, NULL, 0, 4, NULL, NULL), COT_OK); /* the empty key */
    assert_int_equal(cot__map_count(m), 4);
    assert_true(cot__map_get(m, "a\0c", 3, &v));
    assert_int_equal(v, 2);
    assert_true(cot__map_get(m, "", 0, &v));
    assert_int_equal(v, 4);
    assert_false(cot__map_get(m, "a\0", 2, &v));
    cot__map_free(&m);
}

static void map_survives_faults(void **state) {
    COT_TORTURE(COT__FAULT_ALLOC, {
        cot__map *m = NULL;
        cot_error e;
        cot_status s = cot__map_create(&m, 0, &e);
        int i = 0;
        for (; s == COT_OK && i < 1000; i++)
            s = cot__map_put(m, keys[i], strlen(keys[i]), (uint64_t)i, NULL, &e);
        if (m && s != COT_OK) { /* what was in stays in */
            uint64_t v;
            for (int k = 0; k < i - 1; k++) assert_true(cot__map_get(m, keys[k], strlen(keys[k]), &v));
        }
        cot__map_free(&m);
        COT_TORTURE_RESULT(s);
    });
}

static void random_is_fixed_and_spread(void **state) {
    /* Written down once: a saved seed must mean the same on every machine and in every version. */
    assert_true(cot__random_u64(1, 2, 3, 4) == 0xd54d22acc325690cull);
    assert_true(cot__random_u64(0, 0, 0, 0) == 0x2586b33eba9a5d64ull);
    double sum = 0, square = 0;
    int bits[64] = {0};
    for (uint64_t i = 0; i < N; i++) {
        double u = cot__random_unit(42, 1, i / 100, i % 100);
        assert_true(u >= 0 && u < 1);
        sum += u;
        square += u * u;
        uint64_t x = cot__random_u64(42, 2, 0, i);
        for (int b = 0; b < 64; b++) bits[b] += (int)(x >> b & 1);
    }
    /* Five standard deviations of the mean, of the mean square, and of each bit's count. */
    assert_true(sum / N > 0.5 - 0.0103 && sum / N < 0.5 + 0.0103);
    assert_true(square / N > 1 / 3.0 - 0.0106 && square / N < 1 / 3.0 + 0.0106);
    for (int b = 0; b < 64; b++) assert_in_range(bits[b], N / 2 - 354, N / 2 + 354);
    assert_true(cot__random_u64(1, 2, 3, 4) != cot__random_u64(1, 2, 4, 3));
    assert_true(cot__random_u64(1, 2, 3, 4) != cot__random_u64(2, 1, 3, 4));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_keeps_every_key),
        cmocka_unit_test(keys_are_bytes),
        cmocka_unit_test(map_survives_faults),
        cmocka_unit_test(random_is_fixed_and_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
