/* Owns: the way of a batch through the stages: logits, plan, leases, experts, weighted sum, shared expert
 * last. */
#include "moe/moe.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

/* The plan turned round: for each expert that was chosen, its rows and weights. */
typedef struct inverse {
    cot__expert_rows *groups;
    int32_t *ids;
    int n;
} inverse;

static cot_status invert(const cot__plan *p, cot__arena *arena, inverse *out, cot_error *err) {
    int E = p->n_experts, slots = p->first[p->n_units];
    int32_t *at = cot__arena_alloc(arena, ((size_t)E + 1) * sizeof *at);
    int32_t *rows = cot__arena_alloc(arena, (size_t)slots * sizeof *rows);
    float *weights = cot__arena_alloc(arena, (size_t)slots * sizeof *weights);
    out->groups =
        cot__arena_alloc(arena, ((size_t)E + 1) * sizeof *out->groups); /* one more: the shared expert */
    out->ids = cot__arena_alloc(arena, (size_t)E * sizeof *out->ids);
    if (!at || !rows || !weights || !out->groups || !out->ids)
        return cot__fail_memory(err, (size_t)slots * 8);
    memset(at, 0, ((size_t)E + 1) * sizeof *at);
    for (int i = 0; i < slots; i++)
        if (!(p->flags[i] & COT_ROUTE_DROPPED)) at[p->ids[i] + 1]++;
    out->n = 0;
    for (int e = 0; e < E; e++) {
        int count = at[e + 1];
        at[e + 1] += at[e];
        if (!count) continue;
        out->ids[out->n] = e;
        out->groups[out->n++] =
            (cot__expert_rows){.rows = rows + at[e], .weights = weights + at[e], .n = count};
    }
    for (int u = 0; u < p->n_units; u++)
        for (int i = p->first[u]; i < p->first[u + 1]; i++) {
            if (p->flags[i] & COT_ROUTE_DROPPED) continue;
            int32_t slot = at[p->ids[i]]++;
            rows[slot] = u;
            weights[slot] = p->weights[i];
        }
    return COT_OK;
}

static cot_status make_plan(cot__ops *c, const cot__moe *m, const cot__moe_context *ctx, cot__rows *x,
                            cot__plan *plan, cot_error *err) {
    cot__router r = m->router;
    if (ctx->k_override > 0) r.k = ctx->k_override;
    size_t E = (size_t)r.n_experts;
    float *logits = cot__arena_alloc(c->arena, (size_t)x->n * E * sizeof *logits);
    if (!logits) return cot__fail_memory(err, (size_t)x->n * E * sizeof *logits);
    cot__ops exact = *c; /* router logits are F32 products whatever the weight's format */
    exact.act_f32 = true;
    COT_TRY(cot__op_linear(&exact, &r.w, NULL, x, logits, E, err));
    if (r.bias)
        for (int64_t i = 0; i < x->n; i++)
            for (size_t e = 0; e < E; e++) logits[(size_t)i * E + e] += r.bias[e];
    cot__tap(c, "router_logits", m->layer, logits, E, x->n, (int64_t)E);
    COT_TRY(cot__route_select(&r, logits, (int)x->n, m->site, ctx->edits, ctx->n_edits, c->arena, plan, err));
    if (ctx->observe) {
        cot_route record = {.site = m->site,
                            .layer = m->layer,
                            .bank = m->bank,
                            .n_experts = r.n_experts,
                            .n_units = plan->n_units,
                            .sequence = ctx->sequence,
                            .position = ctx->position,
                            .first = plan->first,
                            .ids = plan->ids,
                            .weights = plan->weights,
                            .flags = plan->flags};
        ctx->observe(ctx->observe_user, &record);
    }
    return COT_OK;
}

static cot_status shared_weights(cot__ops *c, const cot__moe *m, cot__rows *x, float **out, cot_error *err) {
    *out = NULL;
    if (!m->shared_gate_w.data) return COT_OK;
    float *w = cot__arena_alloc(c->arena, (size_t)x->n * sizeof *w);
    if (!w) return cot__fail_memory(err, (size_t)x->n * sizeof *w);
    cot__ops exact = *c;
    exact.act_f32 = true;
    COT_TRY(cot__op_linear(&exact, &m->shared_gate_w, NULL, x, w, 1, err));
    for (int64_t i = 0; i < x->n; i++) w[i] = 1.0f / (1.0f + expf(-w[i]));
    *out = w;
    return COT_OK;
}

/* Everything is at hand: all experts in one call. */
static cot_status all_resident(cot__ops *c, const cot__moe *m, cot__store *store, inverse *inv,
                               const cot__expert_rows *shared, cot__rows *x, float *out, size_t out_stride,
                               cot_error *err) {
    enum { MOST = 64 };
    cot__lease lease;
    int which[MOST], k, n = inv->n;
    COT_TRY(cot__store_acquire(store, m->bank, inv->ids, inv->n, NULL, &lease, err));
    cot_status s;
    while ((s = cot__lease_take(&lease, which, MOST, &k, c->pool, err)) == COT_OK && k > 0)
        for (int i = 0; i < k; i++) inv->groups[which[i]].expert = cot__lease_expert(&lease, which[i]);
    if (shared) inv->groups[n++] = *shared;
    if (s == COT_OK) s = cot__experts_compute(c, &m->ffn, inv->groups, n, x, out, out_stride, err);
    cot__store_release(store, &lease);
    return s;
}

cot_status cot__moe_forward(cot__ops *c, const cot__moe *m, cot__store *store, const cot__moe_context *ctx,
                            cot__rows *x, float *out, size_t out_stride, cot_error *err) {
    size_t mark = cot__arena_mark(c->arena);
    cot__rows local = *x; /* encoded forms made here live no longer than this call */
    cot__plan plan;
    inverse inv = {0};
    COT_TRY(make_plan(c, m, ctx, &local, &plan, err));
    COT_TRY(invert(&plan, c->arena, &inv, err));
    cot_status s = COT_OK;
    cot__expert_rows shared = {.expert = &m->shared, .n = (int)x->n};
    if (m->has_shared) {
        float *w = NULL;
        s = shared_weights(c, m, &local, &w, err);
        shared.weights = w;
    }
    if (s == COT_OK && cot__store_streams(store))
        s = cot__moe_streamed(c, m, store, ctx, &plan, inv.groups, inv.ids, inv.n,
                              m->has_shared ? &shared : NULL, &local, out, out_stride, err);
    else if (s == COT_OK)
        s = all_resident(c, m, store, &inv, m->has_shared ? &shared : NULL, &local, out, out_stride, err);
    cot__arena_rewind(c->arena, mark);
    return s;
}
