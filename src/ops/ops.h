/* The operations of a forward pass: eager, on rows of F32 activations and weights of any format, parallel
 * inside. Each has the granularity of the kernels that run it. Every result is placed by (row, column), so
 * that threads and batch mates cannot change a bit. With a tape an operation also records itself for
 * backward; with a tap, named values are shown as they are made, and the bits stay the same. */
#ifndef COT_OPS_H
#define COT_OPS_H

#include "base/alloc.h"
#include "base/pool.h"
#include "kernels/kernels.h"
#include "ops/tape.h"

/* Shown a named value: rows × cols floats, stride floats apart; layer −1 outside layers. Read only. */
typedef void cot__tap_fn(void *user, const char *name, int layer, const float *x, size_t stride, int64_t rows,
                         int64_t cols);

/* What every operation needs. One per forward pass; one thread enters operations at a time. */
typedef struct cot__ops {
    const cot_kernels *k;
    cot__pool *pool;
    cot__arena *arena; /* scratch of the pass; operations rewind what they took */
    bool act_f32;      /* activations stay F32 for every weight format (the truth path) */
    cot__tape *tape;   /* NULL: inference */
    cot__tap_fn *tap;  /* NULL: none */
    void *tap_user;
} cot__ops;

static inline void cot__tap(const cot__ops *c, const char *name, int layer, const float *x, size_t stride,
                            int64_t rows, int64_t cols) {
    if (c->tap) c->tap(c->tap_user, name, layer, x, stride, rows, cols);
}

/* Rows of activations together with their encoded forms, each made once and shared by all products. */
typedef struct cot__rows {
    const float *x;
    size_t stride; /* floats */
    int64_t n, cols;
    void *enc[COT_ACT_COUNT];         /* arena memory */
    size_t enc_stride[COT_ACT_COUNT]; /* bytes */
} cot__rows;
static inline cot__rows cot__rows_of(const float *x, size_t stride, int64_t n, int64_t cols) {
    return (cot__rows){.x = x, .stride = stride, .n = n, .cols = cols};
}
/* The form that products with `type` take; makes it when missing. */
cot_status cot__rows_encode(cot__ops *c, cot__rows *rows, cot_type type, const void **act, size_t *stride,
                            cot_error *err);
cot_act cot__act_for(const cot__ops *c, cot_type type);
cot__gemm_fn *cot__gemm_for(const cot__ops *c, cot_type type);

/* out[i][r] = W x_i + b; W rows × cols, b (1 × rows, any type) may be absent. */
cot_status cot__op_linear(cot__ops *c, const cot_view *w, const cot_view *b, cot__rows *x, float *out,
                          size_t out_stride, cot_error *err);
/* Several products of the same rows in one parallel job. b[i] may be absent. */
cot_status cot__op_linears(cot__ops *c, int n, const cot_view *const *w, const cot_view *const *b,
                           cot__rows *x, float *const *out, const size_t *out_stride, cot_error *err);

typedef enum cot_norm { COT_NORM_RMS, COT_NORM_LAYER } cot_norm;
/* n rows of `parts` vectors of cols values each (heads), all normed with the same weight. w, b F32 or NULL.
 */
void cot__op_norm(cot__ops *c, cot_norm kind, float *y, size_t y_stride, const float *x, size_t x_stride,
                  int64_t n, int parts, int64_t cols, const float *w, const float *b, float eps);

/* Rotates heads in place: cos/sin of row i at table + i · (n_rot / 2). */
void cot__op_rope(cot__ops *c, bool neox, float *x, size_t stride, int64_t n, int heads, size_t head_stride,
                  int n_rot, const float *cos, const float *sin);

void cot__op_add(cot__ops *c, float *y, size_t y_stride, const float *x, size_t x_stride, int64_t n,
                 int64_t cols, float scale);
void cot__op_scale(cot__ops *c, float *y, size_t stride, int64_t n, int64_t cols, float a);
/* Rows of an embedding matrix; ids checked by the caller. */
void cot__op_embed(cot__ops *c, const cot_view *w, const int32_t *ids, int64_t n, float *out, size_t stride,
                   float scale);

/* ---- attention over paged keys and values ---- */

/* Where one stream of keys and values lies inside a KV block: per KV head COT_KV_CHUNK rows of k, then of v.
 */
typedef struct cot__kv_stream {
    cot_type type;     /* F32, F16, Q8_0 */
    int heads, dk, dv; /* v_alias: v is the first dv values of k's row and has no rows of its own */
    bool v_alias;
    size_t offset;       /* bytes from the start of the block */
    size_t k_row, v_row; /* bytes of one position of one head */
} cot__kv_stream;
size_t cot__kv_row_bytes(cot_type type, int n);
size_t cot__kv_stream_bytes(const cot__kv_stream *s); /* per block */

/* Writes row i's keys and values (heads · dk and heads · dv floats) to position pos[i] of blocks[i]. */
void cot__op_kv_store(cot__ops *c, const cot__kv_stream *s, char *const *const *blocks, const int32_t *pos,
                      int64_t n, const float *k, size_t k_stride, const float *v, size_t v_stride);

typedef struct cot__attention {
    const cot__kv_stream *kv;
    char *const *const *blocks; /* per row: block table of its sequence */
    const int32_t *pos;         /* per row; the row sees positions (pos − window, pos] */
    int64_t n;
    int heads; /* query heads, a multiple of kv->heads */
    float scale, softcap;
    int window;         /* 0: all */
    const float *sinks; /* per query head, or NULL */
    const float *q;     /* heads · dk */
    size_t q_stride;
    float *out; /* heads · dv */
    size_t out_stride;
} cot__attention;
cot_status cot__op_attention(cot__ops *c, const cot__attention *a, cot_error *err);

#endif
