/* Owns: tokenizers from Hugging Face's tokenizer.json with tokenizer_config.json and special_tokens_map.json.
 * `truncation` and `padding` of the file are not applied: they belong to training. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "text/tok_internal.h"

#define JSON_MAX ((size_t)256 << 20)

typedef struct source {
    const json_t *root, *model, *vocab, *added;
    const json_t *config, *map; /* may be NULL */
    const char *unk;
    bool unigram;
} source;

/* ---- shape ---- */

static cot_status check_model(cot__tokenizer *t, source *s, cot_error *err) {
    static const char *const empty[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *v = json_object_get(s->model, empty[i]);
        if (v && !json_is_null(v) && json_string_length(v))
            return cot__fail(err, COT_UNSUPPORTED, t->file, empty[i], "is not supported unless empty");
    }
    double dropout = 0;
    COT_TRY(cot__json_f64(s->model, t->file, "dropout", &dropout, err));
    if (dropout != 0) return cot__fail(err, COT_UNSUPPORTED, t->file, "dropout", "must be 0 to use a model");
    t->fuse_unk = s->unigram;
    COT_TRY(cot__json_bool(s->model, t->file, "fuse_unk", &t->fuse_unk, err));
    COT_TRY(cot__json_bool(s->model, t->file, "byte_fallback", &t->byte_fallback, err));
    COT_TRY(cot__json_bool(s->model, t->file, "ignore_merges", &t->ignore_merges, err));
    COT_TRY(cot__json_str(s->model, t->file, "unk_token", &s->unk, err));
    if (t->byte_level && s->unigram)
        return cot__fail(err, COT_UNSUPPORTED, t->file, "pre_tokenizer", "ByteLevel with a Unigram model");
    return COT_OK;
}

/* Opens what all the rest hangs on, and counts ids. */
static cot_status open_source(source *s, const char *file, size_t *n_tokens, cot_error *err) {
    s->model = json_object_get(s->root, "model");
    if (!json_is_object(s->model)) return cot__fail(err, COT_FORMAT, file, "model", "is missing");
    s->vocab = json_object_get(s->model, "vocab");
    const char *type = json_string_value(json_object_get(s->model, "type"));
    if (!type)
        type = json_is_array(s->vocab)               ? "Unigram"
               : json_object_get(s->model, "merges") ? "BPE"
                                                     : "WordLevel";
    s->unigram = strcmp(type, "Unigram") == 0;
    if (!s->unigram && strcmp(type, "BPE") != 0)
        return cot__fail(err, COT_UNSUPPORTED, file, "model.type",
                         "\"%s\" is not supported; BPE and Unigram are", type);
    if (s->unigram ? !json_is_array(s->vocab) : !json_is_object(s->vocab))
        return cot__fail(err, COT_FORMAT, file, "model.vocab", "must be a%s",
                         s->unigram ? " list" : "n object");
    s->added = json_object_get(s->root, "added_tokens");
    if (s->added && !json_is_null(s->added) && !json_is_array(s->added))
        return cot__fail(err, COT_FORMAT, file, "added_tokens", "must be a list");
    size_t count = s->unigram ? json_array_size(s->vocab) : json_object_size(s->vocab),
           top = s->unigram ? count : 0;
    const char *key;
    json_t *v;
    if (!s->unigram) json_object_foreach((json_t *)s->vocab, key, v) {
            if (!json_is_integer(v) || json_integer_value(v) < 0 ||
                json_integer_value(v) >= COT__TOK_COUNT_MAX)
                return cot__fail(err, COT_FORMAT, file, "model.vocab",
                                 "the id of \"%.40s\" is not a sensible number", key);
            if ((size_t)json_integer_value(v) >= top) top = (size_t)json_integer_value(v) + 1;
        }
    for (size_t i = 0; i < json_array_size(s->added); i++, count++) {
        const json_t *id = json_object_get(json_array_get(s->added, i), "id");
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= COT__TOK_COUNT_MAX)
            return cot__fail(err, COT_FORMAT, file, "added_tokens", "entry %zu has no sensible id", i);
        if ((size_t)json_integer_value(id) >= top) top = (size_t)json_integer_value(id) + 1;
    }
    /* Gaps are allowed (padded vocabularies), but a few tokens do not make a large table. */
    if (top > count * 4 + (1u << 20))
        return cot__fail(err, COT_FORMAT, file, "model.vocab", "%zu tokens with ids up to %zu", count,
                         top - 1);
    *n_tokens = top;
    return COT_OK;
}

/* ---- tokens ---- */

static bool is_byte_token(const cot__tokenizer *t, const char *s, size_t n) {
    return t->byte_fallback && n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>';
}

/* A score as the tokenizers library has it: its JSON reader makes a number of the digits as an integer and a
 * power of ten, rounding twice. Segmentations of equal sums, such as runs of hyphens, are decided by that.
 * The digits are those of the shortest spelling, which is what files are written with. */
static double reread(double v) {
    char b[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(b, sizeof b, "%.*e", digits - 1, fabs(v));
        if (strtod(b, NULL) == fabs(v)) break;
    }
    uint64_t whole = 0;
    int behind = -1;
    const char *p = b;
    for (; *p && *p != 'e'; p++) {
        if (*p < '0' || *p > '9') continue; /* the point, whatever the locale has for it */
        whole = whole * 10 + (uint64_t)(*p - '0');
        behind++;
    }
    for (; whole && whole % 10 == 0; whole /= 10) behind--;
    int power = *p ? (int)strtol(p + 1, NULL, 10) - behind : 0;
    char ten[16];
    snprintf(ten, sizeof ten, "1e%d", abs(power));
    double scale = strtod(ten, NULL), r = power < 0 ? (double)whole / scale : (double)whole * scale;
    return v < 0 ? -r : r;
}

static cot_status add_vocab(cot__tokenizer *t, const source *s, cot_error *err) {
    if (!s->unigram) {
        for (void *it = json_object_iter((json_t *)s->vocab); it;
             it = json_object_iter_next((json_t *)s->vocab, it)) {
            const char *text = json_object_iter_key(it);
            size_t id = (size_t)json_integer_value(json_object_iter_value(it)), n = strlen(text);
            if (t->entry[id].text)
                return cot__fail(err, COT_FORMAT, t->file, "model.vocab", "two tokens have the id %zu", id);
            bool byte = is_byte_token(t, text, n);
            COT_TRY(cot__tok_set(t, id, text, n, byte ? COT__TOK_BYTE : COT__TOK_NORMAL, 0, !byte, err));
        }
        return COT_OK;
    }
    for (size_t id = 0; id < json_array_size(s->vocab); id++) {
        const json_t *pair = json_array_get(s->vocab, id), *text = json_array_get(pair, 0),
                     *score = json_array_get(pair, 1);
        if (!json_is_string(text) || !json_is_number(score))
            return cot__fail(err, COT_FORMAT, t->file, "model.vocab", "entry %zu is not a text and a score",
                             id);
        bool byte = is_byte_token(t, json_string_value(text), json_string_length(text));
        COT_TRY(cot__tok_set(t, id, json_string_value(text), json_string_length(text),
                             byte ? COT__TOK_BYTE : COT__TOK_NORMAL, reread(json_number_value(score)), !byte,
                             err));
    }
    int64_t unk = -1;
    COT_TRY(cot__json_int(s->model, t->file, "unk_id", 0, (int64_t)t->n_tokens - 1, &unk, err));
    t->unk = (int32_t)unk;
    return COT_OK;
}

/* Id of a text of the model's vocabulary before the maps exist. */
static int64_t vocab_id(const source *s, const char *text) {
    if (s->unigram) return -1;
    const json_t *v = json_object_get(s->vocab, text);
    return v ? (int64_t)json_integer_value(v) : -1;
}

static cot_status add_one(cot__tokenizer *t, const source *s, const json_t *j, int64_t id, cot_error *err) {
    const json_t *content = json_object_get(j, "content");
    if (!json_is_string(content))
        return cot__fail(err, COT_FORMAT, t->file, "added_tokens", "a token has no content");
    const char *text = json_string_value(content);
    size_t n = json_string_length(content);
    cot__tok_added a = {0};
    int64_t known = vocab_id(s, text);
    if (known >= 0) id = known; /* the model's id counts, as in the tokenizers library */
    if (id < 0 || (size_t)id >= t->n_tokens)
        return cot__fail(err, COT_FORMAT, t->file, "added_tokens",
                         "\"%.40s\" has an id beyond the vocabulary", text);
    cot__tok_entry *e = &t->entry[id];
    if (e->text && (e->text_len != n || memcmp(e->text, text, n) != 0))
        return cot__fail(err, COT_FORMAT, t->file, "added_tokens", "\"%.40s\" has the id of another token",
                         text);
    a.id = (int32_t)id;
    COT_TRY(cot__json_bool(j, t->file, "special", &a.special, err));
    a.normalized = !a.special;
    COT_TRY(cot__json_bool(j, t->file, "normalized", &a.normalized, err));
    COT_TRY(cot__json_bool(j, t->file, "single_word", &a.single_word, err));
    COT_TRY(cot__json_bool(j, t->file, "lstrip", &a.lstrip, err));
    COT_TRY(cot__json_bool(j, t->file, "rstrip", &a.rstrip, err));
    bool in_vocab = e->text != NULL;
    int type = in_vocab && e->type == COT__TOK_BYTE ? COT__TOK_BYTE /* special or not */
               : a.special                          ? COT__TOK_CONTROL
                                                    : COT__TOK_USER;
    COT_TRY(cot__tok_set(t, (size_t)id, text, n, type, e->score, in_vocab && !a.special && e->in_model, err));
    a.text = (cot__vocab_str){e->text, e->text_len};
    t->added[t->n_added++] = a;
    return COT_OK;
}

/* Tokens that only tokenizer_config.json names come last, as transformers adds them. */
static cot_status add_added(cot__tokenizer *t, const source *s, cot_error *err) {
    const json_t *more = json_object_get(s->config, "added_tokens_decoder");
    size_t n = json_array_size(s->added) + json_object_size(more);
    t->added = cot__alloc_zero(n, sizeof *t->added);
    if (!t->added) return cot__fail_memory(err, n * sizeof *t->added);
    for (size_t i = 0; i < json_array_size(s->added); i++) {
        const json_t *j = json_array_get(s->added, i);
        COT_TRY(add_one(t, s, j, json_integer_value(json_object_get(j, "id")), err));
    }
    const char *key;
    json_t *j;
    json_object_foreach((json_t *)more, key, j) {
        const char *content = json_string_value(json_object_get(j, "content"));
        bool have = !content;
        int64_t id = 0;
        for (const char *p = key; *p && !have; p++) {
            if (*p < '0' || *p > '9' || (id = id * 10 + (*p - '0')) >= (int64_t)t->n_tokens) have = true;
        }
        if (have) continue;
        for (size_t i = 0; i < t->n_added && !have; i++) have = strcmp(t->added[i].text.s, content) == 0;
        if (!have && (!t->entry[id].text || strcmp(t->entry[id].text, content) == 0))
            COT_TRY(add_one(t, s, j, id, err));
    }
    return COT_OK;
}

/* Added tokens that are looked for in normalised text are normalised themselves. */
static cot_status normalize_added(cot__tokenizer *t, cot_error *err) {
    cot__tok_run run = {.t = t, .err = err};
    cot_status s = COT_OK;
    for (size_t i = 0; i < t->n_added && t->n_norm && s == COT_OK; i++) {
        cot__tok_added *a = &t->added[i];
        if (!a->normalized) continue;
        const char *text = a->text.s;
        size_t n = a->text.len;
        s = cot__tok_normalize(&run, &text, &n);
        if (s == COT_OK && !(a->text.s = cot__tok_copy(t, text, n, err))) s = COT_NO_MEMORY;
        if (s == COT_OK) a->text.len = n;
    }
    cot__tok_matcher_clear(&run.match);
    cot__buf_free(&run.norm[0]);
    cot__buf_free(&run.norm[1]);
    return s == COT_OK ? cot__tok_added_build(t, err) : s;
}

static cot_status add_merges(cot__tokenizer *t, const source *s, cot_error *err) {
    const json_t *merges = json_object_get(s->model, "merges");
    if (!json_is_array(merges)) return cot__fail(err, COT_FORMAT, t->file, "model.merges", "must be a list");
    COT_TRY(cot__tok_merges_begin(t, json_array_size(merges), err));
    size_t lost = 0;
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *m = json_array_get(merges, i), *l = json_array_get(m, 0), *r = json_array_get(m, 1);
        bool known = false;
        if (json_is_string(m)) {
            const char *text = json_string_value(m), *cut = *text ? strchr(text + 1, ' ') : NULL;
            if (!cut)
                return cot__fail(err, COT_FORMAT, t->file, "model.merges", "entry %zu is not two tokens", i);
            COT_TRY(cot__tok_merge_add(t, text, (size_t)(cut - text), cut + 1,
                                       json_string_length(m) - (size_t)(cut - text) - 1, &known, err));
        } else if (json_is_string(l) && json_is_string(r))
            COT_TRY(cot__tok_merge_add(t, json_string_value(l), json_string_length(l), json_string_value(r),
                                       json_string_length(r), &known, err));
        else return cot__fail(err, COT_FORMAT, t->file, "model.merges", "entry %zu is not two tokens", i);
        lost += !known;
    }
    if (lost)
        cot__log(COT_LOG_WARN, "%s: %zu of %zu merges name what is no token and are not used", t->file, lost,
                 json_array_size(merges));
    return COT_OK;
}

/* ---- roles ---- */

static int32_t role(const cot__tokenizer *t, const source *s, const char *key) {
    const json_t *from[] = {s->config, s->map};
    for (size_t i = 0; i < 2; i++) {
        const json_t *v = json_object_get(from[i], key);
        if (json_is_object(v)) v = json_object_get(v, "content");
        if (!json_is_string(v)) continue;
        int32_t id = cot__tokenizer_find(t, json_string_value(v), json_string_length(v));
        if (id >= 0) return id;
    }
    return -1;
}

/* add_bos_token and add_eos_token of the configuration, where given, have the last word. */
static cot_status add_habits(cot__tokenizer *t, const source *s, cot_error *err) {
    const json_t *bos = json_object_get(s->config, "add_bos_token"),
                 *eos = json_object_get(s->config, "add_eos_token");
    if (t->bos >= 0 && json_is_boolean(bos)) {
        bool has = t->n_prefix && t->prefix[0] == t->bos;
        if (json_is_true(bos) && !has) COT_TRY(cot__tok_affix(&t->prefix, &t->n_prefix, t->bos, true, err));
        if (!json_is_true(bos) && has) memmove(t->prefix, t->prefix + 1, --t->n_prefix * sizeof *t->prefix);
    }
    if (t->eos >= 0 && json_is_boolean(eos)) {
        bool has = t->n_suffix && t->suffix[t->n_suffix - 1] == t->eos;
        if (json_is_true(eos) && !has) COT_TRY(cot__tok_affix(&t->suffix, &t->n_suffix, t->eos, false, err));
        if (!json_is_true(eos) && has) t->n_suffix--;
    }
    return COT_OK;
}

static cot_status add_roles(cot__tokenizer *t, const source *s, cot_error *err) {
    t->bos = role(t, s, "bos_token");
    t->eos = role(t, s, "eos_token");
    t->pad = role(t, s, "pad_token");
    t->unk_role = role(t, s, "unk_token");
    if (t->unk_role < 0) t->unk_role = t->unk;
    if (t->bos < 0 && t->n_prefix) t->bos = t->prefix[0];
    cot__tok_roles_guess(t);
    return add_habits(t, s, err);
}

/* ---- the whole ---- */

static cot_status build(cot__tokenizer *t, source *s, cot_error *err) {
    t->from_json = true;
    t->model = s->unigram ? COT__MODEL_UNIGRAM : COT__MODEL_BPE;
    COT_TRY(cot__tok_json_normalizer(t, json_object_get(s->root, "normalizer"), err));
    COT_TRY(cot__tok_json_pre_tokenizer(t, json_object_get(s->root, "pre_tokenizer"), err));
    COT_TRY(cot__tok_json_decoder(t, json_object_get(s->root, "decoder"), err));
    COT_TRY(check_model(t, s, err));
    COT_TRY(add_vocab(t, s, err));
    COT_TRY(add_added(t, s, err));
    if (s->unk) t->unk = (int32_t)vocab_id(s, s->unk);
    /* In a unigram model the unknown token is no word of the text. */
    if (t->unk >= 0 && t->entry[t->unk].text) {
        t->entry[t->unk].type = COT__TOK_UNKNOWN;
        t->entry[t->unk].in_model = false;
    } else t->unk = -1;
    COT_TRY(cot__tok_index(t, err));
    if (s->unigram) COT_TRY(cot__tok_unigram_build(t, err));
    else COT_TRY(add_merges(t, s, err));
    COT_TRY(normalize_added(t, err));
    COT_TRY(cot__tok_json_post_processor(t, json_object_get(s->root, "post_processor"), err));
    return add_roles(t, s, err);
}

static cot_status from_source(cot__tokenizer **out, source *s, const char *file, cot_error *err) {
    size_t n = 0;
    cot__tokenizer *t = NULL;
    COT_TRY(open_source(s, file, &n, err));
    COT_TRY(cot__tok_new(&t, file, n, err));
    cot_status status = build(t, s, err);
    if (status == COT_OK) *out = t;
    else cot__tokenizer_free(&t);
    return status;
}

cot_status cot__tokenizer_from_json(cot__tokenizer **out, const char *file, const char *text, size_t n,
                                    const char *config, size_t n_config, cot_error *err) {
    json_t *root = NULL, *conf = NULL;
    cot_status s = cot__json_parse(&root, file, text, n, err);
    if (s == COT_OK && config) s = cot__json_parse(&conf, "tokenizer_config.json", config, n_config, err);
    if (s == COT_OK) s = from_source(out, &(source){.root = root, .config = conf}, file, err);
    json_decref(root);
    json_decref(conf);
    return s;
}

static cot_status load(json_t **out, const char *dir, const char *name, bool required, cot_error *err) {
    char *path = cot__path_join(dir, name);
    if (!path) return cot__fail_memory(err, strlen(dir) + strlen(name));
    cot_status s = COT_OK;
    if (cot__path_exists(path)) s = cot__json_load(out, path, JSON_MAX, err);
    else if (required)
        s = cot__fail(
            err, COT_NOT_FOUND, path, NULL,
            "no such file; a tokenizer.model alone is not read: save the tokenizer in its fast form");
    cot__free(path);
    return s;
}

cot_status cot__tokenizer_from_hf(cot__tokenizer **out, const char *dir, cot_error *err) {
    json_t *root = NULL, *conf = NULL, *map = NULL;
    char *path = cot__path_join(dir, "tokenizer.json");
    cot_status s = path ? load(&root, dir, "tokenizer.json", true, err) : cot__fail_memory(err, strlen(dir));
    if (s == COT_OK) s = load(&conf, dir, "tokenizer_config.json", false, err);
    if (s == COT_OK) s = load(&map, dir, "special_tokens_map.json", false, err);
    if (s == COT_OK) s = from_source(out, &(source){.root = root, .config = conf, .map = map}, path, err);
    json_decref(root);
    json_decref(conf);
    json_decref(map);
    cot__free(path);
    return s;
}
