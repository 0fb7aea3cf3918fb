/* Owns: a model's chat prompt: its own template, or a built-in shape written as a template of the same
 * language, so that there is one renderer. */
#include "text/chat.h"

#include <string.h>

#include "base/error.h"
#include "text/jinja.h"

struct cot__chat {
    cot__jinja *jinja;
};

#define EACH      "{% for m in messages %}"
#define END       "{% endfor %}"
#define PROMPT(x) "{% if add_generation_prompt %}" x "{% endif %}"
/* System text goes before the first user text. A newline right behind a block's end is dropped, as everywhere
 * in chat templates: where one is meant, it is written as a value. */
#define SYSTEM_FIRST                                                                                         \
    "{% if messages[0].role == 'system' %}{% set sys = messages[0].content %}{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}"

static const struct {
    const char *name, *text;
} shapes[] = {
    {"chatml",
     EACH "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" END PROMPT("<|im_start|>assistant\n")},
    {"mistral-v1", SYSTEM_FIRST
     "{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %} [INST] {% if loop.first and sys %}{{ sys }}\n\n{% endif %}{{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}" END},
    {"llama3",
     "{{ bos_token }}" EACH
     "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>" END PROMPT(
         "<|start_header_id|>assistant<|end_header_id|>\n\n")},
    {"llama4", "{{ bos_token }}" EACH
               "<|header_start|>{{ m.role }}<|header_end|>\n\n{{ m.content | trim }}<|eot|>" END PROMPT(
                   "<|header_start|>assistant<|header_end|>\n\n")},
    {"gemma", SYSTEM_FIRST
     "{{ bos_token }}{% for m in rest %}<start_of_turn>{% if m.role == 'assistant' %}model{% else %}{{ m.role }}{% endif %}{{ '\\n' }}{% if loop.first and sys %}{{ sys }}\n\n{% endif %}{{ m.content | trim }}<end_of_turn>\n" END
         PROMPT("<start_of_turn>model\n")},
    {"deepseek2",
     "{{ bos_token }}" EACH
     "{% if m.role == 'user' %}User: {{ m.content }}\n\n{% elif m.role == 'assistant' %}Assistant: {{ m.content }}{{ eos_token }}{% else %}{{ m.content }}\n\n{% endif %}" END
         PROMPT("Assistant:")},
    {"deepseek3",
     "{{ bos_token }}" EACH
     "{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% elif m.role == 'assistant' %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% else %}{{ m.content }}\n\n{% endif %}" END
         PROMPT("<｜Assistant｜>")},
    {"bailing", EACH
     "<role>{% if m.role == 'user' %}HUMAN{% else %}{{ m.role | upper }}{% endif %}</role>{{ m.content }}" END
         PROMPT("<role>ASSISTANT</role>")},
    {"bailing2",
     "{% if messages[0].role != 'system' %}<role>SYSTEM</role>detailed thinking off<|role_end|>{% endif %}" EACH
     "<role>{% if m.role == 'user' %}HUMAN{% else %}{{ m.role | upper }}{% endif %}</role>{{ m.content }}<|role_end|>" END
         PROMPT("<role>ASSISTANT</role>")},
    {"granite",
     EACH "<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n" END PROMPT(
         "<|start_of_role|>assistant<|end_of_role|>")},
    {"phi3", EACH "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n" END PROMPT("<|assistant|>\n")},
    {"glm4", "[gMASK]<sop>" EACH "<|{{ m.role }}|>\n{{ m.content }}" END PROMPT("<|assistant|>\n")},
    {"harmony", EACH
     "<|start|>{{ m.role }}<|message|>{{ m.content }}{% if m.role == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}" END
         PROMPT("<|start|>assistant")},
    {"zephyr",
     "<|endoftext|>" EACH
     "<|{{ m.role }}|>\n{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}" END
         PROMPT("<|assistant|>\n")},
};

/* The family's shape when the model brings no template; `open`: models of several shapes share the
 * architecture, and their vocabulary says more. */
static const struct {
    const char *arch, *shape;
    bool open;
} families[] = {
    {"deepseek", "deepseek2", false}, {"deepseek2", "deepseek2", true},   {"deepseek3", "deepseek3", true},
    {"bailingmoe", "bailing", false}, {"bailingmoe2", "bailing2", false}, {"granitemoe", "granite", false},
    {"phimoe", "phi3", false},        {"glm4moe", "glm4", false},         {"gpt-oss", "harmony", false},
    {"olmoe", "zephyr", false},       {"olmo2", "zephyr", false},         {"gemma3", "gemma", false},
    {"llama4", "llama4", false},      {"llama", "mistral-v1", true},
};

static const char *shape_named(const char *name, size_t n) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strlen(shapes[i].name) == n && memcmp(shapes[i].name, name, n) == 0) return shapes[i].text;
    return NULL;
}

bool cot__chat_family_is_open(const char *arch) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i].arch, arch) == 0) return families[i].open;
    return true;
}

cot_status cot__chat_create(cot__chat **out, const char *file, const char *text, size_t n, const char *arch,
                            cot_error *err) {
    const char *source = text, *built_in = text ? shape_named(text, n) : NULL;
    if (!text) {
        const char *name = "chatml";
        for (size_t i = 0; i < sizeof families / sizeof *families; i++)
            if (arch && strcmp(families[i].arch, arch) == 0) name = families[i].shape;
        built_in = shape_named(name, strlen(name));
    }
    if (built_in) source = built_in, n = strlen(built_in);
    cot__chat *c = cot__alloc_zero(1, sizeof *c);
    if (!c) return cot__fail_memory(err, sizeof *c);
    cot_status s = cot__jinja_parse(&c->jinja, file, source, n, err);
    if (s != COT_OK) cot__free(c);
    else *out = c;
    return s;
}

void cot__chat_free(cot__chat **chat) {
    if (!chat || !*chat) return;
    cot__jinja_free(&(*chat)->jinja);
    cot__free(*chat);
    *chat = NULL;
}

cot_status cot__chat_render(const cot__chat *c, const json_t *messages, bool add_generation_prompt,
                            const char *bos, const char *eos, const json_t *tools, const json_t *extra,
                            cot__buf *out, cot_error *err) {
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return cot__fail(err, COT_ARGUMENT, NULL, "messages", "must be a list with at least one message");
    for (size_t i = 0; i < json_array_size(messages); i++)
        if (!json_is_string(json_object_get(json_array_get(messages, i), "role")))
            return cot__fail(err, COT_ARGUMENT, NULL, "messages", "message %zu has no role", i);
    json_t *vars = json_object();
    if (!vars) return cot__fail_memory(err, 0);
    int bad = json_object_set(vars, "messages", (json_t *)messages) ||
              json_object_set_new(vars, "add_generation_prompt", json_boolean(add_generation_prompt)) ||
              json_object_set_new(vars, "bos_token", json_string(bos ? bos : "")) ||
              json_object_set_new(vars, "eos_token", json_string(eos ? eos : "")) ||
              (tools && json_object_set(vars, "tools", (json_t *)tools)) ||
              (extra && json_object_update(vars, (json_t *)extra));
    cot_status s =
        bad ? cot__fail(err, COT_NO_MEMORY, NULL, "messages", "out of memory, or text that is not UTF-8")
            : cot__jinja_render(c->jinja, vars, out, err);
    json_decref(vars);
    return s;
}
