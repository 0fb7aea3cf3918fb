/* Routing on plain numbers: every way of scoring, selecting and weighing against the plainest way of writing
 * it in double, ties, groups, edits, and what is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "moe/moe.h"

enum { MOST = 24 };

static cot__arena *arena;

static cot__plan route(const cot__router *r, const float *logits, int n, const cot__edit *edits,
                       int n_edits) {
    static float copy[64 * MOST];
    cot__plan p;
    cot_error err;
    memcpy(copy, logits, (size_t)(n * r->n_experts) * sizeof *copy);
    if (cot__route_select(r, copy, n, 0, edits, n_edits, arena, &p, &err) != COT_OK)
        fail_msg("%s", err.message);
    return p;
}

/* weights[e] of every expert, 0 where it is not chosen: sorting, no cleverness, in double. */
static void plainly(const cot__router *r, const float *z, double *weights) {
    int E = r->n_experts, size = r->n_group > 1 ? E / r->n_group : E;
    double s[MOST], key[MOST], sum = 0;
    bool chosen[MOST] = {false};
    for (int e = 0; e < E; e++) sum += exp((double)z[e]);
    for (int e = 0; e < E; e++)
        s[e] = r->score == COT__SCORE_SOFTMAX   ? exp((double)z[e]) / sum
               : r->score == COT__SCORE_SIGMOID ? 1 / (1 + exp(-(double)z[e]))
                                                : (double)z[e];
    for (int e = 0; e < E; e++) key[e] = s[e] + (r->select_bias ? (double)r->select_bias[e] : 0);
    for (int out = 0; r->n_group > 1 && out < r->n_group - r->n_group_keep;
         out++) { /* drop the worst group */
        int worst = -1;
        double least = INFINITY;
        for (int g = 0; g < r->n_group; g++) {
            double a = -INFINITY, b = -INFINITY;
            for (int e = g * size; e < (g + 1) * size; e++) {
                if (key[e] > a) b = a, a = key[e];
                else if (key[e] > b) b = key[e];
            }
            double v = r->group_score == COT__GROUP_MAX || size < 2 ? a : a + b;
            if (a > -INFINITY && v < least) least = v, worst = g;
        }
        for (int e = worst * size; e < (worst + 1) * size; e++) key[e] = -INFINITY;
    }
    for (int i = 0; i < (r->select == COT__SELECT_ALL ? E : r->k); i++) {
        int best = -1;
        for (int e = 0; e < E; e++)
            if (!chosen[e] && key[e] > -INFINITY && (best < 0 || key[e] > key[best])) best = e;
        if (best >= 0) chosen[best] = true;
    }
    double total = 0;
    for (int e = 0; e < E; e++) {
        weights[e] = !chosen[e]                                  ? 0
                     : r->source == COT__WEIGHT_ONE              ? 1
                     : r->source == COT__WEIGHT_SOFTMAX_SELECTED ? exp(s[e])
                                                                 : s[e];
        total += weights[e];
    }
    bool normed = r->norm && !(r->norm_or_scale && r->k < 2);
    for (int e = 0; e < E; e++) {
        if (r->source == COT__WEIGHT_SOFTMAX_SELECTED || normed) weights[e] /= total;
        if (!(r->norm_or_scale && normed)) weights[e] *= (double)r->scale;
    }
}

static void compare(const cot__router *r, uint64_t seed) {
    float z[8 * MOST];
    for (int i = 0; i < 8 * r->n_experts; i++)
        z[i] = (float)(8 * cot__random_unit(seed, 1, (uint64_t)i, 0) - 4);
    cot__plan p = route(r, z, 8, NULL, 0);
    assert_int_equal(p.n_units, 8);
    for (int u = 0; u < 8; u++) {
        double want[MOST], got[MOST] = {0};
        plainly(r, z + u * r->n_experts, want);
        for (int i = p.first[u]; i < p.first[u + 1]; i++) {
            if (i > p.first[u]) assert_true(p.ids[i] > p.ids[i - 1]); /* ascending, each once */
            got[p.ids[i]] = (double)p.weights[i];
        }
        for (int e = 0; e < r->n_experts; e++)
            if (fabs(got[e] - want[e]) > 1e-5 * (1 + fabs(want[e])))
                fail_msg("unit %d, expert %d: weight %g, not %g", u, e, got[e], want[e]);
    }
    /* a unit alone is routed as among others */
    for (int u = 0; u < 8; u++) {
        cot__plan one = route(r, z + u * r->n_experts, 1, NULL, 0);
        size_t n = (size_t)(p.first[u + 1] - p.first[u]);
        assert_int_equal(one.first[1], n);
        assert_memory_equal(one.ids, p.ids + p.first[u], n * sizeof *p.ids);
        assert_memory_equal(one.weights, p.weights + p.first[u], n * sizeof *p.weights);
    }
}

static void every_way_is_the_plain_one(void **state) {
    (void)state;
    static const int sizes[][4] = {{6, 2, 0, 0},  {5, 5, 0, 0}, {12, 3, 4, 2},
                                   {24, 4, 8, 3}, {7, 1, 7, 3}, {1, 1, 0, 0}};
    float bias[MOST];
    for (int e = 0; e < MOST; e++) bias[e] = (float)(cot__random_unit(9, 9, (uint64_t)e, 0) - 0.5);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int flags = 0; flags < 3 * 3 * 2 * 2 * 2 * 2 * 2; flags++) {
            int f = flags;
            cot__router r = {.n_experts = sizes[k][0],
                             .k = sizes[k][1],
                             .n_group = sizes[k][2],
                             .n_group_keep = sizes[k][3]};
            r.score = (cot__score)(f % 3), f /= 3;
            r.source = (cot__weight_source)(f % 3), f /= 3;
            r.norm = f & 1;
            r.norm_or_scale = f & 2;
            r.select_bias = f & 4 ? bias : NULL;
            r.group_score = f & 8 ? COT__GROUP_TOP2 : COT__GROUP_MAX;
            r.select = f & 16 ? COT__SELECT_ALL : COT__SELECT_TOPK;
            r.scale = f & 1 ? 2.5f : 1.0f;
            if (r.score == COT__SCORE_IDENT && r.norm) continue; /* sums of signed scores are no one's rule */
            if (r.select == COT__SELECT_ALL && (r.n_group || r.norm_or_scale)) continue;
            compare(&r, (uint64_t)flags + 1);
            cot__arena_rewind(arena, 0);
        }
}

static void ties_go_to_the_lowest_id(void **state) {
    (void)state;
    const float z[6] = {1, 3, 3, 0, 3, 1};
    cot__router r = {.n_experts = 6, .k = 2, .score = COT__SCORE_SOFTMAX, .scale = 1};
    cot__plan p = route(&r, z, 1, NULL, 0);
    assert_int_equal(p.ids[0], 1);
    assert_int_equal(p.ids[1], 2);
    r.k = 4;
    p = route(&r, z, 1, NULL, 0);
    const int32_t want[] = {0, 1, 2, 4};
    assert_memory_equal(p.ids, want, sizeof want);
}

/* A group whose keys are all negative stays behind one that is not; with zeros instead of −inf it would win.
 */
static void dropped_groups_cannot_come_back(void **state) {
    (void)state;
    const float z[6] = {-1, -2, -30, -3, -4, -5};
    const float bias[6] = {-1, -1, -1, -1, -1, -1};
    cot__router r = {.n_experts = 6,
                     .k = 3,
                     .score = COT__SCORE_SIGMOID,
                     .scale = 1,
                     .n_group = 2,
                     .n_group_keep = 1,
                     .group_score = COT__GROUP_TOP2,
                     .select_bias = bias};
    cot__plan p = route(&r, z, 1, NULL, 0);
    const int32_t want[] = {0, 1, 2};
    assert_memory_equal(p.ids, want, sizeof want);
}

/* SparseMixer: the weight of each pick is a softmax over those near it, the picks before masked. */
static void masks_in_sequence(void **state) {
    (void)state;
    const float z[4] = {2.0f, 1.99f, 0.5f, -1.0f};
    cot__router r = {.n_experts = 4, .k = 2, .select = COT__SELECT_SEQ_MASKED, .scale = 1, .jitter = 0.01f};
    cot__plan p = route(&r, z, 1, NULL, 0);
    assert_int_equal(p.ids[0], 0);
    assert_int_equal(p.ids[1], 1);
    assert_true(fabs((double)p.weights[0] - 1 / (1 + exp(-0.01))) < 1e-5); /* 1.99 is near 2 */
    assert_true(fabs((double)p.weights[1] - 1) < 1e-6);                    /* nothing is near 1.99 any more */
}

static cot_status ban(void *user, int site, cot__plan *p, float *scores, cot_error *err) {
    (void)site, (void)err;
    for (int u = 0; u < p->n_units; u++) scores[u * p->n_experts + *(int *)user] = -INFINITY;
    return COT_OK;
}

static cot_status halve(void *user, int site, cot__plan *p, float *scores, cot_error *err) {
    (void)user, (void)site, (void)scores, (void)err;
    for (int i = 0; i < p->first[p->n_units]; i++) p->weights[i] *= 0.5f, p->flags[i] |= COT_ROUTE_FORCED;
    return COT_OK;
}

static void edits_act_on_scores_and_on_the_plan(void **state) {
    (void)state;
    const float z[8] = {4, 3, 2, 1, 4, 3, 2, 1};
    int banned = 0;
    cot__router r = {.n_experts = 4, .k = 2, .scale = 1, .source = COT__WEIGHT_ONE};
    const cot__edit edits[] = {{true, ban, &banned}, {false, halve, NULL}};
    cot__plan p = route(&r, z, 2, edits, 2);
    for (int u = 0; u < 2; u++) {
        assert_int_equal(p.ids[p.first[u]], 1);
        assert_int_equal(p.ids[p.first[u] + 1], 2);
    }
    assert_true(p.weights[0] == 0.5f && p.flags[3] == COT_ROUTE_FORCED);
}

static void numbers_that_are_none_are_refused(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        float z[4] = {1, k ? NAN : INFINITY, 0, 0};
        cot__router r = {.n_experts = 4, .k = 2, .scale = 1};
        cot__plan p;
        cot_error err;
        assert_int_equal(cot__route_select(&r, z, 1, 3, NULL, 0, arena, &p, &err), COT_FORMAT);
        assert_non_null(strstr(err.message, "site 3"));
        assert_non_null(strstr(err.message, "expert 1"));
    }
}

static int setup(void **state) {
    (void)state;
    return cot__arena_create(&arena, 1 << 16, 0, NULL);
}

static int teardown(void **state) {
    (void)state;
    cot__arena_free(&arena);
    return cot__alloc_live() != 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_is_the_plain_one),
        cmocka_unit_test(ties_go_to_the_lowest_id),
        cmocka_unit_test(dropped_groups_cannot_come_back),
        cmocka_unit_test(masks_in_sequence),
        cmocka_unit_test(edits_act_on_scores_and_on_the_plan),
        cmocka_unit_test(numbers_that_are_none_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
