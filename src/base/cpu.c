/* Owns: how many cores this process may really use: the affinity mask, one per physical core, and no more
 * than the control group grants. Refuses: guessing above what the kernel says; unknown means what is visible.
 */
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/pool.h"

/* Lowest sibling of a CPU's core, from the kernel's topology; the CPU itself when unknown. */
static int first_sibling(int cpu) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *f = fopen(path, "re");
    int first = cpu;
    if (f) {
        if (fscanf(f, "%d", &first) != 1) first = cpu;
        fclose(f);
    }
    return first;
}

/* Two numbers of a small file; false when it cannot be read or begins with a word ("max"). */
static bool read_pair(const char *folder, const char *name, long long *a, long long *b) {
    char path[512];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = n > 0 && (size_t)n < sizeof path ? fopen(path, "re") : NULL;
    if (!f) return false;
    int got = fscanf(f, "%lld %lld", a, b);
    fclose(f);
    return got >= 1;
}

/* Path of this process's version 2 control group below the mount point; "" when unknown (the root). */
static void cgroup_path(char *out, size_t cap) {
    char line[400];
    out[0] = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4) != 0 || strstr(line, "..")) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(out, cap, "%s", line + 3);
    }
    fclose(f);
}

/* Whole CPUs granted by the control groups above this process, 0 when unlimited or unknown. */
static int cgroup_cpus(void) {
    char path[400], folder[440];
    int least = 0;
    cgroup_path(path, sizeof path);
    for (;;) { /* a limit holds for all groups below it */
        long long quota = -1, period = 100000;
        snprintf(folder, sizeof folder, "/sys/fs/cgroup%s", path);
        if (read_pair(folder, "cpu.max", &quota, &period) && quota > 0 && period > 0 &&
            quota / period < 4096) {
            int cpus = (int)((quota + period - 1) / period);
            if (least == 0 || cpus < least) least = cpus;
        }
        char *slash = strrchr(path, '/');
        if (!slash) break;
        *slash = 0;
    }
    long long quota = -1, period = 100000, none;
    if (least == 0 && read_pair("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", &quota, &none) && quota > 0 &&
        read_pair("/sys/fs/cgroup/cpu", "cpu.cfs_period_us", &period, &none) && period > 0 &&
        quota / period < 4096)
        least = (int)((quota + period - 1) / period);
    return least;
}

int cot__cpu_list(int *cpus, int max, int first) {
    cpu_set_t set[8]; /* 8192 CPUs; the kernel refuses a mask that is too small for the machine */
    int n = 0, limit = (int)sizeof set * 8;
    CPU_ZERO_S(sizeof set, set);
    if (sched_getaffinity(0, sizeof set, set) != 0) return 0;
    bool has_first = first >= 0 && first < limit && CPU_ISSET_S((size_t)first, sizeof set, set);
    int core = has_first ? first_sibling(first) : -1; /* the one core that `first` stands for */
    if (!has_first) first = 0;
    for (int siblings = 0; siblings < 2; siblings++) {
        for (int k = 0; k < limit && n < max; k++) {
            int i = (first + k) % limit;
            if (!CPU_ISSET_S((size_t)i, sizeof set, set)) continue;
            int lowest = first_sibling(i);
            bool other =
                lowest != i && lowest >= 0 && lowest < limit && CPU_ISSET_S((size_t)lowest, sizeof set, set);
            if (lowest == core) other = i != first;
            if (other == (siblings == 1)) cpus[n++] = i;
        }
    }
    return n;
}

int cot__cpu_cores(void) {
    cpu_set_t set[8];
    int cores = 0, limit = (int)sizeof set * 8;
    CPU_ZERO_S(sizeof set, set);
    if (sched_getaffinity(0, sizeof set, set) != 0) return 1;
    for (int i = 0; i < limit; i++) {
        if (!CPU_ISSET_S((size_t)i, sizeof set, set)) continue;
        int first = first_sibling(i);
        if (first == i || first < 0 || first >= limit || !CPU_ISSET_S((size_t)first, sizeof set, set))
            cores++;
    }
    int granted = cgroup_cpus();
    if (granted > 0 && granted < cores) cores = granted;
    return cores > 0 ? cores : 1;
}
