/* Coterie: the route record. What a router decided, as plain data: inspection, prediction, editing, replay
 * and distribution all read or write this one record. */
#ifndef COTERIE_ROUTE_H
#define COTERIE_ROUTE_H

#include <coterie/base.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { COT_ROUTE_FORCED = 1, COT_ROUTE_DROPPED = 2, COT_ROUTE_AUXILIARY = 4 };

/* The plan of one site (one occurrence of a router) for the units (rows) of a pass. Unit u chose
 * first[u] … first[u + 1] − 1 of the entries, in ascending logical expert id. */
typedef struct cot_route {
    int32_t site; /* number of the router, 0 … sites − 1 in order of depth */
    int32_t layer;
    int32_t bank; /* the set of experts it draws from */
    int32_t n_experts;
    int32_t n_units;
    const int32_t *sequence; /* n_units: sequence of the row */
    const int32_t *position; /* n_units: position in its sequence */
    const int32_t *first;    /* n_units + 1 */
    const int32_t *ids;      /* logical expert ids */
    const float *weights;    /* what each expert's output is multiplied with */
    const uint8_t *flags;    /* COT_ROUTE_* */
} cot_route;

/* Called for every site of every pass, in the thread that runs the pass; the record lives during the call. */
typedef void cot_route_fn(void *user, const cot_route *route);

#ifdef __cplusplus
}
#endif
#endif
