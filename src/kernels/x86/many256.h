/* Products of blocks of 256 with many tokens: as many rows as a vector has lanes are unpacked and
 * interleaved, four bytes of each row side by side, once for all tokens. The same sums in the same order as
 * few256.h. */
#ifndef COT_KERNELS_X86_MANY256_H
#define COT_KERNELS_X86_MANY256_H

#include "kernels/x86/unpack256.h"

enum {
    TOKENS = WIDE == 64 ? 8 : 4, /* at a time */
    MANY = 256                   /* whose activations the second-level cache holds */
};

typedef struct tile256 {
    _Alignas(64) uint8_t q[64][WIDE];      /* four values of each row, in the order of cot__q8_256 */
    _Alignas(64) int32_t scale[16][LANES]; /* a scale, as one integer (64-byte level) or twice as words */
    _Alignas(64) int16_t min[8][LANES][2]; /* of two neighbouring sub-blocks */
    float d[LANES], dmin[LANES];
} tile256;

static inline int32_t scale_lane(int16_t s) {
    return WIDE == 64 ? s : (int32_t)((uint32_t)(uint16_t)s * 0x10001u);
}

COT_ALWAYS void fill_scales(const kind256 *k, tile256 *x, int l, const uint8_t *p) {
    scales256 b;
    int16_t s[16], m[16];
    int n = k->fine ? 16 : 8;
    k->scales(p, &b);
    _mm256_storeu_si256((void *)s, b.scale);
    _mm256_storeu_si256((void *)m, b.min);
    for (int j = 0; j < n; j++) x->scale[j][l] = scale_lane(s[j]);
    for (int j = 0; j < n && k->min != MIN_NONE; j++) x->min[j / 2][l][j % 2] = m[j];
    x->d[l] = half_at(p + k->d_at);
    x->dmin[l] = half_at(p + k->dmin_at);
}

/* Where LANES rows' blocks are. first < 0: each at its p. Else they stand together (cot_view.together): p[0]
 * is a block of 16 rows, of which LANES from `first` on are meant. */
COT_ALWAYS void dwords(int first, const uint8_t *const p[LANES], size_t at, wide out[4]) {
    if (first < 0) interleave(p, at, out);
    else
        for (size_t e = 0; e < 4; e++) out[e] = w_load(p[0] + 4 * first + (at + 4 * e) * COT__TOGETHER);
}

/* Q4_K and Q5_K: heads and values are interleaved as they stand, then taken apart for all rows at once. */
COT_ALWAYS void fill_tile_k(const kind256 *k, int first, const uint8_t *const p[LANES], tile256 *x) {
    const int bits_at = k->most == 31 ? 16 : 0, q_at = k->most == 31 ? 48 : 16;
    wide h[4], high[8];
    dwords(first, p, 0, h);
    wf_store(x->d, halves_of(h[0], 0));
    wf_store(x->dmin, halves_of(h[0], 1));
    const wide six = w_all32(0x3f3f3f3f), four = w_all32(0x0f0f0f0f), two = w_all32(0x30303030);
    wide s[2], m[2];
    s[0] = w_and(h[1], six);
    m[0] = w_and(h[2], six);
    s[1] = w_or(w_and(h[3], four), w_and(COT_WIDE(srli_epi32, h[1], 2), two));
    m[1] = w_or(w_and(COT_WIDE(srli_epi32, h[3], 4), four), w_and(COT_WIDE(srli_epi32, h[2], 2), two));
    for (int j = 0; j < 8; j++)
        w_store(x->scale[j], bytes_of(s[j / 4], j % 4, 128, WIDE == 64 ? 128 : j % 4, 128));
    for (int j = 0; j < 4; j++) w_store(x->min[j], bytes_of(m[j / 2], j % 2 * 2, 128, j % 2 * 2 + 1, 128));
    for (int c = 0; c < 2 && bits_at; c++) dwords(first, p, (size_t)(bits_at + 16 * c), high + 4 * c);
#pragma GCC unroll 8
    for (int c = 0; c < 8; c++) {
        wide v[4];
        dwords(first, p, (size_t)(q_at + 16 * c), v);
        for (int e = 0; e < 4; e++) { /* low halves: run 2 (c / 2); high halves: the run after it */
            int g = c % 2 * 4 + e, run = c / 2 * 2;
            wide lo = w_and(v[e], four), hi = w_and(w_right16(v[e], 4), four);
            if (bits_at) {
                const wide one = w_all8(1);
                lo = w_or(lo, w_left16(w_and(w_right16(high[g], run), one), 4));
                hi = w_or(hi, w_left16(w_and(w_right16(high[g], run + 1), one), 4));
            }
            w_store(x->q[8 * cot__run_place(run) + g], lo);
            w_store(x->q[8 * cot__run_place(run + 1) + g], hi);
        }
    }
}

/* Q6_K whose rows stand together: base is a block of 16 rows, of which LANES from `first` on are meant. Four
 * values of each row: those 4 c … of the four runs of half `half`. */
enum { Q6_DWORDS = 52 };
COT_ALWAYS void units6(const uint8_t *base, int first, int half, int c, wide out[4]) {
    const uint8_t *p =
        base + 4 * first + (4 + 24 * half + 3 * c) * DWORD; /* as cot__view_put_together orders them */
    const wide low = w_all8(15), top = w_all8(0x30);
    wide a = w_load(p), b = w_load(p + DWORD), h = w_load(p + 2 * DWORD);
    out[0] = w_or(w_and(a, low), w_and(w_left16(h, 4), top));
    out[1] = w_or(w_and(b, low), w_and(w_left16(h, 2), top));
    out[2] = w_or(w_and(w_right16(a, 4), low), w_and(h, top));
    out[3] = w_or(w_and(w_right16(b, 4), low), w_and(w_right16(h, 2), top));
}
COT_ALWAYS wide scales6(const uint8_t *base, int first, int j) { /* bytes: of sub-blocks 4 j … 4 j + 3 */
    return w_load(base + 4 * first + j * DWORD);
}
COT_ALWAYS wide scale6(wide s, int j) { /* as scale_lane makes them */
#ifdef __AVX512F__
    return _mm512_srai_epi32(bytes_of(s, 128, 128, 128, j), 24);
#else
    return _mm256_srai_epi16(bytes_of(s, 128, j, 128, j), 8);
#endif
}
COT_ALWAYS wide pair6(wide s, int j) { /* words: sub-blocks 2 j and 2 j + 1 */
    return COT_WIDE(srai_epi16, bytes_of(s, 128, 2 * j, 128, 2 * j + 1), 8);
}
COT_ALWAYS widef d6(const uint8_t *base, int first) {
    const void *d = base + Q6_DWORDS * DWORD + 2 * first;
#ifdef __AVX512F__
    return _mm512_cvtph_ps(load256(d));
#else
    return _mm256_cvtph_ps(load128(d));
#endif
}
COT_ALWAYS void fill_tile_6(const uint8_t *base, int first, tile256 *x) {
    for (int half = 0; half < 2; half++)
        for (int c = 0; c < 8; c++) {
            wide v[4];
            units6(base, first, half, c, v);
            for (int r = 0; r < 4; r++) w_store(x->q[8 * cot__run_place(4 * half + r) + c], v[r]);
        }
    for (int j = 0; j < 16; j++) w_store(x->scale[j], scale6(scales6(base, first, j / 4), j % 4));
    for (int j = 0; j < 8; j++) w_store(x->min[j], w_left16(pair6(scales6(base, first, j / 2), j % 2), 5));
    wf_store(x->d, d6(base, first));
}

COT_ALWAYS void fill_tile256(const kind256 *k, int first, const uint8_t *const p[LANES], tile256 *x) {
    _Alignas(64) uint8_t rows[LANES][256];
    const uint8_t *at[LANES];
    if (k->k_head) {
        fill_tile_k(k, first, p, x);
        return;
    }
    if (first >= 0) {
        fill_tile_6(p[0], first, x);
        return;
    }
    for (int l = 0; l < LANES; l++) {
        wide q[PARTS];
        k->unpack(p[l], q);
        for (int z = 0; z < PARTS; z++) w_store(rows[l] + WIDE * z, q[z]);
        fill_scales(k, x, l, p[l]);
        at[l] = rows[l];
    }
    for (int g = 0; g < 64; g += 4) {
        wide v[4];
        interleave(at, (size_t)g * 4, v);
        for (int e = 0; e < 4; e++) w_store(x->q[g + e], v[e]);
    }
}

/* One block of all rows with n tokens: products of a sub-block, times its scale. */
COT_ALWAYS void tile256_sums(const kind256 *k, const tile256 *x, const cot__q8_256 *const y[TOKENS], int b,
                             int n, wide s[TOKENS]) {
    int subs = k->fine ? 16 : 8, groups = 64 / subs;
    for (int t = 0; t < n; t++) s[t] = w_zero();
    for (int j = 0; j < subs; j++) {
        int natural = k->fine ? 2 * cot__run_place(j / 2) + j % 2 : cot__run_place(j);
        wide scale = w_load(x->scale[natural]), part[TOKENS];
        const uint8_t(*q)[WIDE] = &x->q[j * groups];
#ifdef __AVX512F__
        for (int t = 0; t < n; t++) part[t] = w_zero();
#pragma GCC unroll 8
        for (int g = 0; g < groups; g++) {
            wide v = w_load(q[g]);
            for (int t = 0; t < n; t++)
                part[t] = _mm512_dpbusd_epi32(part[t], v, w_each32(y[t]->q[b] + 4 * (j * groups + g)));
        }
        for (int t = 0; t < n; t++) s[t] = w_add32(s[t], _mm512_mullo_epi32(part[t], scale));
#else
        int run = k->most ? 32767 / (254 * k->most) : 1; /* sums of two products that 16 bits hold */
        run = run < groups ? run : groups;
#pragma GCC unroll 8
        for (int g0 = 0; g0 < groups; g0 += run) {
#pragma GCC unroll 8
            for (int g = g0; g < g0 + run; g++) {
                wide v = w_load(q[g]);
                for (int t = 0; t < n; t++) {
                    wide u = w_each32(y[t]->q[b] + 4 * (j * groups + g));
                    u = k->most ? w_maddubs(v, u) : w_maddubs(_mm256_abs_epi8(v), _mm256_sign_epi8(u, v));
                    part[t] = g == g0 ? u : w_add16(part[t], u);
                    w_in_order(part[t]);
                }
            }
            for (int t = 0; t < n; t++) s[t] = w_dot16(s[t], part[t], scale);
        }
#endif
    }
}

COT_ALWAYS void tile256_block(const kind256 *k, const tile256 *x, const cot__q8_256 *const y[TOKENS], int b,
                              int n, widef acc[TOKENS]) {
    wide s[TOKENS], m[TOKENS];
    widef d = wf_load(x->d), dmin = wf_load(x->dmin);
    tile256_sums(k, x, y, b, n, s);
    for (int t = 0; t < n; t++) m[t] = w_zero();
    for (int j = 0; k->min != MIN_NONE && j < (k->fine ? 8 : 4); j++) {
        wide v = w_load(x->min[j]);
        for (int t = 0; t < n; t++)
            m[t] = w_dot16(m[t], v, w_each32(k->fine ? y[t]->sums[b] + 2 * j : y[t]->pairs[b] + 2 * j));
    }
    for (int t = 0; t < n; t++) {
        widef yd = wf_all(y[t]->d[b]);
        if (k->min == MIN_SAME) s[t] = w_sub32(s[t], m[t]);
        acc[t] = wf_fma(wf_of(s[t]), wf_mul(d, yd), acc[t]);
        if (k->min == MIN_OWN) acc[t] = wf_fnma(wf_of(m[t]), wf_mul(dmin, yd), acc[t]);
    }
}

/* Blocks i … i + blocks − 1, interleaved in x, of `rows` rows (at most LANES) with n tokens. */
COT_ALWAYS void tile256_run(const kind256 *k, const tile256 *x, int64_t i, int blocks, int rows,
                            const cot__q8_256 *const a[TOKENS], int n, float *const out[TOKENS],
                            ahead *next) {
    widef acc[4][TOKENS];
    for (int b = 0; b < 4; b++)
        for (int t = 0; t < n; t++) acc[b][t] = wf_zero();
    for (int b = 0; b < blocks; b++) {
        const cot__q8_256 *y[TOKENS];
        for (int t = 0; t < n; t++) y[t] = a[t] + (i + b) / 4;
        tile256_block(k, x + b, y, b % 4, n, acc[b % 4]);
        fetch_ahead(next);
    }
    for (int t = 0; t < n; t++) {
        widef sum = wf_add(wf_add(acc[0][t], acc[2][t]), wf_add(acc[1][t], acc[3][t]));
        wf_store_some(out[t], wf_add(sum, i ? wf_load_some(out[t], rows) : wf_zero()), rows);
    }
}

COT_ALWAYS void many256(const kind256 *k, const cot_view *w, int64_t r, int64_t end, const void *act,
                        size_t as, const int32_t *idx, int64_t n, float *out, size_t os) {
    tile256 x[DEPTH256];
    const uint8_t *p[LANES];
    int64_t blocks = w->cols / 256;
    int rows = end - r < LANES ? (int)(end - r) : LANES;
    ahead next = ahead_of(w, r + LANES, end, LANES,
                          (n + TOKENS - 1) / TOKENS * (blocks < DEPTH256 ? blocks : DEPTH256));
    int first = w->together ? (int)(r % COT__TOGETHER) : -1;
    for (int l = 0; l < LANES; l++) p[l] = cot__view_at(w, r + (l < rows ? l : rows - 1));
    if (first >= 0) p[0] = cot__view_at(w, r - first);
    for (int64_t i = 0; i < blocks; i += DEPTH256) {
        int m = blocks - i < DEPTH256 ? (int)(blocks - i) : DEPTH256;
        for (int b = 0; b < m; b++) {
            fill_tile256(k, first, p, &x[b]);
            for (int l = 0; l < LANES; l++) p[l] += first < 0 ? k->bytes : k->bytes * COT__TOGETHER;
        }
        for (int64_t t0 = 0, step; t0 < n; t0 += step) {
            const cot__q8_256 *a[TOKENS];
            float *o[TOKENS];
            step = n - t0 >= TOKENS ? TOKENS : n - t0 >= TOKENS / 2 ? TOKENS / 2 : 1;
            for (int t = 0; t < step; t++) {
                a[t] = (const void *)((const char *)act + (size_t)(idx ? idx[t0 + t] : t0 + t) * as);
                o[t] = out + (size_t)(t0 + t) * os + r;
            }
            if (step == TOKENS) tile256_run(k, x, i, m, rows, a, TOKENS, o, &next);
            else if (step == TOKENS / 2) tile256_run(k, x, i, m, rows, a, TOKENS / 2, o, &next);
            else tile256_run(k, x, i, m, rows, a, 1, o, &next);
        }
    }
}

#endif
