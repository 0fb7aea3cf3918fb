/* Owns: the cost model: a step computes at the speed of memory or arithmetic and waits for the experts that
 * are not in memory; part of one hides behind the other. Choices are taken as uniform, the worst case of a
 * cache: texts repeat themselves and do better. */
#include "cli/cost.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/aio.h"
#include "base/alloc.h"
#include "base/hash.h"
#include "base/pool.h"
#include "cli/cli.h"

double cost_distinct(double n, double k, double b) { return n > 0 ? n * (1 - pow(1 - k / n, b)) : 0; }

cost_model cost_model_of(const cot_model *m) {
    cost_model k = {.info = {.struct_size = sizeof k.info}};
    cot_residency_info r = cli_residency(m);
    cot_model_get_info(m, &k.info);
    k.expert_total = r.expert_total;
    k.cache = r.io && r.io[0] && r.expert_capacity < r.expert_total ? r.expert_capacity : r.expert_total;
    return k;
}

static double held(const cost_model *m) {
    double h = m->expert_total ? (double)m->cache / (double)m->expert_total : 1;
    return h > 1 ? 1 : h;
}

/* Joins the two sides of a step. */
static void join(cost_point *p, double overlap, double memory, double arithmetic) {
    p->compute = hypot(memory, arithmetic); /* parts of a step are bound by one, parts by the other */
    p->seconds = fmax(p->compute, p->disk) + (1 - overlap) * fmin(p->compute, p->disk);
    p->bound = p->disk > p->compute ? "disk" : arithmetic > memory ? "arithmetic" : "memory";
}

/* Seconds to read weights of which a step wants `distinct` experts of each layer. */
static double memory_time(const cost_model *m, const cost_machine *c, double distinct) {
    const cot_model_info *i = &m->info;
    double expert = i->n_experts ? (double)i->bytes_experts / (double)i->n_experts : 0; /* of all layers */
    double bytes = (double)i->bytes_per_token + expert * (distinct - (double)i->n_experts_used);
    return bytes / (c->memory_gbs * c->memory_share * 1e9);
}

/* Bytes that a pass reads which wants so many experts of each layer. Nearly all: whole layers are read in
 * turn, and room for two is spent on reading ahead. */
static double experts_read(const cost_model *m, double distinct, double hit_rate) {
    double n = (double)m->info.n_experts, layers = (double)m->info.n_sites, all = (double)m->expert_total;
    if (n <= 0) return 0;
    double read = all / n * distinct * (1 - hit_rate);
    if (distinct * 8 >= n * 7 && layers > 2 && hit_rate < 1) read *= layers / (layers - 2);
    return fmin(read, all);
}

cost_point cost_decode(const cost_model *m, const cost_machine *c, int32_t batch) {
    const cot_model_info *i = &m->info;
    double n = (double)i->n_experts, k = (double)i->n_experts_used;
    cost_point p = {.distinct = cost_distinct(n, k, batch), .hit_rate = held(m)};
    p.read = experts_read(m, p.distinct, p.hit_rate);
    p.disk = c->disk_gbs > 0 ? p.read / (c->disk_gbs * 1e9) : 0;
    double operations = 2.0 * (double)i->params_active * batch;
    join(&p, c->overlap, memory_time(m, c, p.distinct), operations / (c->gflops * c->arithmetic_share * 1e9));
    p.tps = batch / p.seconds;
    return p;
}

cost_point cost_prefill(const cost_model *m, const cost_machine *c, int32_t rows, int32_t chunk) {
    const cot_model_info *i = &m->info;
    double n = (double)i->n_experts, k = (double)i->n_experts_used;
    cost_point all = {.hit_rate = held(m)};
    /* The output head runs for the last token of a prompt alone. */
    double memory = 0, arithmetic = 0, head = 2.0 * (double)i->n_vocab * (double)i->n_embd,
           operations = 2.0 * (double)i->params_active - head;
    for (int32_t at = 0; at < rows; at += chunk) {
        double b = rows - at < chunk ? rows - at : chunk, u = cost_distinct(n, k, b),
               read = experts_read(m, u, all.hit_rate);
        all.distinct = u;
        all.read += read;
        memory += memory_time(m, c, u);
        arithmetic += (operations * b + head) / (c->gflops * c->arithmetic_share * 1e9);
    }
    all.disk = c->disk_gbs > 0 ? all.read / (c->disk_gbs * 1e9) : 0;
    join(&all, c->overlap_prompt, memory, arithmetic);
    all.tps = all.seconds > 0 ? rows / all.seconds : 0;
    return all;
}

/* ---- the disk ---- */

static void on_read(cot__read *r, int error) {
    atomic_int *left = r->user;
    atomic_fetch_sub(left, 1 + (error ? 1 << 20 : 0)); /* a failure shows as far below nothing */
}

static int by_value(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

double cost_median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_value);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

double cli_disk_rate(const char *path, uint64_t bytes, int depth, double seconds) {
    enum { ROUNDS = 1024 };
    char *inside = cot__path_is_dir(path) ? cot__path_join(path, "model.safetensors") : NULL;
    cot__file *f = NULL;
    cot__aio *a = NULL;
    size_t each = (size_t)(bytes + COT__AIO_ALIGN - 1) & ~(size_t)(COT__AIO_ALIGN - 1);
    cot__read *r = calloc((size_t)depth, sizeof *r);
    char *memory = NULL;
    double rate = 0, rates[ROUNDS];
    int rounds = 0;
    if (r && cot__file_open(&f, inside ? inside : path, NULL) == COT_OK && cot__file_size(f) > 4 * each &&
        cot__aio_create(&a, &(cot__aio_options){.depth = depth}, NULL) == COT_OK &&
        (memory = cot__pages_alloc(each * (size_t)depth))) {
        for (size_t i = 0; i < each * (size_t)depth; i += COT__AIO_ALIGN) memory[i] = 1;
        double start = cot__now();
        uint64_t places = (cot__file_size(f) - each) / COT__AIO_ALIGN;
        for (int round = 0; round < ROUNDS && cot__now() - start < seconds; round++) {
            atomic_int left = depth;
            double began = cot__now();
            for (int i = 0; i < depth; i++)
                r[i] = (cot__read){.file = f,
                                   .offset = cot__random_u64(1, 70, (uint64_t)round, (uint64_t)i) % places *
                                             COT__AIO_ALIGN,
                                   .bytes = each,
                                   .need = each,
                                   .dst = memory + each * (size_t)i,
                                   .done = on_read,
                                   .user = &left};
            cot__aio_submit(a, r, depth, true);
            for (uint64_t seen; (seen = cot__aio_ended(a), atomic_load(&left) > 0);) cot__aio_wait(a, seen);
            if (atomic_load(&left) < 0) break;
            rates[rounds++] = (double)each * depth / (cot__now() - began) / 1e9;
        }
    }
    if (rounds) rate = cost_median(rates, rounds);
    cot__aio_free(&a);
    cot__pages_free(memory, each * (size_t)depth);
    cot__file_close(&f);
    cot__free(inside);
    free(r);
    return rate;
}
