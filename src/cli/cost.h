/* What a pass will cost: time from bytes, operations and the experts that are not in memory. */
#ifndef COT_CLI_COST_H
#define COT_CLI_COST_H

#include <coterie/session.h>

/* The machine's limits, and which share of them this engine reaches. */
typedef struct cost_machine {
    double memory_gbs, gflops, disk_gbs; /* disk: direct reads of an expert's size, many in flight */
    double memory_share, arithmetic_share;
    /* Share of the shorter of computing and reading that hides behind the longer, in decode and in prompts;
     * below 0: reading takes longer than its bytes. */
    double overlap, overlap_prompt;
} cost_machine;
#define COST_SHARES .memory_share = 0.6, .arithmetic_share = 0.6, .overlap = 0.5, .overlap_prompt = 0.8

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

/* Sorts x; the mean of the middle two where n ≥ 1 is even. */
double cost_median(double *x, int n);

/* The model as it is now: with what its sessions leave to experts. */
cost_model cost_model_of(const cot_model *m);
/* Distinct experts when b tokens choose k of n each, independently: n (1 − (1 − k / n)^b). */
double cost_distinct(double n, double k, double b);
/* One new token in each of `batch` sequences. */
cost_point cost_decode(const cost_model *m, const cost_machine *c, int32_t batch);
/* A prompt of `rows` tokens in passes of at most `chunk`; seconds, compute, disk and read are of all of them.
 */
cost_point cost_prefill(const cost_model *m, const cost_machine *c, int32_t rows, int32_t chunk);

/* A run of the model itself for some seconds, in a session with these options: medians of a few. */
typedef struct cost_run {
    cost_model model; /* with what the session left to experts */
    int prompt;       /* tokens */
    /* Seconds of a token and of the prompt; of them, those not spent waiting for reads or room. */
    double decode, decode_busy, prefill, prefill_busy;
} cost_run;
cot_status cost_measure(const cot_model *m, const cot_session_options *so, cost_run *out, cot_error *err);
/* The shares at which the model of costs says what was measured. c comes with the limits and, where experts
 * stream, the disk's rate. */
void cost_fit(const cost_run *r, cost_machine *c);

/* What was measured last on this machine with so many threads, kept in the user's cache folder
 * ($XDG_CACHE_HOME or ~/.cache): with experts of this model's shape (coterie/machine-….json) or, where there
 * is no such, with any (coterie/machine.json). load: false, and why in `why`, when there is none or it is
 * another machine's; the shares are left alone then. save: path (of the latter) is freed by cot__free. */
bool cost_load(cost_machine *c, const cost_model *m, int threads, char *why, size_t n);
cot_status cost_save(const cost_machine *c, const cost_model *m, int threads, char **path, cot_error *err);

/* GB/s of direct reads of a model's file: so many bytes each, so many at once, for so many seconds. A shared
 * disk changes by a fifth from one second to the next: several are needed. 0: not measurable. */
double cli_disk_rate(const char *path, uint64_t bytes, int depth, double seconds);

#endif
