/* Coterie: choosing the next token. */
#ifndef COTERIE_SAMPLE_H
#define COTERIE_SAMPLE_H

#include <coterie/base.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cot_logit_bias {
    int32_t token;
    float bias;
} cot_logit_bias; /* −INFINITY bans a token */

/* Options of the sampler. Defaults: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, everything else off.
 * Order: logit bias, penalties (over the last penalty_window tokens), then if temperature ≤ 0 the largest
 * logit (lowest id wins ties), else top-k, typical, top-p, min-p, temperature, draw. */
typedef struct cot_sample_options {
    size_t struct_size;
    float temperature;
    int32_t top_k;            /* 0: off */
    float top_p;              /* 1: off */
    float min_p;              /* 0: off */
    float typical_p;          /* 1: off */
    float repetition_penalty; /* 1: off; divides positive logits, multiplies negative ones (Keskar et al.
                                 2019) */
    float frequency_penalty;  /* 0: off; subtracts times the count */
    float presence_penalty;   /* 0: off; subtracts once when present */
    int32_t penalty_window;   /* tokens looked back; −1: all */
    uint64_t seed;
    const cot_logit_bias *bias; /* borrowed while the sampler is created */
    size_t n_bias;
} cot_sample_options;

COT_API void cot_sample_defaults(cot_sample_options *options);

/* Draws tokens; holds the history for the penalties. One thread at a time. Randomness is counter-based: draw
 * n of a seed is the same whatever happened before. */
typedef struct cot_sampler cot_sampler;
COT_API cot_status cot_sampler_create(cot_sampler **out, const cot_sample_options *options, int32_t n_vocab,
                                      cot_error *err);
COT_API void cot_sampler_free(cot_sampler **sampler);
/* Tells the sampler of a token that is now in the sequence (prompt or generated). */
COT_API cot_status cot_sampler_accept(cot_sampler *sampler, int32_t token, cot_error *err);
COT_API void cot_sampler_reset(cot_sampler *sampler);
/* Chooses from n_vocab logits (not changed). *logprob, when not NULL, gets the token's log-probability under
 * the unmodified distribution. NaN logits are an error. Does not accept the token by itself. */
COT_API cot_status cot_sampler_choose(cot_sampler *sampler, const float *logits, int32_t *token,
                                      float *logprob, cot_error *err);

#ifdef __cplusplus
}
#endif
#endif
