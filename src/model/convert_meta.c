/* Owns: the metadata of a converted GGUF: keys copied, or written from the description's parameters, the
 * tokenizer and the chat template. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/convert.h"
#include "model/internal.h"
#include "text/chat.h"
#include "text/tokenizer.h"

static bool starts(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }

/* The number that GGUF tools keep for the format of most weights; −1: none. */
static int file_type(cot_type type) {
    static const struct {
        cot_type type;
        int id;
    } ids[] = {{COT_F32, 0},   {COT_F16, 1},   {COT_Q4_0, 2},  {COT_Q8_0, 7},  {COT_Q5_0, 8},
               {COT_Q4_K, 15}, {COT_Q5_K, 17}, {COT_Q6_K, 18}, {COT_BF16, 32}, {COT_MXFP4, 38}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i].type == type) return ids[i].id;
    return -1;
}

/* ---- a description of one's own ---- */

/* Layers as they are, with each dense block routed: the experts' weights are one. */
static cot_status route_dense(json_t *layer, cot_error *err) {
    static const char *const drop[] = {"unless", "if"};
    for (size_t i = 0; i < json_array_size(layer); i++) {
        json_t *op = json_array_get(layer, i);
        const char *name = json_string_value(json_object_get(op, "op"));
        if (name && strcmp(name, "moe") == 0) {
            json_array_remove(layer, i--);
            continue;
        }
        if (!name || strcmp(name, "ffn") != 0) continue;
        for (int k = 0; k < 2; k++) json_object_del(op, drop[k]);
        json_t *more = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "op", "moe", "experts", "$n_expert", "k",
                                 "$n_expert_used", "score", "softmax", "select", "topk", "weights", "one");
        int bad = more ? json_object_update(op, more) : -1;
        json_decref(more);
        if (bad) return cot__fail_memory(err, 0);
    }
    return COT_OK;
}

static cot_status put_description(cot__convert *c, bool split, cot_error *err) {
    json_t *doc = json_deep_copy(c->arch->doc);
    char name[128];
    snprintf(name, sizeof name, "%.100s%s", c->arch->name, split ? "-split" : "");
    json_object_del(doc, "extends"); /* what it extends is merged in already */
    json_object_del(doc, "match");
    json_object_del(doc, "comment");
    cot_status s =
        doc && json_object_set_new(doc, "name", json_string(name)) == 0 ? COT_OK : cot__fail_memory(err, 0);
    json_t *stack = json_object_get(json_object_get(doc, "stacks"), "decoder");
    if (s == COT_OK && split) s = route_dense(json_object_get(stack, "layer"), err);
    char *text = s == COT_OK ? json_dumps(doc, JSON_COMPACT) : NULL;
    if (s == COT_OK && !text) s = cot__fail_memory(err, 0);
    if (s == COT_OK) s = cot__gguf_put_str(c->gguf, "coterie.arch", text, strlen(text), err);
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    if (text) release(text);
    json_decref(doc);
    return s;
}

static const char *arch_key(const char *arch, const char *tail, char buf[192]) {
    snprintf(buf, 192, "%.120s%s", arch, tail);
    return buf;
}

static cot_status split_keys(cot__convert *c, const char *arch, cot_error *err) {
    char key[192];
    int32_t n = c->o->split_experts, used = c->o->experts_used ? c->o->experts_used : n - (n + 7) / 8;
    int64_t share = c->split.layer >= 0 ? c->split.d_ff / n : 0;
    for (size_t i = 0; i < c->n_jobs && !share; i++)
        if (c->jobs[i].kind == COT__JOB_GATE) share = c->jobs[i].dims[1];
    COT_TRY(cot__gguf_put_int(c->gguf, arch_key(arch, ".expert_count", key), COT_GGUF_U32, n, err));
    COT_TRY(cot__gguf_put_int(c->gguf, arch_key(arch, ".expert_used_count", key), COT_GGUF_U32, used, err));
    COT_TRY(cot__gguf_put_int(c->gguf, arch_key(arch, ".expert_feed_forward_length", key), COT_GGUF_U32,
                              share, err));
    return put_description(c, true, err);
}

/* Whether a key of the source is written anew. */
static bool replaced(const cot__convert *c, const char *key) {
    if (starts(key, "split.") || strcmp(key, "general.quantization_version") == 0) return true;
    if (strcmp(key, "general.file_type") == 0) return c->o->type != COT_TYPE_NONE;
    if (!c->o->split_experts) return false;
    const char *tail = strchr(key, '.');
    return strcmp(key, "coterie.arch") == 0 ||
           (tail && (strcmp(tail, ".expert_count") == 0 || strcmp(tail, ".expert_used_count") == 0 ||
                     strcmp(tail, ".expert_feed_forward_length") == 0));
}

static cot_status copy_keys(cot__convert *c, cot_error *err) {
    const cot__gguf *g = c->source->gguf;
    for (size_t i = 0; i < cot__gguf_kv_count(g); i++) {
        const cot__gguf_kv *kv = cot__gguf_kv_at(g, i);
        if (!replaced(c, kv->key)) COT_TRY(cot__gguf_put_kv(c->gguf, kv, err));
    }
    return COT_OK;
}

/* ---- keys from a folder ---- */

/* The file's word for a value that the description enumerates; NULL: none of the wanted kind. */
static const char *word_for(const json_t *map, const cot__param *p, bool numeric) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)map, key, v) {
        bool same = p->kind == COT__PARAM_STRING
                        ? json_is_string(v) && strcmp(json_string_value(v), p->str) == 0
                        : !json_is_string(v) &&
                              (json_is_boolean(v) ? json_is_true(v) : json_number_value(v)) == p->number;
        if (same && strcmp(key, "*") != 0 && (key[0] >= '0' && key[0] <= '9') == numeric) return key;
    }
    return NULL;
}

static const char *key_of(const json_t *spec, const char *format) {
    const json_t *key = json_object_get(spec, "write");
    if (!key || format[0] != 'g') key = json_object_get(spec, format);
    return json_string_value(json_is_array(key) ? json_array_get(key, 0) : key);
}

/* Neither said by the file nor different from what everybody assumes. */
static bool is_default(const json_t *spec, const cot__param *p) {
    const json_t *d = json_object_get(spec, "default");
    double x = json_is_boolean(d) ? json_is_true(d) : json_number_value(d);
    if (json_is_string(d)) return p->kind == COT__PARAM_STRING && strcmp(json_string_value(d), p->str) == 0;
    return (json_is_number(d) || json_is_boolean(d)) && p->kind == COT__PARAM_NUMBER && p->number == x;
}

static cot_status put_param(cot__convert *c, const char *key, const json_t *spec, const cot__param *p,
                            cot_error *err) {
    const char *as = json_string_value(json_object_get(spec, "as")), *word;
    const json_t *map = json_object_get(spec, "enum");
    if (p->kind == COT__PARAM_STRING) {
        word = map ? word_for(map, p, true) : NULL; /* GGUF numbers what configs name */
        if (word) return cot__gguf_put_int(c->gguf, key, COT_GGUF_U32, strtoll(word, NULL, 10), err);
        word = map ? word_for(map, p, false) : p->str;
        return word ? cot__gguf_put_str(c->gguf, key, word, strlen(word), err) : COT_OK;
    }
    if (p->kind == COT__PARAM_LIST) {
        bool real = as && as[0] == 'f';
        uint32_t *n = cot__alloc_array(p->n_list, sizeof *n);
        if (!n) return cot__fail_memory(err, p->n_list * sizeof *n);
        for (size_t i = 0; i < p->n_list; i++) {
            float f = (float)p->list[i];
            n[i] = p->list[i] >= 0 && p->list[i] <= UINT32_MAX ? (uint32_t)p->list[i] : 0;
            if (real) memcpy(&n[i], &f, sizeof f);
        }
        cot_status s =
            cot__gguf_put_array(c->gguf, key, real ? COT_GGUF_F32 : COT_GGUF_U32, n, p->n_list, err);
        cot__free(n);
        return s;
    }
    if (as && as[0] == 'b') return cot__gguf_put_int(c->gguf, key, COT_GGUF_BOOL, p->number != 0, err);
    if (as || p->number != floor(p->number) || fabs(p->number) > 1e15)
        return cot__gguf_put_f64(c->gguf, key, COT_GGUF_F32, p->number, err);
    return cot__gguf_put_int(c->gguf, key, p->number < 0 ? COT_GGUF_I32 : COT_GGUF_U32, (int64_t)p->number,
                             err);
}

/* Several parameters may be read from one key; the first with a value writes it. */
static bool written(const cot__convert *c, size_t i, const char *tail) {
    const json_t *params = json_object_get(c->arch->doc, "params");
    while (i-- > 0) {
        const cot__param *p = &c->arch->params[i];
        const char *other = key_of(json_object_get(params, p->name), "gguf");
        if (p->kind != COT__PARAM_NONE && other && strcmp(other, tail) == 0) return true;
    }
    return false;
}

/* A description of the user's own may name what a config says and no key of a GGUF: it gets one here, in the
 * description that goes into the file, too. */
static cot_status name_params(cot__convert *c, cot_error *err) {
    json_t *params = json_object_get(c->arch->doc, "params"), *spec;
    const char *name;
    json_object_foreach(params, name, spec) {
        char key[192];
        const json_t *hf = json_object_get(spec, "hf");
        if (!hf || json_is_null(hf) || key_of(spec, "gguf")) continue;
        snprintf(key, sizeof key, "coterie.param.%.150s", name);
        if (json_object_set_new(spec, "gguf", json_string(key)) != 0)
            return cot__fail_memory(err, sizeof key);
    }
    return COT_OK;
}

static cot_status put_params(cot__convert *c, const char *arch, cot_error *err) {
    const json_t *params = json_object_get(c->arch->doc, "params");
    const cot__param *scaling = cot__param_find(c->arch, "rope_scaling");
    const char *how = scaling && scaling->kind == COT__PARAM_STRING ? scaling->str : "none";
    bool own = strcmp(how, "yarn") == 0 || strcmp(how, "linear") == 0 || strcmp(how, "longrope") == 0;
    for (size_t i = 0; i < c->arch->n_params; i++) {
        const cot__param *p = &c->arch->params[i];
        const json_t *spec = json_object_get(params, p->name);
        const char *tail = key_of(spec, "gguf");
        char key[192];
        if (!tail || p->kind == COT__PARAM_NONE || written(c, i, tail)) continue;
        /* llama3's scaling becomes a tensor of divisors; without scaling its numbers mean nothing */
        bool plain =
            strcmp(tail, ".rope.scaling.type") == 0 && json_is_object(json_object_get(spec, "default"));
        if (starts(tail, ".rope.scaling.") && !own && !plain) continue;
        if (is_default(spec, p) && (tail[0] != '.' || (p->kind == COT__PARAM_NUMBER && p->number == 0)))
            continue;
        COT_TRY(put_param(c, tail[0] == '.' ? arch_key(arch, tail, key) : tail, spec, p, err));
    }
    return COT_OK;
}

static cot_status put_id(cot__convert *c, const char *key, int32_t id, cot_error *err) {
    return id < 0 ? COT_OK : cot__gguf_put_int(c->gguf, key, COT_GGUF_U32, id, err);
}

static cot_status put_flag(cot__convert *c, const char *key, int8_t flag, cot_error *err) {
    return flag < 0 ? COT_OK : cot__gguf_put_int(c->gguf, key, COT_GGUF_BOOL, flag, err);
}

/* A vocabulary must be as long as the embedding, for every engine: ids without a token get a name. */
static cot_status put_tokens(cot__convert *c, const cot__vocab *v, size_t n, cot_error *err) {
    enum { PAD = 24, UNUSED = 5, NORMAL = 1 };
    if (n < v->n_tokens) n = v->n_tokens;
    cot__gguf_str *tokens = cot__alloc_zero(n, sizeof *tokens);
    int32_t *types = cot__alloc_array(n, sizeof *types);
    float *scores = v->scores ? cot__alloc_zero(n, sizeof *scores) : NULL;
    char *names = cot__alloc_zero(n, PAD);
    cot_status s =
        tokens && types && names && (scores || !v->scores) ? COT_OK : cot__fail_memory(err, n * PAD);
    for (size_t i = 0; s == COT_OK && i < n; i++) {
        bool there = i < v->n_tokens && v->tokens[i].s;
        if (there) tokens[i] = (cot__gguf_str){v->tokens[i].s, v->tokens[i].len};
        else {
            int k = snprintf(names + i * PAD, PAD, "[PAD%zu]", i);
            tokens[i] = (cot__gguf_str){names + i * PAD, (size_t)k};
        }
        types[i] = !there ? UNUSED : v->types ? v->types[i] : NORMAL;
        if (scores) scores[i] = there ? v->scores[i] : -10000;
    }
    cot__gguf_writer *w = c->gguf;
    if (s == COT_OK) s = cot__gguf_put_array(w, "tokenizer.ggml.tokens", COT_GGUF_STRING, tokens, n, err);
    if (s == COT_OK) s = cot__gguf_put_array(w, "tokenizer.ggml.token_type", COT_GGUF_I32, types, n, err);
    if (s == COT_OK && scores)
        s = cot__gguf_put_array(w, "tokenizer.ggml.scores", COT_GGUF_F32, scores, n, err);
    cot__free(tokens);
    cot__free(types);
    cot__free(scores);
    cot__free(names);
    return s;
}

static cot_status put_vocab(cot__convert *c, const cot__vocab *v, size_t n_vocab, cot_error *err) {
    cot__gguf_writer *w = c->gguf;
    COT_TRY(cot__gguf_put_str(w, "tokenizer.ggml.model", v->model, strlen(v->model), err));
    if (v->pre) COT_TRY(cot__gguf_put_str(w, "tokenizer.ggml.pre", v->pre, strlen(v->pre), err));
    COT_TRY(put_tokens(c, v, n_vocab, err));
    if (v->n_merges)
        COT_TRY(
            cot__gguf_put_array(w, "tokenizer.ggml.merges", COT_GGUF_STRING, v->merges, v->n_merges, err));
    if (v->charsmap_len)
        COT_TRY(cot__gguf_put_array(w, "tokenizer.ggml.precompiled_charsmap", COT_GGUF_U8, v->charsmap,
                                    v->charsmap_len, err));
    COT_TRY(put_id(c, "tokenizer.ggml.bos_token_id", v->bos, err));
    COT_TRY(put_id(c, "tokenizer.ggml.eos_token_id", v->eos, err));
    COT_TRY(put_id(c, "tokenizer.ggml.unknown_token_id", v->unk, err));
    COT_TRY(put_id(c, "tokenizer.ggml.eot_token_id", v->eot, err));
    COT_TRY(put_id(c, "tokenizer.ggml.eom_token_id", v->eom, err));
    COT_TRY(put_id(c, "tokenizer.ggml.padding_token_id", v->pad, err));
    COT_TRY(put_flag(c, "tokenizer.ggml.add_bos_token", v->add_bos, err));
    COT_TRY(put_flag(c, "tokenizer.ggml.add_eos_token", v->add_eos, err));
    COT_TRY(put_flag(c, "tokenizer.ggml.add_space_prefix", v->add_space_prefix, err));
    return put_flag(c, "tokenizer.ggml.remove_extra_whitespaces", v->remove_extra_whitespaces, err);
}

/* Ends of a turn that generation_config names and the vocabulary does not. */
static void add_ends(const cot_model *m, cot__vocab *v) {
    for (size_t i = 0; i < m->n_ends; i++) {
        int32_t id = m->ends[i];
        if (v->eos < 0) v->eos = id;
        else if (id == v->eos || id == v->eot || id == v->eom) continue;
        else if (v->eot < 0) v->eot = id;
        else if (v->eom < 0) v->eom = id;
    }
}

/* Tokenizer and chat template; a folder without a tokenizer gives a file without one. */
static cot_status put_text(cot__convert *c, cot_error *err) {
    const cot__param *p = cot__param_find(c->arch, "n_vocab");
    cot_model m = {.source = c->source, .arch = c->arch, .store = c->store, .n_vocab = INT32_MAX};
    cot__vocab v;
    COT_TRY(cot__model_load_text(&m, err));
    cot_status s = COT_OK;
    if (m.tokenizer) {
        s = cot__tokenizer_export(m.tokenizer, c->o->pre, &v, err);
        if (s == COT_OK) {
            add_ends(&m, &v);
            s = put_vocab(c, &v, p && p->kind == COT__PARAM_NUMBER && p->number < 1e8 ? (size_t)p->number : 0,
                          err);
        }
    } else if (m.tokenizer_status != COT_NOT_FOUND) {
        if (err) *err = m.tokenizer_error;
        s = m.tokenizer_status;
    } else {
        s = cot__gguf_put_str(c->gguf, "tokenizer.ggml.model", "none", 4, err);
    }
    if (s == COT_OK && m.chat_template)
        s = cot__gguf_put_str(c->gguf, "tokenizer.chat_template", m.chat_template, strlen(m.chat_template),
                              err);
    cot__tokenizer_free(&m.tokenizer);
    cot__chat_free(&m.chat);
    cot__free(m.chat_template);
    cot__free(m.ends);
    return s;
}

static cot_status new_keys(cot__convert *c, const char **arch, cot_error *err) {
    const json_t *names = json_object_get(json_object_get(c->arch->doc, "match"), "gguf");
    const char *name = json_string_value(json_object_get(c->arch->doc, "gguf_arch")), *slash;
    if (!name) name = json_string_value(json_array_get(names, 0));
    bool own = !name || c->o->arch_file; /* nobody else knows it */
    *arch = name ? name : c->arch->name;
    size_t n = strlen(c->source->path);
    while (n > 1 && c->source->path[n - 1] == '/') n--;
    for (slash = c->source->path + n; slash > c->source->path && slash[-1] != '/';) slash--;
    COT_TRY(cot__gguf_put_str(c->gguf, "general.architecture", *arch, strlen(*arch), err));
    COT_TRY(cot__gguf_put_str(c->gguf, "general.type", "model", 5, err));
    COT_TRY(cot__gguf_put_str(c->gguf, "general.name", slash, (size_t)(c->source->path + n - slash), err));
    if (own) COT_TRY(name_params(c, err));
    COT_TRY(put_params(c, *arch, err));
    if (own && !c->o->split_experts) COT_TRY(put_description(c, false, err));
    return put_text(c, err);
}

/* Divisors that a config spells as numbers: GGUF has them as tensors. */
cot_status cot__convert_rope_tensors(cot__convert *c, cot_error *err) {
    static const char *const lists[][2] = {{"rope_short", "rope_factors_short.weight"},
                                           {"rope_long", "rope_factors_long.weight"}};
    const cot__param *scaling = cot__param_find(c->arch, "rope_scaling"),
                     *ctx = cot__param_find(c->arch, "n_ctx_train");
    if (!scaling || scaling->kind != COT__PARAM_STRING) return COT_OK;
    for (int i = 0; i < 2 && strcmp(scaling->str, "longrope") == 0; i++) {
        const cot__param *p = cot__param_find(c->arch, lists[i][0]);
        if (!p || p->kind != COT__PARAM_LIST) continue;
        float *f = cot__arena_alloc(c->arena, p->n_list * sizeof *f);
        cot__job *j = f ? cot__convert_add(c, COT__JOB_VALUES, lists[i][1], err) : NULL;
        if (!j) return cot__fail_memory(err, p->n_list * sizeof *f);
        for (size_t k = 0; k < p->n_list; k++) f[k] = (float)p->list[k];
        j->values = f, j->type = COT_F32, j->n_dims = 1, j->dims[0] = (int64_t)p->n_list;
    }
    if (strcmp(scaling->str, "llama3") != 0) return COT_OK;
    cot_model m = {.source = c->source, .arch = c->arch, .store = c->store, .arena = c->arena};
    cot__rope r;
    double base = 10000;
    bool found;
    const json_t *spec = json_object_get(json_object_get(c->arch->doc, "rope"), "main");
    m.n_ctx_train = ctx && ctx->kind == COT__PARAM_NUMBER ? (int64_t)ctx->number : 1;
    COT_TRY(cot__rope_build(&m, "main", spec, &r, err));
    COT_TRY(cot__arch_number(c->arch, json_object_get(spec, "base"), "base", -1, &base, &found, err));
    float *f = cot__arena_alloc(c->arena, (size_t)(r.n_rot / 2 + 1) * sizeof *f);
    cot__job *j = f ? cot__convert_add(c, COT__JOB_VALUES, "rope_freqs.weight", err) : NULL;
    if (!j) return cot__fail_memory(err, (size_t)r.n_rot * 2);
    for (int i = 0; i < r.n_rot / 2; i++)
        f[i] = (float)(1.0 / pow(base, 2.0 * i / r.n_rot) / (double)r.freq[i]);
    j->values = f, j->type = COT_F32, j->n_dims = 1, j->dims[0] = r.n_rot / 2;
    return COT_OK;
}

cot_status cot__convert_keys(cot__convert *c, cot_error *err) {
    const char *arch = c->source->arch;
    bool quantized = false;
    if (c->source->is_gguf) COT_TRY(copy_keys(c, err));
    else COT_TRY(new_keys(c, &arch, err));
    for (size_t i = 0; i < c->n_jobs; i++) quantized |= cot__convert_is_quantized(c->jobs[i].type);
    if (quantized) COT_TRY(cot__gguf_put_int(c->gguf, "general.quantization_version", COT_GGUF_U32, 2, err));
    if (c->o->type != COT_TYPE_NONE && file_type(c->o->type) >= 0)
        COT_TRY(cot__gguf_put_int(c->gguf, "general.file_type", COT_GGUF_U32, file_type(c->o->type), err));
    return c->o->split_experts ? split_keys(c, arch, err) : COT_OK;
}
