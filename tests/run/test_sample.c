/* Sampling: every option against brute force in double precision, the draws' distribution, ties, and what is
 * refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <coterie/sample.h>

#include "base/hash.h"
#include "torture.h"

enum { V = 40 };

static cot_sample_options plain(void) { /* temperature 1, nothing else */
    cot_sample_options o;
    cot_sample_defaults(&o);
    o.temperature = 1;
    o.top_k = 0;
    o.top_p = 1;
    o.min_p = 0;
    return o;
}

static void random_logits(float *x, uint64_t seed) {
    for (int i = 0; i < V; i++) x[i] = (float)(8 * cot__random_unit(seed, 99, (uint64_t)i, 0) - 4);
}

static int32_t choose(cot_sampler *s, const float *x) {
    int32_t t = -1;
    cot_error err;
    assert_int_equal(cot_sampler_choose(s, x, &t, NULL, &err), COT_OK);
    return t;
}

static cot_sampler *make(const cot_sample_options *o) {
    cot_sampler *s = NULL;
    cot_error err;
    if (cot_sampler_create(&s, o, V, &err) != COT_OK) fail_msg("%s", err.message);
    return s;
}

/* ---- what may be drawn, by definition ---- */

typedef struct token {
    double logit, p;
    int id;
    bool kept;
} token;

static int by_logit(const void *a, const void *b) {
    const token *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit) - (x->logit > y->logit) : x->id - y->id;
}
static double entropy;
static int by_surprise(const void *a, const void *b) {
    const token *x = a, *y = b;
    double d = fabs(-log(x->p) - entropy), e = fabs(-log(y->p) - entropy);
    return d != e ? (d > e) - (d < e) : by_logit(a, b);
}

static void normalise(token *t, int n, double temperature) {
    double sum = 0, max = t[0].logit;
    for (int i = 1; i < n; i++) max = t[i].logit > max ? t[i].logit : max;
    for (int i = 0; i < n; i++) sum += t[i].p = exp((t[i].logit - max) / temperature);
    for (int i = 0; i < n; i++) t[i].p /= sum;
}

static int truth(const cot_sample_options *o, const float *x, token *t) {
    int n = V;
    for (int i = 0; i < V; i++) t[i] = (token){(double)x[i], 0, i, true};
    qsort(t, V, sizeof *t, by_logit);
    if (o->top_k && o->top_k < n) n = o->top_k;
    if (o->typical_p < 1) {
        double sum = 0;
        int k = 0;
        normalise(t, n, 1);
        entropy = 0;
        for (int i = 0; i < n; i++) entropy -= t[i].p * log(t[i].p);
        qsort(t, (size_t)n, sizeof *t, by_surprise);
        while (k < n && sum < (double)o->typical_p) sum += t[k++].p;
        n = k > 0 ? k : 1;
        qsort(t, (size_t)n, sizeof *t, by_logit);
    }
    if (o->top_p < 1) {
        double sum = 0;
        int k = 0;
        normalise(t, n, 1);
        while (k < n && (k == 0 || sum < (double)o->top_p)) sum += t[k++].p;
        n = k;
    }
    if (o->min_p > 0) {
        int k = 1;
        normalise(t, n, 1);
        while (k < n && t[k].p >= (double)o->min_p * t[0].p) k++;
        n = k;
    }
    normalise(t, n, (double)o->temperature);
    return n;
}

/* Draws 4000 tokens and compares their counts with the probabilities; nothing outside the kept set. */
static void check_draws(const cot_sample_options *o, const float *x) {
    enum { DRAWS = 4000 };
    token t[V];
    int n = truth(o, x, t), seen[V] = {0};
    cot_sampler *s = make(o);
    for (int i = 0; i < DRAWS; i++) seen[choose(s, x)]++;
    double chi = 0;
    int total = 0;
    for (int i = 0; i < n; i++) {
        double want = t[i].p * DRAWS, d = seen[t[i].id] - want;
        if (want > 0.01) chi += d * d / want;
        total += seen[t[i].id];
    }
    assert_int_equal(total, DRAWS);
    /* mean n − 1, deviation √(2n − 2): the seeds are fixed, so the bound is a statement and no gamble */
    if (!(chi < (n - 1) + 6 * sqrt(2.0 * n))) fail_msg("chi-square %g over %d tokens", chi, n);
    cot_sampler_free(&s);
}

static void draws_follow_the_options(void **state) {
    float x[V];
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        random_logits(x, seed);
        cot_sample_options o = plain();
        o.seed = seed;
        check_draws(&o, x);
        o.temperature = 0.5f;
        check_draws(&o, x);
        o.temperature = 2;
        check_draws(&o, x);
        o.top_k = 1 + (int)seed;
        check_draws(&o, x);
        o.top_k = 0, o.top_p = 0.1f + 0.07f * (float)seed;
        check_draws(&o, x);
        o.top_p = 1, o.min_p = 0.03f * (float)seed;
        check_draws(&o, x);
        o.min_p = 0, o.typical_p = 0.08f * (float)seed;
        check_draws(&o, x);
        o.top_k = 20, o.top_p = 0.9f, o.min_p = 0.05f, o.temperature = 0.8f; /* all at once */
        check_draws(&o, x);
    }
}

static void best_token(void **state) {
    float x[V];
    cot_sample_options o = plain();
    (void)state;
    o.temperature = 0;
    cot_sampler *s = make(&o);
    random_logits(x, 3);
    x[17] = x[31] = 9;
    assert_int_equal(choose(s, x), 17); /* ties: the lower id */
    x[4] = INFINITY;
    cot_error err;
    int32_t t;
    assert_int_equal(cot_sampler_choose(s, x, &t, NULL, &err), COT_FORMAT);
    x[4] = NAN;
    assert_int_equal(cot_sampler_choose(s, x, &t, NULL, &err), COT_FORMAT);
    assert_non_null(strstr(err.message, "token 4"));
    for (int i = 0; i < V; i++) x[i] = -INFINITY;
    assert_int_equal(cot_sampler_choose(s, x, &t, NULL, &err), COT_ARGUMENT);
    x[7] = -100;
    assert_int_equal(choose(s, x), 7);
    cot_sampler_free(&s);
    o = plain(); /* one token left to draw from */
    s = make(&o);
    for (int i = 0; i < 20; i++) assert_int_equal(choose(s, x), 7);
    cot_sampler_free(&s);
    o.top_k = 1;
    s = make(&o);
    random_logits(x, 5);
    x[30] = x[20] = 9;
    for (int i = 0; i < 20; i++) assert_int_equal(choose(s, x), 20);
    cot_sampler_free(&s);
}

static void penalties(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        float x[V];
        int count[V] = {0};
        int32_t history[100];
        random_logits(x, seed);
        cot_logit_bias bias[] = {{3, 2.5f}, {9, -INFINITY}, {3, 0.5f}};
        cot_sample_options o = plain();
        o.temperature = 0;
        o.repetition_penalty = 1 + 0.03f * (float)seed;
        o.frequency_penalty = seed % 3 ? 0.11f * (float)seed : -0.2f;
        o.presence_penalty = seed % 2 ? 0.7f : 0;
        o.penalty_window = seed % 5 ? (int32_t)seed : -1;
        o.bias = bias;
        o.n_bias = 3;
        cot_sampler *s = make(&o);
        for (int i = 0; i < 100; i++) {
            cot_error err;
            history[i] = (int32_t)(cot__random_u64(seed, 7, (uint64_t)i, 0) % V);
            assert_int_equal(cot_sampler_accept(s, history[i], &err), COT_OK);
            memset(count, 0, sizeof count);
            for (int k = o.penalty_window < 0 || i + 1 < o.penalty_window ? 0 : i + 1 - o.penalty_window;
                 k <= i; k++)
                count[history[k]]++;
            int best = -1;
            float most = -INFINITY;
            for (int v = 0; v < V; v++) {
                float l = x[v] + (v == 3 ? 3.0f : v == 9 ? -INFINITY : 0);
                if (count[v]) {
                    l = l > 0 ? l / o.repetition_penalty : l * o.repetition_penalty;
                    l = l - (float)count[v] * o.frequency_penalty - o.presence_penalty;
                }
                if (l > most) most = l, best = v;
            }
            assert_int_equal(choose(s, x), best);
        }
        cot_sampler_reset(s);
        for (int v = 0; v < V; v++) x[v] = v == 9 ? 100 : v == 12 ? 50 : 0;
        assert_int_equal(choose(s, x), 12); /* 9 is banned, and the history is gone */
        cot_sampler_free(&s);
    }
}

static void seeds_and_log_probabilities(void **state) {
    float x[V];
    int same = 0;
    (void)state;
    random_logits(x, 1);
    cot_sample_options o = plain();
    o.seed = 5;
    cot_sampler *a = make(&o), *b = make(&o);
    o.seed = 6;
    cot_sampler *c = make(&o);
    double sum = 0;
    for (int i = 0; i < V; i++) sum += exp((double)x[i]);
    for (int i = 0; i < 200; i++) {
        int32_t t;
        float lp;
        cot_error err;
        assert_int_equal(cot_sampler_choose(a, x, &t, &lp, &err), COT_OK);
        assert_int_equal(choose(b, x), t);
        assert_true(fabs((double)lp - ((double)x[t] - log(sum))) < 1e-5);
        same += choose(c, x) == t;
    }
    assert_true(same < 100);
    int32_t first = (cot_sampler_reset(b), choose(b, x));
    cot_sampler_reset(a);
    assert_int_equal(choose(a, x), first); /* after a reset the draws begin anew */
    cot_sampler_free(&a);
    cot_sampler_free(&b);
    cot_sampler_free(&c);
}

static void refuses(void **state) {
    static const cot_logit_bias outside[] = {{V, 1}}, endless[] = {{1, INFINITY}}, none[] = {{1, NAN}};
    const cot_sample_options ok = plain();
    cot_sample_options bad[12];
    const char *name[12] = {"top_p",          "top_p",      "min_p",      "typical_p",
                            "top_k",          "repetition", "frequency",  "presence",
                            "penalty_window", "logit_bias", "logit_bias", "logit_bias"};
    (void)state;
    for (int i = 0; i < 12; i++) bad[i] = ok;
    bad[0].top_p = 1.5f, bad[1].top_p = NAN, bad[2].min_p = -0.1f, bad[3].typical_p = 2, bad[4].top_k = -1;
    bad[5].repetition_penalty = 0, bad[6].frequency_penalty = INFINITY, bad[7].presence_penalty = NAN;
    bad[8].penalty_window = -2, bad[9].bias = outside, bad[10].bias = endless, bad[11].bias = none;
    bad[9].n_bias = bad[10].n_bias = bad[11].n_bias = 1;
    for (int i = 0; i < 12; i++) {
        cot_sampler *s = NULL;
        cot_error err;
        assert_int_equal(cot_sampler_create(&s, &bad[i], V, &err), COT_ARGUMENT);
        assert_non_null(strstr(err.message, name[i]));
        assert_null(s);
    }
    cot_sampler *s = make(&ok);
    cot_error err;
    assert_int_equal(cot_sampler_accept(s, V, &err), COT_ARGUMENT);
    assert_int_equal(cot_sampler_accept(s, -1, &err), COT_ARGUMENT);
    cot_sampler_free(&s);
}

static void allocations(void **state) {
    float x[V];
    (void)state;
    random_logits(x, 2);
    COT_TORTURE(COT__FAULT_ALLOC, {
        cot_sample_options o = plain();
        cot_sampler *s = NULL;
        cot_error err;
        int32_t t;
        o.typical_p = 0.5f;
        cot_status st = cot_sampler_create(&s, &o, V, &err);
        if (st == COT_OK) st = cot_sampler_choose(s, x, &t, NULL, &err);
        if (st == COT_OK) st = cot_sampler_accept(s, t, &err);
        cot_sampler_free(&s);
        COT_TORTURE_RESULT(st);
    });
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_options),
        cmocka_unit_test(best_token),
        cmocka_unit_test(penalties),
        cmocka_unit_test(seeds_and_log_probabilities),
        cmocka_unit_test(refuses),
        cmocka_unit_test(allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
