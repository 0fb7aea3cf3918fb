/* Owns: the memory budget of a model and its sessions, and the choice of a residency. The budget is for the
 * whole process: what it has resident besides the store's weights is measured when the model is open, and
 * what sessions may take is reserved; experts get the rest. */
#include <pthread.h>
#include <string.h>

#include "base/error.h"
#include "base/limits.h"
#include "base/pool.h"
#include "model/internal.h"

enum {
    MIB = 1 << 20,
    LOW = 128 * MIB,
    SLACK = 16 * MIB
}; /* stacks, pages of code not touched yet, the allocator's own, the end of a huge page */

typedef struct cot__budget {
    pthread_mutex_t lock;
    cot_model *first;  /* of those that share it, linked by `beside` */
    int users;         /* these and what is being opened or closed */
    bool asked;        /* named by the program: refused when it cannot be kept */
    uint64_t memory;   /* of the process */
    uint64_t most;     /* the budget before memory grew short */
    double looked;     /* when what is free was last looked at */
    uint64_t base;     /* what it has besides the store's weights, and slack */
    uint64_t reserved; /* by sessions */
    uint64_t before;   /* what the process had without its caches when a model began to open */
    cot_progress_fn *progress;
    void *progress_user;
} cot__budget;

static uint64_t file_bytes(const cot_model *m) {
    uint64_t n = 0;
    for (size_t i = 0; i < m->source->tensors->n_tensors; i++)
        if (!cot__tier_idle(m, &m->source->tensors->tensors[i])) n += m->source->tensors->tensors[i].bytes;
    return n;
}

static cot_status choose(cot_model *m, const cot_model_options *o, cot_error *err) {
    uint64_t all = file_bytes(m), memory = m->budget->memory, room = memory / 8;
    if (o->residency < COT_RESIDENCY_AUTO || o->residency > COT_RESIDENCY_SIM)
        return cot__fail(err, COT_ARGUMENT, NULL, "residency", "%d does not exist", (int)o->residency);
    m->residency = o->residency;
    if (o->repack && m->residency == COT_RESIDENCY_AUTO) m->residency = COT_RESIDENCY_MEMORY;
    if (o->repack && m->residency != COT_RESIDENCY_MEMORY)
        return cot__fail(err, COT_ARGUMENT, NULL, "repack", "needs the weights in memory: residency memory");
    if (m->residency != COT_RESIDENCY_AUTO) return COT_OK;
    if (room < 256u * MIB) room = 256u * MIB;
    m->residency = COT_RESIDENCY_MMAP;
    if (memory && (all > memory || memory - all < room)) m->residency = COT_RESIDENCY_STREAM;
    return COT_OK;
}

/* What the process has besides experts that come and go. */
static uint64_t without_cache(const cot_model *m) {
    cot__store_stats st;
    uint64_t now = cot__memory_resident();
    cot__store_get_stats(m->store, &st);
    return now > st.cache_bytes ? now - st.cache_bytes : 0;
}

/* The budget of an open model. */
static cot_status join(cot_model *m, const cot_model_options *o, cot__store_options *so, cot_error *err) {
    const char *wrong = o->residency != COT_RESIDENCY_AUTO           ? "residency"
                        : o->memory                                  ? "memory"
                        : o->retention                               ? "retention"
                        : o->repack                                  ? "repack"
                        : o->sim_latency > 0 || o->sim_bandwidth > 0 ? "sim_latency, sim_bandwidth"
                                                                     : NULL;
    if (wrong)
        return cot__fail(err, COT_ARGUMENT, NULL, wrong, "is settled by the model beside; leave it unset");
    if (!cot__store_streams(o->beside->store))
        return cot__fail(err, COT_ARGUMENT, o->beside->source->path, "beside",
                         "does not stream; open it with residency stream");
    cot__budget *b = o->beside->budget;
    pthread_mutex_lock(&b->lock);
    m->budget = b;
    b->users++;
    b->before = without_cache(o->beside);
    pthread_mutex_unlock(&b->lock);
    m->residency = o->beside->residency;
    *so = (cot__store_options){.residency = COT__RESIDENCY_STREAM, .beside = o->beside->store};
    return COT_OK;
}

/* The budget, the residency and the store's options. */
cot_status cot__model_settle(cot_model *m, const cot_model_options *o, cot__store_options *so,
                             cot_error *err) {
    if (o->beside) return join(m, o, so, err);
    cot__budget *b = m->budget = cot__alloc_zero(1, sizeof *b);
    if (!b) return cot__fail_memory(err, sizeof *b);
    pthread_mutex_init(&b->lock, NULL);
    b->users = 1;
    b->asked = o->memory > 0;
    b->memory = o->memory;
    b->progress = o->progress;
    b->progress_user = o->progress_user;
    if (!b->asked) {
        uint64_t free_now = cot__memory_available(NULL), reserve = free_now / 16;
        if (reserve < 256u * MIB) reserve = 256u * MIB;
        if (free_now > reserve) b->memory = free_now - reserve + cot__memory_resident();
    }
    COT_TRY(choose(m, o, err));
    static const cot__residency how[] = {
        [COT_RESIDENCY_AUTO] = COT__RESIDENCY_MMAP,     [COT_RESIDENCY_MMAP] = COT__RESIDENCY_MMAP,
        [COT_RESIDENCY_MEMORY] = COT__RESIDENCY_MEMORY, [COT_RESIDENCY_STREAM] = COT__RESIDENCY_STREAM,
        [COT_RESIDENCY_RING] = COT__RESIDENCY_RING,     [COT_RESIDENCY_SIM] = COT__RESIDENCY_SIM};
    int retention = o->retention ? cot__retention_find(o->retention) : COT__RETAIN_DECAY;
    if (retention < 0 || retention == COT__RETAIN_ORACLE)
        return cot__fail(err, COT_ARGUMENT, NULL, "retention",
                         "\"%s\" is none of lru, lfu, decay, layer, demand", o->retention);
    *so = (cot__store_options){.residency = how[m->residency], .retention = (cot__retention)retention};
    if (m->residency == COT_RESIDENCY_SIM) {
        so->aio.latency = o->sim_latency > 0 ? o->sim_latency : 1e-4;
        so->aio.bandwidth = o->sim_bandwidth > 0 ? o->sim_bandwidth : 1e9;
    }
    return COT_OK;
}

cot_status cot__model_predict(cot_model *m, const char *name, cot_error *err) {
    bool file = name && cot__trained_named(name);
    int kind = file ? COT__PREDICT_TRAINED : name ? cot__prediction_find(name) : COT__PREDICT_GATE;
    if (kind < 0 || (kind == COT__PREDICT_TRAINED && !file))
        return cot__fail(err, COT_ARGUMENT, NULL, "predict",
                         "\"%s\" is none of none, last, popularity, token, transition, gate, and no FILE.rpp",
                         name);
    if (kind == COT__PREDICT_NONE || !cot__store_streams(m->store) || !cot__store_banks(m->store))
        return COT_OK;
    int n = cot__store_banks(m->store), *experts = cot__alloc_array((size_t)n, sizeof *experts);
    if (!experts) return cot__fail_memory(err, (size_t)n * sizeof *experts);
    for (size_t i = 0; i < m->n_steps; i++)
        if (m->steps[i].kind == COT__STEP_MOE)
            experts[m->steps[i].moe->bank] = m->steps[i].moe->router.n_experts;
    cot_status s = cot__predictor_create(&m->predictor, (cot__prediction)kind, n, experts, err);
    if (s == COT_OK && file) s = cot__trained_open(&m->trained, name, m->n_vocab, n, m->max_experts, err);
    cot__free(experts);
    return s;
}

/* What must be resident whatever the cache: with the lock held. */
static uint64_t least(const cot_model *m) {
    const cot__budget *b = m->budget;
    if (!cot__store_streams(m->store)) return b->base + file_bytes(m) + b->reserved;
    uint64_t weights = cot__store_smallest(m->store);
    for (const cot_model *x = b->first; x; x = x->beside) weights += cot__store_fixed(x->store);
    return b->base + weights + b->reserved;
}

static cot_status refuse(const cot_model *m, uint64_t need, cot_error *err) {
    return cot__fail(
        err, COT_LIMIT, m->source->path, "memory", "%llu MiB are too few: at least %llu MiB are needed%s",
        (unsigned long long)(m->budget->memory / MIB), (unsigned long long)((need + MIB - 1) / MIB),
        cot__store_streams(m->store) ? "" : " without streaming");
}

/* Gives experts what is left; with the lock held. */
static cot_status share_out(const cot_model *m, cot_error *err) {
    const cot__budget *b = m->budget;
    uint64_t need = least(m);
    if (need > b->memory && (b->asked || cot__store_smallest(m->store)) && b->memory)
        return refuse(m, need, err);
    if (!cot__store_smallest(m->store) || !b->memory) return COT_OK;
    return cot__store_set_capacity(m->store, b->memory - need + cot__store_smallest(m->store), err);
}

/* The model is open: it shares its budget from now on. */
void cot__model_budget(cot_model *m) {
    cot__budget *b = m->budget;
    pthread_mutex_lock(&b->lock);
    uint64_t now = without_cache(m);
    if (b->first) b->base += now > b->before ? now - b->before : 0; /* what opening one more has added */
    else b->base = now + SLACK;
    if (m->residency == COT_RESIDENCY_MEMORY) { /* its weights are in `now` already */
        uint64_t weights = cot__store_fixed(m->store);
        b->base -= weights < now ? weights : now;
    }
    m->beside = b->first;
    b->first = m;
    pthread_mutex_unlock(&b->lock);
}

cot_status cot__model_reserve(const cot_model *m, uint64_t bytes, cot_error *err) {
    cot__budget *b = m->budget;
    pthread_mutex_lock(&b->lock);
    b->reserved += bytes;
    cot_status s = share_out(m, err);
    if (s == COT_OK) s = cot__store_load(m->store, b->progress, b->progress_user, err);
    b->most = b->memory;
    if (s != COT_OK) {
        b->reserved -= bytes;
        (void)share_out(m, NULL);
    }
    pthread_mutex_unlock(&b->lock);
    return s;
}

void cot__model_unreserve(const cot_model *m, uint64_t bytes) {
    cot__budget *b = m->budget;
    if (!bytes) return;
    pthread_mutex_lock(&b->lock);
    b->reserved -= bytes;
    (void)share_out(m, NULL);
    pthread_mutex_unlock(&b->lock);
}

void cot__model_budget_free(cot_model *m) {
    cot__budget *b = m->budget;
    if (!b) return;
    pthread_mutex_lock(&b->lock);
    for (cot_model **at = &b->first; *at; at = &(*at)->beside)
        if (*at == m) {
            *at = m->beside;
            break;
        }
    pthread_mutex_unlock(&b->lock);
    cot__store_free(&m->store);
    pthread_mutex_lock(&b->lock);
    if (b->first) (void)share_out(b->first, NULL);
    bool last = --b->users == 0;
    pthread_mutex_unlock(&b->lock);
    m->budget = NULL;
    if (!last) return;
    pthread_mutex_destroy(&b->lock);
    cot__free(b);
}

cot_status cot_model_set_memory(cot_model *m, uint64_t bytes, cot_error *err) {
    cot__budget *b = m->budget;
    cot__error_clear(err);
    if (!cot__store_streams(m->store))
        return cot__fail(err, COT_UNSUPPORTED, m->source->path, "memory",
                         "only a streamed model's budget can change");
    pthread_mutex_lock(&b->lock);
    uint64_t before = b->memory;
    bool asked = b->asked;
    b->memory = bytes;
    b->asked = true;
    cot_status s = share_out(m, err);
    if (s != COT_OK) b->memory = before, b->asked = asked;
    b->most = b->memory;
    pthread_mutex_unlock(&b->lock);
    return s;
}

/* Memory that others need, or a control group's limit that was lowered: experts make way before something is
 * killed; when it is over, the cache may grow again. Looked at once a second. */
static void feel_pressure(const cot_model *m) {
    cot__budget *b = m->budget;
    pthread_mutex_lock(&b->lock);
    double now = cot__now();
    if (now - b->looked >= 1 && b->memory) {
        uint64_t free_now = cot__memory_available(NULL), need = least(m), to = b->memory;
        b->looked = now;
        if (free_now && free_now < LOW) { /* less than it has now, whatever it may have */
            uint64_t now_has = cot__memory_resident(), less = LOW - free_now;
            if (now_has && now_has < to) to = now_has;
            to = to > need + less ? to - less : need;
        } else if (free_now > 4ull * LOW && to < b->most) to = b->most - to > LOW ? to + LOW : b->most;
        if (to != b->memory && to >= need) {
            cot__log(COT_LOG_INFO, "memory: the budget is now %llu MiB, %llu MiB are free",
                     (unsigned long long)(to / MIB), (unsigned long long)(free_now / MIB));
            b->memory = to;
            (void)share_out(m, NULL);
        }
    }
    pthread_mutex_unlock(&b->lock);
}

cot_status cot__model_check(const cot_model *m, cot_error *err) {
    if (cot__store_smallest(m->store)) feel_pressure(m);
    return cot__store_check(m->store, err);
}

static const char *residency_name(cot_residency r) {
    static const char *const names[] = {"auto", "mmap", "memory", "stream", "ring", "sim"};
    return names[r];
}

/* The figures of the banks of one layer. */
static void of_layer(const cot_model *m, int layer, cot__bank_stats *sum) {
    *sum = (cot__bank_stats){0};
    for (size_t i = 0; i < m->n_steps; i++) {
        if (m->steps[i].kind != COT__STEP_MOE || m->steps[i].layer != layer) continue;
        cot__bank_stats b;
        cot__store_get_bank_stats(m->store, m->steps[i].moe->bank, &b);
        sum->acquired += b.acquired, sum->hits += b.hits, sum->misses += b.misses;
        sum->lower += b.lower, sum->hinted += b.hinted, sum->hinted_used += b.hinted_used,
            sum->bytes_read += b.bytes_read;
        sum->stall_read += b.stall_read, sum->stall_slot += b.stall_slot;
    }
}

cot_status cot_model_get_residency(const cot_model *m, int32_t layer, cot_residency_info *info,
                                   cot_error *err) {
    if (!info || info->struct_size != sizeof *info)
        return cot__fail(err, COT_ARGUMENT, NULL, "cot_residency_info", "struct_size is not set");
    if (layer < -1 || layer >= m->n_layer)
        return cot__fail(err, COT_ARGUMENT, NULL, "layer", "%d is outside −1…%d", layer, m->n_layer - 1);
    cot__store_stats st;
    cot__store_get_stats(m->store, &st);
    cot__bank_stats b = st.all;
    b.bytes_read = 0;
    if (layer >= 0) of_layer(m, layer, &b);
    else
        for (int i = 0; i < m->n_layer; i++) {
            cot__bank_stats one;
            of_layer(m, i, &one);
            b.bytes_read += one.bytes_read;
        }
    pthread_mutex_lock(&m->budget->lock);
    *info = (cot_residency_info){.struct_size = sizeof *info,
                                 .residency = residency_name(m->residency),
                                 .retention = "",
                                 .predict = "none",
                                 .lossy = cot__lossy_name(m),
                                 .lossy_type = m->lossy ? cot_type_name((int)m->tier) : "",
                                 .lower = m->lossy == COT__LOSSY_LOW ? b.acquired : b.lower,
                                 .io = st.io,
                                 .memory = m->budget->memory,
                                 .smallest = least(m),
                                 .fixed_bytes = cot__store_fixed(m->store),
                                 .expert_bytes = st.expert_bytes,
                                 .expert_capacity = st.capacity,
                                 .expert_total = cot__store_all(m->store),
                                 .acquired = b.acquired,
                                 .hits = b.hits,
                                 .misses = b.misses,
                                 .hinted = b.hinted,
                                 .hinted_used = b.hinted_used,
                                 .bytes_read = b.bytes_read,
                                 .stall_read = b.stall_read,
                                 .stall_slot = b.stall_slot,
                                 .disk_busy = st.disk_busy};
    pthread_mutex_unlock(&m->budget->lock);
    if (m->predictor) info->predict = cot__prediction_names[cot__predictor_kind(m->predictor)];
    if (cot__store_streams(m->store)) info->retention = cot__store_retention(m->store);
    return COT_OK;
}
