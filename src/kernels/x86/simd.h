/* What the x86 levels share: every file here is compiled once for each level, from avx2/ and avx512/, with
 * that folder's instruction sets. What is written with 256 bits is so at both levels; wide.h has what is as
 * wide as the level. With VNNI the products of bytes take one instruction instead of three. */
#ifndef COT_KERNELS_X86_SIMD_H
#define COT_KERNELS_X86_SIMD_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

#define COT_ALWAYS static inline __attribute__((always_inline))

enum {
    TILE = 4,
    ROWS = 16
}; /* tokens that share an unpacked weight; rows that stay in cache for all tokens */

/* Sum of 8 lanes: ((0+4)+(2+6)) + ((1+5)+(3+7)), at both levels. */
COT_ALWAYS float sum8(__m256 v) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

COT_ALWAYS float sum4(__m128 x) { /* (0+2) + (1+3) */
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

COT_ALWAYS float max8(__m256 v) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

COT_ALWAYS float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, 2);
    return _cvtsh_ss(h);
}

COT_ALWAYS __m256i load256(const void *p) { return _mm256_loadu_si256(p); }
COT_ALWAYS __m128i load128(const void *p) { return _mm_loadu_si128(p); }

/* 16 bytes of nibbles: low ones first, then high ones. */
COT_ALWAYS __m256i nibbles(const uint8_t *p) {
    __m128i x = load128(p);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(x, 4), x), _mm256_set1_epi8(15));
}

/* The first n (0 … 7) lanes. */
COT_ALWAYS __m256i first_lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
COT_ALWAYS __m256 load_some(const float *p, int n) {
    return n >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, first_lanes(n));
}
COT_ALWAYS void store_some(float *p, __m256 v, int n) {
    if (n >= 8) _mm256_storeu_ps(p, v);
    else _mm256_maskstore_ps(p, first_lanes(n), v);
}

/* e^x: x = k ln 2 + r, |r| ≤ ln 2 / 2, a polynomial of degree 6 in r; relative error below 2e-7. Below −103
 * zero, above 88.7 infinite, NaN stays. */
COT_ALWAYS __m256 exp8(__m256 x) {
    const __m256 most = _mm256_set1_ps(88.722839f), least = _mm256_set1_ps(-103.0f);
    __m256 c = _mm256_max_ps(_mm256_min_ps(_mm256_set1_ps(89), x), least); /* NaN: the second operand, x */
    __m256 k = _mm256_round_ps(_mm256_mul_ps(c, _mm256_set1_ps(1.44269504f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(k, _mm256_set1_ps(0.693359375f), c);
    r = _mm256_fnmadd_ps(k, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.3981999507e-3f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1)));
    /* 2^k in two factors, so that results below the smallest normal come out as they should */
    __m256i ki = _mm256_cvtps_epi32(k), half = _mm256_srai_epi32(ki, 1);
    __m256i rest = _mm256_sub_epi32(ki, half), bias = _mm256_set1_epi32(127);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
    p = _mm256_blendv_ps(p, _mm256_set1_ps(INFINITY), _mm256_cmp_ps(x, most, _CMP_GT_OQ));
    p = _mm256_andnot_ps(_mm256_cmp_ps(x, least, _CMP_LT_OQ), p);
    return _mm256_blendv_ps(p, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

#endif
