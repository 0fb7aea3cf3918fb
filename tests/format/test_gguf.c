/* GGUF written and read back: every value type, every number format, keys copied from file to file, misuse
 * refused, and every allocation and write failing in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "format/gguf.h"
#include "torture.h"
#include "temp.h"

static char folder[64], path[96], copy[96];

static int make_folder(void **state) {
    snprintf(folder, sizeof folder, "%.40s/coterie-gguf-XXXXXX", temp_root());
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/a.gguf", folder);
    snprintf(copy, sizeof copy, "%s/b.gguf", folder);
    return 0;
}

static int remove_folder(void **state) {
    unlink(path);
    unlink(copy);
    return rmdir(folder); /* fails when a temporary file was left behind */
}

#define OK(call)                                                                                             \
    do {                                                                                                     \
        cot_error ok_err = {0};                                                                              \
        cot_error *err = &ok_err;                                                                            \
        if ((call) != COT_OK) fail_msg("%s", ok_err.message);                                                \
    } while (0)

static const int32_t numbers[] = {-7, 0, INT32_MAX};
static const double reals[] = {1.5, -2.25e300};
static const cot__gguf_str words[] = {{"alpha", 5}, {"", 0}, {"a\0b", 3}, {"\xff\xfe", 2}};

static cot_status put_values(cot__gguf_writer *w, cot_error *err) {
    cot_status s = cot__gguf_put_str(w, "general.architecture", "test", 4, err);
    if (s == COT_OK) s = cot__gguf_put_int(w, "v.u8", COT_GGUF_U8, 255, err);
    if (s == COT_OK) s = cot__gguf_put_int(w, "v.i8", COT_GGUF_I8, -128, err);
    if (s == COT_OK) s = cot__gguf_put_int(w, "v.u16", COT_GGUF_U16, 65535, err);
    if (s == COT_OK) s = cot__gguf_put_int(w, "v.i16", COT_GGUF_I16, -32768, err);
    if (s == COT_OK) s = cot__gguf_put_int(w, "v.u32", COT_GGUF_U32, UINT32_MAX, err);
    if (s == COT_OK) s = cot__gguf_put_int(w, "v.i32", COT_GGUF_I32, INT32_MIN, err);
    if (s == COT_OK) s = cot__gguf_put_f64(w, "v.f32", COT_GGUF_F32, 0.1, err);
    if (s == COT_OK) s = cot__gguf_put_int(w, "v.bool", COT_GGUF_BOOL, 1, err);
    if (s == COT_OK) s = cot__gguf_put_int(w, "v.u64", COT_GGUF_U64, INT64_MAX, err);
    if (s == COT_OK) s = cot__gguf_put_int(w, "v.i64", COT_GGUF_I64, INT64_MIN, err);
    if (s == COT_OK) s = cot__gguf_put_f64(w, "v.f64", COT_GGUF_F64, 0.1, err);
    if (s == COT_OK) s = cot__gguf_put_array(w, "a.i32", COT_GGUF_I32, numbers, 3, err);
    if (s == COT_OK) s = cot__gguf_put_array(w, "a.f64", COT_GGUF_F64, reals, 2, err);
    if (s == COT_OK) s = cot__gguf_put_array(w, "a.str", COT_GGUF_STRING, words, 4, err);
    if (s == COT_OK) s = cot__gguf_put_array(w, "a.empty", COT_GGUF_U8, "", 0, err);
    return s;
}

static void check_int(const cot__gguf *g, const char *key, cot__gguf_type type, int64_t want) {
    const cot__gguf_kv *kv = cot__gguf_find(g, key);
    int64_t v = 0;
    assert_non_null(kv);
    assert_int_equal(kv->type, type);
    assert_true(cot__gguf_int(kv, 0, &v));
    assert_true(v == want);
}

static void check_values(const cot__gguf *g) {
    check_int(g, "v.u8", COT_GGUF_U8, 255);
    check_int(g, "v.i8", COT_GGUF_I8, -128);
    check_int(g, "v.u16", COT_GGUF_U16, 65535);
    check_int(g, "v.i16", COT_GGUF_I16, -32768);
    check_int(g, "v.u32", COT_GGUF_U32, UINT32_MAX);
    check_int(g, "v.i32", COT_GGUF_I32, INT32_MIN);
    check_int(g, "v.bool", COT_GGUF_BOOL, 1);
    check_int(g, "v.u64", COT_GGUF_U64, INT64_MAX);
    check_int(g, "v.i64", COT_GGUF_I64, INT64_MIN);
    double f = 0;
    assert_true(cot__gguf_f64(cot__gguf_find(g, "v.f32"), 0, &f));
    assert_true(f == (double)0.1f);
    assert_true(cot__gguf_f64(cot__gguf_find(g, "v.f64"), 0, &f));
    assert_true(f == 0.1);
    const cot__gguf_kv *a = cot__gguf_find(g, "a.i32"), *s = cot__gguf_find(g, "a.str"),
                       *e = cot__gguf_find(g, "a.empty");
    assert_int_equal(a->count, 3);
    for (uint64_t i = 0; i < 3; i++) {
        int64_t v = 0;
        assert_true(cot__gguf_int(a, i, &v));
        assert_int_equal(v, numbers[i]);
    }
    assert_true(cot__gguf_f64(cot__gguf_find(g, "a.f64"), 1, &f));
    assert_true(f == reals[1]);
    assert_int_equal(s->count, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(s->strs[i].len, words[i].len);
        assert_memory_equal(s->strs[i].s, words[i].s, words[i].len);
    }
    assert_int_equal(e->count, 0);
    assert_int_equal(e->elem, COT_GGUF_U8);
}

static const cot_type formats[] = {COT_F32,  COT_F16,  COT_Q4_0,   COT_Q4_1,   COT_Q5_0,  COT_Q5_1, COT_Q8_0,
                                   COT_Q2_K, COT_Q3_K, COT_Q4_K,   COT_Q5_K,   COT_Q6_K,  COT_I8,   COT_I16,
                                   COT_I32,  COT_I64,  COT_IQ4_NL, COT_IQ4_XS, COT_MXFP4, COT_F64,  COT_BF16};
enum { FORMATS = sizeof formats / sizeof *formats };

static uint8_t byte_at(size_t tensor, size_t i) { return (uint8_t)(tensor * 31 + i * 7 + (i >> 8)); }

static void values_and_formats_come_back(void **state) {
    cot__gguf_writer *w = NULL;
    cot__gguf *g = NULL;
    char name[32];
    OK(cot__gguf_writer_open(&w, path, err));
    OK(put_values(w, err));
    for (size_t i = 0; i < FORMATS; i++) {
        const int64_t dims[] = {i % 2 ? 512 : 256, 1 + (int64_t)i % 3, 2};
        snprintf(name, sizeof name, "t.%zu", i);
        OK(cot__gguf_put_tensor(w, name, formats[i], 1 + (int)(i % 3), dims, err));
    }
    OK(cot__gguf_writer_begin(w, err));
    for (size_t i = 0; i < FORMATS; i++) { /* in pieces that fit nothing */
        int64_t rows = (i % 3 > 0 ? 1 + (int64_t)i % 3 : 1) * (i % 3 > 1 ? 2 : 1);
        size_t n = (size_t)rows * cot__row_bytes(formats[i], i % 2 ? 512 : 256);
        uint8_t *data = malloc(n);
        for (size_t k = 0; k < n; k++) data[k] = byte_at(i, k);
        for (size_t at = 0; at < n; at += 13)
            OK(cot__gguf_writer_data(w, data + at, n - at < 13 ? n - at : 13, err));
        free(data);
    }
    assert_int_not_equal(access(path, F_OK), 0); /* no name before the end */
    OK(cot__gguf_writer_finish(&w, err));
    assert_null(w);
    OK(cot__gguf_open(&g, path, err));
    assert_int_equal(cot__gguf_version(g), 3);
    check_values(g);
    const cot__tensor_set *set = cot__gguf_tensors(g);
    assert_int_equal(set->n_tensors, FORMATS);
    for (size_t i = 0; i < FORMATS; i++) {
        snprintf(name, sizeof name, "t.%zu", i);
        const cot__tensor *t = cot__tensors_find(set, name);
        assert_non_null(t);
        assert_int_equal(t->type, formats[i]);
        assert_int_equal(t->n_dims, 1 + i % 3);
        assert_int_equal(t->dims[0], i % 2 ? 512 : 256);
        assert_int_equal(t->offset % 32, 0);
        uint8_t *data = malloc(t->bytes);
        OK(cot__file_read(set->files[t->file], t->offset, data, t->bytes, err));
        for (size_t k = 0; k < t->bytes; k++) assert_int_equal(data[k], byte_at(i, k));
        free(data);
    }
    cot__gguf_close(&g);
}

static void keys_are_copied_as_they_are(void **state) {
    cot__gguf_writer *w = NULL;
    cot__gguf *a = NULL, *b = NULL;
    OK(cot__gguf_open(&a, path, err)); /* left by the test before */
    OK(cot__gguf_writer_open(&w, copy, err));
    for (size_t i = 0; i < cot__gguf_kv_count(a); i++) OK(cot__gguf_put_kv(w, cot__gguf_kv_at(a, i), err));
    OK(cot__gguf_put_int(w, "general.alignment", COT_GGUF_U32, 4096, err));
    OK(cot__gguf_put_tensor(w, "x", COT_F32, 1, (const int64_t[]){3}, err));
    OK(cot__gguf_put_tensor(w, "y", COT_F32, 1, (const int64_t[]){2}, err));
    OK(cot__gguf_writer_begin(w, err));
    OK(cot__gguf_writer_data(w, (const float[]){1, 2, 3, 4, 5}, 20, err));
    OK(cot__gguf_writer_finish(&w, err));
    OK(cot__gguf_open(&b, copy, err));
    check_values(b);
    const cot__tensor *y = cot__tensors_find(cot__gguf_tensors(b), "y");
    assert_int_equal(y->offset % 4096, 0);
    float f[2];
    OK(cot__file_read(cot__gguf_tensors(b)->files[0], y->offset, f, sizeof f, err));
    assert_true(f[0] == 4 && f[1] == 5);
    cot__gguf_close(&a);
    cot__gguf_close(&b);
    unlink(copy);
}

static void misuse_is_refused(void **state) {
    cot__gguf_writer *w = NULL;
    const int64_t odd[] = {33}, zero[] = {0}, five[] = {1, 1, 1, 1, 1}, one[] = {1};
    cot_error err;
    assert_int_equal(cot__gguf_writer_open(&w, copy, &err), COT_OK);
    assert_int_equal(cot__gguf_put_int(w, "k", COT_GGUF_U8, 256, &err), COT_ARGUMENT);
    assert_int_equal(cot__gguf_put_int(w, "k", COT_GGUF_BOOL, 2, &err), COT_ARGUMENT);
    assert_int_equal(cot__gguf_put_int(w, "k", COT_GGUF_F32, 2, &err), COT_ARGUMENT);
    assert_int_equal(cot__gguf_put_int(w, "general.alignment", COT_GGUF_U32, 48, &err), COT_ARGUMENT);
    assert_int_equal(cot__gguf_put_int(w, "k", COT_GGUF_U8, 1, &err), COT_OK);
    assert_int_equal(cot__gguf_put_int(w, "k", COT_GGUF_U8, 1, &err), COT_ARGUMENT); /* twice */
    assert_non_null(strstr(err.message, "k: is added twice"));
    assert_int_equal(cot__gguf_put_tensor(w, "t", COT_Q8_0, 1, odd, &err), COT_FORMAT);
    assert_int_equal(cot__gguf_put_tensor(w, "t", COT_F32, 1, zero, &err), COT_ARGUMENT);
    assert_int_equal(cot__gguf_put_tensor(w, "t", COT_F32, 5, five, &err), COT_ARGUMENT);
    assert_int_equal(cot__gguf_put_tensor(w, "t", COT_F8_E4M3, 1, one, &err), COT_UNSUPPORTED);
    assert_int_equal(cot__gguf_put_tensor(w, "t", COT_F32, 1, one, &err), COT_OK);
    assert_int_equal(cot__gguf_put_tensor(w, "t", COT_F32, 1, one, &err), COT_ARGUMENT);
    assert_int_equal(cot__gguf_writer_data(w, "xxxx", 4, &err), COT_ARGUMENT); /* before begin */
    assert_int_equal(cot__gguf_writer_begin(w, &err), COT_OK);
    assert_int_equal(cot__gguf_writer_begin(w, &err), COT_ARGUMENT);
    assert_int_equal(cot__gguf_put_int(w, "late", COT_GGUF_U8, 1, &err), COT_ARGUMENT);
    assert_int_equal(cot__gguf_writer_data(w, "xxxxy", 5, &err), COT_ARGUMENT); /* a byte too many */
    cot__gguf_writer_abort(&w);
    assert_null(w);
    assert_int_equal(cot__gguf_writer_open(&w, copy, &err), COT_OK);
    assert_int_equal(cot__gguf_put_tensor(w, "t", COT_F32, 1, one, &err), COT_OK);
    assert_int_equal(cot__gguf_writer_begin(w, &err), COT_OK);
    assert_int_equal(cot__gguf_writer_finish(&w, &err), COT_ARGUMENT); /* data is missing */
    assert_non_null(strstr(err.message, "t: not all data was given"));
    assert_null(w);
    assert_int_not_equal(access(copy, F_OK), 0);
}

static cot_status write_and_read(void) {
    cot__gguf_writer *w = NULL;
    cot__gguf *g = NULL;
    static const float data[64];
    cot_status s = cot__gguf_writer_open(&w, copy, NULL);
    if (s == COT_OK) s = put_values(w, NULL);
    if (s == COT_OK) s = cot__gguf_put_tensor(w, "x", COT_F32, 1, (const int64_t[]){64}, NULL);
    if (s == COT_OK) s = cot__gguf_writer_begin(w, NULL);
    if (s == COT_OK) s = cot__gguf_writer_data(w, data, sizeof data, NULL);
    if (s == COT_OK) s = cot__gguf_writer_finish(&w, NULL);
    cot__gguf_writer_abort(&w);
    if (s == COT_OK) s = cot__gguf_open(&g, copy, NULL);
    cot__gguf_close(&g);
    return s;
}

static void every_fault_is_survived(void **state) {
    COT_TORTURE(COT__FAULT_ALLOC, { COT_TORTURE_RESULT(write_and_read()); });
    COT_TORTURE(COT__FAULT_WRITE, { COT_TORTURE_RESULT(write_and_read()); });
    COT_TORTURE(COT__FAULT_READ, { COT_TORTURE_RESULT(write_and_read()); });
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_and_formats_come_back),
        cmocka_unit_test(keys_are_copied_as_they_are),
        cmocka_unit_test(misuse_is_refused),
        cmocka_unit_test(every_fault_is_survived),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
