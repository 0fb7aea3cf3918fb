/* Owns: the options that say where weights are, and the figures of streaming for people and programs. */
#include <string.h>

#include "cli/cli.h"

static const char *const residencies[] = {"auto", "mmap", "memory", "stream", "ring", "sim"};

int cli_memory_options(const cli_common *c, cot_model_options *o) {
    o->memory = c->memory;
    o->retention = c->retention;
    o->predict = c->predict;
    o->experts_lossy = c->lossy;
    o->repack = c->repack;
    if (!c->residency) return -1;
    for (int i = 0; i < 6; i++)
        if (strcmp(residencies[i], c->residency) == 0) {
            o->residency = (cot_residency)i;
            return -1;
        }
    return cli_usage("--residency must be auto, memory, mmap, stream, ring or sim, not \"%s\"", c->residency);
}

cot_residency_info cli_residency(const cot_model *m) {
    cot_residency_info i = {.struct_size = sizeof i};
    if (cot_model_get_residency(m, -1, &i, NULL) != COT_OK) i.io = "";
    return i;
}

typedef struct difference {
    double hit_rate, bytes, stall_read, stall_slot, busy, useful;
} difference;

/* False: nothing streams, or nothing was asked for. */
static bool differ(const cot_residency_info *a, const cot_residency_info *b, difference *d) {
    double acquired = (double)(b->acquired - a->acquired), hinted = (double)(b->hinted - a->hinted);
    if (!b->io || !b->io[0] || acquired <= 0) return false;
    *d = (difference){.hit_rate = (double)(b->hits - a->hits) / acquired,
                      .bytes = (double)(b->bytes_read - a->bytes_read),
                      .stall_read = b->stall_read - a->stall_read,
                      .stall_slot = b->stall_slot - a->stall_slot,
                      .busy = b->disk_busy - a->disk_busy,
                      .useful = hinted > 0 ? (double)(b->hinted_used - a->hinted_used) / hinted : 0};
    return true;
}

void cli_memory_line(const cot_residency_info *a, const cot_residency_info *b, double tokens,
                     double seconds) {
    difference d;
    char size[32], all[32];
    if (b->lossy && strcmp(b->lossy, "low") == 0)
        fprintf(stderr, "lossy: all routed experts in %s (--experts-lossy low)\n", b->lossy_type);
    if (!differ(a, b, &d) || tokens <= 0 || seconds <= 0) return;
    if (strcmp(b->lossy, "miss") == 0)
        fprintf(stderr, "lossy: %.1f %% of the choices met their expert in %s (--experts-lossy miss)\n",
                100.0 * (double)(b->lower - a->lower) / (double)(b->acquired - a->acquired), b->lossy_type);
    fprintf(
        stderr,
        "experts: %s of %s in memory, hit rate %.1f %%, %.1f MB read a token, %.2f GB/s, disk busy %.0f %%, waited %.0f %% for reads, %.0f %% for room",
        cli_bytes(b->expert_bytes, size, sizeof size), cli_bytes(b->expert_total, all, sizeof all),
        100 * d.hit_rate, d.bytes / tokens / 1e6, d.bytes / seconds / 1e9, 100 * d.busy / seconds,
        100 * d.stall_read / seconds, 100 * d.stall_slot / seconds);
    if (b->hinted > a->hinted) fprintf(stderr, ", %.0f %% of predicted reads were wanted", 100 * d.useful);
    fputc('\n', stderr);
}

void cli_memory_json(const cot_residency_info *a, const cot_residency_info *b, double tokens,
                     double seconds) {
    difference d;
    printf(", \"residency\": \"%s\"", b->residency ? b->residency : "");
    if (b->lossy && b->lossy[0])
        printf(", \"experts_lossy\": \"%s\", \"lossy_type\": \"%s\", \"lossy_choices\": %llu", b->lossy,
               b->lossy_type, (unsigned long long)(b->lower - a->lower));
    if (!differ(a, b, &d) || tokens <= 0 || seconds <= 0) return;
    printf(
        ", \"memory_bytes\": %llu, \"retention\": \"%s\", \"predict\": \"%s\", \"io\": \"%s\", \"fixed_bytes\": %llu, \"expert_bytes\": %llu, \"expert_total_bytes\": %llu, \"hit_rate\": %.5f, \"bytes_read_per_token\": %.0f, \"read_gbs\": %.4f, \"disk_busy\": %.4f, \"stall_read\": %.4f, \"stall_slot\": %.4f, \"hinted\": %llu, \"hinted_used\": %llu",
        (unsigned long long)b->memory, b->retention, b->predict, b->io, (unsigned long long)b->fixed_bytes,
        (unsigned long long)b->expert_bytes, (unsigned long long)b->expert_total, d.hit_rate,
        d.bytes / tokens, d.bytes / seconds / 1e9, d.busy / seconds, d.stall_read / seconds,
        d.stall_slot / seconds, (unsigned long long)(b->hinted - a->hinted),
        (unsigned long long)(b->hinted_used - a->hinted_used));
}

void cli_memory_table(const cot_model *m) {
    cot_model_info info = {.struct_size = sizeof info};
    cot_model_get_info(m, &info);
    cot_residency_info all = cli_residency(m);
    bool lossy = all.lossy && all.lossy[0];
    fprintf(stderr, "layer  experts     hits  misses  hit %%   predicted  wanted  MB read  wait s%s%s\n",
            lossy ? "  " : "", lossy ? all.lossy_type : "");
    for (int32_t l = 0; l < info.n_layers; l++) {
        cot_residency_info i = {.struct_size = sizeof i};
        if (cot_model_get_residency(m, l, &i, NULL) != COT_OK || !i.acquired) continue;
        fprintf(stderr, "%5d %8llu %8llu %7llu %6.1f %11llu %7llu %8.1f %7.3f", l,
                (unsigned long long)i.acquired, (unsigned long long)i.hits, (unsigned long long)i.misses,
                100.0 * (double)i.hits / (double)i.acquired, (unsigned long long)i.hinted,
                (unsigned long long)i.hinted_used, (double)i.bytes_read / 1e6, i.stall_read + i.stall_slot);
        if (lossy) fprintf(stderr, " %7llu", (unsigned long long)i.lower);
        fputc('\n', stderr);
    }
}
