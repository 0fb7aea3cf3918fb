/* A bound model: the description compiled to steps over named values, weights bound to views. Seen by run. */
#ifndef COT_MODEL_INTERNAL_H
#define COT_MODEL_INTERNAL_H

#include <coterie/model.h>

#include "model/arch.h"
#include "moe/moe.h"
#include "ops/ops.h"
#include "store/store.h"

enum { COT__VALUES = 8, COT__ROPES = 4 };

/* One rotation scheme. Frequencies follow the reference: F32, angle = position · frequency in F32. */
typedef struct cot__rope {
    const char *name;
    int n_rot; /* 0: none */
    bool neox;
    float *freq;         /* n_rot / 2 */
    float *freq_long;    /* LongRoPE above original_ctx, else NULL */
    float mul, mul_long; /* on cos and sin */
    int64_t original_ctx;
} cot__rope;

typedef struct cot__attn_block {
    cot_view wq, wk, wv, wo, bq, bk, bv, bo;
    const float *q_norm, *k_norm, *sinks; /* NULL: none */
    bool norm_full;                       /* over the whole vector, not per head */
    bool norm_after_rope;
    float norm_eps, clip, scale, softcap;
    int heads, kv_heads, dk, dv, window, rope;
} cot__attn_block;

/* Multi-head latent attention (DeepSeek-V2), absorbed: the cache holds [latent | rotated key] of one head. */
typedef struct cot__mla_block {
    cot_view wq, wqa, wqb, wkva, wo;
    const float *qa_norm, *kv_norm;
    cot_view wk; /* k_transposed: heads · kv_rank rows of nope; else rows of kv_rank at head · k_step */
    cot_view wv; /* rows of kv_rank, dv of them at head · v_step + v_first */
    bool k_transposed;
    int k_step, v_step, v_first;
    int heads, nope, rot, dv, kv_rank, q_rank, rope;
    float norm_eps, scale;
    cot_view bq, bqa, bqb, bkva, bo; /* biases, where the file has them */
} cot__mla_block;

typedef enum cot__step_kind {
    COT__STEP_NORM,
    COT__STEP_ATTENTION,
    COT__STEP_MLA,
    COT__STEP_FFN,
    COT__STEP_MOE,
    COT__STEP_ADD
} cot__step_kind;

typedef struct cot__step {
    cot__step_kind kind;
    int layer, in, out; /* values */
    int stream;         /* attention: index of its KV stream */
    float scale;        /* ADD */
    union {
        struct {
            cot_norm kind;
            const float *w, *b;
            float eps;
        } norm;
        cot__attn_block *attn;
        cot__mla_block *mla;
        struct {
            cot__expert expert;
            cot__ffn ffn;
        } * ffn;
        cot__moe *moe;
    };
} cot__step;

struct cot_model {
    cot__source *source;
    cot__arch *arch;
    cot__store *store;
    cot__arena *arena; /* steps and blocks */
    cot__step *steps;  /* all layers in order, then the output steps (layer −1) */
    size_t n_steps, cap_steps;
    cot__kv_stream *streams; /* one per attention step; type and offsets are the session's */
    int n_streams;
    cot__rope rope[COT__ROPES];
    int n_ropes;
    const char *value_name[COT__VALUES];
    int n_values;
    cot_view embed, head, head_bias;
    float embed_scale, logit_scale, logit_softcap;
    int64_t n_embd, n_vocab, n_ctx_train;
    int n_layer, n_sites, max_experts, max_used;
    int head_value;                   /* value that the head reads */
    struct cot__tokenizer *tokenizer; /* NULL: none */
    struct cot__chat *chat;           /* NULL: none */
    char *chat_template;
    int32_t *ends; /* ids that end a generation */
    size_t n_ends;
    cot__predictor *predictor;  /* NULL: none */
    cot__trained *trained;      /* NULL: predictor is of another kind */
    struct cot__budget *budget; /* NULL: nothing is limited */
    cot_model *beside;          /* the next of those that share it */
    cot_residency residency;    /* as settled */
    enum { COT__LOSSY_NONE, COT__LOSSY_LOW, COT__LOSSY_MISS } lossy;
    cot_type tier;               /* of a lossy policy: the lower precision */
    cot_status tokenizer_status; /* why there is no tokenizer */
    cot_error tokenizer_error;
};

/* budget.c: the memory budget. reserve keeps a session's bytes free of experts until it is given back; it
 * fails with the smallest budget that would do. What a streaming model keeps resident is read at the first
 * reserve: by then it is known to fit. Thread-safe. */
cot_status cot__model_settle(cot_model *m, const cot_model_options *o, cot__store_options *store,
                             cot_error *err);
void cot__model_budget(cot_model *m);
cot_status cot__model_reserve(const cot_model *m, uint64_t bytes, cot_error *err);
void cot__model_unreserve(const cot_model *m, uint64_t bytes);
/* Frees the store, too: its room goes to the models beside. */
void cot__model_budget_free(cot_model *m);
/* The predictor of that name or in that file, or the usual one (NULL); nothing where nothing streams. */
cot_status cot__model_predict(cot_model *m, const char *name, cot_error *err);
/* Before results of a pass are given out: the files are what they were. */
cot_status cot__model_check(const cot_model *m, cot_error *err);
/* tiers.c: experts in a lower precision. cot__model_lossy settles the policy ("low", "miss", with ":TYPE";
 * NULL: none); idle: a tensor that it leaves untouched; bind: the same part of an expert, by the name of its
 * tensor, in the lower precision. */
cot_status cot__model_lossy(cot_model *m, const char *policy, cot_error *err);
cot_type cot__tier_of(const char *name);
bool cot__tier_idle(const cot_model *m, const cot__tensor *x);
cot_status cot__tier_bind(const cot_model *m, const char *tensor, cot_view *v, cot_error *err);
const char *cot__lossy_name(const cot_model *m);
/* build.c: compiles the description of model->arch into steps. */
cot_status cot__model_build(cot_model *m, cot_error *err);
/* repack.c: weights in memory take the order that the kernels read fastest. */
cot_status cot__model_repack(cot_model *m, cot_progress_fn *progress, void *user, cot_error *err);
/* rope.c */
cot_status cot__rope_build(cot_model *m, const char *name, const json_t *spec, cot__rope *out,
                           cot_error *err);
/* text_load.c: tokenizer, template and end ids from the source. */
cot_status cot__model_load_text(cot_model *m, cot_error *err);

/* One ragged pass over bound rows. Positions follow the sequences' contents; blocks are writable. */
typedef struct cot__pass {
    int64_t n;
    const int32_t *tokens, *pos, *sequence;
    const int32_t *const *history; /* of each row: its sequence's ids from position 0 to its own */
    char *const *const *blocks;
    const bool *wants, *generated; /* generated: the row's role, see cot_role */
    const cot__kv_stream *streams;
    bool long_rope; /* the session's context exceeds the original one */
    cot__moe_context moe;
    bool (*logits)(void *user, size_t row, const float *logits, int64_t n_vocab);
    void *user;
} cot__pass;
cot_status cot__model_forward(const cot_model *m, cot__ops *ops, const cot__pass *pass, cot_error *err);
/* Largest arena use of a pass of n rows, an upper bound. */
uint64_t cot__model_scratch(const cot_model *m, int64_t n, int threads);

#endif
