/* Guesses which experts a layer will want, from what was chosen before. A guess becomes a hint and never
 * changes a result. Gate lookahead (the next router on the present rows) is moe's; a trained predictor's file
 * and hook are at the end. */
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
    COT__PREDICT_TRAINED,    /* cot__predict_fn */
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
 * probabilities; to be called when the bank before it (0: none yet) was just observed. Returns how many. */
int cot__predictor_guess(cot__predictor *p, int bank, const int32_t *tokens, int rows, int32_t *ids,
                         float *probability, int most);

/* ---- a trained predictor (ExpertFlow's kind) ----
 *
 * Its file, *.rpp, little-endian: the magic "COTRPP\0\1", then u32 vocabulary, width, depth, heads, banks,
 * experts (the most of a bank), context; then F32 tensors, row-major, in this order: token embedding
 * [vocabulary, width]; for each of depth blocks: norm [width], q, k, v, o [width, width], norm [width], up
 * [4·width, width], down [width, 4·width]; final norm [width]; head [banks · experts, width]. Causal
 * attention over the last `context` token ids without positions, SiLU, RMS norms; the head's sigmoid is the
 * probability that an expert is chosen for the last token. Its trainer comes with the training commands;
 * whoever evaluates it sets this hook, which fills probability[bank][expert] (banks · experts floats) once
 * per pass. */
typedef bool cot__predict_fn(void *user, const int32_t *tokens, int n, float *probability);
void cot__predictor_set_trained(cot__predictor *p, cot__predict_fn *fn, void *user, int experts);

#endif
