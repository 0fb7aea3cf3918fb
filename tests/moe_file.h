/* A routed model of random F16 weights, large enough for every number format, written as GGUF. Header only;
 * include it after cmocka.h. */
#ifndef COT_TESTS_MOE_FILE_H
#define COT_TESTS_MOE_FILE_H

#include <stdio.h>
#include <unistd.h>

#include <coterie/session.h>

#include "base/hash.h"
#include "format/gguf.h"

enum { LAYERS = 3, WIDTH = 512, HEADS = 4, EXPERTS = 32, USED = 6, F = 256, VOCAB = 256, TOKENS = 40 };

#define OK(call) assert_int_equal(call, COT_OK)

static inline void moe_tensor(cot__gguf_writer *w, bool data, const char *name, cot_type type, int64_t in,
                              int64_t out, int64_t stack) {
    cot_error err;
    int64_t dims[3] = {in, out, stack};
    int n = stack ? 3 : out ? 2 : 1;
    if (!data) {
        OK(cot__gguf_put_tensor(w, name, type, n, dims, &err));
        return;
    }
    static uint64_t seed;
    size_t left = (size_t)(in * (out ? out : 1) * (stack ? stack : 1));
    enum { N = 1 << 16 };
    static uint16_t half[N];
    static float one[N];
    for (size_t i = 0; i < N; i++) {
        one[i] = n == 1 ? 1 : (float)cot__random_unit(seed, 1, i, 0) - 0.5f;
        half[i] = cot__f32_to_f16(one[i] * 0.1f);
    }
    seed++;
    while (left) {
        size_t k = left < N ? left : N;
        if (type == COT_F32) OK(cot__gguf_writer_data(w, one, k * 4, &err));
        else OK(cot__gguf_writer_data(w, half, k * 2, &err));
        half[seed % N] ^= 1, left -= k;
    }
}

static inline void moe_tensors(cot__gguf_writer *w, bool data) {
    char name[64];
#define NAME(part) (snprintf(name, sizeof name, "blk.%d." part ".weight", i), name)
    moe_tensor(w, data, "token_embd.weight", COT_F16, WIDTH, VOCAB, 0);
    for (int i = 0; i < LAYERS; i++) {
        static const char *const square[] = {"attn_q", "attn_k", "attn_v", "attn_output"};
        moe_tensor(w, data, NAME("attn_norm"), COT_F32, WIDTH, 0, 0);
        for (int k = 0; k < 4; k++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", i, square[k]);
            moe_tensor(w, data, name, COT_F16, WIDTH, WIDTH, 0);
        }
        moe_tensor(w, data, NAME("attn_q_norm"), COT_F32, WIDTH, 0, 0);
        moe_tensor(w, data, NAME("attn_k_norm"), COT_F32, WIDTH, 0, 0);
        moe_tensor(w, data, NAME("ffn_norm"), COT_F32, WIDTH, 0, 0);
        moe_tensor(w, data, NAME("ffn_gate_inp"), COT_F32, WIDTH, EXPERTS, 0);
        moe_tensor(w, data, NAME("ffn_gate_exps"), COT_F16, WIDTH, F, EXPERTS);
        moe_tensor(w, data, NAME("ffn_up_exps"), COT_F16, WIDTH, F, EXPERTS);
        moe_tensor(w, data, NAME("ffn_down_exps"), COT_F16, F, WIDTH, EXPERTS);
    }
    moe_tensor(w, data, "output_norm.weight", COT_F32, WIDTH, 0, 0);
    moe_tensor(w, data, "output.weight", COT_F16, WIDTH, VOCAB, 0);
}

/* Writes it; path gets its place in the folder of temporary files. */
static inline void moe_file(char path[64]) {
    cot__gguf_writer *w = NULL;
    cot_error err;
    static const struct {
        const char *name;
        int value;
    } keys[] = {
        {"block_count", LAYERS},    {"context_length", 512},         {"embedding_length", WIDTH},
        {"feed_forward_length", F}, {"attention.head_count", HEADS}, {"attention.head_count_kv", HEADS},
        {"vocab_size", VOCAB},      {"expert_count", EXPERTS},       {"expert_used_count", USED}};
    static int count;
    snprintf(path, 64, "/tmp/coterie-moe-%d-%d.gguf", (int)getpid(), count++);
    OK(cot__gguf_writer_open(&w, path, &err));
    OK(cot__gguf_put_str(w, "general.architecture", "olmoe", 5, &err));
    OK(cot__gguf_put_str(w, "tokenizer.ggml.model", "none", 4, &err));
    OK(cot__gguf_put_f64(w, "olmoe.attention.layer_norm_rms_epsilon", COT_GGUF_F32, 1e-5, &err));
    OK(cot__gguf_put_f64(w, "olmoe.rope.freq_base", COT_GGUF_F32, 1e4, &err));
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char name[64];
        snprintf(name, sizeof name, "olmoe.%s", keys[i].name);
        OK(cot__gguf_put_int(w, name, COT_GGUF_U32, keys[i].value, &err));
    }
    moe_tensors(w, false);
    OK(cot__gguf_writer_begin(w, &err));
    moe_tensors(w, true);
    OK(cot__gguf_writer_finish(&w, &err));
}

/* Logits one after the other. */
typedef struct moe_keep {
    float *out;
    size_t n;
} moe_keep;

static inline bool moe_take(void *user, size_t row, const float *logits, int64_t n) {
    moe_keep *k = user;
    (void)row;
    memcpy(k->out + k->n, logits, (size_t)n * sizeof *logits);
    k->n += (size_t)n;
    return true;
}

/* `prompt` rows at once, then single tokens. */
static inline cot_status moe_say(cot_model *m, int prompt, float *out, cot_error *err) {
    cot_session *s = NULL;
    cot_session_options so;
    cot_session_defaults(&so);
    so.n_ctx = 64;
    so.n_threads = 1;
    moe_keep k = {out, 0};
    cot_status st = cot_session_create(&s, m, &so, err);
    for (int at = 0, n; at < TOKENS && st == COT_OK; at += n) {
        cot_row rows[TOKENS];
        n = at == 0 ? prompt : 1;
        for (int i = 0; i < n; i++)
            rows[i] = (cot_row){(int32_t)(cot__random_u64(1, 9, (uint64_t)(at + i), 0) % VOCAB), 0,
                                at ? COT_ROLE_GENERATED : COT_ROLE_PROMPT, true};
        st = cot_forward(s, rows, (size_t)n, moe_take, &k, err);
    }
    cot_session_free(&s);
    return st;
}

static inline cot_residency_info moe_info(const cot_model *m) {
    cot_residency_info i = {.struct_size = sizeof i};
    OK(cot_model_get_residency(m, -1, &i, NULL));
    return i;
}

#endif
