/* Owns: writing GGUF v3. Keys and tensor descriptions gather in memory, data goes straight to the file, and
 * the file takes its name at finish alone. Refuses: what the reader would refuse, so that no file is written
 * that cannot be read back. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/hash.h"
#include "format/gguf.h"
#include "format/set.h"

enum { MAX_KEYS = 1 << 16, MAX_TENSORS = 1 << 20, MAX_NAME = 1 << 10, MAX_GGUF_DIMS = 4 };
static const size_t MAX_META = (size_t)4 << 30;

struct cot__gguf_writer {
    char *path;
    cot__writer *file;
    cot__arena *names; /* of keys and tensors, as the maps borrow them */
    cot__map *keys, *tensor_names;
    cot__buf meta; /* keys and values as they stand in the file */
    cot__tensor *tensors;
    size_t n_tensors, cap_tensors;
    uint64_t n_keys, align;
    bool begun;
    size_t now;    /* tensor whose bytes come next */
    uint64_t left; /* of it */
};

static const uint8_t scalar_size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static void writer_free(cot__gguf_writer **writer) {
    cot__gguf_writer *w = *writer;
    cot__writer_abort(&w->file);
    cot__map_free(&w->keys);
    cot__map_free(&w->tensor_names);
    cot__arena_free(&w->names);
    cot__buf_free(&w->meta);
    cot__free(w->tensors);
    cot__free(w->path);
    cot__free(w);
    *writer = NULL;
}

void cot__gguf_writer_abort(cot__gguf_writer **w) {
    if (w && *w) writer_free(w);
}

cot_status cot__gguf_writer_open(cot__gguf_writer **out, const char *path, cot_error *err) {
    cot__gguf_writer *w = cot__alloc_zero(1, sizeof *w);
    if (!w) return cot__fail_memory(err, sizeof *w);
    w->align = 32;
    w->meta.max = MAX_META;
    w->path = cot__strdup(path);
    cot_status s = w->path ? COT_OK : cot__fail_memory(err, strlen(path));
    if (s == COT_OK) s = cot__arena_create(&w->names, 1 << 14, 0, err);
    if (s == COT_OK) s = cot__map_create(&w->keys, 64, err);
    if (s == COT_OK) s = cot__map_create(&w->tensor_names, 256, err);
    if (s == COT_OK) s = cot__writer_open(&w->file, path, err);
    if (s != COT_OK) writer_free(&w);
    else *out = w;
    return s;
}

/* A name that appears once, kept for the map. */
static cot_status add_name(cot__gguf_writer *w, cot__map *map, const char *name, uint64_t value,
                           const char **kept, cot_error *err) {
    size_t n = strlen(name);
    bool existed = false;
    if (w->begun) return cot__fail(err, COT_ARGUMENT, w->path, name, "is added after the data has begun");
    if (!n || n > MAX_NAME) return cot__fail(err, COT_ARGUMENT, w->path, name, "has %zu characters", n);
    char *copy = cot__arena_alloc(w->names, n + 1);
    if (!copy) return cot__fail_memory(err, n + 1);
    memcpy(copy, name, n + 1);
    COT_TRY(cot__map_put(map, copy, n, value, &existed, err));
    if (existed) return cot__fail(err, COT_ARGUMENT, w->path, name, "is added twice");
    *kept = copy;
    return COT_OK;
}

static cot_status put(cot__gguf_writer *w, const void *p, size_t n, cot_error *err) {
    return cot__buf_put(&w->meta, p, n) ? COT_OK : cot__fail_memory(err, w->meta.len + n);
}

static cot_status put_string(cot__gguf_writer *w, const char *s, size_t len, cot_error *err) {
    uint64_t n = len;
    COT_TRY(put(w, &n, sizeof n, err));
    return put(w, s, len, err);
}

static cot_status begin_key(cot__gguf_writer *w, const char *key, cot__gguf_type type, cot_error *err) {
    uint32_t t = type;
    const char *kept;
    if (w->n_keys == MAX_KEYS) return cot__fail(err, COT_LIMIT, w->path, key, "more than %d keys", MAX_KEYS);
    COT_TRY(add_name(w, w->keys, key, w->n_keys, &kept, err));
    w->n_keys++;
    COT_TRY(put_string(w, key, strlen(key), err));
    return put(w, &t, sizeof t, err);
}

static bool fits(cot__gguf_type type, int64_t v) {
    switch (type) {
    case COT_GGUF_U8: return v >= 0 && v <= UINT8_MAX;
    case COT_GGUF_I8: return v >= INT8_MIN && v <= INT8_MAX;
    case COT_GGUF_U16: return v >= 0 && v <= UINT16_MAX;
    case COT_GGUF_I16: return v >= INT16_MIN && v <= INT16_MAX;
    case COT_GGUF_U32: return v >= 0 && v <= UINT32_MAX;
    case COT_GGUF_I32: return v >= INT32_MIN && v <= INT32_MAX;
    case COT_GGUF_BOOL: return v == 0 || v == 1;
    case COT_GGUF_U64: return v >= 0;
    case COT_GGUF_I64: return true;
    default: return false;
    }
}

cot_status cot__gguf_put_int(cot__gguf_writer *w, const char *key, cot__gguf_type type, int64_t v,
                             cot_error *err) {
    if (!fits(type, v))
        return cot__fail(err, COT_ARGUMENT, w->path, key, "%lld does not fit its type", (long long)v);
    if (strcmp(key, "general.alignment") == 0) {
        if (v < 1 || v > (1 << 24) || (v & (v - 1)))
            return cot__fail(err, COT_ARGUMENT, w->path, key, "must be a power of two up to 16 Mi");
        w->align = (uint64_t)v;
    }
    COT_TRY(begin_key(w, key, type, err));
    return put(w, &v, scalar_size[type], err); /* little-endian: the low bytes come first */
}

cot_status cot__gguf_put_f64(cot__gguf_writer *w, const char *key, cot__gguf_type type, double v,
                             cot_error *err) {
    float f = (float)v;
    if (type != COT_GGUF_F32 && type != COT_GGUF_F64)
        return cot__fail(err, COT_ARGUMENT, w->path, key, "type %d is no floating-point type", (int)type);
    COT_TRY(begin_key(w, key, type, err));
    return type == COT_GGUF_F32 ? put(w, &f, sizeof f, err) : put(w, &v, sizeof v, err);
}

cot_status cot__gguf_put_str(cot__gguf_writer *w, const char *key, const char *s, size_t len,
                             cot_error *err) {
    COT_TRY(begin_key(w, key, COT_GGUF_STRING, err));
    return put_string(w, s, len, err);
}

cot_status cot__gguf_put_array(cot__gguf_writer *w, const char *key, cot__gguf_type elem, const void *data,
                               uint64_t n, cot_error *err) {
    uint32_t t = elem;
    size_t bytes = 0;
    if (elem > COT_GGUF_F64 || elem == COT_GGUF_ARRAY)
        return cot__fail(err, COT_ARGUMENT, w->path, key, "arrays of type %d cannot be written", (int)elem);
    if (elem != COT_GGUF_STRING && cot__mul_overflow(n, scalar_size[elem], &bytes))
        return cot__fail(err, COT_LIMIT, w->path, key, "array size overflows");
    COT_TRY(begin_key(w, key, COT_GGUF_ARRAY, err));
    COT_TRY(put(w, &t, sizeof t, err));
    COT_TRY(put(w, &n, sizeof n, err));
    if (elem != COT_GGUF_STRING) return put(w, data, bytes, err);
    const cot__gguf_str *s = data;
    for (uint64_t i = 0; i < n; i++) COT_TRY(put_string(w, s[i].s, s[i].len, err));
    return COT_OK;
}

cot_status cot__gguf_put_kv(cot__gguf_writer *w, const cot__gguf_kv *kv, cot_error *err) {
    switch (kv->type) {
    case COT_GGUF_ARRAY:
        return cot__gguf_put_array(w, kv->key, kv->elem,
                                   kv->elem == COT_GGUF_STRING ? (const void *)kv->strs : kv->data, kv->count,
                                   err);
    case COT_GGUF_STRING: return cot__gguf_put_str(w, kv->key, kv->str.s, kv->str.len, err);
    case COT_GGUF_F32:
    case COT_GGUF_F64: return cot__gguf_put_f64(w, kv->key, kv->type, kv->f, err);
    case COT_GGUF_BOOL: return cot__gguf_put_int(w, kv->key, kv->type, kv->b, err);
    case COT_GGUF_U64: /* may exceed what put_int takes */
        COT_TRY(begin_key(w, kv->key, kv->type, err));
        return put(w, &kv->u, sizeof kv->u, err);
    default: return cot__gguf_put_int(w, kv->key, kv->type, kv->i, err);
    }
}

cot_status cot__gguf_put_tensor(cot__gguf_writer *w, const char *name, cot_type type, int n_dims,
                                const int64_t *dims, cot_error *err) {
    cot__tensor t = {.type = type, .raw_type = (int)type, .n_dims = n_dims};
    if (!cot__type((int)type) || (int)type >= 1000)
        return cot__fail(err, COT_UNSUPPORTED, w->path, name, "GGUF has no number format %s",
                         cot_type_name((int)type));
    if (n_dims < 1 || n_dims > MAX_GGUF_DIMS)
        return cot__fail(err, COT_ARGUMENT, w->path, name, "has %d dimensions, GGUF has 1 to %d", n_dims,
                         MAX_GGUF_DIMS);
    for (int d = 0; d < n_dims; d++) {
        if (dims[d] < 1)
            return cot__fail(err, COT_ARGUMENT, w->path, name, "dimension %d is %lld", d, (long long)dims[d]);
        t.dims[d] = dims[d];
    }
    COT_TRY(cot__tensor_size(w->path, name, type, n_dims, dims, &t.bytes, err));
    if (w->n_tensors == MAX_TENSORS)
        return cot__fail(err, COT_LIMIT, w->path, name, "more than %d tensors", MAX_TENSORS);
    if (w->n_tensors == w->cap_tensors) {
        size_t cap = w->cap_tensors ? w->cap_tensors * 2 : 64;
        cot__tensor *p = cot__realloc_array(w->tensors, cap, sizeof *p);
        if (!p) return cot__fail_memory(err, cap * sizeof *p);
        w->tensors = p;
        w->cap_tensors = cap;
    }
    COT_TRY(add_name(w, w->tensor_names, name, w->n_tensors, &t.name, err));
    w->tensors[w->n_tensors++] = t;
    return COT_OK;
}

static cot_status pad(cot__gguf_writer *w, cot_error *err) {
    static const char zero[4096];
    uint64_t n = (w->align - cot__writer_offset(w->file) % w->align) % w->align;
    for (; n > sizeof zero; n -= sizeof zero) COT_TRY(cot__writer_put(w->file, zero, sizeof zero, err));
    return cot__writer_put(w->file, zero, (size_t)n, err);
}

cot_status cot__gguf_writer_begin(cot__gguf_writer *w, cot_error *err) {
    uint32_t version = 3;
    uint64_t n_tensors = w->n_tensors, offset = 0;
    if (w->begun) return cot__fail(err, COT_ARGUMENT, w->path, NULL, "the data has already begun");
    COT_TRY(cot__writer_put(w->file, "GGUF", 4, err));
    COT_TRY(cot__writer_put(w->file, &version, 4, err));
    COT_TRY(cot__writer_put(w->file, &n_tensors, 8, err));
    COT_TRY(cot__writer_put(w->file, &w->n_keys, 8, err));
    COT_TRY(cot__writer_put(w->file, w->meta.data, w->meta.len, err));
    for (size_t i = 0; i < w->n_tensors; i++) {
        const cot__tensor *t = &w->tensors[i];
        uint64_t len = strlen(t->name);
        uint32_t n_dims = (uint32_t)t->n_dims, type = (uint32_t)t->type;
        COT_TRY(cot__writer_put(w->file, &len, 8, err));
        COT_TRY(cot__writer_put(w->file, t->name, len, err));
        COT_TRY(cot__writer_put(w->file, &n_dims, 4, err));
        COT_TRY(cot__writer_put(w->file, t->dims, 8 * (size_t)n_dims, err));
        COT_TRY(cot__writer_put(w->file, &type, 4, err));
        COT_TRY(cot__writer_put(w->file, &offset, 8, err));
        offset = (offset + t->bytes + w->align - 1) & ~(w->align - 1);
    }
    w->begun = true;
    if (w->n_tensors) w->left = w->tensors[0].bytes;
    return pad(w, err);
}

cot_status cot__gguf_writer_data(cot__gguf_writer *w, const void *bytes, size_t n, cot_error *err) {
    const char *p = bytes;
    if (!w->begun) return cot__fail(err, COT_ARGUMENT, w->path, NULL, "data is given before its begin");
    while (n > 0) {
        if (w->now == w->n_tensors)
            return cot__fail(err, COT_ARGUMENT, w->path, NULL, "more data is given than the tensors have");
        size_t piece = n < w->left ? n : (size_t)w->left;
        COT_TRY(cot__writer_put(w->file, p, piece, err));
        p += piece;
        n -= piece;
        w->left -= piece;
        if (w->left) continue;
        COT_TRY(pad(w, err));
        if (++w->now < w->n_tensors) w->left = w->tensors[w->now].bytes;
    }
    return COT_OK;
}

cot_status cot__gguf_writer_finish(cot__gguf_writer **writer, cot_error *err) {
    cot__gguf_writer *w = *writer;
    cot_status s = COT_OK;
    if (!w->begun || w->now < w->n_tensors)
        s = cot__fail(err, COT_ARGUMENT, w->path, w->begun ? w->tensors[w->now].name : NULL,
                      "not all data was given");
    if (s == COT_OK) s = cot__writer_commit(&w->file, err);
    writer_free(writer);
    return s;
}
