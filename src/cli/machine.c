/* Owns: measuring what this machine can do at most. Plain loops that the compiler vectorises for the CPU at
 * hand (function multiversioning), so that the figures are limits and not our kernels' own speed. */
#include "cli/machine.h"

#include <dirent.h>
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
#ifdef __SANITIZE_THREAD__ /* the choice is made before that runtime stands, and would end the process */
#define BEST_CPU
#else
#define BEST_CPU __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#endif
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
    j.rounds = 100000;
    t = fastest(pool, int8_item, &j, threads, s);
    out->int8_gops = 2.0 * j.products[0] * threads / t / 1e9;
    cot__pool_free(&pool);
}

/* The largest file of a folder, or the path itself. */
static char *largest(const char *path) {
    char *best = NULL;
    long long most = -1;
    DIR *d = opendir(path);
    if (!d) return cot__strdup(path);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        struct stat st;
        char *file = cot__path_join(path, e->d_name);
        if (file && stat(file, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > most) {
            cot__free(best);
            best = file;
            most = st.st_size;
        } else cot__free(file);
    }
    closedir(d);
    return best;
}

enum { PIECE = 8 << 20, PIECES = 64 };

/* A file of PIECES / 2 pieces that no name leads to, for who names no model; −1 where none can be made. */
static int scratch_file(void *buf) {
    int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC | O_DIRECT, 0600);
    memset(buf, 1, PIECE);
    for (int i = 0; fd >= 0 && i < PIECES / 2; i++)
        if (pwrite(fd, buf, PIECE, (off_t)i * PIECE) != PIECE || (i + 1 == PIECES / 2 && fsync(fd) != 0)) {
            close(fd);
            fd = -1;
        }
    return fd;
}

void machine_disk(machine_limits *out, const char *path) {
    out->disk_gbs = 0;
    void *buf = cot__alloc_aligned(4096, PIECE);
    char *file = buf && *path ? largest(path) : NULL;
    int fd = !buf ? -1 : file ? open(file, O_RDONLY | O_DIRECT | O_CLOEXEC) : *path ? -1 : scratch_file(buf);
    if (fd >= 0) {
        double t = cot__now(), bytes = 0;
        for (int i = 0; i < PIECES; i++) {
            ssize_t n = pread(fd, buf, PIECE, (off_t)i * PIECE);
            if (n <= 0) break;
            bytes += (double)n;
        }
        if (bytes > 0) out->disk_gbs = bytes / (cot__now() - t) / 1e9;
        close(fd);
    }
    cot__free(buf);
    cot__free(file);
}
