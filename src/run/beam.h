/* Beam search and diverse beam search (Vijayakumar et al. 2016) over one step's log-probabilities: the choice
 * alone, without a model, so that it can be tested by brute force. */
#ifndef COT_RUN_BEAM_H
#define COT_RUN_BEAM_H

#include <coterie/base.h>

typedef struct cot__beam {
    double score;    /* Σ log p, unpenalised */
    int32_t *tokens; /* generated so far, owned by the search */
    size_t n;
    int32_t last;   /* token chosen in this step */
    int32_t parent; /* index (over all beams) in the previous step */
    bool finished;
} cot__beam;

typedef struct cot__beam_search cot__beam_search;
/* n_beams in n_groups equal groups; diversity λ ≥ 0 (Hamming); length_penalty: final ranking by score /
 * n^penalty. */
cot_status cot__beam_create(cot__beam_search **out, int n_beams, int n_groups, double diversity,
                            double length_penalty, int32_t n_vocab, cot_error *err);
void cot__beam_free(cot__beam_search **b);
/* One step: logits row of each live beam, in order of cot__beam_live (the first step has one row shared by
 * all). is_end(user, token) tells end tokens. Ties: lower parent, then lower id. Penalises the full row
 * before truncating. */
cot_status cot__beam_step(cot__beam_search *b, const float *const *logits, bool (*is_end)(void *, int32_t),
                          void *user, cot_error *err);
/* Live beams after the step: count, and for each its parent's live index and token to feed next. */
int cot__beam_live(const cot__beam_search *b);
int cot__beam_parent(const cot__beam_search *b, int i);
int32_t cot__beam_token(const cot__beam_search *b, int i);
/* Finished and live beams ranked, best first; they belong to the search, which takes no step after this. */
cot_status cot__beam_results(const cot__beam **out, int *n, cot__beam_search *b, cot_error *err);

#endif
