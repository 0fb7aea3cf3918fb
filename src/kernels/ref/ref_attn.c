/* The truth of attention over one chunk, of merging chunks, and of rounding keys and values to the cache
 * type. */
#include <math.h>
#include <string.h>

#include "kernels/ref/ref.h"

static void kv_store(cot_type type, void *dst, const float *x, int n) {
    if (type == COT_F32) memcpy(dst, x, (size_t)n * sizeof *x);
    else if (type == COT_F16) cot__type(COT_F16)->encode(x, dst, n, NULL);
    else {
        char *p = dst;
        for (; n > 0; n -= 32, x += 32, p += 34) {
            float padded[32] = {0};
            memcpy(padded, x, (size_t)(n < 32 ? n : 32) * sizeof *x);
            cot__type(COT_Q8_0)->encode(padded, p, 32, NULL);
        }
    }
}

static void kv_load(cot_type type, float *dst, const void *src, int n) {
    if (type != COT_Q8_0) {
        cot__type(type)->decode(src, dst, n);
        return;
    }
    const char *p = src;
    for (; n > 0; n -= 32, dst += 32, p += 34) {
        float full[32];
        cot__type(COT_Q8_0)->decode(p, full, 32);
        memcpy(dst, full, (size_t)(n < 32 ? n : 32) * sizeof *dst);
    }
}

enum { MAX_DIM = 4096 };

static void attn_chunk(const cot__kv_chunk *kv, const float *q, size_t q_stride, int n_q, const int *from,
                       const int *to, float scale, float softcap, cot__attn_state *st, float *acc,
                       size_t acc_stride) {
    float row[MAX_DIM], z[COT_KV_CHUNK];
    for (int i = 0; i < n_q; i++) {
        float *a = acc + (size_t)i * acc_stride;
        const float *qi = q + (size_t)i * q_stride;
        memset(a, 0, (size_t)kv->dv * sizeof *a);
        st[i] = (cot__attn_state){-INFINITY, 0};
        if (from[i] >= to[i]) continue;
        for (int j = from[i]; j < to[i]; j++) {
            double dot = 0;
            kv_load(kv->k_type, row, (const char *)kv->k + (size_t)j * kv->k_stride, kv->dk);
            for (int d = 0; d < kv->dk; d++) dot += (double)qi[d] * row[d];
            z[j] = (float)dot * scale;
            if (softcap > 0) z[j] = softcap * tanhf(z[j] / softcap);
            st[i].m = z[j] > st[i].m ? z[j] : st[i].m;
        }
        for (int j = from[i]; j < to[i]; j++) {
            float p = expf(z[j] - st[i].m);
            st[i].l += p;
            kv_load(kv->v_type, row, (const char *)kv->v + (size_t)j * kv->v_stride, kv->dv);
            for (int d = 0; d < kv->dv; d++) a[d] = fmaf(p, row[d], a[d]);
        }
    }
}

static void attn_merge(cot__attn_state *a, float *aacc, const cot__attn_state *b, const float *bacc, int dv) {
    if (b->l == 0) return;
    float m = a->m > b->m ? a->m : b->m, fa = a->l > 0 ? expf(a->m - m) : 0, fb = expf(b->m - m);
    for (int d = 0; d < dv; d++) aacc[d] = aacc[d] * fa + bacc[d] * fb;
    a->l = a->l * fa + b->l * fb;
    a->m = m;
}

static void attn_finish(const cot__attn_state *a, const float *aacc, const float *sink, float *out, int dv) {
    float l = a->l, f = 1;
    if (l == 0) {
        memset(out, 0, (size_t)dv * sizeof *out);
        return;
    }
    if (sink) {
        float m = *sink > a->m ? *sink : a->m;
        f = expf(a->m - m);
        l = l * f + expf(*sink - m);
    }
    for (int d = 0; d < dv; d++) out[d] = aacc[d] * f / l;
}

void cot__ref_attn_init(cot_kernels *k) {
    k->kv_store = kv_store;
    k->kv_load = kv_load;
    k->attn_chunk = attn_chunk;
    k->attn_merge = attn_merge;
    k->attn_finish = attn_finish;
}
