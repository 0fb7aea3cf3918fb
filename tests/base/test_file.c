/* Reading and atomic writing of files, with every read and write failing in turn. */
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
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
#include "base/file.h"
#include "torture.h"
#include "temp.h"

static char folder[64], path[96];

static int make_folder(void **state) {
    snprintf(folder, sizeof folder, "%.40s/coterie-file-XXXXXX", temp_root());
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/data", folder);
    return 0;
}

static int remove_folder(void **state) {
    unlink(path);
    return rmdir(folder); /* fails when a test left a file behind */
}

static int files_in_folder(void) {
    int n = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static cot_status write_file(const char *text, size_t n, cot_error *err) {
    cot__writer *w = NULL;
    cot_status s = cot__writer_open(&w, path, err);
    if (s == COT_OK && (s = cot__writer_put(w, text, n, err)) == COT_OK) return cot__writer_commit(&w, err);
    cot__writer_abort(&w);
    return s;
}

static void reads_what_was_written(void **state) {
    enum { N = 300000 };
    char *data = malloc(N), *back = malloc(N);
    for (int i = 0; i < N; i++) data[i] = (char)(i * 7 + i / 251);
    cot__writer *w = NULL;
    assert_int_equal(cot__writer_open(&w, path, NULL), COT_OK);
    assert_false(cot__path_exists(path)); /* nothing under the final name yet */
    size_t at = 0, step = 1;
    while (at < N) {
        size_t n = step < N - at ? step : N - at;
        assert_int_equal(cot__writer_put(w, data + at, n, NULL), COT_OK);
        at += n;
        step = step * 3 % 70001 + 1;
        assert_int_equal(cot__writer_offset(w), at);
    }
    assert_int_equal(cot__writer_put_at(w, 5, "HELLO", 5, NULL), COT_OK);
    memcpy(data + 5, "HELLO", 5);
    assert_int_equal(cot__writer_offset(w), N);
    assert_int_equal(cot__writer_commit(&w, NULL), COT_OK);
    assert_null(w);
    assert_int_equal(files_in_folder(), 1);

    cot__file *f = NULL;
    assert_int_equal(cot__file_open(&f, path, NULL), COT_OK);
    assert_int_equal(cot__file_size(f), N);
    assert_string_equal(cot__file_path(f), path);
    assert_true(cot__file_fd(f) >= 0);
    assert_int_equal(cot__file_read(f, 1000, back, N - 1000, NULL), COT_OK);
    assert_memory_equal(back, data + 1000, N - 1000);
    assert_int_equal(cot__file_read(f, N, back, 0, NULL), COT_OK);
    cot_error e;
    assert_int_equal(cot__file_read(f, N - 3, back, 4, &e), COT_FORMAT);
    assert_non_null(strstr(e.message, "299997"));
    assert_int_equal(cot__file_read(f, UINT64_MAX, back, 4, &e), COT_FORMAT);
    assert_int_equal(cot__file_read(f, 8, back, SIZE_MAX, &e), COT_FORMAT);
    const void *map = NULL, *again = NULL;
    assert_int_equal(cot__file_map(f, &map, NULL), COT_OK);
    assert_memory_equal(map, data, N);
    assert_int_equal(cot__file_map(f, &again, NULL), COT_OK);
    assert_ptr_equal(map, again);
    cot__file_close(&f);
    assert_null(f);
    cot__file_close(&f);
    free(data);
    free(back);
}

static void slurp_terminates_and_limits(void **state) {
    assert_int_equal(write_file("hello", 5, NULL), COT_OK);
    char *text = NULL;
    size_t n = 0;
    assert_int_equal(cot__file_slurp(path, 5, &text, &n, NULL), COT_OK);
    assert_int_equal(n, 5);
    assert_string_equal(text, "hello");
    cot__free(text);
    cot_error e;
    assert_int_equal(cot__file_slurp(path, 4, &text, &n, &e), COT_LIMIT);
    assert_string_equal(e.file, path);
    assert_int_equal(write_file("", 0, NULL), COT_OK); /* replaces the old one */
    assert_int_equal(cot__file_slurp(path, 4, &text, &n, &e), COT_OK);
    assert_int_equal(n, 0);
    assert_string_equal(text, "");
    cot__free(text);
    cot__file *f = NULL;
    const void *map = NULL;
    assert_int_equal(cot__file_open(&f, path, NULL), COT_OK);
    assert_int_equal(cot__file_map(f, &map, NULL), COT_OK); /* an empty file maps to something */
    assert_non_null(map);
    cot__file_close(&f);
}

static void only_regular_files_are_read(void **state) {
    cot__file *f = NULL;
    cot_error e;
    assert_int_equal(cot__file_open(&f, "/nonexistent/x", &e), COT_NOT_FOUND);
    assert_non_null(strstr(e.message, "/nonexistent/x: cannot open"));
    assert_int_equal(cot__file_open(&f, folder, &e), COT_ARGUMENT);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(cot__file_open(&f, path, &e), COT_ARGUMENT); /* and does not wait for a writer */
    unlink(path);
    assert_null(f);
    assert_true(cot__path_is_dir(folder));
    assert_false(cot__path_is_dir("/dev/null"));
    char *p = cot__path_join("a", "b"), *q = cot__path_join("a/", "b"), *r = cot__path_join("", "b");
    assert_string_equal(p, "a/b");
    assert_string_equal(q, "a/b");
    assert_string_equal(r, "b");
    cot__free(p);
    cot__free(q);
    cot__free(r);
}

static void a_failed_write_is_never_committed(void **state) {
    assert_int_equal(write_file("old", 3, NULL), COT_OK);
    cot__writer *w = NULL;
    assert_int_equal(cot__writer_open(&w, path, NULL), COT_OK);
    cot__fault_set(COT__FAULT_WRITE, 1);
    static char big[100000];
    cot_error e;
    assert_int_equal(cot__writer_put(w, big, sizeof big, &e), COT_IO);
    assert_non_null(strstr(e.message, "No space left"));
    assert_int_equal(cot__writer_put(w, big, sizeof big, &e), COT_IO); /* stays failed */
    assert_int_equal(cot__writer_commit(&w, &e), COT_IO);
    assert_null(w);
    cot__fault_set(COT__FAULT_WRITE, 0);
    char *text = NULL;
    size_t n = 0;
    assert_int_equal(cot__file_slurp(path, 100, &text, &n, NULL), COT_OK);
    assert_string_equal(text, "old");
    cot__free(text);
    assert_int_equal(files_in_folder(), 1);
}

static void two_writers_do_not_meet(void **state) {
    cot__writer *a = NULL, *b = NULL;
    assert_int_equal(cot__writer_open(&a, path, NULL), COT_OK);
    assert_int_equal(cot__writer_open(&b, path, NULL), COT_OK);
    assert_int_equal(cot__writer_put(a, "first", 5, NULL), COT_OK);
    assert_int_equal(cot__writer_put(b, "second", 6, NULL), COT_OK);
    assert_int_equal(cot__writer_commit(&b, NULL), COT_OK);
    cot__writer_abort(&a);
    cot__writer_abort(&a);
    char *text = NULL;
    size_t n = 0;
    assert_int_equal(cot__file_slurp(path, 100, &text, &n, NULL), COT_OK);
    assert_string_equal(text, "second");
    cot__free(text);
}

static void a_device_is_written_directly(void **state) {
    cot__writer *w = NULL;
    cot_error e;
    assert_int_equal(cot__writer_open(&w, "/dev/null", NULL), COT_OK);
    assert_int_equal(cot__writer_put(w, "x", 1, NULL), COT_OK);
    assert_int_equal(cot__writer_commit(&w, NULL), COT_OK);
    struct stat st;
    assert_int_equal(stat("/dev/null", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
    assert_int_equal(cot__writer_open(&w, "/dev/null", NULL), COT_OK);
    assert_int_equal(cot__writer_put_at(w, 0, "x", 1, &e), COT_UNSUPPORTED);
    assert_int_equal(cot__writer_commit(&w, &e), COT_UNSUPPORTED);
    assert_int_equal(cot__writer_open(&w, folder, &e), COT_IO);
    assert_int_equal(cot__writer_open(&w, "/nonexistent/x", &e), COT_NOT_FOUND);
    assert_null(w);
}

static cot_status write_and_read(void) {
    static char data[200000];
    cot__writer *w = NULL;
    cot_error e;
    cot_status s = cot__writer_open(&w, path, &e);
    for (int i = 0; s == COT_OK && i < 3; i++) s = cot__writer_put(w, data, 30000, &e);
    if (s == COT_OK) s = cot__writer_put(w, data, sizeof data, &e);
    if (s == COT_OK) s = cot__writer_put_at(w, 3, "abc", 3, &e);
    if (s == COT_OK) s = cot__writer_commit(&w, &e);
    cot__writer_abort(&w);
    if (s != COT_OK) {
        assert_int_equal(e.status, s);
        assert_int_equal(files_in_folder(), 0);
        return s;
    }
    cot__file *f = NULL;
    const void *map;
    char back[8];
    s = cot__file_open(&f, path, &e);
    if (s == COT_OK) s = cot__file_read(f, 1, back, 8, &e);
    if (s == COT_OK) s = cot__file_map(f, &map, &e);
    cot__file_close(&f);
    char *text = NULL;
    size_t n;
    if (s == COT_OK) s = cot__file_slurp(path, 1 << 20, &text, &n, &e);
    if (s == COT_OK) assert_memory_equal(text, "\0\0\0abc", 7);
    cot__free(text);
    if (s != COT_OK) assert_int_equal(e.status, s);
    unlink(path);
    return s;
}

static void every_fault_is_survived(void **state) {
    unlink(path);
    COT_TORTURE(COT__FAULT_WRITE, COT_TORTURE_RESULT(write_and_read()););
    COT_TORTURE(COT__FAULT_READ, COT_TORTURE_RESULT(write_and_read()););
    COT_TORTURE(COT__FAULT_ALLOC, COT_TORTURE_RESULT(write_and_read()););
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_what_was_written, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(slurp_terminates_and_limits, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(only_regular_files_are_read, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_failed_write_is_never_committed, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(two_writers_do_not_meet, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_device_is_written_directly, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(every_fault_is_survived, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
