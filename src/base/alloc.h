/* The only way to memory. Checked sizes, one place where tests make an allocation or a read fail. */
#ifndef COT_BASE_ALLOC_H
#define COT_BASE_ALLOC_H

#include <coterie/base.h>

/* As malloc/calloc/realloc/free; NULL when out of memory. Zero sizes give a valid pointer. */
void *cot__alloc(size_t bytes);
void *cot__alloc_zero(size_t count, size_t size);             /* overflow-checked, zeroed */
void *cot__alloc_array(size_t count, size_t size);            /* overflow-checked, not zeroed */
void *cot__realloc_array(void *p, size_t count, size_t size); /* on failure p stays valid */
void *cot__alloc_aligned(size_t alignment, size_t bytes);     /* power of two; freed by cot__free */
void cot__free(void *p);                                      /* NULL is allowed */
/* Whole pages straight from the system, and back to it at once: what is freed no longer counts as resident.
 * bytes is rounded up to pages; the same value frees. */
void *cot__pages_alloc(size_t bytes);
void cot__pages_free(void *p, size_t bytes); /* NULL is allowed */
size_t cot__alloc_live(void);                /* blocks not freed yet, for leak tests */
char *cot__strdup(const char *s);
char *cot__strndup(const char *s, size_t n); /* n bytes, terminated; embedded NULs kept */

/* True when a*b (or a+b) does not fit; *out is set otherwise. */
static inline bool cot__mul_overflow(size_t a, size_t b, size_t *out) {
    return __builtin_mul_overflow(a, b, out);
}
static inline bool cot__add_overflow(size_t a, size_t b, size_t *out) {
    return __builtin_add_overflow(a, b, out);
}

/* Fault injection for tests: the n-th call from now (1 = next) of that kind fails once; 0 fails none and
 * starts counting afresh. cot__fault_hit is asked by the allocator and by the file reader; always compiled
 * in, one relaxed load. */
typedef enum cot__fault_kind {
    COT__FAULT_ALLOC,
    COT__FAULT_READ,
    COT__FAULT_WRITE,
    COT__FAULT_THREAD,
    COT__FAULT_SHORT, /* a read that gives half of what was asked for */
    COT__FAULT_URING, /* setting up io_uring */
    COT__FAULT_KINDS
} cot__fault_kind;
void cot__fault_set(cot__fault_kind kind, uint64_t nth);
uint64_t cot__fault_count(cot__fault_kind kind); /* calls seen since the last set */
bool cot__fault_hit(cot__fault_kind kind);

/* Arena: bump allocation, freed or rewound at once. Not thread-safe. Pointers live until reset/rewind/free.
 * Alignment is 64 bytes. */
typedef struct cot__arena cot__arena;
cot_status cot__arena_create(cot__arena **out, size_t chunk_bytes, size_t max_bytes, cot_error *err);
void cot__arena_free(cot__arena **arena);
void *cot__arena_alloc(cot__arena *arena, size_t bytes); /* NULL: out of memory or above max_bytes */
void cot__arena_reset(cot__arena *arena);                /* keeps the chunks for reuse */
size_t cot__arena_mark(const cot__arena *arena);
void cot__arena_rewind(cot__arena *arena, size_t mark);
size_t cot__arena_used(const cot__arena *arena);
size_t cot__arena_reserved(const cot__arena *arena);

/* Growing byte buffer with a maximum. Zero-initialise, set max. `data` is always terminated by a NUL that
 * is not counted. `full` tells a failure for the maximum from one for want of memory. */
typedef struct cot__buf {
    char *data;
    size_t len, cap, max;
    bool full;
} cot__buf;
bool cot__buf_put(cot__buf *buf, const void *bytes, size_t n); /* false: out of memory or above max */
COT_PRINTF(2, 3) bool cot__buf_printf(cot__buf *buf, const char *fmt, ...);
void cot__buf_free(cot__buf *buf);

#endif
