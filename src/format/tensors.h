/* What a model file contains, whatever its format: named tensors as extents of files, checked against them.
 */
#ifndef COT_FORMAT_TENSORS_H
#define COT_FORMAT_TENSORS_H

#include "base/file.h"
#include "tensor/type.h"

#define COT_MAX_DIMS 8

typedef struct cot__tensor {
    const char *name; /* owned by the set */
    int raw_type;     /* GGUF's id, or ours for safetensors' dtypes */
    cot_type type;    /* COT_TYPE_NONE: a type that we name and do not compute with */
    int n_dims;       /* 0 for a scalar */
    int64_t
        dims[COT_MAX_DIMS]; /* fastest axis first (GGUF's order, the reverse of safetensors' shape), rest 1 */
    int file;               /* index in files */
    uint64_t offset, bytes; /* inside that file; already checked: inside the file, no overlap */
} cot__tensor;

/* Immutable after opening; shareable. Owns files and names. */
typedef struct cot__tensor_set {
    cot__file **files;
    int n_files;
    cot__tensor *tensors; /* in file order */
    size_t n_tensors;
    void *index; /* name → tensor */
} cot__tensor_set;

const cot__tensor *cot__tensors_find(const cot__tensor_set *set, const char *name); /* NULL: absent */
void cot__tensors_close(cot__tensor_set **set);

/* Safetensors: path is a folder with model.safetensors or model.safetensors.index.json, or one .safetensors
 * file. Dtypes F64 F32 F16 BF16 F8_E4M3 I64 I32 I16 I8 U8 BOOL (others named in the error). */
cot_status cot__safetensors_open(cot__tensor_set **out, const char *path, cot_error *err);

#endif
