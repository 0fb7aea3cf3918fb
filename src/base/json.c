/* Owns: parsing with limits and typed access to fields, errors naming file and field. */
#include "base/json.h"

#include <pthread.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Jansson's lexer reads and frees what is not there when its buffer cannot grow (2.14). So a parse never sees
 * an allocation fail: it is left by longjmp, and what it had allocated is freed from a list. The links of
 * blocks that outlive their parse are dead. */
typedef struct block {
    struct block *prev, *next;
} block;
_Static_assert(sizeof(block) % _Alignof(max_align_t) == 0, "blocks keep their alignment");
typedef struct parse {
    jmp_buf out_of_memory;
    block all; /* a ring */
} parse;
static _Thread_local parse *running;

static void *take(size_t n) {
    size_t bytes;
    block *b = cot__add_overflow(n, sizeof *b, &bytes) ? NULL : cot__alloc(bytes);
    if (!b && running) longjmp(running->out_of_memory, 1);
    if (!b) return NULL;
    if (running) {
        b->prev = &running->all;
        b->next = running->all.next;
        b->next->prev = running->all.next = b;
    }
    return b + 1;
}

static void give(void *p) {
    if (!p) return;
    block *b = (block *)p - 1;
    if (running) {
        b->prev->next = b->next;
        b->next->prev = b->prev;
    }
    cot__free(b);
}

static void use_our_memory(void) { json_set_alloc_funcs(take, give); }

/* NULL with *memory: out of memory. */
static json_t *load(const char *text, size_t n, size_t flags, json_error_t *e, bool *memory) {
    parse p;
    p.all.prev = p.all.next = &p.all;
    running = &p;
    if (setjmp(p.out_of_memory) == 0) {
        json_t *root = json_loadb(text, n, flags, e);
        running = NULL;
        *memory = false;
        return root;
    }
    running = NULL;
    for (block *b = p.all.next, *next; b != &p.all; b = next) {
        next = b->next;
        cot__free(b);
    }
    *memory = true;
    return NULL;
}

cot_status cot__json_parse(json_t **out, const char *file, const char *text, size_t n, cot_error *err) {
    pthread_once(&once, use_our_memory);
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY;
    json_error_t e;
    bool memory;
    json_t *root = load(text, n, flags, &e, &memory);
    if (!root && !memory && json_error_code(&e) == json_error_numeric_overflow)
        root = load(text, n, flags | JSON_DECODE_INT_AS_REAL, &e, &memory);
    if (!root) {
        if (memory || json_error_code(&e) == json_error_out_of_memory)
            return cot__fail(err, COT_NO_MEMORY, file, NULL, "out of memory while reading JSON");
        return cot__fail(err, COT_FORMAT, file, NULL, "not valid JSON: line %d: %s", e.line, e.text);
    }
    *out = root;
    return COT_OK;
}

cot_status cot__json_load(json_t **out, const char *path, size_t max_bytes, cot_error *err) {
    char *text = NULL;
    size_t n = 0;
    COT_TRY(cot__file_slurp(path, max_bytes, &text, &n, err));
    cot_status s = cot__json_parse(out, path, text, n, err);
    cot__free(text);
    return s;
}

const json_t *cot__json_at(const json_t *root, const char *path) {
    if (!json_is_object(root)) return NULL;
    const json_t *v = json_object_get(root, path);
    if (v) return json_is_null(v) ? NULL : v;
    for (const char *dot = strchr(path, '.'); dot; dot = strchr(dot + 1, '.')) {
        char head[128];
        size_t n = (size_t)(dot - path);
        if (n >= sizeof head) return NULL;
        memcpy(head, path, n);
        head[n] = 0;
        v = json_object_get(root, head);
        if (v && (v = cot__json_at(v, dot + 1))) return v;
    }
    return NULL;
}

cot_status cot__json_int(const json_t *obj, const char *file, const char *key, int64_t lo, int64_t hi,
                         int64_t *out, cot_error *err) {
    const json_t *v = cot__json_at(obj, key);
    if (!v) return COT_OK;
    int64_t x;
    double r = json_is_real(v) ? json_real_value(v) : 0.5;
    if (json_is_integer(v)) x = json_integer_value(v);
    else if (r > -9e15 && r < 9e15 && r == (double)(int64_t)r) x = (int64_t)r;
    else if (r >= 9e15 || r <= -9e15)
        return cot__fail(err, COT_FORMAT, file, key, "is %g, must lie in %lld…%lld", r, (long long)lo,
                         (long long)hi);
    else return cot__fail(err, COT_FORMAT, file, key, "must be an integer");
    if (x < lo || x > hi)
        return cot__fail(err, COT_FORMAT, file, key, "is %lld, must lie in %lld…%lld", (long long)x,
                         (long long)lo, (long long)hi);
    *out = x;
    return COT_OK;
}

cot_status cot__json_f64(const json_t *obj, const char *file, const char *key, double *out, cot_error *err) {
    const json_t *v = cot__json_at(obj, key);
    if (!v) return COT_OK;
    if (!json_is_number(v)) return cot__fail(err, COT_FORMAT, file, key, "must be a number");
    *out = json_number_value(v);
    return COT_OK;
}

cot_status cot__json_bool(const json_t *obj, const char *file, const char *key, bool *out, cot_error *err) {
    const json_t *v = cot__json_at(obj, key);
    if (!v) return COT_OK;
    if (!json_is_boolean(v)) return cot__fail(err, COT_FORMAT, file, key, "must be true or false");
    *out = json_is_true(v);
    return COT_OK;
}

cot_status cot__json_str(const json_t *obj, const char *file, const char *key, const char **out,
                         cot_error *err) {
    const json_t *v = cot__json_at(obj, key);
    if (!v) return COT_OK;
    if (!json_is_string(v)) return cot__fail(err, COT_FORMAT, file, key, "must be a string");
    *out = json_string_value(v);
    return COT_OK;
}
