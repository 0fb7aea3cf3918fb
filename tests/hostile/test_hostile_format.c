/* Model files that lie: cut at every byte, counts that overflow, tensors that overlap, types that do not
 * exist. Each gives a one-line error that names the file and what is wrong with it, and leaks nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "format/gguf.h"
#include "format/tensors.h"
#include "temp.h"

#define ROOM (1 << 14)

static char dir[64], path[128];

typedef struct bytes {
    unsigned char b[ROOM];
    size_t n;
} bytes;

static void put(bytes *o, const void *p, size_t n) {
    assert_true(o->n + n <= ROOM);
    memcpy(o->b + o->n, p, n);
    o->n += n;
}
static void u32(bytes *o, uint64_t v) { put(o, &(uint32_t){(uint32_t)v}, 4); }
static void u64(bytes *o, uint64_t v) { put(o, &v, 8); }
static void str(bytes *o, const char *s) {
    u64(o, strlen(s));
    put(o, s, strlen(s));
}

static void save(const char *file, const void *data, size_t n) {
    FILE *f = fopen(file, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

static void check_error(cot_status s, const cot_error *err, const char *file, const char *word,
                        const char *what) {
    if (s == COT_OK) fail_msg("%s was accepted", what);
    if (strchr(err->message, '\n')) fail_msg("%s: the message has several lines: %s", what, err->message);
    if (!strstr(err->message, file))
        fail_msg("%s: the message does not name the file: %s", what, err->message);
    if (!strstr(err->message, word)) fail_msg("%s: no \"%s\" in: %s", what, word, err->message);
}

static cot_status open_gguf(const bytes *o, cot_error *err) {
    cot__gguf *g = NULL;
    size_t live = cot__alloc_live();
    save(path, o->b, o->n);
    cot_status s = cot__gguf_open(&g, path, err);
    if (s == COT_OK) cot__gguf_close(&g);
    else assert_null(g);
    assert_int_equal(cot__alloc_live(), live);
    return s;
}

/* ---- GGUF: a small file, every field of which can be told otherwise ---- */

enum {
    MAGIC,
    VERSION,
    TENSORS,
    KEYS,
    KEY_LENGTH,
    VALUE_TYPE,
    ALIGNMENT,
    ELEMENT_TYPE,
    ELEMENTS,
    STRING_LENGTH,
    BOOL,
    NAME_LENGTH,
    DIMS,
    DIM_0,
    DIM_1,
    TYPE,
    OFFSET_0,
    OFFSET_1,
    SECOND_NAME,
    SECOND_KEY,
    PADDING,
    FIELDS
};
static const uint64_t right[FIELDS] = {0x46554747, 3, 2,  5, 17, 4, 32,  5,   3,   4,  1,
                                       1,          2, 32, 2, 0,  0, 256, 'b', 'c', 384};

static void build(bytes *o, const uint64_t *f) {
    o->n = 0;
    u32(o, f[MAGIC]), u32(o, f[VERSION]), u64(o, f[TENSORS]), u64(o, f[KEYS]);
    u64(o, f[KEY_LENGTH]), put(o, "general.alignment", 17), u32(o, f[VALUE_TYPE]), u32(o, f[ALIGNMENT]);
    str(o, "a"), u32(o, 9), u32(o, f[ELEMENT_TYPE]), u64(o, f[ELEMENTS]);
    for (int i = 0; i < 3; i++) u32(o, (uint64_t)i);
    char key[2] = {(char)f[SECOND_KEY], 0};
    str(o, key), u32(o, 8), u64(o, f[STRING_LENGTH]), put(o, "text", 4);
    str(o, "d"), u32(o, 7), put(o, &f[BOOL], 1);
    str(o, "e"), u32(o, 9), u32(o, 8), u64(o, 2), str(o, "x"), str(o, "yz");
    u64(o, f[NAME_LENGTH]), put(o, "t", 1), u32(o, f[DIMS]);
    u64(o, f[DIM_0]), u64(o, f[DIM_1]);
    for (uint64_t i = 2; i < f[DIMS] && i < 8; i++) u64(o, 1);
    u32(o, f[TYPE]), u64(o, f[OFFSET_0]);
    char name[2] = {(char)f[SECOND_NAME], 0};
    str(o, name), u32(o, 1), u64(o, 32), u32(o, 0), u64(o, f[OFFSET_1]);
    while (o->n % 32) put(o, "", 1);
    static const unsigned char data[1024];
    put(o, data, f[PADDING]);
}

static void told_otherwise(void **state) {
    static const struct {
        int field;
        uint64_t value;
        const char *word;
    } lies[] = {
        {MAGIC, 0x46554746, "magic"},
        {MAGIC, 0x47475546, "magic"},
        {VERSION, 0, "version"},
        {VERSION, 1, "version"},
        {VERSION, 4, "version"},
        {VERSION, 0x03000000, "big-endian"},
        {TENSORS, UINT64_MAX, "tensor count"},
        {TENSORS, 1ull << 40, "tensor count"},
        {TENSORS, 3, "tensor"},
        {KEYS, UINT64_MAX, "metadata count"},
        {KEYS, 6, ""},
        {KEYS, 1ull << 33, "metadata count"},
        {KEY_LENGTH, UINT64_MAX, "key"},
        {KEY_LENGTH, 0, "key"},
        {KEY_LENGTH, 1ull << 32, "key"},
        {KEY_LENGTH, 16, ""},
        {VALUE_TYPE, 13, "general.alignment"},
        {VALUE_TYPE, UINT32_MAX, "general.alignment"},
        {ALIGNMENT, 0, "general.alignment"},
        {ALIGNMENT, 24, "general.alignment"},
        {ALIGNMENT, 1ull << 31, "general.alignment"},
        {ELEMENT_TYPE, 9, "a:"},
        {ELEMENT_TYPE, 13, "a:"},
        {ELEMENTS, UINT64_MAX, "a:"},
        {ELEMENTS, UINT64_MAX / 4 + 2, "a:"},
        {ELEMENTS, 1ull << 60, "a:"},
        {STRING_LENGTH, UINT64_MAX, "c:"},
        {STRING_LENGTH, 1ull << 50, "c:"},
        {BOOL, 2, "d:"},
        {NAME_LENGTH, 0, "tensor name"},
        {NAME_LENGTH, UINT64_MAX, "tensor name"},
        {DIMS, 0, "t:"},
        {DIMS, 5, "t:"},
        {DIMS, UINT32_MAX, "t:"},
        {DIM_0, 0, "t:"},
        {DIM_0, UINT64_MAX, "t:"},
        {DIM_0, 1ull << 62, "t:"},
        {DIM_0, (1ull << 63) / 4 + 32, "t:"},
        {DIM_1, 1ull << 60, "t:"},
        {DIM_1, 0, "t:"},
        {DIM_1, 3, "overlap"},
        {TYPE, 4, "t:"},
        {TYPE, 19, "IQ1_S"},
        {TYPE, 34, "TQ1_0"},
        {TYPE, 31, "t:"},
        {TYPE, 999, "999"},
        {TYPE, UINT32_MAX, "t:"},
        {TYPE, 12, "row length 32"},
        {OFFSET_0, 8, "t:"},
        {OFFSET_0, 1, "t:"},
        {OFFSET_0, UINT64_MAX - 31, "t:"},
        {OFFSET_0, 1ull << 40, "t:"},
        {OFFSET_0, 224, "t:"},
        {OFFSET_1, 0, "overlap"},
        {OFFSET_1, 128, "overlap"},
        {OFFSET_1, 288, "b:"},
        {SECOND_NAME, 't', "twice"},
        {SECOND_KEY, 'a', "twice"},
        {PADDING, 383, "b:"},
        {PADDING, 0, ""},
    };
    static bytes o;
    cot_error err;
    (void)state;
    build(&o, right);
    if (open_gguf(&o, &err) != COT_OK) fail_msg("the right file is refused: %s", err.message);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        uint64_t f[FIELDS];
        char what[64];
        memcpy(f, right, sizeof f);
        f[lies[i].field] = lies[i].value;
        build(&o, f);
        snprintf(what, sizeof what, "field %d = %llu", lies[i].field, (unsigned long long)lies[i].value);
        check_error(open_gguf(&o, &err), &err, path, lies[i].word, what);
    }
}

static void cut_anywhere(void **state) {
    static bytes o;
    cot_error err;
    (void)state;
    build(&o, right);
    for (size_t n = o.n; n-- > 0;) {
        char what[32];
        bytes *cut = &o;
        cut->n = n;
        snprintf(what, sizeof what, "cut at %zu", n);
        check_error(open_gguf(cut, &err), &err, path, "", what);
    }
}

/* Every byte of the head in turn set to every of a few values: refused in one line, or read. */
static void any_byte_changed(void **state) {
    static const unsigned char values[] = {0, 1, 0x7f, 0x80, 0xff};
    static bytes o;
    (void)state;
    build(&o, right);
    size_t head = o.n - right[PADDING];
    for (size_t i = 0; i < head; i++)
        for (size_t v = 0; v < sizeof values; v++) {
            unsigned char old = o.b[i];
            cot_error err;
            o.b[i] = values[v];
            if (open_gguf(&o, &err) != COT_OK) check_error(COT_FORMAT, &err, path, "", "a changed byte");
            o.b[i] = old;
        }
}

/* ---- splits ---- */

static void part(const char *file, int no, int count, int tensors, char name) {
    static bytes o;
    static const unsigned char data[160];
    o.n = 0;
    u32(&o, 0x46554747), u32(&o, 3), u64(&o, 1), u64(&o, 3);
    str(&o, "split.no"), u32(&o, 2), put(&o, &(uint16_t){(uint16_t)no}, 2);
    str(&o, "split.count"), u32(&o, 2), put(&o, &(uint16_t){(uint16_t)count}, 2);
    str(&o, "split.tensors.count"), u32(&o, 5), u32(&o, (uint64_t)tensors);
    str(&o, (char[]){name, 0}), u32(&o, 1), u64(&o, 32), u32(&o, 0), u64(&o, 0);
    while (o.n % 32) put(&o, "", 1);
    put(&o, data, 128);
    save(file, o.b, o.n);
}

static void splits_that_lie(void **state) {
    char first[128], second[128], third[128];
    cot__gguf *g = NULL;
    cot_error err;
    (void)state;
    snprintf(first, sizeof first, "%s/m-00001-of-00002.gguf", dir);
    snprintf(second, sizeof second, "%s/m-00002-of-00002.gguf", dir);
    snprintf(third, sizeof third, "%s/odd.gguf", dir);
    part(first, 0, 2, 2, 'a'), part(second, 1, 2, 2, 'b');
    assert_int_equal(cot__gguf_open(&g, first, &err), COT_OK);
    cot__gguf_close(&g);
    check_error(cot__gguf_open(&g, second, &err), &err, second, "split.no", "the second part alone");
    unlink(second);
    check_error(cot__gguf_open(&g, first, &err), &err, second, "", "a missing part");
    part(second, 1, 2, 2, 'a');
    check_error(cot__gguf_open(&g, first, &err), &err, second, "twice", "a tensor in both parts");
    part(second, 0, 2, 2, 'b');
    check_error(cot__gguf_open(&g, first, &err), &err, second, "split.no", "two first parts");
    part(second, 1, 3, 2, 'b');
    check_error(cot__gguf_open(&g, first, &err), &err, second, "split.count", "parts that count differently");
    part(second, 1, 2, 2, 'b'), part(first, 0, 2, 9, 'a');
    check_error(cot__gguf_open(&g, first, &err), &err, first, "split.tensors.count", "missing tensors");
    part(first, 0, 3, 2, 'a');
    check_error(cot__gguf_open(&g, first, &err), &err, first, "split.count", "a name of another count");
    part(third, 0, 2, 2, 'a');
    check_error(cot__gguf_open(&g, third, &err), &err, third, "must be named",
                "a first part of another name");
    part(third, 0, 60000, 2, 'a');
    check_error(cot__gguf_open(&g, third, &err), &err, third, "", "sixty thousand parts");
    unlink(first), unlink(second), unlink(third);
}

/* ---- safetensors ---- */

static cot_status open_st(const char *file, const char *header, uint64_t length, size_t data,
                          cot_error *err) {
    static bytes o;
    static const unsigned char zero[512];
    cot__tensor_set *set = NULL;
    size_t live = cot__alloc_live();
    o.n = 0;
    u64(&o, length), put(&o, header, strlen(header)), put(&o, zero, data);
    save(file, o.b, o.n);
    cot_status s = cot__safetensors_open(&set, file, err);
    if (s == COT_OK) cot__tensors_close(&set);
    assert_int_equal(cot__alloc_live(), live);
    return s;
}

#define T(name, dtype, shape, offsets)                                                                       \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void safetensors_that_lie(void **state) {
    static const char good[] = "{\"__metadata__\":{\"format\":\"pt\"}," T(
        "a", "F32", "[2,4]", "[0,32]") "," T("b", "BF16", "[8]", "[32,48]") "}";
    static const struct {
        const char *header;
        size_t data;
        const char *word;
    } lies[] = {
        {"[]", 0, "header"},
        {"{", 0, ""},
        {"{\"a\":1}", 0, "a:"},
        {"{\"a\":{}}", 0, "a:"},
        {"", 0, ""},
        {"nul", 0, ""},
        {"{" T("a", "F31", "[8]", "[0,32]") "}", 32, "F31"},
        {"{" T("a", "F32", "[9]", "[0,32]") "}", 32, "a:"},
        {"{" T("a", "F32", "[7]", "[0,32]") "}", 32, "a:"},
        {"{" T("a", "F32", "[8]", "[32,0]") "}", 32, "a:"},
        {"{" T("a", "F32", "[8]", "[-32,0]") "}", 32, "a:"},
        {"{" T("a", "F32", "[8]", "[0,32]") "}", 31, "a:"},
        {"{" T("a", "F32", "[8]", "[64,96]") "}", 32, "a:"},
        {"{" T("a", "F32", "[-8]", "[0,32]") "}", 32, "a:"},
        {"{" T("a", "F32", "[8.5]", "[0,32]") "}", 32, "a:"},
        {"{" T("a", "F32", "[\"8\"]", "[0,32]") "}", 32, "a:"},
        {"{" T("a", "F32", "8", "[0,32]") "}", 32, "a:"},
        {"{" T("a", "F32", "[8]", "[0]") "}", 32, "a:"},
        {"{" T("a", "F32", "[8]", "[0,32,64]") "}", 32, "a:"},
        {"{" T("a", "F32", "[8]", "[0,1e999]") "}", 32, ""},
        {"{" T("a", "F32", "[4294967296,4294967296]", "[0,0]") "}", 32, "a:"},
        {"{" T("a", "F32", "[9223372036854775807,4]", "[0,32]") "}", 32, "a:"},
        {"{" T("a", "F32", "[99999999999999999999]", "[0,32]") "}", 32, ""},
        {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,8]", "[0,32]") "}", 32, "a:"},
        {"{" T("a", "F32", "[8]", "[0,32]") "," T("b", "F32", "[8]", "[16,48]") "}", 48, "overlap"},
        {"{" T("a", "F32", "[8]", "[0,32]") "," T("a", "F32", "[8]", "[0,32]") "}", 32, ""},
        {"{" T("a", "F32", "[8]", "[0,32]") "} {}", 32, ""},
    };
    char file[128];
    cot_error err;
    (void)state;
    snprintf(file, sizeof file, "%s/m.safetensors", dir);
    if (open_st(file, good, sizeof good - 1, 48, &err) != COT_OK)
        fail_msg("the right file is refused: %s", err.message);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++)
        check_error(open_st(file, lies[i].header, strlen(lies[i].header), lies[i].data, &err), &err, file,
                    lies[i].word, lies[i].header);
    static const uint64_t lengths[] = {0,          1,          sizeof good - 2, sizeof good + 60,
                                       1ull << 40, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        check_error(open_st(file, good, lengths[i], 48, &err), &err, file, "", "a header length that lies");
    for (size_t n = 0; n < sizeof good - 1 + 8 + 48; n++) { /* cut at every byte */
        struct stat st;
        open_st(file, good, sizeof good - 1, 48, &err);
        assert_int_equal(truncate(file, (off_t)n), 0);
        cot__tensor_set *set = NULL;
        check_error(cot__safetensors_open(&set, file, &err), &err, file, "", "a cut file");
        assert_int_equal(stat(file, &st), 0);
    }
    unlink(file);
}

static void indexes_that_lie(void **state) {
    static const struct {
        const char *text, *word;
    } lies[] = {{"[]", "weight_map"},
                {"{}", "weight_map"},
                {"{\"weight_map\":[]}", "weight_map"},
                {"{\"weight_map\":{\"a\":1}}", "a:"},
                {"{\"weight_map\":{\"a\":\"../m.safetensors\"}}", "same folder"},
                {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "same folder"},
                {"{\"weight_map\":{\"a\":\"..\"}}", ""},
                {"{\"weight_map\":{\"a\":\"\"}}", ""},
                {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", "gone.safetensors"},
                {"{\"weight_map\":{\"a\":\"model.safetensors.index.json\"}}", "model.safetensors.index.json"},
                {"{\"weight_map\":{}}", ""},
                {"not json", ""},
                {"", ""}};
    char file[128];
    cot_error err;
    (void)state;
    snprintf(file, sizeof file, "%s/model.safetensors.index.json", dir);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        cot__tensor_set *set = NULL;
        size_t live = cot__alloc_live();
        save(file, lies[i].text, strlen(lies[i].text));
        check_error(cot__safetensors_open(&set, dir, &err), &err, dir, lies[i].word, lies[i].text);
        assert_int_equal(cot__alloc_live(), live);
    }
    unlink(file);
}

static int make_folder(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "%.40s/coterie-test-XXXXXX", temp_root());
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    return 0;
}
static int remove_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(told_otherwise),       cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(any_byte_changed),     cmocka_unit_test(splits_that_lie),
        cmocka_unit_test(safetensors_that_lie), cmocka_unit_test(indexes_that_lie),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
