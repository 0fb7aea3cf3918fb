/* Chat prompts: the model's own template, or a built-in shape named by card 3 when it has none. */
#ifndef COT_TEXT_CHAT_H
#define COT_TEXT_CHAT_H

#include "base/alloc.h"
#include "base/json.h"

typedef struct cot__chat cot__chat; /* immutable, shareable */

/* text: the template's Jinja source, or the name of a built-in shape ("chatml", "mistral-v1", "deepseek2",
 * "deepseek3", "bailing", "bailing2", "granite", "phi3", "glm4", "harmony", "llama4", "llama3", "gemma",
 * "zephyr"), or NULL with `arch` (a GGUF architecture name) to choose the built-in by family (else chatml).
 */
cot_status cot__chat_create(cot__chat **out, const char *file, const char *text, size_t n, const char *arch,
                            cot_error *err);
/* Whether models of this architecture come with several shapes, or it is not known. */
bool cot__chat_family_is_open(const char *arch);
void cot__chat_free(cot__chat **c);
/* messages: array of {"role", "content", …}. Variables given to the template: messages,
 * add_generation_prompt, bos_token, eos_token, tools (NULL: none), plus the members of `extra` (may be NULL),
 * strftime_now, raise_exception. */
cot_status cot__chat_render(const cot__chat *c, const json_t *messages, bool add_generation_prompt,
                            const char *bos, const char *eos, const json_t *tools, const json_t *extra,
                            cot__buf *out, cot_error *err);

#endif
