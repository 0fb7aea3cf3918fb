/* Binding: from a slot of the description to a view of the file's bytes. */
#ifndef COT_MODEL_BIND_H
#define COT_MODEL_BIND_H

#include "model/arch.h"
#include "store/store.h"

typedef struct cot__bind {
    const cot__arch *arch;
    cot__store *store;
    bool *seen; /* per tensor of the file: asked for by name; NULL: not counted */
} cot__bind;

/* The tensor of a slot at layer (−1: none) and expert (−1: the whole stack), by the first spelling that the
 * file has. Absent: out->data == NULL and COT_OK. Transforms that are a stride are views; the others are
 * materialised in the store. *name_out, when not NULL, gets the tensor's name (owned by the tensor set). */
cot_status cot__slot_view(const cot__bind *b, const char *slot, int layer, int expert, cot_view *out,
                          const char **name_out, cot_error *err);
/* The twin of a slot whose name ends in .bias instead of .weight; a vector of any type. */
cot_status cot__slot_bias(const cot__bind *b, const char *slot, int layer, int expert, cot_view *out,
                          cot_error *err);
/* As cot__slot_view, and an error that names the wanted tensor when absent or not rows × cols (−1: any). */
cot_status cot__slot_need(const cot__bind *b, const char *slot, int layer, int expert, int64_t rows,
                          int64_t cols, cot_view *out, cot_error *err);
/* A vector of n values (n = −1: any, *n_out gets it) as F32; NULL when absent. */
cot_status cot__slot_vector(const cot__bind *b, const char *slot, bool bias, int layer, int64_t n,
                            const float **out, int64_t *n_out, cot_error *err);
/* Checks a bound matrix's or bias's shape; absent passes. */
cot_status cot__slot_check(const cot__bind *b, const char *slot, int layer, const cot_view *v, int64_t rows,
                           int64_t cols, cot_error *err);
enum { COT__SLOT_NAME = 256 };
/* Writes a template of the description with {i} and {e} filled in; bias: ending in .bias instead of .weight
 * (_bias where there is no .weight). False: a number that the template wants is negative, or too long. */
bool cot__slot_expand(const char *template, int layer, int expert, bool bias, char out[COT__SLOT_NAME]);
/* tiers.c: the name of a lower precision of a tensor. */
void cot__tier_name(const char *tensor, cot_type type, char out[COT__SLOT_NAME]);
bool cot__slot_exists(const cot__bind *b, const char *slot, int layer);

#endif
