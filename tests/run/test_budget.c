/* The memory budget: kept by a process that runs a model larger than it, refused with the smallest that would
 * do, changed while running; and the bits are those of the mapped run throughout. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <coterie/session.h>

#include "base/limits.h"
#include "moe_file.h"

enum { MIB = 1 << 20 };

/* Sanitizers take memory of their own, many times the model's. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_MEMORY 1
#else
#define OWN_MEMORY 0
#endif

static char path[64];

static int make(void **state) {
    (void)state;
    moe_file(path);
    return 0;
}

static int drop(void **state) {
    (void)state;
    return unlink(path);
}

static void options(cot_model_options *mo, cot_session_options *so) {
    cot_model_defaults(mo);
    cot_session_defaults(so);
    so->n_ctx = 64;
    so->n_threads = 2;
    so->chunk = 32;
}

/* A prompt of 30, then single tokens; `change` is called before each call. Returns TOKENS × VOCAB logits. */
static float *run(const cot_model_options *mo, void (*change)(cot_model *m, int step), cot_error *err,
                  cot_status *status) {
    cot_model *m = NULL;
    cot_session *s = NULL;
    cot_model_options ignored;
    cot_session_options so;
    options(&ignored, &so);
    moe_keep k = {malloc((size_t)TOKENS * VOCAB * sizeof(float)), 0};
    *status = cot_model_open(&m, path, mo, err);
    if (*status == COT_OK) *status = cot_session_create(&s, m, &so, err);
    int step = 0;
    for (int at = 0, n; at < TOKENS && *status == COT_OK; at += n) {
        cot_row rows[TOKENS];
        n = at == 0 ? 30 : 1;
        for (int i = 0; i < n; i++)
            rows[i] = (cot_row){(int32_t)(cot__random_u64(1, 9, (uint64_t)(at + i), 0) % VOCAB), 0,
                                COT_ROLE_PROMPT, true};
        if (change) change(m, step++);
        *status = cot_forward(s, rows, (size_t)n, moe_take, &k, err);
    }
    cot_session_free(&s);
    cot_model_close(&m);
    if (*status == COT_OK) return k.out;
    free(k.out);
    return NULL;
}

static float *mapped(void) {
    cot_model_options mo;
    cot_session_options so;
    cot_error err;
    cot_status st;
    options(&mo, &so);
    mo.residency = COT_RESIDENCY_MMAP;
    float *x = run(&mo, NULL, &err, &st);
    if (!x) fail_msg("%s", err.message);
    return x;
}

/* Locked memory limited to so many MiB, and no right to more: true when the system holds us to it. */
static bool limit_locked(rlim_t mib) {
    struct rlimit most = {mib * MIB, mib * MIB};
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};
    if (setrlimit(RLIMIT_MEMLOCK, &most) != 0 || syscall(SYS_capset, &head, none) != 0) return false;
    size_t more = most.rlim_max + (1 << 16);
    void *p = mmap(NULL, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool held = p != MAP_FAILED && mlock(p, more) != 0;
    if (p != MAP_FAILED) munmap(p, more);
    return held;
}

/* In a process of its own, so that its peak is its own: runs, writes its logits, 0 when it kept the budget.
 * locked: MiB of locked memory that it may have; "": not limited. */
static int child(const char *residency, const char *mib, const char *out, const char *locked) {
    cot_model_options mo;
    cot_session_options so;
    cot_error err = {0};
    cot_status st;
    options(&mo, &so);
    if (*locked && !limit_locked(strtoull(locked, NULL, 10))) return 5;
    mo.memory = strtoull(mib, NULL, 10) * MIB;
    mo.residency = residency[0] == 'r' ? COT_RESIDENCY_RING : COT_RESIDENCY_STREAM;
    float *have = run(&mo, NULL, &err, &st);
    if (!have) {
        fprintf(stderr, "%s\n", err.message);
        return 2;
    }
    FILE *f = fopen(out, "wb");
    bool ok = f && fwrite(have, sizeof *have, (size_t)TOKENS * VOCAB, f) == (size_t)TOKENS * VOCAB;
    if (f) fclose(f);
    free(have);
    uint64_t peak = cot__memory_peak();
    if (peak > mo.memory) fprintf(stderr, "peak %llu KiB of %s MiB\n", (unsigned long long)peak >> 10, mib);
    return !ok ? 3 : peak <= mo.memory ? 0 : 4;
}

/* In a child, which must give the bits of the mapped run; status 5 (no limit of locked memory) is returned.
 */
static int run_child(const char *residency, const char *mib, const char *locked, const float *want) {
    float *have = malloc((size_t)TOKENS * VOCAB * sizeof *have);
    char out[80];
    snprintf(out, sizeof out, "%s.logits", path);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        execl("/proc/self/exe", "test_budget", residency, mib, path, out, locked, (char *)NULL);
        _exit(9);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 5))
        fail_msg("%s MiB, locked \"%s\": status %x", mib, locked, status);
    if (WEXITSTATUS(status) == 0) {
        FILE *f = fopen(out, "rb");
        assert_non_null(f);
        assert_int_equal(fread(have, sizeof *have, (size_t)TOKENS * VOCAB, f), (size_t)TOKENS * VOCAB);
        fclose(f);
        assert_memory_equal(have, want, (size_t)TOKENS * VOCAB * sizeof *have);
    }
    unlink(out);
    free(have);
    return WEXITSTATUS(status);
}

static void a_budget_is_kept(void **state) {
    static const char *const budgets[] = {"60", "80", "110"};
    (void)state;
    if (OWN_MEMORY) skip();
    float *want = mapped();
    for (int i = 0; i < 3; i++)
        assert_int_equal(run_child(i == 1 ? "ring" : "stream", budgets[i], "", want), 0);
    free(want);
}

/* 8 MiB, the usual limit, hold the ring; with nothing at all, kernels that count the ring refuse it, and
 * threads read. */
static void little_locked_memory_will_do(void **state) {
    static const char *const cases[][2] = {{"8", "uring"}, {"8", "threads"}, {"0", "auto"}, {"0", "threads"}};
    (void)state;
    float *want = mapped();
    int unlimited = 0;
    for (int i = 0; i < 4; i++) {
        setenv("COTERIE_IO", cases[i][1], 1);
        unlimited += run_child("stream", OWN_MEMORY ? "4000" : "80", cases[i][0], want) == 5;
    }
    unsetenv("COTERIE_IO");
    free(want);
    if (unlimited) skip(); /* the system does not hold us to it */
}

static void what_cannot_fit_is_refused(void **state) {
    (void)state;
    cot_model_options mo;
    cot_session_options so;
    cot_model *m = NULL;
    cot_session *s = NULL;
    cot_error err = {0};
    if (OWN_MEMORY) skip();
    options(&mo, &so);
    mo.memory = 12 * MIB;
    mo.residency = COT_RESIDENCY_STREAM;
    OK(cot_model_open(&m, path, &mo, &err));
    assert_int_equal(cot_session_create(&s, m, &so, &err), COT_LIMIT);
    assert_null(s);
    assert_non_null(strstr(err.message, "12 MiB are too few: at least"));
    /* What it says would do does, and less does not. */
    mo.memory = strtoull(strstr(err.message, "at least") + 9, NULL, 10) * MIB + MIB / 2;
    cot_model_close(&m);
    OK(cot_model_open(&m, path, &mo, &err));
    OK(cot_session_create(&s, m, &so, &err));
    cot_session_free(&s);
    cot_model_close(&m);
    mo.memory -= 2 * MIB;
    OK(cot_model_open(&m, path, &mo, &err));
    assert_int_equal(cot_session_create(&s, m, &so, &err), COT_LIMIT);
    cot_model_close(&m);
    mo.residency = COT_RESIDENCY_MMAP; /* all of it would be mapped */
    mo.memory = 60 * MIB;
    OK(cot_model_open(&m, path, &mo, &err));
    assert_int_equal(cot_session_create(&s, m, &so, &err), COT_LIMIT);
    cot_model_close(&m);
    mo.residency = COT_RESIDENCY_AUTO;
    mo.memory = 75 * MIB;
    assert_int_equal(cot_model_open(&m, path, &mo, &err), COT_OK);
    so.n_ctx = 512, so.n_sequences = 4096; /* far too much */
    assert_int_equal(cot_session_create(&s, m, &so, &err), COT_LIMIT);
    assert_null(s);
    options(&mo, &so);
    cot_residency_info i = {.struct_size = sizeof i};
    OK(cot_session_create(&s, m, &so, &err)); /* the refusal cost nothing */
    OK(cot_model_get_residency(m, -1, &i, &err));
    assert_string_equal(i.residency, "stream");
    assert_true(i.expert_capacity < i.expert_total && i.smallest < i.memory);
    assert_int_equal(cot_model_set_memory(m, i.smallest - 1, &err), COT_LIMIT);
    OK(cot_model_set_memory(m, i.smallest, &err));
    cot_session *second = NULL;
    assert_int_equal(cot_session_create(&second, m, &so, &err), COT_LIMIT);
    uint64_t before = i.smallest;
    cot_session_free(&s);
    OK(cot_model_get_residency(m, -1, &i, &err));
    assert_true(i.smallest < before);
    cot_model_close(&m);
    mo.retention = "oracle"; /* replay alone knows the future */
    assert_int_equal(cot_model_open(&m, path, &mo, &err), COT_ARGUMENT);
    mo.retention = NULL;
    mo.residency = (cot_residency)77;
    assert_int_equal(cot_model_open(&m, path, &mo, &err), COT_ARGUMENT);
}

static void shake(cot_model *m, int step) {
    cot_residency_info i = {.struct_size = sizeof i};
    cot_error err;
    OK(cot_model_get_residency(m, -1, &i, &err));
    assert_true(i.expert_bytes <= i.expert_capacity);
    OK(cot_model_set_memory(m, i.smallest + cot__random_u64(3, 1, (uint64_t)step, 0) % (i.expert_total / 2),
                            &err));
}

static void the_budget_may_change_while_running(void **state) {
    (void)state;
    cot_model_options mo;
    cot_session_options so;
    cot_error err = {0};
    cot_status st;
    float *want = mapped();
    options(&mo, &so);
    mo.residency = COT_RESIDENCY_STREAM;
    float *have = run(&mo, shake, &err, &st);
    if (!have) fail_msg("%s", err.message);
    assert_memory_equal(have, want, (size_t)TOKENS * VOCAB * sizeof *have);
    free(have);
    free(want);
}

/* A control group that leaves nothing: the cache shrinks to the smallest, and grows again afterwards. */
static char root[80];

static void group(const char *usage) {
    char file[200];
    static const char *const names[] = {"proc", "proc/self", "sys", "sys/fs", "sys/fs/cgroup"};
    mkdir(root, 0755);
    for (int i = 0; i < 5; i++) {
        snprintf(file, sizeof file, "%s/%s", root, names[i]);
        mkdir(file, 0755);
    }
    const char *const put[][2] = {{"proc/self/cgroup", "0::/\n"},
                                  {"sys/fs/cgroup/memory.max", "8000000000\n"},
                                  {"sys/fs/cgroup/memory.current", usage}};
    for (int i = 0; i < 3; i++) {
        snprintf(file, sizeof file, "%s/%s", root, put[i][0]);
        FILE *f = fopen(file, "w");
        assert_non_null(f);
        fputs(put[i][1], f);
        fclose(f);
    }
}

static uint64_t seen_memory[TOKENS], seen_least;

static void press(cot_model *m, int step) {
    cot_residency_info i = {.struct_size = sizeof i};
    cot_error err;
    OK(cot_model_get_residency(m, -1, &i, &err));
    seen_memory[step] = i.memory;
    seen_least = i.smallest;
    if (step == 2) group("7999000000\n");
    if (step == 4) group("1000000000\n");
    if (step >= 2 && step < 6) usleep(1100000);
}

static void pressure_shrinks_the_cache(void **state) {
    (void)state;
    cot_model_options mo;
    cot_session_options so;
    cot_error err = {0};
    cot_status st;
    float *want = mapped();
    snprintf(root, sizeof root, "%s.root", path);
    group("1000000000\n");
    cot__memory_root = root;
    options(&mo, &so);
    mo.residency = COT_RESIDENCY_STREAM;
    float *have = run(&mo, press, &err, &st);
    cot__memory_root = "";
    if (!have) fail_msg("%s", err.message);
    assert_memory_equal(have, want, (size_t)TOKENS * VOCAB * sizeof *have);
    assert_true(seen_memory[1] > 4000000000ull); /* what the group left */
    assert_true(seen_memory[4] <= 100 * MIB || OWN_MEMORY);
    assert_true(seen_memory[7] > seen_memory[4]);
    assert_true(seen_memory[4] >= seen_least);
    char command[160];
    snprintf(command, sizeof command, "rm -r '%s'", root);
    assert_int_equal(system(command), 0);
    free(have);
    free(want);
}

/* Written to while it runs: an error at the next call, and the sequence is what it was. */
static void spoil(cot_model *m, int step) {
    (void)m;
    if (step != 3) return;
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    usleep(20000);
    assert_int_equal(fseek(f, -1, SEEK_END), 0);
    fputc(0, f);
    fclose(f);
}

static void a_changed_file_ends_the_run(void **state) {
    (void)state;
    cot_model_options mo;
    cot_session_options so;
    cot_error err = {0};
    cot_status st;
    options(&mo, &so);
    mo.residency = COT_RESIDENCY_STREAM;
    assert_null(run(&mo, spoil, &err, &st));
    assert_int_equal(st, COT_IO);
    assert_non_null(strstr(err.message, "was changed while it was in use"));
}

int main(int argc, char **argv) {
    if (argc == 6) {
        snprintf(path, sizeof path, "%s", argv[3]);
        return child(argv[1], argv[2], argv[4], argv[5]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_budget_is_kept),           cmocka_unit_test(little_locked_memory_will_do),
        cmocka_unit_test(what_cannot_fit_is_refused), cmocka_unit_test(the_budget_may_change_while_running),
        cmocka_unit_test(pressure_shrinks_the_cache), cmocka_unit_test(a_changed_file_ends_the_run),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
