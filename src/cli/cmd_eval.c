/* coterie eval: perplexity, by windows that do not overlap (as llama.cpp's tool), or by strides (Hugging
 * Face's way). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "cli/sampling.h"

typedef struct score {
    const int32_t *next; /* of each row: the token that follows */
    double sum, sum2;
    int64_t n;
    bool no_number; /* logits that are none: stop and say so, there is no perplexity of them */
} score;

static bool add_row(void *user, size_t row, const float *x, int64_t n) {
    score *s = user;
    float max = x[0];
    double sum = 0;
    for (int64_t i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int64_t i = 0; i < n; i++) sum += exp((double)(x[i] - max));
    double nll = log(sum) - (double)(x[s->next[row]] - max);
    s->no_number = !isfinite(nll);
    if (s->no_number) return false;
    s->sum += nll;
    s->sum2 += nll * nll;
    s->n++;
    return !cli_interrupted;
}

/* Rows [from, to) of a window predict what follows them. */
static cot_status window(cot_session *s, const int32_t *ids, int32_t n, int32_t from, int32_t to,
                         int32_t first, cot_row *rows, score *sc, cot_error *err) {
    for (int32_t i = 0; i < n; i++)
        rows[i] = (cot_row){i == 0 && first >= 0 ? first : ids[i], 0, COT_ROLE_PROMPT, i >= from && i < to};
    sc->next = ids + 1;
    cot_status st = cot_sequence_cut(s, 0, 0, err);
    return st == COT_OK ? cot_forward(s, rows, (size_t)n, add_row, sc, err) : st;
}

static cot_status measure(cot_session *s, const cot_model *m, const int32_t *ids, size_t n, int32_t ctx,
                          int32_t stride, bool quiet, score *sc, cot_error *err) {
    cot_row *rows = calloc((size_t)ctx, sizeof *rows);
    int32_t first = cot_model_adds_bos(m) ? cot_token_role(m, "bos") : -1;
    cot_status st = rows ? COT_OK : COT_NO_MEMORY;
    if (!stride) {
        size_t windows = n / (size_t)ctx;
        for (size_t w = 0; w < windows && st == COT_OK; w++) {
            st = window(s, ids + w * (size_t)ctx, ctx, ctx / 2, ctx - 1, first, rows, sc, err);
            if (!quiet) cli_progress(NULL, "eval", w + 1, windows);
        }
    } else {
        /* Each window ends `stride` further; what the one before has not scored is scored, given up to ctx
         * before. */
        size_t scored = 0;
        for (size_t end = 0; end < n && st == COT_OK;) {
            size_t begin = end ? end + (size_t)stride - (size_t)ctx : 0;
            if (end && end + (size_t)stride < (size_t)ctx) begin = 0;
            end = end ? end + (size_t)stride : (size_t)ctx;
            if (end > n) end = n;
            int32_t len = (int32_t)(end - begin),
                    from = (int32_t)(scored > begin + 1 ? scored - begin - 1 : 0);
            st = window(s, ids + begin, len, from, len - 1, -1, rows, sc, err);
            scored = end;
            if (!quiet) cli_progress(NULL, "eval", end, n);
        }
    }
    free(rows);
    return st;
}

static int report(const score *sc, const cot_model *m, const cot_residency_info *before, double seconds,
                  const cli_common *c) {
    cot_residency_info after = cli_residency(m);
    double mean = sc->sum / (double)sc->n, ppl = exp(mean);
    double spread =
        sc->n > 1 ? ppl * sqrt(fmax(sc->sum2 / (double)sc->n - mean * mean, 0) / (double)(sc->n - 1)) : 0;
    if (c->json) {
        printf("{\"perplexity\": %.6f, \"stderr\": %.6f, \"tokens\": %lld", ppl, spread, (long long)sc->n);
        cli_memory_json(before, &after, (double)sc->n, seconds);
        puts("}");
        return EXIT_OK;
    }
    printf("perplexity %.4f +/- %.4f over %lld tokens\n", ppl, spread, (long long)sc->n);
    if (!c->quiet) cli_memory_line(before, &after, (double)sc->n, seconds);
    if (c->stats) cli_memory_table(m);
    return EXIT_OK;
}

static int evaluate(const cot_model *m, cot_session_options *so, const char *text, size_t n, int32_t stride,
                    const cli_common *c) {
    cot_error err = {0};
    cot_session *s = NULL;
    int32_t *ids = NULL;
    size_t count = 0;
    score sc = {0};
    so->n_threads = c->threads;
    cot_status st = cot_tokenize(m, text, n, true, false, &ids, &count, &err);
    int code = EXIT_OK;
    if (st == COT_OK && count < 2)
        code = cli_usage("eval: the text has %zu tokens, at least 2 are needed", count);
    else if (st == COT_OK && count < (size_t)so->n_ctx && !stride)
        code = cli_usage(
            "eval: the text has %zu tokens, one window needs %d; give a longer text or a smaller --ctx",
            count, so->n_ctx);
    if (st == COT_OK && code == EXIT_OK) st = cot_session_create(&s, m, so, &err);
    if (st == COT_OK && code == EXIT_OK && !cli_trace_start(c, s)) code = EXIT_FAILED;
    cot_residency_info before = cli_residency(m);
    double start = cot__now();
    if (st == COT_OK && code == EXIT_OK)
        st = measure(s, m, ids, count, so->n_ctx, stride, c->quiet, &sc, &err);
    if (sc.no_number) {
        fprintf(stderr, "error: %s: the logits are not finite numbers; are the weights damaged?\n", c->model);
        code = EXIT_FAILED;
    } else if (st != COT_OK) code = cli_fail(&err);
    else if (code == EXIT_OK) code = report(&sc, m, &before, cot__now() - start, c);
    if (!cli_trace_end() && code == EXIT_OK) code = EXIT_FAILED;
    cot_session_free(&s);
    cot_free(ids);
    return code;
}

int cmd_eval(int argc, char **argv) {
    cli_common c = {0};
    cot_session_options so;
    const char *file = NULL, *words[1];
    int32_t stride = -1;
    int n_words = 1;
    cot_session_defaults(&so);
    so.n_ctx = 512;
    const cli_option options[] = {
        {NULL, 'f', "FILE", "the text; - is standard input", CLI_TEXT, &file},
        {"stride", 0, "N", "overlapping windows that advance by N", CLI_INT, &stride},
        CLI_SESSION(so, "positions of a window (default: 512)"),
        CLI_MEMORY(c),
        {0}};
    int code = cli_parse("eval", argc, argv, options, &c, words, &n_words);
    if (code >= 0) return code;
    if (!file) return cli_usage("eval: -f FILE is needed");
    if (so.n_ctx < 4) return cli_usage("eval: --ctx must be at least 4");
    if (stride == -1) stride = 0; /* not given */
    else if (stride < 1 || stride > so.n_ctx) return cli_usage("eval: --stride must lie in 1…%d", so.n_ctx);
    char *text;
    size_t n;
    if (!cli_read(file, &text, &n)) return EXIT_FAILED;
    cot_model *m = NULL;
    cli_catch_interrupts();
    if ((code = cli_open(&m, &c)) < 0) code = evaluate(m, &so, text, n, stride, &c);
    cot_model_close(&m);
    free(text);
    return code;
}
