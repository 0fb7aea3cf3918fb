/* Owns: from prompt ids to streamed text: prefill in chunks, sampling, whole UTF-8 only, stop strings, end
 * tokens. */
#include <string.h>

#include "base/error.h"
#include "run/draft.h"
#include "run/generate.h"
#include "run/session.h"
#include "text/tok_utf8.h"

void cot_generate_defaults(cot_generate_options *o) {
    *o = (cot_generate_options){
        .struct_size = sizeof *o, .max_tokens = -1, .beams = 1, .beam_groups = 1, .length_penalty = 1};
    cot_sample_defaults(&o->sample);
}

/* ---- text on its way out ---- */

size_t cot__utf8_whole(const char *s, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)s[n - back];
        if ((c & 0xC0) == 0x80) continue;
        size_t need = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
        return need > back ? n - back : n;
    }
    return n;
}

/* Bytes from the start that cannot become part of a stop string; *found: a stop string starts right after
 * them. */
static size_t before_stop(const cot_generate_options *o, const char *s, size_t n, bool *found) {
    *found = false;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < o->n_stop; k++) {
            size_t len = strlen(o->stop[k]), have = n - i < len ? n - i : len;
            if (len && memcmp(s + i, o->stop[k], have) == 0) {
                *found = have == len;
                return i;
            }
        }
    return n;
}

/* What is no UTF-8 becomes U+FFFD: tokens are bytes, and a model may put any of them together. */
static bool put_whole(cot__buf *out, const char *s, size_t n) {
    out->len = 0;
    bool ok = cot__buf_put(out, "", 0);
    while (ok && n) {
        size_t valid = cot__utf8_valid(s, n);
        ok = cot__buf_put(out, s, valid);
        s += valid, n -= valid;
        if (!n) break;
        size_t bad = 1, most = cot__utf8_length((unsigned char)*s);
        while (bad < n && bad < most && (s[bad] & 0xC0) == 0x80) bad++;
        ok = ok && cot__buf_put(out, "\xEF\xBF\xBD", 3);
        s += bad, n -= bad;
    }
    return ok;
}

cot_status cot__stream_put(cot__stream *t, const char *text, size_t n, int32_t token, bool last, bool *go_on,
                           cot_error *err) {
    bool found = false;
    if (!cot__buf_put(&t->buf, text, n)) return cot__fail_memory(err, n);
    size_t ready = before_stop(t->opt, t->buf.data, t->buf.len, &found);
    if (last && !found) ready = t->buf.len;
    if (!last && !found) ready = cot__utf8_whole(t->buf.data, ready);
    *go_on = !found;
    if (found) t->stopped = true;
    if (!put_whole(&t->out, t->buf.data, ready)) return cot__fail_memory(err, ready);
    if (t->fn && !t->fn(t->user, t->out.data, t->out.len, token)) *go_on = false, t->cancelled = !found;
    memmove(t->buf.data, t->buf.data + ready, t->buf.len - ready);
    t->buf.len -= ready;
    if (found || last) t->buf.len = 0;
    return COT_OK;
}

/* ---- prefill ---- */

static bool keep_logits(void *user, size_t row, const float *logits, int64_t n) {
    memcpy(*(float **)user, logits, (size_t)n * sizeof *logits);
    return true;
}

cot_status cot__prefill(cot_session *s, int32_t sequence, const int32_t *ids, size_t n,
                        const cot_generate_options *o, float *logits, cot_error *err) {
    size_t chunk = (size_t)s->opt.chunk;
    cot_row *rows = cot__alloc_array(n < chunk ? n : chunk, sizeof *rows);
    if (!rows) return cot__fail_memory(err, chunk * sizeof *rows);
    cot_status st = COT_OK;
    if (n > (size_t)(s->opt.n_ctx - s->seq[sequence].length))
        st = cot__fail(err, COT_CONTEXT_FULL, NULL, "ctx",
                       "the prompt has %zu tokens, %d positions are left; start with a larger --ctx", n,
                       s->opt.n_ctx - s->seq[sequence].length);
    int32_t before = s->seq[sequence].length;
    for (size_t at = 0; at < n && st == COT_OK;) {
        size_t m = n - at < chunk ? n - at : chunk;
        for (size_t i = 0; i < m; i++)
            rows[i] = (cot_row){ids[at + i], sequence, COT_ROLE_PROMPT, at + i + 1 == n};
        st = cot_forward(s, rows, m, keep_logits, &logits, err);
        at += m;
        if (st == COT_OK && o->progress && !o->progress(o->progress_user, "prefill", at, n))
            st = cot__fail(err, COT_CANCELLED, NULL, NULL, "cancelled");
    }
    if (st != COT_OK) cot_sequence_cut(s, sequence, before, NULL);
    cot__free(rows);
    return st;
}

/* ---- sampling ---- */

/* The rows that were computed ahead: draft[0 … n) are in the sequence after `base` tokens, and logits holds
 * n + 1 rows, of which row `at` comes next. */
typedef struct ahead {
    float *logits;
    size_t n_vocab;
    int32_t base, draft[COT__DRAFT_MOST];
    int n, at;
} ahead;

static bool keep_rows(void *user, size_t row, const float *logits, int64_t n) {
    memcpy((float *)user + row * (size_t)n, logits, (size_t)n * sizeof *logits);
    return true;
}

/* Appends token and what may follow it. */
static cot_status step(cot_session *s, const cot_generate_options *o, ahead *a, int32_t token,
                       cot_generate_result *r, cot_error *err) {
    cot_row rows[1 + COT__DRAFT_MOST] = {{token, 0, COT_ROLE_GENERATED, true}};
    cot__sequence *q = &s->seq[0];
    int most = s->opt.n_ctx - q->length - 1;
    a->base = q->length + 1;
    a->at = a->n = 0;
    if (o->draft < most) most = o->draft;
    if (o->max_tokens >= 0 && o->max_tokens - r->generated_tokens - 1 < most)
        most = o->max_tokens - r->generated_tokens - 1;
    if (most > 0) {
        q->tokens[q->length] = token; /* where the call puts it, too */
        a->n = cot__draft_lookup(q->tokens, (size_t)a->base, most, a->draft);
    }
    for (int i = 0; i < a->n; i++) rows[1 + i] = (cot_row){a->draft[i], 0, COT_ROLE_GENERATED, true};
    r->drafted += a->n;
    return cot_forward(s, rows, 1 + (size_t)a->n, keep_rows, a->logits, err);
}

static cot_status sample_loop(cot_session *s, const cot_generate_options *o, cot_sampler *sampler, ahead *a,
                              cot__stream *t, cot_generate_result *r, cot_error *err) {
    const cot_model *m = s->model;
    r->stop = COT_STOP_LENGTH;
    for (;;) {
        int32_t token;
        bool go_on = true;
        if (o->max_tokens >= 0 && r->generated_tokens >= o->max_tokens) return COT_OK;
        COT_TRY(cot_sampler_choose(sampler, a->logits + (size_t)a->at * a->n_vocab, &token, NULL, err));
        r->generated_tokens++;
        if (!o->ignore_end && cot_token_is_end(m, token)) {
            r->stop = COT_STOP_END;
            return COT_OK;
        }
        COT_TRY(cot_sampler_accept(sampler, token, err));
        size_t n = 0;
        const char *piece = cot_token_piece(m, token, false, &n);
        COT_TRY(cot__stream_put(t, piece ? piece : "", n, token, false, &go_on, err));
        if (!go_on) {
            r->stop = t->cancelled ? COT_STOP_CANCELLED : COT_STOP_STRING;
            return COT_OK;
        }
        if (o->max_tokens >= 0 && r->generated_tokens >= o->max_tokens) return COT_OK;
        if (a->at < a->n && token == a->draft[a->at]) {
            a->at++;
            r->accepted++;
            continue;
        }
        COT_TRY(cot_sequence_cut(s, 0, a->base + a->at, err));
        if (s->seq[0].length >= s->opt.n_ctx) {
            r->stop = COT_STOP_CONTEXT;
            return COT_OK;
        }
        COT_TRY(step(s, o, a, token, r, err));
    }
}

static cot_status check_options(const cot_session *s, const cot_generate_options *o, size_t n,
                                cot_error *err) {
    if (o->struct_size != sizeof *o)
        return cot__fail(err, COT_ARGUMENT, NULL, "cot_generate_options",
                         "struct_size is %zu; call cot_generate_defaults first", o->struct_size);
    if (n == 0)
        return cot__fail(err, COT_ARGUMENT, NULL, "prompt",
                         "is empty; a model needs at least one token to go on from");
    if (o->beams < 1 || o->beam_groups < 1 || o->beams % o->beam_groups)
        return cot__fail(err, COT_ARGUMENT, NULL, "beams", "%d beams do not make %d equal groups", o->beams,
                         o->beam_groups);
    if (o->beams > 1 && s->opt.n_sequences < 2 * o->beams)
        return cot__fail(err, COT_ARGUMENT, NULL, "n_sequences", "%d beams need a session with %d sequences",
                         o->beams, 2 * o->beams);
    if (o->draft < 0 || o->draft > COT__DRAFT_MOST)
        return cot__fail(err, COT_ARGUMENT, NULL, "draft", "%d is outside 0…%d", o->draft, COT__DRAFT_MOST);
    if (o->draft && o->beams > 1)
        return cot__fail(err, COT_ARGUMENT, NULL, "draft", "does not go together with beams");
    return COT_OK;
}

cot_status cot_generate(cot_session *s, const int32_t *prompt, size_t n, const cot_generate_options *options,
                        cot_text_fn *fn, void *user, cot_generate_result *result, cot_error *err) {
    cot_generate_options o;
    cot_generate_result r = {.prompt_tokens = (int32_t)n};
    cot__error_clear(err);
    cot_generate_defaults(&o);
    if (options) o = *options;
    COT_TRY(check_options(s, &o, n, err));
    ahead a = {.n_vocab = (size_t)s->model->n_vocab};
    float *logits = a.logits = cot__alloc_array(a.n_vocab * (size_t)(1 + o.draft), sizeof *logits);
    cot_sampler *sampler = NULL;
    cot__stream t = {.fn = fn, .user = user, .opt = &o, .buf = {.max = 1 << 30}, .out = {.max = 1 << 30}};
    cot_status st = logits ? cot_sampler_create(&sampler, &o.sample, (int32_t)s->model->n_vocab, err)
                           : cot__fail_memory(err, (size_t)s->model->n_vocab * 4);
    double start = cot__now();
    if (st == COT_OK) st = cot__prefill(s, 0, prompt, n, &o, logits, err);
    size_t held = 0;
    const int32_t *all = cot_sequence_tokens(s, 0, &held); /* penalties look at earlier turns, too */
    for (size_t i = 0; i < held && st == COT_OK; i++) st = cot_sampler_accept(sampler, all[i], err);
    double middle = cot__now();
    a.base = (int32_t)held;
    if (st == COT_OK)
        st = o.beams > 1 ? cot__beam_generate(s, &o, logits, &t, &r, err)
                         : sample_loop(s, &o, sampler, &a, &t, &r, err);
    if (a.n) cot_sequence_cut(s, 0, a.base + a.at, NULL); /* drafts that nobody asked for */
    bool go_on;
    if (st == COT_OK && !t.stopped && !t.cancelled) st = cot__stream_put(&t, "", 0, -1, true, &go_on, err);
    r.prompt_seconds = middle - start;
    r.generate_seconds = cot__now() - middle;
    if (st == COT_OK && result) *result = r;
    cot_sampler_free(&sampler);
    cot__buf_free(&t.buf);
    cot__buf_free(&t.out);
    cot__free(logits);
    return st;
}
