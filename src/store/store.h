/* The expert store: where the weights of a model are, and leases on experts. Residency changes speed, never a
 * bit. README.md says how it works; this file what each call does.
 *
 * Contract. acquire is called once per layer and batch with ascending logical ids; experts are handed over by
 * cot__lease_take as they become ready, in any order; every lease is released exactly once; an expert's views
 * live until its done or the release. When everything is resident none of these takes a lock or memory. hint
 * and cancel are advice.
 */
#ifndef COT_STORE_H
#define COT_STORE_H

#include "base/aio.h"
#include "base/pool.h"
#include "format/tensors.h"
#include "store/cache.h"
#include "tensor/view.h"

typedef enum cot__residency {
    COT__RESIDENCY_MMAP,
    COT__RESIDENCY_MEMORY,
    COT__RESIDENCY_STREAM,
    COT__RESIDENCY_RING,
    COT__RESIDENCY_SIM
} cot__residency;

typedef struct cot__store_options {
    cot__residency residency;
    cot__retention retention;
    cot__aio_options aio; /* streamed residencies; SIM: its latency and bandwidth */
    /* A streaming store whose slots, budget and policy this one shares (the rest above is then that store's);
     * either may be freed first. */
    struct cot__store *beside;
} cot__store_options;

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

/* Borrows the tensor set, which must outlive the store. A streaming store starts with room for everything;
 * cot__store_set_capacity limits it. */
cot_status cot__store_create(cot__store **out, const cot__tensor_set *set, const cot__store_options *options,
                             cot_error *err);
void cot__store_free(cot__store **store);
bool cot__store_streams(const cot__store *store);
const char *cot__store_retention(const cot__store *store);

/* ---- binding: setup only, one thread ---- */

/* Bytes of a whole tensor, resident from now on: mapped, or read into memory of the store. Lives as long as
 * the store. A streaming store maps it at first, and reads it to the same address in cot__store_load. */
cot_status cot__store_tensor(cot__store *store, const cot__tensor *tensor, const void **out, cot_error *err);
/* Brings in what is to be resident, once binding is done and the budget is known to hold. */
cot_status cot__store_load(cot__store *store, cot_progress_fn *progress, void *user, cot_error *err);
/* The address that names a tensor of experts. Only for views that go to cot__store_add_bank: in a streaming
 * store there is nothing to read at it. */
cot_status cot__store_name(cot__store *store, const cot__tensor *tensor, const void **out, cot_error *err);
/* Memory for derived tensors (materialised transforms), owned and counted by the store. */
cot_status cot__store_derived(cot__store *store, size_t bytes, void **out, cot_error *err);

/* How a part of an expert is made of bytes of the file. A pure function of raw and p. */
typedef struct cot__recipe {
    void (*make)(const struct cot__recipe *recipe, const void *const *raw, void *out);
    const void *raw[2]; /* names of what it reads; the second may be NULL */
    size_t raw_bytes[2], bytes;
    int64_t p[8];
} cot__recipe;
/* The address that names what a recipe makes: made at once where everything is resident, else whenever the
 * expert is read. */
cot_status cot__store_recipe(cot__store *store, const cot__recipe *recipe, const void **out, cot_error *err);

/* Registers a bank of experts, whose views point into tensors, names and derived memory of this store. The
 * arrays are copied. *bank is its number; banks are added in the order in which a pass uses them.
 * lower, NULL or n of them: the same experts in a lower precision. A streaming store hands one out where the
 * expert itself is not at hand, is wanted for a generated token and would have to be waited for longer (a
 * sweep waits); guesses bring in the experts themselves. */
cot_status cot__store_add_bank(cot__store *store, const cot__expert *experts, const cot__expert *lower, int n,
                               int *bank, cot_error *err);
/* Shapes and formats of an expert; its data may be absent. */
const cot__expert *cot__store_shape(const cot__store *store, int bank, int id);

/* Repacks for the kernels (cot_view.together), in place and with all cores, matrices that lie in memory of
 * the store (residency MEMORY): `views` and the experts of all banks. What `kept` or another view reads, too,
 * and what has a format without such a layout, stays as it is. Results stay the same. */
cot_status cot__store_repack(cot__store *store, cot_view *const *views, size_t n, const cot_view *const *kept,
                             size_t n_kept, cot_progress_fn *progress, void *user, cot_error *err);

/* ---- budget: streaming stores; any thread ---- */

/* Limits the bytes of resident and arriving experts; what is too much goes as soon as nobody holds it. Fails,
 * changing nothing, below cot__store_smallest. */
cot_status cot__store_set_capacity(cot__store *store, uint64_t bytes, cot_error *err);
uint64_t cot__store_smallest(const cot__store *store); /* the largest expert; 0: nothing is streamed */
uint64_t cot__store_all(const cot__store *store);      /* all experts; 0: nothing is streamed. These two and
                                                          the capacity are of all stores side by side. */
uint64_t cot__store_fixed(const cot__store *store);    /* bytes that stay: dense weights, derived tensors */

/* ---- leases ---- */

typedef struct cot__lease {
    const cot__expert *bank;
    const int32_t *ids; /* borrowed from the caller until release */
    int n, handed;
    int bank_number;
    uint8_t *state;    /* streaming: n bytes, borrowed from the caller until release */
    int lower_at;      /* where the bank's lower precision begins; 0: there is none */
    int missing, out;  /* not asked for yet; handed over and not given back */
    cot__store *store; /* NULL: all is resident */
} cot__lease;

/* A pass of so many (row, expert) pairs reaches this bank, before its first acquire there, and wants so many
 * experts of it. Where it wants most of them, as prompts and large batches do, the bank just passed makes
 * room, and missing experts of the next banks are read ahead in order if that is no slower, by what this pass
 * has measured so far, than to read only what is wanted. Advice. */
void cot__store_turn(cot__store *store, int bank, int wanted, size_t pairs);
/* `state` is room for n bytes of the lease's own; it may be NULL where nothing is streamed.
 * After a failure there is nothing to release. */
cot_status cot__store_acquire(cot__store *store, int bank, const int32_t *ids, int n, uint8_t *state,
                              cot__lease *lease, cot_error *err);
/* Indices into ids of experts that are ready, each handed over once, at most `most` of them; *n == 0: all
 * were handed over. Waits until there is one; where slots are few, only what was given back makes room, so
 * give back before the next take. The caller's pool (or NULL) rests meanwhile. A failed read is the error of
 * the lease that needed it. */
cot_status cot__lease_take(cot__lease *lease, int *which, int most, int *n, cot__pool *pool, cot_error *err);
enum { COT__LOWER = 8 }; /* in a state: it is the lower precision */
static inline const cot__expert *cot__lease_expert(const cot__lease *lease, int i) {
    bool lower = lease->lower_at && lease->state[i] & COT__LOWER;
    return &lease->bank[lease->ids[i] + (lower ? lease->lower_at : 0)];
}
/* Experts that were handed over are not needed any more. */
void cot__lease_done(cot__lease *lease, const int *which, int n);
void cot__store_release(cot__store *store, cot__lease *lease);

/* ---- advice ---- */

/* "These will probably be wanted", with a probability each (NULL: certain), likeliest first; epoch numbers
 * let cancel drop what is stale: queued hints of epochs before `epoch`. Guesses replace earlier ones about
 * the bank; where guesses from COT__SURE on come before the bank's turn, one of the less sure ones is read
 * beforehand and no more. Never fails, never waits. */
#define COT__SURE 0.95f
void cot__store_hint(cot__store *store, int bank, const int32_t *ids, const float *probability, int n,
                     uint64_t epoch);
void cot__store_cancel(cot__store *store, uint64_t epoch);
/* What was hinted may be read now: for hints outside leases, whose calls do so by themselves. */
void cot__store_begin(cot__store *store);
/* ---- truth and figures ---- */

/* COT_IO when a file that is read from is not what was opened any more. */
cot_status cot__store_check(const cot__store *store, cot_error *err);

typedef struct cot__bank_stats {
    uint64_t acquired, hits, misses; /* experts; a hit was resident or on its way for a hint */
    uint64_t hinted, hinted_used;    /* experts read for a hint; those of them that were then wanted */
    uint64_t lower;                  /* of those acquired: handed out in the lower precision */
    uint64_t bytes_read;
    double stall_read, stall_slot; /* seconds waited for reads; for slots that others held */
} cot__bank_stats;
typedef struct cot__store_stats {
    cot__bank_stats all;
    uint64_t resident_bytes; /* owned by the store and those beside it; mapped pages are the kernel's */
    uint64_t expert_bytes;   /* this store's experts … */
    uint64_t cache_bytes, capacity; /* … and those of all that share the budget */
    uint64_t evicted, cancelled;
    double disk_busy; /* seconds with reads in flight */
    const char *io;   /* how it reads; "" when it does not stream */
} cot__store_stats;
void cot__store_get_stats(cot__store *store, cot__store_stats *out);
int cot__store_banks(const cot__store *store);
void cot__store_get_bank_stats(cot__store *store, int bank, cot__bank_stats *out);

#endif
