/* Owns: recorded traces and their replay through cache and predictors, the same code that the store uses.
 * Experts are taken one after the other, each of the same size, so that evicting what is used farthest in the
 * future is the best that can be done without predictions. */
#include <coterie/replay.h>

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "store/cache.h"
#include "store/predict.h"

enum {
    MOST_BYTES = 1 << 30,
    MOST_SITES = 4096,
    MOST_EXPERTS = 4096,
    MOST_AHEAD = 64,
    SHUFFLE = 60,
    UNIFORM = 61
};

typedef struct turn {
    int32_t site, token; /* token of its row, −1: several rows, or not recorded */
    int32_t sequence;    /* of its first row */
    int32_t n;
    size_t first; /* in ids: distinct, ascending */
} turn;

struct cot_trace {
    turn *turns;
    size_t n_turns, cap_turns;
    int32_t *ids;
    size_t n_ids, cap_ids;
    int *experts; /* of each site */
    int n_sites;
};

#define GROW(array, n, cap) ((n) < (cap) ? true : grow((void **)&(array), &(cap), (n) + 1, sizeof *(array)))

static bool grow(void **p, size_t *cap, size_t need, size_t size) {
    size_t to = need < 64 ? 64 : need * 2;
    void *q = cot__realloc_array(*p, to, size);
    if (!q) return false;
    *p = q;
    *cap = to;
    return true;
}

void cot_trace_free(cot_trace **trace) {
    if (!trace || !*trace) return;
    cot__free((*trace)->turns);
    cot__free((*trace)->ids);
    cot__free((*trace)->experts);
    cot__free(*trace);
    *trace = NULL;
}

/* An expert of the turn that is being built (the last one), once and in order. */
static cot_status add_expert(cot_trace *t, int32_t id, cot_error *err) {
    turn *now = &t->turns[t->n_turns - 1];
    size_t at = t->n_ids;
    while (at > now->first && t->ids[at - 1] > id) at--;
    if (at > now->first && t->ids[at - 1] == id) return COT_OK;
    if (!GROW(t->ids, t->n_ids, t->cap_ids)) return cot__fail_memory(err, t->n_ids * sizeof *t->ids);
    memmove(t->ids + at + 1, t->ids + at, (t->n_ids - at) * sizeof *t->ids);
    t->ids[at] = id;
    t->n_ids++;
    now->n++;
    if (id >= t->experts[now->site]) t->experts[now->site] = id + 1;
    return COT_OK;
}

static cot_status add_turn(cot_trace *t, int32_t site, int32_t token, int32_t sequence, cot_error *err) {
    if (!GROW(t->turns, t->n_turns, t->cap_turns))
        return cot__fail_memory(err, t->n_turns * sizeof *t->turns);
    if (site >= t->n_sites) {
        int *p = cot__realloc_array(t->experts, (size_t)site + 1, sizeof *p);
        if (!p) return cot__fail_memory(err, ((size_t)site + 1) * sizeof *p);
        for (int i = t->n_sites; i <= site; i++) p[i] = 0;
        t->experts = p;
        t->n_sites = site + 1;
    }
    t->turns[t->n_turns++] = (turn){.site = site, .token = token, .sequence = sequence, .first = t->n_ids};
    return COT_OK;
}

typedef struct line {
    int64_t site, sequence, pass, token, n_experts;
    const json_t *experts;
} line;

static cot_status read_line(const json_t *root, const char *path, line *l, cot_error *err) {
    *l = (line){.site = -1, .pass = -1, .token = -1};
    COT_TRY(cot__json_int(root, path, "site", 0, MOST_SITES - 1, &l->site, err));
    COT_TRY(cot__json_int(root, path, "sequence", 0, INT32_MAX, &l->sequence, err));
    COT_TRY(cot__json_int(root, path, "pass", 0, INT64_MAX, &l->pass, err));
    COT_TRY(cot__json_int(root, path, "token", 0, INT32_MAX, &l->token, err));
    COT_TRY(cot__json_int(root, path, "n_experts", 1, MOST_EXPERTS, &l->n_experts, err));
    l->experts = json_object_get(root, "experts");
    if (l->site < 0) return cot__fail(err, COT_FORMAT, path, "site", "is missing");
    if (!json_is_array(l->experts)) return cot__fail(err, COT_FORMAT, path, "experts", "must be a list");
    return COT_OK;
}

static cot_status take_line(cot_trace *t, const line *l, const line *before, bool *fresh, const char *path,
                            cot_error *err) {
    *fresh = !t->n_turns || l->site != before->site || l->pass != before->pass ||
             (l->pass < 0 && l->sequence <= before->sequence);
    if (*fresh) COT_TRY(add_turn(t, (int32_t)l->site, (int32_t)l->token, (int32_t)l->sequence, err));
    else t->turns[t->n_turns - 1].token = -1;
    if (l->n_experts > t->experts[l->site]) t->experts[l->site] = (int)l->n_experts;
    for (size_t i = 0; i < json_array_size(l->experts); i++) {
        const json_t *id = json_array_get(l->experts, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= MOST_EXPERTS)
            return cot__fail(err, COT_FORMAT, path, "experts", "must hold numbers in 0…%d", MOST_EXPERTS - 1);
        COT_TRY(add_expert(t, (int32_t)json_integer_value(id), err));
    }
    return COT_OK;
}

static cot_status parse(cot_trace *t, const char *path, const char *text, size_t n, cot_error *err) {
    line before = {0};
    for (size_t at = 0; at < n;) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end ? (size_t)(end - (text + at)) : n - at;
        bool blank = strspn(text + at, " \t\r") >= len, fresh;
        json_t *root = NULL;
        line l;
        if (!blank) {
            COT_TRY(cot__json_parse(&root, path, text + at, len, err));
            cot_status s = read_line(root, path, &l, err);
            if (s == COT_OK) s = take_line(t, &l, &before, &fresh, path, err);
            l.experts = NULL;
            json_decref(root);
            if (s != COT_OK) return s;
            before = l;
        }
        at += len + 1;
    }
    if (!t->n_ids) return cot__fail(err, COT_FORMAT, path, NULL, "records no choice of experts");
    return COT_OK;
}

cot_status cot_trace_open(cot_trace **out, const char *path, cot_error *err) {
    char *text = NULL;
    size_t n = 0;
    cot__error_clear(err);
    cot_trace *t = cot__alloc_zero(1, sizeof *t);
    if (!t) return cot__fail_memory(err, sizeof *t);
    cot_status s = cot__file_slurp(path, MOST_BYTES, &text, &n, err);
    if (s == COT_OK) s = parse(t, path, text, n, err);
    cot__free(text);
    if (s != COT_OK) cot_trace_free(&t);
    else *out = t;
    return s;
}

cot_status cot_trace_uniform(cot_trace **out, int32_t sites, int32_t experts, int32_t k, int64_t passes,
                             uint64_t seed, cot_error *err) {
    cot__error_clear(err);
    if (sites < 1 || sites > MOST_SITES || experts < 1 || experts > MOST_EXPERTS || k < 1 || k > experts ||
        passes < 1)
        return cot__fail(err, COT_ARGUMENT, NULL, "trace", "%d of %d experts at %d sites, %lld passes", k,
                         experts, sites, (long long)passes);
    cot_trace *t = cot__alloc_zero(1, sizeof *t);
    if (!t) return cot__fail_memory(err, sizeof *t);
    cot_status s = COT_OK;
    uint64_t drawn = 0;
    for (int64_t p = 0; p < passes && s == COT_OK; p++)
        for (int32_t site = 0; site < sites && s == COT_OK; site++) {
            s = add_turn(t, site, -1, 0, err);
            if (s == COT_OK && t->experts[site] < experts) t->experts[site] = experts;
            while (s == COT_OK && t->turns[t->n_turns - 1].n < k)
                s = add_expert(t, (int32_t)(cot__random_u64(seed, UNIFORM, drawn++, 0) % (uint64_t)experts),
                               err);
        }
    if (s != COT_OK) cot_trace_free(&t);
    else *out = t;
    return s;
}

cot_status cot_trace_shuffle(cot_trace *t, uint64_t seed, cot_error *err) {
    size_t *place = cot__alloc_array(t->n_turns, sizeof *place);
    if (!place) return cot__fail_memory(err, t->n_turns * sizeof *place);
    for (int site = 0; site < t->n_sites; site++) {
        size_t n = 0;
        for (size_t i = 0; i < t->n_turns; i++)
            if (t->turns[i].site == site) place[n++] = i;
        for (size_t i = 1; i < n; i++) { /* Fisher and Yates */
            size_t j = (size_t)(cot__random_u64(seed, SHUFFLE, (uint64_t)site, i) % (i + 1));
            turn a = t->turns[place[i]];
            t->turns[place[i]] = t->turns[place[j]];
            t->turns[place[j]] = a;
        }
    }
    cot__free(place);
    return COT_OK;
}

void cot_trace_get_info(const cot_trace *t, cot_trace_info *info) {
    *info = (cot_trace_info){.struct_size = sizeof *info,
                             .sites = t->n_sites,
                             .turns = (int64_t)t->n_turns,
                             .accesses = (int64_t)t->n_ids};
    for (int i = 0; i < t->n_sites; i++) info->experts += t->experts[i];
}

/* ---- replay ---- */

void cot_replay_defaults(cot_replay_options *o) {
    *o = (cot_replay_options){.struct_size = sizeof *o, .capacity = 0.5, .ahead = 2};
}

typedef struct replay {
    const cot_trace *t;
    cot__cache cache;
    cot__predictor *predictor;
    cot__trained *trained; /* with the ids of the sequence so far, as far as its context reaches */
    int32_t *recent, sequence;
    int n_recent; /* 0: this pass is not foretold */
    float *forecast, *scratch;
    int32_t *first; /* number of each site's first expert */
    uint64_t *next; /* of each access: number of the next one to the same expert */
    uint64_t room;  /* experts */
    cot_replay_result r;
} replay;

static cot_status set_up(replay *p, const cot_replay_options *o, cot_error *err) {
    const cot_trace *t = p->t;
    int most = 1, all = 0;
    for (int i = 0; i < t->n_sites; i++) {
        if (t->experts[i] > most) most = t->experts[i];
        all += t->experts[i];
    }
    uint32_t *pages = cot__alloc_array((size_t)most, sizeof *pages);
    p->first = cot__alloc_array((size_t)t->n_sites, sizeof *p->first);
    p->next = cot__alloc_array(t->n_ids, sizeof *p->next);
    uint64_t *seen = cot__alloc_array((size_t)all + 1, sizeof *seen);
    cot_status s = pages && p->first && p->next && seen ? COT_OK : cot__fail_memory(err, t->n_ids * 8);
    for (int i = 0; i < most && s == COT_OK; i++) pages[i] = 1;
    for (int i = 0; i < t->n_sites && s == COT_OK; i++) {
        int32_t bank; /* i */
        s = cot__cache_add_bank(&p->cache, 0, pages, t->experts[i], &bank, err);
        if (s == COT_OK) p->first[i] = p->cache.first[bank];
    }
    for (int i = 0; i < all && s == COT_OK; i++) seen[i] = UINT64_MAX;
    for (size_t i = t->n_turns; i-- > 0 && s == COT_OK;)
        for (int32_t k = t->turns[i].n; k-- > 0;) {
            size_t a = t->turns[i].first + (size_t)k;
            uint64_t *x = &seen[p->first[t->turns[i].site] + t->ids[a]];
            p->next[a] = *x;
            *x = (uint64_t)i * 65536 + (uint64_t)k; /* any growing number serves */
        }
    p->room = (uint64_t)(o->capacity * all + 0.5);
    if (p->room < 1) p->room = 1;
    cot__free(pages);
    cot__free(seen);
    return s;
}

static bool make_room(replay *p, bool hint) {
    while (p->cache.pages + 1 > p->room) {
        int32_t v = cot__cache_victim(&p->cache, 0, hint);
        if (v < 0) return false;
        cot__cache_remove(&p->cache, v);
    }
    return true;
}

static void use(replay *p, int32_t i, uint64_t next) {
    cot__cached *e = &p->cache.entry[i];
    bool hinted = e->hinted;
    p->r.accesses++;
    cot__cache_use(&p->cache, i);
    e->next_use = next;
    if (e->place >= 0) {
        p->r.hits++;
        p->r.hinted_used += hinted;
    } else if (make_room(p, false)) cot__cache_insert(&p->cache, i);
}

static void read_ahead(replay *p, int site, const int32_t *ids, const float *probability, int n, int most) {
    for (int k = 0, read = 0; k < n && read < most; k++) {
        cot__cached *e = &p->cache.entry[p->first[site] + ids[k]];
        e->demand = probability[k];
        if (e->place >= 0 || !make_room(p, true)) continue;
        e->hinted = true;
        cot__cache_insert(&p->cache, p->first[site] + ids[k]);
        p->r.hinted++;
        read++;
    }
}

static void look_ahead(replay *p, const turn *t, int ahead) {
    int32_t rows[2] = {0, t->n}, ids[MOST_AHEAD];
    float probability[MOST_AHEAD];
    int next = (t->site + 1) % p->t->n_sites;
    const int32_t *token = t->token >= 0 ? &t->token : NULL;
    cot__predictor_observe(p->predictor, t->site, token, 1, rows, p->t->ids + t->first);
    int n = cot__predictor_guess(p->predictor, next, next ? token : NULL, 1, ids, probability, MOST_AHEAD);
    read_ahead(p, next, ids, probability, n, ahead);
}

/* A pass of one row begins: all that a trained predictor says of it. Rows of batches have left no ids. */
static void foretell(replay *p, const turn *t) {
    int context = cot__trained_context(p->trained);
    if (t->token < 0 || t->sequence != p->sequence) p->n_recent = 0;
    p->sequence = t->sequence;
    if (t->token < 0) return;
    if (p->n_recent == context) memmove(p->recent, p->recent + 1, (size_t)--p->n_recent * sizeof *p->recent);
    p->recent[p->n_recent++] = t->token;
    memset(p->forecast, 0, cot__trained_forecast_bytes(p->trained));
    cot__trained_forecast(p->trained, p->recent, p->n_recent, p->scratch, p->forecast);
}

static void look_up(replay *p, int site, int ahead) {
    int32_t ids[MOST_AHEAD];
    float probability[MOST_AHEAD];
    if (!p->n_recent || site >= p->t->n_sites) return;
    const float *mine = p->forecast + (size_t)site * (size_t)cot__trained_experts(p->trained);
    int n = cot__predict_best(mine, p->t->experts[site], ids, probability, MOST_AHEAD);
    read_ahead(p, site, ids, probability, n, ahead);
}

static cot_status open_trained(replay *p, const char *path, cot_error *err) {
    int most = 1;
    for (int i = 0; i < p->t->n_sites; i++)
        if (p->t->experts[i] > most) most = p->t->experts[i];
    COT_TRY(cot__trained_open(&p->trained, path, 0, p->t->n_sites, most, err));
    size_t scratch = cot__trained_scratch(p->trained);
    p->recent = cot__alloc_array((size_t)cot__trained_context(p->trained), sizeof *p->recent);
    p->forecast = cot__alloc(cot__trained_forecast_bytes(p->trained));
    p->scratch = cot__alloc(scratch);
    return p->recent && p->forecast && p->scratch ? COT_OK : cot__fail_memory(err, scratch);
}

static cot_status check(const cot_replay_options *o, int *retention, int *prediction, cot_error *err) {
    *retention = o->retention ? cot__retention_find(o->retention) : COT__RETAIN_DECAY;
    bool file = o->predict && cot__trained_named(o->predict);
    *prediction = file         ? COT__PREDICT_TRAINED
                  : o->predict ? cot__prediction_find(o->predict)
                               : COT__PREDICT_NONE;
    if (o->struct_size != sizeof *o)
        return cot__fail(err, COT_ARGUMENT, NULL, "cot_replay_options", "call cot_replay_defaults first");
    if (*retention < 0)
        return cot__fail(err, COT_ARGUMENT, NULL, "retention",
                         "\"%s\" is none of lru, lfu, decay, layer, demand, oracle", o->retention);
    if (*prediction < 0 || (*prediction >= COT__PREDICT_GATE && !file))
        return cot__fail(err, COT_ARGUMENT, NULL, "predict",
                         "\"%s\" is none of none, last, popularity, token, transition, and no FILE.rpp",
                         o->predict);
    if (!(o->capacity >= 0 && o->capacity <= 1) || o->ahead < 0)
        return cot__fail(err, COT_ARGUMENT, NULL, "capacity",
                         "must lie in 0…1, and ahead must not be negative");
    return COT_OK;
}

cot_status cot_replay(const cot_trace *t, const cot_replay_options *options, cot_replay_result *result,
                      cot_error *err) {
    cot_replay_options o;
    int retention, prediction;
    cot__error_clear(err);
    cot_replay_defaults(&o);
    if (options) o = *options;
    COT_TRY(check(&o, &retention, &prediction, err));
    replay p = {.t = t};
    p.cache.retention = (cot__retention)retention;
    cot_status s = set_up(&p, &o, err);
    if (s == COT_OK && prediction == COT__PREDICT_TRAINED) s = open_trained(&p, o.predict, err);
    else if (s == COT_OK && prediction != COT__PREDICT_NONE)
        s = cot__predictor_create(&p.predictor, (cot__prediction)prediction, t->n_sites, t->experts, err);
    for (size_t i = 0; i < t->n_turns && s == COT_OK; i++) {
        const turn *u = &t->turns[i];
        if (p.trained && u->site == 0) {
            foretell(&p, u);
            look_up(&p, 0, o.ahead);
        }
        cot__cache_turn(&p.cache, u->site, false);
        for (int32_t k = 0; k < u->n; k++)
            use(&p, p.first[u->site] + t->ids[u->first + (size_t)k], p.next[u->first + (size_t)k]);
        if (p.predictor) look_ahead(&p, u, o.ahead);
        if (p.trained) look_up(&p, u->site + 1, o.ahead);
    }
    if (s == COT_OK) *result = p.r;
    cot__predictor_free(&p.predictor);
    cot__trained_close(&p.trained);
    cot__free(p.recent);
    cot__free(p.forecast);
    cot__free(p.scratch);
    cot__cache_free(&p.cache);
    cot__free(p.first);
    cot__free(p.next);
    return s;
}
