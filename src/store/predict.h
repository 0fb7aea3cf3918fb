/* Guesses which experts a layer will want, from what was chosen before. A guess becomes a hint and never
 * changes a result. Gate lookahead (the next router on the present rows) is moe's; a trained predictor is at
 * the end. */
#ifndef COT_STORE_PREDICT_H
#define COT_STORE_PREDICT_H

#include <coterie/base.h>

typedef enum cot__prediction {
    COT__PREDICT_NONE,
    COT__PREDICT_LAST,       /* what the layer chose last */
    COT__PREDICT_POPULARITY, /* what it chooses most, lately */
    COT__PREDICT_TOKEN,      /* what it chose for this token id last; else popularity */
    COT__PREDICT_TRANSITION, /* what followed the present choices of the layer before */
    COT__PREDICT_GATE,       /* the layer's own gate on the rows of the layer before */
    COT__PREDICT_TRAINED,    /* cot__trained */
    COT__PREDICTIONS
} cot__prediction;
extern const char *const cot__prediction_names[COT__PREDICTIONS]; /* "none", "last", … */
int cot__prediction_find(const char *name);                       /* −1: none has this name */

/* Shared by the sessions of a model; thread-safe. */
typedef struct cot__predictor cot__predictor;
/* n_experts: of each bank, in the order in which a pass uses them. */
cot_status cot__predictor_create(cot__predictor **out, cot__prediction kind, int n_banks,
                                 const int *n_experts, cot_error *err);
void cot__predictor_free(cot__predictor **p);
cot__prediction cot__predictor_kind(const cot__predictor *p);

/* A pass has chosen: row r of bank chose ids[first[r]] … ids[first[r + 1] − 1], for token tokens[r] (tokens
 * may be NULL). */
void cot__predictor_observe(cot__predictor *p, int bank, const int32_t *tokens, int rows,
                            const int32_t *first, const int32_t *ids);
/* At most `most` experts of `bank` that the same rows will probably choose, likeliest first, with
 * probabilities; to be called when the bank before it (0: none yet) was just observed. Returns how many.
 * Nothing of GATE and TRAINED, which are evaluated elsewhere. */
int cot__predictor_guess(cot__predictor *p, int bank, const int32_t *tokens, int rows, int32_t *ids,
                         float *probability, int most);
/* The same from a probability for each of n experts. */
int cot__predict_best(const float *score, int n, int32_t *ids, float *probability, int most);

/* ---- a trained predictor (ExpertFlow's kind) ----
 *
 * Its file, *.rpp, little-endian: the magic "COTRPP\0\1", then u32 vocabulary, width, depth, heads, banks,
 * experts (the most of a bank), context; then F32 tensors, row-major, in this order: token embedding
 * [vocabulary, width]; for each of depth blocks: norm [width], q, k, v, o [width, width], norm [width], up
 * [4·width, width], down [width, 4·width]; final norm [width]; head [banks · experts, width]. Nothing
 * follows. Each block adds to its input, twice: o of causal attention (scale 1/√(width/heads)) over the last
 * `context` token ids without positions; down of SiLU of up. Norms are RMS with COT__TRAINED_EPS. The head's
 * sigmoid is the probability that an expert is chosen for the last token. Nothing but token ids goes in, so
 * the whole pass is foretold before it begins. */
#define COT__TRAINED_EPS 1e-6f

/* Immutable: may be shared by threads. */
typedef struct cot__trained cot__trained;
bool cot__trained_named(const char *name); /* "….rpp": a file, and no name of a prediction */
/* Fails unless it was made for this vocabulary, so many banks and so many experts at most in one.
 * vocabulary 0: not known; then it may know of more experts, too. */
cot_status cot__trained_open(cot__trained **out, const char *path, int64_t vocabulary, int banks, int experts,
                             cot_error *err);
void cot__trained_close(cot__trained **t);
int cot__trained_experts(const cot__trained *t); /* floats of a bank in a forecast */
int cot__trained_context(const cot__trained *t);
size_t cot__trained_forecast_bytes(const cot__trained *t);
size_t cot__trained_scratch(const cot__trained *t); /* bytes */
/* The token after `tokens[0 … n − 2]` is tokens[n − 1]: probability[bank · experts + expert], zeroed by the
 * caller, becomes that of this row or one of those before it. Ids that it does not know change nothing. */
void cot__trained_forecast(const cot__trained *t, const int32_t *tokens, int n, float *scratch,
                           float *probability);

#endif
