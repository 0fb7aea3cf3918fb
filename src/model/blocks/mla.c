/* Multi-head latent attention (DeepSeek-V2, 2405.04434): the cache holds one head of [normed latent | rotated
 * key]. Two forms, chosen by the row's role and never by its batch mates. Generated rows: absorbed; queries
 * are carried into the latent space, contexts back out of it. Rows of a prompt: every head's keys and values
 * are made from the latents, a chunk of positions at a time, shared by all rows, which costs less as soon as
 * there are a few: a query then meets nope + rot + dv numbers of a position instead of 2 kv_rank + rot. The
 * forms agree to 1e-4 where activations and cache are F32; rounded, they may fall to neighbouring values.
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

enum { ABSORBED_ROWS = 64, NAIVE_ROWS = 512, NAIVE_QUERIES = 64 }; /* most at once */

/* The rows of one forward; q and out hold all of them. */
typedef struct mla_rows {
    cot__forward *f;
    const cot__mla_block *a;
    const cot__kv_stream *kv;
    const float *q; /* heads · (nope + rot) */
    float *out;     /* heads · dv */
    size_t qs, os;
} mla_rows;

/* ---- absorbed ---- */

static cot_status absorbed(const mla_rows *m, int64_t first, int64_t n, cot_error *err) {
    const cot__mla_block *a = m->a;
    cot__ops *c = m->f->ops;
    size_t mark = cot__arena_mark(c->arena), un = (size_t)n, qh = (size_t)(a->nope + a->rot);
    size_t ks = (size_t)(a->kv_rank + a->rot), ls = (size_t)a->heads * ks,
           cs = (size_t)(a->heads * a->kv_rank);
    const float *q = m->q + (size_t)first * m->qs;
    float *lat = cot__arena_alloc(c->arena, un * ls * 4), *ctx = cot__arena_alloc(c->arena, un * cs * 4);
    if (!lat || !ctx) return cot__fail_memory(err, un * (ls + cs) * 4);
    head_job in = {.c = c,
                   .a = a,
                   .w = &a->wk,
                   .transposed = !a->k_transposed,
                   .w_step = a->k_step,
                   .w_count = a->k_transposed ? a->kv_rank : a->nope,
                   .x = q,
                   .x_stride = m->qs,
                   .x_step = qh,
                   .x_cols = a->nope,
                   .out = lat,
                   .out_stride = ls,
                   .out_step = ks,
                   .n = n};
    COT_TRY(heads_run(&in, err));
    for (size_t i = 0; i < un; i++)
        for (size_t h = 0; h < (size_t)a->heads; h++)
            memcpy(lat + i * ls + h * ks + a->kv_rank, q + i * m->qs + h * qh + a->nope,
                   (size_t)a->rot * sizeof *q);
    cot__attention at = {.kv = m->kv,
                         .blocks = m->f->pass->blocks + first,
                         .pos = m->f->pass->pos + first,
                         .n = n,
                         .heads = a->heads,
                         .scale = a->scale,
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
                    .out = m->out + (size_t)first * m->os,
                    .out_stride = m->os,
                    .out_step = (size_t)a->dv,
                    .n = n};
    COT_TRY(heads_run(&out, err));
    cot__arena_rewind(c->arena, mark);
    return COT_OK;
}

/* ---- naive ---- */

/* One item is one head: its slice of kv_b is decoded once, then its chunks of positions are walked upward. */
typedef struct naive_job {
    const mla_rows *m;
    int64_t first, n; /* rows of one sequence, positions ascending */
    float *scratch;   /* per thread */
    size_t scratch_floats;
} naive_job;

static size_t naive_floats(const cot__mla_block *a, int64_t n) {
    size_t wide = (size_t)(a->nope + a->rot + a->dv), rank = (size_t)a->kv_rank;
    size_t floats =
        (size_t)(a->nope + a->dv) * rank + (size_t)a->nope + COT_KV_CHUNK * (rank + (size_t)a->rot + wide) +
        (size_t)(n + NAIVE_QUERIES) * (size_t)a->dv + (size_t)n * sizeof(cot__attn_state) / sizeof(float);
    return (floats + 63) & ~(size_t)63;
}

/* A head's slice of kv_b as rows of F32: nope rows of keys, then dv rows of values; `row` is scratch. */
static void decode_head(const cot__mla_block *a, int head, float *row, float *w) {
    size_t rank = (size_t)a->kv_rank;
    for (int r = 0; a->k_transposed && r < a->kv_rank; r++) {
        cot__view_row(&a->wk, (int64_t)head * a->k_step + r, row);
        for (int i = 0; i < a->nope; i++) w[(size_t)i * rank + (size_t)r] = row[i];
    }
    for (int i = 0; !a->k_transposed && i < a->nope; i++)
        cot__view_row(&a->wk, (int64_t)head * a->k_step + i, w + (size_t)i * rank);
    for (int i = 0; i < a->dv; i++)
        cot__view_row(&a->wv, (int64_t)head * a->v_step + a->v_first + i, w + (size_t)(a->nope + i) * rank);
}

static void naive_item(void *arg, size_t head, int thread) {
    const naive_job *j = arg;
    const mla_rows *m = j->m;
    const cot__mla_block *a = m->a;
    const cot__pass *p = m->f->pass;
    const cot_kernels *k = m->f->ops->k;
    size_t rank = (size_t)a->kv_rank, ks = rank + (size_t)a->rot, qh = (size_t)(a->nope + a->rot);
    size_t wide = qh + (size_t)a->dv, dv = (size_t)a->dv;
    const int32_t *pos = p->pos + j->first;
    float *w = j->scratch + (size_t)thread * j->scratch_floats, *lat = w + (size_t)(a->nope + a->dv) * rank,
          *kv = lat + COT_KV_CHUNK * ks, *acc = kv + COT_KV_CHUNK * wide, *part = acc + (size_t)j->n * dv,
          *row = part + NAIVE_QUERIES * dv;
    cot__attn_state *st = (void *)(row + a->nope), pst[NAIVE_QUERIES];
    int from[NAIVE_QUERIES] = {0}, to[NAIVE_QUERIES];
    cot_view wk = cot__view_make(w, COT_F32, a->nope, a->kv_rank),
             wv = cot__view_make(w + (size_t)a->nope * rank, COT_F32, a->dv, a->kv_rank);
    cot__gemm_fn *gemm = k->gemm_f32[cot__kernel_slot(COT_F32)];
    decode_head(a, (int)head, row, w);
    for (int64_t i = 0; i < j->n; i++) st[i] = (cot__attn_state){-__builtin_inff(), 0};
    memset(acc, 0, (size_t)j->n * dv * sizeof *acc);
    int32_t seen = pos[j->n - 1] + 1;
    for (int32_t base = 0; base < seen; base += COT_KV_CHUNK) {
        const char *rows = p->blocks[j->first][base / COT_KV_CHUNK] + m->kv->offset;
        int here = seen - base < COT_KV_CHUNK ? seen - base : COT_KV_CHUNK;
        for (int i = 0; i < here; i++) {
            k->kv_load(m->kv->type, lat + (size_t)i * ks, rows + (size_t)i * m->kv->k_row, (int)ks);
            memcpy(kv + (size_t)i * wide + a->nope, lat + (size_t)i * ks + rank, (size_t)a->rot * sizeof *kv);
        }
        gemm(&wk, 0, a->nope, lat, ks * sizeof *lat, NULL, here, kv, wide);
        gemm(&wv, 0, a->dv, lat, ks * sizeof *lat, NULL, here, kv + qh, wide);
        cot__kv_chunk chunk = {kv,      kv + qh, COT_F32, COT_F32, wide * sizeof *kv, wide * sizeof *kv,
                               (int)qh, a->dv,   NULL};
        for (int64_t i = 0, nq; i < j->n; i += nq) {
            nq = j->n - i < NAIVE_QUERIES ? j->n - i : NAIVE_QUERIES;
            if (pos[i + nq - 1] < base) continue;
            for (int64_t r = 0; r < nq; r++) {
                int sees = pos[i + r] + 1 - base;
                to[r] = sees < 0 ? 0 : sees < COT_KV_CHUNK ? sees : COT_KV_CHUNK;
            }
            k->attn_chunk(&chunk, m->q + (size_t)(j->first + i) * m->qs + head * qh, m->qs, (int)nq, from, to,
                          a->scale, 0, pst, part, dv);
            for (int64_t r = 0; r < nq; r++)
                if (to[r])
                    k->attn_merge(&st[i + r], acc + (size_t)(i + r) * dv, &pst[r], part + (size_t)r * dv,
                                  a->dv);
        }
    }
    for (int64_t i = 0; i < j->n; i++)
        k->attn_finish(&st[i], acc + (size_t)i * dv, NULL,
                       m->out + (size_t)(j->first + i) * m->os + head * dv, a->dv);
}

static cot_status naive(const mla_rows *m, int64_t first, int64_t n, cot_error *err) {
    cot__ops *c = m->f->ops;
    size_t mark = cot__arena_mark(c->arena);
    naive_job j = {.m = m, .first = first, .n = n, .scratch_floats = naive_floats(m->a, n)};
    size_t bytes = j.scratch_floats * sizeof(float) * (size_t)cot__pool_threads(c->pool);
    j.scratch = cot__arena_alloc(c->arena, bytes);
    if (!j.scratch) return cot__fail_memory(err, bytes);
    cot__pool_run(c->pool, naive_item, &j, (size_t)m->a->heads);
    cot__arena_rewind(c->arena, mark);
    return COT_OK;
}

cot_status cot__mla_forward(cot__forward *f, const cot__step *s, cot_error *err) {
    const cot__mla_block *a = s->mla;
    cot__ops *c = f->ops;
    const cot__pass *p = f->pass;
    int64_t n = p->n, n_embd = f->m->n_embd;
    size_t mark = cot__arena_mark(c->arena), un = (size_t)n;
    size_t qh = (size_t)(a->nope + a->rot), qs = (size_t)a->heads * qh, ks = (size_t)(a->kv_rank + a->rot),
           os = (size_t)(a->heads * a->dv);
    float *q = cot__arena_alloc(c->arena, un * qs * 4),
          *qa = cot__arena_alloc(c->arena, un * (size_t)a->q_rank * 4),
          *k = cot__arena_alloc(c->arena, un * ks * 4), *o = cot__arena_alloc(c->arena, un * os * 4);
    if (!q || !qa || !k || !o) return cot__fail_memory(err, un * (qs + ks + os) * 4);
    cot__rows x = cot__rows_of(f->value[s->in], (size_t)n_embd, n, n_embd);
    const cot__rope *r = &f->m->rope[a->rope];
    COT_TRY(queries(f, a, &x, q, qa, err));
    COT_TRY(cot__op_linear(c, &a->wkva, &a->bkva, &x, k, ks, err));
    cot__op_norm(c, COT_NORM_RMS, k, ks, k, ks, n, 1, a->kv_rank, a->kv_norm, NULL, a->norm_eps);
    cot__op_rope(c, r->neox, k + a->kv_rank, ks, n, 1, 0, r->n_rot, f->cos[a->rope], f->sin[a->rope]);
    cot__op_rope(c, r->neox, q + a->nope, qs, n, a->heads, qh, r->n_rot, f->cos[a->rope], f->sin[a->rope]);
    const cot__kv_stream *kv = &p->streams[s->stream];
    cot__op_kv_store(c, kv, p->blocks, p->pos, n, k, ks, NULL, 0);
    mla_rows m = {.f = f, .a = a, .kv = kv, .q = q, .out = o, .qs = qs, .os = os};
    for (int64_t i = 0, e; i < n; i = e) { /* absorbed: neighbours of any sequence; naive: of one */
        bool generated = p->generated[i];
        for (e = i + 1; e < n && p->generated[e] == generated; e++)
            if (e - i == (generated ? ABSORBED_ROWS : NAIVE_ROWS) ||
                (!generated && p->blocks[e] != p->blocks[i]))
                break;
        COT_TRY(generated ? absorbed(&m, i, e - i, err) : naive(&m, i, e - i, err));
    }
    cot__rows y = cot__rows_of(o, os, n, (int64_t)os);
    COT_TRY(cot__op_linear(c, &a->wo, &a->bo, &y, f->value[s->out], (size_t)n_embd, err));
    cot__arena_rewind(c->arena, mark);
    return COT_OK;
}

uint64_t cot__mla_scratch(const cot__mla_block *a, uint64_t rows, int threads) {
    uint64_t heads = (uint64_t)a->heads, nope = (uint64_t)a->nope, rot = (uint64_t)a->rot,
             dv = (uint64_t)a->dv, rank = (uint64_t)a->kv_rank, wide = rank > nope ? rank : nope;
    uint64_t most = rows < NAIVE_ROWS ? rows : NAIVE_ROWS, few = rows < ABSORBED_ROWS ? rows : ABSORBED_ROWS;
    uint64_t naive = 4 * (uint64_t)threads * naive_floats(a, (int64_t)most),
             absorbed = few * (4 * heads * (2 * rank + rot) + (uint64_t)threads * (2 * wide + 2048)) +
                        (uint64_t)threads * NAIVE_QUERIES * 12 * rank;
    return rows * 4 * (heads * (nope + rot + dv) + rank + rot + (uint64_t)a->q_rank) +
           (naive > absorbed ? naive : absorbed);
}
