/* What sampling and beam search share. */
#ifndef COT_RUN_GENERATE_H
#define COT_RUN_GENERATE_H

#include <coterie/session.h>

#include "base/alloc.h"

/* Text that waits until it is whole UTF-8 and cannot begin a stop string. Free buf and out. */
typedef struct cot__stream {
    cot_text_fn *fn;
    void *user;
    const cot_generate_options *opt;
    cot__buf buf, out; /* what waits; what is being told */
    bool stopped, cancelled;
} cot__stream;
cot_status cot__stream_put(cot__stream *t, const char *text, size_t n, int32_t token, bool last, bool *go_on,
                           cot_error *err);

/* Length of the longest prefix that does not end inside a UTF-8 character. */
size_t cot__utf8_whole(const char *s, size_t n);

/* Feeds ids in chunks; logits gets those of the last. On failure the sequence is as before. */
cot_status cot__prefill(cot_session *s, int32_t sequence, const int32_t *ids, size_t n,
                        const cot_generate_options *o, float *logits, cot_error *err);

/* Beam search from the state of sequence 0 and its last logits; the best beam becomes sequence 0. */
cot_status cot__beam_generate(cot_session *s, const cot_generate_options *o, float *logits, cot__stream *t,
                              cot_generate_result *r, cot_error *err);

#endif
