/* Number formats: decoding against gguf-py's on random and extreme blocks (tests/golden/types), F16 and BF16
 * over all their values, and encoders: the error of the reference quantisers on Gaussian rows, and nothing
 * but finite numbers from any finite input. */
#include <dirent.h>
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "tensor/type.h"

static void decodes_as_the_reference(void **state) {
    DIR *d = opendir("tests/golden/types");
    int files = 0;
    (void)state;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char path[300], name[32], *text;
        size_t size;
        int64_t n;
        cot_error err;
        if (sscanf(e->d_name, "%31[A-Z0-9_].bin", name) != 1) continue;
        snprintf(path, sizeof path, "tests/golden/types/%.255s", e->d_name);
        assert_int_equal(cot__file_slurp(path, 1 << 20, &text, &size, &err), COT_OK);
        const cot__type_info *t = cot__type(cot_type_from_name(name));
        assert_non_null(t);
        memcpy(&n, text, 8);
        size_t row = cot__row_bytes(t->type, n);
        assert_int_equal(size, 8 + row + (size_t)n * 4);
        float *got = malloc((size_t)n * 4), *want = malloc((size_t)n * 4);
        assert_true(got && want);
        memcpy(want, text + 8 + row, (size_t)n * 4);
        t->decode(text + 8, got, n);
        for (int64_t i = 0; i < n; i++)
            if (memcmp(&got[i], &want[i], 4) != 0 && !(got[i] == 0 && want[i] == 0))
                fail_msg("%s: value %lld is %a, must be %a", name, (long long)i, (double)got[i],
                         (double)want[i]);
        free(got);
        free(want);
        cot__free(text);
        files++;
    }
    closedir(d);
    assert_true(files >= 16);
}

/* The value of an F16 by its definition. */
static double f16_value(unsigned h) {
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h >> 15 ? -v : v;
}

static void half_precision(void **state) {
    (void)state;
    for (unsigned h = 0; h < 65536; h++) {
        double v = f16_value(h);
        float f = cot__f16_to_f32((uint16_t)h);
        if (isnan(v)) {
            assert_true(isnan(f));
            assert_true(isnan(cot__f16_to_f32(cot__f32_to_f16(f))));
            continue;
        }
        assert_true((double)f == v);
        assert_int_equal(cot__f32_to_f16(f), h);
        if ((h & 0x7fff) >= 0x7bff) continue;
        double next = f16_value(h + 1); /* further from zero */
        float middle = (float)((v + next) / 2);
        assert_int_equal(cot__f32_to_f16(middle), h & 1 ? h + 1 : h); /* to even */
        assert_int_equal(cot__f32_to_f16(nextafterf(middle, (float)v)), h);
        assert_int_equal(cot__f32_to_f16(nextafterf(middle, (float)next)), h + 1);
    }
    assert_int_equal(cot__f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(cot__f32_to_f16(65520), 0x7c00);
    assert_int_equal(cot__f32_to_f16(-FLT_MAX), 0xfc00);
    for (unsigned h = 0; h < 65536; h++) {
        float f = cot__bf16_to_f32((uint16_t)h);
        if (isnan(f)) {
            assert_true(isnan(cot__bf16_to_f32(cot__f32_to_bf16(f))));
            continue;
        }
        assert_int_equal(cot__f32_to_bf16(f), h);
        if ((h & 0x7fff) >= 0x7f7f) continue;
        float next = cot__bf16_to_f32((uint16_t)(h + 1)), middle = f + (next - f) / 2;
        assert_int_equal(cot__f32_to_bf16(middle), h & 1 ? h + 1 : h);
    }
}

/* Root mean square errors on a standard Gaussian: those of llama.cpp's quantiser (pure, no importance), on 2
 * M values; the test leaves 3 % of room. */
static const struct {
    cot_type type;
    double rmse;
} errors[] = {
    {COT_Q8_0, 0.00535}, {COT_Q4_0, 0.08592}, {COT_Q4_1, 0.07819}, {COT_Q5_0, 0.04268},  {COT_Q5_1, 0.03785},
    {COT_Q4_K, 0.07136}, {COT_Q5_K, 0.03612}, {COT_Q6_K, 0.01773}, {COT_MXFP4, 0.11496}, {COT_F16, 0.00025},
    {COT_BF16, 0.00192}, {COT_Q2_K, 0.29633}, {COT_Q3_K, 0.15083},
};

static void gaussian(float *x, int n, uint64_t seed) {
    for (int i = 0; i < n; i += 2) {
        double u = 1 - cot__random_unit(seed, 1, (uint64_t)i, 0),
               v = cot__random_unit(seed, 2, (uint64_t)i, 0);
        x[i] = (float)(sqrt(-2 * log(u)) * cos(2 * M_PI * v));
        x[i + 1] = (float)(sqrt(-2 * log(u)) * sin(2 * M_PI * v));
    }
}

static void encodes_as_well_as_the_reference(void **state) {
    enum { N = 1 << 16 };
    static float x[N], y[N];
    static char out[N * 4];
    (void)state;
    gaussian(x, N, 7);
    for (size_t k = 0; k < sizeof errors / sizeof *errors; k++) {
        const cot__type_info *t = cot__type(errors[k].type);
        double sum = 0;
        t->encode(x, out, N, NULL);
        t->decode(out, y, N);
        for (int i = 0; i < N; i++) sum += pow((double)x[i] - (double)y[i], 2);
        double rmse = sqrt(sum / N);
        if (!(rmse <= errors[k].rmse * 1.03))
            fail_msg("%s: error %g, the reference's is %g", t->name, rmse, errors[k].rmse);
        /* importance moves the error to where it matters less */
        static float weight[N];
        double heavy = 0, before = 0;
        if (t->type == COT_F16 || t->type == COT_BF16) continue;
        for (int i = 0; i < N; i++)
            weight[i] = i % 8 ? 0.01f : 10, before += i % 8 ? 0 : pow((double)x[i] - (double)y[i], 2);
        t->encode(x, out, N, weight);
        t->decode(out, y, N);
        for (int i = 0; i < N; i += 8) heavy += pow((double)x[i] - (double)y[i], 2);
        if (heavy > before * 1.001)
            fail_msg("%s: importance makes important values worse (%g, was %g)", t->name, heavy, before);
    }
}

static void finite_stays_finite(void **state) {
    enum { N = 512 };
    static const float rows[][4] = {{0, 0, 0, 0},
                                    {-0.0f, 0, -0.0f, 0},
                                    {1, 1, 1, 1},
                                    {-3, -3, -3, -3},
                                    {1e-40f, 0, 0, 0},
                                    {1e30f, -1e30f, 0, 1},
                                    {FLT_MAX, 0, 0, 0},
                                    {FLT_MAX, -FLT_MAX, 1, 2},
                                    {1e-30f, -1e-30f, 0, 0},
                                    {6e4f, 7e4f, -1e5f, 0},
                                    {-1, 0, 0, 0},
                                    {FLT_MIN, FLT_MIN, 0, -FLT_MIN}};
    static float x[N], y[N];
    static char out[N * 4];
    (void)state;
    for (size_t k = 0; k < sizeof errors / sizeof *errors; k++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            const cot__type_info *t = cot__type(errors[k].type);
            double most = 0;
            for (int i = 0; i < N; i++) x[i] = rows[r][i % 4], most = fmax(most, fabs((double)x[i]));
            t->encode(x, out, N, NULL);
            t->decode(out, y, N);
            bool fits = most < 60000 || (t->type == COT_BF16 && most < 3e38); /* the reach of an F16 scale */
            for (int i = 0; i < N; i++) {
                if (isnan(y[i])) fail_msg("%s: %g becomes no number", t->name, (double)x[i]);
                if (fits && fabs((double)y[i] - (double)x[i]) > 0.5 * most + 1e-7)
                    fail_msg("%s: %g becomes %g", t->name, (double)x[i], (double)y[i]);
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_as_the_reference),
        cmocka_unit_test(half_precision),
        cmocka_unit_test(encodes_as_well_as_the_reference),
        cmocka_unit_test(finite_stays_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
