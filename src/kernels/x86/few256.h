/* Products of blocks of 256 with few tokens: row after row, as memory likes it best, each block unpacked once
 * for all tokens. */
#ifndef COT_KERNELS_X86_FEW256_H
#define COT_KERNELS_X86_FEW256_H

#include "kernels/x86/unpack256.h"

enum {
    FEW = 4,    /* most tokens */
    AHEAD = 512 /* bytes, where nothing else fetches to the first-level cache: reading goes on while the
                   products of several tokens are made */
};

/* What four blocks have besides their values. */
typedef struct heads256 {
    __m128 d, dmin;
    wide scale[64 / WIDE],
        min[64 / WIDE]; /* where one scale serves 32: eight words a block, a lane of 16 each */
    scales256 fine[4];
} heads256;

COT_ALWAYS __m128 halves4(const uint8_t *p, int bytes, int n) {
    uint16_t h[4] = {0};
    for (int j = 0; j < n; j++) memcpy(&h[j], p + bytes * j, 2);
    return _mm_cvtph_ps(_mm_setr_epi16((short)h[0], (short)h[1], (short)h[2], (short)h[3], 0, 0, 0, 0));
}

COT_ALWAYS void lanes4(const __m128i x[4], wide out[64 / WIDE]) {
#ifdef __AVX512F__
    __m512i v = _mm512_inserti32x4(_mm512_castsi128_si512(x[0]), x[1], 1);
    out[0] = _mm512_inserti32x4(_mm512_inserti32x4(v, x[2], 2), x[3], 3);
#else
    for (int i = 0; i < 2; i++) out[i] = _mm256_set_m128i(x[2 * i + 1], x[2 * i]);
#endif
}

/* Heads of the m ≤ 4 blocks at p; zero beyond. */
COT_ALWAYS void heads(const kind256 *k, const uint8_t *p, int m, heads256 *h) {
    __m128i a[4], b[4];
    for (int j = 0; j < 4; j++) a[j] = b[j] = _mm_setzero_si128();
    if (k->k_head) {
        for (int j = 0; j < m; j++) a[j] = load128(p + j * k->bytes);
        lanes4(a, h->scale);
        for (int i = 0; i < 64 / WIDE; i++) scales_k_lanes(h->scale[i], &h->scale[i], &h->min[i]);
        __m128i d = _mm_unpacklo_epi64(_mm_unpacklo_epi32(a[0], a[1]), _mm_unpacklo_epi32(a[2], a[3]));
        d = _mm_shuffle_epi8(d, _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
        __m256 f = _mm256_cvtph_ps(d);
        h->d = _mm256_castps256_ps128(f);
        h->dmin = _mm256_extractf128_ps(f, 1);
        return;
    }
    h->d = halves4(p + k->d_at, k->bytes, m);
    h->dmin = k->min == MIN_OWN ? halves4(p + k->dmin_at, k->bytes, m) : h->d;
    for (int j = 0; j < m; j++) {
        k->scales(p + j * k->bytes, &h->fine[j]);
        a[j] = _mm256_castsi256_si128(h->fine[j].scale);
        b[j] = _mm256_castsi256_si128(h->fine[j].min);
    }
    lanes4(a, h->scale);
    lanes4(b, h->min);
}

/* The scales of block j, beside the words that pairs of its bytes make. */
COT_ALWAYS void scale_words(bool fine, const heads256 *h, int j, wide out[PARTS]) {
    const long long each = 0x0001000100010001;
#ifdef __AVX512F__
    if (fine) {
        for (int z = 0; z < PARTS; z++) {
            int a = 2 * run_of(z), b = a + 2 * RUN_STEP;
            out[z] = _mm512_permutexvar_epi16(quarters16(a, a + 1, b, b + 1),
                                              _mm512_castsi256_si512(h->fine[j].scale));
        }
        return;
    }
    wide s = j == 0   ? _mm512_shuffle_i32x4(h->scale[0], h->scale[0], 0x00)
             : j == 1 ? _mm512_shuffle_i32x4(h->scale[0], h->scale[0], 0x55)
             : j == 2 ? _mm512_shuffle_i32x4(h->scale[0], h->scale[0], 0xaa)
                      : _mm512_shuffle_i32x4(h->scale[0], h->scale[0], 0xff);
    for (int z = 0; z < PARTS; z++) {
        long long a = 2 * run_of(z) * each + (2 * run_of(z) + 1) * (each << 8);
        long long b = a + 2 * RUN_STEP * (each + (each << 8));
        out[z] = w_shuffle8(s, _mm512_set_epi64(b, b, b, b, a, a, a, a));
    }
#else
    for (int half = 0; half < 2; half++) {
        wide s = h->scale[j / 2];
        s = j % 2 ? _mm256_permute2x128_si256(s, s, 0x11) : _mm256_permute2x128_si256(s, s, 0);
        if (fine)
            s = w_each128(half ? _mm256_extracti128_si256(h->fine[j].scale, 1)
                               : _mm256_castsi256_si128(h->fine[j].scale));
        for (int z = 4 * half; z < 4 * half + 4; z++) {
            int r = run_of(z), u = fine ? 2 * (r % 4) : r, v = fine ? u + 1 : u; /* words for the two lanes */
            long long a = 2 * u * each + (2 * u + 1) * (each << 8);
            long long b = 2 * v * each + (2 * v + 1) * (each << 8);
            out[z] = w_shuffle8(s, _mm256_set_epi64x(b, b, a, a));
        }
    }
#endif
}

/* Integer sum of a block, in lanes; meanwhile, what comes after the four blocks at p, of which this is block
 * j, is fetched (p not NULL). */
COT_ALWAYS wide block_sum(const kind256 *k, const wide q[PARTS], const wide scale[PARTS], const int8_t *y,
                          const uint8_t *p, int j) {
    wide s = w_zero();
#pragma GCC unroll 8
    for (int z = 0; z < PARTS; z++) {
        wide v = w_load(y + WIDE * z);
        if (p) fetch_part(p, 4 * k->bytes, j * PARTS + z, 4 * PARTS);
        if (k->most) s = w_dot16(s, w_maddubs(q[z], v), scale[z]);
#ifdef __AVX512F__
        else { /* bytes too large for the sums of two in 16 bits */
            __m512i each = _mm512_srai_epi32(_mm512_slli_epi32(scale[z], 16), 16);
            s = w_add32(s, _mm512_mullo_epi32(_mm512_dpbusd_epi32(w_zero(), q[z], v), each));
        }
#else
        else s = w_dot16(s, w_maddubs(_mm256_abs_epi8(q[z]), _mm256_sign_epi8(v, q[z])), scale[z]);
#endif
        w_in_order(s);
    }
    return s;
}

/* What is to be taken off in four blocks. */
COT_ALWAYS __m128i minima_sums(const kind256 *k, const heads256 *h, const cot__q8_256 *y, int m) {
    if (k->fine) {
        __m256i v[4];
        for (int j = 0; j < 4; j++)
            v[j] = j < m ? _mm256_madd_epi16(load256(y->sums[j]), h->fine[j].min) : _mm256_setzero_si256();
        return sums4_256(v);
    }
    wide v[64 / WIDE];
    for (int i = 0; i < 64 / WIDE; i++) {
        v[i] = w_madd(w_load(y->pairs[WIDE / 16 * i]), h->min[i]);
        v[i] = w_add32(v[i], COT_WIDE(shuffle_epi32, v[i], _MM_SHUFFLE(2, 3, 0, 1)));
    }
#ifdef __AVX512F__
    v[0] = w_add32(v[0], _mm512_shuffle_epi32(v[0], _MM_SHUFFLE(1, 0, 3, 2)));
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    return _mm512_castsi512_si128(_mm512_permutexvar_epi32(first, v[0]));
#else
    __m256i a = _mm256_unpacklo_epi64(v[0], v[1]), b = _mm256_unpackhi_epi64(v[0], v[1]);
    a = _mm256_add_epi32(a, b); /* 0 0 2 2 | 1 1 3 3 */
    return _mm_unpacklo_epi64(_mm_unpacklo_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)),
                              _mm_unpackhi_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
#endif
}

/* The m ≤ 4 blocks at p with group i of n tokens: block j to lane j of acc. */
COT_ALWAYS void few256_blocks(const kind256 *k, const uint8_t *p, int64_t i, int m,
                              const cot__q8_256 *const a[FEW], int n, __m128 acc[FEW]) {
    wide s[FEW][4];
    heads256 h;
    heads(k, p, m, &h);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        wide q[PARTS], scale[PARTS];
        if (j >= m) {
            for (int t = 0; t < n; t++) s[t][j] = w_zero();
            continue;
        }
        k->unpack(p + j * k->bytes, q);
        for (int at = 0; at < k->bytes && !fetch_near; at += 64)
            _mm_prefetch((const char *)p + j * k->bytes + AHEAD + at, _MM_HINT_T0);
        scale_words(k->fine, &h, j, scale);
        for (int t = 0; t < n; t++) s[t][j] = block_sum(k, q, scale, a[t][i].q[j], t ? NULL : p, j);
    }
    for (int t = 0; t < n; t++) {
        const cot__q8_256 *y = a[t] + i;
        __m128 yd = _mm_loadu_ps(y->d);
        __m128i sum = sums4(s[t]), less = _mm_setzero_si128();
        if (k->min != MIN_NONE) less = minima_sums(k, &h, y, m);
        if (k->min == MIN_SAME) sum = _mm_sub_epi32(sum, less);
        acc[t] = _mm_fmadd_ps(_mm_cvtepi32_ps(sum), _mm_mul_ps(h.d, yd), acc[t]);
        if (k->min == MIN_OWN) acc[t] = _mm_fnmadd_ps(_mm_cvtepi32_ps(less), _mm_mul_ps(h.dmin, yd), acc[t]);
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
            for (; i + 4 <= end; i += 4) few256_blocks(k, p + i * k->bytes, i / 4, 4, a, n, acc);
            if (i < end) few256_blocks(k, p + i * k->bytes, i / 4, (int)(end - i), a, n, acc);
            i = end;
            for (int t = 0; t < n; t++) out[t][r] = sum4(acc[t]) + (first ? 0 : out[t][r]);
        }
    }
}

#endif
