/* Tokenizers against the tokenizers library: the vocabularies, texts and ids of tests/golden/tokenizers
 * (written by tools/golden/vocabularies.py), by tokenizer.json and by GGUF's words for the same; bytes that
 * come back; special tokens; streaming; what fails when memory does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer.h"
#include "torture.h"

#define FOLDER    COT_SOURCE_DIR "/tests/golden/tokenizers/"
#define LINES_MAX 512

static const char *const names[] = {
    "gpt2",    "llama3", "qwen2",   "qwen35",    "deepseek-llm", "deepseek-coder", "deepseek-v3", "o200k",
    "bailing", "tekken", "kimi",    "starcoder", "olmo",         "falcon",         "nfkc",        "nfd",
    "llama2",  "phi3",   "mixtral", "gemma",     "t5",           "unigram"};

typedef struct text {
    char *s;
    size_t n;
} text;
static text lines[LINES_MAX];
static size_t n_lines;

__attribute__((noinline)) static char *slurp(const char *name, const char *end, size_t *n) {
    char path[512];
    char *data = NULL;
    cot_error err;
    snprintf(path, sizeof path, FOLDER "%s%s", name, end);
    if (cot__file_slurp(path, 16 << 20, &data, n, &err) != COT_OK) fail_msg("%s", err.message);
    return data;
}

static unsigned digit(char c) { return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a' + 10); }

/* lines.txt: a text per line, bytes as \xNN. */
static int load_lines(void **state) {
    size_t n;
    char *data = slurp("lines", ".txt", &n);
    for (char *p = data; p < data + n; n_lines++) {
        char *end = memchr(p, '\n', (size_t)(data + n - p)), *out = cot__alloc((size_t)(end - p) + 1);
        if (n_lines == LINES_MAX || !end || !out) return -1;
        lines[n_lines].s = out;
        for (; p < end; out++) {
            bool escaped = *p == '\\';
            *out = escaped ? (char)(digit(p[2]) << 4 | digit(p[3])) : *p;
            p += escaped ? 4 : 1;
        }
        lines[n_lines].n = (size_t)(out - lines[n_lines].s);
        p = end + 1;
    }
    cot__free(data);
    return 0;
}

static int free_lines(void **state) {
    for (size_t i = 0; i < n_lines; i++) cot__free(lines[i].s);
    return 0;
}

static cot__tokenizer *load(const char *name) {
    size_t n, m;
    char *json = slurp(name, ".json", &n), *ids = slurp(name, ".ids", &m);
    cot__tokenizer *t = NULL;
    cot_error err;
    json_t *facts = NULL;
    *strchr(ids, '\n') = 0;
    assert_int_equal(cot__json_parse(&facts, name, ids, strlen(ids), &err), COT_OK);
    char config[512];
    size_t n_config = json_dumpb(json_object_get(facts, "config"), config, sizeof config, 0);
    assert_true(n_config > 0 && n_config < sizeof config);
    if (cot__tokenizer_from_json(&t, name, json, n, config, n_config, &err) != COT_OK)
        fail_msg("%s", err.message);

    json_decref(facts);
    cot__free(json);
    cot__free(ids);
    return t;
}

static size_t read_ids(const char **p, int32_t *out, size_t max) {
    size_t n = 0;
    while (**p >= '0' && **p <= '9') {
        char *end;
        assert_true(n < max);
        out[n++] = (int32_t)strtol(*p, &end, 10);
        *p = end + (*end == ' ');
    }
    return n;
}

static void same(const char *name, size_t line, const char *what, const int32_t *want, size_t n_want,
                 const int32_t *got, size_t n_got) {
    size_t k = 0;
    while (k < n_want && k < n_got && want[k] == got[k]) k++;
    if (k < n_want || k < n_got)
        fail_msg("%s, line %zu, %s: id %zu is %d, must be %d (%zu ids, must be %zu)", name, line + 1, what, k,
                 k < n_got ? got[k] : -1, k < n_want ? want[k] : -1, n_got, n_want);
}

static void encode(const cot__tokenizer *t, text x, bool special, int32_t **ids, size_t *n) {
    cot_error err;
    if (cot__tokenizer_encode(t, x.s, x.n, special, special, ids, n, &err) != COT_OK)
        fail_msg("%s", err.message);
}

/* What decoding gives equals the text. */
static bool comes_back(const cot__tokenizer *t, text x, const int32_t *ids, size_t n) {
    char *back;
    size_t len;
    cot_error err;
    assert_int_equal(cot__tokenizer_decode(t, ids, n, true, &back, &len, &err), COT_OK);
    bool ok = len == x.n && memcmp(back, x.s, len) == 0;
    cot__free(back);
    return ok;
}

static bool has(text x, const char *what) { return memmem(x.s, x.n, what, strlen(what)) != NULL; }

static void check_line(const char *name, const cot__tokenizer *t, const cot__tokenizer *gguf, size_t line,
                       const char *want, bool lossless, bool gguf_same, const int32_t *ends, size_t n_ends) {
    static int32_t plain[4096], parsed[4096];
    text x = lines[line];
    int32_t *ids, *more;
    size_t n, m;
    /* A unigram model of the library takes special tokens and byte tokens from any text: not compared. */
    bool unigram = strcmp(name, "t5") == 0 || strcmp(name, "unigram") == 0;
    bool spelled = unigram && (has(x, "<s>") || has(x, "</s>") || has(x, "<unk>") || has(x, "<0x"));
    encode(t, x, false, &ids, &n);
    encode(t, x, true, &more, &m);
    if (*want != '-') {
        size_t k = read_ids(&want, plain, 4096), k_more;
        if (*want == '|') {
            want++;
            k_more = read_ids(&want, parsed, 4096);
        } else { /* BOS in front, or EOS behind */
            bool front = m && n_ends && more[0] == ends[0];
            k_more = 0;
            if (front) parsed[k_more++] = ends[0];
            memcpy(parsed + k_more, plain, k * sizeof *plain);
            k_more += k;
            if (n_ends && !front) parsed[k_more++] = ends[0];
        }
        if (!spelled) {
            same(name, line, "plain", plain, k, ids, n);
            same(name, line, "parsed", parsed, k_more, more, m);
        }
    }
    bool back = comes_back(t, x, ids, n);
    bool visible_space = has(x, "\xe2\x96\x81"); /* SentencePiece's: comes back as a space */
    if (lossless && !back && !(visible_space && strcmp(name, "llama2") >= 0))
        if (!(visible_space && (strcmp(name, "gemma") == 0)))
            fail_msg("%s: line %zu does not come back", name, line + 1);
    if (gguf && (gguf_same || back) && !spelled) {
        int32_t *other;
        size_t k;
        encode(gguf, x, false, &other, &k);
        same(name, line, "GGUF", ids, n, other, k);
        cot__free(other);
    }
    cot__free(ids);
    cot__free(more);
}

static void test_golden(void **state) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cot__tokenizer *t = load(names[i]), *gguf = NULL;
        cot__vocab v;
        cot_error err;
        size_t n, n_ends;
        char *want = slurp(names[i], ".ids", &n), *p = strchr(want, '\n') + 1;
        bool lossless = strstr(want, "\"lossless\": true") != NULL,
             route = strstr(want, "\"same\": true") != NULL;
        int32_t *ends;
        encode(t, (text){"", 0}, true, &ends, &n_ends);
        if (route) {
            if (cot__tokenizer_export(t, NULL, &v, &err) != COT_OK ||
                cot__tokenizer_from_vocab(&gguf, &v, &err) != COT_OK)
                fail_msg("%s", err.message);
        }
        for (size_t line = 0; line < n_lines; line++) {
            char *end = strchr(p, '\n');
            assert_non_null(end);
            *end = 0;
            check_line(names[i], t, gguf, line, p, lossless, route, ends, n_ends);
            p = end + 1;
        }
        assert_int_equal(*p, 0);
        cot__free(ends);
        cot__free(want);
        cot__tokenizer_free(&gguf);
        cot__tokenizer_free(&t);
    }
    assert_int_equal(cot__alloc_live() > 0, n_lines > 0);
}

/* NFC is lost in GGUF: text that it leaves alone is cut alike all the same. */
static void test_export_after_nfc(void **state) {
    cot__tokenizer *t = load("qwen2"), *gguf = NULL;
    cot__vocab v;
    cot_error err;
    assert_int_equal(cot__tokenizer_export(t, NULL, &v, &err), COT_OK);
    assert_string_equal(v.pre, "qwen2");
    assert_int_equal(cot__tokenizer_from_vocab(&gguf, &v, &err), COT_OK);
    size_t compared = 0;
    for (size_t i = 0; i < n_lines; i++) {
        int32_t *a, *b;
        size_t n, m;
        encode(t, lines[i], false, &a, &n);
        encode(gguf, lines[i], false, &b, &m);
        if (comes_back(t, lines[i], a, n)) {
            same("qwen2", i, "GGUF", a, n, b, m);
            compared++;
        }
        cot__free(a);
        cot__free(b);
    }
    assert_true(compared > n_lines / 2);
    cot__tokenizer_free(&gguf);
    cot__tokenizer_free(&t);
}

/* Random bytes, and every pair of bytes, come back. */
static void test_any_bytes(void **state) {
    static const char *const of[] = {"gpt2", "llama3", "deepseek-llm", "o200k", "llama2", "gemma"};
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        cot__tokenizer *t = load(of[i]);
        for (size_t k = 0; k < 600; k++) {
            char b[96];
            int32_t *ids;
            size_t n = k % 96, m;
            for (size_t j = 0; j < n; j++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                b[j] = (char)(seed >> 56);
                if (k % 3 == 0)
                    b[j] = " a\xe2\x96\xc3\xa9\xf0\x9f\x98\x80\xff\n\xed\xa0"[(unsigned char)b[j] % 14];
            }
            text x = {b, n};
            encode(t, x, false, &ids, &m);
            /* U+2581 is a space to SentencePiece. */
            if (!comes_back(t, x, ids, m) && !has(x, "\xe2\x96\x81"))
                fail_msg("%s: bytes do not come back", of[i]);
            cot__free(ids);
        }
        cot__tokenizer_free(&t);
    }
}

static void test_special_only_where_asked(void **state) {
    cot__tokenizer *t = load("qwen2");
    text x = {(char *)(uintptr_t) "<|im_start|>a<|im_end|><think>", 30};
    int32_t *ids;
    size_t n, control = 0;
    int32_t start = cot__tokenizer_find(t, "<|im_start|>", 12), think = cot__tokenizer_find(t, "<think>", 7);
    assert_true(start >= 0 && think >= 0 && cot__tokenizer_is_control(t, start));
    assert_false(cot__tokenizer_is_control(t, think));
    encode(t, x, false, &ids, &n);
    for (size_t i = 0; i < n; i++) control += cot__tokenizer_is_control(t, ids[i]);
    assert_int_equal(control, 0);
    assert_int_equal(ids[n - 1], think); /* added, but no control token: always read */
    assert_true(comes_back(t, x, ids, n));
    cot__free(ids);
    encode(t, x, true, &ids, &n);
    assert_int_equal(n, 4);
    assert_int_equal(ids[0], start);
    char *back;
    size_t len;
    cot_error err;
    assert_int_equal(cot__tokenizer_decode(t, ids, n, false, &back, &len, &err), COT_OK);
    assert_string_equal(back, "a<think>"); /* control tokens give nothing unless asked for */
    cot__free(back);
    int32_t beyond = (int32_t)cot__tokenizer_size(t);
    assert_int_equal(cot__tokenizer_decode(t, &beyond, 1, false, &back, &len, &err), COT_ARGUMENT);
    assert_int_equal(cot__tokenizer_decode(t, (int32_t[]){-1}, 1, false, &back, &len, &err), COT_ARGUMENT);
    cot__free(ids);
    cot__tokenizer_free(&t);
    /* A unigram vocabulary holds its control tokens among its words. */
    t = load("unigram");
    encode(t, (text){(char *)(uintptr_t) "a</s>", 5}, false, &ids, &n);
    for (size_t i = 0; i < n; i++) assert_false(cot__tokenizer_is_control(t, ids[i]) && ids[i] != 0);
    cot__free(ids);
    cot__tokenizer_free(&t);
}

/* A token that swallows the spaces behind it does not hide another one that stands among these: the library
 * reads both, and what follows the second is text again (ids are the library's). */
static void test_swallowed_token(void **state) {
    static const struct {
        const char *text;
        int32_t ids[6];
    } cases[] = {
        {"||right||  \nab", {1209, 1205, 198, 450, -1}},
        {"||right|| \n  \nab", {1209, 1205, 198, 450, -1}},
        {"||right||\n  \n\nb", {1209, 1205, 198, 198, 65, -1}},
        {"||right||    ||left||b", {1209, 1206, 1208, 65, -1}},
        {"a   ||left||b", {64, 1206, 1208, 65, -1}},
    };
    cot__tokenizer *t = load("olmo");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t *ids;
        size_t n, want = 0;
        while (cases[i].ids[want] >= 0) want++;
        encode(t, (text){(char *)(uintptr_t)cases[i].text, strlen(cases[i].text)}, false, &ids, &n);
        same("olmo", i, "swallowed", cases[i].ids, want, ids, n);
        cot__free(ids);
    }
    cot__tokenizer_free(&t);
}

/* Pieces one by one are the decoded text, and whoever waits for whole characters gets all of it. */
static void test_streaming(void **state) {
    static const char *const of[] = {"gpt2", "gemma"};
    for (size_t i = 0; i < 2; i++) {
        cot__tokenizer *t = load(of[i]);
        for (size_t line = 0; line < n_lines; line++) {
            int32_t *ids;
            size_t n, at = 0, len;
            char *all;
            cot_error err;
            encode(t, lines[line], false, &ids, &n);
            assert_int_equal(cot__tokenizer_decode(t, ids, n, true, &all, &len, &err), COT_OK);
            for (size_t k = 0; k < n; k++) {
                size_t m;
                const char *p = cot__tokenizer_piece(t, ids[k], true, &m);
                assert_true(at + m <= len);
                assert_memory_equal(all + at, p, m);
                at += m;
            }
            assert_int_equal(at, len);
            cot__free(all);
            cot__free(ids);
        }
        cot__tokenizer_free(&t);
    }
}

static void test_roles(void **state) {
    cot__tokenizer *t = load("llama2");
    assert_int_equal(cot__tokenizer_special(t, "bos"), 1);
    assert_int_equal(cot__tokenizer_special(t, "eos"), 2);
    assert_int_equal(cot__tokenizer_special(t, "unk"), 0);
    assert_int_equal(cot__tokenizer_special(t, "none such"), -1);
    assert_true(cot__tokenizer_adds_bos(t));
    assert_false(cot__tokenizer_adds_eos(t));
    cot__tokenizer_free(&t);
    t = load("t5");
    assert_true(cot__tokenizer_adds_eos(t));
    cot__tokenizer_free(&t);
    t = load("qwen2");
    assert_false(cot__tokenizer_adds_bos(t));
    assert_true(cot__tokenizer_special(t, "eot") >= 0);
    cot__tokenizer_free(&t);
}

/* Time stays near-linear on long runs, where expressions and merges could go quadratic. */
static void test_long_runs(void **state) {
    static const char *const of[] = {"deepseek-llm", "o200k", "llama3", "llama2", "t5", "kimi", "nfkc"};
    static const char *const runs[] = {"a", " ", "A", "\n", " \t", "\xcc\x81\xcc\xa7", "1", "\xe4\xb8\xad",
                                       "=", "aB"};
    enum { N = 60000 };
    char *b = cot__alloc(N + 8);
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        cot__tokenizer *t = load(of[i]);
        for (size_t r = 0; r < sizeof runs / sizeof *runs; r++) {
            size_t one = strlen(runs[r]), n = 0, m;
            int32_t *ids;
            b[n++] = 'x';
            for (; n + one < N; n += one) memcpy(b + n, runs[r], one);
            b[n++] = 'x';
            encode(t, (text){b, n}, false, &ids, &m);
            cot__free(ids);
        }
        cot__tokenizer_free(&t);
    }
    cot__free(b);
}

/* Byte tokens that are listed as special added tokens, too, still stand for their bytes. */
static void test_special_byte_tokens(void **state) {
    static const char json[] =
        "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<0x61>\":1,"
        "\"h\":2},\"merges\":[]},\"added_tokens\":[{\"id\":1,\"content\":\"<0x61>\",\"special\":true}],"
        "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]}}";
    static const int32_t want[] = {2, 1, 2};
    cot__tokenizer *t = NULL;
    cot_error err;
    int32_t *ids;
    size_t n;
    text x = {"hah", 3};
    if (cot__tokenizer_from_json(&t, "bytes", json, sizeof json - 1, NULL, 0, &err) != COT_OK)
        fail_msg("%s", err.message);
    encode(t, x, false, &ids, &n);
    same("bytes", 0, "special byte tokens", want, 3, ids, n);
    assert_true(comes_back(t, x, ids, n));
    cot__free(ids);
    cot__tokenizer_free(&t);
}

/* ---- out of memory ---- */

static const char tiny_bpe[] =
    "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"fuse_unk\":true,\"vocab\":{\"<unk>\":0,\"<s>\":1,"
    "\"<0x61>\":2,\"\xe2\x96\x81\":3,\"h\":4,\"e\":5,\"he\":6,\"\xe2\x96\x81he\":7},\"merges\":[\"h e\",[\"\xe2\x96\x81\",\"he\"]]},"
    "\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true,\"normalized\":false},{\"id\":8,\"content\":\"<t>\",\"rstrip\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\" \"},"
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]},"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[^\\\\r\\\\n\\\\p{L}]?\\\\p{L}+|\\\\s+(?!\\\\S)\"},\"behavior\":\"Isolated\"},"
    "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"first\",\"split\":false}]},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],"
    "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]}}}}";
static const char tiny_config[] =
    "{\"bos_token\":\"<s>\",\"add_bos_token\":true,\"eos_token\":{\"content\":\"<s>\"}}";

static cot_status whole_life(const char *json, size_t n, const char *config, const char *x, size_t n_x,
                             bool export) {
    cot__tokenizer *t = NULL, *u = NULL;
    cot_error err;
    int32_t *ids = NULL;
    size_t count, len;
    char *back = NULL;
    cot__vocab v;
    cot_status s = cot__tokenizer_from_json(&t, "tiny", json, n, config, config ? strlen(config) : 0, &err);
    if (s == COT_OK) s = cot__tokenizer_encode(t, x, n_x, true, true, &ids, &count, &err);
    if (s == COT_OK) s = cot__tokenizer_decode(t, ids, count, true, &back, &len, &err);
    if (s == COT_OK && export) s = cot__tokenizer_export(t, NULL, &v, &err);
    if (s == COT_OK && export) s = cot__tokenizer_from_vocab(&u, &v, &err);
    cot__free(ids);
    cot__free(back);
    cot__tokenizer_free(&t);
    cot__tokenizer_free(&u);
    return s;
}

static const char tiny_bytes[] =
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"h\":0,\"e\":1,\"he\":2,\"\xc4\xa0\":3,\"a\":4},\"merges\":[\"h e\"]},"
    "\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"special\":true}],\"normalizer\":null,"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"}}";
static const char tiny_unigram[] =
    "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"\xe2\x96\x81\",-2],[\"he\",-1.5],[\"h\",-3]]},"
    "\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true}],"
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"always\"},"
    "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"always\"}}";

static void test_memory_fails(void **state) {
    char x[600] = "he  he<s><t> \xef\xac\x81\xff a\xcc\x81 ";
    size_t n = strlen(x);
    memset(x + n, 'h', 60); /* long enough for the heap of merges */
    n += 60;
    COT_TORTURE(COT__FAULT_ALLOC,
                { COT_TORTURE_RESULT(whole_life(tiny_bpe, sizeof tiny_bpe - 1, tiny_config, x, n, false)); });
    COT_TORTURE(COT__FAULT_ALLOC,
                { COT_TORTURE_RESULT(whole_life(tiny_bytes, sizeof tiny_bytes - 1, NULL, x, n, true)); });
    COT_TORTURE(COT__FAULT_ALLOC,
                { COT_TORTURE_RESULT(whole_life(tiny_unigram, sizeof tiny_unigram - 1, NULL, x, n, true)); });
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),          cmocka_unit_test(test_export_after_nfc),
        cmocka_unit_test(test_any_bytes),       cmocka_unit_test(test_special_only_where_asked),
        cmocka_unit_test(test_swallowed_token), cmocka_unit_test(test_streaming),
        cmocka_unit_test(test_roles),           cmocka_unit_test(test_long_runs),
        cmocka_unit_test(test_memory_fails),    cmocka_unit_test(test_special_byte_tokens),
    };
    return cmocka_run_group_tests(tests, load_lines, free_lines);
}
