/* Products of the formats with blocks of 256: which of two ways a call takes; the bits are the same. */
#include "kernels/x86/few256.h"
#include "kernels/x86/many256.h"

COT_ALWAYS void gemm256(const kind256 *k, const cot_view *w, int64_t r0, int64_t r1, const void *act,
                        size_t as, const int32_t *idx, int64_t n, float *out, size_t os) {
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
    for (int t = 0; t < n; t++) {
        a[t] = (const void *)((const char *)act + (size_t)(idx ? idx[t] : t) * as);
        o[t] = out + (size_t)t * os;
    }
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
