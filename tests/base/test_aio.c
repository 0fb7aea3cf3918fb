/* Asynchronous reads: every way gives the bytes of the file, with short reads, failures, refused io_uring,
 * refused direct reads and cancelling in between. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/aio.h"
#include "base/alloc.h"
#include "base/hash.h"
#include "base/pool.h"
#include "torture.h"

enum { SIZE = 3 * 1000 * 1000 + 123, READS = 200, MOST = 64 * 1024 };

static char path[64];
static unsigned char *truth;

static int make_file(void **state) {
    (void)state;
    snprintf(path, sizeof path, "/tmp/coterie-aio-%d", (int)getpid());
    truth = malloc(SIZE + MOST);
    for (size_t i = 0; i < SIZE; i++)
        truth[i] = (unsigned char)(cot__random_u64(1, 1, i / 8, 0) >> i % 8 * 8);
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(truth, 1, SIZE, f) == SIZE;
    return f && fclose(f) == 0 && ok ? 0 : -1;
}

static int remove_file(void **state) {
    (void)state;
    free(truth);
    return unlink(path);
}

typedef struct batch {
    cot__read read[READS];
    int error[READS];
    atomic_int called[READS], done;
    char *memory;
} batch;

static void on_done(cot__read *r, int error) {
    batch *b = r->user;
    b->error[r - b->read] = error;
    atomic_fetch_add(&b->called[r - b->read], 1);
    atomic_fetch_add(&b->done, 1);
}

static batch *make_batch(cot__file *f, uint64_t seed) {
    batch *b = calloc(1, sizeof *b);
    b->memory = cot__alloc_aligned(COT__AIO_ALIGN, (size_t)READS * MOST);
    memset(b->memory, 0xEE, (size_t)READS * MOST);
    for (int i = 0; i < READS; i++) {
        uint64_t pages = MOST / COT__AIO_ALIGN, all = SIZE / COT__AIO_ALIGN + 1,
                 first = cot__random_u64(seed, 2, (uint64_t)i, 0) % all,
                 n = 1 + cot__random_u64(seed, 3, (uint64_t)i, 0) % pages;
        uint64_t offset = first * COT__AIO_ALIGN, left = SIZE - offset, bytes = n * COT__AIO_ALIGN;
        b->read[i] = (cot__read){.file = f,
                                 .offset = offset,
                                 .bytes = (size_t)bytes,
                                 .need = (size_t)(bytes < left ? bytes : left),
                                 .dst = b->memory + (size_t)i * MOST,
                                 .done = on_done,
                                 .user = b};
    }
    return b;
}

static void free_batch(batch *b) {
    cot__free(b->memory);
    free(b);
}

static void await(cot__aio *a, batch *b, int n) {
    for (;;) {
        uint64_t seen = cot__aio_ended(a);
        if (atomic_load(&b->done) >= n) return;
        cot__aio_wait(a, seen);
    }
}

static void check_bytes(const batch *b, int i) {
    const cot__read *r = &b->read[i];
    assert_memory_equal(r->dst, truth + r->offset, r->need);
}

static const cot__aio_options ways[] = {{.way = COT__AIO_URING},
                                        {.way = COT__AIO_THREADS},
                                        {.way = COT__AIO_URING, .buffered = true},
                                        {.way = COT__AIO_THREADS, .buffered = true},
                                        {.way = COT__AIO_URING, .depth = 1},
                                        {.way = COT__AIO_THREADS, .depth = 2},
                                        {.way = COT__AIO_THREADS, .threads = 1},
                                        {.bandwidth = 1e9, .latency = 1e-5}};
enum { WAYS = sizeof ways / sizeof *ways };

/* False where this system has no io_uring at all: that way is not tested there. */
static bool create(cot__aio **a, const cot__aio_options *o) {
    cot_error err = {0};
    cot_status s = cot__aio_create(a, o, &err);
    if (s == COT_OK) return true;
    assert_int_equal(s, COT_UNSUPPORTED);
    assert_int_equal(o->way, COT__AIO_URING);
    return false;
}

static void every_way_gives_the_bytes(void **state) {
    (void)state;
    for (int w = 0; w < WAYS; w++)
        for (int faults = 0; faults < 2; faults++) {
            cot__file *f = NULL;
            cot__aio *a = NULL;
            assert_int_equal(cot__file_open(&f, path, NULL), COT_OK);
            if (create(&a, &ways[w])) {
                batch *b = make_batch(f, (uint64_t)w);
                cot__aio_window(a, 3);
                cot__fault_set(COT__FAULT_SHORT, faults ? 5 : 0);
                cot__aio_submit(a, b->read, READS / 2, true);
                cot__aio_submit(a, b->read + READS / 2, READS - READS / 2, false);
                for (int i = READS - 1; i > READS - 20; i--) cot__aio_promote(a, &b->read[i]);
                await(a, b, READS);
                for (int i = 0; i < READS; i++) {
                    assert_int_equal(b->error[i], 0);
                    assert_int_equal(atomic_load(&b->called[i]), 1);
                    check_bytes(b, i);
                }
                cot__aio_stats st;
                cot__aio_get_stats(a, &st);
                assert_true(st.reads >= READS && st.bytes > 0 && st.busy > 0);
                if (faults) assert_true(st.short_reads >= 1);
                if (ways[w].buffered) assert_true(st.buffered_bytes == st.bytes);
                free_batch(b);
            }
            cot__aio_free(&a);
            assert_null(a);
            cot__file_close(&f);
        }
    cot__fault_set(COT__FAULT_SHORT, 0);
}

/* Some reads, each way there is; body may free *a. */
static void each_way(void (*body)(cot__aio **a, batch *b), uint64_t seed) {
    for (int w = 0; w < WAYS; w++) {
        cot__file *f = NULL;
        cot__aio *a = NULL;
        assert_int_equal(cot__file_open(&f, path, NULL), COT_OK);
        if (create(&a, &ways[w])) {
            batch *b = make_batch(f, seed);
            body(&a, b);
            free_batch(b);
        }
        cot__aio_free(&a);
        cot__file_close(&f);
    }
}

/* What is held starts together. */
static void hold_some(cot__aio **a, batch *b) {
    cot__aio_stats s;
    cot__aio_hold(*a);
    cot__aio_submit(*a, b->read, READS / 2, true);
    cot__aio_submit(*a, b->read + READS / 2, READS - READS / 2, false);
    cot__aio_promote(*a, &b->read[READS - 1]);
    cot__aio_get_stats(*a, &s);
    assert_int_equal(s.reads, 0);
    cot__aio_start(*a);
    cot__aio_get_stats(*a, &s);
    if (strcmp(cot__aio_name(*a), "io_uring") == 0) assert_true(s.reads > 0);
    await(*a, b, READS);
    for (int i = 0; i < READS; i++) check_bytes(b, i);
}

static void held_reads_wait(void **state) {
    (void)state;
    each_way(hold_some, 3);
}

/* One read fails: its owner hears of it, the others arrive. */
static void fail_one(cot__aio **a, batch *b) {
    cot__fault_set(COT__FAULT_READ, 17);
    cot__aio_submit(*a, b->read, READS, true);
    await(*a, b, READS);
    cot__fault_set(COT__FAULT_READ, 0);
    int failed = 0;
    for (int i = 0; i < READS; i++) {
        if (b->error[i]) failed++, assert_int_equal(b->error[i], EIO);
        else check_bytes(b, i);
    }
    assert_int_equal(failed, 1);
}

static void a_failing_read_says_so(void **state) {
    (void)state;
    each_way(fail_one, 9);
}

/* A file that was cut after it was opened: a short read, reported as such. */
static void a_shortened_file_says_so(void **state) {
    (void)state;
    char other[80];
    snprintf(other, sizeof other, "%s.cut", path);
    for (int w = 0; w < WAYS; w++) {
        cot__file *f = NULL;
        cot__aio *a = NULL;
        FILE *out = fopen(other, "wb");
        assert_non_null(out);
        fwrite(truth, 1, 100000, out);
        fclose(out);
        assert_int_equal(cot__file_open(&f, other, NULL), COT_OK);
        assert_true(cot__file_unchanged(f));
        if (create(&a, &ways[w])) {
            batch *b = make_batch(f, 1);
            b->read[0].offset = 65536, b->read[0].bytes = 36864, b->read[0].need = 100000 - 65536;
            b->read[1] = b->read[0];
            b->read[1].dst = b->memory + MOST;
            cot__aio_submit(a, b->read, 1, true);
            await(a, b, 1);
            assert_int_equal(b->error[0], 0);
            check_bytes(b, 0);
            assert_int_equal(truncate(other, 70001), 0);
            assert_false(cot__file_unchanged(f));
            cot__aio_submit(a, b->read + 1, 1, true);
            await(a, b, 2);
            assert_int_equal(b->error[1], ENODATA);
            free_batch(b);
        }
        cot__aio_free(&a);
        cot__file_close(&f);
    }
    unlink(other);
}

static void io_uring_may_be_refused(void **state) {
    (void)state;
    cot__aio *a = NULL;
    cot__file *f = NULL;
    cot_error err;
    cot__fault_set(COT__FAULT_URING, 1);
    assert_int_equal(cot__aio_create(&a, &(cot__aio_options){.way = COT__AIO_URING}, &err), COT_UNSUPPORTED);
    assert_null(a);
    cot__fault_set(COT__FAULT_URING, 1);
    assert_int_equal(cot__aio_create(&a, NULL, &err), COT_OK);
    assert_string_equal(cot__aio_name(a), "threads");
    cot__aio_free(&a);
    /* Nor any thread: reads happen in submit. */
    cot__fault_set(COT__FAULT_THREAD, 1);
    assert_int_equal(cot__aio_create(&a, &(cot__aio_options){.way = COT__AIO_THREADS}, &err), COT_OK);
    cot__fault_set(COT__FAULT_THREAD, 0);
    cot__fault_set(COT__FAULT_URING, 0);
    assert_int_equal(cot__file_open(&f, path, NULL), COT_OK);
    batch *b = make_batch(f, 4);
    cot__aio_submit(a, b->read, READS, true);
    assert_int_equal(atomic_load(&b->done), READS);
    for (int i = 0; i < READS; i++) check_bytes(b, i);
    cot__aio_free(&a);
    free_batch(b);
    cot__file_close(&f);
}

/* What is cancelled in time is never reported; the rest arrives; freeing drops what is queued. */
static void cancel_some(cot__aio **a, batch *b) {
    cot__aio_window(*a, 1);
    cot__aio_submit(*a, b->read, READS, false);
    int gone = 0;
    bool cancelled[READS] = {false};
    for (int i = 0; i < READS - 10; i += 2) gone += cancelled[i] = cot__aio_cancel(*a, &b->read[i]);
    await(*a, b, READS - 10 - gone > 0 ? (READS - gone) / 2 : 0);
    cot__aio_free(a);
    for (int i = 0; i < READS; i++) {
        assert_true(atomic_load(&b->called[i]) <= !cancelled[i]);
        if (atomic_load(&b->called[i])) check_bytes(b, i);
    }
}

static void cancelling(void **state) {
    (void)state;
    each_way(cancel_some, 5);
}

/* The simulated tier takes as long as it says. */
static void simulated_time(void **state) {
    (void)state;
    cot__aio *a = NULL;
    cot__file *f = NULL;
    assert_int_equal(cot__file_open(&f, path, NULL), COT_OK);
    assert_int_equal(cot__aio_create(&a, &(cot__aio_options){.bandwidth = 20e6, .latency = 0.01}, NULL),
                     COT_OK);
    assert_string_equal(cot__aio_name(a), "simulated");
    batch *b = make_batch(f, 5);
    double bytes = 0, t = cot__now();
    for (int i = 0; i < 50; i++) bytes += (double)b->read[i].bytes;
    cot__aio_submit(a, b->read, 50, true);
    await(a, b, 50);
    t = cot__now() - t;
    assert_true(t >= bytes / 20e6);
    assert_true(t < bytes / 20e6 * 1.5 + 0.2);
    cot__aio_free(&a);
    free_batch(b);
    cot__file_close(&f);
}

static void allocations(void **state) {
    (void)state;
    COT_TORTURE(COT__FAULT_ALLOC, {
        cot__aio *a = NULL;
        cot_status s = cot__aio_create(&a, &(cot__aio_options){.way = COT__AIO_THREADS, .threads = 2}, NULL);
        cot__aio_free(&a);
        void *p = cot__pages_alloc(10000);
        if (p) memset(p, 1, 10000);
        else s = COT_NO_MEMORY;
        cot__pages_free(p, 10000);
        COT_TORTURE_RESULT(s);
    });
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_gives_the_bytes),
        cmocka_unit_test(held_reads_wait),
        cmocka_unit_test(a_failing_read_says_so),
        cmocka_unit_test(a_shortened_file_says_so),
        cmocka_unit_test(io_uring_may_be_refused),
        cmocka_unit_test(cancelling),
        cmocka_unit_test(simulated_time),
        cmocka_unit_test(allocations),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
