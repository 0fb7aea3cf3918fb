/* Recorded routing: whatever the bytes, an error or a trace that can be replayed, and never more hits than
 * choices. */
#include <coterie/replay.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static int fd = -1;
    char path[40];
    cot_trace *t = NULL;
    if (fd < 0) fd = memfd_create("trace", 0);
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, n, 0) != (ssize_t)n) return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (cot_trace_open(&t, path, NULL) != COT_OK) return 0;
    cot_trace_info info;
    cot_trace_get_info(t, &info);
    cot_replay_options o;
    cot_replay_result r;
    cot_replay_defaults(&o);
    static const char *const predict[] = {"none", "last", "popularity", "token"};
    static const char *const retain[] = {"lru", "lfu", "decay", "layer", "demand", "oracle"};
    o.predict = predict[n % 4];
    o.retention = retain[n % 6];
    if (info.experts < 100000 && cot_replay(t, &o, &r, NULL) == COT_OK)
        if (r.hits > r.accesses || r.hinted_used > r.hinted || r.accesses != (uint64_t)info.accesses) abort();
    cot_trace_free(&t);
    return 0;
}
