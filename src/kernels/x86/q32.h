/* Products of the formats with blocks of 32 and activations of blocks of 32. A block's bytes become 32
 * integers; their sum of products is exact; eight partial sums go, scaled, to one F32 vector per (row,
 * token), blocks ascending. Formats with a minimum add it in a scalar of its own. */
#include "kernels/x86/simd.h"

typedef struct block32 {
    __m256i q;  /* unsigned, to be lowered by `zero`; or signed */
    float d, m; /* value = d · (q − zero) + m */
} block32;

typedef struct kind32 {
    void (*unpack)(const uint8_t *p, block32 *b);
    int bytes, zero;
    bool is_signed, has_min;
} kind32;

COT_ALWAYS __m256i bits32(const uint8_t *p) { /* bit j of 32 → 0x10 in byte j */
    uint32_t bits;
    memcpy(&bits, p, 4);
    __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits),
                                         _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2,
                                                          2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3));
    __m256i mask = _mm256_set1_epi64x((long long)0x8040201008040201ull);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, mask), mask), _mm256_set1_epi8(16));
}

COT_ALWAYS void unpack_q8_0(const uint8_t *p, block32 *b) { b->d = half_at(p), b->q = load256(p + 2); }
COT_ALWAYS void unpack_q4_0(const uint8_t *p, block32 *b) { b->d = half_at(p), b->q = nibbles(p + 2); }
COT_ALWAYS void unpack_q4_1(const uint8_t *p, block32 *b) {
    b->d = half_at(p), b->m = half_at(p + 2), b->q = nibbles(p + 4);
}
COT_ALWAYS void unpack_q5_0(const uint8_t *p, block32 *b) {
    b->d = half_at(p), b->q = _mm256_or_si256(nibbles(p + 6), bits32(p + 2));
}
COT_ALWAYS void unpack_q5_1(const uint8_t *p, block32 *b) {
    b->d = half_at(p), b->m = half_at(p + 2), b->q = _mm256_or_si256(nibbles(p + 8), bits32(p + 4));
}
COT_ALWAYS __m256i by_table(const uint8_t *p, __m128i table) {
    return _mm256_shuffle_epi8(_mm256_set_m128i(table, table), nibbles(p));
}
COT_ALWAYS void unpack_iq4_nl(const uint8_t *p, block32 *b) {
    b->d = half_at(p);
    b->q = by_table(p + 2,
                    _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113));
}
COT_ALWAYS void unpack_mxfp4(const uint8_t *p, block32 *b) {
    uint32_t u = p[0] < 2 ? 0x00200000u << p[0] : (uint32_t)(p[0] - 1) << 23; /* half of 2^(e − 127) */
    memcpy(&b->d, &u, 4);
    b->q = by_table(p + 1, _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
}

/* Eight exact partial sums of a block. */
COT_ALWAYS __m256i dot32(const kind32 *k, __m256i q, const cot__q8_32 *a) {
    __m256i x = load256(a->q);
#ifdef __AVX512VNNI__
    int zero = k->is_signed ? 128 : k->zero; /* a signed q came raised by 128 */
    __m256i start = _mm256_castsi128_si256(_mm_cvtsi32_si128(-zero * a->sum));
    start = zero ? _mm256_inserti128_si256(start, _mm_setzero_si128(), 1) : _mm256_setzero_si256();
    return _mm256_dpbusd_epi32(start, q, x);
#else
    const __m256i ones = _mm256_set1_epi16(1);
    if (k->is_signed) /* |q| · sign(q) x: at most 2 · 128 · 127 in 16 bits */
        return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q)), ones);
    __m256i s = _mm256_madd_epi16(_mm256_maddubs_epi16(q, x), ones);
    if (!k->zero) return s;
    __m256i start = _mm256_inserti128_si256(_mm256_setzero_si256(), _mm_cvtsi32_si128(-k->zero * a->sum), 0);
    return _mm256_add_epi32(s, start);
#endif
}

COT_ALWAYS void rows32(const kind32 *k, const cot_view *w, int64_t r0, int64_t r1,
                       const cot__q8_32 *const a[TILE], int n, float *const out[TILE]) {
    int64_t blocks = w->cols / 32;
    for (int64_t r = r0; r < r1; r++) {
        const uint8_t *p = cot__view_at(w, r);
        __m256 acc[TILE];
        float low[TILE];
        for (int t = 0; t < n; t++) acc[t] = _mm256_setzero_ps(), low[t] = 0;
        for (int64_t i = 0; i < blocks; i++, p += k->bytes) {
            block32 b;
            k->unpack(p, &b);
#ifdef __AVX512VNNI__
            if (k->is_signed) b.q = _mm256_xor_si256(b.q, _mm256_set1_epi8((char)0x80));
#endif
            for (int t = 0; t < n; t++) {
                const cot__q8_32 *x = a[t] + i;
                acc[t] =
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot32(k, b.q, x)), _mm256_set1_ps(b.d * x->d), acc[t]);
                if (k->has_min) low[t] = fmaf(b.m * x->d, (float)x->sum, low[t]);
            }
        }
        for (int t = 0; t < n; t++) out[t][r] = sum8(acc[t]) + low[t];
    }
}

COT_ALWAYS void gemm32(const kind32 *k, const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,
                       const int32_t *idx, int64_t n, float *out, size_t os) {
    for (int64_t r = r0; r < r1; r += ROWS)
        for (int64_t i = 0; i < n; i += TILE) {
            const cot__q8_32 *a[TILE];
            float *o[TILE];
            int m = n - i < TILE ? (int)(n - i) : TILE;
            int64_t end = r + ROWS < r1 ? r + ROWS : r1;
            for (int t = 0; t < m; t++) {
                a[t] = (const void *)((const char *)act + (size_t)(idx ? idx[i + t] : i + t) * as);
                o[t] = out + (size_t)(i + t) * os;
            }
            if (m == 4) rows32(k, w, r, end, a, 4, o);
            else if (m == 3) rows32(k, w, r, end, a, 3, o);
            else if (m == 2) rows32(k, w, r, end, a, 2, o);
            else rows32(k, w, r, end, a, 1, o);
        }
}

#define COT_GEMM32(name, size, lowered, with_sign, with_min)                                                 \
    static void gemm_##name(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,           \
                            const int32_t *idx, int64_t n, float *out, size_t os) {                          \
        static const kind32 k = {unpack_##name, size, lowered, with_sign, with_min};                         \
        gemm32(&k, w, r0, r1, act, as, idx, n, out, os);                                                     \
    }
COT_GEMM32(q8_0, 34, 0, true, false)
COT_GEMM32(q4_0, 18, 8, false, false)
COT_GEMM32(q4_1, 20, 0, false, true)
COT_GEMM32(q5_0, 22, 16, false, false)
COT_GEMM32(q5_1, 24, 0, false, true)
COT_GEMM32(iq4_nl, 18, 0, true, false)
COT_GEMM32(mxfp4, 17, 0, true, false)
#undef COT_GEMM32
