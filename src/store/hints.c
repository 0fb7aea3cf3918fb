/* Owns: the wishes of predictors and of what comes for certain, and reading ahead while banks are swept.
 * Reads for them start only when no demanded read is under way. */
#include <math.h>
#include <string.h>

#include "store/stream.h"

enum { GUESS_WINDOW = 8, SWEEP_WINDOW = 64 }; /* reads of hints in flight at once */
static const double STEP = 0.125, MOST_ALLOWANCE = 16;
static const double MEASURED = 0.02; /* seconds of reading after which the disk's rate is known */
static const double DRAIN = 1.08;    /* reads by lease take so much longer: the queue runs dry after each */

/* Bytes that may wait for their first use: what is read too early displaces what is wanted again. */
static uint64_t limit(const cot__stream *s) {
    uint64_t all = s->capacity < s->all ? s->capacity : s->all;
    if (!s->ahead) return all / 4;
    uint64_t two = s->n_banks ? s->all / (uint64_t)s->n_banks * 2 : 0;
    return two < all / 2 ? two : all / 2;
}

static bool may_start(const cot__stream *s, int32_t i) {
    return (s->cache.hinted_pages * COT__AIO_ALIGN) + s->expert[i].bytes <= limit(s);
}

/* Takes wishes from the front as long as they can be started and the credit, where it counts, lasts. */
static void grant(cot__stream *s, cot__wish *w, int *n, double *credit) {
    int at = 0;
    for (; at < *n; at++) {
        if (s->slot[w[at].expert]) continue;
        if (credit && (*credit < 1 || (w[at].probability < COT__SURE && s->early < 1))) break;
        if (!may_start(s, w[at].expert) || cot__stream_load(s, w[at].expert, true, NULL) != COT_OK) break;
        if (credit) *credit -= 1, s->early--;
    }
    *n -= at;
    memmove(w, w + at, (size_t)*n * sizeof *w);
}

/* The banks after the present one, in order; round to where it stands only where every pass is a sweep: after
 * the last layer of a prompt, the first ones are hardly wanted whole. */
static void read_ahead(cot__stream *s) {
    const cot__bank *now = s->bank[s->cache.bank_now];
    if (!now) return;
    int banks = now->store->n_banks, most = s->ring ? banks - 1 : banks - 1 - now->at;
    for (; s->ahead_bank < most; s->ahead_bank++, s->ahead_at = 0) {
        const cot__bank *b = now->store->banks[(now->at + 1 + s->ahead_bank) % banks];
        for (; s->ahead_at < b->n; s->ahead_at++) {
            int32_t i = b->first + s->ahead_at;
            if (s->slot[i]) continue;
            if (!may_start(s, i) || cot__stream_load(s, i, true, NULL) != COT_OK) return;
        }
    }
}

/* Guesses are read while the disk would idle. A wrong one that is still under way when its layer's turn comes
 * stands in the way of what is wanted, so there are only as many as rarely do. */
void cot__stream_adjust(cot__stream *s) {
    int wrong = 0;
    if (!s->turned || s->ahead) return;
    s->turned = false;
    for (int j = 0; j < s->n_loading; j++) {
        const cot__slot *k = s->loading[j];
        wrong += k->hint && s->cache.entry[k->expert].leases == 1 && atomic_load(&k->pending) > 0;
    }
    if (wrong) s->allowance -= STEP * 2 * wrong;
    else if (s->credit < 1) s->allowance += STEP; /* it was all spent */
    if (s->allowance < STEP) s->allowance = STEP;
    if (s->allowance > MOST_ALLOWANCE) s->allowance = MOST_ALLOWANCE;
    s->early = s->better ? 1 : INT32_MAX;
    s->better = false;
    s->credit = s->allowance + (s->credit < 1 && s->credit > 0 ? s->credit : 0);
}

void cot__stream_pump(cot__stream *s) {
    if (s->starved) return;
    cot__aio_hold(s->aio);
    grant(s, s->certain, &s->n_certain, NULL);
    if (s->n_certain == 0 && s->ahead) read_ahead(s);
    else if (s->n_certain == 0 && s->n_urgent == 0) grant(s, s->guess, &s->n_guess, &s->credit);
    cot__aio_start(s->aio);
}

/* Guesses about a bank are over when its turn has come. */
static void forget(cot__stream *s, const cot__bank *bank) {
    int kept = 0;
    for (int k = 0; k < s->n_guess; k++)
        if (cot__stream_bank(s, s->guess[k].expert) != bank) s->guess[kept++] = s->guess[k];
    s->n_guess = kept;
}

/* A turn begins: what the bank before it took, if this one follows it. */
static void keep_pace(cot__stream *s, const cot__bank *b, size_t pairs) {
    cot__pace *p = &s->pace;
    if (pairs > 2 * p->pairs || p->pairs > 2 * pairs) *p = (cot__pace){.pairs = pairs, .bank = p->bank};
    const cot__bank *last = s->bank[p->bank];
    double now = cot__now();
    if (last && last->store == b->store && last->at + 1 == b->at && p->turned > 0 &&
        p->released > p->turned) {
        double stalled = last->stats.stall_read + last->stats.stall_slot - p->stalled;
        double leased = fmax(p->released - p->turned - stalled, 0), between = now - p->released;
        p->leased = p->leased > 0 ? 0.75 * p->leased + 0.25 * leased : leased;
        p->between = p->between > 0 ? 0.75 * p->between + 0.25 * between : between;
    }
    p->turned = now;
    p->stalled = b->stats.stall_read + b->stats.stall_slot;
    p->bank = b->turn;
}

/* Whether it is no slower to read whole banks ahead than the wanted experts of each when its turn comes: the
 * one reads more, the other leaves the disk idle between two leases. */
static bool whole_pays(const cot__stream *s, const cot__bank *b, int wanted) {
    cot__aio_stats disk;
    cot__aio_get_stats(s->aio, &disk);
    double banks = s->n_banks, held = fmin((double)s->capacity / (double)s->all, 1),
           missing = (double)s->all / banks * (1 - held);
    if (banks < 3 || disk.busy < MEASURED || s->pace.leased <= 0) return wanted * 8 >= b->n * 7;
    double rate = (double)disk.bytes / disk.busy, some = missing * wanted / b->n / rate * DRAIN,
           whole = missing * banks / (banks - 2) / rate; /* room for two banks is spent on it */
    return fmax(s->pace.leased + s->pace.between, whole) <= fmax(s->pace.leased, some) + s->pace.between;
}

void cot__store_turn(cot__store *store, int bank, int wanted, size_t pairs) {
    cot__stream *s = store->stream;
    if (!s) return;
    const cot__bank *b = store->banks[bank];
    pthread_mutex_lock(&s->lock);
    keep_pace(s, b, pairs);
    bool sweep = s->ring || (wanted * 2 >= b->n && pairs > (size_t)wanted),
         ahead = s->ring || (sweep && whole_pays(s, b, wanted));
    if (s->ahead != ahead) cot__aio_window(s->aio, ahead ? SWEEP_WINDOW : GUESS_WINDOW);
    s->ahead = ahead;
    cot__cache_turn(&s->cache, b->turn, sweep);
    forget(s, b);
    s->turned = true;
    s->ahead_bank = s->ahead_at = s->n_certain = 0;
    pthread_mutex_unlock(&s->lock);
}

void cot__store_hint(cot__store *store, int bank, const int32_t *ids, const float *probability, int n,
                     uint64_t epoch) {
    cot__stream *s = store->stream;
    if (!s || bank < 0 || bank >= store->n_banks) return;
    const cot__bank *b = store->banks[bank];
    pthread_mutex_lock(&s->lock);
    if (probability) forget(s, b); /* better ones have come */
    cot__wish *list = probability ? s->guess : s->certain;
    int *count = probability ? &s->n_guess : &s->n_certain;
    for (int k = 0; k < n; k++) {
        if (ids[k] < 0 || ids[k] >= b->n) continue;
        int32_t i = b->first + ids[k];
        if (probability && probability[k] > s->cache.entry[i].demand)
            s->cache.entry[i].demand = probability[k];
        s->better |= probability && probability[k] >= COT__SURE;
        /* There is no time left for more than the lower precision. */
        if (probability && probability[k] >= COT__SURE && b->entries > b->n && !s->slot[i]) i += b->n;
        if (!s->slot[i] && *count < COT__WISHES)
            list[(*count)++] = (cot__wish){i, probability ? probability[k] : 1, epoch};
    }
    if (s->better) cot__stream_pump(s); /* nobody may call in before the bank's turn */
    pthread_mutex_unlock(&s->lock);
}

void cot__store_begin(cot__store *store) {
    cot__stream *s = store->stream;
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    cot__stream_pump(s);
    pthread_mutex_unlock(&s->lock);
}

static int drop_old(cot__wish *w, int *n, uint64_t epoch) {
    int kept = 0, before = *n;
    for (int k = 0; k < before; k++)
        if (w[k].epoch >= epoch) w[kept++] = w[k];
    *n = kept;
    return before - kept;
}

void cot__store_cancel(cot__store *store, uint64_t epoch) {
    cot__stream *s = store->stream;
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->cancelled +=
        (uint64_t)(drop_old(s->certain, &s->n_certain, epoch) + drop_old(s->guess, &s->n_guess, epoch));
    pthread_mutex_unlock(&s->lock);
}
