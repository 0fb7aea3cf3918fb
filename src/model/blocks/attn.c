/* The attention mechanism: multi-head or grouped queries, optional biases, norms on queries and keys, clamp,
 * rotation, window, sinks. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "model/build.h"

static cot_status bind_weights(cot__build *b, cot__attn_block *a, int layer, cot_error *err) {
    cot__bind *bind = &b->bind;
    int64_t q = (int64_t)a->heads * a->dk, k = (int64_t)a->kv_heads * a->dk, v = (int64_t)a->kv_heads * a->dv,
            o = (int64_t)a->heads * a->dv;
    COT_TRY(cot__slot_need(bind, "attn_q", layer, -1, q, b->m->n_embd, &a->wq, err));
    COT_TRY(cot__slot_need(bind, "attn_k", layer, -1, k, b->m->n_embd, &a->wk, err));
    COT_TRY(cot__slot_need(bind, "attn_v", layer, -1, v, b->m->n_embd, &a->wv, err));
    COT_TRY(cot__slot_need(bind, "attn_output", layer, -1, b->m->n_embd, o, &a->wo, err));
    COT_TRY(cot__slot_bias(bind, "attn_q", layer, -1, &a->bq, err));
    COT_TRY(cot__slot_bias(bind, "attn_k", layer, -1, &a->bk, err));
    COT_TRY(cot__slot_bias(bind, "attn_v", layer, -1, &a->bv, err));
    COT_TRY(cot__slot_bias(bind, "attn_output", layer, -1, &a->bo, err));
    COT_TRY(cot__slot_check(bind, "attn_q bias", layer, &a->bq, 1, q, err));
    COT_TRY(cot__slot_check(bind, "attn_k bias", layer, &a->bk, 1, k, err));
    COT_TRY(cot__slot_check(bind, "attn_v bias", layer, &a->bv, 1, v, err));
    COT_TRY(cot__slot_check(bind, "attn_output bias", layer, &a->bo, 1, b->m->n_embd, err));
    return cot__slot_vector(bind, "attn_sinks", false, layer, a->heads, &a->sinks, NULL, err);
}

/* Per head (Qwen3) or over the whole vector (OLMoE): the weight's length says which. */
static cot_status bind_qk_norm(cot__build *b, cot__attn_block *a, int layer, cot_error *err) {
    int64_t nq, nk;
    COT_TRY(cot__slot_vector(&b->bind, "attn_q_norm", false, layer, -1, &a->q_norm, &nq, err));
    COT_TRY(cot__slot_vector(&b->bind, "attn_k_norm", false, layer, -1, &a->k_norm, &nk, err));
    if (!a->q_norm && !a->k_norm) return COT_OK;
    if (nq == a->dk && nk == a->dk) a->norm_full = false;
    else if (nq == (int64_t)a->heads * a->dk && nk == (int64_t)a->kv_heads * a->dk) a->norm_full = true;
    else
        return cot__fail(err, COT_FORMAT, cot__build_path(b), "attn_q_norm",
                         "layer %d: %lld and %lld values fit neither one head nor all heads", layer,
                         (long long)nq, (long long)nk);
    return COT_OK;
}

cot_status cot__build_attention(cot__build *b, const json_t *op, cot__step *s, cot_error *err) {
    cot__attn_block *a = s->attn = cot__build_alloc(b, sizeof *a, err);
    const cot__arch *arch = b->m->arch;
    int64_t heads = 0, kv = 0, dk = 0, dv = 0, window = 0;
    float base = 0;
    if (!a) return COT_NO_MEMORY;
    COT_TRY(cot__arch_int(arch, op, "heads", s->layer, 1, 65536, &heads, err));
    COT_TRY(cot__arch_int(arch, op, "kv_heads", s->layer, 1, 65536, &kv, err));
    COT_TRY(cot__arch_int(arch, op, "head_dim", s->layer, 1, 4096, &dk, err));
    dv = dk;
    COT_TRY(cot__arch_int(arch, op, "head_dim_v", s->layer, 1, 4096, &dv, err));
    COT_TRY(cot__arch_int(arch, op, "window", s->layer, 0, INT32_MAX, &window, err));
    if (!heads || !kv || !dk || heads % kv)
        return cot__fail(err, COT_FORMAT, cot__build_path(b), "attention heads",
                         "layer %d: %lld query heads over %lld key heads of %lld", s->layer, (long long)heads,
                         (long long)kv, (long long)dk);
    *a = (cot__attn_block){
        .heads = (int)heads, .kv_heads = (int)kv, .dk = (int)dk, .dv = (int)dv, .window = (int)window};
    a->scale = 1.0f / sqrtf((float)dk);
    COT_TRY(cot__arch_f32(arch, op, "scale_base", s->layer, &base, err));
    if (base > 0) a->scale = 1.0f / sqrtf(base);
    COT_TRY(cot__arch_f32(arch, op, "scale", s->layer, &a->scale, err));
    COT_TRY(cot__arch_f32(arch, op, "softcap", s->layer, &a->softcap, err));
    COT_TRY(cot__arch_f32(arch, op, "clip", s->layer, &a->clip, err));
    COT_TRY(cot__arch_flag(arch, op, "norm_after_rope", s->layer, &a->norm_after_rope, err));
    COT_TRY(cot__build_eps(b, op, &a->norm_eps, err));
    COT_TRY(cot__build_rope(b, op, &a->rope, err));
    if (a->rope >= 0 && b->m->rope[a->rope].n_rot > a->dk)
        return cot__fail(err, COT_FORMAT, cot__build_path(b), "rope dimension", "%d exceeds the head's %d",
                         b->m->rope[a->rope].n_rot, a->dk);
    COT_TRY(bind_weights(b, a, s->layer, err));
    COT_TRY(bind_qk_norm(b, a, s->layer, err));
    return cot__build_stream(b, a->kv_heads, a->dk, a->dv, false, &s->stream, err);
}

static void norm_qk(cot__forward *f, const cot__attn_block *a, float *q, float *k) {
    int64_t n = f->pass->n;
    size_t qs = (size_t)(a->heads * a->dk), ks = (size_t)(a->kv_heads * a->dk);
    if (a->q_norm)
        cot__op_norm(f->ops, COT_NORM_RMS, q, qs, q, qs, n, a->norm_full ? 1 : a->heads,
                     a->norm_full ? (int64_t)qs : a->dk, a->q_norm, NULL, a->norm_eps);
    if (a->k_norm)
        cot__op_norm(f->ops, COT_NORM_RMS, k, ks, k, ks, n, a->norm_full ? 1 : a->kv_heads,
                     a->norm_full ? (int64_t)ks : a->dk, a->k_norm, NULL, a->norm_eps);
}

static void clamp(float *x, size_t n, float c) {
    for (size_t i = 0; i < n; i++) x[i] = x[i] > c ? c : x[i] < -c ? -c : x[i];
}

cot_status cot__attention_forward(cot__forward *f, const cot__step *s, cot_error *err) {
    const cot__attn_block *a = s->attn;
    cot__ops *c = f->ops;
    const cot__pass *p = f->pass;
    int64_t n = p->n, n_embd = f->m->n_embd;
    size_t mark = cot__arena_mark(c->arena);
    size_t qs = (size_t)(a->heads * a->dk), ks = (size_t)(a->kv_heads * a->dk),
           vs = (size_t)(a->kv_heads * a->dv), os = (size_t)(a->heads * a->dv);
    float *q = cot__arena_alloc(c->arena, (size_t)n * qs * sizeof *q),
          *k = cot__arena_alloc(c->arena, (size_t)n * ks * sizeof *k);
    float *v = cot__arena_alloc(c->arena, (size_t)n * vs * sizeof *v),
          *o = cot__arena_alloc(c->arena, (size_t)n * os * sizeof *o);
    if (!q || !k || !v || !o) return cot__fail_memory(err, (size_t)n * (qs + ks + vs + os) * sizeof *q);
    cot__rows x = cot__rows_of(f->value[s->in], (size_t)n_embd, n, n_embd);
    COT_TRY(cot__op_linears(c, 3, (const cot_view *const[]){&a->wq, &a->wk, &a->wv},
                            (const cot_view *const[]){&a->bq, &a->bk, &a->bv}, &x, (float *const[]){q, k, v},
                            (const size_t[]){qs, ks, vs}, err));
    if (!a->norm_after_rope) norm_qk(f, a, q, k);
    if (a->clip > 0) {
        clamp(q, (size_t)n * qs, a->clip);
        clamp(k, (size_t)n * ks, a->clip);
        clamp(v, (size_t)n * vs, a->clip);
    }
    if (a->rope >= 0 && f->m->rope[a->rope].n_rot) {
        const cot__rope *r = &f->m->rope[a->rope];
        cot__op_rope(c, r->neox, q, qs, n, a->heads, (size_t)a->dk, r->n_rot, f->cos[a->rope],
                     f->sin[a->rope]);
        cot__op_rope(c, r->neox, k, ks, n, a->kv_heads, (size_t)a->dk, r->n_rot, f->cos[a->rope],
                     f->sin[a->rope]);
    }
    if (a->norm_after_rope) norm_qk(f, a, q, k);
    cot__tap(c, "attn_q", s->layer, q, qs, n, (int64_t)qs);
    cot__tap(c, "attn_k", s->layer, k, ks, n, (int64_t)ks);
    const cot__kv_stream *kv = &p->streams[s->stream];
    cot__op_kv_store(c, kv, p->blocks, p->pos, n, k, ks, v, vs);
    cot__attention at = {.kv = kv,
                         .blocks = p->blocks,
                         .pos = p->pos,
                         .n = n,
                         .heads = a->heads,
                         .scale = a->scale,
                         .softcap = a->softcap,
                         .window = a->window,
                         .sinks = a->sinks,
                         .q = q,
                         .q_stride = qs,
                         .out = o,
                         .out_stride = os};
    COT_TRY(cot__op_attention(c, &at, err));
    cot__rows y = cot__rows_of(o, os, n, (int64_t)os);
    COT_TRY(cot__op_linear(c, &a->wo, &a->bo, &y, f->value[s->out], (size_t)n_embd, err));
    cot__arena_rewind(c->arena, mark);
    return COT_OK;
}
