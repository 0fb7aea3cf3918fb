/* Owns: score, select and weigh. Everything in F32; ties go to the lowest expert id; the plan's ids ascend.
 */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "moe/moe.h"

/* A NaN compares false with everything: it would quietly lose every choice and spoil the sums. */
static cot_status check_row(const float *z, int n, int site, cot_error *err) {
    for (int e = 0; e < n; e++)
        if (!(z[e] < INFINITY))
            return cot__fail(
                err, COT_FORMAT, NULL, "router",
                "site %d: the score of expert %d is %g, not a finite number; are the weights damaged?", site,
                e, (double)z[e]);
    return COT_OK;
}

static void score_row(const cot__router *r, float *z, int n) {
    if (r->score == COT__SCORE_SIGMOID) {
        for (int e = 0; e < n; e++) z[e] = 1.0f / (1.0f + expf(-z[e]));
    } else if (r->score == COT__SCORE_SOFTMAX) {
        float max = z[0], sum = 0;
        for (int e = 1; e < n; e++) max = z[e] > max ? z[e] : max;
        for (int e = 0; e < n; e++) sum += z[e] = expf(z[e] - max);
        for (int e = 0; e < n; e++) z[e] /= sum;
    }
}

/* Index of the largest key that is above −INF, the lowest of equals; −1 when there is none. */
static int argmax(const float *key, int n) {
    int best = -1;
    for (int e = 0; e < n; e++)
        if (key[e] > -INFINITY && (best < 0 || key[e] > key[best])) best = e;
    return best;
}

static float group_value(const cot__router *r, const float *key, int n) {
    float a = -INFINITY, b = -INFINITY; /* the two largest */
    for (int e = 0; e < n; e++) {
        if (key[e] > a) b = a, a = key[e];
        else if (key[e] > b) b = key[e];
    }
    return r->group_score == COT__GROUP_MAX || n < 2 ? a : a + b;
}

/* Keys of experts outside the best groups become −INF. */
static void limit_groups(const cot__router *r, float *key) {
    if (r->n_group <= 1 || r->n_group_keep >= r->n_group) return;
    int size = r->n_experts / r->n_group;
    uint64_t keep[16] = {0}; /* at most 1024 groups, checked when the router is bound */
    for (int t = 0; t < r->n_group_keep; t++) {
        int best = -1;
        float value = 0;
        for (int g = 0; g < r->n_group; g++) {
            if (keep[g / 64] >> (g % 64) & 1) continue;
            float v = group_value(r, key + g * size, size);
            if (best < 0 || v > value) best = g, value = v;
        }
        keep[best / 64] |= 1ull << (best % 64);
    }
    for (int e = 0; e < r->n_experts; e++) {
        int g = e / size;
        if (!(keep[g / 64] >> (g % 64) & 1)) key[e] = -INFINITY;
    }
}

/* SparseMixer's inference rule (Phi-3.5-MoE): pick the maximum, weight it by a softmax over those experts
 * that are near it, mask it, repeat. */
static int select_masked(const cot__router *r, const float *s, float *left, int k, int32_t *ids,
                         float *weights) {
    memcpy(left, s, (size_t)r->n_experts * sizeof *left);
    int n = 0;
    for (; n < k; n++) {
        int best = argmax(left, r->n_experts);
        if (best < 0) break;
        float max = left[best], sum = 0;
        for (int e = 0; e < r->n_experts; e++) {
            if (left[e] == -INFINITY) continue;
            float scale = fabsf(s[e]) > max ? fabsf(s[e]) : max;
            if ((max - s[e]) / scale > 2 * r->jitter) continue;
            sum += expf(left[e] - max);
        }
        ids[n] = best;
        weights[n] = 1.0f / sum;
        left[best] = -INFINITY;
    }
    return n;
}

static void weigh(const cot__router *r, const float *s, const int32_t *ids, float *w, int n) {
    if (r->source == COT__WEIGHT_SOFTMAX_SELECTED) {
        float max = -INFINITY, sum = 0;
        for (int i = 0; i < n; i++) max = s[ids[i]] > max ? s[ids[i]] : max;
        for (int i = 0; i < n; i++) sum += w[i] = expf(s[ids[i]] - max);
        for (int i = 0; i < n; i++) w[i] /= sum;
    } else {
        for (int i = 0; i < n; i++) w[i] = r->source == COT__WEIGHT_ONE ? 1.0f : s[ids[i]];
    }
    bool normed = r->norm && !(r->norm_or_scale && n < 2);
    if (normed) {
        float sum = 0;
        for (int i = 0; i < n; i++) sum += w[i];
        sum += r->norm_eps;
        for (int i = 0; i < n; i++) w[i] /= sum;
    }
    if (r->scale != 1.0f && !(r->norm_or_scale && normed))
        for (int i = 0; i < n; i++) w[i] *= r->scale;
}

static void sort_by_id(int32_t *ids, float *w, int n) {
    for (int i = 1; i < n; i++) {
        int32_t id = ids[i];
        float x = w[i];
        int j = i;
        for (; j > 0 && ids[j - 1] > id; j--) ids[j] = ids[j - 1], w[j] = w[j - 1];
        ids[j] = id;
        w[j] = x;
    }
}

static int select_row(const cot__router *r, const float *s, float *key, int k, int32_t *ids, float *w) {
    int n = 0, E = r->n_experts;
    if (r->select == COT__SELECT_SEQ_MASKED) {
        n = select_masked(r, s, key, k, ids, w);
        if (r->scale != 1.0f)
            for (int i = 0; i < n; i++) w[i] *= r->scale;
    } else if (r->select == COT__SELECT_ALL) {
        for (; n < E; n++) ids[n] = n;
        weigh(r, s, ids, w, n);
    } else {
        for (int e = 0; e < E; e++) key[e] = s[e] + (r->select_bias ? r->select_bias[e] : 0.0f);
        limit_groups(r, key);
        for (; n < k; n++) {
            int best = argmax(key, E);
            if (best < 0) break;
            ids[n] = best;
            key[best] = -INFINITY;
        }
        weigh(r, s, ids, w,
              n); /* before sorting: the sum runs in the order of choice, as the reference's does */
    }
    sort_by_id(ids, w, n);
    return n;
}

cot_status cot__route_select(const cot__router *r, float *logits, int n, int site, const cot__edit *edits,
                             int n_edits, cot__arena *arena, cot__plan *out, cot_error *err) {
    int E = r->n_experts, k = r->select == COT__SELECT_ALL || r->k > E ? E : r->k;
    size_t slots = (size_t)n * (size_t)k;
    cot__plan p = {.n_units = n, .n_experts = E};
    p.first = cot__arena_alloc(arena, (size_t)(n + 1) * sizeof *p.first);
    p.ids = cot__arena_alloc(arena, slots * sizeof *p.ids);
    p.weights = cot__arena_alloc(arena, slots * sizeof *p.weights);
    p.flags = cot__arena_alloc(arena, slots + 1);
    float *key = cot__arena_alloc(arena, (size_t)E * sizeof *key);
    if (!p.first || !p.ids || !p.weights || !p.flags || !key) return cot__fail_memory(err, slots * 9);
    memset(p.flags, 0, slots + 1);
    for (int u = 0; u < n; u++) {
        COT_TRY(check_row(logits + (size_t)u * (size_t)E, E, site, err));
        score_row(r, logits + (size_t)u * (size_t)E, E);
    }
    for (int i = 0; i < n_edits; i++)
        if (edits[i].on_scores) COT_TRY(edits[i].apply(edits[i].user, site, &p, logits, err));
    int32_t at = 0;
    for (int u = 0; u < n; u++) {
        p.first[u] = at;
        at += select_row(r, logits + (size_t)u * (size_t)E, key, k, p.ids + at, p.weights + at);
    }
    p.first[n] = at;
    for (int i = 0; i < n_edits; i++)
        if (!edits[i].on_scores) COT_TRY(edits[i].apply(edits[i].user, site, &p, logits, err));
    *out = p;
    return COT_OK;
}
