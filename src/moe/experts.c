/* Owns: the computation of all chosen experts of a layer in three parallel jobs: gate and up with the
 * activation, encoding of the hidden rows, down with the weighted sum. Each output value is made by one work
 * item that adds the experts in the order given, so threads and batches cannot change it. */
#include <string.h>

#include "base/error.h"
#include "moe/moe.h"

/* Weight rows per work item. Reading starts anew with every item, which costs memory a few microseconds: so
 * items are long, as far as all threads still get enough of them. */
enum { CHUNK = 64, LONGEST = 256, SHARE = 12 /* items for each thread */ };
enum { SHORT = 16 }; /* most rows of an expert for which items are long: scratch grows with both */
enum { APART = 64 }; /* (row, expert) pairs whose results are kept apart before they are added */

typedef struct slot_range {
    const cot__expert_rows *g;
    size_t slot; /* first hidden row */
    size_t item; /* first work item of the gate/up job */
    int64_t d_ff;
    const void *act_gate, *act_up;
    size_t act_gate_stride, act_up_stride;
    cot__gemm_fn *gemm_gate, *gemm_up, *gemm_down;
    cot_act act_down;
} slot_range;

/* CHUNK … LONGEST rows for an item of a job over `rows` rows in all. */
static int64_t item_rows(int64_t rows, size_t threads) {
    int64_t per = rows / (int64_t)(threads * SHARE) / CHUNK * CHUNK;
    return per < CHUNK ? CHUNK : per > LONGEST ? LONGEST : per;
}

typedef struct experts_job {
    cot__ops *c;
    const cot__ffn *ffn;
    slot_range *r;
    int n;
    cot__rows *x;
    float *hidden;
    size_t h_stride; /* floats */
    char *enc;
    size_t enc_stride; /* bytes */
    float *scratch;    /* per thread */
    size_t scratch_floats;
    float *out;
    size_t out_stride;
    int64_t n_embd, n_rows;
    int64_t up_rows, down_rows; /* of an item */
    float *part;                /* results of each slot, n_embd each, or NULL */
} experts_job;

typedef struct sum_job {
    const cot_kernels *k;
    const cot__expert_rows *groups;
    const size_t *at;
    int n;
    const float *part;
    float *out;
    size_t out_stride;
    int64_t n_embd, clear;
} sum_job;

static void add_bias(const cot_view *b, int64_t r0, int64_t n, float *rows, size_t stride, int64_t m) {
    if (!b->data) return;
    float tmp[LONGEST];
    const cot__type_info *t = cot__type(b->type);
    t->decode((const char *)b->data + (size_t)r0 * (size_t)t->bytes, tmp, n);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) rows[(size_t)i * stride + (size_t)j] += tmp[j];
}

/* The first lines of what this thread is about to read, while it still works on other weights: a processor
 * that finds the rest by itself waits for these, and for the translation of a new address. */
static void fetch_start(const cot_view *w, int64_t row) {
    if (!w->data) return;
    const char *p = cot__view_at(w, row);
    for (int at = 0; at < 1024; at += 64) __builtin_prefetch(p + at, 0, 2);
}

static void gate_up_item(void *arg, size_t item, int thread) {
    experts_job *j = arg;
    int lo = 0, hi = j->n - 1;
    while (lo < hi) { /* last range whose first item is ≤ item */
        int mid = (lo + hi + 1) / 2;
        if (j->r[mid].item <= item) lo = mid;
        else hi = mid - 1;
    }
    slot_range *s = &j->r[lo];
    const cot__expert *e = s->g->expert;
    const cot_view *gate = &e->part[COT__GATE], *up = &e->part[COT__UP];
    int64_t r0 = (int64_t)(item - s->item) * j->up_rows,
            r1 = r0 + j->up_rows < s->d_ff ? r0 + j->up_rows : s->d_ff, n = r1 - r0;
    int64_t m = s->g->n;
    size_t u_stride = (size_t)j->up_rows;
    float *h = j->hidden + s->slot * j->h_stride; /* column r of row i: h[i · stride + r] */
    float *u = j->scratch + (size_t)thread * j->scratch_floats;
    if (!gate->data) { /* a plain MLP: act(up x) */
        s->gemm_up(up, r0, r1, s->act_up, s->act_up_stride, s->g->rows, m, h, j->h_stride);
        add_bias(&e->part[COT__UP_B], r0, n, h + r0, j->h_stride, m);
        for (int64_t i = 0; i < m; i++) {
            float *y = h + (size_t)i * j->h_stride + r0;
            j->c->k->glu(j->ffn->act, y, y, NULL, n, j->ffn->alpha, j->ffn->limit);
        }
        return;
    }
    fetch_start(up, r0);
    s->gemm_gate(gate, r0, r1, s->act_gate, s->act_gate_stride, s->g->rows, m, h, j->h_stride);
    if (r1 == s->d_ff && lo + 1 < j->n) fetch_start(&j->r[lo + 1].g->expert->part[COT__GATE], 0);
    s->gemm_up(up, r0, r1, s->act_up, s->act_up_stride, s->g->rows, m, u - r0, u_stride);
    add_bias(&e->part[COT__GATE_B], r0, n, h + r0, j->h_stride, m);
    add_bias(&e->part[COT__UP_B], r0, n, u, u_stride, m);
    for (int64_t i = 0; i < m; i++) {
        float *y = h + (size_t)i * j->h_stride + r0;
        j->c->k->glu(j->ffn->act, y, y, u + (size_t)i * u_stride, n, j->ffn->alpha, j->ffn->limit);
    }
}

static void encode_item(void *arg, size_t item, int thread) {
    experts_job *j = arg;
    const slot_range *s = &j->r[item];
    if (s->act_down == COT_ACT_F32) return;
    for (int i = 0; i < s->g->n; i++) {
        size_t slot = s->slot + (size_t)i;
        j->c->k->act_encode[s->act_down](j->hidden + slot * j->h_stride, j->enc + slot * j->enc_stride,
                                         s->d_ff);
    }
}

static void down_item(void *arg, size_t item, int thread) {
    experts_job *j = arg;
    int64_t r0 = (int64_t)item * CHUNK, r1 = r0 + CHUNK < j->n_embd ? r0 + CHUNK : j->n_embd, n = r1 - r0;
    float *tmp = j->scratch + (size_t)thread * j->scratch_floats;
    for (int64_t i = 0; i < j->n_rows; i++)
        memset(j->out + (size_t)i * j->out_stride + r0, 0, (size_t)n * sizeof(float));
    for (int e = 0; e < j->n; e++) {
        const slot_range *s = &j->r[e];
        const void *act = s->act_down == COT_ACT_F32 ? (const void *)(j->hidden + s->slot * j->h_stride)
                                                     : (const void *)(j->enc + s->slot * j->enc_stride);
        size_t stride = s->act_down == COT_ACT_F32 ? j->h_stride * sizeof(float) : j->enc_stride;
        s->gemm_down(&s->g->expert->part[COT__DOWN], r0, r1, act, stride, NULL, s->g->n, tmp - r0, CHUNK);
        add_bias(&s->g->expert->part[COT__DOWN_B], r0, n, tmp, CHUNK, s->g->n);
        for (int i = 0; i < s->g->n; i++) {
            size_t row = s->g->rows ? (size_t)s->g->rows[i] : (size_t)i;
            float *y = j->out + row * j->out_stride + r0;
            float w = s->g->weights ? s->g->weights[i] : 1.0f;
            j->c->k->add_scaled(y, tmp + (size_t)i * CHUNK, w, n);
        }
    }
}

/* ---- each expert's results by themselves, then their sum: the same additions in the same order ---- */

static void part_item(void *arg, size_t item, int thread) {
    experts_job *j = arg;
    size_t per = (size_t)((j->n_embd + j->down_rows - 1) / j->down_rows);
    const slot_range *s = &j->r[item / per];
    int64_t r0 = (int64_t)(item % per) * j->down_rows,
            r1 = r0 + j->down_rows < j->n_embd ? r0 + j->down_rows : j->n_embd;
    const void *act = s->act_down == COT_ACT_F32 ? (const void *)(j->hidden + s->slot * j->h_stride)
                                                 : (const void *)(j->enc + s->slot * j->enc_stride);
    size_t stride = s->act_down == COT_ACT_F32 ? j->h_stride * sizeof(float) : j->enc_stride;
    float *out = j->part + s->slot * (size_t)j->n_embd;
    if (r1 == j->n_embd && item / per + 1 < (size_t)j->n) fetch_start(&s[1].g->expert->part[COT__DOWN], 0);
    s->gemm_down(&s->g->expert->part[COT__DOWN], r0, r1, act, stride, NULL, s->g->n, out, (size_t)j->n_embd);
    add_bias(&s->g->expert->part[COT__DOWN_B], r0, r1 - r0, out + r0, (size_t)j->n_embd, s->g->n);
}

static void sum_item(void *arg, size_t item, int thread) {
    const sum_job *j = arg;
    int64_t r0 = (int64_t)item * LONGEST, n = j->n_embd - r0 < LONGEST ? j->n_embd - r0 : LONGEST;
    for (int64_t i = 0; i < j->clear; i++)
        memset(j->out + (size_t)i * j->out_stride + r0, 0, (size_t)n * sizeof(float));
    for (int e = 0; e < j->n; e++) {
        const cot__expert_rows *g = &j->groups[e];
        for (int i = 0; i < g->n; i++)
            j->k->add_scaled(j->out + (size_t)(g->rows ? g->rows[i] : i) * j->out_stride + r0,
                             j->part + (j->at[e] + (size_t)i) * (size_t)j->n_embd + r0,
                             g->weights ? g->weights[i] : 1.0f, n);
    }
}

void cot__experts_sum(cot__ops *c, const cot__expert_rows *groups, const size_t *at, int n_groups,
                      const float *part, int64_t n_embd, int64_t clear, float *out, size_t out_stride) {
    sum_job j = {.k = c->k,
                 .groups = groups,
                 .at = at,
                 .n = n_groups,
                 .part = part,
                 .out = out,
                 .out_stride = out_stride,
                 .n_embd = n_embd,
                 .clear = clear};
    cot__pool_run(c->pool, sum_item, &j, (size_t)((n_embd + LONGEST - 1) / LONGEST));
}

cot_status cot__experts_encode(cot__ops *c, const cot__expert *e, cot__rows *x, cot_error *err) {
    const void *act;
    size_t stride;
    for (int p = COT__GATE; p <= COT__UP; p++)
        if (e->part[p].data) COT_TRY(cot__rows_encode(c, x, e->part[p].type, &act, &stride, err));
    return COT_OK;
}

static cot_status bind_range(cot__ops *c, slot_range *s, cot__rows *x, cot_error *err) {
    const cot__expert *e = s->g->expert;
    const cot_view *gate = &e->part[COT__GATE], *up = &e->part[COT__UP], *down = &e->part[COT__DOWN];
    s->gemm_gate = gate->data ? cot__gemm_for(c, gate->type) : NULL;
    s->gemm_up = cot__gemm_for(c, up->type);
    s->gemm_down = cot__gemm_for(c, down->type);
    if ((gate->data && !s->gemm_gate) || !s->gemm_up || !s->gemm_down)
        return cot__fail(err, COT_UNSUPPORTED, NULL, "experts", "no product with weights of this type");
    if (gate->data) COT_TRY(cot__rows_encode(c, x, gate->type, &s->act_gate, &s->act_gate_stride, err));
    COT_TRY(cot__rows_encode(c, x, up->type, &s->act_up, &s->act_up_stride, err));
    s->act_down = cot__act_for(c, down->type);
    return COT_OK;
}

/* The first two jobs and, where results are kept apart (j->part), the third. */
static cot_status compute(experts_job *j, const cot__expert_rows *groups, cot_error *err) {
    cot__ops *c = j->c;
    size_t slots = 0, items = 0, most = 1, threads = (size_t)cot__pool_threads(c->pool), n = (size_t)j->n;
    int64_t d_ff = 1, up_rows = 0;
    for (size_t i = 0; i < n; i++) {
        up_rows += groups[i].expert->part[COT__UP].rows;
        if ((size_t)groups[i].n > most) most = (size_t)groups[i].n;
    }
    j->up_rows = most <= SHORT ? item_rows(up_rows, threads) : CHUNK;
    j->r = cot__arena_alloc(c->arena, (n + 1) * sizeof *j->r);
    if (!j->r) return cot__fail_memory(err, (n + 1) * sizeof *j->r);
    for (size_t i = 0; i < n; i++) {
        slot_range *s = &j->r[i];
        *s = (slot_range){
            .g = &groups[i], .slot = slots, .item = items, .d_ff = groups[i].expert->part[COT__UP].rows};
        COT_TRY(bind_range(c, s, j->x, err));
        slots += (size_t)groups[i].n;
        items += (size_t)((s->d_ff + j->up_rows - 1) / j->up_rows);
        if (s->d_ff > d_ff) d_ff = s->d_ff;
        size_t bytes = s->act_down == COT_ACT_F32 ? 0 : cot__act_bytes(s->act_down, s->d_ff);
        if (bytes > j->enc_stride) j->enc_stride = bytes;
    }
    j->enc_stride = (j->enc_stride + 63) & ~(size_t)63;
    j->h_stride = ((size_t)d_ff + 15) & ~(size_t)15;
    j->scratch_floats = most * (size_t)(j->up_rows > CHUNK ? j->up_rows : CHUNK);
    j->down_rows = item_rows(j->n_embd * j->n, threads);
    size_t bytes = slots * j->h_stride * sizeof(float);
    j->hidden = cot__arena_alloc(c->arena, bytes);
    j->enc = cot__arena_alloc(c->arena, slots * j->enc_stride);
    j->scratch = cot__arena_alloc(c->arena, threads * j->scratch_floats * sizeof(float));
    if (!j->hidden || !j->enc || !j->scratch) return cot__fail_memory(err, bytes + slots * j->enc_stride);
    cot__pool_run(c->pool, gate_up_item, j, items);
    cot__pool_run(c->pool, encode_item, j, n);
    size_t per = (size_t)((j->n_embd + j->down_rows - 1) / j->down_rows);
    if (j->part) cot__pool_run(c->pool, part_item, j, per * n);
    return COT_OK;
}

cot_status cot__experts_apart(cot__ops *c, const cot__ffn *ffn, const cot__expert_rows *groups, int n_groups,
                              cot__rows *x, float *part, cot_error *err) {
    experts_job j = {.c = c, .ffn = ffn, .n = n_groups, .x = x, .n_embd = x->cols, .part = part};
    return compute(&j, groups, err);
}

cot_status cot__experts_compute(cot__ops *c, const cot__ffn *ffn, const cot__expert_rows *groups,
                                int n_groups, cot__rows *x, float *out, size_t out_stride, cot_error *err) {
    experts_job j = {.c = c,
                     .ffn = ffn,
                     .n = n_groups,
                     .x = x,
                     .out = out,
                     .out_stride = out_stride,
                     .n_embd = x->cols,
                     .n_rows = x->n};
    size_t slots = 0, *at = cot__arena_alloc(c->arena, (size_t)n_groups * sizeof *at);
    if (!at) return cot__fail_memory(err, (size_t)n_groups * sizeof *at);
    for (int i = 0; i < n_groups; i++) {
        at[i] = slots;
        slots += (size_t)groups[i].n;
    }
    if (slots <= APART && n_groups > 1) {
        j.part = cot__arena_alloc(c->arena, slots * (size_t)j.n_embd * sizeof(float));
        if (!j.part) return cot__fail_memory(err, slots * (size_t)j.n_embd * sizeof(float));
    }
    COT_TRY(compute(&j, groups, err));
    if (j.part) cot__experts_sum(c, groups, at, n_groups, j.part, j.n_embd, x->n, out, out_stride);
    else cot__pool_run(c->pool, down_item, &j, (size_t)((j.n_embd + CHUNK - 1) / CHUNK));
    return COT_OK;
}
