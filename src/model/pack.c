/* Owns: a GGUF file whose experts lie in one piece each, page-aligned, so that streaming reads an expert at
 * once. Stacks of experts become a tensor for each (blk.N.ffn_gate.E.weight, …), in the order layer, expert,
 * gate, up, down; everything else comes first, as it was. No value changes. */
#include <coterie/convert.h>

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/pool.h"
#include "format/gguf.h"
#include "model/bind.h"
#include "model/source.h"

enum { ALIGN = 4096, PIECE = 4 << 20, MOST_LAYERS = 4096, PARTS = 3, NAME = 96 };

/* The stack of one part of a layer: rows [first, first + rows) of each expert's matrix. */
typedef struct stack {
    const cot__tensor *tensor;
    int64_t first, rows;
} stack;

typedef struct layer {
    stack part[PARTS];
    int64_t experts; /* 0: nothing to pack here */
} layer;

typedef struct pack {
    cot__gguf *in;
    const cot__tensor_set *set;
    cot__gguf_writer *out;
    layer *layers;
    int n_layers;
    char *buffer;
    const cot_pack_options *o;
    cot__pool *pool;
    char *raw, *low; /* a matrix of an expert, and in a lower precision */
    char *group;     /* rows that stand together */
    size_t cap_raw, cap_low, cap_group;
    float *row; /* of each thread */
    uint64_t done, total;
} pack;

static const char *const part_names[PARTS] = {"gate", "up", "down"};

/* Whether a tensor is the stack blk.N.ffn_PART_exps.weight; part: 0 gate, 1 up, 2 down, 3 gate and up. */
static bool is_stack(const cot__tensor *t, int *layer, int *part) {
    static const char *const names[] = {"gate", "up", "down", "gate_up"};
    char name[NAME];
    if (t->n_dims != 3 || sscanf(t->name, "blk.%d.", layer) != 1 || *layer < 0 || *layer >= MOST_LAYERS)
        return false;
    for (*part = 0; *part < 4; ++*part) {
        snprintf(name, sizeof name, "blk.%d.ffn_%s_exps.weight", *layer, names[*part]);
        if (strcmp(name, t->name) == 0) return true;
    }
    return false;
}

static cot_status set_part(layer *l, int part, const cot__tensor *t, int64_t first, int64_t rows,
                           const char *path, cot_error *err) {
    if (l->part[part].tensor || (l->experts && l->experts != t->dims[2]))
        return cot__fail(err, COT_FORMAT, path, t->name, "does not fit the other experts of its layer");
    l->experts = t->dims[2];
    l->part[part] = (stack){t, first, rows};
    return COT_OK;
}

static cot_status find_stacks(pack *p, cot_error *err) {
    const char *path = cot__gguf_path(p->in);
    for (size_t i = 0; i < p->set->n_tensors; i++) {
        const cot__tensor *t = &p->set->tensors[i];
        int n, part;
        p->total += t->bytes;
        if (!is_stack(t, &n, &part)) continue;
        p->total += t->bytes * (uint64_t)p->o->n_tiers;
        layer *l = &p->layers[n];
        int64_t rows = t->dims[1];
        if (n >= p->n_layers) p->n_layers = n + 1;
        if (part < PARTS) COT_TRY(set_part(l, part, t, 0, rows, path, err));
        else {
            if (rows % 2) return cot__fail(err, COT_FORMAT, path, t->name, "has an odd number of rows");
            COT_TRY(set_part(l, 0, t, 0, rows / 2, path, err));
            COT_TRY(set_part(l, 1, t, rows / 2, rows / 2, path, err));
        }
    }
    if (!p->n_layers)
        return cot__fail(err, COT_UNSUPPORTED, path, NULL,
                         "has no stacks of experts: it is dense, or packed already");
    return COT_OK;
}

static cot_status put_keys(pack *p, cot_error *err) {
    for (size_t i = 0; i < cot__gguf_kv_count(p->in); i++) {
        const cot__gguf_kv *kv = cot__gguf_kv_at(p->in, i);
        if (strcmp(kv->key, "general.alignment") != 0 && strncmp(kv->key, "split.", 6) != 0)
            COT_TRY(cot__gguf_put_kv(p->out, kv, err));
    }
    COT_TRY(cot__gguf_put_int(p->out, "general.alignment", COT_GGUF_U32, ALIGN, err));
    if (!p->o->repack) return COT_OK;
    char types[256] = "";
    uint64_t have = 0;
    size_t n = 0;
    for (int l = 0; l < p->n_layers; l++)
        for (int k = 0; k < PARTS; k++)
            if (p->layers[l].part[k].tensor) have |= 1ull << (p->layers[l].part[k].tensor->type & 63);
    for (int i = 0; i < p->o->n_tiers; i++) have |= 1ull << (p->o->tiers[i] & 63);
    for (int t = 0; t < 64; t++)
        if (have >> t & 1 && cot__can_stand_together(t))
            n += (size_t)snprintf(types + n, sizeof types - n, "%s%s", n ? "," : "", cot__type(t)->name);
    return cot__gguf_put_str(p->out, COT__TOGETHER_KEY, types, n, err);
}

static cot_status progressed(pack *p, uint64_t n, cot_error *err) {
    p->done += n;
    if (p->o->progress && !p->o->progress(p->o->progress_user, "pack", p->done, p->total))
        return cot__fail(err, COT_CANCELLED, NULL, NULL, "packing was cancelled");
    return COT_OK;
}

static cot_status copy(pack *p, const cot__tensor *t, uint64_t from, uint64_t bytes, cot_error *err) {
    cot__file *file = p->set->files[t->file];
    for (uint64_t at = 0, n; at < bytes; at += n) {
        n = bytes - at < PIECE ? bytes - at : PIECE;
        COT_TRY(cot__file_read(file, t->offset + from + at, p->buffer, (size_t)n, err));
        cot__file_drop(file, t->offset + from + at, n);
        COT_TRY(cot__gguf_writer_data(p->out, p->buffer, (size_t)n, err));
        COT_TRY(progressed(p, n, err));
    }
    return COT_OK;
}

typedef struct lower_job {
    const pack *p;
    const cot__type_info *from, *to;
    int64_t cols;
} lower_job;

static void lower_row(void *arg, size_t row, int thread) {
    const lower_job *j = arg;
    float *x = j->p->row + (size_t)thread * (size_t)j->cols;
    j->from->decode(j->p->raw + row * cot__row_bytes(j->from->type, j->cols), x, j->cols);
    j->to->encode(x, j->p->low + row * cot__row_bytes(j->to->type, j->cols), j->cols, NULL);
}

static cot_status room(char **p, size_t *cap, size_t bytes, cot_error *err) {
    if (bytes <= *cap) return COT_OK;
    char *more = cot__realloc_array(*p, bytes, 1);
    if (!more) return cot__fail_memory(err, bytes);
    *p = more;
    *cap = bytes;
    return COT_OK;
}

/* Writes a matrix that is in memory, its rows together if they are to be. */
static cot_status put_matrix(pack *p, char *data, cot_type type, int64_t rows, int64_t cols, cot_error *err) {
    cot_view v = cot__view_make(data, type, rows, cols);
    if (p->o->repack && cot__view_may_stand_together(&v)) {
        COT_TRY(room(&p->group, &p->cap_group, v.row_stride * COT__TOGETHER, err));
        (void)cot__view_put_together(&v, p->group);
    }
    return cot__gguf_writer_data(p->out, data, v.row_stride * (size_t)rows, err);
}

/* One part of an expert, repacked. */
static cot_status repacked(pack *p, const stack *s, int64_t e, cot_error *err) {
    const cot__tensor *t = s->tensor;
    size_t row = cot__row_bytes(t->type, t->dims[0]), bytes = row * (size_t)s->rows;
    uint64_t at = t->offset + (uint64_t)(e * t->dims[1] + s->first) * row;
    COT_TRY(room(&p->raw, &p->cap_raw, bytes, err));
    COT_TRY(cot__file_read(p->set->files[t->file], at, p->raw, bytes, err));
    cot__file_drop(p->set->files[t->file], at, bytes);
    COT_TRY(put_matrix(p, p->raw, t->type, s->rows, t->dims[0], err));
    return progressed(p, bytes, err);
}

/* One part of an expert in a lower precision. */
static cot_status lower(pack *p, const stack *s, int64_t e, cot_type type, cot_error *err) {
    const cot__tensor *t = s->tensor;
    lower_job j = {.p = p, .from = cot__type((int)t->type), .to = cot__type((int)type), .cols = t->dims[0]};
    size_t from = cot__row_bytes(t->type, j.cols), to = cot__row_bytes(type, j.cols), rows = (size_t)s->rows;
    uint64_t at = t->offset + (uint64_t)(e * t->dims[1] + s->first) * from;
    COT_TRY(room(&p->raw, &p->cap_raw, from * rows, err));
    COT_TRY(room(&p->low, &p->cap_low, to * rows, err));
    float *x = cot__realloc_array(p->row, (size_t)cot__pool_threads(p->pool) * (size_t)j.cols, sizeof *x);
    if (!x) return cot__fail_memory(err, (size_t)j.cols * sizeof *x);
    p->row = x;
    COT_TRY(cot__file_read(p->set->files[t->file], at, p->raw, from * rows, err));
    cot__file_drop(p->set->files[t->file], at, from * rows);
    cot__pool_run(p->pool, lower_row, &j, rows);
    COT_TRY(put_matrix(p, p->low, type, s->rows, j.cols, err));
    return progressed(p, from * rows, err);
}

/* The parts of one expert as they are (tier −1), or in a lower precision. */
static cot_status put_expert(pack *p, bool data, int l, int64_t e, int tier, cot_error *err) {
    char stem[NAME], name[COT__SLOT_NAME];
    for (int k = 0; k < PARTS; k++) {
        const stack *s = &p->layers[l].part[k];
        if (!s->tensor) continue; /* experts without a gate */
        int64_t dims[2] = {s->tensor->dims[0], s->rows};
        uint64_t row = cot__row_bytes(s->tensor->type, dims[0]);
        cot_type type = tier < 0 ? s->tensor->type : p->o->tiers[tier];
        snprintf(stem, sizeof stem, "blk.%d.ffn_%s.%lld.weight", l, part_names[k], (long long)e);
        if (tier >= 0) cot__tier_name(stem, type, name);
        if (data)
            COT_TRY(tier >= 0      ? lower(p, s, e, type, err)
                    : p->o->repack ? repacked(p, s, e, err)
                                   : copy(p, s->tensor, (uint64_t)(e * s->tensor->dims[1] + s->first) * row,
                                          (uint64_t)s->rows * row, err));
        else COT_TRY(cot__gguf_put_tensor(p->out, tier >= 0 ? name : stem, type, 2, dims, err));
    }
    return COT_OK;
}

/* Every tier is smaller than every part of every expert. */
static cot_status check_tiers(const pack *p, cot_error *err) {
    const cot_pack_options *o = p->o;
    if (o->n_tiers < 0 || o->n_tiers > COT_PACK_TIERS)
        return cot__fail(err, COT_ARGUMENT, NULL, "tiers", "at most %d are possible", COT_PACK_TIERS);
    for (int i = 0; i < o->n_tiers; i++) {
        const cot__type_info *to = cot__type((int)o->tiers[i]);
        if (!to || !to->encode || to->block == 1)
            return cot__fail(err, COT_ARGUMENT, NULL, "tiers", "%s cannot be made; try q2_k, q3_k or q4_0",
                             cot_type_name((int)o->tiers[i]));
        for (int j = 0; j < i; j++)
            if (o->tiers[i] == o->tiers[j])
                return cot__fail(err, COT_ARGUMENT, NULL, "tiers", "%s is named twice", to->name);
        for (int l = 0; l < p->n_layers; l++)
            for (int k = 0; k < PARTS; k++) {
                const cot__tensor *t = p->layers[l].part[k].tensor;
                if (!t) continue;
                size_t had = cot__row_bytes(t->type, t->dims[0]),
                       bytes = cot__row_bytes(to->type, t->dims[0]);
                if (!cot__type((int)t->type) || !cot__type((int)t->type)->decode || !bytes || bytes >= had)
                    return cot__fail(err, COT_ARGUMENT, cot__gguf_path(p->in), t->name,
                                     "rows of %lld values in %s have no lower precision %s",
                                     (long long)t->dims[0], cot_type_name(t->raw_type), to->name);
            }
    }
    return COT_OK;
}

/* Names and sizes, or (data) bytes, in the same order. */
static cot_status put_tensors(pack *p, bool data, cot_error *err) {
    int n, part;
    for (size_t i = 0; i < p->set->n_tensors; i++) {
        const cot__tensor *t = &p->set->tensors[i];
        if (is_stack(t, &n, &part)) continue;
        COT_TRY(data ? copy(p, t, 0, t->bytes, err)
                     : cot__gguf_put_tensor(p->out, t->name, (cot_type)t->raw_type, t->n_dims, t->dims, err));
    }
    for (int l = 0; l < p->n_layers; l++)
        for (int tier = -1; tier < p->o->n_tiers; tier++)
            for (int64_t e = 0; e < p->layers[l].experts; e++) COT_TRY(put_expert(p, data, l, e, tier, err));
    return COT_OK;
}

void cot_pack_defaults(cot_pack_options *o) { *o = (cot_pack_options){.struct_size = sizeof *o}; }

cot_status cot_pack(const char *in, const char *out, const cot_pack_options *options, cot_error *err) {
    cot_pack_options o;
    cot_pack_defaults(&o);
    cot__error_clear(err);
    if (options && options->struct_size != sizeof o)
        return cot__fail(err, COT_ARGUMENT, NULL, "cot_pack_options",
                         "struct_size is %zu; call cot_pack_defaults first", options->struct_size);
    if (options) o = *options;
    pack p = {.o = &o};
    if (cot__path_is_dir(in))
        return cot__fail(err, COT_ARGUMENT, in, NULL,
                         "is a folder; coterie convert makes a GGUF file of it first");
    cot_status s = cot__gguf_open(&p.in, in, err);
    if (s == COT_OK) {
        p.set = cot__gguf_tensors(p.in);
        p.layers = cot__alloc_zero(MOST_LAYERS, sizeof *p.layers);
        p.buffer = cot__alloc_aligned(ALIGN, PIECE);
        if (!p.layers || !p.buffer) s = cot__fail_memory(err, PIECE);
    }
    if (s == COT_OK) s = find_stacks(&p, err);
    if (s == COT_OK) s = check_tiers(&p, err);
    if (s == COT_OK && o.n_tiers) s = cot__pool_create(&p.pool, o.n_threads, err);
    if (s == COT_OK) s = cot__gguf_writer_open(&p.out, out, err);
    if (s == COT_OK) s = put_keys(&p, err);
    if (s == COT_OK) s = put_tensors(&p, false, err);
    if (s == COT_OK) s = cot__gguf_writer_begin(p.out, err);
    if (s == COT_OK) s = put_tensors(&p, true, err);
    if (s == COT_OK) s = cot__gguf_writer_finish(&p.out, err);
    cot__gguf_writer_abort(&p.out);
    cot__gguf_close(&p.in);
    cot__free(p.layers);
    cot__free(p.buffer);
    cot__pool_free(&p.pool);
    cot__free(p.raw);
    cot__free(p.low);
    cot__free(p.group);
    cot__free(p.row);
    return s;
}
