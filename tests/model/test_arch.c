/* Descriptions: parameters and their derivations for one folder, what extends what, and what is refused with
 * the place named. Whole models are tests/golden, models that lie tests/hostile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <coterie/model.h>

#include "model/arch.h"
#include "model/arch_builtin.h"
#include "base/alloc.h"
#include "temp.h"

#define FOLDER "tests/golden/qwen2-window/hf"

static char file[128];

static cot_status open_text(const char *text, cot__source **src, cot__arch **arch, cot_error *err) {
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(cot__source_open(src, FOLDER, err), COT_OK);
    return cot__arch_open(arch, *src, file, err);
}

static void parameters_are_read_and_derived(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        double want[3]; /* of layers 0, 1, 2; −1: absent */
    } cases[] = {
        {"{\"hf\": \"hidden_size\"}", {48, 48, 48}},
        {"{\"hf\": [\"nowhere\", \"num_attention_heads\"]}", {3, 3, 3}},
        {"{\"hf\": \"nowhere\"}", {-1, -1, -1}},
        {"{\"hf\": \"nowhere\", \"default\": 7}", {7, 7, 7}},
        {"{\"hf\": \"nowhere\", \"default\": {\"gguf\": 1, \"hf\": 2}}", {2, 2, 2}},
        {"{\"hf\": \"nowhere\", \"default\": \"$n_head\"}", {3, 3, 3}},
        {"{\"product\": [\"$n_head\", \"$n_embd\"]}", {144, 144, 144}},
        {"{\"ratio\": [\"$n_embd\", \"$n_head\"]}", {16, 16, 16}},
        {"{\"sum\": [\"$n_embd\", 2]}", {50, 50, 50}},
        {"{\"difference\": [\"$n_embd\", 8, \"$n_head\"]}", {37, 37, 37}},
        {"{\"product\": [\"$nothing\", 2]}", {-1, -1, -1}},
        {"{\"period\": 2, \"last\": 5, \"others\": 6}", {6, 5, 6}},
        {"{\"from\": 1, \"last\": 5, \"others\": \"$n_head\"}", {3, 5, 5}},
        {"{\"hf\": \"layer_types\", \"enum\": {\"full_attention\": 0, \"sliding_attention\": 9}}", {0, 9, 9}},
        {"{\"hf\": \"hidden_act\", \"enum\": {\"relu\": 1, \"*\": 4}}", {4, 4, 4}},
        {"{\"hf\": \"tie_word_embeddings\"}", {1, 1, 1}},
        {"{\"hf\": \"rope_parameters.rope_theta\"}", {1e6, 1e6, 1e6}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        cot_error err;
        cot__source *src = NULL;
        cot__arch *arch = NULL;
        snprintf(
            text, sizeof text,
            "{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"qwen2\", \"params\": {\"nothing\": {\"hf\": \"nowhere\"}, \"x\": %s}}",
            cases[i].spec);
        if (open_text(text, &src, &arch, &err) != COT_OK) fail_msg("%s: %s", cases[i].spec, err.message);
        for (int layer = 0; layer < 3; layer++) {
            double x = -1;
            bool found;
            json_t *ref = json_string("$x");
            assert_int_equal(cot__arch_number(arch, ref, "x", layer, &x, &found, &err), COT_OK);
            json_decref(ref);
            if (x != cases[i].want[layer]) fail_msg("%s: layer %d: %g", cases[i].spec, layer, x);
            assert_int_equal(found, cases[i].want[layer] >= 0);
        }
        cot__arch_close(&arch);
        cot__source_close(&src);
    }
}

static void what_is_wrong_is_named(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"{", "json"},
        {"[]", "object"},
        {"{\"coterie_arch\": 2}", "coterie_arch"},
        {"{\"coterie_arch\": 1, \"extends\": \"nobody\"}", "nobody"},
        {"{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"qwen2\", \"colour\": 1}", "colour"},
        {"{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"qwen2\", \"params\": {\"x\": {\"huggingface\": \"y\"}}}",
         "huggingface"},
        {"{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"qwen2\", \"params\": {\"x\": {\"sum\": [\"$y\", 1]}, \"y\": {\"sum\": [\"$x\", 1]}}}",
         "by itself"},
        {"{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"qwen2\", \"params\": {\"x\": {\"ratio\": [1, 0]}}}",
         "zero"},
        {"{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"qwen2\", \"params\": {\"x\": {\"period\": 2}}}",
         "last"},
        {"{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"qwen2\", \"params\": {\"x\": {\"hf\": \"nowhere\", \"required\": true}}}",
         "is missing"},
        {"{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"qwen2\", \"params\": {\"x\": {\"hf\": \"hidden_act\", \"enum\": {\"relu\": 1}}}}",
         "silu"},
        {"{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"qwen2\", \"stacks\": {\"decoder\": {\"layer\": [{\"op\": \"norn\"}]}}}",
         "norn"},
        {"{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"qwen2\", \"stacks\": {\"decoder\": {\"layer\": [{\"op\": \"mla\", \"scale\": 1}]}}}",
         "scale"},
        {"{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"qwen2\", \"rope\": {\"main\": {\"bass\": 1}}}",
         "bass"},
        {"{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"qwen2\", \"tensors\": {\"output\": {\"hf\": [{\"nam\": \"x\"}]}}}",
         "nam"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cot_error err;
        cot__source *src = NULL;
        cot__arch *arch = NULL;
        if (open_text(cases[i][0], &src, &arch, &err) == COT_OK) fail_msg("%s is taken", cases[i][0]);
        assert_null(arch);
        if (!strstr(err.message, cases[i][1]) && i)
            fail_msg("%s: no \"%s\" in: %s", cases[i][0], cases[i][1], err.message);
        assert_null(strchr(err.message, '\n'));
        cot__source_close(&src);
    }
}

/* A built-in description names itself as the file that holds it and is found by what it says it matches. */
static void built_in_ones_are_whole(void **state) {
    (void)state;
    int n = 0;
    for (const cot__arch_text *t = cot__arch_builtin; t->name; t++, n++) {
        json_t *doc = NULL;
        assert_int_equal(cot__json_parse(&doc, t->name, t->json, t->len, NULL), COT_OK);
        assert_string_equal(json_string_value(json_object_get(doc, "name")), t->name);
        assert_int_equal(json_object_get(doc, "match") != NULL, strcmp(t->name, "decoder") != 0);
        json_decref(doc);
    }
    assert_true(n >= 18);
}

static char said[512];

static void listen(void *user, cot_log_level level, const char *line) {
    (void)user, (void)level;
    snprintf(said, sizeof said, "%.500s", line);
}

/* A bias that a description does not read changes the logits; it is told, once and with a name. */
static void tensors_that_nothing_reads_are_told(void **state) {
    (void)state;
    static const char *const descriptions[] = {
        "{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"llama\"}",
        "{\"coterie_arch\": 1, \"name\": \"t\", \"extends\": \"llama\", \"tensors\": {\"ffn_up\": {\"hf\": [{\"name\": \"model.layers.{i}.mlp.up_proj.weight\", \"bias\": \"none\"}]}}}"};
    for (int k = 0; k < 2; k++) {
        cot_model *m = NULL;
        cot_model_options o;
        cot_model_defaults(&o);
        o.arch_file = file;
        FILE *f = fopen(file, "w");
        assert_non_null(f);
        fputs(descriptions[k], f);
        fclose(f);
        said[0] = 0;
        cot_log_set(listen, NULL, COT_LOG_WARN);
        assert_int_equal(cot_model_open(&m, "tests/golden/llama-bias/hf", &o, NULL), COT_OK);
        cot_log_set(NULL, NULL, COT_LOG_WARN);
        cot_model_close(&m);
        if (!k) assert_string_equal(said, "");
        else
            assert_non_null(strstr(
                said,
                "2 tensors are not part of the description t, such as model.layers.0.mlp.up_proj.bias"));
    }
}

static int setup(void **state) {
    (void)state;
    snprintf(file, sizeof file, "%.60s/coterie-test-arch-%d.json", temp_root(), (int)getpid());
    return 0;
}

static int teardown(void **state) {
    (void)state;
    unlink(file);
    return cot__alloc_live() != 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_are_read_and_derived),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(built_in_ones_are_whole),
        cmocka_unit_test(tensors_that_nothing_reads_are_told),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
