/* Owns: the queue of reads, the ring or the threads that carry them out. One lock guards the queue; reads end
 * in whichever thread takes notice. A ring needs no thread of its own: the kernel fills the buffers while the
 * callers compute, and whoever calls in next takes notice. Refuses: nothing; a read that cannot be done says
 * so to its owner. */
#include "base/aio.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/pool.h"

enum { DEPTH = 128, MOST_DEPTH = 4096, THREADS = 8, WINDOW = 8, MOST_BYTES = 1 << 30 };

typedef struct list {
    cot__read *first, *last;
} list;

struct cot__aio {
    cot__aio_options opt;
    pthread_mutex_t lock;
    pthread_cond_t work, progress;
    list urgent, low;
    int in_flight, low_in_flight, window;
    atomic_ullong ended;
    bool ring_on, reaping, unsubmitted, held, stop;
    struct io_uring ring;
    pthread_t *workers;
    int n_workers;
    double disk_free; /* simulated: when the device is done with what it has */
    double busy_since;
    cot__aio_stats stats;
};

static void put(list *l, cot__read *r, bool front) {
    r->queued = true;
    r->next = front ? l->first : NULL;
    r->prev = front ? NULL : l->last;
    if (r->next) r->next->prev = r;
    else l->last = r;
    if (r->prev) r->prev->next = r;
    else l->first = r;
}

static void take(list *l, cot__read *r) {
    if (r->prev) r->prev->next = r->next;
    else l->first = r->next;
    if (r->next) r->next->prev = r->prev;
    else l->last = r->prev;
    r->queued = false;
    r->next = r->prev = NULL;
}

/* The next read that may start now, taken off its queue and counted; NULL: none. */
static cot__read *start_one(cot__aio *a) {
    bool low = !a->urgent.first;
    cot__read *r = low ? a->low.first : a->urgent.first;
    if (!r || a->stop || a->in_flight >= a->opt.depth || (low && a->low_in_flight >= a->window)) return NULL;
    take(low ? &a->low : &a->urgent, r);
    r->urgent = !low;
    if (a->in_flight++ == 0) a->busy_since = cot__now();
    a->low_in_flight += low;
    a->stats.reads++;
    return r;
}

/* What is still to be read of it: descriptor, place, length. */
static int piece_of(const cot__aio *a, cot__read *r, size_t *bytes) {
    size_t left = r->bytes - r->got;
    int fd = a->opt.buffered || r->got % COT__AIO_ALIGN ? -1 : cot__file_direct_fd(r->file);
    r->direct = fd >= 0;
    if (left > MOST_BYTES) left = MOST_BYTES;
    if (left > COT__AIO_ALIGN && cot__fault_hit(COT__FAULT_SHORT))
        left = left / 2 & ~(size_t)(COT__AIO_ALIGN - 1);
    *bytes = left ? left : COT__AIO_ALIGN;
    return fd >= 0 ? fd : cot__file_fd(r->file);
}

static void finish(cot__aio *a, cot__read *r, int error) {
    r->done(r, error);
    atomic_fetch_add_explicit(&a->ended, 1, memory_order_release);
    pthread_cond_broadcast(&a->progress);
}

/* A read that was in flight has come back with a number of bytes or −errno. Ends it, or queues the rest. */
static void came_back(cot__aio *a, cot__read *r, long result) {
    a->in_flight--;
    a->low_in_flight -= !r->urgent;
    if (a->in_flight == 0) a->stats.busy += cot__now() - a->busy_since;
    list *again = r->urgent ? &a->urgent : &a->low;
    if (result == -EINTR || result == -EAGAIN) {
        put(again, r, true);
    } else if ((result == -EINVAL || result == -EOPNOTSUPP) && r->direct) {
        cot__file_no_direct(r->file);
        put(again, r, true);
    } else if (result < 0) {
        finish(a, r, (int)-result);
    } else {
        r->got += (size_t)result;
        a->stats.bytes += (uint64_t)result;
        if (!r->direct) {
            a->stats.buffered_bytes += (uint64_t)result;
            cot__file_drop(r->file, r->offset, r->got);
        }
        if (r->got >= r->need) finish(a, r, 0);
        else if (result == 0) finish(a, r, ENODATA);
        else {
            a->stats.short_reads++;
            put(again, r, true);
        }
    }
}

/* ---- the ring ---- */

static void flush_ring(cot__aio *a) {
    a->unsubmitted = io_uring_sq_ready(&a->ring) && io_uring_submit(&a->ring) < 0;
}

static void fill_ring(cot__aio *a) {
    bool any = false;
    for (;;) {
        if (io_uring_sq_space_left(&a->ring) == 0) flush_ring(a);
        if (io_uring_sq_space_left(&a->ring) == 0) break;
        cot__read *r = start_one(a);
        if (!r) break;
        if (cot__fault_hit(COT__FAULT_READ)) {
            came_back(a, r, -EIO);
            continue;
        }
        size_t bytes;
        int fd = piece_of(a, r, &bytes);
        struct io_uring_sqe *e = io_uring_get_sqe(&a->ring);
        io_uring_prep_read(e, fd, (char *)r->dst + r->got, (unsigned)bytes, r->offset + r->got);
        io_uring_sqe_set_data(e, r);
        any = true;
    }
    if (any || a->unsubmitted) flush_ring(a);
}

static void reap_ring(cot__aio *a) {
    struct io_uring_cqe *e;
    while (io_uring_peek_cqe(&a->ring, &e) == 0 && e) {
        cot__read *r = io_uring_cqe_get_data(e);
        long result = e->res;
        io_uring_cqe_seen(&a->ring, e);
        came_back(a, r, result);
    }
}

static bool open_ring(cot__aio *a) {
    if (cot__fault_hit(COT__FAULT_URING)) return false;
    int e = 0;
    for (int depth = a->opt.depth; depth >= 8; depth /= 4) { /* little locked memory: a smaller ring */
        e = io_uring_queue_init((unsigned)depth, &a->ring, 0);
        if (e == 0) return true;
        if (e != -ENOMEM) break;
    }
    cot__log(COT_LOG_DEBUG, "reads: io_uring is not available (%s), threads take over", strerror(-e));
    return false;
}

/* ---- threads ---- */

static void sleep_until(double when) {
    for (double left; (left = when - cot__now()) > 0;) {
        struct timespec t = {.tv_sec = (time_t)left, .tv_nsec = (long)((left - (double)(time_t)left) * 1e9)};
        nanosleep(&t, NULL);
    }
}

/* Carries out one started read. The lock is given up meanwhile. */
static void carry_out(cot__aio *a, cot__read *r) {
    size_t bytes;
    int fd = piece_of(a, r, &bytes);
    double until = 0;
    if (a->opt.bandwidth > 0) {
        double now = cot__now();
        a->disk_free = (a->disk_free > now ? a->disk_free : now) + (double)bytes / a->opt.bandwidth;
        until = a->disk_free + a->opt.latency;
    }
    pthread_mutex_unlock(&a->lock);
    long got = cot__fault_hit(COT__FAULT_READ)
                   ? -EIO
                   : pread(fd, (char *)r->dst + r->got, bytes, (off_t)(r->offset + r->got));
    if (got == -1) got = -errno;
    if (until > 0) sleep_until(until);
    pthread_mutex_lock(&a->lock);
    came_back(a, r, got);
}

static void *worker_main(void *arg) {
    cot__aio *a = arg;
    pthread_mutex_lock(&a->lock);
    while (!a->stop) {
        cot__read *r = start_one(a);
        if (r) carry_out(a, r);
        else pthread_cond_wait(&a->work, &a->lock);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

static void start_threads(cot__aio *a) {
    int n = a->opt.threads > 0 ? a->opt.threads : a->opt.depth < THREADS ? a->opt.depth : THREADS;
    a->workers = cot__alloc_zero((size_t)n, sizeof *a->workers);
    if (!a->workers) return;
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* a page that a thread itself cannot have is for its handler */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (a->n_workers < n && !cot__fault_hit(COT__FAULT_THREAD) &&
           pthread_create(&a->workers[a->n_workers], NULL, worker_main, a) == 0)
        a->n_workers++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (a->n_workers < n)
        cot__log(COT_LOG_WARN, "reads: the system refused a thread, going on with %d", a->n_workers);
}

/* ---- the interface ---- */

static void from_environment(cot__aio_options *o) {
    const char *e = getenv("COTERIE_IO");
    if (!e || o->bandwidth > 0) return;
    if (o->way == COT__AIO_AUTO && strstr(e, "threads")) o->way = COT__AIO_THREADS;
    if (o->way == COT__AIO_AUTO && strstr(e, "uring")) o->way = COT__AIO_URING;
    o->buffered |= strstr(e, "buffered") != NULL;
}

cot_status cot__aio_create(cot__aio **out, const cot__aio_options *options, cot_error *err) {
    cot__aio *a = cot__alloc_zero(1, sizeof *a);
    if (!a) return cot__fail_memory(err, sizeof *a);
    if (options) a->opt = *options;
    from_environment(&a->opt);
    if (a->opt.depth < 1) a->opt.depth = DEPTH;
    if (a->opt.depth > MOST_DEPTH) a->opt.depth = MOST_DEPTH;
    a->window = WINDOW;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->work, NULL);
    pthread_cond_init(&a->progress, NULL);
    if (a->opt.bandwidth <= 0 && a->opt.way != COT__AIO_THREADS) a->ring_on = open_ring(a);
    if (!a->ring_on && a->opt.way == COT__AIO_URING) {
        cot__aio_free(&a);
        return cot__fail(err, COT_UNSUPPORTED, NULL, "COTERIE_IO", "this system does not allow io_uring");
    }
    if (!a->ring_on) start_threads(a);
    *out = a;
    return COT_OK;
}

void cot__aio_free(cot__aio **aio) {
    if (!aio || !*aio) return;
    cot__aio *a = *aio;
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_broadcast(&a->work);
    while (a->ring_on && a->in_flight > 0) {
        (void)io_uring_submit_and_wait(&a->ring, 1);
        reap_ring(a);
    }
    pthread_mutex_unlock(&a->lock);
    for (int i = 0; i < a->n_workers; i++) pthread_join(a->workers[i], NULL);
    if (a->ring_on) io_uring_queue_exit(&a->ring);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->work);
    pthread_cond_destroy(&a->progress);
    cot__free(a->workers);
    cot__free(a);
    *aio = NULL;
}

/* Starts what may start. With the lock held. */
static void pump(cot__aio *a) {
    if (a->held) return;
    if (a->ring_on) fill_ring(a);
    else if (a->n_workers) pthread_cond_broadcast(&a->work);
    else
        for (cot__read *r; (r = start_one(a));) carry_out(a, r); /* no thread at all: here and now */
}

void cot__aio_submit(cot__aio *a, cot__read *reads, int n, bool urgent) {
    pthread_mutex_lock(&a->lock);
    for (int i = 0; i < n; i++) {
        reads[i].got = 0;
        put(urgent ? &a->urgent : &a->low, &reads[i], false);
        reads[i].urgent = urgent;
    }
    pump(a);
    pthread_mutex_unlock(&a->lock);
}

void cot__aio_hold(cot__aio *a) {
    pthread_mutex_lock(&a->lock);
    a->held = true;
    pthread_mutex_unlock(&a->lock);
}

void cot__aio_start(cot__aio *a) {
    pthread_mutex_lock(&a->lock);
    a->held = false;
    pump(a);
    pthread_mutex_unlock(&a->lock);
}

void cot__aio_window(cot__aio *a, int window) {
    pthread_mutex_lock(&a->lock);
    a->window = window < 1 ? 1 : window;
    pthread_mutex_unlock(&a->lock);
}

void cot__aio_promote(cot__aio *a, cot__read *r) {
    pthread_mutex_lock(&a->lock);
    if (r->queued && !r->urgent) {
        take(&a->low, r);
        put(&a->urgent, r, false);
        r->urgent = true;
        pump(a);
    }
    pthread_mutex_unlock(&a->lock);
}

bool cot__aio_cancel(cot__aio *a, cot__read *r) {
    pthread_mutex_lock(&a->lock);
    bool was = r->queued;
    if (was) take(r->urgent ? &a->urgent : &a->low, r);
    pthread_mutex_unlock(&a->lock);
    return was;
}

uint64_t cot__aio_ended(const cot__aio *a) { return atomic_load_explicit(&a->ended, memory_order_acquire); }

void cot__aio_poll(cot__aio *a) {
    pthread_mutex_lock(&a->lock);
    if (a->ring_on && !a->reaping) reap_ring(a);
    if (a->ring_on) fill_ring(a);
    pthread_mutex_unlock(&a->lock);
}

void cot__aio_wait(cot__aio *a, uint64_t seen) {
    pthread_mutex_lock(&a->lock);
    if (a->ring_on && !a->reaping) reap_ring(a);
    if (a->ring_on) fill_ring(a);
    while (cot__aio_ended(a) == seen &&
           (a->in_flight > 0 || (a->n_workers && (a->urgent.first || a->low.first)))) {
        if (!a->ring_on || a->reaping) { /* somebody else takes notice */
            pthread_cond_wait(&a->progress, &a->lock);
            continue;
        }
        if (a->unsubmitted) { /* the kernel has no room just now */
            pthread_mutex_unlock(&a->lock);
            nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
            pthread_mutex_lock(&a->lock);
            flush_ring(a);
        }
        /* One thread waits in the kernel and reaps; meanwhile others may queue, but none may reap. */
        struct io_uring_cqe *e;
        a->reaping = true;
        bool wait = !a->unsubmitted;
        pthread_mutex_unlock(&a->lock);
        if (wait) (void)io_uring_wait_cqe(&a->ring, &e);
        pthread_mutex_lock(&a->lock);
        a->reaping = false;
        reap_ring(a);
        fill_ring(a);
        pthread_cond_broadcast(&a->progress);
    }
    pthread_mutex_unlock(&a->lock);
}

void cot__aio_get_stats(cot__aio *a, cot__aio_stats *out) {
    pthread_mutex_lock(&a->lock);
    *out = a->stats;
    if (a->in_flight) out->busy += cot__now() - a->busy_since;
    pthread_mutex_unlock(&a->lock);
}

const char *cot__aio_name(const cot__aio *a) {
    return a->ring_on ? "io_uring" : a->opt.bandwidth > 0 ? "simulated" : "threads";
}
