/* Owns: the normalisation steps in front of the pre-tokenizers: Unicode forms over utf8proc, replacing,
 * cutting and putting in front. Text that no step changes is passed on without a copy. */
#include <string.h>
#include <utf8proc.h>

#include "base/error.h"
#include "text/tok_internal.h"

/* A step that replaces a little by much makes of a short text a huge one; no model's steps do. */
#define GROWTH 64

cot_status cot__tok_norm_put(cot__buf *out, const char *s, size_t n, cot_error *err) {
    if (cot__buf_put(out, s, n)) return COT_OK;
    if (!out->full) return cot__fail_memory(err, out->len + n);
    return cot__fail(err, COT_LIMIT, NULL, "normalizer", "makes text more than %d times as long", GROWTH);
}

static cot_status put(cot__buf *out, const char *s, size_t n, cot_error *err) {
    return cot__tok_norm_put(out, s, n, err);
}

/* ---- Unicode forms ---- */

/* Nothing below U+0300 changes under NFC, nothing below U+00C0 under NFD, nothing below U+00A0 under the K
 * forms. */
static bool form_is_identity(cot__tok_norm_kind kind, const char *s, size_t n) {
    unsigned char first = kind == COT__NORM_NFC ? 0xcc : kind == COT__NORM_NFD ? 0xc3 : 0xc2;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] >= first) return false;
    return true;
}

/* The tokenizers library, by which models were trained, normalises by Unicode 9: what came later has neither
 * decomposition nor combining class there. These ranges hold every later character that has one (the rest of
 * what they hold came later, too). */
static bool is_newer(int32_t c) {
    static const struct {
        int32_t first, last;
    } ranges[] = {
        {0x7fd, 0x7fd},     {0x897, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
        {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0xece, 0xece},     {0x1715, 0x1715},   {0x1abf, 0x1aea},
        {0x1df6, 0x1dfa},   {0x32ff, 0x32ff},   {0xa7f1, 0xa7f4},   {0xa82c, 0xa82c},   {0xab69, 0xab69},
        {0x105c9, 0x105e4}, {0x10781, 0x107ba}, {0x10d24, 0x10d6d}, {0x10eab, 0x10f85}, {0x11070, 0x11070},
        {0x1133b, 0x1133b}, {0x11382, 0x113e2}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11a99},
        {0x11d42, 0x11f42}, {0x16121, 0x1612f}, {0x16d63, 0x16d6a}, {0x16ff0, 0x16ff1}, {0x1ccd6, 0x1ccf9},
        {0x1e030, 0x1e5ef}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9}};
    size_t lo = 0, hi = sizeof ranges / sizeof *ranges;
    if (c < ranges[0].first) return false;
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (ranges[mid].first <= c) lo = mid;
        else hi = mid;
    }
    return c <= ranges[lo].last;
}

static unsigned combining_class(int32_t c) {
    return is_newer(c) ? 0 : (unsigned)utf8proc_get_property(c)->combining_class & 255;
}

/* Canonical order of the marks between two starters. Counting by class keeps it linear where hostile text
 * piles up marks without end. */
static bool order_marks(int32_t *c, size_t n) {
    if (n < 64) {
        for (size_t i = 1; i < n; i++) {
            int32_t x = c[i];
            unsigned k = combining_class(x);
            size_t j = i;
            for (; j > 0 && combining_class(c[j - 1]) > k; j--) c[j] = c[j - 1];
            c[j] = x;
        }
        return true;
    }
    int32_t *copy = cot__alloc_array(n, sizeof *copy);
    if (!copy) return false;
    memcpy(copy, c, n * sizeof *c);
    size_t from[257] = {0};
    for (size_t i = 0; i < n; i++) from[combining_class(copy[i]) + 1]++;
    for (size_t k = 1; k < 257; k++) from[k] += from[k - 1];
    for (size_t i = 0; i < n; i++) c[from[combining_class(copy[i])]++] = copy[i];
    cot__free(copy);
    return true;
}

static bool order(int32_t *c, size_t n) {
    for (size_t i = 0; i < n;) {
        if (!combining_class(c[i])) {
            i++;
            continue;
        }
        size_t end = i;
        while (end < n && combining_class(c[end])) end++;
        if (!order_marks(c + i, end - i)) return false;
        i = end;
    }
    return true;
}

/* Composes what stands between newer characters, which take no part in it. */
static size_t compose_all(int32_t *c, size_t n, utf8proc_option_t options) {
    size_t out = 0;
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && !is_newer(c[end])) end++;
        utf8proc_ssize_t got =
            end > i ? utf8proc_normalize_utf32(c + i, (utf8proc_ssize_t)(end - i), options) : 0;
        size_t k = got < 0 ? end - i : (size_t)got;
        memmove(c + out, c + i, k * sizeof *c);
        out += k;
        if (end < n) c[out++] = c[end++];
        i = end;
    }
    return out;
}

static cot_status unicode_form(cot__tok_norm_kind kind, const char *s, size_t n, cot__buf *out,
                               cot_error *err) {
    bool compose = kind == COT__NORM_NFC || kind == COT__NORM_NFKC;
    bool compat = kind == COT__NORM_NFKC || kind == COT__NORM_NFKD;
    utf8proc_option_t options =
        UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compat ? UTF8PROC_COMPAT : 0);
    utf8proc_option_t split = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
    size_t cap = n + 64, k = 0, len;
    int32_t *c = cot__alloc_array(cap, sizeof *c);
    if (!c) return cot__fail_memory(err, cap * sizeof *c);
    cot_status status = COT_OK;
    for (size_t i = 0; i < n; i += len) {
        uint32_t x = cot__utf8_get(s + i, n - i, &len);
        if (cap - k < 32) { /* the longest decomposition has 18 characters */
            int32_t *more = cot__realloc_array(c, cap * 2, sizeof *c);
            if (!more) goto memory;
            c = more;
            cap *= 2;
        }
        utf8proc_ssize_t got = -1;
        if (!is_newer((int32_t)x))
            got =
                utf8proc_decompose_char((utf8proc_int32_t)x, c + k, (utf8proc_ssize_t)(cap - k), split, NULL);
        if (got < 0 || (size_t)got > cap - k) c[k] = (int32_t)x, got = 1;
        k += (size_t)got;
    }
    if (!order(c, k)) goto memory;
    if (compose) k = compose_all(c, k, options);
    for (size_t i = 0; i < k && status == COT_OK; i++) {
        char b[4];
        status = put(out, b, cot__utf8_put((uint32_t)c[i], b), err);
    }
    cot__free(c);
    return status;
memory:
    cot__free(c);
    return cot__fail_memory(err, cap * 2 * sizeof *c);
}

static cot_status lowercase(const char *s, size_t n, cot__buf *out, cot_error *err) {
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t c = cot__utf8_get(s + i, n - i, &len);
        char b[4];
        if (c == 0x130) { /* the one character whose lower case is two */
            COT_TRY(put(out, "i\xcc\x87", 3, err));
            continue;
        }
        COT_TRY(put(out, b, cot__utf8_put((uint32_t)utf8proc_tolower((utf8proc_int32_t)c), b), err));
    }
    return COT_OK;
}

/* ---- edits ---- */

static cot_status replace(cot__tok_run *run, size_t step, const cot__tok_norm *r, const char *s, size_t n,
                          cot__buf *out) {
    size_t done = 0;
    if (r->regex) {
        cot__tok_walk w = {0};
        size_t from, to;
        for (bool found;;) {
            COT_TRY(cot__tok_regex_next(r->regex, &run->match, 17, s, n, &w, &from, &to, &found, run->err));
            if (!found) break;
            COT_TRY(put(out, s + done, from - done, run->err));
            COT_TRY(put(out, r->b.s, r->b.len, run->err));
            done = to;
        }
        return put(out, s + done, n - done, run->err);
    }
    for (const char *hit; r->a.len && (hit = memmem(s + done, n - done, r->a.s, r->a.len));) {
        COT_TRY(put(out, s + done, (size_t)(hit - s) - done, run->err));
        COT_TRY(put(out, r->b.s, r->b.len, run->err));
        done = (size_t)(hit - s) + r->a.len;
    }
    return put(out, s + done, n - done, run->err);
}

static cot_status collapse_spaces(const char *s, size_t n, cot__buf *out, cot_error *err) {
    size_t i = 0;
    while (i < n) {
        while (i < n && s[i] == ' ') i++;
        size_t end = i;
        while (end < n && s[end] != ' ') end++;
        if (end > i && out->len) COT_TRY(put(out, " ", 1, err));
        COT_TRY(put(out, s + i, end - i, err));
        i = end;
    }
    return COT_OK;
}

/* Steps that only cut or do nothing change the view; *same true: nothing was written to `out`. */
static cot_status apply(cot__tok_run *run, size_t k, const char **text, size_t *n, cot__buf *out,
                        bool *same) {
    const cot__tok_norm *r = &run->t->norm[k];
    const char *s = *text;
    size_t len;
    *same = false;
    switch (r->kind) {
    case COT__NORM_NFC:
    case COT__NORM_NFD:
    case COT__NORM_NFKC:
    case COT__NORM_NFKD:
        if (!(*same = form_is_identity(r->kind, s, *n))) return unicode_form(r->kind, s, *n, out, run->err);
        return COT_OK;
    case COT__NORM_LOWERCASE: return lowercase(s, *n, out, run->err);
    case COT__NORM_REPLACE: return replace(run, k, r, s, *n, out);
    case COT__NORM_PREPEND:
    case COT__NORM_SPACE_PREFIX:
        if ((*same = !*n || run->glued)) return COT_OK;
        COT_TRY(put(out, r->a.s, r->a.len, run->err));
        return put(out, s, *n, run->err);
    case COT__NORM_STRIP:
        *same = true;
        while (r->left && *n && cot__char_is_space(cot__utf8_get(*text, *n, &len))) *text += len, *n -= len;
        while (r->right && *n) {
            size_t i = *n - 1;
            while (i > 0 && ((unsigned char)(*text)[i] & 0xc0) == 0x80) i--;
            if (!cot__char_is_space(cot__utf8_get(*text + i, *n - i, &len))) break;
            *n = i;
        }
        return COT_OK;
    case COT__NORM_CHARSMAP:
    case COT__NORM_CHARSMAP_HF:
        return cot__tok_charsmap_apply(&run->t->charsmap, r->kind == COT__NORM_CHARSMAP_HF, s, *n, out,
                                       run->err);
    case COT__NORM_SPACES: return collapse_spaces(s, *n, out, run->err);
    }
    return COT_OK;
}

/* Steps write to two buffers in turn, so that a step never reads what it writes. */
cot_status cot__tok_normalize(cot__tok_run *run, const char **text, size_t *n) {
    size_t side = 0, max = *n * GROWTH + COT__TOK_LEN_MAX;
    if (max > COT__TOK_TEXT_MAX) max = COT__TOK_TEXT_MAX;
    for (size_t k = 0; k < run->t->n_norm; k++) {
        cot__buf *out = &run->norm[side];
        bool same;
        out->len = 0;
        out->max = max;
        COT_TRY(apply(run, k, text, n, out, &same));
        if (same) continue;
        *text = out->data ? out->data : "";
        *n = out->len;
        side ^= 1;
    }
    return COT_OK;
}
