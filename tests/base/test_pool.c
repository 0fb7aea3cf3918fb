/* The thread pool: every item once, results by item, refused threads, many small jobs, idle workers. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/pool.h"
#include "torture.h"

enum { N = 1000 };

typedef struct job {
    atomic_int count[N];
    uint64_t value[N];
    atomic_int bad_thread;
    int threads;
    uint64_t salt;
} job;

static void item(void *arg, size_t i, int thread) {
    job *j = arg;
    atomic_fetch_add(&j->count[i], 1);
    if (thread < 0 || thread >= j->threads) atomic_store(&j->bad_thread, 1);
    j->value[i] = i * i + j->salt;
}

static void run_and_check(cot__pool *p, size_t items, uint64_t salt) {
    static job j;
    memset(&j, 0, sizeof j);
    j.threads = cot__pool_threads(p);
    j.salt = salt;
    cot__pool_run(p, item, &j, items);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(atomic_load(&j.count[i]), i < items);
        if (i < items) assert_int_equal(j.value[i], i * i + salt);
    }
    assert_int_equal(atomic_load(&j.bad_thread), 0);
}

static void every_item_runs_once(void **state) {
    run_and_check(NULL, N, 1);
    for (int threads = 1; threads <= 8; threads++) {
        cot__pool *p = NULL;
        assert_int_equal(cot__pool_create(&p, threads, NULL), COT_OK);
        assert_int_equal(cot__pool_threads(p), threads);
        for (size_t items = 0; items < 40; items++) run_and_check(p, items, items);
        run_and_check(p, N, 3);
        cot__pool_free(&p);
        assert_null(p);
        cot__pool_free(&p);
    }
}

static void many_small_jobs_with_pauses(void **state) {
    cot__pool *p = NULL;
    assert_int_equal(cot__pool_create(&p, 4, NULL), COT_OK);
    for (int i = 0; i < 3000; i++) {
        run_and_check(p, (size_t)(i % 7), (uint64_t)i);
        if (i % 100 == 0) usleep(2000); /* long enough for the workers to fall asleep */
    }
    cot__pool_free(&p);
}

/* Workers that were sent to sleep take part in the next job, whenever it comes. */
static void rest_loses_no_job(void **state) {
    cot__pool *p = NULL;
    assert_int_equal(cot__pool_create(&p, 4, NULL), COT_OK);
    cot__pool_rest(NULL);
    for (uint64_t i = 0; i < 300; i++) {
        run_and_check(p, 40, i);
        cot__pool_rest(p);
        if (i % 3 == 0) nanosleep(&(struct timespec){.tv_nsec = (long)(i * 700)}, NULL);
    }
    cot__pool_rest(p);
    cot__pool_free(&p);
}

static void refused_threads_are_done_without(void **state) {
    for (uint64_t nth = 1; nth <= 3; nth++) {
        cot__pool *p = NULL;
        cot__fault_set(COT__FAULT_THREAD, nth);
        assert_int_equal(cot__pool_create(&p, 4, NULL), COT_OK);
        cot__fault_set(COT__FAULT_THREAD, 0);
        assert_int_equal(cot__pool_threads(p), nth);
        run_and_check(p, N, 9);
        cot__pool_free(&p);
    }
}

static void bad_counts_and_no_memory(void **state) {
    cot__pool *p = NULL;
    cot_error e;
    assert_int_equal(cot__pool_create(&p, -1, &e), COT_ARGUMENT);
    assert_int_equal(cot__pool_create(&p, 5000, &e), COT_ARGUMENT);
    assert_string_equal(e.field, "threads");
    COT_TORTURE(COT__FAULT_ALLOC, {
        cot_status s = cot__pool_create(&p, 3, &e);
        cot__pool_free(&p);
        COT_TORTURE_RESULT(s);
    });
    assert_int_equal(cot__pool_create(&p, 0, NULL), COT_OK);
    assert_int_equal(cot__pool_threads(p), cot__cpu_cores());
    cot__pool_free(&p);
    assert_true(cot__cpu_cores() >= 1);
    assert_true(cot__cpu_cores() <= sysconf(_SC_NPROCESSORS_ONLN));
}

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void an_idle_pool_costs_nothing(void **state) {
    cot__pool *p = NULL;
    assert_int_equal(cot__pool_create(&p, 4, NULL), COT_OK);
    run_and_check(p, 100, 1);
    usleep(100000);
    double before = cpu_seconds();
    double t = cot__now();
    usleep(300000);
    assert_true(cot__now() - t >= 0.29);
    assert_true(cpu_seconds() - before < 0.05);
    run_and_check(p, 100, 2);
    cot__pool_free(&p);
}

static volatile pthread_t signalled;
static void on_signal(int number) { signalled = pthread_self(); }

static void workers_take_no_signals(void **state) {
    cot__pool *p = NULL;
    assert_int_equal(cot__pool_create(&p, 4, NULL), COT_OK);
    signal(SIGUSR1, on_signal);
    for (int i = 0; i < 20; i++) {
        signalled = (pthread_t)0;
        kill(getpid(), SIGUSR1);
        assert_true(pthread_equal(signalled, pthread_self()));
    }
    signal(SIGUSR1, SIG_DFL);
    cot__pool_free(&p);
}

static void spin(void *arg, size_t i, int thread) {
    double end = cot__now() + 200e-6;
    while (cot__now() < end) continue;
    ((int *)arg)[i] = sched_getcpu();
}

/* However the system places threads: bound on request, the caller's own mask comes back, and every thread of
 * a bound pool has a CPU of its own. */
static void bound_threads_have_cpus_of_their_own(void **state) {
    int cpus[8], n = cot__cpu_list(cpus, 8, -1);
    assert_true(n >= 1);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) assert_int_not_equal(cpus[i], cpus[j]);
    cpu_set_t before, after;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    setenv("COTERIE_BIND", "1", 1);
    cot__pool *p = NULL;
    assert_int_equal(cot__pool_create(&p, 2, NULL), COT_OK);
    assert_int_equal(cot__pool_bound(p), n >= 2);
    int at[64], here = 0, there = 0;
    for (int pass = 0; pass < 10; pass++) {
        cot__pool_enter(p);
        int mine = sched_getcpu();
        cot__pool_run(p, spin, at, 64);
        for (int i = 0; i < 64; i++) *(at[i] == mine ? &here : &there) += 1;
        cot__pool_leave(p);
    }
    if (n >= 2) assert_true(here > 0 && there > 0);
    cot__pool_free(&p);
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_EQUAL(&before, &after));
    setenv("COTERIE_BIND", "0", 1);
    assert_int_equal(cot__pool_create(&p, 2, NULL), COT_OK);
    for (int pass = 0; pass < 10; pass++) {
        cot__pool_enter(p);
        cot__pool_run(p, spin, at, 8);
        cot__pool_leave(p);
    }
    assert_false(cot__pool_bound(p));
    cot__pool_free(&p);
    unsetenv("COTERIE_BIND");
    cot__pool_enter(NULL);
    cot__pool_leave(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_runs_once),     cmocka_unit_test(many_small_jobs_with_pauses),
        cmocka_unit_test(rest_loses_no_job),        cmocka_unit_test(refused_threads_are_done_without),
        cmocka_unit_test(bad_counts_and_no_memory), cmocka_unit_test(an_idle_pool_costs_nothing),
        cmocka_unit_test(workers_take_no_signals),  cmocka_unit_test(bound_threads_have_cpus_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
