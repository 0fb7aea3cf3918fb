/* Owns: how many 8-bit products a second a thread can sum in 32 bits: independent chains of the instructions
 * that quantised kernels are made of, with nothing loaded between them. On AVX-512 VNNI that is VPDPBUSD. On
 * AVX2 it is VPMADDUBSW with sums of eight kept in 16 bits before VPMADDWD widens them: what weights of four
 * bits allow (15 · 127 · 2 · 8 < 2¹⁵), so an upper limit for wider ones. Refuses: nothing; any CPU has the
 * plain loop. */
#include "cli/machine.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

/* Hides a register's value from the compiler, so that no product is computed once and reused. */
#define OPAQUE(v) __asm__("" : "+v"(v))
#define EACH(X)   X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

__attribute__((target("avx512f,avx512vnni"))) static double vnni(long rounds, int32_t *sink) {
    __m512i a = _mm512_set1_epi8(7), b = _mm512_set1_epi8(3);
#define START(i) __m512i s##i = _mm512_set1_epi32(i);
#define STEP(i)  s##i = _mm512_dpbusd_epi32(s##i, a, b);
#define JOIN(i)  a = _mm512_add_epi32(a, s##i);
    EACH(START)
    for (long r = 0; r < rounds; r++) {
        OPAQUE(a);
        EACH(STEP)
    }
    EACH(JOIN)
#undef START
#undef STEP
#undef JOIN
    *sink = _mm512_cvtsi512_si32(a); /* any of the sums keeps the work alive */
    return 64.0 * 12 * (double)rounds;
}

__attribute__((target("avx2"))) static double avx2(long rounds, int32_t *sink) {
    __m256i a = _mm256_set1_epi8(7), b = _mm256_set1_epi8(3), one = _mm256_set1_epi16(1);
#define PRODUCT  _mm256_maddubs_epi16(a, b)
#define START(i) __m256i s##i = _mm256_set1_epi32(i), t##i;
#define FIRST(i)                                                                                             \
    OPAQUE(a);                                                                                               \
    t##i = PRODUCT;
#define STEP(i)                                                                                              \
    OPAQUE(a);                                                                                               \
    t##i = _mm256_add_epi16(t##i, PRODUCT);
#define WIDEN(i) s##i = _mm256_add_epi32(s##i, _mm256_madd_epi16(t##i, one));
#define FOUR(X)  X(0) X(1) X(2) X(3)
    FOUR(START)
    for (long r = 0; r < rounds; r++) {
        FOUR(FIRST)
        for (int i = 1; i < 8; i++) {
            FOUR(STEP)
        }
        FOUR(WIDEN)
    }
    s0 = _mm256_add_epi32(_mm256_add_epi32(s0, s1), _mm256_add_epi32(s2, s3));
    *sink = _mm256_extract_epi32(s0, 0);
    return 32.0 * 4 * 8 * (double)rounds;
}
#endif

static double plain(long rounds, int32_t *sink) {
    int8_t a[64], b[64];
    int32_t s[64] = {0};
    for (int i = 0; i < 64; i++) a[i] = (int8_t)i, b[i] = (int8_t)(3 * i);
    for (long r = 0; r < rounds; r++) {
        a[r & 63]++;
        for (int i = 0; i < 64; i++) s[i] += a[i] * b[i];
    }
    *sink = 0;
    for (int i = 0; i < 64; i++) *sink ^= s[i];
    return 64.0 * (double)rounds;
}

enum { PLAIN, AVX2, VNNI };
static int level(void) {
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni")) return VNNI;
    if (__builtin_cpu_supports("avx2")) return AVX2;
#endif
    return PLAIN;
}

double machine_int8(long rounds, int32_t *sink) {
#if defined(__x86_64__) && defined(__GNUC__)
    if (level() == VNNI) return vnni(rounds, sink);
    if (level() == AVX2) return avx2(rounds, sink);
#endif
    return plain(rounds, sink);
}

const char *machine_int8_how(void) {
    static const char *const how[] = {"plain loop", "VPMADDUBSW", "VPDPBUSD"};
    return how[level()];
}
