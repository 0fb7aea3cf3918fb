/* A small, bounded Jinja evaluator: enough for the chat templates that model families ship. */
#ifndef COT_TEXT_JINJA_H
#define COT_TEXT_JINJA_H

#include "base/alloc.h"
#include "base/json.h"

typedef struct cot__jinja cot__jinja; /* a parsed template: immutable, shareable */

/* Parses. Nesting is bounded (200), so is size (1 MiB). `file` names the template in errors, which give the
 * line. */
cot_status cot__jinja_parse(cot__jinja **out, const char *file, const char *text, size_t n, cot_error *err);
void cot__jinja_free(cot__jinja **t);
/* Renders with the variables of an object. Steps (1 M) and output (out->max) are bounded. raise_exception in
 * the template gives COT_ARGUMENT with its message. Undefined variables render as nothing, as HF does. */
cot_status cot__jinja_render(const cot__jinja *t, const json_t *vars, cot__buf *out, cot_error *err);

#endif
