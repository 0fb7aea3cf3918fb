/* GGUF v2 and v3, single and split, little-endian: hostile input is the rule. */
#ifndef COT_FORMAT_GGUF_H
#define COT_FORMAT_GGUF_H

#include "format/tensors.h"

typedef enum cot__gguf_type {
    COT_GGUF_U8,
    COT_GGUF_I8,
    COT_GGUF_U16,
    COT_GGUF_I16,
    COT_GGUF_U32,
    COT_GGUF_I32,
    COT_GGUF_F32,
    COT_GGUF_BOOL,
    COT_GGUF_STRING,
    COT_GGUF_ARRAY,
    COT_GGUF_U64,
    COT_GGUF_I64,
    COT_GGUF_F64
} cot__gguf_type;

typedef struct cot__gguf_str {
    const char *s;
    size_t len;
} cot__gguf_str; /* NUL-terminated copy; may hold NULs */

/* One metadata value. Owned by the file; lives until it is closed. Nested arrays are refused. */
typedef struct cot__gguf_kv {
    const char *key;
    cot__gguf_type type; /* ARRAY: see elem */
    cot__gguf_type elem; /* element type of an array */
    uint64_t count;      /* 1 for scalars */
    union {
        uint64_t u;
        int64_t i;
        double f;
        bool b;
        cot__gguf_str str;
        const void *data;          /* arrays of numbers: elements as stored, unaligned allowed */
        const cot__gguf_str *strs; /* arrays of strings */
    };
} cot__gguf_kv;

typedef struct cot__gguf cot__gguf;

/* Opens FILE, and when it is the first of a split (split.count > 1, -00001-of-000NN.gguf) all its parts.
 * Checks magic, version, counts, string sizes, types, dims, alignment, offsets (inside the file, multiples of
 * alignment, no overlap), duplicate keys and names. Nothing of the tensor data is read. Caps: 64 Ki keys,
 * 1 M tensors, 16 M array elements, 64 MiB a string, metadata within the file. */
cot_status cot__gguf_open(cot__gguf **out, const char *path, cot_error *err);
void cot__gguf_close(cot__gguf **g);
const char *cot__gguf_path(const cot__gguf *g);
int cot__gguf_version(const cot__gguf *g);
const cot__tensor_set *cot__gguf_tensors(const cot__gguf *g);

size_t cot__gguf_kv_count(const cot__gguf *g);
const cot__gguf_kv *cot__gguf_kv_at(const cot__gguf *g, size_t i);
const cot__gguf_kv *cot__gguf_find(const cot__gguf *g, const char *key); /* NULL: absent */

/* Element i of a scalar (i = 0) or array as a number; false when it is not a number or i is out of range. */
bool cot__gguf_int(const cot__gguf_kv *kv, uint64_t i, int64_t *out);
bool cot__gguf_f64(const cot__gguf_kv *kv, uint64_t i, double *out); /* integers and bools convert */

/* ---- writing ----
 * Create, add every key, add every tensor (name, type, dims fastest first), begin, then give the tensors'
 * bytes in the order they were added (in pieces of any size), then finish. v3, alignment 32 unless set. The
 * file takes its name only at finish. Memory: metadata only. */
typedef struct cot__gguf_writer cot__gguf_writer;
cot_status cot__gguf_writer_open(cot__gguf_writer **out, const char *path, cot_error *err);
cot_status cot__gguf_put_int(cot__gguf_writer *w, const char *key, cot__gguf_type type, int64_t v,
                             cot_error *err);
cot_status cot__gguf_put_f64(cot__gguf_writer *w, const char *key, cot__gguf_type type, double v,
                             cot_error *err);
cot_status cot__gguf_put_str(cot__gguf_writer *w, const char *key, const char *s, size_t len, cot_error *err);
cot_status cot__gguf_put_array(cot__gguf_writer *w, const char *key, cot__gguf_type elem, const void *data,
                               uint64_t n, cot_error *err); /* numbers; STRING: cot__gguf_str */
cot_status cot__gguf_put_kv(cot__gguf_writer *w, const cot__gguf_kv *kv,
                            cot_error *err); /* copies as it is */
cot_status cot__gguf_put_tensor(cot__gguf_writer *w, const char *name, cot_type type, int n_dims,
                                const int64_t *dims, cot_error *err);
cot_status cot__gguf_writer_begin(cot__gguf_writer *w, cot_error *err);
cot_status cot__gguf_writer_data(cot__gguf_writer *w, const void *bytes, size_t n, cot_error *err);
cot_status cot__gguf_writer_finish(cot__gguf_writer **w, cot_error *err); /* frees in every case */
void cot__gguf_writer_abort(cot__gguf_writer **w);

#endif
