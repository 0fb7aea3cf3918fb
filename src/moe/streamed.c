/* Owns: the computation of experts that arrive one after the other. The rows of the experts at hand are
 * gathered, so that each row has one expert and its result comes out alone; the sum over a row's experts is
 * made afterwards, in ascending id, the shared expert last. So the order in which experts arrive, and how
 * many there is room for, cannot change a bit. */
#include <string.h>

#include "base/error.h"
#include "moe/moe.h"

enum {
    AT_ONCE = 16,      /* experts of one computation */
    WINDOW = 16 << 20, /* bytes of gathered rows and results that exist at once */
    CHUNK = 64         /* columns of a work item */
};

typedef struct window {
    cot__expert_rows *groups;
    const int32_t *ids;
    int n;
    float *x, *y;    /* gathered rows of those at hand; results of the whole window */
    int32_t *row;    /* 0, 1, 2, … */
    size_t *at;      /* first result of each group */
    uint8_t *state;  /* the lease's */
    size_t computed; /* results so far */
} window;

static uint64_t window_rows(int64_t n_embd) {
    uint64_t rows = WINDOW / (2 * sizeof(float) * (uint64_t)n_embd);
    return rows ? rows : 1;
}

uint64_t cot__moe_streamed_scratch(const cot__moe *m, uint64_t rows) {
    uint64_t all = rows * (uint64_t)m->router.k, most = window_rows(m->n_embd), row = (uint64_t)m->n_embd * 4;
    if (most < rows) most = rows; /* one expert may be everybody's */
    if (most > all) most = all;
    return most * (row * 2 + row / 2 + 256) + (uint64_t)m->router.n_experts * 16 +
           (m->has_shared ? rows * row : 0);
}

/* Experts at hand: gather, compute, keep. */
static cot_status compute(cot__ops *c, const cot__moe *m, const cot__lease *lease, window *w,
                          const int *which, int k, const cot__rows *x, cot_error *err) {
    cot__expert_rows sub[AT_ONCE];
    size_t cols = (size_t)m->n_embd, rows = 0, mark = cot__arena_mark(c->arena);
    for (int j = 0; j < k; j++) {
        const cot__expert_rows *g = &w->groups[which[j]];
        sub[j] = (cot__expert_rows){
            .expert = cot__lease_expert(lease, which[j]), .rows = w->row + rows, .n = g->n};
        w->at[which[j]] = w->computed + rows;
        for (int i = 0; i < g->n; i++)
            memcpy(w->x + (rows + (size_t)i) * cols, x->x + (size_t)g->rows[i] * x->stride,
                   cols * sizeof(float));
        rows += (size_t)g->n;
    }
    cot__rows in = cot__rows_of(w->x, cols, (int64_t)rows, (int64_t)cols);
    cot_status s = cot__experts_compute(c, &m->ffn, sub, k, &in, w->y + w->computed * cols, cols, err);
    w->computed += rows;
    cot__arena_rewind(c->arena, mark);
    return s;
}

typedef struct sum_job {
    const cot_kernels *k;
    const window *w;
    const cot__expert_rows *shared; /* NULL: not now */
    const float *shared_y;
    float *out;
    size_t out_stride;
    int64_t cols;
} sum_job;

static void sum_item(void *arg, size_t item, int thread) {
    const sum_job *j = arg;
    int64_t c0 = (int64_t)item * CHUNK, n = j->cols - c0 < CHUNK ? j->cols - c0 : CHUNK;
    for (int g = 0; j->w && g < j->w->n; g++) {
        const cot__expert_rows *e = &j->w->groups[g];
        for (int i = 0; i < e->n; i++)
            j->k->add_scaled(j->out + (size_t)e->rows[i] * j->out_stride + c0,
                             j->w->y + (j->w->at[g] + (size_t)i) * (size_t)j->cols + c0, e->weights[i], n);
    }
    for (int i = 0; j->shared && i < j->shared->n; i++)
        j->k->add_scaled(j->out + (size_t)i * j->out_stride + c0,
                         j->shared_y + (size_t)i * (size_t)j->cols + c0,
                         j->shared->weights ? j->shared->weights[i] : 1.0f, n);
}

static void sum(cot__ops *c, sum_job *j) {
    cot__pool_run(c->pool, sum_item, j, (size_t)((j->cols + CHUNK - 1) / CHUNK));
}

/* One lease over the window's experts, from the first that is ready to the last that arrives. */
static cot_status run_window(cot__ops *c, const cot__moe *m, cot__store *store, window *w, cot__lease *lease,
                             const cot__rows *x, cot_error *err) {
    int which[AT_ONCE], k = 0;
    cot_status s;
    w->computed = 0;
    while ((s = cot__lease_take(lease, which, AT_ONCE, &k, c->pool, err)) == COT_OK && k > 0) {
        s = compute(c, m, lease, w, which, k, x, err);
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
    window w = {.x = cot__arena_alloc(c->arena, most * cols * sizeof(float)),
                .y = cot__arena_alloc(c->arena, most * cols * sizeof(float)),
                .row = cot__arena_alloc(c->arena, most * sizeof(int32_t)),
                .at = cot__arena_alloc(c->arena, (size_t)n * sizeof(size_t)),
                .state = cot__arena_alloc(c->arena, (size_t)n)};
    float *shared_y = shared ? cot__arena_alloc(c->arena, (size_t)x->n * cols * sizeof(float)) : NULL;
    if (!w.x || !w.y || !w.row || !w.at || !w.state || (shared && !shared_y))
        return cot__fail_memory(err, most * cols * 2 * sizeof(float));
    for (size_t i = 0; i < most; i++) w.row[i] = (int32_t)i;
    for (int64_t i = 0; i < x->n; i++) memset(out + (size_t)i * out_stride, 0, cols * sizeof(float));
    sum_job job = {.k = c->k, .out = out, .out_stride = out_stride, .cols = m->n_embd};
    cot__store_turn(store, m->bank, n * 2 >= m->router.n_experts && slots > (size_t)m->router.n_experts);
    for (int from = 0, to; from < n || (from == 0 && shared_y); from = to) {
        size_t rows = 0;
        for (to = from; to < n && rows + (size_t)groups[to].n <= most; to++) rows += (size_t)groups[to].n;
        w.groups = groups + from, w.ids = ids + from, w.n = to - from;
        cot__lease lease;
        COT_TRY(cot__store_acquire(store, m->bank, w.ids, w.n, w.state, &lease, err));
        if (from == 0) {
            cot__store_hint(store, m->bank, ids + to, NULL, n - to, 0);
            if (ctx->predictor) cot__moe_predict(c, m, store, ctx, plan, x);
            if (shared) { /* while the first reads are under way */
                cot__expert_rows alone = {.expert = shared->expert, .n = shared->n};
                cot__rows own = *x; /* forms made here live no longer than this computation */
                size_t mark = cot__arena_mark(c->arena);
                cot_status s = cot__experts_compute(c, &m->ffn, &alone, 1, &own, shared_y, cols, err);
                cot__arena_rewind(c->arena, mark);
                if (s != COT_OK) {
                    cot__store_release(store, &lease);
                    return s;
                }
            }
        }
        COT_TRY(run_window(c, m, store, &w, &lease, x, err));
        job.w = &w;
        sum(c, &job);
        if (n == 0) break;
    }
    if (shared) {
        job.w = NULL;
        job.shared = shared;
        job.shared_y = shared_y;
        sum(c, &job);
    }
    return COT_OK;
}
