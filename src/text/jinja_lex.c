/* Owns: cutting a template into tokens, with the whitespace control that chat templates are written for:
 * trim_blocks (a line end after a block goes), lstrip_blocks (blanks before a block that begins its line go),
 * and the signs - and + at any tag. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "text/jinja_ast.h"

typedef struct lexer {
    const char *file, *s;
    size_t n, at;
    int line;
    cot__arena *arena;
    jtoken *tok;
    size_t n_tok, cap;
    cot_error *err;
    bool strip_next, trim_next; /* whitespace before the next text: all of it; one line end */
} lexer;

static cot_status add(lexer *l, jtoken t) {
    if (l->n_tok == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 256;
        jtoken *p = cot__arena_alloc(l->arena, cap * sizeof *p);
        if (!p) return cot__fail_memory(l->err, cap * sizeof *p);
        if (l->n_tok) memcpy(p, l->tok, l->n_tok * sizeof *p);
        l->tok = p;
        l->cap = cap;
    }
    t.line = l->line;
    l->tok[l->n_tok++] = t;
    return COT_OK;
}

static cot_status bad(lexer *l, const char *what) {
    return cot__fail(l->err, COT_FORMAT, l->file, "template", "line %d: %s", l->line, what);
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}
static bool looking_at(const lexer *l, size_t at, const char *s) {
    size_t n = strlen(s);
    return n <= l->n - at && memcmp(l->s + at, s, n) == 0;
}
static void count_lines(lexer *l, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) l->line += l->s[i] == '\n';
}

/* Text from `from` to the tag at `to`, whose sign asks for what goes before it. */
static cot_status add_text(lexer *l, size_t from, size_t to, bool is_output, char sign, bool at_end) {
    size_t end = to, begin = from;
    if (l->strip_next) {
        while (begin < end && is_space(l->s[begin])) begin++;
    } else if (l->trim_next && begin < end && l->s[begin] == '\n') begin++;
    if (sign == '-') {
        while (end > begin && is_space(l->s[end - 1])) end--;
    } else if (!is_output && sign != '+' && !at_end) { /* blanks from the line's start */
        size_t p = end;
        while (p > begin && (l->s[p - 1] == ' ' || l->s[p - 1] == '\t')) p--;
        if (p == 0 || l->s[p - 1] == '\n') end = p;
    }
    if (at_end && end > begin && l->s[end - 1] == '\n') end--; /* the template's last line end */
    cot_status s = COT_OK;
    if (end > begin) s = add(l, (jtoken){.kind = JT_TEXT, .s = {l->s + begin, end - begin}});
    count_lines(l, from, to);
    l->strip_next = l->trim_next = false;
    return s;
}

static void put_utf8(char *p, size_t *n, unsigned c) {
    if (c < 0x80) p[(*n)++] = (char)c;
    else if (c < 0x800) p[(*n)++] = (char)(0xc0 | c >> 6), p[(*n)++] = (char)(0x80 | (c & 63));
    else if (c < 0x10000) {
        p[(*n)++] = (char)(0xe0 | c >> 12);
        p[(*n)++] = (char)(0x80 | (c >> 6 & 63)), p[(*n)++] = (char)(0x80 | (c & 63));
    } else {
        p[(*n)++] = (char)(0xf0 | c >> 18), p[(*n)++] = (char)(0x80 | (c >> 12 & 63));
        p[(*n)++] = (char)(0x80 | (c >> 6 & 63)), p[(*n)++] = (char)(0x80 | (c & 63));
    }
}

static bool hex(const lexer *l, size_t at, int digits, unsigned *out) {
    *out = 0;
    for (int i = 0; i < digits; i++) {
        char c = at + (size_t)i < l->n ? l->s[at + (size_t)i] : 0;
        int v = is_digit(c)            ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (v < 0) return false;
        *out = *out << 4 | (unsigned)v;
    }
    return *out <= 0x10ffff;
}

static cot_status lex_string(lexer *l) {
    char quote = l->s[l->at];
    size_t i = l->at + 1, n = 0;
    while (i < l->n && l->s[i] != quote) i += l->s[i] == '\\' ? 2 : 1;
    if (i >= l->n) return bad(l, "a string has no end");
    char *out = cot__arena_alloc(l->arena, i - l->at + 4);
    if (!out) return cot__fail_memory(l->err, i - l->at);
    for (size_t k = l->at + 1; k < i; k++) {
        static const char names[] = "ntrbfva0\\'\"", values[] = "\n\t\r\b\f\v\a\0\\'\"";
        const char *p;
        unsigned c;
        if (l->s[k] != '\\') out[n++] = l->s[k];
        else if (l->s[k + 1] == 'x' && hex(l, k + 2, 2, &c)) put_utf8(out, &n, c), k += 3;
        else if (l->s[k + 1] == 'u' && hex(l, k + 2, 4, &c)) put_utf8(out, &n, c), k += 5;
        else if (l->s[k + 1] == 'U' && hex(l, k + 2, 8, &c)) put_utf8(out, &n, c), k += 9;
        else if (l->s[k + 1] == '\n') k++;
        else if (l->s[k + 1] && (p = strchr(names, l->s[k + 1])) != NULL) out[n++] = values[p - names], k++;
        else out[n++] = '\\';
    }
    cot_status s = add(l, (jtoken){.kind = JT_STR, .s = {out, n}});
    count_lines(l, l->at, i);
    l->at = i + 1;
    return s;
}

static cot_status lex_number(lexer *l) {
    char text[64];
    size_t n = 0;
    bool real = false;
    while (l->at < l->n && n < sizeof text - 1) {
        char c = l->s[l->at], next = l->at + 1 < l->n ? l->s[l->at + 1] : 0;
        bool sign = (c == '+' || c == '-') && n && (text[n - 1] == 'e' || text[n - 1] == 'E');
        bool part = is_digit(c) || sign || (c == '.' && !real && is_digit(next)) ||
                    ((c == 'e' || c == 'E') && (is_digit(next) || next == '-' || next == '+'));
        if (c != '_' && !part) break;
        if (c == '.' || c == 'e' || c == 'E') real = true;
        if (c != '_') text[n++] = c;
        l->at++;
    }
    text[n] = 0;
    if (real) return add(l, (jtoken){.kind = JT_FLOAT, .f = strtod(text, NULL)});
    if (n > 18) return bad(l, "a number is too long");
    return add(l, (jtoken){.kind = JT_INT, .i = strtoll(text, NULL, 10)});
}

/* Inside a tag, up to its end. */
static cot_status lex_tag(lexer *l, bool output) {
    static const char *const ops[] = {"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<",
                                      ">",  "=",  "(",  ")",  "[",  "]",  "{", "}", ",", ".", ":", "|", ";"};
    const char *end = output ? "}}" : "%}";
    int open = 0; /* braces: a dict may end right before the tag does */
    for (;;) {
        while (l->at < l->n && is_space(l->s[l->at])) l->line += l->s[l->at++] == '\n';
        if (l->at >= l->n) return bad(l, "a tag has no end");
        char c = l->s[l->at];
        bool minus = c == '-' && looking_at(l, l->at + 1, end),
             plus = c == '+' && !output && looking_at(l, l->at + 1, end);
        if (minus || plus || (looking_at(l, l->at, end) && !(output && open))) {
            l->at += minus || plus ? 3 : 2;
            l->strip_next = minus;
            l->trim_next = !output && !plus;
            return add(l, (jtoken){.kind = output ? JT_OUTPUT_END : JT_BLOCK_END});
        }
        if (c == '\'' || c == '"') {
            COT_TRY(lex_string(l));
            continue;
        }
        if (is_digit(c)) {
            COT_TRY(lex_number(l));
            continue;
        }
        size_t from = l->at;
        if (is_word(c)) {
            while (l->at < l->n && is_word(l->s[l->at])) l->at++;
            COT_TRY(add(l, (jtoken){.kind = JT_NAME, .s = {l->s + from, l->at - from}}));
            continue;
        }
        size_t i = 0, count = sizeof ops / sizeof *ops;
        while (i < count && !looking_at(l, l->at, ops[i])) i++;
        if (i == count) return bad(l, "a character that has no meaning in a tag");
        open += c == '{' ? 1 : c == '}' ? -1 : 0;
        l->at += strlen(ops[i]);
        COT_TRY(add(l, (jtoken){.kind = JT_OP, .s = {ops[i], strlen(ops[i])}}));
    }
}

/* {% raw %} … {% endraw %}: true when one stood here. */
static cot_status lex_raw(lexer *l, bool *was) {
    size_t p = l->at + 2;
    *was = false;
    if (p < l->n && (l->s[p] == '-' || l->s[p] == '+')) p++;
    while (p < l->n && is_space(l->s[p])) p++;
    if (!looking_at(l, p, "raw") || (p + 3 < l->n && is_word(l->s[p + 3]))) return COT_OK;
    for (p += 3; p < l->n && is_space(l->s[p]);) p++;
    bool minus = p < l->n && l->s[p] == '-';
    if (minus) p++;
    if (!looking_at(l, p, "%}")) return COT_OK;
    size_t from = p + 2;
    l->strip_next = minus;
    l->trim_next = true;
    for (size_t q = from; q < l->n; q++) {
        if (!looking_at(l, q, "{%")) continue;
        size_t e = q + 2;
        char sign = e < l->n ? l->s[e] : 0;
        if (sign == '-' || sign == '+') e++;
        while (e < l->n && is_space(l->s[e])) e++;
        if (!looking_at(l, e, "endraw")) continue;
        for (e += 6; e < l->n && is_space(l->s[e]);) e++;
        bool strip = e < l->n && l->s[e] == '-';
        if (strip) e++;
        if (!looking_at(l, e, "%}")) continue;
        COT_TRY(add_text(l, from, q, false, sign, false));
        l->strip_next = strip;
        l->trim_next = true;
        l->at = e + 2;
        *was = true;
        return COT_OK;
    }
    return bad(l, "raw has no endraw");
}

static cot_status lex_all(lexer *l) {
    size_t from = 0;
    for (l->at = 0; l->at < l->n;) {
        if (l->s[l->at] != '{' || l->at + 1 >= l->n || !strchr("{%#", l->s[l->at + 1])) {
            l->at++;
            continue;
        }
        char kind = l->s[l->at + 1], sign = l->at + 2 < l->n ? l->s[l->at + 2] : 0;
        COT_TRY(add_text(l, from, l->at, kind == '{', sign, false));
        if (kind == '#') {
            size_t end = l->at + 2;
            while (end < l->n && !looking_at(l, end, "#}")) end++;
            if (end >= l->n) return bad(l, "a comment has no end");
            count_lines(l, l->at, end);
            l->strip_next = end > l->at + 2 && l->s[end - 1] == '-';
            l->trim_next = true;
            from = l->at = end + 2;
            continue;
        }
        bool raw = false;
        if (kind == '%') COT_TRY(lex_raw(l, &raw));
        if (!raw) {
            COT_TRY(add(l, (jtoken){.kind = kind == '{' ? JT_OUTPUT : JT_BLOCK}));
            l->at += 2;
            if (sign == '-' || (sign == '+' && kind == '%')) l->at++;
            COT_TRY(lex_tag(l, kind == '{'));
        }
        from = l->at;
    }
    COT_TRY(add_text(l, from, l->n, false, 0, true));
    return add(l, (jtoken){.kind = JT_END});
}

cot_status cot__jinja_lex(const char *file, const char *text, size_t n, cot__arena *arena, jtoken **out,
                          size_t *count, cot_error *err) {
    char *copy = cot__arena_alloc(arena, n + 1);
    if (!copy) return cot__fail_memory(err, n + 1);
    size_t k = 0;
    for (size_t i = 0; i < n; i++) { /* line ends are \n */
        if (text[i] == '\r' && i + 1 < n && text[i + 1] == '\n') continue;
        copy[k++] = text[i] == '\r' ? '\n' : text[i];
    }
    copy[k] = 0;
    lexer l = {.file = file, .s = copy, .n = k, .line = 1, .arena = arena, .err = err};
    COT_TRY(lex_all(&l));
    *out = l.tok;
    *count = l.n_tok;
    return COT_OK;
}
