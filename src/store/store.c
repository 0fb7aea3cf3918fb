/* Owns: resident tensors and banks of experts. Residencies: mapped (the kernel pages) and all in memory. */
#include "store/store.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

typedef struct bank {
    cot__expert *experts;
    int n;
} bank;

struct cot__store {
    const cot__tensor_set *set;
    cot__residency residency;
    void **loaded;  /* per tensor: memory of the store, or NULL */
    void **derived; /* materialised tensors */
    size_t n_derived, cap_derived;
    bank *banks;
    int n_banks, cap_banks;
    uint64_t resident, read, acquired;
};

cot_status cot__store_create(cot__store **out, const cot__tensor_set *set, cot__residency residency,
                             cot_error *err) {
    cot__store *s = cot__alloc_zero(1, sizeof *s);
    if (!s) return cot__fail_memory(err, sizeof *s);
    s->set = set;
    s->residency = residency;
    s->loaded = cot__alloc_zero(set->n_tensors, sizeof *s->loaded);
    if (!s->loaded) {
        cot__free(s);
        return cot__fail_memory(err, set->n_tensors * sizeof *s->loaded);
    }
    *out = s;
    return COT_OK;
}

void cot__store_free(cot__store **store) {
    if (!store || !*store) return;
    cot__store *s = *store;
    for (size_t i = 0; i < s->set->n_tensors; i++) cot__free(s->loaded[i]);
    for (size_t i = 0; i < s->n_derived; i++) cot__free(s->derived[i]);
    for (int i = 0; i < s->n_banks; i++) cot__free(s->banks[i].experts);
    cot__free(s->loaded);
    cot__free(s->derived);
    cot__free(s->banks);
    cot__free(s);
    *store = NULL;
}

cot_status cot__store_tensor(cot__store *s, const cot__tensor *t, const void **out, cot_error *err) {
    cot__file *file = s->set->files[t->file];
    size_t i = (size_t)(t - s->set->tensors);
    if (s->residency == COT__RESIDENCY_MMAP) {
        const void *base;
        COT_TRY(cot__file_map(file, &base, err));
        *out = (const char *)base + t->offset;
        return COT_OK;
    }
    if (!s->loaded[i]) {
        void *p = cot__alloc_aligned(64, (size_t)t->bytes);
        if (!p) return cot__fail_memory(err, (size_t)t->bytes);
        cot_status st = cot__file_read(file, t->offset, p, (size_t)t->bytes, err);
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

cot_status cot__store_add_bank(cot__store *s, const cot__expert *experts, int n, int *out, cot_error *err) {
    if (s->n_banks == s->cap_banks) {
        int cap = s->cap_banks ? s->cap_banks * 2 : 64;
        bank *p = cot__realloc_array(s->banks, (size_t)cap, sizeof *p);
        if (!p) return cot__fail_memory(err, (size_t)cap * sizeof *p);
        s->banks = p;
        s->cap_banks = cap;
    }
    cot__expert *copy = cot__alloc_array((size_t)n, sizeof *copy);
    if (!copy) return cot__fail_memory(err, (size_t)n * sizeof *copy);
    memcpy(copy, experts, (size_t)n * sizeof *copy);
    *out = s->n_banks;
    s->banks[s->n_banks++] = (bank){copy, n};
    return COT_OK;
}

cot_status cot__store_acquire(cot__store *s, int bank, const int32_t *ids, int n, cot__lease *lease,
                              cot_error *err) {
    if (bank < 0 || bank >= s->n_banks)
        return cot__fail(err, COT_INTERNAL, NULL, "bank", "%d does not exist", bank);
    *lease = (cot__lease){.bank = s->banks[bank].experts, .ids = ids, .n = n};
    s->acquired += (uint64_t)n;
    return COT_OK;
}

int cot__lease_next(cot__lease *lease) { return lease->handed < lease->n ? lease->handed++ : -1; }

void cot__store_release(cot__store *s, cot__lease *lease) {
    (void)s;
    lease->bank = NULL;
}

void cot__store_hint(cot__store *s, int bank, const int32_t *ids, int n, uint64_t epoch) {
    (void)s, (void)bank, (void)ids, (void)n, (void)epoch; /* all is resident: nothing to fetch */
}

void cot__store_cancel(cot__store *s, uint64_t epoch) { (void)s, (void)epoch; }

void cot__store_get_stats(const cot__store *s, cot__store_stats *out) {
    *out = (cot__store_stats){
        .acquired = s->acquired, .hits = s->acquired, .bytes_read = s->read, .resident_bytes = s->resident};
}
