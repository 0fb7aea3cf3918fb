/* Leases: the right bytes under every residency, budget, retention and number of threads; budgets kept;
 * hints that never change a result; failing reads, cut and changed files reported and never wrong bytes. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"
#include "bank.h"
#include "torture.h"

static bank_file file;

static int make(void **state) {
    (void)state;
    bank_make(&file, 96, 40);
    return 0;
}
static int drop(void **state) {
    (void)state;
    bank_remove(&file);
    return 0;
}

static uint64_t draw(uint64_t n, uint64_t seed, uint64_t i, uint64_t what) {
    return cot__random_u64(seed, 50, i, what) % n;
}

/* Some ascending ids. */
static int draw_ids(uint64_t seed, uint64_t i, int32_t ids[BANK_EXPERTS]) {
    int n = 0;
    uint64_t bits = cot__random_u64(seed, 51, i, 0), few = draw(3, seed, i, 1);
    for (int e = 0; e < BANK_EXPERTS; e++)
        if (bits >> (2 * e) & 1 && (few == 0 || bits >> (2 * e + 1) & 1)) ids[n++] = e;
    return n;
}

/* One layer as moe does it: take, compute, give back. `most` experts at a time. */
static cot_status pass_layer(cot__store *s, int bank, const int32_t *ids, int n, int most, bool give_back,
                             cot_error *err) {
    uint8_t state[BANK_EXPERTS];
    bool seen[BANK_EXPERTS] = {false};
    cot__lease lease;
    int which[BANK_EXPERTS], k, all = 0;
    COT_TRY(cot__store_acquire(s, bank, ids, n, state, &lease, err));
    cot_status st;
    while ((st = cot__lease_take(&lease, which, most, &k, NULL, err)) == COT_OK && k > 0) {
        assert_true(k <= most);
        for (int j = 0; j < k; j++) {
            assert_false(seen[which[j]]);
            seen[which[j]] = true;
            assert_true(bank_right(&file, bank, ids[which[j]], cot__lease_expert(&lease, which[j])));
        }
        all += k;
        if (give_back) cot__lease_done(&lease, which, k);
    }
    if (st == COT_OK) assert_int_equal(all, n);
    cot__store_release(s, &lease);
    return st;
}

static cot_status run_passes(cot__store *s, uint64_t seed, int passes, bool hints, cot_error *err) {
    for (int p = 0; p < passes; p++)
        for (int l = 0; l < BANK_LAYERS; l++) {
            int32_t ids[BANK_EXPERTS], more[BANK_EXPERTS];
            uint64_t i = (uint64_t)(p * BANK_LAYERS + l);
            float chance[BANK_EXPERTS];
            int n = draw_ids(seed, i, ids), m = draw_ids(seed, i + 1000, more);
            for (int k = 0; k < m; k++) chance[k] = (float)cot__random_unit(seed, 52, i, (uint64_t)k);
            cot__store_turn(s, l, n, hints && p % 5 == 4 ? 1000 : (size_t)n);
            if (hints) cot__store_hint(s, (l + 1) % BANK_LAYERS, more, i % 4 ? chance : NULL, m, i);
            if (hints && i % 7 == 0) cot__store_cancel(s, i);
            COT_TRY(pass_layer(s, l, ids, n, 1 + (int)draw(5, seed, i, 3), true, err));
            cot__store_stats st;
            cot__store_get_stats(s, &st);
            assert_true(st.expert_bytes <= st.capacity || hints); /* what arrives cannot go at once */
            if (draw(4, seed, i, 4) == 0) {                       /* the budget changes while running */
                uint64_t least = cot__store_smallest(s), all = cot__store_all(s);
                COT_TRY(cot__store_set_capacity(s, least + draw(all + 1, seed, i, 5), err));
            }
        }
    return COT_OK;
}

static const cot__residency residencies[] = {COT__RESIDENCY_MMAP, COT__RESIDENCY_MEMORY,
                                             COT__RESIDENCY_STREAM, COT__RESIDENCY_RING, COT__RESIDENCY_SIM};

static cot__store_options options(int residency, int retention, uint64_t way) {
    cot__store_options o = {.residency = residencies[residency], .retention = (cot__retention)retention};
    if (o.residency == COT__RESIDENCY_SIM) o.aio.bandwidth = 4e9;
    else
        o.aio = (cot__aio_options){
            .way = way & 1 ? COT__AIO_THREADS : COT__AIO_AUTO, .buffered = way & 2, .depth = way & 4 ? 2 : 0};
    return o;
}

static void every_residency_gives_the_bytes(void **state) {
    (void)state;
    for (int r = 0; r < 5; r++)
        for (int t = 0; t < COT__RETAIN_ORACLE; t++)
            for (int hints = 0; hints < 2; hints++) {
                cot__store *s = NULL;
                cot_error err = {0};
                cot__store_options o = options(r, t, (uint64_t)(r * 7 + t * 3 + hints));
                assert_int_equal(cot__store_create(&s, file.set, &o, &err), COT_OK);
                assert_int_equal(bank_bind(&file, s, &err), COT_OK);
                assert_true(cot__store_streams(s) == (r >= 2));
                if (r >= 2) {
                    uint64_t one = cot__store_smallest(s);
                    assert_true(one >= (uint64_t)(3 * file.d * file.f * 4));
                    assert_true(cot__store_all(s) == one * BANK_LAYERS * BANK_EXPERTS ||
                                cot__store_all(s) < one * BANK_LAYERS * BANK_EXPERTS);
                    assert_int_equal(cot__store_set_capacity(s, one - 1, &err), COT_LIMIT);
                    assert_int_equal(cot__store_set_capacity(s, one * (uint64_t)(1 + t * 3), &err), COT_OK);
                }
                if (run_passes(s, (uint64_t)(r * 100 + t), 12, hints, &err) != COT_OK)
                    fail_msg("%s", err.message);
                cot__store_stats st;
                cot__store_get_stats(s, &st);
                if (r >= 2) {
                    assert_true(st.all.hits + st.all.misses == st.all.acquired && st.all.misses > 0);
                    assert_true(st.all.hinted_used <= st.all.hinted);
                    if (!hints && r != 3) assert_int_equal(st.all.hinted, 0);
                }
                cot__store_free(&s);
            }
}

/* A lease that keeps all it takes fits exactly, or says that it never will. */
static void keeping_everything(void **state) {
    (void)state;
    cot__store *s = NULL;
    cot_error err = {0};
    cot__store_options o = options(2, 0, 0);
    const int32_t ids[] = {1, 3, 5, 7};
    assert_int_equal(cot__store_create(&s, file.set, &o, &err), COT_OK);
    assert_int_equal(bank_bind(&file, s, &err), COT_OK);
    uint64_t one = cot__store_smallest(s);
    assert_int_equal(cot__store_set_capacity(s, 4 * one, &err), COT_OK);
    assert_int_equal(pass_layer(s, 0, ids, 4, 4, false, &err), COT_OK);
    assert_int_equal(cot__store_set_capacity(s, 3 * one, &err), COT_OK);
    assert_int_equal(pass_layer(s, 1, ids, 4, 4, false, &err), COT_INTERNAL);
    assert_int_equal(pass_layer(s, 1, ids, 4, 4, true, &err), COT_OK);
    /* Nothing asked for: nothing to wait for. */
    assert_int_equal(pass_layer(s, 2, ids, 0, 4, true, &err), COT_OK);
    cot__store_free(&s);
}

typedef struct worker {
    cot__store *store;
    uint64_t seed;
    cot_status status;
} worker;

static void *work(void *arg) {
    worker *w = arg;
    cot_error err = {0};
    for (int p = 0; p < 15 && w->status == COT_OK; p++)
        for (int l = 0; l < BANK_LAYERS && w->status == COT_OK; l++) {
            int32_t ids[BANK_EXPERTS];
            int n = draw_ids(w->seed, (uint64_t)(p * BANK_LAYERS + l), ids);
            cot__store_turn(w->store, l, n, (size_t)n);
            w->status = pass_layer(w->store, l, ids, n, 3, true, &err);
        }
    return NULL;
}

/* Several sessions at once, with room for one expert, two, a few: nobody waits for ever. */
static void several_leases_at_once(void **state) {
    (void)state;
    for (int room = 1; room <= 5; room++)
        for (uint64_t way = 0; way < 2; way++) {
            cot__store *s = NULL;
            cot_error err = {0};
            cot__store_options o = options(2, room % 5, way);
            assert_int_equal(cot__store_create(&s, file.set, &o, &err), COT_OK);
            assert_int_equal(bank_bind(&file, s, &err), COT_OK);
            assert_int_equal(cot__store_set_capacity(s, (uint64_t)room * cot__store_smallest(s), &err),
                             COT_OK);
            pthread_t thread[3];
            worker w[3];
            for (int i = 0; i < 3; i++) {
                w[i] = (worker){s, (uint64_t)(room * 10 + i), COT_OK};
                assert_int_equal(pthread_create(&thread[i], NULL, work, &w[i]), 0);
            }
            for (int i = 0; i < 3; i++) {
                pthread_join(thread[i], NULL);
                assert_int_equal(w[i].status, COT_OK);
            }
            cot__store_free(&s);
        }
}

/* What was hinted and chosen is a hit; what was hinted in vain costs reads alone. */
static void hints_come_in_time(void **state) {
    (void)state;
    cot__store *s = NULL;
    cot_error err = {0};
    cot__store_options o = options(2, COT__RETAIN_LRU, 1);
    const int32_t first[] = {0}, second[] = {2, 4, 6};
    const float chance[] = {0.9f, 0.8f, 0.7f};
    assert_int_equal(cot__store_create(&s, file.set, &o, &err), COT_OK);
    assert_int_equal(bank_bind(&file, s, &err), COT_OK);
    cot__store_turn(s, 0, 1, 1);
    cot__store_hint(s, 1, second, chance, 3, 1);
    assert_int_equal(pass_layer(s, 0, first, 1, 4, true, &err), COT_OK); /* asks for them when it is done */
    cot__store_turn(s, 1, 1, 1);
    assert_int_equal(pass_layer(s, 1, second, 3, 4, true, &err), COT_OK);
    cot__bank_stats b;
    cot__store_get_bank_stats(s, 1, &b);
    assert_int_equal(b.hits, 3);
    assert_int_equal(b.misses, 0);
    assert_int_equal(b.hinted, 3);
    assert_int_equal(b.hinted_used, 3);
    /* Cancelled in time: never read. */
    cot__store_hint(s, 2, second, chance, 3, 2);
    cot__store_cancel(s, 3);
    assert_int_equal(pass_layer(s, 0, first, 1, 4, true, &err), COT_OK);
    cot__store_get_bank_stats(s, 2, &b);
    assert_int_equal(b.hinted, 0);
    cot__store_stats st;
    cot__store_get_stats(s, &st);
    assert_int_equal(st.cancelled, 3);
    cot__store_free(&s);
}

/* Where surer guesses come before a bank's turn, one of the less sure ones is read and no more; the surer
 * ones replace them and are read at once. */
static void surer_hints_come_later(void **state) {
    (void)state;
    cot__store *s = NULL;
    cot_error err = {0};
    cot__store_options o = options(2, COT__RETAIN_LRU, 1);
    const int32_t first[] = {0}, early[] = {1, 3, 5}, late[] = {2, 4};
    const float chance[] = {0.9f, 0.8f, 0.7f}, sure[] = {0.99f, 0.98f};
    assert_int_equal(cot__store_create(&s, file.set, &o, &err), COT_OK);
    assert_int_equal(bank_bind(&file, s, &err), COT_OK);
    cot__bank_stats b;
    for (int l = 0; l < 2; l++) {
        cot__store_turn(s, l, 1, 1);
        cot__store_hint(s, l + 1, early, chance, 3, 1);
        assert_int_equal(pass_layer(s, l, first, 1, 4, true, &err), COT_OK);
        cot__store_get_bank_stats(s, l + 1, &b);
        assert_int_equal(b.hinted, l == 0 ? 3 : 1); /* at first it is not known that surer ones come */
        cot__store_hint(s, l + 1, late, sure, 2, 1);
        cot__store_get_bank_stats(s, l + 1, &b);
        assert_true(b.hinted > (l == 0 ? 3 : 1));
    }
    cot__store_free(&s);
}

/* Whole layers in turn with room for half: what does not fit is read once a pass, and the rest stays. */
static void sweeping_keeps_what_it_can(void **state) {
    (void)state;
    cot__store *s = NULL;
    cot_error err = {0};
    cot__store_options o = options(2, COT__RETAIN_LRU, 1);
    int32_t all[BANK_EXPERTS];
    for (int i = 0; i < BANK_EXPERTS; i++) all[i] = i;
    assert_int_equal(cot__store_create(&s, file.set, &o, &err), COT_OK);
    assert_int_equal(bank_bind(&file, s, &err), COT_OK);
    assert_int_equal(cot__store_set_capacity(s, cot__store_all(s) * 3 / 4, &err), COT_OK);
    cot__store_stats a, b;
    for (int p = 0; p < 12; p++) {
        if (p == 4) cot__store_get_stats(s, &a);
        for (int l = 0; l < BANK_LAYERS; l++) {
            cot__store_turn(s, l, BANK_EXPERTS, 1000);
            for (int from = 0; from < BANK_EXPERTS; from += 4)
                assert_int_equal(pass_layer(s, l, all + from, 4, 2, true, &err), COT_OK);
        }
    }
    cot__store_get_stats(s, &b);
    double read = (double)(b.all.bytes_read - a.all.bytes_read) / 8 / (double)cot__store_all(s);
    if (!(read < 0.75)) fail_msg("%.2f of all is read in each pass", read); /* LRU alone would read 1 */
    assert_true(read > 0.2);
    cot__store_free(&s);
}

/* Passes that want two experts of three, with half of all in memory and 8 ms from layer to layer: what is
 * read ahead, and what has been read, after the pace is known. */
static cot__bank_stats read_at(double bandwidth) {
    cot__store *s = NULL;
    cot_error err = {0};
    cot__store_options o = options(4, COT__RETAIN_DECAY, 0);
    o.aio.bandwidth = bandwidth;
    assert_int_equal(cot__store_create(&s, file.set, &o, &err), COT_OK);
    assert_int_equal(bank_bind(&file, s, &err), COT_OK);
    assert_int_equal(cot__store_set_capacity(s, cot__store_all(s) / 2, &err), COT_OK);
    cot__store_stats a = {0}, b;
    for (int p = 0; p < 12; p++) {
        if (p == 6) cot__store_get_stats(s, &a);
        for (int l = 0; l < BANK_LAYERS; l++) {
            int32_t ids[8];
            for (int i = 0; i < 8; i++) ids[i] = i + i / 2 + p % 2; /* 0 1 3 4 … or 1 2 4 5 … */
            cot__store_turn(s, l, 8, 24);
            assert_int_equal(pass_layer(s, l, ids, 8, 8, true, &err), COT_OK);
            usleep(8000);
        }
    }
    cot__store_get_stats(s, &b);
    b.all.hinted -= a.all.hinted;
    b.all.bytes_read -= a.all.bytes_read;
    cot__store_free(&s);
    return b.all;
}

static void whole_banks_are_read_ahead_where_the_disk_would_idle(void **state) {
    (void)state;
    cot__bank_stats slow = read_at(4e6), fast = read_at(1e8);
    assert_int_equal(slow.hinted, 0); /* each byte counts: what is wanted alone */
    assert_true(fast.hinted > 30);
    assert_true(fast.bytes_read > slow.bytes_read);
}

/* ---- faults ---- */

static void a_failing_read_fails_the_lease(void **state) {
    (void)state;
    for (uint64_t way = 0; way < 4; way++) {
        cot__store *s = NULL;
        cot_error err = {0};
        cot__store_options o = options(2, 0, way);
        const int32_t ids[] = {0, 3, 9};
        assert_int_equal(cot__store_create(&s, file.set, &o, &err), COT_OK);
        assert_int_equal(bank_bind(&file, s, &err), COT_OK);
        for (uint64_t nth = 1; nth <= 9; nth++) {
            assert_int_equal(cot__store_set_capacity(s, cot__store_smallest(s), &err), COT_OK);
            assert_int_equal(cot__store_set_capacity(s, cot__store_all(s), &err), COT_OK);
            cot__fault_set(COT__FAULT_READ, nth);
            cot_status st = pass_layer(s, 2, ids, 3, 2, true, &err);
            bool hit = cot__fault_count(COT__FAULT_READ) >= nth;
            cot__fault_set(COT__FAULT_READ, 0);
            if (hit) {
                assert_int_equal(st, COT_IO);
                assert_non_null(strstr(err.message, "model.safetensors"));
            } else assert_int_equal(st, COT_OK);
            assert_int_equal(pass_layer(s, 2, ids, 3, 2, true, &err), COT_OK); /* the next one may work */
        }
        /* A hint that fails is forgotten. */
        cot__fault_set(COT__FAULT_READ, 1);
        cot__store_hint(s, 3, ids, NULL, 3, 1);
        const int32_t none[] = {0};
        cot_status st = pass_layer(s, 2, none, 1, 2, true, &err);
        cot__fault_set(COT__FAULT_READ, 0);
        assert_int_equal(st, COT_OK);
        st = pass_layer(s, 3, ids, 3, 2, true, &err);
        if (st != COT_OK) assert_int_equal(pass_layer(s, 3, ids, 3, 2, true, &err), COT_OK);
        cot__store_free(&s);
    }
}

static void short_reads_are_completed(void **state) {
    (void)state;
    for (uint64_t way = 0; way < 4; way++) {
        cot__store *s = NULL;
        cot_error err = {0};
        cot__store_options o = options(2, 0, way);
        int32_t all[BANK_EXPERTS];
        for (int i = 0; i < BANK_EXPERTS; i++) all[i] = i;
        assert_int_equal(cot__store_create(&s, file.set, &o, &err), COT_OK);
        assert_int_equal(bank_bind(&file, s, &err), COT_OK);
        for (uint64_t nth = 1; nth < 12; nth++) {
            assert_int_equal(cot__store_set_capacity(s, cot__store_smallest(s), &err), COT_OK);
            cot__fault_set(COT__FAULT_SHORT, nth);
            assert_int_equal(pass_layer(s, (int)nth % BANK_LAYERS, all, BANK_EXPERTS, 2, true, &err), COT_OK);
        }
        cot__fault_set(COT__FAULT_SHORT, 0);
        cot__store_free(&s);
    }
}

/* A file that is cut, or written to, while it is in use. */
static void changed_files_are_noticed(void **state) {
    (void)state;
    bank_file own;
    char path[128];
    bank_make(&own, 96, 40);
    bank_path(&own, path);
    cot__store *s = NULL;
    cot_error err = {0};
    cot__store_options o = options(2, 0, 0);
    assert_int_equal(cot__store_create(&s, own.set, &o, &err), COT_OK);
    assert_int_equal(bank_bind(&own, s, &err), COT_OK);
    assert_int_equal(cot__store_check(s, &err), COT_OK);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    usleep(20000); /* coarser than a file system's clock */
    assert_int_equal(fseek(f, 5000, SEEK_SET), 0);
    fputc(1, f);
    fclose(f);
    assert_int_equal(cot__store_check(s, &err), COT_IO);
    assert_non_null(strstr(err.message, "changed"));
    assert_int_equal(truncate(path, 200000), 0);
    const int32_t ids[] = {BANK_EXPERTS - 1};
    uint8_t room[1];
    cot__lease lease;
    int which[1], k;
    assert_int_equal(cot__store_acquire(s, BANK_LAYERS - 1, ids, 1, room, &lease, &err), COT_OK);
    assert_int_equal(cot__lease_take(&lease, which, 1, &k, NULL, &err), COT_IO);
    assert_non_null(strstr(err.message, "cut"));
    cot__store_release(s, &lease);
    cot__store_free(&s);
    bank_remove(&own);
}

static cot_status life(int residency, cot_error *err) {
    cot__store *s = NULL;
    cot__store_options o = options(residency, COT__RETAIN_DEMAND, 1);
    o.aio.threads = 1;
    COT_TRY(cot__store_create(&s, file.set, &o, err));
    cot_status st = bank_bind(&file, s, err);
    if (st == COT_OK) st = cot__store_set_capacity(s, 5 * cot__store_smallest(s), err);
    const int32_t ids[] = {0, 2, 3, 4, 8, 11};
    for (int l = 0; l < BANK_LAYERS && st == COT_OK; l++) st = pass_layer(s, l, ids, 6, 2, true, err);
    if (st == COT_OK) st = cot__store_load(s, NULL, NULL, err);
    cot__store_free(&s);
    return st;
}

static void allocations(void **state) {
    (void)state;
    for (int r = 1; r < 3; r++)
        COT_TORTURE(COT__FAULT_ALLOC, {
            cot_error err = {0};
            cot_status s = life(r, &err);
            assert_int_equal(s, err.status);
            COT_TORTURE_RESULT(s);
        });
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_residency_gives_the_bytes),
        cmocka_unit_test(keeping_everything),
        cmocka_unit_test(several_leases_at_once),
        cmocka_unit_test(hints_come_in_time),
        cmocka_unit_test(surer_hints_come_later),
        cmocka_unit_test(sweeping_keeps_what_it_can),
        cmocka_unit_test(whole_banks_are_read_ahead_where_the_disk_would_idle),
        cmocka_unit_test(a_failing_read_fails_the_lease),
        cmocka_unit_test(short_reads_are_completed),
        cmocka_unit_test(changed_files_are_noticed),
        cmocka_unit_test(allocations),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
