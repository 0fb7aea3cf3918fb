/* Owns: row-wise operations and products. Refuses: knowing what a model is. */
#include "ops/ops.h"

#include <string.h>

#include "base/error.h"

cot_act cot__act_for(const cot__ops *c, cot_type type) {
    int s = cot__kernel_slot(type);
    return c->act_f32 || s < 0 ? COT_ACT_F32 : c->k->act[s];
}

cot__gemm_fn *cot__gemm_for(const cot__ops *c, cot_type type) {
    int s = cot__kernel_slot(type);
    if (s < 0) return NULL;
    return c->act_f32 ? c->k->gemm_f32[s] : c->k->gemm[s];
}

typedef struct encode_job {
    cot__ops *c;
    cot__rows *rows;
    cot_act act;
    int64_t per;
} encode_job;

static void encode_item(void *arg, size_t item, int thread) {
    encode_job *j = arg;
    int64_t a = (int64_t)item * j->per, b = a + j->per < j->rows->n ? a + j->per : j->rows->n;
    for (int64_t i = a; i < b; i++)
        j->c->k->act_encode[j->act](j->rows->x + (size_t)i * j->rows->stride,
                                    (char *)j->rows->enc[j->act] + (size_t)i * j->rows->enc_stride[j->act],
                                    j->rows->cols);
}

cot_status cot__rows_encode(cot__ops *c, cot__rows *rows, cot_type type, const void **act, size_t *stride,
                            cot_error *err) {
    cot_act a = cot__act_for(c, type);
    if (a == COT_ACT_F32) {
        *act = rows->x;
        *stride = rows->stride * sizeof(float);
        return COT_OK;
    }
    if (!rows->enc[a]) {
        size_t bytes = (cot__act_bytes(a, rows->cols) + 63) & ~(size_t)63;
        void *p = cot__arena_alloc(c->arena, bytes * (size_t)rows->n);
        if (!p) return cot__fail_memory(err, bytes * (size_t)rows->n);
        rows->enc[a] = p;
        rows->enc_stride[a] = bytes;
        encode_job j = {c, rows, a, rows->n >= 16 ? 8 : rows->n};
        cot__pool_run(c->pool, encode_item, &j, (size_t)((rows->n + j.per - 1) / j.per));
    }
    *act = rows->enc[a];
    *stride = rows->enc_stride[a];
    return COT_OK;
}

/* ---- products ---- */

enum { MAX_LINEARS = 8 };

typedef struct linear_part {
    const cot_view *w, *b;
    cot__gemm_fn *gemm;
    const void *act;
    size_t act_stride;
    float *out;
    size_t out_stride;
    size_t first;     /* first item of this part */
    int64_t rows_per; /* of an item */
} linear_part;

typedef struct linear_job {
    linear_part part[MAX_LINEARS];
    int n_parts;
    int64_t n;
} linear_job;

static void add_bias(const cot_view *b, int64_t r0, int64_t r1, float *out, size_t stride, int64_t n) {
    float tmp[64];
    const cot__type_info *t = cot__type(b->type);
    const char *data = b->data;
    for (int64_t r = r0; r < r1; r += 64) {
        int64_t m = r1 - r < 64 ? r1 - r : 64;
        t->decode(data + (size_t)r * (size_t)t->bytes, tmp, m);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < m; j++) out[(size_t)i * stride + (size_t)(r + j)] += tmp[j];
    }
}

static void linear_item(void *arg, size_t item, int thread) {
    linear_job *j = arg;
    int p = j->n_parts - 1;
    while (p > 0 && item < j->part[p].first) p--;
    linear_part *q = &j->part[p];
    int64_t r0 = (int64_t)(item - q->first) * q->rows_per;
    int64_t r1 = r0 + q->rows_per < q->w->rows ? r0 + q->rows_per : q->w->rows;
    q->gemm(q->w, r0, r1, q->act, q->act_stride, NULL, j->n, q->out, q->out_stride);
    if (q->b && q->b->data) add_bias(q->b, r0, r1, q->out, q->out_stride, j->n);
}

/* Rows of a work item. Few tokens: long runs, because reading starts anew with every item, as far as all
 * threads get enough of them. A router has few rows, and all threads want some. */
static int64_t item_rows(int64_t rows, int64_t tokens, int threads) {
    int64_t share = rows / ((int64_t)threads * 12) / 16 * 16;
    int64_t most = tokens <= 16 ? 256 : 64;
    return share < 16 ? 16 : share > most ? most : share;
}

cot_status cot__op_linears(cot__ops *c, int n, const cot_view *const *w, const cot_view *const *b,
                           cot__rows *x, float *const *out, const size_t *out_stride, cot_error *err) {
    linear_job j = {.n = x->n};
    if (n > MAX_LINEARS) return cot__fail(err, COT_INTERNAL, NULL, NULL, "too many products in one call");
    size_t items = 0;
    int64_t all = 0;
    for (int i = 0; i < n; i++) all += w[i]->rows;
    for (int i = 0; i < n; i++) {
        linear_part *p = &j.part[j.n_parts++];
        *p = (linear_part){
            .w = w[i], .b = b ? b[i] : NULL, .out = out[i], .out_stride = out_stride[i], .first = items};
        if (w[i]->cols != x->cols)
            return cot__fail(err, COT_INTERNAL, NULL, NULL, "matrix and rows differ in width");
        p->gemm = cot__gemm_for(c, w[i]->type);
        if (!p->gemm)
            return cot__fail(err, COT_UNSUPPORTED, NULL, NULL, "no product with %s weights",
                             cot_type_name(w[i]->type));
        COT_TRY(cot__rows_encode(c, x, w[i]->type, &p->act, &p->act_stride, err));
        p->rows_per = item_rows(all, x->n, cot__pool_threads(c->pool));
        items += (size_t)((w[i]->rows + p->rows_per - 1) / p->rows_per);
        if (c->tape) cot__tape_record(c->tape, COT_OP_LINEAR, p, sizeof *p);
    }
    cot__pool_run(c->pool, linear_item, &j, items);
    return COT_OK;
}

cot_status cot__op_linear(cot__ops *c, const cot_view *w, const cot_view *b, cot__rows *x, float *out,
                          size_t out_stride, cot_error *err) {
    return cot__op_linears(c, 1, &w, &b, x, &out, &out_stride, err);
}

/* ---- row-wise operations: one job shape for all ---- */

typedef struct row_job {
    cot__ops *c;
    int kind; /* cot__op_kind */
    float *y;
    const float *x, *w, *b, *cos, *sin;
    size_t y_stride, x_stride, head_stride;
    int64_t n, cols, per;
    int parts, n_rot;
    cot_norm norm;
    bool neox;
    float eps, scale;
    const cot_view *view;
    const int32_t *ids;
} row_job;

static void row_one(const row_job *j, int64_t i) {
    const cot_kernels *k = j->c->k;
    float *y = j->y + (size_t)i * j->y_stride;
    const float *x = j->x ? j->x + (size_t)i * j->x_stride : NULL;
    switch (j->kind) {
    case COT_OP_NORM:
        for (int p = 0; p < j->parts; p++, y += j->cols, x += j->cols) {
            if (j->norm == COT_NORM_RMS) k->rms_norm(y, x, j->w, j->cols, j->eps);
            else k->layer_norm(y, x, j->w, j->b, j->cols, j->eps);
        }
        break;
    case COT_OP_ROPE:
        for (int p = 0; p < j->parts; p++, y += j->head_stride) {
            const float *cos = j->cos + i * (j->n_rot / 2), *sin = j->sin + i * (j->n_rot / 2);
            if (j->neox) k->rope_neox(y, cos, sin, j->n_rot);
            else k->rope_norm(y, cos, sin, j->n_rot);
        }
        break;
    case COT_OP_ADD:
        if (j->scale == 1.0f) k->add(y, x, j->cols);
        else k->add_scaled(y, x, j->scale, j->cols);
        break;
    case COT_OP_SCALE: k->scale(y, j->scale, j->cols); break;
    case COT_OP_EMBED:
        cot__view_row(j->view, j->ids[i], y);
        if (j->scale != 1.0f) k->scale(y, j->scale, j->cols);
        break;
    default: break;
    }
}

static void row_item(void *arg, size_t item, int thread) {
    const row_job *j = arg;
    int64_t a = (int64_t)item * j->per, b = a + j->per < j->n ? a + j->per : j->n;
    for (int64_t i = a; i < b; i++) row_one(j, i);
}

static void row_run(row_job *j) {
    if (j->c->tape) cot__tape_record(j->c->tape, j->kind, j, sizeof *j);
    j->per = j->n >= 16 ? 8 : j->n ? j->n : 1; /* few rows: not worth waking anybody */
    cot__pool_run(j->c->pool, row_item, j, (size_t)((j->n + j->per - 1) / j->per));
}

void cot__op_norm(cot__ops *c, cot_norm kind, float *y, size_t y_stride, const float *x, size_t x_stride,
                  int64_t n, int parts, int64_t cols, const float *w, const float *b, float eps) {
    row_job j = {.c = c,
                 .kind = COT_OP_NORM,
                 .y = y,
                 .y_stride = y_stride,
                 .x = x,
                 .x_stride = x_stride,
                 .n = n,
                 .parts = parts,
                 .cols = cols,
                 .w = w,
                 .b = b,
                 .eps = eps,
                 .norm = kind};
    row_run(&j);
}

void cot__op_rope(cot__ops *c, bool neox, float *x, size_t stride, int64_t n, int heads, size_t head_stride,
                  int n_rot, const float *cos, const float *sin) {
    row_job j = {.c = c,
                 .kind = COT_OP_ROPE,
                 .y = x,
                 .y_stride = stride,
                 .n = n,
                 .parts = heads,
                 .head_stride = head_stride,
                 .n_rot = n_rot,
                 .cos = cos,
                 .sin = sin,
                 .neox = neox};
    row_run(&j);
}

void cot__op_add(cot__ops *c, float *y, size_t y_stride, const float *x, size_t x_stride, int64_t n,
                 int64_t cols, float scale) {
    row_job j = {.c = c,
                 .kind = COT_OP_ADD,
                 .y = y,
                 .y_stride = y_stride,
                 .x = x,
                 .x_stride = x_stride,
                 .n = n,
                 .cols = cols,
                 .scale = scale};
    row_run(&j);
}

void cot__op_scale(cot__ops *c, float *y, size_t stride, int64_t n, int64_t cols, float a) {
    row_job j = {.c = c, .kind = COT_OP_SCALE, .y = y, .y_stride = stride, .n = n, .cols = cols, .scale = a};
    row_run(&j);
}

void cot__op_embed(cot__ops *c, const cot_view *w, const int32_t *ids, int64_t n, float *out, size_t stride,
                   float scale) {
    row_job j = {.c = c,
                 .kind = COT_OP_EMBED,
                 .y = out,
                 .y_stride = stride,
                 .n = n,
                 .cols = w->cols,
                 .scale = scale,
                 .view = w,
                 .ids = ids};
    row_run(&j);
}
