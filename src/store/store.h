/* The expert store: where the weights of a model are, and leases on experts. Residency changes speed, never a
 * bit.
 *
 * Contract. acquire is called once per layer and batch with ascending logical ids; experts are handed over by
 * cot__lease_next as they become ready, in any order; every lease is released exactly once; views live until
 * the release. When everything is resident none of these takes a lock or memory. hint and cancel are advice.
 */
#ifndef COT_STORE_H
#define COT_STORE_H

#include "format/tensors.h"
#include "tensor/view.h"

typedef enum cot__residency { COT__RESIDENCY_MMAP, COT__RESIDENCY_MEMORY } cot__residency;

/* The parts of an expert: each its own format, layout and place. Absent parts have data == NULL and rows ==
 * 0. */
typedef enum cot__part {
    COT__GATE,
    COT__UP,
    COT__DOWN,
    COT__GATE_B,
    COT__UP_B,
    COT__DOWN_B,
    COT__PARTS
} cot__part;
typedef struct cot__expert {
    cot_view part[COT__PARTS];
} cot__expert;

typedef struct cot__store cot__store;
typedef struct cot__store_stats {
    uint64_t acquired, hits, misses, bytes_read; /* experts, experts, experts, bytes */
    uint64_t resident_bytes;                     /* owned by the store; mapped pages are the kernel's */
} cot__store_stats;

/* Borrows the tensor set, which must outlive the store. */
cot_status cot__store_create(cot__store **out, const cot__tensor_set *set, cot__residency residency,
                             cot_error *err);
void cot__store_free(cot__store **store);

/* Bytes of a whole tensor, resident from now on: mapped, or read once into memory of the store (64-byte
 * aligned). Lives as long as the store. Setup only: one thread. */
cot_status cot__store_tensor(cot__store *store, const cot__tensor *tensor, const void **out, cot_error *err);
/* Memory for derived tensors (materialised transforms), owned and counted by the store. */
cot_status cot__store_derived(cot__store *store, size_t bytes, void **out, cot_error *err);

/* Registers a bank of experts, whose views point into tensors of this store. The array is copied. *bank is
 * its number. Setup only. */
cot_status cot__store_add_bank(cot__store *store, const cot__expert *experts, int n, int *bank,
                               cot_error *err);

typedef struct cot__lease {
    const cot__expert *bank;
    const int32_t *ids; /* borrowed from the caller until release */
    int n, handed;
} cot__lease;
cot_status cot__store_acquire(cot__store *store, int bank, const int32_t *ids, int n, cot__lease *lease,
                              cot_error *err);
/* Index into ids of an expert that is ready, each once; −1 when all were handed over. May wait. */
int cot__lease_next(cot__lease *lease);
static inline const cot__expert *cot__lease_expert(const cot__lease *lease, int i) {
    return &lease->bank[lease->ids[i]];
}
void cot__store_release(cot__store *store, cot__lease *lease);

/* "These will probably be wanted"; epoch numbers let cancel drop what is stale. Never fails, never waits. */
void cot__store_hint(cot__store *store, int bank, const int32_t *ids, int n, uint64_t epoch);
void cot__store_cancel(cot__store *store, uint64_t epoch);
void cot__store_get_stats(const cot__store *store, cot__store_stats *out);

#endif
