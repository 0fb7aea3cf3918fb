/* coterie convert: another container, another number format, or a dense model made sparse. */
#include <string.h>

#include <coterie/convert.h>

#include "base/pool.h"
#include "cli/cli.h"

/* Reads the name of a number format; false after a message. */
static bool type_of(const char *option, const char *text, cot_type *out) {
    if (!text) return true;
    *out = cot_type_from_name(text);
    if (*out != COT_TYPE_NONE) return true;
    cli_usage("convert: --%s: \"%s\" is no number format; f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k "
              "q4_k q5_k q6_k mxfp4",
              option, text);
    return false;
}

int cmd_convert(int argc, char **argv) {
    cli_common c = {0};
    const char *words[2], *type = NULL, *experts = NULL, *attention = NULL, *head = NULL;
    int n_words = 2;
    cot_convert_options o;
    cot_convert_defaults(&o);
    const cli_option options[] = {
        {"type", 0, "TYPE", "number format of the weights", CLI_TEXT, &type},
        {"type-experts", 0, "TYPE", "number format of routed experts", CLI_TEXT, &experts},
        {"type-attention", 0, "TYPE", "number format of attention", CLI_TEXT, &attention},
        {"type-head", 0, "TYPE", "number format of embedding and output", CLI_TEXT, &head},
        {"split-experts", 0, "N", "cut dense feed-forward blocks into N experts", CLI_INT, &o.split_experts},
        {"experts-used", 0, "K", "experts per token after a split (default: all but an eighth)", CLI_INT,
         &o.experts_used},
        {"pre", 0, "NAME", "pre-tokenizer to name in GGUF where none is found", CLI_TEXT, &o.pre},
        {0}};
    int code = cli_parse("convert", argc, argv, options, &c, words, &n_words);
    if (code >= 0) return code;
    if (!c.model || n_words != 1) return cli_usage("convert: IN and OUT are needed");
    if (!type_of("type", type, &o.type) || !type_of("type-experts", experts, &o.type_experts) ||
        !type_of("type-attention", attention, &o.type_attention) || !type_of("type-head", head, &o.type_head))
        return EXIT_USAGE;
    o.arch_file = c.arch;
    o.n_threads = c.threads;
    cli_catch_interrupts();
    o.progress = c.quiet ? cli_silent : cli_progress;
    cot_error err;
    double start = cot__now();
    if (cot_convert(c.model, words[0], &o, &err) != COT_OK) return cli_fail(&err);
    if (c.json) {
        printf("{\"in\": "), cli_json_string(stdout, c.model, strlen(c.model));
        printf(", \"out\": "), cli_json_string(stdout, words[0], strlen(words[0]));
        printf(", \"seconds\": %.3f}\n", cot__now() - start);
    } else if (!c.quiet) fprintf(stderr, "%s written in %.1f s\n", words[0], cot__now() - start);
    return EXIT_OK;
}
