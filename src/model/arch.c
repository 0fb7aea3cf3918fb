/* Owns: finding, merging and checking descriptions, and reading values out of them. */
#include "model/arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "model/arch_builtin.h"

enum { MAX_DESCRIPTION = 4 << 20, MAX_EXTENDS = 8 };

static const cot__arch_text *builtin(const char *name) {
    for (const cot__arch_text *t = cot__arch_builtin; t->name; t++)
        if (strcmp(t->name, name) == 0) return t;
    return NULL;
}

/* JSON merge patch: objects merge, null removes, everything else replaces. */
static cot_status merge(json_t *into, const json_t *patch, int depth, cot_error *err) {
    const char *key;
    json_t *value;
    if (depth > 64) return cot__fail(err, COT_LIMIT, NULL, NULL, "description is nested too deeply");
    json_object_foreach((json_t *)patch, key, value) {
        json_t *old = json_object_get(into, key);
        int bad = 0;
        if (json_is_object(value) && json_is_object(old)) COT_TRY(merge(old, value, depth + 1, err));
        else if (json_is_null(value)) json_object_del(into, key);
        else bad = json_object_set_new(into, key, json_deep_copy(value));
        if (bad) return cot__fail_memory(err, 0);
    }
    return COT_OK;
}

/* Parses a description and puts what it extends beneath it. */
static cot_status load_text(json_t **out, const char *file, const char *text, size_t n, int depth,
                            cot_error *err) {
    json_t *doc = NULL, *base = NULL;
    COT_TRY(cot__json_parse(&doc, file, text, n, err));
    cot_status s = COT_OK;
    const char *extends = NULL;
    if (!json_is_object(doc)) s = cot__fail(err, COT_FORMAT, file, NULL, "must hold a JSON object");
    if (s == COT_OK) s = cot__json_str(doc, file, "extends", &extends, err);
    if (s == COT_OK && extends) {
        const cot__arch_text *t = builtin(extends);
        if (depth >= MAX_EXTENDS)
            s = cot__fail(err, COT_LIMIT, file, "extends", "the chain is longer than %d", MAX_EXTENDS);
        else if (!t)
            s = cot__fail(err, COT_NOT_FOUND, file, "extends", "no built-in description is named \"%s\"",
                          extends);
        else s = load_text(&base, t->name, t->json, t->len, depth + 1, err);
        /* What a description matches, and the class that folders of it name, are its own, never its base's.
         */
        if (s == COT_OK) json_object_del(base, "match"), json_object_del(base, "hf_config");
        if (s == COT_OK) s = merge(base, doc, 0, err);
        json_decref(doc);
        doc = base;
    }
    if (s == COT_OK) *out = doc;
    else json_decref(doc);
    return s;
}

static bool listed(const json_t *match, const char *format, const char *name) {
    const json_t *list = json_object_get(match, format);
    size_t i;
    const json_t *v;
    json_array_foreach(list, i,
                       v) if (json_is_string(v) && strcmp(json_string_value(v), name) == 0) return true;
    return false;
}

/* match.if: {"param path": value}: tells families that share a name apart (the file's own keys). */
static bool conditions_hold(const json_t *match, const cot__source *src) {
    const json_t *want = json_object_get(json_object_get(match, "when"), src->is_gguf ? "gguf" : "hf");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)want, key, value) {
        bool present =
            src->is_gguf ? cot__gguf_find(src->gguf, key) != NULL : cot__json_at(src->config, key) != NULL;
        if (json_is_boolean(value) && present != json_is_true(value)) return false;
    }
    return true;
}

static cot_status find_builtin(const cot__source *src, const cot__arch_text **out, cot_error *err) {
    for (const cot__arch_text *t = cot__arch_builtin; t->name; t++) {
        if (!memmem(t->json, t->len, src->arch, strlen(src->arch))) continue; /* not worth reading */
        json_t *doc = NULL;
        COT_TRY(cot__json_parse(&doc, t->name, t->json, t->len, err));
        const json_t *match = json_object_get(doc, "match");
        bool hit = listed(match, src->is_gguf ? "gguf" : "hf", src->arch) && conditions_hold(match, src);
        json_decref(doc);
        if (hit) {
            *out = t;
            return COT_OK;
        }
    }
    return cot__fail(err, COT_UNSUPPORTED, src->is_gguf ? src->path : src->config_path,
                     src->is_gguf ? "general.architecture" : "architectures",
                     "no description for \"%s\"; give one with --arch FILE.json", src->arch);
}

cot_status cot__arch_open(cot__arch **out, const cot__source *src, const char *file, cot_error *err) {
    cot__arch *a = cot__alloc_zero(1, sizeof *a);
    if (!a) return cot__fail_memory(err, sizeof *a);
    a->source = src;
    char *text = NULL;
    size_t n = 0;
    cot_status s = COT_OK;
    const cot__gguf_kv *embedded = src->is_gguf ? cot__gguf_find(src->gguf, "coterie.arch") : NULL;
    if (file) {
        s = cot__file_slurp(file, MAX_DESCRIPTION, &text, &n, err);
        if (s == COT_OK) s = load_text(&a->doc, file, text, n, 0, err);
    } else if (embedded && embedded->type == COT_GGUF_STRING) {
        file = src->path;
        s = load_text(&a->doc, file, embedded->str.s, embedded->str.len, 0, err);
    } else {
        const cot__arch_text *t = NULL;
        s = find_builtin(src, &t, err);
        if (s == COT_OK) s = load_text(&a->doc, file = t->name, t->json, t->len, 0, err);
    }
    cot__free(text);
    if (s == COT_OK && !(a->file = cot__strdup(file))) s = cot__fail_memory(err, strlen(file));
    if (s == COT_OK) s = cot__arch_check(a, err);
    if (s == COT_OK) s = cot__json_str(a->doc, a->file, "name", &a->name, err);
    if (s == COT_OK && !a->name) s = cot__fail(err, COT_FORMAT, a->file, "name", "is missing");
    if (s == COT_OK) s = cot__params_compute(a, err);
    if (s != COT_OK) cot__arch_close(&a);
    else *out = a;
    return s;
}

void cot__arch_close(cot__arch **arch) {
    if (!arch || !*arch) return;
    cot__arch *a = *arch;
    for (size_t i = 0; i < a->n_params; i++) cot__free(a->params[i].list);
    cot__free(a->params);
    json_decref(a->doc);
    cot__free(a->file);
    cot__free(a);
    *arch = NULL;
}

/* ---- values ---- */

static const json_t *by_format(const cot__arch *a, const json_t *v) {
    const char *format = a->source->is_gguf ? "gguf" : "hf";
    if (json_is_object(v) && (json_object_get(v, "gguf") || json_object_get(v, "hf")))
        v = json_object_get(v, format);
    return v && !json_is_null(v) ? v : NULL;
}

static cot_status reference(const cot__arch *a, const json_t *v, const char *field, const cot__param **out,
                            cot_error *err) {
    const char *s = json_string_value(v);
    *out = NULL;
    if (!s || s[0] != '$') return COT_OK;
    *out = cot__param_find(a, s + 1);
    if (!*out) return cot__fail(err, COT_FORMAT, a->file, field, "parameter %s is not described", s);
    return COT_OK;
}

cot_status cot__arch_number(const cot__arch *a, const json_t *value, const char *field, int layer,
                            double *out, bool *found, cot_error *err) {
    const json_t *v = by_format(a, value);
    const cot__param *p;
    *found = false;
    if (!v) return COT_OK;
    COT_TRY(reference(a, v, field, &p, err));
    if (p) {
        if (p->kind == COT__PARAM_NONE) return COT_OK;
        if (p->kind == COT__PARAM_NUMBER) *out = p->number;
        else if (p->kind == COT__PARAM_LIST && layer >= 0 && (size_t)layer < p->n_list) *out = p->list[layer];
        else {
            char name[COT__FIELD_NAME];
            if (layer < 0 || p->kind == COT__PARAM_STRING)
                return cot__fail(err, COT_FORMAT, cot__param_file(a, p), cot__param_field(a, p, name),
                                 "must be a number");
            return cot__fail(err, COT_FORMAT, cot__param_file(a, p), cot__param_field(a, p, name),
                             "has no number for layer %d", layer);
        }
    } else if (json_is_number(v)) *out = json_number_value(v);
    else if (json_is_boolean(v)) *out = json_is_true(v);
    else return cot__fail(err, COT_FORMAT, a->file, field, "must be a number, true, false or \"$parameter\"");
    *found = true;
    return COT_OK;
}

cot_status cot__arch_string(const cot__arch *a, const json_t *value, const char *field, const char **out,
                            cot_error *err) {
    const json_t *v = by_format(a, value);
    const cot__param *p;
    char name[COT__FIELD_NAME];
    if (!v) return COT_OK;
    COT_TRY(reference(a, v, field, &p, err));
    if (p && p->kind == COT__PARAM_NONE) return COT_OK;
    if (p && p->kind != COT__PARAM_STRING)
        return cot__fail(err, COT_FORMAT, cot__param_file(a, p), cot__param_field(a, p, name),
                         "must be a string");
    if (!p && !json_is_string(v)) return cot__fail(err, COT_FORMAT, a->file, field, "must be a string");
    *out = p ? p->str : json_string_value(v);
    return COT_OK;
}

cot_status cot__arch_list(const cot__arch *a, const json_t *value, const char *field, const double **out,
                          size_t *n, cot_error *err) {
    const json_t *v = by_format(a, value);
    const cot__param *p = NULL;
    char name[COT__FIELD_NAME];
    *n = 0;
    if (!v) return COT_OK;
    COT_TRY(reference(a, v, field, &p, err));
    if (!p) return cot__fail(err, COT_FORMAT, a->file, field, "must be \"$parameter\"");
    if (p->kind == COT__PARAM_NONE) return COT_OK;
    if (p->kind != COT__PARAM_LIST)
        return cot__fail(err, COT_FORMAT, cot__param_file(a, p), cot__param_field(a, p, name),
                         "must be a list of numbers");
    *out = p->list;
    *n = p->n_list;
    return COT_OK;
}

cot_status cot__arch_int(const cot__arch *a, const json_t *op, const char *field, int layer, int64_t lo,
                         int64_t hi, int64_t *out, cot_error *err) {
    double x = 0;
    bool found;
    const json_t *v = json_object_get(op, field);
    COT_TRY(cot__arch_number(a, v, field, layer, &x, &found, err));
    if (!found) return COT_OK;
    const char *name = json_is_string(v) ? json_string_value(v) : field, *file = a->source->path;
    char key[COT__FIELD_NAME];
    const cot__param *p = name[0] == '$' ? cot__param_find(a, name + 1) : NULL;
    if (p) name = cot__param_field(a, p, key), file = cot__param_file(a, p);
    if (x != floor(x) || x < (double)lo || x > (double)hi)
        return cot__fail(err, COT_FORMAT, file, name, "is %g, must be a whole number in %lld…%lld", x,
                         (long long)lo, (long long)hi);
    *out = (int64_t)x;
    return COT_OK;
}

cot_status cot__arch_f32(const cot__arch *a, const json_t *op, const char *field, int layer, float *out,
                         cot_error *err) {
    double x = 0;
    bool found;
    COT_TRY(cot__arch_number(a, json_object_get(op, field), field, layer, &x, &found, err));
    if (found && !isfinite((float)x))
        return cot__fail(err, COT_FORMAT, a->source->path, field, "is not a finite number");
    if (found) *out = (float)x;
    return COT_OK;
}

cot_status cot__arch_flag(const cot__arch *a, const json_t *op, const char *field, int layer, bool *out,
                          cot_error *err) {
    double x = 0;
    bool found;
    COT_TRY(cot__arch_number(a, json_object_get(op, field), field, layer, &x, &found, err));
    if (found) *out = x != 0;
    return COT_OK;
}
