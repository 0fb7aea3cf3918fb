/* Coterie: changing the container or the number format of a model. */
#ifndef COTERIE_CONVERT_H
#define COTERIE_CONVERT_H

#include <coterie/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Options of a conversion; cot_convert_defaults fills them. A type of COT_TYPE_NONE keeps what the file has.
 * Norms, biases and routers are never quantised; a row that the wanted type's blocks do not fit gets the next
 * wider type that does. */
typedef struct cot_convert_options {
    size_t struct_size;
    const char *arch_file;     /* a description (JSON) of your own, or NULL: found by the file */
    cot_type type;             /* of the weights */
    cot_type type_experts;     /* of routed experts; NONE: as type */
    cot_type type_attention;   /* of attention; NONE: as type */
    cot_type type_head;        /* of embedding and output; NONE: as type */
    int32_t split_experts;     /* > 1: cuts each dense feed-forward block into this many experts */
    int32_t experts_used;      /* of the split; 0: all but an eighth */
    uint64_t shard_bytes;      /* largest file of a folder; 0: 4 GiB */
    const char *pre;           /* name of the pre-tokenizer to write where none is found, or NULL */
    int32_t n_threads;         /* 0: physical cores */
    cot_progress_fn *progress; /* "convert", in bytes written; may be NULL */
    void *progress_user;
} cot_convert_options;
COT_API void cot_convert_defaults(cot_convert_options *options);

/* Converts `in` (a GGUF file, the first of a split, or a Hugging Face folder) to `out`: a GGUF file when the
 * name ends in .gguf, else a folder, which must not exist yet. Tensors that keep their type keep their bytes.
 * Memory is bounded by one tensor; `out` takes its name when it is complete. options may be NULL. */
COT_API cot_status cot_convert(const char *in, const char *out, const cot_convert_options *options,
                               cot_error *err);

enum { COT_PACK_TIERS = 4 };
typedef struct cot_pack_options {
    size_t struct_size;
    cot_type tiers[COT_PACK_TIERS]; /* lower precisions of every routed expert, written beside its own … */
    int32_t n_tiers;                /* … and how many; each smaller than what the file has */
    bool repack;                    /* experts in the order that the kernels read fastest */
    int32_t n_threads;              /* 0: physical cores */
    cot_progress_fn *progress;      /* "pack", in bytes; may be NULL */
    void *progress_user;
} cot_pack_options;
COT_API void cot_pack_defaults(cot_pack_options *options);

/* Writes a GGUF file whose experts lie in one page-aligned piece each, so that streaming reads an expert at
 * once; no value changes. Tiers follow under suffixed names (blk.N.ffn_gate.E.weight.q2_k) and are used where
 * cot_model_options.experts_lossy says so alone. repack is what cot_model_options.repack does in memory, for
 * experts that are mapped or streamed; such a file cannot be converted. `in`: a GGUF file or the first of a
 * split. options may be NULL. */
COT_API cot_status cot_pack(const char *in, const char *out, const cot_pack_options *options, cot_error *err);

#ifdef __cplusplus
}
#endif
#endif
