/* Row-wise operations. Sums run in 16 F32 lanes (element c in lane c mod 16), added at the end; exponentials
 * are those of exp8. */
#include "kernels/x86/simd.h"

/* ---- activations: bit for bit what the reference makes ---- */

/* Scale of 8 · n values and their bytes; NaN when one of them is not finite. */
COT_ALWAYS float encode_block(const float *x, int8_t *q, int n) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 most = _mm256_setzero_ps();
    __m256i bad = _mm256_setzero_si256();
    const __m256i limit = _mm256_set1_epi32(0x7f7fffff);
    for (int i = 0; i < n; i += 8) {
        __m256 v = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i));
        bad = _mm256_or_si256(bad, _mm256_cmpgt_epi32(_mm256_castps_si256(v), limit));
        most = _mm256_max_ps(most, v);
    }
    if (!_mm256_testz_si256(bad, bad)) {
        memset(q, 0, (size_t)n);
        return NAN;
    }
    float big = max8(most), d = big / 127, id = big > 0 ? 127 / big : 0;
    if (!isfinite(id)) id = 0, d = 0;
    const __m256 f = _mm256_set1_ps(id);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int i = 0; i < n; i += 32) {
        __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(f, _mm256_loadu_ps(x + i)));
        __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(f, _mm256_loadu_ps(x + i + 8)));
        __m256i c = _mm256_cvtps_epi32(_mm256_mul_ps(f, _mm256_loadu_ps(x + i + 16)));
        __m256i e = _mm256_cvtps_epi32(_mm256_mul_ps(f, _mm256_loadu_ps(x + i + 24)));
        __m256i v = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, e));
        _mm256_storeu_si256((void *)(q + i), _mm256_permutevar8x32_epi32(v, order));
    }
    return d;
}

/* Sums of the two halves of 32 bytes. */
COT_ALWAYS void sum_halves(const int8_t *q, int *first, int *second) {
    __m256i s =
        _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), load256(q)), _mm256_set1_epi16(1));
    __m128i a = _mm256_castsi256_si128(s), b = _mm256_extracti128_si256(s, 1);
    a = _mm_hadd_epi32(a, b);
    a = _mm_hadd_epi32(a, a);
    *first = _mm_cvtsi128_si32(a);
    *second = _mm_extract_epi32(a, 1);
}

static void act_q8_32(const float *x, void *dst, int64_t n) {
    for (cot__q8_32 *g = dst; n > 0; g++) {
        if (n < 256) memset(g, 0, sizeof *g);
        for (int b = 0; b < 8 && n > 0; b++, n -= 32, x += 32) {
            int s[2];
            g->d[b] = encode_block(x, g->q + 32 * b, 32);
            sum_halves(g->q + 32 * b, &s[0], &s[1]);
            g->low[b] = -128 * (s[0] + s[1]);
        }
    }
}

static void act_q8_256(const float *x, void *dst, int64_t n) {
    for (cot__q8_256 *g = dst; n > 0; g++) {
        if (n < 1024) memset(g, 0, sizeof *g);
        else memset(g->unused, 0, sizeof g->unused);
        for (int b = 0; b < 4 && n > 0; b++, n -= 256, x += 256) {
            int8_t q[256];
            g->d[b] = encode_block(x, q, 256);
            for (int i = 0; i < 16; i += 2) {
                int s[2];
                _mm256_storeu_si256((void *)(g->q[b] + 32 * cot__run_place(i / 2)), load256(q + 16 * i));
                sum_halves(q + 16 * i, &s[0], &s[1]);
                g->sums[b][i] = (int16_t)s[0];
                g->sums[b][i + 1] = (int16_t)s[1];
                g->pairs[b][i / 2] = (int16_t)(s[0] + s[1]);
            }
        }
    }
}

/* ---- norms ---- */

static float sum_of(const float *x, int64_t n, float less, bool squared) {
    __m256 s[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, m = _mm256_set1_ps(less);
    for (int64_t i = 0; i < n; i += 8) {
        int k = n - i < 8 ? (int)(n - i) : 8;
        __m256 v = _mm256_sub_ps(load_some(x + i, k), m);
        if (k < 8) v = _mm256_and_ps(v, _mm256_castsi256_ps(first_lanes(k)));
        s[i / 8 % 2] = squared ? _mm256_fmadd_ps(v, v, s[i / 8 % 2]) : _mm256_add_ps(s[i / 8 % 2], v);
    }
    return sum8(_mm256_add_ps(s[0], s[1]));
}

static void rms_norm(float *y, const float *x, const float *w, int64_t n, float eps) {
    float f = 1 / sqrtf(sum_of(x, n, 0, true) / (float)n + eps);
    for (int64_t i = 0; i < n; i += 8) {
        int k = n - i < 8 ? (int)(n - i) : 8;
        __m256 v = _mm256_mul_ps(load_some(x + i, k), _mm256_set1_ps(f));
        store_some(y + i, w ? _mm256_mul_ps(v, load_some(w + i, k)) : v, k);
    }
}

static void layer_norm(float *y, const float *x, const float *w, const float *b, int64_t n, float eps) {
    float mean = sum_of(x, n, 0, false) / (float)n;
    float f = 1 / sqrtf(sum_of(x, n, mean, true) / (float)n + eps);
    for (int64_t i = 0; i < n; i += 8) {
        int k = n - i < 8 ? (int)(n - i) : 8;
        __m256 v = _mm256_mul_ps(_mm256_sub_ps(load_some(x + i, k), _mm256_set1_ps(mean)), _mm256_set1_ps(f));
        if (w) v = _mm256_mul_ps(v, load_some(w + i, k));
        if (b) v = _mm256_add_ps(v, load_some(b + i, k));
        store_some(y + i, v, k);
    }
}

/* ---- rotation ---- */

static void rope_neox(float *x, const float *cos, const float *sin, int n_rot) {
    int half = n_rot / 2;
    for (int j = 0; j < half; j += 8) {
        int k = half - j;
        __m256 a = load_some(x + j, k), b = load_some(x + j + half, k), c = load_some(cos + j, k),
               s = load_some(sin + j, k);
        store_some(x + j, _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s)), k);
        store_some(x + j + half, _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s)), k);
    }
}

/* ---- activations of feed-forward blocks ---- */

COT_ALWAYS __m256 sigmoid(__m256 x) {
    const __m256 one = _mm256_set1_ps(1);
    return _mm256_div_ps(one, _mm256_add_ps(one, exp8(_mm256_sub_ps(_mm256_setzero_ps(), x))));
}

COT_ALWAYS __m256 activate(cot_glu kind, __m256 g, float alpha, float limit) {
    switch (kind) {
    case COT_GLU_SILU: return _mm256_mul_ps(g, sigmoid(g));
    case COT_GLU_GELU_TANH: { /* ½ (1 + tanh u) = σ(2u) */
        __m256 g3 = _mm256_mul_ps(_mm256_mul_ps(g, g), _mm256_mul_ps(g, _mm256_set1_ps(0.044715f)));
        __m256 u = _mm256_mul_ps(_mm256_add_ps(g, g3), _mm256_set1_ps(2 * 0.7978845608028654f));
        return _mm256_mul_ps(g, sigmoid(u));
    }
    case COT_GLU_SWIGLU_CLAMPED:
        g = _mm256_min_ps(_mm256_set1_ps(limit), g); /* NaN stays */
        return _mm256_mul_ps(g, sigmoid(_mm256_mul_ps(g, _mm256_set1_ps(alpha))));
    case COT_GLU_RELU: return _mm256_max_ps(_mm256_setzero_ps(), g);
    case COT_GLU_GELU_ERF: {
        float v[8];
        _mm256_storeu_ps(v, g);
        for (int i = 0; i < 8; i++) v[i] = 0.5f * v[i] * (1.0f + erff(v[i] * 0.70710678118654752f));
        return _mm256_loadu_ps(v);
    }
    }
    return g;
}

static void glu(cot_glu kind, float *y, const float *gate, const float *up, int64_t n, float alpha,
                float limit) {
    for (int64_t i = 0; i < n; i += 8) {
        int k = n - i < 8 ? (int)(n - i) : 8;
        __m256 v = activate(kind, load_some(gate + i, k), alpha, limit);
        if (up) {
            __m256 u = load_some(up + i, k);
            if (kind == COT_GLU_SWIGLU_CLAMPED) {
                u = _mm256_max_ps(_mm256_set1_ps(-limit), _mm256_min_ps(_mm256_set1_ps(limit), u));
                u = _mm256_add_ps(u, _mm256_set1_ps(1));
            }
            v = _mm256_mul_ps(v, u);
        }
        store_some(y + i, v, k);
    }
}

/* ---- sums ---- */

static void add(float *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i += 8) {
        int k = n - i < 8 ? (int)(n - i) : 8;
        store_some(y + i, _mm256_add_ps(load_some(y + i, k), load_some(x + i, k)), k);
    }
}
static void add_scaled(float *y, const float *x, float a, int64_t n) {
    for (int64_t i = 0; i < n; i += 8) {
        int k = n - i < 8 ? (int)(n - i) : 8;
        store_some(y + i, _mm256_fmadd_ps(_mm256_set1_ps(a), load_some(x + i, k), load_some(y + i, k)), k);
    }
}
static void scale(float *y, float a, int64_t n) {
    for (int64_t i = 0; i < n; i += 8) {
        int k = n - i < 8 ? (int)(n - i) : 8;
        store_some(y + i, _mm256_mul_ps(load_some(y + i, k), _mm256_set1_ps(a)), k);
    }
}
