/* Conversion, internally: a plan of output tensors, each of which says where its rows come from. */
#ifndef COT_MODEL_CONVERT_H
#define COT_MODEL_CONVERT_H

#include <coterie/convert.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/pool.h"
#include "format/safetensors.h"
#include "model/bind.h"

enum { COT__JOB_SLOTS = 4 };

typedef enum cot__job_kind {
    COT__JOB_COPY,   /* a tensor of the source, row by row */
    COT__JOB_SLOT,   /* slots of the description, put together */
    COT__JOB_LATENT, /* kv_b of latent attention, joined from attn_k_b (turned) and attn_v_b */
    COT__JOB_VALUES, /* numbers that are computed, F32 */
    COT__JOB_ROUTER, /* of a split block */
    COT__JOB_GATE,
    COT__JOB_UP,
    COT__JOB_DOWN
} cot__job_kind;

typedef enum cot__pairing { COT__PAIRING_SAME, COT__PAIRING_TO_NORM, COT__PAIRING_TO_NEOX } cot__pairing;

/* One tensor of the result. Strings live in the plan's arena or the description. */
typedef struct cot__job {
    cot__job_kind kind;
    const char *name;
    cot_type type;
    int n_dims;
    int64_t dims[COT_MAX_DIMS];
    const cot__tensor *copy;
    const char *slot[COT__JOB_SLOTS]; /* rows of the first, then of the second, … */
    int n_slots, layer;
    int expert, n_experts; /* n_experts > 0: for each of them from `expert` on; 0: no expert */
    bool bias, vector;     /* vector: F32 through cot__slot_vector, which adds what the spelling says */
    bool interleave;       /* rows alternate between the slots */
    bool transpose;
    float add;
    cot__pairing pairing;
    int64_t head_dim, n_rot;
    const float *values;
} cot__job;

/* How the neurons of one layer are dealt to experts. */
typedef struct cot__split {
    int layer;      /* −1: none yet */
    int32_t *order; /* neurons, expert by expert */
    float *router;  /* n_experts × n_embd */
    int64_t d_ff, n_embd;
} cot__split;

typedef struct cot__convert {
    const cot_convert_options *o;
    cot__source *source;
    cot__arch *arch;
    cot__store *store; /* renewed for each tensor, so that derived data does not gather */
    cot__pool *pool;
    int wider; /* tensors whose rows are no whole blocks of the wanted format */
    cot__arena *arena;
    cot__job *jobs;
    size_t n_jobs, cap_jobs;
    bool to_gguf;
    cot__gguf_writer *gguf;
    cot__st_writer *st;
    cot__split split;
    int n_layer;
    uint64_t done, total; /* bytes */
} cot__convert;

cot__job *cot__convert_add(cot__convert *c, cot__job_kind kind, const char *name, cot_error *err);
bool cot__convert_is_quantized(cot_type type);
/* Type that a tensor of a source type gets by the options. */
cot_type cot__convert_type(cot__convert *c, const char *name, cot_type from, int64_t rows, int64_t cols);
cot_status cot__convert_store(cot__convert *c, cot_error *err); /* a fresh one */

/* Rows of a view to the output: row i is row order[i] of v, its column j is column cols[j]; NULL: all, as
 * they stand. */
cot_status cot__convert_rows(cot__convert *c, const cot_view *v, int64_t n_rows, const int32_t *order,
                             int64_t n_cols, const int32_t *cols, cot_type type, float add, cot_error *err);
cot_status cot__convert_bytes(cot__convert *c, const void *bytes, size_t n, cot_error *err);

/* The plans. */
cot_status cot__convert_plan_copy(cot__convert *c, cot_error *err);  /* GGUF to GGUF */
cot_status cot__convert_plan_slots(cot__convert *c, cot_error *err); /* from one container to the other */
cot_status cot__convert_plan_split(cot__convert *c, cot_error *err); /* replaces dense blocks */
cot_status cot__convert_latent_job(cot__convert *c, const cot__job *j, cot_error *err);
cot_status cot__convert_slot_job(cot__convert *c, const cot__job *job, cot_error *err);
cot_status cot__convert_split_job(cot__convert *c, const cot__job *job, cot_error *err);
void cot__convert_split_free(cot__split *split);
/* Whether the block of a layer is one that --split-experts cuts. */
bool cot__convert_splits(const cot__convert *c, int layer);

/* Metadata. */
cot_status cot__convert_keys(cot__convert *c, cot_error *err);                    /* of a GGUF */
cot_status cot__convert_config(cot__convert *c, const char *dir, cot_error *err); /* config.json and so on */
cot_status cot__convert_rope_tensors(cot__convert *c, cot_error *err);

#endif
