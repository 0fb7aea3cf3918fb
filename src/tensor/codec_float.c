/* Owns: floating-point formats of one element. */
#include <math.h>

#include "tensor/codecs.h"

float cot__f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 0x3ff;
    union {
        uint32_t u;
        float f;
    } v;
    if (exp == 31) v.u = sign | 0x7f800000u | man << 13;
    else if (exp) v.u = sign | (exp + 112) << 23 | man << 13;
    else {
        v.f = (float)man * 0x1p-24f;
        v.u |= sign;
    }
    return v.f;
}

uint16_t cot__f32_to_f16(float f) {
    union {
        float f;
        uint32_t u;
    } v = {f};
    uint16_t sign = (uint16_t)(v.u >> 16 & 0x8000);
    uint32_t a = v.u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x1ff));
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* rounds to infinity */
    if (a < 0x38800000u) {                                  /* denormal: let F32 addition round */
        union {
            float f;
            uint32_t u;
        } d = {.u = a};
        d.f += 0.5f;
        return (uint16_t)(sign | (d.u - 0x3f000000u));
    }
    a += 0xfff + (a >> 13 & 1);
    return (uint16_t)(sign | (a - 0x38000000u) >> 13);
}

uint16_t cot__f32_to_bf16(float f) {
    union {
        float f;
        uint32_t u;
    } v = {f};
    if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(v.u >> 16 | 0x40);
    return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}

COT_DECODER(f32) { memcpy(dst, src, (size_t)n * 4); }
COT_ENCODER(f32) { (void)importance, memcpy(dst, src, (size_t)n * 4); }

COT_DECODER(f16) {
    for (int64_t i = 0; i < n; i++) dst[i] = cot__half_at((const uint8_t *)src + 2 * i);
}
COT_ENCODER(f16) {
    (void)importance;
    for (int64_t i = 0; i < n; i++) cot__half_put((uint8_t *)dst + 2 * i, src[i]);
}

COT_DECODER(bf16) {
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, (const char *)src + 2 * i, 2);
        dst[i] = cot__bf16_to_f32(h);
    }
}
COT_ENCODER(bf16) {
    (void)importance;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = cot__f32_to_bf16(src[i]);
        memcpy((char *)dst + 2 * i, &h, 2);
    }
}

COT_DECODER(f64) {
    for (int64_t i = 0; i < n; i++) {
        double x;
        memcpy(&x, (const char *)src + 8 * i, 8);
        dst[i] = (float)x;
    }
}

/* Sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, 0x7f is NaN. */
COT_DECODER(f8_e4m3) {
    const uint8_t *p = src;
    for (int64_t i = 0; i < n; i++) {
        int exp = p[i] >> 3 & 15, man = p[i] & 7;
        float x = (p[i] & 0x7f) == 0x7f ? NAN
                  : exp                 ? ldexpf(1 + (float)man / 8, exp - 7)
                                        : ldexpf((float)man / 8, -6);
        dst[i] = p[i] & 0x80 ? -x : x;
    }
}
