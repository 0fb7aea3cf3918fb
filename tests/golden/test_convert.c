/* Conversion: every golden case through GGUF and back gives the same logits, at every activation and cache
 * type; every number format is written, loads and stays near; a split block is the dense one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <coterie/convert.h>

#include "format/gguf.h"
#include "golden.h"

/* Where the container's own order of rows changes a sum's order. */
static const double REORDERED = 1e-5;

static void must_convert(const char *in, const char *out, const cot_convert_options *o) {
    cot_error err;
    if (cot_convert(in, out, o, &err) != COT_OK) fail_msg("%s", err.message);
}

static float *must_run(const golden_run *r, const golden_case *g) {
    cot_error err;
    float *x = golden_logits(r, g->ids, g->n_prompt, g->n_vocab, &err);
    if (!x) fail_msg("%s: %s", r->path, err.message);
    return x;
}

static void compare(const golden_case *g, const char *a, const char *b) {
    static const cot_type kvs[] = {COT_F32, COT_F16, COT_Q8_0};
    size_t n = (size_t)g->n_prompt * (size_t)g->n_vocab;
    for (int k = 0; k < 6; k++) {
        golden_run r = {.path = a,
                        .arch_file = golden_arch(g),
                        .act = k % 2 ? COT_ACTIVATION_F32 : COT_ACTIVATION_AUTO,
                        .kv = kvs[k / 2]};
        cot_error err;
        float *x = golden_logits(&r, g->ids, g->n_prompt, g->n_vocab, &err);
        if (!x && r.kv == COT_Q8_0 && err.status == COT_UNSUPPORTED) continue;
        if (!x) fail_msg("%s: %s", a, err.message);
        r.path = b;
        float *y = must_run(&r, g);
        /* a reordered row may round differently once it is quantised */
        double limit = r.act == COT_ACTIVATION_F32 && r.kv == COT_F32 ? REORDERED : 0.05;
        double d = golden_distance(y, x, n);
        if (!(d <= limit)) fail_msg("%s and %s differ by %g (KV %s)", a, b, d, cot_type_name(r.kv));
        free(x);
        free(y);
    }
}

static void goes_to_gguf_and_back(void **state) {
    char dir[64], gguf[128], folder[128], hf[200];
    cot_error err;
    (void)state;
    golden_temp(dir);
    int back = 0;
    for (int i = 0; i < golden_count; i++) {
        golden_case g;
        golden_open(&g, golden_names[i]);
        snprintf(hf, sizeof hf, "%s/hf", g.folder);
        snprintf(gguf, sizeof gguf, "%s/%d.gguf", dir, i);
        snprintf(folder, sizeof folder, "%s/%d", dir, i);
        cot_convert_options o;
        cot_convert_defaults(&o);
        o.arch_file = golden_arch(&g);
        if (strstr(g.name, "fp8")) o.type = COT_F32; /* GGUF has no FP8; BF16, the default, rounds */
        must_convert(hf, gguf, &o);
        compare(&g, hf, gguf);
        cot_convert_options back_again;
        cot_convert_defaults(&back_again);
        back_again.arch_file = golden_arch(&g);
        /* a GGUF keeps llama3's scaling as divisors, which only the releases' own numbers lead back from */
        cot_status s = cot_convert(gguf, folder, &back_again, &err);
        if (s == COT_UNSUPPORTED && strcmp(g.name, "llama-llama3") == 0)
            assert_non_null(strstr(err.message, "rope_freqs"));
        else if (s != COT_OK) fail_msg("%s: %s", g.name, err.message);
        else compare(&g, gguf, folder), back++;
        golden_close(&g);
    }
    assert_int_equal(back, golden_count - 1);
    golden_remove(dir);
}

/* Through a GGUF and back; the config.json of the folder. */
static json_t *config_after(const char *dir, const char *hf) {
    char gguf[128], folder[128], path[160];
    cot_error err;
    json_t *root;
    snprintf(gguf, sizeof gguf, "%s/c.gguf", dir);
    snprintf(folder, sizeof folder, "%s/c", dir);
    snprintf(path, sizeof path, "%s/c/config.json", dir);
    must_convert(hf, gguf, NULL);
    must_convert(gguf, folder, NULL);
    if (cot__json_load(&root, path, 1 << 20, &err) != COT_OK) fail_msg("%s", err.message);
    golden_remove(folder);
    unlink(gguf);
    return root;
}

/* What transformers cannot guess stands in the config: dense layers among routed ones, that there is no
 * padding token, and "default" for a rotation without scaling. */
static void writes_configs_of_transformers(void **state) {
    char dir[64], path[200], link[200], cwd[200];
    cot_error err;
    (void)state;
    golden_temp(dir);
    json_t *root = config_after(dir, "tests/golden/qwen3moe-plain/hf"),
           *list = json_object_get(root, "mlp_only_layers");
    assert_int_equal(json_array_size(list), 1);
    assert_int_equal(json_integer_value(json_array_get(list, 0)), 1);
    assert_true(json_is_null(json_object_get(root, "pad_token_id")));
    json_decref(root);
    /* transformers takes true or false here, and drops biases that the config does not promise */
    static const char *const windows[] = {"qwen2", "qwen3", "qwen2moe", "qwen3moe"};
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "tests/golden/%s/hf", windows[i]);
        root = config_after(dir, path);
        assert_true(json_is_false(json_object_get(root, "use_sliding_window")));
        assert_true(json_is_false(json_object_get(root, "mlp_bias")));
        json_decref(root);
    }
    root = config_after(dir, "tests/golden/llama-bias/hf");
    assert_true(json_is_true(json_object_get(root, "mlp_bias")));
    json_decref(root);
    root = config_after(dir, "tests/golden/glm4moe/hf"); /* says it by first_k_dense_replace */
    assert_null(json_object_get(root, "mlp_only_layers"));
    json_decref(root);

    assert_int_equal(cot__json_load(&root, "tests/golden/gemma3/hf/config.json", 1 << 20, &err), COT_OK);
    json_t *full = json_object_get(json_object_get(root, "rope_parameters"), "full_attention");
    assert_int_equal(json_object_set_new(full, "rope_type", json_string("default")), 0);
    json_object_del(full, "factor");
    snprintf(path, sizeof path, "%s/hf", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/hf/config.json", dir);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
    assert_non_null(getcwd(cwd, 150));
    snprintf(path, sizeof path, "%.150s/tests/golden/gemma3/hf/model.safetensors", cwd);
    snprintf(link, sizeof link, "%s/hf/model.safetensors", dir);
    assert_int_equal(symlink(path, link), 0);
    snprintf(path, sizeof path, "%s/hf", dir);
    root = config_after(dir, path);
    full = json_object_get(json_object_get(root, "rope_parameters"), "full_attention");
    assert_string_equal(json_string_value(json_object_get(full, "rope_type")), "default");
    json_decref(root);
    golden_remove(dir);
}

/* Keys and values of latent attention that the file keeps apart become the one matrix of a folder. */
static void joins_latent_attention(void **state) {
    static const char *const names[] = {"deepseek2", "deepseek2-lite", "deepseek3", "deepseek3-plain"};
    char dir[64], folder[128], gguf[300];
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names;
         i++) { /* llama.cpp's files have attn_k_b and attn_v_b */
        golden_case g;
        golden_temp(dir);
        golden_open(&g, names[i]);
        snprintf(folder, sizeof folder, "%s/back", dir);
        snprintf(gguf, sizeof gguf, "%s/model.gguf", g.folder);
        must_convert(gguf, folder, NULL);
        compare(&g, gguf, folder);
        golden_close(&g);
        golden_remove(dir);
    }
}

/* A description of the user's own goes with the file, and so does what it reads from the config alone; which
 * class a folder is of, it does not inherit. */
static void own_descriptions_travel(void **state) {
    char dir[64], arch[128], gguf[128], folder[128];
    cot_error err;
    cot_convert_options o;
    golden_case g;
    (void)state;
    golden_temp(dir);
    golden_open(&g, "llama");
    snprintf(arch, sizeof arch, "%s/mine.json", dir);
    snprintf(gguf, sizeof gguf, "%s/a.gguf", dir);
    snprintf(folder, sizeof folder, "%s/back", dir);
    FILE *f = fopen(arch, "w");
    assert_non_null(f);
    fputs(
        "{\"coterie_arch\": 1, \"name\": \"mine\", \"extends\": \"llama\", \"params\": {\"loud\": {\"as\": \"float\", \"hf\": \"hidden_size\", \"default\": 1}}, \"heads\": {\"logits\": {\"scale\": \"$loud\"}}}",
        f);
    assert_int_equal(fclose(f), 0);
    cot_convert_defaults(&o);
    o.arch_file = arch;
    must_convert("tests/golden/llama/hf", gguf, &o);
    size_t n = (size_t)g.n_prompt * (size_t)g.n_vocab;
    golden_run r = {.path = gguf, .act = COT_ACTIVATION_F32, .kv = COT_F32};
    float *x = must_run(&r, &g); /* the file names its description */
    for (size_t i = 0; i < n; i++) g.logits[i] *= 48;
    assert_true(golden_distance(x, g.logits, n) < GOLDEN_TOLERANCE);
    free(x);
    cot_convert_defaults(&o);
    assert_int_equal(cot_convert(gguf, folder, &o, &err), COT_UNSUPPORTED);
    assert_non_null(strstr(err.message, "hf_config"));
    golden_close(&g);
    golden_remove(dir);
}

/* Which layers have a window stands in GGUF's own words, so that every engine reads it. A file may give the
 * period instead of a value for each layer. */
static void names_windowed_layers(void **state) {
    static const uint32_t layers[] = {1, 1, 0, 1};
    char dir[64], gguf[128], other[128];
    cot_error err;
    golden_case g;
    (void)state;
    golden_temp(dir);
    golden_open(&g, "gemma3");
    snprintf(gguf, sizeof gguf, "%s/a.gguf", dir);
    snprintf(other, sizeof other, "%s/b.gguf", dir);
    must_convert("tests/golden/gemma3/hf", gguf, NULL);
    cot__gguf *f = NULL;
    cot__gguf_writer *w = NULL;
    assert_int_equal(cot__gguf_open(&f, gguf, &err), COT_OK);
    const char *key = "gemma3.attention.sliding_window_pattern";
    const cot__gguf_kv *kv = cot__gguf_find(f, key);
    assert_non_null(kv);
    assert_true(kv->type == COT_GGUF_ARRAY && kv->elem == COT_GGUF_U32 && kv->count == 4);
    assert_memory_equal(kv->data, layers, sizeof layers);
    assert_int_equal(cot__gguf_writer_open(&w, other, &err), COT_OK);
    for (size_t i = 0; i < cot__gguf_kv_count(f); i++) {
        kv = cot__gguf_kv_at(f, i);
        cot_status s = strcmp(kv->key, key) == 0 ? cot__gguf_put_int(w, key, COT_GGUF_U32, 3, &err)
                                                 : cot__gguf_put_kv(w, kv, &err);
        assert_int_equal(s, COT_OK);
    }
    const cot__tensor_set *set = cot__gguf_tensors(f);
    for (size_t i = 0; i < set->n_tensors; i++) {
        const cot__tensor *t = &set->tensors[i];
        assert_int_equal(cot__gguf_put_tensor(w, t->name, t->type, t->n_dims, t->dims, &err), COT_OK);
    }
    char *bytes;
    size_t n;
    assert_int_equal(cot__gguf_writer_begin(w, &err), COT_OK);
    assert_int_equal(cot__file_slurp(gguf, 64 << 20, &bytes, &n, &err), COT_OK);
    for (size_t i = 0; i < set->n_tensors; i++) {
        const cot__tensor *t = &set->tensors[i];
        assert_int_equal(cot__gguf_writer_data(w, bytes + t->offset, t->bytes, &err), COT_OK);
    }
    cot_free(bytes);
    assert_int_equal(cot__gguf_writer_finish(&w, &err), COT_OK);
    cot__gguf_close(&f);
    golden_run r = {.path = other, .act = COT_ACTIVATION_F32, .kv = COT_F32};
    float *x = must_run(&r, &g);
    double d = golden_distance(x, g.logits, (size_t)g.n_prompt * (size_t)g.n_vocab);
    if (!(d <= GOLDEN_TOLERANCE)) fail_msg("a period of 3: %g away", d);
    free(x);
    golden_close(&g);
    golden_remove(dir);
}

static int type_of_tensor(const char *path, const char *name) {
    cot_model *m = NULL;
    cot_error err;
    int type = -1;
    assert_int_equal(cot_model_open(&m, path, NULL, &err), COT_OK);
    for (size_t i = 0; i < cot_model_tensor_count(m); i++) {
        cot_tensor_info t;
        assert_int_equal(cot_model_tensor(m, i, &t, &err), COT_OK);
        if (strcmp(t.name, name) == 0) type = t.type;
    }
    cot_model_close(&m);
    return type;
}

/* The bounds are what the formats' steps allow on these random weights, with room for the case. */
static void writes_every_type(void **state) {
    static const struct {
        cot_type type, stored; /* stored: what 96 columns (no whole K blocks) get */
        double near;
    } types[] = {{COT_F32, COT_F32, 0},      {COT_F16, COT_F16, 0.01},  {COT_BF16, COT_BF16, 0.1},
                 {COT_Q8_0, COT_Q8_0, 0.1},  {COT_Q4_0, COT_Q4_0, 1},   {COT_Q5_0, COT_Q5_0, 0.7},
                 {COT_Q4_K, COT_Q5_0, 0.7},  {COT_Q5_K, COT_Q5_1, 0.7}, {COT_Q6_K, COT_Q8_0, 0.1},
                 {COT_MXFP4, COT_MXFP4, 1.2}};
    char dir[64], gguf[128];
    golden_case g;
    (void)state;
    golden_temp(dir);
    golden_open(&g, "qwen2");
    size_t n = (size_t)g.n_prompt * (size_t)g.n_vocab;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        cot_convert_options o;
        cot_convert_defaults(&o);
        o.type = types[i].type;
        snprintf(gguf, sizeof gguf, "%s/%zu.gguf", dir, i);
        must_convert("tests/golden/qwen2/hf", gguf, &o);
        int type = type_of_tensor(gguf, "blk.0.attn_q.weight");
        if (type != (int)types[i].stored)
            fail_msg("%s is stored as %s", cot_type_name(o.type), cot_type_name(type));
        golden_run r = {.path = gguf, .act = COT_ACTIVATION_F32, .kv = COT_F32};
        float *x = must_run(&r, &g);
        double d = golden_distance(x, g.logits, n);
        if (!(d <= types[i].near + GOLDEN_TOLERANCE)) fail_msg("%s: %g away", cot_type_name(o.type), d);
        free(x);
    }
    golden_close(&g);
    golden_remove(dir);
}

static void chooses_types_by_part(void **state) {
    char dir[64], gguf[128];
    cot_convert_options o;
    (void)state;
    golden_temp(dir);
    snprintf(gguf, sizeof gguf, "%s/parts.gguf", dir);
    cot_convert_defaults(&o);
    o.type = COT_F16, o.type_experts = COT_Q4_0, o.type_attention = COT_Q8_0, o.type_head = COT_BF16;
    must_convert("tests/golden/phimoe/hf", gguf, &o);
    assert_int_equal(type_of_tensor(gguf, "blk.0.attn_q.weight"), COT_Q8_0);
    assert_int_equal(type_of_tensor(gguf, "token_embd.weight"), COT_BF16);
    assert_int_equal(type_of_tensor(gguf, "blk.0.ffn_gate_inp.weight"), COT_F32);
    assert_int_equal(type_of_tensor(gguf, "blk.0.attn_norm.weight"), COT_F32);
    int experts = type_of_tensor(gguf, "blk.0.ffn_gate_exps.weight");
    assert_true(experts == COT_Q4_0);
    golden_remove(dir);
}

static void splits_a_dense_model(void **state) {
    static const char *const names[] = {"llama", "gemma3", "qwen2", "olmo2"};
    char dir[64], gguf[128], split[128], hf[128];
    (void)state;
    golden_temp(dir);
    for (int i = 0; i < 4; i++) {
        golden_case g;
        cot_convert_options o;
        cot_convert_defaults(&o);
        o.split_experts = 4;
        golden_open(&g, names[i]);
        snprintf(hf, sizeof hf, "tests/golden/%s/hf", names[i]);
        snprintf(gguf, sizeof gguf, "%s/%d.gguf", dir, i);
        snprintf(split, sizeof split, "%s/%d.split.gguf", dir, i);
        must_convert(hf, gguf, NULL);
        must_convert(i % 2 ? hf : gguf, split, &o);
        golden_run r = {.path = gguf, .act = COT_ACTIVATION_F32, .kv = COT_F32};
        size_t n = (size_t)g.n_prompt * (size_t)g.n_vocab;
        float *dense = must_run(&r, &g);
        r.path = split;
        r.experts_used = 4;
        float *all = must_run(&r, &g);
        double d = golden_distance(all, dense, n);
        if (!(d <= REORDERED)) fail_msg("%s: all experts are %g from the dense block", g.name, d);
        r.experts_used = 1;
        float *one = must_run(&r, &g);
        assert_true(golden_distance(one, dense, n) > GOLDEN_TOLERANCE); /* it is sparse indeed */
        free(dense), free(all), free(one);
        golden_close(&g);
    }
    golden_remove(dir);
}

static void declines(void **state) {
    char dir[64], out[128];
    cot_error err;
    cot_convert_options o;
    (void)state;
    golden_temp(dir);
    snprintf(out, sizeof out, "%s/x.gguf", dir);
    cot_convert_defaults(&o);
    assert_int_equal(cot_convert("tests/golden/nothing", out, &o, &err), COT_NOT_FOUND);
    o.split_experts = 7; /* 40 neurons */
    assert_int_equal(cot_convert("tests/golden/llama/hf", out, &o, &err), COT_ARGUMENT);
    assert_non_null(strstr(err.message, "evenly"));
    o.split_experts = 2; /* is routed already */
    assert_int_equal(cot_convert("tests/golden/mixtral/hf", out, &o, &err), COT_UNSUPPORTED);
    cot_convert_defaults(&o);
    o.type = COT_Q4_K;
    assert_int_equal(cot_convert("tests/golden/llama/hf", dir, &o, &err), COT_ARGUMENT);
    assert_false(cot__path_exists(out)); /* nothing half-written stays */
    golden_remove(dir);
}

int main(void) {
    golden_list();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goes_to_gguf_and_back),
        cmocka_unit_test(writes_configs_of_transformers),
        cmocka_unit_test(joins_latent_attention),
        cmocka_unit_test(own_descriptions_travel),
        cmocka_unit_test(names_windowed_layers),
        cmocka_unit_test(writes_every_type),
        cmocka_unit_test(chooses_types_by_part),
        cmocka_unit_test(splits_a_dense_model),
        cmocka_unit_test(declines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
