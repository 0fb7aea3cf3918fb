/* A routed feed-forward over streamed experts gives the bits of one over mapped experts: few rows and many
 * (so that results come in several windows), with a shared expert and without, room for one expert and for
 * all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "store/bank.h"
#include "moe/moe.h"

enum { D = 1024, F = 32, ROWS = 600, K = 6 };

static bank_file file;
static float *x, *router, *want, *have;

static int make(void **state) {
    (void)state;
    bank_make(&file, D, F);
    x = malloc(ROWS * D * sizeof *x);
    router = malloc(BANK_EXPERTS * D * sizeof *router);
    want = malloc(ROWS * D * sizeof *want);
    have = malloc(ROWS * D * sizeof *have);
    for (uint64_t i = 0; i < ROWS * D; i++) x[i] = (float)cot__random_unit(1, 2, i, 0) - 0.5f;
    for (uint64_t i = 0; i < BANK_EXPERTS * D; i++) router[i] = (float)cot__random_unit(1, 3, i, 0) - 0.5f;
    return 0;
}
static int drop(void **state) {
    (void)state;
    free(x), free(router), free(want), free(have);
    bank_remove(&file);
    return 0;
}

/* All layers one after the other on the same rows; the last layer's result. */
static void run(const cot__store_options *o, uint64_t room, int rows, bool shared, int threads, float *out) {
    cot__store *s = NULL;
    cot_error err = {0};
    cot__ops c = {0};
    assert_int_equal(cot__kernels_get(&c.k, &err), COT_OK);
    assert_int_equal(cot__pool_create(&c.pool, threads, &err), COT_OK);
    assert_int_equal(cot__arena_create(&c.arena, 1 << 20, 0, &err), COT_OK);
    assert_int_equal(cot__store_create(&s, file.set, o, &err), COT_OK);
    assert_int_equal(bank_bind(&file, s, &err), COT_OK);
    if (room) assert_int_equal(cot__store_set_capacity(s, room * cot__store_smallest(s), &err), COT_OK);
    size_t one = D * F;
    for (int l = 0; l < BANK_LAYERS; l++) {
        cot__moe m = {.router = {.w = cot__view_make(router, COT_F32, BANK_EXPERTS, D),
                                 .n_experts = BANK_EXPERTS,
                                 .k = K,
                                 .score = COT__SCORE_SOFTMAX,
                                 .scale = 1},
                      .ffn = {.act = COT_GLU_SILU},
                      .bank = l,
                      .n_embd = D,
                      .has_shared = shared,
                      .site = l,
                      .layer = l};
        for (int p = 0; p < 3; p++)
            m.shared.part[p] = cot__view_make(file.truth + (size_t)p * BANK_EXPERTS * one, COT_F32,
                                              p == 2 ? D : F, p == 2 ? F : D);
        if (shared && l % 2) m.shared_gate_w = cot__view_make(router, COT_F32, 1, D);
        cot__moe_context ctx = {0};
        cot__rows in = cot__rows_of(x, D, rows, D);
        memset(out, 0xAA, (size_t)rows * D * sizeof *out);
        cot_status st = cot__moe_forward(&c, &m, s, &ctx, &in, out, D, &err);
        if (st != COT_OK) fail_msg("%s", err.message);
        uint64_t most = cot__moe_streamed_scratch(&m, (uint64_t)rows);
        if (room) assert_true(most > 0);
    }
    cot__store_free(&s);
    cot__arena_free(&c.arena);
    cot__pool_free(&c.pool);
}

static void same_bits(void **state) {
    static const int rows[] = {1, 7, ROWS};
    static const uint64_t rooms[] = {1, 2, 5, 20, BANK_EXPERTS * BANK_LAYERS};
    (void)state;
    for (int r = 0; r < 3; r++)
        for (int shared = 0; shared < 2; shared++) {
            size_t bytes = (size_t)rows[r] * D * sizeof(float);
            run(&(cot__store_options){.residency = COT__RESIDENCY_MMAP}, 0, rows[r], shared, 2, want);
            for (int k = (r + shared) % 2; k < 5; k += 2) {
                cot__store_options o = {.residency = k == 3 ? COT__RESIDENCY_RING : COT__RESIDENCY_STREAM,
                                        .retention = (cot__retention)k,
                                        .aio.way = k % 2 ? COT__AIO_THREADS : COT__AIO_AUTO};
                run(&o, rooms[k], rows[r], shared, 1 + k % 2, have);
                if (memcmp(want, have, bytes) != 0)
                    fail_msg("%d rows, shared %d, room %d", rows[r], shared, k);
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_bits)};
    return cmocka_run_group_tests(tests, make, drop);
}
