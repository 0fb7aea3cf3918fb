/* Fault loops for tests: run a piece of code once per allocation, read, write or thread that it makes, with
 * that one failing. Header only; include it after cmocka.h.
 *
 *     COT_TORTURE(COT__FAULT_ALLOC, {
 *         model *m = NULL;
 *         cot_status s = model_open(&m, path, &err);
 *         if (s == COT_OK) model_close(&m);
 *         COT_TORTURE_RESULT(s);
 *     });
 *
 * The first pass runs without a fault and must succeed; it counts the calls. Then pass n fails the n-th call;
 * the code must clean up by itself: after each pass as many blocks live as after the first.
 * A failing pass that still succeeds is allowed (a fallback took over), but at least one must fail, or the
 * test guards nothing. A table that is made once per process is made in the first pass. The body must be
 * deterministic in the number of its calls for pass 1 and must not use `return`. Bodies contain commas
 * freely: the macro is variadic. */
#ifndef COT_TESTS_TORTURE_H
#define COT_TESTS_TORTURE_H

#include "base/alloc.h"

/* Reported by the body: the status that the code under test returned. */
#define COT_TORTURE_RESULT(status) (cot_torture_status = (status))

/* Every n-th fault point only, for bodies with very many calls (step 1 is all of them). */
#define COT_TORTURE_STEP(kind, step, ...)                                                                    \
    do {                                                                                                     \
        cot_status cot_torture_status = COT_OK;                                                              \
        uint64_t cot_torture_failed = 0, cot_torture_calls;                                                  \
        cot__fault_set(kind, 0);                                                                             \
        __VA_ARGS__                                                                                          \
        size_t cot_torture_live = cot__alloc_live();                                                         \
        cot_torture_calls = cot__fault_count(kind);                                                          \
        assert_int_equal(cot_torture_status, COT_OK);                                                        \
        assert_true(cot_torture_calls > 0);                                                                  \
        for (uint64_t cot_torture_n = 1; cot_torture_n <= cot_torture_calls; cot_torture_n += (step)) {      \
            cot_torture_status = COT_OK;                                                                     \
            cot__fault_set(kind, cot_torture_n);                                                             \
            __VA_ARGS__                                                                                      \
            assert_int_equal(cot__alloc_live(), cot_torture_live);                                           \
            cot_torture_failed += cot_torture_status != COT_OK;                                              \
        }                                                                                                    \
        cot__fault_set(kind, 0);                                                                             \
        assert_true(cot_torture_failed > 0);                                                                 \
    } while (0)

#define COT_TORTURE(kind, ...) COT_TORTURE_STEP(kind, 1, __VA_ARGS__)

#endif
