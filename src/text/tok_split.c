/* Owns: pre-tokenizers. Every step hands its pieces to the next one as it finds them, down to the model; no
 * list of pieces is kept. Each piece is a text of its own for the step that follows: lookaheads end at its
 * end. */
#include <string.h>

#include "base/error.h"
#include "text/tok_internal.h"

static cot_status step(cot__tok_run *run, size_t k, const char *text, size_t n, bool first);

/* Pieces of one step on their way to the next, merged as the behaviour says. */
typedef struct sink {
    cot__tok_run *run;
    const cot__tok_split *split;
    const char *text;
    size_t next;     /* the step that follows */
    bool first;      /* text begins at the start of the input */
    size_t from, to; /* waiting piece; from == to: none */
    bool from_match, last_match, any;
} sink;

static cot_status pass(sink *o, size_t from, size_t to) {
    if (from == to) return COT_OK;
    return step(o->run, o->next, o->text + from, to - from, o->first && from == 0);
}

static cot_status flush(sink *o) {
    size_t from = o->from, to = o->to;
    o->from = o->to = 0;
    return pass(o, from, to);
}

static cot_status piece(sink *o, size_t from, size_t to, bool match) {
    bool was = o->last_match, waiting = o->any;
    if (o->split->invert) match = !match;
    o->last_match = match;
    o->any = true;
    switch (o->split->behavior) {
    case COT__SPLIT_ISOLATED: return pass(o, from, to);
    case COT__SPLIT_REMOVED: return match ? COT_OK : pass(o, from, to);
    case COT__SPLIT_MERGED_PREVIOUS:
        if (match && !was && waiting) {
            o->to = to;
            return COT_OK;
        }
        break;
    case COT__SPLIT_MERGED_NEXT:
        if (waiting && was && !match) {
            o->to = to;
            return COT_OK;
        }
        break;
    case COT__SPLIT_CONTIGUOUS:
        if (waiting && match == was) {
            o->to = to;
            return COT_OK;
        }
        break;
    }
    COT_TRY(flush(o));
    o->from = from;
    o->to = to;
    return COT_OK;
}

static cot_status by_regex(sink *o, unsigned level, const cot__tok_regex *re, size_t n) {
    cot__tok_walk w = {0};
    size_t done = 0, from, to;
    for (bool found;;) {
        COT_TRY(
            cot__tok_regex_next(re, &o->run->match, level, o->text, n, &w, &from, &to, &found, o->run->err));
        if (!found) break;
        if (from > done) COT_TRY(piece(o, done, from, false));
        COT_TRY(piece(o, from, to, true));
        done = to;
    }
    if (done < n) COT_TRY(piece(o, done, n, false));
    return flush(o);
}

static cot_status by_string(sink *o, size_t n) {
    size_t done = 0;
    const cot__vocab_str *find = &o->split->text;
    for (const char *hit; find->len && (hit = memmem(o->text + done, n - done, find->s, find->len));) {
        size_t from = (size_t)(hit - o->text);
        if (from > done) COT_TRY(piece(o, done, from, false));
        COT_TRY(piece(o, from, from + find->len, true));
        done = from + find->len;
    }
    if (done < n) COT_TRY(piece(o, done, n, false));
    return flush(o);
}

static cot_status by_class(sink *o, bool (*is)(uint32_t), size_t n) {
    size_t done = 0, len;
    for (size_t i = 0; i < n; i += len) {
        uint32_t c = cot__utf8_get(o->text + i, n - i, &len);
        if (!is(c)) continue;
        if (i > done) COT_TRY(piece(o, done, i, false));
        COT_TRY(piece(o, i, i + len, true));
        done = i + len;
    }
    if (done < n) COT_TRY(piece(o, done, n, false));
    return flush(o);
}

/* ---- ByteLevel and Metaspace change the text ---- */

static cot_status memory(cot__tok_run *run, const cot__buf *b) { return cot__fail_memory(run->err, b->len); }

/* Hands a piece on in its mapped form, which lives in the step's buffer while the later steps run. */
static cot_status map_bytes(sink *o, size_t from, size_t to) {
    cot__buf *b = &o->run->step[o->next - 1];
    b->len = 0;
    for (size_t i = from; i < to; i++) {
        char c[4];
        if (!cot__buf_put(b, c, cot__utf8_put(cot__tok_byte_char((unsigned char)o->text[i]), c)))
            return memory(o->run, b);
    }
    return b->len ? step(o->run, o->next, b->data, b->len, o->first && from == 0) : COT_OK;
}

static cot_status byte_level(sink *o, size_t k, const char *text, size_t n) {
    cot__tok_run *run = o->run;
    const cot__tok_split *split = o->split;
    cot__buf *b = &run->step[k];
    b->len = 0;
    b->max = SIZE_MAX / 2;
    if (split->prepend == COT__PREPEND_ALWAYS && n && text[0] != ' ' && !run->glued) {
        if (!cot__buf_put(b, " ", 1) || !cot__buf_put(b, text, n)) return memory(run, b);
        text = b->data;
        n = b->len;
    }
    if (!split->map) {
        o->text = text;
        return split->regex ? by_regex(o, (unsigned)k, split->regex, n) : pass(o, 0, n);
    }
    /* The step's buffer is about to hold mapped pieces: keep the source apart. */
    char *source = cot__alloc(n);
    if (!source) return cot__fail_memory(run->err, n);
    memcpy(source, text, n);
    o->text = source;
    cot__tok_walk w = {0};
    size_t done = 0, from = 0, to = 0;
    cot_status s = COT_OK;
    for (bool found = split->regex != NULL; found && s == COT_OK;) {
        s = cot__tok_regex_next(split->regex, &run->match, (unsigned)k, source, n, &w, &from, &to, &found,
                                run->err);
        if (s != COT_OK || !found) break;
        if (from > done) s = map_bytes(o, done, from);
        if (s == COT_OK && to > from) s = map_bytes(o, from, to);
        done = to;
    }
    if (s == COT_OK && done < n) s = map_bytes(o, done, n);
    cot__free(source);
    return s;
}

static cot_status metaspace(sink *o, size_t k, const char *text, size_t n) {
    cot__tok_run *run = o->run;
    const cot__vocab_str *r = &o->split->text;
    cot__buf *b = &run->step[k];
    b->len = 0;
    b->max = SIZE_MAX / 2;
    bool has = n && (text[0] == ' ' || (n >= r->len && memcmp(text, r->s, r->len) == 0));
    bool want = o->split->prepend == COT__PREPEND_ALWAYS ||
                (o->split->prepend == COT__PREPEND_FIRST && run->first && o->first);
    if (want && !has && !run->glued && !cot__buf_put(b, r->s, r->len)) return memory(run, b);
    for (size_t i = 0; i < n;) {
        const char *space = memchr(text + i, ' ', n - i);
        size_t end = space ? (size_t)(space - text) : n;
        if (!cot__buf_put(b, text + i, end - i) || (space && !cot__buf_put(b, r->s, r->len)))
            return memory(run, b);
        i = end + (space != NULL);
    }
    o->text = b->data ? b->data : "";
    if (!o->split->split) return pass(o, 0, b->len);
    return by_string(o, b->len);
}

static cot_status step(cot__tok_run *run, size_t k, const char *text, size_t n, bool first) {
    if (!n) return COT_OK;
    if (k == run->t->n_split) return cot__tok_model_encode(run, text, n);
    const cot__tok_split *split = &run->t->split[k];
    sink o = {.run = run, .split = split, .text = text, .next = k + 1, .first = first};
    switch (split->kind) {
    case COT__SPLIT_REGEX: return by_regex(&o, (unsigned)k, split->regex, n);
    case COT__SPLIT_STRING: return by_string(&o, n);
    case COT__SPLIT_DIGITS: return by_class(&o, cot__char_is_number, n);
    case COT__SPLIT_PUNCTUATION: return by_class(&o, cot__char_is_punctuation, n);
    case COT__SPLIT_WHITESPACE: return by_class(&o, cot__char_is_space, n);
    case COT__SPLIT_BYTELEVEL: return byte_level(&o, k, text, n);
    case COT__SPLIT_METASPACE: return metaspace(&o, k, text, n);
    }
    return COT_OK;
}

cot_status cot__tok_split_text(cot__tok_run *run, const char *text, size_t n) {
    return step(run, 0, text, n, true);
}
