/* Owns: reading /proc and the control groups' files. Nothing here is trusted: what cannot be read limits
 * nothing. */
#include "base/limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONG_PATH = 1024 };

const char *cot__memory_root = "";

static uint64_t at_most(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* A number after `key` at the start of a line of a file; key "": the file's first word. False: there is none
 * ("max"). */
static bool read_number(const char *path, const char *key, uint64_t *out) {
    FILE *f = fopen(path, "re");
    char line[512];
    bool found = false;
    size_t n = strlen(key);
    while (f && !found && fgets(line, sizeof line, f)) {
        char *end;
        if (strncmp(line, key, n) != 0) continue;
        *out = strtoull(line + n, &end, 10);
        found = end != line + n;
        if (!n) break;
    }
    if (f) fclose(f);
    return found;
}

static uint64_t left_of(const char *dir, const char *limit_file, const char *usage_file,
                        const char *stat_key) {
    char path[LONG_PATH + 64];
    uint64_t limit, usage = 0, cache = 0;
    snprintf(path, sizeof path, "%s/%s", dir, limit_file);
    if (!read_number(path, "", &limit) || limit >= (uint64_t)1 << 62) return UINT64_MAX;
    snprintf(path, sizeof path, "%s/%s", dir, usage_file);
    (void)read_number(path, "", &usage);
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    (void)read_number(path, stat_key, &cache);
    usage = usage > cache ? usage - cache : 0;
    return limit > usage ? limit - usage : 0;
}

/* The least that a group and those above it leave. A path that is not there (another name space) counts as
 * the root of what is mounted. */
static uint64_t left_above(const char *mount, char *group, bool v2) {
    uint64_t least = UINT64_MAX;
    for (;;) {
        char dir[LONG_PATH];
        snprintf(dir, sizeof dir, "%s%s", mount, strcmp(group, "/") == 0 ? "" : group);
        if (v2) {
            least = at_most(least, left_of(dir, "memory.max", "memory.current", "inactive_file "));
            least = at_most(least, left_of(dir, "memory.high", "memory.current", "inactive_file "));
        } else
            least = at_most(least, left_of(dir, "memory.limit_in_bytes", "memory.usage_in_bytes",
                                           "total_inactive_file "));
        char *slash = strrchr(group, '/');
        if (!slash || !group[1]) return least;
        slash[slash == group] = '\0';
    }
}

uint64_t cot__memory_available(const char *root) {
    char path[LONG_PATH], line[LONG_PATH];
    uint64_t least = UINT64_MAX, kib;
    if (!root) root = cot__memory_root;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (read_number(path, "MemAvailable:", &kib)) least = kib * 1024;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group || group[1] != '/') continue;
        *group++ = '\0';
        bool v2 = names[1] == '\0', v1 = false;
        for (char *w = names + 1; *w && !v1; w += strcspn(w, ","), w += *w == ',')
            v1 = strcspn(w, ",") == 6 && strncmp(w, "memory", 6) == 0;
        if (v1) {
            snprintf(path, sizeof path, "%.900s/sys/fs/cgroup/memory", root);
            least = at_most(least, left_above(path, group, false));
        } else if (v2) {
            char again[LONG_PATH];
            snprintf(again, sizeof again, "%s", group);
            snprintf(path, sizeof path, "%.900s/sys/fs/cgroup", root);
            least = at_most(least, left_above(path, group, true));
            snprintf(path, sizeof path, "%.900s/sys/fs/cgroup/unified", root);
            least = at_most(least, left_above(path, again, true));
        }
    }
    if (f) fclose(f);
    return least == UINT64_MAX ? 0 : least;
}

uint64_t cot__memory_resident(void) {
    uint64_t kib = 0;
    return read_number("/proc/self/status", "VmRSS:", &kib) ? kib * 1024 : 0;
}

uint64_t cot__memory_peak(void) {
    uint64_t kib = 0;
    return read_number("/proc/self/status", "VmHWM:", &kib) ? kib * 1024 : 0;
}
