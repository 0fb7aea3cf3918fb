/* Owns: telling what a description came to for one model, every parameter's value and the steps of each
 * layer, and what a file holds that has none. For people who write descriptions, and for tests that compare
 * two of them. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "model/internal.h"

static json_t *number(double x) {
    if (!isfinite(x)) return json_null(); /* JSON has no word for it */
    return x == floor(x) && fabs(x) < 9e15 ? json_integer((json_int_t)x) : json_real(x);
}

static json_t *param_value(const cot__param *p) {
    if (p->kind == COT__PARAM_NUMBER) return number(p->number);
    if (p->kind == COT__PARAM_STRING) return json_string(p->str);
    if (p->kind == COT__PARAM_NONE) return json_null();
    json_t *list = json_array();
    for (size_t i = 0; list && i < p->n_list; i++)
        if (json_array_append_new(list, number(p->list[i]))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* Adds a field to an object that may be NULL; NULL when memory failed. */
static json_t *with(json_t *object, const char *key, json_t *value) {
    if (!object) json_decref(value);
    else if (json_object_set_new(object, key, value) != 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static json_t *step_value(const cot_model *m, const cot__step *s) {
    static const char *const kinds[] = {"norm", "attention", "mla", "ffn", "moe", "add"};
    json_t *o = with(json_object(), "op", json_string(kinds[s->kind]));
    o = with(o, "in", json_string(m->value_name[s->in]));
    o = with(o, "out", json_string(m->value_name[s->out]));
    switch (s->kind) {
    case COT__STEP_NORM:
        o = with(o, "norm", json_string(s->norm.kind == COT_NORM_RMS ? "rms" : "layer"));
        return with(o, "eps", number((double)s->norm.eps));
    case COT__STEP_ADD: return with(o, "scale", number((double)s->scale));
    case COT__STEP_ATTENTION:
        o = with(o, "heads", json_integer(s->attn->heads));
        o = with(o, "kv_heads", json_integer(s->attn->kv_heads));
        o = with(o, "head_dim", json_integer(s->attn->dk));
        o = with(o, "head_dim_v", json_integer(s->attn->dv));
        o = with(o, "window", json_integer(s->attn->window));
        o = with(o, "scale", number((double)s->attn->scale));
        return with(o, "rope", s->attn->rope < 0 ? json_null() : json_string(m->rope[s->attn->rope].name));
    case COT__STEP_MLA:
        o = with(o, "heads", json_integer(s->mla->heads));
        o = with(o, "kv_rank", json_integer(s->mla->kv_rank));
        o = with(o, "q_rank", json_integer(s->mla->q_rank));
        return with(o, "scale", number((double)s->mla->scale));
    case COT__STEP_FFN: return with(o, "width", json_integer(s->ffn->expert.part[COT__UP].rows));
    case COT__STEP_MOE:
        o = with(o, "experts", json_integer(s->moe->router.n_experts));
        o = with(o, "used", json_integer(s->moe->router.k));
        return with(o, "shared", json_boolean(s->moe->has_shared));
    }
    return o;
}

static json_t *steps_of(const cot_model *m, int layer) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < m->n_steps; i++)
        if (m->steps[i].layer == layer && json_array_append_new(list, step_value(m, &m->steps[i]))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

cot_status cot_model_describe(const cot_model *m, char **out, cot_error *err) {
    cot__error_clear(err);
    json_t *params = json_object(), *layers = json_array();
    for (size_t i = 0; i < m->arch->n_params; i++)
        params = with(params, m->arch->params[i].name, param_value(&m->arch->params[i]));
    for (int i = 0; layers && i < m->n_layer; i++)
        if (json_array_append_new(layers, steps_of(m, i))) {
            json_decref(layers);
            layers = NULL;
        }
    json_t *root = with(json_object(), "description", json_string(m->arch->name));
    root = with(root, "file", json_string(m->arch->file));
    root = with(root, "architecture", json_string(m->source->arch));
    root = with(root, "params", params);
    root = with(root, "layers", layers);
    root = with(root, "output", steps_of(m, -1));
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL, *copy = text ? cot__strdup(text) : NULL;
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    if (text) release(text);
    json_decref(root);
    if (!copy) return cot__fail_memory(err, m->n_steps * 256);
    *out = copy;
    return COT_OK;
}

/* ---- what is there, known or not ---- */

COT_PRINTF(2, 3) static bool put_line(cot__buf *b, const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n < 0) return false;
    size_t len = (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
    for (size_t i = 0; i < len; i++) /* names come from the file */
        if ((unsigned char)line[i] < 32 || line[i] == 127) line[i] = '?';
    return cot__buf_put(b, line, len) && cot__buf_put(b, "\n", 1);
}

static bool put_key(cot__buf *b, const cot__gguf_kv *kv) {
    double x;
    if (kv->type == COT_GGUF_ARRAY)
        return put_line(b, "%s: a list of %llu", kv->key, (unsigned long long)kv->count);
    if (kv->type == COT_GGUF_STRING)
        return put_line(b, "%s: %.*s", kv->key, kv->str.len < 200 ? (int)kv->str.len : 200, kv->str.s);
    return !cot__gguf_f64(kv, 0, &x) || put_line(b, "%s: %.9g", kv->key, x);
}

cot_status cot_contents(const char *path, char **text, cot_error *err) {
    cot__source *src = NULL;
    cot__buf b = {.max = 256 << 20};
    cot__error_clear(err);
    COT_TRY(cot__source_open(&src, path, err));
    bool ok = src->is_gguf
                  ? put_line(&b, "GGUF v%d, architecture %s", cot__gguf_version(src->gguf), src->arch)
                  : put_line(&b, "safetensors, class %s", src->arch);
    for (size_t i = 0; ok && src->is_gguf && i < cot__gguf_kv_count(src->gguf); i++)
        ok = put_key(&b, cot__gguf_kv_at(src->gguf, i));
    for (size_t i = 0; ok && i < src->tensors->n_tensors; i++) {
        const cot__tensor *t = &src->tensors->tensors[i];
        char dims[128] = "";
        for (int d = 0; d < t->n_dims; d++) {
            size_t n = strlen(dims);
            snprintf(dims + n, sizeof dims - n, "%s%lld", d ? " × " : "", (long long)t->dims[d]);
        }
        ok = put_line(&b, "%-48s %-8s %s", t->name, cot_type_name(t->raw_type), dims);
    }
    ok = ok && cot__buf_put(&b, "", 1);
    cot__source_close(&src);
    *text = ok ? b.data : NULL;
    if (!ok) cot__buf_free(&b);
    return ok ? COT_OK : cot__fail_memory(err, b.len);
}
