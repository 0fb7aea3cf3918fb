/* Owns: worker threads. A job is a function and a number of items; items are claimed one by one from a
 * counter. The caller waits for items, never for workers: on a busy machine a worker that gets no core takes
 * no items and holds nobody up. Workers spin a little after a job, then sleep, so that decode (thousands of
 * small jobs a second) pays no wake-up and an idle process costs nothing. */
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/error.h"

enum { SPINS = 4000, JOB_SPINS = 20000, YIELDS = 20, WAIT_YIELDS = 2000 }; /* a pause is some 10 to 40 ns */

typedef struct worker {
    cot__pool *pool;
    int id;
    pthread_t thread;
    atomic_int want; /* CPU to be bound to; −1: none */
} worker;

/* `ticket` holds the job's number (high half) and the next item to claim (low half). A claim is one
 * compare-and-swap of both, so a late worker can never take an item of a job whose fields it has not read:
 * before the fields change the number changes (with the item part at its maximum: nothing to claim). */
struct cot__pool {
    _Alignas(64) atomic_ullong ticket;
    _Alignas(64) atomic_size_t done; /* items finished */
    _Alignas(64) _Atomic(cot__pool_fn *) fn;
    _Atomic(void *) arg;
    atomic_size_t items;
    atomic_int sleepers;
    atomic_bool stop, rest; /* rest: no spinning until the next job */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    worker *workers; /* [0] stands for the caller */
    int n_threads;   /* caller included */
    bool bound, inside;
    cpu_set_t callers; /* the caller's own affinity, while inside and bound */
};

#define CLOSED 0xffffffffull /* item part: nothing to claim */

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Claims and runs items of job `number` until none is left or another job has begun. */
static void work(cot__pool *p, unsigned number, int thread) {
    size_t finished = 0;
    cot__pool_fn *fn = atomic_load_explicit(&p->fn, memory_order_acquire);
    void *arg = atomic_load_explicit(&p->arg, memory_order_acquire);
    size_t items = atomic_load_explicit(&p->items, memory_order_acquire);
    unsigned long long t = atomic_load(&p->ticket);
    while ((unsigned)(t >> 32) == number && (t & CLOSED) < items) {
        if (!atomic_compare_exchange_weak(&p->ticket, &t, t + 1)) continue;
        fn(arg, (size_t)(t & CLOSED), thread);
        finished++;
        t = atomic_load(&p->ticket);
    }
    if (finished) atomic_fetch_add_explicit(&p->done, finished, memory_order_release);
}

/* Waits until a job other than `seen` is open, or the pool stops; returns its number. */
static unsigned await_job(cot__pool *p, unsigned seen) {
    for (int i = 0; i < JOB_SPINS + YIELDS; i++) {
        unsigned long long t = atomic_load_explicit(&p->ticket, memory_order_acquire);
        if ((unsigned)(t >> 32) != seen && (t & CLOSED) != CLOSED) return (unsigned)(t >> 32);
        if (atomic_load_explicit(&p->rest, memory_order_relaxed)) break;
        if (i < JOB_SPINS) relax();
        else sched_yield();
    }
    unsigned long long t;
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (((unsigned)((t = atomic_load(&p->ticket)) >> 32) == seen || (t & CLOSED) == CLOSED) &&
           !atomic_load(&p->stop))
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
    return (unsigned)(t >> 32);
}

/* Binds the calling thread; what the system refuses is no failure. */
static void bind_to(int cpu) {
    cpu_set_t set;
    if (cpu < 0 || cpu >= CPU_SETSIZE) return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)sched_setaffinity(0, sizeof set, &set);
}

static void *worker_main(void *arg) {
    worker *w = arg;
    unsigned seen = 0;
    int bound = -1;
    for (;;) {
        seen = await_job(w->pool, seen);
        if (atomic_load(&w->pool->stop)) return NULL;
        int want = atomic_load_explicit(&w->want, memory_order_relaxed);
        if (want != bound) bind_to(bound = want);
        work(w->pool, seen, w->id);
    }
}

static void wake_sleepers(cot__pool *p) {
    if (atomic_load(&p->sleepers) == 0) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

/* Gives each thread a CPU of its own, where the affinity mask has that many. */
static void assign_cpus(cot__pool *p) {
    enum { MOST = 1024 };
    int cpus[MOST], n = cot__cpu_list(cpus, MOST, sched_getcpu()); /* the caller stays where it is */
    if (n < p->n_threads || p->n_threads < 2) return;
    for (int i = 0; i < p->n_threads; i++)
        atomic_store_explicit(&p->workers[i].want, cpus[i], memory_order_relaxed);
    p->bound = true;
    cot__log(COT_LOG_DEBUG, "threads: bound %d threads to a CPU each", p->n_threads);
}

void cot__pool_enter(cot__pool *p) {
    if (!p || !p->bound) return;
    p->inside = true;
    if (sched_getaffinity(0, sizeof p->callers, &p->callers) != 0) CPU_ZERO(&p->callers);
    bind_to(atomic_load_explicit(&p->workers[0].want, memory_order_relaxed));
}

void cot__pool_leave(cot__pool *p) {
    if (!p || !p->inside) return;
    p->inside = false;
    if (CPU_COUNT(&p->callers) > 0) (void)sched_setaffinity(0, sizeof p->callers, &p->callers);
}

bool cot__pool_bound(const cot__pool *p) { return p && p->bound; }

cot_status cot__pool_create(cot__pool **out, int threads, cot_error *err) {
    if (threads < 0 || threads > 1024)
        return cot__fail(err, COT_ARGUMENT, NULL, "threads", "%d is outside 0…1024", threads);
    if (threads == 0) threads = cot__cpu_cores();
    cot__pool *p = cot__alloc_aligned(64, sizeof *p);
    if (!p) return cot__fail_memory(err, sizeof *p);
    *p = (cot__pool){.n_threads = 1, .ticket = CLOSED};
    p->workers = cot__alloc_zero((size_t)threads, sizeof *p->workers);
    if (!p->workers) {
        cot__free(p);
        return cot__fail_memory(err, (size_t)threads * sizeof *p->workers);
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    sigset_t all, before; /* signals are the program's own threads' business */
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* a page that a thread itself cannot have is for its handler */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 1; i < threads; i++) {
        worker *w = &p->workers[i];
        w->pool = p;
        w->id = i;
        atomic_store(&w->want, -1);
        if (cot__fault_hit(COT__FAULT_THREAD) || pthread_create(&w->thread, NULL, worker_main, w) != 0) {
            cot__log(COT_LOG_WARN, "threads: the system refused thread %d, going on with %d", i + 1, i);
            break;
        }
        p->n_threads = i + 1;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    const char *bind = getenv("COTERIE_BIND");
    if (bind && strcmp(bind, "1") == 0) assign_cpus(p);
    *out = p;
    return COT_OK;
}

void cot__pool_free(cot__pool **pool) {
    if (!pool || !*pool) return;
    cot__pool *p = *pool;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 1; i < p->n_threads; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    cot__free(p->workers);
    cot__free(p);
    *pool = NULL;
}

int cot__pool_threads(const cot__pool *p) { return p ? p->n_threads : 1; }

/* An item that a worker has claimed must finish; the waits grow so that it gets a core. */
static void await_done(cot__pool *p, size_t items) {
    for (int i = 0; atomic_load_explicit(&p->done, memory_order_acquire) < items;
         i += i < SPINS + WAIT_YIELDS) {
        if (i < SPINS) relax();
        else if (i < SPINS + WAIT_YIELDS) sched_yield();
        else nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
}

void cot__pool_run(cot__pool *p, cot__pool_fn *fn, void *arg, size_t items) {
    if (!p || p->n_threads == 1 || items <= 1 || items >= CLOSED) {
        for (size_t i = 0; i < items; i++) fn(arg, i, 0);
        return;
    }
    unsigned number = (unsigned)(atomic_load_explicit(&p->ticket, memory_order_relaxed) >> 32) + 1;
    atomic_store(&p->ticket, (unsigned long long)number << 32 | CLOSED);
    atomic_store_explicit(&p->rest, false, memory_order_relaxed);
    atomic_store_explicit(&p->fn, fn, memory_order_release);
    atomic_store_explicit(&p->arg, arg, memory_order_release);
    atomic_store_explicit(&p->items, items, memory_order_release);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store(&p->ticket, (unsigned long long)number << 32);
    wake_sleepers(p);
    work(p, number, 0);
    await_done(p, items);
}

void cot__pool_rest(cot__pool *p) {
    if (p) atomic_store_explicit(&p->rest, true, memory_order_relaxed);
}

double cot__now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
