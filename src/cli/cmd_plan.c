/* coterie plan: where a model's bytes will go under a budget, and how fast it will then be. */
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "cli/cost.h"
#include "cli/machine.h"
#include "cli/sampling.h"

typedef struct sizes {
    uint64_t memory, base, fixed, kv, buffers, expert, least;
    cost_model cost;
} sizes;

/* What a session of this kind needs, and what is left for experts. */
static cot_status lay_out(const cot_model *m, const cot_session_options *so, sizes *z, cot_error *err) {
    cot_residency_info r = {.struct_size = sizeof r};
    cot_model_get_info(m, &z->cost.info);
    cot_status st = cot_model_get_residency(m, -1, &r, err);
    if (st == COT_OK) st = cot_session_estimate(m, so, &z->kv, &z->buffers, err);
    if (st != COT_OK) return st;
    uint64_t experts = (uint64_t)(z->cost.info.n_sites * z->cost.info.n_experts);
    z->expert = experts ? r.expert_total / experts : 0;
    z->fixed = r.fixed_bytes;
    z->base = r.smallest > r.fixed_bytes + z->expert ? r.smallest - r.fixed_bytes - z->expert : 0;
    z->memory = r.memory;
    z->least = r.smallest + z->kv + z->buffers;
    z->cost.expert_total = r.expert_total;
    uint64_t taken = z->base + z->fixed + z->kv + z->buffers;
    z->cost.cache = z->memory > taken ? z->memory - taken : 0;
    if (z->cost.cache > r.expert_total) z->cost.cache = r.expert_total;
    return COT_OK;
}

static void line(const char *what, uint64_t bytes, const char *note) {
    char text[32];
    printf("%-22s %12s  %s\n", what, cli_bytes(bytes, text, sizeof text), note);
}

static void json(const sizes *z, const cost_machine *c, const cost_point *p, const cost_point *d,
                 const char *shares, int32_t prompt, int32_t batch) {
    printf(
        "{\"memory\": %llu, \"least\": %llu, \"program\": %llu, \"fixed\": %llu, \"kv\": %llu, \"buffers\": %llu, \"experts_in_memory\": %llu, \"experts_total\": %llu, \"prompt\": %d, \"batch\": %d, ",
        (unsigned long long)z->memory, (unsigned long long)z->least, (unsigned long long)z->base,
        (unsigned long long)z->fixed, (unsigned long long)z->kv, (unsigned long long)z->buffers,
        (unsigned long long)z->cost.cache, (unsigned long long)z->cost.expert_total, prompt, batch);
    printf(
        "\"memory_gbs\": %.3f, \"f32_gflops\": %.3f, \"disk_gbs\": %.3f, \"memory_share\": %.3f, \"arithmetic_share\": %.3f, \"overlap\": %.3f, \"overlap_prompt\": %.3f, \"shares\": \"%s\", ",
        c->memory_gbs, c->gflops, c->disk_gbs, c->memory_share, c->arithmetic_share, c->overlap,
        c->overlap_prompt, shares);
    printf(
        "\"prefill_tps\": %.3f, \"prefill_bound\": \"%s\", \"prefill_read\": %.0f, \"decode_tps\": %.3f, \"decode_bound\": \"%s\", \"decode_read\": %.0f, \"hit_rate\": %.4f, \"distinct\": %.2f}\n",
        p->tps, p->bound, p->read, d->tps, d->bound, d->read, d->hit_rate, d->distinct);
}

static int report(const cot_model *m, const cot_session_options *so, const cost_machine *machine, bool run,
                  const char *shares, int32_t prompt, int32_t batch, const cli_common *c) {
    sizes z = {0};
    cot_error err = {0};
    cost_machine k = *machine;
    char text[32];
    cot_status st = lay_out(m, so, &z, &err);
    if (st == COT_OK && z.memory < z.least) {
        fprintf(stderr, "error: %s are too few: at least %llu MiB are needed\n",
                cli_bytes(z.memory, text, sizeof text),
                (unsigned long long)((z.least + (1 << 20) - 1) >> 20));
        return EXIT_FAILED;
    }
    if (st == COT_OK && z.cost.cache < z.cost.expert_total)
        k.disk_gbs = cli_disk_rate(c->model, z.expert / 3, 24, 3);
    cost_run here;
    if (st == COT_OK && run) st = cost_measure(m, so, &here, &err);
    if (st != COT_OK) return cli_fail(&err);
    if (run) cost_fit(&here, &k);
    cost_point p = cost_prefill(&z.cost, &k, prompt * batch, so->chunk), d = cost_decode(&z.cost, &k, batch);
    if (c->json) return json(&z, &k, &p, &d, run ? "measured" : shares, prompt, batch), EXIT_OK;
    line("budget", z.memory, c->memory ? "" : "(what is free now, less a reserve)");
    line("  program", z.base, "with tokenizer and tables");
    line("  weights, always", z.fixed, "attention, embeddings, dense and shared parts");
    line("  keys and values", z.kv, "");
    line("  buffers", z.buffers, "");
    snprintf(text, sizeof text, "%.1f %% of all", 100 * d.hit_rate);
    line("  experts", z.cost.cache, text);
    line("least that would do", z.least, "");
    printf(
        "machine: memory %.1f GB/s, arithmetic %.0f GFLOPS, disk %.2f GB/s; reached %s: %.0f %%, %.0f %%, overlap %.0f %%\n",
        k.memory_gbs, k.gflops, k.disk_gbs, run ? "here" : shares, 100 * k.memory_share,
        100 * k.arithmetic_share, 100 * k.overlap);
    printf("prefill %d x %d: %.1f tokens/s, bound by %s (computing %.2f s, reading %.2f GB in %.2f s)\n",
           batch, prompt, p.tps, p.bound, p.compute, p.read / 1e9, p.disk);
    printf(
        "decode, batch %d: %.2f tokens/s, bound by %s (computing %.1f ms a step, reading %.1f MB in %.1f ms; %.1f distinct experts a layer)\n",
        batch, d.tps, d.bound, d.compute * 1e3, d.read / 1e6, d.disk * 1e3, d.distinct);
    return EXIT_OK;
}

int cmd_plan(int argc, char **argv) {
    cli_common c = {0};
    cot_session_options so;
    const char *words[1];
    int32_t prompt = 512, batch = 1;
    bool run = false;
    int n_words = 1;
    cot_session_defaults(&so);
    const cli_option options[] = {
        {"memory", 0, "SIZE", "most memory for everything (default: what is free)", CLI_SIZE, &c.memory},
        {"prompt", 0, "N", "tokens of a prompt", CLI_INT, &prompt},
        {"batch", 0, "N", "sequences at once", CLI_INT, &batch},
        {"ctx", 'c', "N", CLI_POSITIONS, CLI_INT, &so.n_ctx},
        {"kv", 0, "TYPE", "number format of the cache: f16, q8_0, f32", CLI_KV, &so.kv_type},
        {"measure", 0, NULL, "run the model for some seconds instead of assuming what it reaches", CLI_FLAG,
         &run},
        {0}};
    int code = cli_parse("plan", argc, argv, options, &c, words, &n_words);
    if (code >= 0) return code;
    if (prompt < 1 || prompt > 1 << 20 || batch < 1 || batch > 1024)
        return cli_usage("plan: --prompt must lie in 1…1048576, --batch in 1…1024");
    cot_model *m = NULL;
    machine_limits l;
    so.n_threads = c.threads;
    so.n_sequences = batch;
    c.residency = "stream"; /* nothing is read before a session begins */
    cli_catch_interrupts();
    int threads = c.threads ? c.threads : cot__cpu_cores();
    char why[512];
    cost_machine k = {COST_SHARES};
    if ((code = cli_open(&m, &c)) >= 0) return code;
    cost_model model = cost_model_of(m);
    bool known = cost_load(&k, &model, threads, why, sizeof why);
    if (!known) {
        machine_measure(&l, threads, false);
        k.memory_gbs = l.memory_gbs, k.gflops = l.gflops;
        if (!run)
            fprintf(stderr, "note: %s: shares are assumed; coterie bench --machine MODEL measures them\n",
                    why);
    }
    code = report(m, &so, &k, run, known ? "as calibrated" : "(assumed)", prompt, batch, &c);
    cot_model_close(&m);
    return code;
}
