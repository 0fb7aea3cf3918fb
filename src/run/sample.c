/* Owns: choosing a token. Truncations follow llama.cpp's habits in meaning: top-k, typical (Meister et al.
 * 2022), top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024), then temperature and one draw. */
#include <coterie/sample.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/hash.h"

enum { PURPOSE_SAMPLE = 1 };

typedef struct candidate {
    float logit, p;
    int32_t id;
} candidate;

struct cot_sampler {
    cot_sample_options opt;
    cot_logit_bias *bias;
    int32_t n_vocab;
    int32_t *history;
    size_t n_history, cap_history;
    int32_t *count; /* of each token inside the window */
    candidate *c;
    uint64_t draws;
};

void cot_sample_defaults(cot_sample_options *o) {
    *o = (cot_sample_options){.struct_size = sizeof *o,
                              .temperature = 0.8f,
                              .top_k = 40,
                              .top_p = 0.95f,
                              .min_p = 0.05f,
                              .typical_p = 1,
                              .repetition_penalty = 1,
                              .penalty_window = 64};
}

static cot_status check(const cot_sample_options *o, int32_t n_vocab, cot_error *err) {
    const struct {
        const char *name;
        float value, lo, hi;
    } range[] = {{"temperature", o->temperature, -INFINITY, 1e6f},
                 {"top_p", o->top_p, 0, 1},
                 {"min_p", o->min_p, 0, 1},
                 {"typical_p", o->typical_p, 0, 1},
                 {"repetition_penalty", o->repetition_penalty, 1e-3f, 1e3f},
                 {"frequency_penalty", o->frequency_penalty, -1e3f, 1e3f},
                 {"presence_penalty", o->presence_penalty, -1e3f, 1e3f}};
    if (o->struct_size != sizeof *o)
        return cot__fail(err, COT_ARGUMENT, NULL, "cot_sample_options",
                         "struct_size is %zu; call cot_sample_defaults first", o->struct_size);
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        if (!(range[i].value >= range[i].lo && range[i].value <= range[i].hi))
            return cot__fail(err, COT_ARGUMENT, NULL, range[i].name, "%g is outside %g…%g",
                             (double)range[i].value, (double)range[i].lo, (double)range[i].hi);
    if (o->top_k < 0)
        return cot__fail(err, COT_ARGUMENT, NULL, "top_k", "%d is negative; 0 switches it off", o->top_k);
    if (o->penalty_window < -1)
        return cot__fail(err, COT_ARGUMENT, NULL, "penalty_window", "%d is below −1", o->penalty_window);
    for (size_t i = 0; i < o->n_bias; i++)
        if (o->bias[i].token < 0 || o->bias[i].token >= n_vocab || !(o->bias[i].bias < INFINITY))
            return cot__fail(
                err, COT_ARGUMENT, NULL, "logit_bias",
                "token %d is outside the vocabulary of %d, or its bias is no number below infinity",
                o->bias[i].token, n_vocab);
    return COT_OK;
}

cot_status cot_sampler_create(cot_sampler **out, const cot_sample_options *options, int32_t n_vocab,
                              cot_error *err) {
    cot_sample_options o;
    cot_sample_defaults(&o);
    if (options) o = *options;
    if (n_vocab < 1) return cot__fail(err, COT_ARGUMENT, NULL, "n_vocab", "%d is not positive", n_vocab);
    COT_TRY(check(&o, n_vocab, err));
    cot_sampler *s = cot__alloc_zero(1, sizeof *s);
    if (!s) return cot__fail_memory(err, sizeof *s);
    s->opt = o;
    s->n_vocab = n_vocab;
    s->c = cot__alloc_array((size_t)n_vocab, sizeof *s->c);
    s->count = cot__alloc_zero((size_t)n_vocab, sizeof *s->count);
    s->bias = cot__alloc_array(o.n_bias, sizeof *s->bias);
    if (!s->c || !s->count || !s->bias) {
        cot_sampler_free(&s);
        return cot__fail_memory(err, (size_t)n_vocab * 16);
    }
    if (o.n_bias) memcpy(s->bias, o.bias, o.n_bias * sizeof *s->bias);
    s->opt.bias = s->bias;
    *out = s;
    return COT_OK;
}

void cot_sampler_free(cot_sampler **sampler) {
    if (!sampler || !*sampler) return;
    cot_sampler *s = *sampler;
    cot__free(s->history);
    cot__free(s->count);
    cot__free(s->bias);
    cot__free(s->c);
    cot__free(s);
    *sampler = NULL;
}

cot_status cot_sampler_accept(cot_sampler *s, int32_t token, cot_error *err) {
    if (token < 0 || token >= s->n_vocab)
        return cot__fail(err, COT_ARGUMENT, NULL, "token", "%d is outside 0…%d", token, s->n_vocab - 1);
    if (s->n_history == s->cap_history) {
        size_t cap = s->cap_history ? s->cap_history * 2 : 256;
        int32_t *p = cot__realloc_array(s->history, cap, sizeof *p);
        if (!p) return cot__fail_memory(err, cap * sizeof *p);
        s->history = p;
        s->cap_history = cap;
    }
    s->history[s->n_history++] = token;
    s->count[token]++;
    size_t window = s->opt.penalty_window < 0 ? SIZE_MAX : (size_t)s->opt.penalty_window;
    if (s->n_history > window) s->count[s->history[s->n_history - 1 - window]]--;
    return COT_OK;
}

void cot_sampler_reset(cot_sampler *s) {
    s->n_history = 0;
    s->draws = 0;
    memset(s->count, 0, (size_t)s->n_vocab * sizeof *s->count);
}

static float adjusted(const cot_sampler *s, float logit, int32_t id) {
    int32_t n = s->count[id];
    if (!n) return logit;
    logit = logit > 0 ? logit / s->opt.repetition_penalty : logit * s->opt.repetition_penalty;
    return logit - (float)n * s->opt.frequency_penalty - s->opt.presence_penalty;
}

/* Descending by logit, then ascending id: a total order, so every truncation is deterministic. */
static int by_logit(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* The k best to the front (unordered): quickselect on the same total order. */
static void select_best(candidate *c, size_t n, size_t k) {
    size_t lo = 0, hi = n;
    while (hi - lo > 1) {
        candidate pivot = c[lo + (hi - lo) / 2];
        size_t i = lo, j = hi - 1;
        for (;;) {
            while (by_logit(&c[i], &pivot) < 0) i++;
            while (by_logit(&c[j], &pivot) > 0) j--;
            if (i >= j) break;
            candidate t = c[i];
            c[i] = c[j];
            c[j] = t;
            i++, j--;
        }
        size_t split = j + 1;
        if (split >= hi) split = hi - 1;
        if (k <= split) hi = split;
        else lo = split;
        if (k == lo || k == hi) return;
    }
}

static void softmax(candidate *c, size_t n, float temperature) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += c[i].p = expf((c[i].logit - c[0].logit) / temperature);
    for (size_t i = 0; i < n; i++) c[i].p = (float)(c[i].p / sum);
}

typedef struct surprise {
    float distance;
    candidate c;
} surprise;
static int by_surprise(const void *a, const void *b) {
    const surprise *x = a, *y = b;
    if (x->distance != y->distance) return x->distance < y->distance ? -1 : 1;
    return by_logit(&x->c, &y->c);
}

static cot_status keep_typical(candidate *c, size_t *n, float p, cot_error *err) {
    surprise *s = cot__alloc_array(*n, sizeof *s);
    if (!s) return cot__fail_memory(err, *n * sizeof *s);
    double entropy = 0, sum = 0;
    softmax(c, *n, 1);
    for (size_t i = 0; i < *n; i++)
        if (c[i].p > 0) entropy -= (double)c[i].p * log((double)c[i].p);
    for (size_t i = 0; i < *n; i++)
        s[i] = (surprise){c[i].p > 0 ? fabsf((float)(-log((double)c[i].p) - entropy)) : INFINITY, c[i]};
    qsort(s, *n, sizeof *s, by_surprise);
    size_t k = 0;
    while (k < *n && sum < (double)p) sum += (double)s[k++].c.p;
    for (size_t i = 0; i < k; i++) c[i] = s[i].c;
    qsort(c, k, sizeof *c, by_logit);
    *n = k ? k : 1;
    cot__free(s);
    return COT_OK;
}

static cot_status truncate(const cot_sampler *s, candidate *c, size_t *n, cot_error *err) {
    const cot_sample_options *o = &s->opt;
    if (o->top_k > 0 && (size_t)o->top_k < *n) {
        select_best(c, *n, (size_t)o->top_k);
        *n = (size_t)o->top_k;
    }
    qsort(c, *n, sizeof *c, by_logit);
    while (*n > 1 && c[*n - 1].logit == -INFINITY) --*n;
    if (o->typical_p < 1) COT_TRY(keep_typical(c, n, o->typical_p, err));
    if (o->top_p < 1) {
        double sum = 0;
        size_t k = 0;
        softmax(c, *n, 1);
        while (k < *n && (k == 0 || sum < (double)o->top_p)) sum += (double)c[k++].p;
        *n = k;
    }
    if (o->min_p > 0) {
        softmax(c, *n, 1);
        size_t k = 1;
        while (k < *n && c[k].p >= o->min_p * c[0].p) k++;
        *n = k;
    }
    return COT_OK;
}

cot_status cot_sampler_choose(cot_sampler *s, const float *logits, int32_t *token, float *logprob,
                              cot_error *err) {
    candidate *c = s->c;
    size_t n = (size_t)s->n_vocab, best = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY)
            return cot__fail(err, COT_FORMAT, NULL, "logits",
                             "logit of token %zu is not a finite number; are the weights damaged?", i);
        c[i] = (candidate){logits[i], 0, (int32_t)i};
    }
    for (size_t i = 0; i < s->opt.n_bias; i++) c[s->bias[i].token].logit += s->bias[i].bias;
    for (size_t i = 0; i < n; i++) {
        c[i].logit = adjusted(s, c[i].logit, (int32_t)i);
        if (c[i].logit > c[best].logit) best = i;
    }
    if (c[best].logit == -INFINITY)
        return cot__fail(err, COT_ARGUMENT, NULL, "logit_bias", "every token is banned");
    int32_t chosen = c[best].id;
    if (s->opt.temperature > 0) {
        COT_TRY(truncate(s, c, &n, err));
        softmax(c, n, s->opt.temperature);
        double u = cot__random_unit(s->opt.seed, PURPOSE_SAMPLE, s->draws, 0), sum = 0;
        size_t i = 0;
        for (; i + 1 < n; i++)
            if (u < (sum += (double)c[i].p)) break;
        chosen = c[i].id;
    }
    s->draws++;
    *token = chosen;
    if (logprob) {
        float max = logits[0];
        double sum = 0;
        for (int32_t i = 1; i < s->n_vocab; i++) max = logits[i] > max ? logits[i] : max;
        for (int32_t i = 0; i < s->n_vocab; i++) sum += exp((double)logits[i] - (double)max);
        *logprob = (float)((double)logits[chosen] - (double)max - log(sum));
    }
    return COT_OK;
}
