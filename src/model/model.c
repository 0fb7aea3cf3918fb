/* Owns: the model as users see it: opening, closing, what it is. */
#include <string.h>

#include "base/error.h"
#include "model/internal.h"
#include "text/chat.h"
#include "text/tokenizer.h"

void cot_free(void *p) { cot__free(p); }

void cot_model_defaults(cot_model_options *o) { *o = (cot_model_options){.struct_size = sizeof *o}; }

cot_status cot_model_open(cot_model **out, const char *path, const cot_model_options *options,
                          cot_error *err) {
    cot_model_options o;
    cot_model_defaults(&o);
    cot__error_clear(err);
    if (options && options->struct_size != sizeof o)
        return cot__fail(err, COT_ARGUMENT, NULL, "cot_model_options",
                         "struct_size is %zu; call cot_model_defaults first", options->struct_size);
    if (options) o = *options;
    cot_model *m = cot__alloc_zero(1, sizeof *m);
    if (!m) return cot__fail_memory(err, sizeof *m);
    cot_status s = cot__arena_create(&m->arena, 1 << 18, 0, err);
    if (s == COT_OK) s = cot__source_open(&m->source, path, err);
    if (s == COT_OK) s = cot__arch_open(&m->arch, m->source, o.arch_file, err);
    if (s == COT_OK) s = cot__model_lossy(m, o.experts_lossy, err);
    cot__store_options so = {0};
    if (s == COT_OK) s = cot__model_settle(m, &o, &so, err);
    if (s == COT_OK) s = cot__store_create(&m->store, m->source->tensors, &so, err);
    if (s == COT_OK && m->residency == COT_RESIDENCY_MEMORY) {
        const cot__tensor_set *set = m->source->tensors;
        for (size_t i = 0; i < set->n_tensors && s == COT_OK; i++) {
            const void *p;
            if (cot__tier_idle(m, &set->tensors[i])) continue;
            s = cot__store_tensor(m->store, &set->tensors[i], &p, err);
            if (s == COT_OK && o.progress && !o.progress(o.progress_user, "load", i + 1, set->n_tensors))
                s = cot__fail(err, COT_CANCELLED, path, NULL, "loading was cancelled");
        }
    }
    if (s == COT_OK) s = cot__model_build(m, err);
    if (s == COT_OK && o.repack) s = cot__model_repack(m, o.progress, o.progress_user, err);
    if (s == COT_OK) s = cot__model_load_text(m, err);
    if (s == COT_OK) s = cot__model_predict(m, o.predict, err);
    if (s == COT_OK) cot__model_budget(m);
    if (s != COT_OK) {
        cot_model_close(&m);
        return s;
    }
    static const char *const where[] = {
        "", "mapped", "in memory", "streamed", "streamed, whole layers", "simulated"};
    cot__log(COT_LOG_INFO, "%s: %s, description %s, weights %s%s", path,
             m->source->is_gguf ? "GGUF" : "safetensors", m->arch->name, where[m->residency],
             o.repack ? ", repacked" : "");
    *out = m;
    return COT_OK;
}

void cot_model_close(cot_model **model) {
    if (!model || !*model) return;
    cot_model *m = *model;
    cot__chat_free(&m->chat);
    cot__tokenizer_free(&m->tokenizer);
    cot__free(m->chat_template);
    cot__free(m->ends);
    cot__free(m->steps);
    cot__free(m->streams);
    cot__predictor_free(&m->predictor);
    cot__trained_close(&m->trained);
    cot__model_budget_free(m);
    cot__arch_close(&m->arch);
    cot__source_close(&m->source);
    cot__arena_free(&m->arena);
    cot__free(m);
    *model = NULL;
}

size_t cot_model_tensor_count(const cot_model *m) { return m->source->tensors->n_tensors; }

cot_status cot_model_tensor(const cot_model *m, size_t i, cot_tensor_info *out, cot_error *err) {
    const cot__tensor_set *set = m->source->tensors;
    if (i >= set->n_tensors)
        return cot__fail(err, COT_ARGUMENT, m->source->path, "tensor", "there are %zu", set->n_tensors);
    const cot__tensor *t = &set->tensors[i];
    *out = (cot_tensor_info){.name = t->name, .type = t->raw_type, .n_dims = t->n_dims, .bytes = t->bytes};
    memcpy(out->dims, t->dims, sizeof out->dims);
    return COT_OK;
}

static uint64_t elements(const cot__tensor *t) {
    uint64_t n = 1;
    for (int d = 0; d < t->n_dims; d++) n *= (uint64_t)t->dims[d];
    return n;
}

static uint64_t view_bytes(const cot_view *v) {
    return v->data ? (uint64_t)v->rows * cot__row_bytes(v->type, v->cols) : 0;
}
static uint64_t view_count(const cot_view *v) { return v->data ? (uint64_t)v->rows * (uint64_t)v->cols : 0; }

static void count_expert(const cot__expert *e, uint64_t *params, uint64_t *bytes) {
    for (int p = 0; p < COT__PARTS; p++) { /* absent parts have no rows; streamed ones have no data now */
        const cot_view *v = &e->part[p];
        *params += (uint64_t)v->rows * (uint64_t)v->cols;
        *bytes += v->rows ? (uint64_t)v->rows * cot__row_bytes(v->type, v->cols) : 0;
    }
}

/* Experts of all sites: all of them, and those that one token uses. */
static void count_experts(const cot_model *m, uint64_t *all_params, uint64_t *all_bytes,
                          uint64_t *used_params, uint64_t *used_bytes) {
    for (size_t i = 0; i < m->n_steps; i++) {
        const cot__step *s = &m->steps[i];
        if (s->kind != COT__STEP_MOE) continue;
        uint64_t params = 0, bytes = 0;
        for (int32_t e = 0; e < s->moe->router.n_experts; e++)
            count_expert(cot__store_shape(m->store, s->moe->bank, e), &params, &bytes);
        uint64_t k = (uint64_t)s->moe->router.k, n = (uint64_t)s->moe->router.n_experts;
        *all_params += params;
        *all_bytes += bytes;
        *used_params += params / n * k;
        *used_bytes += bytes / n * k;
    }
}

void cot_model_get_info(const cot_model *m, cot_model_info *info) {
    *info = (cot_model_info){.struct_size = sizeof *info,
                             .path = m->source->path,
                             .arch = m->source->arch,
                             .description = m->arch->name,
                             .n_layers = m->n_layer,
                             .n_embd = m->n_embd,
                             .n_vocab = m->n_vocab,
                             .n_ctx_train = m->n_ctx_train,
                             .n_sites = m->n_sites,
                             .n_experts = m->max_experts,
                             .n_experts_used = m->max_used,
                             .has_tokenizer = m->tokenizer != NULL,
                             .has_chat_template = m->chat_template != NULL};
    info->format = !m->source->is_gguf                       ? "safetensors"
                   : cot__gguf_version(m->source->gguf) == 2 ? "GGUF v2"
                                                             : "GGUF v3";
    const cot__tensor_set *set = m->source->tensors;
    for (size_t i = 0; i < set->n_tensors; i++) {
        info->bytes_total += set->tensors[i].bytes;
        if (cot__tier_of(set->tensors[i].name) == COT_TYPE_NONE)
            info->params_total += elements(&set->tensors[i]);
        if (cot__tier_idle(m, &set->tensors[i])) info->bytes_idle += set->tensors[i].bytes;
    }
    uint64_t all_p = 0, all_b = 0, used_p = 0, used_b = 0;
    count_experts(m, &all_p, &all_b, &used_p, &used_b);
    for (size_t i = 0; i < m->n_steps; i++) {
        const cot__step *s = &m->steps[i];
        if (s->kind == COT__STEP_ATTENTION) {
            const cot__attn_block *a = s->attn;
            info->bytes_attention +=
                view_bytes(&a->wq) + view_bytes(&a->wk) + view_bytes(&a->wv) + view_bytes(&a->wo);
            info->kv_bytes_per_token_f16 += 2 * (uint64_t)a->kv_heads * (uint64_t)(a->dk + a->dv);
            if (!info->n_heads)
                info->n_heads = a->heads, info->n_kv_heads = a->kv_heads, info->head_dim = a->dk;
        } else if (s->kind == COT__STEP_MLA) {
            const cot__mla_block *a = s->mla;
            info->bytes_attention += view_bytes(&a->wq) + view_bytes(&a->wqa) + view_bytes(&a->wqb) +
                                     view_bytes(&a->wkva) + view_bytes(&a->wo) + view_bytes(&a->wk) +
                                     (a->k_transposed ? view_bytes(&a->wv) : 0);
            info->kv_bytes_per_token_f16 += 2 * (uint64_t)(a->kv_rank + a->rot);
            if (!info->n_heads)
                info->n_heads = a->heads, info->n_kv_heads = 1, info->head_dim = a->nope + a->rot;
        }
    }
    bool tied = m->head.data == m->embed.data;
    info->bytes_experts = all_b;
    info->bytes_embedding = view_bytes(&m->embed) + (tied ? 0 : view_bytes(&m->head));
    uint64_t named = info->bytes_experts + info->bytes_attention + info->bytes_embedding + info->bytes_idle;
    info->bytes_other = info->bytes_total > named ? info->bytes_total - named : 0;
    info->params_active = info->params_total - all_p + used_p - (tied ? 0 : view_count(&m->embed));
    info->bytes_per_token = info->bytes_attention + info->bytes_other + used_b + view_bytes(&m->head);
}
