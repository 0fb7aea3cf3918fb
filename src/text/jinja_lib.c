/* Owns: what templates call by name: filters, tests, methods of values, global functions. The set is what the
 * templates of model families use, with Python's results. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

#include "text/jinja_ast.h"

/* ---- arguments ---- */

/* The argument of that name, or the i-th without one; NULL when absent. */
static const jval *arg(const jargs *a, int i, const char *name) {
    int at = 0;
    for (int k = 0; k < a->n; k++) {
        if (a->name[k].s ? jstr_is(a->name[k], name) : at++ == i) return &a->v[k];
    }
    return NULL;
}

static bool want_str(jrun *r, const jval *v, jstr *out) {
    *out = (jstr){"", 0};
    if (!v || v->kind != J_STR) return cot__jinja_fail(r, COT_ARGUMENT, "a string was expected");
    *out = v->str;
    return true;
}

static bool want_int(jrun *r, const jval *v, int64_t fallback, int64_t *out) {
    *out = fallback;
    if (!v || v->kind == J_NONE) return true;
    if (v->kind != J_INT) return cot__jinja_fail(r, COT_ARGUMENT, "a whole number was expected");
    *out = v->i;
    return true;
}

static jval boolean(bool b) { return (jval){.kind = J_BOOL, .b = b}; }
static jval integer(int64_t i) { return (jval){.kind = J_INT, .i = i}; }

/* ---- strings ---- */

static bool is_blank(jstr s, size_t i, size_t *len) { /* a whitespace character at byte i */
    utf8proc_int32_t c = -1;
    utf8proc_ssize_t n = utf8proc_iterate((const unsigned char *)s.s + i, (utf8proc_ssize_t)(s.n - i), &c);
    *len = n > 0 ? (size_t)n : 1;
    if (n <= 0) return false;
    if ((c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85) return true;
    utf8proc_category_t cat = utf8proc_category(c);
    return cat == UTF8PROC_CATEGORY_ZS || cat == UTF8PROC_CATEGORY_ZL || cat == UTF8PROC_CATEGORY_ZP;
}

static bool among(jstr s, size_t i, const jstr *chars, size_t *len) {
    if (!chars) return is_blank(s, i, len);
    *len = cot__jinja_offset((jstr){s.s + i, s.n - i}, 1);
    return *len <= chars->n && memmem(chars->s, chars->n, s.s + i, *len) != NULL;
}

static jstr strip(jstr s, const jstr *chars, bool left, bool right) {
    size_t from = 0, len;
    while (left && from < s.n && among(s, from, chars, &len)) from += len;
    size_t to = from;
    if (!right) to = s.n;
    for (size_t i = from; right && i < s.n; i += len)
        if (!among(s, i, chars, &len)) to = i + len;
    return (jstr){s.s + from, to - from};
}

typedef enum casing { UPPER, LOWER, CAPITALIZE, TITLE } casing;

static bool change_case(jrun *r, jstr s, casing how, jval *out) {
    if (s.n > COT__JINJA_MEMORY / 4) return cot__jinja_fail(r, COT_LIMIT, "a string is too long");
    unsigned char *p = cot__jinja_alloc(r, s.n * 4 + 4);
    size_t at = 0;
    bool inside = false; /* of a word */
    if (!p) return false;
    for (size_t i = 0; i < s.n;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n =
            utf8proc_iterate((const unsigned char *)s.s + i, (utf8proc_ssize_t)(s.n - i), &c);
        if (n <= 0) {
            p[at++] = (unsigned char)s.s[i++];
            inside = false;
            continue;
        }
        utf8proc_int32_t lower = utf8proc_tolower(c), upper = utf8proc_toupper(c);
        bool up = how == UPPER || (how == CAPITALIZE && i == 0) || (how == TITLE && !inside);
        inside = lower != upper || (how == TITLE && utf8proc_category(c) <= UTF8PROC_CATEGORY_LO &&
                                    utf8proc_category(c) >= UTF8PROC_CATEGORY_LU);
        i += (size_t)n;
        if (up && c == 0xdf) { /* the one common letter whose capital is two */
            p[at++] = 'S', p[at++] = how == UPPER ? 'S' : 's';
            continue;
        }
        at += (size_t)utf8proc_encode_char(up ? (how == UPPER ? upper : utf8proc_totitle(c)) : lower, p + at);
    }
    *out = cot__jinja_text((const char *)p, at);
    return true;
}

static bool replace(jrun *r, jstr s, jstr from, jstr to, int64_t most, jval *out) {
    size_t hits = 0, n = 0;
    if (!from.n) return cot__jinja_fail(r, COT_UNSUPPORTED, "replacing nothing is not supported");
    for (size_t i = 0; i + from.n <= s.n && (most < 0 || (int64_t)hits < most);) {
        if (memcmp(s.s + i, from.s, from.n) == 0) hits++, i += from.n;
        else i++;
    }
    if (to.n && hits > COT__JINJA_MEMORY / to.n)
        return cot__jinja_fail(r, COT_LIMIT, "a string grew too long");
    char *p = cot__jinja_alloc(r, s.n + hits * to.n + 1);
    if (!p) return false;
    for (size_t i = 0; i < s.n;) {
        if (hits && i + from.n <= s.n && memcmp(s.s + i, from.s, from.n) == 0) {
            if (to.n) memcpy(p + n, to.s, to.n);
            n += to.n, i += from.n, hits--;
        } else p[n++] = s.s[i++];
    }
    *out = cot__jinja_text(p, n);
    return true;
}

static bool split(jrun *r, jstr s, const jval *sep, int64_t most, jval *out) {
    jval list;
    size_t n = 0, from = 0, len, limit = most < 0 ? s.n + 1 : (size_t)most;
    if (sep && sep->kind != J_STR && sep->kind != J_NONE)
        return cot__jinja_fail(r, COT_ARGUMENT, "a string was expected");
    if (sep && sep->kind == J_STR && !sep->str.n)
        return cot__jinja_fail(r, COT_ARGUMENT, "an empty separator");
    if (!cot__jinja_list(r, (sep && sep->kind == J_STR ? s.n / sep->str.n : s.n / 2) + 2, &list))
        return false;
    if (sep && sep->kind == J_STR) {
        for (size_t i = 0; i + sep->str.n <= s.n && n < limit;) {
            if (memcmp(s.s + i, sep->str.s, sep->str.n) != 0) {
                i++;
                continue;
            }
            list.list->items[n++] = cot__jinja_text(s.s + from, i - from);
            from = i += sep->str.n;
        }
        list.list->items[n++] = cot__jinja_text(s.s + from, s.n - from);
    } else {
        jstr rest = strip(s, NULL, true, false);
        while (rest.n) {
            size_t i = 0;
            if (n >= limit) i = strip(rest, NULL, false, true).n;
            else
                while (i < rest.n && !is_blank(rest, i, &len)) i += len;
            list.list->items[n++] = cot__jinja_text(rest.s, i);
            rest = n > limit ? (jstr){0} : strip((jstr){rest.s + i, rest.n - i}, NULL, true, false);
        }
    }
    list.list->n = n;
    *out = list;
    return true;
}

static bool ends_or_starts(jrun *r, jstr s, const jval *with, bool end, jval *out) {
    jlist one = {(jval *)with, 1, false};
    if (!with) return cot__jinja_fail(r, COT_ARGUMENT, "a string was expected");
    if (with->kind == J_LIST) one = *with->list;
    *out = boolean(false);
    for (size_t i = 0; i < one.n; i++) {
        jstr t;
        if (!want_str(r, &one.items[i], &t)) return false;
        if (t.n <= s.n && (!t.n || memcmp(end ? s.s + s.n - t.n : s.s, t.s, t.n) == 0)) *out = boolean(true);
    }
    return true;
}

static bool join(jrun *r, const jlist *l, jstr sep, jval *out) {
    size_t n = 0, at = 0;
    jval strings;
    if (!cot__jinja_list(r, l->n, &strings)) return false;
    for (size_t i = 0; i < l->n; i++) {
        jstr s;
        if (!cot__jinja_step(r) || !cot__jinja_string(r, &l->items[i], &s)) return false;
        strings.list->items[i] = cot__jinja_text(s.s, s.n);
        n += s.n + sep.n;
        if (n > COT__JINJA_MEMORY) return cot__jinja_fail(r, COT_LIMIT, "a string grew too long");
    }
    char *p = cot__jinja_alloc(r, n + 1);
    for (size_t i = 0; p && i < l->n; i++) {
        jstr s = strings.list->items[i].str;
        if (i && sep.n) memcpy(p + at, sep.s, sep.n), at += sep.n;
        if (s.n) memcpy(p + at, s.s, s.n), at += s.n;
    }
    *out = cot__jinja_text(p, at);
    return p != NULL;
}

/* All characters satisfy a class, and there is one. */
static bool all_chars(jstr s, char class) {
    bool any = false, cased = false;
    for (size_t i = 0; i < s.n;) {
        utf8proc_int32_t c;
        size_t len;
        utf8proc_ssize_t n =
            utf8proc_iterate((const unsigned char *)s.s + i, (utf8proc_ssize_t)(s.n - i), &c);
        if (n <= 0) return false;
        utf8proc_category_t cat = utf8proc_category(c);
        bool letter = cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_LO,
             digit = cat == UTF8PROC_CATEGORY_ND;
        if (class == 'a'   ? !letter
            : class == 'd' ? !digit
            : class == 'n' ? !letter && !digit
            : class == 's' ? !is_blank(s, i, &len)
            : class == 'u' ? utf8proc_toupper(c) != c
                           : utf8proc_tolower(c) != c)
            return false;
        cased |= utf8proc_toupper(c) != utf8proc_tolower(c);
        any = true;
        i += (size_t)n;
    }
    return any && (cased || (class != 'u' && class != 'l'));
}

static bool split_lines(jrun *r, jstr s, jval *out) {
    jval list;
    size_t n = 0, from = 0;
    if (!cot__jinja_list(r, s.n + 1, &list)) return false;
    for (size_t i = 0; i < s.n; i++)
        if (s.s[i] == '\n' || s.s[i] == '\r') {
            list.list->items[n++] = cot__jinja_text(s.s + from, i - from);
            if (s.s[i] == '\r' && i + 1 < s.n && s.s[i + 1] == '\n') i++;
            from = i + 1;
        }
    if (from < s.n) list.list->items[n++] = cot__jinja_text(s.s + from, s.n - from);
    list.list->n = n;
    *out = list;
    return true;
}

static int64_t find_text(jstr s, jstr what, bool last) {
    int64_t hit = -1;
    for (size_t i = 0; i + what.n <= s.n; i++) {
        if (what.n && memcmp(s.s + i, what.s, what.n) != 0) continue;
        hit = (int64_t)cot__jinja_chars((jstr){s.s, i});
        if (!last) break;
    }
    return hit;
}

static const char *const string_methods[] = {
    "strip",   "lstrip",       "rstrip",       "split",   "startswith", "endswith", "upper",
    "lower",   "capitalize",   "title",        "replace", "find",       "rfind",    "join",
    "isdigit", "isalpha",      "isalnum",      "isspace", "isupper",    "islower",  "splitlines",
    "count",   "removeprefix", "removesuffix", "rsplit",  "format",     NULL};
static const char *const dict_methods[] = {"get", "items", "keys", "values", NULL};
static const char *const list_methods[] = {"count", "index", NULL};
static const char *const loop_methods[] = {"cycle", NULL};

static bool listed(const char *const *names, jstr name) {
    for (; *names; names++)
        if (jstr_is(name, *names)) return true;
    return false;
}

bool cot__jinja_has_method(const jval *of, jstr name) {
    switch (of->kind) {
    case J_STR: return listed(string_methods, name);
    case J_DICT: return !of->dict->is_namespace && listed(dict_methods, name);
    case J_LIST: return listed(list_methods, name);
    case J_LOOP: return listed(loop_methods, name);
    default: return false;
    }
}

/* From the right, which differs only where the number of cuts is limited. */
static bool rsplit(jrun *r, jstr s, const jval *sep, int64_t most, jval *out) {
    jval all;
    if (!split(r, s, sep, -1, &all)) return false;
    size_t n = all.list->n;
    if (most >= 0 && n > (size_t)most + 1) {
        size_t drop = n - (size_t)most - 1;
        jstr *first = &all.list->items[0].str, *end = &all.list->items[drop].str;
        first->n = (size_t)(end->s + end->n - first->s);
        memmove(all.list->items + 1, all.list->items + drop + 1, (n - drop - 1) * sizeof(jval));
        all.list->n = n - drop;
    }
    *out = all;
    return true;
}

/* "{} {1} {name} {{": plain fields, without formats of their own. */
static bool format(jrun *r, jstr s, const jargs *a, jval *out) {
    jval text = cot__jinja_text("", 0);
    int next = 0;
    for (size_t i = 0, n; i < s.n; i += n) {
        jstr part = {s.s + i, 1};
        n = 1;
        if ((s.s[i] == '{' || s.s[i] == '}') && i + 1 < s.n && s.s[i + 1] == s.s[i]) n = 2;
        else if (s.s[i] == '{') {
            const char *end = memchr(s.s + i, '}', s.n - i);
            char name[32];
            size_t len = end ? (size_t)(end - s.s) - i - 1 : sizeof name;
            if (len >= sizeof name || memchr(s.s + i + 1, ':', len) || memchr(s.s + i + 1, '.', len))
                return cot__jinja_fail(r, COT_UNSUPPORTED, "only plain fields are formatted");
            memcpy(name, s.s + i + 1, len);
            name[len] = 0;
            bool digits = len && strspn(name, "0123456789") == len;
            const jval *v = arg(a, len ? digits ? (int)strtol(name, NULL, 10) : COT__JINJA_ARGS : next++,
                                digits ? "" : name);
            if (!v) return cot__jinja_fail(r, COT_ARGUMENT, "format lacks a value");
            if (!cot__jinja_string(r, v, &part)) return false;
            n = len + 2;
        } else
            while (i + n < s.n && s.s[i + n] != '{' && s.s[i + n] != '}') part.n = ++n;
        if (!cot__jinja_step(r) || !cot__jinja_concat(r, text.str, part, &text)) return false;
    }
    *out = text;
    return true;
}

static bool string_method(jrun *r, jstr s, jstr name, const jargs *a, jval *out) {
    jstr t, u;
    int64_t n;
    const jval *first = arg(a, 0, "chars");
    if (jstr_is(name, "strip") || jstr_is(name, "lstrip") || jstr_is(name, "rstrip")) {
        bool given = first && first->kind != J_NONE;
        if (given && !want_str(r, first, &t)) return false;
        t = strip(s, given ? &t : NULL, name.s[0] != 'r', name.s[0] != 'l');
        *out = cot__jinja_text(t.s, t.n);
        return true;
    }
    if (jstr_is(name, "split") || jstr_is(name, "rsplit")) {
        if (!want_int(r, arg(a, 1, "maxsplit"), -1, &n)) return false;
        return name.s[0] == 'r' ? rsplit(r, s, arg(a, 0, "sep"), n, out)
                                : split(r, s, arg(a, 0, "sep"), n, out);
    }
    if (jstr_is(name, "startswith") || jstr_is(name, "endswith"))
        return ends_or_starts(r, s, first, name.s[0] == 'e', out);
    if (jstr_is(name, "upper")) return change_case(r, s, UPPER, out);
    if (jstr_is(name, "lower")) return change_case(r, s, LOWER, out);
    if (jstr_is(name, "capitalize")) return change_case(r, s, CAPITALIZE, out);
    if (jstr_is(name, "title")) return change_case(r, s, TITLE, out);
    if (jstr_is(name, "splitlines")) return split_lines(r, s, out);
    if (name.s[0] == 'i') {
        *out = boolean(all_chars(s, jstr_is(name, "isalnum") ? 'n' : name.s[2]));
        return true;
    }
    if (jstr_is(name, "join")) {
        jlist items;
        if (!first) return cot__jinja_fail(r, COT_ARGUMENT, "join needs a list");
        return cot__jinja_items(r, first, &items) && join(r, &items, s, out);
    }
    if (jstr_is(name, "format")) return format(r, s, a, out);
    if (!want_str(r, first, &t)) return false;
    if (jstr_is(name, "replace")) {
        if (!want_str(r, arg(a, 1, "new"), &u) || !want_int(r, arg(a, 2, "count"), -1, &n)) return false;
        return replace(r, s, t, u, n, out);
    }
    if (jstr_is(name, "removeprefix") || jstr_is(name, "removesuffix")) {
        jval hit;
        bool end = jstr_is(name, "removesuffix");
        if (!ends_or_starts(r, s, first, end, &hit)) return false;
        *out = cot__jinja_text(hit.b && !end ? s.s + t.n : s.s, hit.b ? s.n - t.n : s.n);
        return true;
    }
    if (jstr_is(name, "count")) {
        int64_t count = 0;
        if (!t.n) return cot__jinja_fail(r, COT_UNSUPPORTED, "counting nothing is not supported");
        for (size_t i = 0; i + t.n <= s.n;) {
            if (memcmp(s.s + i, t.s, t.n) == 0) count++, i += t.n;
            else i++;
        }
        *out = integer(count);
        return true;
    }
    *out = integer(find_text(s, t, jstr_is(name, "rfind")));
    return true;
}

static bool pairs(jrun *r, const jdict *d, jval *out) {
    jval list;
    if (!cot__jinja_list(r, d->n, &list)) return false;
    for (size_t i = 0; i < d->n; i++) {
        jval pair;
        if (!cot__jinja_list(r, 2, &pair)) return false;
        pair.list->tuple = true;
        pair.list->items[0] = d->keys[i];
        pair.list->items[1] = d->values[i];
        list.list->items[i] = pair;
    }
    *out = list;
    return true;
}

bool cot__jinja_method(jrun *r, const jval *of, jstr name, const jargs *a, jval *out) {
    const jval *first = arg(a, 0, "key");
    if (of->kind == J_STR) return string_method(r, of->str, name, a, out);
    if (of->kind == J_LOOP) {
        if (!a->n) return cot__jinja_fail(r, COT_ARGUMENT, "cycle needs values");
        *out = a->v[of->loop->index % (size_t)a->n];
        return true;
    }
    if (of->kind == J_LIST) {
        int64_t hits = 0, at = -1;
        for (size_t i = 0; first && i < of->list->n; i++)
            if (cot__jinja_equal(&of->list->items[i], first) && hits++ == 0) at = (int64_t)i;
        if (!first || (at < 0 && name.s[0] == 'i'))
            return cot__jinja_fail(r, COT_ARGUMENT, "is not in the list");
        *out = integer(name.s[0] == 'i' ? at : hits);
        return true;
    }
    const jdict *d = of->dict;
    if (jstr_is(name, "items")) return pairs(r, d, out);
    if (jstr_is(name, "get")) {
        const jval *v = first ? cot__jinja_get(d, first) : NULL, *other = arg(a, 1, "default");
        if (!first) return cot__jinja_fail(r, COT_ARGUMENT, "get needs a key");
        *out = v ? *v : other ? *other : (jval){.kind = J_NONE};
        return true;
    }
    jval list;
    if (!cot__jinja_list(r, d->n, &list)) return false;
    if (d->n) memcpy(list.list->items, name.s[0] == 'k' ? d->keys : d->values, d->n * sizeof(jval));
    *out = list;
    return true;
}

static bool loop_attribute(const jloop *l, jstr name, jval *out) {
    size_t i = l->index, n = l->items->n;
    if (jstr_is(name, "index")) *out = integer((int64_t)i + 1);
    else if (jstr_is(name, "index0")) *out = integer((int64_t)i);
    else if (jstr_is(name, "revindex")) *out = integer((int64_t)(n - i));
    else if (jstr_is(name, "revindex0")) *out = integer((int64_t)(n - i - 1));
    else if (jstr_is(name, "first")) *out = boolean(i == 0);
    else if (jstr_is(name, "last")) *out = boolean(i + 1 == n);
    else if (jstr_is(name, "length")) *out = integer((int64_t)n);
    else if (jstr_is(name, "previtem") && i) *out = l->items->items[i - 1];
    else if (jstr_is(name, "nextitem") && i + 1 < n) *out = l->items->items[i + 1];
    else return false;
    return true;
}

bool cot__jinja_attribute(jrun *r, const jval *v, jstr name, jval *out) {
    *out = (jval){.kind = J_UNDEFINED, .str = name};
    if (v->kind == J_LOOP && loop_attribute(v->loop, name, out)) return true;
    if (cot__jinja_has_method(v, name)) { /* as Jinja: attributes before items */
        jmethod *m = cot__jinja_alloc(r, sizeof *m);
        if (!m) return false;
        *m = (jmethod){*v, name};
        *out = (jval){.kind = J_METHOD, .method = m};
        return true;
    }
    if (v->kind != J_DICT) return true;
    const jval *x = cot__jinja_member(v->dict, name);
    if (x) *out = *x;
    return true;
}

/* ---- tests ---- */

bool cot__jinja_test(jrun *r, jstr name, const jval *v, const jargs *a, bool *out) {
    static const struct {
        const char *name;
        unsigned kinds;
    } by_kind[] = {{"none", 1u << J_NONE},
                   {"undefined", 1u << J_UNDEFINED},
                   {"string", 1u << J_STR},
                   {"boolean", 1u << J_BOOL},
                   {"integer", 1u << J_INT},
                   {"float", 1u << J_FLOAT},
                   {"number", 1u << J_INT | 1u << J_FLOAT | 1u << J_BOOL},
                   {"mapping", 1u << J_DICT},
                   {"sequence", 1u << J_LIST | 1u << J_STR | 1u << J_DICT},
                   {"iterable", 1u << J_LIST | 1u << J_STR | 1u << J_DICT | 1u << J_UNDEFINED},
                   {"callable", 1u << J_MACRO | 1u << J_FUNCTION | 1u << J_METHOD}};
    static const char *const orders[] = {"eq",       "==", "equalto", "ne",          "!=", "lt",
                                         "lessthan", "le", "gt",      "greaterthan", "ge", NULL};
    const jval *other = arg(a, 0, "other");
    int order = 0;
    for (size_t i = 0; i < sizeof by_kind / sizeof *by_kind; i++)
        if (jstr_is(name, by_kind[i].name)) {
            *out = by_kind[i].kinds >> v->kind & 1;
            return true;
        }
    if (jstr_is(name, "defined")) *out = v->kind != J_UNDEFINED;
    else if (jstr_is(name, "true")) *out = v->kind == J_BOOL && v->b;
    else if (jstr_is(name, "false")) *out = v->kind == J_BOOL && !v->b;
    else if (jstr_is(name, "lower") || jstr_is(name, "upper"))
        *out = v->kind == J_STR && all_chars(v->str, name.s[0]);
    else if (jstr_is(name, "odd") || jstr_is(name, "even")) {
        if (v->kind != J_INT) return cot__jinja_fail(r, COT_ARGUMENT, "a whole number was expected");
        *out = (v->i % 2 != 0) == (name.s[0] == 'o');
    } else if (!other)
        return cot__jinja_fail(r, COT_UNSUPPORTED, "no test is named \"%.*s\"", (int)name.n, name.s);
    else if (jstr_is(name, "in")) {
        jlist items;
        *out = false;
        if (other->kind == J_STR && v->kind == J_STR) {
            *out = find_text(other->str, v->str, false) >= 0;
            return true;
        }
        if (!cot__jinja_items(r, other, &items)) return false;
        for (size_t i = 0; i < items.n && !*out; i++) *out = cot__jinja_equal(&items.items[i], v);
    } else if (jstr_is(name, "sameas")) *out = v->kind == other->kind && cot__jinja_equal(v, other);
    else if (jstr_is(name, "divisibleby")) {
        if (v->kind != J_INT || other->kind != J_INT || other->i == 0 || other->i == -1)
            return cot__jinja_fail(r, COT_ARGUMENT, "whole numbers were expected");
        *out = v->i % other->i == 0;
    } else if (!listed(orders, name))
        return cot__jinja_fail(r, COT_UNSUPPORTED, "no test is named \"%.*s\"", (int)name.n, name.s);
    else if (name.s[0] == 'e' || name.s[0] == '=') *out = cot__jinja_equal(v, other);
    else if (name.s[0] == 'n' || name.s[0] == '!') *out = !cot__jinja_equal(v, other);
    else {
        if (!cot__jinja_order(r, v, other, &order)) return false;
        bool with = jstr_is(name, "le") || jstr_is(name, "ge");
        *out = (with && !order) || (name.s[0] == 'l' ? order < 0 : order > 0);
    }
    return true;
}

/* ---- filters over lists ---- */

/* a.b.0 of a value */
static bool path(jrun *r, const jval *v, const jval *attribute, jval *out) {
    *out = *v;
    if (attribute->kind == J_INT) {
        jlist items;
        if (!cot__jinja_items(r, v, &items)) return false;
        *out = attribute->i >= 0 && (size_t)attribute->i < items.n ? items.items[attribute->i]
                                                                   : (jval){.kind = J_UNDEFINED};
        return true;
    }
    jstr s;
    if (!want_str(r, attribute, &s)) return false;
    for (size_t i = 0, from = 0; i <= s.n; i++) {
        if (i < s.n && s.s[i] != '.') continue;
        jstr part = {s.s + from, i - from};
        jval whole = *out;
        from = i + 1;
        bool digits = part.n && part.n < 9 && all_chars(part, 'd');
        *out = (jval){.kind = J_UNDEFINED, .str = part};
        if (whole.kind == J_DICT) {
            const jval *x = cot__jinja_member(whole.dict, part);
            if (x) *out = *x;
        } else if (digits && whole.kind == J_LIST) {
            size_t at = 0;
            for (size_t k = 0; k < part.n; k++) at = at * 10 + (size_t)(part.s[k] - '0');
            if (at < whole.list->n) *out = whole.list->items[at];
        } else if (whole.kind == J_LOOP && !cot__jinja_attribute(r, &whole, part, out)) return false;
    }
    return true;
}

static jargs rest(const jargs *a, int from) {
    jargs b = {.n = 0};
    for (int i = from; i < a->n; i++) b.v[b.n] = a->v[i], b.name[b.n++] = a->name[i];
    return b;
}

/* select, reject, selectattr, rejectattr */
static bool select_items(jrun *r, jstr name, const jlist *items, const jargs *a, jval *out) {
    bool reject = name.s[0] == 'r', attr = name.n == 10;
    int at = attr ? 1 : 0;
    jval list;
    jargs more = rest(a, at + 1);
    if (attr && !a->n) return cot__jinja_fail(r, COT_ARGUMENT, "an attribute is missing");
    if (!cot__jinja_list(r, items->n, &list)) return false;
    size_t n = 0;
    for (size_t i = 0; i < items->n; i++) {
        jval v = items->items[i];
        bool holds;
        jstr test;
        if (!cot__jinja_step(r) || (attr && !path(r, &items->items[i], &a->v[0], &v))) return false;
        if (a->n > at) {
            if (!want_str(r, &a->v[at], &test) || !cot__jinja_test(r, test, &v, &more, &holds)) return false;
        } else holds = cot__jinja_truth(&v);
        if (holds != reject) list.list->items[n++] = items->items[i];
    }
    list.list->n = n;
    *out = list;
    return true;
}

static bool map_items(jrun *r, const jlist *items, const jargs *a, jval *out) {
    const jval *attribute = NULL, *other = NULL;
    jargs more = rest(a, 1);
    jval list;
    jstr name = {0};
    for (int i = 0; i < a->n; i++) {
        if (a->name[i].s && jstr_is(a->name[i], "attribute")) attribute = &a->v[i];
        if (a->name[i].s && jstr_is(a->name[i], "default")) other = &a->v[i];
    }
    if (!attribute && !want_str(r, arg(a, 0, "filter"), &name)) return false;
    if (!cot__jinja_list(r, items->n, &list)) return false;
    for (size_t i = 0; i < items->n; i++) {
        jval *to = &list.list->items[i];
        if (!cot__jinja_step(r)) return false;
        if (!(attribute ? path(r, &items->items[i], attribute, to)
                        : cot__jinja_filter(r, name, &items->items[i], &more, to)))
            return false;
        if (attribute && other && to->kind == J_UNDEFINED) *to = *other;
    }
    *out = list;
    return true;
}

/* Letters without regard to case, as Jinja sorts. */
static bool sort_key(jrun *r, const jval *v, const jval *attribute, bool sensitive, jval *out) {
    jval key = *v;
    if (attribute && attribute->kind != J_NONE && !path(r, v, attribute, &key)) return false;
    if (key.kind == J_STR && !sensitive) return change_case(r, key.str, LOWER, out);
    *out = key;
    return true;
}

/* Stable, by merging. */
static bool sort_items(jrun *r, jval *items, jval *keys, size_t n, bool reverse) {
    jval list;
    if (n < 2) return true;
    if (!cot__jinja_list(r, 2 * n, &list)) return false;
    jval *a = items, *ka = keys, *b = list.list->items, *kb = b + n;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = lo + width < n ? lo + width : n, hi = lo + 2 * width < n ? lo + 2 * width : n,
                   i = lo, j = mid;
            for (size_t k = lo; k < hi; k++) {
                int order = 0;
                if (!cot__jinja_step(r) ||
                    (i < mid && j < hi && !cot__jinja_order(r, &ka[i], &ka[j], &order)))
                    return false;
                bool left = j >= hi || (i < mid && (reverse ? order >= 0 : order <= 0));
                size_t from = left ? i++ : j++;
                b[k] = a[from], kb[k] = ka[from];
            }
        }
        jval *t = a, *tk = ka;
        a = b, ka = kb, b = t, kb = tk;
    }
    if (a != items) memcpy(items, a, n * sizeof *a);
    return true;
}

static bool sorted(jrun *r, const jlist *items, const jargs *a, const jval *attribute, bool sensitive,
                   jval *out) {
    const jval *reverse = arg(a, 0, "reverse");
    jval list, keys;
    if (!cot__jinja_list(r, items->n, &list) || !cot__jinja_list(r, items->n, &keys)) return false;
    for (size_t i = 0; i < items->n; i++) {
        list.list->items[i] = items->items[i];
        if (!sort_key(r, &items->items[i], attribute, sensitive, &keys.list->items[i])) return false;
    }
    *out = list;
    return sort_items(r, list.list->items, keys.list->items, items->n, reverse && cot__jinja_truth(reverse));
}

static bool unique(jrun *r, const jlist *items, const jargs *a, jval *out) {
    jval list, keys;
    size_t n = 0;
    if (!cot__jinja_list(r, items->n, &list) || !cot__jinja_list(r, items->n, &keys)) return false;
    for (size_t i = 0; i < items->n; i++) {
        bool seen = false;
        jval *key = &keys.list->items[n];
        if (!sort_key(r, &items->items[i], arg(a, 1, "attribute"), false, key)) return false;
        for (size_t k = 0; k < n && !seen; k++) {
            if (!cot__jinja_step(r)) return false;
            seen = cot__jinja_equal(&keys.list->items[k], key);
        }
        if (!seen) list.list->items[n++] = items->items[i];
    }
    list.list->n = n;
    *out = list;
    return true;
}

static bool extreme(jrun *r, const jlist *items, bool max, const jval *attribute, jval *out) {
    *out = (jval){.kind = J_UNDEFINED};
    jval best = {.kind = J_UNDEFINED}, key;
    for (size_t i = 0; i < items->n; i++) {
        int order = 0;
        if (!cot__jinja_step(r) || !sort_key(r, &items->items[i], attribute, false, &key)) return false;
        if (i && !cot__jinja_order(r, &key, &best, &order)) return false;
        if (i && (max ? order <= 0 : order >= 0)) continue;
        best = key;
        *out = items->items[i];
    }
    return true;
}

static bool sum(jrun *r, const jlist *items, const jval *attribute, jval *out) {
    int64_t whole = 0;
    double real = 0;
    bool is_real = false;
    for (size_t i = 0; i < items->n; i++) {
        jval v = items->items[i];
        if (!cot__jinja_step(r) || (attribute && !path(r, &items->items[i], attribute, &v))) return false;
        if (v.kind == J_FLOAT) is_real = true, real += v.f;
        else if (v.kind != J_INT || __builtin_add_overflow(whole, v.i, &whole))
            return cot__jinja_fail(r, COT_ARGUMENT, "numbers were expected");
    }
    *out = is_real ? (jval){.kind = J_FLOAT, .f = real + (double)whole} : integer(whole);
    return true;
}

static bool batch(jrun *r, const jlist *items, const jargs *a, jval *out) {
    int64_t size;
    const jval *fill = arg(a, 1, "fill_with");
    jval list;
    if (!want_int(r, arg(a, 0, "linecount"), 0, &size)) return false;
    if (size < 1 || size > COT__JINJA_RANGE) return cot__jinja_fail(r, COT_ARGUMENT, "batches need a size");
    size_t n = (items->n + (size_t)size - 1) / (size_t)size;
    if (!cot__jinja_list(r, n, &list)) return false;
    for (size_t b = 0; b < n; b++) {
        size_t from = b * (size_t)size,
               count = items->n - from < (size_t)size ? items->n - from : (size_t)size;
        jval *to = &list.list->items[b];
        if (!cot__jinja_list(r, fill && fill->kind != J_NONE ? (size_t)size : count, to)) return false;
        for (size_t i = 0; i < to->list->n; i++)
            to->list->items[i] = i < count ? items->items[from + i] : *fill;
    }
    *out = list;
    return true;
}

static bool list_filter(jrun *r, jstr name, const jval *v, const jargs *a, jval *out, bool *known) {
    static const char *const names[] = {"first",      "last",       "list",    "join",  "select",   "reject",
                                        "selectattr", "rejectattr", "map",     "sort",  "unique",   "max",
                                        "min",        "sum",        "reverse", "batch", "dictsort", NULL};
    jlist items;
    *known = listed(names, name);
    if (!*known) return true;
    if (jstr_is(name, "dictsort")) {
        jval all;
        jval zero = integer(0);
        if (v->kind != J_DICT) return cot__jinja_fail(r, COT_ARGUMENT, "a mapping was expected");
        return pairs(r, v->dict, &all) && sorted(r, all.list, &(jargs){.n = 0}, &zero, false, out);
    }
    bool picks = jstr_is(name, "map") || name.s[0] == 's' || (name.s[0] == 'r' && name.s[2] == 'j');
    if (picks && v->kind == J_NONE) items = (jlist){0}; /* as Jinja has it */
    else if (!cot__jinja_items(r, v, &items)) return false;
    *out = (jval){.kind = J_UNDEFINED};
    if (jstr_is(name, "first") || jstr_is(name, "last")) {
        if (items.n) *out = items.items[name.s[0] == 'f' ? 0 : items.n - 1];
        return true;
    }
    if (jstr_is(name, "join")) {
        const jval *d = arg(a, 0, "d"), *attribute = arg(a, 1, "attribute");
        jstr sep = {"", 0};
        jval mapped;
        if (attribute) {
            jargs by = {.n = 1, .v = {*attribute}, .name = {{"attribute", 9}}};
            if (!map_items(r, &items, &by, &mapped)) return false;
            items = *mapped.list;
        }
        return (!d || want_str(r, d, &sep)) && join(r, &items, sep, out);
    }
    if (jstr_is(name, "map")) return map_items(r, &items, a, out);
    if (jstr_is(name, "sort")) {
        const jval *sensitive = arg(a, 1, "case_sensitive");
        return sorted(r, &items, a, arg(a, 2, "attribute"), sensitive && cot__jinja_truth(sensitive), out);
    }
    if (jstr_is(name, "unique")) return unique(r, &items, a, out);
    if (jstr_is(name, "sum")) return sum(r, &items, arg(a, 0, "attribute"), out);
    if (jstr_is(name, "batch")) return batch(r, &items, a, out);
    if (jstr_is(name, "max") || jstr_is(name, "min"))
        return extreme(r, &items, name.s[1] == 'a', arg(a, 1, "attribute"), out);
    if (name.s[0] == 's' || (name.s[0] == 'r' && name.s[2] == 'j'))
        return select_items(r, name, &items, a, out);
    jval list;
    if (!cot__jinja_list(r, items.n, &list)) return false;
    bool reverse = name.s[0] == 'r';
    for (size_t i = 0; i < items.n; i++) list.list->items[i] = items.items[reverse ? items.n - 1 - i : i];
    *out = list;
    return !reverse || v->kind != J_STR || join(r, list.list, (jstr){"", 0}, out);
}

/* ---- filters over one value ---- */

static bool indent(jrun *r, jstr s, const jargs *a, jval *out) {
    int64_t width = 4;
    const jval *w = arg(a, 0, "width"), *first = arg(a, 1, "first"), *blank = arg(a, 2, "blank");
    jstr by = {0};
    bool start = first && cot__jinja_truth(first), all = blank && cot__jinja_truth(blank);
    char spaces[64];
    memset(spaces, ' ', sizeof spaces);
    if (w && w->kind == J_STR) by = w->str;
    else {
        if (!want_int(r, w, 4, &width)) return false;
        if (width < 0 || width > 64) return cot__jinja_fail(r, COT_LIMIT, "an indent is 0 to 64 wide");
        by = (jstr){spaces, (size_t)width};
    }
    size_t lines = 1, n = 0;
    for (size_t i = 0; i < s.n; i++) lines += s.s[i] == '\n';
    if (by.n && lines > COT__JINJA_MEMORY / by.n)
        return cot__jinja_fail(r, COT_LIMIT, "a string grew too long");
    char *p = cot__jinja_alloc(r, s.n + lines * by.n + 1);
    if (!p) return false;
    for (size_t i = 0; i < s.n; i++) {
        bool begins = i ? s.s[i - 1] == '\n' : start;
        if (begins && (all || s.s[i] != '\n' || !i)) memcpy(p + n, by.s, by.n), n += by.n;
        p[n++] = s.s[i];
    }
    *out = cot__jinja_text(p, n);
    return true;
}

static bool to_number(const jval *v, double *x) {
    *x = 0;
    char text[64], *end;
    if (v->kind == J_INT) *x = (double)v->i;
    else if (v->kind == J_BOOL) *x = v->b;
    else if (v->kind == J_FLOAT) *x = v->f;
    else {
        jstr s = v->kind == J_STR ? strip(v->str, NULL, true, true) : (jstr){0};
        if (!s.n || s.n >= sizeof text) return false;
        memcpy(text, s.s, s.n);
        text[s.n] = 0;
        *x = strtod(text, &end);
        if (*end) return false;
    }
    return true;
}

static bool number_filter(jrun *r, jstr name, const jval *v, const jargs *a, jval *out) {
    double x;
    int64_t digits;
    const jval *other = arg(a, 0, "default");
    bool ok = to_number(v, &x);
    if (jstr_is(name, "int")) {
        if (v->kind == J_INT) *out = *v;
        else *out = ok && fabs(x) < 9e18 ? integer((int64_t)x) : other ? *other : integer(0);
        return true;
    }
    if (jstr_is(name, "float")) {
        *out = ok ? (jval){.kind = J_FLOAT, .f = x} : other ? *other : (jval){.kind = J_FLOAT};
        return true;
    }
    if (!ok || v->kind == J_STR) return cot__jinja_fail(r, COT_ARGUMENT, "a number was expected");
    if (jstr_is(name, "abs")) {
        *out = v->kind == J_FLOAT ? (jval){.kind = J_FLOAT, .f = fabs(x)} : *v;
        if (v->kind == J_INT && v->i == INT64_MIN)
            return cot__jinja_fail(r, COT_LIMIT, "a number is too large");
        if (v->kind == J_INT && v->i < 0) out->i = -v->i;
        return true;
    }
    if (!want_int(r, arg(a, 0, "precision"), 0, &digits)) return false;
    if (digits < 0 || digits > 15) return cot__jinja_fail(r, COT_ARGUMENT, "0 to 15 digits can be kept");
    char text[400];
    snprintf(text, sizeof text, "%.*f", (int)digits, x); /* ties to even, as Python */
    *out = (jval){.kind = J_FLOAT, .f = strtod(text, NULL)};
    return true;
}

static bool json_filter(jrun *r, const jval *v, const jargs *a, jval *out) {
    const jval *sort = NULL, *width = NULL;
    int64_t n = -1;
    for (int i = 0; i < a->n; i++) {
        if (a->name[i].s && jstr_is(a->name[i], "sort_keys")) sort = &a->v[i];
        if (a->name[i].s && jstr_is(a->name[i], "indent")) width = &a->v[i];
    }
    if (!width) width = arg(a, 1, "indent");
    if (!want_int(r, width, -1, &n)) return false;
    if (n > 64) return cot__jinja_fail(r, COT_LIMIT, "an indent is at most 64 wide");
    return cot__jinja_json(r, v, (int)(n < -1 ? -1 : n), sort && cot__jinja_truth(sort), out);
}

static bool length(jrun *r, const jval *v, jval *out) {
    if (v->kind == J_STR) *out = integer((int64_t)cot__jinja_chars(v->str));
    else if (v->kind == J_LIST) *out = integer((int64_t)v->list->n);
    else if (v->kind == J_DICT) *out = integer((int64_t)v->dict->n);
    else if (v->kind == J_UNDEFINED) *out = integer(0);
    else return cot__jinja_fail(r, COT_ARGUMENT, "this value has no length");
    return true;
}

static bool text_filter(jrun *r, jstr name, const jval *v, const jargs *a, jval *out) {
    jstr s, from, to;
    int64_t n;
    const jval *chars = arg(a, 0, "chars");
    if (!cot__jinja_string(r, v, &s)) return false;
    if (jstr_is(name, "string") || jstr_is(name, "safe")) *out = cot__jinja_text(s.s, s.n);
    else if (jstr_is(name, "trim")) {
        if (chars && !want_str(r, chars, &from)) return false;
        s = strip(s, chars ? &from : NULL, true, true);
        *out = cot__jinja_text(s.s, s.n);
    } else if (jstr_is(name, "upper")) return change_case(r, s, UPPER, out);
    else if (jstr_is(name, "lower")) return change_case(r, s, LOWER, out);
    else if (jstr_is(name, "capitalize")) return change_case(r, s, CAPITALIZE, out);
    else if (jstr_is(name, "title")) return change_case(r, s, TITLE, out);
    else if (jstr_is(name, "indent")) return indent(r, s, a, out);
    else if (jstr_is(name, "replace")) {
        if (!want_str(r, arg(a, 0, "old"), &from) || !want_str(r, arg(a, 1, "new"), &to) ||
            !want_int(r, arg(a, 2, "count"), -1, &n))
            return false;
        return replace(r, s, from, to, n, out);
    } else return cot__jinja_fail(r, COT_UNSUPPORTED, "no filter is named \"%.*s\"", (int)name.n, name.s);
    return true;
}

bool cot__jinja_filter(jrun *r, jstr name, const jval *v, const jargs *a, jval *out) {
    static const char *const numbers[] = {"int", "float", "abs", "round", NULL};
    bool known;
    if (!cot__jinja_step(r)) return false;
    if (jstr_is(name, "default") || jstr_is(name, "d")) {
        const jval *other = arg(a, 0, "default_value"), *also = arg(a, 1, "boolean");
        bool missing = v->kind == J_UNDEFINED || (also && cot__jinja_truth(also) && !cot__jinja_truth(v));
        *out = !missing ? *v : other ? *other : cot__jinja_text("", 0);
        return true;
    }
    if (jstr_is(name, "length") || jstr_is(name, "count")) return length(r, v, out);
    if (jstr_is(name, "tojson")) return json_filter(r, v, a, out);
    if (jstr_is(name, "items")) {
        if (v->kind == J_UNDEFINED) return cot__jinja_list(r, 0, out);
        if (v->kind != J_DICT) return cot__jinja_fail(r, COT_ARGUMENT, "a mapping was expected");
        return pairs(r, v->dict, out);
    }
    if (jstr_is(name, "attr")) {
        jstr s;
        if (!want_str(r, arg(a, 0, "name"), &s) || !cot__jinja_attribute(r, v, s, out)) return false;
        if (v->kind == J_DICT && out->kind != J_METHOD) *out = (jval){.kind = J_UNDEFINED, .str = s};
        return true; /* an attribute is no item */
    }
    if (listed(numbers, name)) return number_filter(r, name, v, a, out);
    if (!list_filter(r, name, v, a, out, &known)) return false;
    return known || text_filter(r, name, v, a, out);
}

/* ---- global functions ---- */

static const char *const functions[] = {"raise_exception", "strftime_now", "range",
                                        "namespace",       "dict",         NULL};

bool cot__jinja_is_function(jstr name) { return listed(functions, name); }

static bool range(jrun *r, const jargs *a, jval *out) {
    int64_t from = 0, to, step = 1, span;
    if (!a->n || a->n > 3) return cot__jinja_fail(r, COT_ARGUMENT, "range takes one to three numbers");
    if (!want_int(r, &a->v[a->n > 1], 0, &to) || (a->n > 1 && !want_int(r, &a->v[0], 0, &from)) ||
        (a->n > 2 && !want_int(r, &a->v[2], 1, &step)))
        return false;
    if (step == 0 || step == INT64_MIN || __builtin_sub_overflow(to, from, &span))
        return cot__jinja_fail(r, COT_ARGUMENT, "a range that has no end");
    int64_t n = step > 0 ? (span > 0 ? (span - 1) / step + 1 : 0) : (span < 0 ? (span + 1) / step + 1 : 0);
    if (n > COT__JINJA_RANGE)
        return cot__jinja_fail(r, COT_LIMIT, "a range has at most %d numbers", COT__JINJA_RANGE);
    jval list;
    if (!cot__jinja_list(r, (size_t)n, &list)) return false;
    for (int64_t i = 0; i < n; i++) list.list->items[i] = integer(from + i * step);
    *out = list;
    return true;
}

bool cot__jinja_function(jrun *r, jstr name, const jargs *a, jval *out) {
    if (jstr_is(name, "range")) return range(r, a, out);
    if (jstr_is(name, "raise_exception")) {
        jstr s = {"", 0};
        if (a->n && !cot__jinja_string(r, &a->v[0], &s)) return false;
        return cot__jinja_fail(r, COT_ARGUMENT, "the template says: %.*s", s.n > 200 ? 200 : (int)s.n, s.s);
    }
    if (jstr_is(name, "strftime_now")) {
        jstr s;
        char format[128], *text = cot__jinja_alloc(r, 256);
        time_t now = time(NULL);
        struct tm tm;
        if (!text || !want_str(r, arg(a, 0, "format"), &s)) return false;
        if (!s.n || s.n >= sizeof format || !localtime_r(&now, &tm))
            return cot__jinja_fail(r, COT_ARGUMENT, "this is no format of a time");
        memcpy(format, s.s, s.n);
        format[s.n] = 0;
        *out = cot__jinja_text(text, strftime(text, 256, format, &tm));
        return true;
    }
    jdict *d = cot__jinja_alloc(r, sizeof *d);
    if (!d) return false;
    *d = (jdict){.is_namespace = name.s[0] == 'n'};
    for (int i = 0; i < a->n; i++) {
        jval key = {.kind = J_STR, .str = a->name[i]};
        if (!a->name[i].s && a->v[i].kind == J_DICT) { /* of another one */
            for (size_t k = 0; k < a->v[i].dict->n; k++)
                if (!cot__jinja_put(r, d, &a->v[i].dict->keys[k], &a->v[i].dict->values[k])) return false;
        } else if (!a->name[i].s) return cot__jinja_fail(r, COT_ARGUMENT, "values need names here");
        else if (!cot__jinja_put(r, d, &key, &a->v[i])) return false;
    }
    *out = (jval){.kind = J_DICT, .dict = d};
    return true;
}
