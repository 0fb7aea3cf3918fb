/* Speed and work of the kernels one at a time, on one thread and fixed random data.
 *
 *     bench_kernels [--level L] [--only NAME] [--list] [--count [--runs N]] [--seconds S]
 *
 * NAME is what --list prints: a weight format and a number of tokens ("q4_k/32"), or another kernel
 * ("rms_norm", "attn/f16/64"); --only takes a name, or the beginning of several. Without --count: medians
 * with the weights in memory (cold: a matrix beyond every cache) and in the core's own cache (hot). GB/s
 * counts weights (of attention: keys and values); GOPS two operations for each weight and token. With --count
 * each kernel runs N times (2), in counted(), for a tool that counts instructions (bench/instructions), and
 * the amounts are printed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/pool.h"
#include "kernels/kernels.h"

enum { COLS = 2048, HOT_ROWS = 256, COUNT_ROWS = 64, PIECE = 64, MAX_TOKENS = 64, HEAD = 128, WIDE = 4096 };
static const size_t COLD_BYTES = (size_t)128 << 20;

static const cot_type types[] = {COT_Q4_K,   COT_Q5_K, COT_Q6_K, COT_Q2_K, COT_Q3_K,   COT_Q8_0,
                                 COT_Q4_0,   COT_Q4_1, COT_Q5_0, COT_Q5_1, COT_IQ4_NL, COT_MXFP4,
                                 COT_IQ4_XS, COT_BF16, COT_F16,  COT_F32};
static const int tokens[] = {1, 4, 8, 32, 64};

typedef struct work work;
struct work {
    char name[32];
    void (*run)(const work *w);
    const cot_kernels *k;
    double bytes, ops; /* of one run */
    cot_view weights;
    int slot, n;
    size_t act_stride;
    void *act;
    float *in, *out;
    cot__kv_chunk kv;
};

/* All kernels are called from here, so that a tool can be told to count nothing else. */
__attribute__((noinline)) static void counted(const work *w) { w->run(w); }

static void product(const work *w) {
    for (int64_t r = 0; r < w->weights.rows; r += PIECE) {
        int64_t end = r + PIECE < w->weights.rows ? r + PIECE : w->weights.rows;
        w->k->gemm[w->slot](&w->weights, r, end, w->act, w->act_stride, NULL, w->n, w->out,
                            (size_t)w->weights.rows);
    }
}
static void encode(const work *w) { w->k->act_encode[w->n](w->in, w->act, COLS); }
static void rms_norm(const work *w) { w->k->rms_norm(w->out, w->in, w->in, COLS, 1e-5f); }
static void glu(const work *w) { w->k->glu(COT_GLU_SILU, w->out, w->in, w->in + COLS, COLS, 0, 0); }
static void softmax(const work *w) { w->k->softmax(w->out, COLS); }
static void add_scaled(const work *w) { w->k->add_scaled(w->out, w->in, 1e-6f, COLS); }
static void attention(const work *w) {
    static int from[MAX_TOKENS], to[MAX_TOKENS];
    static cot__attn_state st[MAX_TOKENS];
    for (int i = 0; i < w->n; i++) to[i] = COT_KV_CHUNK;
    w->k->attn_chunk(&w->kv, w->in, HEAD, w->n, from, to, 0.09f, 0, st, w->out, HEAD);
}

static void *memory(size_t n) {
    void *p = aligned_alloc(64, (n + 63) / 64 * 64);
    if (!p) {
        fprintf(stderr, "bench_kernels: out of memory\n");
        exit(1);
    }
    return memset(p, 0, n);
}

static void fill(float *x, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i++) {
        double u = 1 - cot__random_unit(seed, 1, i, 0), v = cot__random_unit(seed, 2, i, 0);
        x[i] = (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
    }
}

/* One encoded piece of 64 rows, repeated to the end: what a kernel does with a weight does not depend on it.
 */
static void *weights_of(cot_type type, int64_t rows) {
    size_t row = cot__row_bytes(type, COLS), piece = row * PIECE, all = row * (size_t)rows;
    char *p = memory(all);
    float x[COLS];
    for (int r = 0; r < PIECE && r < rows; r++) {
        fill(x, COLS, (uint64_t)r + 100);
        if (cot__type(type)->encode) cot__type(type)->encode(x, p + (size_t)r * row, COLS, NULL);
        else /* any bits, with scales of no special values */
            for (size_t i = 0; i < row; i++)
                p[(size_t)r * row + i] = (char)(cot__random_u64(7, (uint64_t)r, i, 0) & 0x3f);
    }
    for (size_t at = piece; at < all; at += piece) memcpy(p + at, p, all - at < piece ? all - at : piece);
    return p;
}

static int64_t cold_rows(cot_type type) {
    return (int64_t)(COLD_BYTES / cot__row_bytes(type, COLS)) / PIECE * PIECE;
}

static int by_value(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* Median seconds of one run; short ones are timed many at a time. */
static double seconds_of(const work *w, double budget) {
    enum { MAX = 1001 };
    static double t[MAX];
    long inner = 1;
    int n = 0;
    counted(w);
    for (double begin = cot__now(), now = begin; n < 3 || (n < MAX && now - begin < budget); n++) {
        double at = cot__now();
        for (long i = 0; i < inner; i++) counted(w);
        now = cot__now();
        t[n] = (now - at) / (double)inner;
        if (now - at < 2e-4) inner *= 2, n = -1, begin = now;
    }
    qsort(t, (size_t)n, sizeof *t, by_value);
    return t[n / 2];
}

typedef struct plan {
    const char *only;
    bool list, count;
    int runs;
    double seconds;
    float *in, *out;
    void *act, *room; /* room: for repacking */
} plan;

static void show(work *w, const plan *p, const char *where, bool first) {
    if (p->count) {
        for (int i = 0; i < p->runs; i++) counted(w);
        printf("{\"name\": \"%s\", \"level\": \"%s\", \"runs\": %d, \"bytes\": %.0f, \"ops\": %.0f}\n",
               w->name, w->k->level, p->runs, w->bytes, w->ops);
        return;
    }
    double t = seconds_of(w, p->seconds);
    if (first) printf("%-8s %-16s", w->k->level, w->name);
    printf("  %s %8.2f GB/s %9.2f GOPS", where, w->bytes / t / 1e9, w->ops / t / 1e9);
    fflush(stdout);
}

static bool wanted(const plan *p, const char *name) {
    if (p->only && strncmp(name, p->only, strlen(p->only)) != 0) return false;
    if (p->list) puts(name);
    return !p->list;
}

static bool repackable(cot_type type) {
    static char data[COT__TOGETHER * 256], room[sizeof data];
    cot_view v = cot__view_make(data, type, COT__TOGETHER, cot__type((int)type)->block);
    return cot__view_put_together(&v, room);
}

/* Of k only what differs from `known`, which may be NULL. */
static void products(const cot_kernels *k, const cot_kernels *known, const plan *p) {
    for (size_t v = 0; v < 2 * (sizeof types / sizeof *types); v++) { /* as stored; then repacked */
        size_t i = v / 2;
        int slot = cot__kernel_slot(types[i]);
        if (slot < 0 || !k->gemm[slot] || (v % 2 && !repackable(types[i]))) continue;
        if (known && known->gemm[slot] == k->gemm[slot]) continue;
        void *hot = NULL, *cold = NULL;
        for (size_t j = 0; j < sizeof tokens / sizeof *tokens; j++) {
            work w = {.run = product, .k = k, .slot = slot, .n = tokens[j], .act = p->act, .out = p->out};
            snprintf(w.name, sizeof w.name, "%s%s/%d", cot_type_name(types[i]), v % 2 ? "/repacked" : "",
                     w.n);
            for (char *c = w.name; *c; c++)
                if (*c >= 'A' && *c <= 'Z') *c = (char)(*c + 32);
            if (!wanted(p, w.name)) continue;
            w.act_stride = cot__act_bytes(k->act[slot], COLS);
            for (int t = 0; t < w.n; t++)
                k->act_encode[k->act[slot]](p->in + (size_t)t * COLS,
                                            (char *)p->act + (size_t)t * w.act_stride, COLS);
            for (int pass = 0; pass < (p->count ? 1 : 2); pass++) {
                int64_t rows = p->count ? COUNT_ROWS : pass ? HOT_ROWS : cold_rows(types[i]);
                void **data = pass || p->count ? &hot : &cold;
                bool made = *data != NULL;
                if (!made) *data = weights_of(types[i], rows);
                w.weights = cot__view_make(*data, types[i], rows, COLS);
                if (v % 2 && made) w.weights.together = COT__TOGETHER;
                else if (v % 2) (void)cot__view_put_together(&w.weights, p->room);
                w.bytes = (double)cot__row_bytes(types[i], COLS) * (double)rows;
                w.ops = 2.0 * COLS * (double)rows * w.n;
                show(&w, p, pass ? "hot" : "cold", pass == 0);
            }
            if (!p->count) putchar('\n');
        }
        free(hot);
        free(cold);
    }
}

static void others(const cot_kernels *k, const plan *p) {
    const work rows[] = {{.name = "encode/q8_256", .run = encode, .n = COT_ACT_Q8_256, .bytes = COLS * 4},
                         {.name = "encode/q8_32", .run = encode, .n = COT_ACT_Q8_32, .bytes = COLS * 4},
                         {.name = "rms_norm", .run = rms_norm, .bytes = COLS * 8, .ops = COLS * 4},
                         {.name = "glu", .run = glu, .bytes = COLS * 8, .ops = COLS},
                         {.name = "softmax", .run = softmax, .bytes = COLS * 4, .ops = COLS},
                         {.name = "add_scaled", .run = add_scaled, .bytes = COLS * 8, .ops = COLS * 2}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        work w = rows[i];
        w.k = k, w.in = p->in, w.out = p->out, w.act = p->act;
        if (!wanted(p, w.name)) continue;
        show(&w, p, "hot", true);
        if (!p->count) putchar('\n');
    }
    static const cot_type kv[] = {COT_F16, COT_Q8_0, COT_F32};
    for (size_t i = 0; i < sizeof kv / sizeof *kv; i++) {
        size_t stride = cot__row_bytes(kv[i], HEAD);
        char *keys = memory(stride * COT_KV_CHUNK * 2), *values = keys + stride * COT_KV_CHUNK;
        for (int r = 0; r < COT_KV_CHUNK; r++) {
            k->kv_store(kv[i], keys + (size_t)r * stride, p->in + r * HEAD, HEAD);
            k->kv_store(kv[i], values + (size_t)r * stride, p->in + (r + COT_KV_CHUNK) * HEAD, HEAD);
        }
        for (int n = 1; n <= MAX_TOKENS; n *= 8) {
            work w = {.run = attention, .k = k, .n = n, .in = p->in, .out = p->out};
            w.kv = (cot__kv_chunk){keys, values, kv[i], kv[i], stride, stride, HEAD, HEAD, NULL};
            w.bytes = 2.0 * COT_KV_CHUNK * (double)stride, w.ops = 4.0 * COT_KV_CHUNK * HEAD * n;
            static const char *const names[] = {"f16", "q8_0", "f32"};
            snprintf(w.name, sizeof w.name, "attn/%s/%d", names[i], n);
            if (!wanted(p, w.name)) continue;
            show(&w, p, "hot", true);
            if (!p->count) putchar('\n');
        }
        free(keys);
    }
}

int main(int argc, char **argv) {
    plan p = {.runs = 2, .seconds = 0.1};
    const char *level = NULL;
    bool good = true;
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--list") == 0) p.list = true;
        else if (strcmp(argv[i], "--count") == 0) p.count = true;
        else if (strcmp(argv[i], "--level") == 0 && more) level = argv[++i];
        else if (strcmp(argv[i], "--only") == 0 && more) p.only = argv[++i];
        else if (strcmp(argv[i], "--seconds") == 0 && more) p.seconds = strtod(argv[++i], NULL);
        else if (strcmp(argv[i], "--runs") == 0 && more) p.runs = (int)strtol(argv[++i], NULL, 10);
        else good = false;
    }
    if (!good) {
        fprintf(
            stderr,
            "usage: bench_kernels [--level L] [--only NAME] [--list] [--count [--runs N]] [--seconds S]\n");
        return 2;
    }
    p.in = memory(sizeof(float) * MAX_TOKENS * COLS);
    p.act = memory(sizeof(float) * MAX_TOKENS * COLS);
    p.room = memory(sizeof(float) * COT__TOGETHER * COLS);
    p.out = memory(sizeof(float) * MAX_TOKENS * ((COLD_BYTES / cot__row_bytes(COT_Q2_K, COLS)) + WIDE));
    fill(p.in, (size_t)MAX_TOKENS * COLS, 1);
    static const char *const levels[] = {"avx2", "avx512", "avx512bf16"};
    int ran = 0;
    for (int i = 0; i < (level ? 1 : 3); i++) {
        const cot_kernels *k = cot__kernels_by_name(level ? level : levels[i]);
        const cot_kernels *known = i == 2 ? cot__kernels_by_name(levels[1]) : NULL;
        if (!k || (p.list && ran)) continue;
        products(k, known, &p);
        if (!known) others(k, &p);
        ran++;
    }
    if (!ran)
        fprintf(stderr, "bench_kernels: this machine cannot run %s\n", level ? level : "avx2 or avx512");
    free(p.in);
    free(p.act);
    free(p.room);
    free(p.out);
    return ran ? 0 : 1;
}
