/* The tape: what an operation writes down so that it can be run backward. Inference passes NULL and pays one
 * test. The entry is one operation as inference calls it; its backward is found in a table by kind. */
#ifndef COT_OPS_TAPE_H
#define COT_OPS_TAPE_H

#include "base/alloc.h"

typedef enum cot__op_kind {
    COT_OP_LINEAR,
    COT_OP_NORM,
    COT_OP_ROPE,
    COT_OP_ADD,
    COT_OP_SCALE,
    COT_OP_EMBED,
    COT_OP_ATTENTION,
    COT_OP_EXPERTS,
    COT_OP_KINDS
} cot__op_kind;

/* One recorded operation: its arguments by value (args_bytes of a struct that its backward knows). Pointers
 * in it live in the pass's arena, which a tape keeps until it is cleared. */
typedef struct cot__tape_entry {
    cot__op_kind kind;
    struct cot__tape_entry *before;
    size_t args_bytes;
    char args[];
} cot__tape_entry;

typedef struct cot__tape {
    cot__arena *arena; /* borrowed */
    cot__tape_entry *last;
    size_t count;
    bool failed; /* out of memory while recording: backward must not be run */
} cot__tape;

typedef cot_status cot__backward_fn(void *ops, const void *args, cot_error *err);

void cot__tape_record(cot__tape *tape, cot__op_kind kind, const void *args, size_t bytes);
/* Runs the entries backward through `table` (COT_OP_KINDS functions); an operation without one is an error.
 */
cot_status cot__tape_backward(const cot__tape *tape, cot__backward_fn *const *table, void *ops,
                              cot_error *err);

#endif
