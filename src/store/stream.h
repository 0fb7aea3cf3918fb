/* The insides of a store: banks, and the streamed part with its slots. Seen by the files of store. */
#ifndef COT_STORE_STREAM_H
#define COT_STORE_STREAM_H

#include <pthread.h>
#include <stdatomic.h>

#include "store/slab.h"
#include "store/store.h"

/* One read of an expert, and where it goes in the slot. */
typedef struct cot__segment {
    cot__file *file;
    uint64_t offset;
    size_t bytes, need, at;
} cot__segment;

/* A derived part: the recipe, where its raw bytes lie in the slot and where the result goes. */
typedef struct cot__made {
    const cot__recipe *recipe;
    size_t raw_at[2], at;
} cot__made;

typedef struct cot__bank {
    cot__store *store;
    cot__expert *experts; /* streaming: data is set while the expert has a slot */
    int n, at;            /* experts; number in its store */
    int entries;          /* in the cache: n, or 2 n where each has a lower precision behind them */
    int32_t first, turn;  /* streaming: numbers of its first expert, and of the bank, in the cache */
    cot__segment *segments;
    cot__made *made;
    size_t n_segments, cap_segments, n_made, cap_made;
    cot__bank_stats stats;
} cot__bank;

#define COT__PINNED SIZE_MAX
typedef struct cot__streamed {
    int32_t segment, n_segments, made, n_made;
    size_t bytes;               /* of a slot, whole pages */
    size_t part_at[COT__PARTS]; /* in the slot; COT__PINNED: stays where it is */
} cot__streamed;

/* An expert's memory while it is resident or arriving. */
typedef struct cot__slot {
    struct cot__slot *next; /* of the spare ones */
    char *memory;
    size_t bytes;
    cot__read *reads;
    int cap_reads, n_reads;
    atomic_int pending, error; /* reads not ended; errno of the first that failed */
    _Atomic(cot__read *) failed;
    int32_t expert;
    int loading_at; /* in the list of arriving slots; −1: arrived */
    bool hint;      /* asked for by a hint alone */
} cot__slot;

typedef struct cot__wish {
    int32_t expert;
    float probability;
    uint64_t epoch;
} cot__wish;

/* Addresses that name bytes: reserved, without memory. */
typedef struct cot__range {
    char *base;
    size_t bytes;
} cot__range;

enum { COT__WISHES = 8192 };

/* What a layer takes, seconds, smoothed: with a lease on experts, less what it waited for them, and from
 * there to the next bank's turn. 0: not known. */
typedef struct cot__pace {
    double leased, between;
    double turned, stalled, released; /* when it began, what had been waited for by then, when it ended */
    size_t pairs;                     /* of the passes that were measured, about */
    int bank;                         /* number in the cache */
} cot__pace;

/* The slots of all stores that share a budget. */
typedef struct cot__stream {
    pthread_mutex_t lock;
    pthread_cond_t freed; /* something was given back */
    cot__aio *aio;
    cot__cache cache;
    cot__store **store; /* by number of the model in the cache; NULL: it has gone */
    int n_stores;
    cot__bank **bank; /* by number in the cache; NULL: it has gone */
    int cap_banks, n_banks;
    cot__streamed *expert; /* by number in the cache */
    cot__slot **slot;      /* by number; NULL: not resident */
    size_t cap_experts;
    cot__slot **loading;
    int n_loading, cap_loading, n_urgent;
    cot__slab slab;   /* memory of the slots */
    cot__slot *spare; /* evicted, for the next of the same size; they count, too */
    uint64_t spare_bytes;
    uint64_t capacity, smallest, all;
    cot__wish *certain, *guess;
    int n_certain, n_guess;
    double allowance, credit; /* guesses that the disk's idle time carries in a turn; left of this one's */
    bool better;              /* surer guesses came for this turn: they will for the next */
    int early;                /* how many of the less sure may still be read in this turn */
    bool ring, turned;
    bool ahead;     /* whole banks are read ahead */
    cot__pace pace; /* of the pass under way */
    bool starved;   /* a lease waits for room: nothing else may take it */
    int ahead_bank; /* banks ahead, and expert, at which reading ahead goes on */
    int ahead_at;
    uint64_t evicted, cancelled;
    uint32_t other_size; /* times that the policy named an expert of another size */
} cot__stream;

/* Addresses that stand for what a store may stream. */
typedef struct cot__names {
    cot__range *files; /* by file of the set */
    cot__range derived;
    size_t derived_used;
    cot__recipe **recipes; /* ascending places in derived */
    size_t *recipe_at;
    size_t n_recipes, cap_recipes;
} cot__names;

/* A resident tensor of a streaming store: pages of the file while binding, memory at the same address later.
 */
typedef struct cot__dense {
    const cot__tensor *tensor;
    char *base; /* whole pages around the tensor */
    size_t bytes;
    uint64_t offset; /* of base in the file */
    bool loaded;
} cot__dense;
enum { COT__DENSE_LATER = 64 << 10 }; /* smaller ones are read at once */

struct cot__store {
    const cot__tensor_set *set;
    cot__dense *dense;
    size_t n_dense, cap_dense;
    cot__store_options opt;
    void **loaded;  /* per tensor: memory of the store, or NULL */
    void **derived; /* materialised tensors */
    size_t n_derived, cap_derived;
    cot__bank **banks;
    int n_banks, cap_banks;
    uint64_t resident, read;
    bool filled;         /* cot__store_load is done */
    cot__stream *stream; /* NULL: all is resident */
    int number;          /* among the stores of the stream */
    cot__names names;
};

/* A stream of the store's own, or (beside) that of another store. */
cot_status cot__stream_join(cot__store *store, cot__store *beside, cot_error *err);
/* The store's experts go; the last one takes the stream along. */
void cot__stream_leave(cot__store *store);
/* extents.c */
cot_status cot__names_tensor(cot__store *s, const cot__tensor *t, const void **out, cot_error *err);
cot_status cot__names_recipe(cot__store *s, const cot__recipe *r, const void **out, cot_error *err);
void cot__names_free(cot__store *s);
/* dense.c */
cot_status cot__dense_map(cot__store *s, const cot__tensor *t, const void **out, cot_error *err);
void cot__dense_free(cot__store *s);
/* An errno as the failure of a read. */
cot_status cot__stream_failed(const cot__read *r, int error, cot_error *err);
/* extents.c: where the parts of a bank's experts come from. */
cot_status cot__stream_add_bank(cot__stream *s, cot__bank *bank, cot_error *err);

static inline cot__bank *cot__stream_bank(const cot__stream *s, int32_t i) {
    return s->bank[s->cache.entry[i].bank];
}
cot_status cot__stream_acquire(cot__stream *s, cot__lease *lease, cot_error *err);
cot_status cot__stream_take(cot__stream *s, cot__lease *lease, int *which, int most, int *n, cot__pool *pool,
                            cot_error *err);
void cot__stream_done(cot__stream *s, cot__lease *lease, const int *which, int n);
void cot__stream_release(cot__stream *s, cot__lease *lease);
/* hints.c, with the lock held: starts reads for hints where nothing urgent is under way. */
void cot__stream_pump(cot__stream *s);
/* With the lock held, once the first lease of a turn has pinned what is there: how many guesses pay. */
void cot__stream_adjust(cot__stream *s);
/* With the lock held: asks for an expert that has no slot. COT_LIMIT: no room now. */
cot_status cot__stream_load(cot__stream *s, int32_t i, bool hint, cot_error *err);

#endif
