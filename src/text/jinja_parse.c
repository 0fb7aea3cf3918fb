/* Owns: tokens to tree, by Jinja's grammar. What templates of models do not need (inheritance, imports, call
 * blocks, recursive loops) is declined by name. */
#include <string.h>

#include "base/error.h"
#include "text/jinja_ast.h"

typedef struct parser {
    cot__jinja *t;
    const jtoken *tok;
    size_t n, at;
    int depth, loops;
    cot_status status;
    cot_error *err;
} parser;

/* Kids while they are gathered. */
typedef struct gather {
    jnode **kids;
    jstr *names;
    int n, cap;
} gather;

static jnode *expression(parser *p);
static jnode *unary(parser *p, bool with_filter);
static jnode *body(parser *p, const char *const *ends);

static void *oops(parser *p, const char *what) {
    if (p->status == COT_OK)
        p->status =
            cot__fail(p->err, COT_FORMAT, p->t->file, "template", "line %d: %s", p->tok[p->at].line, what);
    return NULL;
}
static void *oom(parser *p) {
    if (p->status == COT_OK) p->status = cot__fail_memory(p->err, 64);
    return NULL;
}

static jnode *node(parser *p, jop op, int n) {
    jnode *x = cot__arena_alloc(p->t->arena, sizeof *x);
    jnode **kids = x && n ? cot__arena_alloc(p->t->arena, (size_t)n * sizeof *kids) : NULL;
    if (!x || (n && !kids)) return oom(p);
    *x = (jnode){.op = op, .line = p->tok[p->at].line, .n = n, .kids = kids};
    for (int i = 0; i < n; i++) kids[i] = NULL;
    return x;
}

static bool put(parser *p, gather *g, jnode *kid, jstr name) {
    if (p->status != COT_OK) return false;
    if (g->n == g->cap) {
        int cap = g->cap ? g->cap * 2 : 8;
        jnode **kids = cot__arena_alloc(p->t->arena, (size_t)cap * sizeof *kids);
        jstr *names = cot__arena_alloc(p->t->arena, (size_t)cap * sizeof *names);
        if (!kids || !names) return oom(p) != NULL;
        if (g->n)
            memcpy(kids, g->kids, (size_t)g->n * sizeof *kids),
                memcpy(names, g->names, (size_t)g->n * sizeof *names);
        g->kids = kids, g->names = names, g->cap = cap;
    }
    g->kids[g->n] = kid;
    g->names[g->n++] = name;
    return true;
}

static jnode *with_kids(parser *p, jop op, const gather *g) {
    jnode *x = p->status == COT_OK ? node(p, op, 0) : NULL;
    if (!x) return NULL;
    x->n = g->n, x->kids = g->kids, x->names = g->names;
    return x;
}

static const jtoken *peek(const parser *p) { return &p->tok[p->at]; }
static const jtoken *peek_next(const parser *p) { return &p->tok[p->at + 1 < p->n ? p->at + 1 : p->at]; }
static bool is_op(const parser *p, const char *s) { return peek(p)->kind == JT_OP && jstr_is(peek(p)->s, s); }
static bool is_name(const parser *p, const char *s) {
    return peek(p)->kind == JT_NAME && jstr_is(peek(p)->s, s);
}
static void next(parser *p) {
    if (p->at + 1 < p->n) p->at++;
}
static bool take_op(parser *p, const char *s) {
    bool hit = is_op(p, s);
    if (hit) next(p);
    return hit;
}
static bool take_name(parser *p, const char *s) {
    bool hit = is_name(p, s);
    if (hit) next(p);
    return hit;
}
static bool want_op(parser *p, const char *s) {
    if (take_op(p, s)) return true;
    oops(p, "another sign was expected here");
    return false;
}
static bool want_name(parser *p, jstr *out) {
    if (peek(p)->kind != JT_NAME) return oops(p, "a name was expected here") != NULL;
    *out = peek(p)->s;
    next(p);
    return true;
}
static bool end_block(parser *p) {
    if (peek(p)->kind != JT_BLOCK_END) return oops(p, "the tag should end here") != NULL;
    next(p);
    return true;
}

static bool deeper(parser *p) {
    if (++p->depth <= COT__JINJA_NESTING) return p->status == COT_OK;
    oops(p, "nested too deeply");
    return false;
}

/* ---- expressions ---- */

static jnode *binary(parser *p, jop op, jnode *a, jnode *b, jstr name) {
    jnode *x = a && b ? node(p, op, 2) : NULL;
    if (x) x->kids[0] = a, x->kids[1] = b, x->name = name;
    return x;
}

static jnode *single(parser *p, jop op, jnode *a) {
    jnode *x = a ? node(p, op, 1) : NULL;
    if (x) x->kids[0] = a;
    return x;
}

static jnode *literal(parser *p, jval v) {
    jnode *x = node(p, JN_LITERAL, 0);
    if (x) x->value = v;
    return x;
}

/* Comma-separated, to `close` (already opened); one element without a comma is itself unless a list. */
static jnode *sequence(parser *p, const char *close, bool tuple) {
    gather g = {0};
    bool comma = false;
    while (p->status == COT_OK && !is_op(p, close)) {
        if (g.n && !comma) return oops(p, "a comma is missing");
        put(p, &g, expression(p), (jstr){0});
        comma = take_op(p, ",");
    }
    if (!want_op(p, close)) return NULL;
    if (tuple && g.n == 1 && !comma) return p->status == COT_OK ? g.kids[0] : NULL;
    jnode *x = with_kids(p, JN_LIST, &g);
    if (x) x->flag = tuple;
    return x;
}

static jnode *dict(parser *p) {
    gather g = {0};
    while (p->status == COT_OK && !is_op(p, "}")) {
        if (g.n && !want_op(p, ",")) return NULL;
        if (is_op(p, "}")) break;
        put(p, &g, expression(p), (jstr){0});
        if (!want_op(p, ":")) return NULL;
        put(p, &g, expression(p), (jstr){0});
    }
    return want_op(p, "}") ? with_kids(p, JN_DICT, &g) : NULL;
}

static jnode *primary(parser *p) {
    const jtoken *t = peek(p);
    if (t->kind == JT_STR) { /* neighbours join */
        jstr s = t->s;
        for (next(p); peek(p)->kind == JT_STR; next(p)) {
            jstr more = peek(p)->s;
            char *both = cot__arena_alloc(p->t->arena, s.n + more.n + 1);
            if (!both) return oom(p);
            memcpy(both, s.s, s.n), memcpy(both + s.n, more.s, more.n);
            s = (jstr){both, s.n + more.n};
        }
        return literal(p, (jval){.kind = J_STR, .str = s});
    }
    next(p);
    if (t->kind == JT_INT) return literal(p, (jval){.kind = J_INT, .i = t->i});
    if (t->kind == JT_FLOAT) return literal(p, (jval){.kind = J_FLOAT, .f = t->f});
    if (t->kind == JT_NAME) {
        if (jstr_is(t->s, "true") || jstr_is(t->s, "True"))
            return literal(p, (jval){.kind = J_BOOL, .b = true});
        if (jstr_is(t->s, "false") || jstr_is(t->s, "False")) return literal(p, (jval){.kind = J_BOOL});
        if (jstr_is(t->s, "none") || jstr_is(t->s, "None")) return literal(p, (jval){.kind = J_NONE});
        jnode *x = node(p, JN_NAME, 0);
        if (x) x->name = t->s;
        return x;
    }
    if (t->kind == JT_OP && jstr_is(t->s, "(")) return sequence(p, ")", true);
    if (t->kind == JT_OP && jstr_is(t->s, "[")) return sequence(p, "]", false);
    if (t->kind == JT_OP && jstr_is(t->s, "{")) return dict(p);
    p->at--;
    return oops(p, "a value was expected here");
}

/* Arguments after an open parenthesis; the first kid is what they are given to. */
static jnode *arguments(parser *p, jop op, jnode *of, jstr name) {
    gather g = {0};
    put(p, &g, of, (jstr){0});
    while (p->status == COT_OK && !is_op(p, ")")) {
        jstr key = {0};
        if (g.n > 1 && !want_op(p, ",")) return NULL;
        if (is_op(p, ")")) break;
        if (is_op(p, "*") || is_op(p, "**")) return oops(p, "unpacked arguments are not supported");
        if (peek(p)->kind == JT_NAME && peek_next(p)->kind == JT_OP && jstr_is(peek_next(p)->s, "="))
            key = peek(p)->s, next(p), next(p);
        put(p, &g, expression(p), key);
        if (g.n > COT__JINJA_ARGS) return oops(p, "too many arguments");
    }
    if (!want_op(p, ")")) return NULL;
    jnode *x = with_kids(p, op, &g);
    if (x) x->name = name;
    return x;
}

static jnode *subscript(parser *p, jnode *of) {
    jnode *part[3] = {NULL};
    int n = 0, colons = 0;
    while (p->status == COT_OK && !is_op(p, "]")) {
        if (take_op(p, ":")) {
            if (++colons > 2) return oops(p, "a slice has at most three parts");
            n = colons;
        } else part[n] = expression(p);
    }
    if (!want_op(p, "]")) return NULL;
    if (!colons)
        return part[0] ? binary(p, JN_INDEX, of, part[0], (jstr){0}) : oops(p, "an index is missing");
    jnode *x = node(p, JN_SLICE, 4);
    if (x) x->kids[0] = of, x->kids[1] = part[0], x->kids[2] = part[1], x->kids[3] = part[2];
    return x;
}

static jnode *postfix(parser *p, jnode *x) {
    while (x && p->status == COT_OK) {
        if (take_op(p, ".")) {
            jnode *y = node(p, JN_ATTR, 1);
            if (!y) return NULL;
            y->kids[0] = x;
            if (peek(p)->kind == JT_INT) { /* a.0 */
                jnode *i = literal(p, (jval){.kind = J_INT, .i = peek(p)->i});
                next(p);
                x = binary(p, JN_INDEX, x, i, (jstr){0});
                continue;
            }
            if (!want_name(p, &y->name)) return NULL;
            x = y;
        } else if (take_op(p, "[")) x = subscript(p, x);
        else if (take_op(p, "(")) x = arguments(p, JN_CALL, x, (jstr){0});
        else break;
    }
    return p->status == COT_OK ? x : NULL;
}

/* name or name(arguments) of a filter whose pipe is taken. */
static jnode *filter(parser *p, jnode *of) {
    jstr name;
    gather g = {0};
    if (!want_name(p, &name)) return NULL;
    while (is_op(p, ".")) return oops(p, "no filter has a dot in its name");
    if (take_op(p, "(")) return arguments(p, JN_FILTER, of, name);
    put(p, &g, of, (jstr){0});
    jnode *x = with_kids(p, JN_FILTER, &g);
    if (x) x->name = name;
    return x;
}

static jnode *test(parser *p, jnode *of) {
    jstr name;
    gather g = {0};
    bool negated = take_name(p, "not");
    if (!want_name(p, &name)) return NULL;
    jnode *x = NULL;
    const jtoken *t = peek(p);
    bool word = t->kind == JT_NAME && !jstr_is(t->s, "else") && !jstr_is(t->s, "or") &&
                !jstr_is(t->s, "and") && !jstr_is(t->s, "is") && !jstr_is(t->s, "if") &&
                !jstr_is(t->s, "in") && !jstr_is(t->s, "not");
    if (take_op(p, "(")) x = arguments(p, JN_TEST, of, name);
    else {
        put(p, &g, of, (jstr){0});
        if (word || t->kind == JT_STR || t->kind == JT_INT || t->kind == JT_FLOAT || is_op(p, "[") ||
            is_op(p, "{"))
            put(p, &g, postfix(p, primary(p)), (jstr){0});
        x = with_kids(p, JN_TEST, &g);
        if (x) x->name = name;
    }
    if (x) x->flag = negated;
    return x;
}

static jnode *filters(parser *p, jnode *x) {
    while (x && p->status == COT_OK) {
        if (take_op(p, "|")) x = filter(p, x);
        else if (take_name(p, "is")) x = test(p, x);
        else if (take_op(p, "(")) x = arguments(p, JN_CALL, x, (jstr){0}); /* of what a filter gave */
        else break;
    }
    return x;
}

static jnode *unary(parser *p, bool with_filter) {
    jnode *x;
    if (!deeper(p)) return NULL;
    if (take_op(p, "-")) x = single(p, JN_NEGATE, unary(p, false));
    else if (take_op(p, "+")) x = single(p, JN_PLUS, unary(p, false));
    else x = primary(p);
    x = postfix(p, x);
    if (with_filter) x = filters(p, x);
    p->depth--;
    return x;
}

static jnode *power(parser *p) {
    jnode *x = unary(p, true);
    while (x && take_op(p, "**")) x = binary(p, JN_BINARY, x, unary(p, true), (jstr){"**", 2});
    return x;
}

/* Left-associative operators by level: products, joining, sums. */
static jnode *operators(parser *p, int level) {
    static const char *const ops[3][5] = {{"*", "/", "//", "%", NULL}, {"~", NULL}, {"+", "-", NULL}};
    jnode *x = level ? operators(p, level - 1) : power(p);
    for (int i = 0; x && p->status == COT_OK && ops[level][i]; i++) {
        if (!take_op(p, ops[level][i])) continue;
        jnode *y = level ? operators(p, level - 1) : power(p);
        x = binary(p, JN_BINARY, x, y, (jstr){ops[level][i], strlen(ops[level][i])});
        i = -1;
    }
    return x;
}

static jnode *comparison(parser *p) {
    static const char *const ops[] = {"==", "!=", "<=", ">=", "<", ">"};
    gather g = {0};
    jnode *x = operators(p, 2);
    if (!x) return NULL;
    put(p, &g, x, (jstr){0});
    for (bool more = true; more && p->status == COT_OK;) {
        more = false;
        for (int i = 0; i < 6 && !more; i++)
            if (take_op(p, ops[i])) put(p, &g, operators(p, 2), (jstr){ops[i], strlen(ops[i])}), more = true;
        if (more) continue;
        if (take_name(p, "in")) put(p, &g, operators(p, 2), (jstr){"in", 2}), more = true;
        else if (is_name(p, "not") && peek_next(p)->kind == JT_NAME && jstr_is(peek_next(p)->s, "in"))
            next(p), next(p), put(p, &g, operators(p, 2), (jstr){"not in", 6}), more = true;
    }
    return g.n == 1 ? (p->status == COT_OK ? x : NULL) : with_kids(p, JN_COMPARE, &g);
}

static jnode *negation(parser *p) {
    if (!deeper(p)) return NULL;
    jnode *x = take_name(p, "not") ? single(p, JN_NOT, negation(p)) : comparison(p);
    p->depth--;
    return x;
}

static jnode *conjunction(parser *p) {
    jnode *x = negation(p);
    while (x && take_name(p, "and")) x = binary(p, JN_AND, x, negation(p), (jstr){0});
    return x;
}

static jnode *disjunction(parser *p) {
    jnode *x = conjunction(p);
    while (x && take_name(p, "or")) x = binary(p, JN_OR, x, conjunction(p), (jstr){0});
    return x;
}

static jnode *expression(parser *p) {
    if (!deeper(p)) return NULL;
    jnode *x = disjunction(p);
    while (x && take_name(p, "if")) {
        jnode *y = node(p, JN_IF_ELSE, 3);
        if (!y) return NULL;
        y->kids[1] = x;
        y->kids[0] = disjunction(p);
        if (take_name(p, "else")) y->kids[2] = expression(p);
        x = y;
    }
    p->depth--;
    return p->status == COT_OK ? x : NULL;
}

/* a, b without parentheses: a tuple. `plain`: no conditional expression (the `if` belongs to a loop). */
static jnode *tuple(parser *p, bool plain) {
    gather g = {0};
    bool comma = false;
    do {
        if (comma && (peek(p)->kind == JT_BLOCK_END || peek(p)->kind == JT_OUTPUT_END)) break;
        put(p, &g, plain ? disjunction(p) : expression(p), (jstr){0});
        if (p->status != COT_OK) return NULL;
        comma = take_op(p, ",");
    } while (comma);
    if (g.n == 1 && !(p->at && p->tok[p->at - 1].kind == JT_OP && jstr_is(p->tok[p->at - 1].s, ",")))
        return g.kids[0];
    jnode *x = with_kids(p, JN_LIST, &g);
    if (x) x->flag = true;
    return x;
}

/* Names to assign to: a name, names, or an attribute of a namespace. */
static jnode *target(parser *p, bool attribute) {
    gather g = {0};
    bool open = take_op(p, "("), comma = false;
    do {
        jnode *x = node(p, JN_NAME, 0);
        if (!x || !want_name(p, &x->name)) return NULL;
        if (attribute && take_op(p, ".")) {
            jnode *y = node(p, JN_ATTR, 1);
            if (!y || !want_name(p, &y->name)) return NULL;
            y->kids[0] = x;
            x = y;
        }
        put(p, &g, x, (jstr){0});
        comma = take_op(p, ",");
    } while (comma && p->status == COT_OK && peek(p)->kind == JT_NAME);
    if (open && !want_op(p, ")")) return NULL;
    if (p->status != COT_OK) return NULL;
    return g.n == 1 && !comma ? g.kids[0] : with_kids(p, JN_LIST, &g);
}

/* ---- statements ---- */

static jnode *if_block(parser *p) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const last[] = {"endif", NULL};
    if (!deeper(p)) return NULL;
    jnode *x = node(p, JN_IF, 3);
    if (!x) return NULL;
    x->kids[0] = tuple(p, false);
    if (p->status != COT_OK || !end_block(p)) return NULL;
    x->kids[1] = body(p, ends);
    if (p->status != COT_OK) return NULL;
    if (take_name(p, "elif")) x->kids[2] = if_block(p);
    else if (take_name(p, "else")) {
        if (!end_block(p)) return NULL;
        x->kids[2] = body(p, last);
        if (p->status != COT_OK) return NULL;
        next(p);
        end_block(p);
    } else {
        next(p);
        end_block(p);
    }
    p->depth--;
    return p->status == COT_OK ? x : NULL;
}

static jnode *for_block(parser *p) {
    static const char *const ends[] = {"else", "endfor", NULL};
    static const char *const last[] = {"endfor", NULL};
    jnode *x = node(p, JN_FOR, 5);
    if (!x) return NULL;
    x->kids[0] = target(p, false);
    if (p->status != COT_OK) return NULL;
    if (!take_name(p, "in")) return oops(p, "\"in\" is missing");
    x->kids[1] = tuple(p, true);
    if (take_name(p, "if")) x->kids[2] = expression(p);
    if (is_name(p, "recursive")) return oops(p, "recursive loops are not supported");
    if (p->status != COT_OK || !end_block(p)) return NULL;
    p->loops++;
    x->kids[3] = body(p, ends);
    p->loops--;
    if (p->status != COT_OK) return NULL;
    if (take_name(p, "else")) {
        if (!end_block(p)) return NULL;
        x->kids[4] = body(p, last);
        if (p->status != COT_OK) return NULL;
    }
    next(p);
    return end_block(p) ? x : NULL;
}

static jnode *body_to(parser *p, const char *end) {
    const char *const ends[] = {end, NULL};
    if (!end_block(p)) return NULL;
    jnode *b = body(p, ends);
    if (!b) return NULL;
    next(p);
    if (peek(p)->kind == JT_NAME) next(p); /* endmacro name */
    return end_block(p) ? b : NULL;
}

static jnode *set_block(parser *p) {
    jnode *to = target(p, true);
    if (!to) return NULL;
    if (take_op(p, "=")) {
        jnode *x = binary(p, JN_SET, to, tuple(p, false), (jstr){0});
        return x && end_block(p) ? x : NULL;
    }
    gather g = {0};
    put(p, &g, to, (jstr){0});
    put(p, &g, NULL, (jstr){0});
    while (p->status == COT_OK && take_op(p, "|")) put(p, &g, filter(p, NULL), (jstr){0});
    if (p->status != COT_OK) return NULL;
    jnode *x = with_kids(p, JN_SET_BODY, &g);
    jnode *b = x ? body_to(p, "endset") : NULL;
    if (b) x->kids[1] = b;
    return b ? x : NULL;
}

static jnode *filter_block(parser *p) {
    gather g = {0};
    put(p, &g, NULL, (jstr){0});
    do put(p, &g, filter(p, NULL), (jstr){0});
    while (p->status == COT_OK && take_op(p, "|"));
    jnode *x = with_kids(p, JN_FILTER_BODY, &g), *b = x ? body_to(p, "endfilter") : NULL;
    if (b) x->kids[0] = b;
    return b ? x : NULL;
}

static jnode *macro(parser *p) {
    gather g = {0};
    jstr name, param;
    if (!want_name(p, &name) || !want_op(p, "(")) return NULL;
    while (p->status == COT_OK && !is_op(p, ")")) {
        if (g.n && !want_op(p, ",")) return NULL;
        if (!want_name(p, &param)) return NULL;
        put(p, &g, take_op(p, "=") ? expression(p) : NULL, param);
        if (g.n > COT__JINJA_ARGS) return oops(p, "too many parameters");
    }
    if (!want_op(p, ")")) return NULL;
    int loops = p->loops;
    p->loops = 0;
    jnode *b = body_to(p, "endmacro");
    p->loops = loops;
    put(p, &g, b, (jstr){0});
    jnode *x = b ? with_kids(p, JN_MACRO, &g) : NULL;
    if (x) x->name = name;
    return x;
}

static jnode *with_block(parser *p) {
    gather g = {0};
    jstr name;
    while (p->status == COT_OK && peek(p)->kind == JT_NAME) {
        if (!want_name(p, &name) || !want_op(p, "=")) return NULL;
        put(p, &g, expression(p), name);
        if (!take_op(p, ",")) break;
    }
    jnode *b = p->status == COT_OK ? body_to(p, "endwith") : NULL;
    put(p, &g, b, (jstr){0});
    return b ? with_kids(p, JN_WITH, &g) : NULL;
}

static jnode *statement(parser *p) {
    if (take_name(p, "if")) return if_block(p);
    if (take_name(p, "for")) return for_block(p);
    if (take_name(p, "set")) return set_block(p);
    if (take_name(p, "macro")) return macro(p);
    if (take_name(p, "filter")) return filter_block(p);
    if (take_name(p, "with")) return with_block(p);
    if (take_name(p, "generation")) return body_to(p, "endgeneration"); /* marks what training learns from */
    if (is_name(p, "break") || is_name(p, "continue")) {
        jnode *x = node(p, is_name(p, "break") ? JN_BREAK : JN_CONTINUE, 0);
        if (!p->loops) return oops(p, "stands outside of a loop");
        next(p);
        return x && end_block(p) ? x : NULL;
    }
    return oops(p, "this tag is not supported");
}

/* Statements up to a tag that begins with one of the words (NULL: to the template's end), which is left. */
static jnode *body(parser *p, const char *const *ends) {
    gather g = {0};
    if (!deeper(p)) return NULL;
    while (p->status == COT_OK && peek(p)->kind != JT_END) {
        const jtoken *t = peek(p);
        jnode *x = NULL;
        next(p);
        if (t->kind == JT_TEXT) {
            x = node(p, JN_TEXT, 0);
            if (x) x->name = t->s;
        } else if (t->kind == JT_OUTPUT) {
            x = single(p, JN_OUTPUT, tuple(p, false));
            if (x && peek(p)->kind != JT_OUTPUT_END) x = oops(p, "the tag should end here");
            else next(p);
        } else if (t->kind == JT_BLOCK) {
            for (int i = 0; ends && ends[i]; i++)
                if (is_name(p, ends[i])) {
                    p->depth--;
                    return with_kids(p, JN_BODY, &g);
                }
            x = statement(p);
        } else oops(p, "a tag ends that did not begin");
        if (x) put(p, &g, x, (jstr){0});
    }
    p->depth--;
    if (ends && p->status == COT_OK) return oops(p, "a block has no end");
    return with_kids(p, JN_BODY, &g);
}

cot_status cot__jinja_build(cot__jinja *t, const jtoken *tokens, size_t n, cot_error *err) {
    parser p = {.t = t, .tok = tokens, .n = n, .err = err};
    t->root = body(&p, NULL);
    if (p.status == COT_OK && !t->root) return cot__fail_memory(err, 64);
    return p.status;
}
