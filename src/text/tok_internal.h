/* Inside of the tokenizers: one pipeline (added tokens → normalise → split → model) that GGUF vocabularies
 * and tokenizer.json are both compiled to. Nothing outside src/text/ includes this header. */
#ifndef COT_TEXT_TOK_INTERNAL_H
#define COT_TEXT_TOK_INTERNAL_H

#include "base/alloc.h"
#include "base/hash.h"
#include "base/json.h"
#include "text/tok_regex.h"
#include "text/tok_utf8.h"
#include "text/tokenizer.h"

#define COT__TOK_STEPS     16             /* normalizers, or pre-tokenizers, of one tokenizer */
#define COT__TOK_TEXT_MAX  (1u << 30)     /* bytes of one encode call: positions are 32 bits wide */
#define COT__TOK_LEN_MAX   (1u << 16)     /* bytes of one token's text */
#define COT__TOK_COUNT_MAX (1u << 24)     /* tokens of a vocabulary */
#define COT__TOK_SPACE     "\xe2\x96\x81" /* U+2581, SentencePiece's visible space */

/* Token types, with GGUF's numbers. */
enum {
    COT__TOK_NORMAL = 1,
    COT__TOK_UNKNOWN = 2,
    COT__TOK_CONTROL = 3,
    COT__TOK_USER = 4,
    COT__TOK_UNUSED = 5,
    COT__TOK_BYTE = 6,
};

typedef struct cot__tok_entry {
    const char *text;  /* as the vocabulary spells it; NULL: nothing has this id */
    const char *piece; /* the bytes it stands for */
    uint32_t text_len, piece_len;
    double score;
    uint8_t type;
    bool in_model; /* the model may choose it; others are only found as added tokens */
} cot__tok_entry;

/* ---- prefix search (tok_trie.c) ---- */

typedef struct cot__tok_trie cot__tok_trie;
cot_status cot__tok_trie_create(cot__tok_trie **out, size_t expected_nodes, cot_error *err);
void cot__tok_trie_free(cot__tok_trie **trie);
/* An existing key takes the new value. value ≥ 0; len > 0. */
cot_status cot__tok_trie_put(cot__tok_trie *trie, const char *key, size_t len, int32_t value, cot_error *err);
/* Steps from a node (0: root) along one byte; UINT32_MAX: no such edge. */
uint32_t cot__tok_trie_step(const cot__tok_trie *trie, uint32_t node, unsigned char byte);
int32_t cot__tok_trie_value(const cot__tok_trie *trie, uint32_t node); /* −1: inner node */

/* ---- added tokens (tok_added.c) ---- */

typedef struct cot__tok_added {
    cot__vocab_str text;
    int32_t id;
    bool special, normalized, single_word, lstrip, rstrip;
} cot__tok_added;

typedef struct cot__tok_span {
    uint32_t start, end;
    int32_t id; /* −1: text between added tokens */
} cot__tok_span;
typedef struct cot__tok_spans {
    cot__tok_span *at;
    size_t n, cap;
} cot__tok_spans;
/* Cuts text at added tokens, longest first from the left. */
cot_status cot__tok_added_find(const cot__tokenizer *t, const cot__tok_trie *trie, const char *text, size_t n,
                               bool parse_special, cot__tok_spans *out, cot_error *err);

/* ---- normalizers (tok_normalize.c, tok_charsmap.c) ---- */

typedef enum cot__tok_norm_kind {
    COT__NORM_NFC,
    COT__NORM_NFD,
    COT__NORM_NFKC,
    COT__NORM_NFKD,
    COT__NORM_LOWERCASE,
    COT__NORM_REPLACE,      /* a by b */
    COT__NORM_PREPEND,      /* a in front of text that is not empty */
    COT__NORM_STRIP,        /* whitespace at the left, right */
    COT__NORM_CHARSMAP,     /* SentencePiece's map, longest match */
    COT__NORM_CHARSMAP_HF,  /* the same map the way the tokenizers library applies it, by grapheme */
    COT__NORM_SPACES,       /* runs of spaces become one, none at the ends */
    COT__NORM_SPACE_PREFIX, /* one space in front, unless bytes that are not text stand there */
} cot__tok_norm_kind;

typedef struct cot__tok_norm {
    cot__tok_norm_kind kind;
    cot__tok_regex *regex; /* of REPLACE; NULL: the literal a */
    cot__vocab_str a, b;
    bool left, right;
} cot__tok_norm;

/* The map of SentencePiece: a double array and the replacements behind it. */
typedef struct cot__tok_charsmap {
    uint32_t *units;
    size_t n_units;
    const char *text;
    size_t n_text;
    unsigned char *raw; /* as it came, for export */
    size_t n_raw;
} cot__tok_charsmap;
cot_status cot__tok_charsmap_load(cot__tok_charsmap *out, const char *file, const char *field,
                                  const unsigned char *data, size_t n, cot_error *err);
void cot__tok_charsmap_clear(cot__tok_charsmap *map);
cot_status cot__tok_charsmap_apply(const cot__tok_charsmap *map, bool by_grapheme, const char *s, size_t n,
                                   cot__buf *out, cot_error *err);

/* ---- pre-tokenizers (tok_split.c) ---- */

typedef enum cot__tok_split_kind {
    COT__SPLIT_REGEX,
    COT__SPLIT_STRING,
    COT__SPLIT_DIGITS, /* contiguous or one by one */
    COT__SPLIT_PUNCTUATION,
    COT__SPLIT_WHITESPACE, /* at whitespace, which goes */
    COT__SPLIT_BYTELEVEL,  /* optional space in front, optional regex */
    COT__SPLIT_METASPACE,
} cot__tok_split_kind;
typedef enum cot__tok_behavior {
    COT__SPLIT_ISOLATED,
    COT__SPLIT_REMOVED,
    COT__SPLIT_MERGED_PREVIOUS,
    COT__SPLIT_MERGED_NEXT,
    COT__SPLIT_CONTIGUOUS,
} cot__tok_behavior;
typedef enum cot__tok_prepend {
    COT__PREPEND_NEVER,
    COT__PREPEND_FIRST,
    COT__PREPEND_ALWAYS
} cot__tok_prepend;

typedef struct cot__tok_split {
    cot__tok_split_kind kind;
    cot__tok_behavior behavior;
    cot__tok_prepend prepend; /* METASPACE, BYTELEVEL (always, never) */
    cot__tok_regex *regex;    /* REGEX; BYTELEVEL: NULL without its regex */
    cot__vocab_str text;      /* STRING: what to find; METASPACE: the replacement; REGEX: the source */
    bool invert, split, map;  /* METASPACE: split; BYTELEVEL: map (steps follow that see the mapped form) */
} cot__tok_split;

/* The names that GGUF files use (tok_pretable.c). */
typedef struct cot__tok_pre {
    const char *names;    /* separated by spaces; the first is the one we write */
    const char *regex[6]; /* in Oniguruma's syntax, applied in turn */
    bool ignore_merges, add_bos;
    bool characters; /* the vocabulary holds UTF-8 characters with U+2581, not mapped bytes */
} cot__tok_pre;
const cot__tok_pre *cot__tok_pre_find(const char *name);
/* The row whose expressions and flag equal these; NULL: none. */
const cot__tok_pre *cot__tok_pre_match(const char *const *regex, size_t n, bool ignore_merges,
                                       bool characters);
extern const char cot__tok_gpt2_regex[];

/* ---- the model ---- */

typedef enum cot__tok_model {
    COT__MODEL_BPE,    /* ranks of pairs of tokens */
    COT__MODEL_SCORES, /* SentencePiece's BPE: scores of the merged text */
    COT__MODEL_UNIGRAM,
} cot__tok_model;

typedef struct cot__tok_pair {
    uint64_t key; /* left id, right id; UINT64_MAX: empty */
    uint32_t rank;
    int32_t id;
} cot__tok_pair;

struct cot__tokenizer {
    char *file; /* for errors */
    cot__tok_entry *entry;
    size_t n_tokens;
    cot__arena *mem; /* every text and piece, in blocks */
    char *block;
    size_t block_left;
    cot__map *by_model; /* what the model sees → id: bytes (byte-level) or characters */
    cot__map *by_text;  /* spelling → id of tokens that are not in by_model */

    cot__tok_model model;
    bool byte_level; /* the model's alphabet is bytes (GPT-2's mapping undone), else UTF-8 characters */
    bool byte_fallback, fuse_unk, ignore_merges;
    int32_t unk;          /* what the model gives for what it does not know; −1: nothing */
    int32_t byte_id[256]; /* byte-level: the token of each byte; else the fallback tokens; −1: none */
    cot__tok_pair *pairs; /* BPE: open addressing */
    size_t pair_mask, n_pairs;
    uint64_t pair_seed;
    cot__tok_trie *trie; /* UNIGRAM */
    double min_score;
    size_t longest;  /* bytes of the longest token of the model */
    bool has_unused; /* SCORES: some tokens only help merging and are split again */

    cot__tok_added *added;
    size_t n_added;
    cot__tok_trie *added_raw, *added_norm; /* searched before and after normalising; NULL: none */

    cot__tok_norm norm[COT__TOK_STEPS];
    size_t n_norm;
    cot__tok_charsmap charsmap;
    cot__tok_split split[COT__TOK_STEPS];
    size_t n_split;
    size_t n_levels; /* matchers that an encode needs: one per step */

    int32_t *prefix, *suffix; /* ids around a text when the caller asks for special tokens */
    size_t n_prefix, n_suffix;
    int32_t bos, eos, unk_role, pad, eot, eom;

    cot__vocab_str decode_from[COT__TOK_STEPS],
        decode_to[COT__TOK_STEPS]; /* replaced in spellings, for pieces */
    size_t n_decode;
    /* Decoding a sequence: characters dropped at its start, after special tokens too where encoding adds it.
     */
    char strip_char[5];
    uint32_t strip_start;
    bool strip_after_special;

    /* For the converter: the merges as "left right" (ids), and GGUF's names. */
    int32_t *merge_left, *merge_right;
    size_t n_merges;
    cot__vocab_str *export_tokens, *export_merges;
    int32_t *export_types;
    float *export_scores;
    char *export_blob;
    const cot__tok_pre *pre;
    bool from_json, space_prefix, extra_spaces_removed;
};

/* State of one encode call. */
typedef struct cot__tok_run {
    const cot__tokenizer *t;
    cot_error *err;
    int32_t *ids;
    size_t n_ids, cap_ids;
    cot__tok_matcher match;
    cot__buf step[COT__TOK_STEPS]; /* text that a pre-tokenizer has changed, one per step */
    cot__buf norm[2], unmapped;
    cot__tok_spans spans, inner;
    void *work; /* of the model (tok_bpe.c, tok_unigram.c) */
    size_t work_bytes;
    void *heap;
    size_t heap_cap;
    uint32_t *unused_cut; /* SCORES: per token, where an unused one was joined last; NULL until needed */
    struct cot__tok_cache *cache; /* pieces seen before; NULL: off */
    bool first;                   /* the text begins at the start of the whole input */
    bool glued;                   /* the text follows bytes that are no UTF-8: nothing may be put in front */
} cot__tok_run;

cot_status cot__tok_emit(cot__tok_run *run, int32_t id);
/* At least n bytes of scratch for the model; NULL: out of memory, the error is set. */
void *cot__tok_work(cot__tok_run *run, size_t n);
/* Starts the cache of pieces; without memory for it the run goes on without. */
void cot__tok_cache_start(cot__tok_run *run);
/* Appends to normalised text, as long as it keeps within bounds. */
cot_status cot__tok_norm_put(cot__buf *out, const char *s, size_t n, cot_error *err);
cot_status cot__tok_normalize(cot__tok_run *run, const char **text, size_t *n);
cot_status cot__tok_split_text(cot__tok_run *run, const char *text, size_t n);
cot_status cot__tok_model_encode(cot__tok_run *run, const char *text, size_t n);
cot_status cot__tok_bpe_encode(cot__tok_run *run, const char *text, size_t n);
cot_status cot__tok_unigram_encode(cot__tok_run *run, const char *text, size_t n);
/* Bytes that are no UTF-8: tokens of single bytes. */
cot_status cot__tok_bytes_encode(cot__tok_run *run, const char *bytes, size_t n);

/* ---- building (tok_build.c) ---- */

cot_status cot__tok_new(cot__tokenizer **out, const char *file, size_t n_tokens, cot_error *err);
/* A copy that lives as long as the tokenizer, terminated. */
char *cot__tok_copy(cot__tokenizer *t, const char *s, size_t n, cot_error *err);
/* Sets a token's spelling, which is copied. */
cot_status cot__tok_set(cot__tokenizer *t, size_t id, const char *text, size_t len, int type, double score,
                        bool in_model, cot_error *err);
/* After all tokens and decoders, before merges: pieces, maps, byte_id, longest. */
cot_status cot__tok_index(cot__tokenizer *t, cot_error *err);
cot_status cot__tok_merges_begin(cot__tokenizer *t, size_t n, cot_error *err);
/* Adds the merge of two spellings with the next rank. *known: both and their join are tokens. */
cot_status cot__tok_merge_add(cot__tokenizer *t, const char *left, size_t n_left, const char *right,
                              size_t n_right, bool *known, cot_error *err);
cot_status cot__tok_added_build(cot__tokenizer *t, cot_error *err);
cot_status cot__tok_unigram_build(cot__tokenizer *t, cot_error *err);
bool cot__tok_pair_find(const cot__tokenizer *t, int32_t left, int32_t right, uint32_t *rank, int32_t *id);
cot_status cot__tok_compile(cot__tok_regex **out, const char *file, const char *field, const char *onig,
                            size_t n, cot_error *err);
void cot__tok_roles_guess(cot__tokenizer *t);

/* ---- tokenizer.json (tok_json*.c) ---- */

cot_status cot__tok_json_normalizer(cot__tokenizer *t, const json_t *j, cot_error *err);
cot_status cot__tok_json_pre_tokenizer(cot__tokenizer *t, const json_t *j, cot_error *err);
cot_status cot__tok_json_decoder(cot__tokenizer *t, const json_t *j, cot_error *err);
cot_status cot__tok_json_post_processor(cot__tokenizer *t, const json_t *j, cot_error *err);
/* Puts an id at the front or the back of prefix or suffix. */
cot_status cot__tok_affix(int32_t **ids, size_t *n, int32_t id, bool front, cot_error *err);

/* GPT-2's printable stand-ins for bytes. */
uint32_t cot__tok_byte_char(unsigned char byte);
int cot__tok_char_byte(uint32_t c); /* −1: stands for no byte */
/* Undoes the mapping; false when some character stands for no byte. */
bool cot__tok_unmap(const char *s, size_t n, cot__buf *out, bool *memory);

#endif
