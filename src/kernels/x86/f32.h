/* Products in F32: weights of any format decoded, a piece at a time, and used for up to 32 tokens. Sixteen
 * partial sums per (row, token): element c goes to sum c mod 16, ascending, fused; they are added at the end.
 */
#include "kernels/x86/simd.h"

enum { PIECE = 256, GROUP = 32 };

static void decode_piece(const cot_view *w, int64_t r, int64_t c0, int n, float *out) {
    const char *row = cot__view_at(w, r);
    int i = 0;
    if (w->type == COT_F16) {
        const uint16_t *p = (const void *)(row + c0 * 2);
        for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, _mm256_cvtph_ps(load128(p + i)));
    } else if (w->type == COT_BF16) {
        const uint16_t *p = (const void *)(row + c0 * 2);
        for (; i + 8 <= n; i += 8) {
            __m256i x = _mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p + i)), 16);
            _mm256_storeu_ps(out + i, _mm256_castsi256_ps(x));
        }
    }
    if (i < n) { /* what is left of a plain type, or all of a quantised one */
        const cot__type_info *t = cot__type((int)w->type);
        t->decode(row + (c0 + i) / t->block * t->bytes, out + i, n - i);
    }
    const float *s = w->scales ? w->scales + r / w->scale_rows * w->scale_stride : NULL;
    for (i = 0; s && i < n; i++) out[i] *= s[(c0 + i) / w->scale_cols];
}

COT_ALWAYS void add_products(const float *w, const float *x, int n, float sums[16]) {
    __m256 a = _mm256_loadu_ps(sums), b = _mm256_loadu_ps(sums + 8);
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        a = _mm256_fmadd_ps(_mm256_loadu_ps(w + i), _mm256_loadu_ps(x + i), a);
        b = _mm256_fmadd_ps(_mm256_loadu_ps(w + i + 8), _mm256_loadu_ps(x + i + 8), b);
    }
    if (i < n) { /* the last of a row; zeros change no sum */
        int k = n - i < 8 ? n - i : 8;
        a = _mm256_fmadd_ps(load_some(w + i, k), load_some(x + i, k), a);
        if (n - i > 8)
            b = _mm256_fmadd_ps(load_some(w + i + 8, n - i - 8), load_some(x + i + 8, n - i - 8), b);
    }
    _mm256_storeu_ps(sums, a);
    _mm256_storeu_ps(sums + 8, b);
}

COT_ALWAYS float close_sums(const float sums[16]) {
    return sum8(_mm256_add_ps(_mm256_loadu_ps(sums), _mm256_loadu_ps(sums + 8)));
}

/* Activations of a piece as floats: where they stand, or decoded to buf. */
COT_ALWAYS const float *act_piece(cot_act kind, const void *act, int64_t c0, int n, float *buf) {
    if (kind == COT_ACT_F32) return (const float *)act + c0;
    for (int i = 0; i < n; i += 8) {
        int64_t c = c0 + i;
        const cot__q8_32 *s = (const cot__q8_32 *)act + c / 256;
        const cot__q8_256 *k = (const cot__q8_256 *)act + c / 1024;
        const int8_t *q = (kind == COT_ACT_Q8_32 ? s->q : k->q[c % 1024 / 256]) + c % 256;
        __m256i x = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)q));
        float d = kind == COT_ACT_Q8_32 ? s->d[c % 256 / 32] : k->d[c % 1024 / 256];
        _mm256_storeu_ps(buf + i, _mm256_mul_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(x)));
    }
    return buf;
}

COT_ALWAYS void gemm_decoded(cot_act kind, const cot_view *w, int64_t r0, int64_t r1, const void *act,
                             size_t as, const int32_t *idx, int64_t n, float *out, size_t os) {
    float wp[PIECE], ap[PIECE];
    bool plain = w->type == COT_F32 && !w->scales;
    for (int64_t i0 = 0; i0 < n; i0 += GROUP)
        for (int64_t r = r0; r < r1; r++) {
            float sums[GROUP][16];
            int m = n - i0 < GROUP ? (int)(n - i0) : GROUP;
            memset(sums, 0, (size_t)m * sizeof sums[0]);
            for (int64_t c = 0; c < w->cols; c += PIECE) {
                int k = w->cols - c < PIECE ? (int)(w->cols - c) : PIECE;
                const float *wr = plain ? (const float *)cot__view_at(w, r) + c : wp;
                if (!plain) decode_piece(w, r, c, k, wp);
                for (int t = 0; t < m; t++) {
                    int64_t row = idx ? idx[i0 + t] : i0 + t;
                    add_products(wr, act_piece(kind, (const char *)act + (size_t)row * as, c, k, ap), k,
                                 sums[t]);
                }
            }
            for (int t = 0; t < m; t++) out[(size_t)(i0 + t) * os + (size_t)r] = close_sums(sums[t]);
        }
}

static void gemm_f32(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,
                     const int32_t *idx, int64_t n, float *out, size_t os) {
    gemm_decoded(COT_ACT_F32, w, r0, r1, act, as, idx, n, out, os);
}
static void gemm_any32(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,
                       const int32_t *idx, int64_t n, float *out, size_t os) {
    gemm_decoded(COT_ACT_Q8_32, w, r0, r1, act, as, idx, n, out, os);
}
static void gemm_any256(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,
                        const int32_t *idx, int64_t n, float *out, size_t os) {
    gemm_decoded(COT_ACT_Q8_256, w, r0, r1, act, as, idx, n, out, os);
}

static void gemv_t(const cot_view *w, int64_t r0, int64_t r1, const float *x, float *out) {
    float wp[PIECE];
    for (int64_t r = r0; r < r1; r++)
        for (int64_t c = 0; c < w->cols; c += PIECE) {
            int k = w->cols - c < PIECE ? (int)(w->cols - c) : PIECE;
            __m256 f = _mm256_set1_ps(x[r - r0]);
            decode_piece(w, r, c, k, wp);
            for (int j = 0; j < k; j += 8)
                store_some(out + c + j,
                           _mm256_fmadd_ps(f, load_some(wp + j, k - j), load_some(out + c + j, k - j)),
                           k - j);
        }
}

static float dot_f32(const float *a, const float *b, int64_t n) {
    float sums[16] = {0};
    for (int64_t c = 0; c < n; c += 1 << 20)
        add_products(a + c, b + c, n - c < 1 << 20 ? (int)(n - c) : 1 << 20, sums);
    return close_sums(sums);
}
