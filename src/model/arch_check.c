/* Owns: the names that a description may use. A field that nobody reads is a misspelt one: it is refused
 * here, where its place can still be told, instead of being ignored in silence. Values are checked where they
 * are read. */
#include <string.h>

#include "base/error.h"
#include "model/arch.h"

static const char derived[] = "product ratio sum difference period from last others comment";

static const struct {
    const char *op, *fields;
} mechanisms[] = {
    {"norm", "norm weight eps"},
    {"attention",
     "heads kv_heads head_dim head_dim_v window rope scale scale_base softcap clip norm_after_rope eps"},
    {"mla", "heads q_rank kv_rank nope rot head_dim_v rope eps yarn_log_multiplier yarn_factor"},
    {"ffn", "act alpha limit"},
    {"moe",
     "act alpha limit experts k score select weights groups groups_used group_score normalize normalize_eps "
     "normalize_or_scale scale jitter"},
    {"add", "scale"},
};

static bool listed(const char *names, const char *name) {
    size_t n = strlen(name);
    for (const char *at = names; (at = strstr(at, name)) != NULL; at += n)
        if (!n || ((at == names || at[-1] == ' ') && (at[n] == ' ' || !at[n])))
            return n > 0; /* "" is found anywhere */
    return false;
}

/* Every key of the object must stand in one of the lists (names between spaces; more may be NULL). */
static cot_status only(const cot__arch *a, const char *where, const json_t *object, const char *names,
                       const char *more, cot_error *err) {
    const char *key;
    json_t *value;
    if (object && !json_is_object(object))
        return cot__fail(err, COT_FORMAT, a->file, where, "must be an object");
    json_object_foreach(
        (json_t *)object, key,
        value) if (!listed(names, key) &&
                   !(more &&
                     listed(more,
                            key))) return cot__fail(err, COT_FORMAT, a->file, where,
                                                    "has a field \"%s\", which nothing reads; known: %s", key,
                                                    names);
    return COT_OK;
}

static cot_status check_params(const cot__arch *a, cot_error *err) {
    const char *name;
    json_t *spec;
    json_object_foreach(json_object_get(a->doc, "params"), name, spec) {
        const json_t *d = json_object_get(spec, "default");
        if (!json_is_object(spec)) continue; /* a literal */
        COT_TRY(only(a, name, spec, "gguf hf as enum default required write", derived, err));
        if (json_is_object(d)) COT_TRY(only(a, name, d, "gguf hf", derived, err));
        for (int i = 0; i < 2; i++) {
            const json_t *by = json_object_get(d, i ? "hf" : "gguf");
            if (json_is_object(by)) COT_TRY(only(a, name, by, derived, NULL, err));
        }
    }
    return COT_OK;
}

static cot_status check_tensors(const cot__arch *a, cot_error *err) {
    const char *name;
    json_t *spec;
    json_object_foreach(json_object_get(a->doc, "tensors"), name, spec) {
        COT_TRY(only(a, name, spec, "gguf hf comment", NULL, err));
        for (int f = 0; f < 2; f++) {
            const json_t *list = json_object_get(spec, f ? "hf" : "gguf");
            bool one = !json_is_array(list);
            for (size_t i = 0; i < (one ? (size_t)(list != NULL) : json_array_size(list)); i++) {
                const json_t *way = one ? list : json_array_get(list, i);
                if (json_is_string(way) || json_is_null(way)) continue;
                COT_TRY(only(a, name, way,
                             "name bias blocks scales rows split index transpose add normalize_columns", NULL,
                             err));
            }
        }
    }
    return COT_OK;
}

static cot_status check_op(const cot__arch *a, const json_t *op, cot_error *err) {
    const char *name = json_string_value(json_object_get(op, "op"));
    if (!name)
        return cot__fail(err, COT_FORMAT, a->file, "op",
                         "every sub-layer is an object with an \"op\" that names it");
    for (size_t i = 0; i < sizeof mechanisms / sizeof *mechanisms; i++)
        if (strcmp(mechanisms[i].op, name) == 0)
            return only(a, name, op, mechanisms[i].fields, "op in out if unless comment", err);
    return cot__fail(err, COT_UNSUPPORTED, a->file, "op", "no mechanism is named \"%s\"", name);
}

static cot_status check_stacks(const cot__arch *a, cot_error *err) {
    const char *name;
    json_t *stack;
    json_object_foreach(json_object_get(a->doc, "stacks"), name, stack) {
        COT_TRY(only(a, name, stack, "count layer output comment", NULL, err));
        for (int l = 0; l < 2; l++) {
            const char *field = l ? "output" : "layer";
            const json_t *list = json_object_get(stack, field);
            if (!json_is_array(list))
                return cot__fail(err, COT_FORMAT, a->file, field, "must be a list of sub-layers");
            for (size_t i = 0; i < json_array_size(list); i++)
                COT_TRY(check_op(a, json_array_get(list, i), err));
        }
    }
    return COT_OK;
}

cot_status cot__arch_check(const cot__arch *a, cot_error *err) {
    static const char *const need[] = {"params", "tensors", "rope", "stacks", NULL};
    const json_t *doc = a->doc;
    int64_t version = 0;
    const char *name;
    json_t *spec;
    COT_TRY(cot__json_int(doc, a->file, "coterie_arch", 1, 1, &version, err));
    if (!version) return cot__fail(err, COT_FORMAT, a->file, "coterie_arch", "is missing; it must be 1");
    COT_TRY(only(a, "description", doc,
                 "coterie_arch name comment extends match params rope tensors input heads stacks "
                 "gguf_arch hf_config",
                 NULL, err));
    for (int i = 0; need[i]; i++)
        if (!json_is_object(json_object_get(doc, need[i])))
            return cot__fail(err, COT_FORMAT, a->file, need[i], "is missing or no object");
    COT_TRY(only(a, "match", json_object_get(doc, "match"), "gguf hf when", NULL, err));
    COT_TRY(only(a, "input", json_object_get(doc, "input"), "scale sqrt_scale comment", NULL, err));
    json_object_foreach(json_object_get(doc, "heads"), name, spec)
        COT_TRY(only(a, name, spec, "in tied scale divide softcap comment", NULL, err));
    json_object_foreach(json_object_get(doc, "rope"), name, spec)
        COT_TRY(only(a, name, spec,
                     "dim base pairing scaling factor original_ctx attn_factor beta_fast beta_slow truncate "
                     "mscale mscale_all low_freq_factor high_freq_factor short_factor long_factor "
                     "short_mscale long_mscale long_factor_ratio comment",
                     NULL, err));
    COT_TRY(check_params(a, err));
    COT_TRY(check_tensors(a, err));
    return check_stacks(a, err);
}
