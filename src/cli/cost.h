/* What a pass will cost: time from bytes, operations and the experts that are not in memory. */
#ifndef COT_CLI_COST_H
#define COT_CLI_COST_H

#include <coterie/session.h>

/* The machine's limits, and which share of them this engine reaches. */
typedef struct cost_machine {
    double memory_gbs, gflops, disk_gbs; /* disk: direct reads of an expert's size, many in flight */
    double memory_share, arithmetic_share;
    double overlap; /* share of the shorter of computing and reading that hides behind the longer */
} cost_machine;
#define COST_SHARES .memory_share = 0.6, .arithmetic_share = 0.6, .overlap = 0.5

typedef struct cost_model {
    cot_model_info info;
    uint64_t expert_total, cache; /* bytes of all routed experts; of those that memory holds */
} cost_model;

typedef struct cost_point {
    double tps;            /* tokens a second, of all sequences together */
    double compute, disk;  /* seconds of a step, each alone */
    double seconds;        /* of a step */
    double distinct;       /* experts of a layer that a step wants, under uniform choices */
    double hit_rate, read; /* of them in memory; bytes read from the disk in a step */
    const char *bound;     /* "memory", "arithmetic", "disk" */
} cost_point;

/* Distinct experts when b tokens choose k of n each, independently: n (1 − (1 − k / n)^b). */
double cost_distinct(double n, double k, double b);
/* One new token in each of `batch` sequences. */
cost_point cost_decode(const cost_model *m, const cost_machine *c, int32_t batch);
/* A prompt of `rows` tokens in passes of at most `chunk`; seconds, compute, disk and read are of all of them.
 */
cost_point cost_prefill(const cost_model *m, const cost_machine *c, int32_t rows, int32_t chunk);

/* Direct reads of a model's file: so many bytes each, so many at once, for about a second. 0: not measurable.
 */
double cli_disk_rate(const char *path, uint64_t bytes, int depth);

#endif
