/* Owns: formats with super-blocks of 256: Q2_K … Q6_K, IQ4_XS. */
#include <math.h>

#include "tensor/codecs.h"

COT_DECODER(q2_k) {
    for (const uint8_t *p = src; n > 0; n -= 256, p += 84) {
        float d = cot__half_at(p + 80), min = cot__half_at(p + 82);
        for (int i = 0; i < 16; i++) { /* sub-block i of 16 */
            const uint8_t *q = p + 16 + 32 * (i / 8) + 16 * (i % 2);
            float dl = d * (float)(p[i] & 15), ml = min * (float)(p[i] >> 4);
            int shift = i % 8 / 2 * 2;
            for (int j = 0; j < 16; j++) *dst++ = dl * (float)(q[j] >> shift & 3) - ml;
        }
    }
}
COT_DECODER(q3_k) {
    for (const uint8_t *p = src; n > 0; n -= 256, p += 110) {
        const uint8_t *s = p + 96;
        float d = cot__half_at(p + 108);
        for (int i = 0; i < 16; i++) {
            const uint8_t *q = p + 32 + 32 * (i / 8) + 16 * (i % 2), *h = p + 16 * (i % 2);
            int lo = i < 8 ? s[i] & 15 : s[i - 8] >> 4, hi = s[8 + i % 4] >> (2 * (i / 4)) & 3;
            float dl = d * (float)((lo | hi << 4) - 32);
            int shift = i % 8 / 2 * 2, bit = i / 2;
            for (int j = 0; j < 16; j++)
                *dst++ = dl * (float)((q[j] >> shift & 3) - (h[j] >> bit & 1 ? 0 : 4));
        }
    }
}
COT_DECODER(q4_k) {
    for (const uint8_t *p = src; n > 0; n -= 256, p += 144) {
        float d = cot__half_at(p), min = cot__half_at(p + 2);
        for (int i = 0; i < 8; i++) {
            int sc, m;
            cot__k4_scale_min(p + 4, i, &sc, &m);
            const uint8_t *q = p + 16 + 32 * (i / 2);
            float dl = d * (float)sc, ml = min * (float)m;
            for (int j = 0; j < 32; j++) *dst++ = dl * (float)(i % 2 ? q[j] >> 4 : q[j] & 15) - ml;
        }
    }
}
COT_DECODER(q5_k) {
    for (const uint8_t *p = src; n > 0; n -= 256, p += 176) {
        float d = cot__half_at(p), min = cot__half_at(p + 2);
        for (int i = 0; i < 8; i++) {
            int sc, m;
            cot__k4_scale_min(p + 4, i, &sc, &m);
            const uint8_t *h = p + 16, *q = p + 48 + 32 * (i / 2);
            float dl = d * (float)sc, ml = min * (float)m;
            for (int j = 0; j < 32; j++)
                *dst++ = dl * (float)((i % 2 ? q[j] >> 4 : q[j] & 15) | (h[j] >> i & 1) << 4) - ml;
        }
    }
}
COT_DECODER(q6_k) {
    for (const uint8_t *p = src; n > 0; n -= 256, p += 210) {
        float d = cot__half_at(p + 208);
        for (int half = 0; half < 2; half++)
            for (int i = 0; i < 4; i++) { /* 32 values each */
                const uint8_t *l = p + 64 * half + 32 * (i % 2), *h = p + 128 + 32 * half;
                const int8_t *s = (const int8_t *)p + 192 + 8 * half + 2 * i;
                for (int j = 0; j < 32; j++) {
                    int q = (i < 2 ? l[j] & 15 : l[j] >> 4) | (h[j] >> (2 * i) & 3) << 4;
                    *dst++ = d * (float)s[j / 16] * (float)(q - 32);
                }
            }
    }
}
COT_DECODER(iq4_xs) {
    for (const uint8_t *p = src; n > 0; n -= 256, p += 136, dst += 256) {
        float d = cot__half_at(p);
        for (int i = 0; i < 8; i++) {
            int high = (p[2] | p[3] << 8) >> (2 * i) & 3, low = p[4 + i / 2] >> (4 * (i % 2)) & 15;
            float dl = d * (float)((low | high << 4) - 32);
            const uint8_t *q = p + 8 + 16 * i;
            for (int j = 0; j < 16; j++)
                dst[32 * i + j] = dl * cot__iq4_values[q[j] & 15],
                             dst[32 * i + j + 16] = dl * cot__iq4_values[q[j] >> 4];
        }
    }
}

/* ---- encoders ---- */

static int clamp_int(float v, int lo, int hi) {
    int i = (int)lrintf(v);
    return i < lo ? lo : i > hi ? hi : i;
}

/* x ≈ scale · q − min with q in 0…levels and min ≥ 0: tries several steps, solves scale and min for each
 * choice of q by weighted least squares, keeps the least weighted error. */
static float fit_affine(const float *x, const float *w, int n, int levels, float *min_out) {
    float lo = x[0], hi = x[0], best_scale, best_min;
    for (int j = 1; j < n; j++) lo = x[j] < lo ? x[j] : lo, hi = x[j] > hi ? x[j] : hi;
    if (lo > 0) lo = 0;
    *min_out = -lo;
    if (!(hi > lo)) return 0;
    best_scale = (hi - lo) / (float)levels;
    best_min = -lo;
    double best = INFINITY;
    for (int t = 0; t <= 20; t += levels < 4 ? 4 : 1) { /* few levels leave little to try */
        float d = (hi - lo) / ((float)levels - 1 + 0.1f * (float)t);
        double sw = 0, sq = 0, sqq = 0, sx = 0, sxq = 0;
        for (int j = 0; j < n; j++) {
            double q = clamp_int((x[j] - lo) / d, 0, levels);
            sw += w[j], sq += w[j] * q, sqq += w[j] * q * q, sx += (double)w[j] * x[j],
                sxq += (double)w[j] * x[j] * q;
        }
        double det = sw * sqq - sq * sq;
        if (det <= 0) continue;
        double scale = (sw * sxq - sq * sx) / det, off = (sqq * sx - sq * sxq) / det;
        if (off > 0) off = 0, scale = sqq > 0 ? sxq / sqq : 0;
        if (scale <= 0) continue;
        double e = 0;
        for (int j = 0; j < n; j++) {
            double diff = scale * clamp_int((float)((x[j] - off) / scale), 0, levels) + off - x[j];
            e += w[j] * diff * diff;
        }
        if (e < best) best = e, best_scale = (float)scale, best_min = (float)-off;
    }
    *min_out = best_min;
    return best_scale;
}

/* The part that Q4_K and Q5_K share: scales and minima of eight sub-blocks of 32, packed in 6 bits, and the
 * levels. */
static void encode_k(const float *x, const float *importance, int levels, uint8_t *head, uint8_t *q) {
    float scale[8], min[8], max_scale = 0, max_min = 0, rms = 0;
    for (int j = 0; j < 256; j++) rms += x[j] * x[j];
    rms = sqrtf(rms / 256);
    for (int i = 0; i < 8; i++) {
        float w[32];
        for (int j = 0; j < 32; j++)
            w[j] = importance ? importance[32 * i + j] * sqrtf(rms * rms + x[32 * i + j] * x[32 * i + j])
                              : rms + fabsf(x[32 * i + j]);
        scale[i] = fit_affine(x + 32 * i, w, 32, levels, &min[i]);
        max_scale = scale[i] > max_scale ? scale[i] : max_scale;
        max_min = min[i] > max_min ? min[i] : max_min;
    }
    memset(head, 0, 16);
    cot__half_put(head, max_scale / 63);
    cot__half_put(head + 2, max_min / 63);
    float d = cot__half_at(head), dm = cot__half_at(head + 2);
    for (int i = 0; i < 8; i++) {
        int s = d > 0 ? clamp_int(scale[i] / d, 0, 63) : 0, m = dm > 0 ? clamp_int(min[i] / dm, 0, 63) : 0;
        uint8_t *t = head + 4;
        if (i < 4) t[i] |= (uint8_t)s, t[i + 4] |= (uint8_t)m;
        else
            t[i + 4] = (uint8_t)((s & 15) | (m & 15) << 4), t[i - 4] |= (uint8_t)(s >> 4 << 6),
                  t[i] |= (uint8_t)(m >> 4 << 6);
        float dl = d * (float)s, ml = dm * (float)m;
        for (int j = 0; j < 32; j++)
            q[32 * i + j] = dl > 0 ? (uint8_t)clamp_int((x[32 * i + j] + ml) / dl, 0, levels) : 0;
    }
}

COT_ENCODER(q4_k) {
    uint8_t q[256];
    for (uint8_t *p = dst; n > 0;
         n -= 256, p += 144, src += 256, importance = importance ? importance + 256 : NULL) {
        encode_k(src, importance, 15, p, q);
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 32; j++)
                p[16 + 32 * i + j] = (uint8_t)(q[64 * i + j] | q[64 * i + 32 + j] << 4);
    }
}
COT_ENCODER(q5_k) {
    uint8_t q[256];
    for (uint8_t *p = dst; n > 0;
         n -= 256, p += 176, src += 256, importance = importance ? importance + 256 : NULL) {
        encode_k(src, importance, 31, p, q);
        memset(p + 16, 0, 32);
        for (int i = 0; i < 8; i++)
            for (int j = 0; j < 32; j++) p[16 + j] |= (uint8_t)((q[32 * i + j] >> 4) << i);
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 32; j++)
                p[48 + 32 * i + j] = (uint8_t)((q[64 * i + j] & 15) | (q[64 * i + 32 + j] & 15) << 4);
    }
}

COT_ENCODER(q2_k) {
    for (uint8_t *p = dst; n > 0;
         n -= 256, p += 84, src += 256, importance = importance ? importance + 256 : NULL) {
        float scale[16], min[16], max_scale = 0, max_min = 0;
        for (int i = 0; i < 16; i++) {
            float w[16], square = 0;
            for (int j = 0; j < 16; j++) square += src[16 * i + j] * src[16 * i + j];
            for (int j = 0; j < 16; j++) {
                float x = src[16 * i + j];
                w[j] = importance ? importance[16 * i + j] * sqrtf(square / 16 + x * x) : sqrtf(square / 16);
            }
            scale[i] = fit_affine(src + 16 * i, w, 16, 3, &min[i]);
            max_scale = scale[i] > max_scale ? scale[i] : max_scale;
            max_min = min[i] > max_min ? min[i] : max_min;
        }
        memset(p, 0, 84);
        cot__half_put(p + 80, max_scale / 15);
        cot__half_put(p + 82, max_min / 15);
        float d = cot__half_at(p + 80), dm = cot__half_at(p + 82);
        for (int i = 0; i < 16; i++) {
            int s = d > 0 ? clamp_int(scale[i] / d, 0, 15) : 0,
                m = dm > 0 ? clamp_int(min[i] / dm, 0, 15) : 0;
            uint8_t *q = p + 16 + 32 * (i / 8) + 16 * (i % 2);
            float dl = d * (float)s, ml = dm * (float)m;
            p[i] = (uint8_t)(s | m << 4);
            for (int j = 0; j < 16 && dl > 0; j++)
                q[j] |= (uint8_t)(clamp_int((src[16 * i + j] + ml) / dl, 0, 3) << (i % 8 / 2 * 2));
        }
    }
}

/* Symmetric fit of 16 values to −most … most − 1. */
static float fit_symmetric(const float *x, const float *importance, int most) {
    float big = 0, best = 0, gain = -1;
    for (int j = 0; j < 16; j++)
        if (fabsf(x[j]) > fabsf(big)) big = x[j];
    if (big == 0 || !isfinite(big)) return 0;
    for (int t = -9; t <= 9; t++) {
        float d = big / (-(float)most - 0.1f * (float)t), sxq = 0, sqq = 0;
        for (int j = 0; j < 16; j++) {
            float q = (float)clamp_int(x[j] / d, -most, most - 1),
                  w = importance ? importance[j] : x[j] * x[j];
            sxq += w * x[j] * q;
            sqq += w * q * q;
        }
        if (sqq > 0 && sxq * sxq / sqq > gain) gain = sxq * sxq / sqq, best = sxq / sqq;
    }
    return best;
}

/* The scales of all sub-blocks of 16, and the one that is largest in magnitude. */
static float fit_all(const float *x, const float *importance, int most, float scale[16]) {
    float big = 0;
    for (int i = 0; i < 16; i++) {
        scale[i] = fit_symmetric(x + 16 * i, importance ? importance + 16 * i : NULL, most);
        if (fabsf(scale[i]) > fabsf(big)) big = scale[i];
    }
    return big;
}

COT_ENCODER(q6_k) {
    for (uint8_t *p = dst; n > 0;
         n -= 256, p += 210, src += 256, importance = importance ? importance + 256 : NULL) {
        float scale[16], big = fit_all(src, importance, 32, scale);
        memset(p, 0, 210);
        if (big == 0) continue;
        cot__half_put(p + 208, big / -128);
        float d = cot__half_at(p + 208);
        uint8_t q[256];
        for (int i = 0; i < 16; i++) {
            int s = d != 0 ? clamp_int(scale[i] / d, -128, 127) : 0;
            p[192 + i] = (uint8_t)(int8_t)s;
            float dl = d * (float)s;
            for (int j = 0; j < 16; j++)
                q[16 * i + j] = (uint8_t)((dl != 0 ? clamp_int(src[16 * i + j] / dl, -32, 31) : 0) + 32);
        }
        for (int half = 0; half < 2; half++)
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 32; j++) {
                    uint8_t v = q[128 * half + 32 * i + j];
                    p[64 * half + 32 * (i % 2) + j] |= (uint8_t)(i < 2 ? v & 15 : (v & 15) << 4);
                    p[128 + 32 * half + j] |= (uint8_t)((v >> 4) << (2 * i));
                }
    }
}

COT_ENCODER(q3_k) {
    for (uint8_t *p = dst; n > 0;
         n -= 256, p += 110, src += 256, importance = importance ? importance + 256 : NULL) {
        float scale[16], big = fit_all(src, importance, 4, scale);
        memset(p, 0, 110);
        if (big == 0) continue;
        cot__half_put(p + 108, big / -32);
        float d = cot__half_at(p + 108);
        for (int i = 0; i < 16; i++) {
            int s = d != 0 ? clamp_int(scale[i] / d, -32, 31) : 0, v = s + 32;
            uint8_t *q = p + 32 + 32 * (i / 8) + 16 * (i % 2), *h = p + 16 * (i % 2), *low = p + 96 + i % 8;
            *low |= (uint8_t)((v & 15) << (i < 8 ? 0 : 4));
            p[104 + i % 4] |= (uint8_t)((v >> 4) << (2 * (i / 4)));
            float dl = d * (float)s;
            for (int j = 0; j < 16; j++) {
                int x = (dl != 0 ? clamp_int(src[16 * i + j] / dl, -4, 3) : 0) + 4;
                q[j] |= (uint8_t)((x & 3) << (i % 8 / 2 * 2));
                h[j] |= (uint8_t)((x >> 2) << (i / 2));
            }
        }
    }
}
