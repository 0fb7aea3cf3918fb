/* Owns: encoding and decoding, and what callers may ask about a tokenizer. The steps themselves are in
 * tok_*.c. */
#include "text/tokenizer.h"

#include <string.h>

#include "base/error.h"
#include "text/tok_internal.h"

void cot__tokenizer_free(cot__tokenizer **tokenizer) {
    if (!tokenizer || !*tokenizer) return;
    cot__tokenizer *t = *tokenizer;
    for (size_t i = 0; i < t->n_norm; i++) cot__tok_regex_free(&t->norm[i].regex);
    for (size_t i = 0; i < t->n_split; i++) cot__tok_regex_free(&t->split[i].regex);
    cot__map_free(&t->by_model);
    cot__map_free(&t->by_text);
    cot__tok_trie_free(&t->trie);
    cot__tok_trie_free(&t->added_raw);
    cot__tok_trie_free(&t->added_norm);
    cot__tok_charsmap_clear(&t->charsmap);
    cot__arena_free(&t->mem);
    cot__free(t->entry);
    cot__free(t->pairs);
    cot__free(t->added);
    cot__free(t->prefix);
    cot__free(t->suffix);
    cot__free(t->merge_left);
    cot__free(t->merge_right);
    cot__free(t->export_tokens);
    cot__free(t->export_merges);
    cot__free(t->export_types);
    cot__free(t->export_scores);
    cot__free(t->export_blob);
    cot__free(t->file);
    cot__free(t);
    *tokenizer = NULL;
}

/* ---- encoding ---- */

cot_status cot__tok_emit(cot__tok_run *run, int32_t id) {
    if (run->n_ids == run->cap_ids) {
        size_t cap = run->cap_ids ? run->cap_ids * 2 : 64;
        int32_t *ids = cot__realloc_array(run->ids, cap, sizeof *ids);
        if (!ids) return cot__fail_memory(run->err, cap * sizeof *ids);
        run->ids = ids;
        run->cap_ids = cap;
    }
    run->ids[run->n_ids++] = id;
    return COT_OK;
}

void *cot__tok_work(cot__tok_run *run, size_t n) {
    if (n <= run->work_bytes) return run->work;
    cot__free(run->work);
    run->work_bytes = 0;
    if (!(run->work = cot__alloc(n))) {
        cot__fail_memory(run->err, n);
        return NULL;
    }
    run->work_bytes = n;
    return run->work;
}

cot_status cot__tok_model_encode(cot__tok_run *run, const char *text, size_t n) {
    const cot__tokenizer *t = run->t;
    if (t->model == COT__MODEL_UNIGRAM) return cot__tok_unigram_encode(run, text, n);
    bool memory = true;
    if (t->byte_level && t->n_split && t->split[t->n_split - 1].kind != COT__SPLIT_BYTELEVEL) {
        /* Steps behind the byte mapping have cut the mapped form. */
        for (size_t i = 0; i < t->n_split; i++) {
            if (!t->split[i].map) continue;
            run->unmapped.len = 0;
            run->unmapped.max = SIZE_MAX / 2;
            if (!cot__tok_unmap(text, n, &run->unmapped, &memory) && !memory)
                return cot__fail_memory(run->err, run->unmapped.len);
            return cot__tok_bpe_encode(run, run->unmapped.data, run->unmapped.len);
        }
    }
    return cot__tok_bpe_encode(run, text, n);
}

/* Valid UTF-8 between added tokens. */
static cot_status encode_text(cot__tok_run *run, const char *text, size_t n, bool parse_special) {
    const cot__tokenizer *t = run->t;
    COT_TRY(cot__tok_normalize(run, &text, &n));
    if (!t->added_norm) return cot__tok_split_text(run, text, n);
    COT_TRY(cot__tok_added_find(t, t->added_norm, text, n, parse_special, &run->inner, run->err));
    for (size_t i = 0; i < run->inner.n; i++) {
        cot__tok_span s = run->inner.at[i];
        if (s.start > 0) run->first = run->glued = false;
        if (s.id >= 0) COT_TRY(cot__tok_emit(run, s.id));
        else COT_TRY(cot__tok_split_text(run, text + s.start, s.end - s.start));
    }
    return COT_OK;
}

/* Whatever stands between added tokens: text, and bytes that are none. */
static cot_status encode_section(cot__tok_run *run, const char *text, size_t n, bool first,
                                 bool parse_special) {
    for (size_t at = 0; at < n;) {
        size_t good = cot__utf8_valid(text + at, n - at);
        run->first = first && at == 0;
        run->glued = at > 0;
        if (good) COT_TRY(encode_text(run, text + at, good, parse_special));
        at += good;
        size_t bad = at < n ? cot__utf8_invalid(text + at, n - at) : 0;
        if (bad) COT_TRY(cot__tok_bytes_encode(run, text + at, bad));
        at += bad;
    }
    return COT_OK;
}

static cot_status encode(cot__tok_run *run, const char *text, size_t n, bool add_special,
                         bool parse_special) {
    const cot__tokenizer *t = run->t;
    for (size_t i = 0; add_special && i < t->n_prefix; i++) COT_TRY(cot__tok_emit(run, t->prefix[i]));
    COT_TRY(cot__tok_added_find(t, t->added_raw, text, n, parse_special, &run->spans, run->err));
    for (size_t i = 0; i < run->spans.n; i++) {
        cot__tok_span s = run->spans.at[i];
        if (s.id >= 0) COT_TRY(cot__tok_emit(run, s.id));
        else COT_TRY(encode_section(run, text + s.start, s.end - s.start, s.start == 0, parse_special));
    }
    for (size_t i = 0; add_special && i < t->n_suffix; i++) COT_TRY(cot__tok_emit(run, t->suffix[i]));
    return COT_OK;
}

cot_status cot__tokenizer_encode(const cot__tokenizer *t, const char *text, size_t n, bool add_special,
                                 bool parse_special, int32_t **ids, size_t *count, cot_error *err) {
    if (n > COT__TOK_TEXT_MAX)
        return cot__fail(err, COT_LIMIT, t->file, "text", "%zu bytes, at most %u are encoded at once", n,
                         COT__TOK_TEXT_MAX);
    cot__tok_run run = {.t = t, .err = err};
    cot__tok_matcher_budget(&run.match, n);
    if (n >= 4096) cot__tok_cache_start(&run);
    cot_status s = encode(&run, text, n, add_special, parse_special);
    if (s == COT_OK && !run.ids && !(run.ids = cot__alloc(sizeof *run.ids)))
        s = cot__fail_memory(err, sizeof *run.ids);
    cot__tok_matcher_clear(&run.match);
    for (size_t i = 0; i < COT__TOK_STEPS; i++) cot__buf_free(&run.step[i]);
    cot__buf_free(&run.norm[0]);
    cot__buf_free(&run.norm[1]);
    cot__buf_free(&run.unmapped);
    cot__free(run.spans.at);
    cot__free(run.inner.at);
    cot__free(run.work);
    cot__free(run.heap);
    cot__free(run.unused_cut);
    cot__free(run.cache);
    if (s != COT_OK) {
        cot__free(run.ids);
        return s;
    }
    *ids = run.ids;
    *count = run.n_ids;
    return COT_OK;
}

/* ---- decoding ---- */

static bool is_special(const cot__tok_entry *e) {
    return e->type == COT__TOK_CONTROL || e->type == COT__TOK_UNKNOWN;
}

const char *cot__tokenizer_piece(const cot__tokenizer *t, int32_t id, bool special, size_t *len) {
    *len = 0;
    if (id < 0 || (size_t)id >= t->n_tokens || !t->entry[id].text) return "";
    const cot__tok_entry *e = &t->entry[id];
    if (is_special(e) && !special) return "";
    *len = e->piece_len;
    return e->piece;
}

cot_status cot__tokenizer_decode(const cot__tokenizer *t, const int32_t *ids, size_t n, bool special,
                                 char **text, size_t *len, cot_error *err) {
    cot__buf out = {.max = SIZE_MAX / 2};
    size_t drop = t->strip_start, one = strlen(t->strip_char);
    bool ok = cot__buf_put(&out, "", 0);
    for (size_t i = 0; ok && i < n; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= t->n_tokens) {
            cot__buf_free(&out);
            return cot__fail(err, COT_ARGUMENT, t->file, "tokens",
                             "%d is not a token id, they go from 0 to %zu", ids[i], t->n_tokens - 1);
        }
        const cot__tok_entry *e = &t->entry[ids[i]];
        size_t k;
        const char *p = cot__tokenizer_piece(t, ids[i], special, &k);
        if (is_special(e) || (e->type == COT__TOK_USER && !e->in_model)) {
            if (k) drop = 0;
            if (t->strip_after_special) drop = t->strip_start;
        } else {
            while (drop && k >= one && one && memcmp(p, t->strip_char, one) == 0) {
                p += one;
                k -= one;
                drop--;
            }
            if (k) drop = 0;
        }
        ok = cot__buf_put(&out, p, k);
    }
    if (!ok) {
        cot__buf_free(&out);
        return cot__fail_memory(err, out.len);
    }
    *text = out.data;
    *len = out.len;
    return COT_OK;
}

/* ---- questions ---- */

size_t cot__tokenizer_size(const cot__tokenizer *t) { return t->n_tokens; }

int32_t cot__tokenizer_special(const cot__tokenizer *t, const char *role) {
    const struct {
        const char *name;
        int32_t id;
    } roles[] = {{"bos", t->bos}, {"eos", t->eos}, {"unk", t->unk_role},
                 {"pad", t->pad}, {"eot", t->eot}, {"eom", t->eom}};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(role, roles[i].name) == 0) return roles[i].id;
    return -1;
}

bool cot__tokenizer_adds_bos(const cot__tokenizer *t) {
    return t->bos >= 0 && t->n_prefix && t->prefix[0] == t->bos;
}
bool cot__tokenizer_adds_eos(const cot__tokenizer *t) {
    return t->eos >= 0 && t->n_suffix && t->suffix[t->n_suffix - 1] == t->eos;
}

int32_t cot__tokenizer_find(const cot__tokenizer *t, const char *text, size_t len) {
    uint64_t id;
    if (cot__map_get(t->by_text, text, len, &id)) return (int32_t)id;
    if (!t->byte_level) return cot__map_get(t->by_model, text, len, &id) ? (int32_t)id : -1;
    cot__buf b = {.max = COT__TOK_LEN_MAX};
    bool memory, found = len && len <= COT__TOK_LEN_MAX && cot__tok_unmap(text, len, &b, &memory) &&
                         cot__map_get(t->by_model, b.data, b.len, &id);
    cot__buf_free(&b);
    return found ? (int32_t)id : -1;
}

bool cot__tokenizer_is_control(const cot__tokenizer *t, int32_t id) {
    return id >= 0 && (size_t)id < t->n_tokens && is_special(&t->entry[id]);
}
