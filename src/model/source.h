/* A model on disk, whatever its format: tensors, hyper-parameters and where they come from. */
#ifndef COT_MODEL_SOURCE_H
#define COT_MODEL_SOURCE_H

#include "base/json.h"
#include "format/gguf.h"
#include "tensor/view.h"

/* Immutable after opening. GGUF: gguf is set. Hugging Face folder: config (config.json, its text_config
 * lifted to the top where there is one) and maybe generation (generation_config.json). */
typedef struct cot__source {
    char *path;
    bool is_gguf;
    cot__gguf *gguf;
    json_t *config, *generation;
    char *config_path;
    cot__tensor_set *owned; /* of a folder */
    const cot__tensor_set *tensors;
    uint64_t together; /* bit t: experts of type t whose rows are whole groups stand together in the file */
    const char *arch;  /* general.architecture, or architectures[0] */
} cot__source;

/* The GGUF key that names these types, with commas. */
#define COT__TOGETHER_KEY "coterie.experts.together"

cot_status cot__source_open(cot__source **out, const char *path, cot_error *err);
void cot__source_close(cot__source **source);
/* Whether this build has such a layout for a type. */
static inline bool cot__can_stand_together(int type) {
    const cot__type_info *t = cot__type(type);
    cot_view v = {.type = (cot_type)type, .cols = t ? t->block : 0};
    if (!t || type >= 64) return false;
    v.row_stride = cot__row_bytes(v.type, v.cols);
    return cot__view_may_stand_together(&v);
}
/* A matrix of an expert takes the layout that the file has it in. */
static inline void cot__stands_together(const cot__source *s, cot_view *v) {
    if (v->type >= 0 && v->type < 64 && s->together >> v->type & 1 && cot__view_may_stand_together(v))
        v->together = COT__TOGETHER;
}

#endif
