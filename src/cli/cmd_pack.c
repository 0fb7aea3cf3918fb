/* coterie pack: a GGUF file laid out for streaming, with lower precisions of its experts if wanted. */
#include <string.h>

#include <coterie/convert.h>

#include "cli/cli.h"

/* "q2_k,q3_k"; false after a message. */
static bool read_tiers(const char *text, cot_pack_options *o) {
    while (*text) {
        char name[32];
        size_t n = strcspn(text, ",");
        snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), text);
        if (o->n_tiers == COT_PACK_TIERS) {
            cli_usage("pack: --tiers: at most %d", COT_PACK_TIERS);
            return false;
        }
        if ((o->tiers[o->n_tiers++] = cot_type_from_name(name)) == COT_TYPE_NONE) {
            cli_usage("pack: --tiers: \"%s\" is no number format; try q2_k, q3_k or q4_0", name);
            return false;
        }
        text += n + (text[n] == ',');
    }
    return true;
}

int cmd_pack(int argc, char **argv) {
    cli_common c = {0};
    const char *words[2], *tiers = "";
    cot_error err;
    int n_words = 2;
    cot_pack_options o;
    cot_pack_defaults(&o);
    const cli_option options[] = {
        {"tiers", 0, "TYPES", "also write every expert in these lower precisions, such as q2_k,q3_k",
         CLI_TEXT, &tiers},
        {"repack", 0, NULL, "put experts in the order that the kernels read fastest", CLI_FLAG, &o.repack},
        {0}};
    int code = cli_parse("pack", argc, argv, options, &c, words, &n_words);
    if (code >= 0) return code;
    if (!c.model || n_words != 1) return cli_usage("pack: two names are needed: IN OUT");
    if (!read_tiers(tiers, &o)) return EXIT_USAGE;
    cli_catch_interrupts();
    o.n_threads = c.threads;
    o.progress = c.quiet ? cli_silent : cli_progress;
    if (cot_pack(c.model, words[0], &o, &err) != COT_OK) return cli_fail(&err);
    if (c.json) {
        printf("{\"out\": ");
        cli_json_string(stdout, words[0], strlen(words[0]));
        puts("}");
    }
    return EXIT_OK;
}
