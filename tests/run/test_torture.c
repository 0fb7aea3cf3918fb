/* Every allocation, read, write and thread start that fails once on the way from opening a model through
 * text, one generation, a saved state and closing. Here the containers, a tokenizer and a template;
 * tests/long has the ways of storing weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "life.h"

#define GOLDEN "tests/golden/"
/* A GGUF file and folders, with a tokenizer and a template, of one file and of several. */
static const char *const models[] = {GOLDEN "noise/model.gguf", GOLDEN "noise/hf", GOLDEN "mixtral/hf"};
enum { MODELS = sizeof models / sizeof *models };

static void allocations(void **state) {
    (void)state;
    for (size_t i = 0; i < MODELS; i++) {
        life l = a_life(models[i], COT_RESIDENCY_MEMORY, 1, COT_F16);
        torture(COT__FAULT_ALLOC, &l);
    }
}

static void allocations_of_beams(void **state) {
    (void)state;
    life l = a_life(models[0], COT_RESIDENCY_MMAP, 3, COT_Q8_0);
    torture(COT__FAULT_ALLOC, &l);
}

static void reads(void **state) {
    (void)state;
    for (size_t i = 0; i < MODELS; i++) {
        life l = a_life(models[i], COT_RESIDENCY_MEMORY, 1, COT_F32);
        torture(COT__FAULT_READ, &l);
    }
}

static void writes(void **state) {
    (void)state;
    life l = a_life(models[0], COT_RESIDENCY_MMAP, 1, COT_F16);
    torture(COT__FAULT_WRITE, &l);
}

/* A refused thread is no error: the work goes on with those that there are. */
static void threads(void **state) {
    (void)state;
    life l = a_life(models[0], COT_RESIDENCY_MMAP, 1, COT_F16);
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
