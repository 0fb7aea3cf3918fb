/* Owns: compiling and matching with PCRE2 (JIT where the machine allows it), with limits on steps and memory.
 * Refuses: invalid UTF-8; callers cut it out first, so that PCRE2 need not check again at every match.
 *
 * Expressions come from files and text comes from strangers, so that the cost of a whole encode call is
 * bounded: every place where a match may begin has FREE_STEPS; what needs more is tried place by place with
 * growing limits, and these count against the budget of the call. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/tok_regex.h"

#include <pcre2.h>
#include <string.h>

#include "base/error.h"

#define JIT_STACK_MIN (32u << 10)
#define JIT_STACK_MAX (64u << 20)
#define HEAP_LIMIT_KB (256u << 10) /* of the interpreter, where there is no JIT */
#define LENGTH_MAX    (64u << 10)  /* bytes of an expression */
#define FREE_STEPS    2000u
#define BUDGET        (64u << 20) /* steps beyond the free ones of one encode call */
#define BUDGET_BYTE   64          /* and per byte of its text */

struct cot__tok_regex {
    pcre2_code *code;
    bool jit;
};

static void *take(PCRE2_SIZE n, void *user) { return cot__alloc(n); }
static void give(void *p, void *user) { cot__free(p); }

static cot_status compile(cot__tok_regex *re, pcre2_general_context *general, const char *file,
                          const char *field, const char *pcre, size_t n, cot_error *err) {
    pcre2_compile_context *cc = pcre2_compile_context_create(general);
    if (!cc) return cot__fail_memory(err, 0);
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    pcre2_set_max_pattern_length(cc, LENGTH_MAX);
    int code = 0;
    PCRE2_SIZE at = 0;
    re->code =
        pcre2_compile((PCRE2_SPTR)pcre, n, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                      &code, &at, cc);
    pcre2_compile_context_free(cc);
    if (!re->code) {
        if (code == PCRE2_ERROR_HEAP_FAILED) return cot__fail_memory(err, 0);
        char text[160] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        return cot__fail(err, COT_UNSUPPORTED, file, field, "regular expression at byte %zu: %s", (size_t)at,
                         text);
    }
    re->jit = pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE) == 0;
    return COT_OK;
}

cot_status cot__tok_regex_compile(cot__tok_regex **out, const char *file, const char *field, const char *pcre,
                                  size_t n, cot_error *err) {
    cot__tok_regex *re = cot__alloc_zero(1, sizeof *re);
    pcre2_general_context *general = re ? pcre2_general_context_create(take, give, NULL) : NULL;
    cot_status s =
        general ? compile(re, general, file, field, pcre, n, err) : cot__fail_memory(err, sizeof *re);
    pcre2_general_context_free(general);
    if (s == COT_OK) *out = re;
    else cot__tok_regex_free(&re);
    return s;
}

void cot__tok_regex_free(cot__tok_regex **re) {
    if (!re || !*re) return;
    pcre2_code_free((*re)->code);
    cot__free(*re);
    *re = NULL;
}

void cot__tok_matcher_clear(cot__tok_matcher *m) {
    for (size_t i = 0; i < sizeof m->data / sizeof *m->data; i++) pcre2_match_data_free(m->data[i]);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    memset(m, 0, sizeof *m);
}

static cot_status prepare(cot__tok_matcher *m, unsigned level, cot_error *err) {
    if (level >= sizeof m->data / sizeof *m->data)
        return cot__fail(err, COT_LIMIT, NULL, NULL, "more than %zu nested pre-tokenizers",
                         sizeof m->data / sizeof *m->data);
    if (m->context && m->data[level]) return COT_OK;
    pcre2_general_context *general = pcre2_general_context_create(take, give, NULL);
    if (!general) return cot__fail_memory(err, 0);
    if (!m->context && (m->context = pcre2_match_context_create(general))) {
        pcre2_set_heap_limit(m->context, HEAP_LIMIT_KB);
        pcre2_set_depth_limit(m->context, 1000000);
    }
    if (!m->data[level]) m->data[level] = pcre2_match_data_create(1, general);
    pcre2_general_context_free(general);
    return m->context && m->data[level] ? COT_OK : cot__fail_memory(err, 0);
}

void cot__tok_matcher_budget(cot__tok_matcher *m, size_t n) {
    m->budget = BUDGET + BUDGET_BYTE * (uint64_t)n;
}

static int match_fast(const cot__tok_regex *re, cot__tok_matcher *m, unsigned level, const char *text,
                      size_t n, size_t at) {
    PCRE2_SPTR p = (PCRE2_SPTR)text;
    pcre2_set_match_limit(m->context, FREE_STEPS);
    if (!re->jit) return pcre2_match(re->code, p, n, at, PCRE2_NO_UTF_CHECK, m->data[level], m->context);
    int rc = pcre2_jit_match(re->code, p, n, at, PCRE2_NO_UTF_CHECK, m->data[level], m->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !m->stack) {
        /* Rare: deep backtracking. Then the call keeps a stack of its own. */
        m->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL);
        if (!m->stack) return PCRE2_ERROR_NOMEMORY;
        pcre2_jit_stack_assign(m->context, NULL, m->stack);
        rc = pcre2_jit_match(re->code, p, n, at, PCRE2_NO_UTF_CHECK, m->data[level], m->context);
    }
    return rc;
}

/* From one place after the other; the limit of PCRE2 is per place, and only here is it known which place
 * spends how much. */
static int match_paid(const cot__tok_regex *re, cot__tok_matcher *m, unsigned level, const char *text,
                      size_t n, size_t at) {
    if (!m->budget) cot__tok_matcher_budget(m, n);
    for (;;) {
        int rc = PCRE2_ERROR_MATCHLIMIT;
        for (uint64_t limit = FREE_STEPS; rc == PCRE2_ERROR_MATCHLIMIT; limit *= 8) {
            if (limit > FREE_STEPS) m->spent += limit;
            if (m->spent > m->budget) return rc;
            pcre2_set_match_limit(m->context, limit > UINT32_MAX ? UINT32_MAX : (uint32_t)limit);
            rc = pcre2_match(re->code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED,
                             m->data[level], m->context);
        }
        if (rc != PCRE2_ERROR_NOMATCH || at >= n) return rc;
        do at++;
        while (at < n && ((unsigned char)text[at] & 0xc0) == 0x80);
    }
}

static int match(const cot__tok_regex *re, cot__tok_matcher *m, unsigned level, const char *text, size_t n,
                 size_t at) {
    int rc = match_fast(re, m, level, text, n, at);
    return rc == PCRE2_ERROR_MATCHLIMIT ? match_paid(re, m, level, text, n, at) : rc;
}

cot_status cot__tok_regex_next(const cot__tok_regex *re, cot__tok_matcher *m, unsigned level,
                               const char *text, size_t n, cot__tok_walk *w, size_t *start, size_t *end,
                               bool *found, cot_error *err) {
    COT_TRY(prepare(m, level, err));
    *found = false;
    while (w->at <= n) {
        int rc = match(re, m, level, text, n, w->at);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc == PCRE2_ERROR_NOMEMORY) return cot__fail_memory(err, 0);
        if (rc < 0) {
            char why[160] = "";
            pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
            return cot__fail(err, COT_LIMIT, NULL, NULL,
                             "the pre-tokenizer's expression gives up on this text: %s", why);
        }
        PCRE2_SIZE *o = pcre2_get_ovector_pointer(m->data[level]);
        size_t s = o[0], e = o[1];
        /* \K in a lookahead can move the start behind the end; such a match is as good as empty. */
        if (s > e) s = e;
        if (s < w->last_end) s = w->last_end;
        if (e < s) e = s;
        if (s == e && w->matched_once && e == w->last_end) {
            /* An empty match right behind the last one would come again for ever: on by one character. */
            if (w->at >= n) break;
            do w->at++;
            while (w->at < n && ((unsigned char)text[w->at] & 0xc0) == 0x80);
            continue;
        }
        w->at = w->last_end = e;
        w->matched_once = true;
        *start = s;
        *end = e;
        *found = true;
        return COT_OK;
    }
    w->at = n + 1;
    return COT_OK;
}
