/* Owns: a tokenizer.json's tokenizer in the words of GGUF, for the converter. GGUF can only name a
 * pre-tokenizer, so its expressions are looked up in the table. Refuses: what GGUF has no words for, rather
 * than write a file that cuts text differently. */
#include <string.h>

#include "base/error.h"
#include "text/tok_internal.h"

static cot_status refuse(const cot__tokenizer *t, const char *field, const char *why, cot_error *err) {
    return cot__fail(err, COT_UNSUPPORTED, t->file, field, "%s", why);
}

/* ---- the pre-tokenizer's name ---- */

static cot_status find_pre(cot__tokenizer *t, const char *forced, cot_error *err) {
    const char *regex[COT__TOK_STEPS];
    size_t n = 0;
    bool known = true;
    if (forced) {
        t->pre = cot__tok_pre_find(forced);
        return t->pre ? COT_OK : refuse(t, "pre_tokenizer", "the name asked for is not known", err);
    }
    for (size_t i = 0; i < t->n_split; i++) {
        const cot__tok_split *s = &t->split[i];
        /* Cutting out all that does not match leaves the same pieces where the expression covers every text.
         */
        bool whole = (s->behavior == COT__SPLIT_ISOLATED && !s->invert) ||
                     (s->behavior == COT__SPLIT_REMOVED && s->invert);
        if (s->kind == COT__SPLIT_REGEX && whole) regex[n++] = s->text.s;
        else if (s->kind == COT__SPLIT_DIGITS)
            regex[n++] = s->behavior == COT__SPLIT_ISOLATED ? "\\p{N}" : "\\p{N}+";
        else if (s->kind == COT__SPLIT_BYTELEVEL && s->prepend == COT__PREPEND_NEVER && !s->map) {
            if (s->regex) regex[n++] = cot__tok_gpt2_regex;
        } else known = false;
    }
    t->pre = known ? cot__tok_pre_match(regex, n, t->ignore_merges, false) : NULL;
    if (!t->pre && known && n) t->pre = cot__tok_pre_match(regex, n, !t->ignore_merges, false);
    if (t->pre && t->pre->ignore_merges != t->ignore_merges)
        cot__log(COT_LOG_WARN,
                 "%s: ignore_merges is %s in the file, the pre-tokenizer's name \"%.20s\" says otherwise",
                 t->file, t->ignore_merges ? "true" : "false", t->pre->names);
    return t->pre ? COT_OK
                  : refuse(t, "pre_tokenizer",
                           "GGUF has no name for these steps; name the nearest one to force it", err);
}

/* ---- SentencePiece's scores from merges ---- */

static bool starts_visible(const char *s, size_t n) { return n >= 3 && memcmp(s, COT__TOK_SPACE, 3) == 0; }

/* Steps that the model kind "llama" performs by itself: an optional space in front, spaces made visible. */
static cot_status check_sentencepiece(cot__tokenizer *t, cot_error *err) {
    t->space_prefix = t->strip_start > 0 && t->model == COT__MODEL_UNIGRAM;
    for (size_t i = 0; i < t->n_norm; i++) {
        const cot__tok_norm *r = &t->norm[i];
        bool unigram = t->model == COT__MODEL_UNIGRAM;
        if (r->kind == COT__NORM_PREPEND && starts_visible(r->a.s, r->a.len) && r->a.len == 3)
            t->space_prefix = true;
        else if (r->kind == COT__NORM_REPLACE && !r->regex && r->a.len == 1 && r->a.s[0] == ' ' &&
                 starts_visible(r->b.s, r->b.len) && r->b.len == 3)
            continue;
        else if (r->kind == COT__NORM_REPLACE && r->regex && unigram) t->extra_spaces_removed = true;
        else if (!(unigram && (r->kind == COT__NORM_CHARSMAP_HF || r->kind == COT__NORM_STRIP)))
            return refuse(t, "normalizer", "GGUF has no words for these steps", err);
    }
    for (size_t i = 0; i < t->n_split; i++) {
        const cot__tok_split *s = &t->split[i];
        if (s->kind == COT__SPLIT_METASPACE) {
            if (s->prepend != COT__PREPEND_NEVER) t->space_prefix = true;
            for (size_t k = 0; s->split && k < t->n_tokens; k++) {
                const cot__tok_entry *e = &t->entry[k];
                if (e->in_model && e->text_len > 3 && memmem(e->text + 1, e->text_len - 1, COT__TOK_SPACE, 3))
                    return refuse(t, "pre_tokenizer",
                                  "Metaspace splits inside of tokens, which GGUF cannot say", err);
            }
        } else if (s->kind == COT__SPLIT_WHITESPACE && t->model == COT__MODEL_UNIGRAM)
            t->extra_spaces_removed = true;
        /* Spaces are visible by then, so that cutting at spaces cuts nothing. */
        else if (!(s->kind == COT__SPLIT_STRING && s->text.len == 1 && s->text.s[0] == ' '))
            return refuse(t, "pre_tokenizer", "GGUF has no words for these steps", err);
    }
    return COT_OK;
}

/* A score per token: minus the rank of the first merge that makes it. Merging by score equals merging by rank
 * when all merges of a token stand together and none of its cuts is missing; what differs is logged. */
static void scores_from_merges(cot__tokenizer *t, float *scores, int32_t *types) {
    size_t missing = 0, apart = 0;
    for (size_t i = 0; i < t->n_tokens; i++) scores[i] = -1e9f;
    int32_t last = -1;
    for (size_t i = 0; i < t->n_merges; i++) {
        uint32_t rank;
        int32_t id;
        if (!cot__tok_pair_find(t, t->merge_left[i], t->merge_right[i], &rank, &id)) continue;
        if (scores[id] == -1e9f) scores[id] = -(float)i;
        else if (id != last) apart++;
        last = id;
    }
    for (size_t i = 0; i < t->n_tokens; i++) {
        const cot__tok_entry *e = &t->entry[i];
        if (!e->in_model || !e->text) continue;
        size_t first = cot__utf8_length((unsigned char)e->text[0]);
        if (first >= e->text_len) continue;
        /* Never reached by merging: an unused token falls apart again. */
        if (scores[i] == -1e9f && types[i] == COT__TOK_NORMAL) types[i] = COT__TOK_UNUSED;
        for (size_t cut = first; cut < e->text_len && scores[i] != -1e9f;
             cut += cot__utf8_length((unsigned char)e->text[cut])) {
            uint64_t l, r;
            uint32_t rank;
            int32_t id;
            if (!cot__map_get(t->by_model, e->text, cut, &l) ||
                !cot__map_get(t->by_model, e->text + cut, e->text_len - cut, &r))
                continue;
            missing += !cot__tok_pair_find(t, (int32_t)l, (int32_t)r, &rank, &id);
        }
    }
    if (apart || missing)
        cot__log(COT_LOG_WARN,
                 "%s: %zu merges stand apart and %zu are missing, GGUF's scores cannot say that; a few "
                 "texts may be cut differently",
                 t->file, apart, missing);
}

/* ---- arrays ---- */

static cot_status make_merges(cot__tokenizer *t, cot_error *err) {
    size_t bytes = 0;
    for (size_t i = 0; i < t->n_merges; i++)
        bytes += (size_t)t->entry[t->merge_left[i]].text_len + t->entry[t->merge_right[i]].text_len + 1;
    t->export_blob = cot__alloc(bytes);
    t->export_merges = cot__alloc_array(t->n_merges, sizeof *t->export_merges);
    if (!t->export_blob || !t->export_merges) return cot__fail_memory(err, bytes);
    char *p = t->export_blob;
    for (size_t i = 0; i < t->n_merges; i++) {
        const cot__tok_entry *l = &t->entry[t->merge_left[i]], *r = &t->entry[t->merge_right[i]];
        t->export_merges[i] = (cot__vocab_str){p, (size_t)l->text_len + r->text_len + 1};
        memcpy(p, l->text, l->text_len);
        p += l->text_len;
        *p++ = ' ';
        memcpy(p, r->text, r->text_len);
        p += r->text_len;
    }
    return COT_OK;
}

static cot_status make_tokens(cot__tokenizer *t, cot_error *err) {
    t->export_tokens = cot__alloc_zero(t->n_tokens, sizeof *t->export_tokens);
    t->export_types = cot__alloc_array(t->n_tokens, sizeof *t->export_types);
    t->export_scores = cot__alloc_array(t->n_tokens, sizeof *t->export_scores);
    if (!t->export_tokens || !t->export_types || !t->export_scores)
        return cot__fail_memory(err, t->n_tokens * sizeof *t->export_tokens);
    for (size_t i = 0; i < t->n_tokens; i++) {
        const cot__tok_entry *e = &t->entry[i];
        t->export_types[i] = e->text ? e->type : COT__TOK_UNUSED;
        t->export_scores[i] = (float)e->score;
        if (e->text) t->export_tokens[i] = (cot__vocab_str){e->text, e->text_len};
    }
    return COT_OK;
}

static void clear(cot__tokenizer *t) {
    cot__free(t->export_tokens);
    cot__free(t->export_types);
    cot__free(t->export_scores);
    cot__free(t->export_merges);
    cot__free(t->export_blob);
    t->export_tokens = t->export_merges = NULL;
    t->export_types = NULL;
    t->export_scores = NULL;
    t->export_blob = NULL;
}

/* Byte-level files say nothing about Unicode forms: engines pass text on as it is. */
static cot_status check_byte_level(cot__tokenizer *t, cot_error *err) {
    for (size_t i = 0; i < t->n_norm; i++) {
        if (t->norm[i].kind != COT__NORM_NFC)
            return refuse(t, "normalizer", "GGUF has no words for these steps", err);
        cot__log(COT_LOG_INFO, "%s: the NFC step is lost in GGUF, decomposed text is cut differently",
                 t->file);
    }
    return COT_OK;
}

static cot_status make(cot__tokenizer *t, const char *pre, cot_error *err) {
    if (!t->from_json) return refuse(t, NULL, "only a tokenizer.json can be put in GGUF's words", err);
    if (t->byte_level) {
        COT_TRY(check_byte_level(t, err));
        COT_TRY(find_pre(t, pre, err));
    }
    if (!t->byte_level) COT_TRY(check_sentencepiece(t, err));
    COT_TRY(make_tokens(t, err));
    if (t->byte_level) return make_merges(t, err);
    if (t->model == COT__MODEL_BPE) {
        if (!t->byte_fallback)
            return refuse(t, "byte_fallback", "GGUF's \"llama\" vocabularies have byte tokens", err);
        scores_from_merges(t, t->export_scores, t->export_types);
    }
    return COT_OK;
}

cot_status cot__tokenizer_export(cot__tokenizer *t, const char *pre, cot__vocab *out, cot_error *err) {
    clear(t);
    cot_status s = make(t, pre, err);
    if (s != COT_OK) {
        clear(t);
        return s;
    }
    const char *name = pre ? pre : "default";
    char first[64] = "";
    if (!pre && t->byte_level) {
        size_t n = strcspn(t->pre->names, " ");
        memcpy(first, t->pre->names, n < sizeof first ? n : sizeof first - 1);
        if (!(name = cot__tok_copy(t, first, strlen(first), err))) return COT_NO_MEMORY;
    }
    *out = (cot__vocab){
        .file = t->file,
        .model = t->byte_level                    ? "gpt2"
                 : t->model == COT__MODEL_UNIGRAM ? "t5"
                                                  : "llama",
        .pre = name,
        .tokens = t->export_tokens,
        .n_tokens = t->n_tokens,
        .scores = t->byte_level ? NULL : t->export_scores,
        .types = t->export_types,
        .merges = t->export_merges,
        .n_merges = t->byte_level ? t->n_merges : 0,
        .bos = t->bos,
        .eos = t->eos,
        .unk = t->unk_role,
        .eot = t->eot,
        .eom = t->eom,
        .pad = t->pad,
        .add_bos = cot__tokenizer_adds_bos(t),
        .add_eos = cot__tokenizer_adds_eos(t),
        .add_space_prefix = t->byte_level ? -1 : t->space_prefix,
        .remove_extra_whitespaces = t->model == COT__MODEL_UNIGRAM ? t->extra_spaces_removed : -1,
        .charsmap = t->charsmap.raw,
        .charsmap_len = t->charsmap.n_raw,
    };
    return COT_OK;
}
