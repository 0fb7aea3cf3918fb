/* Owns: tensor-name templates and the closed list of transforms between a file's layout and ours.
 * Transforms of a spelling: rows (first, second, even, odd: of each matrix), split + index (rows of a fused
 * matrix), transpose, add, normalize_columns, and blocks + scales (MXFP4 kept in two tensors). */
#include "model/bind.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

enum { MAX_NAME = COT__SLOT_NAME };

bool cot__slot_expand(const char *t, int layer, int expert, bool bias, char out[COT__SLOT_NAME]) {
    size_t n = 0;
    for (; *t; t++) {
        int number = -1;
        if (strncmp(t, "{i}", 3) == 0) number = layer;
        else if (strncmp(t, "{e}", 3) == 0) number = expert;
        else {
            if (n + 1 >= MAX_NAME) return false;
            out[n++] = *t;
            continue;
        }
        if (number < 0) return false;
        int k = snprintf(out + n, MAX_NAME - n, "%d", number);
        if (k < 0 || (size_t)k >= MAX_NAME - n) return false;
        n += (size_t)k;
        t += 2;
    }
    out[n] = 0;
    if (!bias) return true;
    if (n < 7 || strcmp(out + n - 7, ".weight") != 0) {
        if (n + 6 >= MAX_NAME) return false; /* a stack without a suffix: gate_up_proj → gate_up_proj_bias */
        memcpy(out + n, "_bias", 6);
        return true;
    }
    memcpy(out + n - 7, ".bias", 6);
    return true;
}

typedef struct spelling {
    const cot__tensor *tensor, *scales;
    const json_t *how; /* the object with the transforms, or NULL */
    bool per_expert;   /* the name has {e} */
} spelling;

static void saw(const cot__bind *b, const cot__tensor *x) {
    if (b->seen) b->seen[x - b->arch->source->tensors->tensors] = true;
}

/* A tensor by its name, or by that name inside a multimodal model, whose language model transformers spelled
 * in two ways. */
static const cot__tensor *tensor_named(const cot__bind *b, const char *name) {
    static const struct {
        const char *plain, *inside;
    } ways[] = {{"model.", "model.language_model."}, {"", "language_model."}};
    const cot__source *src = b->arch->source;
    const cot__tensor *x = cot__tensors_find(src->tensors, name);
    for (size_t i = 0; i < 2 && !x && !src->is_gguf; i++) {
        size_t n = strlen(ways[i].plain);
        char other[MAX_NAME + 32];
        if (strncmp(name, ways[i].plain, n) != 0) continue;
        snprintf(other, sizeof other, "%s%s", ways[i].inside, name + n);
        x = cot__tensors_find(src->tensors, other);
    }
    return x;
}

static cot_status find_one(const cot__bind *b, const char *slot, const json_t *alt, int layer, int expert,
                           bool bias, spelling *out, cot_error *err) {
    char name[MAX_NAME];
    const json_t *n = json_is_object(alt)
                          ? json_object_get(alt, bias && json_object_get(alt, "bias") ? "bias" : "name")
                          : alt;
    const json_t *blocks = json_object_get(alt, "blocks");
    if (blocks && !bias) n = blocks;
    const char *t = json_string_value(n);
    if (!t && bias) return COT_OK; /* this spelling has no biases */
    if (!t) return cot__fail(err, COT_FORMAT, b->arch->file, slot, "a tensor name must be a string");
    bool own_bias_name = json_is_object(alt) && bias && json_object_get(alt, "bias");
    if (!cot__slot_expand(t, layer, expert, bias && !own_bias_name, name)) return COT_OK;
    const cot__tensor *x = tensor_named(b, name);
    if (!x) return COT_OK;
    saw(b, x);
    *out = (spelling){
        .tensor = x, .how = json_is_object(alt) ? alt : NULL, .per_expert = strstr(t, "{e}") != NULL};
    if (blocks && !bias) {
        const char *s = json_string_value(json_object_get(alt, "scales"));
        if (!s || !cot__slot_expand(s, layer, expert, false, name))
            return cot__fail(err, COT_FORMAT, b->arch->file, slot, "blocks need scales");
        out->scales = tensor_named(b, name);
        if (!out->scales)
            return cot__fail(err, COT_FORMAT, b->arch->source->path, name, "is missing beside its blocks");
        saw(b, out->scales);
    }
    return COT_OK;
}

static cot_status find(const cot__bind *b, const char *slot, int layer, int expert, bool bias, spelling *out,
                       cot_error *err) {
    *out = (spelling){0};
    const json_t *spec = json_object_get(json_object_get(b->arch->doc, "tensors"), slot);
    if (!spec) return COT_OK;
    const json_t *names = json_object_get(spec, b->arch->source->is_gguf ? "gguf" : "hf");
    if (!json_is_array(names))
        return names ? find_one(b, slot, names, layer, expert, bias, out, err) : COT_OK;
    for (size_t i = 0; i < json_array_size(names) && !out->tensor; i++)
        COT_TRY(find_one(b, slot, json_array_get(names, i), layer, expert, bias, out, err));
    return COT_OK;
}

bool cot__slot_exists(const cot__bind *b, const char *slot, int layer) {
    spelling s;
    for (int e = -1; e <= 0; e++)
        if (find(b, slot, layer, e, false, &s, NULL) == COT_OK && s.tensor) return true;
    return false;
}

static const char *path_of(const cot__bind *b) { return b->arch->source->path; }

/* The bytes of a tensor, or for one expert's part the address that names them. */
static cot_status bytes_of(const cot__bind *b, const cot__tensor *x, int expert, const void **p,
                           cot_error *err) {
    return expert >= 0 ? cot__store_name(b->store, x, p, err) : cot__store_tensor(b->store, x, p, err);
}

/* What a recipe makes: at once, or for one expert's part whenever the store has it resident. */
static cot_status cook(const cot__bind *b, const cot__recipe *r, int expert, const void **out,
                       cot_error *err) {
    if (expert >= 0) return cot__store_recipe(b->store, r, out, err);
    void *p;
    COT_TRY(cot__store_derived(b->store, r->bytes, &p, err));
    r->make(r, r->raw, p);
    *out = p;
    return COT_OK;
}

/* Rows p[0], p[0] + p[1], … (p[2] of them) of p[3] blocks each. */
static void make_mxfp4(const cot__recipe *recipe, const void *const *raw, void *out) {
    int64_t first = recipe->p[0], step = recipe->p[1], count = recipe->p[2], groups = recipe->p[3];
    uint8_t *dst = out;
    for (int64_t r = 0; r < count; r++)
        for (int64_t g = 0; g < groups; g++, dst += 17) {
            size_t i = (size_t)((first + r * step) * groups + g);
            const uint8_t *src = (const uint8_t *)raw[0] + i * 16;
            uint8_t nib[32];
            dst[0] = ((const uint8_t *)raw[1])[i];
            for (int j = 0; j < 16; j++) nib[2 * j] = src[j] & 15, nib[2 * j + 1] = src[j] >> 4;
            for (int j = 0; j < 16; j++) dst[1 + j] = (uint8_t)(nib[j] | nib[j + 16] << 4);
        }
}

/* MXFP4 in two tensors (blocks [.., K/32, 16] with elements 2j, 2j+1 in byte j; scales [.., K/32]) becomes
 * GGUF's blocks: scale first, byte j = elements j and j + 16. Lossless. One expert's rows first, first +
 * step, … */
static cot_status join_mxfp4(const cot__bind *b, const spelling *s, int expert, cot_view *v, cot_error *err) {
    const cot__tensor *x = s->tensor, *sc = s->scales;
    const char *which = json_string_value(json_object_get(s->how, "rows"));
    int64_t groups = x->dims[1], rows = x->dims[2], n = x->dims[3];
    if (x->type != COT_U8 || sc->type != COT_U8 || x->dims[0] != 16 || x->n_dims < 3 ||
        sc->bytes * 16 != x->bytes || groups < 1)
        return cot__fail(err, COT_FORMAT, path_of(b), x->name,
                         "blocks must be bytes of shape [..., K/32, 16] with scales [..., K/32]");
    if (expert >= n) return cot__fail(err, COT_FORMAT, path_of(b), x->name, "has no expert %d", expert);
    int64_t first = 0, step = 1, count = expert < 0 ? rows * n : rows;
    size_t from = expert < 0 ? 0 : (size_t)(expert * rows * groups), blocks = (size_t)(count * groups);
    if (which && (expert < 0 || rows % 2))
        return cot__fail(err, COT_FORMAT, path_of(b), x->name, "cannot be cut into gate and up");
    if (which) count /= 2;
    if (which && (strcmp(which, "even") == 0 || strcmp(which, "odd") == 0)) step = 2, first = which[0] == 'o';
    else if (which && strcmp(which, "second") == 0) first = count;
    const void *pb, *ps, *out;
    COT_TRY(bytes_of(b, x, expert, &pb, err));
    COT_TRY(bytes_of(b, sc, expert, &ps, err));
    cot__recipe r = {.make = make_mxfp4,
                     .raw = {(const char *)pb + from * 16, (const char *)ps + from},
                     .raw_bytes = {blocks * 16, blocks},
                     .bytes = (size_t)(count * groups) * 17,
                     .p = {first, step, count, groups}};
    COT_TRY(cook(b, &r, expert, &out, err));
    *v = cot__view_make(out, COT_MXFP4, count, groups * 32);
    return COT_OK;
}

/* FP8 weights come with one F32 factor per block of rows and columns. */
static cot_status attach_scales(const cot__bind *b, const cot__tensor *x, cot_view *v, cot_error *err) {
    char name[MAX_NAME + 16];
    snprintf(name, sizeof name, "%s_scale_inv", x->name);
    const cot__tensor *s = tensor_named(b, name);
    if (s) saw(b, s);
    if (!s || s->type != COT_F32 || s->n_dims != 2)
        return cot__fail(err, COT_FORMAT, path_of(b), name, "FP8 weights need this 2-D F32 tensor");
    const json_t *size = cot__json_at(b->arch->source->config, "quantization_config.weight_block_size");
    int64_t rows = json_integer_value(json_array_get(size, 0)),
            cols = json_integer_value(json_array_get(size, 1));
    if (!size) rows = cols = 128;
    if (rows < 1 || cols < 1)
        return cot__fail(err, COT_FORMAT, b->arch->source->config_path,
                         "quantization_config.weight_block_size", "must hold two positive numbers");
    if (s->dims[0] != (v->cols + cols - 1) / cols || s->dims[1] != (v->rows + rows - 1) / rows)
        return cot__fail(err, COT_FORMAT, path_of(b), name, "is not one scale per block of %lld × %lld",
                         (long long)rows, (long long)cols);
    const void *p;
    COT_TRY(cot__store_tensor(b->store, s, &p, err));
    if ((uintptr_t)p % sizeof(float)) { /* safetensors promise no alignment */
        void *copy;
        COT_TRY(cot__store_derived(b->store, (size_t)s->bytes, &copy, err));
        memcpy(copy, p, (size_t)s->bytes);
        p = copy;
    }
    v->scales = p;
    v->scale_rows = rows;
    v->scale_cols = cols;
    v->scale_stride = s->dims[0];
    return COT_OK;
}

/* p[0] rows of p[1] values of p[2] bytes become p[1] rows of p[0]. */
static void make_transpose(const cot__recipe *recipe, const void *const *raw, void *out) {
    int64_t rows = recipe->p[0], cols = recipe->p[1];
    size_t size = (size_t)recipe->p[2];
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            memcpy((char *)out + (size_t)(c * rows + r) * size,
                   (const char *)raw[0] + (size_t)(r * cols + c) * size, size);
}

static cot_status transpose(const cot__bind *b, const cot__tensor *x, int expert, cot_view *v,
                            cot_error *err) {
    const cot__type_info *t = cot__type(v->type);
    if (t->block != 1)
        return cot__fail(err, COT_UNSUPPORTED, path_of(b), x->name, "%s cannot be transposed", t->name);
    size_t bytes = (size_t)(v->rows * v->cols) * (size_t)t->bytes;
    cot__recipe r = {.make = make_transpose,
                     .raw = {v->data},
                     .raw_bytes = {bytes},
                     .bytes = bytes,
                     .p = {v->rows, v->cols, t->bytes}};
    const void *out;
    COT_TRY(cook(b, &r, expert, &out, err));
    *v = cot__view_make(out, v->type, v->cols, v->rows);
    return COT_OK;
}

/* NormHead (Bailing): every column divided by its L2 norm over the vocabulary plus 1e-7. */
static cot_status normalize_columns(const cot__bind *b, cot_view *v, cot_error *err) {
    void *out;
    size_t cols = (size_t)v->cols;
    COT_TRY(cot__store_derived(b->store, (size_t)v->rows * cols * sizeof(float), &out, err));
    double *sum = cot__alloc_zero(cols, sizeof *sum);
    if (!sum) return cot__fail_memory(err, cols * sizeof *sum);
    float *m = out;
    for (int64_t r = 0; r < v->rows; r++) {
        cot__view_row(v, r, m + (size_t)r * cols);
        for (size_t c = 0; c < cols; c++) sum[c] += (double)m[(size_t)r * cols + c] * m[(size_t)r * cols + c];
    }
    for (size_t c = 0; c < cols; c++) sum[c] = sqrt(sum[c]) + 1e-7;
    for (int64_t r = 0; r < v->rows; r++)
        for (size_t c = 0; c < cols; c++) m[(size_t)r * cols + c] = (float)(m[(size_t)r * cols + c] / sum[c]);
    cot__free(sum);
    *v = cot__view_make(out, COT_F32, v->rows, v->cols);
    return COT_OK;
}

static cot_status take_rows(const cot__bind *b, const char *slot, const char *which, cot_view *v,
                            cot_error *err) {
    if (v->rows % 2)
        return cot__fail(err, COT_FORMAT, path_of(b), slot, "a fused tensor has an odd number of rows");
    v->rows /= 2;
    if (strcmp(which, "first") == 0) return COT_OK;
    if (strcmp(which, "second") == 0) v->data = (const char *)v->data + (size_t)v->rows * v->row_stride;
    else if (strcmp(which, "even") == 0) v->row_stride *= 2;
    else if (strcmp(which, "odd") == 0) {
        v->data = (const char *)v->data + v->row_stride;
        v->row_stride *= 2;
    } else return cot__fail(err, COT_FORMAT, b->arch->file, slot, "rows must be first, second, even or odd");
    return COT_OK;
}

static cot_status split_rows(const cot__bind *b, const char *slot, const json_t *how, int layer, cot_view *v,
                             cot_error *err) {
    const json_t *sizes = json_object_get(how, "split");
    size_t index = (size_t)json_integer_value(json_object_get(how, "index"));
    double before = 0, size = 0, total = 0;
    for (size_t i = 0; i < json_array_size(sizes); i++) {
        double x = 0;
        bool found;
        COT_TRY(cot__arch_number(b->arch, json_array_get(sizes, i), slot, layer, &x, &found, err));
        if (i < index) before += x;
        if (i == index) size = x;
        total += x;
    }
    if (size < 1 || total != (double)v->rows)
        return cot__fail(err, COT_FORMAT, path_of(b), slot, "a fused tensor has %lld rows, its parts have %g",
                         (long long)v->rows, total);
    if (v->scales)
        return cot__fail(err, COT_UNSUPPORTED, path_of(b), slot, "block-scaled tensors cannot be split");
    v->data = (const char *)v->data + (size_t)before * v->row_stride;
    v->rows = (int64_t)size;
    return COT_OK;
}

/* A bias of a fused stack is a vector per expert that is cut as the rows are. */
static cot_status cut_bias(const cot__bind *b, const char *slot, const json_t *how, int layer, cot_view *v,
                           cot_error *err) {
    const char *which = json_string_value(json_object_get(how, "rows"));
    cot_view column = *v; /* seen as a column: every value a row */
    size_t size = (size_t)cot__type(v->type)->bytes;
    if (!which && !json_object_get(how, "split")) return COT_OK;
    column.rows = v->cols;
    column.cols = 1;
    column.row_stride = size;
    if (which) COT_TRY(take_rows(b, slot, which, &column, err));
    else COT_TRY(split_rows(b, slot, how, layer, &column, err));
    void *out;
    COT_TRY(cot__store_derived(b->store, (size_t)column.rows * size, &out, err));
    for (int64_t r = 0; r < column.rows; r++)
        memcpy((char *)out + (size_t)r * size, cot__view_at(&column, r), size);
    *v = cot__view_make(out, v->type, 1, column.rows);
    return COT_OK;
}

static cot_status resolve(const cot__bind *b, const char *slot, int layer, int expert, bool bias,
                          cot_view *out, const char **name, cot_error *err) {
    spelling s;
    *out = (cot_view){0};
    COT_TRY(find(b, slot, layer, expert, bias, &s, err));
    if (!s.tensor) return COT_OK;
    const cot__tensor *x = s.tensor;
    if (name) *name = x->name;
    cot_view v;
    if (s.scales) COT_TRY(join_mxfp4(b, &s, expert, &v, err));
    else {
        if (x->type == COT_TYPE_NONE || !cot__type(x->type) || !cot__type(x->type)->decode)
            return cot__fail(err, COT_UNSUPPORTED, path_of(b), x->name,
                             "has type %s, which this build does not compute with",
                             cot_type_name(x->raw_type));
        const void *p;
        COT_TRY(bytes_of(b, x, bias ? -1 : expert, &p, err)); /* biases are small, and stay */
        int64_t rows = 1;
        for (int d = 1; d < x->n_dims; d++) rows *= x->dims[d];
        v = cot__view_make(p, x->type, rows, x->dims[0]);
        if (bias && expert < 0) v = cot__view_make(p, x->type, 1, rows * x->dims[0]);
    }
    if (expert >= 0 && !s.per_expert && !s.scales) { /* a stack: the slab of this expert */
        int64_t n = x->dims[x->n_dims - 1];
        if (x->n_dims < 2 || expert >= n || v.rows % n)
            return cot__fail(err, COT_FORMAT, path_of(b), x->name, "is no stack with an expert %d", expert);
        v.rows /= n;
        v.data = (const char *)v.data + (size_t)(v.rows * expert) * v.row_stride;
    }
    if (expert >= 0 && s.per_expert && !bias) cot__stands_together(b->arch->source, &v);
    if (v.type == COT_F8_E4M3 && !bias) COT_TRY(attach_scales(b, x, &v, err));
    const json_t *how = s.how;
    if (bias) COT_TRY(cut_bias(b, slot, how, layer, &v, err));
    else if (how) {
        const char *which = json_string_value(json_object_get(how, "rows"));
        if (json_is_true(json_object_get(how, "transpose")) && !s.scales)
            COT_TRY(transpose(b, x, expert, &v, err));
        if (which && !s.scales) COT_TRY(take_rows(b, slot, which, &v, err));
        if (json_object_get(how, "split")) COT_TRY(split_rows(b, slot, how, layer, &v, err));
        bool normalize = false;
        COT_TRY(cot__arch_flag(b->arch, how, "normalize_columns", layer, &normalize, err));
        if (normalize) COT_TRY(normalize_columns(b, &v, err));
    }
    *out = v;
    return COT_OK;
}

cot_status cot__slot_view(const cot__bind *b, const char *slot, int layer, int expert, cot_view *out,
                          const char **name, cot_error *err) {
    return resolve(b, slot, layer, expert, false, out, name, err);
}

cot_status cot__slot_bias(const cot__bind *b, const char *slot, int layer, int expert, cot_view *out,
                          cot_error *err) {
    COT_TRY(resolve(b, slot, layer, expert, true, out, NULL, err));
    if (out->data && cot__type(out->type)->block != 1)
        return cot__fail(err, COT_UNSUPPORTED, path_of(b), slot, "a bias of type %s",
                         cot_type_name(out->type));
    return COT_OK;
}

/* The name of a slot's tensor by its first spelling; the slot's own name where it has none. */
static const char *name_of(const cot__bind *b, const char *slot, int layer, int expert, char name[MAX_NAME]) {
    const json_t *spec = json_object_get(json_object_get(json_object_get(b->arch->doc, "tensors"), slot),
                                         b->arch->source->is_gguf ? "gguf" : "hf");
    if (json_is_array(spec)) spec = json_array_get(spec, 0);
    if (json_is_object(spec)) spec = json_object_get(spec, "name");
    if (!json_is_string(spec) ||
        !cot__slot_expand(json_string_value(spec), layer, expert < 0 ? 0 : expert, false, name))
        snprintf(name, MAX_NAME, "%s", slot);
    return name;
}

cot_status cot__slot_check(const cot__bind *b, const char *slot, int layer, const cot_view *v, int64_t rows,
                           int64_t cols, cot_error *err) {
    char name[MAX_NAME], want[2][24];
    if (!v->data || ((rows < 0 || v->rows == rows) && (cols < 0 || v->cols == cols))) return COT_OK;
    for (int i = 0; i < 2; i++) {
        int64_t n = i ? cols : rows;
        if (n < 0) snprintf(want[i], sizeof want[i], "any");
        else snprintf(want[i], sizeof want[i], "%lld", (long long)n);
    }
    return cot__fail(err, COT_FORMAT, path_of(b), name_of(b, slot, layer, -1, name),
                     "is %lld × %lld, must be %s × %s", (long long)v->rows, (long long)v->cols, want[0],
                     want[1]);
}

cot_status cot__slot_need(const cot__bind *b, const char *slot, int layer, int expert, int64_t rows,
                          int64_t cols, cot_view *out, cot_error *err) {
    char name[MAX_NAME];
    COT_TRY(cot__slot_view(b, slot, layer, expert, out, NULL, err));
    if (out->data) return cot__slot_check(b, slot, layer, out, rows, cols, err);
    return cot__fail(err, COT_FORMAT, path_of(b), name_of(b, slot, layer, expert, name),
                     "this tensor is missing (slot %s of the description \"%s\")", slot, b->arch->name);
}

cot_status cot__slot_vector(const cot__bind *b, const char *slot, bool bias, int layer, int64_t n,
                            const float **out, int64_t *n_out, cot_error *err) {
    cot_view v;
    spelling s;
    char name[MAX_NAME];
    *out = NULL;
    if (n_out) *n_out = 0;
    COT_TRY(resolve(b, slot, layer, -1, bias, &v, NULL, err));
    if (!v.data) return COT_OK;
    int64_t count = v.rows * v.cols;
    if (n >= 0 && count != n)
        return cot__fail(err, COT_FORMAT, path_of(b), name_of(b, slot, layer, -1, name),
                         "has %lld values, must have %lld", (long long)count, (long long)n);
    void *p;
    COT_TRY(cot__store_derived(b->store, (size_t)count * sizeof(float), &p, err));
    for (int64_t r = 0; r < v.rows; r++) cot__view_row(&v, r, (float *)p + r * v.cols);
    COT_TRY(find(b, slot, layer, -1, bias, &s, err));
    float add = 0;
    if (s.how && !bias) COT_TRY(cot__arch_f32(b->arch, s.how, "add", layer, &add, err));
    for (int64_t i = 0; add != 0 && i < count; i++) ((float *)p)[i] += add;
    *out = p;
    if (n_out) *n_out = count;
    return COT_OK;
}
