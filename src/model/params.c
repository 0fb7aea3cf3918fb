/* Owns: the hyper-parameters of a model: read from the file by the description's keys, with aliases,
 * enumerations, defaults and the few derivations that are allowed (product, ratio, sum, difference, period,
 * from).
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "model/arch.h"

enum { MAX_LIST = 1 << 16 };

static cot_status resolve(cot__arch *a, cot__param *p, cot_error *err);

const cot__param *cot__param_find(const cot__arch *a, const char *name) {
    for (size_t i = 0; i < a->n_params; i++)
        if (strcmp(a->params[i].name, name) == 0) return &a->params[i];
    return NULL;
}

const char *cot__param_file(const cot__arch *a, const cot__param *p) {
    return p->key && !a->source->is_gguf ? a->source->config_path : a->source->path;
}

const char *cot__param_field(const cot__arch *a, const cot__param *p, char buf[COT__FIELD_NAME]) {
    if (!p->key) return p->name;
    bool tail = a->source->is_gguf && p->key[0] == '.';
    snprintf(buf, COT__FIELD_NAME, "%.80s%.110s", tail ? a->source->arch : "", p->key);
    return buf;
}

/* An enumeration maps the file's value (as text) to a literal of the description. */
static cot_status enumerate(const cot__arch *a, const cot__param *p, const json_t *map, const char *text,
                            double *number, const char **str, bool *is_string, cot_error *err) {
    const json_t *v = json_object_get(map, text);
    if (!v) v = json_object_get(map, "*");
    char field[COT__FIELD_NAME];
    if (!v)
        return cot__fail(err, COT_UNSUPPORTED, cot__param_file(a, p), cot__param_field(a, p, field),
                         "\"%s\" is not among the values that this family is described with", text);
    *is_string = json_is_string(v);
    if (*is_string) *str = json_string_value(v);
    else *number = json_is_boolean(v) ? json_is_true(v) : json_number_value(v);
    return COT_OK;
}

static cot_status set_number(const cot__arch *a, cot__param *p, const json_t *map, double x, cot_error *err) {
    bool is_string = false;
    if (map) {
        char text[32];
        snprintf(text, sizeof text, "%.12g", x);
        COT_TRY(enumerate(a, p, map, text, &x, &p->str, &is_string, err));
    }
    p->kind = is_string ? COT__PARAM_STRING : COT__PARAM_NUMBER;
    p->number = x;
    return COT_OK;
}

static cot_status set_string(const cot__arch *a, cot__param *p, const json_t *map, const char *s,
                             cot_error *err) {
    bool is_string = true;
    p->str = s;
    if (map) COT_TRY(enumerate(a, p, map, s, &p->number, &p->str, &is_string, err));
    p->kind = is_string ? COT__PARAM_STRING : COT__PARAM_NUMBER;
    return COT_OK;
}

static cot_status make_list(const cot__arch *a, cot__param *p, uint64_t n, cot_error *err) {
    if (n > MAX_LIST)
        return cot__fail(err, COT_LIMIT, a->source->path, p->name, "has %llu elements, at most %d are read",
                         (unsigned long long)n, MAX_LIST);
    p->list = cot__alloc_zero(n, sizeof *p->list);
    if (!p->list) return cot__fail_memory(err, n * sizeof *p->list);
    p->n_list = n;
    p->kind = COT__PARAM_LIST;
    return COT_OK;
}

static cot_status from_gguf(const cot__arch *a, cot__param *p, const char *key, const json_t *map,
                            cot_error *err) {
    char full[192];
    snprintf(full, sizeof full, "%s%s", key[0] == '.' ? a->source->arch : "", key);
    const cot__gguf_kv *kv = cot__gguf_find(a->source->gguf, full);
    double x;
    if (!kv) return COT_OK;
    if (kv->type == COT_GGUF_STRING) return set_string(a, p, map, kv->str.s, err);
    if (kv->type != COT_GGUF_ARRAY) {
        if (!cot__gguf_f64(kv, 0, &x))
            return cot__fail(err, COT_FORMAT, a->source->path, full, "must be a number or a string");
        return set_number(a, p, map, x, err);
    }
    COT_TRY(make_list(a, p, kv->count, err));
    for (uint64_t i = 0; i < kv->count; i++) {
        if (!cot__gguf_f64(kv, i, &p->list[i]))
            return cot__fail(err, COT_FORMAT, a->source->path, full, "must hold numbers");
    }
    return COT_OK;
}

static cot_status from_json(const cot__arch *a, cot__param *p, const json_t *v, const char *key,
                            const json_t *map, cot_error *err) {
    const char *file = a->source->config_path;
    if (json_is_string(v)) return set_string(a, p, map, json_string_value(v), err);
    if (json_is_boolean(v)) return set_number(a, p, map, json_is_true(v), err);
    if (json_is_number(v)) return set_number(a, p, map, json_number_value(v), err);
    if (!json_is_array(v))
        return cot__fail(err, COT_FORMAT, file, key, "must be a number, a string, true, false or a list");
    COT_TRY(make_list(a, p, json_array_size(v), err));
    for (size_t i = 0; i < p->n_list; i++) {
        const json_t *e = json_array_get(v, i);
        const char *str = NULL;
        bool is_string = false;
        if (json_is_string(e) && map)
            COT_TRY(enumerate(a, p, map, json_string_value(e), &p->list[i], &str, &is_string, err));
        else if (json_is_boolean(e)) p->list[i] = json_is_true(e);
        else if (json_is_number(e)) p->list[i] = json_number_value(e);
        else is_string = true;
        if (is_string) return cot__fail(err, COT_FORMAT, file, key, "element %zu is no number", i);
    }
    return COT_OK;
}

static cot_status from_source(const cot__arch *a, cot__param *p, const json_t *spec, cot_error *err) {
    const json_t *keys = json_object_get(spec, a->source->is_gguf ? "gguf" : "hf"),
                 *map = json_object_get(spec, "enum");
    size_t n = json_is_array(keys) ? json_array_size(keys) : keys ? 1 : 0;
    if (a->source->is_gguf && json_object_get(json_object_get(spec, "default"), "period"))
        map = NULL; /* a GGUF has numbers here: one for each layer, or the period */
    for (size_t i = 0; i < n && p->kind == COT__PARAM_NONE; i++) {
        const char *key = json_string_value(json_is_array(keys) ? json_array_get(keys, i) : keys);
        if (!key) return cot__fail(err, COT_FORMAT, a->file, p->name, "keys must be strings");
        p->key = key;
        if (a->source->is_gguf) COT_TRY(from_gguf(a, p, key, map, err));
        else {
            const json_t *v = cot__json_at(a->source->config, key);
            if (v) COT_TRY(from_json(a, p, v, key, map, err));
        }
    }
    if (p->kind == COT__PARAM_NONE) p->key = NULL;
    return COT_OK;
}

/* The value of an operand of a derivation: a number or a parameter that is one. */
static cot_status operand(cot__arch *a, const json_t *v, double *out, bool *found, cot_error *err) {
    const char *s = json_string_value(v);
    if (s && s[0] == '$') {
        cot__param *p = (cot__param *)cot__param_find(a, s + 1);
        if (p) COT_TRY(resolve(a, p, err));
    }
    return cot__arch_number(a, v, "params", -1, out, found, err);
}

static cot_status derive(cot__arch *a, cot__param *p, const char *how, const json_t *args, cot_error *err) {
    double x[8] = {0};
    size_t n = json_array_size(args);
    if (n < 1 || n > 8) return cot__fail(err, COT_FORMAT, a->file, p->name, "%s takes 1 to 8 operands", how);
    for (size_t i = 0; i < n; i++) {
        bool found;
        COT_TRY(operand(a, json_array_get(args, i), &x[i], &found, err));
        if (!found) return COT_OK; /* stays absent */
    }
    for (size_t i = 1; i < n; i++) {
        if (how[0] == 'p') x[0] *= x[i];
        else if (how[0] == 'r') x[0] = x[i] != 0 ? x[0] / x[i] : NAN;
        else if (how[0] == 's') x[0] += x[i];
        else x[0] -= x[i];
    }
    if (!isfinite(x[0]))
        return cot__fail(err, COT_FORMAT, a->source->path, p->name, "cannot be derived: division by zero");
    p->kind = COT__PARAM_NUMBER;
    p->number = x[0];
    return COT_OK;
}

/* {"period": P, "last": x, "others": y}: layer i gets x where (i + 1) mod P = 0, else y. A number that the
 * file gives where a list is meant is the period (GGUF's sliding_window_pattern is one or the other). With
 * "from": F instead, where i ≥ F. */
static cot_status schedule(cot__arch *a, cot__param *p, const json_t *d, cot_error *err) {
    const json_t *from = json_object_get(d, "from");
    double at = p->number, last = 0, others = 0, layers = 0;
    bool found[3] = {p->kind == COT__PARAM_NUMBER};
    if (!found[0]) COT_TRY(operand(a, from ? from : json_object_get(d, "period"), &at, &found[0], err));
    COT_TRY(operand(a, json_object_get(d, "last"), &last, &found[1], err));
    COT_TRY(operand(a, json_object_get(d, "others"), &others, &found[2], err));
    cot__param *count = (cot__param *)cot__param_find(a, "n_layer");
    if (count) COT_TRY(resolve(a, count, err));
    if (!found[1] || !found[2])
        return cot__fail(err, COT_FORMAT, a->file, p->name, "a schedule needs last and others");
    char field[COT__FIELD_NAME];
    if (!count || count->kind != COT__PARAM_NUMBER || !(count->number >= 1 && count->number <= 4096))
        return cot__fail(err, COT_FORMAT, count ? cot__param_file(a, count) : a->source->path,
                         count ? cot__param_field(a, count, field) : "n_layer",
                         "is missing or no number in 1…4096");
    if (!found[0]) return COT_OK;
    layers = count->number;
    COT_TRY(make_list(a, p, (uint64_t)layers, err));
    for (size_t i = 0; i < p->n_list; i++) {
        bool hit = from ? (double)i >= at : at >= 1 && at <= layers && (i + 1) % (size_t)at == 0;
        p->list[i] = hit ? last : others;
    }
    return COT_OK;
}

static cot_status set_default(cot__arch *a, cot__param *p, const json_t *d, cot_error *err) {
    static const char *const ways[] = {"product", "ratio", "sum", "difference"};
    if (json_is_object(d) && (json_object_get(d, "gguf") || json_object_get(d, "hf")))
        d = json_object_get(d, a->source->is_gguf ? "gguf" : "hf");
    if (!d || json_is_null(d)) return COT_OK;
    for (int i = 0; i < 4; i++) {
        const json_t *args = json_object_get(d, ways[i]);
        if (args) return derive(a, p, ways[i], args, err);
    }
    if (json_object_get(d, "period") || json_object_get(d, "from")) return schedule(a, p, d, err);
    if (json_is_number(d) || json_is_boolean(d)) {
        p->kind = COT__PARAM_NUMBER;
        p->number = json_is_boolean(d) ? json_is_true(d) : json_number_value(d);
        return COT_OK;
    }
    const char *s = json_string_value(d);
    if (!s) return cot__fail(err, COT_FORMAT, a->file, p->name, "default is of no known form");
    if (s[0] != '$') {
        p->kind = COT__PARAM_STRING;
        p->str = s;
        return COT_OK;
    }
    cot__param *q = (cot__param *)cot__param_find(a, s + 1);
    if (!q) return cot__fail(err, COT_FORMAT, a->file, p->name, "default %s is not described", s);
    COT_TRY(resolve(a, q, err));
    if (q->kind == COT__PARAM_LIST) {
        COT_TRY(make_list(a, p, q->n_list, err));
        memcpy(p->list, q->list, q->n_list * sizeof *q->list);
    } else {
        p->kind = q->kind;
        p->number = q->number;
        p->str = q->str;
    }
    return COT_OK;
}

static cot_status resolve(cot__arch *a, cot__param *p, cot_error *err) {
    if (p->resolved) return COT_OK;
    if (p->resolving) return cot__fail(err, COT_FORMAT, a->file, p->name, "is defined by itself");
    p->resolving = true;
    const json_t *spec = json_object_get(json_object_get(a->doc, "params"), p->name);
    if (json_is_object(spec) && !json_object_get(spec, "product") && !json_object_get(spec, "period") &&
        !json_object_get(spec, "from") && !json_object_get(spec, "ratio") && !json_object_get(spec, "sum") &&
        !json_object_get(spec, "difference")) {
        COT_TRY(from_source(a, p, spec, err));
        const json_t *d = json_object_get(spec, "default");
        if (p->kind == COT__PARAM_NUMBER && json_object_get(d, "period")) COT_TRY(schedule(a, p, d, err));
        if (p->kind == COT__PARAM_NONE) COT_TRY(set_default(a, p, d, err));
        if (p->kind == COT__PARAM_NONE && json_is_true(json_object_get(spec, "required"))) {
            const json_t *key = json_object_get(spec, a->source->is_gguf ? "gguf" : "hf");
            if (json_is_array(key)) key = json_array_get(key, 0);
            return cot__fail(err, COT_FORMAT, a->source->path,
                             json_is_string(key) ? json_string_value(key) : p->name, "is missing");
        }
    } else COT_TRY(set_default(a, p, spec, err));
    p->resolved = true;
    return COT_OK;
}

cot_status cot__params_compute(cot__arch *a, cot_error *err) {
    json_t *params = json_object_get(a->doc, "params"), *value;
    const char *key;
    a->params = cot__alloc_zero(json_object_size(params), sizeof *a->params);
    if (!a->params) return cot__fail_memory(err, json_object_size(params) * sizeof *a->params);
    json_object_foreach(params, key, value) a->params[a->n_params++].name = key;
    for (size_t i = 0; i < a->n_params; i++) COT_TRY(resolve(a, &a->params[i], err));
    return COT_OK;
}
