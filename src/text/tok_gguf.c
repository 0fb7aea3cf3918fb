/* Owns: tokenizers from GGUF metadata. GGUF names a pre-tokenizer where tokenizer.json spells it out, and
 * leaves much to the model's kind; what it leaves is decided here. Refuses: kinds of vocabulary that no model
 * of the engine uses (bert, rwkv, plamo2), and names of pre-tokenizers that it does not know. */
#include <string.h>

#include "base/error.h"
#include "text/tok_internal.h"

static cot_status add_norm(cot__tokenizer *t, cot__tok_norm norm, cot_error *err) {
    if (t->n_norm == COT__TOK_STEPS)
        return cot__fail(err, COT_LIMIT, t->file, "normalizer", "more than %d steps", COT__TOK_STEPS);
    t->norm[t->n_norm++] = norm;
    return COT_OK;
}

static const cot__vocab_str space = {" ", 1}, visible_space = {COT__TOK_SPACE, 3};

/* ---- kinds ---- */

static cot_status kind_bpe(cot__tokenizer *t, const cot__vocab *v, const char *pre, cot_error *err) {
    t->model = COT__MODEL_BPE;
    t->pre = cot__tok_pre_find(pre);
    if (!t->pre)
        return cot__fail(
            err, COT_UNSUPPORTED, t->file, "tokenizer.ggml.pre",
            "the pre-tokenizer \"%s\" is not known; a Hugging Face folder of this model brings its own", pre);
    t->byte_level = !t->pre->characters;
    t->ignore_merges = t->pre->ignore_merges;
    for (size_t i = 0; i < 6 && t->pre->regex[i]; i++) {
        cot__tok_split *s = &t->split[t->n_split];
        s->kind = COT__SPLIT_REGEX;
        COT_TRY(cot__tok_compile(&s->regex, t->file, "tokenizer.ggml.pre", t->pre->regex[i],
                                 strlen(t->pre->regex[i]), err));
        t->n_split++;
    }
    if (t->pre->characters) {
        t->byte_fallback = true;
        t->decode_from[0] = visible_space;
        t->decode_to[0] = space;
        t->n_decode = 1;
        return add_norm(t, (cot__tok_norm){.kind = COT__NORM_REPLACE, .a = space, .b = visible_space}, err);
    }
    return COT_OK;
}

/* SentencePiece: BPE by scores, or unigram. */
static cot_status kind_sentencepiece(cot__tokenizer *t, const cot__vocab *v, bool unigram, cot_error *err) {
    t->model = unigram ? COT__MODEL_UNIGRAM : COT__MODEL_SCORES;
    t->byte_fallback = true;
    t->fuse_unk = true;
    t->decode_from[0] = visible_space;
    t->decode_to[0] = space;
    t->n_decode = 1;
    if (!v->scores)
        return cot__fail(err, COT_FORMAT, t->file, "tokenizer.ggml.scores",
                         "is missing, a \"%s\" vocabulary needs it", v->model);
    if (v->charsmap && v->charsmap_len) {
        COT_TRY(cot__tok_charsmap_load(&t->charsmap, t->file, "tokenizer.ggml.precompiled_charsmap",
                                       v->charsmap, v->charsmap_len, err));
        COT_TRY(add_norm(t, (cot__tok_norm){.kind = COT__NORM_CHARSMAP}, err));
    }
    if (v->remove_extra_whitespaces == 1 || (unigram && v->remove_extra_whitespaces < 0))
        COT_TRY(add_norm(t, (cot__tok_norm){.kind = COT__NORM_SPACES}, err));
    if (v->add_space_prefix != 0) {
        COT_TRY(add_norm(t, (cot__tok_norm){.kind = COT__NORM_SPACE_PREFIX, .a = space}, err));
        t->strip_char[0] = ' ';
        t->strip_start = 1;
        t->strip_after_special = true;
    }
    return add_norm(t, (cot__tok_norm){.kind = COT__NORM_REPLACE, .a = space, .b = visible_space}, err);
}

/* ---- tokens ---- */

static int type_of(const cot__tokenizer *t, const cot__vocab *v, size_t i) {
    int type = v->types ? v->types[i] : 0;
    if (type >= COT__TOK_NORMAL && type <= COT__TOK_BYTE) return type;
    const cot__vocab_str *s = &v->tokens[i];
    /* Files without types: the spelling of byte tokens gives them away. */
    if (!t->byte_level && s->len == 6 && memcmp(s->s, "<0x", 3) == 0 && s->s[5] == '>') return COT__TOK_BYTE;
    if (!v->types && ((int32_t)i == v->bos || (int32_t)i == v->eos)) return COT__TOK_CONTROL;
    return COT__TOK_NORMAL;
}

static bool in_model(const cot__tokenizer *t, int type) {
    switch (type) {
    case COT__TOK_NORMAL:
    case COT__TOK_UNUSED: return true;
    /* SentencePiece may merge to a user-defined token; in byte-level vocabularies they stand apart. */
    case COT__TOK_USER: return !t->byte_level && t->model != COT__MODEL_UNIGRAM;
    /* Byte tokens are chosen by byte alone, except where merges are pairs of ids. */
    default: return false;
    }
}

static cot_status add_tokens(cot__tokenizer *t, const cot__vocab *v, cot_error *err) {
    size_t n_added = 0;
    for (size_t i = 0; i < v->n_tokens; i++) {
        if (!v->tokens[i].s && v->tokens[i].len)
            return cot__fail(err, COT_FORMAT, t->file, "tokenizer.ggml.tokens", "token %zu has no text", i);
        int type = type_of(t, v, i);
        COT_TRY(cot__tok_set(t, i, v->tokens[i].s ? v->tokens[i].s : "", v->tokens[i].len, type,
                             v->scores ? v->scores[i] : 0, in_model(t, type), err));
        n_added += type == COT__TOK_CONTROL || type == COT__TOK_USER || type == COT__TOK_UNKNOWN;
    }
    t->added = cot__alloc_zero(n_added, sizeof *t->added);
    if (!t->added) return cot__fail_memory(err, n_added * sizeof *t->added);
    for (size_t i = 0; i < v->n_tokens; i++) {
        const cot__tok_entry *e = &t->entry[i];
        if (e->type != COT__TOK_CONTROL && e->type != COT__TOK_USER && e->type != COT__TOK_UNKNOWN) continue;
        t->added[t->n_added++] = (cot__tok_added){
            .text = {e->text, e->text_len}, .id = (int32_t)i, .special = e->type != COT__TOK_USER};
    }
    COT_TRY(cot__tok_index(t, err));
    return cot__tok_added_build(t, err);
}

static cot_status add_merges(cot__tokenizer *t, const cot__vocab *v, cot_error *err) {
    size_t lost = 0;
    if (!v->n_merges && t->pre && strcmp(t->pre->names, "kimi-k2") == 0) {
        /* Ids are ranks, as tiktoken has it: what joins to a token of low id joins first. */
        t->model = COT__MODEL_SCORES;
        for (size_t i = 0; i < t->n_tokens; i++) t->entry[i].score = -(double)i;
        return COT_OK;
    }
    if (!v->n_merges || !v->merges)
        return cot__fail(err, COT_FORMAT, t->file, "tokenizer.ggml.merges",
                         "is missing, a \"%s\" vocabulary needs it", v->model);
    COT_TRY(cot__tok_merges_begin(t, v->n_merges, err));
    for (size_t i = 0; i < v->n_merges; i++) {
        const cot__vocab_str *m = &v->merges[i];
        const char *cut = m->len > 1 ? memchr(m->s + 1, ' ', m->len - 1) : NULL;
        bool known = false;
        if (!cut)
            return cot__fail(err, COT_FORMAT, t->file, "tokenizer.ggml.merges",
                             "merge %zu is not two tokens with a space between", i);
        COT_TRY(cot__tok_merge_add(t, m->s, (size_t)(cut - m->s), cut + 1, m->len - (size_t)(cut - m->s) - 1,
                                   &known, err));
        lost += !known;
    }
    if (lost)
        cot__log(COT_LOG_WARN, "%s: %zu of %zu merges name what is no token and are not used", t->file, lost,
                 v->n_merges);
    return COT_OK;
}

/* ---- roles ---- */

static int32_t role(const cot__tokenizer *t, const char *key, int32_t id) {
    if (id >= 0 && (size_t)id < t->n_tokens) return id;
    if (id >= 0)
        cot__log(COT_LOG_WARN, "%s: %s: %d is beyond the %zu tokens, not used", t->file, key, id,
                 t->n_tokens);
    return -1;
}

static cot_status add_roles(cot__tokenizer *t, const cot__vocab *v, cot_error *err) {
    bool llama = t->model == COT__MODEL_SCORES && !t->byte_level;
    t->bos = role(t, "tokenizer.ggml.bos_token_id", v->bos < 0 && llama && t->n_tokens > 2 ? 1 : v->bos);
    t->eos = role(t, "tokenizer.ggml.eos_token_id", v->eos < 0 && llama && t->n_tokens > 2 ? 2 : v->eos);
    t->unk_role = role(t, "tokenizer.ggml.unknown_token_id", v->unk);
    t->pad = role(t, "tokenizer.ggml.padding_token_id", v->pad);
    t->eot = role(t, "tokenizer.ggml.eot_token_id", v->eot);
    t->eom = role(t, "tokenizer.ggml.eom_token_id", v->eom);
    for (size_t i = 0; t->unk_role < 0 && !t->byte_level && i < t->n_tokens; i++)
        if (t->entry[i].type == COT__TOK_UNKNOWN) t->unk_role = (int32_t)i;
    if (!t->byte_level) t->unk = t->unk_role;
    cot__tok_roles_guess(t);
    bool bos = v->add_bos >= 0 ? v->add_bos : llama || (t->pre && t->pre->add_bos);
    bool eos = v->add_eos >= 0 ? v->add_eos : t->model == COT__MODEL_UNIGRAM;
    if (bos && t->bos >= 0) {
        if (!(t->prefix = cot__alloc(sizeof *t->prefix))) return cot__fail_memory(err, sizeof *t->prefix);
        t->prefix[t->n_prefix++] = t->bos;
    }
    if (eos && t->eos >= 0) {
        if (!(t->suffix = cot__alloc(sizeof *t->suffix))) return cot__fail_memory(err, sizeof *t->suffix);
        t->suffix[t->n_suffix++] = t->eos;
    }
    return COT_OK;
}

static cot_status build(cot__tokenizer *t, const cot__vocab *v, cot_error *err) {
    const char *model = v->model ? v->model : "", *pre = v->pre;
    bool gpt2 = strcmp(model, "gpt2") == 0, gemma4 = strcmp(model, "gemma4") == 0;
    if (gpt2 || gemma4) {
        if (gemma4) pre = "gemma4";
        else if (!pre || !*pre) {
            cot__log(COT_LOG_WARN,
                     "%s: tokenizer.ggml.pre is missing: text is cut up by the default rules, which few "
                     "models were trained with; convert the model anew",
                     t->file);
            pre = "default";
        }
        COT_TRY(kind_bpe(t, v, pre, err));
    } else if (strcmp(model, "llama") == 0) COT_TRY(kind_sentencepiece(t, v, false, err));
    else if (strcmp(model, "t5") == 0) COT_TRY(kind_sentencepiece(t, v, true, err));
    else
        return cot__fail(err, COT_UNSUPPORTED, t->file, "tokenizer.ggml.model",
                         "\"%s\" is not supported; gpt2, llama, t5 and gemma4 are", model);
    COT_TRY(add_tokens(t, v, err));
    if (t->model == COT__MODEL_BPE) COT_TRY(add_merges(t, v, err));
    if (t->model == COT__MODEL_UNIGRAM) COT_TRY(cot__tok_unigram_build(t, err));
    return add_roles(t, v, err);
}

cot_status cot__tokenizer_from_vocab(cot__tokenizer **out, const cot__vocab *vocab, cot_error *err) {
    cot__tokenizer *t = NULL;
    if (!vocab->tokens) return cot__fail(err, COT_FORMAT, vocab->file, "tokenizer.ggml.tokens", "is missing");
    COT_TRY(cot__tok_new(&t, vocab->file, vocab->n_tokens, err));
    cot_status s = build(t, vocab, err);
    if (s == COT_OK) *out = t;
    else cot__tokenizer_free(&t);
    return s;
}
