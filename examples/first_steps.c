/* Example: load a model, generate, read route records: the smallest useful program. first_steps MODEL PROMPT
 */
#include <stdio.h>
#include <string.h>

#include <coterie/session.h>

static void on_route(void *user, const cot_route *r) { /* what one router decided for the rows of one pass */
    if (r->n_units == 1 && r->layer == 0)
        fprintf(stderr, "[layer 0: expert %d of %d weighs %.2f]\n", (int)r->ids[0], (int)r->n_experts,
                r->weights[0]);
}

static bool on_text(void *user, const char *text, size_t n, int32_t token) {
    return fwrite(text, 1, n, stdout) == n;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    cot_error err = {0};
    cot_model *model = NULL;
    cot_session *session = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    cot_generate_options how;
    cot_generate_defaults(&how);
    how.max_tokens = 32;
    if (cot_model_open(&model, argv[1], NULL, &err) == COT_OK &&
        cot_session_create(&session, model, NULL, &err) == COT_OK &&
        cot_tokenize(model, argv[2], strlen(argv[2]), true, false, &ids, &n, &err) == COT_OK) {
        cot_session_observe(session, on_route, NULL);
        cot_generate(session, ids, n, &how, on_text, NULL, NULL, &err);
    }
    if (err.status) fprintf(stderr, "%s\n", err.message);
    cot_free(ids);
    cot_session_free(&session);
    cot_model_close(&model);
    return err.status != COT_OK;
}
