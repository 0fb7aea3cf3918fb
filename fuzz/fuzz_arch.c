/* Fuzz: architecture descriptions, and configurations that fill them. Input: a description, or a
 * configuration, or a description, a NUL and a configuration. Each is opened against a small safetensors file
 * made at start whose tensors have the names that the built-in descriptions expect, so that binding goes on
 * past the first tensor; what opens is described and, when it is small, run for two tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <coterie/session.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[64], config_path[96], weights_path[96], arch_path[96];

/* hidden 32, 2 heads of 16, 1 KV head, feed-forward 48, 4 experts of 24, vocabulary 64, 2 layers */
static const char default_config[] =
    "{\"architectures\":[\"Qwen3MoeForCausalLM\"],\"model_type\":\"qwen3_moe\",\"hidden_size\":32,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":16,\"intermediate_size\":48,"
    "\"moe_intermediate_size\":24,\"num_experts\":4,\"num_experts_per_tok\":2,\"vocab_size\":64,\"rms_norm_eps\":1e-6,"
    "\"max_position_embeddings\":128,\"rope_theta\":10000.0,\"norm_topk_prob\":true,\"tie_word_embeddings\":false,"
    "\"decoder_sparse_step\":1,\"mlp_only_layers\":[],\"hidden_act\":\"silu\",\"attention_bias\":false}";

static void write_file(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n) _exit(3);
    fclose(f);
}

static char header[1 << 16];
static size_t used, offset;

static void tensor(const char *name, int rows, int cols) {
    size_t bytes = 4u * (size_t)rows * (size_t)(cols ? cols : 1);
    char shape[32];
    if (cols) snprintf(shape, sizeof shape, "%d,%d", rows, cols);
    else snprintf(shape, sizeof shape, "%d", rows);
    used += (size_t)snprintf(header + used, sizeof header - used,
                             "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                             used > 1 ? "," : "", name, shape, offset, offset + bytes);
    offset += bytes;
}

static void layer(int l) {
    static const struct {
        const char *name;
        int rows, cols;
    } parts[] = {{"input_layernorm", 32, 0},
                 {"post_attention_layernorm", 32, 0},
                 {"self_attn.q_proj", 32, 32},
                 {"self_attn.k_proj", 16, 32},
                 {"self_attn.v_proj", 16, 32},
                 {"self_attn.o_proj", 32, 32},
                 {"self_attn.q_norm", 16, 0},
                 {"self_attn.k_norm", 16, 0},
                 {"mlp.gate", 4, 32},
                 {"mlp.gate_proj", 48, 32},
                 {"mlp.up_proj", 48, 32},
                 {"mlp.down_proj", 32, 48},
                 {"block_sparse_moe.gate", 4, 32},
                 {"pre_feedforward_layernorm", 32, 0},
                 {"post_feedforward_layernorm", 32, 0}};
    char name[128];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, parts[i].name);
        tensor(name, parts[i].rows, parts[i].cols);
    }
    for (int e = 0; e < 4; e++)
        for (int p = 0; p < 3; p++) {
            static const char *const of[] = {"gate_proj", "up_proj", "down_proj"};
            snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.%s.weight", l, e, of[p]);
            tensor(name, p < 2 ? 24 : 32, p < 2 ? 32 : 24);
        }
}

static void leave(void) {
    unlink(config_path);
    unlink(weights_path);
    unlink(arch_path);
    rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    snprintf(folder, sizeof folder, "/dev/shm/coterie-fuzz-XXXXXX");
    if (!mkdtemp(folder)) _exit(3);
    snprintf(config_path, sizeof config_path, "%s/config.json", folder);
    snprintf(weights_path, sizeof weights_path, "%s/model.safetensors", folder);
    snprintf(arch_path, sizeof arch_path, "%s/arch.json", folder);
    atexit(leave);
    header[used++] = '{';
    tensor("model.embed_tokens.weight", 64, 32);
    tensor("model.norm.weight", 32, 0);
    tensor("lm_head.weight", 64, 32);
    for (int l = 0; l < 2; l++) layer(l);
    header[used++] = '}';
    while (used % 8) header[used++] = ' ';
    uint64_t length = used;
    char *file = calloc(1, 8 + used + offset);
    if (!file) _exit(3);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, used);
    float *values = (float *)(file + 8 + used);
    for (size_t i = 0; i < offset / 4; i++) values[i] = (float)(i % 37) / 37 - 0.5f;
    write_file(weights_path, file, 8 + used + offset);
    write_file(config_path, default_config, sizeof default_config - 1);
    free(file);
    return 0;
}

static bool drop(void *user, size_t row, const float *logits, int64_t n) { return true; }

static void try_model(const cot_model *model) {
    cot_model_info info = {.struct_size = sizeof info};
    char *text = NULL;
    cot_error err;
    cot_model_get_info(model, &info);
    if (cot_model_describe(model, &text, &err) == COT_OK) cot_free(text);
    if (info.n_layers > 4 || info.n_embd > 4096) return;
    cot_session *s = NULL;
    cot_session_options o;
    cot_session_defaults(&o);
    o.n_ctx = 16;
    o.n_threads = 1;
    if (cot_session_create(&s, model, &o, &err) != COT_OK) return;
    cot_row rows[] = {{.token = 1}, {.token = 2, .wants_logits = true}};
    (void)cot_forward(s, rows, 2, drop, NULL, &err);
    cot_session_free(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool config_changed;
    const uint8_t *nul = memchr(data, 0, size);
    size_t first = nul ? (size_t)(nul - data) : size;
    bool is_config = memmem(data, first, "\"architectures\"", 15) != NULL;
    const void *config = is_config ? data : nul ? nul + 1 : NULL;
    size_t config_size = is_config ? first : nul ? size - first - 1 : 0;
    if (config) write_file(config_path, config, config_size);
    else if (config_changed) write_file(config_path, default_config, sizeof default_config - 1);
    config_changed = config != NULL;
    cot_model_options o;
    cot_model_defaults(&o);
    if (!is_config) {
        write_file(arch_path, data, first);
        o.arch_file = arch_path;
    }
    cot_model *model = NULL;
    cot_error err;
    if (cot_model_open(&model, folder, &o, &err) == COT_OK) {
        try_model(model);
        cot_model_close(&model);
    } else if (err.status == COT_OK || err.message[0] == 0 || strchr(err.message, '\n'))
        abort(); /* one line, always */
    return 0;
}
