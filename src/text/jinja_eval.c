/* Owns: rendering: statements, expressions, scopes. Every value lives in one arena of bounded size; steps,
 * depth and output are bounded, so that a template ends. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "text/jinja_ast.h"

typedef struct jvar {
    jstr name;
    jval value;
} jvar;
struct jscope {
    jscope *up;
    jvar *vars;
    size_t n, cap;
};

static bool eval(jrun *r, const jnode *x, jval *out);
static bool exec(jrun *r, const jnode *x);

bool cot__jinja_fail(jrun *r, cot_status status, const char *fmt, ...) {
    if (r->status != COT_OK) return false;
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r->status = cot__fail(r->err, status, r->t->file, "template", "line %d: %s", r->line, text);
    return false;
}

void *cot__jinja_alloc(jrun *r, size_t bytes) {
    void *p = cot__arena_alloc(r->arena, bytes ? bytes : 1);
    if (!p && cot__arena_used(r->arena) + bytes > COT__JINJA_MEMORY)
        cot__jinja_fail(r, COT_LIMIT, "the values take more than %d MiB", COT__JINJA_MEMORY >> 20);
    else if (!p && r->status == COT_OK) r->status = cot__fail_memory(r->err, bytes);
    return p;
}

bool cot__jinja_step(jrun *r) {
    if (++r->steps <= COT__JINJA_STEPS) return r->status == COT_OK;
    return cot__jinja_fail(r, COT_LIMIT, "the template takes more than %d steps", COT__JINJA_STEPS);
}

/* ---- scopes ---- */

static jval *find_in(jscope *s, jstr name) {
    for (size_t i = s->n; i-- > 0;)
        if (s->vars[i].name.n == name.n && memcmp(s->vars[i].name.s, name.s, name.n) == 0)
            return &s->vars[i].value;
    return NULL;
}

static jval *find(jscope *s, jstr name) {
    jval *v = NULL;
    for (; s && !v; s = s->up) v = find_in(s, name);
    return v;
}

static bool assign(jrun *r, jscope *s, jstr name, const jval *v) {
    jval *old = find_in(s, name);
    if (old) {
        *old = *v;
        return true;
    }
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 8;
        jvar *p = cot__jinja_alloc(r, cap * sizeof *p);
        if (!p) return false;
        if (s->n) memcpy(p, s->vars, s->n * sizeof *p);
        s->vars = p, s->cap = cap;
    }
    s->vars[s->n++] = (jvar){name, *v};
    return true;
}

static bool bind(jrun *r, const jnode *to, const jval *v) {
    if (to->op == JN_NAME) return assign(r, r->scope, to->name, v);
    if (to->op == JN_ATTR) {
        jval *ns = find(r->scope, to->kids[0]->name);
        if (!ns || ns->kind != J_DICT || !ns->dict->is_namespace)
            return cot__jinja_fail(r, COT_ARGUMENT, "attributes can be set of a namespace alone");
        jval key = {.kind = J_STR, .str = to->name};
        return cot__jinja_put(r, ns->dict, &key, v);
    }
    jlist items;
    if (!cot__jinja_items(r, v, &items)) return false;
    if (items.n != (size_t)to->n)
        return cot__jinja_fail(r, COT_ARGUMENT, "%d names for %zu values", to->n, items.n);
    for (int i = 0; i < to->n; i++)
        if (!bind(r, to->kids[i], &items.items[i])) return false;
    return true;
}

/* ---- operators ---- */

static bool is_number(const jval *v) { return v->kind == J_INT || v->kind == J_FLOAT || v->kind == J_BOOL; }
static double real(const jval *v) {
    return v->kind == J_FLOAT ? v->f : v->kind == J_INT ? (double)v->i : v->b;
}
static int64_t whole(const jval *v) { return v->kind == J_INT ? v->i : v->b; }

static bool int_op(jrun *r, char op, bool twice, int64_t a, int64_t b, jval *out) {
    int64_t x = 0;
    bool over = false;
    if (op == '+') over = __builtin_add_overflow(a, b, &x);
    else if (op == '-') over = __builtin_sub_overflow(a, b, &x);
    else if (op == '*' && !twice) over = __builtin_mul_overflow(a, b, &x);
    else if (op == '*') {
        x = 1;
        for (int64_t i = 0; i < b && !over && x != 0 && (x != 1 || a != 1); i++)
            over = __builtin_mul_overflow(x, a, &x) || i > 64;
    } else if (b == 0) return cot__jinja_fail(r, COT_ARGUMENT, "division by zero");
    else if (b == -1) over = op == '%' ? false : __builtin_sub_overflow((int64_t)0, a, &x);
    else { /* rounded down, as Python does */ int64_t q = a / b, m = a % b;
        if (m && (m < 0) != (b < 0)) q--, m += b;
        x = op == '%' ? m : q;
    }
    if (over) return cot__jinja_fail(r, COT_LIMIT, "a number became too large");
    *out = (jval){.kind = J_INT, .i = x};
    return true;
}

static bool float_op(jrun *r, jstr op, double a, double b, jval *out) {
    double x;
    if (jstr_is(op, "+")) x = a + b;
    else if (jstr_is(op, "-")) x = a - b;
    else if (jstr_is(op, "*")) x = a * b;
    else if (jstr_is(op, "**")) x = pow(a, b);
    else if (b == 0) return cot__jinja_fail(r, COT_ARGUMENT, "division by zero");
    else if (jstr_is(op, "/")) x = a / b;
    else if (jstr_is(op, "//")) x = floor(a / b);
    else x = a - b * floor(a / b);
    *out = (jval){.kind = J_FLOAT, .f = x};
    return true;
}

static bool repeat(jrun *r, const jval *v, int64_t times, jval *out) {
    size_t n = v->kind == J_STR ? v->str.n : v->list->n, total;
    if (times < 0) times = 0;
    if (cot__mul_overflow(n, (size_t)times, &total) || total > COT__JINJA_MEMORY / sizeof(jval))
        return cot__jinja_fail(r, COT_LIMIT, "a repetition grew too long");
    if (v->kind == J_STR) {
        char *p = cot__jinja_alloc(r, total + 1);
        for (size_t i = 0; p && n && i < total; i += n) memcpy(p + i, v->str.s, n);
        *out = cot__jinja_text(p, total);
        return p != NULL;
    }
    jval list;
    if (!cot__jinja_list(r, total, &list)) return false;
    for (size_t i = 0; i < total; i++) list.list->items[i] = v->list->items[i % n];
    *out = list;
    return true;
}

static bool add_lists(jrun *r, const jlist *a, const jlist *b, jval *out) {
    jval list;
    if (!cot__jinja_list(r, a->n + b->n, &list)) return false;
    if (a->n) memcpy(list.list->items, a->items, a->n * sizeof(jval));
    if (b->n) memcpy(list.list->items + a->n, b->items, b->n * sizeof(jval));
    list.list->tuple = a->tuple;
    *out = list;
    return true;
}

static bool binary(jrun *r, jstr op, const jval *a, const jval *b, jval *out) {
    if (jstr_is(op, "~")) {
        jstr x, y;
        return cot__jinja_string(r, a, &x) && cot__jinja_string(r, b, &y) && cot__jinja_concat(r, x, y, out);
    }
    if (is_number(a) && is_number(b)) {
        bool divides = jstr_is(op, "/"), power = jstr_is(op, "**") && (b->kind == J_FLOAT || whole(b) < 0);
        if (a->kind == J_FLOAT || b->kind == J_FLOAT || divides || power)
            return float_op(r, op, real(a), real(b), out);
        return int_op(r, op.s[0], op.n == 2, whole(a), whole(b), out);
    }
    if (jstr_is(op, "+") && a->kind == J_STR && b->kind == J_STR)
        return cot__jinja_concat(r, a->str, b->str, out);
    if (jstr_is(op, "+") && a->kind == J_LIST && b->kind == J_LIST && a->list->tuple == b->list->tuple)
        return add_lists(r, a->list, b->list, out);
    bool left = a->kind == J_STR || a->kind == J_LIST, right = b->kind == J_STR || b->kind == J_LIST;
    if (jstr_is(op, "*") && left && (b->kind == J_INT || b->kind == J_BOOL))
        return repeat(r, a, whole(b), out);
    if (jstr_is(op, "*") && right && (a->kind == J_INT || a->kind == J_BOOL))
        return repeat(r, b, whole(a), out);
    if (a->kind == J_UNDEFINED || b->kind == J_UNDEFINED) {
        const jval *u = a->kind == J_UNDEFINED ? a : b;
        return cot__jinja_fail(r, COT_ARGUMENT, "\"%.*s\" is undefined", (int)u->str.n,
                               u->str.s ? u->str.s : "");
    }
    return cot__jinja_fail(r, COT_ARGUMENT, "%.*s does not apply to these two values", (int)op.n, op.s);
}

static bool contains(jrun *r, const jval *all, const jval *one, bool *out) {
    *out = false;
    if (all->kind == J_STR) {
        if (one->kind != J_STR) return cot__jinja_fail(r, COT_ARGUMENT, "only a string can be in a string");
        *out = !one->str.n || (all->str.n && memmem(all->str.s, all->str.n, one->str.s, one->str.n) != NULL);
        return true;
    }
    if (all->kind == J_DICT) {
        *out = cot__jinja_get(all->dict, one) != NULL;
        return true;
    }
    jlist items;
    if (!cot__jinja_items(r, all, &items)) return false;
    for (size_t i = 0; i < items.n && !*out; i++) {
        if (!cot__jinja_step(r)) return false;
        *out = cot__jinja_equal(&items.items[i], one);
    }
    return true;
}

static bool compare(jrun *r, const jnode *x, jval *out) {
    jval a, b;
    bool holds = true;
    if (!eval(r, x->kids[0], &a)) return false;
    for (int i = 1; i < x->n && holds; i++, a = b) {
        jstr op = x->names[i];
        int order = 0;
        if (!eval(r, x->kids[i], &b)) return false;
        if (jstr_is(op, "==")) holds = cot__jinja_equal(&a, &b);
        else if (jstr_is(op, "!=")) holds = !cot__jinja_equal(&a, &b);
        else if (op.s[0] == 'i' || op.s[0] == 'n') {
            if (!contains(r, &b, &a, &holds)) return false;
            holds = holds == (op.s[0] == 'i');
        } else {
            if (!cot__jinja_order(r, &a, &b, &order)) return false;
            holds = op.s[0] == '<' ? order < 0 || (op.n == 2 && !order) : order > 0 || (op.n == 2 && !order);
        }
    }
    *out = (jval){.kind = J_BOOL, .b = holds};
    return true;
}

/* ---- parts of values ---- */

static bool undefined_part(jrun *r, const jval *v) {
    if (v->kind != J_UNDEFINED) return true;
    return cot__jinja_fail(r, COT_ARGUMENT, "\"%.*s\" is undefined", (int)v->str.n, v->str.s ? v->str.s : "");
}

static bool index_value(jrun *r, const jval *v, const jval *key, jval *out) {
    *out = (jval){.kind = J_UNDEFINED};
    if (!undefined_part(r, v)) return false;
    if (v->kind == J_DICT) {
        const jval *x = cot__jinja_get(v->dict, key);
        if (x) *out = *x;
        else if (key->kind == J_STR) return cot__jinja_attribute(r, v, key->str, out);
        return true;
    }
    if (key->kind == J_INT && (v->kind == J_STR || v->kind == J_LIST)) {
        int64_t n = (int64_t)(v->kind == J_STR ? cot__jinja_chars(v->str) : v->list->n), i = key->i;
        if (i < 0) i += n;
        if (i < 0 || i >= n) return true;
        if (v->kind == J_LIST) *out = v->list->items[i];
        else {
            size_t from = cot__jinja_offset(v->str, (size_t)i), to = cot__jinja_offset(v->str, (size_t)i + 1);
            *out = cot__jinja_text(v->str.s + from, to - from);
        }
        return true;
    }
    if (key->kind == J_STR) return cot__jinja_attribute(r, v, key->str, out);
    return true;
}

static bool bound(jrun *r, const jnode *x, int64_t fallback, int64_t *out) {
    jval v = {.kind = J_NONE};
    *out = fallback;
    if (x && !eval(r, x, &v)) return false;
    if (v.kind == J_NONE) return true;
    if (v.kind != J_INT) return cot__jinja_fail(r, COT_ARGUMENT, "parts of a slice must be whole numbers");
    *out = v.i;
    return true;
}

static int64_t clamp(int64_t i, int64_t n, int64_t lo, int64_t hi) {
    if (i < 0) i = i < -n ? lo : i + n;
    return i < lo ? lo : i > hi ? hi : i;
}

static bool slice(jrun *r, const jnode *x, jval *out) {
    jval v;
    int64_t step, from, to;
    if (!eval(r, x->kids[0], &v) || !undefined_part(r, &v) || !bound(r, x->kids[3], 1, &step)) return false;
    if (v.kind != J_STR && v.kind != J_LIST)
        return cot__jinja_fail(r, COT_ARGUMENT, "only lists and strings have slices");
    if (step == 0 || step < -COT__JINJA_MEMORY || step > COT__JINJA_MEMORY)
        return cot__jinja_fail(r, COT_ARGUMENT, "a slice's step is zero or too far");
    jlist items;
    if (!cot__jinja_items(r, &v, &items)) return false;
    int64_t n = (int64_t)items.n;
    if (!bound(r, x->kids[1], step > 0 ? 0 : n - 1, &from) ||
        !bound(r, x->kids[2], step > 0 ? n : -n - 1, &to))
        return false;
    from = step > 0 ? clamp(from, n, 0, n) : clamp(from, n, -1, n - 1);
    to = step > 0 ? clamp(to, n, 0, n) : clamp(to, n, -1, n - 1);
    int64_t count = step > 0 ? (to > from ? (to - from + step - 1) / step : 0)
                             : (from > to ? (from - to - step - 1) / -step : 0);
    jval list;
    if (!cot__jinja_list(r, (size_t)count, &list)) return false;
    size_t bytes = 0;
    for (int64_t i = 0; i < count; i++) {
        list.list->items[i] = items.items[from + i * step];
        bytes += v.kind == J_STR ? list.list->items[i].str.n : 0;
    }
    list.list->tuple = v.kind == J_LIST && v.list->tuple;
    *out = list;
    if (v.kind == J_LIST) return true;
    char *p = cot__jinja_alloc(r, bytes + 1);
    size_t at = 0;
    for (int64_t i = 0; p && i < count; i++) {
        jstr s = list.list->items[i].str;
        memcpy(p + at, s.s, s.n);
        at += s.n;
    }
    *out = cot__jinja_text(p, bytes);
    return p != NULL;
}

/* ---- calls ---- */

static bool arguments(jrun *r, const jnode *x, jargs *a) {
    a->n = 0;
    for (int i = 1; i < x->n; i++) {
        if (!eval(r, x->kids[i], &a->v[a->n])) return false;
        a->name[a->n++] = x->names[i];
    }
    return true;
}

/* Runs a body with its output caught. */
static bool caught(jrun *r, const jnode *body, jval *out) {
    cot__buf buf = {.max = COT__JINJA_MEMORY}, *before = r->out;
    r->out = &buf;
    bool ok = exec(r, body);
    r->out = before;
    char *p = ok ? cot__jinja_alloc(r, buf.len + 1) : NULL;
    if (p && buf.len) memcpy(p, buf.data, buf.len);
    if (p) *out = cot__jinja_text(p, buf.len);
    cot__buf_free(&buf);
    return p != NULL;
}

static bool call_macro(jrun *r, const jnode *m, const jargs *a, jval *out) {
    jscope inner = {.up = r->globals}, *before = r->scope;
    int params = m->n - 1;
    r->scope = &inner;
    bool ok = true;
    int at = 0;
    for (int i = 0; i < params && ok; i++) {
        jval v = {.kind = J_UNDEFINED, .str = m->names[i]};
        bool given = false;
        for (int k = 0; k < a->n && !given; k++)
            if (a->name[k].s && a->name[k].n == m->names[i].n &&
                memcmp(a->name[k].s, m->names[i].s, a->name[k].n) == 0)
                v = a->v[k], given = true;
        while (!given && at < a->n) {
            if (!a->name[at].s) v = a->v[at], given = true;
            at++;
        }
        if (!given && m->kids[i]) ok = eval(r, m->kids[i], &v);
        if (ok) ok = assign(r, &inner, m->names[i], &v);
    }
    if (ok) ok = caught(r, m->kids[params], out);
    r->scope = before;
    return ok;
}

bool cot__jinja_call(jrun *r, const jval *f, const jargs *a, jval *out) {
    if (f->kind == J_MACRO) return call_macro(r, f->macro, a, out);
    if (f->kind == J_FUNCTION) return cot__jinja_function(r, f->str, a, out);
    if (f->kind == J_METHOD) return cot__jinja_method(r, &f->method->of, f->method->name, a, out);
    if (!undefined_part(r, f)) return false;
    return cot__jinja_fail(r, COT_ARGUMENT, "this value cannot be called");
}

static bool apply_filters(jrun *r, const jnode *x, int from, jval *v) {
    for (int i = from; i < x->n; i++) {
        jargs a;
        jval out;
        if (!arguments(r, x->kids[i], &a) || !cot__jinja_filter(r, x->kids[i]->name, v, &a, &out))
            return false;
        *v = out;
    }
    return true;
}

/* ---- expressions ---- */

static bool eval_name(jrun *r, jstr name, jval *out) {
    const jval *v = find(r->scope, name);
    if (v) *out = *v;
    else if (cot__jinja_is_function(name)) *out = (jval){.kind = J_FUNCTION, .str = name};
    else *out = (jval){.kind = J_UNDEFINED, .str = name};
    return true;
}

static bool eval_container(jrun *r, const jnode *x, jval *out) {
    if (x->op == JN_LIST) {
        jval list;
        if (!cot__jinja_list(r, (size_t)x->n, &list)) return false;
        list.list->tuple = x->flag;
        for (int i = 0; i < x->n; i++)
            if (!eval(r, x->kids[i], &list.list->items[i])) return false;
        *out = list;
        return true;
    }
    jdict *d = cot__jinja_alloc(r, sizeof *d);
    if (!d) return false;
    *d = (jdict){0};
    for (int i = 0; i < x->n; i += 2) {
        jval k, v;
        if (!eval(r, x->kids[i], &k) || !eval(r, x->kids[i + 1], &v) || !cot__jinja_put(r, d, &k, &v))
            return false;
    }
    *out = (jval){.kind = J_DICT, .dict = d};
    return true;
}

static bool eval_unary(jrun *r, const jnode *x, jval *out) {
    jval v;
    if (!eval(r, x->kids[0], &v)) return false;
    if (x->op == JN_NOT) {
        *out = (jval){.kind = J_BOOL, .b = !cot__jinja_truth(&v)};
        return true;
    }
    if (!is_number(&v)) return cot__jinja_fail(r, COT_ARGUMENT, "only a number has a sign");
    jval zero = {.kind = J_INT};
    jstr op = {x->op == JN_NEGATE ? "-" : "+", 1};
    return binary(r, op, &zero, &v, out);
}

static bool eval_applied(jrun *r, const jnode *x, jval *out) {
    jval v;
    jargs a;
    if (!eval(r, x->kids[0], &v) || !arguments(r, x, &a)) return false;
    r->line = x->line;
    if (x->op == JN_CALL) return cot__jinja_call(r, &v, &a, out);
    if (x->op == JN_FILTER) return cot__jinja_filter(r, x->name, &v, &a, out);
    bool holds;
    if (!cot__jinja_test(r, x->name, &v, &a, &holds)) return false;
    *out = (jval){.kind = J_BOOL, .b = holds != x->flag};
    return true;
}

static bool eval_kind(jrun *r, const jnode *x, jval *out) {
    jval a, b;
    switch (x->op) {
    case JN_LITERAL: *out = x->value; return true;
    case JN_NAME: return eval_name(r, x->name, out);
    case JN_LIST:
    case JN_DICT: return eval_container(r, x, out);
    case JN_ATTR:
        return eval(r, x->kids[0], &a) && undefined_part(r, &a) && cot__jinja_attribute(r, &a, x->name, out);
    case JN_INDEX: return eval(r, x->kids[0], &a) && eval(r, x->kids[1], &b) && index_value(r, &a, &b, out);
    case JN_SLICE: return slice(r, x, out);
    case JN_CALL:
    case JN_FILTER:
    case JN_TEST: return eval_applied(r, x, out);
    case JN_NEGATE:
    case JN_PLUS:
    case JN_NOT: return eval_unary(r, x, out);
    case JN_AND:
    case JN_OR:
        if (!eval(r, x->kids[0], out)) return false;
        return cot__jinja_truth(out) == (x->op == JN_AND) ? eval(r, x->kids[1], out) : true;
    case JN_IF_ELSE:
        if (!eval(r, x->kids[0], &a)) return false;
        *out = (jval){.kind = J_UNDEFINED};
        if (cot__jinja_truth(&a)) return eval(r, x->kids[1], out);
        return x->kids[2] ? eval(r, x->kids[2], out) : true;
    case JN_BINARY:
        return eval(r, x->kids[0], &a) && eval(r, x->kids[1], &b) && binary(r, x->name, &a, &b, out);
    case JN_COMPARE: return compare(r, x, out);
    default: return cot__jinja_fail(r, COT_INTERNAL, "no expression");
    }
}

static bool deeper(jrun *r) {
    if (++r->depth <= COT__JINJA_DEPTH) return true;
    return cot__jinja_fail(r, COT_LIMIT, "calls are nested too deeply");
}

static bool eval(jrun *r, const jnode *x, jval *out) {
    r->line = x->line;
    bool ok = cot__jinja_step(r) && deeper(r) && eval_kind(r, x, out);
    r->depth--;
    return ok;
}

/* ---- statements ---- */

/* The items for which the loop's condition holds. */
static bool chosen(jrun *r, const jnode *x, const jlist *all, jlist *out) {
    jscope inner = {.up = r->scope};
    jval list, v;
    *out = *all;
    if (!x->kids[2]) return true;
    if (!cot__jinja_list(r, all->n, &list)) return false;
    size_t n = 0;
    r->scope = &inner;
    bool ok = true;
    for (size_t i = 0; i < all->n && ok; i++) {
        ok = cot__jinja_step(r) && bind(r, x->kids[0], &all->items[i]) && eval(r, x->kids[2], &v);
        if (ok && cot__jinja_truth(&v)) list.list->items[n++] = all->items[i];
    }
    r->scope = inner.up;
    *out = (jlist){list.list->items, n, false};
    return ok;
}

static bool exec_for(jrun *r, const jnode *x) {
    jval v;
    jlist all, items;
    if (!eval(r, x->kids[1], &v) || !cot__jinja_items(r, &v, &all) || !chosen(r, x, &all, &items))
        return false;
    if (!items.n) return x->kids[4] ? exec(r, x->kids[4]) : true;
    jloop *loop = cot__jinja_alloc(r, sizeof *loop);
    jlist *kept = loop ? cot__jinja_alloc(r, sizeof *kept) : NULL;
    if (!kept) return false;
    *kept = items;
    loop->items = kept;
    jscope inner = {.up = r->scope};
    jval l = {.kind = J_LOOP, .loop = loop};
    bool ok = true;
    r->scope = &inner;
    for (size_t i = 0; i < items.n && ok; i++) {
        inner.n = 0; /* each round begins afresh */
        loop->index = i;
        ok = cot__jinja_step(r) && assign(r, &inner, (jstr){"loop", 4}, &l) &&
             bind(r, x->kids[0], &items.items[i]) && exec(r, x->kids[3]);
        bool leave = r->flow == JF_BREAK;
        r->flow = JF_NONE;
        if (leave) break;
    }
    r->scope = inner.up;
    return ok;
}

static bool exec_with(jrun *r, const jnode *x) {
    jscope inner = {.up = r->scope};
    for (int i = 0; i < x->n - 1; i++) {
        jval v;
        if (!eval(r, x->kids[i], &v) || !assign(r, &inner, x->names[i], &v)) return false;
    }
    r->scope = &inner;
    bool ok = exec(r, x->kids[x->n - 1]);
    r->scope = inner.up;
    return ok;
}

static bool write_out(jrun *r, jstr s) {
    if (!s.n || cot__buf_put(r->out, s.s, s.n)) return true;
    return r->out->full ? cot__jinja_fail(r, COT_LIMIT, "the output is too long")
                        : cot__jinja_fail(r, COT_NO_MEMORY, "there is no memory for the output");
}

static bool exec_kind(jrun *r, const jnode *x) {
    jval v;
    jstr s;
    switch (x->op) {
    case JN_BODY:
        for (int i = 0; i < x->n && r->flow == JF_NONE; i++)
            if (!exec(r, x->kids[i])) return false;
        return true;
    case JN_TEXT: return write_out(r, x->name);
    case JN_OUTPUT: return eval(r, x->kids[0], &v) && cot__jinja_string(r, &v, &s) && write_out(r, s);
    case JN_IF:
        if (!eval(r, x->kids[0], &v)) return false;
        if (cot__jinja_truth(&v)) return exec(r, x->kids[1]);
        return x->kids[2] ? exec(r, x->kids[2]) : true;
    case JN_FOR: return exec_for(r, x);
    case JN_SET: return eval(r, x->kids[1], &v) && bind(r, x->kids[0], &v);
    case JN_SET_BODY:
        return caught(r, x->kids[1], &v) && apply_filters(r, x, 2, &v) && bind(r, x->kids[0], &v);
    case JN_FILTER_BODY:
        return caught(r, x->kids[0], &v) && apply_filters(r, x, 1, &v) && cot__jinja_string(r, &v, &s) &&
               write_out(r, s);
    case JN_MACRO: v = (jval){.kind = J_MACRO, .macro = x}; return assign(r, r->scope, x->name, &v);
    case JN_WITH: return exec_with(r, x);
    case JN_BREAK: r->flow = JF_BREAK; return true;
    case JN_CONTINUE: r->flow = JF_CONTINUE; return true;
    default: return cot__jinja_fail(r, COT_INTERNAL, "no statement");
    }
}

static bool exec(jrun *r, const jnode *x) {
    r->line = x->line;
    bool ok = cot__jinja_step(r) && deeper(r) && exec_kind(r, x);
    r->depth--;
    return ok;
}

/* ---- the whole ---- */

cot_status cot__jinja_parse(cot__jinja **out, const char *file, const char *text, size_t n, cot_error *err) {
    *out = NULL;
    if (n > COT__JINJA_TEMPLATE)
        return cot__fail(err, COT_LIMIT, file, "template", "has %zu bytes, at most %d are read", n,
                         COT__JINJA_TEMPLATE);
    cot__jinja *t = cot__alloc_zero(1, sizeof *t);
    if (!t) return cot__fail_memory(err, sizeof *t);
    jtoken *tokens = NULL;
    size_t count = 0;
    cot_status s = cot__arena_create(&t->arena, 1 << 16, 0, err);
    if (s == COT_OK && !(t->file = cot__strdup(file ? file : "template"))) s = cot__fail_memory(err, 16);
    if (s == COT_OK) s = cot__jinja_lex(t->file, text, n, t->arena, &tokens, &count, err);
    if (s == COT_OK) s = cot__jinja_build(t, tokens, count, err);
    if (s == COT_OK) *out = t;
    else cot__jinja_free(&t);
    return s;
}

void cot__jinja_free(cot__jinja **t) {
    if (!t || !*t) return;
    cot__arena_free(&(*t)->arena);
    cot__free((*t)->file);
    cot__free(*t);
    *t = NULL;
}

cot_status cot__jinja_render(const cot__jinja *t, const json_t *vars, cot__buf *out, cot_error *err) {
    jscope globals = {0};
    jrun r = {.t = t, .scope = &globals, .globals = &globals, .out = out, .err = err, .line = 1};
    const char *key;
    json_t *value;
    COT_TRY(cot__arena_create(&r.arena, 1 << 16, COT__JINJA_MEMORY, err));
    bool ok = true;
    json_object_foreach((json_t *)vars, key, value) {
        jval v;
        ok = ok && cot__jinja_from_json(&r, value, &v) && assign(&r, &globals, (jstr){key, strlen(key)}, &v);
    }
    if (ok) exec(&r, t->root);
    cot__arena_free(&r.arena);
    return r.status;
}
