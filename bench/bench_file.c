/* Writes a GGUF of a real model's shape with random weights, for measuring speed: what a token reads and
 * computes is that of the real model, what it says is noise. Router weights are random too, so experts are
 * chosen almost uniformly.
 *
 *     bench_file SHAPE OUT.gguf [--type T] [--layers N] [--experts N] [--used N] [--width N] [--seed S]
 *                [--attention X]
 *
 * SHAPE: 7b (16 layers, width 2048, 16 heads, 64 experts of 1024, top 8: 7B parameters, 1.3B active), 30b
 * (48 layers, width 2048, 32/4 heads of 128, 128 experts of 768, top 8: 30B, 3B active) or 16b (latent
 * attention of DeepSeek-V2-Lite: 27 layers, the first dense, 16 heads, 64 experts of 1408, top 6, and two
 * shared: 16B, 2.4B active). T: q4_k (output in Q6_K; rows of no whole blocks in Q5_0, as quantisers do),
 * mxfp4 (attention and output in Q8_0), q8_0, bf16, f16. --width: of an expert. No tokenizer.
 *
 * With the weights of norms at 1, attention outweighs the embedding, neighbouring tokens look alike and
 * choose the same experts. --attention 0.02 (the weight of attention's norms) makes choices independent: the
 * worst case of a cache. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "format/gguf.h"

enum { POOL = 8 << 20, WIDTH = 2048, HEAD = 128 };

typedef struct shape {
    const char *name;
    int layers, heads, kv_heads, experts, used, width, vocab;
    const char *arch;  /* every engine that we compare with reads it */
    int dense, shared; /* width of the first layer's block, of the shared experts' together; 0: none */
} shape;

enum { KV_RANK = 512, NOPE = 128, ROT = 64 }; /* of latent attention */

static const shape shapes[] = {
    {"7b", 16, 16, 16, 64, 8, 1024, 50304, "qwen3moe", 0, 0},
    {"30b", 48, 32, 4, 128, 8, 768, 151936, "qwen3moe", 0, 0},
    {"16b", 27, 16, 16, 64, 6, 1408, 102400, "deepseek2", 10944, 2816},
};

typedef struct file {
    cot__gguf_writer *w;
    shape s;
    cot_type type, wide, head; /* experts; attention; output */
    uint64_t seed, at;
    float attention; /* weight of attention's norms */
    bool writing;    /* first pass: names and sizes; second: bytes */
    void *pool[64];
    cot_error err;
} file;

static void die(const file *f) {
    fprintf(stderr, "bench_file: %s\n", f->err.message);
    exit(1);
}

/* Random blocks of a type, encoded once: every tensor of it is cut from this. */
static const char *pool_of(file *f, cot_type type, size_t *bytes) {
    const cot__type_info *t = cot__type(type);
    int64_t n = (int64_t)POOL / t->bytes;
    *bytes = (size_t)n * (size_t)t->bytes;
    if (f->pool[type]) return f->pool[type];
    f->pool[type] = malloc(*bytes);
    float block[256];
    if (!f->pool[type]) exit(1);
    for (int64_t b = 0; b < n; b++) {
        for (int i = 0; i < t->block; i++) {
            double u = 1 - cot__random_unit(f->seed, 1, (uint64_t)b, (uint64_t)i),
                   v = cot__random_unit(f->seed, 2, (uint64_t)b, (uint64_t)i);
            block[i] = (float)(0.022 * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
        }
        if (type == COT_F32) memcpy((char *)f->pool[type] + b * 4, block, 4);
        else t->encode(block, (char *)f->pool[type] + b * t->bytes, t->block, NULL);
    }
    return f->pool[type];
}

static void tensor(file *f, const char *name, cot_type type, int64_t in, int64_t out, int64_t stack) {
    int64_t dims[3] = {in, out, stack};
    int n = stack ? 3 : out ? 2 : 1;
    if (!f->writing) {
        if (cot__gguf_put_tensor(f->w, name, type, n, dims, &f->err) != COT_OK) die(f);
        return;
    }
    size_t left = cot__row_bytes(type, in) * (size_t)(out ? out : 1) * (size_t)(stack ? stack : 1), size;
    if (n == 1) { /* a norm's weights */
        float *one = malloc(left);
        if (!one) exit(1);
        for (int64_t i = 0; i < in; i++) one[i] = strstr(name, "attn_norm") ? f->attention : 1;
        if (cot__gguf_writer_data(f->w, one, left, &f->err) != COT_OK) die(f);
        free(one);
        return;
    }
    const char *pool = pool_of(f, type, &size);
    size_t step = (size_t)cot__type(type)->bytes;
    while (left) {
        size_t from = (size_t)(cot__random_u64(f->seed, 3, f->at++, 0) % (size / step)) * step,
               take = size - from < left ? size - from : left;
        if (cot__gguf_writer_data(f->w, pool + from, take, &f->err) != COT_OK) die(f);
        left -= take;
    }
}

/* A type whose blocks fill rows of `in` values. */
static cot_type fit(cot_type type, int in) { return in % cot__type(type)->block ? COT_Q5_0 : type; }

#define NAME(part) (snprintf(name, sizeof name, "blk.%d." part ".weight", i), name)

static void attention(file *f, int i) {
    const shape *s = &f->s;
    char name[64];
    int q = s->heads * HEAD, kv = s->kv_heads * HEAD;
    tensor(f, NAME("attn_norm"), COT_F32, WIDTH, 0, 0);
    if (s->dense) {
        tensor(f, NAME("attn_q"), f->wide, WIDTH, s->heads * (NOPE + ROT), 0);
        tensor(f, NAME("attn_kv_a_mqa"), f->wide, WIDTH, KV_RANK + ROT, 0);
        tensor(f, NAME("attn_kv_a_norm"), COT_F32, KV_RANK, 0, 0);
        tensor(f, NAME("attn_k_b"), fit(f->wide, NOPE), NOPE, KV_RANK, s->heads);
        tensor(f, NAME("attn_v_b"), f->wide, KV_RANK, HEAD, s->heads);
    } else {
        tensor(f, NAME("attn_q"), f->wide, WIDTH, q, 0);
        tensor(f, NAME("attn_k"), f->wide, WIDTH, kv, 0);
        tensor(f, NAME("attn_v"), f->wide, WIDTH, kv, 0);
        tensor(f, NAME("attn_q_norm"), COT_F32, HEAD, 0, 0);
        tensor(f, NAME("attn_k_norm"), COT_F32, HEAD, 0, 0);
    }
    tensor(f, NAME("attn_output"), f->wide, q, WIDTH, 0);
}

static void tensors(file *f) {
    const shape *s = &f->s;
    char name[64];
    tensor(f, "token_embd.weight", f->wide, WIDTH, s->vocab, 0);
    for (int i = 0; i < s->layers; i++) {
        attention(f, i);
        tensor(f, NAME("ffn_norm"), COT_F32, WIDTH, 0, 0);
        if (i == 0 && s->dense) {
            tensor(f, NAME("ffn_gate"), f->wide, WIDTH, s->dense, 0);
            tensor(f, NAME("ffn_up"), f->wide, WIDTH, s->dense, 0);
            tensor(f, NAME("ffn_down"), fit(f->wide, s->dense), s->dense, WIDTH, 0);
            continue;
        }
        tensor(f, NAME("ffn_gate_inp"), COT_F32, WIDTH, s->experts, 0);
        tensor(f, NAME("ffn_gate_exps"), f->type, WIDTH, s->width, s->experts);
        tensor(f, NAME("ffn_up_exps"), f->type, WIDTH, s->width, s->experts);
        tensor(f, NAME("ffn_down_exps"), fit(f->type, s->width), s->width, WIDTH, s->experts);
        if (!s->shared) continue;
        tensor(f, NAME("ffn_gate_shexp"), f->wide, WIDTH, s->shared, 0);
        tensor(f, NAME("ffn_up_shexp"), f->wide, WIDTH, s->shared, 0);
        tensor(f, NAME("ffn_down_shexp"), f->wide, s->shared, WIDTH, 0);
    }
    tensor(f, "output_norm.weight", COT_F32, WIDTH, 0, 0);
    tensor(f, "output.weight", f->head, WIDTH, s->vocab, 0);
}

static void key(file *f, const char *suffix, int64_t v) {
    char name[96];
    snprintf(name, sizeof name, "%s.%s", f->s.arch, suffix);
    if (cot__gguf_put_int(f->w, name, COT_GGUF_U32, v, &f->err) != COT_OK) die(f);
}

static void keys(file *f) {
    const shape *s = &f->s;
    char name[96];
    cot_status st = cot__gguf_put_str(f->w, "general.architecture", s->arch, strlen(s->arch), &f->err);
    if (st == COT_OK) st = cot__gguf_put_str(f->w, "tokenizer.ggml.model", "none", 4, &f->err);
    snprintf(name, sizeof name, "%s.attention.layer_norm_rms_epsilon", s->arch);
    if (st == COT_OK) st = cot__gguf_put_f64(f->w, name, COT_GGUF_F32, 1e-5, &f->err);
    snprintf(name, sizeof name, "%s.rope.freq_base", s->arch);
    if (st == COT_OK) st = cot__gguf_put_f64(f->w, name, COT_GGUF_F32, 1e6, &f->err);
    if (st != COT_OK) die(f);
    key(f, "block_count", s->layers), key(f, "context_length", 32768), key(f, "embedding_length", WIDTH);
    key(f, "feed_forward_length", s->dense ? s->dense : s->width);
    key(f, "expert_feed_forward_length", s->width), key(f, "vocab_size", s->vocab);
    key(f, "attention.head_count", s->heads), key(f, "attention.head_count_kv", s->dense ? 1 : s->kv_heads);
    key(f, "attention.key_length", s->dense ? KV_RANK + ROT : HEAD);
    key(f, "attention.value_length", s->dense ? KV_RANK : HEAD);
    key(f, "expert_count", s->experts), key(f, "expert_used_count", s->used);
    key(f, "rope.dimension_count", s->dense ? ROT : HEAD);
    if (!s->dense) return;
    key(f, "leading_dense_block_count", 1), key(f, "expert_shared_count", 2);
    key(f, "attention.kv_lora_rank", KV_RANK), key(f, "attention.key_length_mla", NOPE + ROT);
    key(f, "attention.value_length_mla", HEAD), key(f, "expert_gating_func", 1);
}

int main(int argc, char **argv) {
    file f = {.type = COT_Q4_K, .seed = 1, .attention = 1};
    for (size_t i = 0; argc > 2 && i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, argv[1]) == 0) f.s = shapes[i];
    bool good = f.s.name != NULL && argc % 2 == 1;
    for (int i = 3; i + 1 < argc; i += 2) {
        int v = (int)strtol(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--type") == 0) f.type = cot_type_from_name(argv[i + 1]);
        else if (strcmp(argv[i], "--layers") == 0) f.s.layers = v;
        else if (strcmp(argv[i], "--experts") == 0) f.s.experts = v;
        else if (strcmp(argv[i], "--used") == 0) f.s.used = v;
        else if (strcmp(argv[i], "--width") == 0) f.s.width = v;
        else if (strcmp(argv[i], "--attention") == 0) f.attention = strtof(argv[i + 1], NULL);
        else if (strcmp(argv[i], "--seed") == 0) f.seed = (uint64_t)v;
        else good = false;
    }
    const cot__type_info *t = cot__type(f.type);
    good = good && t && t->encode && (int)f.type < 64 && f.s.layers > 0 && f.s.experts > 0 && f.s.width > 0 &&
           (f.s.dense || f.s.width % t->block == 0);
    if (!good) {
        fprintf(
            stderr,
            "usage: bench_file 7b|30b|16b OUT.gguf [--type T] [--layers N] [--experts N] [--used N] [--width N] [--seed S] [--attention X]\n");
        return 2;
    }
    f.wide = f.type == COT_MXFP4 ? COT_Q8_0 : f.type;
    f.head = f.type == COT_Q4_K ? COT_Q6_K : f.wide;
    if (cot__gguf_writer_open(&f.w, argv[2], &f.err) != COT_OK) die(&f);
    keys(&f);
    tensors(&f);
    if (cot__gguf_writer_begin(f.w, &f.err) != COT_OK) die(&f);
    f.writing = true;
    tensors(&f);
    if (cot__gguf_writer_finish(&f.w, &f.err) != COT_OK) die(&f);
    for (size_t i = 0; i < sizeof f.pool / sizeof *f.pool; i++) free(f.pool[i]);
    return 0;
}
