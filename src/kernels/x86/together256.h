/* Products of Q4_K, Q5_K and Q6_K whose rows stand together (cot_view.together) with few tokens: straight
 * from memory, a lane for each row, so that nothing is summed across lanes. The same sums in the same order
 * as few256.h. */
#ifndef COT_KERNELS_X86_TOGETHER256_H
#define COT_KERNELS_X86_TOGETHER256_H

#include "kernels/x86/many256.h"

/* Scales and minima of LANES rows: bytes of sub-blocks 0 … 3 and 4 … 7. */
typedef struct heads_together {
    widef d, dmin;
    wide scale[2], min[2];
} heads_together;

COT_ALWAYS void heads_of(const wide h[4], heads_together *x) {
    const wide six = w_all32(0x3f3f3f3f), four = w_all32(0x0f0f0f0f), two = w_all32(0x30303030);
    x->d = halves_of(h[0], 0);
    x->dmin = halves_of(h[0], 1);
    x->scale[0] = w_and(h[1], six);
    x->min[0] = w_and(h[2], six);
    x->scale[1] = w_or(w_and(h[3], four), w_and(COT_WIDE(srli_epi32, h[1], 2), two));
    x->min[1] = w_or(w_and(COT_WIDE(srli_epi32, h[3], 4), four), w_and(COT_WIDE(srli_epi32, h[2], 2), two));
}

/* part + products of four values below 32 with four activations: 32-bit lanes, or pairs of 16 bits. */
COT_ALWAYS wide together_dot(wide part, wide q, wide y) {
#ifdef __AVX512VNNI__
    return _mm512_dpbusd_epi32(part, q, y);
#else
    return w_add16(part, w_maddubs(q, y));
#endif
}
/* s + part times the scale of sub-block j. */
COT_ALWAYS wide together_scaled(wide s, wide part, wide scale, int j) {
#ifdef __AVX512VNNI__
    return w_add32(s, _mm512_mullo_epi32(part, bytes_of(scale, j, 128, 128, 128)));
#else
    return w_dot16(s, part, bytes_of(scale, j, 128, j, 128));
#endif
}

/* A block of 16 rows at p with n tokens; acc: of its LANES rows each. Whole lines are used up at once. */
COT_ALWAYS void together_block(const kind256 *k, const uint8_t *p,
                               const cot__q8_256 *const y[TOGETHER_TOKENS], int b, int n,
                               widef acc[PARTS_OF][4][TOGETHER_TOKENS]) {
    const bool five = k->most == 31;
    const uint8_t *q = p + (five ? 12 : 4) * DWORD, *bits = p + 4 * DWORD;
    const wide low = w_all8(15), one = w_all8(1);
    wide s[PARTS_OF][TOGETHER_TOKENS], m[PARTS_OF][TOGETHER_TOKENS];
    heads_together x[PARTS_OF];
    for (int l = 0; l < PARTS_OF; l++) {
        wide h[4];
        for (int e = 0; e < 4; e++) h[e] = w_load(p + e * DWORD + l * WIDE);
        heads_of(h, &x[l]);
        for (int t = 0; t < n; t++) s[l][t] = m[l][t] = w_zero();
    }
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) { /* sub-blocks 2 g, in the low halves of bytes, and 2 g + 1 */
        wide first[PARTS_OF][TOGETHER_TOKENS], second[PARTS_OF][TOGETHER_TOKENS];
        for (int l = 0; l < PARTS_OF; l++)
            for (int t = 0; t < n; t++) first[l][t] = second[l][t] = w_zero();
#pragma GCC unroll 8
        for (int c = 0; c < 8; c++) {
            fetch_part(p, k->bytes * COT__TOGETHER, 8 * g + c, 32);
            for (int l = 0; l < PARTS_OF; l++) {
                wide v = w_load(q + (8 * g + c) * DWORD + l * WIDE), lo = w_and(v, low),
                     hi = w_and(w_right16(v, 4), low);
                if (five) {
                    wide top = w_load(bits + c * DWORD + l * WIDE);
                    lo = w_or(lo, w_left16(w_and(w_right16(top, 2 * g), one), 4));
                    hi = w_or(hi, w_left16(w_and(w_right16(top, 2 * g + 1), one), 4));
                }
                for (int t = 0; t < n; t++) {
                    const int8_t *u = y[t]->q[b] + 4 * c;
                    first[l][t] = together_dot(first[l][t], lo, w_each32(u + 32 * cot__run_place(2 * g)));
                    second[l][t] =
                        together_dot(second[l][t], hi, w_each32(u + 32 * cot__run_place(2 * g + 1)));
                    w_in_order(first[l][t]);
                    w_in_order(second[l][t]);
                }
            }
        }
        for (int l = 0; l < PARTS_OF; l++) {
            wide least = bytes_of(x[l].min[g / 2], 2 * (g % 2), 128, 2 * (g % 2) + 1, 128);
            for (int t = 0; t < n; t++) {
                s[l][t] = together_scaled(s[l][t], first[l][t], x[l].scale[g / 2], 2 * (g % 2));
                s[l][t] = together_scaled(s[l][t], second[l][t], x[l].scale[g / 2], 2 * (g % 2) + 1);
                m[l][t] = w_dot16(m[l][t], least, w_each32(y[t]->pairs[b] + 2 * g));
            }
        }
    }
    for (int l = 0; l < PARTS_OF; l++)
        for (int t = 0; t < n; t++) {
            widef yd = wf_all(y[t]->d[b]), *a = &acc[l][b][t];
            *a = wf_fma(wf_of(s[l][t]), wf_mul(x[l].d, yd), *a);
            *a = wf_fnma(wf_of(m[l][t]), wf_mul(x[l].dmin, yd), *a);
        }
}

/* The same for Q6_K. */
COT_ALWAYS void together_block6(const uint8_t *p, const cot__q8_256 *const *y, int b, int n,
                                widef acc[PARTS_OF][4][TOGETHER_TOKENS]) {
    enum { STEP = WIDE == 64 ? 4 : 2 }; /* dwords whose sums of products the lanes hold */
    wide s[PARTS_OF][TOGETHER_TOKENS], m[PARTS_OF][TOGETHER_TOKENS];
    for (int l = 0; l < PARTS_OF; l++)
        for (int t = 0; t < n; t++) s[l][t] = m[l][t] = w_zero();
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++)
#pragma GCC unroll 4
        for (int c0 = 0; c0 < 8; c0 += STEP) {
            wide part[PARTS_OF][4][TOGETHER_TOKENS];
            for (int l = 0; l < PARTS_OF; l++)
                for (int r = 0; r < 4; r++)
                    for (int t = 0; t < n; t++) part[l][r][t] = w_zero();
#pragma GCC unroll 4
            for (int c = c0; c < c0 + STEP; c++)
                for (int l = 0; l < PARTS_OF; l++) {
                    wide q[4];
                    fetch_part(p, 210 * COT__TOGETHER, (8 * half + c) * PARTS_OF + l, 16 * PARTS_OF);
                    units6(p, l * LANES, half, c, q);
                    for (int r = 0; r < 4; r++)
                        for (int t = 0; t < n; t++) {
                            const int8_t *u = y[t]->q[b] + 32 * cot__run_place(4 * half + r) + 4 * c;
                            part[l][r][t] = together_dot(part[l][r][t], q[r], w_each32(u));
                        }
                    w_in_order(part[l][0][0]);
                }
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) { /* sub-block 8 half + 2 r, or the one after it */
                int sub = 8 * half + 2 * r + c0 / 4;
                for (int l = 0; l < PARTS_OF; l++) {
                    wide scale = scale6(scales6(p, l * LANES, sub / 4), sub % 4);
                    for (int t = 0; t < n; t++)
#ifdef __AVX512VNNI__
                        s[l][t] = w_add32(s[l][t], _mm512_mullo_epi32(part[l][r][t], scale));
#else
                    {
                        s[l][t] = w_dot16(s[l][t], part[l][r][t], scale);
                        w_in_order(s[l][t]);
                    }
#endif
                }
            }
        }
    for (int l = 0; l < PARTS_OF; l++) {
        widef d = d6(p, l * LANES);
        for (int j = 0; j < 8; j++) {
            wide v = pair6(scales6(p, l * LANES, j / 2), j % 2);
            for (int t = 0; t < n; t++) m[l][t] = w_dot16(m[l][t], v, w_each32(y[t]->sums[b] + 2 * j));
        }
        for (int t = 0; t < n; t++) {
            wide sum = w_sub32(s[l][t], COT_WIDE(slli_epi32, m[l][t], 5));
            acc[l][b][t] = wf_fma(wf_of(sum), wf_mul(d, wf_all(y[t]->d[b])), acc[l][b][t]);
        }
    }
}

COT_ALWAYS void together256(const kind256 *k, const cot_view *w, int64_t r0, int64_t r1,
                            const cot__q8_256 *const *a, int n, float *const *out) {
    const int64_t blocks = w->cols / 256, bytes = (int64_t)k->bytes * COT__TOGETHER;
    for (int64_t r = r0; r < r1; r += COT__TOGETHER) {
        const uint8_t *p = cot__view_at(w, r);
        for (int64_t i = 0; i < blocks; i += DEPTH256) {
            widef acc[PARTS_OF][4][TOGETHER_TOKENS];
            int64_t end = i + DEPTH256 < blocks ? i + DEPTH256 : blocks;
            for (int l = 0; l < PARTS_OF; l++)
                for (int b = 0; b < 4; b++)
                    for (int t = 0; t < n; t++) acc[l][b][t] = wf_zero();
            for (int64_t b = i; b < end; b++, p += bytes) {
                const cot__q8_256 *y[TOGETHER_TOKENS];
                for (int t = 0; t < n; t++) y[t] = a[t] + b / 4;
                if (k->k_head) together_block(k, p, y, (int)(b % 4), n, acc);
                else together_block6(p, y, (int)(b % 4), n, acc);
            }
            for (int l = 0; l < PARTS_OF; l++)
                for (int t = 0; t < n; t++) {
                    widef sum =
                        wf_add(wf_add(acc[l][0][t], acc[l][2][t]), wf_add(acc[l][1][t], acc[l][3][t]));
                    float *o = out[t] + r + l * LANES;
                    wf_store(o, wf_add(sum, i ? wf_load(o) : wf_zero()));
                }
        }
    }
}

#endif
