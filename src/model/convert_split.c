/* Owns: cutting dense feed-forward blocks into experts. Neurons are clustered by balanced k-means on their
 * gate rows (direction alone counts: rows are normalised), so that neurons that fire together stand together;
 * a cluster is an expert, its mean gate row is the router's. With weights of one, all experts on compute the
 * dense block; few of them its largest part. Deterministic: the same file gives the same experts. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "model/convert.h"

enum { ROUNDS = 20, SEED_PURPOSE = 0x5b17, SEED_ROUNDS = 256 };

typedef struct pair {
    float sim;
    int32_t row, cluster;
} pair;

typedef struct kmeans {
    const float *x; /* rows × cols, each of length 1 */
    int64_t rows, cols;
    int n;
    float *center; /* n × cols */
    float *sim;    /* rows × n */
    pair *pairs;
    int32_t *of, *fill; /* cluster of a row; rows in a cluster */
} kmeans;

bool cot__convert_splits(const cot__convert *c, int layer) {
    cot__bind b = {.arch = c->arch, .store = c->store};
    return c->o->split_experts > 1 && cot__slot_exists(&b, "ffn_gate", layer) &&
           cot__slot_exists(&b, "ffn_up", layer) && cot__slot_exists(&b, "ffn_down", layer) &&
           !cot__slot_exists(&b, "ffn_gate_inp", layer);
}

void cot__convert_split_free(cot__split *s) {
    cot__free(s->order);
    cot__free(s->router);
    *s = (cot__split){.layer = -1};
}

/* ---- balanced k-means ---- */

static float dot(const float *a, const float *b, int64_t n) {
    float s = 0;
    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

static void similarity(void *arg, size_t row, int thread) {
    const kmeans *k = arg;
    const float *x = k->x + row * (size_t)k->cols;
    for (int e = 0; e < k->n; e++)
        k->sim[row * (size_t)k->n + (size_t)e] = dot(x, k->center + (size_t)e * (size_t)k->cols, k->cols);
}

/* Rows far from each other as first centres: each is drawn with a probability by its distance to the nearest
 * one before it (k-means++). */
static void first_centers(kmeans *k, int layer, float *distance) {
    size_t cols = (size_t)k->cols;
    int64_t pick = (int64_t)(cot__random_unit(0, SEED_PURPOSE, (uint64_t)layer, 0) * (double)k->rows);
    for (int64_t r = 0; r < k->rows; r++) distance[r] = 2;
    for (int e = 0; e < k->n; e++) {
        float *center = k->center + (size_t)e * cols;
        memcpy(center, k->x + (size_t)pick * cols, cols * sizeof *center);
        double total = 0;
        for (int64_t r = 0; r < k->rows; r++) {
            float d = 1 - dot(k->x + (size_t)r * cols, center, k->cols);
            if (d < distance[r]) distance[r] = d < 0 ? 0 : d;
            total += (double)distance[r];
        }
        double at = cot__random_unit(0, SEED_PURPOSE, (uint64_t)layer, (uint64_t)e + 1) * total;
        for (pick = 0; pick < k->rows - 1 && (at -= (double)distance[pick]) > 0;) pick++;
    }
}

static int by_similarity(const void *a, const void *b) {
    const pair *x = a, *y = b;
    if (x->sim != y->sim) return x->sim > y->sim ? -1 : 1;
    if (x->row != y->row) return x->row < y->row ? -1 : 1;
    return x->cluster < y->cluster ? -1 : x->cluster > y->cluster;
}

/* The nearest pairs first, no cluster above its share. True when anything moved. */
static bool assign(kmeans *k) {
    int64_t share = k->rows / k->n;
    size_t n = 0;
    bool moved = false;
    for (int64_t r = 0; r < k->rows; r++)
        for (int e = 0; e < k->n; e++) {
            float s = k->sim[r * k->n + e];
            k->pairs[n++] = (pair){isfinite(s) ? s : 0, (int32_t)r, e};
        }
    qsort(k->pairs, n, sizeof *k->pairs, by_similarity);
    memset(k->fill, 0, (size_t)k->n * sizeof *k->fill);
    for (int64_t r = 0; r < k->rows; r++) k->of[r] = -1 - k->of[r]; /* not placed, was in … */
    for (size_t i = 0; i < n; i++) {
        const pair *p = &k->pairs[i];
        if (k->of[p->row] >= 0 || k->fill[p->cluster] == share) continue;
        moved |= -1 - k->of[p->row] != p->cluster;
        k->of[p->row] = p->cluster;
        k->fill[p->cluster]++;
    }
    return moved;
}

static void move_centers(kmeans *k) {
    size_t cols = (size_t)k->cols;
    memset(k->center, 0, (size_t)k->n * cols * sizeof *k->center);
    for (int64_t r = 0; r < k->rows; r++) {
        float *center = k->center + (size_t)k->of[r] * cols;
        const float *x = k->x + (size_t)r * cols;
        for (size_t j = 0; j < cols; j++) center[j] += x[j];
    }
    for (int e = 0; e < k->n; e++) {
        float *center = k->center + (size_t)e * cols, len = sqrtf(dot(center, center, k->cols));
        for (size_t j = 0; len > 0 && j < cols; j++) center[j] /= len;
    }
}

static cot_status cluster(cot__convert *c, kmeans *k, int layer, cot_error *err) {
    size_t rows = (size_t)k->rows, n = (size_t)k->n;
    float *distance = cot__alloc_array(rows, sizeof *distance);
    k->center = cot__alloc_array(n * (size_t)k->cols, sizeof *k->center);
    k->sim = cot__alloc_array(rows * n, sizeof *k->sim);
    k->pairs = cot__alloc_array(rows * n, sizeof *k->pairs);
    k->of = cot__alloc_zero(rows, sizeof *k->of);
    k->fill = cot__alloc_array(n, sizeof *k->fill);
    cot_status s = distance && k->center && k->sim && k->pairs && k->of && k->fill
                       ? COT_OK
                       : cot__fail_memory(err, rows * n * sizeof *k->pairs);
    if (s == COT_OK) {
        for (size_t r = 0; r < rows; r++) k->of[r] = -1;
        first_centers(k, layer, distance);
        for (int i = 0; i < ROUNDS; i++) {
            cot__pool_run(c->pool, similarity, k, rows);
            if (!assign(k)) break;
            move_centers(k);
        }
    }
    cot__free(distance);
    return s;
}

static void kmeans_free(kmeans *k) {
    cot__free(k->center);
    cot__free(k->sim);
    cot__free(k->pairs);
    cot__free(k->of);
    cot__free(k->fill);
}

/* ---- a layer ---- */

/* Order of the neurons (ascending in each expert) and the mean gate rows, from rows and clusters. */
static void deal(cot__split *s, const cot_view *gate, const int32_t *of, int n, float *row) {
    size_t cols = (size_t)s->n_embd, at = 0;
    float share = (float)(s->d_ff / n);
    memset(s->router, 0, (size_t)n * cols * sizeof *s->router);
    for (int e = 0; e < n; e++)
        for (int64_t r = 0; r < s->d_ff; r++) {
            if (of[r] != e) continue;
            s->order[at++] = (int32_t)r;
            cot__view_row(gate, r, row);
            for (size_t j = 0; j < cols; j++) s->router[(size_t)e * cols + j] += row[j] / share;
        }
}

static cot_status deal_layer(cot__convert *c, int layer, cot_error *err) {
    cot__split *s = &c->split;
    if (s->layer == layer) return COT_OK;
    cot__convert_split_free(s);
    cot__bind b = {.arch = c->arch, .store = c->store};
    cot_view gate;
    int n = c->o->split_experts;
    COT_TRY(cot__slot_need(&b, "ffn_gate", layer, -1, -1, -1, &gate, err));
    size_t rows = (size_t)gate.rows, cols = (size_t)gate.cols;
    s->d_ff = gate.rows;
    s->n_embd = gate.cols;
    s->order = cot__alloc_array(rows, sizeof *s->order);
    s->router = cot__alloc_array((size_t)n * cols, sizeof *s->router);
    float *x = cot__alloc_array(rows * cols, sizeof *x), *row = cot__alloc_array(cols, sizeof *row);
    cot_status st = s->order && s->router && x && row ? COT_OK : cot__fail_memory(err, rows * cols * 4);
    for (size_t r = 0; st == COT_OK && r < rows; r++) {
        float *v = x + r * cols;
        cot__view_row(&gate, (int64_t)r, v);
        float len = sqrtf(dot(v, v, (int64_t)cols));
        for (size_t j = 0; len > 0 && j < cols; j++) v[j] /= len;
    }
    kmeans k = {.x = x, .rows = gate.rows, .cols = gate.cols, .n = n};
    if (st == COT_OK) st = cluster(c, &k, layer, err);
    if (st == COT_OK) {
        deal(s, &gate, k.of, n, row);
        s->layer = layer;
    }
    kmeans_free(&k);
    cot__free(x);
    cot__free(row);
    return st;
}

cot_status cot__convert_split_job(cot__convert *c, const cot__job *job, cot_error *err) {
    static const char *const slots[] = {
        [COT__JOB_GATE] = "ffn_gate", [COT__JOB_UP] = "ffn_up", [COT__JOB_DOWN] = "ffn_down"};
    COT_TRY(deal_layer(c, job->layer, err));
    const cot__split *s = &c->split;
    int n = c->o->split_experts;
    if (job->kind == COT__JOB_ROUTER)
        return cot__convert_bytes(c, s->router, (size_t)n * (size_t)s->n_embd * sizeof *s->router, err);
    cot__bind b = {.arch = c->arch, .store = c->store};
    cot_view v;
    bool down = job->kind == COT__JOB_DOWN;
    COT_TRY(cot__slot_need(&b, slots[job->kind], job->layer, -1, down ? s->n_embd : s->d_ff,
                           down ? s->d_ff : s->n_embd, &v, err));
    if (!down) return cot__convert_rows(c, &v, s->d_ff, s->order, s->n_embd, NULL, job->type, 0, err);
    int64_t share = s->d_ff / n;
    for (int e = 0; e < n; e++)
        COT_TRY(cot__convert_rows(c, &v, s->n_embd, NULL, share, s->order + e * share, job->type, 0, err));
    return COT_OK;
}

static cot_status add_job(cot__convert *c, cot__job_kind kind, int layer, const char *part, cot_type type,
                          int n_dims, const int64_t dims[3], cot_error *err) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.ffn_%s.weight", layer, part);
    cot__job *j = cot__convert_add(c, kind, name, err);
    if (!j) return COT_NO_MEMORY;
    j->layer = layer;
    j->n_dims = n_dims;
    memcpy(j->dims, dims, (size_t)n_dims * sizeof *dims);
    j->type = kind == COT__JOB_ROUTER ? COT_F32 : cot__convert_type(c, j->name, type, dims[1], dims[0]);
    return COT_OK;
}

static cot_status plan_layer(cot__convert *c, int layer, cot_error *err) {
    static const char *const slots[] = {"ffn_gate", "ffn_up", "ffn_down"};
    cot__bind b = {.arch = c->arch, .store = c->store};
    cot_view v[3], bias;
    int64_t n = c->o->split_experts;
    for (int i = 0; i < 3; i++) {
        COT_TRY(cot__slot_need(&b, slots[i], layer, -1, -1, -1, &v[i], err));
        COT_TRY(cot__slot_bias(&b, slots[i], layer, -1, &bias, err));
        if (bias.data)
            return cot__fail(err, COT_UNSUPPORTED, c->source->path, slots[i],
                             "layer %d: blocks with biases are not split", layer);
    }
    int64_t d_ff = v[0].rows, n_embd = v[0].cols;
    COT_TRY(cot__slot_check(&b, "ffn_up", layer, &v[1], d_ff, n_embd, err));
    COT_TRY(cot__slot_check(&b, "ffn_down", layer, &v[2], n_embd, d_ff, err));
    if (d_ff % n || d_ff > INT32_MAX)
        return cot__fail(err, COT_ARGUMENT, c->source->path, "split",
                         "layer %d: %lld neurons cannot be dealt to %lld experts evenly", layer,
                         (long long)d_ff, (long long)n);
    /* Columns of a quantised matrix cannot be moved as they are: its blocks would be torn. */
    cot_type down = v[2].type;
    if (cot__convert_is_quantized(down)) down = d_ff / n % 32 ? COT_F16 : COT_Q8_0;
    const int64_t router[3] = {n_embd, n, 1}, in[] = {n_embd, d_ff / n, n}, out[] = {d_ff / n, n_embd, n};
    COT_TRY(add_job(c, COT__JOB_ROUTER, layer, "gate_inp", COT_F32, 2, router, err));
    COT_TRY(add_job(c, COT__JOB_GATE, layer, "gate_exps", v[0].type, 3, in, err));
    COT_TRY(add_job(c, COT__JOB_UP, layer, "up_exps", v[1].type, 3, in, err));
    return add_job(c, COT__JOB_DOWN, layer, "down_exps", down, 3, out, err);
}

cot_status cot__convert_plan_split(cot__convert *c, cot_error *err) {
    int n = 0;
    for (int layer = 0; layer < c->n_layer; layer++) {
        if (!cot__convert_splits(c, layer)) continue;
        COT_TRY(cot__convert_store(c, err));
        COT_TRY(plan_layer(c, layer, err));
        n++;
    }
    if (n < c->n_layer) /* one router's experts per model: what is routed already has its own counts */
        return cot__fail(err, COT_UNSUPPORTED, c->source->path, "split",
                         "%d of %d layers have a dense feed-forward block with gate, up and down; all must",
                         n, c->n_layer);
    return COT_OK;
}
