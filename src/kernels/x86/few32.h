/* Products of blocks of 32 with few tokens: row after row, eight blocks at a time, each unpacked once for all
 * tokens. */
#ifndef COT_KERNELS_X86_FEW32_H
#define COT_KERNELS_X86_FEW32_H

#include "kernels/x86/unpack32.h"

/* Eight partial sums of each block in q. */
COT_ALWAYS wide dot32(const kind32 *k, wide q, const int8_t *y) {
    wide x = w_load(y);
#ifdef __AVX512VNNI__
    return _mm512_dpbusd_epi32(w_zero(), q, x);
#else
    wide s = k->is_signed ? w_maddubs(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q)) : w_maddubs(q, x);
    return w_madd(s, _mm256_set1_epi16(1));
#endif
}

/* Lane j: the sum of block j's partial sums. */
COT_ALWAYS __m256i sums8(const wide v[8 / BLOCKS_OF]) {
    wide a[4], b[2];
#ifdef __AVX512F__
    for (int j = 0; j < 2; j++)
        a[j] = w_add32(_mm512_unpacklo_epi32(v[2 * j], v[2 * j + 1]),
                       _mm512_unpackhi_epi32(v[2 * j], v[2 * j + 1]));
    b[0] = w_add32(_mm512_unpacklo_epi64(a[0], a[1]), _mm512_unpackhi_epi64(a[0], a[1]));
    /* quarters 0 and 1: blocks 0, 2, 4, 6; the others: 1, 3, 5, 7 */
    b[1] = w_add32(b[0], _mm512_shuffle_i32x4(b[0], b[0], _MM_SHUFFLE(2, 3, 0, 1)));
    const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 0, 8, 1, 9, 2, 10, 3, 11);
    return _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, b[1]));
#else
    for (int j = 0; j < 4; j++)
        a[j] = w_add32(_mm256_unpacklo_epi32(v[2 * j], v[2 * j + 1]),
                       _mm256_unpackhi_epi32(v[2 * j], v[2 * j + 1]));
    for (int j = 0; j < 2; j++)
        b[j] = w_add32(_mm256_unpacklo_epi64(a[2 * j], a[2 * j + 1]),
                       _mm256_unpackhi_epi64(a[2 * j], a[2 * j + 1]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(b[0], b[1], 0x20),
                            _mm256_permute2x128_si256(b[0], b[1], 0x31));
#endif
}

/* The eight blocks at p with group i of n tokens: block j to lane j of acc. */
COT_ALWAYS void few32_blocks(const kind32 *k, const uint8_t *p, int64_t i, const cot__q8_32 *const a[FEW],
                             int n, __m256 acc[FEW]) {
    wide s[FEW][8 / BLOCKS_OF];
    __m256 d = scales8(k, p, k->d_at);
#pragma GCC unroll 8
    for (int j = 0; j < 8 / BLOCKS_OF; j++) {
        wide q = unpack_wide(k, p + j * BLOCKS_OF * k->bytes);
        fetch_part(p, 8 * k->bytes, j, 8 / BLOCKS_OF);
        for (int t = 0; t < n; t++) {
            s[t][j] = dot32(k, q, a[t][i].q + WIDE * j);
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
            __m256 least = scales8(k, p, k->m_at);
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
            for (; i + 8 <= end; i += 8, p += 8 * k->bytes) few32_blocks(k, p, i / 8, a, n, acc);
            if (i < end) { /* blocks that are not there are zero, as the activations are */
                uint8_t rest[8 * 34] = {0};
                memcpy(rest, p, (size_t)((end - i) * k->bytes));
                few32_blocks(k, rest, i / 8, a, n, acc);
            }
            i = end;
            for (int t = 0; t < n; t++) out[t][r] = sum8(acc[t]) + (first ? 0 : out[t][r]);
        }
    }
}

#endif
