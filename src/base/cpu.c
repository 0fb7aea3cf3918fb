/* Owns: how many cores this process may really use. */
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/pool.h"

/* First sibling of a CPU's core, from the kernel's topology; the CPU itself when unknown. */
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

/* Whole CPUs granted by cgroup v2 or v1, 0 when unlimited or unknown. */
static int cgroup_cpus(void) {
    long long quota = -1, period = 100000;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f) {
        if (fscanf(f, "%lld %lld", &quota, &period) != 2) quota = -1; /* "max 100000" */
        fclose(f);
    } else if ((f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "re"))) {
        if (fscanf(f, "%lld", &quota) != 1) quota = -1;
        fclose(f);
    }
    if (quota <= 0 || period <= 0) return 0;
    return (int)((quota + period - 1) / period);
}

int cot__cpu_cores(void) {
    cpu_set_t set;
    int cores = 0;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &set)) continue;
        int first = first_sibling(i);
        if (first == i || first < 0 || first >= CPU_SETSIZE || !CPU_ISSET(first, &set)) cores++;
    }
    int granted = cgroup_cpus();
    if (granted > 0 && granted < cores) cores = granted;
    return cores > 0 ? cores : 1;
}
