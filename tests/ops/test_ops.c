/* Operations against the plainest double-precision writing of them; the same bits for any number of threads,
 * with a tap and with a tape. Attention over few positions and products are compared in tests/kern and
 * tests/golden. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "ops/ops.h"

enum { N = 5, COLS = 24, STRIDE = 29 };

static cot__arena *arena;
static const cot_kernels *kernels;
static cot__pool *pools[2];

static void fill(float *x, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i++) x[i] = (float)(4 * cot__random_unit(seed, 2, i, 0) - 2);
}

static void near(const float *got, size_t stride, const double *want, size_t cols) {
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < cols; k++)
            if (!(fabs((double)got[i * stride + k] - want[i * cols + k]) <=
                  1e-5 * (1 + fabs(want[i * cols + k]))))
                fail_msg("row %zu, column %zu: %g, not %g", i, k, (double)got[i * stride + k],
                         want[i * cols + k]);
}

static void norms(void **state) {
    (void)state;
    float x[N * STRIDE], y[N * STRIDE], w[COLS], b[COLS];
    fill(x, N * STRIDE, 1), fill(w, COLS, 2), fill(b, COLS, 3);
    for (int kind = COT_NORM_RMS; kind <= COT_NORM_LAYER; kind++)
        for (int parts = 1; parts <= 3; parts += 2) {
            cot__ops c = {.k = kernels, .pool = pools[1], .arena = arena};
            double want[N * COLS];
            int cols = COLS / parts;
            memset(y, 0x55, sizeof y);
            cot__op_norm(&c, (cot_norm)kind, y, STRIDE, x, STRIDE, N, parts, cols, w, kind ? b : NULL, 1e-5f);
            for (int i = 0; i < N * parts; i++) {
                const float *v = x + i / parts * STRIDE + i % parts * cols;
                double mean = 0, square = 0;
                for (int k = 0; k < cols; k++) mean += (double)v[k] / cols;
                if (kind == COT_NORM_RMS) mean = 0;
                for (int k = 0; k < cols; k++) square += ((double)v[k] - mean) * ((double)v[k] - mean) / cols;
                for (int k = 0; k < cols; k++)
                    want[i * cols + k] = ((double)v[k] - mean) / sqrt(square + 1e-5) * (double)w[k] +
                                         (kind ? (double)b[k] : 0);
            }
            near(y, STRIDE, want, COLS);
            for (int i = 0; i < N; i++) /* nothing beside the rows is written */
                for (int k = COLS; k < STRIDE; k++)
                    assert_memory_equal(&y[i * STRIDE + k], "\x55\x55\x55\x55", 4);
        }
}

static void rotations(void **state) {
    (void)state;
    enum { HEADS = 3, HEAD = 8, ROT = 6 }; /* partial: the last two values stay */
    float x[N * STRIDE], y[N * STRIDE], cosine[N * ROT / 2], sine[N * ROT / 2];
    fill(x, N * STRIDE, 4);
    for (int i = 0; i < N * ROT / 2; i++) cosine[i] = cosf((float)i), sine[i] = sinf((float)i);
    for (int neox = 0; neox < 2; neox++) {
        cot__ops c = {.k = kernels, .pool = pools[1], .arena = arena};
        double want[N * COLS];
        memcpy(y, x, sizeof y);
        cot__op_rope(&c, neox, y, STRIDE, N, HEADS, HEAD, ROT, cosine, sine);
        for (int i = 0; i < N; i++)
            for (int h = 0; h < HEADS; h++) {
                const float *v = x + i * STRIDE + h * HEAD;
                double *o = want + i * COLS + h * HEAD;
                for (int k = 0; k < HEAD; k++) o[k] = (double)v[k];
                for (int j = 0; j < ROT / 2; j++) {
                    int a = neox ? j : 2 * j, b = neox ? j + ROT / 2 : 2 * j + 1;
                    double co = (double)cosine[i * ROT / 2 + j], si = (double)sine[i * ROT / 2 + j];
                    o[a] = (double)v[a] * co - (double)v[b] * si;
                    o[b] = (double)v[b] * co + (double)v[a] * si;
                }
            }
        near(y, STRIDE, want, COLS);
    }
}

static void sums_and_embeddings(void **state) {
    (void)state;
    float x[N * STRIDE], y[N * STRIDE], table[7 * COLS];
    double want[N * COLS];
    const int32_t ids[N] = {6, 0, 3, 3, 1};
    fill(x, N * STRIDE, 5), fill(y, N * STRIDE, 6), fill(table, 7 * COLS, 7);
    cot__ops c = {.k = kernels, .pool = pools[1], .arena = arena};
    for (int i = 0; i < N * COLS; i++)
        want[i] = (double)y[i / COLS * STRIDE + i % COLS] + 0.22 * (double)x[i / COLS * STRIDE + i % COLS];
    cot__op_add(&c, y, STRIDE, x, STRIDE, N, COLS, 0.22f);
    near(y, STRIDE, want, COLS);
    cot__op_scale(&c, y, STRIDE, N, COLS, -3);
    for (int i = 0; i < N * COLS; i++) want[i] *= -3;
    near(y, STRIDE, want, COLS);
    cot_view w = cot__view_make(table, COT_F32, 7, COLS);
    cot__op_embed(&c, &w, ids, N, y, STRIDE, 12);
    for (int i = 0; i < N * COLS; i++) want[i] = 12 * (double)table[ids[i / COLS] * COLS + i % COLS];
    near(y, STRIDE, want, COLS);
}

static void tap(void *user, const char *name, int layer, const float *x, size_t stride, int64_t rows,
                int64_t cols) {
    (void)name, (void)layer, (void)x, (void)stride, (void)rows, (void)cols;
    ++*(int *)user;
}

static void products_are_the_same_bits_however_they_run(void **state) {
    (void)state;
    enum { ROWS = 37 };
    float x[N * STRIDE], w[ROWS * COLS], b[ROWS], first[N * ROWS];
    double want[N * ROWS];
    fill(x, N * STRIDE, 8), fill(w, ROWS * COLS, 9), fill(b, ROWS, 10);
    for (int i = 0; i < N * ROWS; i++) {
        want[i] = (double)b[i % ROWS];
        for (int k = 0; k < COLS; k++)
            want[i] += (double)w[i % ROWS * COLS + k] * (double)x[i / ROWS * STRIDE + k];
    }
    cot_view W = cot__view_make(w, COT_F32, ROWS, COLS), B = cot__view_make(b, COT_F32, 1, ROWS);
    for (int way = 0; way < 6; way++) {
        int taps = 0;
        float y[N * ROWS];
        cot__tape tape = {.arena = arena};
        cot__ops c = {.k = kernels,
                      .pool = pools[way % 2],
                      .arena = arena,
                      .act_f32 = true,
                      .tape = way / 2 == 1 ? &tape : NULL,
                      .tap = way / 2 == 2 ? tap : NULL,
                      .tap_user = &taps};
        cot__rows rows = cot__rows_of(x, STRIDE, N, COLS);
        assert_int_equal(cot__op_linear(&c, &W, &B, &rows, y, ROWS, NULL), COT_OK);
        if (c.tape) assert_true(tape.count == 1 && !tape.failed);
        near(y, ROWS, want, ROWS);
        if (!way) memcpy(first, y, sizeof y);
        assert_memory_equal(y, first, sizeof y);
    }
}

/* One head of keys for all queries and many positions: threads share them by position. */
static void attention_splits_positions(void **state) {
    enum { HEADS = 8, D = 32, ROWS = 2, BLOCKS = 17, WIDTH = HEADS * D };
    static const int32_t last[ROWS] = {1000, 777};
    static const cot_type types[] = {COT_F32, COT_F16};
    static float kv[2][ROWS][BLOCKS * COT_KV_CHUNK][D];
    float q[ROWS * WIDTH], out[ROWS * WIDTH], first[ROWS * WIDTH], sinks[HEADS];
    cot__pool *eight;
    (void)state;
    assert_int_equal(cot__pool_create(&eight, 8, NULL), COT_OK);
    fill(&kv[0][0][0][0], sizeof kv / 4, 21), fill(q, ROWS * WIDTH, 22), fill(sinks, HEADS, 23);
    for (int way = 0; way < 8; way++) {
        cot_type type = types[way & 1];
        int window = way & 2 ? 650 : 0;
        size_t row = cot__kv_row_bytes(type, D);
        cot__kv_stream s = {type, 1, D, D, false, 0, row, row};
        char *memory = calloc(ROWS * BLOCKS, cot__kv_stream_bytes(&s)), *table[ROWS][BLOCKS];
        char *const *blocks[ROWS] = {table[0], table[1]};
        cot__ops c = {.k = kernels, .pool = pools[0], .arena = arena};
        assert_non_null(memory);
        for (size_t i = 0; i < ROWS * BLOCKS; i++)
            table[i / BLOCKS][i % BLOCKS] = memory + i * cot__kv_stream_bytes(&s);
        for (int r = 0; r < ROWS; r++)
            for (int32_t pos = 0; pos <= last[r]; pos++)
                cot__op_kv_store(&c, &s, blocks + r, &pos, 1, kv[0][r][pos], D, kv[1][r][pos], D);
        cot__attention a = {.kv = &s,
                            .blocks = blocks,
                            .pos = last,
                            .n = ROWS,
                            .heads = HEADS,
                            .scale = 0.3f,
                            .window = window,
                            .sinks = way & 4 ? sinks : NULL,
                            .q = q,
                            .q_stride = WIDTH,
                            .out = out,
                            .out_stride = WIDTH};
        cot__pool *const all[] = {pools[0], pools[1], eight};
        for (int p = 0; p < 3; p++) {
            c.pool = all[p];
            memset(out, 0x55, sizeof out);
            assert_int_equal(cot__op_attention(&c, &a, NULL), COT_OK);
            if (!p) memcpy(first, out, sizeof out);
            assert_memory_equal(out, first, sizeof out);
        }
        for (int r = 0; r < ROWS && type == COT_F32; r++)
            for (int h = 0; h < HEADS; h++) {
                double sum = 0, y[D] = {0};
                int32_t from = window && last[r] >= window ? last[r] - window + 1 : 0;
                for (int32_t pos = from; pos <= last[r]; pos++) {
                    double z = 0;
                    for (int d = 0; d < D; d++)
                        z += (double)q[r * WIDTH + h * D + d] * (double)kv[0][r][pos][d];
                    double e = exp(z * (double)0.3f);
                    sum += e;
                    for (int d = 0; d < D; d++) y[d] += e * (double)kv[1][r][pos][d];
                }
                if (way & 4) sum += exp((double)sinks[h]);
                for (int d = 0; d < D; d++)
                    assert_true(fabs((double)out[r * WIDTH + h * D + d] - y[d] / sum) < 1e-5);
            }
        free(memory);
    }
    cot__pool_free(&eight);
}

static int setup(void **state) {
    (void)state;
    return cot__arena_create(&arena, 1 << 20, 0, NULL) || cot__kernels_get(&kernels, NULL) ||
           cot__pool_create(&pools[0], 1, NULL) || cot__pool_create(&pools[1], 2, NULL);
}

static int teardown(void **state) {
    (void)state;
    cot__arena_free(&arena);
    cot__pool_free(&pools[0]);
    cot__pool_free(&pools[1]);
    return cot__alloc_live() != 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms),
        cmocka_unit_test(rotations),
        cmocka_unit_test(sums_and_embeddings),
        cmocka_unit_test(products_are_the_same_bits_however_they_run),
        cmocka_unit_test(attention_splits_positions),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
