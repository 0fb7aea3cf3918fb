/* A file of random experts for tests of leases: stacks of gate and up that touch, a down apart, F32. Header
 * only; include it after cmocka.h. */
#ifndef COT_TESTS_STORE_BANK_H
#define COT_TESTS_STORE_BANK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/hash.h"
#include "format/safetensors.h"
#include "store/store.h"

enum { BANK_LAYERS = 4, BANK_EXPERTS = 12 };

typedef struct bank_file {
    char dir[64];
    int64_t d, f; /* width of rows, of experts */
    cot__tensor_set *set;
    float *truth; /* all values in the order of the file */
    size_t n;
} bank_file;

static inline float bank_value(uint64_t i) { return (float)cot__random_unit(7, 1, i, 0) - 0.5f; }

static inline void bank_make(bank_file *b, int64_t d, int64_t f) {
    static const char *const parts[] = {"gate", "up", "down"};
    cot__st_writer *w = NULL;
    cot_error err = {0};
    *b = (bank_file){.d = d, .f = f};
    snprintf(b->dir, sizeof b->dir, "/tmp/coterie-bank-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    assert_int_equal(cot__st_writer_open(&w, b->dir, 0, &err), COT_OK);
    for (int l = 0; l < BANK_LAYERS; l++)
        for (int p = 0; p < 3; p++) {
            char name[32];
            int64_t dims[3] = {p == 2 ? f : d, p == 2 ? d : f, BANK_EXPERTS};
            snprintf(name, sizeof name, "%d.%s", l, parts[p]);
            assert_int_equal(cot__st_put_tensor(w, name, COT_F32, 3, dims, &err), COT_OK);
        }
    b->n = (size_t)(BANK_LAYERS * 3 * d * f * BANK_EXPERTS);
    b->truth = malloc(b->n * sizeof(float));
    for (size_t i = 0; i < b->n; i++) b->truth[i] = bank_value(i);
    assert_int_equal(cot__st_writer_begin(w, &err), COT_OK);
    assert_int_equal(cot__st_writer_data(w, b->truth, b->n * sizeof(float), &err), COT_OK);
    assert_int_equal(cot__st_writer_finish(&w, &err), COT_OK);
    assert_int_equal(cot__safetensors_open(&b->set, b->dir, &err), COT_OK);
}

static inline void bank_path(const bank_file *b, char out[128]) {
    snprintf(out, 128, "%s/model.safetensors", b->dir);
}

static inline void bank_remove(bank_file *b) {
    char path[128];
    cot__tensors_close(&b->set);
    bank_path(b, path);
    unlink(path);
    rmdir(b->dir);
    free(b->truth);
}

/* Registers all layers; bank l is layer l. */
static inline cot_status bank_bind(const bank_file *b, cot__store *s, cot_error *err) {
    static const char *const parts[] = {"gate", "up", "down"};
    for (int l = 0; l < BANK_LAYERS; l++) {
        cot__expert e[BANK_EXPERTS] = {{{{0}}}};
        for (int p = 0; p < 3; p++) {
            char name[32];
            const void *at;
            snprintf(name, sizeof name, "%d.%s", l, parts[p]);
            const cot__tensor *t = cot__tensors_find(b->set, name);
            COT_TRY(cot__store_name(s, t, &at, err));
            for (int i = 0; i < BANK_EXPERTS; i++)
                e[i].part[p] = cot__view_make((const char *)at + (size_t)i * (size_t)(b->d * b->f) * 4,
                                              COT_F32, p == 2 ? b->d : b->f, p == 2 ? b->f : b->d);
        }
        int number;
        COT_TRY(cot__store_add_bank(s, e, NULL, BANK_EXPERTS, &number, err));
        assert_int_equal(number, l);
    }
    return COT_OK;
}

/* Whether a leased expert's bytes are the file's. */
static inline bool bank_right(const bank_file *b, int layer, int id, const cot__expert *e) {
    size_t one = (size_t)(b->d * b->f);
    for (int p = 0; p < 3; p++) {
        const float *want = b->truth + (((size_t)layer * 3 + (size_t)p) * BANK_EXPERTS + (size_t)id) * one;
        if (!e->part[p].data || memcmp(e->part[p].data, want, one * sizeof(float)) != 0) return false;
    }
    return true;
}

#endif
