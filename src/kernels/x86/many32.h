/* Products of blocks of 32 with many tokens: as many rows as a vector has lanes, unpacked and interleaved
 * once for all tokens. The same sums in the same order as few32.h. */
#ifndef COT_KERNELS_X86_MANY32_H
#define COT_KERNELS_X86_MANY32_H

#include "kernels/x86/unpack32.h"

typedef struct tile32 {
    _Alignas(64) uint8_t q[8][WIDE]; /* values 4g … 4g + 3 of each row */
    _Alignas(64) float d[LANES], m[LANES];
} tile32;

/* first as for many256.h: < 0, or the first of LANES rows that stand together. */
COT_ALWAYS void fill_tile32(const kind32 *k, int first, const uint8_t *const p[LANES], tile32 *x) {
    if (first >= 0) {
        const uint8_t *q = values_together(k, p[0], first);
        wf_store(x->d, scales_together(k, p[0], first, false));
        if (k->m_at >= 0) wf_store(x->m, scales_together(k, p[0], first, true));
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++) w_store(x->q[g], unit_together(k, q, g));
        return;
    }
    const wide lift = w_all8(0x80), low = w_all8(15);
    wf_store(x->d, scales_of(k->scale, p, k->d_at));
    if (k->m_at >= 0) wf_store(x->m, scales_of(k->scale, p, k->m_at));
    if (k->nibbles_at >= 0) {
        wide v[4], table = k->table ? w_each128(load128(k->table)) : low;
        if (lifted(k)) table = w_xor(table, lift);
        interleave(p, (size_t)k->nibbles_at, v);
        for (int e = 0; e < 4; e++) {
            wide a = w_and(v[e], low), b = w_and(w_right16(v[e], 4), low);
            w_store(x->q[e], k->table ? w_shuffle8(table, a) : a);
            w_store(x->q[4 + e], k->table ? w_shuffle8(table, b) : b);
        }
        return;
    }
    _Alignas(64) uint8_t rows[LANES][32];
    const uint8_t *at[LANES];
    for (int l = 0; l < LANES; l++) {
        _mm256_store_si256((void *)rows[l], k->unpack(p[l]));
        at[l] = rows[l];
    }
    for (int g = 0; g < 8; g += 4) {
        wide v[4];
        interleave(at, (size_t)g * 4, v);
        for (int e = 0; e < 4; e++) w_store(x->q[g + e], lifted(k) ? w_xor(v[e], lift) : v[e]);
    }
}

/* A block of LANES rows with block b of n tokens. together: q is that of unit_together, else of a tile. */
COT_ALWAYS void tile32_block(const kind32 *k, bool together, const uint8_t *q, widef d, widef m,
                             const cot__q8_32 *const y[TOKENS], int b, int n, widef acc[TOKENS]) {
    wide s[TOKENS];
    for (int t = 0; t < n; t++) {
        wide low = w_all32(y[t]->low[b]);
        s[t] = !has_zero(k) ? w_zero() : zero_shift(k) ? COT_WIDE(srai_epi32, low, zero_shift(k)) : low;
    }
#ifdef __AVX512F__
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        wide v = together ? unit_together(k, q, g) : w_load(q + g * WIDE);
        for (int t = 0; t < n; t++) s[t] = _mm512_dpbusd_epi32(s[t], v, w_each32(y[t]->q + 32 * b + 4 * g));
    }
#else
    int run = k->is_signed ? 1 : k->zero == 8 || k->bytes == 20 ? 8 : 4; /* sums that 16 bits hold */
    const wide one = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int g0 = 0; g0 < 8; g0 += run) {
        wide part[TOKENS];
#pragma GCC unroll 8
        for (int g = g0; g < g0 + run; g++) {
            wide v = together ? unit_together(k, q, g) : w_load(q + g * WIDE);
            for (int t = 0; t < n; t++) {
                wide u = w_each32(y[t]->q + 32 * b + 4 * g);
                u = k->is_signed ? w_maddubs(_mm256_abs_epi8(v), _mm256_sign_epi8(u, v)) : w_maddubs(v, u);
                part[t] = g == g0 ? u : w_add16(part[t], u);
                w_in_order(part[t]);
            }
        }
        for (int t = 0; t < n; t++) s[t] = w_dot16(s[t], part[t], one);
    }
#endif
    for (int t = 0; t < n; t++) {
        widef yd = wf_all(y[t]->d[b]);
        acc[t] = wf_fma(wf_of(s[t]), wf_mul(d, yd), acc[t]);
        if (k->m_at >= 0) acc[t] = wf_fnma(wf_all((float)(y[t]->low[b] >> 7)), wf_mul(m, yd), acc[t]);
    }
}

/* Closes the partial sums of a stretch of blocks: out gets `rows` rows' sums, or they are added to it. */
COT_ALWAYS void close32(const widef acc[8][TOKENS], int n, int rows, bool more, float *const out[TOKENS]) {
    for (int t = 0; t < n; t++) {
        widef s[4];
        for (int b = 0; b < 4; b++) s[b] = wf_add(acc[b][t], acc[b + 4][t]);
        widef sum = wf_add(wf_add(s[0], s[2]), wf_add(s[1], s[3]));
        wf_store_some(out[t], wf_add(sum, more ? wf_load_some(out[t], rows) : wf_zero()), rows);
    }
}

COT_ALWAYS void tile32_run(const kind32 *k, const tile32 *x, int64_t i, int blocks, int rows,
                           const cot__q8_32 *const a[TOKENS], int n, float *const out[TOKENS], ahead *next) {
    widef acc[8][TOKENS];
    for (int b = 0; b < 8; b++)
        for (int t = 0; t < n; t++) acc[b][t] = wf_zero();
    for (int b = 0; b < blocks; b += 8) {
        const cot__q8_32 *y[TOKENS];
        int m = blocks - b < 8 ? blocks - b : 8;
        for (int t = 0; t < n; t++) y[t] = a[t] + (i + b) / 8;
        for (int j = 0; j < m; j++) {
            const tile32 *z = x + b + j;
            widef d = wf_load(z->d), least = k->m_at >= 0 ? wf_load(z->m) : d;
            tile32_block(k, false, z->q[0], d, least, y, j, n, acc[j]);
        }
        fetch_ahead(next);
    }
    close32(acc, n, rows, i > 0, out);
}

COT_ALWAYS void many32(const kind32 *k, const cot_view *w, int64_t r, int64_t end, const void *act, size_t as,
                       const int32_t *idx, int64_t n, float *out, size_t os) {
    tile32 x[DEPTH32];
    const uint8_t *p[LANES];
    int64_t blocks = w->cols / 32;
    int rows = end - r < LANES ? (int)(end - r) : LANES;
    ahead next = ahead_of(w, r + LANES, end, LANES,
                          (n + TOKENS - 1) / TOKENS * (blocks < DEPTH32 ? (blocks + 7) / 8 : DEPTH32 / 8));
    int first = w->together ? (int)(r % COT__TOGETHER) : -1;
    for (int l = 0; l < LANES; l++) p[l] = cot__view_at(w, r + (l < rows ? l : rows - 1));
    if (first >= 0) p[0] = cot__view_at(w, r - first);
    for (int64_t i = 0; i < blocks; i += DEPTH32) {
        int m = blocks - i < DEPTH32 ? (int)(blocks - i) : DEPTH32;
        for (int b = 0; b < m; b++) {
            fill_tile32(k, first, p, &x[b]);
            for (int l = 0; l < LANES; l++) p[l] += first < 0 ? k->bytes : k->bytes * COT__TOGETHER;
        }
        for (int64_t t0 = 0, step; t0 < n; t0 += step) {
            const cot__q8_32 *a[TOKENS];
            float *o[TOKENS];
            step = n - t0 >= TOKENS ? TOKENS : n - t0 >= TOKENS / 2 ? TOKENS / 2 : 1;
            for (int t = 0; t < step; t++) {
                a[t] = (const void *)((const char *)act + (size_t)(idx ? idx[t0 + t] : t0 + t) * as);
                o[t] = out + (size_t)(t0 + t) * os + r;
            }
            if (step == TOKENS) tile32_run(k, x, i, m, rows, a, TOKENS, o, &next);
            else if (step == TOKENS / 2) tile32_run(k, x, i, m, rows, a, TOKENS / 2, o, &next);
            else tile32_run(k, x, i, m, rows, a, 1, o, &next);
        }
    }
}

#endif
