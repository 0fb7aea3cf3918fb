/* coterie logits: the truth command: F32 activations, F32 cache, every row. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"

typedef struct out {
    cot__writer *w;
    cot_error *err;
    bool failed;
} out;

static bool put_row(void *user, size_t row, const float *logits, int64_t n) {
    out *o = user;
    o->failed = cot__writer_put(o->w, logits, (size_t)n * sizeof *logits, o->err) != COT_OK;
    return !o->failed && !cli_interrupted;
}

/* The header of a NumPy file, version 1.0: a dictionary padded to a multiple of 64 bytes. */
static cot_status npy_header(cot__writer *w, size_t rows, size_t cols, cot_error *err) {
    char text[192];
    int n = snprintf(text + 10, sizeof text - 10,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }", rows, cols);
    size_t total = ((size_t)n + 10 + 1 + 63) / 64 * 64;
    memcpy(text, "\x93NUMPY\x01\x00", 8);
    text[8] = (char)((total - 10) & 255);
    text[9] = (char)((total - 10) >> 8);
    memset(text + 10 + n, ' ', total - 10 - (size_t)n);
    text[total - 1] = '\n';
    return cot__writer_put(w, text, total, err);
}

static cot_status write_logits(const cot_model *m, const int32_t *ids, size_t n, const cli_common *c,
                               const char *path, cot_error *err) {
    cot_session_options so;
    cot_session *s = NULL;
    cot_model_info info;
    out o = {.err = err};
    cot_model_get_info(m, &info);
    cot_session_defaults(&so);
    so.n_ctx = (int32_t)n;
    so.kv_type = COT_F32;
    so.activation = COT_ACTIVATION_F32;
    so.n_threads = c->threads;
    cot_row *rows = calloc(n, sizeof *rows);
    cot_status st = rows ? cot_session_create(&s, m, &so, err) : COT_NO_MEMORY;
    for (size_t i = 0; rows && i < n; i++) rows[i] = (cot_row){ids[i], 0, COT_ROLE_PROMPT, true};
    if (st == COT_OK) st = cot__writer_open(&o.w, path, err);
    if (st == COT_OK) st = npy_header(o.w, n, (size_t)info.n_vocab, err);
    if (st == COT_OK) st = cot_forward(s, rows, n, put_row, &o, err);
    if (st == COT_OK) st = cot__writer_commit(&o.w, err);
    cot__writer_abort(&o.w);
    cot_session_free(&s);
    free(rows);
    return st;
}

int cmd_logits(int argc, char **argv) {
    cli_common c = {0};
    const char *tokens = NULL, *path = NULL, *words[1];
    int n_words = 1;
    const cli_option options[] = {
        {"tokens", 0, "IDS", "token ids such as 1,2,3", CLI_TEXT, &tokens},
        {NULL, 'o', "FILE", "NumPy file to write: float32 [tokens, vocabulary]", CLI_TEXT, &path},
        {0}};
    int code = cli_parse("logits", argc, argv, options, &c, words, &n_words);
    if (code >= 0) return code;
    if (!tokens || !path) return cli_usage("logits: --tokens and -o are needed");
    int32_t *ids;
    size_t n;
    if (!cli_ids(tokens, &ids, &n)) return EXIT_USAGE;
    cot_model *m = NULL;
    cot_error err = {0};
    cli_catch_interrupts();
    if (n == 0) code = cli_usage("logits: --tokens is empty");
    else if ((code = cli_open(&m, &c)) < 0)
        code = write_logits(m, ids, n, &c, path, &err) == COT_OK ? EXIT_OK : cli_fail(&err);
    if (code == EXIT_OK && c.json)
        printf("{\"tokens\": %zu, \"file\": ", n), cli_json_string(stdout, path, strlen(path)), printf("}\n");
    cot_model_close(&m);
    free(ids);
    return code;
}
