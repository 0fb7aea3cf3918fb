/* Chat templates: anything is refused or rendered, within the bounds. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static json_t *vars;
    if (!vars)
        vars = json_pack("{s:[{s:s,s:s},{s:s,s:n}],s:b,s:s,s:s,s:n}", "messages", "role", "user", "content",
                         "h\xc3\xa4 'x'", "role", "assistant", "content", "add_generation_prompt", 1,
                         "bos_token", "<s>", "eos_token", "</s>", "tools");
    cot__jinja *t = NULL;
    cot_error err;
    cot__buf out = {.max = 1 << 16};
    if (cot__jinja_parse(&t, "fuzz", (const char *)data, n, &err) != COT_OK) return 0;
    cot__jinja_render(t, vars, &out, &err);
    cot__buf_free(&out);
    cot__jinja_free(&t);
    return 0;
}
