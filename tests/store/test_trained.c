/* Trained predictors: the evaluator against a plain one in double precision, files that lie, and a replay in
 * which one knows what comes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <coterie/replay.h>

#include "base/hash.h"
#include "store/predict.h"
#include "temp.h"
#include "torture.h"
#include "trained_file.h"

static char path[80];

static int name_it(void **state) {
    (void)state;
    snprintf(path, sizeof path, "%.40s/coterie-trained-%d.rpp", temp_root(), (int)getpid());
    return 0;
}
static int drop(void **state) {
    (void)state;
    unlink(path);
    return 0;
}

static float *random_weights(const trained_shape *s, uint64_t seed) {
    size_t n = trained_floats(s);
    float *w = malloc(n * sizeof *w);
    assert_non_null(w);
    for (size_t i = 0; i < n; i++) w[i] = ((float)cot__random_unit(seed, 1, i, 0) - 0.5f) * 1.5f;
    return w;
}

/* ---- the plain evaluation ---- */

static void times(const float *w, size_t rows, size_t cols, const double *x, double *y) {
    for (size_t r = 0; r < rows; r++) {
        y[r] = 0;
        for (size_t c = 0; c < cols; c++) y[r] += (double)w[r * cols + c] * x[c];
    }
}

static void normed(const float *w, size_t n, const double *x, double *y) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i] * x[i];
    for (size_t i = 0; i < n; i++) y[i] = x[i] / sqrt(sum / (double)n + 1e-6) * (double)w[i];
}

enum { MOST_CONTEXT = 12, MOST_WIDTH = 32 };

static void plain_block(const float *w, size_t d, size_t heads, int n, double x[][MOST_WIDTH]) {
    const float *norm1 = w, *q = w + d, *k = q + d * d, *v = k + d * d, *o = v + d * d, *norm2 = o + d * d,
                *up = norm2 + d, *down = up + 4 * d * d;
    double h[MOST_WIDTH], Q[MOST_CONTEXT][MOST_WIDTH], K[MOST_CONTEXT][MOST_WIDTH],
        V[MOST_CONTEXT][MOST_WIDTH], wide[4 * MOST_WIDTH], out[MOST_WIDTH];
    size_t each = d / heads;
    for (int i = 0; i < n; i++) {
        normed(norm1, d, x[i], h);
        times(q, d, d, h, Q[i]), times(k, d, d, h, K[i]), times(v, d, d, h, V[i]);
    }
    for (int i = 0; i < n; i++) {
        memset(h, 0, sizeof h);
        for (size_t at = 0; at < d; at += each) {
            double e[MOST_CONTEXT], sum = 0;
            for (int j = 0; j <= i; j++) {
                double z = 0;
                for (size_t c = at; c < at + each; c++) z += Q[i][c] * K[j][c];
                sum += e[j] = exp(z / sqrt((double)each));
            }
            for (int j = 0; j <= i; j++)
                for (size_t c = at; c < at + each; c++) h[c] += e[j] / sum * V[j][c];
        }
        times(o, d, d, h, out);
        for (size_t c = 0; c < d; c++) x[i][c] += out[c];
        normed(norm2, d, x[i], h);
        times(up, 4 * d, d, h, wide);
        for (size_t c = 0; c < 4 * d; c++) wide[c] /= 1 + exp(-wide[c]);
        times(down, d, 4 * d, wide, out);
        for (size_t c = 0; c < d; c++) x[i][c] += out[c];
    }
}

static void plain(const trained_shape *s, const float *w, const int32_t *tokens, int n, double *p) {
    double x[MOST_CONTEXT][MOST_WIDTH], h[MOST_WIDTH];
    size_t d = s->width;
    if (n > (int)s->context) tokens += n - (int)s->context, n = (int)s->context;
    for (int i = 0; i < n; i++)
        for (size_t c = 0; c < d; c++) x[i][c] = (double)w[(size_t)tokens[i] * d + c];
    for (uint32_t b = 0; b < s->depth; b++)
        plain_block(w + s->vocabulary * d + b * (2 * d + 12 * d * d), d, s->heads, n, x);
    normed(w + trained_head_at(s) - d, d, x[n - 1], h);
    times(w + trained_head_at(s), (size_t)s->banks * s->experts, d, h, p);
    for (size_t i = 0; i < (size_t)s->banks * s->experts; i++) p[i] = 1 / (1 + exp(-p[i]));
}

static void as_in_double_precision(void **state) {
    static const trained_shape shapes[] = {{11, 8, 0, 1, 2, 5, 4},  {11, 8, 1, 1, 1, 3, 1},
                                           {7, 12, 1, 3, 2, 5, 6},  {19, 32, 2, 4, 3, 7, 12},
                                           {19, 20, 3, 5, 1, 9, 9}, {5, 1, 2, 1, 1, 1, 3}};
    (void)state;
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        const trained_shape *s = &shapes[k];
        float *w = random_weights(s, k + 1);
        cot__trained *t = NULL;
        cot_error err = {0};
        size_t outs = (size_t)s->banks * s->experts;
        double want[64];
        float have[64];
        trained_write(path, s, w, trained_floats(s));
        if (cot__trained_open(&t, path, s->vocabulary, (int)s->banks, (int)s->experts, &err) != COT_OK)
            fail_msg("%s", err.message);
        assert_int_equal(cot__trained_context(t), s->context);
        assert_int_equal(cot__trained_experts(t), s->experts);
        assert_int_equal(cot__trained_forecast_bytes(t), outs * 4);
        float *scratch = malloc(cot__trained_scratch(t)); /* a sanitizer sees one that is too small */
        for (int n = 1; n < 20; n++) {
            int32_t tokens[20];
            for (int i = 0; i < n; i++)
                tokens[i] = (int32_t)(cot__random_u64(k, 2, (uint64_t)n, (uint64_t)i) % s->vocabulary);
            memset(have, 0, sizeof have);
            cot__trained_forecast(t, tokens, n, scratch, have);
            plain(s, w, tokens, n, want);
            for (size_t i = 0; i < outs; i++)
                if (!(fabs((double)have[i] - want[i]) < 1e-4))
                    fail_msg("shape %zu, %d ids: output %zu is %g, not %g", k, n, i, (double)have[i],
                             want[i]);
            /* A second row: either may want it. Unknown ids say nothing. */
            cot__trained_forecast(t, tokens, n, scratch, have);
            tokens[n - 1] = (int32_t)s->vocabulary;
            cot__trained_forecast(t, tokens, n, scratch, have);
            cot__trained_forecast(t, tokens, 0, scratch, have);
            for (size_t i = 0; i < outs; i++)
                assert_true(fabs((double)have[i] - (1 - (1 - want[i]) * (1 - want[i]))) < 2e-4);
        }
        free(scratch);
        free(w);
        cot__trained_close(&t);
        assert_null(t);
    }
}

/* ---- files that lie ---- */

static const trained_shape good = {6, 4, 1, 2, 2, 3, 5};

static void refused(int64_t vocabulary, int banks, int experts, cot_status status, const char *field,
                    const char *text) {
    cot__trained *t = NULL;
    cot_error err = {0};
    char start[128];
    cot_status s = cot__trained_open(&t, path, vocabulary, banks, experts, &err);
    snprintf(start, sizeof start, "%s: %s: ", path, field);
    if (s != status || strncmp(err.message, start, strlen(start)) != 0 || !strstr(err.message, text))
        fail_msg("status %d, not %d of %s, \"%s\": %s", s, status, field, text, err.message);
    assert_null(t);
}

static void damage_is_refused(void **state) {
    static const struct {
        int field;
        uint32_t value;
        const char *name;
    } wrong[] = {{0, 0, "vocabulary"}, {0, (1 << 24) + 1, "vocabulary"},
                 {1, 0, "width"},      {1, 8193, "width"},
                 {2, 65, "depth"},     {2, UINT32_MAX, "depth"},
                 {3, 0, "heads"},      {3, 1025, "heads"},
                 {4, 0, "banks"},      {4, 4097, "banks"},
                 {5, 0, "experts"},    {5, 65537, "experts"},
                 {6, 0, "context"},    {6, 1025, "context"}};
    static const char *const names[] = {"embedding", "attention norm",    "q",  "k",    "v",
                                        "o",         "feed-forward norm", "up", "down", "final norm",
                                        "head"};
    (void)state;
    float *w = random_weights(&good, 3);
    size_t n = trained_floats(&good), d = good.width, at = 0;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        uint32_t h[7];
        trained_shape bad;
        memcpy(h, &good, sizeof h);
        h[wrong[i].field] = wrong[i].value;
        memcpy(&bad, h, sizeof bad);
        trained_write(path, &bad, w, n);
        refused(6, 2, 3, COT_FORMAT, wrong[i].name, "train it again");
    }
    trained_shape bad = good;
    bad.heads = 3;
    trained_write(path, &bad, w, n);
    refused(6, 2, 3, COT_FORMAT, "heads", "3 do not divide the width 4");
    /* The largest of all numbers: no file is as long. */
    bad = (trained_shape){1 << 24, 8192, 64, 1, 4096, 65536, 1024};
    trained_write(path, &bad, w, n);
    refused(1 << 24, 4096, 65536, COT_FORMAT, "size", "copy or train it again");
    trained_write(path, &good, w, n - 1);
    refused(6, 2, 3, COT_FORMAT, "size", "copy or train it again");
    trained_write(path, &good, w, 0);
    refused(6, 2, 3, COT_FORMAT, "size", "copy or train it again");
    w = realloc(w, (n + 1) * sizeof *w);
    w[n] = 1;
    trained_write(path, &good, w, n + 1);
    refused(6, 2, 3, COT_FORMAT, "size", "4 bytes follow the last tensor");
    const size_t sizes[] = {6 * d, d, d * d, d * d, d * d, d * d, d, 4 * d * d, 4 * d * d, d, 6 * d};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; at += sizes[i++])
        for (int last = 0; last < 2; last++) {
            float *one = &w[last ? at + sizes[i] - 1 : at], before = *one;
            *one = last ? NAN : -INFINITY;
            trained_write(path, &good, w, n);
            refused(6, 2, 3, COT_FORMAT, names[i], "is not finite");
            *one = before;
        }
    assert_int_equal(at, n);
    trained_write(path, &good, w, n);
    refused(7, 2, 3, COT_ARGUMENT, "vocabulary", "is 6, here 7 are needed");
    refused(6, 1, 3, COT_ARGUMENT, "banks", "are 2, here 1 are needed");
    refused(6, 2, 4, COT_ARGUMENT, "experts", "are 3, here 4 are needed");
    refused(6, 2, 2, COT_ARGUMENT, "experts", "are 3, here 2 are needed");
    refused(0, 2, 4, COT_ARGUMENT, "experts", "are 3, here 4 are needed");
    cot__trained *t = NULL;
    assert_int_equal(cot__trained_open(&t, path, 0, 2, 2, NULL), COT_OK); /* a trace knows no more */
    cot__trained_close(&t);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, 7, SEEK_SET);
    fputc(2, f); /* another version */
    fclose(f);
    refused(6, 2, 3, COT_FORMAT, "magic", "no trained predictor of version 1");
    assert_int_equal(truncate(path, 35), 0);
    refused(6, 2, 3, COT_FORMAT, "header", "35 bytes");
    unlink(path);
    cot_error err = {0};
    assert_int_equal(cot__trained_open(&t, path, 6, 2, 3, &err), COT_NOT_FOUND);
    assert_non_null(strstr(err.message, path));
    free(w);
}

static void what_fails_is_an_error(void **state) {
    (void)state;
    float *w = random_weights(&good, 3);
    trained_write(path, &good, w, trained_floats(&good));
    free(w);
#define OPEN                                                                                                 \
    {                                                                                                        \
        cot__trained *t = NULL;                                                                              \
        cot_error err = {0};                                                                                 \
        COT_TORTURE_RESULT(cot__trained_open(&t, path, 6, 2, 3, &err));                                      \
        cot__trained_close(&t);                                                                              \
    }
    COT_TORTURE(COT__FAULT_ALLOC, OPEN);
    COT_TORTURE(COT__FAULT_READ, OPEN);
}

/* ---- replay ---- */

/* What comes follows from the present id, and the file knows how: embedding one-hot, no block, the head the
 * table. `sign` −1: it says the opposite. */
enum { IDS = 24, SITES = 3, SITE_EXPERTS = 32 };

static int choice(int token, int site, int i) { return (token * 7 + site * 11 + i * 5) % SITE_EXPERTS; }

static void table(float sign) {
    trained_shape s = {IDS, IDS, 0, 1, SITES, SITE_EXPERTS, 4};
    float *w = calloc(trained_floats(&s), sizeof *w);
    size_t head = trained_head_at(&s);
    for (size_t t = 0; t < IDS; t++) w[t * IDS + t] = 1, w[head - IDS + t] = 1;
    for (size_t i = head; i < trained_floats(&s); i++) w[i] = -sign * 2;
    for (int t = 0; t < IDS; t++)
        for (int site = 0; site < SITES; site++)
            for (int i = 0; i < 3; i++)
                w[head + (size_t)((site * SITE_EXPERTS + choice(t, site, i)) * IDS + t)] = sign * 2;
    trained_write(path, &s, w, trained_floats(&s));
    free(w);
}

static cot_replay_result play(const cot_trace *t, const char *predict) {
    cot_replay_options o;
    cot_replay_result r;
    cot_error err;
    cot_replay_defaults(&o);
    o.predict = predict;
    o.capacity = 0.2;
    o.ahead = 3;
    if (cot_replay(t, &o, &r, &err) != COT_OK) fail_msg("%s", err.message);
    return r;
}

static void replay_takes_it(void **state) {
    (void)state;
    char trace[100];
    cot_trace *t = NULL;
    cot_error err = {0};
    snprintf(trace, sizeof trace, "%s.jsonl", path);
    FILE *f = fopen(trace, "w");
    assert_non_null(f);
    for (int p = 0; p < 400; p++)
        for (int site = 0, token = (int)(cot__random_u64(5, 1, (uint64_t)p, 0) % IDS); site < SITES; site++)
            fprintf(f,
                    "{\"sequence\": %d, \"pass\": %d, \"token\": %d, \"site\": %d, \"n_experts\": %d, "
                    "\"experts\": [%d, %d, %d]}\n",
                    p / 150, p, token, site, SITE_EXPERTS, choice(token, site, 0), choice(token, site, 1),
                    choice(token, site, 2));
    fclose(f);
    if (cot_trace_open(&t, trace, &err) != COT_OK) fail_msg("%s", err.message);
    unlink(trace);
    cot_replay_result none = play(t, "none");
    table(1);
    cot_replay_result told = play(t, path);
    assert_true(none.hits < none.accesses / 2);
    assert_true(told.hits > told.accesses * 98 / 100 && told.hinted_used > told.hinted * 98 / 100);
    table(-1);
    cot_replay_result misled = play(t, path);
    assert_true(misled.hinted > 100 && misled.hinted_used < misled.hinted / 10);
    cot_replay_options o;
    cot_replay_defaults(&o);
    o.predict = path;
    trained_write(path, &good, (float[]){0}, 0);
    assert_int_equal(cot_replay(t, &o, &none, &err), COT_ARGUMENT);
    assert_non_null(strstr(err.message, "banks: are 2, here 3 are needed"));
    table(1);
    COT_TORTURE(COT__FAULT_ALLOC, { COT_TORTURE_RESULT(cot_replay(t, &o, &none, &err)); });
    o.predict = "trained"; /* is no file */
    assert_int_equal(cot_replay(t, &o, &none, &err), COT_ARGUMENT);
    assert_non_null(strstr(err.message, "FILE.rpp"));
    cot_trace_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_in_double_precision),
        cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(what_fails_is_an_error),
        cmocka_unit_test(replay_takes_it),
    };
    return cmocka_run_group_tests(tests, name_it, drop);
}
