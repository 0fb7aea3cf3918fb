/* Products of the formats with blocks of 32: which of two ways a call takes; the bits are the same. */
#include "kernels/x86/few32.h"
#include "kernels/x86/many32.h"
#include "kernels/x86/together32.h"

COT_ALWAYS void gemm_together32(const kind32 *k, const cot_view *w, int64_t r0, int64_t r1, const void *act,
                                size_t as, const int32_t *idx, int64_t n, float *out, size_t os) {
    for (int64_t t = 0, step; t < n; t += step) {
        const cot__q8_32 *a[TOKENS];
        float *o[TOKENS];
        step = n - t >= TOGETHER_TOKENS ? TOGETHER_TOKENS : n - t >= 2 ? 2 : 1;
        for (int64_t j = 0; j < step; j++) {
            a[j] = (const void *)((const char *)act + (size_t)(idx ? idx[t + j] : t + j) * as);
            o[j] = out + (size_t)(t + j) * os;
        }
        if (step == 1) together32(k, w, r0, r1, a, 1, o);
        else if (step == TOGETHER_TOKENS) together32(k, w, r0, r1, a, TOGETHER_TOKENS, o);
        else together32(k, w, r0, r1, a, 2, o);
    }
}

COT_ALWAYS void gemm32(const kind32 *k, const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,
                       const int32_t *idx, int64_t n, float *out, size_t os) {
    if (w->together && n <= TOGETHER_MOST) {
        gemm_together32(k, w, r0, r1, act, as, idx, n, out, os);
        return;
    }
    if (n > FEW) {
        read_through(w, r0, r1, LANES);
        for (int64_t t = 0; t < n; t += MANY)
            for (int64_t r = r0; r < r1; r += LANES)
                many32(k, w, r, r1, idx ? act : (const char *)act + (size_t)t * as, as, idx ? idx + t : NULL,
                       n - t < MANY ? n - t : MANY, out + (size_t)t * os, os);
        return;
    }
    const cot__q8_32 *a[FEW] = {NULL};
    float *o[FEW] = {NULL};
    for (int t = 0; t < n; t++) {
        a[t] = (const void *)((const char *)act + (size_t)(idx ? idx[t] : t) * as);
        o[t] = out + (size_t)t * os;
    }
    if (n == 1) few32(k, w, r0, r1, a, 1, o);
    else if (n == 4) few32(k, w, r0, r1, a, 4, o);
    else few32(k, w, r0, r1, a, 2, o);
    if (n == 3) {
        a[0] = a[2], o[0] = o[2];
        few32(k, w, r0, r1, a, 1, o);
    }
}

#define COT_GEMM32(name)                                                                                     \
    static void gemm_##name(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t as,           \
                            const int32_t *idx, int64_t n, float *out, size_t os) {                          \
        gemm32(&kind_##name, w, r0, r1, act, as, idx, n, out, os);                                           \
    }
COT_GEMM32(q8_0)
COT_GEMM32(q4_0)
COT_GEMM32(q4_1)
COT_GEMM32(q5_0)
COT_GEMM32(q5_1)
COT_GEMM32(iq4_nl)
COT_GEMM32(mxfp4)
#undef COT_GEMM32
