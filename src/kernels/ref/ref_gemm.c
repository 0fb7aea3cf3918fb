/* The truth of all products: weights decoded by the format's own converter, activations by their definition,
 * one sum in double per (row, token), ascending. Slow and plain on purpose. */
#include <math.h>
#include <string.h>

#include "kernels/ref/ref.h"

enum { PIECE = 256 }; /* elements decoded at once: a multiple of every block */

/* Activation c0 … c0 + n − 1 of a row, as floats. */
static void act_piece(cot_act kind, const void *act, int64_t c0, int64_t n, float *out) {
    if (kind == COT_ACT_F32) {
        memcpy(out, (const float *)act + c0, (size_t)n * sizeof *out);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t c = c0 + i;
        if (kind == COT_ACT_Q8_32) {
            const cot__q8_32 *b = (const cot__q8_32 *)act + c / 256;
            out[i] = b->d[c % 256 / 32] * b->q[c % 256];
        } else {
            const cot__q8_256 *b = (const cot__q8_256 *)act + c / 1024;
            const int8_t *q = b->q[c % 1024 / 256] + 32 * cot__run_place((int)(c % 256 / 32));
            out[i] = b->d[c % 1024 / 256] * q[c % 32];
        }
    }
}

static void weight_piece(const cot_view *w, int64_t r, int64_t c0, int64_t n, float *out) {
    cot__view_part(w, r, c0, n, out);
    if (!w->scales) return;
    const float *s = w->scales + r / w->scale_rows * w->scale_stride;
    for (int64_t i = 0; i < n; i++) out[i] *= s[(c0 + i) / w->scale_cols];
}

static void gemm(cot_act kind, const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t act_stride,
                 const int32_t *idx, int64_t n, float *out, size_t out_stride) {
    float wp[PIECE], ap[PIECE];
    enum { TOKENS = 64 };
    for (int64_t r = r0; r < r1; r++)
        for (int64_t t0 = 0; t0 < n; t0 += TOKENS) {
            double sum[TOKENS] = {0};
            int64_t m = n - t0 < TOKENS ? n - t0 : TOKENS;
            for (int64_t c = 0; c < w->cols; c += PIECE) {
                int64_t k = w->cols - c < PIECE ? w->cols - c : PIECE;
                weight_piece(w, r, c, k, wp);
                for (int64_t i = 0; i < m; i++) {
                    int64_t row = idx ? idx[t0 + i] : t0 + i;
                    act_piece(kind, (const char *)act + (size_t)row * act_stride, c, k, ap);
                    for (int64_t j = 0; j < k; j++) sum[i] += (double)wp[j] * (double)ap[j];
                }
            }
            for (int64_t i = 0; i < m; i++) out[(size_t)(t0 + i) * out_stride + (size_t)r] = (float)sum[i];
        }
}

static void gemm_act_f32(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,
                         const int32_t *idx, int64_t n, float *out, size_t os) {
    gemm(COT_ACT_F32, w, r0, r1, act, as, idx, n, out, os);
}
static void gemm_act_q8_32(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,
                           const int32_t *idx, int64_t n, float *out, size_t os) {
    gemm(COT_ACT_Q8_32, w, r0, r1, act, as, idx, n, out, os);
}
static void gemm_act_q8_256(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,
                            const int32_t *idx, int64_t n, float *out, size_t os) {
    gemm(COT_ACT_Q8_256, w, r0, r1, act, as, idx, n, out, os);
}

static void gemv_t(const cot_view *w, int64_t r0, int64_t r1, const float *x, float *out) {
    float wp[PIECE];
    for (int64_t r = r0; r < r1; r++)
        for (int64_t c = 0; c < w->cols; c += PIECE) {
            int64_t k = w->cols - c < PIECE ? w->cols - c : PIECE;
            weight_piece(w, r, c, k, wp);
            for (int64_t j = 0; j < k; j++) out[c + j] += x[r - r0] * wp[j];
        }
}

/* ---- activations: q = round to nearest even of x / d, d = amax / 127 ---- */

static float encode_block(const float *x, int8_t *q, int n) {
    float big = 0;
    for (int i = 0; i < n; i++) {
        if (!isfinite(x[i])) { /* nothing can hold it: the whole block becomes NaN, and so do the products */
            memset(q, 0, (size_t)n);
            return NAN;
        }
        big = fabsf(x[i]) > big ? fabsf(x[i]) : big;
    }
    float d = big / 127, id = big > 0 ? 127 / big : 0;
    if (!isfinite(id)) id = 0, d = 0; /* a denormal block counts as zero */
    for (int i = 0; i < n; i++) {
        float v = nearbyintf(x[i] * id);
        q[i] = (int8_t)(v > 127 ? 127 : v < -127 ? -127 : v);
    }
    return d;
}

static void act_f32(const float *x, void *dst, int64_t n) { memcpy(dst, x, (size_t)n * sizeof *x); }

static void act_q8_32(const float *x, void *dst, int64_t n) {
    for (cot__q8_32 *g = dst; n > 0; g++) {
        memset(g, 0, sizeof *g);
        for (int b = 0; b < 8 && n > 0; b++, n -= 32, x += 32) {
            g->d[b] = encode_block(x, g->q + 32 * b, 32);
            for (int i = 0; i < 32; i++) g->low[b] -= 128 * g->q[32 * b + i];
        }
    }
}

static void act_q8_256(const float *x, void *dst, int64_t n) {
    for (cot__q8_256 *g = dst; n > 0; g++) {
        memset(g, 0, sizeof *g);
        for (int b = 0; b < 4 && n > 0; b++, n -= 256, x += 256) {
            int8_t q[256];
            g->d[b] = encode_block(x, q, 256);
            for (int r = 0; r < 8; r++) memcpy(g->q[b] + 32 * cot__run_place(r), q + 32 * r, 32);
            for (int i = 0; i < 16; i++) {
                int sum = 0;
                for (int j = 0; j < 16; j++) sum += q[16 * i + j];
                g->sums[b][i] = (int16_t)sum;
                g->pairs[b][i / 2] = (int16_t)(g->pairs[b][i / 2] + sum);
            }
        }
    }
}

static void act_bf16(const float *x, void *dst, int64_t n) {
    for (int64_t i = 0; i < n; i++) ((uint16_t *)dst)[i] = cot__f32_to_bf16(x[i]);
}

void cot__ref_gemm_init(cot_kernels *k) {
    static const cot_type types[] = {COT_F32,  COT_F16,    COT_BF16,   COT_Q8_0,  COT_Q4_0,   COT_Q4_1,
                                     COT_Q5_0, COT_Q5_1,   COT_Q2_K,   COT_Q3_K,  COT_Q4_K,   COT_Q5_K,
                                     COT_Q6_K, COT_IQ4_NL, COT_IQ4_XS, COT_MXFP4, COT_F8_E4M3};
    static cot__gemm_fn *const by_act[] = {gemm_act_f32, gemm_act_q8_32, gemm_act_q8_256};
    k->act_encode[COT_ACT_F32] = act_f32;
    k->act_encode[COT_ACT_Q8_32] = act_q8_32;
    k->act_encode[COT_ACT_Q8_256] = act_q8_256;
    k->act_encode[COT_ACT_BF16] = act_bf16;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        int s = cot__kernel_slot(types[i]), block = cot__type(types[i])->block;
        k->act[s] = block == 1 ? COT_ACT_F32 : block == 32 ? COT_ACT_Q8_32 : COT_ACT_Q8_256;
        k->gemm[s] = by_act[k->act[s]];
        k->gemm_f32[s] = gemm_act_f32;
    }
    k->gemv_t = gemv_t;
}
