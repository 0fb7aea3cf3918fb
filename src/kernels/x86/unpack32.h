/* Blocks of 32 weights, unpacked: small integers, a scale, and for some a minimum. value = d · (q − zero) +
 * m. */
#ifndef COT_KERNELS_X86_UNPACK32_H
#define COT_KERNELS_X86_UNPACK32_H

#include "kernels/x86/wide.h"

enum { DEPTH32 = 64 }; /* blocks whose partial sums are closed together */

typedef enum scale32 { SCALE_HALF, SCALE_POWER } scale32; /* F16; 2^(e − 128) */

typedef struct kind32 {
    __m256i (*unpack)(const uint8_t *p);
    int bytes, d_at, m_at; /* m_at < 0: no minimum */
    int zero;              /* 0 … 32, a power of two; 0: q is as it is */
    bool is_signed;        /* q is −127 … 127 and zero is 0 */
    scale32 scale;
    int nibbles_at;      /* 16 bytes of nibbles alone make the block; < 0: not so */
    const int8_t *table; /* what a nibble stands for; NULL: itself */
} kind32;

/* 16 bytes of nibbles, the low ones first, by a table. */
COT_ALWAYS __m256i by_table(const uint8_t *p, __m128i table) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles(p));
}
COT_ALWAYS __m256i bits32(const uint8_t *p) { /* bit j of 32 → 0x10 in byte j */
    uint32_t bits;
    memcpy(&bits, p, 4);
    __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits),
                                         _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2,
                                                          2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3));
    __m256i mask = _mm256_set1_epi64x((long long)0x8040201008040201ull);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, mask), mask), _mm256_set1_epi8(16));
}

COT_ALWAYS __m256i unpack_q8_0(const uint8_t *p) { return load256(p + 2); }
COT_ALWAYS __m256i unpack_q4_0(const uint8_t *p) { return nibbles(p + 2); }
COT_ALWAYS __m256i unpack_q4_1(const uint8_t *p) { return nibbles(p + 4); }
COT_ALWAYS __m256i unpack_q5_0(const uint8_t *p) { return _mm256_or_si256(nibbles(p + 6), bits32(p + 2)); }
COT_ALWAYS __m256i unpack_q5_1(const uint8_t *p) { return _mm256_or_si256(nibbles(p + 8), bits32(p + 4)); }
static const _Alignas(16) int8_t table_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                  1,    13,   25,  38,  53,  69,  89,  113};
/* twice the value, 16 too high */
static const _Alignas(16) int8_t table_mxfp4[16] = {16, 17, 18, 19, 20, 22, 24, 28,
                                                    16, 15, 14, 13, 12, 10, 8,  4};
COT_ALWAYS __m256i unpack_iq4_nl(const uint8_t *p) { return by_table(p + 2, load128(table_iq4)); }
COT_ALWAYS __m256i unpack_mxfp4(const uint8_t *p) { return by_table(p + 1, load128(table_mxfp4)); }

static const kind32 kind_q8_0 = {unpack_q8_0, 34, 0, -1, 0, true, SCALE_HALF, -1, NULL};
static const kind32 kind_q4_0 = {unpack_q4_0, 18, 0, -1, 8, false, SCALE_HALF, 2, NULL};
static const kind32 kind_q4_1 = {unpack_q4_1, 20, 0, 2, 0, false, SCALE_HALF, 4, NULL};
static const kind32 kind_q5_0 = {unpack_q5_0, 22, 0, -1, 16, false, SCALE_HALF, -1, NULL};
static const kind32 kind_q5_1 = {unpack_q5_1, 24, 0, 2, 0, false, SCALE_HALF, -1, NULL};
static const kind32 kind_iq4_nl = {unpack_iq4_nl, 18, 0, -1, 0, true, SCALE_HALF, 2, table_iq4};
static const kind32 kind_mxfp4 = {unpack_mxfp4, 17, 0, -1, 16, false, SCALE_POWER, 1, table_mxfp4};

/* The words at which eight blocks' scales are, `bytes` apart: of an odd place, the word that holds it. */
COT_ALWAYS __m128i words8(const uint8_t *p, int bytes, int at) {
#define AT(j) (short)((bytes * (j) + at) / 2)
#ifdef __AVX512F__
    __m512i few =
        _mm512_castsi128_si512(_mm_setr_epi16(AT(0), AT(1), AT(2), AT(3), AT(4), AT(5), AT(6), AT(7)));
    __m128i w = _mm512_castsi512_si128(
        _mm512_permutex2var_epi16(_mm512_loadu_si512(p), few, _mm512_loadu_si512(p + 64)));
    if (AT(7) < 64) return w;
    if (bytes > 32) { /* the second four are where the first four are */
        p += 4 * bytes;
        return _mm_unpacklo_epi64(w, _mm512_castsi512_si128(_mm512_permutex2var_epi16(
                                         _mm512_loadu_si512(p), few, _mm512_loadu_si512(p + 64))));
    }
    __mmask8 late = (__mmask8)((AT(5) >= 64) << 5 | (AT(6) >= 64) << 6 | 1 << 7);
    few = _mm512_sub_epi16(few, _mm512_set1_epi16((short)(4 * bytes - 32))); /* from the last 64 bytes */
    return _mm_mask_blend_epi16(
        late, w,
        _mm512_castsi512_si128(_mm512_permutexvar_epi16(few, _mm512_loadu_si512(p + 8 * bytes - 64))));
#else
    uint16_t h[8];
    for (int j = 0; j < 8; j++) memcpy(&h[j], p + 2 * AT(j), 2);
    return _mm_setr_epi16((short)h[0], (short)h[1], (short)h[2], (short)h[3], (short)h[4], (short)h[5],
                          (short)h[6], (short)h[7]);
#endif
#undef AT
}
/* Scales (or minima) of eight blocks. */
COT_ALWAYS __m256 scales8(const kind32 *k, const uint8_t *p, int at) {
    if (k->scale == SCALE_HALF) return _mm256_cvtph_ps(words8(p, k->bytes, at));
#ifdef __AVX512F__
    __m128i w = words8(p, k->bytes, at); /* blocks of an odd number of bytes: 0, 2, … in the low one */
    w = _mm_srlv_epi16(w, _mm_setr_epi16(0, 8, 0, 8, 0, 8, 0, 8));
    __m256i x = _mm256_cvtepu16_epi32(_mm_and_si128(w, _mm_set1_epi16(255)));
#else
    uint64_t e = 0;
    for (int j = 0; j < 8; j++) e |= (uint64_t)p[k->bytes * j + at] << (8 * j);
    __m256i x = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)e));
#endif
    __m256i normal = _mm256_sub_epi32(_mm256_slli_epi32(x, 23), _mm256_set1_epi32(1 << 23));
    __m256i small = _mm256_add_epi32(_mm256_slli_epi32(x, 21), _mm256_set1_epi32(1 << 21)); /* e = 0 and 1 */
    return _mm256_castsi256_ps(_mm256_max_epi32(normal, small));
}
/* LANES scales side by side. */
COT_ALWAYS widef scales_beside(scale32 kind, const uint8_t *p) {
    if (kind == SCALE_HALF) return wf_halves((const void *)p);
#ifdef __AVX512F__
    wide x = _mm512_cvtepu8_epi32(load128(p));
#else
    wide x = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p));
#endif
    wide normal = w_sub32(COT_WIDE(slli_epi32, x, 23), w_all32(1 << 23));
    wide small = w_add32(COT_WIDE(slli_epi32, x, 21), w_all32(1 << 21)); /* e = 0 and 1; else it is less */
    return wf_bits(COT_WIDE(max_epi32, normal, small));
}
/* The scale (or minimum) of one block of every row. */
COT_ALWAYS widef scales_of(scale32 kind, const uint8_t *const p[LANES], int at) {
    uint8_t s[2 * LANES];
    size_t bytes = kind == SCALE_HALF ? 2 : 1;
    for (size_t l = 0; l < LANES; l++) memcpy(s + bytes * l, p[l] + at, bytes);
    return scales_beside(kind, s);
}

/* Does the level lift signed bytes by 128 to take them as unsigned ones? */
COT_ALWAYS bool lifted(const kind32 *k) { return WIDE == 64 && k->is_signed; }
/* What −128 Σ y is shifted right by to become −zero Σ y. */
COT_ALWAYS int zero_shift(const kind32 *k) {
    return lifted(k) ? 0 : k->zero == 32 ? 2 : k->zero == 16 ? 3 : 4;
}
COT_ALWAYS bool has_zero(const kind32 *k) { return lifted(k) || k->zero; }

/* Values of as many blocks as a wide vector holds, q as the level's products take them. */
enum { BLOCKS_OF = WIDE / 32 };
COT_ALWAYS wide unpack_wide(const kind32 *k, const uint8_t *p) {
#ifdef __AVX512F__
    const __m512i lift = w_all8(0x80);
    if (k->bytes == 34) return w_xor(_mm512_inserti64x4(w_load(p + 2), load256(p + 36), 1), lift);
    const uint8_t *n = p + k->bytes - 16;
    __m512i v = _mm512_mask_broadcast_i32x4(w_each128(load128(n)), 0xff00, load128(n + k->bytes));
    v = w_and(_mm512_srlv_epi16(v, quarters16(0, 4, 0, 4)), w_all8(15));
    if (k->table) {
        __m512i table = w_each128(load128(k->table));
        return w_shuffle8(lifted(k) ? w_xor(table, lift) : table, v);
    }
    if (k->nibbles_at >= 0) return v;
    uint32_t bits[2]; /* the fifth bit of each value */
    memcpy(bits, n - 4, 4);
    memcpy(bits + 1, n + k->bytes - 4, 4);
    return w_or(v, _mm512_maskz_set1_epi8(bits[0] | (uint64_t)bits[1] << 32, 16));
#else
    return k->unpack(p);
#endif
}

/* ---- rows that stand together: p is a block of 16 rows, of which LANES from `first` on are meant ---- */

/* Where their values begin, after what else is made of whole dwords. */
COT_ALWAYS const uint8_t *values_together(const kind32 *k, const uint8_t *p, int first) {
    return p + 4 * first + (k->bytes - (k->bytes == 34 ? 32 : 16)) / 4 * DWORD;
}
COT_ALWAYS widef scales_together(const kind32 *k, const uint8_t *p, int first, bool min) {
    const int rest = k->bytes % 4;
    if (!rest) return halves_of(w_load(p + 4 * first), min);
    return scales_beside(k->scale, p + k->bytes / 4 * DWORD + rest * first);
}
/* Values 4 g … 4 g + 3, q as above, as a tile holds them. */
COT_ALWAYS wide unit_together(const kind32 *k, const uint8_t *q, int g) {
    const wide lift = w_all8(0x80), low = w_all8(15);
    if (k->bytes == 34) return lifted(k) ? w_xor(w_load(q + g * DWORD), lift) : w_load(q + g * DWORD);
    wide v = w_load(q + g % 4 * DWORD);
    v = w_and(g < 4 ? v : w_right16(v, 4), low);
    if (k->table) {
        wide table = w_each128(load128(k->table));
        v = w_shuffle8(lifted(k) ? w_xor(table, lift) : table, v);
    } else if (k->nibbles_at < 0) { /* the fifth bit: bit j of the dword before is that of value j */
        wide bits = w_load(q - DWORD);
        bits = bytes_of(g % 2 ? bits : w_left16(bits, 4), g / 2, g / 2, g / 2, g / 2);
        bits = w_and(bits, w_all32((int32_t)0x80402010));
        v = w_or(v, COT_WIDE(min_epu8, bits, w_all8(16)));
    }
    return v;
}

#endif
