/* coterie pack: a GGUF file laid out for streaming. */
#include <coterie/convert.h>

#include "cli/cli.h"

int cmd_pack(int argc, char **argv) {
    cli_common c = {0};
    const char *words[2];
    cot_error err;
    int n_words = 2;
    const cli_option options[] = {{0}};
    int code = cli_parse("pack", argc, argv, options, &c, words, &n_words);
    if (code >= 0) return code;
    if (!c.model || n_words != 1) return cli_usage("pack: two names are needed: IN OUT");
    cli_catch_interrupts();
    if (cot_pack(c.model, words[0], c.quiet ? NULL : cli_progress, NULL, &err) != COT_OK)
        return cli_fail(&err);
    if (c.json) {
        printf("{\"out\": ");
        cli_json_string(stdout, words[0], __builtin_strlen(words[0]));
        puts("}");
    }
    return EXIT_OK;
}
