/* Owns: a model's text side: vocabulary out of GGUF metadata or tokenizer.json, chat template, end tokens. A
 * model without a tokenizer is a model all the same; asking it for text says why there is none. */
#include <string.h>

#include "base/error.h"
#include "model/internal.h"
#include "text/chat.h"
#include "text/tokenizer.h"

static int32_t id_key(const cot__gguf *g, const char *key) {
    const cot__gguf_kv *kv = cot__gguf_find(g, key);
    int64_t v;
    return kv && cot__gguf_int(kv, 0, &v) && v >= 0 && v <= INT32_MAX ? (int32_t)v : -1;
}

static int8_t flag_key(const cot__gguf *g, const char *key) {
    const cot__gguf_kv *kv = cot__gguf_find(g, key);
    return kv && kv->type == COT_GGUF_BOOL ? (int8_t)kv->b : -1;
}

static const char *str_key(const cot__gguf *g, const char *key) {
    const cot__gguf_kv *kv = cot__gguf_find(g, key);
    return kv && kv->type == COT_GGUF_STRING ? kv->str.s : NULL;
}

/* An array of n numbers as int32 or float; NULL when absent. */
static cot_status numbers(const cot__gguf *g, const char *key, size_t n, bool real, void **out,
                          cot_error *err) {
    const cot__gguf_kv *kv = cot__gguf_find(g, key);
    *out = NULL;
    if (!kv) return COT_OK;
    if (kv->type != COT_GGUF_ARRAY || kv->count != n)
        return cot__fail(err, COT_FORMAT, cot__gguf_path(g), key, "must be an array of %zu numbers", n);
    void *p = cot__alloc_array(n, 4);
    if (!p) return cot__fail_memory(err, n * 4);
    for (size_t i = 0; i < n; i++) {
        double f = 0;
        int64_t v = 0;
        if (real ? !cot__gguf_f64(kv, i, &f) : !cot__gguf_int(kv, i, &v) || v < INT32_MIN || v > INT32_MAX) {
            cot__free(p);
            return cot__fail(err, COT_FORMAT, cot__gguf_path(g), key, "element %zu is of the wrong type", i);
        }
        if (real) ((float *)p)[i] = (float)f;
        else ((int32_t *)p)[i] = (int32_t)v;
    }
    *out = p;
    return COT_OK;
}

static cot_status from_gguf(cot_model *m, cot_error *err) {
    const cot__gguf *g = m->source->gguf;
    const cot__gguf_kv *tokens = cot__gguf_find(g, "tokenizer.ggml.tokens"),
                       *merges = cot__gguf_find(g, "tokenizer.ggml.merges"),
                       *map = cot__gguf_find(g, "tokenizer.ggml.precompiled_charsmap");
    const char *model = str_key(g, "tokenizer.ggml.model");
    if (!tokens || !model)
        return cot__fail(err, COT_NOT_FOUND, m->source->path, "tokenizer.ggml.tokens",
                         "the file has no tokenizer");
    if (tokens->type != COT_GGUF_ARRAY || tokens->elem != COT_GGUF_STRING ||
        (merges && (merges->type != COT_GGUF_ARRAY || merges->elem != COT_GGUF_STRING)))
        return cot__fail(err, COT_FORMAT, m->source->path, "tokenizer.ggml.tokens",
                         "tokens and merges must be arrays of strings");
    _Static_assert(sizeof(cot__vocab_str) == sizeof(cot__gguf_str), "both are a pointer and a length");
    cot__vocab v = {.file = m->source->path,
                    .model = model,
                    .pre = str_key(g, "tokenizer.ggml.pre"),
                    .n_tokens = tokens->count,
                    .n_merges = merges ? merges->count : 0,
                    .bos = id_key(g, "tokenizer.ggml.bos_token_id"),
                    .eos = id_key(g, "tokenizer.ggml.eos_token_id"),
                    .unk = id_key(g, "tokenizer.ggml.unknown_token_id"),
                    .eot = id_key(g, "tokenizer.ggml.eot_token_id"),
                    .eom = id_key(g, "tokenizer.ggml.eom_token_id"),
                    .pad = id_key(g, "tokenizer.ggml.padding_token_id"),
                    .add_bos = flag_key(g, "tokenizer.ggml.add_bos_token"),
                    .add_eos = flag_key(g, "tokenizer.ggml.add_eos_token"),
                    .add_space_prefix = flag_key(g, "tokenizer.ggml.add_space_prefix"),
                    .remove_extra_whitespaces = flag_key(g, "tokenizer.ggml.remove_extra_whitespaces")};
    v.tokens = (const cot__vocab_str *)(const void *)tokens->strs;
    v.merges = merges ? (const cot__vocab_str *)(const void *)merges->strs : NULL;
    if (map && map->type == COT_GGUF_ARRAY && (map->elem == COT_GGUF_U8 || map->elem == COT_GGUF_I8))
        v.charsmap = map->data, v.charsmap_len = map->count;
    void *scores = NULL, *types = NULL;
    cot_status s = numbers(g, "tokenizer.ggml.scores", tokens->count, true, &scores, err);
    if (s == COT_OK) s = numbers(g, "tokenizer.ggml.token_type", tokens->count, false, &types, err);
    v.scores = scores;
    v.types = types;
    if (s == COT_OK) s = cot__tokenizer_from_vocab(&m->tokenizer, &v, err);
    cot__free(scores);
    cot__free(types);
    return s;
}

static cot_status from_folder(cot_model *m, cot_error *err) {
    char *path = cot__path_join(m->source->path, "tokenizer.json");
    if (!path) return cot__fail_memory(err, strlen(m->source->path));
    bool there = cot__path_exists(path);
    cot__free(path);
    if (!there)
        return cot__fail(err, COT_NOT_FOUND, m->source->path, "tokenizer.json",
                         "the folder has no tokenizer");
    return cot__tokenizer_from_hf(&m->tokenizer, m->source->path, err);
}

/* ---- end tokens: the union of what GGUF, config and generation_config name ---- */

static cot_status add_end(cot_model *m, int64_t id, cot_error *err) {
    if (id < 0 || id >= m->n_vocab || cot_token_is_end(m, (int32_t)id)) return COT_OK;
    int32_t *p = cot__realloc_array(m->ends, m->n_ends + 1, sizeof *p);
    if (!p) return cot__fail_memory(err, (m->n_ends + 1) * sizeof *p);
    m->ends = p;
    p[m->n_ends++] = (int32_t)id;
    return COT_OK;
}

static cot_status add_json_ends(cot_model *m, const json_t *config, cot_error *err) {
    const json_t *v = cot__json_at(config, "eos_token_id");
    if (json_is_integer(v)) return add_end(m, json_integer_value(v), err);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (json_is_integer(json_array_get(v, i)))
            COT_TRY(add_end(m, json_integer_value(json_array_get(v, i)), err));
    return COT_OK;
}

/* Control tokens that end a turn by the families' habit, where the vocabulary has them as control tokens. */
static const char *const turn_ends[] = {"<|im_end|>",      "<|eot_id|>",    "<|end|>",
                                        "<end_of_turn>",   "<|endoftext|>", "<|return|>",
                                        "<|call|>",        "<|user|>",      "<|observation|>",
                                        "<|end_of_text|>", "<|role_end|>",  "<｜end▁of▁sentence｜>",
                                        "<|eom_id|>",      "</s>",          "<|eot|>"};

static cot_status load_ends(cot_model *m, cot_error *err) {
    COT_TRY(add_json_ends(m, m->source->config, err));
    COT_TRY(add_json_ends(m, m->source->generation, err));
    if (m->source->is_gguf) {
        static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                           "tokenizer.ggml.eom_token_id"};
        for (int i = 0; i < 3; i++) COT_TRY(add_end(m, id_key(m->source->gguf, keys[i]), err));
    }
    if (!m->tokenizer) return COT_OK;
    static const char *const roles[] = {"eos", "eot", "eom"};
    for (int i = 0; i < 3; i++) COT_TRY(add_end(m, cot__tokenizer_special(m->tokenizer, roles[i]), err));
    const json_t *chat_ends = cot__json_at(m->arch->doc, "end_tokens"); /* a family's own list */
    for (size_t i = 0; i < json_array_size(chat_ends); i++) {
        const char *t = json_string_value(json_array_get(chat_ends, i));
        if (t) COT_TRY(add_end(m, cot__tokenizer_find(m->tokenizer, t, strlen(t)), err));
    }
    if (m->source->is_gguf) /* a GGUF names one end id; chat models end turns with another */
        for (size_t i = 0; i < sizeof turn_ends / sizeof *turn_ends; i++) {
            int32_t id = cot__tokenizer_find(m->tokenizer, turn_ends[i], strlen(turn_ends[i]));
            bool other = strcmp(turn_ends[i], "<|user|>") == 0 ||
                         strcmp(turn_ends[i], "<|observation|>") == 0 ||
                         strcmp(turn_ends[i], "<|call|>") == 0;
            if (id >= 0 && cot__tokenizer_is_control(m->tokenizer, id) &&
                !(other && strcmp(m->arch->name, "llama") == 0))
                COT_TRY(add_end(m, id, err));
        }
    return COT_OK;
}

/* ---- chat template ---- */

enum { MAX_TEMPLATE = 1 << 20 };

static cot_status template_text(cot_model *m, cot_error *err) {
    size_t n;
    if (m->source->is_gguf) {
        const char *t = str_key(m->source->gguf, "tokenizer.chat_template");
        if (t && !(m->chat_template = cot__strdup(t))) return cot__fail_memory(err, strlen(t));
        return COT_OK;
    }
    char *jinja = cot__path_join(m->source->path, "chat_template.jinja"),
         *config = cot__path_join(m->source->path, "tokenizer_config.json");
    cot_status s = jinja && config ? COT_OK : cot__fail_memory(err, strlen(m->source->path));
    json_t *root = NULL;
    if (s == COT_OK && cot__path_exists(jinja))
        s = cot__file_slurp(jinja, MAX_TEMPLATE, &m->chat_template, &n, err);
    else if (s == COT_OK && cot__path_exists(config)) {
        s = cot__json_load(&root, config, 64 << 20, err);
        const json_t *t = s == COT_OK ? cot__json_at(root, "chat_template") : NULL;
        if (json_is_array(t)) { /* several, by name: the default one */
            const json_t *list = t;
            t = NULL;
            for (size_t i = 0; i < json_array_size(list); i++) {
                const char *name = json_string_value(json_object_get(json_array_get(list, i), "name"));
                if (!t || (name && strcmp(name, "default") == 0))
                    t = json_object_get(json_array_get(list, i), "template");
            }
        }
        if (json_is_string(t) && !(m->chat_template = cot__strdup(json_string_value(t))))
            s = cot__fail_memory(err, json_string_length(t));
    }
    json_decref(root);
    cot__free(jinja);
    cot__free(config);
    return s;
}

/* Without a template, the tokens that a vocabulary has for turns tell the shape, where the family alone does
 * not. */
static const char *shape_of(const cot_model *m) {
    static const struct {
        const char *token, *shape;
    } marks[] = {{"<｜User｜>", "deepseek3"},      {"<|start_header_id|>", "llama3"},
                 {"<|header_start|>", "llama4"},   {"<start_of_turn>", "gemma"},
                 {"<|start_of_role|>", "granite"}, {"<|role_end|>", "bailing2"},
                 {"<|im_start|>", "chatml"},       {"[gMASK]", "glm4"}};
    if (!m->tokenizer || !cot__chat_family_is_open(m->arch->name)) return NULL;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (cot__tokenizer_find(m->tokenizer, marks[i].token, strlen(marks[i].token)) >= 0)
            return marks[i].shape;
    return NULL;
}

cot_status cot__model_load_text(cot_model *m, cot_error *err) {
    cot_error why;
    cot__error_clear(&why);
    cot_status s = m->source->is_gguf ? from_gguf(m, &why) : from_folder(m, &why);
    if (s == COT_NO_MEMORY || s == COT_IO) {
        if (err) *err = why;
        return s;
    }
    m->tokenizer_status = s;
    m->tokenizer_error = why;
    if (s != COT_OK && s != COT_NOT_FOUND) cot__log(COT_LOG_INFO, "tokenizer: %s", why.message);
    COT_TRY(load_ends(m, err));
    COT_TRY(template_text(m, err));
    const char *shape = shape_of(m), *text = m->chat_template ? m->chat_template : shape;
    s = cot__chat_create(&m->chat, m->source->path, text, text ? strlen(text) : 0, m->arch->name, &why);
    if (s == COT_NO_MEMORY) {
        if (err) *err = why;
        return s;
    }
    if (s == COT_OK) return COT_OK;
    cot__log(COT_LOG_WARN, "chat template: %s; a built-in one is used", why.message);
    return cot__chat_create(&m->chat, m->source->path, shape, shape ? strlen(shape) : 0, m->arch->name, err);
}

/* ---- the public half ---- */

static cot_status need_tokenizer(const cot_model *m, cot_error *err) {
    if (m->tokenizer) return COT_OK;
    if (err) *err = m->tokenizer_error;
    return m->tokenizer_status;
}

cot_status cot_tokenize(const cot_model *m, const char *text, size_t n, bool add_special, bool parse_special,
                        int32_t **ids, size_t *count, cot_error *err) {
    cot__error_clear(err);
    COT_TRY(need_tokenizer(m, err));
    return cot__tokenizer_encode(m->tokenizer, text, n, add_special, parse_special, ids, count, err);
}

cot_status cot_detokenize(const cot_model *m, const int32_t *ids, size_t n, bool special, char **text,
                          size_t *len, cot_error *err) {
    cot__error_clear(err);
    COT_TRY(need_tokenizer(m, err));
    return cot__tokenizer_decode(m->tokenizer, ids, n, special, text, len, err);
}

const char *cot_token_piece(const cot_model *m, int32_t id, bool special, size_t *len) {
    *len = 0;
    return m->tokenizer ? cot__tokenizer_piece(m->tokenizer, id, special, len) : NULL;
}

int32_t cot_token_role(const cot_model *m, const char *role) {
    return m->tokenizer ? cot__tokenizer_special(m->tokenizer, role) : -1;
}
bool cot_model_adds_bos(const cot_model *m) { return m->tokenizer && cot__tokenizer_adds_bos(m->tokenizer); }

bool cot_token_is_end(const cot_model *m, int32_t id) {
    for (size_t i = 0; i < m->n_ends; i++)
        if (m->ends[i] == id) return true;
    return false;
}

/* What a template does in a branch shows when it is taken: what is not supported there is treated as at the
 * start, the built-in shape stands in. */
static cot_status render(const cot_model *m, const json_t *messages, bool prompt, const char *bos,
                         const char *eos, cot__buf *out, cot_error *err) {
    cot_error why;
    cot__chat *chat = NULL;
    cot_status s = cot__chat_render(m->chat, messages, prompt, bos, eos, NULL, NULL, out, &why);
    if (s != COT_UNSUPPORTED || !m->chat_template) {
        if (s != COT_OK && err) *err = why;
        return s;
    }
    const char *shape = shape_of(m);
    cot__log(COT_LOG_WARN, "chat template: %s; a built-in one is used", why.message);
    out->len = 0;
    s = cot__chat_create(&chat, m->source->path, shape, shape ? strlen(shape) : 0, m->arch->name, err);
    if (s == COT_OK) s = cot__chat_render(chat, messages, prompt, bos, eos, NULL, NULL, out, err);
    cot__chat_free(&chat);
    return s;
}

cot_status cot_chat_render(const cot_model *m, const char *messages_json, bool add_generation_prompt,
                           char **text, size_t *len, cot_error *err) {
    json_t *messages = NULL;
    cot__error_clear(err);
    COT_TRY(need_tokenizer(m, err));
    COT_TRY(cot__json_parse(&messages, "messages", messages_json, strlen(messages_json), err));
    size_t n_bos = 0, n_eos = 0;
    int32_t bos = cot_token_role(m, "bos"), eos = cot_token_role(m, "eos");
    const char *b = bos >= 0 ? cot_token_piece(m, bos, true, &n_bos) : NULL,
               *e = eos >= 0 ? cot_token_piece(m, eos, true, &n_eos) : NULL;
    char *bos_text = cot__strndup(b ? b : "", n_bos), *eos_text = cot__strndup(e ? e : "", n_eos);
    cot__buf out = {.max = 64 << 20};
    cot_status s = bos_text && eos_text
                       ? render(m, messages, add_generation_prompt, bos_text, eos_text, &out, err)
                       : cot__fail_memory(err, n_bos + n_eos);
    if (s == COT_OK && !out.data && !cot__buf_put(&out, "", 0)) s = cot__fail_memory(err, 1);
    if (s == COT_OK) {
        *text = out.data;
        *len = out.len;
    } else cot__buf_free(&out);
    cot__free(bos_text);
    cot__free(eos_text);
    json_decref(messages);
    return s;
}
