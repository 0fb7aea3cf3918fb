/* Owns: the command line: one table per command feeds parsing and help. Unknown names are errors with a
 * suggestion. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/cli.h"

enum { MAX_OPTIONS = 64 };

static size_t distance(const char *a, const char *b) { /* Levenshtein, for suggestions */
    size_t row[64], n = strlen(b);
    if (n >= 64) return 64;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t cost = diagonal + (a[i - 1] != b[j - 1]), up = row[j] + 1, left = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = cost < up ? cost : up;
            if (left < row[j]) row[j] = left;
        }
    }
    return row[n];
}

static int unknown(const char *command, const char *word, const cli_option *all, int n) {
    const char *best = NULL, *name = word[1] == '-' ? word + 2 : "";
    size_t least = 3;
    for (int i = 0; i < n && strlen(name) > 2; i++)
        if (all[i].name && distance(name, all[i].name) < least)
            least = distance(name, all[i].name), best = all[i].name;
    if (best) return cli_usage("%s: %s is unknown; is --%s meant?", command, word, best);
    return cli_usage("%s: %s is unknown; \"coterie %s --help\" lists the options", command, word, command);
}

static int help(const char *command, const cli_option *all, int n) {
    for (const cli_command *c = cli_commands; c->name; c++)
        if (strcmp(c->name, command) == 0)
            printf("usage: coterie %s %s\n\n%s\n\n", command, c->usage, c->summary);
    for (int i = 0; i < n; i++) {
        char left[64];
        const char *value = all[i].value ? all[i].value : "";
        if (all[i].letter && all[i].name)
            snprintf(left, sizeof left, "-%c, --%s %s", all[i].letter, all[i].name, value);
        else if (all[i].letter) snprintf(left, sizeof left, "-%c %s", all[i].letter, value);
        else snprintf(left, sizeof left, "    --%s %s", all[i].name, value);
        printf("  %-28s %s\n", left, all[i].help);
    }
    return EXIT_OK;
}

static bool number(const char *text, double *out) {
    char *end;
    errno = 0;
    *out = strtod(text, &end);
    return end != text && !*end && errno == 0 && !isnan(*out);
}

/* Bytes, with KiB, MiB, GiB, TiB or KB, MB, GB, TB; a letter alone counts by 1024. */
static bool size(const char *text, uint64_t *out) {
    static const char letters[] = "kmgt";
    char *end;
    errno = 0;
    double x = strtod(text, &end), unit = 1;
    if (end == text || errno || !(x > 0)) return false;
    const char *letter = *end ? strchr(letters, *end | 32) : NULL;
    if (letter) {
        bool decimal = strcasecmp(end + 1, "b") == 0;
        for (const char *p = letters; p <= letter; p++) unit *= decimal ? 1000 : 1024;
        if (end[1] && !decimal && strcasecmp(end + 1, "ib") != 0) return false;
    } else if (*end && strcasecmp(end, "b") != 0) return false;
    if (x * unit >= 9e18) return false;
    *out = (uint64_t)(x * unit);
    return *out > 0;
}

/* Stores an argument; NULL, or what is wrong with it. */
static const char *store(const cli_option *o, const char *text) {
    double x;
    char *end;
    switch (o->kind) {
    case CLI_TEXT: *(const char **)o->to = text; return NULL;
    case CLI_FLAG: *(bool *)o->to = true; return NULL;
    case CLI_INT:
        if (!number(text, &x) || x != floor(x) || x < INT32_MIN || x > INT32_MAX) return "a whole number";
        *(int32_t *)o->to = (int32_t)x;
        return NULL;
    case CLI_FLOAT:
        if (!number(text, &x)) return "a number";
        *(float *)o->to = (float)x;
        return NULL;
    case CLI_U64:
        errno = 0;
        *(uint64_t *)o->to = strtoull(text, &end, 10);
        return end == text || *end || errno || text[0] == '-' ? "a whole number of at least 0" : NULL;
    case CLI_SIZE: return size(text, o->to) ? NULL : "a size such as 8GiB, 512MiB or 12GB";
    case CLI_KV: {
        cot_type t = cot_type_from_name(text);
        if (t != COT_F16 && t != COT_F32 && t != COT_Q8_0) return "f16, q8_0 or f32";
        *(cot_type *)o->to = t;
        return NULL;
    }
    case CLI_ACT:
        if (strcasecmp(text, "auto") != 0 && strcasecmp(text, "f32") != 0) return "auto or f32";
        *(cot_activation *)o->to =
            text[0] == 'f' || text[0] == 'F' ? COT_ACTIVATION_F32 : COT_ACTIVATION_AUTO;
        return NULL;
    case CLI_LIST: {
        cli_list *l = o->to;
        if (l->n == sizeof l->item / sizeof *l->item) return "given fewer times";
        l->item[l->n++] = text;
        return NULL;
    }
    }
    return "known";
}

int cli_parse(const char *command, int argc, char **argv, const cli_option *options, cli_common *c,
              const char **words, int *n_words) {
    const cli_option shared[] = {
        {"model", 'm', "MODEL", "GGUF file, first of a split, or Hugging Face folder", CLI_TEXT, &c->model},
        {"arch", 0, "FILE", "architecture description (JSON) of your own", CLI_TEXT, &c->arch},
        {"threads", 't', "N", "threads (default: physical cores)", CLI_INT, &c->threads},
        {"json", 0, NULL, "one JSON object on standard output", CLI_FLAG, &c->json},
        {"quiet", 0, NULL, "no progress, no timing, no warnings", CLI_FLAG, &c->quiet},
        {"verbose", 0, NULL, "more messages", CLI_FLAG, &c->verbose},
        {"help", 'h', NULL, "this text", CLI_FLAG, &c->help},
    };
    cli_option all[MAX_OPTIONS];
    int n = 0, capacity = *n_words;
    for (; options && (options->name || options->letter); options++) all[n++] = *options;
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) all[n++] = shared[i];
    *n_words = 0;
    bool only_words = false;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *text = NULL;
        if (only_words || a[0] != '-' || !a[1]) {
            if (*n_words == capacity) return cli_usage("%s: \"%s\" is one word too many", command, a);
            words[(*n_words)++] = a;
            continue;
        }
        if (strcmp(a, "--") == 0) {
            only_words = true;
            continue;
        }
        const cli_option *o = NULL;
        const char *equals = a[1] == '-' ? strchr(a, '=') : NULL;
        size_t len = equals ? (size_t)(equals - a - 2) : strlen(a) - 1 - (a[1] == '-');
        for (int k = 0; k < n && !o; k++) {
            if (a[1] == '-' && all[k].name && strlen(all[k].name) == len &&
                strncmp(a + 2, all[k].name, len) == 0)
                o = &all[k];
            if (a[1] != '-' && all[k].letter == a[1] && !a[2]) o = &all[k];
        }
        if (!o) return unknown(command, a, all, n);
        if (o->kind == CLI_FLAG && equals) return cli_usage("%s: %s takes no value", command, a);
        if (o->kind != CLI_FLAG) {
            text = equals ? equals + 1 : ++i < argc ? argv[i] : NULL;
            if (!text) return cli_usage("%s: %s needs a value (%s)", command, a, o->value);
        }
        const char *wrong = store(o, text);
        if (wrong) return cli_usage("%s: %s must be %s, not \"%s\"", command, a, wrong, text);
    }
    if (c->help) return help(command, all, n);
    if (!c->model && *n_words > 0) {
        c->model = words[0];
        --*n_words;
        memmove(words, words + 1, (size_t)*n_words * sizeof *words);
    }
    if (c->threads < 0 || c->threads > 1024) return cli_usage("%s: --threads must lie in 0…1024", command);
    return -1;
}
