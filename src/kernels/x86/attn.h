/* Attention over one chunk. Each query by itself: its products with the keys in 16 F32 lanes, its weights by
 * exp8, its values added position by position, fused. Keys and values are decoded once for all queries. */
#include "kernels/x86/simd.h"

static void kv_load(cot_type type, float *dst, const void *src, int n) {
    int i = 0;
    if (type == COT_F32) memcpy(dst, src, (size_t)n * sizeof *dst);
    else if (type == COT_F16) {
        const uint16_t *p = src;
        for (; i + 8 <= n; i += 8) _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(load128(p + i)));
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

COT_ALWAYS float dot_rows(const float *a, const float *b, int n) {
    __m256 s[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        s[0] = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s[0]);
        s[1] = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), s[1]);
    }
    for (int k = 0; i < n; i += 8, k++)
        s[k] = _mm256_fmadd_ps(load_some(a + i, n - i), load_some(b + i, n - i), s[k]);
    return sum8(_mm256_add_ps(s[0], s[1]));
}

enum { ATTN_BUFFER = 12288 }; /* floats: 48 KiB */

/* Positions [j0, j1) of the chunk, whose keys or values are in rows: products into z. */
static void score(const float *q, const float *rows, int dk, int j0, int j1, float scale, float softcap,
                  float *z) {
    for (int j = j0; j < j1; j++) {
        z[j] = dot_rows(q, rows + (size_t)(j - j0) * (size_t)dk, dk) * scale;
        if (softcap > 0) z[j] = softcap * tanhf(z[j] / softcap);
    }
}

static void accumulate(float *acc, const float *rows, int dv, int j0, int j1, const float *p) {
    for (int d = 0; d < dv; d += 8) {
        __m256 a = load_some(acc + d, dv - d);
        for (int j = j0; j < j1; j++)
            a = _mm256_fmadd_ps(_mm256_set1_ps(p[j]),
                                load_some(rows + (size_t)(j - j0) * (size_t)dv + d, dv - d), a);
        store_some(acc + d, a, dv - d);
    }
}

/* Weights e^{z − m} over [from, to), zero elsewhere; the state. */
static cot__attn_state weigh(float *z, int from, int to) {
    cot__attn_state st = {-INFINITY, 0};
    if (from >= to) return st;
    for (int j = from; j < to; j++) st.m = z[j] > st.m ? z[j] : st.m;
    float p[COT_KV_CHUNK] = {0};
    for (int j = 0; j < COT_KV_CHUNK; j += 8)
        _mm256_storeu_ps(p + j, exp8(_mm256_sub_ps(_mm256_loadu_ps(z + j), _mm256_set1_ps(st.m))));
    for (int j = from; j < to; j++) st.l += z[j] = p[j];
    return st;
}

static void attn_chunk(const cot__kv_chunk *kv, const float *q, size_t q_stride, int n_q, const int *from,
                       const int *to, float scale, float softcap, cot__attn_state *st, float *acc,
                       size_t acc_stride) {
    float rows[ATTN_BUFFER];
    enum { QUERIES = 8 };
    for (int i0 = 0; i0 < n_q; i0 += QUERIES) {
        float z[QUERIES][COT_KV_CHUNK] = {{0}};
        int m = n_q - i0 < QUERIES ? n_q - i0 : QUERIES, lo = COT_KV_CHUNK, hi = 0;
        for (int i = i0; i < i0 + m; i++) {
            if (from[i] >= to[i]) continue;
            lo = from[i] < lo ? from[i] : lo;
            hi = to[i] > hi ? to[i] : hi;
        }
        int step = ATTN_BUFFER / kv->dk;
        for (int j = lo; j < hi; j += step) {
            int end = hi - j < step ? hi : j + step;
            for (int k = j; k < end; k++)
                kv_load(kv->k_type, rows + (size_t)(k - j) * (size_t)kv->dk,
                        (const char *)kv->k + (size_t)k * kv->k_stride, kv->dk);
            for (int i = 0; i < m; i++)
                score(q + (size_t)(i0 + i) * q_stride, rows, kv->dk, j, end, scale, softcap, z[i]);
        }
        for (int i = 0; i < m; i++) {
            st[i0 + i] = weigh(z[i], from[i0 + i], to[i0 + i]);
            memset(acc + (size_t)(i0 + i) * acc_stride, 0, (size_t)kv->dv * sizeof *acc);
        }
        step = ATTN_BUFFER / kv->dv;
        for (int j = lo; j < hi; j += step) {
            int end = hi - j < step ? hi : j + step;
            for (int k = j; k < end; k++)
                kv_load(kv->v_type, rows + (size_t)(k - j) * (size_t)kv->dv,
                        (const char *)kv->v + (size_t)k * kv->v_stride, kv->dv);
            for (int i = 0; i < m; i++) { /* a query's own positions alone */
                int f = from[i0 + i] > j ? from[i0 + i] : j, t = to[i0 + i] < end ? to[i0 + i] : end;
                if (f < t)
                    accumulate(acc + (size_t)(i0 + i) * acc_stride, rows + (size_t)(f - j) * (size_t)kv->dv,
                               kv->dv, f, t, z[i]);
            }
        }
    }
}
