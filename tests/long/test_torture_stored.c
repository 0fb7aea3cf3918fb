/* Every allocation and every read that fails once, for models whose weights are stored in other ways: latent
 * attention, FP8 and MXFP4 with their scales beside them, biases, BF16, fused experts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "life.h"

#define GOLDEN "tests/golden/"
static const char *const models[] = {GOLDEN "qwen3moe/hf",        GOLDEN "deepseek3/hf",
                                     GOLDEN "deepseek3-fp8/hf",   GOLDEN "gpt-oss-mxfp4/hf",
                                     GOLDEN "gpt-oss/model.gguf", GOLDEN "bailingmoe/hf"};

static void allocations(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        life l = a_life(models[i], COT_RESIDENCY_MEMORY, 1, COT_F16);
        torture(COT__FAULT_ALLOC, &l);
    }
}

static void reads(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        life l = a_life(models[i], COT_RESIDENCY_MEMORY, 1, COT_F32);
        torture(COT__FAULT_READ, &l);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(allocations), cmocka_unit_test(reads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
