/* Products of blocks of 256 with few tokens: row after row, as memory likes it best, each block unpacked once for
 * all tokens. */
#ifndef COT_KERNELS_X86_FEW256_H
#define COT_KERNELS_X86_FEW256_H

#include "kernels/x86/unpack256.h"

enum { FEW = 4 }; /* most tokens */

/* The scales of part z, beside the words that pairs of its bytes make. */
COT_ALWAYS wide scale_words(bool fine, __m256i s, int z) {
#ifdef __AVX512F__
    __m512i at = fine ? quarters16(4 * z, 4 * z + 1, 4 * z + 2, 4 * z + 3)
                      : quarters16(2 * z, 2 * z, 2 * z + 1, 2 * z + 1);
    return _mm512_permutexvar_epi16(at, _mm512_castsi256_si512(s));
#else
    __m128i half = fine && z >= 4 ? _mm256_extracti128_si256(s, 1) : _mm256_castsi256_si128(s);
    const long long each = 0x0001000100010001;
    int a = fine ? 2 * (z % 4) : z, b = fine ? a + 1 : a; /* words for the two lanes */
    long long lo = (2 * a | (2 * a + 1) << 8) * each, hi = (2 * b | (2 * b + 1) << 8) * each;
    return _mm256_shuffle_epi8(w_each128(half), _mm256_set_epi64x(hi, hi, lo, lo));
#endif
}

/* Integer sum of a block, in lanes. */
COT_ALWAYS wide block_sum(const kind256 *k, const block256 *b, const wide scale[PARTS], const int8_t *y) {
    wide s = w_zero();
#pragma GCC unroll 8
    for (int z = 0; z < PARTS; z++) {
        wide v = w_load(y + WIDE * z);
        if (k->most) s = w_dot16(s, w_maddubs(b->q[z], v), scale[z]);
#ifdef __AVX512F__
        else { /* bytes too large for the sums of two in 16 bits */
            __m512i each = _mm512_srai_epi32(_mm512_slli_epi32(scale[z], 16), 16);
            s = w_add32(s, _mm512_mullo_epi32(_mm512_dpbusd_epi32(w_zero(), b->q[z], v), each));
        }
#else
        else s = w_dot16(s, w_maddubs(_mm256_abs_epi8(b->q[z]), _mm256_sign_epi8(v, b->q[z])), scale[z]);
#endif
    }
    return s;
}

COT_ALWAYS __m128 halves4(const uint8_t *p, int bytes, int n) {
    uint16_t h[4] = {0};
    for (int j = 0; j < n; j++) memcpy(&h[j], p + bytes * j, 2);
    return _mm_cvtph_ps(_mm_setr_epi16((short)h[0], (short)h[1], (short)h[2], (short)h[3], 0, 0, 0, 0));
}

/* Blocks i … i + m − 1 (m ≤ 4) of a row, at p, with n tokens: block i + j to lane j of acc. */
COT_ALWAYS void few256_blocks(const kind256 *k, const uint8_t *p, int64_t i, int m,
                              const cot__q8_256 *const a[FEW], int n, __m128 acc[FEW]) {
    wide s[FEW][4];
    __m256i low[FEW][4];
    __m128 d = halves4(p + k->d_at, k->bytes, m);
    __m128 dmin = k->min == MIN_OWN ? halves4(p + k->dmin_at, k->bytes, m) : d;
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        block256 b;
        wide scale[PARTS];
        if (j >= m) {
            for (int t = 0; t < n; t++) s[t][j] = w_zero(), low[t][j] = _mm256_setzero_si256();
            continue;
        }
        k->unpack(p + j * k->bytes, &b);
        for (int z = 0; z < PARTS; z++) scale[z] = scale_words(k->fine, b.scale, z);
        for (int t = 0; t < n; t++) {
            const cot__q8_256 *y = a[t] + i + j;
            s[t][j] = block_sum(k, &b, scale, y->q);
            if (k->fine) low[t][j] = _mm256_madd_epi16(load256(y->sums), b.min);
            else
                low[t][j] = _mm256_castsi128_si256(
                    _mm_madd_epi16(load128(y->pairs), _mm256_castsi256_si128(b.min)));
        }
    }
    for (int t = 0; t < n; t++) {
        const cot__q8_256 *y = a[t] + i;
        __m128 yd = _mm_setr_ps(y->d, m > 1 ? y[1].d : 0, m > 2 ? y[2].d : 0, m > 3 ? y[3].d : 0);
        __m128i sum = sums4(s[t]), less = _mm_setzero_si128(), half[4];
        for (int j = 0; j < 4; j++) half[j] = _mm256_castsi256_si128(low[t][j]);
        if (k->min != MIN_NONE) less = k->fine ? sums4_256(low[t]) : sums4_128(half);
        if (k->min == MIN_SAME) sum = _mm_sub_epi32(sum, less);
        acc[t] = _mm_fmadd_ps(_mm_cvtepi32_ps(sum), _mm_mul_ps(d, yd), acc[t]);
        if (k->min == MIN_OWN)
            acc[t] = _mm_fnmadd_ps(_mm_cvtepi32_ps(less), _mm_mul_ps(dmin, yd), acc[t]);
    }
}

COT_ALWAYS void few256(const kind256 *k, const cot_view *w, int64_t r0, int64_t r1,
                       const cot__q8_256 *const a[FEW], int n, float *const out[FEW]) {
    int64_t blocks = w->cols / 256;
    for (int64_t r = r0; r < r1; r++) {
        const uint8_t *p = cot__view_at(w, r);
        for (int64_t i = 0; i < blocks;) {
            __m128 acc[FEW];
            int64_t end = i + DEPTH256 < blocks ? i + DEPTH256 : blocks;
            bool first = i == 0;
            for (int t = 0; t < n; t++) acc[t] = _mm_setzero_ps();
            for (; i + 4 <= end; i += 4) few256_blocks(k, p + i * k->bytes, i, 4, a, n, acc);
            if (end - i == 3) few256_blocks(k, p + i * k->bytes, i, 3, a, n, acc);
            else if (end - i == 2) few256_blocks(k, p + i * k->bytes, i, 2, a, n, acc);
            else if (end - i == 1) few256_blocks(k, p + i * k->bytes, i, 1, a, n, acc);
            i = end;
            for (int t = 0; t < n; t++) out[t][r] = sum4(acc[t]) + (first ? 0 : out[t][r]);
        }
    }
}

#endif
