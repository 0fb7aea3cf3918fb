/* Owns: sessions, sequences and paged KV. A block is shared until somebody writes into it. */
#include "run/session.h"

#include <string.h>

#include "base/error.h"

void cot_session_defaults(cot_session_options *o) {
    *o = (cot_session_options){.struct_size = sizeof *o, .n_sequences = 1, .chunk = 512, .kv_type = COT_F16};
}

static cot_status checked(const cot_model *m, const cot_session_options *in, cot_session_options *o,
                          cot_error *err) {
    cot_session_defaults(o);
    if (in && in->struct_size != sizeof *o)
        return cot__fail(err, COT_ARGUMENT, NULL, "cot_session_options",
                         "struct_size is %zu; call cot_session_defaults first", in->struct_size);
    if (in) *o = *in;
    if (o->n_ctx < 0 || o->n_ctx > (1 << 28))
        return cot__fail(err, COT_ARGUMENT, NULL, "ctx", "%d is outside 0…%d", o->n_ctx, 1 << 28);
    if (o->n_ctx == 0) o->n_ctx = m->n_ctx_train < 4096 ? (int32_t)m->n_ctx_train : 4096;
    if (o->n_sequences < 1 || o->n_sequences > 4096)
        return cot__fail(err, COT_ARGUMENT, NULL, "sequences", "%d is outside 1…4096", o->n_sequences);
    if (o->chunk < 1 || o->chunk > 65536)
        return cot__fail(err, COT_ARGUMENT, NULL, "chunk", "%d is outside 1…65536", o->chunk);
    if (o->kv_type != COT_F16 && o->kv_type != COT_F32 && o->kv_type != COT_Q8_0)
        return cot__fail(err, COT_ARGUMENT, NULL, "kv", "must be f16, f32 or q8_0");
    if (o->experts_used < 0 || o->experts_used > m->max_experts)
        return cot__fail(err, COT_ARGUMENT, NULL, "experts", "%d is outside 0…%d", o->experts_used,
                         m->max_experts);
    return COT_OK;
}

static size_t lay_out(const cot_model *m, cot_type type, cot__kv_stream *streams) {
    size_t at = 0;
    for (int i = 0; i < m->n_streams; i++) {
        cot__kv_stream s = m->streams[i];
        s.type = type;
        s.k_row = cot__kv_row_bytes(type, s.dk);
        s.v_row = s.v_alias ? 0 : cot__kv_row_bytes(type, s.dv);
        s.offset = at;
        at += cot__kv_stream_bytes(&s);
        if (streams) streams[i] = s;
    }
    return at;
}

cot_status cot_session_estimate(const cot_model *m, const cot_session_options *options, uint64_t *kv,
                                uint64_t *buffers, cot_error *err) {
    cot_session_options o;
    COT_TRY(checked(m, options, &o, err));
    uint64_t blocks = ((uint64_t)o.n_ctx + COT_KV_CHUNK - 1) / COT_KV_CHUNK * (uint64_t)o.n_sequences;
    *kv = blocks * lay_out(m, o.kv_type, NULL);
    *buffers = cot__model_scratch(m, o.chunk, o.n_threads ? o.n_threads : cot__cpu_cores());
    return COT_OK;
}

static cot_status make_sequences(cot_session *s, cot_error *err) {
    s->blocks_per_seq = (s->opt.n_ctx + COT_KV_CHUNK - 1) / COT_KV_CHUNK;
    size_t per = (size_t)s->blocks_per_seq, n = (size_t)s->opt.n_sequences;
    s->seq = cot__alloc_zero(n, sizeof *s->seq);
    if (!s->seq) return cot__fail_memory(err, n * sizeof *s->seq);
    for (size_t i = 0; i < n; i++) {
        s->seq[i].table = cot__alloc_zero(per, sizeof *s->seq[i].table);
        s->seq[i].block = cot__alloc_zero(per, sizeof *s->seq[i].block);
        s->seq[i].tokens = cot__alloc_zero((size_t)s->opt.n_ctx, sizeof(int32_t));
        if (!s->seq[i].table || !s->seq[i].block || !s->seq[i].tokens)
            return cot__fail_memory(err, per * 12 + (size_t)s->opt.n_ctx * 4);
    }
    if (per * n > INT32_MAX) return cot__fail(err, COT_LIMIT, NULL, "ctx", "too many KV blocks");
    s->n_blocks = s->n_free = (int)(per * n);
    s->blocks = cot__alloc_zero((size_t)s->n_blocks, sizeof *s->blocks);
    s->free_list = cot__alloc_array((size_t)s->n_blocks, sizeof *s->free_list);
    if (!s->blocks || !s->free_list) return cot__fail_memory(err, (size_t)s->n_blocks * 20);
    for (int i = 0; i < s->n_blocks; i++) s->free_list[i] = s->n_blocks - 1 - i;
    return COT_OK;
}

/* What the session will take at most is kept free of experts. */
static cot_status reserve(cot_session *s, cot_error *err) {
    uint64_t kv, buffers;
    COT_TRY(cot_session_estimate(s->model, &s->opt, &kv, &buffers, err));
    uint64_t bytes = kv + buffers + (uint64_t)s->opt.n_ctx * (uint64_t)s->opt.n_sequences * 8 +
                     (uint64_t)s->opt.chunk * 40;
    COT_TRY(cot__model_reserve(s->model, bytes, err));
    s->reserved = bytes;
    return COT_OK;
}

cot_status cot_session_create(cot_session **out, const cot_model *m, const cot_session_options *options,
                              cot_error *err) {
    cot__error_clear(err);
    cot_session *s = cot__alloc_zero(1, sizeof *s);
    if (!s) return cot__fail_memory(err, sizeof *s);
    s->model = m;
    cot_status st = checked(m, options, &s->opt, err);
    size_t rows = (size_t)s->opt.chunk;
    if (st == COT_OK) st = reserve(s, err);
    if (st == COT_OK) st = cot__kernels_get(&s->kernels, err);
    if (st == COT_OK) st = cot__pool_create(&s->pool, s->opt.n_threads, err);
    if (st == COT_OK) st = cot__arena_create(&s->arena, 4 << 20, 0, err);
    if (st == COT_OK && !(s->streams = cot__alloc_zero((size_t)m->n_streams, sizeof *s->streams)))
        st = cot__fail_memory(err, (size_t)m->n_streams * sizeof *s->streams);
    if (st == COT_OK) {
        s->block_bytes = lay_out(m, s->opt.kv_type, s->streams);
        st = make_sequences(s, err);
    }
    if (st == COT_OK) {
        s->row_token = cot__alloc_array(rows, sizeof *s->row_token);
        s->row_pos = cot__alloc_array(rows, sizeof *s->row_pos);
        s->row_seq = cot__alloc_array(rows, sizeof *s->row_seq);
        s->row_history = cot__alloc_array(rows, sizeof *s->row_history);
        s->row_blocks = cot__alloc_array(rows, sizeof *s->row_blocks);
        s->row_wants = cot__alloc_array(rows, sizeof *s->row_wants);
        s->row_generated = cot__alloc_array(rows, sizeof *s->row_generated);
        if (!s->row_token || !s->row_pos || !s->row_seq || !s->row_history || !s->row_blocks ||
            !s->row_wants || !s->row_generated)
            st = cot__fail_memory(err, rows * 32);
    }
    if (st != COT_OK) {
        cot_session_free(&s);
        return st;
    }
    if (m->n_ctx_train > 0 && s->opt.n_ctx > m->n_ctx_train)
        cot__log(COT_LOG_WARN,
                 "a context of %d is more than the %lld positions that the model was trained for",
                 s->opt.n_ctx, (long long)m->n_ctx_train);
    cot__log(COT_LOG_INFO, "session: context %d, KV cache %s, %d threads, kernels %s", s->opt.n_ctx,
             cot_type_name(s->opt.kv_type), cot__pool_threads(s->pool), s->kernels->level);
    *out = s;
    return COT_OK;
}

void cot_session_free(cot_session **session) {
    if (!session || !*session) return;
    cot_session *s = *session;
    for (int i = 0; s->seq && i < s->opt.n_sequences; i++) {
        cot__free(s->seq[i].table);
        cot__free(s->seq[i].block);
        cot__free(s->seq[i].tokens);
    }
    for (int i = 0; s->blocks && i < s->n_blocks; i++) cot__free(s->blocks[i].data);
    cot__free(s->seq);
    cot__free(s->blocks);
    cot__free(s->free_list);
    cot__free(s->streams);
    cot__free(s->row_token);
    cot__free(s->row_pos);
    cot__free(s->row_seq);
    cot__free((void *)s->row_history);
    cot__free((void *)s->row_blocks);
    cot__free(s->row_wants);
    cot__free(s->row_generated);
    cot__arena_free(&s->arena);
    cot__pool_free(&s->pool);
    cot__model_unreserve(s->model, s->reserved);
    cot__free(s);
    *session = NULL;
}

int32_t cot_session_ctx(const cot_session *s) { return s->opt.n_ctx; }
int32_t cot_session_threads(const cot_session *s) { return cot__pool_threads(s->pool); }

void cot_session_observe(cot_session *s, cot_route_fn *fn, void *user) {
    s->observe = fn;
    s->observe_user = user;
}

/* ---- sequences and blocks ---- */

static cot_status check_seq(const cot_session *s, int32_t i, cot_error *err) {
    if (i >= 0 && i < s->opt.n_sequences) return COT_OK;
    return cot__fail(err, COT_ARGUMENT, NULL, "sequence", "%d is outside 0…%d", i, s->opt.n_sequences - 1);
}

static cot_status take_block(cot_session *s, int32_t *out, cot_error *err) {
    if (!s->n_free) return cot__fail(err, COT_CONTEXT_FULL, NULL, "ctx", "no KV block is left");
    int32_t b = s->free_list[s->n_free - 1];
    if (!s->blocks[b].data) {
        /* Zeroed: positions that were never written must not hold NaN for a kernel that reads whole chunks.
         */
        s->blocks[b].data = cot__alloc_aligned(64, s->block_bytes);
        if (!s->blocks[b].data) return cot__fail_memory(err, s->block_bytes);
        memset(s->blocks[b].data, 0, s->block_bytes);
    }
    s->n_free--;
    s->blocks[b].refs = 1;
    *out = b;
    return COT_OK;
}

static void drop_block(cot_session *s, int32_t b) {
    if (--s->blocks[b].refs == 0) s->free_list[s->n_free++] = b;
}

/* Makes positions [q->length, q->length + n) writable: new blocks, and a copy of a last block that is shared.
 */
cot_status cot__sequence_reserve(cot_session *s, cot__sequence *q, int32_t n, cot_error *err) {
    int last = q->length / COT_KV_CHUNK, need = (q->length + n + COT_KV_CHUNK - 1) / COT_KV_CHUNK;
    if (last < q->n_table && s->blocks[q->block[last]].refs > 1) {
        int32_t b;
        COT_TRY(take_block(s, &b, err));
        memcpy(s->blocks[b].data, q->table[last], s->block_bytes);
        drop_block(s, q->block[last]);
        q->block[last] = b;
        q->table[last] = s->blocks[b].data;
    }
    while (q->n_table < need) {
        COT_TRY(take_block(s, &q->block[q->n_table], err));
        q->table[q->n_table] = s->blocks[q->block[q->n_table]].data;
        q->n_table++;
    }
    return COT_OK;
}

static void cut(cot_session *s, cot__sequence *q, int32_t n) {
    int keep = (n + COT_KV_CHUNK - 1) / COT_KV_CHUNK;
    while (q->n_table > keep) drop_block(s, q->block[--q->n_table]);
    q->length = n;
}

int32_t cot_sequence_length(const cot_session *s, int32_t i) {
    return i >= 0 && i < s->opt.n_sequences ? s->seq[i].length : 0;
}

const int32_t *cot_sequence_tokens(const cot_session *s, int32_t i, size_t *n) {
    *n = (size_t)cot_sequence_length(s, i);
    return *n ? s->seq[i].tokens : NULL;
}

cot_status cot_sequence_cut(cot_session *s, int32_t i, int32_t n, cot_error *err) {
    COT_TRY(check_seq(s, i, err));
    if (n < 0 || n > s->seq[i].length)
        return cot__fail(err, COT_ARGUMENT, NULL, "length", "%d is outside 0…%d", n, s->seq[i].length);
    cut(s, &s->seq[i], n);
    return COT_OK;
}

cot_status cot_sequence_copy(cot_session *s, int32_t from, int32_t to, cot_error *err) {
    COT_TRY(check_seq(s, from, err));
    COT_TRY(check_seq(s, to, err));
    if (from == to) return COT_OK;
    cot__sequence *a = &s->seq[from], *b = &s->seq[to];
    for (int i = 0; i < a->n_table; i++) s->blocks[a->block[i]].refs++;
    cut(s, b, 0);
    memcpy(b->block, a->block, (size_t)a->n_table * sizeof *a->block);
    memcpy(b->table, a->table, (size_t)a->n_table * sizeof *a->table);
    memcpy(b->tokens, a->tokens, (size_t)a->length * sizeof *a->tokens);
    b->n_table = a->n_table;
    b->length = a->length;
    return COT_OK;
}

/* ---- forward ---- */

typedef struct sink {
    cot_logits_fn *fn;
    void *user;
    size_t first; /* row of the call that is row 0 of the pass */
} sink;

static bool pass_logits(void *user, size_t row, const float *logits, int64_t n_vocab) {
    sink *k = user;
    return k->fn(k->user, k->first + row, logits, n_vocab);
}

static cot_status check_rows(const cot_session *s, const cot_row *rows, size_t n, int32_t *added,
                             cot_error *err) {
    for (size_t i = 0; i < n; i++) {
        COT_TRY(check_seq(s, rows[i].sequence, err));
        if (rows[i].token < 0 || rows[i].token >= s->model->n_vocab)
            return cot__fail(err, COT_ARGUMENT, NULL, "token", "%d is outside 0…%lld", rows[i].token,
                             (long long)s->model->n_vocab - 1);
        if (rows[i].role != COT_ROLE_PROMPT && rows[i].role != COT_ROLE_GENERATED)
            return cot__fail(err, COT_ARGUMENT, NULL, "role", "%d is no cot_role", (int)rows[i].role);
        if (s->seq[rows[i].sequence].length + ++added[rows[i].sequence] > s->opt.n_ctx)
            return cot__fail(err, COT_CONTEXT_FULL, NULL, "ctx",
                             "the context of %d tokens is full; start with a larger --ctx", s->opt.n_ctx);
    }
    return COT_OK;
}

static cot_status run_pass(cot_session *s, const cot_row *rows, size_t n, sink *k, cot_error *err) {
    for (size_t i = 0; i < n; i++) {
        cot__sequence *q = &s->seq[rows[i].sequence];
        s->row_token[i] = q->tokens[q->length] = rows[i].token;
        s->row_pos[i] = q->length++;
        s->row_seq[i] = rows[i].sequence;
        s->row_history[i] = q->tokens;
        s->row_blocks[i] = q->table;
        s->row_wants[i] = rows[i].wants_logits && k->fn;
        s->row_generated[i] = rows[i].role == COT_ROLE_GENERATED;
    }
    cot__ops ops = {.k = s->kernels,
                    .pool = s->pool,
                    .arena = s->arena,
                    .act_f32 = s->opt.activation == COT_ACTIVATION_F32};
    cot__pass pass = {.n = (int64_t)n,
                      .tokens = s->row_token,
                      .pos = s->row_pos,
                      .sequence = s->row_seq,
                      .history = s->row_history,
                      .blocks = s->row_blocks,
                      .wants = s->row_wants,
                      .generated = s->row_generated,
                      .streams = s->streams,
                      .logits = pass_logits,
                      .user = k,
                      .moe = {.k_override = s->opt.experts_used,
                              .observe = s->observe,
                              .observe_user = s->observe_user,
                              .sequence = s->row_seq,
                              .position = s->row_pos,
                              .token = s->row_token}};
    for (int i = 0; i < s->model->n_ropes; i++)
        pass.long_rope |= s->model->rope[i].freq_long && s->opt.n_ctx > s->model->rope[i].original_ctx;
    return cot__model_forward(s->model, &ops, &pass, err);
}

cot_status cot_forward(cot_session *s, const cot_row *rows, size_t n, cot_logits_fn *fn, void *user,
                       cot_error *err) {
    size_t n_seq = (size_t)s->opt.n_sequences;
    cot__error_clear(err);
    if (!n) return COT_OK;
    int32_t small[64] = {0}, *added = n_seq * 2 <= 64 ? small : cot__alloc_zero(n_seq * 2, sizeof *added),
            *before = added + n_seq;
    if (!added) return cot__fail_memory(err, n_seq * 2 * sizeof *added);
    cot_status st = check_rows(s, rows, n, added, err);
    for (size_t i = 0; i < n_seq; i++) before[i] = s->seq[i].length;
    for (size_t i = 0; i < n_seq && st == COT_OK; i++)
        if (added[i]) st = cot__sequence_reserve(s, &s->seq[i], added[i], err);
    sink k = {fn, user, 0};
    for (size_t at = 0; at < n && st == COT_OK; at += (size_t)s->opt.chunk) {
        k.first = at;
        st = run_pass(s, rows + at, n - at < (size_t)s->opt.chunk ? n - at : (size_t)s->opt.chunk, &k, err);
    }
    if (st == COT_OK) st = cot__model_check(s->model, err);
    if (st != COT_OK)
        for (size_t i = 0; i < n_seq; i++) cut(s, &s->seq[i], before[i]);
    if (added != small) cot__free(added);
    return st;
}
