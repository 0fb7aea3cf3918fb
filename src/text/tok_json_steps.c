/* Owns: reading the steps of a tokenizer.json: normalizer, pre_tokenizer, decoder, post_processor. Refuses:
 * every step that it cannot run exactly as the tokenizers library does, by name. */
#include <string.h>

#include "base/error.h"
#include "text/tok_internal.h"

#define NESTING 8

typedef cot_status step_fn(cot__tokenizer *t, const json_t *j, const char *type, unsigned depth,
                           cot_error *err);

static cot_status get_text(cot__tokenizer *t, const json_t *v, const char *field, cot__vocab_str *out,
                           cot_error *err) {
    if (!json_is_string(v)) return cot__fail(err, COT_FORMAT, t->file, field, "must be a string");
    out->len = json_string_length(v);
    if (out->len > COT__TOK_LEN_MAX) return cot__fail(err, COT_LIMIT, t->file, field, "is too long");
    out->s = cot__tok_copy(t, json_string_value(v), out->len, err);
    return out->s ? COT_OK : COT_NO_MEMORY;
}

static cot_status get_bool(cot__tokenizer *t, const json_t *j, const char *key, bool missing, bool *out,
                           cot_error *err) {
    *out = missing;
    return cot__json_bool(j, t->file, key, out, err);
}

/* {"String": …}, {"Regex": …}, or a bare string. */
static cot_status get_pattern(cot__tokenizer *t, const json_t *j, const char *field, cot__vocab_str *text,
                              cot__tok_regex **regex, cot_error *err) {
    const json_t *p = json_object_get(j, "pattern"), *re = json_object_get(p, "Regex");
    if (!re) return get_text(t, json_is_string(p) ? p : json_object_get(p, "String"), field, text, err);
    COT_TRY(get_text(t, re, field, text, err));
    return cot__tok_compile(regex, t->file, field, text->s, text->len, err);
}

static cot_status unknown(cot__tokenizer *t, const char *field, const char *type, cot_error *err) {
    return cot__fail(err, COT_UNSUPPORTED, t->file, field, "the step \"%s\" is not supported", type);
}

/* Runs `fn` on a step, or on each of a Sequence. */
static cot_status each(cot__tokenizer *t, const json_t *j, const char *field, const char *list, step_fn *fn,
                       unsigned depth, cot_error *err) {
    if (!j || json_is_null(j)) return COT_OK;
    const char *type = json_string_value(json_object_get(j, "type"));
    if (!type) return cot__fail(err, COT_FORMAT, t->file, field, "has no type");
    if (strcmp(type, "Sequence") != 0) return fn(t, j, type, depth, err);
    if (depth >= NESTING) return cot__fail(err, COT_LIMIT, t->file, field, "sequences are nested too deeply");
    const json_t *steps = json_object_get(j, list);
    if (!json_is_array(steps)) return cot__fail(err, COT_FORMAT, t->file, field, "Sequence without %s", list);
    for (size_t i = 0; i < json_array_size(steps); i++)
        COT_TRY(each(t, json_array_get(steps, i), field, list, fn, depth + 1, err));
    return COT_OK;
}

/* ---- normalizer ---- */

static cot_status precompiled(cot__tokenizer *t, const json_t *j, cot_error *err) {
    static const char field[] = "normalizer.precompiled_charsmap";
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const json_t *v = json_object_get(j, "precompiled_charsmap");
    if (!json_is_string(v)) return cot__fail(err, COT_FORMAT, t->file, field, "must be a string in base64");
    if (t->charsmap.raw) return cot__fail(err, COT_UNSUPPORTED, t->file, field, "occurs twice");
    const char *s = json_string_value(v);
    size_t n = json_string_length(v), k = 0;
    unsigned char *data = cot__alloc(n / 4 * 3 + 4);
    if (!data) return cot__fail_memory(err, n);
    uint32_t word = 0, bits = 0;
    for (size_t i = 0; i < n && s[i] != '='; i++) {
        const char *d = s[i] ? strchr(digits, s[i]) : NULL;
        if (!d) {
            cot__free(data);
            return cot__fail(err, COT_FORMAT, t->file, field, "is not valid base64 at character %zu", i);
        }
        word = word << 6 | (uint32_t)(d - digits);
        if ((bits += 6) >= 8) data[k++] = (unsigned char)(word >> (bits -= 8));
    }
    cot_status status = k ? cot__tok_charsmap_load(&t->charsmap, t->file, field, data, k, err) : COT_OK;
    cot__free(data);
    return status;
}

static cot_status normalizer(cot__tokenizer *t, const json_t *j, const char *type, unsigned depth,
                             cot_error *err) {
    static const struct {
        const char *name;
        cot__tok_norm_kind kind;
    } kinds[] = {{"NFC", COT__NORM_NFC},
                 {"NFD", COT__NORM_NFD},
                 {"NFKC", COT__NORM_NFKC},
                 {"NFKD", COT__NORM_NFKD},
                 {"Lowercase", COT__NORM_LOWERCASE},
                 {"Replace", COT__NORM_REPLACE},
                 {"Prepend", COT__NORM_PREPEND},
                 {"Strip", COT__NORM_STRIP},
                 {"Precompiled", COT__NORM_CHARSMAP_HF}};
    size_t i = 0, n = sizeof kinds / sizeof *kinds;
    while (i < n && strcmp(kinds[i].name, type) != 0) i++;
    if (i == n) return unknown(t, "normalizer", type, err);
    if (t->n_norm == COT__TOK_STEPS)
        return cot__fail(err, COT_LIMIT, t->file, "normalizer", "more than %d steps", COT__TOK_STEPS);
    cot__tok_norm *r = &t->norm[t->n_norm++];
    r->kind = kinds[i].kind;
    switch (r->kind) {
    case COT__NORM_REPLACE:
        COT_TRY(get_pattern(t, j, "normalizer.pattern", &r->a, &r->regex, err));
        return get_text(t, json_object_get(j, "content"), "normalizer.content", &r->b, err);
    case COT__NORM_PREPEND:
        return get_text(t, json_object_get(j, "prepend"), "normalizer.prepend", &r->a, err);
    case COT__NORM_STRIP:
        COT_TRY(get_bool(t, j, "strip_left", true, &r->left, err));
        return get_bool(t, j, "strip_right", true, &r->right, err);
    case COT__NORM_CHARSMAP_HF:
        COT_TRY(precompiled(t, j, err));
        if (!t->charsmap.raw) t->n_norm--; /* an empty map changes nothing */
        return COT_OK;
    default: return COT_OK;
    }
}

cot_status cot__tok_json_normalizer(cot__tokenizer *t, const json_t *j, cot_error *err) {
    return each(t, j, "normalizer", "normalizers", normalizer, 0, err);
}

/* ---- pre_tokenizer ---- */

static cot_status get_behavior(cot__tokenizer *t, const json_t *j, cot__tok_behavior missing,
                               cot__tok_behavior *out, cot_error *err) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    const char *name = json_string_value(json_object_get(j, "behavior"));
    *out = missing;
    if (!name) return COT_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (cot__tok_behavior)i;
            return COT_OK;
        }
    return cot__fail(err, COT_UNSUPPORTED, t->file, "pre_tokenizer.behavior", "\"%s\" is not supported",
                     name);
}

static cot_status metaspace(cot__tokenizer *t, const json_t *j, cot__tok_split *s, cot_error *err) {
    const char *scheme = json_string_value(json_object_get(j, "prepend_scheme"));
    bool prefix;
    COT_TRY(get_bool(t, j, "add_prefix_space", true, &prefix, err));
    COT_TRY(get_bool(t, j, "split", true, &s->split, err));
    COT_TRY(get_text(t, json_object_get(j, "replacement"), "pre_tokenizer.replacement", &s->text, err));
    s->kind = COT__SPLIT_METASPACE;
    s->behavior = COT__SPLIT_MERGED_NEXT;
    if (!scheme) s->prepend = prefix ? COT__PREPEND_ALWAYS : COT__PREPEND_NEVER;
    else if (strcmp(scheme, "always") == 0) s->prepend = COT__PREPEND_ALWAYS;
    else if (strcmp(scheme, "first") == 0) s->prepend = COT__PREPEND_FIRST;
    else if (strcmp(scheme, "never") == 0) s->prepend = COT__PREPEND_NEVER;
    else
        return cot__fail(err, COT_UNSUPPORTED, t->file, "pre_tokenizer.prepend_scheme",
                         "\"%s\" is not supported", scheme);
    return COT_OK;
}

static cot_status byte_level(cot__tokenizer *t, const json_t *j, cot__tok_split *s, cot_error *err) {
    bool prefix, use_regex;
    COT_TRY(get_bool(t, j, "add_prefix_space", true, &prefix, err));
    COT_TRY(get_bool(t, j, "use_regex", true, &use_regex, err));
    if (t->byte_level)
        return cot__fail(err, COT_UNSUPPORTED, t->file, "pre_tokenizer", "ByteLevel occurs twice");
    t->byte_level = true;
    s->kind = COT__SPLIT_BYTELEVEL;
    s->prepend = prefix ? COT__PREPEND_ALWAYS : COT__PREPEND_NEVER;
    return use_regex ? cot__tok_compile(&s->regex, t->file, "pre_tokenizer", cot__tok_gpt2_regex,
                                        strlen(cot__tok_gpt2_regex), err)
                     : COT_OK;
}

static cot_status pre_tokenizer(cot__tokenizer *t, const json_t *j, const char *type, unsigned depth,
                                cot_error *err) {
    if (t->n_split == COT__TOK_STEPS)
        return cot__fail(err, COT_LIMIT, t->file, "pre_tokenizer", "more than %d steps", COT__TOK_STEPS);
    cot__tok_split *s = &t->split[t->n_split++];
    bool individual;
    if (strcmp(type, "Split") == 0) {
        COT_TRY(get_bool(t, j, "invert", false, &s->invert, err));
        COT_TRY(get_behavior(t, j, COT__SPLIT_ISOLATED, &s->behavior, err));
        COT_TRY(get_pattern(t, j, "pre_tokenizer.pattern", &s->text, &s->regex, err));
        s->kind = s->regex ? COT__SPLIT_REGEX : COT__SPLIT_STRING;
        return COT_OK;
    }
    if (strcmp(type, "ByteLevel") == 0) return byte_level(t, j, s, err);
    if (strcmp(type, "Metaspace") == 0) return metaspace(t, j, s, err);
    if (strcmp(type, "Digits") == 0) {
        COT_TRY(get_bool(t, j, "individual_digits", false, &individual, err));
        s->kind = COT__SPLIT_DIGITS;
        s->behavior = individual ? COT__SPLIT_ISOLATED : COT__SPLIT_CONTIGUOUS;
        return COT_OK;
    }
    if (strcmp(type, "Punctuation") == 0) {
        s->kind = COT__SPLIT_PUNCTUATION;
        return get_behavior(t, j, COT__SPLIT_ISOLATED, &s->behavior, err);
    }
    if (strcmp(type, "WhitespaceSplit") == 0) {
        s->kind = COT__SPLIT_WHITESPACE;
        s->behavior = COT__SPLIT_REMOVED;
        return COT_OK;
    }
    if (strcmp(type, "Whitespace") == 0) {
        /* The library uses another engine here, whose \w is not Oniguruma's. */
        static const char words[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200c\\u200d]+|"
                                    "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200c\\u200d\\s]+";
        s->kind = COT__SPLIT_REGEX;
        s->behavior = COT__SPLIT_REMOVED;
        s->invert = true;
        s->text = (cot__vocab_str){words, sizeof words - 1};
        return cot__tok_compile(&s->regex, t->file, "pre_tokenizer", words, sizeof words - 1, err);
    }
    t->n_split--;
    return unknown(t, "pre_tokenizer", type, err);
}

cot_status cot__tok_json_pre_tokenizer(cot__tokenizer *t, const json_t *j, cot_error *err) {
    COT_TRY(each(t, j, "pre_tokenizer", "pretokenizers", pre_tokenizer, 0, err));
    /* What follows the byte mapping sees mapped text. */
    for (size_t i = 0; i + 1 < t->n_split; i++)
        if (t->split[i].kind == COT__SPLIT_BYTELEVEL) t->split[i].map = true;
    return COT_OK;
}

/* ---- decoder ---- */

static cot_status add_decode(cot__tokenizer *t, cot__vocab_str from, cot__vocab_str to, cot_error *err) {
    if (t->n_decode == COT__TOK_STEPS)
        return cot__fail(err, COT_LIMIT, t->file, "decoder", "more than %d steps", COT__TOK_STEPS);
    t->decode_from[t->n_decode] = from;
    t->decode_to[t->n_decode++] = to;
    return COT_OK;
}

static cot_status decoder(cot__tokenizer *t, const json_t *j, const char *type, unsigned depth,
                          cot_error *err) {
    static const cot__vocab_str space = {" ", 1};
    cot__vocab_str a = {0}, b = {0};
    if (strcmp(type, "ByteLevel") == 0) {
        if (!t->byte_level)
            return cot__fail(err, COT_UNSUPPORTED, t->file, "decoder",
                             "ByteLevel without the pre-tokenizer ByteLevel");
        return COT_OK;
    }
    if (strcmp(type, "ByteFallback") == 0 || strcmp(type, "Fuse") == 0) return COT_OK;
    if (strcmp(type, "Metaspace") == 0) {
        const char *scheme = json_string_value(json_object_get(j, "prepend_scheme"));
        bool prefix;
        COT_TRY(get_bool(t, j, "add_prefix_space", true, &prefix, err));
        COT_TRY(get_text(t, json_object_get(j, "replacement"), "decoder.replacement", &a, err));
        if (scheme ? strcmp(scheme, "never") != 0 : prefix) {
            t->strip_char[0] = ' ';
            t->strip_start = 1;
        }
        return add_decode(t, a, space, err);
    }
    if (strcmp(type, "Replace") == 0) {
        cot__tok_regex *regex = NULL;
        COT_TRY(get_pattern(t, j, "decoder.pattern", &a, &regex, err));
        if (regex) {
            cot__tok_regex_free(&regex);
            return cot__fail(err, COT_UNSUPPORTED, t->file, "decoder.pattern",
                             "regular expressions are not supported");
        }
        COT_TRY(get_text(t, json_object_get(j, "content"), "decoder.content", &b, err));
        return add_decode(t, a, b, err);
    }
    if (strcmp(type, "Strip") == 0) {
        int64_t start = 0, stop = 0;
        COT_TRY(get_text(t, json_object_get(j, "content"), "decoder.content", &a, err));
        COT_TRY(cot__json_int(j, t->file, "start", 0, 1 << 20, &start, err));
        COT_TRY(cot__json_int(j, t->file, "stop", 0, 1 << 20, &stop, err));
        if (stop || a.len >= sizeof t->strip_char)
            return cot__fail(err, COT_UNSUPPORTED, t->file, "decoder.stop",
                             "only stripping at the start is supported");
        memcpy(t->strip_char, a.s, a.len);
        t->strip_char[a.len] = 0;
        t->strip_start = (uint32_t)start;
        return COT_OK;
    }
    return unknown(t, "decoder", type, err);
}

cot_status cot__tok_json_decoder(cot__tokenizer *t, const json_t *j, cot_error *err) {
    return each(t, j, "decoder", "decoders", decoder, 0, err);
}

/* ---- post_processor ---- */

cot_status cot__tok_affix(int32_t **ids, size_t *n, int32_t id, bool front, cot_error *err) {
    int32_t *p = cot__realloc_array(*ids, *n + 1, sizeof *p);
    if (!p) return cot__fail_memory(err, (*n + 1) * sizeof *p);
    if (front) memmove(p + 1, p, *n * sizeof *p);
    p[front ? 0 : *n] = id;
    *ids = p;
    (*n)++;
    return COT_OK;
}

static cot_status affix_checked(cot__tokenizer *t, const json_t *id, bool suffix, cot_error *err) {
    json_int_t v = json_integer_value(id);
    if (!json_is_integer(id) || v < 0 || (uint64_t)v >= t->n_tokens || !t->entry[v].text)
        return cot__fail(err, COT_FORMAT, t->file, "post_processor", "names an id that is no token");
    if (suffix) return cot__tok_affix(&t->suffix, &t->n_suffix, (int32_t)v, false, err);
    return cot__tok_affix(&t->prefix, &t->n_prefix, (int32_t)v, false, err);
}

static cot_status template_processing(cot__tokenizer *t, const json_t *j, cot_error *err) {
    const json_t *single = json_object_get(j, "single"), *specials = json_object_get(j, "special_tokens");
    bool behind = false;
    if (!json_is_array(single) || json_array_size(single) > 64)
        return cot__fail(err, COT_FORMAT, t->file, "post_processor.single", "must be a short list");
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *p = json_array_get(single, i), *special = json_object_get(p, "SpecialToken");
        if (!special) {
            if (!json_object_get(p, "Sequence") || behind)
                return cot__fail(err, COT_UNSUPPORTED, t->file, "post_processor.single",
                                 "must hold one sequence");
            behind = true;
            continue;
        }
        const char *name = json_string_value(json_object_get(special, "id"));
        const json_t *ids = name ? json_object_get(json_object_get(specials, name), "ids") : NULL;
        if (!json_is_array(ids) || !json_array_size(ids) || json_array_size(ids) > 64)
            return cot__fail(err, COT_FORMAT, t->file, "post_processor.special_tokens",
                             "has no ids for \"%s\"", name ? name : "");
        for (size_t k = 0; k < json_array_size(ids); k++)
            COT_TRY(affix_checked(t, json_array_get(ids, k), behind, err));
    }
    return COT_OK;
}

static cot_status post_processor(cot__tokenizer *t, const json_t *j, const char *type, unsigned depth,
                                 cot_error *err) {
    if (strcmp(type, "ByteLevel") == 0) return COT_OK;
    if (t->n_prefix || t->n_suffix)
        return cot__fail(err, COT_UNSUPPORTED, t->file, "post_processor", "more than one step adds tokens");
    if (strcmp(type, "TemplateProcessing") == 0) return template_processing(t, j, err);
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0) {
        COT_TRY(affix_checked(t, json_array_get(json_object_get(j, "cls"), 1), false, err));
        return affix_checked(t, json_array_get(json_object_get(j, "sep"), 1), true, err);
    }
    return unknown(t, "post_processor", type, err);
}

cot_status cot__tok_json_post_processor(cot__tokenizer *t, const json_t *j, cot_error *err) {
    return each(t, j, "post_processor", "processors", post_processor, 0, err);
}
