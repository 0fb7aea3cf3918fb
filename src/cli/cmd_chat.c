/* coterie chat: a conversation. Every turn renders the whole conversation by the model's template; what the
 * session already holds of it is kept, so that only new tokens are computed. */
#include <histedit.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/sampling.h"

typedef struct talk {
    const cot_model *m;
    cot_session *session;
    cot_generate_options g;
    char *messages; /* the JSON list without its closing bracket */
    size_t n_messages, cap;
    char *answer;
    size_t n_answer, cap_answer;
    bool quiet, json, stats;
} talk;

static bool append(char **to, size_t *n, size_t *cap, const char *s, size_t len) {
    if (*n + len + 1 > *cap) {
        size_t c = (*n + len + 1) * 2;
        char *p = realloc(*to, c);
        if (!p) return false;
        *to = p;
        *cap = c;
    }
    memcpy(*to + *n, s, len);
    *n += len;
    (*to)[*n] = 0;
    return true;
}

static bool add_message(talk *t, const char *role, const char *text, size_t n) {
    char *json = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&json, &len);
    if (!f) return false;
    fprintf(f, "%s{\"role\": \"%s\", \"content\": ", t->n_messages > 1 ? ", " : "", role);
    cli_json_string(f, text, n);
    fputs("}", f);
    fclose(f);
    bool ok = append(&t->messages, &t->n_messages, &t->cap, json, len);
    free(json);
    return ok;
}

static void forget(talk *t) {
    t->n_messages = 0;
    append(&t->messages, &t->n_messages, &t->cap, "[", 1);
    cot_sequence_cut(t->session, 0, 0, NULL);
}

static bool put(void *user, const char *text, size_t n, int32_t token) {
    talk *t = user;
    if (!t->json) {
        cli_put(text, n);
    }
    return append(&t->answer, &t->n_answer, &t->cap_answer, text, n) && !cli_interrupted;
}

/* Keeps the common beginning of what the session holds and what the conversation now reads. */
static size_t reuse(talk *t, const int32_t *ids, size_t n) {
    size_t held, same = 0;
    const int32_t *have = cot_sequence_tokens(t->session, 0, &held);
    while (same < held && same + 1 < n && have[same] == ids[same]) same++;
    cot_sequence_cut(t->session, 0, (int32_t)same, NULL);
    return same;
}

static void report(const talk *t, const cot_generate_result *r) {
    if (t->json) {
        fputs("{\"text\": ", stdout);
        cli_json_string(stdout, t->answer ? t->answer : "", t->n_answer);
        printf(
            ", \"prompt_tokens\": %d, \"prompt_ms\": %.3f, \"generated_tokens\": %d, \"generate_ms\": %.3f}\n",
            r->prompt_tokens, r->prompt_seconds * 1e3, r->generated_tokens, r->generate_seconds * 1e3);
        fflush(stdout);
        return;
    }
    putchar('\n');
    if (r->stop == COT_STOP_CONTEXT)
        fprintf(stderr, "(the context is full: /clear starts anew, or start with a larger --ctx)\n");
    if (!t->quiet)
        fprintf(stderr, "(%d tokens, %.1f/s)\n", r->generated_tokens,
                r->generate_seconds > 0 ? r->generated_tokens / r->generate_seconds : 0);
}

static cot_status answer(talk *t, cot_error *err) {
    char *prompt = NULL;
    size_t len = 0, n = 0, start = t->n_messages;
    int32_t *ids = NULL;
    cot_generate_result r = {0};
    cot_residency_info before = cli_residency(t->m);
    if (!append(&t->messages, &t->n_messages, &t->cap, "]", 1)) return COT_NO_MEMORY;
    cot_status s = cot_chat_render(t->m, t->messages, true, &prompt, &len, err);
    t->messages[t->n_messages = start] = 0;
    if (s == COT_OK) s = cot_tokenize(t->m, prompt, len, false, true, &ids, &n, err);
    t->n_answer = 0;
    cli_interrupted = 0;
    if (s == COT_OK) {
        size_t same = reuse(t, ids, n);
        s = cot_generate(t->session, ids + same, n - same, &t->g, put, t, &r, err);
    }
    if (s == COT_OK) report(t, &r);
    if (s == COT_OK && !t->quiet && !t->json) {
        cot_residency_info after = cli_residency(t->m);
        cli_memory_line(&before, &after, r.prompt_tokens + r.generated_tokens,
                        r.prompt_seconds + r.generate_seconds);
        if (t->stats) cli_memory_table(t->m);
    }
    if (s == COT_OK && !add_message(t, "assistant", t->answer ? t->answer : "", t->n_answer))
        s = COT_NO_MEMORY;
    cot_free(prompt);
    cot_free(ids);
    return s;
}

/* One turn. What fails because of what was said (a context that is too small, a template that refuses it, an
 * interrupt while reading) is told, the message is taken back, and the conversation goes on where somebody
 * sits at it. */
static bool turn(talk *t, const char *text, size_t n, int *code) {
    size_t before = t->n_messages;
    cot_error err = {0};
    if (!add_message(t, "user", text, n)) {
        fprintf(stderr, "error: out of memory\n");
        *code = EXIT_FAILED;
        return false;
    }
    cot_status s = answer(t, &err);
    bool interrupted = s == COT_CANCELLED;
    if (interrupted) fprintf(stderr, "\n(interrupted)\n");
    else if (s != COT_OK) *code = cli_fail(&err);
    cli_interrupted = 0;
    if (s == COT_OK) return true;
    t->messages[t->n_messages = before] = 0;
    if (!isatty(STDIN_FILENO)) return interrupted;
    if (s == COT_CONTEXT_FULL) fprintf(stderr, "(/clear starts anew)\n");
    *code = EXIT_OK;
    return s != COT_NO_MEMORY && s != COT_INTERNAL && s != COT_IO;
}

static const char *prompt_text(EditLine *el) { return "> "; }

/* Returns false when the conversation is over. */
static bool command(talk *t, const char *line) {
    if (strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0) return false;
    if (strcmp(line, "/clear") == 0) forget(t);
    else if (strncmp(line, "/system ", 8) == 0)
        forget(t), add_message(t, "system", line + 8, strlen(line + 8));
    else if (strcmp(line, "/help") == 0)
        puts(
            "/help    this text\n/clear   forget the conversation\n/system TEXT   start anew with a system message\n/exit    leave (or end of input)\nCtrl-C stops an answer");
    else printf("%s is no command; /help lists them\n", line);
    return true;
}

static int converse(talk *t) {
    EditLine *el = el_init("coterie", stdin, stdout, stderr);
    History *h = history_init();
    HistEvent ev;
    int code = EXIT_OK, n;
    const char *line;
    if (!el || !h) return cli_usage("chat: the terminal cannot be opened");
    history(h, &ev, H_SETSIZE, 500);
    el_set(el, EL_PROMPT, prompt_text);
    el_set(el, EL_EDITOR, "emacs");
    el_set(el, EL_HIST, history, h);
    el_set(el, EL_SIGNAL, 1);
    while ((line = el_gets(el, &n)) != NULL || cli_interrupted) {
        if (cli_interrupted || !line) {
            cli_interrupted = 0;
            putchar('\n');
            if (!line) continue;
        }
        size_t len = (size_t)(n > 0 ? n : 0);
        while (len && (line[len - 1] == '\n' || line[len - 1] == '\r')) len--;
        if (!len) continue;
        char *text = malloc(len + 1);
        if (!text) break;
        memcpy(text, line, len);
        text[len] = '\0';
        history(h, &ev, H_ENTER, line);
        bool go_on = true;
        go_on = text[0] == '/' ? command(t, text) : turn(t, text, len, &code);
        free(text);
        if (!go_on) break;
    }
    history_end(h);
    el_end(el);
    return code;
}

int cmd_chat(int argc, char **argv) {
    cli_common c = {0};
    cot_session_options so;
    talk t = {0};
    cli_texts texts = {0};
    const char *words[1];
    int n_words = 1;
    cot_session_defaults(&so);
    cot_generate_defaults(&t.g);
    const cli_option options[] = {{NULL, 'n', "N", "at most N tokens in an answer", CLI_INT, &t.g.max_tokens},
                                  CLI_SAMPLING(t.g, texts),
                                  CLI_SESSION(so, CLI_POSITIONS),
                                  CLI_MEMORY(c),
                                  {0}};
    int code = cli_parse("chat", argc, argv, options, &c, words, &n_words);
    if (code >= 0) return code;
    if (!cli_sampling_done("chat", &t.g, &texts)) return EXIT_USAGE;
    cot_model *m = NULL;
    cot_error err = {0};
    so.n_threads = c.threads;
    t.quiet = c.quiet;
    t.json = c.json;
    t.g.progress = c.quiet ? cli_silent : cli_progress;
    t.stats = c.stats;
    cli_catch_interrupts();
    if ((code = cli_open(&m, &c)) < 0) {
        t.m = m;
        int32_t *none = NULL;
        size_t n;
        cot_status s = cot_tokenize(m, "", 0, false, false, &none, &n, &err); /* a model without text? */
        cot_free(none);
        if (s == COT_OK) s = cot_session_create(&t.session, m, &so, &err);
        if (s != COT_OK) code = cli_fail(&err);
        else if (!cli_trace_start(&c, t.session)) code = EXIT_FAILED;
        else {
            forget(&t);
            if (!c.quiet && isatty(STDIN_FILENO))
                fprintf(stderr, "Type a message; /help lists the commands.\n");
            code = converse(&t);
        }
    }
    if (!cli_trace_end() && code == EXIT_OK) code = EXIT_FAILED;
    cot_session_free(&t.session);
    cot_model_close(&m);
    free(t.messages);
    free(t.answer);
    return code;
}
