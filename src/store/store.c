/* Owns: resident tensors, banks of experts, and the choice between what is resident and what streams. */
#include "store/store.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "store/stream.h"

cot_status cot__store_create(cot__store **out, const cot__tensor_set *set, const cot__store_options *options,
                             cot_error *err) {
    cot__store *s = cot__alloc_zero(1, sizeof *s);
    if (!s) return cot__fail_memory(err, sizeof *s);
    s->set = set;
    s->opt = *options;
    s->loaded = cot__alloc_zero(set->n_tensors, sizeof *s->loaded);
    cot_status st = s->loaded ? COT_OK : cot__fail_memory(err, set->n_tensors * sizeof *s->loaded);
    if (st == COT_OK && s->opt.residency >= COT__RESIDENCY_STREAM)
        st = options->beside && !options->beside->stream
                 ? cot__fail(err, COT_ARGUMENT, NULL, "beside", "the other store does not stream")
                 : cot__stream_join(s, options->beside, err);
    if (st != COT_OK) cot__store_free(&s);
    else *out = s;
    return st;
}

static void free_bank(cot__bank *b) {
    if (!b) return;
    cot__free(b->experts);
    cot__free(b->segments);
    cot__free(b->made);
    cot__free(b);
}

void cot__store_free(cot__store **store) {
    if (!store || !*store) return;
    cot__store *s = *store;
    cot__stream_leave(s);
    cot__names_free(s);
    cot__dense_free(s);
    for (size_t i = 0; s->loaded && i < s->set->n_tensors; i++) cot__free(s->loaded[i]);
    for (size_t i = 0; i < s->n_derived; i++) cot__free(s->derived[i]);
    for (int i = 0; i < s->n_banks; i++) free_bank(s->banks[i]);
    cot__free(s->loaded);
    cot__free(s->derived);
    cot__free(s->banks);
    cot__free(s);
    *store = NULL;
}

bool cot__store_streams(const cot__store *s) { return s->stream != NULL; }
const char *cot__store_retention(const cot__store *s) { return cot__retention_names[s->opt.retention]; }

cot_status cot__store_tensor(cot__store *s, const cot__tensor *t, const void **out, cot_error *err) {
    size_t i = (size_t)(t - s->set->tensors);
    if (s->opt.residency == COT__RESIDENCY_MMAP) {
        const void *base;
        COT_TRY(cot__file_map(s->set->files[t->file], &base, err));
        *out = (const char *)base + t->offset;
        return COT_OK;
    }
    if (s->stream && t->bytes >= COT__DENSE_LATER) return cot__dense_map(s, t, out, err);
    if (!s->loaded[i]) {
        void *p = cot__alloc_aligned(64, (size_t)t->bytes);
        if (!p) return cot__fail_memory(err, (size_t)t->bytes);
        cot_status st = cot__file_read(s->set->files[t->file], t->offset, p, (size_t)t->bytes, err);
        if (st != COT_OK) {
            cot__free(p);
            return st;
        }
        s->loaded[i] = p;
        s->resident += t->bytes;
        s->read += t->bytes;
    }
    *out = s->loaded[i];
    return COT_OK;
}

cot_status cot__store_name(cot__store *s, const cot__tensor *t, const void **out, cot_error *err) {
    return s->stream ? cot__names_tensor(s, t, out, err) : cot__store_tensor(s, t, out, err);
}

cot_status cot__store_derived(cot__store *s, size_t bytes, void **out, cot_error *err) {
    if (s->n_derived == s->cap_derived) {
        size_t cap = s->cap_derived ? s->cap_derived * 2 : 64;
        void **p = cot__realloc_array(s->derived, cap, sizeof *p);
        if (!p) return cot__fail_memory(err, cap * sizeof *p);
        s->derived = p;
        s->cap_derived = cap;
    }
    void *p = cot__alloc_aligned(64, bytes);
    if (!p) return cot__fail_memory(err, bytes);
    s->derived[s->n_derived++] = p;
    s->resident += bytes;
    *out = p;
    return COT_OK;
}

cot_status cot__store_recipe(cot__store *s, const cot__recipe *r, const void **out, cot_error *err) {
    if (s->stream) return cot__names_recipe(s, r, out, err);
    void *p;
    COT_TRY(cot__store_derived(s, r->bytes, &p, err));
    r->make(r, r->raw, p);
    *out = p;
    return COT_OK;
}

cot_status cot__store_add_bank(cot__store *s, const cot__expert *experts, const cot__expert *lower, int n,
                               int *out, cot_error *err) {
    if (s->n_banks == s->cap_banks) {
        int cap = s->cap_banks ? s->cap_banks * 2 : 64;
        cot__bank **p = cot__realloc_array(s->banks, (size_t)cap, sizeof *p);
        if (!p) return cot__fail_memory(err, (size_t)cap * sizeof *p);
        s->banks = p;
        s->cap_banks = cap;
    }
    cot__bank *b = cot__alloc(sizeof *b);
    if (!b) return cot__fail_memory(err, sizeof *b);
    if (!s->stream) lower = NULL; /* everything is at hand */
    *b = (cot__bank){.store = s, .n = n, .entries = lower ? 2 * n : n, .at = s->n_banks};
    b->experts = cot__alloc_array((size_t)b->entries, sizeof *b->experts);
    if (b->experts) memcpy(b->experts, experts, (size_t)n * sizeof *b->experts);
    if (b->experts && lower) memcpy(b->experts + n, lower, (size_t)n * sizeof *b->experts);
    cot_status st = !b->experts ? cot__fail_memory(err, (size_t)b->entries * sizeof *b->experts)
                    : s->stream ? cot__stream_add_bank(s->stream, b, err)
                                : COT_OK;
    if (st != COT_OK) {
        free_bank(b);
        return st;
    }
    *out = s->n_banks;
    s->banks[s->n_banks++] = b;
    return COT_OK;
}

const cot__expert *cot__store_shape(const cot__store *s, int bank, int id) {
    return &s->banks[bank]->experts[id];
}

static void look(cot__stream *s, uint64_t *smallest, uint64_t *all) {
    *smallest = *all = 0;
    if (!s) return;
    pthread_mutex_lock(&s->lock); /* stores beside this one come and go */
    *smallest = s->smallest;
    *all = s->all;
    pthread_mutex_unlock(&s->lock);
}

uint64_t cot__store_smallest(const cot__store *s) {
    uint64_t smallest, all;
    look(s->stream, &smallest, &all);
    return smallest;
}
uint64_t cot__store_all(const cot__store *s) {
    uint64_t smallest, all;
    look(s->stream, &smallest, &all);
    return all;
}
uint64_t cot__store_fixed(const cot__store *s) { return s->resident; }

/* ---- leases ---- */

cot_status cot__store_acquire(cot__store *s, int bank, const int32_t *ids, int n, uint8_t *state,
                              cot__lease *lease, cot_error *err) {
    if (bank < 0 || bank >= s->n_banks)
        return cot__fail(err, COT_INTERNAL, NULL, "bank", "%d does not exist", bank);
    *lease = (cot__lease){.bank = s->banks[bank]->experts, .ids = ids, .n = n, .bank_number = bank};
    if (!s->stream) return COT_OK;
    if (!state && n) return cot__fail(err, COT_INTERNAL, NULL, "lease", "a streamed lease needs its state");
    lease->state = state;
    lease->lower_at = s->banks[bank]->entries > s->banks[bank]->n ? s->banks[bank]->n : 0;
    lease->store = s;
    return cot__stream_acquire(s->stream, lease, err);
}

cot_status cot__lease_take(cot__lease *l, int *which, int most, int *n, cot__pool *pool, cot_error *err) {
    if (l->store) return cot__stream_take(l->store->stream, l, which, most, n, pool, err);
    for (*n = 0; *n < most && l->handed < l->n;) which[(*n)++] = l->handed++;
    return COT_OK;
}

void cot__lease_done(cot__lease *l, const int *which, int n) {
    if (l->store) cot__stream_done(l->store->stream, l, which, n);
}

void cot__store_release(cot__store *s, cot__lease *l) {
    if (l->store) cot__stream_release(s->stream, l);
    l->bank = NULL;
}

/* ---- truth and figures ---- */

cot_status cot__store_check(const cot__store *s, cot_error *err) {
    for (int i = 0; s->stream && i < s->set->n_files; i++)
        if (!cot__file_unchanged(s->set->files[i]))
            return cot__fail(err, COT_IO, cot__file_path(s->set->files[i]), NULL,
                             "was changed while it was in use; open the model again");
    return COT_OK;
}

int cot__store_banks(const cot__store *s) { return s->n_banks; }
