/* Every golden case gives the reference's logits; however the work is cut, the same bits; and a description
 * with any of its switches turned gives other logits, so that the comparison proves what it claims. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "golden.h"
#include "kernels/kernels.h"
#include "model/arch.h"

static const int64_t FAR = 100; /* tolerances that a mutation must be away at least */

static float *must_run(const golden_run *r, const golden_case *g, int n) {
    cot_error err;
    float *x = golden_logits(r, g->ids, n, g->n_vocab, &err);
    if (!x) fail_msg("%s: %s", g->name, err.message);
    return x;
}

static void check_reference(const golden_case *g, const char *path, const char *arch) {
    golden_run r = {.path = path, .arch_file = arch, .act = COT_ACTIVATION_F32, .kv = COT_F32};
    int n = g->n_prompt + g->n_greedy;
    float *x = must_run(&r, g, n);
    double d = golden_distance(x, g->logits, (size_t)g->n_prompt * (size_t)g->n_vocab);
    if (!(d <= GOLDEN_TOLERANCE)) fail_msg("%s: %s: relative error %g", g->name, path, d);
    for (int i = g->n_prompt - 1; i < n - 1; i++) {
        const float *row = x + (size_t)i * (size_t)g->n_vocab;
        int64_t best = 0;
        for (int64_t k = 1; k < g->n_vocab; k++) best = row[k] > row[best] ? k : best;
        if (best != g->ids[i + 1]) fail_msg("%s: %s: greedy token %d differs", g->name, path, i + 1);
    }
    free(x);
}

/* The same tensors under the config as older checkpoints spell it. */
static void check_old_config(const golden_case *g) {
    char dir[64], from[300], to[400], cwd[200];
    snprintf(from, sizeof from, "%s/config.old.json", g->folder);
    if (!cot__path_exists(from)) return;
    golden_temp(dir);
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(from, sizeof from, "%.150s/%.100s/config.old.json", cwd, g->folder);
    snprintf(to, sizeof to, "%s/config.json", dir);
    assert_int_equal(symlink(from, to), 0);
    snprintf(from, sizeof from, "%.150s/%.100s/hf", cwd, g->folder);
    DIR *d = opendir(from);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char file[600];
        if (!strstr(e->d_name, "safetensors")) continue;
        snprintf(file, sizeof file, "%.299s/%.255s", from, e->d_name);
        snprintf(to, sizeof to, "%.63s/%.255s", dir, e->d_name);
        assert_int_equal(symlink(file, to), 0);
    }
    closedir(d);
    check_reference(g, dir, golden_arch(g));
    golden_remove(dir);
}

/* The case's GGUF file, and the description that adds what its converter leaves unsaid; where there is none,
 * the family's own (golden_case.arch). */
static bool gguf_of(const golden_case *g, char path[300], char arch[300]) {
    snprintf(path, 300, "%s/model.gguf", g->folder);
    snprintf(arch, 300, "%s/gguf.arch.json", g->folder);
    if (!cot__path_exists(arch)) snprintf(arch, 300, "%s", g->arch);
    return cot__path_exists(path);
}

static void complain(void *user, cot_log_level level, const char *line) {
    (void)user, (void)level;
    fail_msg("a golden model is warned of: %s", line);
}

static void agrees_with_the_reference(void **state) {
    (void)state;
    cot_log_set(complain, NULL, COT_LOG_WARN); /* every tensor of every case is read */
    for (int i = 0; i < golden_count; i++) {
        golden_case g;
        char path[300], arch[300];
        golden_open(&g, golden_names[i]);
        snprintf(path, sizeof path, "%s/hf", g.folder);
        check_reference(&g, path, golden_arch(&g));
        check_old_config(&g);
        if (gguf_of(&g, path, arch)) check_reference(&g, path, arch[0] ? arch : NULL);
        golden_close(&g);
    }
    cot_log_set(NULL, NULL, COT_LOG_WARN);
}

/* ---- identity ---- */

/* Latent attention has a form for prompts and one for generated tokens. Where activations or the cache are
 * rounded, a sum that differs in its last bit may fall to the neighbouring value. */
static bool latent(const golden_case *g) {
    return strncmp(g->name, "deepseek2", 9) == 0 || strncmp(g->name, "deepseek3", 9) == 0;
}

static void check_forms(const golden_case *g, const golden_run *r, const float *x, const float *whole) {
    size_t n = (size_t)g->n_prompt * (size_t)g->n_vocab;
    double d = golden_distance(x, whole, n), limit = r->kv == COT_F32 ? 1e-4 : r->kv == COT_F16 ? 1e-3 : 2e-2;
    if (!(d <= limit))
        fail_msg("%s: the forms of latent attention differ by %g, KV %s, activations %d", g->name, d,
                 cot_type_name(r->kv), r->act);
    assert_true(memcmp(x, whole, n * sizeof *x) != 0); /* there are two */
}

static void gives_the_same_bits_however_it_is_cut(void **state) {
    static const cot_type kvs[] = {COT_F32, COT_F16, COT_Q8_0};
    (void)state;
    for (int i = 0; i < golden_count; i++) {
        golden_case g;
        char path[300];
        golden_open(&g, golden_names[i]);
        snprintf(path, sizeof path, "%s/hf", g.folder);
        for (int k = 0; k < 6; k++) {
            golden_run r = {.path = path,
                            .arch_file = golden_arch(&g),
                            .act = k % 2 ? COT_ACTIVATION_F32 : COT_ACTIVATION_AUTO,
                            .kv = kvs[k / 2]};
            cot_error err;
            float *whole = golden_logits(&r, g.ids, g.n_prompt, g.n_vocab, &err);
            if (!whole && r.kv == COT_Q8_0 && err.status == COT_UNSUPPORTED)
                continue; /* heads of no whole blocks */
            if (!whole) fail_msg("%s: %s", g.name, err.message);
            size_t bytes = (size_t)g.n_prompt * (size_t)g.n_vocab * sizeof *whole;
            for (golden_way way = GOLDEN_WHOLE; way <= GOLDEN_GENERATED; way++) {
                r.way = way;
                r.threads = way == GOLDEN_STEPS ? 1 : 2;
                float *x = must_run(&r, &g, g.n_prompt);
                if (way == GOLDEN_GENERATED_BATCHED && latent(&g)) {
                    check_forms(&g, &r, x, whole);
                    memcpy(whole, x, bytes); /* from here on what is generated is the measure */
                } else if (memcmp(x, whole, bytes) != 0)
                    fail_msg("%s: way %d, KV %s, activations %d: other bits (distance %g)", g.name, way,
                             cot_type_name(r.kv), r.act, golden_distance(x, whole, bytes / 4));
                free(x);
            }
            free(whole);
        }
        golden_close(&g);
    }
}

/* One file per expert or all in one tensor, rows in this order or that: the same model. Bit for bit, except
 * where the GGUF holds rows in another order (RoPE pairs), latent attention split by head, or factors in
 * fewer bits: there sums round differently, and a rounded cache may then hold a neighbouring value; or where
 * one file has BF16 and the other the same values in F32, and the level rounds activations for BF16. */
static void gguf_is_safetensors(void **state) {
    static const cot_type kvs[] = {COT_F32, COT_F16, COT_Q8_0};
    static const double limits[] = {1e-5, 1e-4, 1e-3};
    static const char *const reordered[] = {"llama", "mixtral", "granite", "deepseek", "phimoe", "bailing"};
    int files = 0;
    (void)state;
    const cot_kernels *kernels;
    assert_int_equal(cot__kernels_get(&kernels, NULL), COT_OK);
    bool rounds = kernels->act[cot__kernel_slot(COT_BF16)] == COT_ACT_BF16;
    for (int i = 0; i < golden_count; i++) {
        golden_case g;
        char folder[300], path[300], arch[300];
        bool other_sums = false;
        golden_open(&g, golden_names[i]);
        for (size_t k = 0; k < sizeof reordered / sizeof *reordered; k++)
            if (strncmp(g.name, reordered[k], strlen(reordered[k])) == 0) other_sums = true;
        snprintf(folder, sizeof folder, "%s/hf", g.folder);
        files += gguf_of(&g, path, arch);
        for (int k = 0; k < 6 && cot__path_exists(path); k++) {
            cot_error err;
            golden_run r = {.path = folder,
                            .arch_file = golden_arch(&g),
                            .act = k % 2 ? COT_ACTIVATION_F32 : COT_ACTIVATION_AUTO,
                            .kv = kvs[k / 2]};
            float *a = golden_logits(&r, g.ids, g.n_prompt, g.n_vocab, &err);
            if (!a && err.status == COT_UNSUPPORTED) continue;
            r.path = path;
            r.arch_file = arch[0] ? arch : NULL;
            float *b = must_run(&r, &g, g.n_prompt);
            double d = golden_distance(a, b, (size_t)g.n_prompt * (size_t)g.n_vocab);
            double limit = other_sums ? limits[k / 2] : 0;
            if (rounds && r.act == COT_ACTIVATION_AUTO && strstr(g.name, "bf16")) limit = 3e-2;
            if (!(d <= limit))
                fail_msg("%s: KV %s, activations %d: distance %g", g.name, cot_type_name(r.kv), r.act, d);
            free(a);
            free(b);
        }
        golden_close(&g);
    }
    assert_true(files > 20);
}

/* ---- mutations ---- */

typedef struct mutation {
    const char *name, *where, *key, *value; /* where: the name of an op, or a part of the description */
} mutation;

static const mutation mutations[] = {
    {"llama", "rope", "pairing", "\"norm\""},
    {"llama", "rope", "base", "500"},
    {"llama", "norm", "eps", "0.5"},
    {"llama", "ffn", "act", "\"gelu\""},
    {"llama", "attention", "scale", "0.9"},
    {"llama-linear", "rope", "scaling", "\"none\""},
    {"llama-llama3", "rope", "scaling", "\"none\""},
    {"llama-llama3", "rope", "low_freq_factor", "0.1"},
    {"llama-llama3", "rope", "high_freq_factor", "20"},
    {"mixtral", "moe", "normalize", "false"},
    {"mixtral", "moe", "score", "\"sigmoid\""},
    {"mixtral", "moe", "k", "1"},
    {"qwen2", "rope", "pairing", "\"norm\""},
    {"qwen3", "tensors", "attn_q_norm.hf", "\"model.layers.{i}.self_attn.k_norm.weight\""},
    {"qwen3", "tensors", "attn_k_norm.hf", "\"model.layers.{i}.self_attn.q_norm.weight\""},
    {"qwen3-yarn", "rope", "scaling", "\"none\""},
    {"qwen3-yarn", "rope", "attn_factor", "1"},
    {"qwen3moe", "moe", "normalize", "false"},
    {"qwen3moe-plain", "moe", "normalize", "true"},
    {"qwen2moe", "moe", "normalize", "true"},
    {"qwen2moe-norm", "moe", "normalize", "false"},
    {"qwen2moe", "tensors", "ffn_gate_inp_shexp", NULL},
    {"olmo2", "norm", "eps", "0.5"},
    {"olmoe", "moe", "normalize", "true"},
    {"olmoe-clip", "attention", "clip", "0"},
    {"gemma3", "input", "sqrt_scale", NULL},
    {"gemma3", "ffn", "act", "\"silu\""},
    {"gemma3", "attention", "window", "0"},
    {"gemma3", "attention", "scale_base", "1"},
    {"gemma3", "attention", "rope", NULL},
    {"gemma3", "tensors", "attn_norm.hf", "\"model.layers.{i}.input_layernorm.weight\""},
    {"gpt-oss", "tensors", "attn_sinks", NULL},
    {"gpt-oss", "attention", "window", "0"},
    {"gpt-oss", "moe", "act", "\"silu\""},
    {"gpt-oss", "moe", "alpha", "1"},
    {"gpt-oss", "moe", "limit", "0.01"},
    {"gpt-oss", "moe", "score", "\"softmax\""},
    {"gpt-oss", "moe", "weights", NULL},
    {"granitemoe", "input", "scale", "1"},
    {"granitemoe", "add", "scale", "1"},
    {"granitemoe", "attention", "scale", "1"},
    {"granitemoe", "heads.logits", "divide", "1"},
    {"granitemoe-shared", "tensors", "ffn_gate_shexp.hf",
     "[{\"name\": \"model.layers.{i}.shared_mlp.input_linear.weight\", \"rows\": \"second\"}]"},
    {"phimoe", "norm", "norm", "\"rms\""},
    {"phimoe", "moe", "select", NULL},
    {"phimoe", "moe", "jitter", "0.5"},
    {"phimoe-long", "rope", "scaling", "\"none\""},
    {"glm4moe", "rope", "dim", "16"},
    {"glm4moe", "moe", "score", "\"softmax\""},
    {"glm4moe", "moe", "normalize", "false"},
    {"glm4moe", "moe", "scale", "1"},
    {"glm4moe", "tensors", "exp_probs_b", NULL},
    {"deepseek2", "moe", "groups", "0"},
    {"deepseek2", "moe", "scale", "1"},
    {"deepseek3", "mla", "yarn_log_multiplier", "0"},
    {"deepseek2", "rope", "pairing", "\"neox\""},
    {"deepseek3", "moe", "groups", "0"},
    {"deepseek3", "moe", "group_score", "\"max\""},
    {"deepseek3", "moe", "score", "\"softmax\""},
    {"deepseek3", "moe", "normalize", "false"},
    {"deepseek3", "tensors", "exp_probs_b", NULL},
    {"phi3", "attention", "window", "0"},
    {"phi3", "tensors", "ffn_gate.hf",
     "[{\"name\": \"model.layers.{i}.mlp.gate_up_proj.weight\", \"rows\": \"second\"}]"},
    {"llama", "rope", "dim", "8"},
    {"llama", "heads.logits", "tied", "true"},
    {"llama", "heads.logits", "scale", "2"},
    {"llama", "input", "scale", "2"},
    {"llama", "attention", "softcap", "5"},
    {"llama", "attention", "clip", "0.3"},
    {"llama", "attention", "rope", "\"none\""},
    {"llama-linear", "rope", "factor", "2"},
    {"llama-linear", "tensors", "attn_output.hf",
     "[{\"name\": \"model.layers.{i}.self_attn.o_proj.weight\", \"bias\": \"none\"}]"},
    {"llama-llama3", "rope", "factor", "2"},
    {"llama-llama3", "rope", "original_ctx", "128"},
    {"mixtral", "moe", "act", "\"gelu\""},
    {"qwen2", "tensors", "attn_q.hf",
     "[{\"name\": \"model.layers.{i}.self_attn.q_proj.weight\", \"bias\": \"none\"}]"},
    {"qwen2", "tensors", "attn_k.hf",
     "[{\"name\": \"model.layers.{i}.self_attn.k_proj.weight\", \"bias\": \"none\"}]"},
    {"qwen2", "tensors", "attn_v.hf",
     "[{\"name\": \"model.layers.{i}.self_attn.v_proj.weight\", \"bias\": \"none\"}]"},
    {"qwen3", "attention", "norm_after_rope", "true"},
    {"qwen3moe", "attention", "norm_after_rope", "true"},
    {"qwen3-yarn", "rope", "factor", "2"},
    {"qwen3-yarn", "rope", "original_ctx", "256"},
    {"qwen3-yarn", "rope", "beta_fast", "0.5"},
    {"qwen3-yarn", "rope", "beta_slow", "0.05"},
    {"qwen3-yarn", "rope", "truncate", "false"},
    {"qwen2moe", "tensors", "ffn_up_shexp", NULL},
    {"qwen2moe", "moe", "k", "1"},
    {"olmo2", "attention", "norm_after_rope", "true"},
    {"olmo2", "ffn", "act", "\"gelu\""},
    {"olmoe", "attention", "norm_after_rope", "true"},
    {"olmoe-clip", "moe", "normalize", "false"},
    {"gemma3", "attention", "window", "7"},
    {"gemma3", "attention", "window", "9"},
    {"gemma3", "rope", "factor", "1"},
    {"gemma3", "rope.local", "base", "1000"},
    {"gemma3", "heads.logits", "softcap", "5"},
    {"gemma3", "tensors", "output_norm.hf", "\"model.norm.weight\""},
    {"gemma3", "tensors", "ffn_norm.hf", "\"model.layers.{i}.pre_feedforward_layernorm.weight\""},
    {"gemma3", "tensors", "attn_q_norm.hf", "\"model.layers.{i}.self_attn.q_norm.weight\""},
    {"gemma3", "tensors", "attn_k_norm.hf", "\"model.layers.{i}.self_attn.k_norm.weight\""},
    {"gemma3", "tensors", "post_attn_norm.hf", "\"model.layers.{i}.post_attention_layernorm.weight\""},
    {"gemma3", "tensors", "post_ffn_norm.hf", "\"model.layers.{i}.post_feedforward_layernorm.weight\""},
    {"gpt-oss", "attention", "window", "7"},
    {"gpt-oss", "attention", "window", "9"},
    {"gpt-oss", "rope", "truncate", "true"},
    {"gpt-oss", "rope", "scaling", "\"none\""},
    {"gpt-oss", "moe", "k", "1"},
    {"gpt-oss", "tensors", "ffn_gate_inp.hf",
     "[{\"name\": \"model.layers.{i}.mlp.router.weight\", \"bias\": \"none\"}]"},
    {"gpt-oss", "tensors", "ffn_gate_exps.hf",
     "[{\"name\": \"model.layers.{i}.mlp.experts.gate_up_proj\", \"transpose\": true, \"rows\": \"odd\"}]"},
    {"gpt-oss", "tensors", "ffn_down_exps.hf",
     "[{\"name\": \"model.layers.{i}.mlp.experts.down_proj\", \"bias\": \"none\", \"transpose\": true}]"},
    {"granitemoe", "moe", "weights", NULL},
    {"granitemoe-shared", "tensors", "ffn_up_shexp", NULL},
    {"granitemoe-shared", "heads.logits", "tied", "true"},

    {"phimoe", "rope", "short_mscale", "1"},
    {"phimoe", "rope", "short_factor", "\"$rope_long\""},
    {"phimoe", "tensors", "output.hf", "[{\"name\": \"lm_head.weight\", \"bias\": \"none\"}]"},
    {"phimoe", "tensors", "attn_output.hf",
     "[{\"name\": \"model.layers.{i}.self_attn.o_proj.weight\", \"bias\": \"none\"}]"},
    {"phimoe-long", "rope", "long_mscale", "1"},
    {"phimoe-long", "rope", "long_factor", "\"$rope_short\""},
    {"phimoe-long", "rope", "original_ctx", "1000"},
    {"phimoe-long", "moe", "jitter", "0.01"},
    {"glm4moe", "attention", "norm_after_rope", "true"},
    {"glm4moe", "tensors", "ffn_up_shexp", NULL},
    {"glm4moe", "tensors", "attn_q.hf",
     "[{\"name\": \"model.layers.{i}.self_attn.q_proj.weight\", \"bias\": \"none\"}]"},
    {"glm4moe-plain", "moe", "normalize", "true"},
    {"deepseek", "moe", "normalize", "true"},
    {"deepseek", "moe", "scale", "2"},
    {"deepseek", "rope", "pairing", "\"norm\""},
    {"deepseek", "tensors", "ffn_up_shexp", NULL},
    {"bailingmoe", "tensors", "output.hf", "\"lm_head.weight\""},
    {"bailingmoe", "moe", "normalize", "false"},
    {"bailingmoe", "rope", "pairing", "\"norm\""},
    {"bailingmoe", "tensors", "ffn_up_shexp", NULL},
    {"bailingmoe2", "moe", "groups", "0"},
    {"bailingmoe2", "moe", "groups_used", "1"},
    {"bailingmoe2", "moe", "group_score", "\"max\""},
    {"bailingmoe2", "moe", "score", "\"softmax\""},
    {"bailingmoe2", "moe", "normalize", "false"},
    {"bailingmoe2", "moe", "scale", "1"},
    {"bailingmoe2", "rope", "dim", "16"},
    {"bailingmoe2", "tensors", "exp_probs_b", NULL},
    {"bailingmoe2", "attention", "norm_after_rope", "true"},
    {"deepseek2", "moe", "groups_used", "1"},
    {"deepseek2", "moe", "group_score", "\"top2\""},
    {"deepseek2", "moe", "normalize", "true"},
    {"deepseek2", "mla", "eps", "0.5"},
    {"deepseek2", "tensors", "ffn_up_shexp", NULL},
    {"deepseek2-lite", "mla", "yarn_log_multiplier", "0"},
    {"deepseek2-lite", "rope", "mscale", "2"},
    {"deepseek2-lite", "rope", "mscale_all", "2"},
    {"deepseek2-lite", "rope", "scaling", "\"none\""},
    {"deepseek3", "mla", "yarn_factor", "1"},
    {"deepseek3", "moe", "groups_used", "1"},
    {"deepseek3", "moe", "scale", "1"},
    {"deepseek3", "moe", "normalize_or_scale", "true"},
    {"mixtral-window", "attention", "window", "0"},
    {"mixtral-window", "attention", "window", "7"},
    {"mixtral-window", "attention", "window", "9"},
    {"qwen2-window", "attention", "window", "0"},
    {"qwen2-window", "attention", "window", "7"},
    {"qwen2-window", "attention", "window", "9"},
    {"llama-bias", "tensors", "ffn_gate.hf",
     "[{\"name\": \"model.layers.{i}.mlp.gate_proj.weight\", \"bias\": \"none\"}]"},
    {"llama-bias", "tensors", "ffn_up.hf",
     "[{\"name\": \"model.layers.{i}.mlp.up_proj.weight\", \"bias\": \"none\"}]"},
    {"llama-bias", "tensors", "ffn_down.hf",
     "[{\"name\": \"model.layers.{i}.mlp.down_proj.weight\", \"bias\": \"none\"}]"},
    {"llama-bias", "ffn", "act", "\"silu\""},
    {"gemma2", "attention", "softcap", "0"},
    {"gemma2", "attention", "window", "0"},
    {"gemma2", "heads.logits", "softcap", "0"},
    {"gemma3-softcap", "heads.logits", "softcap", "0"},
    {"deepseek2-norm", "moe", "normalize", "false"},
    {"deepseek2-norm", "moe", "normalize_or_scale", "false"},
    {"deepseek3-plain", "moe", "normalize", "true"},
    {"deepseek3-plain", "moe", "scale", "1"},
    {"deepseek3-plain", "tensors", "exp_probs_b", NULL},
    {"deepseek3-plain", "rope", "pairing", "\"neox\""},
};

static void set(json_t *obj, const char *key, const char *value) {
    const char *dot;
    for (; obj && (dot = strchr(key, '.')) != NULL; key = dot + 1) {
        char part[64];
        snprintf(part, sizeof part, "%.*s", (int)(dot - key), key);
        obj = json_object_get(obj, part);
    }
    assert_non_null(obj);
    if (!value) assert_int_equal(json_object_del(obj, key), 0);
    else assert_int_equal(json_object_set_new(obj, key, json_loads(value, JSON_DECODE_ANY, NULL)), 0);
}

/* Writes the case's own description, with one thing changed or (m NULL) unchanged. */
static void write_description(const golden_case *g, const mutation *m, const char *file) {
    cot_error err;
    cot__source *src = NULL;
    cot__arch *arch = NULL;
    char path[300];
    snprintf(path, sizeof path, "%s/hf", g->folder);
    assert_int_equal(cot__source_open(&src, path, &err), COT_OK);
    assert_int_equal(cot__arch_open(&arch, src, golden_arch(g), &err), COT_OK);
    json_object_del(arch->doc, "extends");
    if (m) {
        json_t *stack = json_object_get(json_object_get(arch->doc, "stacks"), "decoder"), *op;
        json_t *lists[] = {json_object_get(stack, "layer"), json_object_get(stack, "output")};
        size_t i;
        int hits = 0;
        for (int k = 0; k < 2; k++) json_array_foreach(lists[k], i, op) {
                const char *name = json_string_value(json_object_get(op, "op"));
                if (!name || strcmp(name, m->where) != 0) continue;
                if (!m->value && !json_object_get(op, m->key)) continue;
                set(op, m->key, m->value), hits++;
            }
        if (strncmp(m->where, "rope", 4) == 0)
            set(json_object_get(json_object_get(arch->doc, "rope"), m->where[4] ? m->where + 5 : "main"),
                m->key, m->value);
        else if (strcmp(m->where, "heads.logits") == 0)
            set(json_object_get(json_object_get(arch->doc, "heads"), "logits"), m->key, m->value);
        else if (!hits) set(json_object_get(arch->doc, m->where), m->key, m->value);
    }
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    assert_int_equal(json_dumpf(arch->doc, f, 0), 0);
    fclose(f);
    cot__arch_close(&arch);
    cot__source_close(&src);
}

static void notices_every_switch(void **state) {
    char dir[64], file[128], path[300];
    (void)state;
    int unnoticed = 0;
    golden_temp(dir);
    snprintf(file, sizeof file, "%s/arch.json", dir);
    for (int i = 0; i < golden_count; i++) {
        golden_case g;
        golden_open(&g, golden_names[i]);
        snprintf(path, sizeof path, "%s/hf", g.folder);
        golden_run r = {.path = path, .arch_file = file, .act = COT_ACTIVATION_F32, .kv = COT_F32};
        size_t n = (size_t)g.n_prompt * (size_t)g.n_vocab;
        write_description(&g, NULL, file); /* the way of testing changes nothing */
        float *same = must_run(&r, &g, g.n_prompt);
        assert_true(golden_distance(same, g.logits, n) <= GOLDEN_TOLERANCE);
        free(same);
        for (size_t k = 0; k < sizeof mutations / sizeof *mutations; k++) {
            const mutation *m = &mutations[k];
            cot_error err;
            if (strcmp(m->name, g.name) != 0) continue;
            write_description(&g, m, file);
            float *x = golden_logits(&r, g.ids, g.n_prompt, g.n_vocab, &err);
            if (!x)
                fail_msg("%s: %s.%s = %s: %s", m->name, m->where, m->key, m->value ? m->value : "none",
                         err.message);
            double d = golden_distance(x, g.logits, n);
            if (!(d >= (double)FAR * GOLDEN_TOLERANCE)) {
                print_error("%s: %s.%s = %s goes unnoticed: %g\n", m->name, m->where, m->key,
                            m->value ? m->value : "none", d);
                unnoticed++;
            }
            free(x);
        }
        golden_close(&g);
    }
    golden_remove(dir);
    assert_int_equal(unnoticed, 0);
}

/* Sizes and wiring that no file can be read with when they are wrong, and 1e-20, which no logit shows. */
static const char exempt[] =
    " op in out if unless comment weight heads kv_heads head_dim head_dim_v experts q_rank kv_rank nope rot "
    "select norm tied normalize_eps ";

static bool has_mutation(const char *where, const char *key) {
    char word[64];
    snprintf(word, sizeof word, " %.60s ", key);
    if (strstr(exempt, word)) return true;
    for (size_t k = 0; k < sizeof mutations / sizeof *mutations; k++)
        if (strcmp(mutations[k].where, where) == 0 && strcmp(mutations[k].key, key) == 0) return true;
    return false;
}

static int missing(const golden_case *g, const char *where, const json_t *object) {
    const char *key;
    json_t *value;
    int n = 0;
    json_object_foreach((json_t *)object, key, value) if (!has_mutation(where, key)) {
        print_error("%s: no mutation turns %s.%s\n", g->name, where, key);
        n++;
    }
    return n;
}

/* Whatever a description says of a golden model is turned by a mutation somewhere. */
static void turns_every_switch(void **state) {
    (void)state;
    int n = 0;
    for (int i = 0; i < golden_count; i++) {
        golden_case g;
        cot_error err;
        cot__source *src = NULL;
        cot__arch *arch = NULL;
        char path[300];
        golden_open(&g, golden_names[i]);
        snprintf(path, sizeof path, "%s/hf", g.folder);
        assert_int_equal(cot__source_open(&src, path, &err), COT_OK);
        assert_int_equal(cot__arch_open(&arch, src, golden_arch(&g), &err), COT_OK);
        json_t *op, *rope;
        const json_t *stack = json_object_get(json_object_get(arch->doc, "stacks"), "decoder");
        const char *lists[] = {"layer", "output"}, *name;
        size_t k;
        for (int l = 0; l < 2; l++)
            json_array_foreach(json_object_get(stack, lists[l]), k, op) n +=
                missing(&g, json_string_value(json_object_get(op, "op")), op);
        json_object_foreach(json_object_get(arch->doc, "rope"), name, rope) n += missing(&g, "rope", rope);
        n += missing(&g, "heads.logits", json_object_get(json_object_get(arch->doc, "heads"), "logits"));
        n += missing(&g, "input", json_object_get(arch->doc, "input"));
        cot__arch_close(&arch);
        cot__source_close(&src);
        golden_close(&g);
    }
    assert_int_equal(n, 0);
}

int main(void) {
    golden_list();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_reference), cmocka_unit_test(gives_the_same_bits_however_it_is_cut),
        cmocka_unit_test(gguf_is_safetensors),       cmocka_unit_test(notices_every_switch),
        cmocka_unit_test(turns_every_switch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
