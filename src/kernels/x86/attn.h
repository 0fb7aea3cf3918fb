/* Attention over one chunk. Each query by itself: its products with the keys in 16 F32 lanes (element d in
 * lane d mod 16), closed as dot_f32 closes them; its weights by exp8; its values added position by position,
 * fused. Keys and values become F32 once for all queries. */
#include "kernels/x86/f32.h"

static void kv_load(cot_type type, float *dst, const void *src, int n) {
    int i = 0;
    if (type == COT_F32) memcpy(dst, src, (size_t)n * sizeof *dst);
    else if (type == COT_F16) {
        const uint16_t *p = src;
        for (; i + LANES <= n; i += LANES) wf_store(dst + i, wf_halves(p + i));
        for (; i < n; i++) dst[i] = half_at((const uint8_t *)(p + i));
    } else {
        for (const uint8_t *p = src; i < n; p += 34) {
            __m256 d = _mm256_set1_ps(half_at(p));
            for (int j = 0; j < 32 && i < n; j += 8, i += 8) {
                __m256i q = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(p + 2 + j)));
                store_some(dst + i, _mm256_mul_ps(d, _mm256_cvtepi32_ps(q)), n - i);
            }
        }
    }
}

static void kv_store(cot_type type, void *dst, const float *x, int n) {
    if (type == COT_F32) memcpy(dst, x, (size_t)n * sizeof *x);
    else if (type == COT_F16) {
        uint16_t *p = dst;
        int i = 0;
        const __m256 most = _mm256_set1_ps(65504);
        for (; i + 8 <= n; i += 8) { /* what is too large becomes the largest; NaN stays */
            __m256 v = _mm256_min_ps(most, _mm256_loadu_ps(x + i));
            v = _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), most), v);
            _mm_storeu_si128((void *)(p + i), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
        }
        if (i < n) cot__type(COT_F16)->encode(x + i, p + i, n - i, NULL);
    } else {
        char *p = dst;
        for (; n > 0; n -= 32, x += 32, p += 34) {
            float padded[32] = {0};
            memcpy(padded, x, (size_t)(n < 32 ? n : 32) * sizeof *x);
            cot__type(COT_Q8_0)->encode(padded, p, 32, NULL);
        }
    }
}

/* ---- products ---- */

enum { KEYS = 4, AT_ONCE = WIDE == 64 ? 4 : 1 }; /* keys and queries of one tile */

/* The sums of four times 16 lanes: ((0+4)+(2+6)) + ((1+5)+(3+7)) over the sums of lanes l and l + 8. */
COT_ALWAYS __m128 close4(widef s[KEYS][HALVES]) {
    __m128 a[KEYS];
    for (int j = 0; j < KEYS; j++) {
#ifdef __AVX512F__
        __m256 v = _mm256_add_ps(_mm512_castps512_ps256(s[j][0]), _mm512_extractf32x8_ps(s[j][0], 1));
#else
        __m256 v = _mm256_add_ps(s[j][0], s[j][1]);
#endif
        a[j] = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    }
    _MM_TRANSPOSE4_PS(a[0], a[1], a[2], a[3]);
    return _mm_add_ps(_mm_add_ps(a[0], a[2]), _mm_add_ps(a[1], a[3]));
}

/* A row of keys or values, F32 or (half) F16 as stored. */
COT_ALWAYS widef row_load(const char *row, bool half, int at) {
    return half ? wf_halves((const uint16_t *)(const void *)row + at)
                : wf_load((const float *)(const void *)row + at);
}
COT_ALWAYS widef row_load_some(const char *row, int at, int some) {
    return wf_load_some((const float *)(const void *)row + at, some);
}

COT_ALWAYS void dots_step(const float *const q[AT_ONCE], int n, const char *const k[KEYS], bool half, int d,
                          int left, widef s[AT_ONCE][KEYS][HALVES]) {
    for (int h = 0; h < HALVES; h++) {
        widef key[KEYS];
        int some = left - LANES * h < LANES ? left - LANES * h : LANES, at = d + LANES * h;
        if (some <= 0) return;
        for (int j = 0; j < KEYS; j++)
            key[j] = some < LANES ? row_load_some(k[j], at, some) : row_load(k[j], half, at);
        for (int i = 0; i < n; i++) {
            widef x = some < LANES ? wf_load_some(q[i] + at, some) : wf_load(q[i] + at);
            for (int j = 0; j < KEYS; j++) s[i][j][h] = wf_fma(x, key[j], s[i][j][h]);
        }
    }
}

/* n queries with four keys: z[i · COT_KV_CHUNK + j]. */
COT_ALWAYS void dots(const float *const q[AT_ONCE], int n, const char *const k[KEYS], bool half, int dk,
                     float *z[AT_ONCE], float scale) {
    widef s[AT_ONCE][KEYS][HALVES];
    int d = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < KEYS; j++)
            for (int h = 0; h < HALVES; h++) s[i][j][h] = wf_zero();
    for (; d + 16 <= dk; d += 16) dots_step(q, n, k, half, d, 16, s);
    if (d < dk) dots_step(q, n, k, half, d, dk - d, s);
    for (int i = 0; i < n; i++) _mm_storeu_ps(z[i], _mm_mul_ps(close4(s[i]), _mm_set1_ps(scale)));
}

/* Positions j0 … j1 − 1, whose keys are in rows, `stride` bytes apart; z has room for three more. */
COT_ALWAYS void score(const float *q, size_t q_stride, int n_q, const char *rows, size_t stride, bool half,
                      int dk, int j0, int j1, float scale, float softcap, float (*z)[COT_KV_CHUNK + KEYS]) {
    for (int j = j0; j < j1; j += KEYS) {
        const char *k[KEYS];
        for (int e = 0; e < KEYS; e++) k[e] = rows + (size_t)((j + e < j1 ? j + e : j1 - 1) - j0) * stride;
        for (int i = 0, step; i < n_q; i += step) {
            const float *at[AT_ONCE];
            float *to[AT_ONCE];
            step = n_q - i >= AT_ONCE ? AT_ONCE : 1;
            for (int e = 0; e < step; e++) at[e] = q + (size_t)(i + e) * q_stride, to[e] = &z[i + e][j];
            if (step == AT_ONCE) dots(at, AT_ONCE, k, half, dk, to, scale);
            else dots(at, 1, k, half, dk, to, scale);
        }
    }
    for (int i = 0; i < n_q && softcap > 0; i++)
        for (int j = j0; j < j1; j++) z[i][j] = softcap * tanhf(z[i][j] / softcap);
}

/* ---- values ---- */

enum { COLUMNS = 8 }; /* vectors of the sum that stay in registers */

COT_ALWAYS void accumulate(float *acc, const char *rows, size_t stride, bool half, int dv, int j0, int j1,
                           const float *p) {
    int d = 0;
    for (; d + COLUMNS * LANES <= dv; d += COLUMNS * LANES) {
        widef a[COLUMNS];
        for (int c = 0; c < COLUMNS; c++) a[c] = wf_load(acc + d + LANES * c);
        for (int j = j0; j < j1; j++) {
            widef w = wf_all(p[j]);
            for (int c = 0; c < COLUMNS; c++)
                a[c] = wf_fma(w, row_load(rows + (size_t)(j - j0) * stride, half, d + LANES * c), a[c]);
        }
        for (int c = 0; c < COLUMNS; c++) wf_store(acc + d + LANES * c, a[c]);
    }
    for (; d < dv; d += LANES) {
        int some = dv - d < LANES ? dv - d : LANES;
        widef a = wf_load_some(acc + d, some);
        for (int j = j0; j < j1; j++) {
            const char *v = rows + (size_t)(j - j0) * stride;
            a = wf_fma(wf_all(p[j]), some < LANES ? row_load_some(v, d, some) : row_load(v, half, d), a);
        }
        wf_store_some(acc + d, a, some);
    }
}

/* Weights e^{z − m} over [from, to), zero elsewhere; the state. */
static cot__attn_state weigh(float *z, int from, int to) {
    cot__attn_state st = {-INFINITY, 0};
    if (from >= to) return st;
    for (int j = from; j < to; j++) st.m = z[j] > st.m ? z[j] : st.m;
    float p[COT_KV_CHUNK + 8];
    for (int j = from & ~7; j < to; j += 8)
        _mm256_storeu_ps(p + j, exp8(_mm256_sub_ps(_mm256_loadu_ps(z + j), _mm256_set1_ps(st.m))));
    for (int j = from; j < to; j++) st.l += z[j] = p[j];
    return st;
}

/* ---- a chunk ---- */

/* Row j of what will be read after the present rows: a chunk is too short for the processor to foresee it. */
COT_ALWAYS void fetch_row(const void *rows, int j, size_t stride) {
    if (!rows) return;
    const char *p = (const char *)rows + (size_t)j * stride;
    for (size_t at = 0; at < stride; at += 64) _mm_prefetch(p + at, _MM_HINT_T0);
}

/* Floats: 40 KiB; queries that share what is loaded; rows at a time when nothing is; queries for which F16 is
 * converted each time it is used. */
enum { ATTN_BUFFER = 10240, QUERIES = 64, STRETCH = 16, DIRECT = 2 };

/* direct: keys and values are F16 and no vector is left half full. */
COT_ALWAYS void attn_queries(const cot__kv_chunk *kv, bool direct, const float *q, size_t q_stride, int n_q,
                             const int *from, const int *to, float scale, float softcap, cot__attn_state *st,
                             float *acc, size_t acc_stride) {
    float rows[ATTN_BUFFER], z[QUERIES][COT_KV_CHUNK + KEYS];
    const char *loaded = (const char *)rows;
    size_t k_stride = direct ? kv->k_stride : (size_t)kv->dk * 4,
           v_stride = direct ? kv->v_stride : (size_t)kv->dv * 4;
    int lo = COT_KV_CHUNK, hi = 0, step = direct ? STRETCH : ATTN_BUFFER / kv->dk / KEYS * KEYS;
    for (int i = 0; i < n_q; i++) {
        if (from[i] >= to[i]) continue;
        lo = from[i] < lo ? from[i] : lo;
        hi = to[i] > hi ? to[i] : hi;
    }
    if (step < 1) step = 1;
    for (int j = lo; j < hi; j += step) {
        int end = hi - j < step ? hi : j + step;
        const char *keys = (const char *)kv->k + (size_t)j * kv->k_stride;
        for (int k = j; k < end; k++) {
            fetch_row(kv->v, k, kv->v_stride);
            if (direct) continue;
            kv_load(kv->k_type, rows + (size_t)(k - j) * (size_t)kv->dk,
                    keys + (size_t)(k - j) * kv->k_stride, kv->dk);
        }
        score(q, q_stride, n_q, direct ? keys : loaded, k_stride, direct, kv->dk, j, end, scale, softcap, z);
    }
    for (int i = 0; i < n_q; i++) {
        st[i] = weigh(z[i], from[i], to[i]);
        memset(acc + (size_t)i * acc_stride, 0, (size_t)kv->dv * sizeof *acc);
    }
    step = direct ? STRETCH : ATTN_BUFFER / kv->dv;
    for (int j = lo; j < hi; j += step) {
        int end = hi - j < step ? hi : j + step;
        const char *values = (const char *)kv->v + (size_t)j * kv->v_stride;
        for (int k = j; k < end; k++) {
            fetch_row(kv->next, k, kv->k_stride);
            if (direct) continue;
            kv_load(kv->v_type, rows + (size_t)(k - j) * (size_t)kv->dv,
                    values + (size_t)(k - j) * kv->v_stride, kv->dv);
        }
        for (int i = 0; i < n_q; i++) { /* a query's own positions alone */
            int f = from[i] > j ? from[i] : j, t = to[i] < end ? to[i] : end;
            if (f < t)
                accumulate(acc + (size_t)i * acc_stride,
                           (direct ? values : loaded) + (size_t)(f - j) * v_stride, v_stride, direct, kv->dv,
                           f, t, z[i]);
        }
    }
}

static void attn_chunk(const cot__kv_chunk *kv, const float *q, size_t q_stride, int n_q, const int *from,
                       const int *to, float scale, float softcap, cot__attn_state *st, float *acc,
                       size_t acc_stride) {
    if (n_q <= DIRECT && kv->k_type == COT_F16 && kv->v_type == COT_F16 && (kv->dk | kv->dv) % 16 == 0) {
        attn_queries(kv, true, q, q_stride, n_q, from, to, scale, softcap, st, acc, acc_stride);
        return;
    }
    for (int i = 0; i < n_q; i += QUERIES)
        attn_queries(kv, false, q + (size_t)i * q_stride, q_stride, n_q - i < QUERIES ? n_q - i : QUERIES,
                     from + i, to + i, scale, softcap, st + i, acc + (size_t)i * acc_stride, acc_stride);
}

static void attn_merge(cot__attn_state *a, float *aacc, const cot__attn_state *b, const float *bacc, int dv) {
    if (b->l == 0) return;
    float m = a->m > b->m ? a->m : b->m, fa = a->l > 0 ? expf(a->m - m) : 0, fb = expf(b->m - m);
    for (int d = 0; d < dv; d += LANES) {
        int some = dv - d < LANES ? dv - d : LANES;
        widef x = wf_mul(wf_load_some(aacc + d, some), wf_all(fa));
        wf_store_some(aacc + d, wf_add(x, wf_mul(wf_load_some(bacc + d, some), wf_all(fb))), some);
    }
    a->l = a->l * fa + b->l * fb;
    a->m = m;
}
