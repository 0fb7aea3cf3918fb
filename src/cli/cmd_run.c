/* coterie run: text after a prompt. */
#include <stdlib.h>
#include <string.h>

#include "cli/sampling.h"

bool cli_sampling_done(const char *command, cot_generate_options *g, cli_texts *t) {
    if (g->max_tokens < -1) return cli_usage("%s: -n must be at least 0, or -1 for no limit", command), false;
    if (!(g->sample.temperature >= 0)) return cli_usage("%s: --temp must be at least 0", command), false;
    for (size_t i = 0; i < t->stop.n; i++)
        if (!t->stop.item[i][0]) return cli_usage("%s: --stop needs a text", command), false;
    g->stop = t->stop.item;
    g->n_stop = t->stop.n;
    for (size_t i = 0; i < t->bias.n; i++) {
        char *end;
        const char *item = t->bias.item[i], *equals = strchr(item, '=');
        long id = strtol(item, &end, 10);
        bool ok = equals && end == equals && end > item && id >= 0 && id <= INT32_MAX && equals[1];
        float x = ok ? strtof(equals + 1, &end) : 0;
        if (!ok || *end) {
            cli_usage("%s: --logit-bias takes ID=X, such as 42=-1.5, not \"%s\"", command, t->bias.item[i]);
            return false;
        }
        t->parsed[i] = (cot_logit_bias){(int32_t)id, x};
    }
    g->sample.bias = t->parsed;
    g->sample.n_bias = t->bias.n;
    return true;
}

enum { MAX_BEAMS = 256 };

typedef struct sink {
    bool json;
    char *text;
    size_t n, cap;
    int32_t *ids;
    size_t n_ids, cap_ids;
} sink;

static bool grow(void **p, size_t *cap, size_t need, size_t size) {
    if (need <= *cap) return true;
    size_t to = need * 2;
    void *q = realloc(*p, to * size);
    if (!q) return false;
    *p = q;
    *cap = to;
    return true;
}

static bool put(void *user, const char *text, size_t n, int32_t token) {
    sink *s = user;
    if (!s->json) {
        cli_put(text, n);
        return !cli_interrupted && !ferror(stdout);
    }
    if (!grow((void **)&s->text, &s->cap, s->n + n + 1, 1) ||
        !grow((void **)&s->ids, &s->cap_ids, s->n_ids + 1, sizeof *s->ids))
        return false;
    memcpy(s->text + s->n, text, n);
    s->n += n;
    if (token >= 0) s->ids[s->n_ids++] = token;
    return !cli_interrupted;
}

static const char *reason(cot_stop_reason r) {
    static const char *const names[] = {"end", "stop", "length", "context", "cancelled"};
    return names[r];
}

static void report(const cot_generate_result *r, const sink *s, const cli_common *c, const cot_model *m,
                   const cot_residency_info *before, const cot_session *session) {
    cot_residency_info after = cli_residency(m);
    double tokens = r->prompt_tokens + r->generated_tokens;
    double ps = r->prompt_seconds, gs = r->generate_seconds;
    if (c->json) {
        fputs("{\"text\": ", stdout);
        cli_json_string(stdout, s->text ? s->text : "", s->n);
        fputs(", \"tokens\": [", stdout);
        for (size_t i = 0; i < s->n_ids; i++) printf("%s%d", i ? ", " : "", s->ids[i]);
        printf(
            "], \"prompt_tokens\": %d, \"prompt_ms\": %.3f, \"generated_tokens\": %d, \"generate_ms\": %.3f, \"stop\": \"%s\"",
            r->prompt_tokens, ps * 1e3, r->generated_tokens, gs * 1e3, reason(r->stop));
        if (r->drafted) printf(", \"drafted\": %d, \"accepted\": %d", r->drafted, r->accepted);
        cli_memory_json(before, &after, tokens, ps + gs);
        puts("}");
        return;
    }
    putchar('\n');
    fflush(stdout);
    if (r->stop == COT_STOP_CONTEXT)
        fprintf(stderr, "the context of %d tokens is full; start with a larger --ctx to go on\n",
                cot_session_ctx(session));
    if (!c->quiet)
        fprintf(
            stderr,
            "prompt %d tokens in %.2f s (%.1f/s), generated %d in %.2f s (%.1f/s), %d threads, stopped by %s\n",
            r->prompt_tokens, ps, ps > 0 ? r->prompt_tokens / ps : 0, r->generated_tokens, gs,
            gs > 0 ? r->generated_tokens / gs : 0, cot_session_threads(session), reason(r->stop));
    if (!c->quiet && r->drafted)
        fprintf(stderr, "drafts: %d of %d guessed tokens were right\n", r->accepted, r->drafted);
    if (!c->quiet) cli_memory_line(before, &after, tokens, ps + gs);
    if (c->stats) cli_memory_table(m);
}

/* The prompt's ids: plain text, in which special tokens stay text, or one user message in the chat template,
 * whose special tokens count. The message is the user's own, so it is not searched for them. */
static cot_status encode(const cot_model *m, const char *text, size_t n, bool chat, int32_t **ids,
                         size_t *count, cot_error *err) {
    if (!chat) return cot_tokenize(m, text, n, true, false, ids, count, err);
    char *json = NULL, *prompt = NULL;
    size_t json_len = 0, len = 0;
    FILE *f = open_memstream(&json, &json_len);
    if (!f) return COT_NO_MEMORY;
    fputs("[{\"role\": \"user\", \"content\": ", f);
    cli_json_string(f, text, n);
    fputs("}]", f);
    fclose(f);
    cot_status s = cot_chat_render(m, json, true, &prompt, &len, err);
    if (s == COT_OK) s = cot_tokenize(m, prompt, len, false, true, ids, count, err);
    cot_free(prompt);
    free(json);
    return s;
}

static int generate(const cot_model *m, cot_session_options *so, const cot_generate_options *g,
                    const char *text, size_t n, bool chat, const cli_common *c) {
    cot_error err = {0};
    cot_session *session = NULL;
    int32_t *ids = NULL;
    size_t count = 0;
    sink s = {.json = c->json};
    cot_generate_result r = {0};
    so->n_threads = c->threads;
    so->n_sequences = g->beams > 1 ? 2 * g->beams : 1;
    cot_status st = encode(m, text, n, chat, &ids, &count, &err);
    if (st == COT_OK && count == 0) { /* nothing to go on from: the model's beginning */
        int32_t bos = cot_token_role(m, "bos");
        if (bos < 0) bos = cot_token_role(m, "eos");
        ids = realloc(ids, sizeof *ids);
        if (ids && bos >= 0) ids[count++] = bos;
    }
    if (st == COT_OK) st = cot_session_create(&session, m, so, &err);
    cot_residency_info before = cli_residency(m);
    if (st == COT_OK && !cli_trace_start(c, session)) st = COT_IO;
    if (st == COT_OK) st = cot_generate(session, ids, count, g, put, &s, &r, &err);
    int code = EXIT_OK;
    if (st != COT_OK) code = err.message[0] ? cli_fail(&err) : EXIT_FAILED;
    else {
        report(&r, &s, c, m, &before, session);
        if (cli_interrupted) code = EXIT_INTERRUPTED;
    }
    if (!cli_trace_end() && code == EXIT_OK) code = EXIT_FAILED;
    cot_session_free(&session);
    cot_free(ids);
    free(s.text);
    free(s.ids);
    return code;
}

int cmd_run(int argc, char **argv) {
    cli_common c = {0};
    cot_session_options so;
    cot_generate_options g;
    cli_texts t = {0};
    const char *text = NULL, *file = NULL, *words[1];
    bool chat = false;
    int n_words = 1;
    cot_session_defaults(&so);
    cot_generate_defaults(&g);
    const cli_option options[] = {
        {NULL, 'p', "TEXT", "the prompt", CLI_TEXT, &text},
        {NULL, 'f', "FILE", "a file with the prompt; - is standard input", CLI_TEXT, &file},
        {NULL, 'n', "N", "at most N tokens (default: until the end or a full context)", CLI_INT,
         &g.max_tokens},
        CLI_SAMPLING(g, t),
        {"beams", 0, "N", "beam search over N beams", CLI_INT, &g.beams},
        {"groups", 0, "N", "groups of a diverse beam search", CLI_INT, &g.beam_groups},
        {"diversity", 0, "X", "penalty between groups", CLI_FLOAT, &g.diversity},
        {"length-penalty", 0, "X", "exponent of the length that a beam's score is divided by", CLI_FLOAT,
         &g.length_penalty},
        CLI_SESSION(so, CLI_POSITIONS),
        CLI_MEMORY(c),
        {"chat", 0, NULL, "put the prompt into the model's chat template", CLI_FLAG, &chat},
        {0}};
    int code = cli_parse("run", argc, argv, options, &c, words, &n_words);
    if (code >= 0) return code;
    if (text && file) return cli_usage("run: -p and -f exclude each other");
    if (!cli_sampling_done("run", &g, &t)) return EXIT_USAGE;
    if (g.beams < 1 || g.beams > MAX_BEAMS) return cli_usage("run: --beams must lie in 1…%d", MAX_BEAMS);
    if (g.beam_groups < 1 || g.beams % g.beam_groups)
        return cli_usage("run: --groups: %d beams do not make %d equal groups", g.beams, g.beam_groups);
    char *read = NULL;
    size_t n = text ? strlen(text) : 0;
    if (file && !cli_read(file, &read, &n)) return EXIT_FAILED;
    g.progress = c.quiet ? cli_silent : cli_progress;
    cot_model *m = NULL;
    cli_catch_interrupts();
    if ((code = cli_open(&m, &c)) < 0)
        code = generate(m, &so, &g, text ? text : read ? read : "", n, chat, &c);
    cot_model_close(&m);
    free(read);
    return code;
}
