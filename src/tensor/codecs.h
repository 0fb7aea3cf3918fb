/* Converters of the number formats, one file per family. See type.h for the contract. */
#ifndef COT_TENSOR_CODECS_H
#define COT_TENSOR_CODECS_H

#include <string.h>

#include "tensor/type.h"

#define COT_DECODER(name) void cot__decode_##name(const void *src, float *dst, int64_t n)
#define COT_ENCODER(name)                                                                                    \
    void cot__encode_##name(const float *src, void *dst, int64_t n, const float *importance)

COT_DECODER(f32);
COT_DECODER(f16);
COT_DECODER(bf16);
COT_DECODER(f64);
COT_DECODER(f8_e4m3);
COT_DECODER(q4_0);
COT_DECODER(q4_1);
COT_DECODER(q5_0);
COT_DECODER(q5_1);
COT_DECODER(q8_0);
COT_DECODER(q2_k);
COT_DECODER(q3_k);
COT_DECODER(q4_k);
COT_DECODER(q5_k);
COT_DECODER(q6_k);
COT_DECODER(iq4_nl);
COT_DECODER(iq4_xs);
COT_DECODER(mxfp4);
COT_ENCODER(f32);
COT_ENCODER(f16);
COT_ENCODER(bf16);
COT_ENCODER(q4_0);
COT_ENCODER(q4_1);
COT_ENCODER(q5_0);
COT_ENCODER(q5_1);
COT_ENCODER(q8_0);
COT_ENCODER(q2_k);
COT_ENCODER(q3_k);
COT_ENCODER(q4_k);
COT_ENCODER(q5_k);
COT_ENCODER(q6_k);
COT_ENCODER(mxfp4);

/* Unaligned little-endian halves. */
static inline float cot__half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, 2);
    return cot__f16_to_f32(h);
}
/* A scale: what lies beyond F16 is the largest F16, for an infinite scale would make NaN of every zero. */
static inline void cot__half_put(uint8_t *p, float f) {
    uint16_t h = cot__f32_to_f16(f > 65504 ? 65504 : f < -65504 ? -65504 : f);
    memcpy(p, &h, 2);
}
/* The 6-bit scale and minimum of sub-block j of Q4_K and Q5_K. */
static inline void cot__k4_scale_min(const uint8_t *s, int j, int *scale, int *min) {
    if (j < 4) *scale = s[j] & 63, *min = s[j + 4] & 63;
    else *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4, *min = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
}

extern const int8_t cot__iq4_values[16];
extern const int8_t cot__mxfp4_values[16]; /* twice the value */
/* 2^(e − 128): half the scale, so that doubled values fit; e = 0 and 1 are denormal. */
float cot__mxfp4_scale(uint8_t e);

#endif
