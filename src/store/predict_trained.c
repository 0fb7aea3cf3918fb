/* Owns: a trained predictor's file in memory, and its evaluation. The file is input like any other: what it
 * says is checked against its length and against what it is for before it is believed, and every weight is
 * finite. It is read and not mapped, so that nothing that happens to it later matters. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "kernels/kernels.h"
#include "store/predict.h"

enum { VOCABULARY, WIDTH, DEPTH, HEADS, BANKS, EXPERTS, CONTEXT, FIELDS, MAGIC = 8 };
enum { HEADER = MAGIC + FIELDS * 4, NORMS = 2, SQUARES = 4 };

static const struct {
    const char *name;
    uint32_t least, most;
} field[FIELDS] = {
    [VOCABULARY] = {"vocabulary", 1, 1 << 24},
    [WIDTH] = {"width", 1, 8192},
    [DEPTH] = {"depth", 0, 64},
    [HEADS] = {"heads", 1, 1024},
    [BANKS] = {"banks", 1, 4096},
    [EXPERTS] = {"experts", 1, 65536},
    [CONTEXT] = {"context", 1, 1024},
};

typedef struct block {
    const float *norm[NORMS], *square[SQUARES], *up, *down; /* square: q, k, v, o */
} block;

struct cot__trained {
    const cot_kernels *kernels;
    int dim[FIELDS];
    float *weights; /* all of them, in the order of the file */
    const float *embedding, *norm, *head;
    block *block; /* dim[DEPTH] */
};

bool cot__trained_named(const char *name) {
    size_t n = strlen(name);
    return n > 4 && strcmp(name + n - 4, ".rpp") == 0;
}

static cot_status read_header(cot__trained *t, cot__file *f, cot_error *err) {
    unsigned char h[HEADER];
    const char *path = cot__file_path(f);
    if (cot__file_size(f) < HEADER)
        return cot__fail(err, COT_FORMAT, path, "header", "%llu bytes are no trained predictor",
                         (unsigned long long)cot__file_size(f));
    COT_TRY(cot__file_read(f, 0, h, HEADER, err));
    if (memcmp(h, "COTRPP\0\1", MAGIC) != 0)
        return cot__fail(err, COT_FORMAT, path, "magic",
                         "this is no trained predictor of version 1: name a file that was trained as one");
    for (int i = 0; i < FIELDS; i++) {
        const unsigned char *p = h + MAGIC + i * 4;
        uint32_t v = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        if (v < field[i].least || v > field[i].most)
            return cot__fail(err, COT_FORMAT, path, field[i].name,
                             "%u is outside %u…%u: the file is damaged, train it again", v, field[i].least,
                             field[i].most);
        t->dim[i] = (int)v;
    }
    if (t->dim[WIDTH] % t->dim[HEADS])
        return cot__fail(err, COT_FORMAT, path, "heads", "%d do not divide the width %d: train it again",
                         t->dim[HEADS], t->dim[WIDTH]);
    return COT_OK;
}

/* Vocabulary 0: neither it nor the exact number of experts is known. */
static cot_status check_use(const cot__trained *t, const char *path, int64_t vocabulary, int banks,
                            int experts, cot_error *err) {
    const char *what = "a predictor serves the model that it was trained for alone";
    if (vocabulary && t->dim[VOCABULARY] != vocabulary)
        return cot__fail(err, COT_ARGUMENT, path, "vocabulary", "is %d, here %lld are needed: %s",
                         t->dim[VOCABULARY], (long long)vocabulary, what);
    if (t->dim[BANKS] != banks)
        return cot__fail(err, COT_ARGUMENT, path, "banks", "are %d, here %d are needed: %s", t->dim[BANKS],
                         banks, what);
    if (vocabulary ? t->dim[EXPERTS] != experts : t->dim[EXPERTS] < experts)
        return cot__fail(err, COT_ARGUMENT, path, "experts", "are %d, here %d are needed: %s",
                         t->dim[EXPERTS], experts, what);
    return COT_OK;
}

/* Hands out the tensors one after the other; without weights it counts them. */
typedef struct cursor {
    const float *weights;
    size_t at;
    const char *path;
    cot_error *err;
    cot_status status;
    bool overflow;
} cursor;

static const float *tensor(cursor *c, const char *name, int layer, size_t rows, size_t cols) {
    size_t n;
    const float *w = c->weights ? c->weights + c->at : NULL;
    c->overflow |= cot__mul_overflow(rows, cols, &n) || cot__add_overflow(c->at, n, &c->at);
    for (size_t i = 0; w && c->status == COT_OK && i < n; i++)
        if (!isfinite(w[i]))
            c->status = cot__fail(c->err, COT_FORMAT, c->path, name,
                                  "value %zu (block %d) is not finite: train it again", i, layer);
    return w;
}

static void walk(cot__trained *t, cursor *c) {
    static const char *const norms[] = {"attention norm", "feed-forward norm"};
    static const char *const squares[] = {"q", "k", "v", "o"};
    size_t w = (size_t)t->dim[WIDTH], heads = (size_t)t->dim[BANKS] * (size_t)t->dim[EXPERTS];
    t->embedding = tensor(c, "embedding", -1, (size_t)t->dim[VOCABULARY], w);
    for (int b = 0; b < t->dim[DEPTH]; b++) {
        block k = {0};
        k.norm[0] = tensor(c, norms[0], b, 1, w);
        for (int i = 0; i < SQUARES; i++) k.square[i] = tensor(c, squares[i], b, w, w);
        k.norm[1] = tensor(c, norms[1], b, 1, w);
        k.up = tensor(c, "up", b, 4 * w, w);
        k.down = tensor(c, "down", b, w, 4 * w);
        t->block[b] = k;
    }
    t->norm = tensor(c, "final norm", -1, 1, w);
    t->head = tensor(c, "head", -1, heads, w);
}

static cot_status read_weights(cot__trained *t, cot__file *f, cot_error *err) {
    const char *path = cot__file_path(f);
    cursor c = {.path = path, .err = err};
    size_t bytes, all;
    t->block = cot__alloc_zero((size_t)t->dim[DEPTH], sizeof *t->block);
    if (!t->block) return cot__fail_memory(err, (size_t)t->dim[DEPTH] * sizeof *t->block);
    walk(t, &c);
    if (c.overflow || cot__mul_overflow(c.at, sizeof(float), &bytes) ||
        cot__add_overflow(bytes, HEADER, &all) || all > cot__file_size(f))
        return cot__fail(err, COT_FORMAT, path, "size",
                         "%llu bytes are fewer than its header needs: copy or train it again",
                         (unsigned long long)cot__file_size(f));
    if (all < cot__file_size(f))
        return cot__fail(err, COT_FORMAT, path, "size", "%llu bytes follow the last tensor: train it again",
                         (unsigned long long)(cot__file_size(f) - all));
    t->weights = cot__alloc(bytes);
    if (!t->weights) return cot__fail_memory(err, bytes);
    COT_TRY(cot__file_read(f, HEADER, t->weights, bytes, err));
    c = (cursor){.weights = t->weights, .path = path, .err = err};
    walk(t, &c);
    return c.status;
}

cot_status cot__trained_open(cot__trained **out, const char *path, int64_t vocabulary, int banks, int experts,
                             cot_error *err) {
    cot__file *f = NULL;
    cot__trained *t = cot__alloc_zero(1, sizeof *t);
    if (!t) return cot__fail_memory(err, sizeof *t);
    cot_status s = cot__kernels_get(&t->kernels, err);
    if (s == COT_OK) s = cot__file_open(&f, path, err);
    if (s == COT_OK) s = read_header(t, f, err);
    if (s == COT_OK) s = check_use(t, path, vocabulary, banks, experts, err);
    if (s == COT_OK) s = read_weights(t, f, err);
    cot__file_close(&f);
    if (s != COT_OK) cot__trained_close(&t);
    else *out = t;
    return s;
}

void cot__trained_close(cot__trained **trained) {
    if (!trained || !*trained) return;
    cot__free((*trained)->weights);
    cot__free((*trained)->block);
    cot__free(*trained);
    *trained = NULL;
}

int cot__trained_experts(const cot__trained *t) { return t->dim[EXPERTS]; }
int cot__trained_context(const cot__trained *t) { return t->dim[CONTEXT]; }

size_t cot__trained_forecast_bytes(const cot__trained *t) {
    return (size_t)t->dim[BANKS] * (size_t)t->dim[EXPERTS] * sizeof(float);
}

/* State, normed, q, k, v and four times the width between; attention's weights; the head's rows. */
size_t cot__trained_scratch(const cot__trained *t) {
    size_t n = (size_t)t->dim[CONTEXT];
    return (n * (size_t)t->dim[WIDTH] * 9 + n) * sizeof(float) + cot__trained_forecast_bytes(t);
}

/* ---- evaluation ---- */

static void linear(const cot__trained *t, const float *w, int rows, int cols, const float *x, int n,
                   float *out) {
    cot_view v = cot__view_make(w, COT_F32, rows, cols);
    t->kernels->gemm_f32[cot__kernel_slot(COT_F32)](&v, 0, rows, x, (size_t)cols * sizeof *x, NULL, n, out,
                                                    (size_t)rows);
}

static void norm(const cot__trained *t, const float *w, const float *x, int n, float *out) {
    size_t cols = (size_t)t->dim[WIDTH];
    for (size_t i = 0; i < (size_t)n; i++)
        t->kernels->rms_norm(out + i * cols, x + i * cols, w, t->dim[WIDTH], COT__TRAINED_EPS);
}

/* Position `at` looks at itself and those before it. */
static void attend(const cot__trained *t, const float *q, const float *k, const float *v, int at,
                   float *weight, float *out) {
    int width = t->dim[WIDTH], each = width / t->dim[HEADS];
    float scale = 1 / sqrtf((float)each);
    memset(out, 0, (size_t)width * sizeof *out);
    for (int h = 0; h < width; h += each) {
        for (int j = 0; j <= at; j++)
            weight[j] = scale * t->kernels->dot_f32(q + h, k + (size_t)j * (size_t)width + h, each);
        t->kernels->softmax(weight, at + 1);
        for (int j = 0; j <= at; j++)
            t->kernels->add_scaled(out + h, v + (size_t)j * (size_t)width + h, weight[j], each);
    }
}

void cot__trained_forecast(const cot__trained *t, const int32_t *tokens, int n, float *scratch,
                           float *probability) {
    const cot_kernels *kernels = t->kernels;
    int width = t->dim[WIDTH], heads = t->dim[BANKS] * t->dim[EXPERTS];
    if (n > t->dim[CONTEXT]) tokens += n - t->dim[CONTEXT], n = t->dim[CONTEXT];
    size_t cols = (size_t)width, all = (size_t)n * cols;
    float *x = scratch, *h = x + all, *q = h + all, *k = q + all, *v = k + all, *wide = v + all,
          *weight = wide + 4 * all, *y = weight + n;
    for (int i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= t->dim[VOCABULARY]) return; /* it knows nothing of these */
    if (n < 1) return;
    for (int i = 0; i < n; i++)
        memcpy(x + (size_t)i * cols, t->embedding + (size_t)tokens[i] * cols, cols * sizeof *x);
    for (int b = 0; b < t->dim[DEPTH]; b++) {
        const block *w = &t->block[b];
        int from = b + 1 == t->dim[DEPTH] ? n - 1 : 0, rows = n - from; /* at last, the last one alone */
        float *mine = x + (size_t)from * cols;
        norm(t, w->norm[0], x, n, h);
        linear(t, w->square[0], width, width, h + (size_t)from * cols, rows, q);
        linear(t, w->square[1], width, width, h, n, k);
        linear(t, w->square[2], width, width, h, n, v);
        for (int i = 0; i < rows; i++)
            attend(t, q + (size_t)i * cols, k, v, from + i, weight, h + (size_t)i * cols);
        linear(t, w->square[3], width, width, h, rows, q);
        kernels->add(mine, q, (int64_t)rows * width);
        norm(t, w->norm[1], mine, rows, h);
        linear(t, w->up, 4 * width, width, h, rows, wide);
        kernels->glu(COT_GLU_SILU, wide, wide, NULL, (int64_t)rows * 4 * width, 0, 0);
        linear(t, w->down, width, 4 * width, wide, rows, h);
        kernels->add(mine, h, (int64_t)rows * width);
    }
    norm(t, t->norm, x + (size_t)(n - 1) * cols, 1, h);
    linear(t, t->head, heads, width, h, 1, y);
    for (int i = 0; i < heads; i++) { /* one row or another wants it */
        float p = 1 / (1 + expf(-y[i]));
        probability[i] += p - probability[i] * p;
    }
}
