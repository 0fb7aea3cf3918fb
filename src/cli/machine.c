/* Owns: measuring what this machine can do at most. Plain loops that the compiler vectorises for the CPU at
 * hand (function multiversioning), so that the figures are limits and not our kernels' own speed. */
#include "cli/machine.h"

#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/pool.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define BEST_CPU __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define BEST_CPU
#endif

enum { LANES = 256 };
static const size_t READ_BYTES = (size_t)256 << 20; /* beyond every cache */

typedef struct job {
    const uint64_t *data;
    size_t words;
    int threads;
    uint64_t sum[64];
    float flops[64];
    int32_t ints[64];
    double products[64];
    long rounds;
} job;

BEST_CPU static uint64_t read_all(const uint64_t *p, size_t n) {
    uint64_t s[32] = {0}, sum = 0;
    for (size_t i = 0; i + 32 <= n; i += 32)
        for (int j = 0; j < 32; j++) s[j] += p[i + (size_t)j];
    for (int j = 0; j < 32; j++) sum += s[j];
    return sum;
}

static void read_item(void *arg, size_t item, int thread) {
    job *j = arg;
    size_t per = j->words / (size_t)j->threads;
    j->sum[item % 64] = read_all(j->data + item * per, per);
}

BEST_CPU static float multiply(long rounds) {
    float x[LANES], sum = 0;
    for (int i = 0; i < LANES; i++) x[i] = (float)i;
    for (long r = 0; r < rounds; r++)
        for (int i = 0; i < LANES; i++) x[i] = __builtin_fmaf(x[i], 0.999f, 0.5f);
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

static void multiply_item(void *arg, size_t item, int thread) {
    job *j = arg;
    j->flops[item % 64] = multiply(j->rounds);
}

static void int8_item(void *arg, size_t item, int thread) {
    job *j = arg;
    j->products[item % 64] = machine_int8(j->rounds, &j->ints[item % 64]);
}

/* Seconds of the fastest run of fn on so many threads, repeated for so long: a scheduler may need a tenth of
 * a second to give each thread a core of its own. */
static double fastest(cot__pool *pool, cot__pool_fn *fn, job *j, int threads, double seconds) {
    double best = INFINITY, begin = cot__now(), t;
    j->threads = threads;
    do {
        t = cot__now();
        cot__pool_run(pool, fn, j, (size_t)threads);
        double now = cot__now();
        if (now - t < best) best = now - t;
        t = now;
    } while (t - begin < seconds);
    return best;
}

void machine_measure(machine_limits *out, int threads, bool thorough) {
    memset(out, 0, sizeof *out);
    out->int8_how = machine_int8_how();
    cot__pool *pool = NULL;
    if (threads > 64) threads = 64;
    if (cot__pool_create(&pool, threads, NULL) != COT_OK) return;
    void *p = mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    job j = {.data = p, .words = READ_BYTES / 8, .rounds = 200000};
    double s = thorough ? 0.5 : 0.2;
    if (p != MAP_FAILED) {
        madvise(p, READ_BYTES, MADV_HUGEPAGE); /* the limit; small pages cost a tenth and more */
        memset(p, 1, READ_BYTES);
        out->memory_gbs = (double)READ_BYTES / fastest(pool, read_item, &j, threads, s) / 1e9;
        out->memory_gbs_1 =
            threads == 1 ? out->memory_gbs : (double)READ_BYTES / fastest(NULL, read_item, &j, 1, s) / 1e9;
        munmap(p, READ_BYTES);
    }
    double t = fastest(pool, multiply_item, &j, threads, s);
    out->gflops = 2.0 * LANES * (double)j.rounds * threads / t / 1e9;
    j.rounds = 1000000;
    t = fastest(pool, int8_item, &j, threads, s);
    out->int8_gops = 2.0 * j.products[0] * threads / t / 1e9;
    cot__pool_free(&pool);
}

void machine_disk(machine_limits *out, const char *path) {
    enum { PIECE = 8 << 20, PIECES = 64 };
    out->disk_gbs = 0;
    char *inside = cot__path_is_dir(path) ? cot__path_join(path, "model.safetensors") : NULL;
    int fd = open(inside ? inside : path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    void *buf = NULL;
    if (fd >= 0 && (buf = cot__alloc_aligned(4096, PIECE))) {
        double t = cot__now(), bytes = 0;
        for (int i = 0; i < PIECES; i++) {
            ssize_t n = pread(fd, buf, PIECE, (off_t)i * PIECE);
            if (n <= 0) break;
            bytes += (double)n;
        }
        if (bytes > 0) out->disk_gbs = bytes / (cot__now() - t) / 1e9;
    }
    cot__free(buf);
    if (fd >= 0) close(fd);
    free(inside);
}
