/* Products of blocks of 32 whose rows stand together (cot_view.together) with few tokens: straight from
 * memory, a lane for each row. The same sums in the same order as few32.h. */
#ifndef COT_KERNELS_X86_TOGETHER32_H
#define COT_KERNELS_X86_TOGETHER32_H

#include "kernels/x86/many32.h"

/* With AVX-512, what the processor fetches by itself is enough with one token, once the lines of a block are
 * touched in their order before it is used (25 becomes 29 GB/s); with more not enough. */
enum { AHEAD32 = 8192 };

COT_ALWAYS void together32(const kind32 *k, const cot_view *w, int64_t r0, int64_t r1,
                           const cot__q8_32 *const a[TOKENS], int n, float *const out[TOKENS]) {
    const int64_t blocks = w->cols / 32, bytes = (int64_t)k->bytes * COT__TOGETHER;
    for (int64_t r = r0; r < r1; r += COT__TOGETHER) {
        const uint8_t *p = cot__view_at(w, r);
        for (int64_t i = 0; i < blocks; i += DEPTH32) {
            widef acc[PARTS_OF][8][TOKENS];
            int64_t end = i + DEPTH32 < blocks ? i + DEPTH32 : blocks;
            for (int l = 0; l < PARTS_OF; l++)
                for (int b = 0; b < 8; b++)
                    for (int t = 0; t < n; t++) acc[l][b][t] = wf_zero();
            for (int64_t b = i; b < end; b++, p += bytes) {
                const cot__q8_32 *y[TOKENS];
                for (int64_t at = 0; at < bytes && WIDE == 64; at += 64)
                    if (n == 1) (void)*(const volatile uint8_t *)(p + at);
                    else _mm_prefetch((const char *)p + at + AHEAD32, _MM_HINT_T1);
                for (int t = 0; t < n; t++) y[t] = a[t] + b / 8;
                for (int first = 0; first < COT__TOGETHER; first += LANES) {
                    fetch_part(p, (int)bytes, first / LANES, PARTS_OF);
                    widef d = scales_together(k, p, first, false);
                    widef m = k->m_at >= 0 ? scales_together(k, p, first, true) : d;
                    tile32_block(k, true, values_together(k, p, first), d, m, y, (int)(b % 8), n,
                                 acc[first / LANES][b % 8]);
                }
            }
            for (int l = 0; l < PARTS_OF; l++) {
                float *o[TOKENS];
                for (int t = 0; t < n; t++) o[t] = out[t] + r + l * LANES;
                close32(acc[l], n, LANES, i > 0, o);
            }
        }
    }
}

#endif
