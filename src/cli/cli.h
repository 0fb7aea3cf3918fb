/* What the commands share: options, messages, opening a model, progress, numbers and JSON on the way out. */
#ifndef COT_CLI_H
#define COT_CLI_H

#include <coterie/session.h>

#include <stdio.h>

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

/* One option of a command. `name` without dashes; `letter` 0: none. `value` names its argument; NULL: a flag.
 */
typedef struct cli_option {
    const char *name;
    char letter;
    const char *value, *help;
    enum { CLI_TEXT, CLI_FLAG, CLI_INT, CLI_FLOAT, CLI_U64, CLI_KV, CLI_ACT, CLI_LIST, CLI_SIZE } kind;
    void *to; /* const char *, bool, int32_t, float, uint64_t, cot_type, cot_activation, cli_list, uint64_t */
} cli_option;

typedef struct cli_list {
    const char *item[32];
    size_t n;
} cli_list;

/* Settings that every command has. */
typedef struct cli_common {
    const char *model, *arch;
    int32_t threads;
    bool json, quiet, verbose, help, stats, repack;
    uint64_t memory; /* 0: not given */
    const char *residency, *retention, *predict, *trace, *lossy;
} cli_common;

typedef struct cli_command {
    const char *name, *usage, *summary;
    int (*run)(int argc, char **argv);
} cli_command;
extern const cli_command cli_commands[];

/* Parses argv[1 …]: options of the table and the common ones anywhere; positional words fill words[]
 * (`*n_words` in: capacity, out: count; the model is words[0] unless -m gave it). Returns −1 to go on, else
 * the exit code. */
int cli_parse(const char *command, int argc, char **argv, const cli_option *options, cli_common *common,
              const char **words, int *n_words);

int cli_fail(const cot_error *err);                                        /* prints the message, returns 1 */
int cli_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* prints, returns 2 */

/* Opens the model with progress on a terminal; prints the error itself. */
int cli_open(cot_model **out, const cli_common *c);
bool cli_progress(void *user, const char *what, uint64_t done, uint64_t total);
/* Shows nothing and stops at an interrupt all the same: what --quiet takes instead. */
bool cli_silent(void *user, const char *what, uint64_t done, uint64_t total);
/* Interrupts set this; commands stop at the next chance. A second interrupt ends the process. */
extern volatile int cli_interrupted, cli_ever_interrupted; /* the second is never taken back */
void cli_catch_interrupts(void);

/* "1,2,3" to ids, freed by free. Returns false after a message. */
bool cli_ids(const char *text, int32_t **ids, size_t *n);
/* Text to standard output at once; an interrupt in between loses nothing. */
void cli_put(const char *text, size_t n);
/* A whole file, or standard input for "-"; freed by free. */
bool cli_read(const char *path, char **text, size_t *n);

/* Options of commands that compute: where the weights are (memory.c). */
#define CLI_MEMORY(c)                                                                                          \
    {"memory", 0,          "SIZE", "most memory for everything, such as 8GiB (default: what is free)",         \
     CLI_SIZE, &(c).memory},                                                                                   \
        {"residency", 0, "WHERE", "weights: auto, memory, mmap, stream, ring, sim", CLI_TEXT, &(c).residency}, \
        {"repack", 0,          NULL, "read the weights into memory and put them in the kernels' own order",    \
         CLI_FLAG, &(c).repack},                                                                               \
        {"retention",   0, "NAME", "which expert leaves the cache: lru, lfu, decay, layer, demand", CLI_TEXT,  \
         &(c).retention},                                                                                      \
        {"predict", 0,                                                                                         \
         "NAME",    "read ahead: none, last, popularity, token, transition, gate, FILE.rpp",                   \
         CLI_TEXT,  &(c).predict},                                                                             \
        {"experts-lossy", 0,                                                                                   \
         "POLICY",        "use lower precisions of a packed file: low, miss (with :TYPE)",                     \
         CLI_TEXT,        &(c).lossy},                                                                         \
        {"trace", 0, "FILE", "record what routers choose, for coterie replay", CLI_TEXT, &(c).trace}, {        \
        "stats", 0, NULL, "a table of the experts' cache by layer", CLI_FLAG, &(c).stats                       \
    }
/* Fills the model's options; −1, or an exit code after a message. */
int cli_memory_options(const cli_common *c, cot_model_options *o);
/* What streaming cost between two moments, over so many tokens and seconds. Nothing where nothing streams. */
void cli_memory_line(const cot_residency_info *before, const cot_residency_info *after, double tokens,
                     double seconds);
/* The same as members of a JSON object, with a comma before. */
void cli_memory_json(const cot_residency_info *before, const cot_residency_info *after, double tokens,
                     double seconds);
void cli_memory_table(const cot_model *m);
cot_residency_info cli_residency(const cot_model *m);

/* --trace: records the session's routing until the end; false after a message. */
bool cli_trace_start(const cli_common *c, cot_session *s);
bool cli_trace_end(void);

/* JSON out. */
void cli_json_string(FILE *f, const char *s, size_t n);   /* quoted; bytes that are no UTF-8 become U+FFFD */
const char *cli_bytes(uint64_t n, char *buf, size_t cap); /* "16.4 GiB" */
const char *cli_count(uint64_t n, char *buf, size_t cap); /* "30.5 billion" */

int cmd_run(int, char **);
int cmd_chat(int, char **);
int cmd_logits(int, char **);
int cmd_tokenize(int, char **);
int cmd_detokenize(int, char **);
int cmd_eval(int, char **);
int cmd_inspect(int, char **);
int cmd_bench(int, char **);
int cmd_convert(int, char **);
int cmd_replay(int, char **);
int cmd_pack(int, char **);
int cmd_plan(int, char **);

#endif
