/* Owns: finding added tokens in text, with the rules of the tokenizers library (whole words, swallowed
 * whitespace). Where a special token may not be read, its text is passed over as one piece, and stays text.
 */
#include <string.h>

#include "base/error.h"
#include "text/tok_internal.h"

static cot_status push(cot__tok_spans *out, size_t start, size_t end, int32_t id, cot_error *err) {
    if (out->n == out->cap) {
        size_t cap = out->cap ? out->cap * 2 : 16;
        cot__tok_span *at = cot__realloc_array(out->at, cap, sizeof *at);
        if (!at) return cot__fail_memory(err, cap * sizeof *at);
        out->at = at;
        out->cap = cap;
    }
    out->at[out->n++] = (cot__tok_span){(uint32_t)start, (uint32_t)end, id};
    return COT_OK;
}

/* The character that ends just before `at`; 0 when there is none. */
static uint32_t char_before(const char *text, size_t at, size_t *len) {
    size_t i = at;
    while (i > 0 && at - i < 4) {
        i--;
        if (((unsigned char)text[i] & 0xc0) != 0x80) break;
    }
    uint32_t c = i < at ? cot__utf8_get(text + i, at - i, len) : 0;
    if (i == at || *len != at - i) *len = 1;
    return c;
}

static bool is_whole_word(const char *text, size_t n, size_t start, size_t end) {
    size_t len;
    if (start > 0 && cot__char_is_word(char_before(text, start, &len))) return false;
    return end == n || !cot__char_is_word(cot__utf8_get(text + end, n - end, &len));
}

/* Longest match that begins at `at`; its value is the index of the added token, −1: none. */
static int32_t longest(const cot__tok_trie *trie, const char *text, size_t n, size_t at, size_t *end) {
    int32_t best = -1;
    uint32_t node = 0;
    for (size_t i = at; i < n; i++) {
        node = cot__tok_trie_step(trie, node, (unsigned char)text[i]);
        if (node == UINT32_MAX) break;
        int32_t v = cot__tok_trie_value(trie, node);
        if (v >= 0) {
            best = v;
            *end = i + 1;
        }
    }
    return best;
}

cot_status cot__tok_added_find(const cot__tokenizer *t, const cot__tok_trie *trie, const char *text, size_t n,
                               bool parse_special, cot__tok_spans *out, cot_error *err) {
    size_t done = 0, len;
    out->n = 0;
    for (size_t at = 0; trie && at < n;) {
        size_t end = at;
        int32_t k = longest(trie, text, n, at, &end);
        if (k < 0) {
            at++;
            continue;
        }
        const cot__tok_added *a = &t->added[k];
        size_t start = at;
        at = end;
        if (a->special && !parse_special) continue;
        if (a->single_word && !is_whole_word(text, n, start, end)) continue;
        if (a->lstrip)
            while (start > done && cot__char_is_space(char_before(text, start, &len))) start -= len;
        if (a->rstrip)
            while (end < n && cot__char_is_space(cot__utf8_get(text + end, n - end, &len))) end += len;
        if (start > done) COT_TRY(push(out, done, start, -1, err));
        COT_TRY(push(out, start, end, a->id, err));
        /* This may step back: a token inside the spaces that the one before swallowed is found nevertheless,
         * and what follows it is text again. */
        done = end;
    }
    return done < n ? push(out, done, n, -1, err) : COT_OK;
}
