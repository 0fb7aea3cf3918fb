/* Owns: lower precisions of routed experts that a file offers beside their own (coterie pack --tiers): how
 * they are named, and the named, lossy policies that use them. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "model/build.h"

/* blk.N.ffn_gate.E.weight.q2_k: the type behind ".weight."; NONE: a tensor like any other. */
cot_type cot__tier_of(const char *name) {
    const char *at = strstr(name, ".weight.");
    return at ? cot_type_from_name(at + 8) : COT_TYPE_NONE;
}

void cot__tier_name(const char *tensor, cot_type type, char out[COT__SLOT_NAME]) {
    size_t n = (size_t)snprintf(out, COT__SLOT_NAME, "%s.%s", tensor, cot__type((int)type)->name);
    for (size_t i = strlen(tensor); i < n && i < COT__SLOT_NAME; i++)
        if (out[i] >= 'A' && out[i] <= 'Z') out[i] = (char)(out[i] - 'A' + 'a');
}

static double bits(cot_type t) {
    const cot__type_info *i = cot__type((int)t);
    return 8.0 * i->bytes / i->block;
}

cot_status cot__model_lossy(cot_model *m, const char *policy, cot_error *err) {
    const cot__tensor_set *set = m->source->tensors;
    m->lossy = COT__LOSSY_NONE;
    m->tier = COT_TYPE_NONE;
    if (!policy || strcmp(policy, "none") == 0) return COT_OK;
    size_t n = strcspn(policy, ":");
    if (n == 3 && strncmp(policy, "low", n) == 0) m->lossy = COT__LOSSY_LOW;
    else if (n == 4 && strncmp(policy, "miss", n) == 0) m->lossy = COT__LOSSY_MISS;
    else
        return cot__fail(err, COT_ARGUMENT, NULL, "experts_lossy",
                         "\"%s\" is none of none, low, low:TYPE, miss, miss:TYPE", policy);
    for (size_t i = 0; i < set->n_tensors; i++) {
        cot_type t = cot__tier_of(set->tensors[i].name);
        if (t == COT_TYPE_NONE || (policy[n] && strcasecmp(cot__type((int)t)->name, policy + n + 1) != 0))
            continue;
        if (m->tier == COT_TYPE_NONE || bits(t) < bits(m->tier)) m->tier = t;
    }
    if (m->tier != COT_TYPE_NONE) return COT_OK;
    return cot__fail(
        err, COT_ARGUMENT, m->source->path, "experts_lossy",
        "the file has no experts in a lower precision%s%s; coterie pack IN OUT --tiers TYPE adds them",
        policy[n] ? " of type " : "", policy[n] ? policy + n + 1 : "");
}

bool cot__tier_idle(const cot_model *m, const cot__tensor *x) {
    cot_type t = cot__tier_of(x->name);
    char name[COT__SLOT_NAME];
    if (t != COT_TYPE_NONE) return m->lossy == COT__LOSSY_NONE || t != m->tier;
    if (m->lossy != COT__LOSSY_LOW) return false;
    cot__tier_name(x->name, m->tier, name);
    return cot__tensors_find(m->source->tensors, name) != NULL;
}

cot_status cot__tier_bind(const cot_model *m, const char *tensor, cot_view *v, cot_error *err) {
    char name[COT__SLOT_NAME];
    cot__tier_name(tensor, m->tier, name);
    const cot__tensor *x = cot__tensors_find(m->source->tensors, name);
    if (!x)
        return cot__fail(err, COT_FORMAT, m->source->path, name,
                         "is missing; other experts have this precision");
    if (x->n_dims != 2 || x->dims[0] != v->cols || x->dims[1] != v->rows || x->type != m->tier)
        return cot__fail(err, COT_FORMAT, m->source->path, name,
                         "must be %s and %lld × %lld as its other precision", cot_type_name((int)m->tier),
                         (long long)v->rows, (long long)v->cols);
    const void *p;
    COT_TRY(cot__store_name(m->store, x, &p, err));
    *v = cot__view_make(p, x->type, x->dims[1], x->dims[0]);
    cot__stands_together(m->source, v);
    return COT_OK;
}

const char *cot__lossy_name(const cot_model *m) {
    static const char *const names[] = {"", "low", "miss"};
    return names[m->lossy];
}
