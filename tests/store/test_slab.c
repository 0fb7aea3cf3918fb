/* Slots side by side: never two at one place, aligned for direct reads, filled from the front, given back to
 * the system when they go; failing memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "store/slab.h"

enum { SLOTS = 200 };

static const size_t sizes[] = {4096, 3 * 4096, 651 * 4096, 512 * 4096};

static void places_are_apart(void **state) {
    (void)state;
    size_t live = cot__alloc_live();
    cot__slab s = {0};
    char *slot[SLOTS] = {0};
    size_t bytes[SLOTS];
    for (int round = 0; round < 2000; round++) {
        int i = (int)(cot__random_u64(1, 1, (uint64_t)round, 0) % SLOTS);
        if (slot[i]) {
            for (size_t k = 0; k < bytes[i]; k += bytes[i] - 1)
                assert_int_equal((unsigned char)slot[i][k], i + 1);
            cot__slab_give(&s, slot[i]);
            slot[i] = NULL;
            continue;
        }
        bytes[i] = sizes[cot__random_u64(1, 2, (uint64_t)round, 0) % 4];
        slot[i] = cot__slab_take(&s, bytes[i]);
        assert_non_null(slot[i]);
        assert_int_equal((uintptr_t)slot[i] % 4096, 0);
        assert_int_equal(slot[i][0], 0); /* what was given back comes as new */
        for (size_t k = 0; k < bytes[i]; k += bytes[i] - 1) slot[i][k] = (char)(i + 1);
    }
    cot__slab_free(&s);
    assert_int_equal(cot__alloc_live(), live);
}

static void neighbours(void **state) {
    (void)state;
    cot__slab s = {0};
    char *first = cot__slab_take(&s, sizes[2]), *second = cot__slab_take(&s, sizes[2]);
    assert_ptr_equal(second, first + sizes[2]);
    assert_int_equal((uintptr_t)first % (2 << 20), 0); /* where a huge page begins */
    unsigned char there[1];
    second[0] = 1;
    assert_int_equal(mincore(second, 4096, there), 0);
    cot__slab_give(&s, first);
    assert_ptr_equal(cot__slab_take(&s, sizes[2]), first);
    cot__slab_give(&s, first);
    cot__slab_give(&s, second);
    assert_int_equal(s.n, 0); /* an empty region is no region */
    cot__slab_free(&s);
}

static void no_memory(void **state) {
    (void)state;
    for (int at = 1; at <= 2; at++) {
        cot__slab s = {0};
        cot__fault_set(COT__FAULT_ALLOC, at);
        assert_null(cot__slab_take(&s, 4096));
        cot__fault_set(COT__FAULT_ALLOC, 0);
        assert_non_null(cot__slab_take(&s, 4096));
        cot__slab_free(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places_are_apart),
        cmocka_unit_test(neighbours),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
