/* Tokenizers: text to ids and back. Text (UTF-8 or not) goes in as bytes and comes back as the same bytes. */
#ifndef COT_TEXT_TOKENIZER_H
#define COT_TEXT_TOKENIZER_H

#include <coterie/base.h>

typedef struct cot__tokenizer cot__tokenizer; /* immutable, shareable between threads */

/* The vocabulary as GGUF metadata has it (tokenizer.ggml.*), gathered by the caller; borrowed during the
 * call. */
typedef struct cot__vocab_str {
    const char *s;
    size_t len;
} cot__vocab_str;
typedef struct cot__vocab {
    const char *file; /* for errors */
    const char
        *model; /* "gpt2" (byte-level BPE), "llama" (SentencePiece BPE), "t5" (unigram), "gemma4" (BPE) */
    const char *pre; /* "qwen2", "llama-bpe", …; may be NULL (then "default") */
    const cot__vocab_str *tokens;
    size_t n_tokens;
    const float *scores;  /* n_tokens or NULL */
    const int32_t *types; /* n_tokens or NULL: 1 normal 2 unknown 3 control 4 user-defined 5 unused 6 byte */
    const cot__vocab_str *merges; /* "left right" */
    size_t n_merges;
    int32_t bos, eos, unk, eot, eom, pad; /* −1: none */
    int8_t add_bos, add_eos, add_space_prefix,
        remove_extra_whitespaces;  /* −1: not stated (the model's default) */
    const unsigned char *charsmap; /* precompiled_charsmap of SentencePiece, or NULL */
    size_t charsmap_len;
} cot__vocab;

cot_status cot__tokenizer_from_vocab(cot__tokenizer **out, const cot__vocab *vocab, cot_error *err);

/* From Hugging Face files: tokenizer.json (required); tokenizer_config.json and special_tokens_map.json where
 * there (add_bos_token, bos/eos names, added tokens). dir is the model folder. */
cot_status cot__tokenizer_from_hf(cot__tokenizer **out, const char *dir, cot_error *err);
/* The same from memory (fuzzing, tests); config may be NULL. */
cot_status cot__tokenizer_from_json(cot__tokenizer **out, const char *file, const char *text, size_t n,
                                    const char *config, size_t n_config, cot_error *err);
void cot__tokenizer_free(cot__tokenizer **t);

/* Encodes n bytes. add_special: BOS/EOS as the model's habit is. parse_special: special tokens written in the
 * text become their ids; otherwise they are plain text. *ids is freed by cot__free; *count may be 0. */
cot_status cot__tokenizer_encode(const cot__tokenizer *t, const char *text, size_t n, bool add_special,
                                 bool parse_special, int32_t **ids, size_t *count, cot_error *err);

/* Bytes of one token. special: control tokens give their text, else nothing. The pointer lives as long as the
 * tokenizer. A SentencePiece "▁" becomes a space; byte tokens give their byte. */
const char *cot__tokenizer_piece(const cot__tokenizer *t, int32_t id, bool special, size_t *len);
/* Whole sequence; handles the leading space of SentencePiece models. Freed by cot__free. */
cot_status cot__tokenizer_decode(const cot__tokenizer *t, const int32_t *ids, size_t n, bool special,
                                 char **text, size_t *len, cot_error *err);

size_t cot__tokenizer_size(const cot__tokenizer *t);
/* "bos", "eos", "unk", "pad", "eot", "eom"; −1: none. */
int32_t cot__tokenizer_special(const cot__tokenizer *t, const char *role);
bool cot__tokenizer_adds_bos(const cot__tokenizer *t);
bool cot__tokenizer_adds_eos(const cot__tokenizer *t);
/* Id of exactly this token text, −1 when there is none. */
int32_t cot__tokenizer_find(const cot__tokenizer *t, const char *text, size_t len);
bool cot__tokenizer_is_control(const cot__tokenizer *t, int32_t id);

/* What the GGUF writer needs, for converting a tokenizer.json: filled with borrowed arrays that live as long
 * as the tokenizer. NULL tokens mean padding ids. The name of the pre-tokenizer is found by its expressions;
 * UNSUPPORTED when no name stands for them, unless `pre` (else NULL) says which to write. Call it from one
 * thread: it builds what it lends out at the first call. */
cot_status cot__tokenizer_export(cot__tokenizer *t, const char *pre, cot__vocab *out, cot_error *err);

#endif
