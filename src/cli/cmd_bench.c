/* coterie bench: tokens a second of prefill and decode, with the machine's limits beside them. Decode is fed
 * seeded uniform random ids, never the model's own output: a text that repeats itself would keep its experts
 * in the cache. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/pool.h"
#include "cli/cost.h"
#include "cli/machine.h"
#include "cli/sampling.h"

enum { PURPOSE_BENCH = 2, MAX_REPS = 1000 };

typedef struct plan {
    int32_t prompt, generate, reps, batch, depth;
    uint64_t seed;
    bool zipf;
} plan;

typedef struct figures {
    double prefill[MAX_REPS], decode[MAX_REPS];
    cot_residency_info before_prefill, after_prefill, before_decode,
        after_decode; /* of the last repetition */
    double prefill_seconds, decode_seconds;
    cost_model model; /* with what the session leaves to experts */
    double
        disk_gbs; /* direct reads of an expert's part, many in flight, before and after; 0: nothing streams */
} figures;

enum { DISK_DEPTH = 24, WARM_REP = 1 << 20, FILL_REP, MOST_FILLS = 512, QUIET_FILLS = 4 };

static bool drop(void *user, size_t row, const float *logits, int64_t n) { return !cli_interrupted; }

static int32_t random_token(const plan *p, int64_t vocab, int rep, int64_t at, int seq) {
    uint64_t row = (uint64_t)rep << 32 | (uint64_t)seq;
    if (p->zipf) /* the n-th most frequent word comes 1 / n as often as the first */
        return (int32_t)exp(cot__random_unit(p->seed, PURPOSE_BENCH, row, (uint64_t)at) *
                            log((double)vocab)) -
               1;
    return (int32_t)(cot__random_u64(p->seed, PURPOSE_BENCH, row, (uint64_t)at) % (uint64_t)vocab);
}

static cot_status feed(cot_session *s, const plan *p, int64_t vocab, int rep, int32_t from, int32_t n,
                       bool logits, cot_row *rows, cot_error *err) {
    size_t k = 0;
    for (int b = 0; b < p->batch; b++)
        for (int32_t i = 0; i < n; i++)
            rows[k++] =
                (cot_row){random_token(p, vocab, rep, from + i, b), b, COT_ROLE_PROMPT, logits && i + 1 == n};
    return cot_forward(s, rows, k, drop, NULL, err);
}

static cot_status clear(cot_session *s, const plan *p, cot_error *err) {
    cot_status st = COT_OK;
    for (int b = 0; b < p->batch && st == COT_OK; b++) st = cot_sequence_cut(s, b, 0, err);
    return st;
}

static cot_status once(cot_session *s, const cot_model *m, const plan *p, int64_t vocab, int rep,
                       cot_row *rows, double *prefill, double *decode, figures *f, cot_error *err) {
    cot_status st = clear(s, p, err);
    if (st == COT_OK && p->prompt) {
        if (p->depth) st = feed(s, p, vocab, rep, 0, p->depth, false, rows, err);
        f->before_prefill = cli_residency(m);
        double t = cot__now();
        if (st == COT_OK) st = feed(s, p, vocab, rep, p->depth, p->prompt, true, rows, err);
        f->prefill_seconds = cot__now() - t;
        f->after_prefill = cli_residency(m);
        *prefill = (double)p->prompt * p->batch / f->prefill_seconds;
        if (st == COT_OK) st = clear(s, p, err);
    }
    if (st != COT_OK || !p->generate) return st;
    st = feed(s, p, vocab, rep, 0, p->depth ? p->depth : 1, false, rows, err);
    f->before_decode = cli_residency(m);
    double t = cot__now();
    for (int32_t i = 0; i < p->generate && st == COT_OK; i++) {
        for (int b = 0; b < p->batch; b++)
            rows[b] = (cot_row){random_token(p, vocab, rep, 1000000 + i, b), b, COT_ROLE_GENERATED, true};
        st = cot_forward(s, rows, (size_t)p->batch, drop, NULL, err);
    }
    f->decode_seconds = cot__now() - t;
    f->after_decode = cli_residency(m);
    *decode = (double)p->generate * p->batch / f->decode_seconds;
    return st;
}

/* Experts that a cache has room for are there before anything is timed: a first touch of memory is the
 * system's doing, and with few tokens it would be most of what is measured. */
static cot_status fill(cot_session *s, const cot_model *m, const plan *p, int64_t vocab, cot_row *rows,
                       const cli_common *c, cot_error *err) {
    cot_residency_info r = cli_residency(m);
    cot_status st = clear(s, p, err);
    uint64_t start = r.expert_bytes, room = 0;
    if (!r.io || !r.io[0]) return st;
    for (int i = 0, same = 0; st == COT_OK && i < MOST_FILLS && same < QUIET_FILLS; i++) {
        uint64_t before = r.expert_bytes;
        st = feed(s, p, vocab, FILL_REP, i, 1, false, rows, err);
        if (st == COT_OK) st = clear(s, p, err);
        r = cli_residency(m);
        room = r.expert_capacity < r.expert_total ? r.expert_capacity : r.expert_total;
        if (!c->quiet) cli_progress(NULL, "filling the cache", r.expert_bytes - start, room - start + 1);
        same = r.expert_bytes > before ? 0 : same + 1;
    }
    if (!c->quiet) cli_progress(NULL, "filling the cache", 1, 1);
    return st;
}

static int32_t longest_sequence(const plan *p) {
    return p->depth + (p->prompt > 1 + p->generate ? p->prompt : 1 + p->generate);
}

/* What the disk gives now to reads of an expert's part, many in flight; 0: nothing streams. Its buffers are
 * taken from the experts' room. */
static double disk_rate(cot_model *m, const cli_common *c) {
    cost_model k = cost_model_of(m);
    cot_residency_info r = cli_residency(m);
    uint64_t experts = (uint64_t)(k.info.n_sites * k.info.n_experts);
    if (!experts || !r.io || !r.io[0] || strcmp(r.residency, "sim") == 0) return 0;
    uint64_t part = k.expert_total / experts / 3, room = 2 * part * DISK_DEPTH;
    bool less = r.memory > room && cot_model_set_memory(m, r.memory - room, NULL) == COT_OK;
    double rate = cli_disk_rate(c->model, part, DISK_DEPTH, 1.5);
    if (less) (void)cot_model_set_memory(m, r.memory, NULL);
    return rate;
}

static cot_status measure(cot_model *m, cot_session_options *so, const plan *p, const cli_common *c,
                          figures *f, cot_error *err) {
    cot_session *s = NULL;
    cot_model_info info;
    cot_model_get_info(m, &info);
    int32_t longest = longest_sequence(p);
    if (!so->n_ctx) so->n_ctx = longest;
    so->n_sequences = p->batch;
    so->n_threads = c->threads;
    cot_row *rows = calloc((size_t)longest * (size_t)p->batch, sizeof *rows);
    double before = disk_rate(m, c);
    cot_status st = rows ? cot_session_create(&s, m, so, err) : COT_NO_MEMORY;
    if (st == COT_OK) f->model = cost_model_of(m);
    plan warm = *p; /* pages, caches and the pool's threads */
    warm.prompt = p->prompt < 16 ? p->prompt : 16;
    warm.generate = p->generate < 4 ? p->generate : 4;
    warm.depth = 0;
    double x, y;
    if (st == COT_OK) st = once(s, m, &warm, info.n_vocab, WARM_REP, rows, &x, &y, f, err);
    if (st == COT_OK) st = fill(s, m, p, info.n_vocab, rows, c, err);
    if (st == COT_OK && !cli_trace_start(c, s))
        st = COT_IO, snprintf(err->message, sizeof err->message, "nothing is recorded");
    for (int r = 0; r < p->reps && st == COT_OK; r++) {
        st = once(s, m, p, info.n_vocab, r, rows, &f->prefill[r], &f->decode[r], f, err);
        if (!c->quiet) cli_progress(NULL, "bench", (uint64_t)r + 1, (uint64_t)p->reps);
    }
    if (!cli_trace_end() && st == COT_OK)
        st = COT_IO, snprintf(err->message, sizeof err->message, "the record is not complete");
    cot_session_free(&s);
    double after = before > 0 && st == COT_OK ? disk_rate(m, c) : 0;
    f->disk_gbs = after > 0 ? (before + after) / 2 : before;
    free(rows);
    return st;
}

/* Expected distinct experts of a layer when b tokens draw k of n each: the bytes that a batch reads. */
static double batch_bytes(const cot_model_info *i, int batch) {
    double expert = i->n_experts ? (double)i->bytes_experts / (double)i->n_experts : 0,
           k = (double)i->n_experts_used, n = (double)i->n_experts, miss = 1;
    for (int b = 0; b < batch && n > 0; b++) miss *= 1 - k / n;
    return (double)i->bytes_per_token - expert * k + expert * n * (1 - miss);
}

/* Whether most weights meet activations of 8-bit integers: then those bound prefill, else F32 does. */
static bool quantised(const cot_model *m) {
    uint64_t whole = 0, real = 0;
    for (size_t i = 0; i < cot_model_tensor_count(m); i++) {
        cot_tensor_info t;
        if (cot_model_tensor(m, i, &t, NULL) != COT_OK || t.n_dims < 2) continue;
        bool is_real = t.type == COT_F32 || t.type == COT_F16 || t.type == COT_BF16 || t.type == COT_F64 ||
                       t.type == COT_F8_E4M3;
        *(is_real ? &real : &whole) += t.bytes;
    }
    return whole > real;
}

/* The limit that decode or a prompt has: the missing bytes, were choices uniform, at the disk's rate, or the
 * computation as calibrated; and what the cost model says of both together. */
typedef struct expectation {
    cost_point decode, prefill;
    bool calibrated;
} expectation;

static expectation expect(const plan *p, const figures *f, const machine_limits *l, int threads) {
    char why[512];
    cost_machine k = {.memory_gbs = l->memory_gbs, .gflops = l->gflops, COST_SHARES};
    expectation e = {.calibrated = cost_load(&k, &f->model, threads, why, sizeof why)};
    k.disk_gbs = f->disk_gbs;
    e.decode = cost_decode(&f->model, &k, p->batch);
    e.prefill = cost_prefill(&f->model, &k, p->prompt * p->batch, 512);
    return e;
}

static void expectation_line(const char *what, const cost_point *e, double tps, double tokens,
                             bool calibrated, double disk_gbs) {
    double limit = tokens / (e->disk > e->compute ? e->disk : e->compute);
    printf("  predicted%s: %9.2f tokens/s (%+.0f %%); limit %.2f by %s, of which %s reaches %.0f %%",
           calibrated ? "" : ", shares assumed", e->tps, 100 * (e->tps / tps - 1), limit, e->bound, what,
           100 * tps / limit);
    if (disk_gbs > 0) printf("; disk %.2f GB/s", disk_gbs);
    puts("");
}

static void expectation_json(const char *what, const cost_point *e, double tps, double tokens) {
    double limit = tokens / (e->disk > e->compute ? e->disk : e->compute);
    printf(", \"predicted_%s_tps\": %.3f, \"%s_limit_tps\": %.3f, \"%s_share\": %.4f, \"%s_bound\": \"%s\"",
           what, e->tps, what, limit, what, tps / limit, what, e->bound);
}

static int report(const cot_model *m, const plan *p, figures *f, const machine_limits *limits,
                  const cli_common *c, int threads) {
    cot_model_info i;
    machine_limits l = *limits;
    cot_model_get_info(m, &i);
    double prefill = p->prompt ? cost_median(f->prefill, p->reps) : 0,
           decode = p->generate ? cost_median(f->decode, p->reps) : 0;
    double bytes = batch_bytes(&i, p->batch), ops = 2.0 * (double)i.params_active;
    /* The output head runs for the last token of a prompt alone. */
    double head = 2.0 * (double)i.n_vocab * (double)i.n_embd,
           prompt_ops = p->prompt ? ops - head * (1 - 1.0 / p->prompt) : ops;
    enum { CHUNK = 512 }; /* rows of a prompt that share one reading of the weights */
    int rows = p->prompt < 1 ? 1 : p->prompt < CHUNK ? p->prompt : CHUNK;
    double prompt_bytes = batch_bytes(&i, rows) / rows, step_ops = ops * p->batch;
    double decode_gbs = decode / p->batch * bytes / 1e9, prefill_gops = prefill * prompt_ops / 1e9;
    bool whole = quantised(m);
    double limit = whole ? l.int8_gops : l.gflops;
    expectation e = expect(p, f, limits, threads);
    if (c->json) {
        printf(
            "{\"prefill_tps\": %.3f, \"decode_tps\": %.3f, \"prompt\": %d, \"generate\": %d, \"batch\": %d, \"depth\": %d, \"reps\": %d, \"threads\": %d, \"bytes_per_step\": %.0f, \"ops_per_token\": %.0f, "
            "\"prompt_bytes_per_token\": %.0f, \"prompt_ops_per_token\": %.0f, \"decode_gbs\": %.3f, \"prefill_gops\": %.3f, \"memory_gbs\": %.3f, \"f32_gflops\": %.3f, \"int8_gops\": %.3f, \"prefill_limit\": \"%s\"",
            prefill, decode, p->prompt, p->generate, p->batch, p->depth, p->reps, threads, bytes, ops,
            prompt_bytes, prompt_ops, decode_gbs, prefill_gops, l.memory_gbs, l.gflops, l.int8_gops,
            whole ? "int8" : "f32");
        printf(", \"calibrated\": %s, \"disk_gbs\": %.3f, \"uniform_hit_rate\": %.4f",
               e.calibrated ? "true" : "false", f->disk_gbs, e.decode.hit_rate);
        if (p->prompt) expectation_json("prefill", &e.prefill, prefill, (double)p->prompt * p->batch);
        if (p->generate) expectation_json("decode", &e.decode, decode, p->batch);
        if (p->generate)
            cli_memory_json(&f->before_decode, &f->after_decode, (double)p->generate * p->batch,
                            f->decode_seconds);
        puts("}");
        return EXIT_OK;
    }
    printf("machine, %d threads: memory read %.1f GB/s, arithmetic %.0f GFLOPS (F32), %.0f GOPS (8 bit)\n",
           threads, l.memory_gbs, l.gflops, l.int8_gops);
    if (p->prompt)
        printf(
            "prefill %4d%s: %9.2f tokens/s   %.3g GOP a token, %.0f GOPS, %.0f %% of %s arithmetic; %.3g MB a token, %.0f %% of memory read\n",
            p->prompt, p->depth ? " at depth" : "", prefill, prompt_ops / 1e9, prefill_gops,
            100 * prefill_gops / limit, whole ? "8-bit" : "F32", prompt_bytes / 1e6,
            prefill * prompt_bytes / 1e7 / l.memory_gbs);
    if (p->prompt)
        expectation_line("this", &e.prefill, prefill, (double)p->prompt * p->batch, e.calibrated,
                         f->disk_gbs);
    if (p->prompt)
        cli_memory_line(&f->before_prefill, &f->after_prefill, (double)p->prompt * p->batch,
                        f->prefill_seconds);
    if (p->generate)
        printf(
            "decode  %4d, batch %d: %9.2f tokens/s   %.1f MB a step, %.1f GB/s, %.0f %% of memory read; %.3g GOP a step, %.0f %% of %s arithmetic\n",
            p->generate, p->batch, decode, bytes / 1e6, decode_gbs, 100 * decode_gbs / l.memory_gbs,
            step_ops / 1e9, decode * ops / 1e7 / limit, whole ? "8-bit" : "F32");
    if (p->generate) expectation_line("this", &e.decode, decode, p->batch, e.calibrated, f->disk_gbs);
    fflush(stdout);
    if (p->generate)
        cli_memory_line(&f->before_decode, &f->after_decode, (double)p->generate * p->batch,
                        f->decode_seconds);
    if (c->stats) cli_memory_table(m);
    return EXIT_OK;
}

/* What a run of the model itself reaches, kept for plan and bench. */
static int calibrate(const cli_common *c, const machine_limits *l, int threads, cost_machine *k,
                     char **path) {
    cot_model *m = NULL;
    cot_session_options so;
    cot_error err = {0};
    int code = cli_open(&m, c);
    if (code >= 0) return code;
    cot_session_defaults(&so);
    so.n_threads = c->threads;
    *k = (cost_machine){.memory_gbs = l->memory_gbs, .gflops = l->gflops, COST_SHARES};
    cost_run run;
    k->disk_gbs = disk_rate(m, c);
    cot_status st = cost_measure(m, &so, &run, &err);
    if (st == COT_OK) {
        if (k->disk_gbs > 0) k->disk_gbs = (k->disk_gbs + disk_rate(m, c)) / 2; /* as bench measures it */
        cost_fit(&run, k);
        st = cost_save(k, &run.model, threads, path, &err);
    }
    cot_model_close(&m);
    return st == COT_OK ? -1 : cli_fail(&err);
}

static int machine(const cli_common *c, const char *path) {
    machine_limits l;
    cost_machine k = {COST_SHARES};
    char *kept = NULL;
    int threads = c->threads ? c->threads : cot__cpu_cores(), code;
    machine_measure(&l, threads, true);
    machine_disk(&l, path);
    if (c->model && (code = calibrate(c, &l, threads, &k, &kept)) >= 0) return code;
    if (c->json)
        printf(
            "{\"threads\": %d, \"memory_gbs\": %.3f, \"memory_gbs_1\": %.3f, \"f32_gflops\": %.3f, "
            "\"int8_gops\": %.3f, \"int8_how\": \"%s\", \"disk_gbs\": %.3f, \"calibrated\": %s, \"memory_share\": %.3f, "
            "\"arithmetic_share\": %.3f, \"overlap\": %.3f, \"overlap_prompt\": %.3f}\n",
            threads, l.memory_gbs, l.memory_gbs_1, l.gflops, l.int8_gops, l.int8_how, l.disk_gbs,
            kept ? "true" : "false", k.memory_share, k.arithmetic_share, k.overlap, k.overlap_prompt);
    else {
        printf("threads %d\nmemory read %.1f GB/s, by one thread %.1f GB/s\n"
               "arithmetic %.0f GFLOPS (F32 fused multiply-adds)\n"
               "arithmetic %.0f GOPS (8-bit products, %s)\n",
               threads, l.memory_gbs, l.memory_gbs_1, l.gflops, l.int8_gops, l.int8_how);
        if (l.disk_gbs > 0) printf("disk read   %.2f GB/s (direct)\n", l.disk_gbs);
        else puts("disk read   not measured: /var/tmp takes no file for it; give a MODEL to read");
        if (kept)
            printf(
                "this model reaches %.0f %% of memory read, %.0f %% of F32 arithmetic; reading and computing overlap "
                "by %.0f %% in decode, %.0f %% in prompts; kept in %s for plan and bench\n",
                100 * k.memory_share, 100 * k.arithmetic_share, 100 * k.overlap, 100 * k.overlap_prompt,
                kept);
        else puts("give a MODEL to calibrate plan and bench by");
    }
    cot__free(kept);
    return EXIT_OK;
}

int cmd_bench(int argc, char **argv) {
    cli_common c = {0};
    cot_session_options so;
    plan p = {.prompt = 512, .generate = 64, .reps = 3, .batch = 1};
    const char *words[1];
    bool only_machine = false;
    int n_words = 1;
    cot_session_defaults(&so);
    const cli_option options[] = {
        {NULL, 'p', "N", "tokens of the prompt; 0 skips", CLI_INT, &p.prompt},
        {NULL, 'n', "N", "tokens to write; 0 skips", CLI_INT, &p.generate},
        {NULL, 'r', "N", "repetitions; medians are reported", CLI_INT, &p.reps},
        {"batch", 0, "N", "sequences at once", CLI_INT, &p.batch},
        {"depth", 0, "N", "tokens already in the cache", CLI_INT, &p.depth},
        {"ctx", 'c', "N", "positions of a sequence (default: as many as are used)", CLI_INT, &so.n_ctx},
        {"act", 0, "MODE", "auto, or f32: activations are never quantised", CLI_ACT, &so.activation},
        {"seed", 0, "S", "seed of the token ids", CLI_U64, &p.seed},
        {"zipf", 0, NULL, "ids as often as words are (Zipf's law), instead of all alike", CLI_FLAG, &p.zipf},
        {"kv", 0, "TYPE", "number format of the cache: f16, q8_0, f32", CLI_KV, &so.kv_type},
        {"experts", 0, "N", "experts per token in every router", CLI_INT, &so.experts_used},
        CLI_MEMORY(c),
        {"machine", 0, NULL,
         "measure the machine alone: memory, arithmetic (F32 and 8-bit), and the disk under MODEL", CLI_FLAG,
         &only_machine},
        {0}};
    int code = cli_parse("bench", argc, argv, options, &c, words, &n_words);
    if (code >= 0) return code;
    if (only_machine) return machine(&c, c.model ? c.model : "");
    if (p.prompt < 0 || p.generate < 0 || p.depth < 0 || p.prompt > 1 << 20 || p.generate > 1 << 20 ||
        p.depth > 1 << 20 || p.batch < 1 || p.batch > 1024 || p.reps < 1 || p.reps > MAX_REPS)
        return cli_usage("bench: -p, -n and --depth must lie in 0…1048576, --batch in 1…1024, -r in 1…%d",
                         MAX_REPS);
    if (so.n_ctx && so.n_ctx < longest_sequence(&p))
        return cli_usage("bench: -p, -n and --depth need %d positions, --ctx is %d", longest_sequence(&p),
                         so.n_ctx);
    cot_model *m = NULL;
    cot_error err = {0};
    figures *f = calloc(1, sizeof *f);
    cli_catch_interrupts();
    machine_limits l = {0}; /* before the model takes the memory that it may have */
    if (c.model && f) machine_measure(&l, c.threads ? c.threads : cot__cpu_cores(), false);
    if (!f) code = EXIT_FAILED;
    else if ((code = cli_open(&m, &c)) < 0)
        code = measure(m, &so, &p, &c, f, &err) == COT_OK
                   ? report(m, &p, f, &l, &c, c.threads ? c.threads : cot__cpu_cores())
                   : cli_fail(&err);
    cot_model_close(&m);
    free(f);
    return code;
}
