/* The built-in shapes of chat prompts, as the families write them, and which family has which. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "text/chat.h"

#define TALK                                                                                                 \
    "[{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": \"U\"}, {\"role\": \"assistant\", \"content\": \"A\"}, {\"role\": \"user\", \"content\": \"V\"}]"
#define ASK "[{\"role\": \"user\", \"content\": \"U\"}]"

static const struct {
    const char *shape, *talk, *ask; /* what TALK and ASK become */
} shapes[] = {
    {"chatml",
     "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"},
    {"mistral-v1", "<s> [INST] S\n\nU [/INST] A</s> [INST] V [/INST]", "<s> [INST] U [/INST]"},
    {"llama3",
     "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
     "<s><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
    {"llama4",
     "<s><|header_start|>system<|header_end|>\n\nS<|eot|><|header_start|>user<|header_end|>\n\nU<|eot|><|header_start|>assistant<|header_end|>\n\nA<|eot|><|header_start|>user<|header_end|>\n\nV<|eot|><|header_start|>assistant<|header_end|>\n\n",
     "<s><|header_start|>user<|header_end|>\n\nU<|eot|><|header_start|>assistant<|header_end|>\n\n"},
    {"gemma",
     "<s><start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n<start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n",
     "<s><start_of_turn>user\nU<end_of_turn>\n<start_of_turn>model\n"},
    {"deepseek2", "<s>S\n\nUser: U\n\nAssistant: A</s>User: V\n\nAssistant:", "<s>User: U\n\nAssistant:"},
    {"deepseek3", "<s>S\n\n<｜User｜>U<｜Assistant｜>A<｜end▁of▁sentence｜><｜User｜>V<｜Assistant｜>",
     "<s><｜User｜>U<｜Assistant｜>"},
    {"bailing",
     "<role>SYSTEM</role>S<role>HUMAN</role>U<role>ASSISTANT</role>A<role>HUMAN</role>V<role>ASSISTANT</role>",
     "<role>HUMAN</role>U<role>ASSISTANT</role>"},
    {"bailing2",
     "<role>SYSTEM</role>S<|role_end|><role>HUMAN</role>U<|role_end|><role>ASSISTANT</role>A<|role_end|><role>HUMAN</role>V<|role_end|><role>ASSISTANT</role>",
     "<role>SYSTEM</role>detailed thinking off<|role_end|><role>HUMAN</role>U<|role_end|><role>ASSISTANT</role>"},
    {"granite",
     "<|start_of_role|>system<|end_of_role|>S<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>U<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>A<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>V<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
     "<|start_of_role|>user<|end_of_role|>U<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"},
    {"phi3",
     "<|system|>\nS<|end|>\n<|user|>\nU<|end|>\n<|assistant|>\nA<|end|>\n<|user|>\nV<|end|>\n<|assistant|>\n",
     "<|user|>\nU<|end|>\n<|assistant|>\n"},
    {"glm4", "[gMASK]<sop><|system|>\nS<|user|>\nU<|assistant|>\nA<|user|>\nV<|assistant|>\n",
     "[gMASK]<sop><|user|>\nU<|assistant|>\n"},
    {"harmony",
     "<|start|>system<|message|>S<|end|><|start|>user<|message|>U<|end|><|start|>assistant<|message|>A<|return|><|start|>user<|message|>V<|end|><|start|>assistant",
     "<|start|>user<|message|>U<|end|><|start|>assistant"},
    {"zephyr", "<|endoftext|><|system|>\nS\n<|user|>\nU\n<|assistant|>\nA</s>\n<|user|>\nV\n<|assistant|>\n",
     "<|endoftext|><|user|>\nU\n<|assistant|>\n"},
};

static void renders(const char *shape, const char *arch, const char *messages, const char *want) {
    cot__chat *c = NULL;
    cot_error err;
    cot__buf out = {.max = 1 << 16};
    json_t *m = json_loads(messages, 0, NULL);
    if (cot__chat_create(&c, "test", shape, shape ? strlen(shape) : 0, arch, &err) != COT_OK ||
        cot__chat_render(c, m, true, "<s>", "</s>", NULL, NULL, &out, &err) != COT_OK)
        fail_msg("%s: %s", shape ? shape : arch, err.message);
    assert_string_equal(out.data, want);
    cot__buf_free(&out);
    cot__chat_free(&c);
    json_decref(m);
}

static void every_shape_is_the_families_own(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        renders(shapes[i].shape, NULL, TALK, shapes[i].talk);
        renders(shapes[i].shape, "qwen3", ASK, shapes[i].ask);
    }
}

static void a_family_has_its_shape(void **state) {
    (void)state;
    static const char *const of[][2] = {
        {"llama", "mistral-v1"},   {"qwen2", "chatml"},         {"qwen3moe", "chatml"},
        {"deepseek", "deepseek2"}, {"deepseek2", "deepseek2"},  {"deepseek3", "deepseek3"},
        {"bailingmoe", "bailing"}, {"bailingmoe2", "bailing2"}, {"granitemoe", "granite"},
        {"phimoe", "phi3"},        {"glm4moe", "glm4"},         {"gpt-oss", "harmony"},
        {"olmoe", "zephyr"},       {"gemma3", "gemma"},         {"of-ones-own", "chatml"},
    };
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
            if (strcmp(shapes[k].shape, of[i][1]) == 0) renders(NULL, of[i][0], ASK, shapes[k].ask);
    assert_true(cot__chat_family_is_open("llama") && cot__chat_family_is_open("deepseek2"));
    assert_true(cot__chat_family_is_open("of-ones-own"));
    assert_false(cot__chat_family_is_open("olmo2"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_is_the_families_own),
        cmocka_unit_test(a_family_has_its_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
