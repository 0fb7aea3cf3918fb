/* Owns: the values of a rendering: making them, comparing them, writing them as Python's str, repr and
 * json.dumps do. Strings are counted in code points. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_ast.h"

jval cot__jinja_text(const char *s, size_t n) { return (jval){.kind = J_STR, .str = {s, n}}; }

size_t cot__jinja_chars(jstr s) {
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) n += ((unsigned char)s.s[i] & 0xc0) != 0x80;
    return n;
}

size_t cot__jinja_offset(jstr s, size_t k) {
    size_t i = 0;
    for (; i < s.n; i++) {
        if (((unsigned char)s.s[i] & 0xc0) == 0x80) continue;
        if (!k--) break;
    }
    return i;
}

bool cot__jinja_concat(jrun *r, jstr a, jstr b, jval *out) {
    char *p = cot__jinja_alloc(r, a.n + b.n + 1);
    if (!p) return false;
    if (a.n) memcpy(p, a.s, a.n);
    if (b.n) memcpy(p + a.n, b.s, b.n);
    *out = cot__jinja_text(p, a.n + b.n);
    return true;
}

bool cot__jinja_list(jrun *r, size_t n, jval *out) {
    *out = (jval){.kind = J_UNDEFINED};
    jlist *l = cot__jinja_alloc(r, sizeof *l);
    if (n > COT__JINJA_MEMORY / sizeof(jval)) return cot__jinja_fail(r, COT_LIMIT, "a list grew too long");
    jval *items = l ? cot__jinja_alloc(r, (n + 1) * sizeof *items) : NULL;
    if (!items) return false;
    for (size_t i = 0; i < n; i++) items[i] = (jval){.kind = J_UNDEFINED};
    *l = (jlist){items, n, false};
    *out = (jval){.kind = J_LIST, .list = l};
    return true;
}

const jval *cot__jinja_get(const jdict *d, const jval *key) {
    for (size_t i = 0; i < d->n; i++)
        if (cot__jinja_equal(&d->keys[i], key)) return &d->values[i];
    return NULL;
}

const jval *cot__jinja_member(const jdict *d, jstr key) {
    jval k = {.kind = J_STR, .str = key};
    return cot__jinja_get(d, &k);
}

bool cot__jinja_put(jrun *r, jdict *d, const jval *key, const jval *value) {
    const jval *old = cot__jinja_get(d, key);
    if (old) {
        d->values[old - d->values] = *value;
        return true;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 8;
        jval *keys = cot__jinja_alloc(r, cap * sizeof *keys),
             *values = keys ? cot__jinja_alloc(r, cap * sizeof *values) : NULL;
        if (!values) return false;
        if (d->n)
            memcpy(keys, d->keys, d->n * sizeof *keys), memcpy(values, d->values, d->n * sizeof *values);
        d->keys = keys, d->values = values, d->cap = cap;
    }
    d->keys[d->n] = *key;
    d->values[d->n++] = *value;
    return true;
}

static bool from_json(jrun *r, const json_t *j, int depth, jval *out) {
    if (depth > COT__JINJA_NESTING) return cot__jinja_fail(r, COT_LIMIT, "messages are nested too deeply");
    if (!cot__jinja_step(r)) return false;
    switch (json_typeof(j)) {
    case JSON_NULL: *out = (jval){.kind = J_NONE}; return true;
    case JSON_TRUE:
    case JSON_FALSE: *out = (jval){.kind = J_BOOL, .b = json_is_true(j)}; return true;
    case JSON_INTEGER: *out = (jval){.kind = J_INT, .i = json_integer_value(j)}; return true;
    case JSON_REAL: *out = (jval){.kind = J_FLOAT, .f = json_real_value(j)}; return true;
    case JSON_STRING: *out = cot__jinja_text(json_string_value(j), json_string_length(j)); return true;
    case JSON_ARRAY: {
        jval list;
        if (!cot__jinja_list(r, json_array_size(j), &list)) return false;
        for (size_t i = 0; i < list.list->n; i++)
            if (!from_json(r, json_array_get(j, i), depth + 1, &list.list->items[i])) return false;
        *out = list;
        return true;
    }
    case JSON_OBJECT: break;
    }
    jdict *d = cot__jinja_alloc(r, sizeof *d);
    const char *key;
    json_t *v;
    if (!d) return false;
    *d = (jdict){0};
    json_object_foreach((json_t *)j, key, v) {
        jval k = cot__jinja_text(key, strlen(key)), x;
        if (!from_json(r, v, depth + 1, &x) || !cot__jinja_put(r, d, &k, &x)) return false;
    }
    *out = (jval){.kind = J_DICT, .dict = d};
    return true;
}

bool cot__jinja_from_json(jrun *r, const json_t *j, jval *out) { return from_json(r, j, 0, out); }

bool cot__jinja_truth(const jval *v) {
    switch (v->kind) {
    case J_UNDEFINED:
    case J_NONE: return false;
    case J_BOOL: return v->b;
    case J_INT: return v->i != 0;
    case J_FLOAT: return v->f != 0;
    case J_STR: return v->str.n > 0;
    case J_LIST: return v->list->n > 0;
    case J_DICT: return v->dict->is_namespace || v->dict->n > 0;
    default: return true;
    }
}

static bool number(const jval *v, double *x) {
    if (v->kind == J_BOOL) *x = v->b;
    else if (v->kind == J_INT) *x = (double)v->i;
    else if (v->kind == J_FLOAT) *x = v->f;
    else return false;
    return true;
}

static bool equal(const jval *a, const jval *b, int depth) {
    double x, y;
    if (a->kind == J_INT && b->kind == J_INT) return a->i == b->i;
    if (number(a, &x) && number(b, &y)) return x == y;
    if (a->kind != b->kind || depth > COT__JINJA_NESTING) return false;
    switch (a->kind) {
    case J_UNDEFINED:
    case J_NONE: return true;
    case J_STR: return a->str.n == b->str.n && (!a->str.n || memcmp(a->str.s, b->str.s, a->str.n) == 0);
    case J_LIST:
        if (a->list == b->list) return true;
        if (a->list->n != b->list->n || a->list->tuple != b->list->tuple) return false;
        for (size_t i = 0; i < a->list->n; i++)
            if (!equal(&a->list->items[i], &b->list->items[i], depth + 1)) return false;
        return true;
    case J_DICT:
        if (a->dict == b->dict) return true;
        if (a->dict->n != b->dict->n) return false;
        for (size_t i = 0; i < a->dict->n; i++) {
            const jval *v = cot__jinja_get(b->dict, &a->dict->keys[i]);
            if (!v || !equal(&a->dict->values[i], v, depth + 1)) return false;
        }
        return true;
    default: return false;
    }
}

bool cot__jinja_equal(const jval *a, const jval *b) { return equal(a, b, 0); }

bool cot__jinja_order(jrun *r, const jval *a, const jval *b, int *order) {
    double x, y;
    if (a->kind == J_INT && b->kind == J_INT) *order = a->i < b->i ? -1 : a->i > b->i;
    else if (number(a, &x) && number(b, &y)) *order = x < y ? -1 : x > y ? 1 : 0;
    else if (a->kind == J_STR && b->kind == J_STR) {
        size_t n = a->str.n < b->str.n ? a->str.n : b->str.n;
        int c = n ? memcmp(a->str.s, b->str.s, n) : 0;
        *order = c < 0 ? -1 : c > 0 ? 1 : a->str.n < b->str.n ? -1 : a->str.n > b->str.n;
    } else if (a->kind == J_LIST && b->kind == J_LIST) {
        for (size_t i = 0;; i++) {
            if (i == a->list->n || i == b->list->n) {
                *order = a->list->n < b->list->n ? -1 : a->list->n > b->list->n;
                return true;
            }
            if (equal(&a->list->items[i], &b->list->items[i], 0)) continue;
            if (!cot__jinja_step(r)) return false;
            const jval *p = &a->list->items[i], *q = &b->list->items[i];
            if (p->kind == J_LIST)
                return cot__jinja_fail(r, COT_UNSUPPORTED, "lists of lists are not put in order");
            return cot__jinja_order(r, p, q, order);
        }
    } else return cot__jinja_fail(r, COT_ARGUMENT, "these two values have no order");
    return true;
}

bool cot__jinja_items(jrun *r, const jval *v, jlist *out) {
    *out = (jlist){0};
    if (v->kind == J_UNDEFINED) return true;
    if (v->kind == J_LIST) *out = *v->list;
    else if (v->kind == J_DICT) *out = (jlist){v->dict->keys, v->dict->n, false};
    else if (v->kind == J_STR) {
        jval list;
        size_t n = cot__jinja_chars(v->str), at = 0;
        if (!cot__jinja_list(r, n, &list)) return false;
        for (size_t i = 0; i < n; i++) {
            size_t len = cot__jinja_offset((jstr){v->str.s + at, v->str.n - at}, 1);
            list.list->items[i] = cot__jinja_text(v->str.s + at, len);
            at += len;
        }
        *out = *list.list;
    } else return cot__jinja_fail(r, COT_ARGUMENT, "this value cannot be iterated over");
    return true;
}

/* ---- writing ---- */

typedef enum style { AS_STR, AS_REPR, AS_JSON } style;

typedef struct writing {
    jrun *r;
    cot__buf buf;
    int indent; /* −1: on one line */
    bool sorted, failed;
} writing;

static void put(writing *w, const char *s, size_t n) {
    if (!w->failed && !cot__buf_put(&w->buf, s, n)) w->failed = true;
}
static void puts_(writing *w, const char *s) { put(w, s, strlen(s)); }

/* The shortest digits that read back the same, as Python writes them. */
static void put_float(writing *w, double f) {
    char digits[40], out[64];
    if (isnan(f) || isinf(f)) {
        puts_(w, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    for (int p = 0; p < 18; p++) {
        snprintf(digits, sizeof digits, "%.*e", p, f);
        if (strtod(digits, NULL) == f) break;
    }
    int exponent = (int)strtol(strchr(digits, 'e') + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16) {
        char *e = strchr(digits, 'e');
        snprintf(out, sizeof out, "%.*se%c%02d", (int)(e - digits), digits, exponent < 0 ? '-' : '+',
                 abs(exponent));
    } else {
        int n = (int)(strchr(digits, 'e') - digits) - (digits[0] == '-');
        int decimals = (n > 1 ? n - 2 : 0) - exponent;
        snprintf(out, sizeof out, "%.*f", decimals < 1 ? 1 : decimals, f);
    }
    puts_(w, out);
}

static void put_repr(writing *w, jstr s) {
    bool single = s.n && memchr(s.s, '\'', s.n) && !memchr(s.s, '"', s.n);
    const char *quote = single ? "\"" : "'";
    puts_(w, quote);
    for (size_t i = 0; i < s.n; i++) {
        char c = s.s[i], hex[8];
        if (c == '\\' || c == *quote) put(w, "\\", 1), put(w, &c, 1);
        else if (c == '\n') puts_(w, "\\n");
        else if (c == '\t') puts_(w, "\\t");
        else if (c == '\r') puts_(w, "\\r");
        else if ((unsigned char)c < 32 || c == 127)
            snprintf(hex, sizeof hex, "\\x%02x", (unsigned)c), puts_(w, hex);
        else put(w, &c, 1);
    }
    puts_(w, quote);
}

static void put_json(writing *w, jstr s) {
    static const char plain[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
    puts_(w, "\"");
    for (size_t i = 0; i < s.n; i++) {
        char c = s.s[i], hex[8];
        const char *p = c ? strchr(plain, c) : NULL;
        if (p) put(w, "\\", 1), put(w, &names[p - plain], 1);
        else if ((unsigned char)c < 32) snprintf(hex, sizeof hex, "\\u%04x", (unsigned)c), puts_(w, hex);
        else put(w, &c, 1);
    }
    puts_(w, "\"");
}

static void new_line(writing *w, int depth) {
    puts_(w, "\n");
    for (int i = 0; i < depth * w->indent && !w->failed; i++) puts_(w, " ");
}

static int by_key(const void *a, const void *b) {
    const jstr *x = &((const jval *)a)->str, *y = &((const jval *)b)->str;
    size_t n = x->n < y->n ? x->n : y->n;
    int c = n ? memcmp(x->s, y->s, n) : 0;
    return c ? c : x->n < y->n ? -1 : x->n > y->n;
}

static bool write_value(writing *w, const jval *v, style how, int depth);

static bool write_dict(writing *w, const jdict *d, style how, int depth) {
    jval *keys = d->keys;
    if (how == AS_JSON && w->sorted && d->n) {
        keys = cot__jinja_alloc(w->r, d->n * sizeof *keys);
        if (!keys) return false;
        memcpy(keys, d->keys, d->n * sizeof *keys);
        for (size_t i = 0; i < d->n; i++)
            if (keys[i].kind != J_STR)
                return cot__jinja_fail(w->r, COT_ARGUMENT, "keys to be sorted must be strings");
        qsort(keys, d->n, sizeof *keys, by_key);
    }
    puts_(w, "{");
    for (size_t i = 0; i < d->n; i++) {
        bool lines = how == AS_JSON && w->indent >= 0;
        if (i) puts_(w, lines ? "," : ", ");
        if (lines) new_line(w, depth + 1);
        if (how == AS_JSON && keys[i].kind != J_STR) {
            puts_(w, "\"");
            if (!write_value(w, &keys[i], AS_JSON, depth + 1)) return false;
            puts_(w, "\"");
        } else if (!write_value(w, &keys[i], how == AS_JSON ? AS_JSON : AS_REPR, depth + 1)) return false;
        puts_(w, ": ");
        if (!write_value(w, cot__jinja_get(d, &keys[i]), how == AS_JSON ? AS_JSON : AS_REPR, depth + 1))
            return false;
    }
    if (d->n && how == AS_JSON && w->indent >= 0) new_line(w, depth);
    puts_(w, "}");
    return true;
}

static bool write_list(writing *w, const jlist *l, style how, int depth) {
    bool lines = how == AS_JSON && w->indent >= 0, tuple = l->tuple && how != AS_JSON;
    puts_(w, tuple ? "(" : "[");
    for (size_t i = 0; i < l->n; i++) {
        if (i) puts_(w, lines ? "," : ", ");
        if (lines) new_line(w, depth + 1);
        if (!write_value(w, &l->items[i], how == AS_JSON ? AS_JSON : AS_REPR, depth + 1)) return false;
    }
    if (l->n && lines) new_line(w, depth);
    puts_(w, tuple ? l->n == 1 ? ",)" : ")" : "]");
    return true;
}

static bool write_value(writing *w, const jval *v, style how, int depth) {
    char text[32];
    if (depth > COT__JINJA_NESTING) return cot__jinja_fail(w->r, COT_LIMIT, "a value is nested too deeply");
    if (!cot__jinja_step(w->r)) return false;
    switch (v->kind) {
    case J_UNDEFINED:
        if (how == AS_JSON)
            return cot__jinja_fail(w->r, COT_ARGUMENT, "an undefined value cannot be written as JSON");
        if (how == AS_REPR) puts_(w, "Undefined");
        break;
    case J_NONE: puts_(w, how == AS_JSON ? "null" : "None"); break;
    case J_BOOL: puts_(w, how == AS_JSON ? (v->b ? "true" : "false") : v->b ? "True" : "False"); break;
    case J_INT:
        snprintf(text, sizeof text, "%lld", (long long)v->i);
        puts_(w, text);
        break;
    case J_FLOAT:
        if (how == AS_JSON && !isfinite(v->f))
            puts_(w, isnan(v->f) ? "NaN" : v->f < 0 ? "-Infinity" : "Infinity");
        else put_float(w, v->f);
        break;
    case J_STR:
        if (how == AS_STR) put(w, v->str.s, v->str.n);
        else if (how == AS_REPR) put_repr(w, v->str);
        else put_json(w, v->str);
        break;
    case J_LIST: return write_list(w, v->list, how, depth);
    case J_DICT: return write_dict(w, v->dict, how, depth);
    default: return cot__jinja_fail(w->r, COT_ARGUMENT, "a function, macro or loop cannot be written");
    }
    return true;
}

static bool written(jrun *r, const jval *v, style how, int indent, bool sorted, jstr *out) {
    writing w = {.r = r, .buf = {.max = COT__JINJA_MEMORY}, .indent = indent, .sorted = sorted};
    bool ok = write_value(&w, v, how, 0);
    if (ok && w.failed)
        ok = w.buf.full ? cot__jinja_fail(r, COT_LIMIT, "a value is too long to be written")
                        : cot__jinja_fail(r, COT_NO_MEMORY, "there is no memory to write a value");
    char *p = ok ? cot__jinja_alloc(r, w.buf.len + 1) : NULL;
    if (p) {
        if (w.buf.len) memcpy(p, w.buf.data, w.buf.len);
        *out = (jstr){p, w.buf.len};
    }
    cot__buf_free(&w.buf);
    return p != NULL;
}

bool cot__jinja_string(jrun *r, const jval *v, jstr *out) {
    if (v->kind == J_STR) {
        *out = v->str;
        return true;
    }
    return written(r, v, AS_STR, -1, false, out);
}

bool cot__jinja_json(jrun *r, const jval *v, int indent, bool sorted, jval *out) {
    jstr s;
    if (!written(r, v, AS_JSON, indent, sorted, &s)) return false;
    *out = (jval){.kind = J_STR, .str = s};
    return true;
}
