/* Products of Q4_K, Q5_K and Q6_K with activations of blocks of 256: sums of products times the integer
 * scales of the sub-blocks are exact; eight partial sums go, scaled, to one F32 vector per (row, token),
 * blocks ascending, the minima after the products. */
#include "kernels/x86/simd.h"

/* Scales (8 × 16 bits, sub-block j in lane j) and minima (each twice: one per 16 values) of Q4_K and Q5_K:
 * 6 bits each in 12 bytes. */
COT_ALWAYS __m128i scales_k(const uint8_t *p, __m256i *minima) {
    uint32_t u[4], m = 0x3f3f3f3f, low = 0x0f0f0f0f, top = 0x03030303;
    memcpy(u, p, 12);
    uint32_t s0 = u[0] & m, s1 = (u[2] & low) | ((u[0] >> 6 & top) << 4);
    uint32_t m0 = u[1] & m, m1 = (u[2] >> 4 & low) | ((u[1] >> 6 & top) << 4);
    __m128i mins = _mm_setr_epi32((int)m0, (int)m1, 0, 0);
    *minima = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(mins, mins));
    return _mm_cvtepu8_epi16(_mm_setr_epi32((int)s0, (int)s1, 0, 0));
}

COT_ALWAYS __m256i lane16(__m128i scales, int j) { /* lane j in all lanes */
    int pair = 2 * j | (2 * j + 1) << 8;
    return _mm256_broadcastsi128_si256(_mm_shuffle_epi8(scales, _mm_set1_epi16((short)pair)));
}

COT_ALWAYS void rows_q45(bool five, const cot_view *w, int64_t r0, int64_t r1,
                         const cot__q8_256 *const a[TILE], int n, float *const out[TILE]) {
    int64_t blocks = w->cols / 256;
    size_t bytes = five ? 176 : 144;
    const __m256i low = _mm256_set1_epi8(15), sixteen = _mm256_set1_epi8(16);
    for (int64_t r = r0; r < r1; r++) {
        const uint8_t *p = cot__view_at(w, r);
        __m256 acc[TILE];
        for (int t = 0; t < n; t++) acc[t] = _mm256_setzero_ps();
        for (int64_t i = 0; i < blocks; i++, p += bytes) {
            __m256i minima, sum[TILE], high = five ? load256(p + 16) : low;
            __m128i scales = scales_k(p + 4, &minima);
            const uint8_t *q = p + (five ? 48 : 16);
            for (int t = 0; t < n; t++) sum[t] = _mm256_setzero_si256();
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                __m256i x = load256(q + 32 * j), q0 = _mm256_and_si256(x, low);
                __m256i q1 = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
                if (five) { /* bits 2j and 2j + 1 of the high bytes */
                    __m256i h = _mm256_srli_epi16(high, 2 * j);
                    q0 = _mm256_or_si256(q0, _mm256_and_si256(_mm256_slli_epi16(h, 4), sixteen));
                    q1 = _mm256_or_si256(q1, _mm256_and_si256(_mm256_slli_epi16(h, 3), sixteen));
                }
                __m256i s0 = lane16(scales, 2 * j), s1 = lane16(scales, 2 * j + 1);
                for (int t = 0; t < n; t++) {
                    const int8_t *y = a[t][i].q + 64 * j;
                    __m256i d0 = _mm256_madd_epi16(_mm256_maddubs_epi16(q0, load256(y)), s0);
                    __m256i d1 = _mm256_madd_epi16(_mm256_maddubs_epi16(q1, load256(y + 32)), s1);
                    sum[t] = _mm256_add_epi32(sum[t], _mm256_add_epi32(d0, d1));
                }
            }
            float d = half_at(p), dmin = half_at(p + 2);
            for (int t = 0; t < n; t++) {
                const cot__q8_256 *y = &a[t][i];
                __m256i below = _mm256_madd_epi16(load256(y->sums), minima);
                acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t]), _mm256_set1_ps(d * y->d), acc[t]);
                acc[t] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(below), _mm256_set1_ps(dmin * y->d), acc[t]);
            }
        }
        for (int t = 0; t < n; t++) out[t][r] = sum8(acc[t]);
    }
}

COT_ALWAYS void rows_q4(const cot_view *w, int64_t r0, int64_t r1, const cot__q8_256 *const a[TILE], int n,
                        float *const out[TILE]) {
    rows_q45(false, w, r0, r1, a, n, out);
}
COT_ALWAYS void rows_q5(const cot_view *w, int64_t r0, int64_t r1, const cot__q8_256 *const a[TILE], int n,
                        float *const out[TILE]) {
    rows_q45(true, w, r0, r1, a, n, out);
}

COT_ALWAYS void rows_q6(const cot_view *w, int64_t r0, int64_t r1, const cot__q8_256 *const a[TILE], int n,
                        float *const out[TILE]) {
    int64_t blocks = w->cols / 256;
    const __m256i low = _mm256_set1_epi8(15), top = _mm256_set1_epi8(0x30);
    for (int64_t r = r0; r < r1; r++) {
        const uint8_t *p = cot__view_at(w, r);
        __m256 acc[TILE];
        for (int t = 0; t < n; t++) acc[t] = _mm256_setzero_ps();
        for (int64_t i = 0; i < blocks; i++, p += 210) {
            __m256i sum[TILE], scales = _mm256_cvtepi8_epi16(load128(p + 192));
            for (int t = 0; t < n; t++) sum[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) { /* 32 values: of half j / 4, quarter j % 4 */
                const uint8_t *ql = p + 64 * (j / 4) + 32 * (j % 2);
                int g = j % 4;
                __m256i h = load256(p + 128 + 32 * (j / 4)), x = load256(ql);
                h = g == 0   ? _mm256_slli_epi16(h, 4)
                    : g == 1 ? _mm256_slli_epi16(h, 2)
                    : g == 2 ? h
                             : _mm256_srli_epi16(h, 2);
                if (g >= 2) x = _mm256_srli_epi16(x, 4);
                __m256i q = _mm256_or_si256(_mm256_and_si256(x, low), _mm256_and_si256(h, top));
                __m128i half = j < 4 ? _mm256_castsi256_si128(scales) : _mm256_extracti128_si256(scales, 1);
                int s = 2 * (j % 4); /* lanes s and s + 1 of that half: one for each 16 values */
                __m256i sc = _mm256_set_m128i(
                    _mm_shuffle_epi8(half, _mm_set1_epi16((short)((2 * s + 2) | (2 * s + 3) << 8))),
                    _mm_shuffle_epi8(half, _mm_set1_epi16((short)((2 * s) | (2 * s + 1) << 8))));
                for (int t = 0; t < n; t++)
                    sum[t] = _mm256_add_epi32(
                        sum[t], _mm256_madd_epi16(_mm256_maddubs_epi16(q, load256(a[t][i].q + 32 * j)), sc));
            }
            float d = half_at(p + 208);
            for (int t = 0; t < n; t++) { /* values stand 32 too high */
                const cot__q8_256 *y = &a[t][i];
                __m256i over = _mm256_slli_epi32(_mm256_madd_epi16(load256(y->sums), scales), 5);
                acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(sum[t], over)),
                                         _mm256_set1_ps(d * y->d), acc[t]);
            }
        }
        for (int t = 0; t < n; t++) out[t][r] = sum8(acc[t]);
    }
}

#define COT_GEMM256(name, rows)                                                                              \
    static void gemm_##name(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,           \
                            const int32_t *idx, int64_t n, float *out, size_t os) {                          \
        for (int64_t r = r0; r < r1; r += ROWS)                                                              \
            for (int64_t i = 0; i < n; i += TILE) {                                                          \
                const cot__q8_256 *a[TILE];                                                                  \
                float *o[TILE];                                                                              \
                int m = n - i < TILE ? (int)(n - i) : TILE;                                                  \
                int64_t end = r + ROWS < r1 ? r + ROWS : r1;                                                 \
                for (int t = 0; t < m; t++) {                                                                \
                    a[t] = (const void *)((const char *)act + (size_t)(idx ? idx[i + t] : i + t) * as);      \
                    o[t] = out + (size_t)(i + t) * os;                                                       \
                }                                                                                            \
                if (m == 4) rows(w, r, end, a, 4, o);                                                        \
                else if (m == 3) rows(w, r, end, a, 3, o);                                                   \
                else if (m == 2) rows(w, r, end, a, 2, o);                                                   \
                else rows(w, r, end, a, 1, o);                                                               \
            }                                                                                                \
    }
COT_GEMM256(q4_k, rows_q4)
COT_GEMM256(q5_k, rows_q5)
COT_GEMM256(q6_k, rows_q6)
#undef COT_GEMM256
