/* Owns: what a converted model consists of: the tensors of a GGUF as they are, or, from one container to the
 * other, the slots of the description spelled the other way. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "model/convert.h"

/* ---- GGUF to GGUF ---- */

/* Names of tensors that the split replaces. */
static cot_status replaced_names(cot__convert *c, cot__map *map, cot_error *err) {
    static const char *const slots[] = {"ffn_gate", "ffn_up", "ffn_down"};
    cot__bind b = {.arch = c->arch, .store = c->store};
    for (int layer = 0; layer < c->n_layer; layer++)
        for (int i = 0; i < 3 && cot__convert_splits(c, layer); i++) {
            cot_view v;
            const char *name = NULL;
            COT_TRY(cot__slot_view(&b, slots[i], layer, -1, &v, &name, err));
            if (name) COT_TRY(cot__map_put(map, name, strlen(name), 0, NULL, err));
        }
    return COT_OK;
}

static cot_status copy_tensors(cot__convert *c, const cot__map *skip, cot_error *err) {
    const cot__tensor_set *set = c->source->tensors;
    for (size_t i = 0; i < set->n_tensors; i++) {
        const cot__tensor *t = &set->tensors[i];
        uint64_t unused;
        if (cot__map_get(skip, t->name, strlen(t->name), &unused)) continue;
        cot__job *j = cot__convert_add(c, COT__JOB_COPY, t->name, err);
        if (!j) return COT_NO_MEMORY;
        int64_t rows = 1;
        for (int d = 1; d < t->n_dims; d++) rows *= t->dims[d];
        j->copy = t;
        j->n_dims = t->n_dims;
        memcpy(j->dims, t->dims, sizeof j->dims);
        j->type = cot__convert_type(c, t->name, t->type, t->n_dims < 2 ? 1 : rows, t->dims[0]);
    }
    return COT_OK;
}

cot_status cot__convert_plan_copy(cot__convert *c, cot_error *err) {
    cot__map *skip = NULL;
    COT_TRY(cot__map_create(&skip, 64, err));
    cot_status s = replaced_names(c, skip, err);
    if (s == COT_OK) s = copy_tensors(c, skip, err);
    cot__map_free(&skip);
    return s;
}
