/* Golden cases for tests: tests/golden/<case>/hf with the reference's logits (transformers, or the oracle of
 * tools/golden). Header only; include it after cmocka.h. Tests run in the source folder. */
#ifndef COT_TESTS_GOLDEN_H
#define COT_TESTS_GOLDEN_H

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <coterie/session.h>

#include "base/file.h"
#include "base/json.h"
#include "temp.h"

enum { GOLDEN_TOKENS = 256, GOLDEN_CASES = 64 };
static const double GOLDEN_TOLERANCE = 1e-4;

typedef struct golden_case {
    char name[64], folder[128],
        arch[160];              /* arch: the family's description where it is not built in, or "" */
    int32_t ids[GOLDEN_TOKENS]; /* the prompt, then the greedy continuation */
    int n_prompt, n_greedy;
    float *logits; /* n_prompt × n_vocab */
    int64_t n_vocab;
} golden_case;

static char golden_names[GOLDEN_CASES][64];
static int golden_count;

static int golden_compare_names(const void *a, const void *b) { return strcmp(a, b); }

static inline void golden_list(void) {
    DIR *d = opendir("tests/golden");
    assert_non_null(d);
    golden_count = 0;
    for (struct dirent *e; (e = readdir(d)) != NULL && golden_count < GOLDEN_CASES;) {
        char path[400];
        snprintf(path, sizeof path, "tests/golden/%.63s/tokens.json", e->d_name);
        if (e->d_name[0] != '.' && cot__path_exists(path))
            snprintf(golden_names[golden_count++], 64, "%.63s", e->d_name);
    }
    closedir(d);
    qsort(golden_names, (size_t)golden_count, sizeof golden_names[0], golden_compare_names);
    assert_true(golden_count > 0);
}

static inline void golden_open(golden_case *g, const char *name) {
    char path[300], *text;
    size_t n;
    cot_error err;
    json_t *root;
    memset(g, 0, sizeof *g);
    snprintf(g->name, sizeof g->name, "%.63s", name);
    snprintf(g->folder, sizeof g->folder, "tests/golden/%.63s", name);
    snprintf(g->arch, sizeof g->arch, "%s/arch.json", g->folder);
    if (!cot__path_exists(g->arch)) g->arch[0] = 0;
    snprintf(path, sizeof path, "%s/tokens.json", g->folder);
    assert_int_equal(cot__json_load(&root, path, 1 << 20, &err), COT_OK);
    const json_t *prompt = json_object_get(root, "prompt"), *greedy = json_object_get(root, "greedy");
    g->n_prompt = (int)json_array_size(prompt);
    g->n_greedy = (int)json_array_size(greedy);
    assert_true(g->n_prompt > 0 && g->n_prompt + g->n_greedy <= GOLDEN_TOKENS);
    for (int i = 0; i < g->n_prompt; i++)
        g->ids[i] = (int32_t)json_integer_value(json_array_get(prompt, (size_t)i));
    for (int i = 0; i < g->n_greedy; i++)
        g->ids[g->n_prompt + i] = (int32_t)json_integer_value(json_array_get(greedy, (size_t)i));
    json_decref(root);
    snprintf(path, sizeof path, "%s/logits.npy", g->folder);
    assert_int_equal(cot__file_slurp(path, 64 << 20, &text, &n, &err), COT_OK);
    const char *shape = strstr(text + 10, "'shape': (");
    int rows;
    long long cols;
    assert_true(n > 128 && shape && sscanf(shape, "'shape': (%d, %lld)", &rows, &cols) == 2);
    size_t head = 10 + (unsigned char)text[8] + 256u * (unsigned char)text[9];
    assert_int_equal(rows, g->n_prompt);
    assert_true(n == head + (size_t)rows * (size_t)cols * 4);
    g->n_vocab = cols;
    g->logits = malloc((size_t)rows * (size_t)cols * 4);
    assert_non_null(g->logits);
    memcpy(g->logits, text + head, (size_t)rows * (size_t)cols * 4);
    cot_free(text);
}

static inline const char *golden_arch(const golden_case *g) { return g->arch[0] ? g->arch : NULL; }

static inline void golden_close(golden_case *g) { free(g->logits); }

/* How a run computes what must be the same. */
typedef enum golden_way {
    GOLDEN_WHOLE,             /* the prompt in one call */
    GOLDEN_STEPS,             /* a token a call */
    GOLDEN_CHUNKS,            /* calls of 1, 2, 3, … rows */
    GOLDEN_BATCHED,           /* in sequence 1, beside another sequence of other tokens */
    GOLDEN_GENERATED_BATCHED, /* as the next, beside another sequence */
    GOLDEN_GENERATED,         /* after half a prompt, a token a call as if generated */
} golden_way;

typedef struct golden_run {
    const char *path, *arch_file;
    cot_activation act;
    cot_type kv;
    int threads, experts_used;
    golden_way way;
    cot_residency residency;
    const char *retention, *predict;
    double share; /* of all experts in the cache beyond the smallest budget, 0…1; −1: the budget is not set */
    cot_residency_info *info; /* gets the figures, or NULL */
} golden_run;

typedef struct golden_rows {
    float *out;
    int64_t n_vocab;
    size_t at;
    int32_t want; /* rows of this sequence only */
    const cot_row *rows;
} golden_rows;

static inline bool golden_take(void *user, size_t row, const float *logits, int64_t n_vocab) {
    golden_rows *g = user;
    if (g->rows[row].sequence != g->want || n_vocab != g->n_vocab) return n_vocab == g->n_vocab;
    memcpy(g->out + g->at++ * (size_t)n_vocab, logits, (size_t)n_vocab * sizeof *logits);
    return true;
}

static inline bool golden_batched(golden_way way) {
    return way == GOLDEN_BATCHED || way == GOLDEN_GENERATED_BATCHED;
}

/* Logits (n × n_vocab, to be freed) of ids; NULL and *err when the model does not open or run. */
static inline float *golden_logits(const golden_run *r, const int32_t *ids, int n, int64_t n_vocab,
                                   cot_error *err) {
    cot_model *m = NULL;
    cot_session *s = NULL;
    cot_model_options mo;
    cot_session_options so;
    cot_row rows[2 * GOLDEN_TOKENS];
    cot_model_defaults(&mo);
    cot_session_defaults(&so);
    mo.arch_file = r->arch_file;
    mo.residency = r->residency;
    mo.retention = r->retention;
    mo.predict = r->predict;
    so.n_threads = r->threads ? r->threads : 1;
    so.kv_type = r->kv;
    so.activation = r->act;
    so.experts_used = r->experts_used;
    so.n_sequences = golden_batched(r->way) ? 2 : 1;
    so.n_ctx = n; /* LongRoPE's factors are chosen by it */
    if (cot_model_open(&m, r->path, &mo, err) != COT_OK) return NULL;
    float *out = calloc((size_t)n * (size_t)n_vocab, sizeof *out);
    assert_non_null(out);
    golden_rows take = {out, n_vocab, 0, golden_batched(r->way), rows};
    cot_status st = cot_session_create(&s, m, &so, err);
    if (st == COT_OK && r->residency >= COT_RESIDENCY_STREAM && r->share >= 0) {
        cot_residency_info i = {.struct_size = sizeof i};
        st = cot_model_get_residency(m, -1, &i, err);
        if (st == COT_OK)
            st = cot_model_set_memory(m, i.smallest + (uint64_t)(r->share * (double)i.expert_total), err);
    }
    int step = 1;
    for (int i = 0; st == COT_OK && i < n; i += step) {
        bool made = r->way >= GOLDEN_GENERATED_BATCHED && i >= n / 2;
        step = r->way == GOLDEN_STEPS || made       ? 1
               : r->way >= GOLDEN_GENERATED_BATCHED ? n / 2
               : r->way == GOLDEN_CHUNKS            ? (i ? step + 1 : 1)
                                                    : n;
        if (step > n - i) step = n - i;
        int k = 0;
        for (int j = 0; j < step && golden_batched(r->way); j++)
            rows[k++] =
                (cot_row){ids[(j * 7 + 3) % n], 0, made ? COT_ROLE_GENERATED : COT_ROLE_PROMPT, j % 2 == 0};
        for (int j = 0; j < step; j++)
            rows[k++] = (cot_row){ids[i + j], golden_batched(r->way),
                                  made ? COT_ROLE_GENERATED : COT_ROLE_PROMPT, true};
        st = cot_forward(s, rows, (size_t)k, golden_take, &take, err);
    }
    if (st == COT_OK && r->info) st = cot_model_get_residency(m, -1, r->info, err);
    cot_session_free(&s);
    cot_model_close(&m);
    if (st == COT_OK && take.at == (size_t)n) return out;
    free(out);
    return NULL;
}

/* max |a − b| / max |b|; a NaN anywhere is infinitely far. */
static inline double golden_distance(const float *a, const float *b, size_t n) {
    double diff = 0, most = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(a[i]) || isnan(b[i])) return INFINITY;
        double d = fabs((double)a[i] - (double)b[i]), m = fabs((double)b[i]);
        diff = d > diff ? d : diff;
        most = m > most ? m : most;
    }
    return most > 0 ? diff / most : diff;
}

/* A fresh folder under the temporary one; the caller removes it with golden_remove. */
static inline void golden_temp(char out[64]) {
    snprintf(out, 64, "%.40s/coterie-test-XXXXXX", temp_root());
    assert_non_null(mkdtemp(out));
}

static inline void golden_remove(const char *dir) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        char path[400];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        snprintf(path, sizeof path, "%.100s/%.255s", dir, e->d_name);
        struct stat st;
        if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode)) golden_remove(path);
        else unlink(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}

#endif
