/* Coterie: number formats. */
#ifndef COTERIE_TYPES_H
#define COTERIE_TYPES_H

#include <coterie/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Element types. Values below 1000 are GGUF's type ids (only those we compute with are named here; the
 * others are known by name alone, see cot_type_name). Values from 1000 on are ours. */
typedef enum cot_type {
    COT_F32 = 0,
    COT_F16 = 1,
    COT_Q4_0 = 2,
    COT_Q4_1 = 3,
    COT_Q5_0 = 6,
    COT_Q5_1 = 7,
    COT_Q8_0 = 8,
    COT_Q2_K = 10,
    COT_Q3_K = 11,
    COT_Q4_K = 12,
    COT_Q5_K = 13,
    COT_Q6_K = 14,
    COT_IQ4_NL = 20,
    COT_IQ4_XS = 23,
    COT_I8 = 24,
    COT_I16 = 25,
    COT_I32 = 26,
    COT_I64 = 27,
    COT_F64 = 28,
    COT_BF16 = 30,
    COT_MXFP4 = 39,
    COT_F8_E4M3 = 1000, /* with a separate F32 scale per block of rows and columns (DeepSeek style) */
    COT_U8 = 1001,
    COT_BOOL = 1002,
    COT_U16 = 1003,
    COT_U32 = 1004,
    COT_U64 = 1005,
    COT_TYPE_NONE = -1
} cot_type;

/* Name as GGUF tools write it ("Q4_K", "F16"); types of GGUF that we do not compute with are named too
 * ("IQ2_XS"); "unknown" otherwise. Static storage. */
COT_API const char *cot_type_name(int type);
/* The type of a name, case-insensitive; COT_TYPE_NONE when unknown or not computed with. */
COT_API cot_type cot_type_from_name(const char *name);

#ifdef __cplusplus
}
#endif
#endif
