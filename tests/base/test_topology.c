/* Memory nodes and cores of two threads: where the pages of large and small pieces lie, under every policy
 * that a user may have set; how many cores are counted, in which order CPUs are listed, where bound threads
 * run. test_topology [NODES CORES CPUS] The numbers are what must be found; `make topology` runs this with
 * them in emulated machines of such shapes. Without them the machine is what it is: its memory may be full on
 * one side, so that places are not judged. */
#include <errno.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/pool.h"

enum { NODES = 1024, CPUS = 1024, LARGE = 36 << 20, SMALL = 1 << 20 }; /* large: never from a heap */

static int told_nodes, told_cores, told_cpus; /* 0: not told */

/* ---- what the kernel says ---- */

static int nodes[NODES], n_nodes;                   /* those that may be used; 0: the kernel does not tell */
static int cpus[CPUS], core[CPUS], n_cpus, n_cores; /* core: by a CPU's number */
static cpu_set_t all_cpus;

static void find_nodes(void) {
    unsigned long mask[NODES / (8 * sizeof(unsigned long))] = {0};
    if (syscall(SYS_get_mempolicy, NULL, mask, NODES, NULL, MPOL_F_MEMS_ALLOWED)) return;
    for (int i = 0; i < NODES; i++)
        if (mask[i / 64] >> i % 64 & 1) nodes[n_nodes++] = i;
}

static bool allowed(int node) {
    for (int i = 0; i < n_nodes; i++)
        if (nodes[i] == node) return true;
    return false;
}

static int fact(int cpu, const char *name) {
    char path[128];
    int value = -1;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, name);
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    if (fscanf(f, "%d", &value) != 1) value = -1;
    fclose(f);
    return value;
}

/* Cores by their ids, which the library does not read: it goes by lists of siblings. */
static void find_cores(void) {
    static int ids[CPUS][3];
    for (int i = 0; i < CPUS; i++) {
        if (!CPU_ISSET(i, &all_cpus)) continue;
        int id[3] = {fact(i, "physical_package_id"), fact(i, "die_id"), fact(i, "core_id")}, k = 0;
        while (k < n_cores && memcmp(ids[k], id, sizeof id) != 0) k++;
        memcpy(ids[k], id, sizeof id);
        n_cores += k == n_cores;
        core[i] = k;
        cpus[n_cpus++] = i;
    }
}

/* node < 0: a policy that takes none. */
static bool set_policy(int mode, int node) {
    unsigned long mask[NODES / (8 * sizeof(unsigned long))] = {0};
    if (node >= 0) mask[node / 64] = 1ul << node % 64;
    return syscall(SYS_set_mempolicy, mode, node < 0 ? NULL : mask, node < 0 ? 0 : NODES) == 0;
}

/* Pages of a touched piece by node; false where the kernel does not tell. */
static bool count_pages(char *p, size_t bytes, size_t count[NODES]) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    memset(count, 0, NODES * sizeof *count);
    for (size_t at = 0; at < bytes; at += page) {
        void *where = p + at;
        int node = -ENOENT; /* also said of a page that the kernel has made to fault, to see who uses it */
        for (int tries = 0; node == -ENOENT && tries < 100; tries++) {
            (void)*(volatile char *)where;
            if (syscall(SYS_move_pages, 0, 1ul, &where, NULL, &node, 0)) return false;
        }
        if (node < 0 || node >= NODES) return false;
        count[node]++;
    }
    return true;
}

/* Bytes of a piece that lie in huge pages. */
static size_t huge_bytes(const char *p, size_t bytes) {
    char line[512];
    unsigned long from = 0, to = 0, size, start = (uintptr_t)p, end = start + bytes;
    size_t sum = 0;
    FILE *f = fopen("/proc/self/smaps", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) continue;
        if (from < end && to > start && sscanf(line, "AnonHugePages: %lu", &size) == 1) sum += size << 10;
    }
    if (f) fclose(f);
    return sum;
}

static unsigned go_to(int cpu) {
    cpu_set_t one;
    unsigned node = 0;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(getcpu(NULL, &node), 0);
    return node;
}
static void go_anywhere(void) { assert_int_equal(sched_setaffinity(0, sizeof all_cpus, &all_cpus), 0); }

/* What a machine that was asked for by its shape must have is no reason to skip a test there. */
static void cannot(void) {
    if (told_nodes) fail_msg("the kernel does not tell or set where memory lies");
    skip();
}

/* As a program begins, whatever a test that failed has left. */
static void begin(void) {
    go_anywhere();
    (void)prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
    if (n_nodes == 0 || !set_policy(MPOL_DEFAULT, -1)) cannot();
}

/* ---- memory ---- */

typedef struct piece {
    const char *name;
    void *(*get)(size_t);
    void (*put)(void *, size_t);
} piece;

static void *get_aligned(size_t bytes) { return cot__alloc_aligned(64, bytes); }
static void put_aligned(void *p, size_t bytes) { cot__free(p); }
static const piece pieces[] = {
    {"cot__alloc_aligned", get_aligned, put_aligned},
    {"cot__pages_alloc", cot__pages_alloc, cot__pages_free},
};
enum { PIECES = sizeof pieces / sizeof *pieces };

/* Every node of `on` must have the same share of what is at p, all others nothing. */
static void expect_shares(const char *what, char *p, size_t bytes, const int *on, int n) {
    static size_t count[NODES];
    size_t pages = bytes / (size_t)sysconf(_SC_PAGESIZE), share = pages / (size_t)n;
    memset(p, 1, bytes);
    if (!count_pages(p, bytes, count)) cannot();
    print_message("%s, %zu pages:", what, pages);
    for (int i = 0; i < NODES; i++)
        if (count[i]) print_message(" %zu on node %d", count[i], i);
    print_message(", %zu MiB in huge pages\n", huge_bytes(p, bytes) >> 20);
    for (int i = 0; i < n && told_nodes; i++) {
        assert_in_range(count[on[i]], share - share / 50, share + share / 50);
        pages -= count[on[i]];
    }
    if (told_nodes) assert_int_equal(pages, 0);
}

static void large_pieces_are_spread(void **state) {
    begin();
    if (told_nodes) assert_int_equal(n_nodes, told_nodes);
    for (int small_pages = 0; small_pages < 2; small_pages++) {
        (void)prctl(PR_SET_THP_DISABLE, small_pages, 0, 0, 0);
        for (int i = 0; i < PIECES; i++) {
            char *p = pieces[i].get(LARGE);
            assert_non_null(p);
            expect_shares(pieces[i].name, p, LARGE, nodes, n_nodes);
            if (told_nodes) assert_int_equal(huge_bytes(p, LARGE), small_pages ? 0 : LARGE);
            pieces[i].put(p, LARGE);
        }
    }
    (void)prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
}

static void small_pieces_lie_where_they_are_touched(void **state) {
    begin();
    void *kept[PIECES][2] = {{NULL}}; /* freed at the end: none is given out again */
    for (int last = 0; last < 2; last++) {
        int node = (int)go_to(cpus[last ? n_cpus - 1 : 0]);
        for (int i = 0; i < PIECES; i++) {
            char *p = kept[i][last] = pieces[i].get(SMALL);
            assert_non_null(p);
            memset(p, 1, SMALL);
            if (allowed(node)) expect_shares(pieces[i].name, p, SMALL, &node, 1);
        }
    }
    for (int i = 0; i < PIECES; i++)
        for (int last = 0; last < 2; last++) pieces[i].put(kept[i][last], SMALL);
    go_anywhere();
}

/* Memory that the C library hands out a second time may have been touched on one node before. Its pages stay
 * small; the kernel would gather some into huge ones, each on one node, when the test takes long. */
static void spread_where_others_lay(void **state) {
    enum { SIZE = 12 << 20, N = 16 };
    char *p[N];
    begin();
    (void)prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    cot__free(cot__alloc(SIZE)); /* from now on pieces of this size are cut from the heap, too */
    for (int i = 0; i < N; i++) {
        p[i] = cot__alloc(SMALL);
        assert_non_null(p[i]);
        memset(p[i], 1, SMALL);
    }
    char *guard = cot__alloc(SMALL); /* so that the heap does not shrink */
    for (int i = 0; i < N; i++) cot__free(p[i]);
    char *large = cot__alloc_aligned(64, SIZE);
    assert_non_null(guard);
    assert_non_null(large);
    expect_shares("cot__alloc_aligned in a used heap", large, SIZE, nodes, n_nodes);
    cot__free(large);
    cot__free(guard);
    (void)prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
}

static void the_users_policy_stays(void **state) {
    static const struct {
        const char *name;
        int mode;
    } modes[] = {{"bind", MPOL_BIND},
                 {"preferred", MPOL_PREFERRED},
                 {"interleave", MPOL_INTERLEAVE},
                 {"local", MPOL_LOCAL}};
    char what[128];
    begin();
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        for (int i = 0; i < n_nodes; i++) {
            int node = nodes[i];
            if (modes[m].mode == MPOL_LOCAL) node = (int)go_to(cpus[i ? n_cpus - 1 : 0]);
            if (!set_policy(modes[m].mode, modes[m].mode == MPOL_LOCAL ? -1 : node)) cannot();
            for (int j = 0; j < PIECES; j++) {
                char *p = pieces[j].get(LARGE);
                assert_non_null(p);
                snprintf(what, sizeof what, "%s %d, %s", modes[m].name, node, pieces[j].name);
                if (allowed(node)) expect_shares(what, p, LARGE, &node, 1);
                pieces[j].put(p, LARGE);
            }
            go_anywhere();
        }
    }
    assert_true(set_policy(MPOL_DEFAULT, -1));
}

/* ---- cores ---- */

static void cores_are_counted(void **state) {
    cot__pool *p = NULL;
    go_anywhere();
    assert_int_equal(cot__pool_create(&p, 0, NULL), COT_OK);
    print_message("%d CPUs, %d cores, %d threads by default\n", n_cpus, n_cores, cot__pool_threads(p));
    assert_int_equal(cot__pool_threads(p), cot__cpu_cores());
    assert_in_range(cot__cpu_cores(), 1, n_cpus);
    if (told_cores) {
        assert_int_equal(n_cpus, told_cpus);
        assert_int_equal(cot__cpu_cores(), told_cores);
    }
    cot__pool_free(&p);
}

static void one_of_each_core_comes_first(void **state) {
    static int list[CPUS];
    for (int c = -1; c < n_cpus && c < 16; c++) {
        assert_int_equal(cot__cpu_list(list, CPUS, c < 0 ? -1 : cpus[c]), n_cpus);
        if (c >= 0) assert_int_equal(list[0], cpus[c]);
        for (int i = 0; i < n_cpus; i++) {
            assert_true(CPU_ISSET(list[i], &all_cpus));
            for (int j = 0; j < i; j++) {
                assert_int_not_equal(list[i], list[j]);
                if (told_cores && i < n_cores) assert_int_not_equal(core[list[i]], core[list[j]]);
            }
        }
        if (n_cpus > 1) assert_int_equal(cot__cpu_list(list, n_cpus - 1, -1), n_cpus - 1);
    }
}

typedef struct meeting {
    atomic_int here;
    int wanted, at[CPUS];
} meeting;

/* Ends when all threads are in it, so that each takes one item. */
static void meet(void *arg, size_t item, int thread) {
    meeting *m = arg;
    atomic_fetch_add(&m->here, 1);
    while (atomic_load(&m->here) < m->wanted) sched_yield();
    m->at[thread] = sched_getcpu();
}

/* The caller on CPU `from`. */
static void expect_places(int from, int threads) {
    static meeting m;
    cot__pool *p = NULL;
    go_to(from);
    go_anywhere();
    assert_int_equal(cot__pool_create(&p, threads, NULL), COT_OK);
    assert_true(cot__pool_bound(p));
    m = (meeting){.wanted = threads};
    cot__pool_enter(p);
    cot__pool_run(p, meet, &m, (size_t)threads);
    cot__pool_leave(p);
    for (int i = 0; i < threads; i++) {
        for (int j = 0; j < i; j++) {
            assert_int_not_equal(m.at[i], m.at[j]);
            if (told_cores && threads <= n_cores && core[m.at[i]] == core[m.at[j]])
                fail_msg("the caller on CPU %d, %d threads: CPUs %d and %d are one core", from, threads,
                         m.at[j], m.at[i]);
        }
    }
    cot__pool_free(&p);
}

/* Wherever the caller is. */
static void bound_threads_have_cores_of_their_own(void **state) {
    setenv("COTERIE_BIND", "1", 1);
    for (int c = 0; c < n_cpus && c < 16; c++) {
        if (n_cores > 1) expect_places(cpus[c], n_cores);
        if (n_cpus > n_cores) expect_places(cpus[c], n_cpus);
    }
    unsetenv("COTERIE_BIND");
}

static void square(void *arg, size_t item, int thread) { ((atomic_ullong *)arg)[item] += item * item + 1; }

static void results_do_not_depend_on_threads(void **state) {
    enum { ITEMS = 500 };
    static atomic_ullong value[ITEMS];
    for (int bind = 0; bind < 2; bind++) {
        setenv("COTERIE_BIND", bind ? "1" : "0", 1);
        for (int threads = 1; threads <= 12; threads++) {
            cot__pool *p = NULL;
            assert_int_equal(cot__pool_create(&p, threads, NULL), COT_OK);
            assert_int_equal(cot__pool_threads(p), threads);
            if (threads > CPU_COUNT(&all_cpus)) assert_false(cot__pool_bound(p));
            for (int i = 0; i < ITEMS; i++) value[i] = 0;
            cot__pool_enter(p);
            for (int pass = 0; pass < 20; pass++) cot__pool_run(p, square, value, ITEMS);
            cot__pool_leave(p);
            for (uint64_t i = 0; i < ITEMS; i++) assert_int_equal(value[i], 20 * (i * i + 1));
            cot__pool_free(&p);
        }
    }
    unsetenv("COTERIE_BIND");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_pieces_are_spread),
        cmocka_unit_test(small_pieces_lie_where_they_are_touched),
        cmocka_unit_test(spread_where_others_lay),
        cmocka_unit_test(the_users_policy_stays),
        cmocka_unit_test(cores_are_counted),
        cmocka_unit_test(one_of_each_core_comes_first),
        cmocka_unit_test(bound_threads_have_cores_of_their_own),
        cmocka_unit_test(results_do_not_depend_on_threads),
    };
    if (argc == 4) {
        told_nodes = (int)strtol(argv[1], NULL, 10);
        told_cores = (int)strtol(argv[2], NULL, 10);
        told_cpus = (int)strtol(argv[3], NULL, 10);
    }
    if (sched_getaffinity(0, sizeof all_cpus, &all_cpus) != 0) return 0; /* more CPUs than a cpu_set_t has */
    find_nodes();
    find_cores();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
