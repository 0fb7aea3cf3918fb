/* Safetensors written and read back: one file and shards, every dtype, tensors without elements, misuse
 * refused, and every allocation, read and write failing in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "format/safetensors.h"
#include "torture.h"
#include "temp.h"

static char folder[64];

static int make_folder(void **state) {
    snprintf(folder, sizeof folder, "%.40s/coterie-st-XXXXXX", temp_root());
    return mkdtemp(folder) ? 0 : -1;
}

static void clean(void) {
    char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    unlink(path);
    for (int n = 2; n < 9; n++)
        for (int i = 1; i <= n; i++) {
            snprintf(path, sizeof path, "%s/model-%05d-of-%05d.safetensors", folder, i, n);
            unlink(path);
        }
}

static int remove_folder(void **state) {
    clean();
    return rmdir(folder); /* fails when a temporary file was left behind */
}

static const struct {
    const char *name;
    cot_type type;
    int n_dims;
    int64_t dims[4];
} list[] = {
    {"a", COT_F32, 2, {3, 5}},     {"b", COT_F16, 1, {7}},
    {"empty", COT_F32, 2, {0, 4}}, {"c", COT_BF16, 3, {2, 3, 4}},
    {"scalar", COT_F32, 0, {0}},   {"d", COT_F64, 1, {3}},
    {"e", COT_F8_E4M3, 2, {5, 3}}, {"f", COT_I64, 1, {2}},
    {"g", COT_I32, 1, {2}},        {"h \"quoted\" \n", COT_I16, 1, {9}},
    {"i", COT_I8, 1, {3}},         {"j", COT_U8, 4, {16, 2, 3, 2}},
    {"k", COT_BOOL, 1, {5}},       {"last", COT_F32, 1, {0}},
};
enum { N = sizeof list / sizeof *list };

static uint8_t byte_at(size_t t, size_t i) { return (uint8_t)(t * 37 + i * 11 + 1); }

static size_t bytes_of(size_t t) {
    size_t n = (size_t)cot__type(list[t].type)->bytes;
    for (int d = 0; d < list[t].n_dims; d++) n *= (size_t)list[t].dims[d];
    return n;
}

static cot_status write_all(uint64_t shard_bytes, cot_error *err) {
    cot__st_writer *w = NULL;
    cot_status s = cot__st_writer_open(&w, folder, shard_bytes, err);
    for (size_t t = 0; t < N && s == COT_OK; t++)
        s = cot__st_put_tensor(w, list[t].name, list[t].type, list[t].n_dims, list[t].dims, err);
    if (s == COT_OK) s = cot__st_writer_begin(w, err);
    for (size_t t = 0; t < N && s == COT_OK; t++)
        for (size_t i = 0; i < bytes_of(t) && s == COT_OK; i++) {
            uint8_t b = byte_at(t, i);
            s = cot__st_writer_data(w, &b, 1, err);
        }
    if (s == COT_OK) s = cot__st_writer_finish(&w, err);
    cot__st_writer_abort(&w);
    return s;
}

static void check_all(int files) {
    cot__tensor_set *set = NULL;
    cot_error err = {0};
    if (cot__safetensors_open(&set, folder, &err) != COT_OK) fail_msg("%s", err.message);
    assert_int_equal(set->n_tensors, N);
    assert_int_equal(set->n_files, files);
    for (size_t t = 0; t < N; t++) {
        const cot__tensor *x = cot__tensors_find(set, list[t].name);
        assert_non_null(x);
        assert_int_equal(x->type, list[t].type);
        assert_int_equal(x->n_dims, list[t].n_dims);
        for (int d = 0; d < x->n_dims; d++) assert_int_equal(x->dims[d], list[t].dims[d]);
        assert_int_equal(x->bytes, bytes_of(t));
        uint8_t data[1024];
        assert_true(x->bytes <= sizeof data);
        assert_int_equal(cot__file_read(set->files[x->file], x->offset, data, x->bytes, &err), COT_OK);
        for (size_t i = 0; i < x->bytes; i++) assert_int_equal(data[i], byte_at(t, i));
    }
    cot__tensors_close(&set);
}

static void one_file_comes_back(void **state) {
    cot_error err = {0};
    if (write_all(0, &err) != COT_OK) fail_msg("%s", err.message);
    check_all(1);
    clean();
}

static void shards_come_back(void **state) {
    cot_error err = {0};
    if (write_all(100, &err) != COT_OK) fail_msg("%s", err.message);
    check_all(5); /* 74 + 48 | 24 + 15 + 16 + 8 + 18 + 3 | 192 | 5, and 4 + … as it falls */
    clean();
}

static void misuse_is_refused(void **state) {
    cot__st_writer *w = NULL;
    cot_error err;
    assert_int_equal(cot__st_writer_open(&w, "/nonexistent/folder", 0, &err), COT_NOT_FOUND);
    assert_int_equal(cot__st_writer_open(&w, folder, 0, &err), COT_OK);
    assert_int_equal(cot__st_put_tensor(w, "q", COT_Q4_K, 1, (const int64_t[]){256}, &err), COT_UNSUPPORTED);
    assert_int_equal(cot__st_put_tensor(w, "__metadata__", COT_F32, 0, NULL, &err), COT_ARGUMENT);
    assert_int_equal(cot__st_put_tensor(w, "x", COT_F32, 1, (const int64_t[]){2}, &err), COT_OK);
    assert_int_equal(cot__st_put_tensor(w, "x", COT_F32, 1, (const int64_t[]){2}, &err), COT_ARGUMENT);
    assert_int_equal(cot__st_writer_data(w, "", 1, &err), COT_ARGUMENT);
    assert_int_equal(cot__st_writer_begin(w, &err), COT_OK);
    assert_int_equal(cot__st_put_tensor(w, "y", COT_F32, 1, (const int64_t[]){2}, &err), COT_ARGUMENT);
    assert_int_equal(cot__st_writer_data(w, "12345678+", 9, &err), COT_ARGUMENT);
    cot__st_writer_abort(&w);
    assert_int_equal(cot__st_writer_open(&w, folder, 0, &err), COT_OK);
    assert_int_equal(cot__st_put_tensor(w, "x", COT_F32, 1, (const int64_t[]){2}, &err), COT_OK);
    assert_int_equal(cot__st_writer_begin(w, &err), COT_OK);
    assert_int_equal(cot__st_writer_finish(&w, &err), COT_ARGUMENT);
    assert_non_null(strstr(err.message, "x: not all data was given"));
}

static cot_status write_and_read(void) {
    cot__tensor_set *set = NULL;
    cot_status s = write_all(100, NULL);
    if (s == COT_OK) s = cot__safetensors_open(&set, folder, NULL);
    cot__tensors_close(&set);
    return s;
}

static void every_fault_is_survived(void **state) {
    COT_TORTURE(COT__FAULT_ALLOC, { COT_TORTURE_RESULT(write_and_read()); });
    COT_TORTURE(COT__FAULT_WRITE, { COT_TORTURE_RESULT(write_and_read()); });
    COT_TORTURE(COT__FAULT_READ, { COT_TORTURE_RESULT(write_and_read()); });
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_file_comes_back),
        cmocka_unit_test(shards_come_back),
        cmocka_unit_test(misuse_is_refused),
        cmocka_unit_test(every_fault_is_survived),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
