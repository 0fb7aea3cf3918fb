/* Example: lets a model continue a prompt and draws which experts worked, one line per router, darker for
 * more often.
 *
 *     experts_picture MODEL PROMPT [TOKENS] [EXPERTS] [MEMORY]
 *
 * Text on standard output; timing and picture on standard error. EXPERTS: how many each router may choose
 * (the model's own number when absent or 0). MEMORY: most MiB that the process may have resident; experts
 * that do not fit come from the disk when they are chosen. Shows the route record: cot_session_observe hands
 * out what every router decided, as plain data. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/session.h>

enum { MAX_SITES = 512, COLUMNS = 64 };

/* How often each expert was chosen, per router; experts beyond the columns share one. */
typedef struct picture {
    uint64_t count[MAX_SITES][COLUMNS];
    int layer[MAX_SITES], experts[MAX_SITES];
    int sites;
} picture;

static void look(void *user, const cot_route *r) {
    picture *p = user;
    if (r->site < 0 || r->site >= MAX_SITES) return;
    if (r->site >= p->sites) p->sites = r->site + 1;
    p->layer[r->site] = r->layer;
    p->experts[r->site] = r->n_experts;
    for (int32_t i = r->first[0]; i < r->first[r->n_units]; i++)
        p->count[r->site]
                [r->n_experts <= COLUMNS ? r->ids[i] : (int64_t)r->ids[i] * COLUMNS / r->n_experts]++;
}

static bool write_text(void *user, const char *text, size_t n, int32_t token) {
    return fwrite(text, 1, n, stdout) == n && fflush(stdout) == 0;
}

static void draw(const picture *p) {
    static const char *const shade[] = {" ", "·", "░", "▒", "▓", "█"};
    if (p->sites == 0) fprintf(stderr, "This model is dense: it has no experts to show.\n");
    else
        fprintf(stderr, "Which experts worked (a line per layer, a column per expert, darker: more often)\n");
    for (int s = 0; s < p->sites; s++) {
        uint64_t most = 1;
        int columns = p->experts[s] < COLUMNS ? p->experts[s] : COLUMNS;
        for (int e = 0; e < columns; e++)
            if (p->count[s][e] > most) most = p->count[s][e];
        fprintf(stderr, "%4d |", p->layer[s]);
        for (int e = 0; e < columns; e++) {
            int level = (int)((p->count[s][e] * 5 + most - 1) / most);
            for (int wide = columns <= 16 ? 3 : 1; wide > 0; wide--) fputs(shade[level], stderr);
        }
        fprintf(stderr, "|\n");
    }
}

/* Where the experts were when a budget was set. */
static void tell_memory(const cot_model *model) {
    cot_residency_info r = {.struct_size = sizeof r};
    if (cot_model_get_residency(model, -1, &r, NULL) != COT_OK || !r.acquired) return;
    fprintf(stderr, "memory: at most %.0f MiB", (double)r.memory / (1 << 20));
    if (r.io[0])
        fprintf(
            stderr,
            "; room for %.0f %% of the experts, %.0f %% of those chosen were there, %.1f MiB came from disk",
            100.0 * (double)r.expert_capacity / (double)r.expert_total,
            100.0 * (double)r.hits / (double)r.acquired, (double)r.bytes_read / (1 << 20));
    else fputs("; all experts fit", stderr);
    fputc('\n', stderr);
}

static int failed(const cot_error *e) {
    fprintf(stderr, "%s\n", e->message);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL PROMPT [TOKENS] [EXPERTS] [MEMORY]\n", argv[0]);
        return 2;
    }
    cot_error e;
    cot_model *model = NULL;
    cot_session *session = NULL;
    cot_session_options options;
    cot_session_defaults(&options);
    if (argc > 4) options.experts_used = (int32_t)strtol(argv[4], NULL, 10);
    cot_model_options where;
    cot_model_defaults(&where);
    if (argc > 5) where.memory = strtoull(argv[5], NULL, 10) << 20, options.n_ctx = 512;
    if (cot_model_open(&model, argv[1], &where, &e) != COT_OK) return failed(&e);
    if (cot_session_create(&session, model, &options, &e) != COT_OK) {
        cot_model_close(&model);
        return failed(&e);
    }
    picture *p = calloc(1, sizeof *p);
    if (p) cot_session_observe(session, look, p);

    cot_generate_options how;
    cot_generate_result result = {0};
    cot_generate_defaults(&how);
    how.max_tokens = argc > 3 ? (int32_t)strtol(argv[3], NULL, 10) : 64;
    how.sample.seed = 1;
    how.sample.temperature = 0.7f;
    how.sample.repetition_penalty = 1.1f;
    int32_t first[] = {1}, *ids = NULL; /* a model without a tokenizer starts from some token */
    size_t n = 0;
    cot_status s = COT_OK;
    if (argv[2][0] &&
        (s = cot_tokenize(model, argv[2], strlen(argv[2]), true, false, &ids, &n, &e)) == COT_OK)
        fputs(argv[2], stdout);
    if (s == COT_OK)
        s = cot_generate(session, n ? ids : first, n ? n : 1, &how, write_text, NULL, &result, &e);
    fputc('\n', stdout);
    if (s == COT_OK)
        fprintf(stderr, "\nprompt: %d tokens, %.1f a second; text: %d tokens, %.1f a second\n",
                (int)result.prompt_tokens, result.prompt_tokens / (result.prompt_seconds + 1e-9),
                (int)result.generated_tokens, result.generated_tokens / (result.generate_seconds + 1e-9));
    if (s == COT_OK && argc > 5) tell_memory(model);
    if (s == COT_OK && p) draw(p);
    int code = s == COT_OK ? 0 : failed(&e);
    free(p);
    cot_free(ids);
    cot_session_free(&session);
    cot_model_close(&model);
    return code;
}
