/* Owns: hints for the next routed layer while this one waits for its reads: from tables of past choices, by
 * the next layer's own gate on the present rows, which need no training, or as a trained predictor foretold.
 * They change nothing. */
#include <string.h>

#include "base/error.h"
#include "moe/moe.h"

enum { FEW_ROWS = 8, MOST = 64 };

/* What the next router would choose on these rows: its experts, the heaviest first. */
static int by_gate(cot__ops *c, const cot__moe *next, cot__rows *x, bool sure, int32_t *ids,
                   float *probability) {
    cot__router r = next->router;
    size_t E = (size_t)r.n_experts;
    float *logits = cot__arena_alloc(c->arena, (size_t)x->n * E * sizeof *logits);
    cot__plan plan;
    cot__ops exact = *c;
    cot__rows own = *x;
    exact.act_f32 = true;
    exact.tap = NULL;
    if (!logits || cot__op_linear(&exact, &r.w, NULL, &own, logits, E, NULL) != COT_OK) return 0;
    for (int64_t i = 0; r.bias && i < x->n; i++)
        for (size_t e = 0; e < E; e++) logits[(size_t)i * E + e] += r.bias[e];
    if (cot__route_select(&r, logits, (int)x->n, next->site, NULL, 0, c->arena, &plan, NULL) != COT_OK)
        return 0;
    int n = 0, slots = plan.first[plan.n_units];
    for (int i = 0; i < slots; i++) {
        float w = plan.weights[i] < 0 ? 0 : plan.weights[i], p = sure ? COT__SURE : 0.4f;
        p += (w < 1 ? w : 1) * 0.99f * (sure ? 1 - COT__SURE : COT__SURE - 0.4f);
        int at = n < MOST ? n : MOST - 1;
        if (n == MOST && p <= probability[at]) continue;
        for (; at > 0 && probability[at - 1] < p; at--)
            ids[at] = ids[at - 1], probability[at] = probability[at - 1];
        ids[at] = plan.ids[i];
        probability[at] = p;
        n += n < MOST;
    }
    return n;
}

void cot__moe_foresee(cot__ops *c, const cot__moe *m, cot__store *store, cot__rows *x, bool sure) {
    int32_t ids[MOST];
    float probability[MOST];
    if (x->n > FEW_ROWS) return;
    size_t mark = cot__arena_mark(c->arena);
    int n = by_gate(c, m, x, sure, ids, probability);
    cot__arena_rewind(c->arena, mark);
    if (n) cot__store_hint(store, m->bank, ids, probability, n, 0);
}

void cot__moe_foretold(const cot__moe *m, cot__store *store, const float *forecast) {
    const float most = COT__SURE - 0.01f; /* nothing better will follow, as it does where a hint is sure */
    int32_t ids[MOST];
    float probability[MOST];
    int n = cot__predict_best(forecast, m->router.n_experts, ids, probability, MOST);
    for (int i = 0; i < n && probability[i] > most; i++) probability[i] = most;
    if (n) cot__store_hint(store, m->bank, ids, probability, n, 0);
}

void cot__moe_predict(cot__ops *c, const cot__moe *m, cot__store *store, const cot__moe_context *ctx,
                      const cot__plan *plan, cot__rows *x) {
    int32_t ids[MOST];
    float probability[MOST];
    int n = 0, bank = ctx->next ? ctx->next->bank : 0;
    if (x->n > FEW_ROWS) return;
    cot__prediction kind = cot__predictor_kind(ctx->predictor);
    if (kind == COT__PREDICT_GATE) {
        if (ctx->next) cot__moe_foresee(c, ctx->next, store, ctx->ahead ? ctx->ahead : x, false);
    } else if (kind == COT__PREDICT_TRAINED) {
        if (ctx->next && ctx->forecast) cot__moe_foretold(ctx->next, store, ctx->forecast);
    } else {
        cot__predictor_observe(ctx->predictor, m->bank, ctx->token, plan->n_units, plan->first, plan->ids);
        if (ctx->next || kind == COT__PREDICT_LAST || kind == COT__PREDICT_POPULARITY)
            n = cot__predictor_guess(ctx->predictor, bank, ctx->next ? ctx->token : NULL, (int)x->n, ids,
                                     probability, MOST);
    }
    if (n) cot__store_hint(store, bank, ids, probability, n, 0);
}
