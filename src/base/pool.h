/* The thread pool: runs numbered items of one job on all threads; the caller works as thread 0.
 * Results never depend on which thread ran an item: jobs write to places named by the item. */
#ifndef COT_BASE_POOL_H
#define COT_BASE_POOL_H

#include <coterie/base.h>

typedef struct cot__pool cot__pool;
typedef void cot__pool_fn(void *arg, size_t item, int thread);

/* threads ≥ 1 (the caller included). 0 = number of usable physical cores. Fewer threads than asked for is
 * accepted when the system refuses some (logged); never fails for that alone. */
cot_status cot__pool_create(cot__pool **out, int threads, cot_error *err);
void cot__pool_free(cot__pool **pool);
int cot__pool_threads(const cot__pool *pool);
/* Runs fn(arg, 0…items−1), returns when all are done. Not reentrant: fn must not call it on the same pool.
 * pool == NULL runs in the caller. No allocation, no lock on the hot path. */
void cot__pool_run(cot__pool *pool, cot__pool_fn *fn, void *arg, size_t items);

/* Between jobs, by the thread that runs them, before it waits for something else (a disk): workers sleep at
 * once instead of spinning until the next job. On a machine that counts their time, and on a virtual one
 * whose devices are worked by the same cores, the spinning would slow what is waited for. pool == NULL is
 * allowed. */
void cot__pool_rest(cot__pool *pool);

/* Around a stretch of jobs, such as one forward pass, by the thread that runs them; NULL is allowed, nesting
 * is not. With COTERIE_BIND=1 in the environment each thread of a pool gets a CPU of its own: the workers for
 * good, the calling thread from enter to leave only (its own mask comes back). Off by default: on machines
 * that others use too, and on virtual ones whose CPUs are not all backed by a core, the system places threads
 * better. */
void cot__pool_enter(cot__pool *pool);
void cot__pool_leave(cot__pool *pool);
bool cot__pool_bound(const cot__pool *pool);

/* CPU facts: usable physical cores; the CPUs of the calling thread's affinity mask, one of each physical core
 * first, beginning with `first` where the mask has it (returns how many, at most max). */
int cot__cpu_cores(void);
int cot__cpu_list(int *cpus, int max, int first);
double cot__now(void); /* seconds, monotonic */

#endif
