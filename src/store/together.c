/* Owns: which matrices of a store may be repacked: those that one view reads and no other. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/pool.h"
#include "store/stream.h"

typedef struct matrix {
    const char *start, *end;
    cot_view *view; /* NULL: is kept as it is */
} matrix;

typedef struct repack {
    matrix *all;
    size_t n, first; /* first: of the batch under way */
    char *room;      /* of each thread */
    size_t room_bytes;
} repack;

static void add(repack *r, const cot_view *v, cot_view *change) {
    if (!v->data || v->rows <= 0) return;
    const char *start = v->data;
    r->all[r->n++] = (matrix){
        start, start + (size_t)(v->rows - 1) * v->row_stride + cot__row_bytes(v->type, v->cols), change};
    size_t room = v->row_stride * COT__TOGETHER;
    if (change && room > r->room_bytes) r->room_bytes = room;
}

static int by_start(const void *a, const void *b) {
    const matrix *x = a, *y = b;
    return x->start < y->start ? -1 : x->start > y->start;
}

static void item(void *arg, size_t i, int thread) {
    repack *r = arg;
    matrix *m = &r->all[r->first + i];
    if (m->view) (void)cot__view_put_together(m->view, r->room + (size_t)thread * r->room_bytes);
}

/* What overlaps with a neighbour is kept. */
static void keep_shared(repack *r) {
    qsort(r->all, r->n, sizeof *r->all, by_start);
    size_t widest = 0; /* the matrix so far that ends last */
    for (size_t i = 1; i < r->n; i++) {
        if (r->all[i].start < r->all[widest].end) r->all[i].view = r->all[widest].view = NULL;
        if (r->all[i].end > r->all[widest].end) widest = i;
    }
}

static cot_status run(repack *r, cot_progress_fn *progress, void *user, cot_error *err) {
    enum { BATCH = 256 };
    cot__pool *pool = NULL;
    COT_TRY(cot__pool_create(&pool, 0, err));
    r->room_bytes = (r->room_bytes + 63) & ~(size_t)63;
    size_t bytes = r->room_bytes * (size_t)cot__pool_threads(pool);
    r->room = cot__alloc(bytes);
    cot_status st = r->room ? COT_OK : cot__fail_memory(err, bytes);
    for (; st == COT_OK && r->first < r->n; r->first += BATCH) {
        size_t left = r->n - r->first;
        cot__pool_run(pool, item, r, left < BATCH ? left : BATCH);
        if (progress && !progress(user, "repack", r->n - left + (left < BATCH ? left : BATCH), r->n))
            st = cot__fail(err, COT_CANCELLED, NULL, NULL, "loading was cancelled");
    }
    cot__free(r->room);
    cot__pool_free(&pool);
    return st;
}

cot_status cot__store_repack(cot__store *s, cot_view *const *views, size_t n, const cot_view *const *kept,
                             size_t n_kept, cot_progress_fn *progress, void *user, cot_error *err) {
    size_t most = n + n_kept;
    if (s->opt.residency != COT__RESIDENCY_MEMORY)
        return cot__fail(err, COT_INTERNAL, NULL, "repack", "weights are not in memory of the store");
    for (int b = 0; b < s->n_banks; b++) most += (size_t)s->banks[b]->n * COT__PARTS;
    repack r = {.all = cot__alloc_array(most, sizeof *r.all)};
    if (!r.all) return cot__fail_memory(err, most * sizeof *r.all);
    for (size_t i = 0; i < n_kept; i++) add(&r, kept[i], NULL);
    for (size_t i = 0; i < n; i++) add(&r, views[i], views[i]);
    for (int b = 0; b < s->n_banks; b++)
        for (int e = 0; e < s->banks[b]->n; e++)
            for (int p = 0; p < COT__PARTS; p++) {
                cot_view *v = &s->banks[b]->experts[e].part[p];
                add(&r, v, p <= COT__DOWN ? v : NULL);
            }
    keep_shared(&r);
    cot_status st = run(&r, progress, user, err);
    cot__free(r.all);
    return st;
}
