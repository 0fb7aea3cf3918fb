/* The avx512bf16 level: BF16 weights meet activations rounded to BF16, two products an instruction. Of a row
 * and a token, element c goes to partial sum c / 2 mod 32, ascending (of a pair, the second first; values
 * below the smallest normal count as zero: the instruction); the halves of 16 are added, then lanes as
 * close_rows adds them. The rest of the level is avx512's. */
#include "kernels/x86/wide.h"

enum {
    TILE_ROWS = 4,
    TILE_TOKENS = 3,
    STEP = 64,  /* elements of a step: two vectors */
    GROUP = 64, /* tokens that stay in the core's cache while rows go by */
};

COT_ALWAYS __m512bh pairs(const uint16_t *p) { return (__m512bh)_mm512_loadu_si512(p); }
COT_ALWAYS __m512bh pairs_some(const uint16_t *p, int64_t n) {
    __mmask32 m = n <= 0 ? 0 : n >= 32 ? ~0u : (1u << n) - 1;
    return (__m512bh)_mm512_maskz_loadu_epi16(m, n > 0 ? p : NULL);
}

/* Lane j: the sum of v[j]. */
COT_ALWAYS __m128 close_rows(const __m512 v[TILE_ROWS]) {
    __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    __m512 c = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
    __m256 d = _mm256_add_ps(_mm512_castps512_ps256(c), _mm512_extractf32x8_ps(c, 1));
    return _mm_add_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1));
}

/* `rows` rows with `tokens` tokens. */
COT_ALWAYS void tile(const uint16_t *const *w, int rows, const uint16_t *const *x, int tokens, int64_t cols,
                     float *const *out) {
    __m512 s[TILE_TOKENS][TILE_ROWS][2];
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < rows; r++) s[t][r][0] = s[t][r][1] = _mm512_setzero_ps();
    int64_t c = 0;
    for (; c + STEP <= cols; c += STEP)
        for (int h = 0; h < 2; h++) {
            __m512bh a[TILE_ROWS];
            if (rows == 1) fetch_part((const uint8_t *)(w[0] + c + 32 * h), 64, 0, 1);
            for (int r = 0; r < rows; r++) a[r] = pairs(w[r] + c + 32 * h);
            for (int t = 0; t < tokens; t++) {
                __m512bh b = pairs(x[t] + c + 32 * h);
                for (int r = 0; r < rows; r++) s[t][r][h] = _mm512_dpbf16_ps(s[t][r][h], a[r], b);
            }
        }
    for (int h = 0; h < 2 && c < cols; h++, c += 32)
        for (int t = 0; t < tokens; t++) {
            __m512bh b = pairs_some(x[t] + c, cols - c);
            for (int r = 0; r < rows; r++)
                s[t][r][h] = _mm512_dpbf16_ps(s[t][r][h], pairs_some(w[r] + c, cols - c), b);
        }
    for (int t = 0; t < tokens; t++) {
        __m512 v[TILE_ROWS];
        for (int r = 0; r < TILE_ROWS; r++)
            v[r] = _mm512_add_ps(s[t][r < rows ? r : 0][0], s[t][r < rows ? r : 0][1]);
        _mm_mask_storeu_ps(out[t], (__mmask8)((1u << rows) - 1), close_rows(v));
    }
}

/* Rows r … r + TILE_ROWS − 1, as far as there are any below `end`, with m tokens. */
static void rows_with(const cot_view *w, int64_t r, int64_t end, const void *act, size_t as,
                      const int32_t *idx, int64_t m, float *out, size_t os) {
    const uint16_t *p[TILE_ROWS], *x[TILE_TOKENS];
    float *o[TILE_TOKENS];
    ahead next = ahead_of(w, r + TILE_ROWS, end, TILE_ROWS, (m + TILE_TOKENS - 1) / TILE_TOKENS);
    int rows = end - r < TILE_ROWS ? (int)(end - r) : TILE_ROWS;
    for (int i = 0; i < TILE_ROWS; i++) p[i] = cot__view_at(w, r + (i < rows ? i : 0));
    for (int64_t t = 0; t < m; t += TILE_TOKENS, fetch_ahead(&next)) {
        int n = m - t < TILE_TOKENS ? (int)(m - t) : TILE_TOKENS;
        for (int i = 0; i < n; i++) {
            x[i] = (const void *)((const char *)act + (size_t)(idx ? idx[t + i] : t + i) * as);
            o[i] = out + (size_t)(t + i) * os + (size_t)r;
        }
        if (rows == TILE_ROWS && n == TILE_TOKENS) tile(p, TILE_ROWS, x, TILE_TOKENS, w->cols, o);
        else if (rows == TILE_ROWS && n == 2) tile(p, TILE_ROWS, x, 2, w->cols, o);
        else if (rows == TILE_ROWS) tile(p, TILE_ROWS, x, 1, w->cols, o);
        else
            for (int i = 0; i < n * rows; i++) {
                float *y = o[i / rows] + i % rows;
                tile(p + i % rows, 1, x + i / rows, 1, w->cols, &y);
            }
    }
}

/* Few tokens: one row after the other, straight through memory. */
COT_ALWAYS void rows_alone(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,
                           const int32_t *idx, int n, float *out, size_t os) {
    const uint16_t *x[TILE_TOKENS] = {NULL};
    for (int t = 0; t < n; t++) x[t] = (const void *)((const char *)act + (size_t)(idx ? idx[t] : t) * as);
    for (int64_t r = r0; r < r1; r++) {
        const uint16_t *p[TILE_ROWS] = {cot__view_at(w, r)};
        float *o[TILE_TOKENS] = {NULL};
        for (int t = 0; t < n; t++) o[t] = out + (size_t)t * os + r;
        tile(p, 1, x, n, w->cols, o);
    }
}

static void gemm_bf16(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,
                      const int32_t *idx, int64_t n, float *out, size_t os) {
    if (n == 1) rows_alone(w, r0, r1, act, as, idx, 1, out, os);
    else if (n == 2) rows_alone(w, r0, r1, act, as, idx, 2, out, os);
    else if (n == 3) rows_alone(w, r0, r1, act, as, idx, 3, out, os);
    if (n <= 3) return;
    read_through(w, r0, r1, TILE_ROWS);
    for (int64_t t = 0; t < n; t += GROUP) {
        int64_t m = n - t < GROUP ? n - t : GROUP;
        for (int64_t r = r0; r < r1; r += TILE_ROWS) {
            rows_with(w, r, r1, idx ? act : (const char *)act + (size_t)t * as, as, idx ? idx + t : NULL, m,
                      out + (size_t)t * os, os);
        }
    }
}

/* Rounded to nearest, ties to even; what is not a number stays none. */
static void act_bf16(const float *x, void *dst, int64_t n) {
    uint16_t *y = dst;
    for (int64_t c = 0; c < n; c += 16) {
        __mmask16 m = n - c < 16 ? (__mmask16)((1u << (n - c)) - 1) : 0xffff;
        __m512 v = _mm512_maskz_loadu_ps(m, x + c);
        __m512i b = _mm512_castps_si512(v),
                odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
        __m512i up = _mm512_add_epi32(b, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        up = _mm512_mask_or_epi32(up, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), b, _mm512_set1_epi32(0x400000));
        _mm256_mask_storeu_epi16(y + c, m, _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
    }
}

void cot__kernels_init_avx512bf16(cot_kernels *k) {
    int s = cot__kernel_slot(COT_BF16);
    fetch_as_measured();
    k->act[s] = COT_ACT_BF16;
    k->gemm[s] = gemm_bf16;
    k->act_encode[COT_ACT_BF16] = act_bf16;
}
