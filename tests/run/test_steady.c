/* The decode loop takes no memory: after the first step, steps inside a block of the cache allocate nothing,
 * whatever the family, the cache type and the number of sequences. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "golden.h"

static bool take(void *user, size_t row, const float *logits, int64_t n_vocab) {
    *(float *)user += logits[0];
    return true;
}

static void steps_allocate_nothing(void **state) {
    static const cot_type kvs[] = {COT_F32, COT_F16};
    enum { SEQUENCES = 3, STEPS = 12 };
    (void)state;
    for (int i = 0; i < golden_count; i++)
        for (int k = 0; k < 2; k++) {
            golden_case g;
            char path[300];
            cot_error err;
            cot_model *m = NULL;
            cot_session *s = NULL;
            cot_model_options mo;
            cot_session_options so;
            float sum = 0;
            golden_open(&g, golden_names[i]);
            snprintf(path, sizeof path, "%s/hf", g.folder);
            cot_model_defaults(&mo);
            cot_session_defaults(&so);
            mo.arch_file = golden_arch(&g);
            so.kv_type = kvs[k], so.n_sequences = SEQUENCES, so.n_ctx = 64, so.n_threads = 2;
            if (cot_model_open(&m, path, &mo, &err) != COT_OK ||
                cot_session_create(&s, m, &so, &err) != COT_OK)
                fail_msg("%s: %s", g.name, err.message);
            for (int step = 0; step < STEPS; step++) {
                cot_row rows[SEQUENCES];
                for (int q = 0; q < SEQUENCES; q++)
                    rows[q] = (cot_row){(step * 5 + q) % (int)g.n_vocab, q, COT_ROLE_GENERATED, true};
                if (step == 2) cot__fault_set(COT__FAULT_ALLOC, 0);
                if (cot_forward(s, rows, SEQUENCES, take, &sum, &err) != COT_OK)
                    fail_msg("%s: %s", g.name, err.message);
            }
            if (cot__fault_count(COT__FAULT_ALLOC))
                fail_msg("%s: %d allocations in %d steps", g.name, (int)cot__fault_count(COT__FAULT_ALLOC),
                         STEPS - 2);
            cot_session_free(&s);
            cot_model_close(&m);
            golden_close(&g);
        }
}

int main(void) {
    golden_list();
    const struct CMUnitTest tests[] = {cmocka_unit_test(steps_allocate_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
