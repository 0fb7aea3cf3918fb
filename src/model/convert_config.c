/* Owns: what a Hugging Face folder has beside its tensors: config.json from the description's parameters,
 * generation_config.json, the chat template. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "model/convert.h"

/* Sets a dotted path, with objects made on the way. */
static int set_path(json_t *root, const char *path, json_t *value) {
    const char *dot;
    for (; (dot = strchr(path, '.')) != NULL; path = dot + 1) {
        json_t *next = json_object_getn(root, path, (size_t)(dot - path));
        if (!json_is_object(next)) {
            next = json_object();
            if (!next || json_object_setn_new(root, path, (size_t)(dot - path), next) != 0) {
                json_decref(value);
                return -1;
            }
        }
        root = next;
    }
    return json_object_set_new(root, path, value);
}

/* The config's spelling of one number. */
static json_t *spell(const json_t *spec, double x) {
    const char *as = json_string_value(json_object_get(spec, "as")), *key;
    json_t *v;
    json_object_foreach(json_object_get(spec, "enum"), key, v) {
        bool number = key[0] >= '0' && key[0] <= '9';
        if (!number && !json_is_string(v) && strcmp(key, "*") != 0 &&
            (json_is_boolean(v) ? json_is_true(v) : json_number_value(v)) == x)
            return json_string(key);
    }
    if (as && as[0] == 'b') return json_boolean(x != 0);
    if (!as && fabs(x) < 1e15 && x == (double)(int64_t)x) return json_integer((json_int_t)x);
    for (int digits = 6; (double)(float)x == x && digits <= 9; digits++) { /* as short as F32 allows */
        char text[32];
        snprintf(text, sizeof text, "%.*g", digits, x);
        double y = strtod(text, NULL);
        if ((float)y == (float)x) return json_real(y);
    }
    return json_real(x);
}

static json_t *spell_param(const json_t *spec, const cot__param *p) {
    if (p->kind == COT__PARAM_NUMBER) return spell(spec, p->number);
    if (p->kind == COT__PARAM_STRING) {
        const char *key;
        json_t *v;
        json_object_foreach(json_object_get(spec, "enum"), key, v) {
            if (json_is_string(v) && strcmp(json_string_value(v), p->str) == 0 &&
                !(key[0] >= '0' && key[0] <= '9'))
                return json_string(key);
        }
        return json_string(p->str);
    }
    json_t *list = json_array();
    for (size_t i = 0; list && i < p->n_list; i++)
        if (json_array_append_new(list, spell(spec, p->list[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* A count of zero where that is also the default: configs say null ("sliding_window", "q_lora_rank"). */
static bool means_none(const json_t *spec, const cot__param *p) {
    const json_t *d = json_object_get(spec, "default");
    return p->kind == COT__PARAM_NUMBER && p->number == 0 && json_is_integer(d) &&
           json_integer_value(d) == 0 && !json_object_get(spec, "as") && !json_object_get(spec, "enum");
}

static cot_status put_param(json_t *root, const json_t *spec, const cot__param *p, cot_error *err) {
    const json_t *keys = json_object_get(spec, "hf");
    size_t n = json_is_array(keys) ? json_array_size(keys) : 1;
    for (size_t i = 0; i < n; i++) {
        const char *key = json_string_value(json_is_array(keys) ? json_array_get(keys, i) : keys);
        /* Rotation is spelled in both ways, for old and new readers, and each family has its own word for the
         * number of experts; else the first name is the one. */
        if (!key || (i && !strstr(key, "rope") && !strstr(key, "experts"))) continue;
        json_t *v = means_none(spec, p) ? json_null() : spell_param(spec, p);
        if (!v || set_path(root, key, v) != 0) return cot__fail_memory(err, 64);
    }
    return COT_OK;
}

/* What transformers wants to be told and the tensors show. */
static cot_status put_flags(cot__convert *c, json_t *root, cot_error *err) {
    cot__bind b = {.arch = c->arch, .store = c->store};
    cot_view v, head, mlp;
    bool qk_norm = false;
    COT_TRY(cot__slot_bias(&b, "attn_q", 0, -1, &v, err));
    COT_TRY(cot__slot_bias(&b, "output", -1, -1, &head, err));
    COT_TRY(cot__slot_bias(&b, "ffn_up", 0, -1, &mlp, err));
    qk_norm = cot__slot_exists(&b, "attn_q_norm", 0);
    bool tied = !cot__slot_exists(&b, "output", -1);
    return json_object_set_new(root, "attention_bias", json_boolean(v.data != NULL)) == 0 &&
                   json_object_set_new(root, "mlp_bias", json_boolean(mlp.data != NULL)) == 0 &&
                   json_object_set_new(root, "lm_head_bias", json_boolean(head.data != NULL)) == 0 &&
                   json_object_set_new(root, "use_qk_norm", json_boolean(qk_norm)) == 0 &&
                   json_object_set_new(root, "tie_word_embeddings", json_boolean(tied)) == 0
               ? COT_OK
               : cot__fail_memory(err, 64);
}

/* Dense layers among routed ones, where no count of leading ones says which. */
static cot_status put_dense_layers(cot__convert *c, json_t *root, cot_error *err) {
    const cot__param *leading = cot__param_find(c->arch, "n_dense");
    cot__bind b = {.arch = c->arch, .store = c->store};
    json_t *list = json_array();
    int bad = !list;
    for (int i = 0; i < c->n_layer && !bad; i++)
        if (!cot__slot_exists(&b, "ffn_gate_inp", i)) bad = json_array_append_new(list, json_integer(i));
    size_t n = json_array_size(list);
    if (!bad && n > 0 && n < (size_t)c->n_layer && (!leading || leading->kind == COT__PARAM_NONE))
        bad = json_object_set(root, "mlp_only_layers", list);
    json_decref(list);
    return bad ? cot__fail_memory(err, 64) : COT_OK;
}

/* The family's constants: the first set whose condition holds. */
static cot_status put_family(cot__convert *c, json_t *root, cot_error *err) {
    const json_t *sets = json_object_get(c->arch->doc, "hf_config");
    for (size_t i = 0; i < json_array_size(sets); i++) {
        const json_t *set = json_array_get(sets, i), *cond = json_object_get(set, "if");
        const char *t = json_string_value(cond);
        bool holds = !cond, found;
        double x = 0;
        cot__bind b = {.arch = c->arch, .store = c->store};
        if (t && strncmp(t, "tensor:", 7) == 0) {
            for (int layer = 0; layer < c->n_layer && !holds; layer++)
                holds = cot__slot_exists(&b, t + 7, layer);
        } else if (t) {
            COT_TRY(cot__arch_number(c->arch, cond, "hf_config.if", -1, &x, &found, err));
            holds = found && x != 0;
        }
        if (!holds) continue;
        return json_object_update(root, json_object_get(set, "set")) == 0 ? COT_OK
                                                                          : cot__fail_memory(err, 64);
    }
    return cot__fail(err, COT_UNSUPPORTED, c->arch->file, "hf_config",
                     "the description does not say how a config.json of this family looks");
}

static cot_status write_json(const char *dir, const char *name, const json_t *root, cot_error *err) {
    char *path = cot__path_join(dir, name),
         *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    cot__writer *w = NULL;
    cot_status s = path && text ? COT_OK : cot__fail_memory(err, 64);
    if (s == COT_OK) s = cot__writer_open(&w, path, err);
    if (s == COT_OK) s = cot__writer_put(w, text, strlen(text), err);
    if (s == COT_OK) s = cot__writer_put(w, "\n", 1, err);
    if (s == COT_OK) s = cot__writer_commit(&w, err);
    cot__writer_abort(&w);
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    if (text) release(text);
    cot__free(path);
    return s;
}

/* LongRoPE's divisors stand in the config. */
static cot_status put_divisors(cot__convert *c, json_t *root, cot_error *err) {
    static const char *const lists[][2] = {{"rope_factors_short", "short_factor"},
                                           {"rope_factors_long", "long_factor"}};
    static const char *const objects[] = {"rope_parameters", "rope_scaling"};
    cot__bind b = {.arch = c->arch, .store = c->store};
    for (int i = 0; i < 2; i++) {
        const float *v;
        int64_t n;
        COT_TRY(cot__slot_vector(&b, lists[i][0], false, -1, -1, &v, &n, err));
        for (int o = 0; v && o < 2; o++) {
            json_t *list = json_array();
            for (int64_t k = 0; list && k < n; k++)
                if (json_array_append_new(list, json_real((double)v[k])) != 0) {
                    json_decref(list);
                    list = NULL;
                }
            char path[64];
            snprintf(path, sizeof path, "%s.%s", objects[o], lists[i][1]);
            if (!list || set_path(root, path, list) != 0) return cot__fail_memory(err, (size_t)n * 16);
        }
    }
    return COT_OK;
}

/* llama3's scaling, from the divisors that stand for it in a GGUF: the numbers of the releases are tried. */
static cot_status put_llama3(cot__convert *c, json_t *root, const float *stored, int64_t n, cot_error *err) {
    static const double contexts[] = {8192, 4096, 2048, 16384, 32768};
    const cot__param *base = cot__param_find(c->arch, "rope_base");
    double factor = 1, theta = base && base->kind == COT__PARAM_NUMBER ? base->number : 10000;
    for (int64_t i = 0; i < n; i++) factor = (double)stored[i] > factor ? (double)stored[i] : factor;
    for (size_t k = 0; k < sizeof contexts / sizeof *contexts; k++) {
        bool same = true;
        for (int64_t i = 0; i < n && same; i++) {
            double wave = 2 * M_PI * pow(theta, (double)i / (double)n),
                   u = (contexts[k] / wave - 1) / (4 - 1);
            double want = wave < contexts[k] / 4 ? 1
                          : wave > contexts[k]   ? factor
                                                 : 1 / ((1 - u) / factor + u);
            same = fabs(want - (double)stored[i]) <= 1e-5 * want;
        }
        if (!same) continue;
        for (int old = 0; old < 2; old++) {
            json_t *v =
                json_pack("{s:s,s:f,s:f,s:f,s:i}", "rope_type", "llama3", "factor", factor, "low_freq_factor",
                          1.0, "high_freq_factor", 4.0, "original_max_position_embeddings", (int)contexts[k]);
            int bad = v && !old ? json_object_set_new(v, "rope_theta", json_real(theta)) : 0;
            if (!v || bad || json_object_set_new(root, old ? "rope_scaling" : "rope_parameters", v) != 0)
                return cot__fail_memory(err, 64);
        }
        return COT_OK;
    }
    return cot__fail(err, COT_UNSUPPORTED, c->source->path, "rope_freqs.weight",
                     "these divisors of rotation are none of the known scalings, which a config.json names");
}

/* Families whose kinds of layers rotate differently name them; nothing else stands beside the names. */
static cot_status name_rotations(json_t *params, cot_error *err) {
    const char *key;
    json_t *v;
    void *next;
    json_object_foreach_safe(params, next, key, v) {
        if (!json_is_object(v)) {
            json_object_del(params, key);
            continue;
        }
        const char *type = json_string_value(json_object_get(v, "rope_type"));
        if ((!type || strcmp(type, "none") == 0) &&
            json_object_set_new(v, "rope_type", json_string("default")) != 0)
            return cot__fail_memory(err, 64);
    }
    return COT_OK;
}

static cot_status put_rope(cot__convert *c, json_t *root, cot_error *err) {
    const cot__param *p = cot__param_find(c->arch, "rope_scaling");
    json_t *params = json_object_get(root, "rope_parameters");
    bool none = !p || p->kind != COT__PARAM_STRING || strcmp(p->str, "none") == 0;
    cot__bind b = {.arch = c->arch, .store = c->store};
    const float *stored;
    int64_t n;
    COT_TRY(cot__slot_vector(&b, "rope_freqs", false, -1, -1, &stored, &n, err));
    if (stored) return put_llama3(c, root, stored, n, err);
    COT_TRY(put_divisors(c, root, err));
    if (json_object_get(params, "full_attention")) COT_TRY(name_rotations(params, err));
    if (!none) return COT_OK;
    json_object_del(root, "rope_scaling");
    if (json_is_object(params) && !json_object_get(params, "full_attention")) {
        json_t *base = json_incref(json_object_get(params, "rope_theta"));
        const json_t *part = json_object_get(params, "partial_rotary_factor");
        json_t *fresh = json_pack("{s:s,s:o*}", "rope_type", "default", "rope_theta", base);
        int bad = fresh && part ? json_object_set(fresh, "partial_rotary_factor", (json_t *)part) : 0;
        if (!fresh || bad || json_object_set_new(root, "rope_parameters", fresh) != 0)
            return cot__fail_memory(err, 64);
    }
    return COT_OK;
}

static cot_status put_template(cot__convert *c, const char *dir, cot_error *err) {
    const cot__gguf_kv *kv = cot__gguf_find(c->source->gguf, "tokenizer.chat_template");
    if (!kv || kv->type != COT_GGUF_STRING) return COT_OK;
    char *path = cot__path_join(dir, "chat_template.jinja");
    cot__writer *w = NULL;
    cot_status s = path ? cot__writer_open(&w, path, err) : cot__fail_memory(err, strlen(dir));
    if (s == COT_OK) s = cot__writer_put(w, kv->str.s, kv->str.len, err);
    if (s == COT_OK) s = cot__writer_commit(&w, err);
    cot__writer_abort(&w);
    cot__free(path);
    return s;
}

/* A GGUF need not say how many tokens there are; the embedding does. */
static cot_status put_vocab_size(cot__convert *c, json_t *root, cot_error *err) {
    cot__bind b = {.arch = c->arch, .store = c->store};
    cot_view v = {0};
    if (json_object_get(root, "vocab_size")) return COT_OK;
    COT_TRY(cot__slot_view(&b, "token_embd", -1, -1, &v, NULL, err));
    return !v.data || json_object_set_new(root, "vocab_size", json_integer(v.rows)) == 0
               ? COT_OK
               : cot__fail_memory(err, 64);
}

cot_status cot__convert_config(cot__convert *c, const char *dir, cot_error *err) {
    static const char *const ids[][2] = {{"bos_token_id", "tokenizer.ggml.bos_token_id"},
                                         {"eos_token_id", "tokenizer.ggml.eos_token_id"},
                                         {"pad_token_id", "tokenizer.ggml.padding_token_id"}};
    const json_t *params = json_object_get(c->arch->doc, "params");
    json_t *root = json_object();
    cot_status s = root ? COT_OK : cot__fail_memory(err, 64);
    COT_TRY(s);
    for (size_t i = 0; s == COT_OK && i < c->arch->n_params; i++) {
        const cot__param *p = &c->arch->params[i];
        const json_t *spec = json_object_get(params, p->name);
        if (p->kind != COT__PARAM_NONE && json_object_get(spec, "hf")) s = put_param(root, spec, p, err);
    }
    for (int i = 0; s == COT_OK && i < 3; i++) {
        const cot__gguf_kv *kv = cot__gguf_find(c->source->gguf, ids[i][1]);
        int64_t id;
        /* some families of transformers assume a padding token, which a file without one need not have */
        json_t *v = kv && cot__gguf_int(kv, 0, &id) ? json_integer(id) : i == 2 ? json_null() : NULL;
        if (v && json_object_set_new(root, ids[i][0], v) != 0) s = cot__fail_memory(err, 64);
    }
    if (s == COT_OK) s = put_vocab_size(c, root, err);
    if (s == COT_OK) s = put_rope(c, root, err);
    if (s == COT_OK) s = put_flags(c, root, err);
    if (s == COT_OK) s = put_dense_layers(c, root, err);
    if (s == COT_OK) s = put_family(c, root, err);
    if (s == COT_OK) s = write_json(dir, "config.json", root, err);
    if (s == COT_OK) s = put_template(c, dir, err);
    json_decref(root);
    return s;
}
