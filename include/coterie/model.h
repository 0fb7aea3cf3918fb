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

/* Where the weights are. It changes speed, never a bit of a result. Everything but MMAP and MEMORY streams:
 * what is not an expert is read once, experts come and go in a cache of limited size. */
typedef enum cot_residency {
    COT_RESIDENCY_AUTO,   /* mmap where everything fits into the memory that there is, else stream */
    COT_RESIDENCY_MMAP,   /* the file is mapped: ready at once, pages come as they are used. A file that is
                             cut while it is mapped ends the process with SIGBUS */
    COT_RESIDENCY_MEMORY, /* everything is read into memory while opening */
    COT_RESIDENCY_STREAM, /* direct reads of the experts that routers choose */
    COT_RESIDENCY_RING,   /* as STREAM, whole layers read ahead in order: for large batches */
    COT_RESIDENCY_SIM,    /* as STREAM, from a simulated disk: for tests */
} cot_residency;

typedef struct cot_model_options {
    size_t struct_size;
    const char *arch_file; /* a description (JSON) of your own, or NULL: found by the file */
    cot_residency residency;
    cot_progress_fn *progress; /* may be NULL */
    void *progress_user;
    /* Most bytes that this process may have resident, mapped files included: weights, cached experts, KV,
     * buffers and what the program has already. 0: as much as the machine and its control groups have free
     * when the model is opened, less a reserve. A session that cannot keep
     * to it is refused (COT_LIMIT) with the smallest budget that would do; a streaming model reads its
     * resident weights at the first session, once they are known to fit. */
    uint64_t memory;
    const char *retention; /* which expert goes first: lru, lfu, decay, layer, demand; NULL: decay */
    const char *predict;   /* what is read ahead of the routers: none, last, popularity, token, transition,
                              gate, or FILE.rpp: a predictor that was trained for this model, read where
                              experts stream; NULL: gate */
    /* Which experts may be computed in a lower precision that the file offers (coterie pack --tiers): NULL or
     * "none": none, results are exact. "low": all routed experts. "miss": while tokens are generated, those
     * that are not in memory when their layer comes; a guess made a layer ahead still brings in the expert
     * itself, and prompts stay exact. What a token meets then depends on time, so texts may differ from run
     * to run. ":TYPE" behind either, such as "low:q3_k", names the precision; else the lowest. Lossy, and
     * said so in cot_residency_info. */
    const char *experts_lossy;
    bool repack; /* MEMORY (AUTO becomes it): while opening, matrices of Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL,
                    MXFP4, Q4_K, Q5_K and Q6_K take the order that the kernels read fastest, in place. Opening
                    takes longer; results stay the same, bit for bit */
    double sim_latency; /* SIM: seconds of a read, bytes a second; 0: 100 µs, 1 GB/s */
    double sim_bandwidth;
    /* An open model that streams, with whose experts this one's share one cache and one budget: which go
     * first is one decision over all of them, nothing is ever written, results stay what they are alone.
     * residency, memory, retention and the simulated disk are then those of the other model and must be left
     * unset. What is not an expert stays resident for every model. Either may be closed first. NULL: a budget
     * of its own */
    struct cot_model *beside;
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
    uint64_t bytes_idle;      /* precisions of experts that are not used (experts_lossy) */
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

/* ---- residency ---- */

/* Sets another budget while the model (and those beside it) is in use; experts beyond it go as soon as nobody
 * computes with them. COT_LIMIT, changing nothing, when it is too small for the model and its sessions; only
 * streaming models can change. */
COT_API cot_status cot_model_set_memory(cot_model *model, uint64_t bytes, cot_error *err);

/* How the weights are held and what that has cost since the model was opened. layer −1: all layers; else one
 * layer's routed experts (its counts, bytes and waiting alone). */
typedef struct cot_residency_info {
    size_t struct_size;
    const char *residency, *retention, *predict,
        *io;                   /* io: "io_uring", "threads", "simulated"; "" when not streaming */
    uint64_t memory, smallest; /* the budget; the smallest that would do now (of all models beside) */
    uint64_t fixed_bytes, expert_bytes;     /* of this model */
    uint64_t expert_capacity, expert_total; /* of all models beside */
    uint64_t acquired, hits, misses;        /* experts */
    const char *lossy, *lossy_type;         /* experts_lossy: "low" or "miss", and the precision; "": exact */
    uint64_t lower;                         /* of acquired: in the lower precision */
    uint64_t hinted, hinted_used;  /* experts read for a prediction; those of them that were then chosen */
    uint64_t bytes_read;           /* of experts; without those read while opening */
    double stall_read, stall_slot; /* seconds that computation waited: for reads, for room */
    double disk_busy;              /* seconds with reads in flight */
} cot_residency_info;
COT_API cot_status cot_model_get_residency(const cot_model *model, int32_t layer, cot_residency_info *info,
                                           cot_error *err);

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

/* What a file or folder holds, whether its family is known or not: container, class, the metadata of a GGUF,
 * every tensor; one a line. Freed by cot_free. */
COT_API cot_status cot_contents(const char *path, char **text, cot_error *err);

/* Frees what the library handed out as "freed by cot_free"; NULL is allowed. */
COT_API void cot_free(void *p);

#ifdef __cplusplus
}
#endif
#endif
