/* coterie inspect: what a model is and what it will need. */
#include <string.h>

#include "cli/cli.h"

static void json_info(const cot_model *m, const cot_model_info *i, const cot_session_options *so, uint64_t kv,
                      uint64_t buffers, bool tensors) {
    fputs("{\"path\": ", stdout), cli_json_string(stdout, i->path, strlen(i->path));
    fputs(", \"format\": ", stdout), cli_json_string(stdout, i->format, strlen(i->format));
    fputs(", \"arch\": ", stdout), cli_json_string(stdout, i->arch, strlen(i->arch));
    fputs(", \"description\": ", stdout), cli_json_string(stdout, i->description, strlen(i->description));
    printf(
        ", \"layers\": %lld, \"embedding\": %lld, \"vocabulary\": %lld, \"context\": %lld, \"heads\": %lld, \"kv_heads\": %lld, \"head_dim\": %lld",
        (long long)i->n_layers, (long long)i->n_embd, (long long)i->n_vocab, (long long)i->n_ctx_train,
        (long long)i->n_heads, (long long)i->n_kv_heads, (long long)i->head_dim);
    printf(
        ", \"routers\": %lld, \"experts\": %lld, \"experts_used\": %lld, \"params_total\": %llu, \"params_active\": %llu",
        (long long)i->n_sites, (long long)i->n_experts, (long long)i->n_experts_used,
        (unsigned long long)i->params_total, (unsigned long long)i->params_active);
    printf(
        ", \"bytes_total\": %llu, \"bytes_experts\": %llu, \"bytes_attention\": %llu, \"bytes_embedding\": %llu, \"bytes_other\": %llu, \"bytes_per_token\": %llu, \"kv_positions\": %d, \"kv_type\": \"%s\", \"kv_bytes\": %llu, \"buffer_bytes\": %llu",
        (unsigned long long)i->bytes_total, (unsigned long long)i->bytes_experts,
        (unsigned long long)i->bytes_attention, (unsigned long long)i->bytes_embedding,
        (unsigned long long)i->bytes_other, (unsigned long long)i->bytes_per_token, so->n_ctx,
        cot_type_name(so->kv_type), (unsigned long long)kv, (unsigned long long)buffers);
    printf(", \"tokenizer\": %s, \"chat_template\": %s", i->has_tokenizer ? "true" : "false",
           i->has_chat_template ? "true" : "false");
    if (tensors) {
        fputs(", \"tensors\": [", stdout);
        for (size_t k = 0; k < cot_model_tensor_count(m); k++) {
            cot_tensor_info t;
            if (cot_model_tensor(m, k, &t, NULL) != COT_OK) break;
            fputs(k ? ", {\"name\": " : "{\"name\": ", stdout),
                cli_json_string(stdout, t.name, strlen(t.name));
            printf(", \"type\": \"%s\", \"dims\": [", cot_type_name(t.type));
            for (int d = 0; d < t.n_dims; d++) printf("%s%lld", d ? ", " : "", (long long)t.dims[d]);
            printf("], \"bytes\": %llu}", (unsigned long long)t.bytes);
        }
        fputs("]", stdout);
    }
    puts("}");
}

static void part(const char *name, uint64_t bytes, uint64_t total) {
    char b[32];
    double share = total ? (double)bytes / (double)total : 0;
    int bar = (int)(share * 40 + 0.5);
    printf("  %-11s %12s %5.1f %%  ", name, cli_bytes(bytes, b, sizeof b), share * 100);
    for (int i = 0; i < bar; i++) fputs("█", stdout);
    putchar('\n');
}

static void text_info(const cot_model *m, const cot_model_info *i, const cot_session_options *so, uint64_t kv,
                      uint64_t buffers, bool tensors) {
    char a[32], b[32], c[32];
    printf("%s\n%s, architecture %s (description %s)\n", i->path, i->format, i->arch, i->description);
    printf("layers %lld, width %lld, vocabulary %lld, trained context %lld\n", (long long)i->n_layers,
           (long long)i->n_embd, (long long)i->n_vocab, (long long)i->n_ctx_train);
    printf("attention: %lld heads over %lld, %lld wide\n", (long long)i->n_heads, (long long)i->n_kv_heads,
           (long long)i->head_dim);
    if (i->n_sites)
        printf("experts: %lld, of which a token uses %lld, in %lld layers\n", (long long)i->n_experts,
               (long long)i->n_experts_used, (long long)i->n_sites);
    else puts("experts: none (a dense model)");
    printf("parameters: %s, %s active for a token\n", cli_count(i->params_total, a, sizeof a),
           cli_count(i->params_active, b, sizeof b));
    printf("weights: %s\n", cli_bytes(i->bytes_total, a, sizeof a));
    part("experts", i->bytes_experts, i->bytes_total);
    part("attention", i->bytes_attention, i->bytes_total);
    part("embeddings", i->bytes_embedding, i->bytes_total);
    part("other", i->bytes_other, i->bytes_total);
    printf("will need: weights %s (mapped), KV cache %s at %d positions in %s, buffers up to %s\n",
           cli_bytes(i->bytes_total, a, sizeof a), cli_bytes(kv, b, sizeof b), so->n_ctx,
           cot_type_name(so->kv_type), cli_bytes(buffers, c, sizeof c));
    printf("reads for a token: %s\n", cli_bytes(i->bytes_per_token, a, sizeof a));
    printf("tokenizer: %s, chat template: %s\n", i->has_tokenizer ? "yes" : "no",
           i->has_chat_template ? "the model's"
           : i->has_tokenizer   ? "built in"
                                : "no");
    for (size_t k = 0; tensors && k < cot_model_tensor_count(m); k++) {
        cot_tensor_info t;
        if (cot_model_tensor(m, k, &t, NULL) != COT_OK) break;
        printf("%-48s %-8s", t.name, cot_type_name(t.type));
        for (int d = 0; d < t.n_dims; d++) printf("%s%lld", d ? " × " : " ", (long long)t.dims[d]);
        printf("  %s\n", cli_bytes(t.bytes, a, sizeof a));
    }
}

int cmd_inspect(int argc, char **argv) {
    cli_common c = {0};
    const char *words[1];
    cot_session_options so;
    bool tensors = false;
    int n_words = 1;
    cot_session_defaults(&so);
    const cli_option options[] = {
        {"tensors", 0, NULL, "list the tensors", CLI_FLAG, &tensors},
        {"ctx", 'c', "N", "positions to plan for (default: the smaller of 4096 and the model's)", CLI_INT,
         &so.n_ctx},
        {"kv", 0, "TYPE", "number format of the cache: f16, q8_0, f32", CLI_KV, &so.kv_type},
        {0}};
    int code = cli_parse("inspect", argc, argv, options, &c, words, &n_words);
    if (code >= 0) return code;
    cot_model *m = NULL;
    if ((code = cli_open(&m, &c)) >= 0) { /* after its message: what is there all the same */
        char *text = NULL;
        if (tensors && !c.json && code == EXIT_FAILED && cot_contents(c.model, &text, NULL) == COT_OK)
            fputs(text, stdout);
        cot_free(text);
        return code;
    }
    cot_model_info info;
    uint64_t kv = 0, buffers = 0;
    cot_error err = {0};
    cot_model_get_info(m, &info);
    so.n_threads = c.threads;
    if (!so.n_ctx) so.n_ctx = info.n_ctx_train < 4096 ? (int32_t)info.n_ctx_train : 4096;
    code = EXIT_OK;
    if (cot_session_estimate(m, &so, &kv, &buffers, &err) != COT_OK) code = cli_fail(&err);
    else if (c.json) json_info(m, &info, &so, kv, buffers, tensors);
    else text_info(m, &info, &so, kv, buffers, tensors);
    cot_model_close(&m);
    return code;
}
