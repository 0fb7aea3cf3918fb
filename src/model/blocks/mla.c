/* Multi-head latent attention (DeepSeek-V2, 2405.04434), absorbed form for every row: the cache holds one
 * head of [normed latent | rotated key]; queries are carried into the latent space, contexts back out of it.
 */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "model/build.h"

static cot_status bind_kv(cot__build *b, cot__mla_block *a, int layer, cot_error *err) {
    cot__bind *bind = &b->bind;
    cot_view kb;
    COT_TRY(cot__slot_view(bind, "attn_kv_b", layer, -1, &kb, NULL, err));
    if (kb.data) { /* heads × (nope rows of keys, dv rows of values) */
        int step = a->nope + a->dv;
        COT_TRY(cot__slot_check(bind, "attn_kv_b", layer, &kb, (int64_t)a->heads * step, a->kv_rank, err));
        a->wk = a->wv = kb;
        a->k_step = a->v_step = step;
        a->v_first = a->nope;
        return COT_OK;
    }
    a->k_transposed = true;
    a->k_step = a->kv_rank;
    a->v_step = a->dv;
    COT_TRY(
        cot__slot_need(bind, "attn_k_b", layer, -1, (int64_t)a->heads * a->kv_rank, a->nope, &a->wk, err));
    return cot__slot_need(bind, "attn_v_b", layer, -1, (int64_t)a->heads * a->dv, a->kv_rank, &a->wv, err);
}

static cot_status bind_bias(cot__build *b, const char *slot, int layer, int64_t n, cot_view *out,
                            cot_error *err) {
    COT_TRY(cot__slot_bias(&b->bind, slot, layer, -1, out, err));
    return cot__slot_check(&b->bind, slot, layer, out, 1, n, err);
}

cot_status cot__build_mla(cot__build *b, const json_t *op, cot__step *s, cot_error *err) {
    cot__mla_block *a = s->mla = cot__build_alloc(b, sizeof *a, err);
    const cot__arch *arch = b->m->arch;
    cot__bind *bind = &b->bind;
    int64_t heads = 0, q_rank = 0, kv_rank = 0, nope = 0, rot = 0, dv = 0;
    float log_mul = 0, factor = 1;
    if (!a) return COT_NO_MEMORY;
    COT_TRY(cot__arch_int(arch, op, "heads", s->layer, 1, 65536, &heads, err));
    COT_TRY(cot__arch_int(arch, op, "q_rank", s->layer, 0, 65536, &q_rank, err));
    COT_TRY(cot__arch_int(arch, op, "kv_rank", s->layer, 1, 4096, &kv_rank, err));
    COT_TRY(cot__arch_int(arch, op, "nope", s->layer, 1, 4096, &nope, err));
    COT_TRY(cot__arch_int(arch, op, "rot", s->layer, 2, 4096, &rot, err));
    COT_TRY(cot__arch_int(arch, op, "head_dim_v", s->layer, 1, 4096, &dv, err));
    if (!heads || !kv_rank || !nope || !rot || !dv)
        return cot__fail(err, COT_FORMAT, cot__build_path(b), "latent attention", "sizes are not all given");
    *a = (cot__mla_block){.heads = (int)heads,
                          .q_rank = (int)q_rank,
                          .kv_rank = (int)kv_rank,
                          .nope = (int)nope,
                          .rot = (int)rot,
                          .dv = (int)dv};
    a->scale = 1.0f / sqrtf((float)(nope + rot));
    COT_TRY(cot__arch_f32(arch, op, "yarn_log_multiplier", s->layer, &log_mul, err));
    COT_TRY(cot__arch_f32(arch, op, "yarn_factor", s->layer, &factor, err));
    if (log_mul != 0 && factor > 1) {
        float m = 1 + log_mul * logf(factor);
        a->scale *= m * m;
    }
    COT_TRY(cot__build_eps(b, op, &a->norm_eps, err));
    COT_TRY(cot__build_rope(b, op, &a->rope, err));
    if (a->rope < 0 || b->m->rope[a->rope].n_rot != a->rot)
        return cot__fail(err, COT_FORMAT, b->m->arch->file, "rope",
                         "must rotate the %d values of the key's rotary part", a->rot);
    int64_t q = heads * (nope + rot), n = b->m->n_embd;
    if (q_rank) {
        COT_TRY(cot__slot_need(bind, "attn_q_a", s->layer, -1, q_rank, n, &a->wqa, err));
        COT_TRY(cot__slot_need(bind, "attn_q_b", s->layer, -1, q, q_rank, &a->wqb, err));
        COT_TRY(bind_bias(b, "attn_q_a", s->layer, q_rank, &a->bqa, err));
        COT_TRY(bind_bias(b, "attn_q_b", s->layer, q, &a->bqb, err));
        COT_TRY(cot__slot_vector(bind, "attn_q_a_norm", false, s->layer, q_rank, &a->qa_norm, NULL, err));
    } else {
        COT_TRY(cot__slot_need(bind, "attn_q", s->layer, -1, q, n, &a->wq, err));
        COT_TRY(bind_bias(b, "attn_q", s->layer, q, &a->bq, err));
    }
    COT_TRY(cot__slot_need(bind, "attn_kv_a_mqa", s->layer, -1, kv_rank + rot, n, &a->wkva, err));
    COT_TRY(bind_bias(b, "attn_kv_a_mqa", s->layer, kv_rank + rot, &a->bkva, err));
    COT_TRY(cot__slot_vector(bind, "attn_kv_a_norm", false, s->layer, kv_rank, &a->kv_norm, NULL, err));
    if (!a->kv_norm || (q_rank && !a->qa_norm))
        return cot__fail(err, COT_FORMAT, cot__build_path(b), "attn_kv_a_norm or attn_q_a_norm",
                         "layer %d: is missing", s->layer);
    COT_TRY(bind_kv(b, a, s->layer, err));
    COT_TRY(cot__slot_need(bind, "attn_output", s->layer, -1, n, heads * dv, &a->wo, err));
    COT_TRY(bind_bias(b, "attn_output", s->layer, n, &a->bo, err));
    return cot__build_stream(b, 1, a->kv_rank + a->rot, a->kv_rank, true, &s->stream, err);
}

/* Per-head products: rows [first, first + count) of w with each row's slice of x at head · x_step. */
typedef struct head_job {
    cot__ops *c;
    const cot__mla_block *a;
    const cot_view *w;
    bool transposed; /* out = wᵀ x through gemv_t */
    int w_step, w_first, w_count;
    const float *x;
    size_t x_stride, x_step;
    int64_t x_cols;
    float *out;
    size_t out_stride, out_step;
    int64_t n;
    char *enc;
    size_t enc_bytes, enc_thread;
} head_job;

static void head_item(void *arg, size_t head, int thread) {
    const head_job *j = arg;
    int r0 = (int)head * j->w_step + j->w_first;
    const float *x = j->x + head * j->x_step;
    float *out = j->out + head * j->out_step;
    if (j->transposed) {
        for (int64_t i = 0; i < j->n; i++) {
            float *y = out + (size_t)i * j->out_stride;
            memset(y, 0, (size_t)j->w->cols * sizeof *y);
            j->c->k->gemv_t(j->w, r0, r0 + j->w_count, x + (size_t)i * j->x_stride, y);
        }
        return;
    }
    const void *act = x;
    size_t stride = j->x_stride * sizeof *x;
    cot_act kind = cot__act_for(j->c, j->w->type);
    if (kind != COT_ACT_F32) {
        char *enc = j->enc + (size_t)thread * j->enc_thread;
        for (int64_t i = 0; i < j->n; i++)
            j->c->k->act_encode[kind](x + (size_t)i * j->x_stride, enc + (size_t)i * j->enc_bytes, j->x_cols);
        act = enc;
        stride = j->enc_bytes;
    }
    cot__gemm_for(j->c, j->w->type)(j->w, r0, r0 + j->w_count, act, stride, NULL, j->n, out - r0,
                                    j->out_stride);
}

static cot_status heads_run(head_job *j, cot_error *err) {
    cot_act kind = cot__act_for(j->c, j->w->type);
    if (!cot__gemm_for(j->c, j->w->type))
        return cot__fail(err, COT_UNSUPPORTED, NULL, "attn_kv_b", "no product with %s weights",
                         cot_type_name(j->w->type));
    if (!j->transposed && kind != COT_ACT_F32) {
        j->enc_bytes = (cot__act_bytes(kind, j->x_cols) + 63) & ~(size_t)63;
        j->enc_thread = j->enc_bytes * (size_t)j->n;
        j->enc = cot__arena_alloc(j->c->arena, j->enc_thread * (size_t)cot__pool_threads(j->c->pool));
        if (!j->enc) return cot__fail_memory(err, j->enc_thread);
    }
    cot__pool_run(j->c->pool, head_item, j, (size_t)j->a->heads);
    return COT_OK;
}

static cot_status queries(cot__forward *f, const cot__mla_block *a, cot__rows *x, float *q, float *qa,
                          cot_error *err) {
    cot__ops *c = f->ops;
    size_t qs = (size_t)(a->heads * (a->nope + a->rot));
    if (!a->q_rank) return cot__op_linear(c, &a->wq, &a->bq, x, q, qs, err);
    size_t rank = (size_t)a->q_rank;
    COT_TRY(cot__op_linear(c, &a->wqa, &a->bqa, x, qa, rank, err));
    cot__op_norm(c, COT_NORM_RMS, qa, rank, qa, rank, x->n, 1, a->q_rank, a->qa_norm, NULL, a->norm_eps);
    cot__rows y = cot__rows_of(qa, rank, x->n, a->q_rank);
    return cot__op_linear(c, &a->wqb, &a->bqb, &y, q, qs, err);
}

cot_status cot__mla_forward(cot__forward *f, const cot__step *s, cot_error *err) {
    const cot__mla_block *a = s->mla;
    cot__ops *c = f->ops;
    const cot__pass *p = f->pass;
    int64_t n = p->n, n_embd = f->m->n_embd;
    size_t mark = cot__arena_mark(c->arena), un = (size_t)n;
    size_t qh = (size_t)(a->nope + a->rot), qs = (size_t)a->heads * qh, ks = (size_t)(a->kv_rank + a->rot);
    size_t ls = (size_t)a->heads * ks, cs = (size_t)(a->heads * a->kv_rank), os = (size_t)(a->heads * a->dv);
    float *q = cot__arena_alloc(c->arena, un * qs * 4),
          *qa = cot__arena_alloc(c->arena, un * (size_t)a->q_rank * 4),
          *k = cot__arena_alloc(c->arena, un * ks * 4);
    float *lat = cot__arena_alloc(c->arena, un * ls * 4), *ctx = cot__arena_alloc(c->arena, un * cs * 4),
          *o = cot__arena_alloc(c->arena, un * os * 4);
    if (!q || !qa || !k || !lat || !ctx || !o)
        return cot__fail_memory(err, un * (qs + ks + ls + cs + os) * 4);
    cot__rows x = cot__rows_of(f->value[s->in], (size_t)n_embd, n, n_embd);
    const cot__rope *r = &f->m->rope[a->rope];
    COT_TRY(queries(f, a, &x, q, qa, err));
    COT_TRY(cot__op_linear(c, &a->wkva, &a->bkva, &x, k, ks, err));
    cot__op_norm(c, COT_NORM_RMS, k, ks, k, ks, n, 1, a->kv_rank, a->kv_norm, NULL, a->norm_eps);
    cot__op_rope(c, r->neox, k + a->kv_rank, ks, n, 1, 0, r->n_rot, f->cos[a->rope], f->sin[a->rope]);
    cot__op_rope(c, r->neox, q + a->nope, qs, n, a->heads, qh, r->n_rot, f->cos[a->rope], f->sin[a->rope]);
    const cot__kv_stream *kv = &p->streams[s->stream];
    cot__op_kv_store(c, kv, p->blocks, p->pos, n, k, ks, NULL, 0);
    head_job in = {.c = c,
                   .a = a,
                   .w = &a->wk,
                   .transposed = !a->k_transposed,
                   .w_step = a->k_step,
                   .w_count = a->k_transposed ? a->kv_rank : a->nope,
                   .x = q,
                   .x_stride = qs,
                   .x_step = qh,
                   .x_cols = a->nope,
                   .out = lat,
                   .out_stride = ls,
                   .out_step = ks,
                   .n = n};
    COT_TRY(heads_run(&in, err));
    for (size_t i = 0; i < un; i++)
        for (size_t h = 0; h < (size_t)a->heads; h++)
            memcpy(lat + i * ls + h * ks + a->kv_rank, q + i * qs + h * qh + a->nope,
                   (size_t)a->rot * sizeof *q);
    cot__attention at = {.kv = kv,
                         .blocks = p->blocks,
                         .pos = p->pos,
                         .n = n,
                         .heads = a->heads,
                         .scale = a->scale,
                         .window = a->window,
                         .q = lat,
                         .q_stride = ls,
                         .out = ctx,
                         .out_stride = cs};
    COT_TRY(cot__op_attention(c, &at, err));
    head_job out = {.c = c,
                    .a = a,
                    .w = &a->wv,
                    .w_step = a->v_step,
                    .w_first = a->v_first,
                    .w_count = a->dv,
                    .x = ctx,
                    .x_stride = cs,
                    .x_step = (size_t)a->kv_rank,
                    .x_cols = a->kv_rank,
                    .out = o,
                    .out_stride = os,
                    .out_step = (size_t)a->dv,
                    .n = n};
    COT_TRY(heads_run(&out, err));
    cot__rows y = cot__rows_of(o, os, n, (int64_t)os);
    COT_TRY(cot__op_linear(c, &a->wo, &a->bo, &y, f->value[s->out], (size_t)n_embd, err));
    cot__arena_rewind(c->arena, mark);
    return COT_OK;
}
