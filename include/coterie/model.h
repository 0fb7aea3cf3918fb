/* Coterie: opening a model, asking what it is, its tokenizer and chat template. */
#ifndef COTERIE_MODEL_H
#define COTERIE_MODEL_H

#include <coterie/base.h>
#include <coterie/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An open model: immutable, may be shared by sessions in any threads. */
typedef struct cot_model cot_model;

typedef enum cot_residency {
    COT_RESIDENCY_AUTO,   /* mmap */
    COT_RESIDENCY_MMAP,   /* the file is mapped: ready at once, pages come as they are used */
    COT_RESIDENCY_MEMORY, /* everything is read into memory while opening */
} cot_residency;

typedef struct cot_model_options {
    size_t struct_size;
    const char *arch_file; /* a description (JSON) of your own, or NULL: found by the file */
    cot_residency residency;
    cot_progress_fn *progress; /* may be NULL */
    void *progress_user;
} cot_model_options;

COT_API void cot_model_defaults(cot_model_options *options);

/* Opens `path`: a GGUF file, the first part of a split, or a Hugging Face folder. options may be NULL.
 * *out is set only on success and owned by the caller. */
COT_API cot_status cot_model_open(cot_model **out, const char *path, const cot_model_options *options,
                                  cot_error *err);
/* Closes and clears *model. All its sessions must be freed before. */
COT_API void cot_model_close(cot_model **model);

/* What a model is. Strings live as long as the model. */
typedef struct cot_model_info {
    size_t struct_size;
    const char *path, *arch, *description, *format; /* "GGUF v3", "safetensors" */
    int64_t n_layers, n_embd, n_vocab, n_ctx_train;
    int64_t n_heads, n_kv_heads, head_dim; /* of layer 0 */
    int64_t n_sites;                       /* routers */
    int64_t n_experts, n_experts_used;     /* largest over sites; 0: dense */
    uint64_t params_total, params_active;  /* active: used for one token */
    uint64_t bytes_total, bytes_experts, bytes_attention, bytes_embedding, bytes_other; /* in the file */
    uint64_t bytes_per_token; /* weights read to generate one token */
    uint64_t kv_bytes_per_token_f16;
    bool has_tokenizer, has_chat_template;
} cot_model_info;
COT_API void cot_model_get_info(const cot_model *model, cot_model_info *info);

/* Tensors of the file, in file order. */
typedef struct cot_tensor_info {
    const char *name;
    int type; /* GGUF's or our type id */
    int n_dims;
    int64_t dims[8]; /* fastest axis first */
    uint64_t bytes;
} cot_tensor_info;
COT_API size_t cot_model_tensor_count(const cot_model *model);
COT_API cot_status cot_model_tensor(const cot_model *model, size_t index, cot_tensor_info *out,
                                    cot_error *err);

/* The filled description as JSON: parameters and the steps of each layer. Freed by cot_free. */
COT_API cot_status cot_model_describe(const cot_model *model, char **json, cot_error *err);

/* ---- text ---- */

/* Text to ids. add_special: BOS/EOS as the model's habit is; parse_special: special tokens in the text become
 * their ids (only for text that you trust). *ids is freed by cot_free. Thread-safe. */
COT_API cot_status cot_tokenize(const cot_model *model, const char *text, size_t n, bool add_special,
                                bool parse_special, int32_t **ids, size_t *count, cot_error *err);
/* Ids to bytes; special: control tokens give their text. *text is NUL-terminated, freed by cot_free. */
COT_API cot_status cot_detokenize(const cot_model *model, const int32_t *ids, size_t n, bool special,
                                  char **text, size_t *len, cot_error *err);
/* Bytes of one token; empty for control tokens unless special. Lives as long as the model; NULL without
 * tokenizer. */
COT_API const char *cot_token_piece(const cot_model *model, int32_t id, bool special, size_t *len);
/* "bos", "eos", "unk", "pad"; −1: none. */
COT_API int32_t cot_token_role(const cot_model *model, const char *role);
COT_API bool cot_model_adds_bos(const cot_model *model);
/* Whether generation stops at this token: any end id that GGUF, config or generation_config names. */
COT_API bool cot_token_is_end(const cot_model *model, int32_t id);

/* Renders messages (a JSON array of {"role", "content"}) by the model's chat template. Freed by cot_free. */
COT_API cot_status cot_chat_render(const cot_model *model, const char *messages_json,
                                   bool add_generation_prompt, char **text, size_t *len, cot_error *err);

/* Frees what the library handed out as "freed by cot_free"; NULL is allowed. */
COT_API void cot_free(void *p);

#ifdef __cplusplus
}
#endif
#endif
