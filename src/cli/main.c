/* The one binary: finds the command and hands over. */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"

const cli_command cli_commands[] = {
    {"run", "MODEL [-p TEXT | -f FILE] [options]", "write text after a prompt", cmd_run},
    {"chat", "MODEL [options]", "talk to a model", cmd_chat},
    {"logits", "MODEL --tokens 1,2,3 -o OUT.npy", "write the exact logits of given tokens", cmd_logits},
    {"tokenize", "MODEL -p TEXT | -f FILE", "text to token ids", cmd_tokenize},
    {"detokenize", "MODEL --tokens 1,2,3", "token ids to text", cmd_detokenize},
    {"eval", "MODEL -f FILE", "measure perplexity on a text", cmd_eval},
    {"inspect", "MODEL [--tensors]", "say what a model is and what it will need", cmd_inspect},
    {"bench", "MODEL [options]", "measure speed beside the machine's limits", cmd_bench},
    {"convert", "IN OUT [options]", "change the container or number format of a model", cmd_convert},
    {"plan", "MODEL [options]", "say where a model's bytes go and how fast it will be", cmd_plan},
    {"pack", "IN OUT", "lay a model out for streaming", cmd_pack},
    {"replay", "TRACE [options]", "try policies of the expert cache on recorded routing", cmd_replay},
    {NULL, NULL, NULL, NULL},
};

static int help(FILE *f) {
    fprintf(
        f,
        "coterie %s: run, measure and convert Mixture-of-Experts language models\n\nusage: coterie COMMAND [options]\n\n",
        cot_version());
    for (const cli_command *c = cli_commands; c->name; c++) fprintf(f, "  %-11s %s\n", c->name, c->summary);
    fprintf(
        f,
        "\nMODEL is a GGUF file, the first of a split, or a Hugging Face folder.\n\"coterie COMMAND --help\" lists a command's options.\n");
    return f == stdout ? EXIT_OK : EXIT_USAGE;
}

static void log_line(void *user, cot_log_level level, const char *line) {
    fprintf(stderr, "%s%s\n", level >= COT_LOG_WARN ? "warning: " : "", line);
}

/* What was printed has arrived, or the command failed. */
static int printed(int code) {
    if (cli_ever_interrupted) clearerr(stdout); /* an interrupt may have stopped a write */
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    fprintf(stderr, "error: standard output: cannot write: %s\n", strerror(errno));
    return code == EXIT_OK ? EXIT_FAILED : code;
}

int main(int argc, char **argv) {
    if (argc < 2) return help(stderr);
    if (strcmp(argv[1], "--version") == 0) {
        printf("coterie %s\n", cot_version());
        return printed(EXIT_OK);
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
        return printed(help(stdout));
    bool quiet = false, verbose = false;
    for (int i = 2; i < argc; i++)
        quiet |= strcmp(argv[i], "--quiet") == 0, verbose |= strcmp(argv[i], "--verbose") == 0;
    if (!quiet) cot_log_set(log_line, NULL, verbose ? COT_LOG_DEBUG : COT_LOG_WARN);
    for (const cli_command *c = cli_commands; c->name; c++)
        if (strcmp(c->name, argv[1]) == 0) return printed(c->run(argc - 1, argv + 1));
    return cli_usage("no command is named \"%s\"; \"coterie --help\" lists them", argv[1]);
}
