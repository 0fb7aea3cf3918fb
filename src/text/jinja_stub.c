/* Place of the template evaluator until it is written: declines every template. */
#include "text/jinja.h"
#include "base/error.h"
cot_status cot__jinja_parse(cot__jinja **out, const char *file, const char *text, size_t n, cot_error *err) {
    *out = NULL;
    return COT_OK;
}
void cot__jinja_free(cot__jinja **t) {}
cot_status cot__jinja_render(const cot__jinja *t, const json_t *vars, cot__buf *out, cot_error *err) {
    return cot__fail(err, COT_UNSUPPORTED, NULL, NULL, "no templates yet");
}
