/* Products of blocks of 32 with few tokens: row after row, eight blocks at a time, each unpacked once for all
 * tokens. */
#ifndef COT_KERNELS_X86_FEW32_H
#define COT_KERNELS_X86_FEW32_H

#include "kernels/x86/unpack32.h"

/* Eight partial sums of a block. */
COT_ALWAYS __m256i dot32(const kind32 *k, __m256i q, const int8_t *y) {
    __m256i x = load256(y);
#ifdef __AVX512VNNI__
    return _mm256_dpbusd_epi32(_mm256_setzero_si256(), q, x);
#else
    __m256i s = k->is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q))
                             : _mm256_maddubs_epi16(q, x);
    return _mm256_madd_epi16(s, _mm256_set1_epi16(1));
#endif
}

/* Sums of the lanes of eight vectors: lane j of the result is that of v[j]. */
COT_ALWAYS __m256i sums8(const __m256i v[8]) {
    __m256i a[4], b[2];
    for (int j = 0; j < 4; j++)
        a[j] = _mm256_add_epi32(_mm256_unpacklo_epi32(v[2 * j], v[2 * j + 1]),
                                _mm256_unpackhi_epi32(v[2 * j], v[2 * j + 1]));
    for (int j = 0; j < 2; j++)
        b[j] = _mm256_add_epi32(_mm256_unpacklo_epi64(a[2 * j], a[2 * j + 1]),
                                _mm256_unpackhi_epi64(a[2 * j], a[2 * j + 1]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(b[0], b[1], 0x20),
                            _mm256_permute2x128_si256(b[0], b[1], 0x31));
}

/* Eight blocks at p, of which the first m are there, with group i of n tokens: block j to lane j of acc. */
COT_ALWAYS void few32_blocks(const kind32 *k, const uint8_t *p, int64_t i, int m,
                             const cot__q8_32 *const a[FEW], int n, __m256 acc[FEW]) {
    __m256i s[FEW][8];
    __m256 d = scales8(k->scale, p + k->d_at, k->bytes, m);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        if (j >= m) {
            for (int t = 0; t < n; t++) s[t][j] = _mm256_setzero_si256();
            continue;
        }
        __m256i q = k->unpack(p + j * k->bytes);
        if (lifted(k)) q = _mm256_xor_si256(q, _mm256_set1_epi8((char)0x80));
        fetch_part(p, 8 * k->bytes, j, 8);
        for (int t = 0; t < n; t++) {
            s[t][j] = dot32(k, q, a[t][i].q + 32 * j);
            w_in_order(s[t][j]);
        }
    }
    for (int t = 0; t < n; t++) {
        const cot__q8_32 *y = a[t] + i;
        __m256i sum = sums8(s[t]), low = load256(y->low);
        __m256 yd = _mm256_loadu_ps(y->d);
        if (has_zero(k)) sum = _mm256_add_epi32(sum, _mm256_srai_epi32(low, zero_shift(k)));
        acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(d, yd), acc[t]);
        if (k->m_at >= 0) { /* m Σ y, Σ y = −low / 128 */
            __m256 least = scales8(k->scale, p + k->m_at, k->bytes, m);
            acc[t] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(low, 7)), _mm256_mul_ps(least, yd),
                                      acc[t]);
        }
    }
}

COT_ALWAYS void few32(const kind32 *k, const cot_view *w, int64_t r0, int64_t r1,
                      const cot__q8_32 *const a[FEW], int n, float *const out[FEW]) {
    int64_t blocks = w->cols / 32;
    for (int64_t r = r0; r < r1; r++) {
        const uint8_t *p = cot__view_at(w, r);
        for (int64_t i = 0; i < blocks;) {
            __m256 acc[FEW];
            int64_t end = i + DEPTH32 < blocks ? i + DEPTH32 : blocks;
            bool first = i == 0;
            for (int t = 0; t < n; t++) acc[t] = _mm256_setzero_ps();
            for (; i + 8 <= end; i += 8, p += 8 * k->bytes) few32_blocks(k, p, i / 8, 8, a, n, acc);
            if (i < end) few32_blocks(k, p, i / 8, (int)(end - i), a, n, acc);
            i = end;
            for (int t = 0; t < n; t++) out[t][r] = sum8(acc[t]) + (first ? 0 : out[t][r]);
        }
    }
}

#endif
