/* Owns: rewriting regular expressions from Oniguruma's Ruby syntax to PCRE2's. The two agree on most of what
 * pre-tokenizers use; they differ in \s, \w, \b, \h, \v, \u, in set operations inside classes, in what `+`
 * behind an interval means, and in how names of scripts are read. Refuses: what has no counterpart. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "text/tok_regex.h"
#include "text/tok_utf8.h"

#define DEPTH 100

/* Unicode White_Space and the rest, as items of a class. PCRE2's own \s also holds U+180E. */
#define SPACE                                                                                                \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{" \
    "3000}"
#define NOT_SPACE                                                                                            \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"          \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
/* \w as Oniguruma has it. PCRE2 10.42 takes L, N and the underscore. */
#define WORD                                                                                                 \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}\\x{24b6}-\\x{24e9}\\x{1f130}-"    \
    "\\x{1f149}"                                                                                             \
    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

typedef struct translator {
    const char *file, *field, *s;
    size_t n, at;
    cot_error *err;
} translator;

static cot_status refuse(translator *t, const char *what) {
    return cot__fail(t->err, COT_UNSUPPORTED, t->file, t->field, "regular expression at byte %zu: %s", t->at,
                     what);
}
static cot_status no_room(translator *t, const cot__buf *b) {
    if (!b->full) return cot__fail_memory(t->err, b->len);
    return cot__fail(t->err, COT_LIMIT, t->file, t->field, "regular expression is too long");
}
static cot_status put(translator *t, cot__buf *b, const char *s, size_t n) {
    return cot__buf_put(b, s, n) ? COT_OK : no_room(t, b);
}
static cot_status puts_to(translator *t, cot__buf *b, const char *s) { return put(t, b, s, strlen(s)); }

/* Class items; behind each \p{X} come the characters that PCRE2's Unicode lacks. */
static cot_status put_set(translator *t, cot__buf *b, const char *items) {
    for (const char *p = items; *p;) {
        const char *end = strncmp(p, "\\p{", 3) == 0 ? strchr(p, '}') : NULL;
        size_t n = end ? (size_t)(end - p) + 1 : 1;
        COT_TRY(put(t, b, p, n));
        if (end) {
            const char *name = strncmp(p, "\\p{sc:", 6) == 0 ? p + 6 : p + 3;
            if (!cot__tok_unicode_newer(name, (size_t)(end - name), b)) return no_room(t, b);
        }
        p += n;
    }
    return COT_OK;
}

static bool next_is(const translator *t, const char *s) {
    size_t k = strlen(s);
    return t->n - t->at >= k && memcmp(t->s + t->at, s, k) == 0;
}

/* ---- properties ---- */

static const struct {
    const char *name, *items;
} properties[] = {
    {"letter", "\\p{L}"},
    {"mark", "\\p{M}"},
    {"number", "\\p{N}"},
    {"punctuation", "\\p{P}"},
    {"symbol", "\\p{S}"},
    {"separator", "\\p{Z}"},
    {"other", "\\p{C}"},
    {"alpha", "\\p{Alphabetic}"},
    {"digit", "\\p{Nd}"},
    {"punct", "\\p{P}"},
    {"space", SPACE},
    {"white_space", SPACE},
    {"upper", "\\p{Uppercase}"},
    {"lower", "\\p{Lowercase}"},
    {"word", WORD},
    {"alnum", "\\p{Alphabetic}\\p{Nd}"},
    {"cntrl", "\\p{Cc}"},
    {"blank", "\\p{Zs}\\x{9}"},
    {"any", "\\p{Any}"},
    {"uppercase_letter", "\\p{Lu}"},
    {"lowercase_letter", "\\p{Ll}"},
    {"titlecase_letter", "\\p{Lt}"},
    {"modifier_letter", "\\p{Lm}"},
    {"other_letter", "\\p{Lo}"},
    {"decimal_number", "\\p{Nd}"},
    {"xdigit", "0-9a-fA-F"},
};
static const char *const booleans[] = {
    "alphabetic",  "uppercase", "lowercase", "emoji",    "emoji_presentation", "extended_pictographic",
    "ideographic", "math",      "dash",      "hex_digit"};

/* At "\p{" or "\P{". Gives class items, and whether they are negated. */
static cot_status property(translator *t, cot__buf *items, bool *negated) {
    *negated = t->s[t->at + 1] == 'P';
    const char *open = t->s + t->at + 3, *end = t->s + t->n;
    const char *close = memchr(open, '}', (size_t)(end - open));
    if (!close) return refuse(t, "\\p{ without }");
    if (open < close && *open == '^') {
        *negated = !*negated;
        open++;
    }
    char name[64];
    size_t k = 0;
    for (const char *p = open; p < close; p++) {
        if (*p == ' ' || *p == '-') continue;
        if (k + 1 >= sizeof name || (unsigned char)*p >= 0x80 || *p == '\\')
            return refuse(t, "unknown property");
        name[k++] = *p;
    }
    name[k] = 0;
    t->at = (size_t)(close - t->s) + 1;
    for (size_t i = 0; i < sizeof properties / sizeof *properties; i++)
        if (strcasecmp(name, properties[i].name) == 0) return put_set(t, items, properties[i].items);
    bool plain = k <= 2 || strchr(name, '=') || strchr(name, ':');
    for (size_t i = 0; i < sizeof booleans / sizeof *booleans; i++)
        plain |= strcasecmp(name, booleans[i]) == 0;
    /* A bare script name means Script here, Script_Extensions in PCRE2. */
    char full[80];
    snprintf(full, sizeof full, "%s%s}", plain ? "\\p{" : "\\p{sc:", name);
    return put_set(t, items, full);
}

/* An escape that stands for a set: \s \w \d \h and their complements, \p. *is_set false: something else, the
 * position is unchanged. */
static cot_status set_escape(translator *t, cot__buf *items, bool *negated, bool *is_set) {
    *is_set = true;
    *negated = false;
    if (t->n - t->at < 2) {
        *is_set = false;
        return COT_OK;
    }
    char c = t->s[t->at + 1];
    const char *set = c == 's' || c == 'S'   ? SPACE
                      : c == 'w' || c == 'W' ? WORD
                      : c == 'd' || c == 'D' ? "\\p{Nd}"
                      : c == 'h' || c == 'H' ? "0-9a-fA-F"
                                             : NULL;
    if (set) {
        *negated = c < 'a';
        t->at += 2;
        return put_set(t, items, set);
    }
    if ((c == 'p' || c == 'P') && t->n - t->at > 3 && t->s[t->at + 2] == '{')
        return property(t, items, negated);
    *is_set = false;
    return COT_OK;
}

/* ---- single characters ---- */

static cot_status hex(translator *t, size_t max, uint32_t *out) {
    uint32_t v = 0;
    size_t k = 0;
    for (; k < max && t->at < t->n; k++, t->at++) {
        char c = t->s[t->at];
        uint32_t d = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                     : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                     : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                            : 16;
        if (d == 16) break;
        v = v * 16 + d;
    }
    if (!k || v > 0x10ffff || (v >= 0xd800 && v < 0xe000)) return refuse(t, "not a character's number");
    *out = v;
    return COT_OK;
}

/* At a backslash: a character by escape. */
static cot_status char_escape(translator *t, uint32_t *out) {
    t->at++;
    if (t->at >= t->n) return refuse(t, "ends in a backslash");
    size_t len;
    uint32_t c = cot__utf8_get(t->s + t->at, t->n - t->at, &len);
    t->at += len;
    switch (c) {
    case 'n': *out = '\n'; return COT_OK;
    case 'r': *out = '\r'; return COT_OK;
    case 't': *out = '\t'; return COT_OK;
    case 'v': *out = 11; return COT_OK;
    case 'f': *out = 12; return COT_OK;
    case 'a': *out = 7; return COT_OK;
    case 'e': *out = 27; return COT_OK;
    case '0': *out = 0; return COT_OK;
    case 'u': return hex(t, 4, out);
    case 'x':
        if (t->at < t->n && t->s[t->at] == '{') {
            t->at++;
            COT_TRY(hex(t, 8, out));
            if (t->at >= t->n || t->s[t->at] != '}') return refuse(t, "\\x{ without }");
            t->at++;
            return COT_OK;
        }
        COT_TRY(hex(t, 2, out));
        return *out < 0x80 ? COT_OK : refuse(t, "single bytes above 0x7f");
    default: *out = c; return COT_OK;
    }
}

static cot_status put_char(translator *t, cot__buf *b, uint32_t c) {
    if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == ' ')
        return put(t, b, &(char){(char)c}, 1);
    return cot__buf_printf(b, "\\x{%x}", c) ? COT_OK : no_room(t, b);
}

/* ---- classes ---- */

/* One operand between && in a class: plain items, and alternatives that are no plain items. */
typedef struct operand {
    cot__buf items, others; /* others: "|expression" each */
} operand;

static cot_status class(translator *t, cot__buf *out, cot__buf *plain, unsigned depth);

static cot_status class_nested(translator *t, operand *o, unsigned depth) {
    if (next_is(t, "[:")) {
        const char *from = t->s + t->at + 2, *end = memmem(from, t->n - t->at - 2, ":]", 2);
        if (end && end - from < 16) {
            size_t k = (size_t)(end - from) + 4;
            char name[24];
            bool negated;
            if (k == 9 && memcmp(from, "punct", 5) == 0) { /* the bracketed name holds symbols too */
                t->at += k;
                return put_set(t, &o->items, "\\p{P}\\p{S}");
            }
            snprintf(name, sizeof name, "\\p{%.*s}", (int)(k - 4), from);
            translator sub = {t->file, t->field, name, k, 0, t->err};
            cot__buf items = {.max = 1u << 16};
            cot_status s = property(&sub, &items, &negated);
            if (s == COT_OK && !negated) s = put(t, &o->items, items.data, items.len);
            else if (s == COT_OK && !cot__buf_printf(&o->others, "|[^%s]", items.data))
                s = no_room(t, &o->others);
            cot__buf_free(&items);
            t->at += k;
            return s;
        }
    }
    cot__buf expr = {.max = 1 << 17}, plain = {.max = 1 << 17};
    cot_status s = class(t, &expr, &plain, depth + 1);
    if (s == COT_OK && plain.len) s = put(t, &o->items, plain.data, plain.len);
    else if (s == COT_OK) {
        s = puts_to(t, &o->others, "|");
        if (s == COT_OK) s = put(t, &o->others, expr.data, expr.len);
    }
    cot__buf_free(&expr);
    cot__buf_free(&plain);
    return s;
}

/* A character or a range of characters, or a set. */
static cot_status class_item(translator *t, operand *o) {
    uint32_t lo, hi;
    size_t len;
    if (t->s[t->at] == '\\') {
        bool negated, is_set;
        cot__buf set = {.max = 1u << 16};
        bool space = next_is(t, "\\S");
        cot_status s = set_escape(t, &set, &negated, &is_set);
        if (s == COT_OK && is_set) {
            if (!negated) s = put(t, &o->items, set.data, set.len);
            else if (space) s = puts_to(t, &o->items, NOT_SPACE);
            else if (set.len > 3 && memcmp(set.data, "\\p{", 3) == 0 && !strchr(set.data + 3, '\\')) {
                set.data[1] = 'P'; /* a single property: its complement is an item too */
                s = put(t, &o->items, set.data, set.len);
            } else {
                s = puts_to(t, &o->others, "|[^");
                if (s == COT_OK) s = put(t, &o->others, set.data, set.len);
                if (s == COT_OK) s = puts_to(t, &o->others, "]");
            }
        }
        cot__buf_free(&set);
        if (s != COT_OK || is_set) return s;
        if (next_is(t, "\\b")) {
            t->at += 2;
            lo = 8;
        } else COT_TRY(char_escape(t, &lo));
    } else {
        lo = cot__utf8_get(t->s + t->at, t->n - t->at, &len);
        t->at += len;
    }
    COT_TRY(put_char(t, &o->items, lo));
    /* A range, unless the hyphen is the last thing or a set follows. */
    if (t->n - t->at < 2 || t->s[t->at] != '-' || t->s[t->at + 1] == ']' || t->s[t->at + 1] == '[')
        return COT_OK;
    if (t->s[t->at + 1] == '\\' && t->n - t->at > 2 && strchr("sSwWdDhHpP", t->s[t->at + 2])) return COT_OK;
    t->at++;
    if (t->s[t->at] == '\\') COT_TRY(char_escape(t, &hi));
    else {
        hi = cot__utf8_get(t->s + t->at, t->n - t->at, &len);
        t->at += len;
    }
    COT_TRY(puts_to(t, &o->items, "-"));
    return put_char(t, &o->items, hi);
}

/* One expression for an operand: a class, or a group of alternatives. */
static cot_status operand_put(translator *t, cot__buf *out, const operand *o, bool negated) {
    bool ok = true;
    if (!o->items.len && !o->others.len) ok = cot__buf_printf(out, negated ? "(?s:.)" : "(?!)");
    else if (!o->others.len) ok = cot__buf_printf(out, negated ? "[^%s]" : "[%s]", o->items.data);
    else {
        ok = cot__buf_printf(out, negated ? "(?:(?!" : "(?:");
        if (o->items.len) ok = ok && cot__buf_printf(out, "[%s]%s", o->items.data, o->others.data);
        else ok = ok && cot__buf_printf(out, "%s", o->others.data + 1);
        ok = ok && cot__buf_printf(out, negated ? ")(?s:.))" : ")");
    }
    return ok ? COT_OK : no_room(t, out);
}

static cot_status class_body(translator *t, cot__buf *out, cot__buf *plain, operand *o, cot__buf *both,
                             unsigned depth) {
    bool negated = false;
    size_t operands = 1;
    t->at++;
    if (next_is(t, "^")) {
        negated = true;
        t->at++;
    }
    for (bool first = true;; first = false) {
        if (t->at >= t->n) return refuse(t, "[ without ]");
        if (t->s[t->at] == ']' && !first) break;
        if (next_is(t, "&&")) {
            /* Every operand but the last becomes a lookahead in front of it. */
            t->at += 2;
            COT_TRY(puts_to(t, both, "(?="));
            COT_TRY(operand_put(t, both, o, false));
            COT_TRY(puts_to(t, both, ")"));
            o->items.len = o->others.len = 0;
            if (o->items.data) o->items.data[0] = 0;
            if (o->others.data) o->others.data[0] = 0;
            operands++;
        } else if (t->s[t->at] == '[') COT_TRY(class_nested(t, o, depth));
        else COT_TRY(class_item(t, o));
    }
    t->at++;
    if (operands == 1) {
        if (!negated && !o->others.len && o->items.len && plain)
            COT_TRY(put(t, plain, o->items.data, o->items.len));
        return operand_put(t, out, o, negated);
    }
    COT_TRY(puts_to(t, out, negated ? "(?:(?!" : "(?:"));
    COT_TRY(put(t, out, both->data, both->len));
    COT_TRY(operand_put(t, out, o, false));
    return puts_to(t, out, negated ? ")(?s:.))" : ")");
}

/* At "[": writes an expression that takes one character. plain (may be NULL) gets the items when they are
 * all. */
static cot_status class(translator *t, cot__buf *out, cot__buf *plain, unsigned depth) {
    if (depth > 16) return refuse(t, "classes nested too deeply");
    operand o = {{.max = 1 << 17}, {.max = 1 << 17}};
    cot__buf both = {.max = 1 << 17};
    cot_status s = class_body(t, out, plain, &o, &both, depth);
    cot__buf_free(&o.items);
    cot__buf_free(&o.others);
    cot__buf_free(&both);
    return s;
}

/* ---- the whole ---- */

/* At "(": what opens a group. */
static cot_status group(translator *t, cot__buf *out) {
    if (next_is(t, "(*")) return refuse(t, "(*…) is not understood");
    if (next_is(t, "(?~")) return refuse(t, "the absent operator (?~…) is not understood");
    if (next_is(t, "(?C") || next_is(t, "(?R") || next_is(t, "(?&") || next_is(t, "(?P>"))
        return refuse(t, "callouts and recursion are not understood");
    if (!next_is(t, "(?") || next_is(t, "(?<") || next_is(t, "(?#")) {
        t->at++;
        return puts_to(t, out, "(");
    }
    COT_TRY(puts_to(t, out, "(?"));
    t->at += 2;
    for (bool flags = true; flags && t->at < t->n; t->at++) {
        char c = t->s[t->at];
        /* Ruby's m lets the dot match newlines, which is PCRE2's s. */
        if (c == 'x') return refuse(t, "extended syntax (?x) is not understood");
        flags = c == 'i' || c == 'm' || c == 's' || c == '-' || c == 'u' || c == 'a';
        if (!flags) break;
        if (c == 'u' || c == 'a') return refuse(t, "options of encoding are not understood");
        COT_TRY(put(t, out, c == 'm' ? "s" : &c, 1));
    }
    return COT_OK;
}

/* \b and \B by lookaround, with the right idea of a word. */
static cot_status word_edge(translator *t, cot__buf *out, bool edge) {
    static const char *const parts[2][5] = {{"(?:(?<=[", "])(?=[", "])|(?<![", "])(?![", "]))"},
                                            {"(?:(?<=[", "])(?![", "])|(?<![", "])(?=[", "]))"}};
    for (size_t i = 0; i < 5; i++) {
        COT_TRY(puts_to(t, out, parts[edge][i]));
        if (i < 4) COT_TRY(put_set(t, out, WORD));
    }
    return COT_OK;
}

/* At a backslash outside classes. */
static cot_status escape(translator *t, cot__buf *out) {
    bool negated, is_set;
    cot__buf set = {.max = 1u << 16};
    cot_status s = set_escape(t, &set, &negated, &is_set);
    if (s == COT_OK && is_set && !cot__buf_printf(out, negated ? "[^%s]" : "[%s]", set.data))
        s = no_room(t, out);
    cot__buf_free(&set);
    if (s != COT_OK || is_set) return s;
    char c = t->at + 1 < t->n ? t->s[t->at + 1] : 0;
    if (c == 'b' || c == 'B') {
        t->at += 2;
        return word_edge(t, out, c == 'b');
    }
    if (c == 'A' || c == 'z' || c == 'Z' || c == 'K' || c == 'R' || c == 'X' || (c >= '1' && c <= '9')) {
        t->at += 2;
        return put(t, out, (char[]){'\\', c}, 2);
    }
    if (c == 'k' || c == 'g' || c == 'G' || c == 'c' || c == 'C' || c == 'M' || c == 'N' || c == 'O' ||
        c == 'y' || c == 'Y')
        return refuse(t, "this escape is not understood");
    uint32_t ch = 0;
    COT_TRY(char_escape(t, &ch));
    return put_char(t, out, ch);
}

/* At "{": an interval, or a brace that means itself. `atom` is where in `out` the thing repeated begins. */
static cot_status interval(translator *t, cot__buf *out, size_t atom) {
    size_t p = t->at + 1, low = p;
    while (p < t->n && t->s[p] >= '0' && t->s[p] <= '9') p++;
    bool has_low = p > low, comma = p < t->n && t->s[p] == ',', has_high = false;
    if (comma)
        for (p++; p < t->n && t->s[p] >= '0' && t->s[p] <= '9'; p++) has_high = true;
    if (p >= t->n || t->s[p] != '}' || (!has_low && !has_high)) {
        t->at++;
        return puts_to(t, out, "\\{");
    }
    COT_TRY(puts_to(t, out, has_low ? "{" : "{0"));
    COT_TRY(put(t, out, t->s + low, p - low));
    COT_TRY(puts_to(t, out, "}"));
    t->at = p + 1;
    /* Behind an interval `+` repeats it again instead of making it possessive, and `{n}?` is an option. */
    char c = t->at < t->n ? t->s[t->at] : 0;
    if (c == '+' || (c == '?' && !comma)) {
        size_t end = out->len;
        COT_TRY(puts_to(t, out, "(?:)"));
        memmove(out->data + atom + 3, out->data + atom, end - atom);
        memcpy(out->data + atom, "(?:", 3);
        out->data[out->len - 1] = ')';
    }
    return COT_OK;
}

cot_status cot__tok_onig_translate(cot__buf *out, const char *file, const char *field, const char *onig,
                                   size_t n, cot_error *err) {
    translator t = {file, field, onig, n, 0, err};
    size_t open[DEPTH], depth = 0, atom = out->len, before;
    if (cot__utf8_valid(onig, n) != n) return refuse(&t, "not valid UTF-8");
    /* DeepSeek's expression for trailing space would try every place of a long run anew. Where it does not
     * match from the first space of a run it matches nowhere in it. */
    if (n == 4 && memcmp(onig, "\\s+$", 4) == 0) return puts_to(&t, out, "(?<![" SPACE "])[" SPACE "]+$");
    while (t.at < n) {
        char c = onig[t.at];
        before = out->len;
        if (c == '[') COT_TRY(class(&t, out, NULL, 0));
        else if (c == '\\') COT_TRY(escape(&t, out));
        else if (c == '{') {
            COT_TRY(interval(&t, out, atom));
            continue; /* what was repeated stays the atom */
        } else if (c == '(') {
            if (depth == DEPTH) return refuse(&t, "groups nested too deeply");
            open[depth++] = out->len;
            COT_TRY(group(&t, out));
        } else {
            size_t len = cot__utf8_length((unsigned char)c);
            if (len > n - t.at) len = n - t.at;
            if (c == ')' && depth) before = open[--depth];
            COT_TRY(put(&t, out, onig + t.at, len));
            t.at += len;
            if (c == '*' || c == '+' || c == '?') continue;
        }
        atom = before;
    }
    return COT_OK;
}
