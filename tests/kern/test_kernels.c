/* Every level's kernels against the reference, on random and extreme inputs, with guarded borders; and the
 * contract: one result per (row, token), whatever else a call computes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/hash.h"
#include "kernels/kernels.h"

static const cot_type types[] = {COT_F32,  COT_F16,    COT_BF16,   COT_Q8_0, COT_Q4_0, COT_Q4_1,
                                 COT_Q5_0, COT_Q5_1,   COT_Q2_K,   COT_Q3_K, COT_Q4_K, COT_Q5_K,
                                 COT_Q6_K, COT_IQ4_NL, COT_IQ4_XS, COT_MXFP4};
static const char *const levels[] = {"avx2", "avx512", "avx512bf16"};
enum { LEVELS = sizeof levels / sizeof *levels };
static uint64_t counter;

static float unit(void) { return (float)(cot__random_unit(7, 1, 0, counter++) * 2 - 1); }

/* Memory that ends (or begins) at a page which must not be touched. */
typedef struct guarded {
    char *base;
    size_t total;
    void *p;
} guarded;

static guarded guard(size_t bytes, bool at_end) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page - 1) / page * page;
    guarded g = {.total = body + 2 * page};
    g.base = mmap(NULL, g.total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.base != MAP_FAILED);
    assert_int_equal(mprotect(g.base, page, PROT_NONE), 0);
    assert_int_equal(mprotect(g.base + page + body, page, PROT_NONE), 0);
    g.p = g.base + page + (at_end ? body - bytes : 0);
    return g;
}

static void release(guarded *g) { munmap(g->base, g->total); }

static void near(const float *a, const float *b, size_t n, double bound, const char *what,
                 const char *level) {
    for (size_t i = 0; i < n; i++) {
        if (isnan(b[i]) && isnan(a[i])) continue;
        if (isinf(b[i]) && a[i] == b[i]) continue;
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= bound))
            fail_msg("%s at %s: element %zu is %g, reference %g (bound %g)", what, level, i, a[i], b[i],
                     bound);
    }
}

/* ---- products ---- */

/* Rows of a type that has an encoder, or any bytes with tame scales for one that has none. */
static void fill_weights(cot_type type, void *dst, int64_t rows, int64_t cols) {
    const cot__type_info *t = cot__type((int)type);
    size_t bytes = cot__row_bytes(type, cols);
    float *x = malloc((size_t)cols * sizeof *x);
    for (int64_t r = 0; r < rows; r++) {
        char *p = (char *)dst + (size_t)r * bytes;
        for (int64_t c = 0; c < cols; c++) x[c] = unit() * (r % 7 == 3 ? 100 : 1);
        if (t->encode) {
            t->encode(x, p, cols, NULL);
            continue;
        }
        for (size_t i = 0; i < bytes; i++) p[i] = (char)(unit() * 127);
        const uint16_t scale = 0x2400; /* 1/64 */
        for (size_t b = 0; b < bytes; b += (size_t)t->bytes) {
            if (type == COT_Q2_K) memcpy(p + b + 80, &scale, 2), memcpy(p + b + 82, &scale, 2);
            else if (type == COT_Q3_K) memcpy(p + b + 108, &scale, 2);
            else memcpy(p + b, &scale, 2);
        }
    }
    free(x);
}

static void check_products(const cot_kernels *k, const cot_kernels *ref, cot_type type, bool f32, bool at_end,
                           bool extreme) {
    enum { ROWS = 21, TOKENS = 19 }; /* beyond every tile */
    int s = cot__kernel_slot(type), block = cot__type((int)type)->block;
    int64_t cols = block == 1 ? 77 : block == 32 ? 96 : 768;
    cot_act act = f32 ? COT_ACT_F32 : k->act[s];
    size_t as = cot__act_bytes(act, cols), os = ROWS + 3;
    guarded w = guard(ROWS * cot__row_bytes(type, cols), at_end), a = guard(TOKENS * as, at_end);
    fill_weights(type, w.p, ROWS, cols);
    float *x = malloc((size_t)cols * TOKENS * sizeof *x);
    for (int64_t i = 0; i < cols * TOKENS; i++)
        x[i] = extreme ? (i % 3 ? 1 : -1) * (i % 5 == 4 ? 0.0f : i / cols % 2 ? 3e4f : 1e-30f) : unit();
    if (extreme) x[cols * 2 + 5] = NAN, x[cols * 13 + 1] = INFINITY;
    for (int t = 0; t < TOKENS; t++) ref->act_encode[act](x + t * cols, (char *)a.p + (size_t)t * as, cols);
    bool rounded = act == COT_ACT_BF16; /* the reference takes these as what they are in F32 */
    for (int64_t i = 0; rounded && i < cols * TOKENS; i++) x[i] = cot__bf16_to_f32(((uint16_t *)a.p)[i]);
    if (!rounded && !f32) assert_int_equal(act, ref->act[s]);
    cot_view v = cot__view_make(w.p, type, ROWS, cols);
    float want[TOKENS * (ROWS + 3)], got[TOKENS * (ROWS + 3)];
    cot__gemm_fn *fast = f32 ? k->gemm_f32[s] : k->gemm[s], *plain = f32 ? ref->gemm_f32[s] : ref->gemm[s];
    for (int64_t n = 1; n <= TOKENS; n++) {
        for (size_t i = 0; i < sizeof want / sizeof *want; i++) want[i] = got[i] = -77;
        if (rounded) ref->gemm_f32[s](&v, 0, ROWS, x, (size_t)cols * sizeof *x, NULL, n, want, os);
        else plain(&v, 0, ROWS, a.p, as, NULL, n, want, os);
        fast(&v, 0, ROWS, a.p, as, NULL, n, got, os);
        for (int64_t t = 0; t < n; t++) {
            double size = 1e-30; /* Σ |w a| bounds what rounding may do */
            for (int r = 0; r < ROWS; r++)
                if (isfinite(want[(size_t)t * os + (size_t)r]))
                    size = fmax(size, fabs((double)want[(size_t)t * os + (size_t)r]));
            double bound = 3e-5 * (size + (extreme ? 0 : 20));
            near(got + (size_t)t * os, want + (size_t)t * os, ROWS, bound, cot_type_name((int)type),
                 k->level);
            for (size_t r = ROWS; r < os; r++) assert_true(got[(size_t)t * os + r] == -77);
        }
        /* the same alone, by an index, and in two pieces of rows */
        float one[ROWS + 3];
        for (int32_t t = 0; t < n; t++) {
            for (size_t i = 0; i < os; i++) one[i] = -77;
            fast(&v, 5, ROWS, a.p, as, &t, 1, one, os);
            fast(&v, 0, 5, a.p, as, &t, 1, one, os);
            assert_memory_equal(one, got + (size_t)t * os, os * sizeof *one);
        }
    }
    free(x);
    release(&w);
    release(&a);
}

static void products_agree(void **state) {
    (void)state;
    const cot_kernels *ref = cot__kernels_by_name("ref");
    for (size_t l = 0; l < LEVELS; l++) {
        const cot_kernels *k = cot__kernels_by_name(levels[l]);
        if (!k) print_message("%s: this machine cannot run it\n", levels[l]);
        for (size_t i = 0; k && i < sizeof types / sizeof *types; i++)
            for (int way = 0; way < 8; way++) check_products(k, ref, types[i], way & 1, way & 2, way & 4);
    }
}

/* Rows that stand together: the bits of the same rows apart, with every kernel, and nothing read beyond. */
static void repacked_products_are_the_same(void **state) {
    static const cot_type kinds[] = {COT_Q4_K, COT_Q5_K, COT_Q6_K, COT_Q8_0,   COT_Q4_0,
                                     COT_Q4_1, COT_Q5_0, COT_Q5_1, COT_IQ4_NL, COT_MXFP4};
    enum { ROWS = 48, TOKENS = 19, MOST = 2592 };
    (void)state;
    for (size_t l = 0; l <= LEVELS; l++)
        for (size_t i = 0; i < 2 * (sizeof kinds / sizeof *kinds); i++) {
            const cot_kernels *k = cot__kernels_by_name(l < LEVELS ? levels[l] : "ref");
            if (!k) continue;
            cot_type type = kinds[i / 2];
            const int64_t cols = cot__type((int)type)->block == 32 ? MOST : 2560;
            int s = cot__kernel_slot(type);
            size_t bytes = ROWS * cot__row_bytes(type, cols), as = cot__act_bytes(k->act[s], cols);
            guarded w = guard(bytes, i % 2), t = guard(bytes, i % 2), a = guard(TOKENS * as, i % 2);
            fill_weights(type, w.p, ROWS, cols);
            for (int e = 0; e < 4 * MOST / 32 && type == COT_MXFP4;
                 e++) { /* four rows of scales at the ends */
                static const uint8_t scale[] = {0, 1, 2, 255};
                ((uint8_t *)w.p)[e * 17] = scale[e / (MOST / 32)];
            }
            memcpy(t.p, w.p, bytes);
            cot_view v = cot__view_make(w.p, type, ROWS, cols), u = cot__view_make(t.p, type, ROWS, cols);
            char *room = malloc(COT__TOGETHER * u.row_stride);
            assert_true(cot__view_put_together(&u, room));
            assert_false(cot__view_put_together(&u, room)); /* once */
            float *x = malloc(sizeof *x * cols * TOKENS), y[MOST], z[MOST];
            for (int64_t c = 0; c < cols * TOKENS; c++) x[c] = unit();
            for (int64_t r = 0; r < ROWS; r++) {
                cot__view_row(&v, r, y);
                cot__view_row(&u, r, z);
                assert_memory_equal(y, z, (size_t)cols * sizeof *y);
            }
            float want[TOKENS * ROWS], got[TOKENS * ROWS];
            for (int f32 = 0; f32 < 2; f32++) {
                cot_act act = f32 ? COT_ACT_F32 : k->act[s];
                cot__gemm_fn *gemm = f32 ? k->gemm_f32[s] : k->gemm[s];
                const void *in = f32 ? (void *)x : a.p;
                size_t stride = f32 ? sizeof *x * cols : as;
                if (!f32)
                    for (int n = 0; n < TOKENS; n++)
                        k->act_encode[act](x + n * cols, (char *)a.p + (size_t)n * as, cols);
                for (int64_t n = 1; n <= TOKENS; n++) {
                    int32_t idx[TOKENS];
                    for (int32_t j = 0; j < n; j++) idx[j] = (j * 7 + 3) % TOKENS;
                    gemm(&v, 0, ROWS, in, stride, n % 2 ? idx : NULL, n, want, ROWS);
                    gemm(&u, 0, 16, in, stride, n % 2 ? idx : NULL, n, got, ROWS);
                    gemm(&u, 16, ROWS, in, stride, n % 2 ? idx : NULL, n, got, ROWS);
                    if (memcmp(want, got, (size_t)n * ROWS * sizeof *want))
                        fail_msg("%s, %s, %d rows, F32 %d: other bits", k->level, cot_type_name((int)type),
                                 (int)n, f32);
                }
            }
            memset(y, 0, sizeof y);
            memset(z, 0, sizeof z);
            k->gemv_t(&v, 3, 21, x, y);
            k->gemv_t(&u, 3, 21, x, z);
            assert_memory_equal(y, z, sizeof y);
            free(x);
            free(room);
            release(&w);
            release(&t);
            release(&a);
        }
}

static void transposed_products_agree(void **state) {
    (void)state;
    const cot_kernels *ref = cot__kernels_by_name("ref");
    for (size_t l = 0; l < LEVELS; l++) {
        const cot_kernels *k = cot__kernels_by_name(levels[l]);
        for (size_t i = 0; k && i < sizeof types / sizeof *types; i++) {
            enum { ROWS = 5 };
            int block = cot__type((int)types[i])->block;
            int64_t cols = block == 1 ? 77 : block == 32 ? 96 : 512;
            guarded w = guard(ROWS * cot__row_bytes(types[i], cols), true), o = guard((size_t)cols * 4, true);
            float x[ROWS], *want = calloc((size_t)cols, sizeof *want);
            fill_weights(types[i], w.p, ROWS, cols);
            for (int r = 0; r < ROWS; r++) x[r] = unit();
            cot_view v = cot__view_make(w.p, types[i], ROWS, cols);
            ref->gemv_t(&v, 1, ROWS, x, want);
            k->gemv_t(&v, 1, ROWS, x, o.p);
            near(o.p, want, (size_t)cols, 2e-3, cot_type_name((int)types[i]), levels[l]);
            free(want);
            release(&w);
            release(&o);
        }
    }
}

/* ---- activations: the same bits ---- */

static void activations_are_the_same(void **state) {
    (void)state;
    const cot_kernels *ref = cot__kernels_by_name("ref");
    for (size_t l = 0; l < LEVELS; l++) {
        const cot_kernels *k = cot__kernels_by_name(levels[l]);
        for (int act = COT_ACT_Q8_32; k && act < COT_ACT_COUNT; act++)
            for (int how = 0; how < 6; how++) {
                int64_t n = how & 1 ? 1280 : 512; /* whole groups and parts of them */
                size_t bytes = cot__act_bytes((cot_act)act, n);
                guarded x = guard((size_t)n * 4, true), got = guard(bytes, true);
                float *v = x.p;
                char *want = calloc(1, bytes);
                for (int64_t i = 0; i < n; i++)
                    v[i] = how == 1 ? 0 : how == 2 ? unit() * 1e-42f : how == 3 ? unit() * 3e38f : unit();
                if (how == 4) v[300] = NAN;
                if (how == 5) v[10] = -INFINITY;
                memset(got.p, 0, bytes);
                ref->act_encode[act](v, want, n);
                k->act_encode[act](v, got.p, n);
                assert_memory_equal(got.p, want, bytes);
                free(want);
                release(&x);
                release(&got);
            }
    }
}

/* ---- rows ---- */

static void rows_agree(void **state) {
    static const int sizes[] = {1, 2, 6, 8, 9, 16, 30, 64, 96, 100, 515};
    (void)state;
    const cot_kernels *ref = cot__kernels_by_name("ref");
    for (size_t l = 0; l < LEVELS; l++) {
        const cot_kernels *k = cot__kernels_by_name(levels[l]);
        for (size_t s = 0; k && s < sizeof sizes / sizeof *sizes; s++)
            for (int how = 0; how < 2; how++) {
                int n = sizes[s];
                size_t bytes = (size_t)n * 4;
                float a[515], b[515], w[515], bias[515];
                guarded x = guard(bytes, true), y = guard(bytes, true);
                for (int i = 0; i < n; i++)
                    a[i] = how ? unit() * 90 : unit(), b[i] = unit() * 3, w[i] = unit(), bias[i] = unit();
                float want[515], *got = y.p;
                const float *in = memcpy(x.p, a, bytes);
                const char *at = k->level;
                ref->rms_norm(want, a, w, n, 1e-5f), k->rms_norm(got, in, w, n, 1e-5f);
                near(got, want, (size_t)n, 1e-4, "rms_norm", at);
                if (n > 1) {
                    ref->layer_norm(want, a, w, bias, n, 1e-5f), k->layer_norm(got, in, w, bias, n, 1e-5f);
                    near(got, want, (size_t)n, 1e-3, "layer_norm", at);
                }
                for (cot_glu kind = COT_GLU_SILU; kind <= COT_GLU_SWIGLU_CLAMPED; kind++)
                    for (int up = 0; up < 2; up++) {
                        ref->glu(kind, want, a, up ? b : NULL, n, 1.702f, 7),
                            k->glu(kind, got, in, up ? b : NULL, n, 1.702f, 7);
                        near(got, want, (size_t)n, how ? 2e-3 : 2e-5, "glu", at);
                    }
                memcpy(want, b, bytes), memcpy(got, b, bytes);
                ref->add(want, a, n), k->add(got, in, n);
                assert_memory_equal(got, want, bytes);
                ref->add_scaled(want, a, 0.3f, n), k->add_scaled(got, in, 0.3f, n);
                assert_memory_equal(got, want, bytes);
                ref->scale(want, 1.7f, n), k->scale(got, 1.7f, n);
                assert_memory_equal(got, want, bytes);
                float d = ref->dot_f32(a, b, n), e = k->dot_f32(in, b, n);
                near(&e, &d, 1, 1e-4 * (how ? 500 : 5), "dot_f32", at);
                if (n % 2 == 0) {
                    memcpy(want, a, bytes), memcpy(got, a, bytes);
                    ref->rope_neox(want, b, w, n), k->rope_neox(got, b, w, n);
                    near(got, want, (size_t)n, how ? 1e-4 : 1e-6, "rope_neox", at);
                    memcpy(want, a, bytes), memcpy(got, a, bytes);
                    ref->rope_norm(want, b, w, n), k->rope_norm(got, b, w, n);
                    near(got, want, (size_t)n, how ? 1e-4 : 1e-6, "rope_norm", at);
                }
                memcpy(want, a, bytes), memcpy(got, a, bytes);
                ref->softmax(want, n), k->softmax(got, n);
                near(got, want, (size_t)n, 1e-6, "softmax", at);
                release(&x);
                release(&y);
            }
    }
}

/* NaN and infinity stay what they are in activations: nothing is hidden. */
static void nan_stays(void **state) {
    (void)state;
    for (size_t l = 0; l < LEVELS; l++) {
        const cot_kernels *k = cot__kernels_by_name(levels[l]);
        if (!k) continue;
        float x[3] = {NAN, INFINITY, -INFINITY}, y[3];
        for (cot_glu kind = COT_GLU_SILU; kind <= COT_GLU_SWIGLU_CLAMPED; kind++) {
            if (kind == COT_GLU_RELU) continue;
            k->glu(kind, y, x, NULL, 3, 1.702f, 7);
            assert_true(isnan(y[0]));
        }
        k->glu(COT_GLU_SILU, y, x, NULL, 3, 0, 0);
        assert_true(y[1] == INFINITY);
    }
}

/* ---- attention ---- */

static void attention_agrees(void **state) {
    static const cot_type kinds[] = {COT_F32, COT_F16, COT_Q8_0};
    static const int dims[][2] = {{64, 64}, {16, 16}, {12, 20}, {128, 128}, {576, 512}, {100, 36}};
    enum { QUERIES = 11 };
    static const int from[QUERIES] = {0, 0, 5, 63, 10, 7, 0, 0, 0, 33, 2},
                     to[QUERIES] = {64, 1, 64, 64, 10, 3, 17, 64, 63, 40, 9};
    (void)state;
    const cot_kernels *ref = cot__kernels_by_name("ref");
    for (size_t l = 0; l < LEVELS; l++) {
        const cot_kernels *k = cot__kernels_by_name(levels[l]);
        for (int c = 0; k && c < 6 * 3 * 2; c++) {
            cot_type type = kinds[c % 3];
            int dk = dims[c / 6][0], dv = dims[c / 6][1];
            float cap = c / 3 % 2 ? 20.0f : 0;
            size_t kb =
                type == COT_Q8_0 ? (size_t)(dk + 31) / 32 * 34 : (size_t)dk * (type == COT_F32 ? 4 : 2);
            size_t vb =
                type == COT_Q8_0 ? (size_t)(dv + 31) / 32 * 34 : (size_t)dv * (type == COT_F32 ? 4 : 2);
            guarded keys = guard(64 * kb, true), values = guard(64 * vb, true);
            float row[640];
            for (int j = 0; j < 64; j++) {
                for (int d = 0; d < 640; d++) row[d] = unit();
                ref->kv_store(type, (char *)keys.p + (size_t)j * kb, row, dk);
                for (int d = 0; d < 640; d++) row[d] = unit();
                ref->kv_store(type, (char *)values.p + (size_t)j * vb, row, dv);
            }
            cot__kv_chunk kv = {keys.p, values.p, type, type, kb, vb, dk, dv, keys.p};
            guarded q = guard((size_t)QUERIES * (size_t)dk * 4, true),
                    acc = guard((size_t)QUERIES * (size_t)dv * 4, true);
            for (int i = 0; i < QUERIES * dk; i++) ((float *)q.p)[i] = unit();
            float *want = calloc((size_t)QUERIES * (size_t)dv, 4);
            cot__attn_state a[QUERIES], b[QUERIES];
            ref->attn_chunk(&kv, q.p, (size_t)dk, QUERIES, from, to, 0.5f, cap, b, want, (size_t)dv);
            k->attn_chunk(&kv, q.p, (size_t)dk, QUERIES, from, to, 0.5f, cap, a, acc.p, (size_t)dv);
            near(acc.p, want, (size_t)QUERIES * (size_t)dv, 2e-4, "attention", k->level);
            for (int i = 0; i < QUERIES; i++) {
                near(&a[i].m, &b[i].m, 1, 1e-4, "attention's maximum", k->level);
                near(&a[i].l, &b[i].l, 1, 1e-3, "attention's sum", k->level);
                cot__attn_state one;
                float alone[512];
                k->attn_chunk(&kv, (float *)q.p + i * dk, (size_t)dk, 1, from + i, to + i, 0.5f, cap, &one,
                              alone, (size_t)dv);
                assert_memory_equal(alone, (float *)acc.p + i * dv, (size_t)dv * 4);
                assert_memory_equal(&one, &a[i], sizeof one);
            }
            /* merging, storing and loading give what the reference gives */
            cot__attn_state m1 = b[0], m2 = b[0];
            float *into = calloc((size_t)dv, 4), *other = calloc((size_t)dv, 4);
            memcpy(into, want, (size_t)dv * 4), memcpy(other, want, (size_t)dv * 4);
            for (int i = 1; i < QUERIES; i++) {
                ref->attn_merge(&m1, into, &b[i], want + i * dv, dv);
                k->attn_merge(&m2, other, &b[i], want + i * dv, dv);
            }
            assert_memory_equal(into, other, (size_t)dv * 4);
            assert_memory_equal(&m1, &m2, sizeof m1);
            free(into), free(other);
            char stored[2][640 * 4];
            for (int d = 0; d < 640; d++) row[d] = unit() * (d % 9 ? d % 5 ? 1 : 1e-6f : 7e4f);
            memset(stored, 0, sizeof stored);
            ref->kv_store(type, stored[0], row, dk), k->kv_store(type, stored[1], row, dk);
            assert_memory_equal(stored[0], stored[1], sizeof stored[0]);
            guarded got = guard((size_t)dk * 4, true);
            ref->kv_load(type, row, keys.p, dk);
            k->kv_load(type, got.p, keys.p, dk);
            assert_memory_equal(got.p, row, (size_t)dk * 4);
            free(want);
            release(&got), release(&keys), release(&values), release(&q), release(&acc);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_agree),
        cmocka_unit_test(repacked_products_are_the_same),
        cmocka_unit_test(transposed_products_agree),
        cmocka_unit_test(activations_are_the_same),
        cmocka_unit_test(rows_agree),
        cmocka_unit_test(nan_stays),
        cmocka_unit_test(attention_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
