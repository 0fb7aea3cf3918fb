/* Owns: conversion from one model to another: opening, the choice of types, streaming rows with their change
 * of type on all threads, and giving the result its name only when it is complete. What the result consists
 * of is planned in convert_plan.c, its metadata in convert_meta.c, the split of dense blocks in
 * convert_split.c. */
#include "model/convert.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "format/set.h"

enum { CHUNK_BYTES = 8 << 20 }; /* of F32 rows in flight */
static const uint64_t SHARD_BYTES = (uint64_t)4 << 30;

void cot_convert_defaults(cot_convert_options *o) {
    *o = (cot_convert_options){.struct_size = sizeof *o,
                               .type = COT_TYPE_NONE,
                               .type_experts = COT_TYPE_NONE,
                               .type_attention = COT_TYPE_NONE,
                               .type_head = COT_TYPE_NONE};
}

/* ---- types ---- */

bool cot__convert_is_quantized(cot_type type) { return cot__type((int)type)->block > 1; }

static bool contains(const char *name, const char *part) { return strstr(name, part) != NULL; }

static bool is_head(const char *name) {
    return strcmp(name, "output.weight") == 0 || strcmp(name, "token_embd.weight") == 0 ||
           contains(name, "lm_head.") || contains(name, "embed_tokens.") ||
           contains(name, "word_embeddings.");
}

/* A type whose blocks fit the row: the one asked for, or the next wider. */
static cot_type fit(cot_type type, int64_t cols) {
    if (type == COT_Q4_K && cols % 256) type = COT_Q5_0;
    if (type == COT_Q5_K && cols % 256) type = COT_Q5_1;
    if (type == COT_Q6_K && cols % 256) type = COT_Q8_0;
    return cols % cot__type((int)type)->block ? COT_F16 : type;
}

cot_type cot__convert_type(cot__convert *c, const char *name, cot_type from, int64_t rows, int64_t cols) {
    const cot__type_info *t = cot__type((int)from);
    cot_type want = c->o->type;
    if (!t->decode) return from; /* integers */
    bool router = contains(name, "ffn_gate_inp") || contains(name, "mlp.gate.") ||
                  contains(name, "router.") || contains(name, "block_sparse_moe.gate.") ||
                  contains(name, "shared_expert_gate.");
    bool plain = rows < 2 || router || contains(name, "norm") || contains(name, "rope_f") ||
                 contains(name, "sinks") || contains(name, "bias") || contains(name, "exp_probs_b");
    if (plain) {
        if (c->to_gguf && !c->source->is_gguf) return COT_F32; /* as every engine expects them */
        if (!c->to_gguf && want != COT_TYPE_NONE) return want;
        return c->to_gguf ? from : cot__convert_is_quantized(from) ? COT_F32 : from;
    }
    if (contains(name, "_exps.") || contains(name, ".experts.")) {
        if (c->o->type_experts != COT_TYPE_NONE) want = c->o->type_experts;
    } else if (contains(name, "attn") || contains(name, "attention")) {
        if (c->o->type_attention != COT_TYPE_NONE) want = c->o->type_attention;
    } else if (is_head(name) && c->o->type_head != COT_TYPE_NONE) want = c->o->type_head;
    if (want == COT_TYPE_NONE) want = from;
    if (c->to_gguf && want == COT_F8_E4M3) want = COT_BF16;
    if (!c->to_gguf && cot__convert_is_quantized(want)) want = COT_F32;
    if (want == from) return want;
    cot_type got = fit(want, cols);
    c->wider += got != want;
    return got;
}

/* ---- rows ---- */

cot_status cot__convert_bytes(cot__convert *c, const void *bytes, size_t n, cot_error *err) {
    COT_TRY(c->to_gguf ? cot__gguf_writer_data(c->gguf, bytes, n, err)
                       : cot__st_writer_data(c->st, bytes, n, err));
    c->done += n;
    if (c->o->progress && !c->o->progress(c->o->progress_user, "convert", c->done, c->total))
        return cot__fail(err, COT_CANCELLED, c->source->path, NULL, "the conversion was cancelled");
    return COT_OK;
}

typedef struct chunk {
    const cot_view *v;
    const int32_t *order, *cols;
    int64_t first, n_cols;
    const cot__type_info *to;
    float add;
    float *in, *row; /* one of each for every thread */
    char *out;
    size_t out_bytes;
} chunk;

static void encode_row(void *arg, size_t item, int thread) {
    const chunk *k = arg;
    int64_t r = k->first + (int64_t)item;
    float *in = k->in + (size_t)thread * (size_t)k->v->cols, *row = in;
    cot__view_row(k->v, k->order ? k->order[r] : r, in);
    if (k->cols) {
        row = k->row + (size_t)thread * (size_t)k->n_cols;
        for (int64_t j = 0; j < k->n_cols; j++) row[j] = in[k->cols[j]];
    }
    for (int64_t j = 0; k->add != 0 && j < k->n_cols; j++) row[j] += k->add;
    k->to->encode(row, k->out + item * k->out_bytes, k->n_cols, NULL);
}

static cot_status encode_rows(cot__convert *c, const cot_view *v, int64_t n_rows, const int32_t *order,
                              int64_t n_cols, const int32_t *cols, cot_type type, float add, cot_error *err) {
    const cot__type_info *to = cot__type((int)type);
    size_t threads = (size_t)cot__pool_threads(c->pool), bytes = cot__row_bytes(type, n_cols);
    if (!to->encode || !bytes)
        return cot__fail(err, COT_UNSUPPORTED, c->source->path, cot_type_name((int)type),
                         "rows of %lld values cannot be written in this format", (long long)n_cols);
    int64_t step = CHUNK_BYTES / (n_cols * 4);
    if (step < (int64_t)threads) step = (int64_t)threads;
    if (step > n_rows) step = n_rows;
    chunk k = {.v = v, .order = order, .cols = cols, .n_cols = n_cols, .to = to, .add = add};
    k.out_bytes = bytes;
    k.in = cot__alloc_array(threads * (size_t)v->cols, sizeof *k.in);
    k.row = cot__alloc_array(threads * (size_t)n_cols, sizeof *k.row);
    k.out = cot__alloc_array((size_t)step, bytes);
    cot_status s = k.in && k.row && k.out ? COT_OK : cot__fail_memory(err, (size_t)step * bytes);
    for (; s == COT_OK && k.first < n_rows; k.first += step) {
        size_t n = (size_t)(n_rows - k.first < step ? n_rows - k.first : step);
        cot__pool_run(c->pool, encode_row, &k, n);
        s = cot__convert_bytes(c, k.out, n * bytes, err);
    }
    cot__free(k.in);
    cot__free(k.row);
    cot__free(k.out);
    return s;
}

cot_status cot__convert_rows(cot__convert *c, const cot_view *v, int64_t n_rows, const int32_t *order,
                             int64_t n_cols, const int32_t *cols, cot_type type, float add, cot_error *err) {
    if (type != v->type || v->scales || cols || add != 0 || n_cols != v->cols)
        return encode_rows(c, v, n_rows, order, n_cols, cols, type, add, err);
    size_t bytes = cot__row_bytes(type, n_cols);
    if (!order && v->row_stride == bytes) { /* in one piece, cut for the sake of progress */
        const char *p = v->data;
        uint64_t left = (uint64_t)n_rows * bytes;
        for (size_t n; left; left -= n, p += n) {
            n = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
            COT_TRY(cot__convert_bytes(c, p, n, err));
        }
        return COT_OK;
    }
    for (int64_t r = 0; r < n_rows; r++)
        COT_TRY(cot__convert_bytes(c, cot__view_at(v, order ? order[r] : r), bytes, err));
    return COT_OK;
}

static cot_status copy_job(cot__convert *c, const cot__job *job, cot_error *err) {
    const cot__tensor *t = job->copy;
    const void *p;
    int64_t rows = 1;
    COT_TRY(cot__store_tensor(c->store, t, &p, err));
    for (int d = 1; d < t->n_dims; d++) rows *= t->dims[d];
    cot_view v = cot__view_make(p, t->type, rows, t->dims[0]);
    return cot__convert_rows(c, &v, rows, NULL, t->dims[0], NULL, job->type, 0, err);
}

/* ---- the whole ---- */

cot_status cot__convert_store(cot__convert *c, cot_error *err) {
    cot__store_free(&c->store);
    cot__store_options o = {.residency = COT__RESIDENCY_MMAP};
    return cot__store_create(&c->store, c->source->tensors, &o, err);
}

cot__job *cot__convert_add(cot__convert *c, cot__job_kind kind, const char *name, cot_error *err) {
    if (c->n_jobs == c->cap_jobs) {
        size_t cap = c->cap_jobs ? c->cap_jobs * 2 : 256;
        cot__job *p = cot__realloc_array(c->jobs, cap, sizeof *p);
        if (!p) {
            cot__fail_memory(err, cap * sizeof *p);
            return NULL;
        }
        c->jobs = p;
        c->cap_jobs = cap;
    }
    char *copy = cot__arena_alloc(c->arena, strlen(name) + 1);
    if (!copy) {
        cot__fail_memory(err, strlen(name));
        return NULL;
    }
    memcpy(copy, name, strlen(name) + 1);
    cot__job *j = &c->jobs[c->n_jobs++];
    *j = (cot__job){.kind = kind, .name = copy, .layer = -1};
    return j;
}

static cot_status write_tensors(cot__convert *c, cot_error *err) {
    for (size_t i = 0; i < c->n_jobs; i++) {
        const cot__job *j = &c->jobs[i];
        uint64_t bytes;
        COT_TRY(cot__tensor_size(c->source->path, j->name, j->type, j->n_dims, j->dims, &bytes, err));
        c->total += bytes;
        COT_TRY(c->to_gguf ? cot__gguf_put_tensor(c->gguf, j->name, j->type, j->n_dims, j->dims, err)
                           : cot__st_put_tensor(c->st, j->name, j->type, j->n_dims, j->dims, err));
    }
    COT_TRY(c->to_gguf ? cot__gguf_writer_begin(c->gguf, err) : cot__st_writer_begin(c->st, err));
    for (size_t i = 0; i < c->n_jobs; i++) {
        const cot__job *j = &c->jobs[i];
        COT_TRY(cot__convert_store(c, err));
        if (j->kind == COT__JOB_COPY) COT_TRY(copy_job(c, j, err));
        else if (j->kind == COT__JOB_SLOT) COT_TRY(cot__convert_slot_job(c, j, err));
        else if (j->kind == COT__JOB_LATENT) COT_TRY(cot__convert_latent_job(c, j, err));
        else if (j->kind == COT__JOB_VALUES)
            COT_TRY(cot__convert_bytes(c, j->values, (size_t)j->dims[0] * sizeof(float), err));
        else COT_TRY(cot__convert_split_job(c, j, err));
    }
    return COT_OK;
}

static cot_status make_plan(cot__convert *c, cot_error *err) {
    double layers = 0;
    bool found = false;
    const json_t *stack = json_object_get(json_object_get(c->arch->doc, "stacks"), "decoder");
    COT_TRY(cot__arch_number(c->arch, json_object_get(stack, "count"), "count", -1, &layers, &found, err));
    if (!found || !(layers >= 1 && layers <= 4096))
        return cot__fail(err, COT_FORMAT, c->source->path, "layers", "must be 1 to 4096");
    c->n_layer = (int)layers;
    if (c->o->split_experts) COT_TRY(cot__convert_plan_split(c, err));
    return c->source->is_gguf && c->to_gguf ? cot__convert_plan_copy(c, err)
                                            : cot__convert_plan_slots(c, err);
}

static cot_status to_gguf(cot__convert *c, const char *out, cot_error *err) {
    COT_TRY(cot__gguf_writer_open(&c->gguf, out, err));
    COT_TRY(cot__convert_keys(c, err));
    COT_TRY(write_tensors(c, err));
    return cot__gguf_writer_finish(&c->gguf, err);
}

/* A folder that did not come about leaves nothing behind. */
static void remove_folder(const char *dir, const cot__convert *c) {
    static const char *const names[] = {"config.json", "generation_config.json", "chat_template.jinja",
                                        "model.safetensors", "model.safetensors.index.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *p = cot__path_join(dir, names[i]);
        if (p) unlink(p);
        cot__free(p);
    }
    uint64_t shard = c->o->shard_bytes ? c->o->shard_bytes : SHARD_BYTES;
    int most = (int)(c->total / shard * 2 + 2); /* two neighbours exceed one shard */
    for (int n = 2; n <= most && n < 4096; n++)
        for (int i = 1; i <= n; i++) {
            char name[48];
            snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i, n);
            char *p = cot__path_join(dir, name);
            if (p && unlink(p) != 0) i = n; /* shards are complete in ascending order */
            cot__free(p);
        }
    rmdir(dir);
}

static cot_status to_folder(cot__convert *c, const char *out, cot_error *err) {
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    if (cot__path_exists(out)) return cot__fail(err, COT_ARGUMENT, out, NULL, "exists already");
    char *temp = cot__alloc(n + 32), *name = cot__strndup(out, n);
    if (!temp || !name) {
        cot__free(temp);
        cot__free(name);
        return cot__fail_memory(err, n + 32);
    }
    snprintf(temp, n + 32, "%s.tmp.%ld", name, (long)getpid());
    cot_status s = COT_OK;
    if (mkdir(temp, 0777) != 0) s = cot__fail_errno(err, temp, NULL, "cannot create the folder");
    else {
        s = cot__st_writer_open(&c->st, temp, c->o->shard_bytes ? c->o->shard_bytes : SHARD_BYTES, err);
        if (s == COT_OK) s = write_tensors(c, err);
        if (s == COT_OK) s = cot__st_writer_finish(&c->st, err);
        if (s == COT_OK) s = cot__convert_config(c, temp, err);
        if (s == COT_OK && rename(temp, name) != 0)
            s = cot__fail_errno(err, name, NULL, "cannot take its final name");
        cot__st_writer_abort(&c->st);
        if (s != COT_OK) remove_folder(temp, c);
    }
    cot__free(temp);
    cot__free(name);
    return s;
}

static cot_status check_options(const cot_convert_options *o, const char *out, bool gguf, cot_error *err) {
    const cot_type types[] = {o->type, o->type_experts, o->type_attention, o->type_head};
    if (o->struct_size != sizeof *o)
        return cot__fail(err, COT_ARGUMENT, NULL, "cot_convert_options",
                         "struct_size is %zu; call cot_convert_defaults first", o->struct_size);
    for (int i = 0; i < 4; i++) {
        const cot__type_info *t = types[i] == COT_TYPE_NONE ? NULL : cot__type((int)types[i]);
        if (types[i] == COT_TYPE_NONE) continue;
        if (!t || !t->encode)
            return cot__fail(err, COT_UNSUPPORTED, out, "type", "%s cannot be written",
                             cot_type_name((int)types[i]));
        if (!gguf && t->block > 1)
            return cot__fail(err, COT_ARGUMENT, out, "type",
                             "a Hugging Face folder holds F32, F16 or BF16; name OUT *.gguf for %s", t->name);
    }
    if (o->split_experts < 0 || o->split_experts == 1 || o->split_experts > 4096 || o->experts_used < 0 ||
        o->experts_used > (o->split_experts ? o->split_experts : 0))
        return cot__fail(
            err, COT_ARGUMENT, NULL, "split_experts",
            "%d experts, of which a token uses %d: 2 to 4096 experts, and no more used than there are",
            o->split_experts, o->experts_used);
    if (o->split_experts && !gguf)
        return cot__fail(err, COT_ARGUMENT, out, "split",
                         "a split model carries its description, which only a GGUF file can");
    return COT_OK;
}

/* What the user may not expect of the result. */
static void say_what_differs(const cot__convert *c, const char *out) {
    bool fp4 = false;
    for (size_t i = 0; i < c->source->tensors->n_tensors; i++)
        fp4 |= c->source->tensors->tensors[i].type == COT_MXFP4;
    if (c->wider)
        cot__log(COT_LOG_WARN,
                 "%s: rows of %d tensors are no whole blocks of the wanted format: they are in a wider one",
                 out, c->wider);
    if (c->to_gguf || !c->source->is_gguf) return;
    if (fp4) cot__log(COT_LOG_WARN, "%s: MXFP4 is written as F32", out);
    if (cot__gguf_find(c->source->gguf, "tokenizer.ggml.tokens"))
        cot__log(COT_LOG_WARN,
                 "%s: a folder's tokenizer is not made from a GGUF: add the model's own tokenizer.json", out);
}

cot_status cot_convert(const char *in, const char *out, const cot_convert_options *options, cot_error *err) {
    cot_convert_options o;
    cot_convert_defaults(&o);
    cot__error_clear(err);
    if (options) o = *options;
    size_t n = strlen(out);
    cot__convert c = {.o = &o, .split = {.layer = -1}};
    c.to_gguf = n >= 5 && strcmp(out + n - 5, ".gguf") == 0;
    COT_TRY(check_options(&o, out, c.to_gguf, err));
    cot_status s = cot__arena_create(&c.arena, 1 << 16, 0, err);
    if (s == COT_OK) s = cot__source_open(&c.source, in, err);
    if (s == COT_OK && !c.source->is_gguf && !c.to_gguf)
        s = cot__fail(err, COT_ARGUMENT, out, NULL, "IN is a folder already; name OUT *.gguf");
    if (s == COT_OK && c.source->together)
        s = cot__fail(err, COT_UNSUPPORTED, in, COT__TOGETHER_KEY,
                      "its experts are in the kernels' order (coterie pack --repack); convert the original");
    if (s == COT_OK) s = cot__arch_open(&c.arch, c.source, o.arch_file, err);
    if (s == COT_OK) s = cot__convert_store(&c, err);
    if (s == COT_OK) s = cot__pool_create(&c.pool, o.n_threads, err);
    if (s == COT_OK) s = make_plan(&c, err);
    if (s == COT_OK) s = c.to_gguf ? to_gguf(&c, out, err) : to_folder(&c, out, err);
    if (s == COT_OK) say_what_differs(&c, out);
    cot__gguf_writer_abort(&c.gguf);
    cot__convert_split_free(&c.split);
    cot__pool_free(&c.pool);
    cot__store_free(&c.store);
    cot__arch_close(&c.arch);
    cot__source_close(&c.source);
    cot__free(c.jobs);
    cot__arena_free(&c.arena);
    return s;
}
