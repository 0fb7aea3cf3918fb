/* Owns: reading GGUF. The header is parsed out of the mapped file with every count checked against what is
 * left of it, so that no claim of a hostile file is believed before it is seen to fit. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/hash.h"
#include "format/gguf.h"
#include "format/set.h"

enum { MAX_KEYS = 1 << 16, MAX_TENSORS = 1 << 20, MAX_NAME = 1 << 10, MAX_SPLITS = 1 << 12 };
static const uint64_t MAX_ELEMENTS = 1 << 24, MAX_STRING = 64 << 20;

struct cot__gguf {
    char *path;
    int version;
    cot__arena *arena; /* keys, strings, arrays */
    cot__gguf_kv *kv;
    size_t n_kv;
    cot__map *index;
    cot__tensor_set *set;
};

/* What is left of a header. */
typedef struct cursor {
    const char *path;
    const char *base;
    uint64_t at, size;
    cot_error *err;
} cursor;

static cot_status take(cursor *c, const char *field, void *dst, uint64_t n) {
    if (n > c->size - c->at)
        return cot__fail(c->err, COT_FORMAT, c->path, field,
                         "the file ends inside it (at %llu of %llu bytes)", (unsigned long long)c->at,
                         (unsigned long long)c->size);
    memcpy(dst, c->base + c->at, n);
    c->at += n;
    return COT_OK;
}

static cot_status take_string(cot__gguf *g, cursor *c, const char *field, uint64_t max, cot__gguf_str *out) {
    uint64_t n;
    COT_TRY(take(c, field, &n, 8));
    if (n > max || n > c->size - c->at)
        return cot__fail(c->err, COT_FORMAT, c->path, field, "string of %llu bytes does not fit",
                         (unsigned long long)n);
    char *s = cot__arena_alloc(g->arena, n + 1);
    if (!s) return cot__fail_memory(c->err, n + 1);
    memcpy(s, c->base + c->at, n);
    s[n] = 0;
    c->at += n;
    *out = (cot__gguf_str){s, n};
    return COT_OK;
}

static const uint8_t scalar_size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static cot_status take_array(cot__gguf *g, cursor *c, cot__gguf_kv *kv) {
    uint32_t elem;
    COT_TRY(take(c, kv->key, &elem, 4));
    COT_TRY(take(c, kv->key, &kv->count, 8));
    if (elem > COT_GGUF_F64 || elem == COT_GGUF_ARRAY)
        return cot__fail(c->err, COT_FORMAT, c->path, kv->key, "array of type %u is not supported", elem);
    kv->elem = elem;
    uint64_t each = elem == COT_GGUF_STRING ? 8 : scalar_size[elem];
    if (kv->count > MAX_ELEMENTS || kv->count > (c->size - c->at) / each)
        return cot__fail(c->err, COT_FORMAT, c->path, kv->key, "array of %llu elements does not fit",
                         (unsigned long long)kv->count);
    if (elem != COT_GGUF_STRING) {
        void *p = cot__arena_alloc(g->arena, kv->count * each);
        if (!p) return cot__fail_memory(c->err, kv->count * each);
        kv->data = p;
        return take(c, kv->key, p, kv->count * each);
    }
    cot__gguf_str *s = cot__arena_alloc(g->arena, kv->count * sizeof *s);
    if (!s) return cot__fail_memory(c->err, kv->count * sizeof *s);
    kv->strs = s;
    /* One piece of memory for all strings: vocabularies have hundreds of thousands. */
    uint64_t start = c->at, total = 0;
    for (uint64_t i = 0; i < kv->count; i++) {
        uint64_t n;
        COT_TRY(take(c, kv->key, &n, 8));
        if (n > MAX_STRING || n > c->size - c->at)
            return cot__fail(c->err, COT_FORMAT, c->path, kv->key, "string %llu of %llu bytes does not fit",
                             (unsigned long long)i, (unsigned long long)n);
        c->at += n;
        total += n + 1;
    }
    char *text = cot__arena_alloc(g->arena, total);
    if (!text) return cot__fail_memory(c->err, total);
    c->at = start;
    for (uint64_t i = 0; i < kv->count; i++) {
        uint64_t n;
        memcpy(&n, c->base + c->at, 8);
        memcpy(text, c->base + c->at + 8, n);
        text[n] = 0;
        s[i] = (cot__gguf_str){text, n};
        text += n + 1;
        c->at += 8 + n;
    }
    return COT_OK;
}

static cot_status take_value(cot__gguf *g, cursor *c, cot__gguf_kv *kv) {
    uint32_t type;
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        float f32;
        uint64_t u64;
        double f64;
    } v = {0};
    COT_TRY(take(c, kv->key, &type, 4));
    if (type > COT_GGUF_F64)
        return cot__fail(c->err, COT_FORMAT, c->path, kv->key, "value type %u is unknown", type);
    kv->type = type;
    kv->count = 1;
    if (type == COT_GGUF_ARRAY) return take_array(g, c, kv);
    if (type == COT_GGUF_STRING) return take_string(g, c, kv->key, MAX_STRING, &kv->str);
    COT_TRY(take(c, kv->key, &v, scalar_size[type]));
    switch (kv->type) {
    case COT_GGUF_U8: kv->u = v.u8; break;
    case COT_GGUF_I8: kv->i = v.i8; break;
    case COT_GGUF_U16: kv->u = v.u16; break;
    case COT_GGUF_I16: kv->i = v.i16; break;
    case COT_GGUF_U32: kv->u = v.u32; break;
    case COT_GGUF_I32: kv->i = v.i32; break;
    case COT_GGUF_F32: kv->f = (double)v.f32; break;
    case COT_GGUF_BOOL:
        if (v.u8 > 1) return cot__fail(c->err, COT_FORMAT, c->path, kv->key, "a bool holds %u", v.u8);
        kv->b = v.u8;
        break;
    case COT_GGUF_F64: kv->f = v.f64; break;
    default: kv->u = v.u64; break;
    }
    return COT_OK;
}

static cot_status read_keys(cot__gguf *g, cursor *c, uint64_t n) {
    g->kv = cot__alloc_zero(n, sizeof *g->kv);
    if (!g->kv) return cot__fail_memory(c->err, n * sizeof *g->kv);
    COT_TRY(cot__map_create(&g->index, n, c->err));
    for (uint64_t i = 0; i < n; i++) {
        cot__gguf_kv *kv = &g->kv[i];
        cot__gguf_str key;
        bool existed;
        COT_TRY(take_string(g, c, "metadata key", MAX_NAME, &key));
        if (key.len != strlen(key.s) || !key.len)
            return cot__fail(c->err, COT_FORMAT, c->path, "metadata key",
                             "key %llu is empty or holds a zero byte", (unsigned long long)i);
        kv->key = key.s;
        COT_TRY(take_value(g, c, kv));
        COT_TRY(cot__map_put(g->index, key.s, key.len, i, &existed, c->err));
        if (existed) return cot__fail(c->err, COT_FORMAT, c->path, key.s, "metadata key appears twice");
        g->n_kv++;
    }
    return COT_OK;
}

static cot_status read_tensor(cot__gguf *g, cursor *c, int file, uint64_t align) {
    cot__gguf_str name;
    cot__tensor t = {.file = file};
    uint32_t n_dims, type;
    COT_TRY(take_string(g, c, "tensor name", MAX_NAME, &name));
    if (name.len != strlen(name.s) || !name.len)
        return cot__fail(c->err, COT_FORMAT, c->path, "tensor name", "is empty or holds a zero byte");
    COT_TRY(take(c, name.s, &n_dims, 4));
    if (n_dims < 1 || n_dims > 4)
        return cot__fail(c->err, COT_FORMAT, c->path, name.s, "has %u dimensions, 1 to 4 are allowed",
                         n_dims);
    t.n_dims = (int)n_dims;
    for (int d = 0; d < COT_MAX_DIMS; d++) t.dims[d] = 1;
    COT_TRY(take(c, name.s, t.dims, 8 * (uint64_t)n_dims));
    COT_TRY(take(c, name.s, &type, 4));
    COT_TRY(take(c, name.s, &t.offset, 8));
    for (int d = 0; d < t.n_dims; d++)
        if (t.dims[d] < 1)
            return cot__fail(c->err, COT_FORMAT, c->path, name.s, "dimension %d is %lld", d,
                             (long long)t.dims[d]);
    t.raw_type = (int)type;
    t.type = type < 1000 && cot__type((int)type) ? (cot_type)type : COT_TYPE_NONE;
    if (t.type == COT_TYPE_NONE)
        return cot__fail(
            c->err, COT_UNSUPPORTED, c->path, name.s,
            "has number format %s (%u), which is not computed with; convert the file to another type",
            cot_type_name((int)type), type);
    if (t.offset % align)
        return cot__fail(c->err, COT_FORMAT, c->path, name.s,
                         "offset %llu is no multiple of the alignment %llu", (unsigned long long)t.offset,
                         (unsigned long long)align);
    COT_TRY(cot__tensor_size(c->path, name.s, t.type, t.n_dims, t.dims, &t.bytes, c->err));
    return cot__set_add_tensor(g->set, name.s, &t, c->err);
}

static cot_status alignment(const cot__gguf *g, cot_error *err, uint64_t *out) {
    const cot__gguf_kv *kv = cot__gguf_find(g, "general.alignment");
    int64_t a = 32;
    if (kv && (!cot__gguf_int(kv, 0, &a) || a < 1 || a > (1 << 24) || (a & (a - 1))))
        return cot__fail(err, COT_FORMAT, g->path, "general.alignment", "must be a power of two up to 16 Mi");
    *out = (uint64_t)a;
    return COT_OK;
}

/* A later part must say that it is the one its name says. */
static cot_status check_part(const cot__gguf *g, const cot__gguf *part, const char *path, int no,
                             cot_error *err) {
    static const char *const keys[] = {"split.no", "split.count"};
    for (int k = 0; k < 2; k++) {
        const cot__gguf_kv *kv = cot__gguf_find(part, keys[k]);
        int64_t want = no, got;
        if (k) cot__gguf_int(cot__gguf_find(g, keys[k]), 0, &want);
        if (!kv || !cot__gguf_int(kv, 0, &got))
            return cot__fail(err, COT_FORMAT, path, keys[k], "is missing or no whole number");
        if (got != want)
            return cot__fail(err, COT_FORMAT, path, keys[k], "is %lld, must be %lld here", (long long)got,
                             (long long)want);
    }
    return COT_OK;
}

/* Reads one file of the set into g; a part after the first contributes its tensors alone. */
static cot_status read_file(cot__gguf *g, const char *path, cot_error *err) {
    COT_TRY(cot__set_add_file(g->set, path, err));
    int file = g->set->n_files - 1;
    const void *base;
    COT_TRY(cot__file_map(g->set->files[file], &base, err));
    cursor c = {.path = path, .base = base, .size = cot__file_size(g->set->files[file]), .err = err};
    uint32_t magic, version;
    uint64_t n_tensors, n_kv, align = 32;
    COT_TRY(take(&c, "magic", &magic, 4));
    if (magic == 0x73726576u) /* "vers" */
        return cot__fail(err, COT_FORMAT, path, NULL,
                         "is a Git LFS pointer and not the file itself: fetch it with \"git lfs pull\"");
    if (magic != 0x46554747u) return cot__fail(err, COT_FORMAT, path, "magic", "is not a GGUF file");
    COT_TRY(take(&c, "version", &version, 4));
    if (version == 0x02000000u || version == 0x03000000u)
        return cot__fail(err, COT_UNSUPPORTED, path, "version",
                         "the file is big-endian; convert it to little-endian");
    if (version != 2 && version != 3)
        return cot__fail(err, COT_UNSUPPORTED, path, "version", "is %u; 2 and 3 are read", version);
    COT_TRY(take(&c, "tensor count", &n_tensors, 8));
    COT_TRY(take(&c, "metadata count", &n_kv, 8));
    if (n_tensors > MAX_TENSORS || n_tensors > c.size / 24)
        return cot__fail(err, COT_FORMAT, path, "tensor count", "%llu is more than the file can hold",
                         (unsigned long long)n_tensors);
    if (n_kv > MAX_KEYS || n_kv > c.size / 13)
        return cot__fail(err, COT_FORMAT, path, "metadata count", "%llu is more than the file can hold",
                         (unsigned long long)n_kv);
    cot__gguf part = *g;
    cot__gguf *into = file == 0 ? g : &part;
    if (file) part.kv = NULL, part.n_kv = 0, part.index = NULL;
    cot_status s = read_keys(into, &c, n_kv);
    g->version = (int)version;
    if (s == COT_OK && file) s = check_part(g, into, path, file, err);
    if (s == COT_OK) s = alignment(into, err, &align);
    size_t first = g->set->n_tensors;
    for (uint64_t i = 0; i < n_tensors && s == COT_OK; i++) s = read_tensor(g, &c, file, align);
    if (s == COT_OK) {
        uint64_t data = (c.at + align - 1) & ~(align - 1);
        for (size_t i = first; i < g->set->n_tensors && s == COT_OK; i++) {
            cot__tensor *t = &g->set->tensors[i];
            if (t->offset > UINT64_MAX - data)
                s = cot__fail(err, COT_FORMAT, path, t->name, "offset overflows");
            t->offset += data;
        }
    }
    if (file) {
        cot__free(part.kv);
        cot__map_free(&part.index);
    }
    return s;
}

static cot_status read_splits(cot__gguf *g, cot_error *err) {
    const cot__gguf_kv *kv = cot__gguf_find(g, "split.count"), *no = cot__gguf_find(g, "split.no"),
                       *total = cot__gguf_find(g, "split.tensors.count");
    int64_t count = 1, number = 0, tensors = 0;
    if (!kv || !cot__gguf_int(kv, 0, &count) || count <= 1) return COT_OK;
    if (count > MAX_SPLITS)
        return cot__fail(err, COT_FORMAT, g->path, "split.count", "is %lld", (long long)count);
    if (no && cot__gguf_int(no, 0, &number) && number != 0)
        return cot__fail(err, COT_ARGUMENT, g->path, "split.no",
                         "this is part %lld; give the first part, -00001-of-%05lld.gguf",
                         (long long)number + 1, (long long)count);
    char tail[32];
    size_t n = strlen(g->path),
           k = (size_t)snprintf(tail, sizeof tail, "-00001-of-%05lld.gguf", (long long)count);
    if (n < k || strcmp(g->path + n - k, tail) != 0)
        return cot__fail(err, COT_FORMAT, g->path, "split.count", "the first of %lld parts must be named *%s",
                         (long long)count, tail);
    for (int64_t i = 2; i <= count; i++) {
        char *path = cot__strdup(g->path);
        if (!path) return cot__fail_memory(err, n);
        snprintf(path + n - k, k + 1, "-%05lld-of-%05lld.gguf", (long long)i, (long long)count);
        cot_status s = read_file(g, path, err);
        cot__free(path);
        COT_TRY(s);
    }
    if (total && cot__gguf_int(total, 0, &tensors) && (uint64_t)tensors != g->set->n_tensors)
        return cot__fail(err, COT_FORMAT, g->path, "split.tensors.count",
                         "is %lld, the parts hold %zu tensors", (long long)tensors, g->set->n_tensors);
    return COT_OK;
}

cot_status cot__gguf_open(cot__gguf **out, const char *path, cot_error *err) {
    cot__gguf *g = cot__alloc_zero(1, sizeof *g);
    if (!g) return cot__fail_memory(err, sizeof *g);
    g->path = cot__strdup(path);
    cot_status s = g->path ? COT_OK : cot__fail_memory(err, strlen(path));
    if (s == COT_OK) s = cot__arena_create(&g->arena, 1 << 16, 0, err);
    if (s == COT_OK) s = cot__set_create(&g->set, err);
    if (s == COT_OK) s = read_file(g, path, err);
    if (s == COT_OK) s = read_splits(g, err);
    if (s == COT_OK) s = cot__set_finish(g->set, err);
    if (s != COT_OK) cot__gguf_close(&g);
    else *out = g;
    return s;
}

void cot__gguf_close(cot__gguf **gguf) {
    if (!gguf || !*gguf) return;
    cot__gguf *g = *gguf;
    cot__tensors_close(&g->set);
    cot__map_free(&g->index);
    cot__free(g->kv);
    cot__arena_free(&g->arena);
    cot__free(g->path);
    cot__free(g);
    *gguf = NULL;
}

const char *cot__gguf_path(const cot__gguf *g) { return g->path; }
int cot__gguf_version(const cot__gguf *g) { return g->version; }
const cot__tensor_set *cot__gguf_tensors(const cot__gguf *g) { return g->set; }
size_t cot__gguf_kv_count(const cot__gguf *g) { return g->n_kv; }
const cot__gguf_kv *cot__gguf_kv_at(const cot__gguf *g, size_t i) { return &g->kv[i]; }

const cot__gguf_kv *cot__gguf_find(const cot__gguf *g, const char *key) {
    uint64_t i;
    return g->index && cot__map_get(g->index, key, strlen(key), &i) ? &g->kv[i] : NULL;
}

/* Element i of an array of numbers, widened; false for other types. */
static bool element(const cot__gguf_kv *kv, uint64_t i, cot__gguf_type *type, uint64_t *u, int64_t *s,
                    double *f) {
    bool array = kv->type == COT_GGUF_ARRAY;
    *type = array ? kv->elem : kv->type;
    if (*type == COT_GGUF_STRING || i >= kv->count) return false;
    if (!array) {
        *u = *type == COT_GGUF_BOOL ? kv->b : kv->u;
        *s = kv->i;
        *f = kv->f;
        return true;
    }
    const char *p = (const char *)kv->data + i * scalar_size[*type];
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        float f32;
        uint64_t u64;
        int64_t i64;
        double f64;
    } v = {0};
    memcpy(&v, p, scalar_size[*type]);
    *u = *type == COT_GGUF_U8 || *type == COT_GGUF_BOOL ? v.u8
         : *type == COT_GGUF_U16                        ? v.u16
         : *type == COT_GGUF_U32                        ? v.u32
                                                        : v.u64;
    *s = *type == COT_GGUF_I8 ? v.i8 : *type == COT_GGUF_I16 ? v.i16 : *type == COT_GGUF_I32 ? v.i32 : v.i64;
    *f = *type == COT_GGUF_F32 ? (double)v.f32 : v.f64;
    return true;
}

bool cot__gguf_int(const cot__gguf_kv *kv, uint64_t i, int64_t *out) {
    cot__gguf_type t;
    uint64_t u;
    int64_t s;
    double f;
    if (!element(kv, i, &t, &u, &s, &f) || t == COT_GGUF_F32 || t == COT_GGUF_F64) return false;
    bool is_signed = t == COT_GGUF_I8 || t == COT_GGUF_I16 || t == COT_GGUF_I32 || t == COT_GGUF_I64;
    if (!is_signed && u > INT64_MAX) return false;
    *out = is_signed ? s : (int64_t)u;
    return true;
}

bool cot__gguf_f64(const cot__gguf_kv *kv, uint64_t i, double *out) {
    cot__gguf_type t;
    uint64_t u;
    int64_t s;
    double f;
    if (!element(kv, i, &t, &u, &s, &f)) return false;
    if (t == COT_GGUF_F32 || t == COT_GGUF_F64) {
        *out = f;
        return true;
    }
    int64_t n;
    if (!cot__gguf_int(kv, i, &n)) return false;
    *out = (double)n;
    return true;
}
