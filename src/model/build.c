/* Owns: compiling a description to steps. Each mechanism has its own builder in blocks/; this file walks the
 * stacks, decides which sub-layers a layer has, names values, and binds input and head. */
#include "model/build.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

const char *cot__build_path(const cot__build *b) { return b->m->source->path; }

void *cot__build_alloc(cot__build *b, size_t bytes, cot_error *err) {
    void *p = cot__arena_alloc(b->m->arena, bytes);
    if (p) memset(p, 0, bytes);
    else cot__fail_memory(err, bytes);
    return p;
}

/* A value by its name; one that is written comes into being. */
static cot_status value_of(cot__build *b, const json_t *op, const char *field, const char *fallback,
                           bool written, int *out, cot_error *err) {
    const char *name = json_object_get(op, field) ? json_string_value(json_object_get(op, field)) : fallback;
    if (!name) return cot__fail(err, COT_FORMAT, b->m->arch->file, field, "must name a value");
    for (int i = 0; i < b->m->n_values; i++)
        if (strcmp(b->m->value_name[i], name) == 0) {
            *out = i;
            return COT_OK;
        }
    if (!written)
        return cot__fail(err, COT_FORMAT, b->m->arch->file, field, "nothing has written the value \"%s\"",
                         name);
    if (b->m->n_values == COT__VALUES)
        return cot__fail(err, COT_LIMIT, b->m->arch->file, field, "more than %d values are named",
                         COT__VALUES);
    b->m->value_name[ *out = b->m->n_values++] = name;
    return COT_OK;
}

/* "if": "$flag", or "tensor:SLOT" for presence in the file; "unless" is the opposite. */
static cot_status condition(cot__build *b, const json_t *v, int layer, bool *out, cot_error *err) {
    const char *s = json_string_value(v);
    if (s && strncmp(s, "tensor:", 7) == 0) {
        *out = cot__slot_exists(&b->bind, s + 7, layer);
        return COT_OK;
    }
    double x = 0;
    bool found;
    COT_TRY(cot__arch_number(b->m->arch, v, "if", layer, &x, &found, err));
    *out = found && x != 0;
    return COT_OK;
}

static cot_status wanted(cot__build *b, const json_t *op, int layer, bool *out, cot_error *err) {
    const json_t *yes = json_object_get(op, "if"), *no = json_object_get(op, "unless");
    *out = true;
    if (yes) COT_TRY(condition(b, yes, layer, out, err));
    if (*out && no) {
        bool skip;
        COT_TRY(condition(b, no, layer, &skip, err));
        *out = !skip;
    }
    return COT_OK;
}

cot_status cot__build_rope(cot__build *b, const json_t *op, int *out, cot_error *err) {
    cot_model *m = b->m;
    const char *name = "main";
    COT_TRY(cot__arch_string(m->arch, json_object_get(op, "rope"), "rope", &name, err));
    *out = -1;
    if (strcmp(name, "none") == 0) return COT_OK;
    for (int i = 0; i < m->n_ropes; i++)
        if (strcmp(m->rope[i].name, name) == 0) {
            *out = i;
            return COT_OK;
        }
    const json_t *spec = json_object_get(json_object_get(m->arch->doc, "rope"), name);
    if (!spec) return cot__fail(err, COT_FORMAT, m->arch->file, "rope", "\"%s\" is not described", name);
    if (m->n_ropes == COT__ROPES)
        return cot__fail(err, COT_LIMIT, m->arch->file, "rope", "more than %d are used", COT__ROPES);
    COT_TRY(cot__rope_build(m, name, spec, &m->rope[m->n_ropes], err));
    *out = m->n_ropes++;
    return COT_OK;
}

cot_status cot__build_stream(cot__build *b, int heads, int dk, int dv, bool v_alias, int *out,
                             cot_error *err) {
    cot_model *m = b->m;
    cot__kv_stream *p = cot__realloc_array(m->streams, (size_t)m->n_streams + 1, sizeof *p);
    if (!p) return cot__fail_memory(err, ((size_t)m->n_streams + 1) * sizeof *p);
    m->streams = p;
    p[m->n_streams] = (cot__kv_stream){.heads = heads, .dk = dk, .dv = dv, .v_alias = v_alias};
    *out = m->n_streams++;
    return COT_OK;
}

cot_status cot__build_eps(cot__build *b, const json_t *op, float *out, cot_error *err) {
    const json_t *v = json_object_get(op, "eps");
    double x = 1e-5;
    bool found;
    json_t *ref = json_string("$norm_eps");
    if (!ref) return cot__fail_memory(err, 0);
    cot_status s = cot__arch_number(b->m->arch, v ? v : ref, "eps", -1, &x, &found, err);
    json_decref(ref);
    if (s == COT_OK && !(x >= 0 && x < 1))
        return cot__fail(err, COT_FORMAT, b->m->source->path, "norm_eps", "is %g, must lie in 0…1", x);
    *out = (float)x;
    return s;
}

static cot_status build_norm(cot__build *b, const json_t *op, cot__step *s, cot_error *err) {
    const char *kind = "rms", *slot = json_string_value(json_object_get(op, "weight"));
    COT_TRY(cot__arch_string(b->m->arch, json_object_get(op, "norm"), "norm", &kind, err));
    if (strcmp(kind, "rms") != 0 && strcmp(kind, "layer") != 0)
        return cot__fail(err, COT_FORMAT, b->m->arch->file, "norm", "must be rms or layer");
    s->norm.kind = kind[0] == 'r' ? COT_NORM_RMS : COT_NORM_LAYER;
    COT_TRY(cot__build_eps(b, op, &s->norm.eps, err));
    if (!slot) return COT_OK; /* a norm without weight */
    COT_TRY(cot__slot_vector(&b->bind, slot, false, s->layer, b->m->n_embd, &s->norm.w, NULL, err));
    if (!s->norm.w) {
        cot_view v;
        return cot__slot_need(&b->bind, slot, s->layer, -1, 1, b->m->n_embd, &v,
                              err); /* fails, naming the tensor */
    }
    return s->norm.kind == COT_NORM_LAYER
               ? cot__slot_vector(&b->bind, slot, true, s->layer, b->m->n_embd, &s->norm.b, NULL, err)
               : COT_OK;
}

static cot_status build_add(cot__build *b, const json_t *op, cot__step *s, cot_error *err) {
    s->scale = 1;
    return cot__arch_f32(b->m->arch, op, "scale", s->layer, &s->scale, err);
}

static const struct {
    const char *name, *in, *out;
    cot__step_kind kind;
    cot_status (*build)(cot__build *, const json_t *, cot__step *, cot_error *);
} mechanisms[] = {
    {"norm", "h", "x", COT__STEP_NORM, build_norm},
    {"attention", "x", "a", COT__STEP_ATTENTION, cot__build_attention},
    {"mla", "x", "a", COT__STEP_MLA, cot__build_mla},
    {"ffn", "x", "f", COT__STEP_FFN, cot__build_ffn},
    {"moe", "x", "f", COT__STEP_MOE, cot__build_moe},
    {"add", "a", "h", COT__STEP_ADD, build_add},
};

static cot_status build_op(cot__build *b, const json_t *op, int layer, cot_error *err) {
    cot_model *m = b->m;
    const char *name = json_string_value(json_object_get(op, "op"));
    bool take;
    if (!name) return cot__fail(err, COT_FORMAT, m->arch->file, "op", "every sub-layer needs one");
    COT_TRY(wanted(b, op, layer, &take, err));
    if (!take) return COT_OK;
    for (size_t i = 0; i < sizeof mechanisms / sizeof *mechanisms; i++) {
        if (strcmp(mechanisms[i].name, name) != 0) continue;
        cot__step s = {.kind = mechanisms[i].kind, .layer = layer};
        COT_TRY(value_of(b, op, "in", mechanisms[i].in, false, &s.in, err));
        COT_TRY(value_of(b, op, "out", mechanisms[i].out, true, &s.out, err));
        COT_TRY(mechanisms[i].build(b, op, &s, err));
        if (m->n_steps == m->cap_steps) {
            size_t cap = m->cap_steps ? m->cap_steps * 2 : 256;
            cot__step *p = cot__realloc_array(m->steps, cap, sizeof *p);
            if (!p) return cot__fail_memory(err, cap * sizeof *p);
            m->steps = p;
            m->cap_steps = cap;
        }
        m->steps[m->n_steps++] = s;
        return COT_OK;
    }
    return cot__fail(err, COT_UNSUPPORTED, m->arch->file, "op", "no mechanism is named \"%s\"", name);
}

static cot_status build_list(cot__build *b, const json_t *list, const char *field, int layer,
                             cot_error *err) {
    if (!json_is_array(list))
        return cot__fail(err, COT_FORMAT, b->m->arch->file, field, "must be a list of sub-layers");
    if (!json_array_size(list) && layer >= 0)
        return cot__fail(err, COT_FORMAT, b->m->arch->file, field, "has no sub-layers");
    for (size_t i = 0; i < json_array_size(list); i++)
        COT_TRY(build_op(b, json_array_get(list, i), layer, err));
    return COT_OK;
}

static cot_status build_input(cot__build *b, cot_error *err) {
    cot_model *m = b->m;
    const json_t *in = json_object_get(m->arch->doc, "input");
    float of = 0;
    int h;
    COT_TRY(value_of(b, NULL, "h", "h", true, &h, err)); /* value 0 is the stream that the input fills */
    COT_TRY(cot__slot_need(&b->bind, "token_embd", -1, -1, -1, m->n_embd, &m->embed, err));
    m->n_vocab = m->embed.rows;
    if (m->n_vocab > INT32_MAX)
        return cot__fail(err, COT_LIMIT, cot__build_path(b), "token_embd", "has %lld rows",
                         (long long)m->n_vocab);
    const cot__param *said = cot__param_find(m->arch, "n_vocab");
    if (said && said->kind == COT__PARAM_NUMBER && said->number > (double)m->n_vocab)
        return cot__fail(err, COT_FORMAT, m->source->path, "vocab_size", "is %g, the embedding has %lld rows",
                         said->number, (long long)m->n_vocab);
    m->embed_scale = 1;
    COT_TRY(cot__arch_f32(m->arch, in, "scale", -1, &m->embed_scale, err));
    COT_TRY(cot__arch_f32(m->arch, in, "sqrt_scale", -1, &of, err));
    if (of > 0) m->embed_scale = sqrtf(of);
    return COT_OK;
}

static cot_status build_head(cot__build *b, cot_error *err) {
    cot_model *m = b->m;
    const json_t *heads = json_object_get(m->arch->doc, "heads"), *head = json_object_get(heads, "logits");
    float divide = 1;
    bool tied = false;
    COT_TRY(value_of(b, head, "in", "x", false, &m->head_value, err));
    COT_TRY(cot__arch_flag(m->arch, head, "tied", -1, &tied, err));
    if (!tied) COT_TRY(cot__slot_view(&b->bind, "output", -1, -1, &m->head, NULL, err));
    if (!m->head.data) m->head = m->embed;
    COT_TRY(cot__slot_check(&b->bind, "output", -1, &m->head, -1, m->n_embd, err));
    if (m->head.rows < m->n_vocab) m->n_vocab = m->head.rows;
    else m->head.rows = m->n_vocab; /* padding rows have no token */
    COT_TRY(cot__slot_bias(&b->bind, "output", -1, -1, &m->head_bias, err));
    COT_TRY(cot__slot_check(&b->bind, "output bias", -1, &m->head_bias, 1, m->n_vocab, err));
    m->logit_scale = 1;
    COT_TRY(cot__arch_f32(m->arch, head, "scale", -1, &m->logit_scale, err));
    COT_TRY(cot__arch_f32(m->arch, head, "divide", -1, &divide, err));
    if (divide == 0) return cot__fail(err, COT_FORMAT, cot__build_path(b), "logit divisor", "is zero");
    m->logit_scale /= divide;
    return cot__arch_f32(m->arch, head, "softcap", -1, &m->logit_softcap, err);
}

/* Of a layer that is not run (a prediction block behind the last), of what is computed instead of stored, or
 * of a head beside tied embeddings. */
static bool may_be_left(const cot_model *m, const char *name) {
    static const char *const computed[] = {"rotary_emb", "rope_f", "attn_rot_embd", "masked_bias",
                                           "attn.bias"};
    const char *layer = strncmp(name, "blk.", 4) == 0 ? name + 4 : strstr(name, "layers.");
    if (layer && layer != name + 4) layer += 7;
    if (layer && strtol(layer, NULL, 10) >= m->n_layer) return true;
    for (size_t i = 0; i < sizeof computed / sizeof *computed; i++)
        if (strstr(name, computed[i])) return true;
    return strcmp(name, "lm_head.weight") == 0 || strcmp(name, "output.weight") == 0;
}

/* A tensor that nothing reads is part of a model that this description does not describe: the logits may
 * differ. */
static void tell_unread(const cot_model *m, const bool *seen) {
    const cot__tensor_set *set = m->source->tensors;
    const char *first = NULL;
    size_t n = 0;
    for (size_t i = 0; i < set->n_tensors; i++)
        if (!seen[i] && !may_be_left(m, set->tensors[i].name)) {
            if (!n++) first = set->tensors[i].name;
        }
    if (n)
        cot__log(COT_LOG_WARN,
                 "%s: %zu tensors are not part of the description %s, such as %s: results may differ",
                 m->source->path, n, m->arch->name, first);
}

static cot_status build(cot_model *m, cot__build b, cot_error *err) {
    const json_t *doc = m->arch->doc, *stack = json_object_get(json_object_get(doc, "stacks"), "decoder");
    int64_t n_layer = 0;
    if (!stack) return cot__fail(err, COT_FORMAT, m->arch->file, "stacks", "needs a stack named decoder");
    json_t *sizes = json_pack("{s:s,s:s}", "n_embd", "$n_embd", "n_ctx", "$n_ctx_train");
    if (!sizes) return cot__fail_memory(err, 0);
    cot_status s = cot__arch_int(m->arch, sizes, "n_embd", -1, 1, 1 << 20, &m->n_embd, err);
    if (s == COT_OK) s = cot__arch_int(m->arch, sizes, "n_ctx", -1, 1, INT32_MAX, &m->n_ctx_train, err);
    json_decref(sizes);
    COT_TRY(s);
    COT_TRY(cot__arch_int(m->arch, stack, "count", -1, 1, 4096, &n_layer, err));
    if (!m->n_embd || !n_layer || !m->n_ctx_train)
        return cot__fail(err, COT_FORMAT, m->source->path, "n_embd, n_layer, n_ctx_train",
                         "are not all given");
    m->n_layer = (int)n_layer;
    COT_TRY(build_input(&b, err));
    for (int i = 0; i < m->n_layer; i++)
        COT_TRY(build_list(&b, json_object_get(stack, "layer"), "stacks.decoder.layer", i, err));
    COT_TRY(build_list(&b, json_object_get(stack, "output"), "stacks.decoder.output", -1, err));
    return build_head(&b, err);
}

cot_status cot__model_build(cot_model *m, cot_error *err) {
    size_t n = m->source->tensors->n_tensors;
    bool *seen = cot__alloc_zero(n ? n : 1, sizeof *seen);
    if (!seen) return cot__fail_memory(err, n);
    cot_status s = build(m, (cot__build){.m = m, .bind = {m->arch, m->store, seen}}, err);
    if (s == COT_OK) tell_unread(m, seen);
    cot__free(seen);
    return s;
}
