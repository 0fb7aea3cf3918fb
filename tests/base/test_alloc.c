/* Allocation sizes, fault counters, the arena and the growing buffer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "torture.h"

static void sizes_are_checked(void **state) {
    size_t live = cot__alloc_live();
    assert_null(cot__alloc_array(SIZE_MAX / 2, 3));
    assert_null(cot__alloc_zero(SIZE_MAX / 2, 3));
    assert_null(cot__alloc_aligned(64, SIZE_MAX - 3));
    assert_null(cot__strndup("", SIZE_MAX));
    void *p = cot__alloc(0), *z = cot__alloc_zero(0, 8), *a = cot__alloc_aligned(64, 0);
    assert_non_null(p);
    assert_non_null(z);
    assert_non_null(a);
    assert_int_equal((uintptr_t)a % 64, 0);
    assert_null(cot__realloc_array(p, SIZE_MAX / 2, 3)); /* p stays valid */
    void *q = cot__realloc_array(p, 100, 3);
    assert_non_null(q);
    assert_int_equal(cot__alloc_live(), live + 3);
    cot__free(q);
    cot__free(z);
    cot__free(a);
    cot__free(NULL);
    q = cot__realloc_array(NULL, 2, 2);
    assert_int_equal(cot__alloc_live(), live + 1);
    cot__free(q);
    char *s = cot__strndup("a\0bc", 4);
    assert_memory_equal(s, "a\0bc", 5);
    cot__free(s);
    s = cot__strdup("text");
    assert_string_equal(s, "text");
    cot__free(s);
    assert_int_equal(cot__alloc_live(), live);
}

static void the_nth_call_fails_once(void **state) {
    cot__fault_set(COT__FAULT_ALLOC, 2);
    void *a = cot__alloc(1), *b = cot__alloc(1), *c = cot__alloc(1);
    assert_non_null(a);
    assert_null(b);
    assert_non_null(c);
    assert_int_equal(cot__fault_count(COT__FAULT_ALLOC), 3);
    assert_int_equal(cot__fault_count(COT__FAULT_READ), 0);
    cot__fault_set(COT__FAULT_ALLOC, 0);
    assert_int_equal(cot__fault_count(COT__FAULT_ALLOC), 0);
    cot__free(a);
    cot__free(c);
    for (int kind = 0; kind < 5; kind++) { /* every way to memory asks */
        cot__fault_set(COT__FAULT_ALLOC, 1);
        void *p = kind == 0   ? cot__alloc_zero(1, 1)
                  : kind == 1 ? cot__alloc_array(1, 1)
                  : kind == 2 ? cot__realloc_array(NULL, 1, 1)
                  : kind == 3 ? cot__alloc_aligned(64, 1)
                              : (void *)cot__strdup("x");
        assert_null(p);
    }
    cot__fault_set(COT__FAULT_ALLOC, 0);
}

static void arena_pieces_are_aligned_and_apart(void **state) {
    cot__arena *a = NULL;
    assert_int_equal(cot__arena_create(&a, 4096, 0, NULL), COT_OK);
    assert_int_equal(cot__arena_used(a), 0);
    unsigned char *piece[200];
    for (int i = 0; i < 200; i++) {
        size_t n = (size_t)(i * 37) % 5000 + 1;
        piece[i] = cot__arena_alloc(a, n);
        assert_non_null(piece[i]);
        assert_int_equal((uintptr_t)piece[i] % 64, 0);
        memset(piece[i], i, n);
    }
    for (int i = 0; i < 200; i++) {
        size_t n = (size_t)(i * 37) % 5000 + 1;
        for (size_t k = 0; k < n; k++) assert_int_equal(piece[i][k], i);
    }
    size_t reserved = cot__arena_reserved(a);
    assert_true(cot__arena_used(a) <= reserved);
    cot__arena_reset(a);
    assert_int_equal(cot__arena_used(a), 0);
    for (int i = 0; i < 200; i++) /* the same pieces again take no new memory */
        assert_ptr_equal(cot__arena_alloc(a, (size_t)(i * 37) % 5000 + 1), piece[i]);
    assert_int_equal(cot__arena_reserved(a), reserved);
    cot__arena_free(&a);
    assert_null(a);
    cot__arena_free(&a);
}

static void arena_rewinds_across_chunks(void **state) {
    cot__arena *a = NULL;
    assert_int_equal(cot__arena_create(&a, 4096, 0, NULL), COT_OK);
    char *keep = cot__arena_alloc(a, 1000);
    memset(keep, 'k', 1000);
    size_t mark = cot__arena_mark(a);
    char *first = cot__arena_alloc(a, 3000);
    assert_non_null(cot__arena_alloc(a, 60000)); /* a chunk of its own */
    assert_non_null(cot__arena_alloc(a, 3000));
    cot__arena_rewind(a, mark);
    assert_int_equal(cot__arena_mark(a), mark);
    assert_ptr_equal(cot__arena_alloc(a, 3000), first);
    for (int i = 0; i < 1000; i++) assert_int_equal(keep[i], 'k');
    cot__arena_rewind(a, 0);
    assert_ptr_equal(cot__arena_alloc(a, 10), keep);
    cot__arena_free(&a);
}

static void arena_keeps_its_maximum(void **state) {
    cot__arena *a = NULL;
    assert_int_equal(cot__arena_create(&a, 4096, 10000, NULL), COT_OK);
    assert_null(cot__arena_alloc(a, 10001));
    assert_null(cot__arena_alloc(a, SIZE_MAX - 10));
    assert_non_null(cot__arena_alloc(a, 4096));
    assert_non_null(cot__arena_alloc(a, 4096));
    assert_null(cot__arena_alloc(a, 4096));
    assert_true(cot__arena_reserved(a) <= 10000);
    cot__arena_free(&a);
}

static void arena_survives_faults(void **state) {
    COT_TORTURE(COT__FAULT_ALLOC, {
        cot__arena *a = NULL;
        cot_error err;
        cot_status s = cot__arena_create(&a, 4096, 0, &err);
        for (int i = 0; s == COT_OK && i < 6; i++)
            if (!cot__arena_alloc(a, 3000)) s = COT_NO_MEMORY;
        cot__arena_free(&a);
        COT_TORTURE_RESULT(s);
    });
}

static void buffer_grows_to_its_maximum(void **state) {
    cot__buf b = {.max = 100};
    assert_true(cot__buf_put(&b, NULL, 0));
    assert_string_equal(b.data, "");
    for (int i = 0; i < 9; i++) assert_true(cot__buf_printf(&b, "%d,%08d;", i, i));
    assert_int_equal(b.len, 99);
    assert_int_equal(b.data[b.len], 0);
    assert_false(cot__buf_put(&b, "ab", 2));
    assert_false(cot__buf_printf(&b, "%s", "ab"));
    assert_int_equal(b.len, 99); /* a refused piece leaves nothing behind */
    assert_true(cot__buf_put(&b, "z", 1));
    assert_string_equal(b.data + 97, "8;z");
    cot__buf_free(&b);
    assert_null(b.data);
    b.max = SIZE_MAX;
    assert_true(cot__buf_put(&b, "a\0b", 3));
    assert_memory_equal(b.data, "a\0b", 4);
    assert_false(cot__buf_put(&b, "x", SIZE_MAX - 3));
    cot__buf_free(&b);
}

static void buffer_survives_faults(void **state) {
    COT_TORTURE(COT__FAULT_ALLOC, {
        cot__buf b = {.max = 1 << 20};
        cot_status s = COT_OK;
        for (int i = 0; i < 1000 && s == COT_OK; i++)
            if (!cot__buf_printf(&b, "%d ", i)) s = COT_NO_MEMORY;
        cot__buf_free(&b);
        COT_TORTURE_RESULT(s);
    });
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(the_nth_call_fails_once),
        cmocka_unit_test(arena_pieces_are_aligned_and_apart),
        cmocka_unit_test(arena_rewinds_across_chunks),
        cmocka_unit_test(arena_keeps_its_maximum),
        cmocka_unit_test(arena_survives_faults),
        cmocka_unit_test(buffer_grows_to_its_maximum),
        cmocka_unit_test(buffer_survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
