/* The options of generation that run and chat share. */
#ifndef COT_CLI_SAMPLING_H
#define COT_CLI_SAMPLING_H

#include "cli/cli.h"

#define CLI_SAMPLING(g, stops)                                                                                  \
    {"temp", 0, "T", "temperature; 0 always takes the likeliest token", CLI_FLOAT, &(g).sample.temperature},    \
        {"top-k", 0, "N", "only the N likeliest tokens; 0: all", CLI_INT, &(g).sample.top_k},                   \
        {"top-p",          0, "P", "only the likeliest tokens that together have probability P", CLI_FLOAT,     \
         &(g).sample.top_p},                                                                                    \
        {"min-p",          0, "P", "only tokens with at least P times the best's probability", CLI_FLOAT,       \
         &(g).sample.min_p},                                                                                    \
        {"typical", 0, "P", "locally typical sampling", CLI_FLOAT, &(g).sample.typical_p},                      \
        {"repeat-penalty",                                                                                      \
         0,                                                                                                     \
         "R",                                                                                                   \
         "divides the logits of tokens that occurred",                                                          \
         CLI_FLOAT,                                                                                             \
         &(g).sample.repetition_penalty},                                                                       \
        {"frequency-penalty",          0, "A", "subtracted for each occurrence", CLI_FLOAT,                     \
         &(g).sample.frequency_penalty},                                                                        \
        {"presence-penalty",          0, "A", "subtracted once for what occurred", CLI_FLOAT,                   \
         &(g).sample.presence_penalty},                                                                         \
        {"logit-bias", 0, "ID=X", "added to a token's logit; may be given several times", CLI_LIST,             \
         &(stops).bias},                                                                                        \
        {"seed", 0, "S", "seed; the same seed gives the same text", CLI_U64, &(g).sample.seed},                 \
        {"stop", 0, "TEXT", "stop before TEXT; may be given several times", CLI_LIST, &(stops).stop}, {         \
        "draft", 0, "N",                                                                                        \
            "up to N tokens guessed ahead from the text so far; the same text, sooner where it repeats itself", \
            CLI_INT, &(g).draft                                                                                 \
    }

#define CLI_POSITIONS "positions (default: the smaller of 4096 and the model's)"
#define CLI_SESSION(s, ctx_help)                                                                             \
    {"ctx", 'c', "N", ctx_help, CLI_INT, &(s).n_ctx},                                                        \
        {"kv", 0, "TYPE", "number format of the cache: f16, q8_0, f32", CLI_KV, &(s).kv_type},               \
        {"act", 0, "MODE", "auto, or f32: activations are never quantised", CLI_ACT, &(s).activation}, {     \
        "experts", 0, "N", "experts per token in every router (changes the result; default: the model's)",   \
            CLI_INT, &(s).experts_used                                                                       \
    }

typedef struct cli_texts {
    cli_list stop, bias;
    cot_logit_bias parsed[32];
} cli_texts;

/* Fills what points into lists; false after a message. */
bool cli_sampling_done(const char *command, cot_generate_options *g, cli_texts *t);

#endif
