/* Blocks of 256 weights, unpacked: small integers, a 16-bit scale for each 32 or (fine) 16 of them, and what
 * is to be taken off. value = d · scale · q − dmin · min. */
#ifndef COT_KERNELS_X86_UNPACK256_H
#define COT_KERNELS_X86_UNPACK256_H

#include "kernels/x86/wide.h"

enum { PARTS = 256 / WIDE, DEPTH256 = 8 }; /* blocks whose partial sums are closed together */

/* 16 words each; only the first 8 where one scale serves 32. */
typedef struct scales256 {
    __m256i scale, min;
} scales256;

typedef enum minima {
    MIN_NONE,
    MIN_SAME, /* dmin = d: an offset of q */
    MIN_OWN
} minima;

typedef struct kind256 {
    void (*unpack)(const uint8_t *p, wide q[PARTS]); /* runs in the order of cot__q8_256 */
    void (*scales)(const uint8_t *p, scales256 *s);
    int bytes, d_at, dmin_at;
    bool fine, k_head; /* a scale for 16 values; the head of Q4_K: d, dmin, 12 bytes of scales */
    minima min;
    int most; /* largest q; 0: signed bytes (the 32-byte level) or up to 255 (the other) */
} kind256;

#ifdef __AVX512F__
/* A constant: a 32-bit value for each half. */
COT_ALWAYS __m512i halves32(int a, int b) {
    return _mm512_set_epi32(b, b, b, b, b, b, b, b, a, a, a, a, a, a, a, a);
}
#endif

/* The runs that part z holds: the first of them, and what lies between two. */
COT_ALWAYS int run_of(int z) { return WIDE == 64 ? z / 2 * 4 + z % 2 : cot__run_place(z); }
enum { RUN_STEP = 2 };

/* The same 32 bytes for both halves of a wide vector, the second shifted further to the right by `step`. */
COT_ALWAYS wide halves(const uint8_t *p, int shift, int step) {
#ifdef __AVX512F__
    __m512i by = quarters16(shift, shift, shift + step, shift + step);
    return _mm512_srlv_epi16(_mm512_broadcast_i64x4(load256(p)), by);
#else
    (void)step;
    return _mm256_srl_epi16(load256(p), _mm_cvtsi32_si128(shift));
#endif
}
/* Part z of nibbles: two runs in each 32 bytes. */
COT_ALWAYS wide nibble_part(const uint8_t *p, int z) {
    int r = run_of(z);
    wide x = w_load(p + 32 * (r / 2));
    if (r % 2) x = w_right16(x, 4);
    return w_and(x, w_all8(15));
}
/* Part z of pairs of bits: four runs in each 32 bytes. */
COT_ALWAYS wide pair_part(const uint8_t *p, int z) {
    int r = run_of(z);
    return w_and(halves(p + 32 * (r / 4), 2 * (r % 4), 2 * RUN_STEP), w_all8(3));
}
/* Part z of bits, eight runs in 32 bytes, moved to bit `to`. */
COT_ALWAYS wide bit_part(const uint8_t *p, int z, int to) {
    int r = run_of(z);
#ifdef __AVX512F__
    __m512i x = _mm512_rolv_epi32(_mm512_broadcast_i64x4(load256(p)),
                                  halves32((to - r) & 31, (to - r - RUN_STEP) & 31));
#else
    __m256i x = load256(p);
    x = r > to ? _mm256_srl_epi16(x, _mm_cvtsi32_si128(r - to))
               : _mm256_sll_epi16(x, _mm_cvtsi32_si128(to - r));
#endif
    return w_and(x, w_all8(1 << to));
}

/* 6-bit scales and minima of Q4_K and Q5_K: eight of each in 12 bytes. */
COT_ALWAYS void scales_k(const uint8_t *p, scales256 *b) {
    uint32_t u[4], m = 0x3f3f3f3f, low = 0x0f0f0f0f, top = 0x03030303;
    memcpy(u, p + 4, 12);
    uint64_t s = (u[0] & m) | (uint64_t)((u[2] & low) | ((u[0] >> 6 & top) << 4)) << 32;
    uint64_t n = (u[1] & m) | (uint64_t)((u[2] >> 4 & low) | ((u[1] >> 6 & top) << 4)) << 32;
    b->scale = _mm256_castsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi64_si128((long long)s)));
    b->min = _mm256_castsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi64_si128((long long)n)));
}
/* The same for blocks whose first 16 bytes (d, dmin, scales) are the lanes of h: words in lanes. */
COT_ALWAYS void scales_k_lanes(wide h, wide *scale, wide *min) {
    const __m128i m = _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f);
    const __m128i top = _mm_setr_epi32(0, 0x30303030, 0, 0x30303030), by = _mm_setr_epi32(0, 0, 0, 4);
    wide a = COT_WIDE(shuffle_epi32, h, _MM_SHUFFLE(3, 2, 3, 1)); /* u0 u2 u1 u2 */
    wide b = COT_WIDE(shuffle_epi32, h, _MM_SHUFFLE(2, 2, 1, 1)); /* ·  u0 ·  u1 */
    a = w_and(COT_WIDE(srlv_epi32, a, w_each128(by)), w_each128(m));
    a = w_or(a, w_and(COT_WIDE(srli_epi32, b, 2), w_each128(top)));
    *scale = COT_WIDE(unpacklo_epi8, a, w_zero());
    *min = COT_WIDE(unpackhi_epi8, a, w_zero());
}

COT_ALWAYS void unpack_q4_k(const uint8_t *p, wide q[PARTS]) {
    for (int z = 0; z < PARTS; z++) q[z] = nibble_part(p + 16, z);
}
COT_ALWAYS void unpack_q5_k(const uint8_t *p, wide q[PARTS]) {
    for (int z = 0; z < PARTS; z++) q[z] = w_or(nibble_part(p + 48, z), bit_part(p + 16, z, 4));
}

COT_ALWAYS void scales_q6_k(const uint8_t *p, scales256 *b) {
    b->scale = _mm256_cvtepi8_epi16(load128(p + 192));
    b->min = _mm256_slli_epi16(b->scale, 5);
}
COT_ALWAYS void unpack_q6_k(const uint8_t *p, wide q[PARTS]) {
    const wide low = w_all8(15), top = w_all8(0x30);
    for (int z = 0; z < PARTS; z++) { /* run r: half r / 4, low nibbles of 64 bytes, then high ones */
        int r = run_of(z), g = r % 4;
        const uint8_t *l = p + 64 * (r / 4) + 32 * (r % 2), *h = p + 128 + 32 * (r / 4);
#ifdef __AVX512F__
        __m512i x = halves(l, 0, 4);
        __m512i y = _mm512_rolv_epi32(_mm512_broadcast_i64x4(load256(h)),
                                      halves32((4 - 2 * g) & 31, (4 - 2 * (g + RUN_STEP)) & 31));
#else
        __m256i x = load256(l), y = load256(h);
        if (g >= 2) x = w_right16(x, 4);
        y = g == 0 ? w_left16(y, 4) : g == 1 ? w_left16(y, 2) : g == 2 ? y : w_right16(y, 2);
#endif
        q[z] = w_or(w_and(x, low), w_and(y, top));
    }
}

COT_ALWAYS void scales_q2_k(const uint8_t *p, scales256 *b) {
    __m128i s = load128(p), low = _mm_set1_epi8(15);
    b->scale = _mm256_cvtepu8_epi16(_mm_and_si128(s, low));
    b->min = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(s, 4), low));
}
COT_ALWAYS void unpack_q2_k(const uint8_t *p, wide q[PARTS]) {
    for (int z = 0; z < PARTS; z++) q[z] = pair_part(p + 16, z);
}

COT_ALWAYS void scales_q3_k(const uint8_t *p, scales256 *b) {
    uint32_t u[3], low = 0x0f0f0f0f, top = 0x30303030;
    memcpy(u, p + 96, 12);
    uint32_t s0 = (u[0] & low) | (u[2] << 4 & top), s1 = (u[1] & low) | (u[2] << 2 & top);
    uint32_t s2 = (u[0] >> 4 & low) | (u[2] & top), s3 = (u[1] >> 4 & low) | (u[2] >> 2 & top);
    __m128i s = _mm_setr_epi32((int)s0, (int)s1, (int)s2, (int)s3);
    b->scale = _mm256_cvtepi8_epi16(_mm_sub_epi8(s, _mm_set1_epi8(32)));
    b->min = _mm256_slli_epi16(b->scale, 2);
}
COT_ALWAYS void unpack_q3_k(const uint8_t *p, wide q[PARTS]) {
    for (int z = 0; z < PARTS; z++) q[z] = w_or(pair_part(p + 32, z), bit_part(p, z, 2));
}

COT_ALWAYS void scales_iq4_xs(const uint8_t *p, scales256 *b) {
    uint32_t low;
    uint16_t high;
    memcpy(&low, p + 4, 4);
    memcpy(&high, p + 2, 2);
    __m256i l =
        _mm256_srlv_epi32(_mm256_set1_epi32((int)low), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    __m256i h = _mm256_srlv_epi32(_mm256_set1_epi32(high), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    l = _mm256_and_si256(l, _mm256_set1_epi32(15));
    h = _mm256_slli_epi32(_mm256_and_si256(h, _mm256_set1_epi32(3)), 4);
    l = _mm256_sub_epi32(_mm256_or_si256(l, h), _mm256_set1_epi32(32));
    __m128i scale = _mm_packs_epi32(_mm256_castsi256_si128(l), _mm256_extracti128_si256(l, 1));
    b->scale = _mm256_castsi128_si256(scale);
    b->min = _mm256_castsi128_si256(_mm_slli_epi16(scale, 7)); /* of the wider level: q stands 128 too high */
}
COT_ALWAYS void unpack_iq4_xs(const uint8_t *p, wide q[PARTS]) {
    const wide table =
        w_each128(_mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113));
    for (int z = 0; z < PARTS; z++) {
        int r = run_of(z);
#ifdef __AVX512F__
        __m512i x = w_load(p + 8 + 64 * (r / 4));
        x = r % 2 ? _mm512_shuffle_i32x4(x, x, 0xf5) : _mm512_shuffle_i32x4(x, x, 0xa0);
        x = w_and(_mm512_srlv_epi16(x, quarters16(0, 4, 0, 4)), w_all8(15));
        q[z] = w_xor(w_shuffle8(table, x), w_all8(0x80));
#else
        q[z] = w_shuffle8(table, nibbles(p + 8 + 16 * r));
#endif
    }
}

#ifdef __AVX512F__
#define COT_IQ4_XS_MIN MIN_SAME
#else
#define COT_IQ4_XS_MIN MIN_NONE
#endif
static const kind256 kind_q2_k = {unpack_q2_k, scales_q2_k, 84, 80, 82, true, false, MIN_OWN, 3};
static const kind256 kind_q3_k = {unpack_q3_k, scales_q3_k, 110, 108, 108, true, false, MIN_SAME, 7};
static const kind256 kind_q4_k = {unpack_q4_k, scales_k, 144, 0, 2, false, true, MIN_OWN, 15};
static const kind256 kind_q5_k = {unpack_q5_k, scales_k, 176, 0, 2, false, true, MIN_OWN, 31};
static const kind256 kind_q6_k = {unpack_q6_k, scales_q6_k, 210, 208, 208, true, false, MIN_SAME, 63};
static const kind256 kind_iq4_xs = {unpack_iq4_xs, scales_iq4_xs, 136, 0, 0, false, false, COT_IQ4_XS_MIN, 0};
#undef COT_IQ4_XS_MIN

#endif
