/* Owns: the table of number formats and their names. */
#include "tensor/type.h"

#include <string.h>
#include <strings.h>

#include "tensor/codecs.h"

static const cot__type_info types[] = {
    {COT_F32, "F32", 1, 4, cot__decode_f32, cot__encode_f32},
    {COT_F16, "F16", 1, 2, cot__decode_f16, cot__encode_f16},
    {COT_BF16, "BF16", 1, 2, cot__decode_bf16, cot__encode_bf16},
    {COT_F64, "F64", 1, 8, cot__decode_f64, NULL},
    {COT_Q4_0, "Q4_0", 32, 18, cot__decode_q4_0, cot__encode_q4_0},
    {COT_Q4_1, "Q4_1", 32, 20, cot__decode_q4_1, cot__encode_q4_1},
    {COT_Q5_0, "Q5_0", 32, 22, cot__decode_q5_0, cot__encode_q5_0},
    {COT_Q5_1, "Q5_1", 32, 24, cot__decode_q5_1, cot__encode_q5_1},
    {COT_Q8_0, "Q8_0", 32, 34, cot__decode_q8_0, cot__encode_q8_0},
    {COT_Q2_K, "Q2_K", 256, 84, cot__decode_q2_k, cot__encode_q2_k},
    {COT_Q3_K, "Q3_K", 256, 110, cot__decode_q3_k, cot__encode_q3_k},
    {COT_Q4_K, "Q4_K", 256, 144, cot__decode_q4_k, cot__encode_q4_k},
    {COT_Q5_K, "Q5_K", 256, 176, cot__decode_q5_k, cot__encode_q5_k},
    {COT_Q6_K, "Q6_K", 256, 210, cot__decode_q6_k, cot__encode_q6_k},
    {COT_IQ4_NL, "IQ4_NL", 32, 18, cot__decode_iq4_nl, NULL},
    {COT_IQ4_XS, "IQ4_XS", 256, 136, cot__decode_iq4_xs, NULL},
    {COT_MXFP4, "MXFP4", 32, 17, cot__decode_mxfp4, cot__encode_mxfp4},
    {COT_F8_E4M3, "F8_E4M3", 1, 1, cot__decode_f8_e4m3, NULL},
    {COT_I8, "I8", 1, 1, NULL, NULL},
    {COT_I16, "I16", 1, 2, NULL, NULL},
    {COT_I32, "I32", 1, 4, NULL, NULL},
    {COT_I64, "I64", 1, 8, NULL, NULL},
    {COT_U8, "U8", 1, 1, NULL, NULL},
    {COT_BOOL, "BOOL", 1, 1, NULL, NULL},
    {COT_U16, "U16", 1, 2, NULL, NULL},
    {COT_U32, "U32", 1, 4, NULL, NULL},
    {COT_U64, "U64", 1, 8, NULL, NULL},
};

/* GGUF types that are named and declined. */
static const struct {
    int id;
    const char *name;
} declined[] = {
    {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"},    {17, "IQ2_XS"},   {18, "IQ3_XXS"},  {19, "IQ1_S"},
    {21, "IQ3_S"}, {22, "IQ2_S"}, {29, "IQ1_M"},      {31, "Q4_0_4_4"}, {32, "Q4_0_4_8"}, {33, "Q4_0_8_8"},
    {34, "TQ1_0"}, {35, "TQ2_0"}, {36, "IQ4_NL_4_4"}, {40, "NVFP4"},
};

const cot__type_info *cot__type(int type) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if ((int)types[i].type == type) return &types[i];
    return NULL;
}

const char *cot_type_name(int type) {
    const cot__type_info *t = cot__type(type);
    if (t) return t->name;
    for (size_t i = 0; i < sizeof declined / sizeof *declined; i++)
        if (declined[i].id == type) return declined[i].name;
    return "unknown";
}

cot_type cot_type_from_name(const char *name) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcasecmp(types[i].name, name) == 0) return types[i].type;
    return COT_TYPE_NONE;
}

size_t cot__row_bytes(cot_type type, int64_t n) {
    const cot__type_info *t = cot__type(type);
    if (!t || n < 0 || n % t->block) return 0;
    return (size_t)(n / t->block) * (size_t)t->bytes;
}
