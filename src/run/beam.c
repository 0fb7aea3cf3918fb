/* Owns: the choice of beams at one step, by unpenalised scores with a Hamming penalty on selection. */
#include "run/beam.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

struct cot__beam_search {
    int n_beams, n_groups, per;
    double diversity, penalty;
    int32_t n_vocab;
    cot__beam *live, *next; /* n_beams each; group g holds the slots g · per … */
    int *n_in_group;        /* live beams of each group */
    cot__beam *done;
    int n_done, cap_done;
    int *live_index, n_live; /* compact order: group by group */
    double *row_norm;        /* log Σ e^x of each row */
    int32_t *taken;          /* tokens chosen in this step by earlier groups */
    int n_taken, step;
};

cot_status cot__beam_create(cot__beam_search **out, int n_beams, int n_groups, double diversity,
                            double length_penalty, int32_t n_vocab, cot_error *err) {
    if (n_beams < 1 || n_groups < 1 || n_beams > 1024 || n_beams % n_groups)
        return cot__fail(err, COT_ARGUMENT, NULL, "beams", "%d beams do not make %d equal groups", n_beams,
                         n_groups);
    if (!(diversity >= 0) || n_vocab < n_beams)
        return cot__fail(err, COT_ARGUMENT, NULL, "diversity",
                         "must be at least 0, and the vocabulary at least as large as the beams");
    cot__beam_search *b = cot__alloc_zero(1, sizeof *b);
    if (!b) return cot__fail_memory(err, sizeof *b);
    size_t n = (size_t)n_beams;
    *b = (cot__beam_search){.n_beams = n_beams,
                            .n_groups = n_groups,
                            .per = n_beams / n_groups,
                            .diversity = diversity,
                            .penalty = length_penalty,
                            .n_vocab = n_vocab};
    b->live = cot__alloc_zero(n, sizeof *b->live);
    b->next = cot__alloc_zero(n, sizeof *b->next);
    b->n_in_group = cot__alloc_zero(n, sizeof *b->n_in_group);
    b->live_index = cot__alloc_zero(n, sizeof *b->live_index);
    b->row_norm = cot__alloc_zero(n, sizeof *b->row_norm);
    b->taken = cot__alloc_zero(n, sizeof *b->taken);
    if (!b->live || !b->next || !b->n_in_group || !b->live_index || !b->row_norm || !b->taken) {
        cot__beam_free(&b);
        return cot__fail_memory(err, n * sizeof(cot__beam));
    }
    *out = b;
    return COT_OK;
}

void cot__beam_free(cot__beam_search **beam) {
    if (!beam || !*beam) return;
    cot__beam_search *b = *beam;
    for (int i = 0; i < b->n_beams; i++) {
        if (b->live) cot__free(b->live[i].tokens);
        if (b->next) cot__free(b->next[i].tokens);
    }
    for (int i = 0; i < b->n_done; i++) cot__free(b->done[i].tokens);
    cot__free(b->live);
    cot__free(b->next);
    cot__free(b->done);
    cot__free(b->n_in_group);
    cot__free(b->live_index);
    cot__free(b->row_norm);
    cot__free(b->taken);
    cot__free(b);
    *beam = NULL;
}

static double norm_of(const float *x, int32_t n) {
    float max = x[0];
    double sum = 0;
    for (int32_t i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int32_t i = 0; i < n; i++) sum += exp((double)x[i] - (double)max);
    return (double)max + log(sum);
}

typedef struct choice {
    double key, score;
    int row, slot;
    int32_t token;
} choice;

/* Higher key first; ties to the lower parent, then the lower token. */
static bool better(const choice *a, const choice *b) {
    if (a->key != b->key) return a->key > b->key;
    if (a->row != b->row) return a->row < b->row;
    return a->token < b->token;
}

/* Offers a choice to the sorted list of the best `want`. */
static void offer(choice *best, int *n, int want, const choice *c) {
    if (*n == want && !better(c, &best[want - 1])) return;
    int i = *n < want ? (*n)++ : want - 1;
    for (; i > 0 && better(c, &best[i - 1]); i--) best[i] = best[i - 1];
    best[i] = *c;
}

static cot_status extend(const cot__beam *parent, const choice *c, int row, cot__beam *out, cot_error *err) {
    int32_t *tokens = cot__alloc_array(parent->n + 1, sizeof *tokens);
    if (!tokens) return cot__fail_memory(err, (parent->n + 1) * sizeof *tokens);
    if (parent->n) memcpy(tokens, parent->tokens, parent->n * sizeof *tokens);
    tokens[parent->n] = c->token;
    *out =
        (cot__beam){.score = c->score, .tokens = tokens, .n = parent->n + 1, .last = c->token, .parent = row};
    return COT_OK;
}

static cot_status finish(cot__beam_search *b, cot__beam *beam, cot_error *err) {
    if (b->n_done == b->cap_done) {
        int cap = b->cap_done ? b->cap_done * 2 : 16;
        cot__beam *p = cot__realloc_array(b->done, (size_t)cap, sizeof *p);
        if (!p) return cot__fail_memory(err, (size_t)cap * sizeof *p);
        b->done = p;
        b->cap_done = cap;
    }
    beam->finished = true;
    b->done[b->n_done++] = *beam;
    return COT_OK;
}

/* One group: rows first … first + count − 1 belong to it. A finished beam gives up its place in the group. */
static cot_status step_group(cot__beam_search *b, int g, int first, int count, const float *const *logits,
                             bool (*is_end)(void *, int32_t), void *user, choice *best, cot_error *err) {
    int n = 0, want = b->step == 0 ? b->per : count;
    for (int r = first; r < first + count; r++) {
        int row = b->step == 0 ? 0 : r, slot = b->step == 0 ? 0 : b->live_index[r];
        double base = b->step == 0 ? 0 : b->live[slot].score;
        for (int32_t v = 0; v < b->n_vocab; v++) {
            choice c = {.score = base + (double)logits[row][v] - b->row_norm[row],
                        .row = row,
                        .slot = slot,
                        .token = v};
            c.key = c.score;
            for (int t = 0; t < b->n_taken; t++)
                if (b->taken[t] == v) c.key -= b->diversity;
            offer(best, &n, want, &c);
        }
    }
    b->n_in_group[g] = 0;
    for (int i = 0; i < n; i++) {
        cot__beam made;
        COT_TRY(extend(&b->live[best[i].slot], &best[i], best[i].row, &made, err));
        cot_status s = COT_OK;
        if (is_end && is_end(user, best[i].token)) s = finish(b, &made, err);
        else b->next[g * b->per + b->n_in_group[g]++] = made;
        if (s != COT_OK) {
            cot__free(made.tokens);
            return s;
        }
    }
    for (int i = 0; i < n; i++) b->taken[b->n_taken++] = best[i].token;
    return COT_OK;
}

cot_status cot__beam_step(cot__beam_search *b, const float *const *logits, bool (*is_end)(void *, int32_t),
                          void *user, cot_error *err) {
    choice *best = cot__alloc_array((size_t)b->per, sizeof *best);
    if (!best) return cot__fail_memory(err, (size_t)b->per * sizeof *best);
    int rows = b->step == 0 ? 1 : b->n_live, first = 0;
    for (int r = 0; r < rows; r++) b->row_norm[r] = norm_of(logits[r], b->n_vocab);
    b->n_taken = 0;
    memset(b->next, 0, (size_t)b->n_beams * sizeof *b->next);
    cot_status s = COT_OK;
    for (int g = 0; g < b->n_groups && s == COT_OK; g++) {
        int count = b->step == 0 ? 1 : b->n_in_group[g];
        s = count ? step_group(b, g, first, count, logits, is_end, user, best, err) : COT_OK;
        if (b->step > 0) first += count;
    }
    cot__free(best);
    for (int i = 0; i < b->n_beams; i++) cot__free(b->live[i].tokens);
    cot__beam *t = b->live;
    b->live = b->next;
    b->next = t;
    memset(b->next, 0, (size_t)b->n_beams * sizeof *b->next);
    b->n_live = 0;
    for (int g = 0; g < b->n_groups; g++)
        for (int i = 0; i < b->n_in_group[g]; i++) b->live_index[b->n_live++] = g * b->per + i;
    b->step++;
    return s;
}

int cot__beam_live(const cot__beam_search *b) { return b->n_live; }
int cot__beam_parent(const cot__beam_search *b, int i) { return b->live[b->live_index[i]].parent; }
int32_t cot__beam_token(const cot__beam_search *b, int i) { return b->live[b->live_index[i]].last; }

static double rank_of(const cot__beam_search *b, const cot__beam *x) {
    return x->score / pow((double)(x->n ? x->n : 1), b->penalty);
}

/* Live beams are moved to the finished list, then all are sorted: best first, ties in the order they were
 * made. */
cot_status cot__beam_results(const cot__beam **out, int *n, cot__beam_search *b, cot_error *err) {
    for (int i = 0; i < b->n_live; i++) {
        cot__beam *x = &b->live[b->live_index[i]];
        bool end = x->finished;
        COT_TRY(finish(b, x, err));
        b->done[b->n_done - 1].finished = end;
        *x = (cot__beam){0};
    }
    b->n_live = 0;
    for (int i = 1; i < b->n_done; i++) {
        cot__beam x = b->done[i];
        int j = i;
        for (; j > 0 && rank_of(b, &b->done[j - 1]) < rank_of(b, &x); j--) b->done[j] = b->done[j - 1];
        b->done[j] = x;
    }
    *out = b->done;
    *n = b->n_done;
    return COT_OK;
}
