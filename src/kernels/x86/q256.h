/* Products of the formats with blocks of 256: which of two ways a call takes; the bits are the same. */
#include "kernels/x86/few256.h"
#include "kernels/x86/many256.h"
#include "kernels/x86/together256.h"

/* Tokens of act, and where their results go. */
COT_ALWAYS void tokens_of(const void *act, size_t as, const int32_t *idx, int64_t first, int n, float *out,
                          size_t os, const cot__q8_256 **a, float **o) {
    for (int t = 0; t < n; t++) {
        a[t] = (const void *)((const char *)act + (size_t)(idx ? idx[first + t] : first + t) * as);
        o[t] = out + (size_t)(first + t) * os;
    }
}

COT_ALWAYS void gemm_together(const kind256 *k, const cot_view *w, int64_t r0, int64_t r1, const void *act,
                              size_t as, const int32_t *idx, int64_t n, float *out, size_t os) {
    for (int64_t t = 0; t < n;) {
        const cot__q8_256 *a[TOGETHER_TOKENS] = {NULL};
        float *o[TOGETHER_TOKENS] = {NULL};
        int64_t left = n - t;
        int step = left < TOGETHER_TOKENS ? (int)left : TOGETHER_TOKENS;
        tokens_of(act, as, idx, t, step, out, os, a, o);
        if (step == 1) together256(k, w, r0, r1, a, 1, o);
        else if (step == TOGETHER_TOKENS) together256(k, w, r0, r1, a, TOGETHER_TOKENS, o);
        else { /* two, or two and one */ together256(k, w, r0, r1, a, 2, o);
            if (step == 3) together256(k, w, r0, r1, a + 2, 1, o + 2);
        }
        t += step;
    }
}

COT_ALWAYS void gemm256(const kind256 *k, const cot_view *w, int64_t r0, int64_t r1, const void *act,
                        size_t as, const int32_t *idx, int64_t n, float *out, size_t os) {
    if (w->together && n <= TOGETHER_MOST) {
        gemm_together(k, w, r0, r1, act, as, idx, n, out, os);
        return;
    }
    if (n > FEW) {
        read_through(w, r0, r1, LANES);
        for (int64_t t = 0; t < n; t += MANY)
            for (int64_t r = r0; r < r1; r += LANES)
                many256(k, w, r, r1, idx ? act : (const char *)act + (size_t)t * as, as, idx ? idx + t : NULL,
                        n - t < MANY ? n - t : MANY, out + (size_t)t * os, os);
        return;
    }
    const cot__q8_256 *a[FEW] = {NULL};
    float *o[FEW] = {NULL};
    tokens_of(act, as, idx, 0, (int)n, out, os, a, o);
    if (n == 1) few256(k, w, r0, r1, a, 1, o);
    else if (n == 4) few256(k, w, r0, r1, a, 4, o);
    else few256(k, w, r0, r1, a, 2, o);
    if (n == 3) {
        a[0] = a[2], o[0] = o[2];
        few256(k, w, r0, r1, a, 1, o);
    }
}

#define COT_GEMM256(name)                                                                                    \
    static void gemm_##name(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,           \
                            const int32_t *idx, int64_t n, float *out, size_t os) {                          \
        gemm256(&kind_##name, w, r0, r1, act, as, idx, n, out, os);                                          \
    }
COT_GEMM256(q2_k)
COT_GEMM256(q3_k)
COT_GEMM256(q4_k)
COT_GEMM256(q5_k)
COT_GEMM256(q6_k)
COT_GEMM256(iq4_xs)
#undef COT_GEMM256
