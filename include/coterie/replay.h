/* Coterie: recorded routing, replayed through the policies of the expert store without computing anything. */
#ifndef COTERIE_REPLAY_H
#define COTERIE_REPLAY_H

#include <coterie/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What routers chose, turn by turn; a turn is one site (router) in one pass. Immutable but for shuffle. */
typedef struct cot_trace cot_trace;

/* Reads JSON lines: {"site": 3, "experts": [1, 5], "sequence": 0, "position": 17, "pass": 4, "token": 99,
 * "n_experts": 64, "weights": [0.7, 0.3]}. site and experts are needed. Lines of a turn follow each other; a
 * turn ends where site or pass changes, or (without pass) a sequence comes again. */
COT_API cot_status cot_trace_open(cot_trace **out, const char *path, cot_error *err);
/* The null control: k of n experts at each of so many sites in each pass, drawn uniformly. */
COT_API cot_status cot_trace_uniform(cot_trace **out, int32_t sites, int32_t experts, int32_t k,
                                     int64_t passes, uint64_t seed, cot_error *err);
COT_API void cot_trace_free(cot_trace **trace);
/* Another control: the turns of each site in an order of chance, each site's its own. What a policy gains
 * from the order of a text is gone then. */
COT_API cot_status cot_trace_shuffle(cot_trace *trace, uint64_t seed, cot_error *err);

typedef struct cot_trace_info {
    size_t struct_size;
    int32_t sites, experts;  /* sites; experts of all of them */
    int64_t turns, accesses; /* an access is one distinct expert of one turn */
} cot_trace_info;
COT_API void cot_trace_get_info(const cot_trace *trace, cot_trace_info *info);

typedef struct cot_replay_options {
    size_t struct_size;
    const char *retention; /* lru, lfu, decay, layer, demand, oracle (which knows the future); NULL: decay */
    /* none, last, popularity, token, transition; NULL: none. Or FILE.rpp, a trained predictor: it foretells
     * passes of one row, and sees the ids since the last larger one. */
    const char *predict;
    double capacity; /* of the cache, as a share of all experts, 0…1; at least one expert */
    int32_t ahead;   /* most experts read for a prediction in a turn; default 2 */
} cot_replay_options;
COT_API void cot_replay_defaults(cot_replay_options *options);

typedef struct cot_replay_result {
    uint64_t accesses, hits;
    uint64_t hinted, hinted_used; /* experts read for a prediction; those of them that were then chosen */
} cot_replay_result;
COT_API cot_status cot_replay(const cot_trace *trace, const cot_replay_options *options,
                              cot_replay_result *result, cot_error *err);

#ifdef __cplusplus
}
#endif
#endif
