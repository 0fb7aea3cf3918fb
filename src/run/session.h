/* A session's insides: the block pool, sequences, one ops context. Seen by the files of run. */
#ifndef COT_RUN_SESSION_H
#define COT_RUN_SESSION_H

#include <coterie/session.h>

#include "model/internal.h"

/* A KV block: COT_KV_CHUNK positions of all streams, reference-counted. */
typedef struct cot__block {
    char *data; /* NULL: never used yet */
    int refs;
} cot__block;

typedef struct cot__sequence {
    char **table;   /* data of each block, for the kernels; n_table entries are set */
    int32_t *block; /* number of each block */
    int n_table;
    int32_t *tokens;
    int32_t length;
} cot__sequence;

struct cot_session {
    const cot_model *model;
    cot_session_options opt;
    const cot_kernels *kernels;
    cot__pool *pool;
    cot__arena *arena;
    cot__kv_stream *streams;
    size_t block_bytes;
    cot__block *blocks; /* n_blocks, made when first used */
    int32_t *free_list;
    int n_blocks, n_free;
    cot__sequence *seq;
    int blocks_per_seq;
    uint64_t reserved; /* bytes of the model's budget */
    cot_route_fn *observe;
    void *observe_user;
    /* Row arrays of one pass, opt.chunk long. */
    int32_t *row_token, *row_pos, *row_seq;
    const int32_t **row_history;
    char *const **row_blocks;
    bool *row_wants, *row_generated;
};

/* Makes the next n positions of a sequence writable. */
cot_status cot__sequence_reserve(cot_session *s, cot__sequence *q, int32_t n, cot_error *err);

#endif
