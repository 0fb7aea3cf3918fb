/* Owns: running the steps of a model over the rows of a pass. One forward for every family. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "model/build.h"

enum { HEAD_ROWS = 16 }; /* rows of logits that exist at once */

static cot_status rope_tables(cot__forward *f, cot_error *err) {
    const cot__pass *p = f->pass;
    for (int i = 0; i < f->m->n_ropes; i++) {
        const cot__rope *r = &f->m->rope[i];
        int half = r->n_rot / 2;
        const float *freq = p->long_rope && r->freq_long ? r->freq_long : r->freq;
        float mul = p->long_rope && r->freq_long ? r->mul_long : r->mul;
        float *cos_ = cot__arena_alloc(f->ops->arena, (size_t)(p->n * half + 1) * sizeof *cos_);
        float *sin_ = cot__arena_alloc(f->ops->arena, (size_t)(p->n * half + 1) * sizeof *sin_);
        if (!cos_ || !sin_) return cot__fail_memory(err, (size_t)(p->n * half) * sizeof *cos_);
        for (int64_t row = 0; row < p->n; row++)
            for (int j = 0; j < half; j++) {
                double angle = (double)((float)p->pos[row] * freq[j]);
                cos_[row * half + j] = (float)(cos(angle) * (double)mul);
                sin_[row * half + j] = (float)(sin(angle) * (double)mul);
            }
        f->cos[i] = cos_;
        f->sin[i] = sin_;
    }
    return COT_OK;
}

enum { FEW_ROWS = 8 }; /* beyond them nothing is predicted */

/* The next routed layer from step s on, and what it would see if nothing came between: its norm of the
 * present values. NULL: there is none, or it is of no use. */
static const cot__moe *look_ahead(cot__forward *f, const cot__step *s, cot__rows *x) {
    const cot__step *end = f->m->steps + f->m->n_steps, *norm = NULL;
    int64_t n = f->pass->n, cols = f->m->n_embd;
    if (!f->m->predictor || n > FEW_ROWS) return NULL;
    for (; s < end && s->kind != COT__STEP_MOE; s++)
        if (s->kind == COT__STEP_NORM) norm = s;
    if (s == end) return NULL;
    float *in = f->value[s->in];
    if (norm && norm->out == s->in) {
        in = cot__arena_alloc(f->ops->arena, (size_t)(n * cols) * sizeof *in);
        if (!in) return NULL;
        cot__op_norm(f->ops, norm->norm.kind, in, (size_t)cols, f->value[norm->in], (size_t)cols, n, 1, cols,
                     norm->norm.w, norm->norm.b, norm->norm.eps);
    }
    *x = cot__rows_of(in, (size_t)cols, n, cols);
    return s->moe;
}

/* While attention runs, the disk may have what comes after it. */
static void foresee(cot__forward *f, const cot__step *s) {
    size_t mark = cot__arena_mark(f->ops->arena);
    cot__rows x;
    const cot__moe *m = f->m->predictor && cot__predictor_kind(f->m->predictor) == COT__PREDICT_GATE
                            ? look_ahead(f, s, &x)
                            : NULL;
    if (m) cot__moe_foresee(f->ops, m, f->m->store, &x, true);
    cot__arena_rewind(f->ops->arena, mark);
}

/* A trained predictor knows a pass by its tokens, whose contexts are the sequences' own ids: of the first
 * routed layer it tells before anything is computed, of the others when their turn comes near. */
static void foretell(cot__forward *f) {
    const cot__trained *t = f->m->trained;
    const cot__pass *p = f->pass;
    if (!t || !p->history || p->n > FEW_ROWS) return;
    float *forecast = cot__arena_alloc(f->ops->arena, cot__trained_forecast_bytes(t));
    size_t mark = cot__arena_mark(f->ops->arena), i = 0;
    float *scratch = cot__arena_alloc(f->ops->arena, cot__trained_scratch(t));
    if (!forecast || !scratch) return; /* then without */
    memset(forecast, 0, cot__trained_forecast_bytes(t));
    for (int64_t r = 0; r < p->n; r++)
        cot__trained_forecast(t, p->history[r], p->pos[r] + 1, scratch, forecast);
    cot__arena_rewind(f->ops->arena, mark);
    f->forecast = forecast;
    while (i < f->m->n_steps && f->m->steps[i].kind != COT__STEP_MOE) i++;
    if (i == f->m->n_steps) return;
    cot__moe_foretold(f->m->steps[i].moe, f->m->store, forecast);
    cot__store_begin(f->m->store);
}

static cot_status run_moe(cot__forward *f, const cot__step *s, cot__rows *x, float *out, size_t stride,
                          cot_error *err) {
    cot__moe_context ctx = f->pass->moe;
    cot__rows ahead;
    size_t mark = cot__arena_mark(f->ops->arena);
    ctx.predictor = f->m->predictor;
    if ((ctx.next = look_ahead(f, s + 1, &ahead))) ctx.ahead = &ahead;
    if (ctx.next && f->forecast)
        ctx.forecast = f->forecast + (size_t)ctx.next->bank * (size_t)cot__trained_experts(f->m->trained);
    cot_status st = cot__moe_forward(f->ops, s->moe, f->m->store, &ctx, x, out, stride, err);
    cot__arena_rewind(f->ops->arena, mark);
    return st;
}

static cot_status run_step(cot__forward *f, const cot__step *s, cot_error *err) {
    cot__ops *c = f->ops;
    int64_t n = f->pass->n, cols = f->m->n_embd;
    float *in = f->value[s->in], *out = f->value[s->out];
    size_t stride = (size_t)cols, mark;
    cot__rows x = cot__rows_of(in, stride, n, cols);
    if (s->kind == COT__STEP_ATTENTION || s->kind == COT__STEP_MLA) foresee(f, s);
    switch (s->kind) {
    case COT__STEP_NORM:
        cot__op_norm(c, s->norm.kind, out, stride, in, stride, n, 1, cols, s->norm.w, s->norm.b, s->norm.eps);
        break;
    case COT__STEP_ADD: cot__op_add(c, out, stride, in, stride, n, cols, s->scale); break;
    case COT__STEP_ATTENTION: COT_TRY(cot__attention_forward(f, s, err)); break;
    case COT__STEP_MLA: COT_TRY(cot__mla_forward(f, s, err)); break;
    case COT__STEP_FFN: {
        mark = cot__arena_mark(c->arena);
        cot__expert_rows all = {.expert = &s->ffn->expert, .n = (int)n};
        COT_TRY(cot__experts_compute(c, &s->ffn->ffn, &all, 1, &x, out, stride, err));
        cot__arena_rewind(c->arena, mark);
        break;
    }
    case COT__STEP_MOE: COT_TRY(run_moe(f, s, &x, out, stride, err)); break;
    }
    cot__tap(c, f->m->value_name[s->out], s->layer, out, stride, n, cols);
    return COT_OK;
}

static cot_status run_head(cot__forward *f, cot_error *err) {
    const cot_model *m = f->m;
    const cot__pass *p = f->pass;
    cot__ops *c = f->ops;
    size_t vocab = (size_t)m->n_vocab, cols = (size_t)m->n_embd;
    float *x = cot__arena_alloc(c->arena, HEAD_ROWS * cols * sizeof *x),
          *y = cot__arena_alloc(c->arena, HEAD_ROWS * vocab * sizeof *y);
    if (!x || !y) return cot__fail_memory(err, HEAD_ROWS * vocab * sizeof *y);
    size_t which[HEAD_ROWS];
    int64_t row = 0;
    while (row < p->n) {
        int64_t k = 0;
        for (; row < p->n && k < HEAD_ROWS; row++) {
            if (!p->wants[row]) continue;
            memcpy(x + (size_t)k * cols, f->value[m->head_value] + (size_t)row * cols, cols * sizeof *x);
            which[k++] = (size_t)row;
        }
        if (!k) break;
        size_t mark = cot__arena_mark(c->arena);
        cot__rows in = cot__rows_of(x, cols, k, (int64_t)cols);
        COT_TRY(cot__op_linear(c, &m->head, &m->head_bias, &in, y, vocab, err));
        cot__arena_rewind(c->arena, mark);
        if (m->logit_scale != 1.0f) cot__op_scale(c, y, vocab, k, (int64_t)vocab, m->logit_scale);
        if (m->logit_softcap > 0)
            for (size_t i = 0; i < (size_t)k * vocab; i++)
                y[i] = m->logit_softcap * tanhf(y[i] / m->logit_softcap);
        for (size_t i = 0; i < (size_t)k * vocab; i++)
            if (y[i] != y[i])
                return cot__fail(err, COT_FORMAT, m->source->path, "logits",
                                 "the logit of token %zu is not a number: weights of the file are damaged",
                                 i % vocab);
        for (int64_t i = 0; i < k; i++)
            if (!p->logits(p->user, which[i], y + (size_t)i * vocab, m->n_vocab))
                return cot__fail(err, COT_CANCELLED, NULL, NULL, "cancelled");
    }
    return COT_OK;
}

cot_status cot__model_forward(const cot_model *m, cot__ops *ops, const cot__pass *p, cot_error *err) {
    cot__forward f = {.m = m, .ops = ops, .pass = p};
    size_t cols = (size_t)m->n_embd;
    if (!ops->tape) cot__arena_reset(ops->arena);
    for (int i = 0; i < m->n_values; i++) {
        f.value[i] = cot__arena_alloc(ops->arena, (size_t)p->n * cols * sizeof(float));
        if (!f.value[i]) return cot__fail_memory(err, (size_t)p->n * cols * sizeof(float));
    }
    foretell(&f);
    COT_TRY(rope_tables(&f, err));
    cot__op_embed(ops, &m->embed, p->tokens, p->n, f.value[0], cols, m->embed_scale);
    cot__tap(ops, "embed", -1, f.value[0], cols, p->n, m->n_embd);
    for (size_t i = 0; i < m->n_steps; i++) COT_TRY(run_step(&f, &m->steps[i], err));
    bool any = false;
    for (int64_t i = 0; i < p->n; i++) any |= p->wants[i];
    return any && p->logits ? run_head(&f, err) : COT_OK;
}

/* An upper bound made of what each step takes at most; the arena's chunks round it up. */
uint64_t cot__model_scratch(const cot_model *m, int64_t n, int threads) {
    uint64_t most = 0, rows = (uint64_t)n, values = rows * (uint64_t)m->n_embd * 4 * (uint64_t)m->n_values;
    for (size_t i = 0; i < m->n_steps; i++) {
        const cot__step *s = &m->steps[i];
        uint64_t need = rows * (uint64_t)m->n_embd * 5;
        if (s->kind == COT__STEP_ATTENTION) {
            const cot__attn_block *a = s->attn;
            need += rows * 4 * (uint64_t)(2 * a->heads * (a->dk + a->dv) + a->kv_heads * (a->dk + a->dv)) +
                    (uint64_t)threads * 64 * 4 * (uint64_t)(a->dk + 2 * a->dv);
        } else if (s->kind == COT__STEP_MLA) {
            need += cot__mla_scratch(s->mla, rows, threads);
        } else if (s->kind == COT__STEP_FFN || s->kind == COT__STEP_MOE) {
            bool moe = s->kind == COT__STEP_MOE;
            uint64_t d_ff = moe ? 0 : (uint64_t)s->ffn->expert.part[COT__UP].rows,
                     k = moe ? (uint64_t)s->moe->router.k : 1;
            if (moe) {
                d_ff = (uint64_t)cot__store_shape(m->store, s->moe->bank, 0)->part[COT__UP].rows;
                if (cot__store_streams(m->store)) need += cot__moe_streamed_scratch(s->moe, rows);
                if (s->moe->has_shared) k++;
                need += rows * (uint64_t)s->moe->router.n_experts * 4;
            }
            need += rows * k * (d_ff * 6 + 32) + (uint64_t)threads * (rows * 64 + 4096) * 4 +
                    64 * (uint64_t)m->n_embd * 4;
        }
        if (need > most) most = need;
    }
    uint64_t head = HEAD_ROWS * (uint64_t)(m->n_vocab + 2 * m->n_embd) * 4;
    uint64_t guess =
        m->trained ? cot__trained_scratch(m->trained) + cot__trained_forecast_bytes(m->trained) : 0;
    return values + (head > most ? head : most) + guess + (4u << 20);
}
