/* Beam search on a toy language model: one beam is the greedy text, as many beams as sequences find the best
 * of all, groups without diversity repeat each other, with much diversity they part, and a search written in
 * the plainest way gives the same beams. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "run/beam.h"
#include "torture.h"

enum { V = 5, MOST = 700, LONGEST = 8 };

static uint64_t seed;
static int32_t end = -1;

static bool is_end(void *user, int32_t token) { return (void)user, token == end; }

/* Logits depend on the whole text so far. */
static void model(const int32_t *text, size_t n, float *x) {
    uint64_t h = 1;
    for (size_t i = 0; i < n; i++) h = h * 31 + (uint64_t)text[i] + 1;
    for (int v = 0; v < V; v++) x[v] = (float)(6 * cot__random_unit(seed, h, (uint64_t)v, 0));
}

static double log_p(const int32_t *text, size_t n, int32_t token) {
    float x[V];
    double sum = 0;
    model(text, n, x);
    for (int v = 0; v < V; v++) sum += exp((double)x[v]);
    return (double)x[token] - log(sum);
}

static double score_of(const int32_t *text, size_t n) {
    double s = 0;
    for (size_t i = 0; i < n; i++) s += log_p(text, i, text[i]);
    return s;
}

/* Runs a search of `steps`; results stay valid until the search is freed. */
static cot_status search(cot__beam_search **b, int beams, int groups, double diversity, double penalty,
                         int steps, const cot__beam **out, int *n, cot_error *err) {
    static float rows[MOST][V];
    static int32_t text[MOST][LONGEST], old[MOST][LONGEST];
    const float *at[MOST];
    cot_status s = cot__beam_create(b, beams, groups, diversity, penalty, V, err);
    for (int step = 0; s == COT_OK && step < steps; step++) {
        int live = step ? cot__beam_live(*b) : 1;
        if (!live) break;
        for (int i = 0; i < live; i++) model(text[i], (size_t)step, rows[i]), at[i] = rows[i];
        s = cot__beam_step(*b, at, is_end, NULL, err);
        memcpy(old, text, sizeof old);
        for (int i = 0; s == COT_OK && i < cot__beam_live(*b); i++) {
            memcpy(text[i], old[cot__beam_parent(*b, i)], sizeof text[i]);
            text[i][step] = cot__beam_token(*b, i);
        }
    }
    return s == COT_OK ? cot__beam_results(out, n, *b, err) : s;
}

static cot__beam_search *must(int beams, int groups, double diversity, int steps, const cot__beam **out,
                              int *n) {
    cot__beam_search *b = NULL;
    cot_error err;
    if (search(&b, beams, groups, diversity, 0, steps, out, n, &err) != COT_OK) fail_msg("%s", err.message);
    for (int i = 0; i < *n; i++) { /* a beam's score is its text's */
        assert_true(fabs((*out)[i].score - score_of((*out)[i].tokens, (*out)[i].n)) < 1e-4);
        assert_true(i == 0 || (*out)[i - 1].score >= (*out)[i].score);
    }
    return b;
}

static void one_beam_is_greedy(void **state) {
    (void)state;
    end = -1;
    for (seed = 1; seed < 40; seed++) {
        const cot__beam *r;
        int n;
        cot__beam_search *b = must(1, 1, 0, 6, &r, &n);
        assert_int_equal(n, 1);
        for (size_t i = 0; i < 6; i++) {
            float x[V];
            model(r->tokens, i, x);
            for (int v = 0; v < V; v++) assert_true(x[v] <= x[r->tokens[i]]);
        }
        cot__beam_free(&b);
    }
}

static void all_beams_find_the_best(void **state) {
    (void)state;
    end = -1;
    for (seed = 1; seed < 20; seed++) {
        const cot__beam *r;
        int n;
        double best = -INFINITY;
        cot_error err;
        cot__beam_search *b = NULL;
        assert_int_equal(cot__beam_create(&b, V + 1, 1, 0, 0, V, &err), COT_ARGUMENT);
        for (int code = 0; code < V * V; code++) {
            int32_t t[2] = {code % V, code / V};
            double s = score_of(t, 2);
            best = s > best ? s : best;
        }
        b = must(V, 1, 0, 2, &r, &n); /* every first token is kept, so every pair is seen */
        assert_true(fabs(r->score - best) < 1e-5);
        cot__beam_free(&b);
    }
}

/* The search in the plainest way: every extension of every live beam of the group, sorted. */
typedef struct line {
    int32_t t[LONGEST];
    int n, parent;
    double score, key;
    bool done;
} line;

static int by_key(const void *a, const void *b) {
    const line *x = a, *y = b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    if (x->parent != y->parent) return x->parent - y->parent;
    return x->t[x->n - 1] - y->t[y->n - 1];
}
static int by_score(const void *a, const void *b) {
    const line *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

static int plain_search(int beams, int groups, double diversity, int steps, line *done) {
    line live[8][8], all[V * 8];
    int count[8], per = beams / groups, n_done = 0;
    for (int g = 0; g < groups; g++) count[g] = 1, live[g][0] = (line){.n = 0};
    for (int step = 0; step < steps; step++) {
        int taken[V] = {0};
        for (int g = 0; g < groups; g++) {
            int n = 0, want = step ? count[g] : per;
            for (int i = 0; i < count[g]; i++)
                for (int v = 0; v < V; v++) {
                    line l = live[g][i];
                    l.score += log_p(l.t, (size_t)l.n, v);
                    l.key = l.score - diversity * taken[v];
                    l.parent = i;
                    l.t[l.n++] = v;
                    all[n++] = l;
                }
            qsort(all, (size_t)n, sizeof *all, by_key);
            count[g] = 0;
            for (int i = 0; i < want; i++) {
                taken[all[i].t[all[i].n - 1]]++;
                if (all[i].t[all[i].n - 1] == end) done[n_done++] = all[i];
                else live[g][count[g]++] = all[i];
            }
        }
    }
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < count[g]; i++) done[n_done++] = live[g][i];
    qsort(done, (size_t)n_done, sizeof *done, by_score);
    return n_done;
}

static void as_the_plain_search(void **state) {
    static const struct {
        int beams, groups;
        double diversity;
    } kinds[] = {{2, 1, 0}, {4, 1, 0}, {5, 1, 0}, {4, 2, 0.7}, {4, 4, 1.3}, {5, 5, 0.2}, {4, 2, 0}};
    (void)state;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (seed = 1; seed < 60; seed++) {
            line want[64];
            const cot__beam *r;
            int n;
            end = seed % 2 ? 3 : -1;
            int m = plain_search(kinds[k].beams, kinds[k].groups, kinds[k].diversity, 6, want);
            cot__beam_search *b = must(kinds[k].beams, kinds[k].groups, kinds[k].diversity, 6, &r, &n);
            assert_int_equal(n, m);
            for (int i = 0; i < n; i++) assert_true(fabs(r[i].score - want[i].score) < 1e-4);
            assert_int_equal(r->n, want->n);
            cot__beam_free(&b);
        }
}

static void groups_repeat_or_part(void **state) {
    (void)state;
    end = -1;
    for (seed = 1; seed < 20; seed++) {
        const cot__beam *r;
        int n, seen = 0;
        cot__beam_search *b = must(4, 4, 0, 5, &r, &n);
        for (int i = 1; i < n; i++) assert_memory_equal(r[i].tokens, r[0].tokens, 5 * sizeof *r->tokens);
        cot__beam_free(&b);
        b = must(5, 5, 1e6, 5, &r, &n);
        for (int i = 0; i < n; i++) seen |= 1 << r[i].tokens[0];
        assert_int_equal(seen, (1 << V) - 1);
        cot__beam_free(&b);
    }
}

static void length_penalty_ranks(void **state) {
    const cot__beam *r;
    int n;
    cot_error err;
    (void)state;
    end = 2;
    for (seed = 1; seed < 30; seed++) {
        cot__beam_search *b = NULL;
        assert_int_equal(search(&b, 4, 1, 0, 1, 6, &r, &n, &err), COT_OK);
        for (int i = 1; i < n; i++)
            assert_true(r[i - 1].score / (double)r[i - 1].n >= r[i].score / (double)r[i].n - 1e-12);
        cot__beam_free(&b);
    }
}

static void refuses_and_survives(void **state) {
    cot__beam_search *b = NULL;
    cot_error err;
    (void)state;
    assert_int_equal(cot__beam_create(&b, 4, 3, 0, 0, V, &err), COT_ARGUMENT);
    assert_int_equal(cot__beam_create(&b, 0, 1, 0, 0, V, &err), COT_ARGUMENT);
    assert_int_equal(cot__beam_create(&b, 2, 1, -1, 0, V, &err), COT_ARGUMENT);
    assert_int_equal(cot__beam_create(&b, 2, 1, NAN, 0, V, &err), COT_ARGUMENT);
    seed = 4, end = 1;
    COT_TORTURE(COT__FAULT_ALLOC, {
        const cot__beam *r;
        int n;
        b = NULL;
        cot_status s = search(&b, 4, 2, 0.5, 0, 5, &r, &n, &err);
        cot__beam_free(&b);
        COT_TORTURE_RESULT(s);
    });
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_beam_is_greedy),   cmocka_unit_test(all_beams_find_the_best),
        cmocka_unit_test(as_the_plain_search),  cmocka_unit_test(groups_repeat_or_part),
        cmocka_unit_test(length_penalty_ranks), cmocka_unit_test(refuses_and_survives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
