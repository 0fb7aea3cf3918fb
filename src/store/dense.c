/* Owns: the resident tensors of a streaming store. While a model is bound they are pages of the file, of
 * which hardly any is touched; when the budget is known to hold, memory takes their place at the same
 * address, and direct reads fill it. */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/error.h"
#include "store/stream.h"

enum { PIECE = 4 << 20, BATCH = 32 };

cot_status cot__dense_map(cot__store *s, const cot__tensor *t, const void **out, cot_error *err) {
    cot__file *file = s->set->files[t->file];
    for (size_t i = s->n_dense; i-- > 0;) /* bound twice: tied heads, retried spellings */
        if (s->dense[i].tensor == t) {
            *out = s->dense[i].base + (t->offset - s->dense[i].offset);
            return COT_OK;
        }
    if (s->n_dense == s->cap_dense) {
        size_t cap = s->cap_dense ? s->cap_dense * 2 : 256;
        cot__dense *p = cot__realloc_array(s->dense, cap, sizeof *p);
        if (!p) return cot__fail_memory(err, cap * sizeof *p);
        s->dense = p;
        s->cap_dense = cap;
    }
    cot__dense d = {.tensor = t, .offset = t->offset & ~(uint64_t)(COT__AIO_ALIGN - 1)};
    d.bytes =
        (size_t)(((t->offset + t->bytes + COT__AIO_ALIGN - 1) & ~(uint64_t)(COT__AIO_ALIGN - 1)) - d.offset);
    d.base = cot__pages_alloc(d.bytes); /* a place where huge pages may lie later */
    if (!d.base) return cot__fail_memory(err, d.bytes);
    void *p = cot__fault_hit(COT__FAULT_READ) ? (errno = EIO, MAP_FAILED)
                                              : mmap(d.base, d.bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED,
                                                     cot__file_fd(file), (off_t)d.offset);
    if (p == MAP_FAILED) {
        cot_status st = cot__fail_errno(err, cot__file_path(file), t->name, "cannot map");
        cot__pages_free(d.base, d.bytes);
        return st;
    }
    s->dense[s->n_dense++] = d;
    s->resident += d.bytes;
    *out = d.base + (t->offset - d.offset);
    return COT_OK;
}

void cot__dense_free(cot__store *s) {
    for (size_t i = 0; i < s->n_dense; i++) cot__pages_free(s->dense[i].base, s->dense[i].bytes);
    cot__free(s->dense);
    s->dense = NULL;
    s->n_dense = 0;
}

typedef struct batch {
    cot__read read[BATCH];
    atomic_int pending, error;
    _Atomic(cot__read *) failed;
} batch;

static void on_read(cot__read *r, int error) {
    batch *b = r->user;
    if (error && atomic_exchange(&b->error, error) == 0) atomic_store(&b->failed, r);
    atomic_fetch_sub_explicit(&b->pending, 1, memory_order_release);
}

static void await(cot__aio *a, batch *b) {
    for (;;) {
        uint64_t seen = cot__aio_ended(a);
        if (atomic_load_explicit(&b->pending, memory_order_acquire) == 0) return;
        cot__aio_wait(a, seen);
    }
}

static cot_status load_one(cot__store *s, cot__dense *d, batch *b, cot_error *err) {
    void *p = cot__fault_hit(COT__FAULT_ALLOC) ? MAP_FAILED
                                               : mmap(d->base, d->bytes, PROT_READ | PROT_WRITE,
                                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (p == MAP_FAILED) return cot__fail_memory(err, d->bytes);
    (void)madvise(d->base, d->bytes, MADV_HUGEPAGE);
    size_t end = (size_t)(d->tensor->offset + d->tensor->bytes - d->offset); /* what the file must have */
    for (size_t at = 0; at < d->bytes;) {
        int n = 0;
        atomic_store(&b->error, 0);
        atomic_store(&b->failed, NULL);
        for (; n < BATCH && at < d->bytes; n++, at += PIECE) {
            size_t bytes = d->bytes - at < PIECE ? d->bytes - at : PIECE;
            b->read[n] = (cot__read){.file = s->set->files[d->tensor->file],
                                     .offset = d->offset + at,
                                     .bytes = bytes,
                                     .need = end - at < bytes ? end - at : bytes,
                                     .dst = d->base + at,
                                     .done = on_read,
                                     .user = b};
        }
        atomic_store(&b->pending, n);
        cot__aio_submit(s->stream->aio, b->read, n, true);
        await(s->stream->aio, b);
        if (atomic_load(&b->error))
            return cot__stream_failed(atomic_load(&b->failed), atomic_load(&b->error), err);
    }
    s->read += d->bytes;
    d->loaded = true;
    return COT_OK;
}

cot_status cot__store_load(cot__store *s, cot_progress_fn *progress, void *user, cot_error *err) {
    if (!s->stream || s->filled) return COT_OK;
    batch *b = cot__alloc_zero(1, sizeof *b);
    if (!b) return cot__fail_memory(err, sizeof *b);
    cot_status st = COT_OK;
    for (size_t i = 0; i < s->n_dense && st == COT_OK; i++) {
        if (!s->dense[i].loaded) st = load_one(s, &s->dense[i], b, err);
        if (st == COT_OK && progress && !progress(user, "load", i + 1, s->n_dense))
            st = cot__fail(err, COT_CANCELLED, NULL, NULL, "loading was cancelled");
    }
    cot__free(b);
    /* What binding read by the way, headers and small tensors, is in the page cache still. */
    for (int f = 0; f < s->set->n_files && st == COT_OK; f++)
        cot__file_drop(s->set->files[f], 0, cot__file_size(s->set->files[f]));
    s->filled = st == COT_OK;
    return st;
}
