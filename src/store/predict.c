/* Owns: tables of past choices. Counts are halved now and then, so that they follow the text. */
#include "store/predict.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

enum { TOKENS = 4096, KEPT = 16, HALVE = 512 };

const char *const cot__prediction_names[COT__PREDICTIONS] = {"none",       "last", "popularity", "token",
                                                             "transition", "gate", "trained"};

int cot__prediction_find(const char *name) {
    for (int i = 0; i < COT__PREDICTIONS; i++)
        if (strcmp(cot__prediction_names[i], name) == 0) return i;
    return -1;
}

/* Some ids, fewer than there may be. */
typedef struct few {
    int32_t token; /* TOKEN: whose they are; −1: nobody's */
    uint16_t n, id[KEPT];
} few;

typedef struct bank {
    int n;
    float *count; /* uses, lately */
    float uses;   /* rows behind count */
    int passes;
    few last;     /* the latest rows' choices */
    few *token;   /* TOKEN: by token id modulo TOKENS */
    float *after; /* TRANSITION: [of the bank before][of this one] */
    int before;   /* experts of the bank before */
} bank;

struct cot__predictor {
    cot__prediction kind;
    pthread_mutex_t lock;
    bank *bank;
    int n_banks;
    float *score; /* room for the largest bank */
};

cot_status cot__predictor_create(cot__predictor **out, cot__prediction kind, int n_banks,
                                 const int *n_experts, cot_error *err) {
    cot__predictor *p = cot__alloc_zero(1, sizeof *p);
    if (!p) return cot__fail_memory(err, sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    p->kind = kind;
    p->bank = cot__alloc_zero((size_t)n_banks, sizeof *p->bank);
    bool ok = p->bank != NULL;
    int most = 1;
    for (int b = 0; b < n_banks && ok; b++) {
        bank *k = &p->bank[b];
        p->n_banks = b + 1;
        k->n = n_experts[b];
        k->before = b ? n_experts[b - 1] : 0;
        if (k->n > most) most = k->n;
        ok = (k->count = cot__alloc_zero((size_t)k->n, sizeof *k->count)) != NULL;
        if (ok && kind == COT__PREDICT_TOKEN && k->n > 0) { /* a trace may leave sites out */
            ok = (k->token = cot__alloc_array(TOKENS, sizeof *k->token)) != NULL;
            for (int t = 0; t < TOKENS && ok; t++) k->token[t] = (few){.token = -1};
        }
        if (ok && kind == COT__PREDICT_TRANSITION && b)
            ok = (k->after = cot__alloc_zero((size_t)k->before * (size_t)k->n, sizeof *k->after)) != NULL;
    }
    if (ok) ok = (p->score = cot__alloc_array((size_t)most, sizeof *p->score)) != NULL;
    if (!ok) {
        cot__predictor_free(&p);
        return cot__fail_memory(err, (size_t)most * sizeof(float));
    }
    *out = p;
    return COT_OK;
}

void cot__predictor_free(cot__predictor **predictor) {
    if (!predictor || !*predictor) return;
    cot__predictor *p = *predictor;
    for (int b = 0; b < p->n_banks; b++) {
        cot__free(p->bank[b].count);
        cot__free(p->bank[b].token);
        cot__free(p->bank[b].after);
    }
    pthread_mutex_destroy(&p->lock);
    cot__free(p->bank);
    cot__free(p->score);
    cot__free(p);
    *predictor = NULL;
}

cot__prediction cot__predictor_kind(const cot__predictor *p) { return p->kind; }

static void keep(few *f, const int32_t *ids, int n, const bank *k) {
    for (int i = 0; i < n && f->n < KEPT; i++)
        if (ids[i] >= 0 && ids[i] < k->n && ids[i] <= UINT16_MAX) f->id[f->n++] = (uint16_t)ids[i];
}

static void halve(bank *k) {
    k->passes = 0;
    k->uses /= 2;
    for (int e = 0; e < k->n; e++) k->count[e] /= 2;
    for (size_t i = 0; k->after && i < (size_t)k->before * (size_t)k->n; i++) k->after[i] /= 2;
}

void cot__predictor_observe(cot__predictor *p, int b, const int32_t *tokens, int rows, const int32_t *first,
                            const int32_t *ids) {
    if (b < 0 || b >= p->n_banks) return;
    pthread_mutex_lock(&p->lock);
    bank *k = &p->bank[b];
    const few *before = b ? &p->bank[b - 1].last : NULL;
    k->last.n = 0;
    for (int r = 0; r < rows; r++) {
        const int32_t *mine = ids + first[r];
        int n = first[r + 1] - first[r];
        for (int i = 0; i < n; i++) {
            if (mine[i] < 0 || mine[i] >= k->n) continue;
            k->count[mine[i]]++;
            for (int j = 0; k->after && rows == 1 && j < before->n; j++)
                k->after[(size_t)before->id[j] * (size_t)k->n + (size_t)mine[i]]++;
        }
        k->uses++;
        keep(&k->last, mine, n, k);
        if (k->token && tokens) {
            few *f = &k->token[(uint32_t)tokens[r] % TOKENS];
            *f = (few){.token = tokens[r]};
            keep(f, mine, n, k);
        }
    }
    if (++k->passes >= HALVE) halve(k);
    pthread_mutex_unlock(&p->lock);
}

static void popularity(const bank *k, float scale, float *score) {
    for (int e = 0; e < k->n && k->uses > 0; e++) score[e] = scale * k->count[e] / k->uses;
}

static void fill(cot__predictor *p, int b, const int32_t *tokens, int rows, float *score) {
    const bank *k = &p->bank[b];
    switch (p->kind) {
    case COT__PREDICT_LAST:
        for (int i = 0; i < k->last.n; i++) score[k->last.id[i]] = 0.5f;
        break;
    case COT__PREDICT_POPULARITY: popularity(k, 1, score); break;
    case COT__PREDICT_TOKEN:
        popularity(k, 0.5f, score);
        for (int r = 0; r < rows && tokens && k->token; r++) {
            const few *f = &k->token[(uint32_t)tokens[r] % TOKENS];
            for (int i = 0; f->token == tokens[r] && i < f->n; i++) score[f->id[i]] = 0.8f;
        }
        break;
    case COT__PREDICT_TRANSITION:
        if (!b) break;
        for (int i = 0; i < p->bank[b - 1].last.n; i++) {
            int from = p->bank[b - 1].last.id[i];
            float seen = p->bank[b - 1].count[from] + 1;
            for (int e = 0; e < k->n; e++)
                score[e] +=
                    k->after[(size_t)from * (size_t)k->n + (size_t)e] / seen / (float)p->bank[b - 1].last.n;
        }
        break;
    default: break;
    }
}

int cot__predict_best(const float *score, int n_scores, int32_t *ids, float *probability, int most) {
    const float least = 0.02f; /* less is not worth a read */
    int n = 0;
    for (int e = 0; e < n_scores; e++) { /* insertion into the best so far */
        float s = score[e] > 1 ? 1 : score[e];
        int at = n < most ? n : most - 1;
        if (!(s >= least) || most < 1 || (n == most && s <= probability[at])) continue; /* NaN: no guess */
        for (; at > 0 && probability[at - 1] < s; at--)
            ids[at] = ids[at - 1], probability[at] = probability[at - 1];
        ids[at] = e;
        probability[at] = s;
        n += n < most;
    }
    return n;
}

int cot__predictor_guess(cot__predictor *p, int b, const int32_t *tokens, int rows, int32_t *ids,
                         float *probability, int most) {
    if (b < 0 || b >= p->n_banks) return 0;
    pthread_mutex_lock(&p->lock);
    memset(p->score, 0, (size_t)p->bank[b].n * sizeof *p->score);
    fill(p, b, tokens, rows, p->score);
    int n = cot__predict_best(p->score, p->bank[b].n, ids, probability, most);
    pthread_mutex_unlock(&p->lock);
    return n;
}
