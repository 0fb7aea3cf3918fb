/* Owns: regions of slots of one size. */
#include "store/slab.h"

#include <sys/mman.h>

#include "base/alloc.h"

enum { MOST = 64, HUGE = 2 << 20 };

/* So many slots that whole huge pages hold them with least to spare. */
static int slots_of(size_t bytes) {
    int best = MOST;
    size_t least = SIZE_MAX;
    for (int n = MOST; n >= MOST / 4; n--) {
        size_t spare = (HUGE - (size_t)n * bytes % HUGE) % HUGE * MOST / (size_t)n;
        if (spare < least) least = spare, best = n;
    }
    return best;
}

static cot__region *add(cot__slab *s, size_t bytes) {
    if (s->n == s->cap) {
        int cap = s->cap ? s->cap * 2 : 16;
        cot__region *p = cot__realloc_array(s->region, (size_t)cap, sizeof *p);
        if (!p) return NULL;
        s->region = p;
        s->cap = cap;
    }
    int n = slots_of(bytes);
    char *base = cot__pages_alloc((size_t)n * bytes);
    if (!base) return NULL;
    s->region[s->n] = (cot__region){.base = base, .bytes = (size_t)n * bytes, .slot = bytes, .n = n};
    return &s->region[s->n++];
}

void *cot__slab_take(cot__slab *s, size_t bytes) {
    cot__region *r = NULL;
    for (int i = 0; i < s->n && !r; i++) {
        cot__region *x = &s->region[i];
        if (x->slot == bytes && x->taken != (x->n < 64 ? (1ull << x->n) - 1 : UINT64_MAX)) r = x;
    }
    if (!r) r = add(s, bytes);
    if (!r) return NULL;
    int at = __builtin_ctzll(~r->taken);
    r->taken |= 1ull << at;
    return r->base + (size_t)at * bytes;
}

void cot__slab_give(cot__slab *s, void *p) {
    int i = 0;
    while ((uintptr_t)p - (uintptr_t)s->region[i].base >= s->region[i].bytes) i++;
    cot__region *r = &s->region[i];
    size_t at = (size_t)((char *)p - r->base);
    r->taken &= ~(1ull << at / r->slot);
    if (r->taken) (void)madvise(p, r->slot, MADV_DONTNEED);
    else {
        cot__pages_free(r->base, r->bytes);
        *r = s->region[--s->n];
    }
}

void cot__slab_free(cot__slab *s) {
    for (int i = 0; i < s->n; i++) cot__pages_free(s->region[i].base, s->region[i].bytes);
    cot__free(s->region);
    *s = (cot__slab){0};
}
