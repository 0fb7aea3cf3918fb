/* Owns: attention over paged keys and values, for prompts and for single tokens alike.
 * Work is cut into (a few rows of one sequence, one KV head, a few query heads); each piece walks the chunks
 * of absolute positions upward, closes every chunk by itself and merges it, so that how rows are grouped
 * cannot change a bit. Where there are fewer pieces than threads can use, chunks are shared out instead and
 * merged in the same order. */
#include "ops/ops.h"

#include <string.h>

#include "base/error.h"

size_t cot__kv_row_bytes(cot_type type, int n) {
    switch (type) {
    case COT_F32: return (size_t)n * 4;
    case COT_F16: return (size_t)n * 2;
    default: return (size_t)((n + 31) / 32) * 34;
    }
}

size_t cot__kv_stream_bytes(const cot__kv_stream *s) {
    size_t bytes = (size_t)s->heads * COT_KV_CHUNK * (s->k_row + (s->v_alias ? 0 : s->v_row));
    return (bytes + 63) & ~(size_t)63;
}

static char *k_rows(const cot__kv_stream *s, char *block, int head) {
    return block + s->offset + (size_t)head * COT_KV_CHUNK * s->k_row;
}

static char *v_rows(const cot__kv_stream *s, char *block, int head) {
    if (s->v_alias) return k_rows(s, block, head);
    return block + s->offset + (size_t)s->heads * COT_KV_CHUNK * s->k_row +
           (size_t)head * COT_KV_CHUNK * s->v_row;
}

typedef struct store_job {
    cot__ops *c;
    const cot__kv_stream *s;
    char *const *const *blocks;
    const int32_t *pos;
    const float *k, *v;
    size_t k_stride, v_stride;
    int64_t n, per;
} store_job;

static void store_item(void *arg, size_t item, int thread) {
    const store_job *j = arg;
    const cot__kv_stream *s = j->s;
    int64_t end = (int64_t)(item + 1) * j->per < j->n ? (int64_t)(item + 1) * j->per : j->n;
    for (int64_t i = (int64_t)item * j->per; i < end; i++) {
        char *block = j->blocks[i][j->pos[i] / COT_KV_CHUNK];
        size_t at = (size_t)(j->pos[i] % COT_KV_CHUNK);
        for (int h = 0; h < s->heads; h++) {
            j->c->k->kv_store(s->type, k_rows(s, block, h) + at * s->k_row,
                              j->k + (size_t)i * j->k_stride + (size_t)h * (size_t)s->dk, s->dk);
            if (!s->v_alias)
                j->c->k->kv_store(s->type, v_rows(s, block, h) + at * s->v_row,
                                  j->v + (size_t)i * j->v_stride + (size_t)h * (size_t)s->dv, s->dv);
        }
    }
}

void cot__op_kv_store(cot__ops *c, const cot__kv_stream *s, char *const *const *blocks, const int32_t *pos,
                      int64_t n, const float *k, size_t k_stride, const float *v, size_t v_stride) {
    store_job j = {c, s, blocks, pos, k, v, k_stride, v_stride, n, n >= 16 ? 8 : n};
    cot__pool_run(c->pool, store_item, &j, (size_t)((n + j.per - 1) / j.per));
}

enum { ROWS = 16, QUERIES = 64, FEWEST = 8 /* chunks for which positions are split */ };

/* Queries that walk the chunks together. */
typedef struct attn_piece {
    int64_t row;         /* the first one's */
    int head, nq;        /* heads_per heads from `head` on of each row */
    int32_t first, last; /* chunks */
    float *q, *acc;
    cot__attn_state st[QUERIES];
} attn_piece;

typedef struct attn_job {
    cot__ops *c;
    const cot__attention *a;
    const int32_t *first; /* first row of each row group, n_groups + 1 */
    int heads_per;        /* query heads per piece */
    int pieces_per_group;
    float *scratch; /* per thread; or, where positions are split, for all */
    size_t scratch_floats;
    /* split: `slots` chunks of every piece at a time, from `base` chunks after its first one */
    attn_piece *piece;
    int slots, base;
    size_t nq; /* queries of a slot */
    float *part;
    cot__attn_state *part_st;
} attn_job;

static void piece_begin(const attn_job *j, size_t i, attn_piece *p) {
    const cot__attention *a = j->a;
    const cot__kv_stream *s = a->kv;
    size_t group = i / (size_t)j->pieces_per_group;
    int32_t lo = INT32_MAX, hi = 0;
    p->row = j->first[group];
    p->head = (int)(i % (size_t)j->pieces_per_group) * j->heads_per;
    p->nq = (int)(j->first[group + 1] - p->row) * j->heads_per;
    for (int n = 0; n < p->nq; n++) {
        int64_t row = p->row + n / j->heads_per;
        int head = p->head + n % j->heads_per;
        memcpy(p->q + (size_t)n * (size_t)s->dk,
               a->q + (size_t)row * a->q_stride + (size_t)head * (size_t)s->dk, (size_t)s->dk * sizeof *p->q);
        int32_t start = a->window > 0 && a->pos[row] >= a->window ? a->pos[row] - a->window + 1 : 0;
        if (start < lo) lo = start;
        if (a->pos[row] > hi) hi = a->pos[row];
        p->st[n] = (cot__attn_state){-__builtin_inff(), 0};
    }
    p->first = lo / COT_KV_CHUNK;
    p->last = hi / COT_KV_CHUNK;
    memset(p->acc, 0, (size_t)p->nq * (size_t)s->dv * sizeof *p->acc);
}

/* One chunk by itself. */
static void piece_chunk(const attn_job *j, const attn_piece *p, int32_t chunk, cot__attn_state *st,
                        float *part) {
    const cot__attention *a = j->a;
    const cot__kv_stream *s = a->kv;
    int kv_head = p->head / (a->heads / s->heads), from[QUERIES], to[QUERIES];
    char *const *blocks = a->blocks[p->row];
    cot__kv_chunk kv = {k_rows(s, blocks[chunk], kv_head),
                        v_rows(s, blocks[chunk], kv_head),
                        s->type,
                        s->type,
                        s->k_row,
                        s->v_alias ? s->k_row : s->v_row,
                        s->dk,
                        s->dv,
                        chunk < p->last ? k_rows(s, blocks[chunk + 1], kv_head) : NULL};
    int32_t base = chunk * COT_KV_CHUNK;
    for (int i = 0; i < p->nq; i++) {
        int32_t pos = a->pos[p->row + i / j->heads_per];
        int32_t start = a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
        from[i] = start > base ? start - base : 0;
        to[i] = pos + 1 - base < COT_KV_CHUNK ? pos + 1 - base : COT_KV_CHUNK;
        if (to[i] < from[i]) from[i] = to[i] = 0;
    }
    j->c->k->attn_chunk(&kv, p->q, (size_t)s->dk, p->nq, from, to, a->scale, a->softcap, st, part,
                        (size_t)s->dv);
}

static void piece_merge(const attn_job *j, attn_piece *p, const cot__attn_state *st, const float *part) {
    size_t dv = (size_t)j->a->kv->dv;
    for (int i = 0; i < p->nq; i++) /* what is empty changes nothing */
        j->c->k->attn_merge(&p->st[i], p->acc + (size_t)i * dv, &st[i], part + (size_t)i * dv, (int)dv);
}

static void piece_end(const attn_job *j, const attn_piece *p) {
    const cot__attention *a = j->a;
    size_t dv = (size_t)a->kv->dv;
    for (int i = 0; i < p->nq; i++) {
        int64_t row = p->row + i / j->heads_per;
        int head = p->head + i % j->heads_per;
        j->c->k->attn_finish(&p->st[i], p->acc + (size_t)i * dv, a->sinks ? a->sinks + head : NULL,
                             a->out + (size_t)row * a->out_stride + (size_t)head * dv, (int)dv);
    }
}

static void attn_item(void *arg, size_t item, int thread) {
    const attn_job *j = arg;
    attn_piece p;
    cot__attn_state st[QUERIES];
    p.q = j->scratch + (size_t)thread * j->scratch_floats;
    p.acc = p.q + (size_t)QUERIES * (size_t)j->a->kv->dk;
    float *part = p.acc + (size_t)QUERIES * (size_t)j->a->kv->dv;
    piece_begin(j, item, &p);
    for (int32_t chunk = p.first; chunk <= p.last; chunk++) {
        piece_chunk(j, &p, chunk, st, part);
        piece_merge(j, &p, st, part);
    }
    piece_end(j, &p);
}

/* ---- positions split: fewer pieces than keep all threads busy, many chunks ---- */

static size_t slot_floats(const attn_job *j) { return j->nq * (size_t)j->a->kv->dv; }

static void slot_item(void *arg, size_t item, int thread) {
    const attn_job *j = arg;
    const attn_piece *p = &j->piece[item / (size_t)j->slots];
    int32_t chunk = p->first + j->base + (int32_t)(item % (size_t)j->slots);
    if (chunk <= p->last)
        piece_chunk(j, p, chunk, j->part_st + item * j->nq, j->part + item * slot_floats(j));
}

static void merge_item(void *arg, size_t item, int thread) {
    const attn_job *j = arg;
    attn_piece *p = &j->piece[item];
    size_t at = item * (size_t)j->slots;
    for (int s = 0; s < j->slots && p->first + j->base + s <= p->last; s++, at++)
        piece_merge(j, p, j->part_st + at * j->nq, j->part + at * slot_floats(j));
}

/* The same chunks, merged in the same order: bounded memory, so a few chunks of each piece at a time. */
static cot_status run_split(attn_job *j, size_t pieces, size_t threads, cot_error *err) {
    cot__ops *c = j->c;
    size_t dk = (size_t)j->a->kv->dk, dv = (size_t)j->a->kv->dv;
    int chunks = 0;
    j->slots = (int)(QUERIES * threads / (pieces * j->nq));
    size_t slots = pieces * (size_t)j->slots;
    j->piece = cot__arena_alloc(c->arena, pieces * sizeof *j->piece);
    j->part_st = cot__arena_alloc(c->arena, slots * j->nq * sizeof *j->part_st);
    if (!j->piece || !j->part_st) return cot__fail_memory(err, slots * j->nq * sizeof *j->part_st);
    for (size_t i = 0; i < pieces; i++) {
        attn_piece *p = &j->piece[i];
        p->q = j->scratch + i * j->nq * (dk + dv);
        p->acc = p->q + j->nq * dk;
        piece_begin(j, i, p);
        if (p->last - p->first + 1 > chunks) chunks = p->last - p->first + 1;
    }
    j->part = j->scratch + pieces * j->nq * (dk + dv);
    for (j->base = 0; j->base < chunks; j->base += j->slots) {
        cot__pool_run(c->pool, slot_item, j, slots);
        cot__pool_run(c->pool, merge_item, j, pieces);
    }
    for (size_t i = 0; i < pieces; i++) piece_end(j, &j->piece[i]);
    return COT_OK;
}

/* Rows of one sequence that follow each other share a walk over the chunks. */
static int group_rows(const cot__attention *a, int per, int32_t *first) {
    int groups = 0;
    for (int64_t i = 0; i < a->n;) {
        int64_t e = i + 1;
        while (e < a->n && e - i < per && a->blocks[e] == a->blocks[i]) e++;
        first[groups++] = (int32_t)i;
        i = e;
    }
    first[groups] = (int32_t)a->n;
    return groups;
}

cot_status cot__op_attention(cot__ops *c, const cot__attention *a, cot_error *err) {
    size_t mark = cot__arena_mark(c->arena);
    int share = a->heads / a->kv->heads, heads_per = share;
    while (heads_per > 8) { /* many heads over one latent: cut into the largest equal pieces of at most 8 */
        int d = 2;
        while (heads_per % d) d++;
        heads_per /= d;
    }
    int per = ROWS * heads_per > QUERIES ? QUERIES / heads_per : ROWS;
    int32_t *first = cot__arena_alloc(c->arena, (size_t)(a->n + 1) * sizeof *first);
    attn_job j = {
        .c = c, .a = a, .first = first, .heads_per = heads_per, .pieces_per_group = a->heads / heads_per};
    j.scratch_floats = ((size_t)QUERIES * (size_t)(a->kv->dk + 2 * a->kv->dv) + 15) & ~(size_t)15;
    size_t threads = (size_t)cot__pool_threads(c->pool), bytes = j.scratch_floats * sizeof(float) * threads;
    j.scratch = cot__arena_alloc(c->arena, bytes);
    if (!first || !j.scratch) return cot__fail_memory(err, bytes);
    int groups = group_rows(a, per < 1 ? 1 : per, first);
    if (c->tape) cot__tape_record(c->tape, COT_OP_ATTENTION, a, sizeof *a);
    size_t pieces = (size_t)groups * (size_t)j.pieces_per_group;
    int32_t longest = 0;
    for (int g = 0; g < groups; g++) {
        size_t nq = (size_t)(first[g + 1] - first[g]) * (size_t)heads_per;
        int32_t pos = a->pos[first[g]], seen = a->window > 0 && pos >= a->window ? a->window : pos;
        if (nq > j.nq) j.nq = nq;
        if (seen > longest) longest = seen;
    }
    cot_status s = COT_OK;
    if (pieces < 2 * threads && threads > 1 && 2 * pieces * j.nq <= QUERIES * threads &&
        longest >= FEWEST * COT_KV_CHUNK)
        s = run_split(&j, pieces, threads, err);
    else cot__pool_run(c->pool, attn_item, &j, pieces);
    cot__arena_rewind(c->arena, mark);
    return s;
}
