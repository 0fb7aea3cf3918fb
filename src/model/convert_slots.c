/* Owns: conversion from one container to the other: every slot of the description that the source has becomes
 * a tensor spelled as the other container spells it; slots that share a name there are put together. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "model/convert.h"

/* ---- the plan ---- */

/* The other container's spelling: its template, and what it asks for. */
typedef struct target {
    const char *name, *bias_name; /* templates */
    int part;                     /* place among the slots of one tensor */
    bool interleave, transpose;
    float add;
} target;

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

static bool is_expert(const char *slot) { return ends_with(slot, "_exps"); }

static cot_status find_target(cot__convert *c, const char *slot, const json_t *spec, target *out,
                              cot_error *err) {
    const json_t *names = json_object_get(spec, c->to_gguf ? "gguf" : "hf"), *how;
    *out = (target){0};
    for (size_t i = 0; json_is_array(names) && i < json_array_size(names); i++)
        if (!json_object_get(json_array_get(names, i), "blocks")) { /* MXFP4 is written in GGUF alone */
            names = json_array_get(names, i);
            break;
        }
    if (!names) return COT_OK;
    how = json_is_object(names) ? names : NULL;
    out->name = json_string_value(how ? json_object_get(how, "name") : names);
    out->bias_name = how ? json_string_value(json_object_get(how, "bias")) : NULL;
    if (!out->name) return cot__fail(err, COT_FORMAT, c->arch->file, slot, "a tensor name must be a string");
    if (!how) return COT_OK;
    const char *rows = json_string_value(json_object_get(how, "rows"));
    out->part = rows && (strcmp(rows, "second") == 0 || strcmp(rows, "odd") == 0);
    if (json_object_get(how, "split")) out->part = (int)json_integer_value(json_object_get(how, "index"));
    if (out->part < 0 || out->part >= COT__JOB_SLOTS)
        return cot__fail(err, COT_FORMAT, c->arch->file, slot, "index must be 0 to %d", COT__JOB_SLOTS - 1);
    out->interleave = rows && (strcmp(rows, "even") == 0 || strcmp(rows, "odd") == 0);
    out->transpose = json_is_true(json_object_get(how, "transpose"));
    return cot__arch_f32(c->arch, how, "add", -1, &out->add, err);
}

/* Rows of queries and keys stand in another order where the containers pair rotated values differently. */
static cot_status set_pairing(cot__convert *c, cot__job *j, const char *slot, cot_error *err) {
    const json_t *rope = json_object_get(json_object_get(c->arch->doc, "rope"), "main");
    const json_t *pairing = json_object_get(rope, "pairing");
    const char *gguf = json_string_value(json_object_get(pairing, "gguf")),
               *hf = json_string_value(json_object_get(pairing, "hf"));
    bool rotated = strncmp(slot, "attn_q", 6) == 0 || strncmp(slot, "attn_k", 6) == 0;
    if (!rotated || !gguf || !hf || strcmp(gguf, hf) == 0) return COT_OK;
    double dim = 0, rot = 0;
    bool found;
    COT_TRY(cot__arch_number(c->arch, json_object_get(rope, "dim"), "dim", -1, &rot, &found, err));
    const cot__param *p = cot__param_find(c->arch, "head_dim");
    if (p && p->kind == COT__PARAM_NUMBER) dim = p->number;
    if (!(dim >= 2 && dim <= 65536 && rot >= 2 && rot <= dim && (int64_t)rot % 2 == 0))
        return cot__fail(err, COT_FORMAT, c->source->path, "head_dim",
                         "%g with %g rotated values cannot be paired anew", dim, rot);
    j->pairing = strcmp(c->to_gguf ? gguf : hf, "norm") == 0 ? COT__PAIRING_TO_NORM : COT__PAIRING_TO_NEOX;
    j->head_dim = (int64_t)dim;
    j->n_rot = (int64_t)rot;
    return COT_OK;
}

static void set_shape(const cot__convert *c, cot__job *j, const cot_view *v, const char *slot, bool stacked) {
    int64_t rows = v->rows * (j->interleave ? 2 : 1), cols = v->cols;
    bool row_matrix = !c->to_gguf && strcmp(slot, "ffn_gate_inp_shexp") == 0;
    j->dims[0] = j->transpose ? rows : cols;
    j->dims[1] = j->transpose ? cols : rows;
    j->n_dims = (j->vector || j->bias) && !row_matrix ? 1 : 2;
    if (j->bias && j->interleave) j->dims[0] = cols * 2;
    if (stacked) j->dims[j->n_dims++] = j->n_experts;
}

/* One slot (or its bias) at one layer and expert, into the job of that name, new or begun. */
static cot_status plan_one(cot__convert *c, const char *slot, const target *t, int layer, int expert,
                           bool bias, int n_experts, cot_error *err) {
    char name[COT__SLOT_NAME];
    cot__bind b = {.arch = c->arch, .store = c->store};
    cot_view v;
    const char *from = NULL;
    int e = is_expert(slot) ? (expert < 0 ? 0 : expert) : -1;
    if (bias) COT_TRY(cot__slot_bias(&b, slot, layer, e, &v, err));
    else COT_TRY(cot__slot_view(&b, slot, layer, e, &v, &from, err));
    if (!v.data) return COT_OK;
    bool own = bias && t->bias_name;
    if (!cot__slot_expand(own ? t->bias_name : t->name, layer, expert, bias && !own, name)) return COT_OK;
    cot__job *j = NULL;
    for (size_t i = c->n_jobs; i-- > 0 && !j && i + 64 > c->n_jobs;)
        if (strcmp(c->jobs[i].name, name) == 0) j = &c->jobs[i];
    if (!j) {
        j = cot__convert_add(c, COT__JOB_SLOT, name, err);
        if (!j) return COT_NO_MEMORY;
        const cot__tensor *x = from ? cot__tensors_find(c->source->tensors, from) : NULL;
        j->layer = layer;
        j->bias = bias;
        j->vector = (x && x->n_dims == 1) || strcmp(slot, "ffn_gate_inp_shexp") == 0;
        j->expert = e < 0 ? 0 : e;
        j->n_experts = e < 0 ? 0 : expert >= 0 ? 1 : n_experts;
        j->interleave = t->interleave;
        j->transpose = t->transpose && !bias;
        j->add = bias ? 0 : -t->add;
        set_shape(c, j, &v, slot, e >= 0 && expert < 0);
        j->type = cot__convert_type(c, j->name, v.type, j->n_dims < 2 ? 1 : j->dims[1], j->dims[0]);
    } else if (!j->interleave) {
        bool flat = j->bias || j->vector;
        j->dims[flat || j->transpose ? 0 : 1] += flat ? v.cols : v.rows;
    }
    j->slot[t->part] = slot;
    if (j->n_slots <= t->part) j->n_slots = t->part + 1;
    return set_pairing(c, j, slot, err);
}

static cot_status plan_slot(cot__convert *c, const char *slot, const json_t *spec, int layer, int n_experts,
                            cot_error *err) {
    target t;
    if (is_expert(slot) && n_experts < 1) return COT_OK;
    COT_TRY(find_target(c, slot, spec, &t, err));
    if (!t.name || (strstr(t.name, "{i}") != NULL) != (layer >= 0)) return COT_OK;
    bool each = strstr(t.name, "{e}") != NULL;
    for (int e = each ? 0 : -1; e < (each ? n_experts : 0); e++)
        for (int bias = 0; bias < 2; bias++) COT_TRY(plan_one(c, slot, &t, layer, e, bias, n_experts, err));
    return COT_OK;
}

static int number(const cot__convert *c, const char *name) {
    const cot__param *p = cot__param_find(c->arch, name);
    return p && p->kind == COT__PARAM_NUMBER && p->number >= 0 && p->number <= 1 << 20 ? (int)p->number : 0;
}

/* A latent attention whose keys and values the file keeps apart: a folder has them in one matrix, head by
 * head, nope rows of keys and then those of values. Heads, and the views of one layer; false where nothing is
 * to be joined. */
static cot_status latent_parts(cot__convert *c, int layer, int64_t *heads, cot_view *k, cot_view *v,
                               bool *join, cot_error *err) {
    cot__bind b = {.arch = c->arch, .store = c->store};
    *join =
        !c->to_gguf && cot__slot_exists(&b, "attn_k_b", layer) && !cot__slot_exists(&b, "attn_kv_b", layer);
    if (!*join) return COT_OK;
    COT_TRY(cot__slot_view(&b, "attn_k_b", layer, -1, k, NULL, err));
    COT_TRY(cot__slot_need(&b, "attn_v_b", layer, -1, -1, -1, v, err));
    int64_t rank = number(c, "kv_rank");
    *heads = rank ? k->rows / rank : 0;
    if (*heads < 1 || k->rows % rank || v->cols != rank || v->rows % *heads)
        return cot__fail(err, COT_FORMAT, c->source->path, "attn_k_b", "layer %d: does not fit attn_v_b",
                         layer);
    return COT_OK;
}

static cot_status plan_latent(cot__convert *c, int layer, cot_error *err) {
    const json_t *spec =
        json_object_get(json_object_get(json_object_get(c->arch->doc, "tensors"), "attn_kv_b"), "hf");
    char name[COT__SLOT_NAME];
    cot_view k, v;
    int64_t heads = 0;
    bool join;
    COT_TRY(latent_parts(c, layer, &heads, &k, &v, &join, err));
    if (!join || !json_is_string(spec) || !cot__slot_expand(json_string_value(spec), layer, -1, false, name))
        return COT_OK;
    cot__job *j = cot__convert_add(c, COT__JOB_LATENT, name, err);
    if (!j) return COT_NO_MEMORY;
    j->layer = layer;
    j->n_dims = 2;
    j->dims[0] = v.cols;
    j->dims[1] = heads * k.cols + v.rows;
    j->type = cot__convert_type(c, name, k.type, j->dims[1], j->dims[0]);
    return COT_OK;
}

cot_status cot__convert_latent_job(cot__convert *c, const cot__job *j, cot_error *err) {
    cot_view k, v;
    int64_t heads = 0;
    bool join;
    COT_TRY(latent_parts(c, j->layer, &heads, &k, &v, &join, err));
    int64_t rank = v.cols, nope = k.cols, dv = v.rows / heads, rows = nope + dv;
    float *m = cot__alloc_array((size_t)(rows * rank), sizeof *m),
          *row = cot__alloc_array((size_t)nope, sizeof *row);
    cot_status s = m && row ? COT_OK : cot__fail_memory(err, (size_t)(rows * rank) * sizeof *m);
    for (int64_t h = 0; h < heads && s == COT_OK; h++) {
        for (int64_t r = 0; r < rank; r++) {
            cot__view_row(&k, h * rank + r, row);
            for (int64_t i = 0; i < nope; i++) m[i * rank + r] = row[i];
        }
        for (int64_t i = 0; i < dv; i++) cot__view_row(&v, h * dv + i, m + (nope + i) * rank);
        cot_view head = cot__view_make(m, COT_F32, rows, rank);
        s = cot__convert_rows(c, &head, rows, NULL, rank, NULL, j->type, 0, err);
    }
    cot__free(m);
    cot__free(row);
    return s;
}

cot_status cot__convert_plan_slots(cot__convert *c, cot_error *err) {
    json_t *tensors = json_object_get(c->arch->doc, "tensors"), *spec;
    const char *slot;
    int n_experts = number(c, "n_expert"), tied = number(c, "tied");
    for (int layer = -1; layer < c->n_layer; layer++) {
        COT_TRY(cot__convert_store(c, err)); /* views made for their shapes */
        json_object_foreach(tensors, slot, spec) {
            if (tied && strcmp(slot, "output") == 0) continue;
            if (!c->to_gguf && strncmp(slot, "rope_f", 6) == 0) continue; /* the config has them */
            if (c->to_gguf && layer >= 0 && cot__convert_splits(c, layer) &&
                (!strcmp(slot, "ffn_gate") || !strcmp(slot, "ffn_up") || !strcmp(slot, "ffn_down")))
                continue;
            COT_TRY(plan_slot(c, slot, spec, layer, n_experts, err));
        }
        if (layer >= 0) COT_TRY(plan_latent(c, layer, err));
    }
    if (c->to_gguf) COT_TRY(cot__convert_rope_tensors(c, err));
    return COT_OK;
}

/* ---- one tensor ---- */

/* Order of rows (or of a vector's values) for the other pairing: NEOX pairs i with i + n_rot/2, NORM 2i with
 * 2i + 1, in each head. NULL: as they stand. */
static cot_status row_order(const cot__convert *c, const cot__job *j, const char *slot, int64_t n,
                            int32_t **out, cot_error *err) {
    *out = NULL;
    if (j->pairing == COT__PAIRING_SAME || strcmp(slot, "attn_v") == 0) return COT_OK;
    if (n % j->head_dim || n > INT32_MAX)
        return cot__fail(err, COT_FORMAT, c->source->path, slot, "layer %d: %lld rows are no heads of %lld",
                         j->layer, (long long)n, (long long)j->head_dim);
    int32_t *order = cot__alloc_array((size_t)n, sizeof *order);
    if (!order) return cot__fail_memory(err, (size_t)n * sizeof *order);
    int64_t half = j->n_rot / 2;
    for (int64_t i = 0; i < n; i++) {
        int64_t in = i % j->head_dim, base = i - in;
        if (in < j->n_rot)
            in = j->pairing == COT__PAIRING_TO_NORM ? in / 2 + in % 2 * half : in % half * 2 + in / half;
        order[i] = (int32_t)(base + in);
    }
    *out = order;
    return COT_OK;
}

static cot_status part_view(cot__convert *c, const cot__job *j, int part, int expert, cot_view *v,
                            cot_error *err) {
    cot__bind b = {.arch = c->arch, .store = c->store};
    const char *slot = j->slot[part];
    if (!slot) return cot__fail(err, COT_FORMAT, c->source->path, j->name, "a part of it is missing");
    if (j->vector && !j->n_experts) { /* F32, with what the spelling adds */
        const float *x;
        int64_t n;
        COT_TRY(cot__slot_vector(&b, slot, j->bias, j->layer, -1, &x, &n, err));
        *v = cot__view_make(x, COT_F32, 1, n);
        return COT_OK;
    }
    if (j->bias) COT_TRY(cot__slot_bias(&b, slot, j->layer, expert, v, err));
    else COT_TRY(cot__slot_view(&b, slot, j->layer, expert, v, NULL, err));
    if (!v->data)
        return cot__fail(err, COT_FORMAT, c->source->path, j->name, "expert %d of slot %s is missing", expert,
                         slot);
    return COT_OK;
}

/* Parts one after the other. */
static cot_status write_parts(cot__convert *c, const cot__job *j, int expert, cot_error *err) {
    for (int i = 0; i < j->n_slots; i++) {
        cot_view v;
        int32_t *order;
        COT_TRY(part_view(c, j, i, expert, &v, err));
        bool vector = j->bias || j->vector;
        COT_TRY(row_order(c, j, j->slot[i], vector ? v.cols : v.rows, &order, err));
        cot_status s = cot__convert_rows(c, &v, v.rows, vector ? NULL : order, v.cols, vector ? order : NULL,
                                         j->type, j->add, err);
        cot__free(order);
        COT_TRY(s);
    }
    return COT_OK;
}

/* Parts whose rows alternate, or whose matrix is written the other way round: by way of F32. */
static cot_status write_woven(cot__convert *c, const cot__job *j, int expert, cot_error *err) {
    cot_view v[COT__JOB_SLOTS];
    int64_t rows = 0, cols = 0;
    for (int i = 0; i < j->n_slots; i++) {
        COT_TRY(part_view(c, j, i, expert, &v[i], err));
        if (j->bias)
            v[i] = (cot_view){.data = v[i].data,
                              .type = v[i].type,
                              .rows = v[i].cols,
                              .cols = 1,
                              .row_stride = cot__row_bytes(v[i].type, 1)};
        if (i && (v[i].cols != cols || v[i].rows != v[0].rows))
            return cot__fail(err, COT_FORMAT, c->source->path, j->name, "its parts differ in shape");
        cols = v[i].cols;
        rows += v[i].rows;
    }
    float *m = cot__alloc_array((size_t)(rows * cols), sizeof *m), *row = cot__alloc_array((size_t)cols, 4);
    cot_status s = m && row ? COT_OK : cot__fail_memory(err, (size_t)(rows * cols) * sizeof *m);
    for (int64_t r = 0; s == COT_OK && r < rows; r++) {
        const cot_view *from = j->interleave ? &v[r % j->n_slots] : &v[r / v[0].rows];
        cot__view_row(from, j->interleave ? r / j->n_slots : r % v[0].rows, row);
        for (int64_t k = 0; k < cols; k++) m[j->transpose ? k * rows + r : r * cols + k] = row[k];
    }
    cot_view all = cot__view_make(m, COT_F32,
                                  j->transpose ? cols
                                  : j->bias    ? 1
                                               : rows,
                                  j->transpose || j->bias ? rows : cols);
    if (s == COT_OK) s = cot__convert_rows(c, &all, all.rows, NULL, all.cols, NULL, j->type, j->add, err);
    cot__free(m);
    cot__free(row);
    return s;
}

cot_status cot__convert_slot_job(cot__convert *c, const cot__job *j, cot_error *err) {
    int first = j->n_experts ? j->expert : -1, n = j->n_experts ? j->n_experts : 1;
    for (int e = first; e < first + n; e++) {
        if (e > first) COT_TRY(cot__convert_store(c, err)); /* what was derived for the last expert */
        COT_TRY(j->interleave || j->transpose ? write_woven(c, j, e, err) : write_parts(c, j, e, err));
    }
    return COT_OK;
}
