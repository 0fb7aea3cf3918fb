/* Owns: the list of residents and the retention policies, each a score. The scan over all residents for a
 * victim looks at little more than a row of numbers: it is made once for each expert that is read. */
#include "store/cache.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

const char *const cot__retention_names[COT__RETENTIONS] = {"lru",   "lfu",    "decay",
                                                           "layer", "demand", "oracle"};

int cot__retention_find(const char *name) {
    for (int i = 0; i < COT__RETENTIONS; i++)
        if (strcmp(cot__retention_names[i], name) == 0) return i;
    return -1;
}

/* The bookkeeping of one more model, if it is new. */
static cot_status add_model(cot__cache *c, int32_t model, cot_error *err) {
    if (model < c->n_models) return COT_OK;
    cot__cache_model *m = cot__realloc_array(c->model, (size_t)model + 1, sizeof *m);
    if (!m) return cot__fail_memory(err, ((size_t)model + 1) * sizeof *m);
    c->model = m;
    for (; c->n_models <= model; c->n_models++) m[c->n_models] = (cot__cache_model){0};
    return COT_OK;
}

static cot_status grow(cot__cache *c, int32_t n, cot_error *err) {
    size_t need = (size_t)c->n + (size_t)n, banks = (size_t)c->n_banks;
    if (need > (size_t)c->cap) {
        size_t cap = need * 2;
        cot__cached *e = cot__realloc_array(c->entry, cap, sizeof *e);
        if (!e) return cot__fail_memory(err, cap * sizeof *e);
        c->entry = e;
        int32_t *r = cot__realloc_array(c->resident, cap, sizeof *r);
        if (!r) return cot__fail_memory(err, cap * sizeof *r);
        c->resident = r;
        double *k = cot__realloc_array(c->key, cap, sizeof *k);
        if (!k) return cot__fail_memory(err, cap * sizeof *k);
        c->key = k;
        c->cap = (int32_t)(cap > INT32_MAX ? INT32_MAX : cap);
    }
    int32_t *f = cot__realloc_array(c->first, banks + 2, sizeof *f);
    if (!f) return cot__fail_memory(err, (banks + 2) * sizeof *f);
    c->first = f;
    cot__cache_place *p = cot__realloc_array(c->place, banks + 1, sizeof *p);
    if (!p) return cot__fail_memory(err, (banks + 1) * sizeof *p);
    c->place = p;
    return COT_OK;
}

cot_status cot__cache_add_bank(cot__cache *c, int32_t model, const uint32_t *pages, int32_t n, int32_t *bank,
                               cot_error *err) {
    int32_t b = 0;
    if (n < 0 || c->n > INT32_MAX - n) return cot__fail(err, COT_LIMIT, NULL, "experts", "are too many");
    COT_TRY(add_model(c, model, err));
    while (b < c->n_banks && (c->place[b].model >= 0 || c->first[b + 1] - c->first[b] != n)) b++;
    if (b == c->n_banks) {
        COT_TRY(grow(c, n, err));
        c->first[c->n_banks++] = c->n;
        c->first[c->n_banks] = c->n += n;
    }
    for (int32_t i = 0; i < n; i++)
        c->entry[c->first[b] + i] = (cot__cached){
            .bank = b, .pages = pages[i], .place = -1, .rank = -INFINITY, .next_use = UINT64_MAX};
    c->place[b] = (cot__cache_place){model, c->model[model].banks++};
    *bank = b;
    return COT_OK;
}

void cot__cache_drop(cot__cache *c, int32_t model) {
    for (int32_t b = 0; b < c->n_banks; b++)
        if (c->place[b].model == model) c->place[b].model = -1;
    if (model < c->n_models) c->model[model] = (cot__cache_model){0};
}

void cot__cache_free(cot__cache *c) {
    cot__free(c->entry);
    cot__free(c->resident);
    cot__free(c->key);
    cot__free(c->first);
    cot__free(c->place);
    cot__free(c->model);
    *c = (cot__cache){0};
}

void cot__cache_turn(cot__cache *c, int32_t bank, bool sweep) {
    c->sweep = sweep;
    for (int32_t i = c->first[c->bank_now]; i < c->first[c->bank_now + 1] && bank != c->bank_now; i++) {
        cot__cached *e = &c->entry[i];
        e->demand = 0;
        if (e->hinted) c->hinted_pages -= e->pages; /* it was not wanted after all */
        e->hinted = false;
    }
    cot__cache_model *m = &c->model[c->place[bank].model];
    if (c->place[bank].turn <= m->now) c->pass++;
    m->now = c->place[bank].turn;
    c->bank_now = bank;
    c->turn_clock = c->clock;
}

/* Scores that only a use changes. */
static bool lasting(const cot__cache *c) {
    return c->retention == COT__RETAIN_LRU || c->retention == COT__RETAIN_LFU ||
           c->retention == COT__RETAIN_DECAY;
}
static double lasting_score(const cot__cache *c, const cot__cached *e) {
    return c->retention == COT__RETAIN_LFU     ? (double)e->uses
           : c->retention == COT__RETAIN_DECAY ? e->rank
                                               : (double)e->last;
}

void cot__cache_use(cot__cache *c, int32_t i) {
    cot__cached *e = &c->entry[i];
    double now = (double)c->pass / COT__HALF_LIFE, before = e->uses ? exp2(e->rank - now) : 0;
    e->last = ++c->clock;
    e->uses++;
    e->rank = log2(before + 1) + now;
    if (e->hinted) c->hinted_pages -= e->pages;
    e->hinted = false;
    if (e->place >= 0) c->key[e->place] = lasting_score(c, e);
}

void cot__cache_insert(cot__cache *c, int32_t i) {
    c->entry[i].place = c->n_resident;
    c->key[c->n_resident] = lasting_score(c, &c->entry[i]);
    c->resident[c->n_resident++] = i;
    c->pages += c->entry[i].pages;
    if (c->entry[i].hinted) c->hinted_pages += c->entry[i].pages;
}

void cot__cache_remove(cot__cache *c, int32_t i) {
    cot__cached *e = &c->entry[i];
    int32_t last = c->resident[--c->n_resident];
    c->resident[e->place] = last;
    c->key[e->place] = c->key[c->n_resident];
    c->entry[last].place = e->place;
    e->place = -1;
    c->pages -= e->pages;
    if (e->hinted) c->hinted_pages -= e->pages;
    e->hinted = false;
}

int32_t cot__cache_distance(const cot__cache *c, int32_t bank) {
    cot__cache_place p = c->place[bank], now = c->place[c->bank_now];
    int32_t round = now.model >= 0 ? c->model[now.model].banks : 0;
    if (p.model != now.model) return round + p.turn + 1;
    return p.turn > now.turn ? p.turn - now.turn : p.turn - now.turn + round;
}

/* Layers until the next use, as far as can be expected: those until its turn, and a round for each turn that
 * it will not be chosen in. */
static double expected_distance(const cot__cache *c, const cot__cached *e) {
    double often = exp2(e->rank - (double)c->pass / COT__HALF_LIFE) * (0.6931471805599453 / COT__HALF_LIFE),
           p = e->demand > 0 ? (double)e->demand : often;
    p = p > 1 ? 1 : p < 1e-6 ? 1e-6 : p;
    return cot__cache_distance(c, e->bank) + (1 / p - 1) * c->model[c->place[e->bank].model].banks;
}

static double score(const cot__cache *c, const cot__cached *e) {
    switch (c->retention) {
    case COT__RETAIN_LAYER: return -(double)cot__cache_distance(c, e->bank);
    case COT__RETAIN_DEMAND: return -expected_distance(c, e);
    case COT__RETAIN_ORACLE: return e->next_use == UINT64_MAX ? -INFINITY : -(double)e->next_use;
    default: return lasting_score(c, e);
    }
}

/* While banks are swept: what the present turn still wants is nearest, what it has used is farthest. */
static double sweep_score(const cot__cache *c, const cot__cached *e) {
    return e->bank == c->bank_now && e->last <= c->turn_clock ? 0 : -(double)cot__cache_distance(c, e->bank);
}

/* The lowest score among those who are not leased and, if asked for, do not wait for their first use. */
static int32_t lowest(const cot__cache *c, uint32_t pages, bool hinted_too) {
    int32_t best = -1;
    double least = 0;
    const double *key = lasting(c) && !c->sweep ? c->key : NULL;
    for (int32_t k = 0; k < c->n_resident; k++) {
        if (key && best >= 0 && key[k] > least) continue;
        int32_t i = c->resident[k];
        const cot__cached *e = &c->entry[i], *b = best >= 0 ? &c->entry[best] : NULL;
        if (e->leases > 0 || (e->hinted && !hinted_too) || (pages && e->pages != pages)) continue;
        double s = key ? key[k] : c->sweep ? sweep_score(c, e) : score(c, e);
        if (b && s > least) continue;
        if (b && s == least) {
            bool by_rank = !c->sweep && c->retention == COT__RETAIN_LAYER;
            double x = by_rank ? e->rank : (double)e->last, y = by_rank ? b->rank : (double)b->last;
            if (x > y || (x == y && i > best)) continue;
        }
        best = i;
        least = s;
    }
    return best;
}

int32_t cot__cache_victim(const cot__cache *c, uint32_t pages, bool for_hint) {
    int32_t i = lowest(c, pages, false);
    return i < 0 && !for_hint ? lowest(c, pages, true) : i;
}
