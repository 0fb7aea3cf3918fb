/* Asynchronous reads of large pieces of files, many in flight: through io_uring, through threads that call
 * pread where io_uring is not allowed, or through a simulated tier with a given latency and bandwidth. Direct
 * (past the page cache) where the file system allows it; else buffered, and the pages that leaves behind are
 * dropped. */
#ifndef COT_BASE_AIO_H
#define COT_BASE_AIO_H

#include "base/file.h"

/* Offsets, sizes and addresses of reads are multiples of this. */
#define COT__AIO_ALIGN 4096u

typedef struct cot__aio cot__aio;

typedef enum cot__aio_way { COT__AIO_AUTO, COT__AIO_URING, COT__AIO_THREADS } cot__aio_way;

/* Zeroed: all defaults. COTERIE_IO in the environment (uring, threads, buffered; several with commas) settles
 * what is left open here. */
typedef struct cot__aio_options {
    cot__aio_way way; /* AUTO: io_uring, else threads */
    bool buffered;    /* never direct */
    int depth;        /* most reads in flight; 0: 128 */
    int threads;      /* of the pool of preads; 0: min(depth, 8) */
    double latency;   /* simulated tier: seconds of each read … */
    double bandwidth; /* … and bytes a second of all together; 0: not simulated */
} cot__aio_options;

/* One read. Owned by the caller and untouched by it from submit until done was called. */
typedef struct cot__read {
    cot__file *file;
    uint64_t offset; /* multiple of COT__AIO_ALIGN, as are bytes and dst */
    size_t bytes;    /* room at dst; may reach beyond the end of the file */
    size_t need;     /* bytes that must arrive: fewer is a failure */
    void *dst;
    /* Called once, in any thread, after the last byte has arrived (error 0), or when the read failed (an
     * errno; ENODATA: the file is shorter than `need`). Must not call aio functions and must not wait. */
    void (*done)(struct cot__read *read, int error);
    void *user;
    /* Private. */
    struct cot__read *next, *prev;
    size_t got;
    bool queued, urgent, direct;
} cot__read;

cot_status cot__aio_create(cot__aio **out, const cot__aio_options *options, cot_error *err);
/* Waits for all reads in flight; queued ones are dropped without a call of done. */
void cot__aio_free(cot__aio **aio);

/* Queues reads. Urgent ones go first; of the others at most `window` are in flight, so that they never stand
 * in the way for long (cot__aio_window; default 8). Never fails, never waits: what cannot be read says so to
 * done. Thread-safe, as are all below. */
void cot__aio_submit(cot__aio *aio, cot__read *reads, int n, bool urgent);
/* From hold to start what is submitted or promoted waits, to be given to the system in one call; a poll or a
 * wait by another thread may start it before. */
void cot__aio_hold(cot__aio *aio);
void cot__aio_start(cot__aio *aio);
void cot__aio_window(cot__aio *aio, int window);
/* Makes a queued read urgent; one that is in flight or done stays as it is. */
void cot__aio_promote(cot__aio *aio, cot__read *read);
/* True: the read was still queued, is forgotten, and done will not be called. */
bool cot__aio_cancel(cot__aio *aio, cot__read *read);

/* Number of reads that have ended so far. cot__aio_poll takes notice of reads that have ended and starts
 * queued ones; it never waits. cot__aio_wait returns when the count differs from `seen`, when nothing is in
 * flight, or now and then for no reason. */
uint64_t cot__aio_ended(const cot__aio *aio);
void cot__aio_poll(cot__aio *aio);
void cot__aio_wait(cot__aio *aio, uint64_t seen);

typedef struct cot__aio_stats {
    uint64_t reads, bytes, buffered_bytes, short_reads;
    double busy; /* seconds during which at least one read was in flight */
} cot__aio_stats;
void cot__aio_get_stats(cot__aio *aio, cot__aio_stats *out);
const char *cot__aio_name(const cot__aio *aio); /* "io_uring", "threads", "simulated" */

#endif
