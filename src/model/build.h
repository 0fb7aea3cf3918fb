/* What the builders of blocks/ share while a description is compiled. */
#ifndef COT_MODEL_BUILD_H
#define COT_MODEL_BUILD_H

#include "model/bind.h"
#include "model/internal.h"

typedef struct cot__build {
    cot_model *m;
    cot__bind bind;
} cot__build;

const char *cot__build_path(const cot__build *b);
void *cot__build_alloc(cot__build *b, size_t bytes, cot_error *err); /* zeroed, lives as long as the model */
cot_status cot__build_rope(cot__build *b, const json_t *op, int *out, cot_error *err);
cot_status cot__build_stream(cot__build *b, int heads, int dk, int dv, bool v_alias, int *out,
                             cot_error *err);
cot_status cot__build_eps(cot__build *b, const json_t *op, float *out, cot_error *err);

cot_status cot__build_attention(cot__build *b, const json_t *op, cot__step *s, cot_error *err);
cot_status cot__build_mla(cot__build *b, const json_t *op, cot__step *s, cot_error *err);
cot_status cot__build_ffn(cot__build *b, const json_t *op, cot__step *s, cot_error *err);
cot_status cot__build_moe(cot__build *b, const json_t *op, cot__step *s, cot_error *err);

/* Forward of the blocks that have a file of their own. `x` rows of the input value; out n × n_embd. */
typedef struct cot__forward {
    const cot_model *m;
    cot__ops *ops;
    const cot__pass *pass;
    float *value[COT__VALUES];
    const float *cos[COT__ROPES], *sin[COT__ROPES]; /* n × n_rot / 2 */
    const float *forecast;                          /* of all banks, by a trained predictor; NULL: none */
} cot__forward;
cot_status cot__attention_forward(cot__forward *f, const cot__step *s, cot_error *err);
cot_status cot__mla_forward(cot__forward *f, const cot__step *s, cot_error *err);
/* Most scratch of a forward of so many rows. */
uint64_t cot__mla_scratch(const cot__mla_block *a, uint64_t rows, int threads);

#endif
