/* Inside the template evaluator: tokens, the tree, values. Private to jinja_*.c. */
#ifndef COT_TEXT_JINJA_AST_H
#define COT_TEXT_JINJA_AST_H

#include "text/jinja.h"

enum {
    COT__JINJA_NESTING = 200,      /* of the parser */
    COT__JINJA_DEPTH = 1000,       /* of the evaluator */
    COT__JINJA_STEPS = 1000000,    /* nodes and iterations of one rendering */
    COT__JINJA_MEMORY = 64 << 20,  /* values of one rendering */
    COT__JINJA_TEMPLATE = 1 << 20, /* bytes of a template */
    COT__JINJA_RANGE = 100000,     /* elements of range() */
    COT__JINJA_ARGS = 16           /* of one call */
};

typedef struct jstr {
    const char *s;
    size_t n;
} jstr;

/* ---- values: immutable but for namespaces; in the rendering's arena ---- */

typedef enum jkind {
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STR,
    J_LIST,
    J_DICT, /* also a namespace */
    J_LOOP,
    J_MACRO,
    J_FUNCTION, /* a global, by name */
    J_METHOD    /* of a value, by name */
} jkind;

typedef struct jval jval;
typedef struct jlist {
    jval *items;
    size_t n;
    bool tuple;
} jlist;
typedef struct jdict {
    jval *keys, *values;
    size_t n, cap;
    bool is_namespace;
} jdict;
typedef struct jloop {
    const jlist *items;
    size_t index;
} jloop;
typedef struct jnode jnode;
typedef struct jmethod jmethod;

struct jval {
    jkind kind;
    union {
        bool b;
        int64_t i;
        double f;
        jstr str; /* of functions: the name; of an undefined value: what was asked for */
        jlist *list;
        jdict *dict;
        const jloop *loop;
        const jnode *macro;
        const jmethod *method;
    };
};

struct jmethod {
    jval of;
    jstr name;
};

/* ---- the tree ---- */

typedef enum jop {
    /* expressions */
    JN_LITERAL, /* value */
    JN_NAME,    /* name */
    JN_LIST,    /* kids; flag: a tuple */
    JN_DICT,    /* kids: key, value, … */
    JN_ATTR,    /* kids[0], name */
    JN_INDEX,   /* kids[0], kids[1] */
    JN_SLICE,   /* kids[0], then start, stop, step, each may be NULL */
    JN_CALL,    /* kids[0] called with the rest; names[i] of kids[i] */
    JN_FILTER,  /* kids[0], name, arguments as above */
    JN_TEST,    /* the same; flag: negated */
    JN_NEGATE,
    JN_PLUS,
    JN_NOT,
    JN_AND,
    JN_OR,
    JN_IF_ELSE, /* condition, then, else (NULL: undefined) */
    JN_BINARY,  /* kids[0] op kids[1]; name is the operator */
    JN_COMPARE, /* kids[0], then kids[i] by names[i] */
    /* statements */
    JN_BODY,        /* kids */
    JN_TEXT,        /* name */
    JN_OUTPUT,      /* kids[0] */
    JN_IF,          /* condition, body, else (may be NULL) */
    JN_FOR,         /* target, iterable, condition (NULL), body, else (NULL) */
    JN_SET,         /* target, value */
    JN_SET_BODY,    /* target, body, then filters: JN_FILTER whose kids[0] is NULL */
    JN_FILTER_BODY, /* body, then filters */
    JN_MACRO,       /* name; names: parameters, kids[i]: defaults (may be NULL), the last kid: body */
    JN_WITH,        /* names, kids; the last kid: body */
    JN_BREAK,
    JN_CONTINUE
} jop;

struct jnode {
    jop op;
    bool flag;
    int line, n;
    jstr name;
    jval value;
    jnode **kids;
    jstr *names; /* NULL, or one per kid; s NULL: none */
};

struct cot__jinja {
    char *file;
    cot__arena *arena;
    jnode *root;
};

/* ---- tokens ---- */

typedef enum jtok {
    JT_TEXT,
    JT_OUTPUT,
    JT_OUTPUT_END,
    JT_BLOCK,
    JT_BLOCK_END,
    JT_NAME,
    JT_STR,
    JT_INT,
    JT_FLOAT,
    JT_OP,
    JT_END
} jtok;

typedef struct jtoken {
    jtok kind;
    int line;
    jstr s; /* text, name, operator, or the value of a string */
    int64_t i;
    double f;
} jtoken;

/* All tokens of a template, with whitespace control applied as trim_blocks and lstrip_blocks ask; in the
 * arena. */
cot_status cot__jinja_lex(const char *file, const char *text, size_t n, cot__arena *arena, jtoken **out,
                          size_t *count, cot_error *err);
cot_status cot__jinja_build(cot__jinja *t, const jtoken *tokens, size_t n, cot_error *err);

static inline bool jstr_is(jstr a, const char *b) {
    size_t i = 0;
    for (; i < a.n && b[i]; i++)
        if (a.s[i] != b[i]) return false;
    return i == a.n && !b[i];
}

/* ---- rendering ---- */

typedef struct jscope jscope;
typedef struct jrun {
    const cot__jinja *t;
    cot__arena *arena;
    jscope *scope, *globals;
    cot__buf *out;
    uint64_t steps;
    int depth, line;
    enum { JF_NONE, JF_BREAK, JF_CONTINUE } flow;
    cot_status status; /* of the first failure */
    cot_error *err;
} jrun;

typedef struct jargs {
    jval v[COT__JINJA_ARGS];
    jstr name[COT__JINJA_ARGS];
    int n;
} jargs;

/* Everything that can fail returns false after noting why in the run. */
COT_PRINTF(3, 4) bool cot__jinja_fail(jrun *r, cot_status status, const char *fmt, ...);
void *cot__jinja_alloc(jrun *r, size_t bytes); /* NULL: noted */
bool cot__jinja_step(jrun *r);
bool cot__jinja_call(jrun *r, const jval *f, const jargs *a, jval *out);

/* jinja_value.c */
jval cot__jinja_text(const char *s, size_t n);
bool cot__jinja_concat(jrun *r, jstr a, jstr b, jval *out);
bool cot__jinja_from_json(jrun *r, const json_t *j, jval *out);
bool cot__jinja_truth(const jval *v);
bool cot__jinja_equal(const jval *a, const jval *b);
/* −1, 0, 1 in *order; false: the kinds have no order (noted). */
bool cot__jinja_order(jrun *r, const jval *a, const jval *b, int *order);
bool cot__jinja_string(jrun *r, const jval *v, jstr *out); /* as str() */
bool cot__jinja_json(jrun *r, const jval *v, int indent, bool sorted, jval *out);
bool cot__jinja_items(jrun *r, const jval *v, jlist *out); /* what iterating gives */
bool cot__jinja_list(jrun *r, size_t n, jval *out);        /* of n undefined */
bool cot__jinja_put(jrun *r, jdict *d, const jval *key, const jval *value);
const jval *cot__jinja_get(const jdict *d, const jval *key);
const jval *cot__jinja_member(const jdict *d, jstr key);
size_t cot__jinja_chars(jstr s);                     /* code points */
size_t cot__jinja_offset(jstr s, size_t char_index); /* in bytes */

/* jinja_lib.c */
bool cot__jinja_filter(jrun *r, jstr name, const jval *v, const jargs *a, jval *out);
bool cot__jinja_test(jrun *r, jstr name, const jval *v, const jargs *a, bool *out);
bool cot__jinja_method(jrun *r, const jval *of, jstr name, const jargs *a, jval *out);
bool cot__jinja_has_method(const jval *of, jstr name);
bool cot__jinja_function(jrun *r, jstr name, const jargs *a, jval *out);
bool cot__jinja_is_function(jstr name);
bool cot__jinja_attribute(jrun *r, const jval *v, jstr name, jval *out); /* v.name; undefined when absent */

#endif
