/* Owns: all memory of the library, and the counters that let tests make a call fail.
 * Refuses: sizes that overflow. The only file that may name malloc and free. */
#include "base/alloc.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"

static struct {
    atomic_ullong nth, seen;
    atomic_bool on;
} faults[COT__FAULT_KINDS];

void cot__fault_set(cot__fault_kind kind, uint64_t nth) {
    atomic_store(&faults[kind].seen, 0);
    atomic_store(&faults[kind].nth, nth);
    atomic_store(&faults[kind].on, true);
}

uint64_t cot__fault_count(cot__fault_kind kind) { return atomic_load(&faults[kind].seen); }

bool cot__fault_hit(cot__fault_kind kind) {
    if (!atomic_load_explicit(&faults[kind].on, memory_order_relaxed)) return false;
    return atomic_fetch_add(&faults[kind].seen, 1) + 1 == atomic_load(&faults[kind].nth);
}

static atomic_size_t live;

static void *count(void *p) {
    if (p) atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    return p;
}

size_t cot__alloc_live(void) { return atomic_load_explicit(&live, memory_order_relaxed); }

void *cot__alloc(size_t bytes) {
    if (cot__fault_hit(COT__FAULT_ALLOC)) return NULL;
    return count(malloc(bytes ? bytes : 1));
}

void *cot__alloc_zero(size_t n, size_t size) {
    size_t bytes; /* checked here, too: sanitizers stop at an overflow inside calloc */
    if (cot__mul_overflow(n, size, &bytes) || cot__fault_hit(COT__FAULT_ALLOC)) return NULL;
    return count(calloc(n ? n : 1, size ? size : 1));
}

void *cot__alloc_array(size_t n, size_t size) {
    size_t bytes;
    return cot__mul_overflow(n, size, &bytes) ? NULL : cot__alloc(bytes);
}

void *cot__realloc_array(void *p, size_t n, size_t size) {
    size_t bytes;
    if (cot__mul_overflow(n, size, &bytes) || cot__fault_hit(COT__FAULT_ALLOC)) return NULL;
    void *q = realloc(p, bytes ? bytes : 1);
    return p ? q : count(q);
}

/* Pieces from LARGE on begin where a huge page may, so that the kernel can use some: weights read through 4
 * KiB pages come a quarter slower. */
enum { HUGE = 2 << 20, LARGE = 8 << 20 };

/* On a machine of several memory nodes large pieces (weights) are spread over all that may be used, page by
 * page: every thread reads every weight some time, so that the nodes' bandwidths add up. What is small lies
 * where it is touched first. A policy that the user set (numactl) is left alone, as is an older kernel's
 * refusal. */
static void spread(void *p, size_t bytes) {
    enum { DEFAULT = 0, INTERLEAVE = 3, ALLOWED = 4, NODES = 1024 };
    unsigned long nodes[NODES / (8 * sizeof(unsigned long))] = {0};
    int policy = -1, n = 0;
    if (syscall(SYS_get_mempolicy, &policy, NULL, 0, NULL, 0) || policy != DEFAULT) return;
    if (syscall(SYS_get_mempolicy, NULL, nodes, NODES, NULL, ALLOWED)) return;
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) n += __builtin_popcountl(nodes[i]);
    if (n < 2) return;
    (void)madvise(p, bytes, MADV_DONTNEED); /* a used heap's pages would stay where they are */
    (void)syscall(SYS_mbind, p, bytes, INTERLEAVE, nodes, NODES, 0);
}

void *cot__alloc_aligned(size_t alignment, size_t bytes) {
    size_t rounded;
    if (cot__add_overflow(bytes, alignment - 1, &rounded) || cot__fault_hit(COT__FAULT_ALLOC)) return NULL;
    rounded &= ~(alignment - 1);
    if (rounded < LARGE || alignment > HUGE)
        return count(aligned_alloc(alignment, rounded ? rounded : alignment));
    rounded = (rounded + HUGE - 1) & ~(size_t)(HUGE - 1);
    void *p = aligned_alloc(HUGE, rounded);
    if (p) {
        (void)madvise(p, rounded, MADV_HUGEPAGE);
        spread(p, rounded);
    }
    return count(p);
}

void cot__free(void *p) {
    if (p) atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    free(p);
}

static void *map_pages(size_t bytes) {
    size_t more = bytes >= HUGE ? HUGE : 0, before;
    char *p =
        mmap(NULL, bytes + more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || !more) return p;
    before = (HUGE - (uintptr_t)p % HUGE) % HUGE;
    if (before) munmap(p, before);
    if (more > before) munmap(p + before + ((bytes + 4095) & ~(size_t)4095), more - before);
    (void)madvise(p + before, bytes, MADV_HUGEPAGE);
    spread(p + before, bytes);
    return p + before;
}

void *cot__pages_alloc(size_t bytes) {
    if (cot__fault_hit(COT__FAULT_ALLOC)) return NULL;
    void *p = map_pages(bytes ? bytes : 1);
    return count(p == MAP_FAILED ? NULL : p);
}

void cot__pages_free(void *p, size_t bytes) {
    if (!p) return;
    atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    munmap(p, bytes ? bytes : 1);
}

char *cot__strndup(const char *s, size_t n) {
    char *copy = n == SIZE_MAX ? NULL : cot__alloc(n + 1);
    if (!copy) return NULL;
    memcpy(copy, s, n);
    copy[n] = 0;
    return copy;
}

char *cot__strdup(const char *s) { return cot__strndup(s, strlen(s)); }

/* ---- arena ---- */

typedef struct chunk {
    struct chunk *next;
    size_t size, start; /* start: bytes of all chunks before this one */
    char *data;
} chunk;

struct cot__arena {
    chunk *first, *now;
    size_t used; /* inside `now` */
    size_t chunk_bytes, max_bytes, reserved;
};

cot_status cot__arena_create(cot__arena **out, size_t chunk_bytes, size_t max_bytes, cot_error *err) {
    cot__arena *a = cot__alloc_zero(1, sizeof *a);
    if (!a) return cot__fail_memory(err, sizeof *a);
    a->chunk_bytes = chunk_bytes < 4096 ? 4096 : chunk_bytes;
    a->max_bytes = max_bytes;
    *out = a;
    return COT_OK;
}

void cot__arena_free(cot__arena **arena) {
    if (!arena || !*arena) return;
    for (chunk *c = (*arena)->first, *next; c; c = next) {
        next = c->next;
        cot__free(c->data);
        cot__free(c);
    }
    cot__free(*arena);
    *arena = NULL;
}

static chunk *arena_grow(cot__arena *a, size_t bytes) {
    size_t size = bytes > a->chunk_bytes ? bytes : a->chunk_bytes;
    if (a->max_bytes && (size > a->max_bytes || a->reserved > a->max_bytes - size)) return NULL;
    chunk *c = cot__alloc_zero(1, sizeof *c);
    if (!c) return NULL;
    c->data = cot__alloc_aligned(64, size);
    if (!c->data) {
        cot__free(c);
        return NULL;
    }
    c->size = size;
    a->reserved += size;
    return c;
}

void *cot__arena_alloc(cot__arena *a, size_t bytes) {
    if (bytes > SIZE_MAX - 63) return NULL;
    bytes = (bytes + 63) & ~(size_t)63;
    while (!a->now || a->now->size - a->used < bytes) {
        chunk *next = a->now ? a->now->next : a->first;
        if (!next || next->size < bytes) {
            /* A too small chunk further on stays in the list, behind the new one. */
            chunk *c = arena_grow(a, bytes);
            if (!c) return NULL;
            c->next = next;
            if (a->now) a->now->next = c;
            else a->first = c;
            next = c;
        }
        next->start = a->now ? a->now->start + a->now->size : 0;
        a->now = next;
        a->used = 0;
    }
    void *p = a->now->data + a->used;
    a->used += bytes;
    return p;
}

void cot__arena_reset(cot__arena *a) {
    a->now = a->first;
    a->used = 0;
}

size_t cot__arena_mark(const cot__arena *a) { return a->now ? a->now->start + a->used : 0; }

void cot__arena_rewind(cot__arena *a, size_t mark) {
    size_t start = 0;
    for (chunk *c = a->first; c; c = c->next) {
        if (mark <= start + c->size) {
            a->now = c;
            c->start = start;
            a->used = mark - start;
            return;
        }
        start += c->size;
    }
}

size_t cot__arena_used(const cot__arena *a) { return cot__arena_mark(a); }
size_t cot__arena_reserved(const cot__arena *a) { return a->reserved; }

/* ---- growing buffer ---- */

static bool buf_room(cot__buf *b, size_t n) {
    size_t need;
    b->full = cot__add_overflow(b->len, n, &need) || need > b->max || need == SIZE_MAX;
    if (b->full) return false;
    if (need < b->cap) return true;
    size_t cap = b->cap ? b->cap : 64;
    while (cap <= need) cap = cap > SIZE_MAX / 2 ? SIZE_MAX : cap * 2;
    char *p = cot__realloc_array(b->data, cap, 1);
    if (!p) return false;
    b->data = p;
    b->cap = cap;
    return true;
}

bool cot__buf_put(cot__buf *b, const void *bytes, size_t n) {
    if (!buf_room(b, n)) return false;
    if (n) memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = 0;
    return true;
}

bool cot__buf_printf(cot__buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || !buf_room(b, (size_t)n)) return false;
    va_start(ap, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
    return true;
}

void cot__buf_free(cot__buf *b) {
    cot__free(b->data);
    b->data = NULL;
    b->len = b->cap = 0;
}
