/* A model without a chat template: its family, or the tokens that its vocabulary has for turns, tell the
 * shape. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "golden.h"

/* The noise model in a folder of its own, without its template, with `mark` in the place of <|im_start|>. */
static void make(const char *dir, const char *mark) {
    static const char *const files[] = {"config.json", "model.safetensors", "generation_config.json"};
    char path[400], target[400], cwd[200], *text;
    size_t n;
    cot_error err;
    assert_non_null(getcwd(cwd, sizeof cwd));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(target, sizeof target, "%.150s/tests/golden/noise/hf/%s", cwd, files[i]);
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        assert_int_equal(symlink(target, path), 0);
    }
    assert_int_equal(cot__file_slurp("tests/golden/noise/hf/tokenizer.json", 1 << 20, &text, &n, &err),
                     COT_OK);
    char *at = strstr(text, "\"<|im_start|>\"");
    assert_non_null(at);
    assert_null(strstr(at + 1, "\"<|im_start|>\""));
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "%.*s\"%s\"%s", (int)(at - text), text, mark, at + strlen("\"<|im_start|>\""));
    assert_int_equal(fclose(f), 0);
    cot_free(text);
}

static void the_vocabulary_tells_the_shape(void **state) {
    static const struct {
        const char *mark, *want;
    } cases[] = {
        {"<|im_start|>", "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"},
        {"<｜User｜>", "<｜User｜>U<｜Assistant｜>"},
        {"<|start_header_id|>",
         "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
        {"<|header_start|>",
         "<|header_start|>user<|header_end|>\n\nU<|eot|><|header_start|>assistant<|header_end|>\n\n"},
        {"<start_of_turn>", "<start_of_turn>user\nU<end_of_turn>\n<start_of_turn>model\n"},
        {"<|start_of_role|>",
         "<|start_of_role|>user<|end_of_role|>U<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"},
        {"<|role_end|>",
         "<role>SYSTEM</role>detailed thinking off<|role_end|><role>HUMAN</role>U<|role_end|><role>ASSISTANT</role>"},
        {"[gMASK]", "[gMASK]<sop><|user|>\nU<|assistant|>\n"},
        {"<|nothing|>", "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char dir[64], *text;
        size_t n;
        cot_model *m = NULL;
        cot_error err;
        golden_temp(dir);
        make(dir, cases[i].mark);
        if (cot_model_open(&m, dir, NULL, &err) != COT_OK) fail_msg("%s: %s", cases[i].mark, err.message);
        if (cot_chat_render(m, "[{\"role\": \"user\", \"content\": \"U\"}]", true, &text, &n, &err) != COT_OK)
            fail_msg("%s: %s", cases[i].mark, err.message);
        assert_string_equal(text, cases[i].want);
        cot_free(text);
        cot_model_close(&m);
        golden_remove(dir);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_vocabulary_tells_the_shape)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
