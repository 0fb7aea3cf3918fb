/* Vectors as wide as the level has: 64 bytes with AVX-512, else 32. What a product needs of them, so that one
 * source serves both levels. Operations on integers stay inside lanes of 16 bytes. */
#ifndef COT_KERNELS_X86_WIDE_H
#define COT_KERNELS_X86_WIDE_H

#include "kernels/x86/simd.h"

#ifdef __AVX512F__
typedef __m512i wide;
typedef __m512 widef;
enum { WIDE = 64 };
#define COT_WIDE(op, ...)      _mm512_##op(__VA_ARGS__)
#define COT_WIDE_BITS(op, ...) _mm512_##op##_si512(__VA_ARGS__)
#else
typedef __m256i wide;
typedef __m256 widef;
enum { WIDE = 32 };
#define COT_WIDE(op, ...)      _mm256_##op(__VA_ARGS__)
#define COT_WIDE_BITS(op, ...) _mm256_##op##_si256(__VA_ARGS__)
#endif
enum { LANES = WIDE / 4 }; /* 32-bit lanes */

/* Rows that stand together (cot_view.together). */
enum {
    DWORD = 4 * COT__TOGETHER,            /* four bytes of each row */
    PARTS_OF = COT__TOGETHER / LANES,     /* vectors that hold a lane for each row */
    TOGETHER_TOKENS = WIDE == 64 ? 4 : 2, /* at a time */
    TOGETHER_MOST = WIDE == 64 ? 8 : 4    /* beyond, unpacking once for all tokens pays */
};

COT_ALWAYS wide w_load(const void *p) { return COT_WIDE_BITS(loadu, p); }
COT_ALWAYS void w_store(void *p, wide a) { COT_WIDE_BITS(storeu, p, a); }
COT_ALWAYS wide w_zero(void) { return COT_WIDE_BITS(setzero, ); }
COT_ALWAYS wide w_and(wide a, wide b) { return COT_WIDE_BITS(and, a, b); }
COT_ALWAYS wide w_or(wide a, wide b) { return COT_WIDE_BITS(or, a, b); }
COT_ALWAYS wide w_xor(wide a, wide b) { return COT_WIDE_BITS(xor, a, b); }
COT_ALWAYS wide w_all8(int x) { return COT_WIDE(set1_epi8, (char)x); }
COT_ALWAYS wide w_all32(int32_t x) { return COT_WIDE(set1_epi32, x); }
COT_ALWAYS wide w_add16(wide a, wide b) { return COT_WIDE(add_epi16, a, b); }
COT_ALWAYS wide w_add32(wide a, wide b) { return COT_WIDE(add_epi32, a, b); }
COT_ALWAYS wide w_sub32(wide a, wide b) { return COT_WIDE(sub_epi32, a, b); }
COT_ALWAYS wide w_maddubs(wide a, wide b) { return COT_WIDE(maddubs_epi16, a, b); }
COT_ALWAYS wide w_madd(wide a, wide b) { return COT_WIDE(madd_epi16, a, b); }
COT_ALWAYS wide w_shuffle8(wide table, wide index) { return COT_WIDE(shuffle_epi8, table, index); }
#define w_right16(a, n) COT_WIDE(srli_epi16, a, n)
#define w_left16(a, n)  COT_WIDE(slli_epi16, a, n)

/* Four bytes (of activations) in every lane. */
COT_ALWAYS wide w_each32(const void *p) {
    int32_t x;
    memcpy(&x, p, 4);
    return COT_WIDE(set1_epi32, x);
}
/* 16 bytes in every lane of 16. */
COT_ALWAYS wide w_each128(__m128i x) {
#ifdef __AVX512F__
    return _mm512_broadcast_i32x4(x);
#else
    return _mm256_broadcastsi128_si256(x);
#endif
}
/* acc + products of 16-bit pairs. */
COT_ALWAYS wide w_dot16(wide acc, wide a, wide b) {
#ifdef __AVX512VNNI__
    return _mm512_dpwssd_epi32(acc, a, b);
#else
    return w_add32(acc, w_madd(a, b));
#endif
}
/* acc + products of four unsigned bytes of a, below 130, and signed bytes of b. */
COT_ALWAYS wide w_dot8(wide acc, wide a, wide b) {
#ifdef __AVX512VNNI__
    return _mm512_dpbusd_epi32(acc, a, b);
#else
    return w_add32(acc, w_madd(w_maddubs(a, b), COT_WIDE(set1_epi16, 1)));
#endif
}

COT_ALWAYS widef wf_zero(void) { return COT_WIDE(setzero_ps, ); }
COT_ALWAYS widef wf_all(float x) { return COT_WIDE(set1_ps, x); }
COT_ALWAYS widef wf_load(const float *p) { return COT_WIDE(loadu_ps, p); }
COT_ALWAYS void wf_store(float *p, widef a) { COT_WIDE(storeu_ps, p, a); }
COT_ALWAYS widef wf_mul(widef a, widef b) { return COT_WIDE(mul_ps, a, b); }
COT_ALWAYS widef wf_add(widef a, widef b) { return COT_WIDE(add_ps, a, b); }
COT_ALWAYS widef wf_fma(widef a, widef b, widef c) { return COT_WIDE(fmadd_ps, a, b, c); }   /* c + a b */
COT_ALWAYS widef wf_fnma(widef a, widef b, widef c) { return COT_WIDE(fnmadd_ps, a, b, c); } /* c − a b */
COT_ALWAYS widef wf_of(wide a) { return COT_WIDE(cvtepi32_ps, a); }
COT_ALWAYS widef wf_bits(wide a) {
#ifdef __AVX512F__
    return _mm512_castsi512_ps(a);
#else
    return _mm256_castsi256_ps(a);
#endif
}

COT_ALWAYS widef wf_halves(const uint16_t *p) { /* of F16 */
#ifdef __AVX512F__
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
#else
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
#endif
}

/* The first n lanes, n ≤ LANES. */
COT_ALWAYS widef wf_load_some(const float *p, int n) {
#ifdef __AVX512F__
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    return load_some(p, n);
#endif
}
COT_ALWAYS void wf_store_some(float *p, widef v, int n) {
#ifdef __AVX512F__
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
#else
    store_some(p, v, n);
#endif
}

#ifdef __AVX512F__
/* A constant: a 16-bit value for each quarter. */
COT_ALWAYS __m512i quarters16(int a, int b, int c, int d) {
    const long long each = 0x0001000100010001;
    return _mm512_set_epi64(d * each, d * each, c * each, c * each, b * each, b * each, a * each, a * each);
}
#endif

/* In every lane, bytes a, b, c, d of it; 128: zero. */
COT_ALWAYS wide bytes_of(wide v, int a, int b, int c, int d) {
    return w_shuffle8(v, w_each128(_mm_setr_epi8((char)a, (char)b, (char)c, (char)d, (char)(a + 4),
                                                 (char)(b + 4), (char)(c + 4), (char)(d + 4), (char)(a + 8),
                                                 (char)(b + 8), (char)(c + 8), (char)(d + 8), (char)(a + 12),
                                                 (char)(b + 12), (char)(c + 12), (char)(d + 12))));
}

/* Word `which` (0 or 1) of every lane, an F16. */
COT_ALWAYS widef halves_of(wide v, int which) {
    if (which) v = COT_WIDE(srli_epi32, v, 16);
#ifdef __AVX512F__
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
#else
    v = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
#endif
}

/* Sums of the lanes of four vectors: lane j of the result is that of v[j]. */
COT_ALWAYS __m128i sums4_256(const __m256i v[4]) {
    __m256i a = _mm256_add_epi32(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
    __m256i b = _mm256_add_epi32(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
    a = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    return _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
}
COT_ALWAYS __m128i sums4_128(const __m128i v[4]) {
    __m128i a = _mm_add_epi32(_mm_unpacklo_epi32(v[0], v[1]), _mm_unpackhi_epi32(v[0], v[1]));
    __m128i b = _mm_add_epi32(_mm_unpacklo_epi32(v[2], v[3]), _mm_unpackhi_epi32(v[2], v[3]));
    return _mm_add_epi32(_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b));
}
COT_ALWAYS __m128i sums4(const wide v[4]) {
#ifdef __AVX512F__
    __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    a = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    __m256i c = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1));
#else
    return sums4_256(v);
#endif
}

/* LANES rows of bytes, 16 from each, to four vectors: vector e holds bytes 4e … 4e + 3 of every row, row l in
 * lane l. */
COT_ALWAYS void interleave(const uint8_t *const row[LANES], size_t at, wide out[4]) {
    wide a[4];
    for (int q = 0; q < 4; q++) {
#ifdef __AVX512F__
        a[q] = _mm512_castsi128_si512(load128(row[q] + at));
        a[q] = _mm512_inserti32x4(a[q], load128(row[q + 4] + at), 1);
        a[q] = _mm512_inserti32x4(a[q], load128(row[q + 8] + at), 2);
        a[q] = _mm512_inserti32x4(a[q], load128(row[q + 12] + at), 3);
#else
        a[q] = _mm256_inserti128_si256(_mm256_castsi128_si256(load128(row[q] + at)), load128(row[q + 4] + at),
                                       1);
#endif
    }
    wide b0 = COT_WIDE(unpacklo_epi32, a[0], a[1]), b1 = COT_WIDE(unpackhi_epi32, a[0], a[1]);
    wide b2 = COT_WIDE(unpacklo_epi32, a[2], a[3]), b3 = COT_WIDE(unpackhi_epi32, a[2], a[3]);
    out[0] = COT_WIDE(unpacklo_epi64, b0, b2);
    out[1] = COT_WIDE(unpackhi_epi64, b0, b2);
    out[2] = COT_WIDE(unpacklo_epi64, b1, b3);
    out[3] = COT_WIDE(unpackhi_epi64, b1, b3);
}

/* Straight through memory, most processors must be helped to fetch: each line once, in their order, and
 * evenly over the work. Lines left out or fetched in bursts make it slower than no help. Of those with
 * AVX-512, Intel's gain up to a half, a Zen 5 a third to a half, and a Zen 4 nothing. */
#ifdef __AVX512F__
static int fetch_distance; /* bytes; 0: no help */
static bool
    fetch_near; /* to the first-level cache; else to the second, from which the processor sees to it */
COT_ALWAYS void fetch_as_measured(void) {
    fetch_distance = __builtin_cpu_is("intel") ? 4096 : __builtin_cpu_is("amdfam19h") ? 0 : 8192;
    fetch_near = fetch_distance == 8192;
}
#else
enum { fetch_distance = 2048, fetch_near = true };
#endif
COT_ALWAYS void fetch_line(const void *p) {
    const char *at = (const char *)((uintptr_t)p + (unsigned)fetch_distance); /* beyond what p may point to */
    if (fetch_near) _mm_prefetch(at, _MM_HINT_T0);
    else _mm_prefetch(at, _MM_HINT_T1);
}
/* Part u of `of` of the n bytes at p. */
COT_ALWAYS void fetch_part(const uint8_t *p, int n, int u, int of) {
    for (int at = (n * u / of + 63) / 64 * 64; fetch_distance && at < n * (u + 1) / of; at += 64)
        fetch_line(p + at);
}
/* What stands before is done before what follows: a compiler that gathers loads and sums of a whole block has
 * to spill them, and gathers the fetches. */
#ifdef __AVX512F__
#define w_in_order(x) ((void)0)
#else
#define w_in_order(x) __asm__ volatile("" : "+x"(x))
#endif

/* Walking through many rows side by side is what memory serves badly. So the rows to come are
 * fetched to the second-level cache a few lines at a time while the present ones are multiplied; the first
 * rows of a call are read once straight through. */
typedef struct ahead {
    const char *p, *end;
    int64_t lines; /* at a time */
} ahead;

/* `rows` rows from r, as far as there are any below `end`, over `times` calls of fetch_ahead. */
COT_ALWAYS ahead ahead_of(const cot_view *w, int64_t r, int64_t end, int rows, int64_t times) {
    ahead a = {NULL, NULL, 0};
    if (r >= end) return a;
    a.p = cot__view_at(w, r);
    a.end = a.p + w->row_stride * (size_t)(end - r < rows ? end - r : rows);
    a.lines = (a.end - a.p) / 64 / times + 1;
    return a;
}
COT_ALWAYS void fetch_ahead(ahead *a) {
    for (int64_t i = 0; i < a->lines && a->p < a->end; i++, a->p += 64) _mm_prefetch(a->p, _MM_HINT_T1);
}
COT_ALWAYS void read_through(const cot_view *w, int64_t r, int64_t end, int rows) {
    ahead a = ahead_of(w, r, end, rows, 1);
    for (const char *p = a.p; p < a.end; p += 64) (void)*(const volatile char *)p;
}

#endif
