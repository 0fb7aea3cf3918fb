/* Owns: the metadata of a converted GGUF: keys copied, or written from the description's parameters, the
 * tokenizer and the chat template. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "model/convert.h"

static bool starts(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }

/* The number that GGUF tools keep for the format of most weights; −1: none. */
static int file_type(cot_type type) {
    static const struct {
        cot_type type;
        int id;
    } ids[] = {{COT_F32, 0},   {COT_F16, 1},   {COT_Q4_0, 2},  {COT_Q8_0, 7},  {COT_Q5_0, 8},
               {COT_Q4_K, 15}, {COT_Q5_K, 17}, {COT_Q6_K, 18}, {COT_BF16, 32}, {COT_MXFP4, 38}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i].type == type) return ids[i].id;
    return -1;
}

/* ---- the description of a split model ---- */

/* Layers as they are, with each dense block routed: the experts' weights are one. */
static cot_status route_dense(json_t *layer, cot_error *err) {
    static const char *const drop[] = {"unless", "if"};
    for (size_t i = 0; i < json_array_size(layer); i++) {
        json_t *op = json_array_get(layer, i);
        const char *name = json_string_value(json_object_get(op, "op"));
        if (name && strcmp(name, "moe") == 0) {
            json_array_remove(layer, i--);
            continue;
        }
        if (!name || strcmp(name, "ffn") != 0) continue;
        for (int k = 0; k < 2; k++) json_object_del(op, drop[k]);
        json_t *more = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "op", "moe", "experts", "$n_expert", "k",
                                 "$n_expert_used", "score", "softmax", "select", "topk", "weights", "one");
        int bad = more ? json_object_update(op, more) : -1;
        json_decref(more);
        if (bad) return cot__fail_memory(err, 0);
    }
    return COT_OK;
}

static cot_status put_description(cot__convert *c, cot_error *err) {
    json_t *doc = json_deep_copy(c->arch->doc);
    char name[128];
    snprintf(name, sizeof name, "%.100s-split", c->arch->name);
    json_object_del(doc, "extends"); /* what it extends is merged in already */
    json_object_del(doc, "match");
    json_object_del(doc, "comment");
    cot_status s =
        doc && json_object_set_new(doc, "name", json_string(name)) == 0 ? COT_OK : cot__fail_memory(err, 0);
    json_t *stack = json_object_get(json_object_get(doc, "stacks"), "decoder");
    if (s == COT_OK) s = route_dense(json_object_get(stack, "layer"), err);
    char *text = s == COT_OK ? json_dumps(doc, JSON_COMPACT) : NULL;
    if (s == COT_OK && !text) s = cot__fail_memory(err, 0);
    if (s == COT_OK) s = cot__gguf_put_str(c->gguf, "coterie.arch", text, strlen(text), err);
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    if (text) release(text);
    json_decref(doc);
    return s;
}

static const char *arch_key(const char *arch, const char *tail, char buf[192]) {
    snprintf(buf, 192, "%.120s%s", arch, tail);
    return buf;
}

static cot_status split_keys(cot__convert *c, const char *arch, cot_error *err) {
    char key[192];
    int32_t n = c->o->split_experts, used = c->o->experts_used ? c->o->experts_used : (3 * n + 3) / 4;
    int64_t share = c->split.layer >= 0 ? c->split.d_ff / n : 0;
    for (size_t i = 0; i < c->n_jobs && !share; i++)
        if (c->jobs[i].kind == COT__JOB_GATE) share = c->jobs[i].dims[1];
    COT_TRY(cot__gguf_put_int(c->gguf, arch_key(arch, ".expert_count", key), COT_GGUF_U32, n, err));
    COT_TRY(cot__gguf_put_int(c->gguf, arch_key(arch, ".expert_used_count", key), COT_GGUF_U32, used, err));
    COT_TRY(cot__gguf_put_int(c->gguf, arch_key(arch, ".expert_feed_forward_length", key), COT_GGUF_U32,
                              share, err));
    return put_description(c, err);
}

/* Whether a key of the source is written anew. */
static bool replaced(const cot__convert *c, const char *key) {
    if (starts(key, "split.") || strcmp(key, "general.quantization_version") == 0) return true;
    if (strcmp(key, "general.file_type") == 0) return c->o->type != COT_TYPE_NONE;
    if (!c->o->split_experts) return false;
    const char *tail = strchr(key, '.');
    return strcmp(key, "coterie.arch") == 0 ||
           (tail && (strcmp(tail, ".expert_count") == 0 || strcmp(tail, ".expert_used_count") == 0 ||
                     strcmp(tail, ".expert_feed_forward_length") == 0));
}

static cot_status copy_keys(cot__convert *c, cot_error *err) {
    const cot__gguf *g = c->source->gguf;
    for (size_t i = 0; i < cot__gguf_kv_count(g); i++) {
        const cot__gguf_kv *kv = cot__gguf_kv_at(g, i);
        if (!replaced(c, kv->key)) COT_TRY(cot__gguf_put_kv(c->gguf, kv, err));
    }
    return COT_OK;
}

cot_status cot__convert_keys(cot__convert *c, cot_error *err) {
    const char *arch = c->source->arch;
    bool quantized = false;
    if (c->source->is_gguf) COT_TRY(copy_keys(c, err));
    else COT_TRY(cot__convert_new_keys(c, &arch, err));
    for (size_t i = 0; i < c->n_jobs; i++) quantized |= cot__convert_is_quantized(c->jobs[i].type);
    if (quantized) COT_TRY(cot__gguf_put_int(c->gguf, "general.quantization_version", COT_GGUF_U32, 2, err));
    if (c->o->type != COT_TYPE_NONE && file_type(c->o->type) >= 0)
        COT_TRY(cot__gguf_put_int(c->gguf, "general.file_type", COT_GGUF_U32, file_type(c->o->type), err));
    return c->o->split_experts ? split_keys(c, arch, err) : COT_OK;
}
