/* Owns: what this engine reaches of the machine's limits: measured by a short run of a model, kept in the
 * user's cache folder. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/pool.h"
#include "cli/cli.h"
#include "cli/cost.h"

enum { PURPOSE_PLAN = 3, VERSION = 1, MOST_BYTES = 1 << 16 };

/* ---- measuring ---- */

static bool drop(void *user, size_t row, const float *logits, int64_t n) { return !cli_interrupted; }

typedef struct run {
    cot_session *s;
    const cot_model *m;
    int64_t vocab;
    uint64_t at; /* tokens drawn */
} run;

/* `passes` of `rows` random tokens each; *seconds and, of them, those that computed. */
static cot_status feed(run *r, int rows, int passes, double *seconds, double *computing, cot_error *err) {
    cot_row *row = calloc((size_t)rows, sizeof *row);
    if (!row) return cot__fail(err, COT_NO_MEMORY, NULL, NULL, "out of memory");
    cot_status st = rows > 1 ? cot_sequence_cut(r->s, 0, 0, err) : COT_OK;
    cot_residency_info a = cli_residency(r->m);
    double t = cot__now();
    for (int p = 0; p < passes && st == COT_OK; p++) {
        for (int i = 0; i < rows; i++)
            row[i] = (cot_row){(int32_t)(cot__random_u64(1, PURPOSE_PLAN, r->at++, 0) % (uint64_t)r->vocab),
                               0, rows > 1 ? COT_ROLE_PROMPT : COT_ROLE_GENERATED, i + 1 == rows};
        st = cot_forward(r->s, row, (size_t)rows, drop, NULL, err);
    }
    *seconds = cot__now() - t;
    cot_residency_info b = cli_residency(r->m);
    *computing = *seconds - (b.stall_read - a.stall_read) - (b.stall_slot - a.stall_slot);
    free(row);
    return st;
}

static double limited(double x, double lo, double hi) { return x < lo ? lo : x > hi ? hi : x; }

/* The overlap at which the model's own prediction is what was seen; 0.5 where one side hardly counts. */
static double overlap_of(const cost_point *p, double seconds, double otherwise) {
    double longer = fmax(p->compute, p->disk), shorter = fmin(p->compute, p->disk);
    return shorter > 0.1 * longer ? limited(1 - (seconds - longer) / shorter, -1, 1) : otherwise;
}

/* The shares at which decode and prompts compute for so long: the squares of their parts add up to the
 * squares of the times, which is linear in 1 / share². */
static void solve(const cost_model *k, cost_machine *c, int prompt, double decode, double whole) {
    cost_machine memory = *c, arithmetic = *c;
    memory.memory_share = arithmetic.arithmetic_share = 1;
    memory.arithmetic_share = arithmetic.memory_share = 1e9; /* nothing but the other part */
    double m1 = cost_decode(k, &memory, 1).compute, a1 = cost_decode(k, &arithmetic, 1).compute,
           m2 = cost_prefill(k, &memory, prompt, prompt).compute,
           a2 = cost_prefill(k, &arithmetic, prompt, prompt).compute;
    double det = m1 * m1 * a2 * a2 - a1 * a1 * m2 * m2,
           x = (decode * decode * a2 * a2 - a1 * a1 * whole * whole) / det,
           y = (m1 * m1 * whole * whole - decode * decode * m2 * m2) / det;
    c->memory_share = x > 0 ? limited(1 / sqrt(x), 0.01, 2) : limited(m1 / decode, 0.01, 2);
    c->arithmetic_share = y > 0 ? limited(1 / sqrt(y), 0.01, 8) : limited(a2 / whole, 0.01, 8);
}

cot_status cost_measure(const cot_model *m, const cot_session_options *so, cost_run *out, cot_error *err) {
    enum { PROMPT = 512, STEPS = 32, REPEATS = 5 };
    cot_session_options o = *so;
    cost_model k = cost_model_of(m);
    run r = {.m = m, .vocab = k.info.n_vocab};
    o.n_sequences = 1;
    int prompt = o.chunk < PROMPT ? o.chunk : PROMPT, steps = STEPS;
    if (k.info.n_ctx_train > 0 && prompt > k.info.n_ctx_train / 2) prompt = (int)k.info.n_ctx_train / 2;
    if (steps > prompt / 4) steps = prompt / 4 > 0 ? prompt / 4 : 1;
    o.n_ctx = prompt + REPEATS * steps;
    double decode[REPEATS], decode_busy[REPEATS], prefill[REPEATS], prefill_busy[REPEATS];
    cot_status st = cot_session_create(&r.s, m, &o, err);
    out->model = cost_model_of(m);
    if (st == COT_OK) st = feed(&r, prompt, 1, decode, decode_busy, err); /* fills the cache */
    for (int i = 0; i < REPEATS && st == COT_OK; i++)
        st = feed(&r, prompt, 1, prefill + i, prefill_busy + i, err);
    for (int i = 0; i < REPEATS && st == COT_OK; i++)
        st = feed(&r, 1, steps, decode + i, decode_busy + i, err);
    cot_session_free(&r.s);
    if (st != COT_OK) return st;
    /* Medians: what is predicted is the usual run, and not the least disturbed one. */
    out->prompt = prompt;
    out->decode = cost_median(decode, REPEATS) / steps;
    out->decode_busy = cost_median(decode_busy, REPEATS) / steps;
    out->prefill = cost_median(prefill, REPEATS);
    out->prefill_busy = cost_median(prefill_busy, REPEATS);
    return COT_OK;
}

void cost_fit(const cost_run *r, cost_machine *c) {
    solve(&r->model, c, r->prompt, r->decode_busy, r->prefill_busy);
    cost_point d = cost_decode(&r->model, c, 1), p = cost_prefill(&r->model, c, r->prompt, r->prompt);
    c->overlap = overlap_of(&d, r->decode, c->overlap);
    c->overlap_prompt = overlap_of(&p, r->prefill, c->overlap_prompt);
}

/* ---- keeping ---- */

/* The processor's name and the number of its cores: what makes a machine another one. */
static void machine_name(char *out, size_t n) {
    char *text = NULL, name[96] = "unknown";
    size_t length;
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "model name", 10) == 0 && (text = strchr(line, ':'))) {
            length = strcspn(text + 2, "\n");
            snprintf(name, sizeof name, "%.*s", (int)(length < 90 ? length : 90), text + 2);
            break;
        }
    if (f) fclose(f);
    char host[65] = "";
    (void)gethostname(host, sizeof host - 1);
    snprintf(out, n, "%s, %d cores, %s", name, cot__cpu_cores(), host);
}

/* …/coterie/machine.json, of whatever model was measured last, or (m) machine-….json, of models whose experts
 * have this shape, however many layers they have: how well a processor is used depends on it. NULL: no folder
 * is known. */
static char *cache_file(bool make, const cost_model *m) {
    char leaf[128] = "machine.json";
    double experts = m ? (double)m->info.n_sites * (double)m->info.n_experts : 0;
    if (experts > 0)
        snprintf(leaf, sizeof leaf, "machine-%lld-%lld-%lld-%.0f.json", (long long)m->info.n_embd,
                 (long long)m->info.n_experts, (long long)m->info.n_experts_used,
                 (double)m->info.bytes_experts / experts);
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *root = base && *base == '/' ? cot__strdup(base)
                 : home && *home      ? cot__path_join(home, ".cache")
                                      : NULL;
    char *folder = root ? cot__path_join(root, "coterie") : NULL,
         *file = folder ? cot__path_join(folder, leaf) : NULL;
    if (file && make) {
        (void)mkdir(root, 0700);
        (void)mkdir(folder, 0700);
    }
    cot__free(root);
    cot__free(folder);
    return file;
}

static const struct {
    const char *name;
    size_t at;
} members[] = {
    {"memory_gbs", offsetof(cost_machine, memory_gbs)},
    {"f32_gflops", offsetof(cost_machine, gflops)},
    {"memory_share", offsetof(cost_machine, memory_share)},
    {"arithmetic_share", offsetof(cost_machine, arithmetic_share)},
    {"overlap", offsetof(cost_machine, overlap)},
    {"overlap_prompt", offsetof(cost_machine, overlap_prompt)},
};

static bool load(cost_machine *c, const cost_model *m, int threads, char *why, size_t n) {
    char name[256], *file = cache_file(false, m);
    const char *of = NULL;
    json_t *j = NULL;
    cot_error err = {0};
    int64_t version = 0, with = 0;
    cost_machine read = *c;
    machine_name(name, sizeof name);
    *why = 0;
    if (!file || !cot__path_exists(file)) snprintf(why, n, "this machine was not calibrated");
    else if (cot__json_load(&j, file, MOST_BYTES, &err) != COT_OK ||
             cot__json_int(j, file, "coterie_machine", VERSION, VERSION, &version, &err) != COT_OK ||
             cot__json_int(j, file, "threads", 1, 1 << 20, &with, &err) != COT_OK ||
             cot__json_str(j, file, "machine", &of, &err) != COT_OK)
        snprintf(why, n, "%s", err.message);
    else if (version != VERSION || !of) snprintf(why, n, "%s: is no calibration", file);
    else if (strcmp(of, name) != 0) snprintf(why, n, "the calibration is of another machine (%s)", of);
    else if (with != threads)
        snprintf(why, n, "the calibration is for %d threads and not for %d", (int)with, threads);
    for (size_t i = 0; !*why && i < sizeof members / sizeof *members; i++) {
        double x = NAN;
        if (cot__json_f64(j, file, members[i].name, &x, &err) != COT_OK) snprintf(why, n, "%s", err.message);
        else if (!(x > -10 && x < 1e6)) snprintf(why, n, "%s: %s is no such figure", file, members[i].name);
        else *(double *)((char *)&read + members[i].at) = x;
    }
    if (!*why &&
        (read.memory_gbs <= 0 || read.gflops <= 0 || read.memory_share <= 0 || read.arithmetic_share <= 0))
        snprintf(why, n, "%s: limits and shares must be positive", file);
    if (!*why) *c = read;
    json_decref(j);
    cot__free(file);
    return !*why;
}

bool cost_load(cost_machine *c, const cost_model *m, int threads, char *why, size_t n) {
    return load(c, m, threads, why, n) || load(c, NULL, threads, why, n);
}

static cot_status save(const cost_machine *c, const cost_model *m, int threads, char **path, cot_error *err) {
    char name[256], *file = cache_file(true, m), *text;
    machine_name(name, sizeof name);
    if (!file) return cot__fail(err, COT_IO, NULL, "HOME", "is not set: nowhere to keep the calibration");
    json_t *j = json_pack("{s:i, s:s, s:i}", "coterie_machine", VERSION, "machine", name, "threads", threads);
    for (size_t i = 0; j && i < sizeof members / sizeof *members; i++)
        (void)json_object_set_new(j, members[i].name,
                                  json_real(*(const double *)((const char *)c + members[i].at)));
    text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
    cot__writer *w = NULL;
    cot_status st =
        text ? cot__writer_open(&w, file, err) : cot__fail(err, COT_NO_MEMORY, NULL, NULL, "out of memory");
    if (st == COT_OK) {
        st = cot__writer_put(w, text, strlen(text), err);
        if (st == COT_OK) st = cot__writer_commit(&w, err);
        else cot__writer_abort(&w);
    }
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    if (text) release(text);
    json_decref(j);
    if (st == COT_OK) *path = file;
    else cot__free(file);
    return st;
}

cot_status cost_save(const cost_machine *c, const cost_model *m, int threads, char **path, cot_error *err) {
    char *own = NULL;
    COT_TRY(save(c, m, threads, &own, err));
    cot__free(own);
    return save(c, NULL, threads, path, err);
}
