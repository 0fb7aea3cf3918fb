/* Owns: putting a tokenizer together: tokens, their bytes, the maps, merges. Both readers (GGUF,
 * tokenizer.json) build through this file. Refuses: counts and lengths beyond the limits of tok_internal.h.
 */
#include <string.h>

#include "base/error.h"
#include "text/tok_internal.h"

#define BLOCK  (64u << 10)
#define GROWTH 16 /* bytes that a decoder may make of one byte of a token */

/* ---- GPT-2's printable bytes ---- */

/* Printable Latin-1 stands for itself; the other 68 bytes get U+0100 and up, in order. */
static bool is_printable(unsigned b) { return (b >= 33 && b <= 126) || (b >= 161 && b != 173); }

uint32_t cot__tok_byte_char(unsigned char byte) {
    if (is_printable(byte)) return byte;
    if (byte < 33) return 256u + byte;
    if (byte < 161) return 256u + 33 + (byte - 127u);
    return 256 + 67; /* 173 */
}

int cot__tok_char_byte(uint32_t c) {
    if (c < 256) return is_printable(c) ? (int)c : -1;
    c -= 256;
    if (c < 33) return (int)c;
    if (c < 67) return (int)(c - 33 + 127);
    return c == 67 ? 173 : -1;
}

bool cot__tok_unmap(const char *s, size_t n, cot__buf *out, bool *memory) {
    *memory = true;
    for (size_t i = 0, len; i < n; i += len) {
        int b = cot__tok_char_byte(cot__utf8_get(s + i, n - i, &len));
        if (b < 0) return false;
        if (!cot__buf_put(out, &(char){(char)b}, 1)) return *memory = false;
    }
    return true;
}

/* ---- tokens ---- */

cot_status cot__tok_new(cot__tokenizer **out, const char *file, size_t n_tokens, cot_error *err) {
    if (!n_tokens || n_tokens > COT__TOK_COUNT_MAX)
        return cot__fail(err, n_tokens ? COT_LIMIT : COT_FORMAT, file, "tokens", "%zu tokens, must be 1…%u",
                         n_tokens, COT__TOK_COUNT_MAX);
    cot__tokenizer *t = cot__alloc_zero(1, sizeof *t);
    if (t) t->file = cot__strdup(file ? file : "tokenizer");
    if (t) t->entry = cot__alloc_zero(n_tokens, sizeof *t->entry);
    if (!t || !t->file || !t->entry) {
        cot__tokenizer_free(&t);
        return cot__fail_memory(err, n_tokens * sizeof *t->entry);
    }
    t->n_tokens = n_tokens;
    cot_status s = cot__arena_create(&t->mem, BLOCK * 4, 0, err);
    if (s == COT_OK) s = cot__map_create(&t->by_model, n_tokens + 1, err);
    if (s == COT_OK) s = cot__map_create(&t->by_text, 64, err);
    if (s != COT_OK) {
        cot__tokenizer_free(&t);
        return s;
    }
    for (size_t i = 0; i < 256; i++) t->byte_id[i] = -1;
    t->unk = t->bos = t->eos = t->unk_role = t->pad = t->eot = t->eom = -1;
    *out = t;
    return COT_OK;
}

char *cot__tok_copy(cot__tokenizer *t, const char *s, size_t n, cot_error *err) {
    if (t->block_left < n + 1) {
        size_t want = n + 1 > BLOCK ? n + 1 : BLOCK;
        char *block = cot__arena_alloc(t->mem, want);
        if (!block) {
            cot__fail_memory(err, want);
            return NULL;
        }
        t->block = block;
        t->block_left = want;
    }
    char *p = t->block;
    if (n) memcpy(p, s, n);
    p[n] = 0;
    t->block += n + 1;
    t->block_left -= n + 1;
    return p;
}

cot_status cot__tok_set(cot__tokenizer *t, size_t id, const char *text, size_t len, int type, double score,
                        bool in_model, cot_error *err) {
    if (id >= t->n_tokens)
        return cot__fail(err, COT_FORMAT, t->file, "tokens", "id %zu is beyond the %zu tokens", id,
                         t->n_tokens);
    if (len > COT__TOK_LEN_MAX)
        return cot__fail(err, COT_LIMIT, t->file, "tokens", "token %zu has %zu bytes, at most %u are read",
                         id, len, COT__TOK_LEN_MAX);
    cot__tok_entry *e = &t->entry[id];
    if (!e->text || e->text_len != len || memcmp(e->text, text, len) != 0) {
        char *copy = cot__tok_copy(t, text, len, err);
        if (!copy) return COT_NO_MEMORY;
        e->text = copy;
        e->text_len = (uint32_t)len;
    }
    e->type = (uint8_t)type;
    e->score = score;
    e->in_model = in_model && len > 0;
    return COT_OK;
}

/* "<0x41>" → 0x41, −1: something else. */
static int fallback_byte(const char *s, size_t n) {
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    int v = 0;
    for (int i = 3; i < 5; i++) {
        char c = s[i];
        if (c >= '0' && c <= '9') v = v * 16 + c - '0';
        else if (c >= 'A' && c <= 'F') v = v * 16 + c - 'A' + 10;
        else if (c >= 'a' && c <= 'f') v = v * 16 + c - 'a' + 10;
        else return -1;
    }
    return v;
}

static cot_status replace(const cot__tokenizer *t, cot__buf *b, const cot__vocab_str *from,
                          const cot__vocab_str *to, cot_error *err) {
    cot__buf out = {.max = b->max};
    size_t done = 0;
    if (!from->len || !b->len || !memmem(b->data, b->len, from->s, from->len)) return COT_OK;
    bool ok = true, room = true;
    for (const char *hit; ok && (hit = memmem(b->data + done, b->len - done, from->s, from->len));) {
        size_t before = (size_t)(hit - b->data) - done;
        ok = room = before + to->len + b->len <= out.max - out.len;
        ok = ok && cot__buf_put(&out, b->data + done, before) && cot__buf_put(&out, to->s, to->len);
        done = (size_t)(hit - b->data) + from->len;
    }
    ok = ok && cot__buf_put(&out, b->data + done, b->len - done);
    cot__buf_free(b);
    *b = out;
    if (!room)
        return cot__fail(err, COT_LIMIT, t->file, "decoder", "makes a token more than %d times as long",
                         GROWTH);
    return ok ? COT_OK : cot__fail_memory(err, out.len);
}

/* The bytes of a token of the model. *as_text false: they differ from the spelling and stand in `b`. */
static cot_status piece_of(cot__tokenizer *t, cot__tok_entry *e, cot__buf *b, bool *as_text, cot_error *err) {
    bool memory;
    int byte = t->byte_fallback && (e->type == COT__TOK_BYTE || e->in_model)
                   ? fallback_byte(e->text, e->text_len)
                   : -1; /* special or not */
    *as_text = true;
    b->len = 0;
    if (byte >= 0) {
        *as_text = false;
        return cot__buf_put(b, &(char){(char)byte}, 1) ? COT_OK : cot__fail_memory(err, 1);
    }
    if (!e->in_model) return COT_OK;
    if (t->byte_level) {
        if (cot__tok_unmap(e->text, e->text_len, b, &memory)) *as_text = false;
        else if (!memory) return cot__fail_memory(err, b->len);
        else e->in_model = false; /* holds a character that stands for no byte: no text leads to it */
        return COT_OK;
    }
    if (!t->n_decode) return COT_OK;
    b->max = GROWTH * (size_t)e->text_len + 64;
    if (!cot__buf_put(b, e->text, e->text_len)) return cot__fail_memory(err, e->text_len);
    for (size_t i = 0; i < t->n_decode; i++)
        COT_TRY(replace(t, b, &t->decode_from[i], &t->decode_to[i], err));
    *as_text = b->len == e->text_len && memcmp(b->data, e->text, b->len) == 0;
    return COT_OK;
}

static cot_status index_one(cot__tokenizer *t, size_t id, cot__buf *b, cot_error *err) {
    cot__tok_entry *e = &t->entry[id];
    bool as_text;
    if (!e->text) return COT_OK;
    COT_TRY(piece_of(t, e, b, &as_text, err));
    e->piece = e->text;
    e->piece_len = e->text_len;
    if (!as_text) {
        if (!(e->piece = cot__tok_copy(t, b->data, b->len, err))) return COT_NO_MEMORY;
        e->piece_len = (uint32_t)b->len;
    }
    if (t->byte_fallback && !as_text && (e->type == COT__TOK_BYTE || e->in_model) && e->piece_len == 1)
        t->byte_id[(unsigned char)e->piece[0]] = (int32_t)id;
    if (!e->in_model) return cot__map_put(t->by_text, e->text, e->text_len, id, NULL, err);
    const char *key = t->byte_level ? e->piece : e->text;
    size_t len = t->byte_level ? e->piece_len : e->text_len;
    bool existed;
    COT_TRY(cot__map_put(t->by_model, key, len, id, &existed, err));
    if (existed) return COT_OK;
    if (len > t->longest) t->longest = len;
    if (t->byte_level && len == 1) t->byte_id[(unsigned char)key[0]] = (int32_t)id;
    if (t->model == COT__MODEL_SCORES && e->type == COT__TOK_UNUSED) t->has_unused = true;
    return COT_OK;
}

cot_status cot__tok_index(cot__tokenizer *t, cot_error *err) {
    cot__buf b = {.max = 1u << 24};
    cot_status s = COT_OK;
    for (size_t id = 0; id < t->n_tokens && s == COT_OK; id++) s = index_one(t, id, &b, err);
    cot__buf_free(&b);
    return s;
}

/* ---- merges ---- */

cot_status cot__tok_merges_begin(cot__tokenizer *t, size_t n, cot_error *err) {
    if (n > COT__TOK_COUNT_MAX)
        return cot__fail(err, COT_LIMIT, t->file, "merges", "%zu merges, at most %u are read", n,
                         COT__TOK_COUNT_MAX);
    size_t cap = 16;
    while (cap < n * 2) cap *= 2;
    t->pairs = cot__alloc_array(cap, sizeof *t->pairs);
    if (t->from_json) {
        t->merge_left = cot__alloc_array(n, sizeof *t->merge_left);
        t->merge_right = cot__alloc_array(n, sizeof *t->merge_right);
    }
    if (!t->pairs || (t->from_json && (!t->merge_left || !t->merge_right)))
        return cot__fail_memory(err, cap * sizeof *t->pairs);
    for (size_t i = 0; i < cap; i++) t->pairs[i].key = UINT64_MAX;
    t->pair_mask = cap - 1;
    t->pair_seed = cot__random_u64((uintptr_t)t, 0, (uintptr_t)t->pairs, 0);
    return COT_OK;
}

static void pair_put(cot__tokenizer *t, int32_t left, int32_t right, int32_t id) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t h = (key ^ t->pair_seed) * 0x9e3779b97f4a7c15ull;
    size_t i = (h ^ h >> 32) & t->pair_mask;
    while (t->pairs[i].key != UINT64_MAX && t->pairs[i].key != key) i = (i + 1) & t->pair_mask;
    if (t->pairs[i].key == UINT64_MAX) t->pairs[i] = (cot__tok_pair){key, (uint32_t)t->n_pairs, id};
}

cot_status cot__tok_merge_add(cot__tokenizer *t, const char *left, size_t n_left, const char *right,
                              size_t n_right, bool *known, cot_error *err) {
    char few[256];
    cot__buf b = {.max = 4 * COT__TOK_LEN_MAX};
    uint64_t l, r, both;
    *known = false;
    if (n_left > COT__TOK_LEN_MAX || n_right > COT__TOK_LEN_MAX) return COT_OK;
    size_t cut = n_left, len = n_left + n_right;
    const char *key = few;
    bool memory = true, ok = true;
    if (t->byte_level) {
        ok = cot__tok_unmap(left, n_left, &b, &memory);
        cut = b.len;
        ok = ok && cot__tok_unmap(right, n_right, &b, &memory);
        key = b.data;
        len = b.len;
    } else if (len <= sizeof few) {
        memcpy(few, left, n_left);
        memcpy(few + n_left, right, n_right);
    } else {
        memory = cot__buf_put(&b, left, n_left) && cot__buf_put(&b, right, n_right);
        key = b.data;
    }
    if (ok && memory && key && cot__map_get(t->by_model, key, cut, &l) &&
        cot__map_get(t->by_model, key + cut, len - cut, &r) && cot__map_get(t->by_model, key, len, &both)) {
        *known = true;
        pair_put(t, (int32_t)l, (int32_t)r, (int32_t)both);
        if (t->from_json) {
            t->merge_left[t->n_merges] = (int32_t)l;
            t->merge_right[t->n_merges++] = (int32_t)r;
        }
    }
    t->n_pairs++;
    cot__buf_free(&b);
    return memory ? COT_OK : cot__fail_memory(err, len);
}

/* ---- added tokens, unigram, regular expressions ---- */

cot_status cot__tok_added_build(cot__tokenizer *t, cot_error *err) {
    for (size_t i = 0; i < t->n_added; i++) {
        const cot__tok_added *a = &t->added[i];
        cot__tok_trie **trie = a->normalized ? &t->added_norm : &t->added_raw;
        if (!a->text.len) continue;
        if (!*trie) COT_TRY(cot__tok_trie_create(trie, 64, err));
        COT_TRY(cot__tok_trie_put(*trie, a->text.s, a->text.len, (int32_t)i, err));
    }
    return COT_OK;
}

cot_status cot__tok_unigram_build(cot__tokenizer *t, cot_error *err) {
    size_t bytes = 0;
    bool any = false;
    for (size_t i = 0; i < t->n_tokens; i++) bytes += t->entry[i].in_model ? t->entry[i].text_len : 0;
    COT_TRY(cot__tok_trie_create(&t->trie, bytes / 3, err));
    for (size_t i = 0; i < t->n_tokens; i++) {
        const cot__tok_entry *e = &t->entry[i];
        uint64_t id;
        if (!e->in_model || e->type == COT__TOK_BYTE) continue;
        if (!(e->score > -1e30 && e->score < 1e30))
            return cot__fail(err, COT_FORMAT, t->file, "scores", "score of token %zu is not a finite number",
                             i);
        if (!any || e->score < t->min_score) t->min_score = e->score;
        any = true;
        /* Of tokens spelled alike the first counts. */
        if (e->type == COT__TOK_UNUSED || !cot__map_get(t->by_model, e->text, e->text_len, &id) || id != i)
            continue;
        COT_TRY(cot__tok_trie_put(t->trie, e->text, e->text_len, (int32_t)i, err));
    }
    return COT_OK;
}

cot_status cot__tok_compile(cot__tok_regex **out, const char *file, const char *field, const char *onig,
                            size_t n, cot_error *err) {
    cot__buf pcre = {.max = 1u << 20};
    cot_status s = cot__tok_onig_translate(&pcre, file, field, onig, n, err);
    if (s == COT_OK) s = cot__tok_regex_compile(out, file, field, pcre.data ? pcre.data : "", pcre.len, err);
    cot__buf_free(&pcre);
    return s;
}

void cot__tok_roles_guess(cot__tokenizer *t) {
    static const char *const turn_ends[] = {"<|eot_id|>", "<|im_end|>",   "<end_of_turn>",   "<|end|>",
                                            "<|eot|>",    "<|role_end|>", "<|end_of_turn|>", "<turn|>"};
    for (size_t i = 0; t->eot < 0 && i < sizeof turn_ends / sizeof *turn_ends; i++) {
        int32_t id = cot__tokenizer_find(t, turn_ends[i], strlen(turn_ends[i]));
        if (id >= 0 && (t->entry[id].type == COT__TOK_CONTROL || t->entry[id].type == COT__TOK_USER))
            t->eot = id;
    }
    if (t->eom < 0) {
        int32_t id = cot__tokenizer_find(t, "<|eom_id|>", 10);
        if (id >= 0 && t->entry[id].type == COT__TOK_CONTROL) t->eom = id;
    }
}
