/* Owns: writing safetensors, in one file or in shards with an index. Tensors lie in the order in which they
 * are added, without holes. Each shard takes its name when it is complete, the index at finish: a folder
 * without its index is no model. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/json.h"
#include "format/safetensors.h"
#include "format/set.h"

enum { MAX_SHARDS = 1 << 12, SHARD_NAME = 48 };

typedef struct entry {
    const char *name;
    const char *dtype;
    int n_dims;
    int64_t dims[COT_MAX_DIMS];
    uint64_t bytes;
    int shard;
} entry;

struct cot__st_writer {
    char *dir;
    uint64_t shard_bytes;
    cot__arena *names;
    cot__map *index;
    entry *entries;
    size_t n, cap;
    bool begun;
    int n_shards, shard; /* the open one */
    cot__writer *file;
    size_t now;    /* entry whose bytes come next */
    uint64_t left; /* of it */
};

static const struct {
    cot_type type;
    const char *name;
} dtypes[] = {
    {COT_F32, "F32"},   {COT_F16, "F16"}, {COT_BF16, "BF16"}, {COT_F64, "F64"}, {COT_F8_E4M3, "F8_E4M3"},
    {COT_I64, "I64"},   {COT_I32, "I32"}, {COT_I16, "I16"},   {COT_I8, "I8"},   {COT_U8, "U8"},
    {COT_BOOL, "BOOL"}, {COT_U16, "U16"}, {COT_U32, "U32"},   {COT_U64, "U64"},
};

static void writer_free(cot__st_writer **writer) {
    cot__st_writer *w = *writer;
    cot__writer_abort(&w->file);
    cot__map_free(&w->index);
    cot__arena_free(&w->names);
    cot__free(w->entries);
    cot__free(w->dir);
    cot__free(w);
    *writer = NULL;
}

void cot__st_writer_abort(cot__st_writer **w) {
    if (w && *w) writer_free(w);
}

cot_status cot__st_writer_open(cot__st_writer **out, const char *dir, uint64_t shard_bytes, cot_error *err) {
    if (!cot__path_is_dir(dir)) return cot__fail(err, COT_NOT_FOUND, dir, NULL, "is no folder");
    cot__st_writer *w = cot__alloc_zero(1, sizeof *w);
    if (!w) return cot__fail_memory(err, sizeof *w);
    w->shard_bytes = shard_bytes;
    w->dir = cot__strdup(dir);
    cot_status s = w->dir ? COT_OK : cot__fail_memory(err, strlen(dir));
    if (s == COT_OK) s = cot__arena_create(&w->names, 1 << 14, 0, err);
    if (s == COT_OK) s = cot__map_create(&w->index, 256, err);
    if (s != COT_OK) writer_free(&w);
    else *out = w;
    return s;
}

cot_status cot__st_put_tensor(cot__st_writer *w, const char *name, cot_type type, int n_dims,
                              const int64_t *dims, cot_error *err) {
    entry e = {.n_dims = n_dims};
    size_t len = strlen(name);
    bool existed = false;
    if (w->begun) return cot__fail(err, COT_ARGUMENT, w->dir, name, "is added after the data has begun");
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (dtypes[i].type == type) e.dtype = dtypes[i].name;
    if (!e.dtype)
        return cot__fail(err, COT_UNSUPPORTED, w->dir, name, "safetensors have no number format %s",
                         cot_type_name((int)type));
    if (!len || strcmp(name, "__metadata__") == 0 || n_dims < 0 || n_dims > COT_MAX_DIMS)
        return cot__fail(err, COT_ARGUMENT, w->dir, name, "cannot be written with %d dimensions", n_dims);
    for (int d = 0; d < n_dims; d++) e.dims[d] = dims[d];
    COT_TRY(cot__tensor_size(w->dir, name, type, n_dims, dims, &e.bytes, err));
    if (w->n == w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 64;
        entry *p = cot__realloc_array(w->entries, cap, sizeof *p);
        if (!p) return cot__fail_memory(err, cap * sizeof *p);
        w->entries = p;
        w->cap = cap;
    }
    char *copy = cot__arena_alloc(w->names, len + 1);
    if (!copy) return cot__fail_memory(err, len + 1);
    memcpy(copy, name, len + 1);
    e.name = copy;
    COT_TRY(cot__map_put(w->index, copy, len, w->n, &existed, err));
    if (existed) return cot__fail(err, COT_ARGUMENT, w->dir, name, "is added twice");
    w->entries[w->n++] = e;
    return COT_OK;
}

static void shard_name(const cot__st_writer *w, int shard, char out[SHARD_NAME]) {
    if (w->n_shards == 1) snprintf(out, SHARD_NAME, "model.safetensors");
    else snprintf(out, SHARD_NAME, "model-%05d-of-%05d.safetensors", shard + 1, w->n_shards);
}

/* Header of a shard: JSON, padded with spaces to whole eight bytes. */
static cot_status header_text(const cot__st_writer *w, int shard, cot__buf *out, cot_error *err) {
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    uint64_t offset = 0;
    bool ok = root != NULL;
    for (size_t i = 0; ok && i < w->n; i++) {
        const entry *e = &w->entries[i];
        if (e->shard != shard) continue;
        json_t *shape = json_array();
        for (int d = e->n_dims - 1; d >= 0; d--)
            if (json_array_append_new(shape, json_integer(e->dims[d]))) ok = false;
        json_t *v = json_pack("{s:s,s:o,s:[I,I]}", "dtype", e->dtype, "shape", shape, "data_offsets",
                              (json_int_t)offset, (json_int_t)(offset + e->bytes));
        if (!ok) json_decref(v);
        ok = ok && v && json_object_set_new(root, e->name, v) == 0;
        offset += e->bytes;
    }
    char *text = ok ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (!text) return cot__fail_memory(err, w->n * 128);
    size_t n = strlen(text);
    ok = cot__buf_put(out, text, n);
    for (; ok && n % 8; n++) ok = cot__buf_put(out, " ", 1);
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    release(text);
    return ok ? COT_OK : cot__fail_memory(err, n);
}

static cot_status open_shard(cot__st_writer *w, cot_error *err) {
    char name[SHARD_NAME];
    shard_name(w, w->shard, name);
    cot__buf header = {.max = (size_t)100 << 20};
    char *path = cot__path_join(w->dir, name);
    cot_status s = path ? header_text(w, w->shard, &header, err) : cot__fail_memory(err, SHARD_NAME);
    uint64_t n = header.len;
    if (s == COT_OK) s = cot__writer_open(&w->file, path, err);
    if (s == COT_OK) s = cot__writer_put(w->file, &n, 8, err);
    if (s == COT_OK) s = cot__writer_put(w->file, header.data, header.len, err);
    cot__buf_free(&header);
    cot__free(path);
    return s;
}

/* Steps over tensors that are complete (those without elements are so at once) and over shards. */
static cot_status advance(cot__st_writer *w, cot_error *err) {
    while (w->left == 0 && w->now < w->n) {
        if (++w->now == w->n) break;
        w->left = w->entries[w->now].bytes;
        if (w->entries[w->now].shard == w->shard) continue;
        COT_TRY(cot__writer_commit(&w->file, err));
        w->shard++;
        COT_TRY(open_shard(w, err));
    }
    return COT_OK;
}

cot_status cot__st_writer_begin(cot__st_writer *w, cot_error *err) {
    uint64_t fill = 0;
    int shard = 0;
    if (w->begun) return cot__fail(err, COT_ARGUMENT, w->dir, NULL, "the data has already begun");
    for (size_t i = 0; i < w->n; i++) {
        entry *e = &w->entries[i];
        if (w->shard_bytes && fill && (e->bytes > w->shard_bytes || fill > w->shard_bytes - e->bytes))
            shard++, fill = 0;
        if (shard == MAX_SHARDS)
            return cot__fail(err, COT_LIMIT, w->dir, NULL, "more than %d shards are needed", MAX_SHARDS);
        e->shard = shard;
        fill += e->bytes;
    }
    w->begun = true;
    w->n_shards = shard + 1;
    COT_TRY(open_shard(w, err));
    if (!w->n) return COT_OK;
    w->left = w->entries[0].bytes;
    return advance(w, err);
}

cot_status cot__st_writer_data(cot__st_writer *w, const void *bytes, size_t n, cot_error *err) {
    const char *p = bytes;
    if (!w->begun || !w->file)
        return cot__fail(err, COT_ARGUMENT, w->dir, NULL, "data is given before its begin");
    while (n > 0) {
        if (w->now == w->n)
            return cot__fail(err, COT_ARGUMENT, w->dir, NULL, "more data is given than the tensors have");
        size_t piece = n < w->left ? n : (size_t)w->left;
        COT_TRY(cot__writer_put(w->file, p, piece, err));
        p += piece;
        n -= piece;
        w->left -= piece;
        COT_TRY(advance(w, err));
    }
    return COT_OK;
}

static cot_status write_index(const cot__st_writer *w, cot_error *err) {
    json_t *map = json_object();
    char name[SHARD_NAME];
    uint64_t total = 0;
    bool ok = map != NULL;
    for (size_t i = 0; ok && i < w->n; i++) {
        shard_name(w, w->entries[i].shard, name);
        total += w->entries[i].bytes;
        ok = json_object_set_new(map, w->entries[i].name, json_string(name)) == 0;
    }
    json_t *root = json_pack("{s:{s:I},s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    char *text = ok && root ? json_dumps(root, JSON_INDENT(2)) : NULL,
         *path = cot__path_join(w->dir, "model.safetensors.index.json");
    cot__writer *file = NULL;
    cot_status s = text && path ? cot__writer_open(&file, path, err) : cot__fail_memory(err, w->n * 64);
    if (s == COT_OK) s = cot__writer_put(file, text, strlen(text), err);
    if (s == COT_OK) s = cot__writer_commit(&file, err);
    cot__writer_abort(&file);
    json_decref(root);
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    if (text) release(text);
    cot__free(path);
    return s;
}

cot_status cot__st_writer_finish(cot__st_writer **writer, cot_error *err) {
    cot__st_writer *w = *writer;
    cot_status s = COT_OK;
    if (!w->begun || !w->file || w->now < w->n)
        s = cot__fail(err, COT_ARGUMENT, w->dir, w->begun && w->now < w->n ? w->entries[w->now].name : NULL,
                      "not all data was given");
    if (s == COT_OK) s = cot__writer_commit(&w->file, err);
    if (s == COT_OK && w->n_shards > 1) s = write_index(w, err);
    writer_free(writer);
    return s;
}
