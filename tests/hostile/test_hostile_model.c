/* Files whose container is sound and whose model is not: sizes that contradict each other, tensors that are
 * missing or of another shape, configs and descriptions that lie or go in circles, numbers that are none.
 * Opening says which file and which field; what only shows in use gives an error then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "format/gguf.h"
#include "golden.h"

static char dir[64];
static int wrong; /* all are shown before the test fails */

static void save(const char *file, const char *text, size_t n) {
    FILE *f = fopen(file, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
}

/* Opens, and when that works writes three tokens' logits; the error must be one line that names file and
 * word. */
static void must_fail(const char *path, const char *arch, const char *file, const char *word,
                      const char *what) {
    cot_error err;
    cot_model *m = NULL;
    cot_session *s = NULL;
    cot_model_options o;
    size_t live = cot__alloc_live();
    cot_model_defaults(&o);
    o.arch_file = arch;
    cot_status st = cot_model_open(&m, path, &o, &err);
    if (st == COT_OK) st = cot_session_create(&s, m, NULL, &err);
    if (st == COT_OK) {
        cot_generate_options g;
        cot_generate_defaults(&g);
        g.max_tokens = 3;
        st = cot_generate(s, (int32_t[]){5, 6, 7}, 3, &g, NULL, NULL, NULL, &err);
    }
    cot_session_free(&s);
    cot_model_close(&m);
    bool good =
        st != COT_OK && !strchr(err.message, '\n') && strstr(err.message, file) && strstr(err.message, word);
    if (!good)
        print_error("%s: wanted an error of one line with \"%s\" and \"%s\": %s\n", what, file, word,
                    st == COT_OK ? "accepted" : err.message);
    wrong += !good;
    assert_int_equal(cot__alloc_live(), live);
}

/* ---- a GGUF with one key or one tensor told otherwise ---- */

typedef struct lie {
    const char *name; /* a key, or a tensor */
    enum { NUMBER, TEXT, GONE, RENAMED, SHAPE, FILLED } how;
    double value;
    const char *word;
} lie;

static void rewrite(const char *from, const char *to, const lie *l) {
    cot__gguf *g;
    cot__gguf_writer *w;
    cot_error err;
    const void *base;
    bool found = false;
    assert_int_equal(cot__gguf_open(&g, from, &err), COT_OK);
    assert_int_equal(cot__gguf_writer_open(&w, to, &err), COT_OK);
    for (size_t i = 0; i < cot__gguf_kv_count(g); i++) {
        const cot__gguf_kv *kv = cot__gguf_kv_at(g, i);
        if (strcmp(kv->key, l->name) == 0) {
            found = true;
            if (l->how == NUMBER) cot__gguf_put_f64(w, kv->key, COT_GGUF_F64, l->value, &err);
            if (l->how == TEXT) cot__gguf_put_str(w, kv->key, "lies", 4, &err);
        } else assert_int_equal(cot__gguf_put_kv(w, kv, &err), COT_OK);
    }
    if (!found && (l->how == NUMBER || l->how == TEXT)) {
        if (l->how == NUMBER) cot__gguf_put_f64(w, l->name, COT_GGUF_F64, l->value, &err);
        else cot__gguf_put_str(w, l->name, "lies", 4, &err);
        found = true;
    }
    const cot__tensor_set *set = cot__gguf_tensors(g);
    for (size_t i = 0; i < set->n_tensors; i++) {
        cot__tensor t = set->tensors[i];
        if (strcmp(t.name, l->name) == 0) {
            found = true;
            if (l->how == GONE) continue;
            if (l->how == RENAMED) t.name = "something.else";
            if (l->how == SHAPE) t.dims[t.n_dims - 1]--;
        }
        assert_int_equal(cot__gguf_put_tensor(w, t.name, t.type, t.n_dims, t.dims, &err), COT_OK);
    }
    assert_true(found);
    assert_int_equal(cot__gguf_writer_begin(w, &err), COT_OK);
    assert_int_equal(cot__file_map(set->files[0], &base, &err), COT_OK);
    for (size_t i = 0; i < set->n_tensors; i++) {
        const cot__tensor *t = &set->tensors[i];
        bool it = strcmp(t->name, l->name) == 0;
        size_t n = t->bytes;
        char *copy;
        if (it && l->how == GONE) continue;
        if (it && l->how == SHAPE) n -= n / (size_t)t->dims[t->n_dims - 1];
        copy = malloc(n);
        assert_non_null(copy);
        memcpy(copy, (const char *)base + t->offset, n);
        if (it && l->how == FILLED) memset(copy, 0xff, n); /* a NaN in every format */
        assert_int_equal(cot__gguf_writer_data(w, copy, n, &err), COT_OK);
        free(copy);
    }
    assert_int_equal(cot__gguf_writer_finish(&w, &err), COT_OK);
    cot__gguf_close(&g);
}

static void gguf_models_that_lie(void **state) {
    static const lie lies[] = {
        {"general.architecture", TEXT, 0, "lies"},
        {"general.architecture", NUMBER, 3, "general.architecture"},
        {"general.architecture", GONE, 0, "general.architecture"},
        {"qwen3moe.block_count", NUMBER, 0, "n_layer"},
        {"qwen3moe.block_count", NUMBER, 3, "blk.2"},
        {"qwen3moe.block_count", NUMBER, 1e9, ""},
        {"qwen3moe.block_count", NUMBER, -1, ""},
        {"qwen3moe.block_count", NUMBER, 1.5, ""},
        {"qwen3moe.block_count", GONE, 0, "block_count"},
        {"qwen3moe.block_count", TEXT, 0, ""},
        {"qwen3moe.block_count", NUMBER, NAN, ""},
        {"qwen3moe.embedding_length", NUMBER, 65, ""},
        {"qwen3moe.embedding_length", NUMBER, 0, ""},
        {"qwen3moe.embedding_length", NUMBER, 1e18, ""},
        {"qwen3moe.attention.head_count", NUMBER, 0, ""},
        {"qwen3moe.attention.head_count", NUMBER, 7, ""},
        {"qwen3moe.attention.head_count", NUMBER, 1e12, ""},
        {"qwen3moe.attention.head_count_kv", NUMBER, 4, ""},
        {"qwen3moe.attention.head_count_kv", NUMBER, 0, ""},
        {"qwen3moe.attention.key_length", NUMBER, 15, ""},
        {"qwen3moe.attention.key_length", NUMBER, -16, ""},
        {"qwen3moe.expert_count", NUMBER, 9, "ffn_gate_inp"},
        {"qwen3moe.expert_count", NUMBER, 0, ""},
        {"qwen3moe.expert_used_count", NUMBER, 9, ""},
        {"qwen3moe.expert_used_count", NUMBER, 0, ""},
        {"qwen3moe.expert_used_count", NUMBER, -1, ""},
        {"qwen3moe.rope.freq_base", NUMBER, 0, "rope"},
        {"qwen3moe.rope.freq_base", NUMBER, NAN, ""},
        {"qwen3moe.rope.dimension_count", NUMBER, 7, "rope"},
        {"qwen3moe.rope.dimension_count", NUMBER, 1e6, "rope"},
        {"qwen3moe.rope.scaling.type", TEXT, 0, "rope"},
        {"qwen3moe.attention.layer_norm_rms_epsilon", NUMBER, -1, ""},
        {"qwen3moe.attention.layer_norm_rms_epsilon", NUMBER, NAN, ""},
        {"token_embd.weight", GONE, 0, "token_embd"},
        {"blk.1.attn_q.weight", RENAMED, 0, "blk.1.attn_q.weight"},
        {"blk.0.ffn_gate_inp.weight", GONE, 0, "blk.0.ffn"},
        {"blk.0.ffn_down_exps.weight", GONE, 0, "blk.0.ffn_down_exps"},
        {"output_norm.weight", SHAPE, 0, "output_norm"},
        {"blk.0.ffn_up_exps.weight", SHAPE, 0, "ffn_up_exps"},
        {"blk.1.attn_k.weight", SHAPE, 0, "blk.1.attn_k.weight: is 31 × 64, must be 32 × 64"},
        {"blk.1.attn_k_norm.weight", SHAPE, 0, "layer 1"},
        {"blk.0.attn_norm.weight", FILLED, 0, "not a finite"},
        {"blk.0.ffn_down_exps.weight", FILLED, 0, "not a finite"},
        {"blk.1.ffn_gate_inp.weight", FILLED, 0, "not a finite"},
    };
    char path[128];
    (void)state;
    wrong = 0;
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        char what[160];
        snprintf(what, sizeof what, "%s, %d %g", lies[i].name, (int)lies[i].how, lies[i].value);
        rewrite("tests/golden/noise/model.gguf", path, &lies[i]);
        must_fail(path, NULL, lies[i].how == FILLED ? "" : path, lies[i].word, what);
    }
    unlink(path);
    assert_int_equal(wrong, 0);
}

static void cut_anywhere(void **state) {
    char *text, path[128];
    size_t n;
    cot_error err;
    (void)state;
    wrong = 0;
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    assert_int_equal(cot__file_slurp("tests/golden/noise/model.gguf", 64 << 20, &text, &n, &err), COT_OK);
    for (size_t cut = 0; cut < n; cut += cut < 64 ? 1 : 977) {
        save(path, text, cut);
        must_fail(path, NULL, path, "", "a cut file");
    }
    unlink(path);
    cot_free(text);
    assert_int_equal(wrong, 0);
}

/* ---- descriptions ---- */

static void descriptions_that_lie(void **state) {
    static const struct {
        const char *text, *word;
    } lies[] = {
        {"", ""},
        {"[]", ""},
        {"{}", ""},
        {"{\"coterie_arch\": 2, \"name\": \"x\"}", "coterie_arch"},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"nothing\"}", "nothing"},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": 3}", "extends"},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"x\"}", "extends"},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"params\": {\"a\": {\"sum\": [\"$b\", 1]}, \"b\": {\"sum\": [\"$a\", 1]}}}",
         "defined by itself"},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"params\": {\"n_head\": \"$n_head\"}}",
         ""},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"params\": {\"n_head\": {\"ratio\": [1, 0]}}}",
         ""},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"params\": 7}", "params"},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"tensors\": {\"attn_q\": {\"gguf\": 7}}}",
         "attn_q"},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"stacks\": {\"decoder\": {\"layer\": [{\"op\": \"dance\"}]}}}",
         "dance"},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"stacks\": {\"decoder\": {\"layer\": [7]}}}",
         ""},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"stacks\": {\"decoder\": {\"layer\": [{\"op\": \"moe\", \"in\": \"h\", \"experts\": 8, \"k\": 2, \"score\": \"dice\"}]}}}",
         "score"},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"stacks\": {\"decoder\": {\"layer\": [{\"op\": \"moe\", \"in\": \"h\", \"experts\": 8, \"k\": 99}]}}}",
         "99 used of 8"},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"stacks\": {\"decoder\": {\"layer\": [{\"op\": \"norm\", \"weight\": \"nosuch\"}]}}}",
         "nosuch"},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"stacks\": {\"decoder\": {\"layer\": [{\"op\": \"norm\", \"weight\": \"attn_norm\", \"tpyo\": 1}]}}}",
         "tpyo"},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"\": 1}", "nothing reads"},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"stacks\": {\"decoder\": {\"layer\": [{\"op\": \"add\", \"in\": \"zzz\"}]}}}",
         "nothing has written the value \"zzz\""},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"heads\": {\"logits\": {\"in\": \"zzz\"}}}",
         "nothing has written the value \"zzz\""},
        {"{\"coterie_arch\": 1, \"name\": \"x\", \"extends\": \"qwen3moe\", \"stacks\": {\"decoder\": {\"layer\": []}}}",
         "layer: has no sub-layers"},
    };
    char file[128];
    (void)state;
    wrong = 0;
    snprintf(file, sizeof file, "%s/x.json", dir);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        save(file, lies[i].text, strlen(lies[i].text));
        must_fail("tests/golden/noise/model.gguf", file, "", lies[i].word, lies[i].text);
    }
    unlink(file);
    assert_int_equal(wrong, 0);
}

/* ---- folders ---- */

static void folders_that_lie(void **state) {
    static const struct {
        const char *from, *to, *word;
    } lies[] = {
        {"\"Qwen3MoeForCausalLM\"", "\"NothingForCausalLM\"", "NothingForCausalLM"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "model.layers.2"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": \"two\"", "config.json: num_hidden_layers"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": -2", "config.json: num_hidden_layers"},
        {"\"num_attention_heads\": 6", "\"num_attention_heads\": -1",
         "config.json: num_attention_heads: is -1"},
        {"\"num_attention_heads\": 6", "\"num_attention_heads\": \"six\"",
         "config.json: num_attention_heads: must be"},
        {"\"hidden_act\": \"silu\"", "\"hidden_act\": \"mish\"", "config.json: hidden_act: \"mish\""},
        {"\"hidden_size\": 64", "\"hidden_size\": 57",
         "model.embed_tokens.weight: is 384 × 64, must be any × 57"},
        {"\"num_attention_heads\": 6", "\"num_attention_heads\": [6]", ""},
        {"\"num_attention_heads\": 6", "\"num_attention_heads\": 5", ""},
        {"\"num_local_experts\": 8", "\"num_local_experts\": 80", ""},
        {"\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 20", ""},
        {"\"hidden_size\": 64", "\"hidden_size\": 1e300", ""},
        {"\"vocab_size\": 384", "\"vocab_size\": 99999", ""},
        {"\"rope_type\": \"default\"", "\"rope_type\": \"spiral\"", "spiral"},
        {"{", "[", "config.json"},
        {"{", "", "config.json"},
    };
    char *text, from[400], to[400], cwd[200];
    size_t n;
    cot_error err;
    (void)state;
    wrong = 0;
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(from, sizeof from, "%s/tests/golden/noise/hf/model.safetensors", cwd);
    snprintf(to, sizeof to, "%s/model.safetensors", dir);
    assert_int_equal(symlink(from, to), 0);
    assert_int_equal(cot__file_slurp("tests/golden/noise/hf/config.json", 1 << 20, &text, &n, &err), COT_OK);
    snprintf(to, sizeof to, "%s/config.json", dir);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        const char *at = strstr(text, lies[i].from);
        if (!at) fail_msg("config.json has no %s", lies[i].from);
        FILE *f = fopen(to, "wb");
        assert_non_null(f);
        fprintf(f, "%.*s%s%s", (int)(at - text), text, lies[i].to, at + strlen(lies[i].from));
        fclose(f);
        must_fail(dir, NULL, dir, lies[i].word, lies[i].to);
    }
    for (size_t cut = 0; cut + 2 < n; cut += 13) {
        save(to, text, cut);
        must_fail(dir, NULL, dir, "config.json", "a cut config");
    }
    unlink(to);
    must_fail(dir, NULL, dir, "config.json", "a folder without a config");
    snprintf(to, sizeof to, "%s/model.safetensors", dir);
    unlink(to);
    must_fail(dir, NULL, dir, "", "an empty folder");
    cot_free(text);
    assert_int_equal(wrong, 0);
}

static int make_folder(void **state) {
    (void)state;
    wrong = 0;
    golden_temp(dir);
    return 0;
}
static int remove_folder(void **state) {
    (void)state;
    wrong = 0;
    golden_remove(dir);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_models_that_lie),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(descriptions_that_lie),
        cmocka_unit_test(folders_that_lie),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
