/* Number formats: block geometry and converters. One row per format; dot products live in kernels. */
#ifndef COT_TENSOR_TYPE_H
#define COT_TENSOR_TYPE_H

#include <coterie/types.h>

/* Rows are made of blocks of `block` consecutive elements in `bytes` bytes; a row's length must be a multiple
 * of `block`. Converters work on whole rows of n elements (n % block == 0), need no alignment, and are the
 * reference: plain C, no SIMD. Encoders never produce NaN scales from finite input. F8_E4M3 decodes without
 * its block scales (they are applied by cot__view_row). */
typedef struct cot__type_info {
    cot_type type;
    const char *name;
    int block;
    int bytes;
    void (*decode)(const void *src, float *dst, int64_t n);
    /* importance: n non-negative weights per column or NULL (then the format's usual default weighting). */
    void (*encode)(const float *src, void *dst, int64_t n, const float *importance);
} cot__type_info;

/* NULL for a type we do not compute with. Static storage. */
const cot__type_info *cot__type(int type);

/* Bytes of a row of n elements; 0 when n is not a multiple of the block or the type is unknown.
 * Overflow-safe for n < 2^40. */
size_t cot__row_bytes(cot_type type, int64_t n);

float cot__f16_to_f32(uint16_t h);
uint16_t cot__f32_to_f16(float f); /* round to nearest even */
static inline float cot__bf16_to_f32(uint16_t h) {
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)h << 16};
    return v.f;
}
uint16_t cot__f32_to_bf16(float f); /* round to nearest even, NaN kept */

#endif
