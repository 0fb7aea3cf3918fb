/* Owns: beam search over a session: beams are sequences that share their past's KV blocks. The best beam is
 * told as text when the search has ended. */
#include <string.h>

#include "base/error.h"
#include "run/beam.h"
#include "run/generate.h"
#include "run/session.h"

typedef struct sink {
    float *rows;
    size_t n_vocab;
} sink;

static bool keep_rows(void *user, size_t row, const float *logits, int64_t n) {
    sink *k = user;
    memcpy(k->rows + row * k->n_vocab, logits, (size_t)n * sizeof *logits);
    return true;
}

typedef struct ends {
    const cot_model *m;
    bool ignore;
} ends;
static bool is_end(void *user, int32_t token) {
    const ends *e = user;
    return !e->ignore && cot_token_is_end(e->m, token);
}

/* Beams live in sequences base … base + B − 1; the two halves 0…B−1 and B…2B−1 take turns. */
static cot_status advance(cot_session *s, cot__beam_search *b, int *base, int n_beams, sink *k,
                          const float **ptr, cot_error *err) {
    int next = *base ? 0 : n_beams, live = cot__beam_live(b);
    cot_row *rows = cot__alloc_array((size_t)live, sizeof *rows);
    if (!rows) return cot__fail_memory(err, (size_t)live * sizeof *rows);
    cot_status st = COT_OK;
    for (int i = 0; i < live && st == COT_OK; i++) {
        st = cot_sequence_copy(s, *base + cot__beam_parent(b, i), next + i, err);
        rows[i] = (cot_row){cot__beam_token(b, i), next + i, COT_ROLE_GENERATED, true};
        ptr[i] = k->rows + (size_t)i * k->n_vocab;
    }
    for (int i = 0; i < n_beams; i++) cot_sequence_cut(s, *base + i, 0, NULL);
    *base = next;
    if (st == COT_OK) st = cot_forward(s, rows, (size_t)live, keep_rows, k, err);
    cot__free(rows);
    return st;
}

static cot_status tell(const cot_model *m, const cot__beam *best, cot__stream *t, cot_generate_result *r,
                       cot_error *err) {
    bool go_on = true;
    for (size_t i = 0; i < best->n && go_on; i++) {
        r->generated_tokens++;
        if (best->finished && i + 1 == best->n) break;
        size_t n = 0;
        const char *piece = cot_token_piece(m, best->tokens[i], false, &n);
        COT_TRY(cot__stream_put(t, piece ? piece : "", n, best->tokens[i], false, &go_on, err));
    }
    r->stop = t->stopped       ? COT_STOP_STRING
              : t->cancelled   ? COT_STOP_CANCELLED
              : best->finished ? COT_STOP_END
                               : r->stop;
    return COT_OK;
}

/* Leaves sequence 0 with the prompt and the best beam's tokens, fed again where its KV is gone. */
static cot_status settle(cot_session *s, int32_t prompt, const int32_t *prompt_tokens, const cot__beam *best,
                         const cot_generate_options *o, float *logits, cot_error *err) {
    size_t n = (size_t)prompt + best->n;
    int32_t *all = cot__alloc_array(n, sizeof *all);
    if (!all) return cot__fail_memory(err, n * sizeof *all);
    memcpy(all, prompt_tokens, (size_t)prompt * sizeof *all);
    memcpy(all + prompt, best->tokens, best->n * sizeof *all);
    for (int i = 1; i < s->opt.n_sequences; i++) cot_sequence_cut(s, i, 0, NULL);
    cot_status st = cot_sequence_cut(s, 0, 0, err);
    cot_generate_options quiet = *o;
    quiet.progress = NULL;
    if (n > 1 && st == COT_OK) st = cot__prefill(s, 0, all, n - 1, &quiet, logits, err);
    cot__free(all);
    return st;
}

cot_status cot__beam_generate(cot_session *s, const cot_generate_options *o, float *logits, cot__stream *t,
                              cot_generate_result *r, cot_error *err) {
    const cot_model *m = s->model;
    int B = o->beams, base = 0;
    int32_t start = s->seq[0].length;
    size_t vocab = (size_t)m->n_vocab;
    cot__beam_search *b = NULL;
    sink k = {cot__alloc_array((size_t)B * vocab, sizeof *k.rows), vocab};
    const float **ptr = cot__alloc_array((size_t)B, sizeof *ptr);
    int32_t *prompt = cot__alloc_array((size_t)start, sizeof *prompt);
    cot_status st = k.rows && ptr && prompt
                        ? cot__beam_create(&b, B, o->beam_groups, (double)o->diversity,
                                           (double)o->length_penalty, (int32_t)m->n_vocab, err)
                        : cot__fail_memory(err, (size_t)B * vocab * 4);
    ends e = {m, o->ignore_end};
    if (st == COT_OK) {
        memcpy(prompt, s->seq[0].tokens, (size_t)start * sizeof *prompt);
        ptr[0] = logits;
        r->stop = COT_STOP_LENGTH;
    }
    for (int step = 0; st == COT_OK; step++) {
        if (o->max_tokens >= 0 && step >= o->max_tokens) break;
        st = cot__beam_step(b, ptr, is_end, &e, err);
        if (st != COT_OK || !cot__beam_live(b)) break;
        if (start + step + 1 >= s->opt.n_ctx) {
            r->stop = COT_STOP_CONTEXT;
            break;
        }
        if (o->max_tokens >= 0 && step + 1 >= o->max_tokens) break;
        st = advance(s, b, &base, B, &k, ptr, err);
    }
    const cot__beam *best = NULL;
    int n_best = 0;
    if (st == COT_OK) st = cot__beam_results(&best, &n_best, b, err);
    if (st == COT_OK && n_best > 0) {
        st = tell(m, best, t, r, err);
        if (st == COT_OK) st = settle(s, start, prompt, best, o, logits, err);
    }
    cot__beam_free(&b);
    cot__free(k.rows);
    cot__free(ptr);
    cot__free(prompt);
    return st;
}
