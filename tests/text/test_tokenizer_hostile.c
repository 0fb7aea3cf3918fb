/* Tokenizer files that are wrong: each gives one line that names the file and the field, and nothing else
 * happens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/pool.h"
#include "text/tokenizer.h"

static void check_error(cot_status s, const cot_error *err, const char *file) {
    assert_int_not_equal(s, COT_OK);
    assert_int_equal(err->status, s);
    assert_non_null(strstr(err->message, file));
    assert_null(strchr(err->message, '\n'));
}

/* `status` and a word of the message; word NULL: it loads. */
static void expect(const char *json, const char *config, cot_status status, const char *word) {
    cot__tokenizer *t = NULL;
    cot_error err = {0};
    cot_status s = cot__tokenizer_from_json(&t, "some/tokenizer.json", json, strlen(json), config,
                                            config ? strlen(config) : 0, &err);
    if (s != status || (word && !strstr(err.message, word)))
        fail_msg("status %d (%s), must be %d with \"%s\": %.100s", s, s ? err.message : "", status,
                 word ? word : "", json);
    if (s != COT_OK) check_error(s, &err, "tokenizer");
    if (s != COT_OK) assert_null(t);
    cot__tokenizer_free(&t);
}

#define MODEL(rest)                                                                                          \
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}" rest "}"

static const struct {
    const char *json;
    cot_status status;
    const char *word;
} cases[] = {
    {MODEL(""), COT_OK, NULL},
    {"", COT_FORMAT, "JSON"},
    {"[]", COT_FORMAT, "model"},
    {"7", COT_FORMAT, "model"},
    {"{}", COT_FORMAT, "model"},
    {"{\"model\":[]}", COT_FORMAT, "model"},
    {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", COT_UNSUPPORTED, "WordPiece"},
    {"{\"model\":{\"type\":\"BPE\"}}", COT_FORMAT, "model.vocab"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}", COT_FORMAT, "model.vocab"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", COT_FORMAT, "tokens"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", COT_FORMAT, "model.vocab"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", COT_FORMAT, "model.vocab"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2147483648},\"merges\":[]}}", COT_FORMAT, "model.vocab"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":9000000},\"merges\":[]}}", COT_FORMAT, "9000000"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1e30},\"merges\":[]}}", COT_FORMAT, "model.vocab"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", COT_FORMAT, "two tokens"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", COT_FORMAT, "JSON"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":{}}}", COT_FORMAT, "model.merges"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}}", COT_FORMAT, "model.merges"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", COT_FORMAT, "model.merges"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[1]}}", COT_FORMAT, "model.merges"},
    /* merges of what is no token, twice the same, and of a token with itself are legal and harmless */
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"aa\":1,\"aaaa\":2},\"merges\":[\"a a\",\"a a\",\"aa aa\",\"x y\",\"aaaa a\"]}}",
     COT_OK, NULL},
    {"{\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}}", COT_UNSUPPORTED,
     "dropout"},
    {"{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\",\"vocab\":{\"a\":0},\"merges\":[]}}",
     COT_UNSUPPORTED, "end_of_word_suffix"},
    {"{\"model\":{\"type\":\"BPE\",\"byte_fallback\":1,\"vocab\":{\"a\":0},\"merges\":[]}}", COT_FORMAT,
     "byte_fallback"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", COT_FORMAT, "model.vocab"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",\"x\"]]}}", COT_FORMAT, "model.vocab"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",-1e300]]}}", COT_FORMAT, "score"},
    {"{\"model\":{\"type\":\"Unigram\",\"unk_id\":7,\"vocab\":[[\"a\",-1]]}}", COT_FORMAT, "unk_id"},
    {MODEL(",\"added_tokens\":{}"), COT_FORMAT, "added_tokens"},
    {MODEL(",\"added_tokens\":[7]"), COT_FORMAT, "added_tokens"},
    {MODEL(",\"added_tokens\":[{\"id\":3}]"), COT_FORMAT, "added_tokens"},
    {MODEL(",\"added_tokens\":[{\"id\":99999999999,\"content\":\"x\"}]"), COT_FORMAT, "added_tokens"},
    {MODEL(",\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]"), COT_FORMAT, "added_tokens"},
    {MODEL(",\"added_tokens\":[{\"id\":3,\"content\":\"x\",\"special\":\"yes\"}]"), COT_FORMAT, "special"},
    {MODEL(",\"normalizer\":7"), COT_FORMAT, "normalizer"},
    {MODEL(",\"normalizer\":{\"type\":\"Bert\"}"), COT_UNSUPPORTED, "Bert"},
    {MODEL(",\"normalizer\":{\"type\":\"Sequence\"}"), COT_FORMAT, "normalizers"},
    {MODEL(",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{},\"content\":\"\"}"), COT_FORMAT,
     "normalizer.pattern"},
    {MODEL(",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"/////w==\"}"), COT_FORMAT,
     "precompiled_charsmap"},
    {MODEL(",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"a b\"}"), COT_FORMAT,
     "base64"},
    {MODEL(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"}}"), COT_UNSUPPORTED,
     "regular expression"},
    {MODEL(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a\"}}"), COT_UNSUPPORTED,
     "regular expression"},
    {MODEL(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{Klingon}\"}}"),
     COT_UNSUPPORTED, "regular expression"},
    {MODEL(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?R)\"}}"), COT_UNSUPPORTED,
     "regular expression"},
    {MODEL(
         ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"((((a{9}){9}){99}){999}){999}\"}}"),
     COT_UNSUPPORTED, "regular expression"},
    {MODEL(
         ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Sideways\",\"pattern\":{\"String\":\"a\"}}"),
     COT_UNSUPPORTED, "behavior"},
    {MODEL(",\"pre_tokenizer\":{\"type\":\"Metaspace\"}"), COT_FORMAT, "replacement"},
    {MODEL(",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}"), COT_UNSUPPORTED, "UnicodeScripts"},
    {MODEL(",\"decoder\":{\"type\":\"WordPiece\"}"), COT_UNSUPPORTED, "decoder"},
    {MODEL(",\"decoder\":{\"type\":\"ByteLevel\"}"), COT_UNSUPPORTED, "decoder"},
    {MODEL(",\"decoder\":{\"type\":\"Strip\",\"content\":\"a\",\"start\":-1}"), COT_FORMAT, "start"},
    {MODEL(
         ",\"decoder\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":"
         "\"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890\"}"),
     COT_LIMIT, "decoder"},
    {MODEL(",\"post_processor\":{\"type\":\"TemplateProcessing\"}"), COT_FORMAT, "post_processor"},
    {MODEL(
         ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}"),
     COT_FORMAT, "special_tokens"},
    {MODEL(
         ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],"
         "\"special_tokens\":{\"x\":{\"ids\":[77]}}}"),
     COT_FORMAT, "post_processor"},
    {MODEL(",\"post_processor\":{\"type\":\"RobertaProcessing\"}"), COT_FORMAT, "post_processor"},
};

static void test_fields(void **state) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect(cases[i].json, NULL, cases[i].status, cases[i].word);
    expect(MODEL(""), "{", COT_FORMAT, "tokenizer_config.json");
    expect(MODEL(""), "[1]", COT_OK, NULL); /* a configuration that says nothing */
    expect(
        MODEL(""),
        "{\"bos_token\":\"none\",\"add_bos_token\":true,\"added_tokens_decoder\":{\"99999999999999\":{\"content\":\"x\"},\"-1\":{}}}",
        COT_OK, NULL);
}

static void test_deep(void **state) {
    enum { DEEP = 400 };
    char *json = cot__alloc(DEEP * 64 + 256), *p = json;
    p += sprintf(p, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":");
    for (int i = 0; i < DEEP; i++) p += sprintf(p, "{\"type\":\"Sequence\",\"normalizers\":[");
    p += sprintf(p, "{\"type\":\"NFC\"}");
    for (int i = 0; i < DEEP; i++) p += sprintf(p, "]}");
    sprintf(p, "}");
    expect(json, NULL, COT_LIMIT, "normalizer");
    p = json +
        sprintf(
            json,
            "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[");
    for (int i = 0; i < 40; i++) p += sprintf(p, "%s{\"type\":\"WhitespaceSplit\"}", i ? "," : "");
    sprintf(p, "]}}");
    expect(json, NULL, COT_LIMIT, "pre_tokenizer");
    cot__free(json);
}

/* Cut at every byte: an error, never a crash. */
static void test_truncated(void **state) {
    char *json = NULL;
    size_t n;
    cot_error err;
    assert_int_equal(
        cot__file_slurp(COT_SOURCE_DIR "/fuzz/corpus/tokenizer/llama3.bin", 1 << 20, &json, &n, &err),
        COT_OK);
    n = strlen(json); /* behind the NUL stands a text */
    size_t live = cot__alloc_live();
    for (size_t k = 0; k <= n; k++) {
        cot__tokenizer *t = NULL;
        cot_status s = cot__tokenizer_from_json(&t, "cut.json", json, k, NULL, 0, &err);
        if (k < n) check_error(s, &err, "cut.json");
        else assert_int_equal(s, COT_OK);
        cot__tokenizer_free(&t);
        assert_int_equal(cot__alloc_live(), live);
    }
    cot__free(json);
}

/* ---- GGUF's words ---- */

#define S(x)                                                                                                 \
    { x, sizeof(x) - 1 }

static void expect_vocab(const cot__vocab *v, cot_status status, const char *word) {
    cot__tokenizer *t = NULL;
    cot_error err = {0};
    cot_status s = cot__tokenizer_from_vocab(&t, v, &err);
    if (s != status || (word && !strstr(err.message, word)))
        fail_msg("status %d (%s), must be %d with \"%s\"", s, s ? err.message : "", status, word ? word : "");
    if (s != COT_OK) check_error(s, &err, "some.gguf");
    cot__tokenizer_free(&t);
}

static void test_vocab(void **state) {
    static const cot__vocab_str tokens[] = {S("a"), S("b"), S("ab"), S(""), S("a"), {NULL, 0}};
    static const cot__vocab_str merges[] = {S("a b"), S("a b"), S("ab ab"), S("x y")};
    static const cot__vocab_str bad[] = {S("ab")};
    static const float scores[6] = {0}, not_finite[6] = {0, -1.0f / 0.0f};
    static const int32_t types[] = {1, 77, -3, 1, 4, 3};
    static const unsigned char map[] = {255, 255, 255, 255, 0};
    static const cot__vocab_str long_token[] = {{(const char *)tokens, 1u << 20}};
    const cot__vocab good = {.file = "some.gguf",
                             .model = "gpt2",
                             .pre = "qwen2",
                             .tokens = tokens,
                             .n_tokens = 6,
                             .types = types,
                             .merges = merges,
                             .n_merges = 4,
                             .bos = 1 << 30,
                             .eos = -5,
                             .unk = -1,
                             .eot = 6,
                             .eom = -1,
                             .pad = -1,
                             .add_bos = 1,
                             .add_eos = 1};
    cot__vocab v = good;
    expect_vocab(&v, COT_OK, NULL);
    v.tokens = NULL;
    expect_vocab(&v, COT_FORMAT, "tokenizer.ggml.tokens");
    v = good, v.n_tokens = 0;
    expect_vocab(&v, COT_FORMAT, "tokens");
    v = good, v.n_tokens = SIZE_MAX / 2;
    expect_vocab(&v, COT_LIMIT, "tokens");
    v = good, v.tokens = long_token, v.n_tokens = 1;
    expect_vocab(&v, COT_LIMIT, "token 0");
    v = good, v.n_merges = 0;
    expect_vocab(&v, COT_FORMAT, "tokenizer.ggml.merges");
    v = good, v.merges = bad, v.n_merges = 1;
    expect_vocab(&v, COT_FORMAT, "tokenizer.ggml.merges");
    v = good, v.n_merges = SIZE_MAX / 64;
    expect_vocab(&v, COT_LIMIT, "merges");
    v = good, v.pre = "no such name";
    expect_vocab(&v, COT_UNSUPPORTED, "tokenizer.ggml.pre");
    v = good, v.model = "bert";
    expect_vocab(&v, COT_UNSUPPORTED, "tokenizer.ggml.model");
    v = good, v.model = "llama";
    expect_vocab(&v, COT_FORMAT, "tokenizer.ggml.scores");
    v.scores = scores;
    expect_vocab(&v, COT_OK, NULL);
    v.charsmap = map, v.charsmap_len = sizeof map;
    expect_vocab(&v, COT_FORMAT, "tokenizer.ggml.precompiled_charsmap");
    v = good, v.model = "t5", v.scores = not_finite, v.types = NULL;
    expect_vocab(&v, COT_FORMAT, "score");
}

/* ---- cost ---- */

/* Expressions that would take for ever end with an error, at the first place or at every place. */
static void test_catastrophic(void **state) {
    static const char *const evil[] = {"(a+)+b",      "(a|a)*b",    "(a|aa)+$b",  "(?:a?){40}a{40}b",
                                       ".*.*.*.*.*b", "(?=(a+)+b)", "(a*)*(?!a)b"};
    enum { N = 20000 };
    char *text = cot__alloc(N), json[512];
    memset(text, 'a', N);
    memcpy(text + N - 3, "c b", 3); /* what the expressions need is there, out of reach */
    for (size_t i = 0; i < sizeof evil / sizeof *evil; i++) {
        cot__tokenizer *t = NULL;
        cot_error err = {0};
        int32_t *ids = NULL;
        size_t n;
        snprintf(json, sizeof json,
                 MODEL(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"}}"), evil[i]);
        assert_int_equal(cot__tokenizer_from_json(&t, "evil.json", json, strlen(json), NULL, 0, &err),
                         COT_OK);
        double start = cot__now();
        cot_status s = cot__tokenizer_encode(t, text, N, false, false, &ids, &n, &err);
        if (s != COT_OK) {
            assert_int_equal(s, COT_LIMIT);
            assert_null(strchr(err.message, '\n'));
        } else cot__free(ids);
        if (cot__now() - start > 30) fail_msg("%s took %.0f s", evil[i], cot__now() - start);
        cot__tokenizer_free(&t);
    }
    cot__free(text);
}

/* Steps that blow text up end with an error. */
static void test_growth(void **state) {
    char json[8192], *p = json;
    cot__tokenizer *t = NULL;
    cot_error err = {0};
    int32_t *ids;
    size_t n;
    p += sprintf(
        p,
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[");
    for (int i = 0; i < 16; i++)
        p += sprintf(
            p,
            "%s{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}",
            i ? "," : "");
    sprintf(p, "]}}");
    assert_int_equal(cot__tokenizer_from_json(&t, "grow.json", json, strlen(json), NULL, 0, &err), COT_OK);
    assert_int_equal(cot__tokenizer_encode(t, "aaaa", 4, false, false, &ids, &n, &err), COT_LIMIT);
    assert_non_null(strstr(err.message, "normalizer"));
    cot__tokenizer_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields), cmocka_unit_test(test_deep),   cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_vocab),  cmocka_unit_test(test_growth), cmocka_unit_test(test_catastrophic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
