/* The stages of a routed feed-forward: score, select, edit, place, compute, combine, with the plan as plain
 * data. */
#ifndef COT_MOE_H
#define COT_MOE_H

#include <coterie/route.h>

#include "ops/ops.h"
#include "store/predict.h"
#include "store/store.h"

typedef enum cot__score { COT__SCORE_IDENT, COT__SCORE_SOFTMAX, COT__SCORE_SIGMOID } cot__score;
typedef enum cot__select { COT__SELECT_TOPK, COT__SELECT_SEQ_MASKED, COT__SELECT_ALL } cot__select;
typedef enum cot__weight_source {
    COT__WEIGHT_SCORE,
    COT__WEIGHT_SOFTMAX_SELECTED,
    COT__WEIGHT_ONE
} cot__weight_source;
typedef enum cot__group_score { COT__GROUP_MAX, COT__GROUP_TOP2 } cot__group_score;

/* The fields that express a router; see card 3's overview for the systems that they cover. */
typedef struct cot__router {
    cot_view w;               /* n_experts × n_embd; logits are computed in F32 whatever its type */
    const float *bias;        /* added to the logits, or NULL */
    const float *select_bias; /* added to the selection key only, or NULL */
    int n_experts, k;
    cot__score score;
    cot__select select;
    cot__weight_source source;
    int n_group, n_group_keep; /* ≤ 1: no groups */
    cot__group_score group_score;
    bool norm;          /* divide the weights by their sum */
    float norm_eps;     /* added to the sum */
    float scale;        /* multiplies the weights */
    bool norm_or_scale; /* scale only where the weights are not normalised (DeepSeek-V2) */
    float jitter;       /* SEQ_MASKED: ε of the SparseMixer threshold */
} cot__router;

typedef enum cot__shared_gate { COT__SHARED_PLAIN, COT__SHARED_SIGMOID } cot__shared_gate;

/* How one expert computes: down(act(gate x) · up x), with biases where they are there. */
typedef struct cot__ffn {
    cot_glu act;
    float alpha, limit;
} cot__ffn;

/* The plan while it is being made: arena memory, ids ascending in each unit. */
typedef struct cot__plan {
    int32_t n_units, n_experts;
    int32_t *first;
    int32_t *ids;
    float *weights;
    uint8_t *flags;
} cot__plan;

/* An operator on the plan or on the scores, in the order given. */
typedef struct cot__edit {
    bool on_scores; /* before select: rows × n_experts scores; else on the plan */
    cot_status (*apply)(void *user, int site, cot__plan *plan, float *scores, cot_error *err);
    void *user;
} cot__edit;

/* Chooses for n rows of logits (row-major n × n_experts, overwritten by scores). No model needed. */
cot_status cot__route_select(const cot__router *r, float *logits, int n, int site, const cot__edit *edits,
                             int n_edits, cot__arena *arena, cot__plan *out, cot_error *err);

/* One routed feed-forward over rows x; out is overwritten. */
typedef struct cot__moe {
    cot__router router;
    cot__ffn ffn;
    int bank;
    int n_embd;
    bool has_shared;
    cot__expert shared;
    cot_view shared_gate_w; /* 1 × n_embd, or absent */
    int site, layer;
} cot__moe;

struct cot__moe;
typedef struct cot__moe_context {
    const cot__edit *edits;
    int n_edits;
    int k_override; /* 0: the router's own k */
    cot_route_fn *observe;
    void *observe_user;
    const int32_t *sequence, *position, *token;
    cot__predictor *predictor;   /* NULL: no hints */
    const struct cot__moe *next; /* the next routed layer of the pass; NULL: this is the last */
    cot__rows *ahead;            /* what that layer would see if nothing came between; NULL: not known */
    const float *forecast;       /* of a trained predictor, about that layer's experts; NULL: none */
} cot__moe_context;

cot_status cot__moe_forward(cot__ops *c, const cot__moe *m, cot__store *store, const cot__moe_context *ctx,
                            cot__rows *x, float *out, size_t out_stride, cot_error *err);

/* The grouped computation itself: experts e = 0 … n − 1 in this order, expert e on rows unit[first[e] …
 * first[e+1]) of x with these weights; out[row] = Σ weight · expert(x_row), summed in the order of e. Rows
 * without an expert get zeros. A dense feed-forward is one expert on all rows. */
typedef struct cot__expert_rows {
    const cot__expert *expert;
    const int32_t *rows;  /* ascending; NULL: all rows */
    const float *weights; /* NULL: 1 */
    int n;
} cot__expert_rows;
cot_status cot__experts_compute(cot__ops *c, const cot__ffn *ffn, const cot__expert_rows *groups,
                                int n_groups, cot__rows *x, float *out, size_t out_stride, cot_error *err);
/* The same in two steps, for experts that are not at hand together. Apart: the results of the groups' rows
 * one after the other (x->cols floats each), not weighted, into `part`. Sum: out[row] += weight · result, in
 * the order of the groups, of which group g's first result is at[g]; clear: so many rows of out are set to
 * zero before. Encode: x in the forms that this expert's products want, so that they outlive one computation.
 */
cot_status cot__experts_apart(cot__ops *c, const cot__ffn *ffn, const cot__expert_rows *groups, int n_groups,
                              cot__rows *x, float *part, cot_error *err);
void cot__experts_sum(cot__ops *c, const cot__expert_rows *groups, const size_t *at, int n_groups,
                      const float *part, int64_t n_embd, int64_t clear, float *out, size_t out_stride);
cot_status cot__experts_encode(cot__ops *c, const cot__expert *e, cot__rows *x, cot_error *err);

/* One routed feed-forward where experts stream: computed as they arrive, a window of them at a time, each
 * row's result kept apart and added in ascending id. groups: the chosen experts, whose `expert` is not set.
 * out need not be cleared. The bits are those of cot__experts_compute over all of them with the shared expert
 * last. */
cot_status cot__moe_streamed(cot__ops *c, const cot__moe *m, cot__store *store, const cot__moe_context *ctx,
                             const cot__plan *plan, cot__expert_rows *groups, const int32_t *ids, int n,
                             const cot__expert_rows *shared, cot__rows *x, float *out, size_t out_stride,
                             cot_error *err);
/* Hints for the next layer, from the plan of this one; few rows only. Called while reads are under way. */
void cot__moe_predict(cot__ops *c, const cot__moe *m, cot__store *store, const cot__moe_context *ctx,
                      const cot__plan *plan, cot__rows *x);
/* Hints for layer m by its own gate on rows that resemble those it will get; few rows only. sure: nothing but
 * attention comes between. */
void cot__moe_foresee(cot__ops *c, const cot__moe *m, cot__store *store, cot__rows *x, bool sure);
/* Hints for layer m by a probability for each of its experts. */
void cot__moe_foretold(const cot__moe *m, cot__store *store, const float *forecast);
/* Most bytes of scratch that it takes for so many rows beyond what cot__experts_compute takes. */
uint64_t cot__moe_streamed_scratch(const cot__moe *m, uint64_t rows);

#endif
