/* Owns: a sequence's state in a file: header, tokens, the KV blocks' used positions. Bound to model shape and
 * KV type. */
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "run/session.h"

typedef struct state_header {
    char magic[8];
    uint32_t version, kv_type;
    uint64_t block_bytes, model_hash;
    int64_t length;
    uint64_t checksum; /* of the file with this field 0 */
} state_header;

/* FNV-1a over words, then over the bytes that are left. */
static uint64_t checksum(uint64_t h, const void *data, size_t n) {
    const unsigned char *p = data;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        h = (h ^ w) * 1099511628211ull;
        h ^= h >> 29;
    }
    for (; n; n--) h = (h ^ *p++) * 1099511628211ull;
    return h;
}
static uint64_t checksum_of(const state_header *h, const int32_t *tokens, const cot__sequence *q,
                            size_t block) {
    state_header plain = *h;
    plain.checksum = 0;
    uint64_t sum = checksum(1469598103934665603ull, &plain, sizeof plain);
    sum = checksum(sum, tokens, (size_t)h->length * sizeof *tokens);
    for (int i = 0; i < q->n_table; i++) sum = checksum(sum, q->table[i], block);
    return sum;
}

/* Tells another model of the same shape apart: names, sizes and places of all tensors. */
static uint64_t model_hash(const cot_model *m) {
    uint64_t h = 1469598103934665603ull; /* FNV-1a */
    const cot__tensor_set *set = m->source->tensors;
    for (size_t i = 0; i < set->n_tensors; i++) {
        const unsigned char *p = (const unsigned char *)set->tensors[i].name;
        for (; *p; p++) h = (h ^ *p) * 1099511628211ull;
        h = (h ^ set->tensors[i].bytes) * 1099511628211ull;
        h = (h ^ (uint64_t)set->tensors[i].raw_type) * 1099511628211ull;
    }
    return h;
}

cot_status cot_sequence_save(cot_session *s, int32_t sequence, const char *path, cot_error *err) {
    cot__error_clear(err);
    if (sequence < 0 || sequence >= s->opt.n_sequences)
        return cot__fail(err, COT_ARGUMENT, NULL, "sequence", "%d does not exist", sequence);
    const cot__sequence *q = &s->seq[sequence];
    state_header h = {.magic = "COTSTATE",
                      .version = 2,
                      .kv_type = (uint32_t)s->opt.kv_type,
                      .block_bytes = s->block_bytes,
                      .model_hash = model_hash(s->model),
                      .length = q->length};
    cot__writer *w = NULL;
    h.checksum = checksum_of(&h, q->tokens, q, s->block_bytes);
    COT_TRY(cot__writer_open(&w, path, err));
    cot_status st = cot__writer_put(w, &h, sizeof h, err);
    if (st == COT_OK) st = cot__writer_put(w, q->tokens, (size_t)q->length * sizeof *q->tokens, err);
    for (int i = 0; i < q->n_table && st == COT_OK; i++)
        st = cot__writer_put(w, q->table[i], s->block_bytes, err);
    if (st == COT_OK) return cot__writer_commit(&w, err);
    cot__writer_abort(&w);
    return st;
}

static cot_status check_header(const cot_session *s, const char *path, const state_header *h, uint64_t size,
                               cot_error *err) {
    if (memcmp(h->magic, "COTSTATE", 8) != 0 || h->version != 2)
        return cot__fail(err, COT_FORMAT, path, "magic", "is not a saved state of this version");
    if (h->model_hash != model_hash(s->model))
        return cot__fail(err, COT_ARGUMENT, path, "model", "the state was saved with another model");
    if (h->kv_type != (uint32_t)s->opt.kv_type || h->block_bytes != s->block_bytes)
        return cot__fail(err, COT_ARGUMENT, path, "kv", "the state was saved with KV type %s",
                         cot_type_name((int)h->kv_type));
    if (h->length < 0 || h->length > s->opt.n_ctx)
        return cot__fail(err, COT_CONTEXT_FULL, path, "length", "%lld tokens do not fit a context of %d",
                         (long long)h->length, s->opt.n_ctx);
    uint64_t blocks = ((uint64_t)h->length + COT_KV_CHUNK - 1) / COT_KV_CHUNK;
    if (size != sizeof *h + (uint64_t)h->length * 4 + blocks * s->block_bytes)
        return cot__fail(err, COT_FORMAT, path, "size",
                         "is %llu bytes, which does not fit its header: truncated?",
                         (unsigned long long)size);
    return COT_OK;
}

cot_status cot_sequence_load(cot_session *s, int32_t sequence, const char *path, cot_error *err) {
    cot__error_clear(err);
    COT_TRY(cot_sequence_cut(s, sequence, 0, err));
    cot__file *f = NULL;
    COT_TRY(cot__file_open(&f, path, err));
    state_header h;
    cot__sequence *q = &s->seq[sequence];
    int32_t *tokens = NULL;
    cot_status st = cot__file_read(f, 0, &h, sizeof h, err);
    if (st == COT_OK) st = check_header(s, path, &h, cot__file_size(f), err);
    if (st == COT_OK && !(tokens = cot__alloc_array((size_t)h.length, sizeof *tokens)))
        st = cot__fail_memory(err, (size_t)h.length * 4);
    if (st == COT_OK) st = cot__file_read(f, sizeof h, tokens, (size_t)h.length * sizeof *tokens, err);
    for (int64_t i = 0; st == COT_OK && i < h.length; i++)
        if (tokens[i] < 0 || tokens[i] >= s->model->n_vocab)
            st = cot__fail(err, COT_FORMAT, path, "tokens", "token %lld is %d", (long long)i, tokens[i]);
    if (st == COT_OK) st = cot__sequence_reserve(s, q, (int32_t)h.length, err);
    uint64_t at = sizeof h + (st == COT_OK ? (uint64_t)h.length * 4 : 0);
    for (int i = 0; st == COT_OK && i < q->n_table; i++, at += s->block_bytes)
        st = cot__file_read(f, at, q->table[i], s->block_bytes, err);
    if (st == COT_OK && checksum_of(&h, tokens, q, s->block_bytes) != h.checksum)
        st = cot__fail(err, COT_FORMAT, path, "checksum", "does not fit: the file is damaged");
    if (st == COT_OK) {
        memcpy(q->tokens, tokens, (size_t)h.length * sizeof *tokens);
        q->length = (int32_t)h.length;
    } else cot_sequence_cut(s, sequence, 0, NULL);
    cot__free(tokens);
    cot__file_close(&f);
    return st;
}
