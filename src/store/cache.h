/* Who is resident and who goes next: pure bookkeeping over numbered experts, without memory or reads, so that
 * a recorded trace can be replayed through the same policies (replay.h). Not thread-safe. */
#ifndef COT_STORE_CACHE_H
#define COT_STORE_CACHE_H

#include <coterie/base.h>

/* The expert with the lowest score goes first; ties: the one used longest ago, then the lowest number. */
typedef enum cot__retention {
    COT__RETAIN_LRU,    /* last use */
    COT__RETAIN_LFU,    /* number of uses */
    COT__RETAIN_DECAY,  /* uses, halved every COT__HALF_LIFE passes */
    COT__RETAIN_LAYER,  /* how soon its layer comes round again, then decayed uses */
    COT__RETAIN_DEMAND, /* expected distance of its next use, from hints, decayed uses and its layer */
    COT__RETAIN_ORACLE, /* next use, farthest first: replay alone knows it */
    COT__RETENTIONS
} cot__retention;
#define COT__HALF_LIFE 64.0

/* "lru", "lfu", …; cot__retention_find gives −1 for a name that is none. */
extern const char *const cot__retention_names[COT__RETENTIONS];
int cot__retention_find(const char *name);

typedef struct cot__cached {
    int32_t bank;
    uint32_t pages;    /* that it takes when resident */
    int32_t place;     /* in the list of residents; −1: not resident */
    int32_t leases;    /* > 0: not to be evicted */
    uint64_t last;     /* clock of the last use; 0: never */
    uint64_t uses;     /* ever */
    double rank;       /* log2 of the decayed uses, brought to pass 0: comparable at any time */
    float demand;      /* expected uses when its layer comes next, from hints */
    bool hinted;       /* resident for a hint, not used yet */
    uint64_t next_use; /* oracle: clock of the next use; UINT64_MAX: never again */
} cot__cached;

/* Whose bank it is, and its turn in a pass; where a model's pass is. */
typedef struct cot__cache_place {
    int32_t model, turn;
} cot__cache_place;
typedef struct cot__cache_model {
    int32_t banks, now;
} cot__cache_model;

typedef struct cot__cache {
    cot__retention retention;
    cot__cached *entry;
    int32_t n, cap;
    int32_t *resident; /* numbers of the residents, in no order */
    double *key;       /* their scores, where time alone does not change those: in one row, for the search */
    int32_t n_resident;
    uint64_t pages, hinted_pages; /* of the residents; of those that wait for their first use */
    uint64_t clock, pass;         /* uses so far; times that the layers came round */
    int32_t *first;               /* number of each bank's first entry, and of the end */
    int32_t n_banks, bank_now;
    cot__cache_place *place; /* of each bank */
    cot__cache_model *model;
    int32_t n_models;
    bool sweep;
    uint64_t turn_clock; /* at the beginning of the present turn */
} cot__cache;

/* Adds a bank of n entries of so many pages each to a model (numbers from 0); *bank is its number. One that
 * was dropped and had as many entries comes back. */
cot_status cot__cache_add_bank(cot__cache *c, int32_t model, const uint32_t *pages, int32_t n, int32_t *bank,
                               cot_error *err);
/* A model goes; none of its entries is resident. */
void cot__cache_drop(cot__cache *c, int32_t model);
void cot__cache_free(cot__cache *c);
/* A bank's turn has come: the clock of passes and of distances; what was expected of the bank before it is
 * forgotten. sweep: from now on passes want nearly every expert, so that what was just passed goes first,
 * whatever the policy. */
void cot__cache_turn(cot__cache *c, int32_t bank, bool sweep);
void cot__cache_use(cot__cache *c, int32_t i); /* one use of entry i, resident or not */
void cot__cache_insert(cot__cache *c, int32_t i);
void cot__cache_remove(cot__cache *c, int32_t i);
/* The resident to be evicted, of those that take so many pages (0: of all); −1: none may be. One that waits
 * for its first use goes last, and never for a hint. */
int32_t cot__cache_victim(const cot__cache *c, uint32_t pages, bool for_hint);
/* Layers until bank's turn comes (again), from 1; another model's comes when the present one's pass is over.
 */
int32_t cot__cache_distance(const cot__cache *c, int32_t bank);

#endif
