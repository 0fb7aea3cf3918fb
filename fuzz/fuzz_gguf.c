/* Fuzz: GGUF files. What opens is walked whole: every key as text and number, every byte of every tensor;
 * then it is opened as a model, whose tokenizer, parameters and binding read the same hostile metadata, and
 * when that is small it runs for two tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <coterie/session.h>

#include "format/gguf.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[64];
static volatile uint64_t sum; /* keeps the reads alive */

static void leave(void) { unlink(path); }

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    snprintf(path, sizeof path, "/dev/shm/coterie-fuzz-%ld.gguf", (long)getpid());
    atexit(leave);
    return 0;
}

static void check_error(const cot_error *err) {
    if (err->status == COT_OK || !err->message[0] || strchr(err->message, '\n')) abort(); /* one line */
}

static void walk_key(const cot__gguf_kv *kv) {
    int64_t v;
    double f;
    uint64_t n = kv->count < 64 ? kv->count : 64;
    for (uint64_t i = 0; i <= n; i++) {
        if (cot__gguf_int(kv, i, &v)) sum += (uint64_t)v;
        if (cot__gguf_f64(kv, i, &f)) sum += f > 0;
    }
    if (kv->type == COT_GGUF_STRING) sum += strlen(kv->str.s) + (uint8_t)kv->str.s[kv->str.len];
    if (kv->type == COT_GGUF_ARRAY && kv->elem == COT_GGUF_STRING)
        for (uint64_t i = 0; i < kv->count; i++) sum += (uint8_t)kv->strs[i].s[kv->strs[i].len];
}

static void walk(const cot__gguf *g) {
    const cot__tensor_set *set = cot__gguf_tensors(g);
    for (size_t i = 0; i < cot__gguf_kv_count(g); i++) {
        const cot__gguf_kv *kv = cot__gguf_kv_at(g, i);
        if (cot__gguf_find(g, kv->key) != kv) abort();
        walk_key(kv);
    }
    for (size_t i = 0; i < set->n_tensors; i++) {
        const cot__tensor *t = &set->tensors[i];
        const void *base;
        if (cot__tensors_find(set, t->name) != t) abort();
        if (cot__file_map(set->files[t->file], &base, NULL) != COT_OK) continue;
        const uint8_t *p = (const uint8_t *)base + t->offset;
        for (uint64_t k = 0; k < t->bytes; k++) sum += p[k];
    }
}

static bool drop(void *user, size_t row, const float *logits, int64_t n) { return true; }

static void try_model(void) {
    cot_model *model = NULL;
    cot_error err = {0};
    if (cot_model_open(&model, path, NULL, &err) != COT_OK) {
        check_error(&err);
        return;
    }
    cot_model_info info = {.struct_size = sizeof info};
    cot_model_get_info(model, &info);
    int32_t *ids = NULL;
    size_t n;
    if (cot_tokenize(model, "Hello, w\xc3\xb6rld 12", 16, true, true, &ids, &n, &err) == COT_OK)
        cot_free(ids);
    cot_session *s = NULL;
    cot_session_options o;
    cot_session_defaults(&o);
    o.n_ctx = 16;
    o.n_threads = 1;
    if (info.n_layers <= 4 && info.n_embd <= 4096 && info.n_vocab > 2 &&
        cot_session_create(&s, model, &o, &err) == COT_OK) {
        const cot_row rows[] = {{.token = 1}, {.token = 2, .wants_logits = true}};
        (void)cot_forward(s, rows, 2, drop, NULL, &err);
        cot_session_free(&s);
    }
    cot_model_close(&model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FILE *f = fopen(path, "wb");
    if (!f || (size && fwrite(data, 1, size, f) != size)) _exit(3);
    fclose(f);
    cot__gguf *g = NULL;
    cot_error err = {0};
    if (cot__gguf_open(&g, path, &err) != COT_OK) {
        check_error(&err);
        return 0;
    }
    walk(g);
    cot__gguf_close(&g);
    try_model();
    return 0;
}
