/* Owns: formats with blocks of 32: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4. */
#include <math.h>

#include "tensor/codecs.h"

const int8_t cot__iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const int8_t cot__mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

float cot__mxfp4_scale(uint8_t e) {
    union {
        uint32_t u;
        float f;
    } v;
    v.u = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23;
    return v.f;
}

COT_DECODER(q4_0) {
    for (const uint8_t *p = src; n > 0; n -= 32, p += 18, dst += 32) {
        float d = cot__half_at(p);
        for (int j = 0; j < 16; j++)
            dst[j] = (float)((p[2 + j] & 15) - 8) * d, dst[j + 16] = (float)((p[2 + j] >> 4) - 8) * d;
    }
}
COT_DECODER(q4_1) {
    for (const uint8_t *p = src; n > 0; n -= 32, p += 20, dst += 32) {
        float d = cot__half_at(p), m = cot__half_at(p + 2);
        for (int j = 0; j < 16; j++)
            dst[j] = (float)(p[4 + j] & 15) * d + m, dst[j + 16] = (float)(p[4 + j] >> 4) * d + m;
    }
}
static inline int high_bit(const uint8_t *qh, int j) { return (qh[j / 8] >> (j % 8) & 1) << 4; }
COT_DECODER(q5_0) {
    for (const uint8_t *p = src; n > 0; n -= 32, p += 22, dst += 32) {
        float d = cot__half_at(p);
        for (int j = 0; j < 16; j++) {
            dst[j] = (float)(((p[6 + j] & 15) | high_bit(p + 2, j)) - 16) * d;
            dst[j + 16] = (float)(((p[6 + j] >> 4) | high_bit(p + 2, j + 16)) - 16) * d;
        }
    }
}
COT_DECODER(q5_1) {
    for (const uint8_t *p = src; n > 0; n -= 32, p += 24, dst += 32) {
        float d = cot__half_at(p), m = cot__half_at(p + 2);
        for (int j = 0; j < 16; j++) {
            dst[j] = (float)((p[8 + j] & 15) | high_bit(p + 4, j)) * d + m;
            dst[j + 16] = (float)((p[8 + j] >> 4) | high_bit(p + 4, j + 16)) * d + m;
        }
    }
}
COT_DECODER(q8_0) {
    for (const uint8_t *p = src; n > 0; n -= 32, p += 34, dst += 32) {
        float d = cot__half_at(p);
        for (int j = 0; j < 32; j++) dst[j] = (float)(int8_t)p[2 + j] * d;
    }
}
COT_DECODER(iq4_nl) {
    for (const uint8_t *p = src; n > 0; n -= 32, p += 18, dst += 32) {
        float d = cot__half_at(p);
        for (int j = 0; j < 16; j++)
            dst[j] = d * cot__iq4_values[p[2 + j] & 15], dst[j + 16] = d * cot__iq4_values[p[2 + j] >> 4];
    }
}
COT_DECODER(mxfp4) {
    for (const uint8_t *p = src; n > 0; n -= 32, p += 17, dst += 32) {
        float d = cot__mxfp4_scale(p[0]);
        for (int j = 0; j < 16; j++)
            dst[j] = d * cot__mxfp4_values[p[1 + j] & 15], dst[j + 16] = d * cot__mxfp4_values[p[1 + j] >> 4];
    }
}

/* ---- encoders ---- */

static float weight_at(const float *importance, const float *x, int j) {
    return importance ? importance[j] : x[j] * x[j] + 1e-12f;
}

static int clamp_int(float v, int lo, int hi) {
    int i = (int)lrintf(v);
    return i < lo ? lo : i > hi ? hi : i;
}

/* Best symmetric scale for levels lo…hi (q = 0 is zero): tries scales around the one that maps the largest
 * value to the far level, refines each by weighted least squares, keeps the least error. */
static float fit_symmetric(const float *x, const float *importance, int n, int lo, int hi) {
    float big = 0;
    for (int j = 0; j < n; j++)
        if (fabsf(x[j]) > fabsf(big)) big = x[j];
    if (big == 0 || !isfinite(big)) return 0;
    float best = 0, best_gain = -1;
    for (int t = -9; t <= 9; t++) {
        float d = big / ((float)lo - 0.1f * (float)t); /* the far level is `lo` */
        float sxq = 0, sqq = 0;
        for (int j = 0; j < n; j++) {
            float q = (float)clamp_int(x[j] / d, lo, hi), w = weight_at(importance, x, j);
            sxq += w * x[j] * q;
            sqq += w * q * q;
        }
        if (sqq > 0 && sxq * sxq / sqq > best_gain) best_gain = sxq * sxq / sqq, best = sxq / sqq;
    }
    return best;
}

COT_ENCODER(q4_0) {
    for (uint8_t *p = dst; n > 0;
         n -= 32, p += 18, src += 32, importance = importance ? importance + 32 : NULL) {
        cot__half_put(p, fit_symmetric(src, importance, 32, -8, 7));
        float d = cot__half_at(p), id = d != 0 ? 1 / d : 0;
        for (int j = 0; j < 16; j++)
            p[2 + j] = (uint8_t)((clamp_int(src[j] * id, -8, 7) + 8) |
                                 (clamp_int(src[j + 16] * id, -8, 7) + 8) << 4);
    }
}
COT_ENCODER(q5_0) {
    for (uint8_t *p = dst; n > 0;
         n -= 32, p += 22, src += 32, importance = importance ? importance + 32 : NULL) {
        cot__half_put(p, fit_symmetric(src, importance, 32, -16, 15));
        float d = cot__half_at(p), id = d != 0 ? 1 / d : 0;
        memset(p + 2, 0, 4);
        for (int j = 0; j < 16; j++) {
            int a = clamp_int(src[j] * id, -16, 15) + 16, b = clamp_int(src[j + 16] * id, -16, 15) + 16;
            p[6 + j] = (uint8_t)((a & 15) | (b & 15) << 4);
            p[2 + j / 8] |= (uint8_t)((a >> 4) << (j % 8));
            p[4 + j / 8] |= (uint8_t)((b >> 4) << (j % 8));
        }
    }
}
static void range_of(const float *x, int n, float *lo, float *hi) {
    *lo = *hi = x[0];
    for (int j = 1; j < n; j++) {
        if (x[j] < *lo) *lo = x[j];
        if (x[j] > *hi) *hi = x[j];
    }
}
COT_ENCODER(q4_1) {
    (void)importance;
    for (uint8_t *p = dst; n > 0; n -= 32, p += 20, src += 32) {
        float lo, hi;
        range_of(src, 32, &lo, &hi);
        cot__half_put(p, (hi - lo) / 15);
        cot__half_put(p + 2, lo);
        float d = cot__half_at(p), m = cot__half_at(p + 2), id = d != 0 ? 1 / d : 0;
        for (int j = 0; j < 16; j++)
            p[4 + j] = (uint8_t)(clamp_int((src[j] - m) * id, 0, 15) |
                                 clamp_int((src[j + 16] - m) * id, 0, 15) << 4);
    }
}
COT_ENCODER(q5_1) {
    (void)importance;
    for (uint8_t *p = dst; n > 0; n -= 32, p += 24, src += 32) {
        float lo, hi;
        range_of(src, 32, &lo, &hi);
        cot__half_put(p, (hi - lo) / 31);
        cot__half_put(p + 2, lo);
        float d = cot__half_at(p), m = cot__half_at(p + 2), id = d != 0 ? 1 / d : 0;
        memset(p + 4, 0, 4);
        for (int j = 0; j < 16; j++) {
            int a = clamp_int((src[j] - m) * id, 0, 31), b = clamp_int((src[j + 16] - m) * id, 0, 31);
            p[8 + j] = (uint8_t)((a & 15) | (b & 15) << 4);
            p[4 + j / 8] |= (uint8_t)((a >> 4) << (j % 8));
            p[6 + j / 8] |= (uint8_t)((b >> 4) << (j % 8));
        }
    }
}
COT_ENCODER(q8_0) {
    (void)importance;
    for (uint8_t *p = dst; n > 0; n -= 32, p += 34, src += 32) {
        float big = 0;
        for (int j = 0; j < 32; j++) big = fabsf(src[j]) > big ? fabsf(src[j]) : big;
        float d = big / 127, id = d != 0 ? 1 / d : 0;
        cot__half_put(p, d);
        for (int j = 0; j < 32; j++) p[2 + j] = (uint8_t)(int8_t)clamp_int(src[j] * id, -127, 127);
    }
}
static int nearest_fp4(float x) { /* x in units of half steps: values 0 1 2 3 4 6 8 12 */
    float a = fabsf(x);
    int best = 0;
    for (int q = 1; q < 8; q++)
        if (fabsf(a - cot__mxfp4_values[q]) < fabsf(a - cot__mxfp4_values[best])) best = q;
    return x < 0 && best ? best | 8 : best;
}
COT_ENCODER(mxfp4) {
    (void)importance;
    for (uint8_t *p = dst; n > 0; n -= 32, p += 17, src += 32) {
        float big = 0;
        for (int j = 0; j < 32; j++) big = fabsf(src[j]) > big ? fabsf(src[j]) : big;
        int e = 0;
        if (big > 0 && isfinite(big)) {
            int exponent;
            frexpf(big, &exponent); /* big = m · 2^exponent, m in [0.5, 1) */
            e = exponent - 1 - 2 + 127;
            e = e < 0 ? 0 : e > 254 ? 254 : e;
        }
        /* The neighbouring scale can be nearer: take the one with the smaller error. */
        double best = INFINITY;
        int chosen = e;
        for (int t = e; t <= e + 1 && t <= 254; t++) {
            double sum = 0, d = cot__mxfp4_scale((uint8_t)t);
            for (int j = 0; j < 32; j++) {
                double diff = src[j] - d * cot__mxfp4_values[nearest_fp4((float)(src[j] / d))];
                sum += diff * diff;
            }
            if (sum < best) best = sum, chosen = t;
        }
        float d = cot__mxfp4_scale((uint8_t)chosen);
        p[0] = (uint8_t)chosen;
        for (int j = 0; j < 16; j++)
            p[1 + j] = (uint8_t)(nearest_fp4(src[j] / d) | nearest_fp4(src[j + 16] / d) << 4);
    }
}
