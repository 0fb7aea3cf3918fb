/* Products in F32: weights of any format decoded, a piece at a time, and used for up to 32 tokens. Sixteen
 * partial sums per (row, token): element c goes to sum c mod 16, ascending, fused; they are closed as close4
 * closes them. */
#ifndef COT_KERNELS_X86_F32_H
#define COT_KERNELS_X86_F32_H

#include "kernels/x86/wide.h"

enum {
    PIECE = 256,
    GROUP = 32,
    SIDE = WIDE == 64 ? 4 : 2, /* rows and tokens of a tile */
    HALVES = 16 / LANES
};

static void decode_piece(const cot_view *w, int64_t r, int64_t c0, int n, float *out) {
    const char *row = cot__view_at(w, r);
    int i = 0;
    if (w->type == COT_F16) {
        const uint16_t *p = (const void *)(row + c0 * 2);
        for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, _mm256_cvtph_ps(load128(p + i)));
    } else if (w->type == COT_BF16) {
        const uint16_t *p = (const void *)(row + c0 * 2);
        for (; i + 8 <= n; i += 8) {
            __m256i x = _mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p + i)), 16);
            _mm256_storeu_ps(out + i, _mm256_castsi256_ps(x));
        }
    }
    if (i < n) cot__view_part(w, r, c0 + i, n - i, out + i); /* of a plain type, or all of a quantised one */
    const float *s = w->scales ? w->scales + r / w->scale_rows * w->scale_stride : NULL;
    for (i = 0; s && i < n; i++) out[i] *= s[(c0 + i) / w->scale_cols];
}

/* n ≤ 16 elements at c of `rows` rows with `tokens` tokens. */
COT_ALWAYS void f32_step(const float *const w[SIDE], int rows, const float *const x[SIDE], int tokens, int c,
                         int n, widef s[SIDE][SIDE][HALVES]) {
    for (int h = 0; h < HALVES; h++) {
        widef a[SIDE];
        int some = n - LANES * h < LANES ? n - LANES * h : LANES, at = c + LANES * h;
        if (some <= 0) return;
        for (int r = 0; r < rows; r++)
            a[r] = some < LANES ? wf_load_some(w[r] + at, some) : wf_load(w[r] + at);
        for (int t = 0; t < tokens; t++) {
            widef b = some < LANES ? wf_load_some(x[t] + at, some) : wf_load(x[t] + at);
            for (int r = 0; r < rows; r++) s[t][r][h] = wf_fma(a[r], b, s[t][r][h]);
        }
    }
}

COT_ALWAYS void f32_tile(const float *const w[SIDE], int rows, const float *const x[SIDE], int tokens, int n,
                         float (*sums)[SIDE][16]) {
    widef s[SIDE][SIDE][HALVES];
    int c = 0;
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < rows; r++)
            for (int h = 0; h < HALVES; h++) s[t][r][h] = wf_load(sums[t][r] + LANES * h);
    for (; c + 16 <= n; c += 16) {
        if (rows == 1) fetch_part((const uint8_t *)(w[0] + c), 64, 0, 1);
        f32_step(w, rows, x, tokens, c, 16, s);
    }
    if (c < n) f32_step(w, rows, x, tokens, c, n - c, s); /* zeros change no sum */
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < rows; r++)
            for (int h = 0; h < HALVES; h++) wf_store(sums[t][r] + LANES * h, s[t][r][h]);
}

COT_ALWAYS float close_sums(const float sums[16]) {
    return sum8(_mm256_add_ps(_mm256_loadu_ps(sums), _mm256_loadu_ps(sums + 8)));
}

/* Rows r … r + SIDE − 1, those from `end` on doubling the last one, with m ≤ GROUP tokens. */
static void f32_rows(const cot_view *w, int64_t r, int64_t end, const void *act, size_t as,
                     const int32_t *idx, int m, float *out, size_t os) {
    float wp[SIDE][PIECE], sums[GROUP][SIDE][16];
    bool plain = w->type == COT_F32 && !w->scales;
    int rows = end - r < SIDE ? (int)(end - r) : SIDE;
    ahead next = ahead_of(w, r + SIDE, end, SIDE, (w->cols + PIECE - 1) / PIECE);
    memset(sums, 0, (size_t)m * sizeof sums[0]);
    for (int64_t c = 0; c < w->cols; c += PIECE) {
        int n = w->cols - c < PIECE ? (int)(w->cols - c) : PIECE;
        const float *a[SIDE], *x[SIDE];
        for (int i = 0; i < SIDE; i++) {
            a[i] = plain ? (const float *)cot__view_at(w, r + (i < rows ? i : rows - 1)) + c : wp[i];
            if (!plain && i < rows) decode_piece(w, r + i, c, n, wp[i]);
        }
        for (int i = rows; i < SIDE && !plain; i++) a[i] = wp[rows - 1];
        for (int t = 0, step; t < m; t += step) {
            step = m - t >= SIDE ? SIDE : 1;
            for (int i = 0; i < step; i++)
                x[i] = (const float *)((const char *)act + (size_t)(idx ? idx[t + i] : t + i) * as) + c;
            if (step == SIDE) f32_tile(a, SIDE, x, SIDE, n, sums + t);
            else f32_tile(a, SIDE, x, 1, n, sums + t);
        }
        fetch_ahead(&next);
    }
    for (int t = 0; t < m; t++)
        for (int i = 0; i < rows; i++) out[(size_t)t * os + (size_t)(r + i)] = close_sums(sums[t][i]);
}

static float dot_f32(const float *a, const float *b, int64_t n) {
    float sums[1][SIDE][16] = {{{0}}};
    for (int64_t c = 0; c < n; c += 1 << 20) {
        const float *w[SIDE] = {a + c}, *x[SIDE] = {b + c};
        f32_tile(w, 1, x, 1, n - c < 1 << 20 ? (int)(n - c) : 1 << 20, sums);
    }
    return close_sums(sums[0][0]);
}

static void gemm_f32(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,
                     const int32_t *idx, int64_t n, float *out, size_t os) {
    if (n == 1 && w->type == COT_F32 && !w->scales) {
        const void *x = (const char *)act + (size_t)(idx ? *idx : 0) * as;
        for (int64_t r = r0; r < r1; r++) out[r] = dot_f32(cot__view_at(w, r), x, w->cols);
        return; /* row after row, as memory likes it best */
    }
    read_through(w, r0, r1, SIDE);
    for (int64_t t = 0; t < n; t += GROUP)
        for (int64_t r = r0; r < r1; r += SIDE)
            f32_rows(w, r, r1, idx ? act : (const char *)act + (size_t)t * as, as, idx ? idx + t : NULL,
                     n - t < GROUP ? (int)(n - t) : GROUP, out + (size_t)t * os, os);
}

static void gemv_t(const cot_view *w, int64_t r0, int64_t r1, const float *x, float *out) {
    float wp[PIECE];
    for (int64_t r = r0; r < r1; r++)
        for (int64_t c = 0; c < w->cols; c += PIECE) {
            int k = w->cols - c < PIECE ? (int)(w->cols - c) : PIECE;
            __m256 f = _mm256_set1_ps(x[r - r0]);
            decode_piece(w, r, c, k, wp);
            for (int j = 0; j < k; j += 8)
                store_some(out + c + j,
                           _mm256_fmadd_ps(f, load_some(wp + j, k - j), load_some(out + c + j, k - j)),
                           k - j);
        }
}

#endif
