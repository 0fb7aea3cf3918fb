/* A model on disk, whatever its format: tensors, hyper-parameters and where they come from. */
#ifndef COT_MODEL_SOURCE_H
#define COT_MODEL_SOURCE_H

#include "base/json.h"
#include "format/gguf.h"

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
    const char *arch; /* general.architecture, or architectures[0] */
} cot__source;

cot_status cot__source_open(cot__source **out, const char *path, cot_error *err);
void cot__source_close(cot__source **source);

#endif
