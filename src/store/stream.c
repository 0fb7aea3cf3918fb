/* Owns: slots and leases of a streaming store. One lock; reads end without it, their slots are taken notice
 * of by whoever calls in next. No lease waits for room while it holds something that nobody can use, so
 * leases never wait for each other in a circle. */
#include "store/stream.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/pool.h"

enum { OTHER_SIZE = 8 }; /* one in so many, of those whose turn it is by the policy alone */
enum { MISSING, PINNED, HANDED, DONE, STATE = 7 }; /* states of an expert in a lease, beside COT__LOWER */

static int state_of(const cot__lease *l, int at) { return l->state[at] & STATE; }
static void set_state(cot__lease *l, int at, int to) {
    l->state[at] = (uint8_t)((l->state[at] & ~STATE) | to);
}

static void free_slot(cot__stream *s, cot__slot *k) {
    if (!k) return;
    if (k->memory) cot__slab_give(&s->slab, k->memory);
    cot__free(k->reads);
    cot__free(k);
}

/* Spare slots go until no more than so many bytes of them are left. */
static void trim(cot__stream *s, uint64_t most) {
    while (s->spare && s->spare_bytes > most) {
        cot__slot *k = s->spare;
        s->spare = k->next;
        s->spare_bytes -= k->bytes;
        free_slot(s, k);
    }
}

static void free_stream(cot__stream *s) {
    cot__aio_free(&s->aio); /* nothing arrives any more */
    for (int32_t i = 0; i < s->cache.n; i++) free_slot(s, s->slot[i]);
    trim(s, 0);
    cot__slab_free(&s->slab);
    cot__cache_free(&s->cache);
    cot__free(s->store);
    cot__free(s->bank);
    cot__free(s->expert);
    cot__free(s->slot);
    cot__free(s->loading);
    cot__free(s->certain);
    cot__free(s->guess);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->freed);
    cot__free(s);
}

static cot_status create(cot__stream **out, const cot__store_options *o, cot_error *err) {
    cot__stream *s = cot__alloc_zero(1, sizeof *s);
    if (!s) return cot__fail_memory(err, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->freed, NULL);
    s->capacity = UINT64_MAX;
    s->allowance = s->credit = 4;
    s->cache.retention = o->retention;
    s->ring = o->residency == COT__RESIDENCY_RING;
    s->certain = cot__alloc_array(COT__WISHES, sizeof *s->certain);
    s->guess = cot__alloc_array(COT__WISHES, sizeof *s->guess);
    cot_status st = s->certain && s->guess ? COT_OK : cot__fail_memory(err, COT__WISHES * 32);
    if (st == COT_OK) st = cot__aio_create(&s->aio, &o->aio, err);
    if (st != COT_OK) free_stream(s);
    else *out = s;
    return st;
}

cot_status cot__stream_join(cot__store *store, cot__store *beside, cot_error *err) {
    cot__stream *s = beside ? beside->stream : NULL;
    if (!s) COT_TRY(create(&s, &store->opt, err));
    pthread_mutex_lock(&s->lock);
    int i = 0;
    while (i < s->n_stores && s->store[i]) i++;
    cot__store **p =
        i < s->n_stores ? s->store : cot__realloc_array(s->store, (size_t)i + 1, sizeof(cot__store *));
    if (p) {
        s->store = p;
        s->n_stores = i < s->n_stores ? s->n_stores : i + 1;
        p[store->number = i] = store;
        store->stream = s;
    }
    pthread_mutex_unlock(&s->lock);
    if (p) return COT_OK;
    if (!beside) free_stream(s);
    return cot__fail_memory(err, ((size_t)i + 1) * sizeof *p);
}

/* ---- slots ---- */

static void set_views(cot__stream *s, int32_t i, const char *memory) {
    cot__bank *b = cot__stream_bank(s, i);
    cot__expert *e = &b->experts[i - b->first];
    for (int p = 0; p < COT__PARTS; p++)
        if (s->expert[i].part_at[p] != COT__PINNED)
            e->part[p].data = memory ? memory + s->expert[i].part_at[p] : NULL;
}

/* Gives up an expert's slot; nobody holds it and nothing arrives in it. */
static void evict(cot__stream *s, int32_t i) {
    cot__slot *k = s->slot[i];
    cot__cache_remove(&s->cache, i);
    set_views(s, i, NULL);
    s->slot[i] = NULL;
    k->next = s->spare;
    s->spare = k;
    s->spare_bytes += k->bytes;
    s->evicted++;
}

static uint64_t used(const cot__stream *s) { return s->cache.pages * COT__AIO_ALIGN; }

static void notice(cot__stream *s);

/* Drops hints whose reads have not begun: of one bank, or (NULL) of all. */
static void abandon_hints(cot__stream *s, const cot__bank *bank) {
    for (int j = 0; j < s->n_loading; j++) {
        cot__slot *k = s->loading[j];
        if (!k->hint || s->cache.entry[k->expert].leases > 1) continue;
        if (bank && cot__stream_bank(s, k->expert) != bank) continue;
        for (int r = 0; r < k->n_reads; r++)
            if (cot__aio_cancel(s->aio, &k->reads[r])) {
                atomic_store(&k->error, ECANCELED); /* what arrives of it is thrown away */
                atomic_fetch_sub_explicit(&k->pending, 1, memory_order_release);
            }
    }
    notice(s);
}

/* Brings what is resident below the capacity, as far as nobody holds it. */
static void shrink(cot__stream *s) {
    if (used(s) > s->capacity && s->n_loading)
        abandon_hints(s, NULL); /* not worth keeping when room is short */
    while (used(s) > s->capacity) {
        int32_t i = cot__cache_victim(&s->cache, 0, false);
        if (i < 0) break;
        evict(s, i);
    }
    trim(s, s->capacity > used(s) ? s->capacity - used(s) : 0);
}

/* Who makes room for an expert. Memory of another size must go back to the system, and new pages be cleared:
 * so mostly somebody of the same size goes, and the shares of the sizes move slowly. */
static int32_t victim(cot__stream *s, int32_t i, bool hint) {
    uint32_t pages = s->cache.entry[i].pages;
    int32_t v = cot__cache_victim(&s->cache, 0, hint), same = -1;
    if (v < 0 || s->cache.entry[v].pages == pages) return v;
    if (++s->other_size % OTHER_SIZE) same = cot__cache_victim(&s->cache, pages, hint);
    return same < 0 ? v : same;
}

static bool make_room(cot__stream *s, int32_t i, bool hint) {
    size_t need = s->expert[i].bytes;
    while (used(s) + need > s->capacity) {
        int32_t v = victim(s, i, hint);
        if (v < 0) return false;
        /* A hint for a layer may not displace what comes before it. */
        if (hint && s->cache.sweep && s->cache.entry[i].bank != s->cache.bank_now &&
            cot__cache_distance(&s->cache, s->cache.entry[v].bank) <=
                cot__cache_distance(&s->cache, s->cache.entry[i].bank))
            return false;
        evict(s, v);
    }
    return true;
}

static cot_status take_slot(cot__stream *s, int32_t i, cot__slot **out, cot_error *err) {
    const cot__streamed *x = &s->expert[i];
    cot__slot **at = &s->spare, *k;
    while (*at && (*at)->bytes != x->bytes) at = &(*at)->next;
    if ((k = *at)) {
        *at = k->next;
        s->spare_bytes -= k->bytes;
    } else {
        trim(s, s->capacity - used(s) - x->bytes); /* there is room for it */
        k = cot__alloc_zero(1, sizeof *k);
        if (!k) return cot__fail_memory(err, sizeof *k);
        k->bytes = x->bytes;
        k->memory = cot__slab_take(&s->slab, x->bytes);
    }
    if (k->cap_reads < x->n_segments) {
        cot__read *r = cot__realloc_array(k->reads, (size_t)x->n_segments, sizeof *r);
        if (r) k->reads = r, k->cap_reads = x->n_segments;
    }
    if (!k->memory || k->cap_reads < x->n_segments) {
        free_slot(s, k);
        return cot__fail_memory(err, x->bytes);
    }
    if (s->n_loading == s->cap_loading) {
        size_t cap = s->cap_loading ? (size_t)s->cap_loading * 2 : 256;
        cot__slot **p = cot__realloc_array(s->loading, cap, sizeof *p);
        if (!p) {
            free_slot(s, k);
            return cot__fail_memory(err, cap * sizeof *p);
        }
        s->loading = p;
        s->cap_loading = (int)cap;
    }
    *out = k;
    return COT_OK;
}

static void on_read(cot__read *r, int error) {
    cot__slot *k = r->user;
    if (error && atomic_exchange(&k->error, error) == 0) atomic_store(&k->failed, r);
    atomic_fetch_sub_explicit(&k->pending, 1, memory_order_release);
}

cot_status cot__stream_load(cot__stream *s, int32_t i, bool hint, cot_error *err) {
    const cot__streamed *x = &s->expert[i];
    cot__bank *b = cot__stream_bank(s, i);
    cot__slot *k;
    if (!make_room(s, i, hint)) return COT_LIMIT;
    COT_TRY(take_slot(s, i, &k, err));
    k->expert = i;
    k->hint = hint;
    k->n_reads = x->n_segments;
    atomic_store(&k->pending, x->n_segments);
    atomic_store(&k->error, 0);
    atomic_store(&k->failed, NULL);
    for (int r = 0; r < x->n_segments; r++) {
        const cot__segment *g = &b->segments[x->segment + r];
        k->reads[r] = (cot__read){.file = g->file,
                                  .offset = g->offset,
                                  .bytes = g->bytes,
                                  .need = g->need,
                                  .dst = k->memory + g->at,
                                  .done = on_read,
                                  .user = k};
        b->stats.bytes_read += g->need;
    }
    s->slot[i] = k;
    s->cache.entry[i].hinted = hint;
    s->cache.entry[i].leases++; /* the arrival's own */
    cot__cache_insert(&s->cache, i);
    k->loading_at = s->n_loading;
    s->loading[s->n_loading++] = k;
    if (!hint) s->n_urgent++;
    else b->stats.hinted++;
    cot__aio_submit(s->aio, k->reads, k->n_reads, !hint);
    return COT_OK;
}

static void make_parts(cot__stream *s, int32_t i, char *memory) {
    const cot__streamed *x = &s->expert[i];
    for (int m = x->made; m < x->made + x->n_made; m++) {
        const cot__made *d = &cot__stream_bank(s, i)->made[m];
        const void *raw[2] = {memory + d->raw_at[0], memory + d->raw_at[1]};
        d->recipe->make(d->recipe, raw, memory + d->at);
    }
}

/* Slots whose reads have all ended: ready, or failed. */
static void notice(cot__stream *s) {
    for (int j = 0; j < s->n_loading;) {
        cot__slot *k = s->loading[j];
        if (atomic_load_explicit(&k->pending, memory_order_acquire) > 0) {
            j++;
            continue;
        }
        s->loading[j] = s->loading[--s->n_loading];
        s->loading[j]->loading_at = j;
        k->loading_at = -1;
        if (!k->hint) s->n_urgent--;
        s->cache.entry[k->expert].leases--;
        if (!atomic_load(&k->error)) {
            make_parts(s, k->expert, k->memory);
            set_views(s, k->expert, k->memory);
        } else if (s->cache.entry[k->expert].leases == 0) evict(s, k->expert); /* nobody's: forgotten */
    }
}

cot_status cot__stream_failed(const cot__read *r, int error, cot_error *err) {
    const char *path = cot__file_path(r->file);
    if (error == ENODATA)
        return cot__fail(err, COT_IO, path, NULL, "ends before %llu: it was cut while it was in use",
                         (unsigned long long)(r->offset + r->need));
    errno = error;
    return cot__fail_errno(err, path, NULL, "read of %zu bytes at %llu failed", r->need,
                           (unsigned long long)r->offset);
}

/* ---- leases ---- */

static int32_t number(const cot__lease *l, int at) {
    return l->store->banks[l->bank_number]->first + l->ids[at] +
           (l->state[at] & COT__LOWER ? l->lower_at : 0);
}

/* Asks for what the lease misses, as far as there is room. */
static cot_status ask(cot__stream *s, cot__lease *l, cot_error *err) {
    cot_status st = COT_OK;
    cot__aio_hold(s->aio);
    for (int a = 0; l->missing > 0 && a < l->n; a++) {
        if (state_of(l, a) != MISSING) continue;
        int32_t i = number(l, a);
        if (s->slot[i] && s->slot[i]->loading_at >= 0 && atomic_load(&s->slot[i]->error))
            continue; /* soon gone */
        if (!s->slot[i] && (st = cot__stream_load(s, i, false, err)) != COT_OK) break;
        s->cache.entry[i].leases++;
        set_state(l, a, PINNED);
        l->missing--;
    }
    cot__aio_start(s->aio);
    s->starved = st == COT_LIMIT;
    return s->starved ? COT_OK : st; /* later, then */
}

static bool at_hand(const cot__stream *s, int32_t i) {
    return s->slot[i] && !atomic_load(&s->slot[i]->error);
}

/* Whether a lease gets the lower precision of an expert: where there is one, and the expert itself is neither
 * resident nor on its way. Its uses count for both, so that a guess brings in what is used most; once it is
 * here, the lower one goes. */
static void choose_precision(cot__stream *s, cot__lease *l, int at) {
    int32_t i = number(l, at), low = i + l->lower_at;
    if (!l->lower_at) return;
    if (!at_hand(s, i)) {
        if (s->cache.sweep) return;
        cot__cache_use(&s->cache, i);
        l->state[at] |= COT__LOWER;
    } else if (s->slot[low] && s->slot[low]->loading_at < 0 && s->cache.entry[low].leases == 0) evict(s, low);
}

cot_status cot__stream_acquire(cot__stream *s, cot__lease *l, cot_error *err) {
    cot__bank *b = l->store->banks[l->bank_number];
    pthread_mutex_lock(&s->lock);
    cot__aio_poll(s->aio);
    notice(s);
    cot__aio_hold(s->aio); /* what is promoted starts with what is asked for */
    l->missing = l->n;
    b->stats.acquired += (uint64_t)l->n;
    for (int a = 0; a < l->n; a++) { /* what is here first, lest it make room for the rest */
        l->state[a] = MISSING;
        choose_precision(s, l, a);
        int32_t i = number(l, a);
        cot__slot *k = s->slot[i];
        bool first_use = k && s->cache.entry[i].hinted;
        cot__cache_use(&s->cache, i);
        b->stats.lower += l->state[a] & COT__LOWER ? 1 : 0;
        if (k && atomic_load(&k->error)) k = NULL; /* abandoned, or failed and still held */
        if (!k) {
            b->stats.misses++;
            continue;
        }
        b->stats.hits++;
        b->stats.hinted_used += first_use;
        if (k->loading_at >= 0 && k->hint) {
            for (int r = 0; r < k->n_reads; r++) cot__aio_promote(s->aio, &k->reads[r]);
            k->hint = false;
            s->n_urgent++;
        }
        s->cache.entry[i].leases++;
        set_state(l, a, PINNED);
        l->missing--;
    }
    cot__stream_adjust(s);
    /* The guesses that were wrong make way for what is wanted. */
    if (l->missing && s->n_loading && !s->ahead) abandon_hints(s, b);
    cot_status st = ask(s, l, err);
    pthread_mutex_unlock(&s->lock);
    if (st != COT_OK) cot__stream_release(s, l);
    return st;
}

/* A read that the lease waits for has failed. */
static cot_status give_up(cot__stream *s, cot__lease *l, int at, cot_error *err) {
    int32_t i = number(l, at);
    const cot__slot *k = s->slot[i];
    cot_status st = cot__stream_failed(atomic_load(&k->failed), atomic_load(&k->error), err);
    set_state(l, at, DONE);
    if (--s->cache.entry[i].leases == 0) evict(s, i);
    return st;
}

static cot_status collect(cot__stream *s, cot__lease *l, int *which, int most, int *n, bool *pending,
                          cot_error *err) {
    *n = 0;
    *pending = false;
    for (int a = 0; a < l->n && *n < most; a++) {
        if (state_of(l, a) != PINNED) continue;
        const cot__slot *k = s->slot[number(l, a)];
        if (k->loading_at >= 0) {
            *pending = true;
            continue;
        }
        if (atomic_load(&k->error)) {
            for (int j = 0; j < *n; j++) set_state(l, which[j], PINNED); /* released with the rest */
            l->handed -= *n, l->out -= *n, *n = 0;
            return give_up(s, l, a, err);
        }
        set_state(l, a, HANDED);
        l->handed++, l->out++;
        which[(*n)++] = a;
    }
    return COT_OK;
}

cot_status cot__stream_take(cot__stream *s, cot__lease *l, int *which, int most, int *n, cot__pool *pool,
                            cot_error *err) {
    cot__bank *b = l->store->banks[l->bank_number];
    bool pending = false;
    *n = 0;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        uint64_t seen = cot__aio_ended(s->aio);
        if (s->n_loading) cot__aio_poll(s->aio);
        notice(s);
        cot_status st = ask(s, l, err);
        if (st == COT_OK) st = collect(s, l, which, most, n, &pending, err);
        if (st != COT_OK || *n > 0 || l->handed == l->n) {
            if (st == COT_OK) cot__stream_pump(s);
            pthread_mutex_unlock(&s->lock);
            return st;
        }
        double t = cot__now();
        cot__pool_rest(pool);
        if (s->n_loading > 0) {
            pthread_mutex_unlock(&s->lock);
            cot__aio_wait(s->aio, seen);
            pthread_mutex_lock(&s->lock);
        } else if (l->out > 0) {
            pthread_mutex_unlock(&s->lock);
            return cot__fail(err, COT_INTERNAL, NULL, "lease",
                             "takes more while it holds what fills the cache");
        } else pthread_cond_wait(&s->freed, &s->lock);
        *(pending ? &b->stats.stall_read : &b->stats.stall_slot) += cot__now() - t;
    }
}

static void give_back(cot__stream *s, cot__lease *l, int at) {
    int32_t i = number(l, at);
    l->out -= state_of(l, at) == HANDED;
    set_state(l, at, DONE);
    if (--s->cache.entry[i].leases == 0 && s->slot[i]->loading_at < 0 && atomic_load(&s->slot[i]->error))
        evict(s, i);
}

static void after_giving(cot__stream *s) {
    shrink(s);
    pthread_cond_broadcast(&s->freed);
}

void cot__stream_done(cot__stream *s, cot__lease *l, const int *which, int n) {
    pthread_mutex_lock(&s->lock);
    for (int j = 0; j < n; j++) give_back(s, l, which[j]);
    after_giving(s);
    if (l->missing) {
        notice(s);
        (void)ask(s, l, NULL); /* what fails here fails again in take, and says so there */
    }
    cot__stream_pump(s);
    pthread_mutex_unlock(&s->lock);
}

void cot__stream_release(cot__stream *s, cot__lease *l) {
    pthread_mutex_lock(&s->lock);
    for (int a = 0; a < l->n; a++)
        if (state_of(l, a) == PINNED || state_of(l, a) == HANDED) give_back(s, l, a);
        else set_state(l, a, DONE);
    l->missing = 0;
    s->pace.released = cot__now();
    after_giving(s);
    cot__stream_pump(s);
    pthread_mutex_unlock(&s->lock);
}

/* ---- a model goes ---- */

/* Waits for what still arrives for a store, then evicts what it has. */
static void clear(cot__stream *s, const cot__store *store) {
    for (int busy = 1; busy;) {
        for (int i = 0; i < store->n_banks; i++) abandon_hints(s, store->banks[i]);
        busy = 0;
        for (int j = 0; j < s->n_loading; j++)
            busy += cot__stream_bank(s, s->loading[j]->expert)->store == store;
        uint64_t seen = cot__aio_ended(s->aio);
        cot__aio_poll(s->aio);
        notice(s);
        if (!busy) break;
        pthread_mutex_unlock(&s->lock);
        cot__aio_wait(s->aio, seen);
        pthread_mutex_lock(&s->lock);
    }
    for (int i = 0; i < store->n_banks; i++)
        for (int32_t e = store->banks[i]->first; e < store->banks[i]->first + store->banks[i]->entries; e++)
            if (s->slot[e]) evict(s, e);
}

static int without(const cot__stream *s, cot__wish *w, int n, const cot__store *store) {
    int kept = 0;
    for (int k = 0; k < n; k++)
        if (cot__stream_bank(s, w[k].expert)->store != store) w[kept++] = w[k];
    return kept;
}

void cot__stream_leave(cot__store *store) {
    cot__stream *s = store->stream;
    int left = 0;
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->n_certain = without(s, s->certain, s->n_certain, store);
    s->n_guess = without(s, s->guess, s->n_guess, store);
    clear(s, store);
    s->store[store->number] = NULL;
    s->all = s->smallest = 0;
    for (int b = 0; b < s->cache.n_banks; b++) {
        if (s->bank[b] && s->bank[b]->store == store) s->bank[b] = NULL, s->n_banks--;
        for (int32_t e = s->cache.first[b]; s->bank[b] && e < s->cache.first[b + 1]; e++) {
            if (e - s->bank[b]->first < s->bank[b]->n) s->all += s->expert[e].bytes;
            if (s->expert[e].bytes > s->smallest) s->smallest = s->expert[e].bytes;
        }
    }
    cot__cache_drop(&s->cache, store->number);
    for (int i = 0; i < s->n_stores; i++) left += s->store[i] != NULL;
    trim(s, 0);
    pthread_cond_broadcast(&s->freed);
    pthread_mutex_unlock(&s->lock);
    if (!left) free_stream(s);
    store->stream = NULL;
}

/* ---- budget and figures ---- */

cot_status cot__store_set_capacity(cot__store *store, uint64_t bytes, cot_error *err) {
    cot__stream *s = store->stream;
    if (!s) return COT_OK;
    if (bytes < s->smallest)
        return cot__fail(err, COT_LIMIT, NULL, "memory", "%llu bytes for experts, one alone takes %llu",
                         (unsigned long long)bytes, (unsigned long long)s->smallest);
    pthread_mutex_lock(&s->lock);
    s->capacity = bytes;
    notice(s);
    after_giving(s);
    pthread_mutex_unlock(&s->lock);
    return COT_OK;
}

void cot__store_get_bank_stats(cot__store *store, int bank, cot__bank_stats *out) {
    if (store->stream) pthread_mutex_lock(&store->stream->lock);
    *out = store->banks[bank]->stats;
    if (store->stream) pthread_mutex_unlock(&store->stream->lock);
}

void cot__store_get_stats(cot__store *store, cot__store_stats *out) {
    *out = (cot__store_stats){.resident_bytes = store->resident, .io = ""};
    out->all.bytes_read = store->read;
    cot__stream *s = store->stream;
    if (!s) return;
    for (int i = 0; i < store->n_banks; i++) {
        cot__bank_stats b;
        cot__store_get_bank_stats(store, i, &b);
        out->all.acquired += b.acquired;
        out->all.hits += b.hits;
        out->all.misses += b.misses;
        out->all.hinted += b.hinted;
        out->all.hinted_used += b.hinted_used;
        out->all.lower += b.lower;
        out->all.bytes_read += b.bytes_read;
        out->all.stall_read += b.stall_read;
        out->all.stall_slot += b.stall_slot;
    }
    cot__aio_stats a;
    cot__aio_get_stats(s->aio, &a);
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < store->n_banks; i++)
        for (int32_t e = store->banks[i]->first; e < store->banks[i]->first + store->banks[i]->entries; e++)
            if (s->slot[e]) out->expert_bytes += s->slot[e]->bytes;
    out->cache_bytes = used(s);
    out->resident_bytes += used(s);
    out->capacity = s->capacity;
    out->evicted = s->evicted;
    out->cancelled = s->cancelled;
    out->disk_busy = a.busy;
    out->io = cot__aio_name(s->aio);
    pthread_mutex_unlock(&s->lock);
}
