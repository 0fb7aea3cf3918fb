/* Owns: reading safetensors: one file, or the shards that an index names. The header is JSON of a stated
 * length; nothing in it is believed before it fits the file. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/json.h"
#include "format/set.h"

enum { MAX_HEADER = 100 << 20, MAX_INDEX = 100 << 20, MAX_SHARDS = 1 << 12 };

static const struct {
    const char *name;
    cot_type type;
} dtypes[] = {
    {"F32", COT_F32},   {"F16", COT_F16}, {"BF16", COT_BF16}, {"F64", COT_F64}, {"F8_E4M3", COT_F8_E4M3},
    {"I64", COT_I64},   {"I32", COT_I32}, {"I16", COT_I16},   {"I8", COT_I8},   {"U8", COT_U8},
    {"BOOL", COT_BOOL}, {"U16", COT_U16}, {"U32", COT_U32},   {"U64", COT_U64},
};

static cot_status read_entry(cot__tensor_set *set, const char *path, const char *name, const json_t *v,
                             uint64_t data, cot_error *err) {
    const char *dtype = json_string_value(json_object_get(v, "dtype"));
    const json_t *shape = json_object_get(v, "shape"), *span = json_object_get(v, "data_offsets");
    cot__tensor t = {.file = set->n_files - 1, .type = COT_TYPE_NONE, .n_dims = (int)json_array_size(shape)};
    uint64_t bytes;
    for (int d = 0; d < COT_MAX_DIMS; d++) t.dims[d] = 1;
    if (!dtype || !json_is_array(shape) || json_array_size(span) != 2)
        return cot__fail(err, COT_FORMAT, path, name, "needs dtype, shape and two data_offsets");
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, dtype) == 0) t.type = dtypes[i].type;
    if (t.type == COT_TYPE_NONE)
        return cot__fail(err, COT_UNSUPPORTED, path, name, "dtype %s is not supported", dtype);
    if (json_array_size(shape) > COT_MAX_DIMS)
        return cot__fail(err, COT_FORMAT, path, name, "has more than %d dimensions", COT_MAX_DIMS);
    for (int d = 0; d < t.n_dims; d++) {
        const json_t *x = json_array_get(shape, (size_t)(t.n_dims - 1 - d));
        if (!json_is_integer(x) || json_integer_value(x) < 0)
            return cot__fail(err, COT_FORMAT, path, name, "shape must hold non-negative integers");
        t.dims[d] = json_integer_value(x);
    }
    const json_t *a = json_array_get(span, 0), *b = json_array_get(span, 1);
    if (!json_is_integer(a) || !json_is_integer(b) || json_integer_value(a) < 0 ||
        json_integer_value(b) < json_integer_value(a))
        return cot__fail(err, COT_FORMAT, path, name, "data_offsets must be two ascending integers");
    t.raw_type = t.type;
    COT_TRY(cot__tensor_size(path, name, t.type, t.n_dims, t.dims, &bytes, err));
    t.offset = data + (uint64_t)json_integer_value(a);
    t.bytes = (uint64_t)(json_integer_value(b) - json_integer_value(a));
    if (t.bytes != bytes)
        return cot__fail(err, COT_FORMAT, path, name, "data_offsets span %llu bytes, its shape needs %llu",
                         (unsigned long long)t.bytes, (unsigned long long)bytes);
    return cot__set_add_tensor(set, name, &t, err);
}

static cot_status read_file(cot__tensor_set *set, const char *path, cot_error *err) {
    COT_TRY(cot__set_add_file(set, path, err));
    cot__file *f = set->files[set->n_files - 1];
    size_t first = set->n_tensors;
    uint64_t n;
    COT_TRY(cot__file_read(f, 0, &n, 8, err));
    if (memcmp(&n, "version ", 8) == 0)
        return cot__fail(err, COT_FORMAT, path, NULL,
                         "is a Git LFS pointer and not the file itself: fetch it with \"git lfs pull\"");
    if (n > MAX_HEADER || n > cot__file_size(f) - 8)
        return cot__fail(err, COT_FORMAT, path, "header length", "%llu does not fit the file",
                         (unsigned long long)n);
    char *text = cot__alloc(n + 1);
    if (!text) return cot__fail_memory(err, n + 1);
    json_t *root = NULL;
    cot_status s = cot__file_read(f, 8, text, n, err);
    if (s == COT_OK) s = cot__json_parse(&root, path, text, n, err);
    cot__free(text);
    if (s == COT_OK && !json_is_object(root))
        s = cot__fail(err, COT_FORMAT, path, "header", "must be a JSON object");
    if (s == COT_OK) {
        const char *name;
        json_t *v;
        json_object_foreach(root, name, v) {
            if (strcmp(name, "__metadata__") == 0) continue;
            if ((s = read_entry(set, path, name, v, 8 + n, err)) != COT_OK) break;
        }
    }
    json_decref(root);
    uint64_t end = 8 + n; /* of the tensors: nothing may follow them */
    for (size_t i = first; s == COT_OK && i < set->n_tensors; i++)
        if (set->tensors[i].offset + set->tensors[i].bytes > end)
            end = set->tensors[i].offset + set->tensors[i].bytes;
    if (s == COT_OK && end < cot__file_size(f))
        s = cot__fail(err, COT_FORMAT, path, "size", "%llu bytes follow the last tensor",
                      (unsigned long long)(cot__file_size(f) - end));
    return s;
}

/* Every tensor lies in the shard that the index names, and the index names every tensor. */
static cot_status check_index(const cot__tensor_set *set, const char *path, const json_t *map,
                              cot_error *err) {
    size_t found = 0;
    for (size_t i = 0; i < set->n_tensors; i++) {
        const cot__tensor *t = &set->tensors[i];
        const char *shard = json_string_value(json_object_get(map, t->name)),
                   *file = cot__file_path(set->files[t->file]), *slash = strrchr(file, '/');
        if (!shard) return cot__fail(err, COT_FORMAT, path, t->name, "is in %s and not in the index", file);
        if (strcmp(shard, slash ? slash + 1 : file) != 0)
            return cot__fail(err, COT_FORMAT, path, t->name, "is said to be in %s and is in %s", shard, file);
        found++;
    }
    if (found < json_object_size(map))
        return cot__fail(err, COT_FORMAT, path, "weight_map",
                         "names %zu tensors, the shards hold %zu of them", json_object_size(map), found);
    return COT_OK;
}

/* Shards by the index, each file once; their names stay inside the folder. */
static cot_status read_index(cot__tensor_set *set, const char *dir, const char *path, cot_error *err) {
    json_t *root = NULL, *seen = NULL;
    COT_TRY(cot__json_load(&root, path, MAX_INDEX, err));
    const json_t *map = cot__json_at(root, "weight_map");
    cot_status s = json_object_size(map)
                       ? COT_OK
                       : cot__fail(err, COT_FORMAT, path, "weight_map", "is missing, empty or no object");
    if (s == COT_OK && !(seen = json_object())) s = cot__fail_memory(err, 0);
    const char *name;
    json_t *v;
    if (s == COT_OK) json_object_foreach((json_t *)map, name, v) {
            const char *shard = json_string_value(v);
            if (!shard || !shard[0] || strchr(shard, '/') || strcmp(shard, "..") == 0) {
                s = cot__fail(err, COT_FORMAT, path, name, "must name a file of the same folder");
                break;
            }
            if (json_object_get(seen, shard)) continue;
            char *full = json_object_size(seen) >= MAX_SHARDS || json_object_set_new(seen, shard, json_true())
                             ? NULL
                             : cot__path_join(dir, shard);
            s = full ? read_file(set, full, err)
                     : cot__fail(err, COT_LIMIT, path, "weight_map", "too many shards or out of memory");
            cot__free(full);
            if (s != COT_OK) break;
        }
    if (s == COT_OK) s = check_index(set, path, map, err);
    json_decref(seen);
    json_decref(root);
    return s;
}

cot_status cot__safetensors_open(cot__tensor_set **out, const char *path, cot_error *err) {
    cot__tensor_set *set = NULL;
    COT_TRY(cot__set_create(&set, err));
    cot_status s = COT_OK;
    if (!cot__path_is_dir(path)) s = read_file(set, path, err);
    else {
        char *one = cot__path_join(path, "model.safetensors"),
             *index = cot__path_join(path, "model.safetensors.index.json");
        if (!one || !index) s = cot__fail_memory(err, strlen(path));
        else if (cot__path_exists(index)) s = read_index(set, path, index, err);
        else if (cot__path_exists(one)) s = read_file(set, one, err);
        else
            s = cot__fail(err, COT_NOT_FOUND, path, NULL,
                          "holds neither model.safetensors nor model.safetensors.index.json");
        cot__free(one);
        cot__free(index);
    }
    if (s == COT_OK) s = cot__set_finish(set, err);
    if (s != COT_OK) cot__tensors_close(&set);
    else *out = set;
    return s;
}
