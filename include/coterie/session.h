/* Coterie: sessions: sequences, the ragged forward, generation, saved state. */
#ifndef COTERIE_SESSION_H
#define COTERIE_SESSION_H

#include <coterie/model.h>
#include <coterie/route.h>
#include <coterie/sample.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One mutable timeline of sequences over a model. One thread at a time; it brings its own worker threads. */
typedef struct cot_session cot_session;

typedef enum cot_activation { COT_ACTIVATION_AUTO, COT_ACTIVATION_F32 } cot_activation;

typedef struct cot_session_options {
    size_t struct_size;
    int32_t n_ctx;             /* positions a sequence; 0: min(model, 4096) */
    int32_t n_sequences;       /* most sequences at once; default 1 */
    int32_t n_threads;         /* 0: physical cores */
    int32_t chunk;             /* rows of one pass inside long prompts; default 512 */
    cot_type kv_type;          /* COT_F16 (default), COT_Q8_0, COT_F32 */
    cot_activation activation; /* F32: activations are never quantised */
    int32_t experts_used;      /* 0: as the model says; otherwise k of every router (changes the result) */
} cot_session_options;
COT_API void cot_session_defaults(cot_session_options *options);

/* Bytes that a session will need at most (KV cache, buffers), before anything is allocated. */
COT_API cot_status cot_session_estimate(const cot_model *model, const cot_session_options *options,
                                        uint64_t *kv_bytes, uint64_t *buffer_bytes, cot_error *err);
/* Borrows the model, which must outlive the session. options may be NULL. */
COT_API cot_status cot_session_create(cot_session **out, const cot_model *model,
                                      const cot_session_options *options, cot_error *err);
COT_API void cot_session_free(cot_session **session);
COT_API int32_t cot_session_ctx(const cot_session *session);
COT_API int32_t cot_session_threads(const cot_session *session);

/* What a row is: text that is given (many rows at once), or a token that was just chosen. Latent attention
 * computes the two in different ways, which agree to 1e-4 in F32; everything else ignores it. */
typedef enum cot_role { COT_ROLE_PROMPT, COT_ROLE_GENERATED } cot_role;

/* One row of a forward call. Rows of a sequence come in ascending positions that follow what it holds. */
typedef struct cot_row {
    int32_t token;
    int32_t sequence; /* 0 … n_sequences − 1 */
    cot_role role;
    bool wants_logits;
} cot_row;

/* Receives the logits (n_vocab floats, valid during the call) of a row that wants them, in row order; `row`
 * is its index in the call. Returning false cancels. */
typedef bool cot_logits_fn(void *user, size_t row, const float *logits, int64_t n_vocab);

/* The one forward call: appends the rows to their sequences and computes them together. Either all rows are
 * appended or, on error, none. COT_CONTEXT_FULL when a sequence would pass n_ctx. Results do not depend on
 * which rows share a call, nor, but for the rows' roles, on how a text is cut into calls. */
COT_API cot_status cot_forward(cot_session *session, const cot_row *rows, size_t n, cot_logits_fn *fn,
                               void *user, cot_error *err);

/* Sequences: length, cutting back to n positions, copying the past (shared, copy on write). */
COT_API int32_t cot_sequence_length(const cot_session *session, int32_t sequence);
COT_API cot_status cot_sequence_cut(cot_session *session, int32_t sequence, int32_t n, cot_error *err);
COT_API cot_status cot_sequence_copy(cot_session *session, int32_t from, int32_t to, cot_error *err);
/* State of one sequence (tokens and KV) to and from a file, bound to the model and KV type. */
COT_API cot_status cot_sequence_save(cot_session *session, int32_t sequence, const char *path,
                                     cot_error *err);
COT_API cot_status cot_sequence_load(cot_session *session, int32_t sequence, const char *path,
                                     cot_error *err);
/* Tokens that the sequence holds; borrowed until the next call on the session. */
COT_API const int32_t *cot_sequence_tokens(const cot_session *session, int32_t sequence, size_t *n);

/* Observes every router of every pass; NULL switches off. */
COT_API void cot_session_observe(cot_session *session, cot_route_fn *fn, void *user);

/* ---- generation ---- */

typedef struct cot_generate_options {
    size_t struct_size;
    int32_t max_tokens; /* −1: until the context is full */
    cot_sample_options sample;
    const char *const *stop; /* stop strings, not part of the text */
    size_t n_stop;
    bool ignore_end; /* go on after end tokens */
    int32_t beams,
        beam_groups; /* beams > 1: (diverse) beam search instead of sampling; needs n_sequences ≥ 2·beams */
    float diversity, length_penalty;
    int32_t draft; /* tokens guessed ahead from the sequence itself and checked in one pass, 0 (off) … 16. The
                      text is the same, bit for bit, under any sampling; it pays where text repeats itself */
    cot_progress_fn *progress; /* "prefill" */
    void *progress_user;
} cot_generate_options;
COT_API void cot_generate_defaults(cot_generate_options *options);

typedef enum cot_stop_reason {
    COT_STOP_END,
    COT_STOP_STRING,
    COT_STOP_LENGTH,
    COT_STOP_CONTEXT,
    COT_STOP_CANCELLED
} cot_stop_reason;

/* New text (whole UTF-8 characters only; bytes that form none become U+FFFD; not terminated; may be empty)
 * and the token it came from (−1 at the end of the stream). Returning false stops. */
typedef bool cot_text_fn(void *user, const char *text, size_t n, int32_t token);

typedef struct cot_generate_result {
    int32_t prompt_tokens, generated_tokens;
    int32_t drafted, accepted; /* tokens guessed ahead, and those of them that were right */
    double prompt_seconds, generate_seconds;
    cot_stop_reason stop;
} cot_generate_result;

/* Feeds prompt ids to sequence 0 (after what it holds) and generates. A model without a tokenizer gives
 * tokens and no text. result may be NULL. */
COT_API cot_status cot_generate(cot_session *session, const int32_t *prompt, size_t n,
                                const cot_generate_options *options, cot_text_fn *fn, void *user,
                                cot_generate_result *result, cot_error *err);

#ifdef __cplusplus
}
#endif
#endif
