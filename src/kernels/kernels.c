/* Owns: which kernels this machine runs. The reference fills the table, each level overrides what it does
 * better. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { LEVELS = 4 };
static const char *const names[LEVELS] = {"ref", "avx2", "avx512", "avx512bf16"};
static cot_kernels tables[LEVELS];
static bool usable[LEVELS];
static const cot_kernels *chosen; /* NULL: COTERIE_CPU names a level that cannot run */
static char asked[32];
static pthread_once_t once = PTHREAD_ONCE_INIT;

#if defined(__x86_64__)
static bool has_f16c(void) { /* Clang 14 has no name for it */
    unsigned a, b, c = 0, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
static bool has_bf16(void) { /* nor for this one */
    unsigned a = 0, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
}
#endif

static bool can_run(int level) {
#if defined(__x86_64__)
    __builtin_cpu_init(); /* checks what the operating system saves, too */
    if (level == 1)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() &&
               __builtin_cpu_supports("bmi2");
    if (level == 2)
        return can_run(1) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512vnni");
    if (level == 3) return can_run(2) && has_bf16();
#endif
    return level == 0;
}

static void init(void) {
    int best = 0;
    for (int i = 0; i < LEVELS; i++) {
        usable[i] = can_run(i);
        if (!usable[i]) continue;
        cot__kernels_init_ref(&tables[i]);
#if defined(__x86_64__)
        if (i >= 1) cot__kernels_init_avx2(&tables[i]);
        if (i >= 2) cot__kernels_init_avx512(&tables[i]);
        if (i >= 3) cot__kernels_init_avx512bf16(&tables[i]);
#endif
        tables[i].level = names[i];
        best = i;
    }
    const char *env = getenv("COTERIE_CPU");
    if (!env || !env[0]) {
        chosen = &tables[best];
        return;
    }
    strncpy(asked, env, sizeof asked - 1);
    for (int i = 0; i < LEVELS; i++)
        if (strcmp(names[i], env) == 0 && usable[i]) chosen = &tables[i];
}

cot_status cot__kernels_get(const cot_kernels **out, cot_error *err) {
    pthread_once(&once, init);
    if (!chosen)
        return cot__fail(err, COT_ARGUMENT, NULL, "COTERIE_CPU",
                         "\"%s\" is none of ref, avx2, avx512, avx512bf16 that this machine can run", asked);
    *out = chosen;
    return COT_OK;
}

const cot_kernels *cot__kernels_by_name(const char *level) {
    pthread_once(&once, init);
    for (int i = 0; i < LEVELS; i++)
        if (strcmp(names[i], level) == 0) return usable[i] ? &tables[i] : NULL;
    return NULL;
}

int cot__kernel_slot(cot_type type) {
    static const cot_type order[] = {COT_F32,  COT_F16,    COT_BF16,   COT_Q8_0,  COT_Q4_0,   COT_Q4_1,
                                     COT_Q5_0, COT_Q5_1,   COT_Q2_K,   COT_Q3_K,  COT_Q4_K,   COT_Q5_K,
                                     COT_Q6_K, COT_IQ4_NL, COT_IQ4_XS, COT_MXFP4, COT_F8_E4M3};
    for (int i = 0; i < (int)(sizeof order / sizeof *order); i++)
        if (order[i] == type) return i;
    return -1;
}

size_t cot__act_bytes(cot_act act, int64_t n) {
    switch (act) {
    case COT_ACT_Q8_32: return (size_t)((n + 255) / 256) * sizeof(cot__q8_32);
    case COT_ACT_Q8_256: return (size_t)((n + 1023) / 1024) * sizeof(cot__q8_256);
    case COT_ACT_BF16: return (size_t)n * sizeof(uint16_t);
    default: return (size_t)n * sizeof(float);
    }
}
