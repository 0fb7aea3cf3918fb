/* Owns: addresses that name bytes of files and of derived parts, and their way back to extents. Reserved
 * address space costs no memory, and touching it is a fault. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/error.h"
#include "store/stream.h"

enum { PIECE = 4 << 20 }; /* a longer extent becomes several reads */

static cot_status reserve(cot__range *r, size_t bytes, cot_error *err) {
    if (r->base) return COT_OK;
    void *p = cot__fault_hit(COT__FAULT_ALLOC) ? MAP_FAILED
                                               : mmap(NULL, bytes ? bytes : 1, PROT_NONE,
                                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return cot__fail_memory(err, bytes);
    *r = (cot__range){p, bytes ? bytes : 1};
    return COT_OK;
}

cot_status cot__names_tensor(cot__store *store, const cot__tensor *t, const void **out, cot_error *err) {
    cot__names *s = &store->names;
    if (!s->files) s->files = cot__alloc_zero((size_t)store->set->n_files, sizeof *s->files);
    if (!s->files) return cot__fail_memory(err, (size_t)store->set->n_files * sizeof *s->files);
    cot__range *r = &s->files[t->file];
    COT_TRY(reserve(r, (size_t)cot__file_size(store->set->files[t->file]), err));
    *out = r->base + t->offset;
    return COT_OK;
}

void cot__names_free(cot__store *store) {
    cot__names *s = &store->names;
    for (int i = 0; s->files && i < store->set->n_files; i++)
        if (s->files[i].base) munmap(s->files[i].base, s->files[i].bytes);
    if (s->derived.base) munmap(s->derived.base, s->derived.bytes);
    for (size_t i = 0; i < s->n_recipes; i++) cot__free(s->recipes[i]);
    cot__free(s->recipes);
    cot__free(s->recipe_at);
    cot__free(s->files);
}

cot_status cot__names_recipe(cot__store *store, const cot__recipe *recipe, const void **out, cot_error *err) {
    cot__names *s = &store->names;
    size_t room = 64 << 20, end; /* each byte of the files may serve several derived parts */
    for (int i = 0; i < store->set->n_files; i++) room += 8 * (size_t)cot__file_size(store->set->files[i]);
    COT_TRY(reserve(&s->derived, room, err));
    if (cot__add_overflow(s->derived_used, recipe->bytes, &end) || end > s->derived.bytes)
        return cot__fail(err, COT_LIMIT, NULL, "experts", "too much is derived from the file's tensors");
    if (s->n_recipes == s->cap_recipes) {
        size_t cap = s->cap_recipes ? s->cap_recipes * 2 : 64;
        cot__recipe **p = cot__realloc_array(s->recipes, cap, sizeof *p);
        if (!p) return cot__fail_memory(err, cap * sizeof *p);
        s->recipes = p;
        size_t *at = cot__realloc_array(s->recipe_at, cap, sizeof *at);
        if (!at) return cot__fail_memory(err, cap * sizeof *at);
        s->recipe_at = at;
        s->cap_recipes = cap;
    }
    cot__recipe *copy = cot__alloc(sizeof *copy);
    if (!copy) return cot__fail_memory(err, sizeof *copy);
    *copy = *recipe;
    s->recipes[s->n_recipes] = copy;
    s->recipe_at[s->n_recipes++] = s->derived_used;
    *out = s->derived.base + s->derived_used;
    s->derived_used = (end + 63) & ~(size_t)63;
    return COT_OK;
}

static bool inside(const cot__range *r, const void *p, size_t bytes) {
    uintptr_t base = (uintptr_t)r->base, at = (uintptr_t)p;
    return r->base && at >= base && at - base < r->bytes && bytes <= r->bytes - (at - base);
}

/* ---- from names to extents ---- */

/* What one expert needs of a file, before neighbours are joined. */
typedef struct want {
    int file;
    uint64_t offset, bytes;
    size_t *at; /* gets the place in the slot */
} want;

enum { MOST_WANTS = COT__PARTS * 2 };

static int by_place(const void *a, const void *b) {
    const want *x = a, *y = b;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static size_t span(const cot_view *v) {
    return v->rows ? (size_t)(v->rows - 1) * v->row_stride + cot__row_bytes(v->type, v->cols) : 0;
}

static bool want_file(const cot__store *s, const void *p, size_t bytes, size_t *at, want *out) {
    const cot__range *r = s->names.files;
    for (int f = 0; r && f < s->set->n_files; f++)
        if (inside(&r[f], p, bytes)) {
            *out = (want){f, (uint64_t)((const char *)p - r[f].base), bytes, at};
            return true;
        }
    return false;
}

static cot__recipe *recipe_of(const cot__names *s, const void *p, size_t *offset) {
    size_t at = (size_t)((const char *)p - s->derived.base), lo = 0, hi = s->n_recipes;
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (s->recipe_at[mid] <= at) lo = mid;
        else hi = mid;
    }
    *offset = at - s->recipe_at[lo];
    return s->recipes[lo];
}

#define GROW(array, n, cap, more)                                                                            \
    do {                                                                                                     \
        if ((n) + (more) > (cap)) {                                                                          \
            size_t to = ((n) + (more)) * 2;                                                                  \
            void *p = cot__realloc_array(array, to, sizeof *(array));                                        \
            if (!p) return cot__fail_memory(err, to * sizeof *(array));                                      \
            (array) = p;                                                                                     \
            (cap) = to;                                                                                      \
        }                                                                                                    \
    } while (0)

/* Joins what touches or shares a page, lays the joined extents out in the slot, page by page. */
static cot_status lay_out(cot__bank *b, want *w, int n, cot__streamed *x, cot_error *err) {
    qsort(w, (size_t)n, sizeof *w, by_place);
    x->segment = (int32_t)b->n_segments;
    for (int i = 0; i < n;) {
        const uint64_t mask = COT__AIO_ALIGN - 1;
        uint64_t from = w[i].offset & ~mask, end = w[i].offset + w[i].bytes;
        int j = i + 1;
        while (j < n && w[j].file == w[i].file && w[j].offset <= ((end + mask) & ~mask)) {
            if (w[j].offset + w[j].bytes > end) end = w[j].offset + w[j].bytes;
            j++;
        }
        for (int k = i; k < j; k++) *w[k].at = x->bytes + (size_t)(w[k].offset - from);
        for (uint64_t at = from; at < end; at += PIECE) {
            uint64_t stop = end - at > PIECE ? at + PIECE : end;
            size_t room = (size_t)(((stop + mask) & ~mask) - at);
            GROW(b->segments, b->n_segments, b->cap_segments, 1);
            b->segments[b->n_segments++] = (cot__segment){.file = b->store->set->files[w[i].file],
                                                          .offset = at,
                                                          .bytes = room,
                                                          .need = (size_t)(stop - at),
                                                          .at = x->bytes};
            x->bytes += room;
        }
        i = j;
    }
    x->n_segments = (int32_t)b->n_segments - x->segment;
    return COT_OK;
}

static cot_status add_expert(cot__bank *b, cot__expert *e, cot__streamed *x, cot_error *err) {
    const cot__store *store = b->store;
    want w[MOST_WANTS];
    int n = 0;
    *x = (cot__streamed){.made = (int32_t)b->n_made};
    GROW(b->made, b->n_made, b->cap_made, COT__PARTS); /* its places are pointed into below */
    for (int p = 0; p < COT__PARTS; p++) {
        cot_view *v = &e->part[p];
        size_t bytes = span(v);
        x->part_at[p] = COT__PINNED;
        if (!v->data || !bytes) continue;
        if (want_file(store, v->data, bytes, &x->part_at[p], &w[n])) n++;
        else if (inside(&store->names.derived, v->data, bytes)) {
            cot__made *m = &b->made[b->n_made++];
            size_t offset;
            *m = (cot__made){.recipe = recipe_of(&store->names, v->data, &offset)};
            for (int k = 0; k < 2 && m->recipe->raw[k]; k++)
                if (want_file(store, m->recipe->raw[k], m->recipe->raw_bytes[k], &m->raw_at[k], &w[n])) n++;
                else return cot__fail(err, COT_INTERNAL, NULL, "recipe", "reads what is in no file");
            x->part_at[p] = offset; /* inside what is made; completed below */
        }
    }
    x->n_made = (int32_t)b->n_made - x->made;
    COT_TRY(lay_out(b, w, n, x, err));
    for (int p = 0, m = x->made; p < COT__PARTS; p++) {
        const cot_view *v = &e->part[p];
        if (!v->data || !inside(&store->names.derived, v->data, span(v))) continue;
        b->made[m].at = x->bytes;
        x->part_at[p] += x->bytes;
        x->bytes += (b->made[m].recipe->bytes + 63) & ~(size_t)63;
        m++;
    }
    x->bytes = (x->bytes + COT__AIO_ALIGN - 1) & ~(size_t)(COT__AIO_ALIGN - 1);
    for (int p = 0; p < COT__PARTS; p++)
        if (x->part_at[p] != COT__PINNED) e->part[p].data = NULL;
    return COT_OK;
}

/* With the lock held, so that other stores may be in use. */
static cot_status add_bank(cot__stream *s, cot__bank *bank, cot_error *err) {
    size_t need = (size_t)s->cache.n + (size_t)bank->entries;
    if (need > s->cap_experts) {
        size_t cap = need * 2;
        cot__streamed *x = cot__realloc_array(s->expert, cap, sizeof *x);
        if (!x) return cot__fail_memory(err, cap * sizeof *x);
        s->expert = x;
        cot__slot **slot = cot__realloc_array(s->slot, cap, sizeof *slot);
        if (!slot) return cot__fail_memory(err, cap * sizeof *slot);
        s->slot = slot;
        s->cap_experts = cap;
    }
    if (s->cache.n_banks == s->cap_banks) {
        int cap = s->cap_banks ? s->cap_banks * 2 : 64;
        cot__bank **p = cot__realloc_array(s->bank, (size_t)cap, sizeof *p);
        if (!p) return cot__fail_memory(err, (size_t)cap * sizeof *p);
        s->bank = p;
        s->cap_banks = cap;
    }
    cot__streamed *x = cot__alloc_array((size_t)bank->entries, sizeof *x);
    uint32_t *pages = cot__alloc_array((size_t)bank->entries, sizeof *pages);
    cot_status st = x && pages ? COT_OK : cot__fail_memory(err, (size_t)bank->entries * sizeof *x);
    for (int i = 0; i < bank->entries && st == COT_OK; i++) {
        st = add_expert(bank, &bank->experts[i], &x[i], err);
        pages[i] = (uint32_t)(x[i].bytes / COT__AIO_ALIGN);
    }
    if (st == COT_OK)
        st = cot__cache_add_bank(&s->cache, bank->store->number, pages, bank->entries, &bank->turn, err);
    if (st == COT_OK) {
        bank->first = s->cache.first[bank->turn];
        s->bank[bank->turn] = bank;
        s->n_banks++;
        for (int i = 0; i < bank->entries; i++) {
            s->expert[bank->first + i] = x[i];
            s->slot[bank->first + i] = NULL;
            if (i < bank->n) s->all += x[i].bytes;
            if (x[i].bytes > s->smallest) s->smallest = x[i].bytes;
        }
    }
    cot__free(x);
    cot__free(pages);
    return st;
}

cot_status cot__stream_add_bank(cot__stream *s, cot__bank *bank, cot_error *err) {
    pthread_mutex_lock(&s->lock);
    cot_status st = add_bank(s, bank, err);
    pthread_mutex_unlock(&s->lock);
    return st;
}
