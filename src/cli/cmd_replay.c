/* coterie replay: a recorded trace through the policies of the expert cache, without computing anything. */
#include <coterie/replay.h>

#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

enum { MOST = 16 };

typedef struct choice {
    char text[4096];
    const char *item[MOST];
    int n;
} choice;

static bool split(choice *c, const char *text, const char *option) {
    if (strlen(text) >= sizeof c->text) return cli_usage("replay: --%s is too long", option), false;
    memcpy(c->text, text, strlen(text) + 1);
    c->n = 0;
    for (char *p = c->text; *p;) {
        size_t len = strcspn(p, ",");
        if (c->n == MOST) return cli_usage("replay: --%s names more than %d", option, MOST), false;
        if (len) c->item[c->n++] = p;
        p += len;
        if (*p) *p++ = '\0';
    }
    if (!c->n) return cli_usage("replay: --%s is empty", option), false;
    return true;
}

static int run(const cot_trace *t, const choice *retention, const choice *predict, const choice *capacity,
               int32_t ahead, bool json) {
    cot_trace_info info;
    cot_error err;
    bool first = true;
    cot_trace_get_info(t, &info);
    if (json)
        printf("{\"sites\": %d, \"experts\": %d, \"turns\": %lld, \"accesses\": %lld, \"results\": [",
               info.sites, info.experts, (long long)info.turns, (long long)info.accesses);
    else {
        printf("%d sites, %d experts, %lld turns, %lld choices\n", info.sites, info.experts,
               (long long)info.turns, (long long)info.accesses);
        printf("%-9s %-11s %9s %8s %10s %8s\n", "retention", "predict", "capacity", "hits %", "read",
               "wanted %");
    }
    for (int r = 0; r < retention->n; r++)
        for (int p = 0; p < predict->n; p++)
            for (int k = 0; k < capacity->n; k++) {
                cot_replay_options o;
                cot_replay_result x;
                char *end;
                cot_replay_defaults(&o);
                o.retention = retention->item[r];
                o.predict = predict->item[p];
                o.capacity = strtod(capacity->item[k], &end) / 100;
                o.ahead = ahead;
                if (*end || end == capacity->item[k])
                    return cli_usage("replay: --capacity takes percentages such as 10,25,50, not \"%s\"",
                                     capacity->item[k]);
                if (cot_replay(t, &o, &x, &err) != COT_OK) return cli_fail(&err);
                double hits = (double)x.hits / (double)x.accesses,
                       wanted = x.hinted ? (double)x.hinted_used / (double)x.hinted : 0;
                unsigned long long read = x.accesses - x.hits + x.hinted;
                if (json) {
                    printf("%s{\"retention\": \"%s\", \"predict\": ", first ? "" : ", ", o.retention);
                    cli_json_string(stdout, o.predict, strlen(o.predict)); /* may be a file */
                    printf(
                        ", \"capacity\": %.4f, \"hit_rate\": %.6f, \"read\": %llu, \"hinted\": %llu, \"hinted_used\": %llu}",
                        o.capacity, hits, read, (unsigned long long)x.hinted,
                        (unsigned long long)x.hinted_used);
                } else
                    printf("%-9s %-11s %7.1f %% %8.2f %10llu %8.1f\n", o.retention, o.predict,
                           100 * o.capacity, 100 * hits, read, 100 * wanted);
                first = false;
            }
    if (json) puts("]}");
    return EXIT_OK;
}

int cmd_replay(int argc, char **argv) {
    cli_common c = {0};
    const char *retention = "lru,lfu,decay,layer,demand,oracle", *predict = "none", *capacity = "10,25,50,75",
               *control = "none", *words[1];
    int32_t ahead = 2;
    uint64_t seed = 1;
    int n_words = 1;
    const cli_option options[] = {
        {"retention", 0, "NAMES", "policies to try: lru, lfu, decay, layer, demand, oracle", CLI_TEXT,
         &retention},
        {"predict", 0, "NAMES", "predictors to try: none, last, popularity, token, transition, FILE.rpp",
         CLI_TEXT, &predict},
        {"capacity", 0, "PERCENTS", "sizes of the cache in percent of all experts", CLI_TEXT, &capacity},
        {"ahead", 0, "N", "most experts read for a prediction in a turn", CLI_INT, &ahead},
        {"control", 0, "NAME",
         "shuffle: each site's turns in an order of chance; uniform: draws instead of the trace", CLI_TEXT,
         &control},
        {"seed", 0, "S", "seed of the controls", CLI_U64, &seed},
        {0}};
    int code = cli_parse("replay", argc, argv, options, &c, words, &n_words);
    if (code >= 0) return code;
    choice r, p, k;
    if (!c.model) return cli_usage("replay: no TRACE is given: a file written by --trace");
    bool shuffle = strcmp(control, "shuffle") == 0, uniform = strcmp(control, "uniform") == 0;
    if (!shuffle && !uniform && strcmp(control, "none") != 0)
        return cli_usage("replay: --control must be none, shuffle or uniform, not \"%s\"", control);
    if (!split(&r, retention, "retention") || !split(&p, predict, "predict") ||
        !split(&k, capacity, "capacity"))
        return EXIT_USAGE;
    cot_trace *t = NULL;
    cot_error err;
    cot_status st = cot_trace_open(&t, c.model, &err);
    if (st == COT_OK && shuffle) st = cot_trace_shuffle(t, seed, &err);
    if (st == COT_OK && uniform) { /* as many sites, experts and choices a turn, but of chance */
        cot_trace_info i;
        cot_trace_get_info(t, &i);
        cot_trace_free(&t);
        int64_t each = (i.accesses + i.turns / 2) / i.turns, experts = i.experts / i.sites;
        st = cot_trace_uniform(&t, i.sites, (int32_t)experts,
                               (int32_t)(each < 1         ? 1
                                         : each > experts ? experts
                                                          : each),
                               i.turns / i.sites + 1, seed, &err);
    }
    code = st == COT_OK ? run(t, &r, &p, &k, ahead, c.json) : cli_fail(&err);
    cot_trace_free(&t);
    return code;
}
