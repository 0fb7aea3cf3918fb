/* Owns: worker threads. A job is a function and a number of items; items are handed out by an atomic counter.
 * Workers spin a little after a job, then sleep, so that decode (thousands of small jobs a second) pays no
 * wake-up and an idle process costs nothing. */
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#include "base/alloc.h"
#include "base/error.h"

enum { SPINS = 4000, YIELDS = 20 };

typedef struct worker {
    cot__pool *pool;
    int id;
    pthread_t thread;
} worker;

struct cot__pool {
    cot__pool_fn *fn;
    void *arg;
    size_t items;
    _Alignas(64) atomic_size_t next;
    _Alignas(64) atomic_uint generation; /* raised once per job */
    _Alignas(64) atomic_int busy;        /* workers that have not finished the job */
    atomic_int sleepers;
    atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    worker *workers;
    int n_threads; /* caller included */
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void work(cot__pool *p, int thread) {
    size_t n = p->items;
    for (;;) {
        size_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= n) return;
        p->fn(p->arg, i, thread);
    }
}

static unsigned await_job(cot__pool *p, unsigned seen) {
    unsigned g;
    for (int i = 0; i < SPINS; i++) {
        if ((g = atomic_load_explicit(&p->generation, memory_order_acquire)) != seen) return g;
        relax();
    }
    for (int i = 0; i < YIELDS; i++) {
        if ((g = atomic_load_explicit(&p->generation, memory_order_acquire)) != seen) return g;
        sched_yield();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while ((g = atomic_load(&p->generation)) == seen) pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
    return g;
}

static void *worker_main(void *arg) {
    worker *w = arg;
    unsigned seen = 0;
    for (;;) {
        seen = await_job(w->pool, seen);
        if (atomic_load(&w->pool->stop)) return NULL;
        work(w->pool, w->id);
        atomic_fetch_sub_explicit(&w->pool->busy, 1, memory_order_release);
    }
}

static void announce(cot__pool *p) {
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->sleepers) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

cot_status cot__pool_create(cot__pool **out, int threads, cot_error *err) {
    if (threads < 0 || threads > 1024)
        return cot__fail(err, COT_ARGUMENT, NULL, "threads", "%d is outside 0…1024", threads);
    if (threads == 0) threads = cot__cpu_cores();
    cot__pool *p = cot__alloc_aligned(64, sizeof *p);
    if (!p) return cot__fail_memory(err, sizeof *p);
    *p = (cot__pool){.n_threads = 1};
    p->workers = cot__alloc_zero((size_t)threads, sizeof *p->workers);
    if (!p->workers) {
        cot__free(p);
        return cot__fail_memory(err, (size_t)threads * sizeof *p->workers);
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (int i = 1; i < threads; i++) {
        worker *w = &p->workers[i];
        w->pool = p;
        w->id = i;
        if (cot__fault_hit(COT__FAULT_THREAD) || pthread_create(&w->thread, NULL, worker_main, w) != 0) {
            cot__log(COT_LOG_WARN, "threads: the system refused thread %d, going on with %d", i + 1, i);
            break;
        }
        p->n_threads = i + 1;
    }
    *out = p;
    return COT_OK;
}

void cot__pool_free(cot__pool **pool) {
    if (!pool || !*pool) return;
    cot__pool *p = *pool;
    atomic_store(&p->stop, true);
    announce(p);
    for (int i = 1; i < p->n_threads; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    cot__free(p->workers);
    cot__free(p);
    *pool = NULL;
}

int cot__pool_threads(const cot__pool *p) { return p ? p->n_threads : 1; }

void cot__pool_run(cot__pool *p, cot__pool_fn *fn, void *arg, size_t items) {
    if (!p || p->n_threads == 1 || items <= 1) {
        for (size_t i = 0; i < items; i++) fn(arg, i, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->items = items;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->busy, p->n_threads - 1, memory_order_relaxed);
    announce(p);
    work(p, 0);
    for (int spins = 0; atomic_load_explicit(&p->busy, memory_order_acquire) > 0; spins++) {
        if (spins < SPINS) relax();
        else sched_yield(); /* the machine is busy: let the worker have the core */
    }
}

double cot__now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
