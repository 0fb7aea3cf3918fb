/* Several models in one cache under one budget: each says what it says alone, whoever had the cache before
 * and whoever uses it at the same time; nothing is written; models come and go in any order. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <coterie/session.h>

#include "base/limits.h"
#include "moe_file.h"

enum { MODELS = 3, MIB = 1 << 20, EACH = 2 * LAYERS * EXPERTS * F * WIDTH * 3 };

static char path[MODELS][64];
static float *alone[MODELS]; /* TOKENS × VOCAB each */

static void says_the_same(cot_model *m, int which) {
    cot_error err = {0};
    float *out = malloc((size_t)TOKENS * VOCAB * sizeof *out);
    cot_status st = moe_say(m, 10, out, &err);
    if (st != COT_OK) fail_msg("%s", err.message);
    assert_memory_equal(out, alone[which], (size_t)TOKENS * VOCAB * sizeof *out);
    free(out);
}

static cot_model *open_beside(int which, cot_model *host, uint64_t memory) {
    cot_model *m = NULL;
    cot_error err;
    cot_model_options o;
    cot_model_defaults(&o);
    o.beside = host;
    if (!host) o.residency = COT_RESIDENCY_STREAM, o.memory = memory, o.retention = "lru";
    if (cot_model_open(&m, path[which], &o, &err) != COT_OK) fail_msg("%s", err.message);
    return m;
}

static int make(void **state) {
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        cot_error err;
        cot_model *m;
        moe_file(path[i]);
        alone[i] = malloc((size_t)TOKENS * VOCAB * sizeof(float));
        if (cot_model_open(&m, path[i], NULL, &err) != COT_OK || moe_say(m, 10, alone[i], &err) != COT_OK)
            return 1;
        cot_model_close(&m);
    }
    return memcmp(alone[0], alone[1], 64) == 0; /* three different models */
}

static int drop(void **state) {
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        free(alone[i]);
        unlink(path[i]);
    }
    return 0;
}

/* Bytes that this process has given to write(), files and all; 0 where that is not counted. */
static unsigned long long written(void) {
    FILE *f = fopen("/proc/self/io", "r");
    char line[128];
    unsigned long long n = 0;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "wchar:", 6) == 0) n = strtoull(line + 6, NULL, 10);
    if (f) fclose(f);
    return n;
}

/* The smallest budget that does for so many sessions, and room for the experts of `models` models. */
static void give(cot_model *m, int sessions, double models) {
    cot_error err;
    cot_session *one = NULL;
    cot_session_options so;
    cot_session_defaults(&so);
    so.n_ctx = 64;
    so.n_threads = 1;
    uint64_t none = moe_info(m).smallest;
    OK(cot_session_create(&one, m, &so, &err));
    uint64_t to = none + (uint64_t)sessions * (moe_info(m).smallest - none) + (uint64_t)(models * EACH);
    cot_session_free(&one);
    if (cot_model_set_memory(m, to, &err) != COT_OK) fail_msg("%s", err.message);
}

static void each_says_what_it_says_alone(void **state) {
    (void)state;
    cot_model *m[MODELS];
    m[0] = open_beside(0, NULL, 512u * MIB);
    for (int i = 1; i < MODELS; i++) m[i] = open_beside(i, m[i % 2 ? 0 : 1], 0);
    give(m[2], 1, 2);
    unsigned long long before = written();
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < MODELS; i++) says_the_same(m[i], i);
    assert_int_equal(written() - before, 0); /* eviction writes nothing */
    uint64_t sum = 0;
    for (int i = 0; i < MODELS; i++) {
        cot_residency_info x = moe_info(m[i]);
        sum += x.expert_bytes;
        assert_true(x.expert_total >= (uint64_t)MODELS * EACH);
        assert_int_equal(x.expert_capacity, moe_info(m[0]).expert_capacity);
    }
    assert_true(sum <= moe_info(m[0]).expert_capacity);
    assert_true(sum > (uint64_t)EACH); /* one budget over all of them: more than one model's */
    /* One model alone in a cache that has room for it displaces the others, and then misses none. */
    says_the_same(m[0], 0);
    uint64_t misses = moe_info(m[0]).misses;
    for (int round = 0; round < 2; round++) says_the_same(m[0], 0);
    assert_int_equal(moe_info(m[0]).misses, misses);
    for (int i = 0; i < MODELS; i++) cot_model_close(&m[i]); /* the host first */
}

static void a_small_budget_serves_all(void **state) {
    (void)state;
    cot_model *m[MODELS];
    m[0] = open_beside(0, NULL, 512u * MIB);
    for (int i = 1; i < MODELS; i++) m[i] = open_beside(i, m[0], 0);
    give(m[0], 1, 0.05);
    for (int i = 0; i < MODELS; i++) says_the_same(m[i], i);
    cot_error err;
    assert_int_equal(cot_model_set_memory(m[1], moe_info(m[1]).smallest / 2, &err), COT_LIMIT);
    for (int i = MODELS; i-- > 0;) cot_model_close(&m[i]);
}

static void models_come_and_go(void **state) {
    (void)state;
    cot_model *m[MODELS] = {open_beside(0, NULL, 512u * MIB)};
    give(m[0], 3, 1.5);
    int host = 0;
    uint64_t least = 0;
    for (int round = 0; round < 12; round++) {
        int next = (host + 1) % MODELS, other = (host + 2) % MODELS;
        m[next] = open_beside(next, m[host], 0);
        says_the_same(m[next], next);
        if (round % 2) {
            m[other] = open_beside(other, m[next], 0);
            says_the_same(m[other], other);
            cot_model_close(&m[other]);
        }
        says_the_same(m[host], host);
        cot_model_close(&m[host]);
        host = next;
        says_the_same(m[host], host);
        if (round == 3) least = moe_info(m[host]).smallest;
    }
    assert_true(moe_info(m[host]).expert_total < 2ull * EACH);     /* what has gone is forgotten */
    assert_true(moe_info(m[host]).smallest < least + 2ull * EACH); /* and its memory with it */
    cot_model_close(&m[host]);
}

typedef struct speaker {
    cot_model *m;
    int which, bad;
    cot_error err;
} speaker;

static void *speak(void *arg) {
    speaker *s = arg;
    float *out = malloc((size_t)TOKENS * VOCAB * sizeof *out);
    for (int round = 0; round < 3; round++)
        if (moe_say(s->m, 10, out, &s->err) != COT_OK ||
            memcmp(out, alone[s->which], (size_t)TOKENS * VOCAB * sizeof *out) != 0)
            s->bad++;
    free(out);
    return NULL;
}

static void all_at_once(void **state) {
    (void)state;
    pthread_t thread[MODELS];
    speaker s[MODELS];
    cot_model *m[MODELS];
    m[0] = open_beside(0, NULL, 512u * MIB);
    for (int i = 1; i < MODELS; i++) m[i] = open_beside(i, m[0], 0);
    give(m[0], MODELS + 2, 0.4);
    for (int i = 0; i < MODELS; i++) {
        s[i] = (speaker){.m = m[i], .which = i};
        pthread_create(&thread[i], NULL, speak, &s[i]);
    }
    for (int k = 0; k < 4; k++) { /* one more comes and goes meanwhile */
        cot_model *more = open_beside(0, m[1], 0);
        says_the_same(more, 0);
        cot_model_close(&more);
    }
    for (int i = 0; i < MODELS; i++) {
        pthread_join(thread[i], NULL);
        if (s[i].bad) fail_msg("%d of 3 rounds: %s", s[i].bad, s[i].err.message);
        cot_model_close(&m[i]);
    }
}

static void refused(int line, const cot_model_options *o, const char *field) {
    cot_model *m = NULL;
    cot_error err;
    if (cot_model_open(&m, path[1], o, &err) != COT_ARGUMENT || !strstr(err.message, field))
        fail_msg("line %d: %s", line, err.message);
}

static void what_the_host_settles_is_refused(void **state) {
    (void)state;
    cot_model *mapped, *host = open_beside(0, NULL, 512u * MIB);
    cot_error err;
    cot_model_options o;
    OK(cot_model_open(&mapped, path[0], NULL, &err));
    cot_model_defaults(&o);
    o.beside = mapped;
    refused(__LINE__, &o, "does not stream");
    o.beside = host;
    o.memory = 1;
    refused(__LINE__, &o, "memory");
    o.memory = 0;
    o.residency = COT_RESIDENCY_STREAM;
    refused(__LINE__, &o, "residency");
    o.residency = COT_RESIDENCY_AUTO;
    o.retention = "lru";
    refused(__LINE__, &o, "retention");
    cot_model_close(&host);
    cot_model_close(&mapped);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_says_what_it_says_alone),
        cmocka_unit_test(a_small_budget_serves_all),
        cmocka_unit_test(models_come_and_go),
        cmocka_unit_test(all_at_once),
        cmocka_unit_test(what_the_host_settles_is_refused),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
