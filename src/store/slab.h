/* Memory for slots: many of one size lie side by side in a region, so that all of it can be huge pages. A
 * direct read into small pages is one piece for the disk per page: a virtual disk then gives half its rate.
 * Not thread-safe. */
#ifndef COT_STORE_SLAB_H
#define COT_STORE_SLAB_H

#include <stddef.h>
#include <stdint.h>

typedef struct cot__region {
    char *base;
    size_t bytes, slot; /* of all; of one */
    uint64_t taken;     /* a bit for each slot */
    int n;
} cot__region;

typedef struct cot__slab {
    cot__region *region;
    int n, cap;
} cot__slab;

/* Whole pages, each slot `bytes` long (a multiple of 4 KiB); NULL: no memory. Places fill from the front, so
 * that at most one huge page of a size is taken beyond what is used. */
void *cot__slab_take(cot__slab *s, size_t bytes);
/* The memory goes back to the system at once. */
void cot__slab_give(cot__slab *s, void *p);
void cot__slab_free(cot__slab *s); /* all of it, taken or not */

#endif
