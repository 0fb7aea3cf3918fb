/* coterie tokenize, coterie detokenize: text to ids and back. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static void print_ids(const cot_model *m, const int32_t *ids, size_t n, bool json) {
    if (json) fputs("{\"tokens\": [", stdout);
    for (size_t i = 0; i < n; i++) printf("%s%d", i ? json ? ", " : "," : "", ids[i]);
    if (json) {
        fputs("], \"pieces\": [", stdout);
        for (size_t i = 0; i < n; i++) {
            size_t len;
            const char *p = cot_token_piece(m, ids[i], true, &len);
            if (i) fputs(", ", stdout);
            cli_json_string(stdout, p ? p : "", len);
        }
        fputs("]}", stdout);
    }
    putchar('\n');
}

int cmd_tokenize(int argc, char **argv) {
    cli_common c = {0};
    const char *text = NULL, *file = NULL, *words[1];
    bool special = false;
    int n_words = 1;
    const cli_option options[] = {
        {NULL, 'p', "TEXT", "the text", CLI_TEXT, &text},
        {NULL, 'f', "FILE", "a file with the text; - is standard input", CLI_TEXT, &file},
        {"special", 0, NULL, "special tokens in the text become their ids", CLI_FLAG, &special},
        {0}};
    int code = cli_parse("tokenize", argc, argv, options, &c, words, &n_words);
    if (code >= 0) return code;
    if (!text == !file) return cli_usage("tokenize: one of -p TEXT and -f FILE is needed");
    char *read = NULL;
    size_t n = text ? strlen(text) : 0, count;
    if (file && !cli_read(file, &read, &n)) return EXIT_FAILED;
    cot_model *m = NULL;
    cot_error err = {0};
    int32_t *ids = NULL;
    if ((code = cli_open(&m, &c)) < 0) {
        if (cot_tokenize(m, text ? text : read, n, true, special, &ids, &count, &err) == COT_OK) {
            print_ids(m, ids, count, c.json);
            code = EXIT_OK;
        } else code = cli_fail(&err);
    }
    cot_free(ids);
    cot_model_close(&m);
    free(read);
    return code;
}

int cmd_detokenize(int argc, char **argv) {
    cli_common c = {0};
    const char *tokens = NULL, *words[1];
    int n_words = 1;
    const cli_option options[] = {{"tokens", 0, "IDS", "token ids such as 1,2,3", CLI_TEXT, &tokens}, {0}};
    int code = cli_parse("detokenize", argc, argv, options, &c, words, &n_words);
    if (code >= 0) return code;
    if (!tokens) return cli_usage("detokenize: --tokens is needed");
    int32_t *ids;
    size_t n, len;
    char *text = NULL;
    if (!cli_ids(tokens, &ids, &n)) return EXIT_USAGE;
    cot_model *m = NULL;
    cot_error err = {0};
    if ((code = cli_open(&m, &c)) < 0) {
        if (cot_detokenize(m, ids, n, true, &text, &len, &err) != COT_OK) code = cli_fail(&err);
        else {
            if (c.json) fputs("{\"text\": ", stdout), cli_json_string(stdout, text, len), puts("}");
            else fwrite(text, 1, len, stdout);
            if (!c.json && isatty(STDOUT_FILENO))
                putchar('\n'); /* a terminal wants a line; a file the bytes */
            code = EXIT_OK;
        }
    }
    cot_free(text);
    cot_model_close(&m);
    free(ids);
    return code;
}
