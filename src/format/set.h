/* Building a tensor set: shared by the readers. */
#ifndef COT_FORMAT_SET_H
#define COT_FORMAT_SET_H

#include "format/tensors.h"

cot_status cot__set_create(cot__tensor_set **out, cot_error *err);
cot_status cot__set_add_file(cot__tensor_set *s, const char *path, cot_error *err);
cot_status cot__set_add_tensor(cot__tensor_set *s, const char *name, const cot__tensor *t,
                               cot_error *err); /* name copied */
cot_status cot__set_finish(cot__tensor_set *s, cot_error *err);
/* Bytes of a tensor, every product checked. */
cot_status cot__tensor_size(const char *path, const char *name, cot_type type, int n_dims,
                            const int64_t *dims, uint64_t *bytes, cot_error *err);

#endif
