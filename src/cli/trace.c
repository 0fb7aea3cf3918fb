/* Owns: recording what routers choose, one JSON object a line. */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"

static struct {
    FILE *file;
    const cot_session *session;
    const char *path;
    long long pass;
} trace;

static void record(void *user, const cot_route *r) {
    (void)user;
    if (r->site == 0) trace.pass++;
    for (int32_t u = 0; u < r->n_units; u++) {
        size_t n = 0;
        const int32_t *tokens = cot_sequence_tokens(trace.session, r->sequence[u], &n);
        fprintf(
            trace.file,
            "{\"pass\": %lld, \"sequence\": %d, \"position\": %d, \"site\": %d, \"layer\": %d, \"n_experts\": %d",
            trace.pass, r->sequence[u], r->position[u], r->site, r->layer, r->n_experts);
        if (tokens && r->position[u] >= 0 && (size_t)r->position[u] < n)
            fprintf(trace.file, ", \"token\": %d", tokens[r->position[u]]);
        fputs(", \"experts\": [", trace.file);
        for (int32_t i = r->first[u]; i < r->first[u + 1]; i++)
            fprintf(trace.file, "%s%d", i > r->first[u] ? ", " : "", r->ids[i]);
        fputs("], \"weights\": [", trace.file);
        for (int32_t i = r->first[u]; i < r->first[u + 1]; i++)
            fprintf(trace.file, "%s%.6g", i > r->first[u] ? ", " : "", (double)r->weights[i]);
        fputs("]}\n", trace.file);
    }
}

bool cli_trace_start(const cli_common *c, cot_session *s) {
    if (!c->trace) return true;
    trace.path = c->trace;
    trace.session = s;
    if (!trace.file) trace.file = fopen(c->trace, "w");
    if (!trace.file) {
        fprintf(stderr, "error: %s: cannot create: %s\n", c->trace, strerror(errno));
        return false;
    }
    cot_session_observe(s, record, NULL);
    return true;
}

bool cli_trace_end(void) {
    if (!trace.file) return true;
    bool ok = !ferror(trace.file);
    ok &= fclose(trace.file) == 0;
    if (!ok) fprintf(stderr, "error: %s: cannot write: %s\n", trace.path, strerror(errno));
    trace.file = NULL;
    return ok;
}
