/* Feed-forward mechanisms: dense, and routed with optional shared experts. */
#include <string.h>

#include "base/error.h"
#include "model/build.h"

static cot_status build_activation(cot__build *b, const json_t *op, cot__ffn *f, cot_error *err) {
    static const struct {
        const char *name;
        cot_glu act;
    } names[] = {{"silu", COT_GLU_SILU},
                 {"gelu_tanh", COT_GLU_GELU_TANH},
                 {"gelu", COT_GLU_GELU_ERF},
                 {"relu", COT_GLU_RELU},
                 {"swiglu_clamped", COT_GLU_SWIGLU_CLAMPED}};
    const char *name = "silu";
    COT_TRY(cot__arch_string(b->m->arch, json_object_get(op, "act"), "act", &name, err));
    COT_TRY(cot__arch_f32(b->m->arch, op, "alpha", -1, &f->alpha, err));
    COT_TRY(cot__arch_f32(b->m->arch, op, "limit", -1, &f->limit, err));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i].name, name) == 0) {
            f->act = names[i].act;
            return COT_OK;
        }
    return cot__fail(err, COT_UNSUPPORTED, b->m->source->path, "act", "activation \"%s\" is not known", name);
}

/* Parts of one expert (−1: a dense or shared feed-forward), every shape checked against the others. */
static cot_status bind_expert(cot__build *b, const char *const slots[3], int layer, int expert,
                              cot__expert *e, cot_error *err) {
    cot__bind *bind = &b->bind;
    int64_t n = b->m->n_embd;
    cot_view *p = e->part;
    COT_TRY(cot__slot_need(bind, slots[1], layer, expert, -1, n, &p[COT__UP], err));
    COT_TRY(cot__slot_view(bind, slots[0], layer, expert, &p[COT__GATE], NULL, err));
    int64_t d_ff = p[COT__UP].rows;
    COT_TRY(cot__slot_check(bind, slots[0], layer, &p[COT__GATE], d_ff, n, err));
    COT_TRY(cot__slot_need(bind, slots[2], layer, expert, n, d_ff, &p[COT__DOWN], err));
    COT_TRY(cot__slot_bias(bind, slots[0], layer, expert, &p[COT__GATE_B], err));
    COT_TRY(cot__slot_bias(bind, slots[1], layer, expert, &p[COT__UP_B], err));
    COT_TRY(cot__slot_bias(bind, slots[2], layer, expert, &p[COT__DOWN_B], err));
    COT_TRY(cot__slot_check(bind, slots[0], layer, &p[COT__GATE_B], 1, d_ff, err));
    COT_TRY(cot__slot_check(bind, slots[1], layer, &p[COT__UP_B], 1, d_ff, err));
    return cot__slot_check(bind, slots[2], layer, &p[COT__DOWN_B], 1, n, err);
}

cot_status cot__build_ffn(cot__build *b, const json_t *op, cot__step *s, cot_error *err) {
    static const char *const slots[3] = {"ffn_gate", "ffn_up", "ffn_down"};
    s->ffn = cot__build_alloc(b, sizeof *s->ffn, err);
    if (!s->ffn) return COT_NO_MEMORY;
    COT_TRY(build_activation(b, op, &s->ffn->ffn, err));
    return bind_expert(b, slots, s->layer, -1, &s->ffn->expert, err);
}

typedef struct word {
    const char *name;
    int value;
} word;

static cot_status choose(cot__build *b, const json_t *op, const char *field, const word *words, int *out,
                         cot_error *err) {
    const char *name = NULL;
    COT_TRY(cot__arch_string(b->m->arch, json_object_get(op, field), field, &name, err));
    if (!name) return COT_OK;
    for (; words->name; words++)
        if (strcmp(words->name, name) == 0) {
            *out = words->value;
            return COT_OK;
        }
    return cot__fail(err, COT_UNSUPPORTED, b->m->arch->file, field, "\"%s\" is not known", name);
}

static cot_status build_router(cot__build *b, const json_t *op, int layer, cot__router *r, cot_error *err) {
    static const word scores[] = {{"identity", COT__SCORE_IDENT},
                                  {"softmax", COT__SCORE_SOFTMAX},
                                  {"sigmoid", COT__SCORE_SIGMOID},
                                  {NULL, 0}};
    static const word selects[] = {{"topk", COT__SELECT_TOPK},
                                   {"sequential_masked", COT__SELECT_SEQ_MASKED},
                                   {"all", COT__SELECT_ALL},
                                   {NULL, 0}};
    static const word sources[] = {{"score", COT__WEIGHT_SCORE},
                                   {"softmax_selected", COT__WEIGHT_SOFTMAX_SELECTED},
                                   {"one", COT__WEIGHT_ONE},
                                   {NULL, 0}};
    static const word groups[] = {{"max", COT__GROUP_MAX}, {"top2", COT__GROUP_TOP2}, {NULL, 0}};
    const cot__arch *a = b->m->arch;
    int score = COT__SCORE_SOFTMAX, select = COT__SELECT_TOPK, source = COT__WEIGHT_SCORE,
        group = COT__GROUP_MAX;
    int64_t n = 0, k = 0, n_group = 0, keep = 0;
    COT_TRY(choose(b, op, "score", scores, &score, err));
    COT_TRY(choose(b, op, "select", selects, &select, err));
    COT_TRY(choose(b, op, "weights", sources, &source, err));
    COT_TRY(choose(b, op, "group_score", groups, &group, err));
    COT_TRY(cot__arch_int(a, op, "experts", layer, 1, 65536, &n, err));
    COT_TRY(cot__arch_int(a, op, "k", layer, 1, 65536, &k, err));
    COT_TRY(cot__arch_int(a, op, "groups", layer, 0, 1024, &n_group, err));
    COT_TRY(cot__arch_int(a, op, "groups_used", layer, 0, 1024, &keep, err));
    if (!n || !k || k > n)
        return cot__fail(err, COT_FORMAT, cot__build_path(b), "experts", "layer %d: %lld used of %lld", layer,
                         (long long)k, (long long)n);
    if (n_group > 1 && (n % n_group || keep < 1 || keep > n_group))
        return cot__fail(err, COT_FORMAT, cot__build_path(b), "expert groups",
                         "%lld of %lld groups over %lld experts", (long long)keep, (long long)n_group,
                         (long long)n);
    *r = (cot__router){.n_experts = (int)n,
                       .k = (int)k,
                       .score = score,
                       .select = select,
                       .source = source,
                       .n_group = (int)n_group,
                       .n_group_keep = (int)keep,
                       .group_score = group,
                       .scale = 1,
                       .jitter = 0.01f};
    COT_TRY(cot__arch_flag(a, op, "normalize", layer, &r->norm, err));
    COT_TRY(cot__arch_f32(a, op, "normalize_eps", layer, &r->norm_eps, err));
    COT_TRY(cot__arch_f32(a, op, "scale", layer, &r->scale, err));
    COT_TRY(cot__arch_flag(a, op, "normalize_or_scale", layer, &r->norm_or_scale, err));
    COT_TRY(cot__arch_f32(a, op, "jitter", layer, &r->jitter, err));
    COT_TRY(cot__slot_need(&b->bind, "ffn_gate_inp", layer, -1, n, b->m->n_embd, &r->w, err));
    COT_TRY(cot__slot_vector(&b->bind, "ffn_gate_inp", true, layer, n, &r->bias, NULL, err));
    return cot__slot_vector(&b->bind, "exp_probs_b", false, layer, n, &r->select_bias, NULL, err);
}

/* The same expert in the lower precision of the lossy policy. */
static cot_status bind_lower(cot__build *b, const char *const slots[3], int layer, int expert,
                             const cot__expert *e, cot__expert *low, cot_error *err) {
    *low = *e;
    for (int p = 0; p < 3; p++) {
        const char *name = NULL;
        cot_view v;
        if (!e->part[p].rows) continue;
        COT_TRY(cot__slot_view(&b->bind, slots[p], layer, expert, &v, &name, err));
        COT_TRY(cot__tier_bind(b->m, name, &low->part[p], err));
    }
    return COT_OK;
}

static cot_status add_bank(cot__build *b, const char *const slots[3], int layer, cot__moe *m,
                           cot_error *err) {
    cot_model *model = b->m;
    size_t n = (size_t)m->router.n_experts;
    cot__expert *e = cot__alloc_zero(2 * n, sizeof *e), *low = e + n;
    if (!e) return cot__fail_memory(err, 2 * n * sizeof *e);
    cot_status st = COT_OK;
    for (int i = 0; i < (int)n && st == COT_OK; i++) {
        st = bind_expert(b, slots, layer, i, &e[i], err);
        if (st == COT_OK && model->lossy != COT__LOSSY_NONE)
            st = bind_lower(b, slots, layer, i, &e[i], &low[i], err);
    }
    if (st == COT_OK)
        st = cot__store_add_bank(model->store, model->lossy == COT__LOSSY_LOW ? low : e,
                                 model->lossy == COT__LOSSY_MISS ? low : NULL, (int)n, &m->bank, err);
    cot__free(e);
    return st;
}

cot_status cot__build_moe(cot__build *b, const json_t *op, cot__step *s, cot_error *err) {
    static const char *const slots[3] = {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"};
    static const char *const shared[3] = {"ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"};
    cot_model *model = b->m;
    cot__moe *m = s->moe = cot__build_alloc(b, sizeof *m, err);
    if (!m) return COT_NO_MEMORY;
    COT_TRY(build_router(b, op, s->layer, &m->router, err));
    COT_TRY(build_activation(b, op, &m->ffn, err));
    m->n_embd = (int)model->n_embd;
    m->layer = s->layer;
    m->site = model->n_sites++;
    if (m->router.n_experts > model->max_experts) model->max_experts = m->router.n_experts;
    if (m->router.k > model->max_used) model->max_used = m->router.k;
    COT_TRY(add_bank(b, slots, s->layer, m, err));
    m->has_shared = cot__slot_exists(&b->bind, shared[1], s->layer);
    if (!m->has_shared) return COT_OK;
    COT_TRY(bind_expert(b, shared, s->layer, -1, &m->shared, err));
    COT_TRY(cot__slot_view(&b->bind, "ffn_gate_inp_shexp", s->layer, -1, &m->shared_gate_w, NULL, err));
    return cot__slot_check(&b->bind, "ffn_gate_inp_shexp", s->layer, &m->shared_gate_w, 1, model->n_embd,
                           err);
}
