/* Files of trained predictors, written by tests: the header's seven numbers, then the weights as the test
 * sets them. Header only; include it after cmocka.h. */
#ifndef COT_TESTS_TRAINED_FILE_H
#define COT_TESTS_TRAINED_FILE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct trained_shape {
    uint32_t vocabulary, width, depth, heads, banks, experts, context;
} trained_shape;

static inline size_t trained_head_at(const trained_shape *s) {
    size_t w = s->width;
    return s->vocabulary * w + s->depth * (2 * w + 12 * w * w) + w;
}
static inline size_t trained_floats(const trained_shape *s) {
    return trained_head_at(s) + (size_t)s->banks * s->experts * s->width;
}

static inline void trained_write(const char *path, const trained_shape *s, const float *weights, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite("COTRPP\0\1", 1, 8, f), 8);
    assert_int_equal(fwrite(s, 4, 7, f), 7);
    assert_int_equal(fwrite(weights, 4, n, f), n);
    assert_int_equal(fclose(f), 0);
}

#endif
