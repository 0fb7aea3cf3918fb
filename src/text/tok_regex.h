/* Regular expressions of pre-tokenizers: Oniguruma's syntax (what tokenizer.json is written in) on PCRE2. */
#ifndef COT_TEXT_TOK_REGEX_H
#define COT_TEXT_TOK_REGEX_H

#include "base/alloc.h"

typedef struct cot__tok_regex cot__tok_regex; /* compiled, immutable, shareable between threads */

/* Rewrites an expression from Oniguruma's (Ruby) syntax to PCRE2's where the two differ. UNSUPPORTED names
 * what has no counterpart. */
cot_status cot__tok_onig_translate(cot__buf *out, const char *file, const char *field, const char *onig,
                                   size_t n, cot_error *err);
/* Appends to a class the characters of a category ("L", "Lu") or script that PCRE2 is too old to know; false:
 * out of memory. */
bool cot__tok_unicode_newer(const char *name, size_t n, cot__buf *out);
cot_status cot__tok_regex_compile(cot__tok_regex **out, const char *file, const char *field, const char *pcre,
                                  size_t n, cot_error *err);
void cot__tok_regex_free(cot__tok_regex **re);

/* What one thread needs to match. Zero-initialise; every nesting level has its own match data. */
typedef struct cot__tok_matcher {
    void *context, *stack;
    void *data[18];
    uint64_t spent, budget; /* steps; budget 0: by the length of the first text that needs it */
} cot__tok_matcher;
/* Bounds the steps of all matching from here on, for n bytes of text. */
void cot__tok_matcher_budget(cot__tok_matcher *m, size_t n);
void cot__tok_matcher_clear(cot__tok_matcher *m);

/* Where a walk over all matches of one text stands. Zero-initialise. */
typedef struct cot__tok_walk {
    size_t at, last_end;
    bool matched_once;
} cot__tok_walk;
/* The next match that does not overlap, empty ones included, as Oniguruma's iterators give them. text is
 * valid UTF-8. *found false: no more. */
cot_status cot__tok_regex_next(const cot__tok_regex *re, cot__tok_matcher *m, unsigned level,
                               const char *text, size_t n, cot__tok_walk *walk, size_t *start, size_t *end,
                               bool *found, cot_error *err);

#endif
