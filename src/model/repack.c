/* Owns: which of a model's matrices are read by products alone, and so may be repacked. */
#include "base/alloc.h"
#include "base/error.h"
#include "model/internal.h"

typedef struct lists {
    cot_view **views;
    const cot_view **kept;
    size_t n, n_kept;
} lists;

enum { MOST = 8 }; /* views of a step */

static void may(lists *l, cot_view *v) { l->views[l->n++] = v; }

static void collect(lists *l, cot__step *s) {
    switch (s->kind) {
    case COT__STEP_ATTENTION:
        may(l, &s->attn->wq), may(l, &s->attn->wk), may(l, &s->attn->wv), may(l, &s->attn->wo);
        break;
    case COT__STEP_MLA: /* kv_b is cut by heads */
        may(l, &s->mla->wq), may(l, &s->mla->wqa), may(l, &s->mla->wqb), may(l, &s->mla->wkva);
        may(l, &s->mla->wo);
        l->kept[l->n_kept++] = &s->mla->wk, l->kept[l->n_kept++] = &s->mla->wv;
        break;
    case COT__STEP_FFN:
        for (int p = COT__GATE; p <= COT__DOWN; p++) may(l, &s->ffn->expert.part[p]);
        break;
    case COT__STEP_MOE:
        for (int p = COT__GATE; p <= COT__DOWN && s->moe->has_shared; p++) may(l, &s->moe->shared.part[p]);
        break;
    default: break;
    }
}

cot_status cot__model_repack(cot_model *m, cot_progress_fn *progress, void *user, cot_error *err) {
    size_t most = m->n_steps * MOST + 1;
    lists l = {.views = cot__alloc_array(most, sizeof *l.views),
               .kept = cot__alloc_array(most, sizeof *l.kept)};
    cot_status st = l.views && l.kept ? COT_OK : cot__fail_memory(err, most * 2 * sizeof *l.views);
    if (st == COT_OK) {
        l.kept[l.n_kept++] = &m->embed;
        may(&l, &m->head);
        for (size_t i = 0; i < m->n_steps; i++) collect(&l, &m->steps[i]);
        st = cot__store_repack(m->store, l.views, l.n, l.kept, l.n_kept, progress, user, err);
    }
    cot__free(l.views);
    cot__free((void *)l.kept);
    return st;
}
