/* Owns: attention over paged keys and values, for prompts and for single tokens alike.
 * Work is cut into (a few rows of one sequence, one KV head, a few query heads); each piece walks the chunks
 * of absolute positions upward, closes every chunk by itself and merges it, so that how rows are grouped
 * cannot change a bit. */
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

enum { ROWS = 16, QUERIES = 64 };

typedef struct attn_job {
    cot__ops *c;
    const cot__attention *a;
    const int32_t *first; /* first row of each row group, n_groups + 1 */
    int heads_per;        /* query heads per item */
    int items_per_group;
    float *scratch; /* per thread */
    size_t scratch_floats;
} attn_job;

static void attn_item(void *arg, size_t item, int thread) {
    const attn_job *j = arg;
    const cot__attention *a = j->a;
    const cot__kv_stream *s = a->kv;
    const cot_kernels *k = j->c->k;
    int group = (int)(item / (size_t)j->items_per_group),
        head0 = (int)(item % (size_t)j->items_per_group) * j->heads_per;
    int share = a->heads / s->heads, kv_head = head0 / share;
    int64_t r0 = j->first[group], r1 = j->first[group + 1];
    int nq = (int)(r1 - r0) * j->heads_per;
    float *q = j->scratch + (size_t)thread * j->scratch_floats;
    float *acc = q + (size_t)QUERIES * (size_t)s->dk, *part = acc + (size_t)QUERIES * (size_t)s->dv;
    cot__attn_state st[QUERIES], pst[QUERIES];
    int from[QUERIES], to[QUERIES];
    int32_t lo = INT32_MAX, hi = 0;
    for (int i = 0; i < nq; i++) {
        int64_t row = r0 + i / j->heads_per;
        int head = head0 + i % j->heads_per;
        memcpy(q + (size_t)i * (size_t)s->dk, a->q + (size_t)row * a->q_stride + (size_t)head * (size_t)s->dk,
               (size_t)s->dk * sizeof *q);
        int32_t start = a->window > 0 && a->pos[row] >= a->window ? a->pos[row] - a->window + 1 : 0;
        if (start < lo) lo = start;
        if (a->pos[row] > hi) hi = a->pos[row];
        st[i] = (cot__attn_state){-__builtin_inff(), 0};
    }
    memset(acc, 0, (size_t)nq * (size_t)s->dv * sizeof *acc);
    for (int32_t chunk = lo / COT_KV_CHUNK; chunk <= hi / COT_KV_CHUNK; chunk++) {
        char *block = a->blocks[r0][chunk];
        cot__kv_chunk kv = {k_rows(s, block, kv_head),
                            v_rows(s, block, kv_head),
                            s->type,
                            s->type,
                            s->k_row,
                            s->v_alias ? s->k_row : s->v_row,
                            s->dk,
                            s->dv,
                            chunk < hi / COT_KV_CHUNK ? k_rows(s, a->blocks[r0][chunk + 1], kv_head) : NULL};
        int32_t base = chunk * COT_KV_CHUNK;
        for (int i = 0; i < nq; i++) {
            int32_t pos = a->pos[r0 + i / j->heads_per];
            int32_t start = a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
            from[i] = start > base ? start - base : 0;
            to[i] = pos + 1 - base < COT_KV_CHUNK ? pos + 1 - base : COT_KV_CHUNK;
            if (to[i] < from[i]) from[i] = to[i] = 0;
        }
        k->attn_chunk(&kv, q, (size_t)s->dk, nq, from, to, a->scale, a->softcap, pst, part, (size_t)s->dv);
        for (int i = 0; i < nq; i++)
            if (to[i] > from[i])
                k->attn_merge(&st[i], acc + (size_t)i * (size_t)s->dv, &pst[i],
                              part + (size_t)i * (size_t)s->dv, s->dv);
    }
    for (int i = 0; i < nq; i++) {
        int64_t row = r0 + i / j->heads_per;
        int head = head0 + i % j->heads_per;
        k->attn_finish(&st[i], acc + (size_t)i * (size_t)s->dv, a->sinks ? a->sinks + head : NULL,
                       a->out + (size_t)row * a->out_stride + (size_t)head * (size_t)s->dv, s->dv);
    }
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
        .c = c, .a = a, .first = first, .heads_per = heads_per, .items_per_group = a->heads / heads_per};
    j.scratch_floats = ((size_t)QUERIES * (size_t)(a->kv->dk + 2 * a->kv->dv) + 15) & ~(size_t)15;
    size_t bytes = j.scratch_floats * sizeof(float) * (size_t)cot__pool_threads(c->pool);
    j.scratch = cot__arena_alloc(c->arena, bytes);
    if (!first || !j.scratch) return cot__fail_memory(err, bytes);
    int groups = group_rows(a, per < 1 ? 1 : per, first);
    if (c->tape) cot__tape_record(c->tape, COT_OP_ATTENTION, a, sizeof *a);
    cot__pool_run(c->pool, attn_item, &j, (size_t)groups * (size_t)j.items_per_group);
    cot__arena_rewind(c->arena, mark);
    return COT_OK;
}
