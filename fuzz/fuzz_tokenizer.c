/* Fuzz: tokenizers. Two forms of input. One that begins with "{" is a tokenizer.json; behind a NUL may follow
 * a text to encode and, behind another, a tokenizer_config.json. Everything else is a GGUF vocabulary, made
 * up from a few bytes of choices, then tokens and merges with a length in front, then the text. What loads
 * encodes the text in every way, decodes it, and is put in GGUF's words and read again. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char other_text[] =
    "Hello, world's 12345 \xe4\xbd\xa0\xe5\xa5\xbd \xff\xc3 a\xcc\x81  \r\n\t<s>\xf0\x9f\x98\x80 ABCdef";

static void check_error(cot_status s, const cot_error *err) {
    if (s == COT_OK) return;
    if (err->status != s || !err->message[0] || strchr(err->message, '\n')) abort(); /* one line, always */
}

static void check_text(const cot__tokenizer *t, const char *text, size_t n) {
    size_t size = cot__tokenizer_size(t);
    for (int way = 0; way < 4; way++) {
        int32_t *ids = NULL;
        size_t count = 0, len;
        char *back = NULL;
        cot_error err = {0};
        cot_status s = cot__tokenizer_encode(t, text, n, way & 1, way & 2, &ids, &count, &err);
        check_error(s, &err);
        if (s != COT_OK) continue;
        for (size_t i = 0; i < count; i++)
            if (ids[i] < 0 || (size_t)ids[i] >= size) abort();
        s = cot__tokenizer_decode(t, ids, count, way & 1, &back, &len, &err);
        if (s == COT_OK && back[len]) abort();
        if (s != COT_OK) check_error(s, &err);
        else cot__free(back);
        cot__free(ids);
    }
}

static void check(cot__tokenizer *t, const char *text, size_t n, bool again) {
    size_t size = cot__tokenizer_size(t), sum = 0, len;
    static const char *const roles[] = {"bos", "eos", "unk", "pad", "eot", "eom"};
    for (size_t i = 0; i < 6; i++)
        if (cot__tokenizer_special(t, roles[i]) >= (int64_t)size) abort();
    for (size_t i = 0; i < size && i < 4096; i++) {
        const char *p = cot__tokenizer_piece(t, (int32_t)i, true, &len);
        for (size_t k = 0; k < len; k++) sum += (unsigned char)p[k];
        sum += (size_t)cot__tokenizer_find(t, p, len);
    }
    check_text(t, text, n);
    check_text(t, other_text, sizeof other_text - 1);
    cot__vocab v;
    cot_error err = {0};
    cot_status s = again ? cot__tokenizer_export(t, sum % 8 ? NULL : "qwen2", &v, &err) : COT_ARGUMENT;
    if (s != COT_OK) return;
    cot__tokenizer *u = NULL;
    s = cot__tokenizer_from_vocab(&u, &v, &err);
    check_error(s, &err);
    if (s == COT_OK) check(u, text, n, false);
    cot__tokenizer_free(&u);
}

static void try_json(const char *data, size_t size) {
    const char *end = data + size, *text = memchr(data, 0, size), *config = NULL;
    size_t n_json = text ? (size_t)(text - data) : size;
    if (text) {
        text++;
        config = memchr(text, 0, (size_t)(end - text));
    }
    size_t n_text = text ? (size_t)((config ? config : end) - text) : 0;
    if (config) config++;
    cot__tokenizer *t = NULL;
    cot_error err = {0};
    cot_status s = cot__tokenizer_from_json(&t, "tokenizer.json", data, n_json, config,
                                            config ? (size_t)(end - config) : 0, &err);
    check_error(s, &err);
    if (s == COT_OK) check(t, text ? text : data, text ? n_text : size, true);
    cot__tokenizer_free(&t);
}

typedef struct reader {
    const uint8_t *p;
    size_t n;
} reader;

static unsigned byte(reader *r) { return r->n ? (r->n--, *r->p++) : 0; }

static cot__vocab_str str(reader *r) {
    size_t n = byte(r) % 64;
    if (n > r->n) n = r->n;
    cot__vocab_str s = {(const char *)r->p, n};
    r->p += n;
    r->n -= n;
    return s;
}

static void try_vocab(reader r) {
    static const char *const models[] = {"gpt2", "llama", "t5", "gemma4"};
    static const char *const pres[] = {"gpt-2",     "llama-bpe",  "qwen2",      "deepseek-llm", "deepseek-v3",
                                       "gpt-4o",    "tekken",     "bailingmoe", "kimi-k2",      "falcon",
                                       "poro-chat", "exaone-moe", "gemma4",     "default",      "starcoder",
                                       "chameleon", "jais-2",     "youtu",      NULL,           "nobody"};
    static cot__vocab_str tokens[512], merges[256];
    static float scores[512];
    static int32_t types[512];
    unsigned flags = byte(&r), more = byte(&r);
    cot__vocab v = {.file = "fuzz.gguf", .model = models[flags & 3], .pre = pres[byte(&r) % 20]};
    v.add_bos = (int8_t)(more % 3) - 1;
    v.add_eos = (int8_t)(more / 3 % 3) - 1;
    v.add_space_prefix = (int8_t)(more / 9 % 3) - 1;
    v.remove_extra_whitespaces = (int8_t)(more / 27 % 3) - 1;
    v.bos = (int32_t)(int8_t)byte(&r);
    v.eos = (int32_t)(int8_t)byte(&r);
    v.unk = (int32_t)(int8_t)byte(&r);
    v.pad = v.eot = v.eom = -1;
    if (flags & 4) { /* all bytes as tokens, so that less is unknown */
        static char names[256][8];
        for (unsigned b = 0; b < 256; b++, v.n_tokens++) {
            static const char hex[] = "0123456789ABCDEF";
            memcpy(names[b], "<0x00>", 7);
            names[b][3] = hex[b >> 4];
            names[b][4] = hex[b & 15];
            types[v.n_tokens] = 6;
            tokens[v.n_tokens] = (cot__vocab_str){names[b], 6};
            if ((flags & 3) == 0 && b > 32 && b < 127) {
                names[b][0] = (char)b;
                tokens[v.n_tokens].len = 1;
                types[v.n_tokens] = 1;
            }
        }
    }
    for (unsigned k = byte(&r); k && r.n; k--, v.n_tokens++) {
        unsigned how = byte(&r);
        types[v.n_tokens] = (int32_t)(how % 8);
        scores[v.n_tokens] = (float)(how >> 3) - 16;
        tokens[v.n_tokens] = str(&r);
    }
    for (unsigned k = byte(&r); k && r.n; k--) merges[v.n_merges++] = str(&r);
    if (flags & 8) {
        cot__vocab_str map = str(&r);
        v.charsmap = (const unsigned char *)map.s;
        v.charsmap_len = map.len;
    }
    v.tokens = tokens;
    v.merges = merges;
    v.scores = flags & 16 ? NULL : scores;
    v.types = flags & 32 ? NULL : types;
    cot__tokenizer *t = NULL;
    cot_error err = {0};
    cot_status s = cot__tokenizer_from_vocab(&t, &v, &err);
    check_error(s, &err);
    if (s == COT_OK) check(t, (const char *)r.p, r.n, false);
    cot__tokenizer_free(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size && data[0] == '{') try_json((const char *)data, size);
    else try_vocab((reader){data, size});
    return 0;
}
