/* Owns: recording and walking back. The backward functions are handed in by the training layer. */
#include "ops/tape.h"

#include <string.h>

#include "base/error.h"

void cot__tape_record(cot__tape *tape, cot__op_kind kind, const void *args, size_t bytes) {
    cot__tape_entry *e = cot__arena_alloc(tape->arena, sizeof *e + bytes);
    if (!e) {
        tape->failed = true;
        return;
    }
    e->kind = kind;
    e->before = tape->last;
    e->args_bytes = bytes;
    memcpy(e->args, args, bytes);
    tape->last = e;
    tape->count++;
}

cot_status cot__tape_backward(const cot__tape *tape, cot__backward_fn *const *table, void *ops,
                              cot_error *err) {
    if (tape->failed)
        return cot__fail(err, COT_NO_MEMORY, NULL, "tape", "the forward pass was not recorded whole");
    for (const cot__tape_entry *e = tape->last; e; e = e->before) {
        if (!table[e->kind])
            return cot__fail(err, COT_UNSUPPORTED, NULL, "tape", "operation %d has no backward",
                             (int)e->kind);
        COT_TRY(table[e->kind](ops, e->args, err));
    }
    return COT_OK;
}
