/* Writing safetensors, single file or sharded with index. Reading: tensors.h. */
#ifndef COT_FORMAT_SAFETENSORS_H
#define COT_FORMAT_SAFETENSORS_H

#include "format/tensors.h"

/* Add every tensor (dims fastest first, written as the reversed shape), begin, give the bytes in order,
 * finish. Shards of at most shard_bytes (0: one file model.safetensors) inside folder `dir`, which must
 * exist; an index is written when there is more than one. Types: F32 F16 BF16 F64 F8_E4M3 U8 I8 I16 I32 I64.
 */
typedef struct cot__st_writer cot__st_writer;
cot_status cot__st_writer_open(cot__st_writer **out, const char *dir, uint64_t shard_bytes, cot_error *err);
cot_status cot__st_put_tensor(cot__st_writer *w, const char *name, cot_type type, int n_dims,
                              const int64_t *dims, cot_error *err);
cot_status cot__st_writer_begin(cot__st_writer *w, cot_error *err);
cot_status cot__st_writer_data(cot__st_writer *w, const void *bytes, size_t n, cot_error *err);
cot_status cot__st_writer_finish(cot__st_writer **w, cot_error *err);
void cot__st_writer_abort(cot__st_writer **w);

#endif
