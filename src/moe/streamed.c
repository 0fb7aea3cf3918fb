/* Owns: the computation of experts that arrive one after the other. Each row's result of each expert is kept
 * apart; the sum over a row's experts is made afterwards, in ascending id, the shared expert last. So the
 * order in which experts arrive, and how many there is room for, cannot change a bit. */
#include "base/error.h"
#include "moe/moe.h"

enum {
    AT_ONCE = 16,     /* experts of one computation */
    WINDOW = 16 << 20 /* bytes of results that exist at once */
};

typedef struct window {
    cot__expert_rows *groups;
    const int32_t *ids;
    int n;
    float *y;        /* results */
    size_t *at;      /* first result of each group */
    uint8_t *state;  /* the lease's */
    size_t computed; /* results so far */
} window;

static uint64_t window_rows(int64_t n_embd) {
    uint64_t rows = WINDOW / (sizeof(float) * (uint64_t)n_embd);
    return rows ? rows : 1;
}

uint64_t cot__moe_streamed_scratch(const cot__moe *m, uint64_t rows) {
    uint64_t all = rows * (uint64_t)m->router.k, most = window_rows(m->n_embd), row = (uint64_t)m->n_embd * 4;
    if (most < rows) most = rows; /* one expert may be everybody's */
    if (most > all) most = all;
    return most * row + (uint64_t)m->router.n_experts * 16 + (m->has_shared ? rows * row : 0);
}

/* Experts at hand: compute, keep. Forms of x that are made for them serve the next ones, too. */
static cot_status compute(cot__ops *c, const cot__moe *m, const cot__expert_rows *groups, int n, cot__rows *x,
                          float *y, cot_error *err) {
    for (int i = 0; i < n; i++) COT_TRY(cot__experts_encode(c, groups[i].expert, x, err));
    size_t mark = cot__arena_mark(c->arena);
    cot_status s = cot__experts_apart(c, &m->ffn, groups, n, x, y, err);
    cot__arena_rewind(c->arena, mark);
    return s;
}

/* One lease over the window's experts, from the first that is ready to the last that arrives. */
static cot_status run_window(cot__ops *c, const cot__moe *m, cot__store *store, window *w, cot__lease *lease,
                             cot__rows *x, cot_error *err) {
    cot__expert_rows now[AT_ONCE];
    int which[AT_ONCE], k = 0;
    cot_status s;
    w->computed = 0;
    while ((s = cot__lease_take(lease, which, AT_ONCE, &k, c->pool, err)) == COT_OK && k > 0) {
        float *y = w->y + w->computed * (size_t)m->n_embd;
        for (int j = 0; j < k; j++) {
            now[j] = w->groups[which[j]];
            now[j].expert = cot__lease_expert(lease, which[j]);
            w->at[which[j]] = w->computed;
            w->computed += (size_t)now[j].n;
        }
        s = compute(c, m, now, k, x, y, err);
        if (s != COT_OK) break;
        cot__lease_done(lease, which, k);
    }
    cot__store_release(store, lease);
    return s;
}

cot_status cot__moe_streamed(cot__ops *c, const cot__moe *m, cot__store *store, const cot__moe_context *ctx,
                             const cot__plan *plan, cot__expert_rows *groups, const int32_t *ids, int n,
                             const cot__expert_rows *shared, cot__rows *x, float *out, size_t out_stride,
                             cot_error *err) {
    size_t cols = (size_t)m->n_embd, slots = 0, most = (size_t)window_rows(m->n_embd);
    for (int i = 0; i < n; i++) {
        slots += (size_t)groups[i].n;
        if ((size_t)groups[i].n > most) most = (size_t)groups[i].n;
    }
    if (most > slots) most = slots;
    window w = {.y = cot__arena_alloc(c->arena, most * cols * sizeof(float)),
                .at = cot__arena_alloc(c->arena, (size_t)n * sizeof(size_t)),
                .state = cot__arena_alloc(c->arena, (size_t)n)};
    float *shared_y = shared ? cot__arena_alloc(c->arena, (size_t)x->n * cols * sizeof(float)) : NULL;
    if (!w.y || !w.at || !w.state || (shared && !shared_y))
        return cot__fail_memory(err, most * cols * sizeof(float));
    cot__store_turn(store, m->bank, n, slots);
    int from = 0, to = 0;
    do {
        size_t rows = 0;
        for (; to < n && rows + (size_t)groups[to].n <= most; to++) rows += (size_t)groups[to].n;
        w.groups = groups + from, w.ids = ids + from, w.n = to - from;
        cot__lease lease;
        COT_TRY(cot__store_acquire(store, m->bank, w.ids, w.n, w.state, &lease, err));
        if (from == 0) {
            cot__store_hint(store, m->bank, ids + to, NULL, n - to, 0);
            if (ctx->predictor) cot__moe_predict(c, m, store, ctx, plan, x);
            /* while the first reads are under way */
            cot_status s = shared ? compute(c, m, shared, 1, x, shared_y, err) : COT_OK;
            if (s != COT_OK) {
                cot__store_release(store, &lease);
                return s;
            }
        }
        COT_TRY(run_window(c, m, store, &w, &lease, x, err));
        cot__experts_sum(c, w.groups, w.at, w.n, w.y, m->n_embd, from == 0 ? x->n : 0, out, out_stride);
        from = to;
    } while (from < n);
    if (shared) cot__experts_sum(c, shared, &(size_t){0}, 1, shared_y, m->n_embd, 0, out, out_stride);
    return COT_OK;
}
