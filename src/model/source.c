/* Owns: opening a GGUF file or a Hugging Face folder. */
#include "model/source.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

enum { MAX_CONFIG = 16 << 20 };

/* "Q4_K,Q6_K": experts of these types were repacked by coterie pack. */
static cot_status read_together(cot__source *s, cot_error *err) {
    const cot__gguf_kv *kv = cot__gguf_find(s->gguf, COT__TOGETHER_KEY);
    if (!kv) return COT_OK;
    if (kv->type != COT_GGUF_STRING)
        return cot__fail(err, COT_FORMAT, s->path, COT__TOGETHER_KEY, "must name number formats");
    for (size_t at = 0, n; at < kv->str.len; at += n + 1) {
        char name[16];
        n = 0;
        while (at + n < kv->str.len && kv->str.s[at + n] != ',') n++;
        snprintf(name, sizeof name, "%.*s", (int)(n < 15 ? n : 15), kv->str.s + at);
        cot_type t = cot_type_from_name(name);
        if (!cot__can_stand_together((int)t))
            return cot__fail(
                err, COT_UNSUPPORTED, s->path, COT__TOGETHER_KEY,
                "experts in %s are in an order that this version does not know; pack the original again",
                name);
        s->together |= 1ull << t;
    }
    return COT_OK;
}

static cot_status open_gguf(cot__source *s, cot_error *err) {
    COT_TRY(cot__gguf_open(&s->gguf, s->path, err));
    s->is_gguf = true;
    COT_TRY(read_together(s, err));
    s->tensors = cot__gguf_tensors(s->gguf);
    const cot__gguf_kv *kv = cot__gguf_find(s->gguf, "general.architecture");
    if (!kv || kv->type != COT_GGUF_STRING)
        return cot__fail(err, COT_FORMAT, s->path, "general.architecture", "is missing or no string");
    s->arch = kv->str.s;
    return COT_OK;
}

/* Multimodal configs keep the language model's fields in text_config; its members take precedence, but for
 * the class: the folder's is the outer one. */
static cot_status lift_text_config(cot__source *s, cot_error *err) {
    json_t *text = json_object_get(s->config, "text_config"), *v;
    const char *key;
    if (!json_is_object(text)) return COT_OK;
    json_object_foreach(text, key, v) {
        if (strcmp(key, "architectures") == 0 || strcmp(key, "text_config") == 0) continue;
        if (json_object_set(s->config, key, v) != 0) return cot__fail_memory(err, 0);
    }
    return COT_OK;
}

static cot_status open_folder(cot__source *s, cot_error *err) {
    s->config_path = cot__path_join(s->path, "config.json");
    char *generation = cot__path_join(s->path, "generation_config.json");
    cot_status st = s->config_path && generation ? COT_OK : cot__fail_memory(err, strlen(s->path));
    if (st == COT_OK) st = cot__json_load(&s->config, s->config_path, MAX_CONFIG, err);
    if (st == COT_OK && !json_is_object(s->config))
        st = cot__fail(err, COT_FORMAT, s->config_path, NULL, "must hold a JSON object");
    if (st == COT_OK && cot__path_exists(generation))
        st = cot__json_load(&s->generation, generation, MAX_CONFIG, err);
    cot__free(generation);
    if (st != COT_OK) return st;
    const json_t *list = json_object_get(s->config, "architectures");
    s->arch = json_string_value(json_array_get(list, 0));
    if (!s->arch)
        return cot__fail(err, COT_FORMAT, s->config_path, "architectures",
                         "must be a list with the model's class name");
    COT_TRY(lift_text_config(s, err));
    s->arch = json_string_value(json_array_get(list, 0));
    COT_TRY(cot__safetensors_open(&s->owned, s->path, err));
    s->tensors = s->owned;
    return COT_OK;
}

cot_status cot__source_open(cot__source **out, const char *path, cot_error *err) {
    cot__source *s = cot__alloc_zero(1, sizeof *s);
    if (!s) return cot__fail_memory(err, sizeof *s);
    s->path = cot__strdup(path);
    cot_status st = s->path ? COT_OK : cot__fail_memory(err, strlen(path));
    if (st == COT_OK && !cot__path_exists(path))
        st = cot__fail(err, COT_NOT_FOUND, path, NULL,
                       "does not exist; MODEL is a GGUF file or a Hugging Face folder");
    if (st == COT_OK) st = cot__path_is_dir(path) ? open_folder(s, err) : open_gguf(s, err);
    if (st != COT_OK) cot__source_close(&s);
    else *out = s;
    return st;
}

void cot__source_close(cot__source **source) {
    if (!source || !*source) return;
    cot__source *s = *source;
    cot__gguf_close(&s->gguf);
    cot__tensors_close(&s->owned);
    json_decref(s->config);
    json_decref(s->generation);
    cot__free(s->config_path);
    cot__free(s->path);
    cot__free(s);
    *source = NULL;
}
