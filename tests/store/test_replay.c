/* Replay of traces, with the controls that keep policies honest: uniform draws give capacity / experts,
 * nobody beats the oracle, shuffling takes away what the order gave; and hostile traces. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <coterie/replay.h>

#include "base/hash.h"
#include "torture.h"

static const char *const retentions[] = {"lru", "lfu", "decay", "layer", "demand", "oracle"};
static const char *const predictors[] = {"none", "last", "popularity", "token", "transition"};

static cot_replay_result play(const cot_trace *t, const char *retention, const char *predict,
                              double capacity) {
    cot_replay_options o;
    cot_replay_result r;
    cot_error err;
    cot_replay_defaults(&o);
    o.retention = retention;
    o.predict = predict;
    o.capacity = capacity;
    if (cot_replay(t, &o, &r, &err) != COT_OK) fail_msg("%s", err.message);
    return r;
}

static double hit_rate(const cot_trace *t, const char *retention, const char *predict, double capacity) {
    cot_replay_result r = play(t, retention, predict, capacity);
    return (double)r.hits / (double)r.accesses;
}

/* One site, one expert at a time, drawn uniformly: whoever does not know the future hits capacity / experts.
 */
static void null_control(void **state) {
    (void)state;
    cot_trace *t = NULL;
    assert_int_equal(cot_trace_uniform(&t, 1, 64, 1, 40000, 3, NULL), COT_OK);
    for (double c = 0.125; c < 1; c += 0.25) {
        for (int i = 0; i < 5; i++)
            for (int p = 0; p < 5; p++) {
                double h = hit_rate(t, retentions[i], predictors[p], c);
                if (fabs(h - c) > 0.015)
                    fail_msg("%s, %s: hit rate %g at capacity %g", retentions[i], predictors[p], h, c);
            }
        assert_true(hit_rate(t, "oracle", "none", c) > c + 0.05);
    }
    assert_true(hit_rate(t, "lru", "none", 1) > 0.998);
    cot_trace_free(&t);
}

static char path[64];

/* A trace with habits: each site has favourites that drift, and choices that depend on those before. */
static void write_trace(int passes) {
    snprintf(path, sizeof path, "/tmp/coterie-trace-%d", (int)getpid());
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int p = 0; p < passes; p++) {
        int token = (int)(cot__random_u64(1, 1, (uint64_t)p, 0) % 20);
        for (int s = 0; s < 6; s++) {
            int a = (token * 7 + s * 3 + p / 200) % 32, b = (a * 5 + s) % 32,
                c = (int)(cot__random_u64(1, 2, (uint64_t)p, (uint64_t)s) % 32);
            fprintf(
                f,
                "{\"sequence\": 0, \"position\": %d, \"pass\": %d, \"token\": %d, \"site\": %d, \"n_experts\": 32, "
                "\"experts\": [%d, %d, %d], \"weights\": [0.5, 0.3, 0.2]}\n",
                p, p, token, s, a, b, c);
        }
    }
    fclose(f);
}

static cot_trace *habits(void) {
    cot_trace *t = NULL;
    cot_error err;
    write_trace(1500);
    if (cot_trace_open(&t, path, &err) != COT_OK) fail_msg("%s", err.message);
    unlink(path);
    return t;
}

static void nobody_beats_the_oracle(void **state) {
    (void)state;
    cot_trace *t = habits();
    cot_trace_info info;
    cot_trace_get_info(t, &info);
    assert_int_equal(info.sites, 6);
    assert_int_equal(info.experts, 192);
    assert_int_equal(info.turns, 9000);
    for (double c = 0.02; c < 1; c += 0.14) {
        double best = hit_rate(t, "oracle", "none", c), before = 0;
        for (int i = 0; i < 5; i++) {
            double h = hit_rate(t, retentions[i], "none", c);
            if (h > best + 1e-12) fail_msg("%s: %g beats the oracle's %g at %g", retentions[i], h, best, c);
            if (i == 0 && h < before - 0.01) fail_msg("a larger cache is worse");
            before = h;
        }
    }
    cot_trace_free(&t);
}

/* Habits pay, and are gone when each site's turns are shuffled. */
static void shuffling_takes_the_gain(void **state) {
    (void)state;
    cot_trace *t = habits();
    double own[5], shuffled[5];
    for (int p = 0; p < 5; p++) own[p] = hit_rate(t, "lru", predictors[p], 0.3);
    cot_replay_result told = play(t, "lru", "transition", 0.3);
    assert_true(told.hinted > 1000 && told.hinted_used > told.hinted / 3);
    assert_int_equal(cot_trace_shuffle(t, 5, NULL), COT_OK);
    for (int p = 0; p < 5; p++) shuffled[p] = hit_rate(t, "lru", predictors[p], 0.3);
    /* The next choice follows from token and layer before: only those who look there gain, and only in order.
     */
    assert_true(own[3] > own[0] + 0.1 && own[4] > own[0] + 0.1);
    assert_true(shuffled[4] < shuffled[0] + 0.05);
    cot_trace_free(&t);
}

/* Batches: the lines of one pass at one site are one turn. */
static void lines_make_turns(void **state) {
    static const struct {
        const char *text;
        int turns, accesses;
    } cases[] = {
        {"{\"site\": 0, \"experts\": [1, 2]}\n\n{\"site\": 1, \"experts\": [2]}\n", 2, 3},
        {"{\"site\": 0, \"experts\": [2, 1, 2]}", 1, 2},
        {"{\"site\": 0, \"sequence\": 0, \"experts\": [1]}\n{\"site\": 0, \"sequence\": 1, \"experts\": [1, 3]}\n",
         1, 2},
        {"{\"site\": 0, \"sequence\": 0, \"experts\": [1]}\n{\"site\": 0, \"sequence\": 0, \"experts\": [1]}\n",
         2, 2},
        {"{\"site\": 0, \"pass\": 3, \"experts\": [1]}\n{\"site\": 0, \"pass\": 3, \"experts\": [4]}\n", 1,
         2},
        {"{\"site\": 0, \"pass\": 3, \"experts\": [1]}\n{\"site\": 0, \"pass\": 4, \"experts\": []}\n", 2, 1},
    };
    (void)state;
    snprintf(path, sizeof path, "/tmp/coterie-trace-%d", (int)getpid());
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        FILE *f = fopen(path, "w");
        fputs(cases[i].text, f);
        fclose(f);
        cot_trace *t = NULL;
        cot_error err;
        cot_trace_info info;
        if (cot_trace_open(&t, path, &err) != COT_OK) fail_msg("%s", err.message);
        cot_trace_get_info(t, &info);
        assert_int_equal(info.turns, cases[i].turns);
        assert_int_equal(info.accesses, cases[i].accesses);
        play(t, "demand", "transition", 0);
        cot_trace_free(&t);
    }
    unlink(path);
}

static void hostile_traces(void **state) {
    static const char *const texts[] = {
        "",
        "\n\n",
        "{}",
        "[1]",
        "{\"site\": 0}",
        "{\"experts\": [1]}",
        "{\"site\": -1, \"experts\": [1]}",
        "{\"site\": 4096, \"experts\": [1]}",
        "{\"site\": 0, \"experts\": [-1]}",
        "{\"site\": 0, \"experts\": [4096]}",
        "{\"site\": 0, \"experts\": [1.5]}",
        "{\"site\": 0, \"experts\": {}}",
        "{\"site\": 0, \"experts\": [1], \"pass\": -1}",
        "{\"site\": 0, \"experts\": [1]}\n{\"site\": 0, \"experts\"",
        "{\"site\": \"0\", \"experts\": [1]}",
    };
    (void)state;
    snprintf(path, sizeof path, "/tmp/coterie-trace-%d", (int)getpid());
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        FILE *f = fopen(path, "w");
        fputs(texts[i], f);
        fclose(f);
        cot_trace *t = NULL;
        cot_error err = {0};
        if (cot_trace_open(&t, path, &err) != COT_FORMAT)
            fail_msg("accepted: %s (%s)", texts[i], err.message);
        assert_null(t);
        assert_non_null(strstr(err.message, "coterie-trace"));
    }
    unlink(path);
    cot_trace *t = NULL;
    cot_replay_options o;
    cot_replay_result r;
    assert_int_equal(cot_trace_uniform(&t, 1, 4, 5, 1, 1, NULL), COT_ARGUMENT);
    assert_int_equal(cot_trace_uniform(&t, 2, 8, 2, 3, 1, NULL), COT_OK);
    cot_replay_defaults(&o);
    o.predict = "gate"; /* needs the model */
    assert_int_equal(cot_replay(t, &o, &r, NULL), COT_ARGUMENT);
    o.predict = NULL, o.retention = "best";
    assert_int_equal(cot_replay(t, &o, &r, NULL), COT_ARGUMENT);
    o.retention = NULL, o.capacity = NAN;
    assert_int_equal(cot_replay(t, &o, &r, NULL), COT_ARGUMENT);
    cot_trace_free(&t);
}

static void allocations(void **state) {
    (void)state;
    write_trace(8);
    COT_TORTURE(COT__FAULT_ALLOC, {
        cot_trace *t = NULL;
        cot_error err = {0};
        cot_status s = cot_trace_open(&t, path, &err);
        cot_replay_options o;
        cot_replay_result r;
        cot_replay_defaults(&o);
        o.predict = "token";
        if (s == COT_OK) s = cot_replay(t, &o, &r, &err);
        cot_trace_free(&t);
        COT_TORTURE_RESULT(s);
    });
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(null_control),
        cmocka_unit_test(nobody_beats_the_oracle),
        cmocka_unit_test(shuffling_takes_the_gain),
        cmocka_unit_test(lines_make_turns),
        cmocka_unit_test(hostile_traces),
        cmocka_unit_test(allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
