/* How much memory is left: control groups of both versions, on simulated trees. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/limits.h"

static char root[64];

static int make_root(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/coterie-limits-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", root);
    return system(command);
}

/* Writes a file below the root, with its folders. */
static void put(const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *p = path + strlen(root) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        mkdir(path, 0755);
        *p = '/';
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

#define G "000000000" /* billions */

static void without_groups(void **state) {
    (void)state;
    assert_int_equal(cot__memory_available(root), 0);
    put("proc/meminfo", "MemTotal:       32000 kB\nMemFree:  100 kB\nMemAvailable:   16000 kB\n");
    assert_int_equal(cot__memory_available(root), 16000 * 1024);
    put("proc/self/cgroup", "0::/\nnonsense\n4:memory\n");
    assert_int_equal(cot__memory_available(root), 16000 * 1024);
    put("proc/meminfo", "MemAvailable:   16000000 kB\n");
}

static void version_2(void **state) {
    (void)state;
    put("proc/self/cgroup", "0::/user.slice/job\n");
    put("sys/fs/cgroup/user.slice/job/memory.max", "max\n");
    assert_int_equal(cot__memory_available(root), 16000000ull * 1024);
    put("sys/fs/cgroup/user.slice/job/memory.max", "8" G "\n");
    put("sys/fs/cgroup/user.slice/job/memory.current", "3" G "\n");
    assert_int_equal(cot__memory_available(root), 5000000000ull);
    put("sys/fs/cgroup/user.slice/job/memory.stat", "anon 5\nfile 9\ninactive_file 1" G "\n");
    assert_int_equal(cot__memory_available(root), 6000000000ull);
    put("sys/fs/cgroup/user.slice/job/memory.high", "7" G "\n"); /* throttled from here on */
    assert_int_equal(cot__memory_available(root), 5000000000ull);
    put("sys/fs/cgroup/user.slice/memory.max", "4" G "\n"); /* a group above */
    put("sys/fs/cgroup/user.slice/memory.current", "3500000000\n");
    assert_int_equal(cot__memory_available(root), 500000000ull);
    put("sys/fs/cgroup/user.slice/memory.current", "5" G "\n");
    assert_int_equal(cot__memory_available(root), 0);
}

static void version_1(void **state) {
    (void)state;
    put("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    assert_int_equal(cot__memory_available(root), 16000000ull * 1024);
    put("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "2" G "\n");
    put("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "1500000000\n");
    put("sys/fs/cgroup/memory/a/b/memory.stat", "cache 1\ninactive_file 4\ntotal_inactive_file 700000000\n");
    assert_int_equal(cot__memory_available(root), 1200000000ull);
    put("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1" G "\n");
    put("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "100000000\n");
    assert_int_equal(cot__memory_available(root), 900000000ull);
    /* The group's name is not there, as in a container: what is mounted counts. */
    put("proc/self/cgroup", "4:memory:/elsewhere/deep\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "3" G "\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "1" G "\n");
    assert_int_equal(cot__memory_available(root), 2000000000ull);
}

static void this_process(void **state) {
    (void)state;
    uint64_t before = cot__memory_resident();
    assert_true(before > 0 && cot__memory_peak() >= before);
    assert_true(cot__memory_available(NULL) > 0);
    enum { N = 64 << 20 };
    char *p = cot__pages_alloc(N);
    memset(p, 1, N);
    assert_true(cot__memory_resident() >= before + N * 9 / 10);
    cot__pages_free(p, N);
    assert_true(cot__memory_resident() < before + N / 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_groups),
        cmocka_unit_test(version_2),
        cmocka_unit_test(version_1),
        cmocka_unit_test(this_process),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
