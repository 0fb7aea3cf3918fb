/* Owns: geometry of views. */
#include "tensor/view.h"

#include <string.h>

static bool may_stand_together(cot_type type) {
    switch (type) {
    case COT_Q8_0:
    case COT_Q4_0:
    case COT_Q4_1:
    case COT_Q5_0:
    case COT_Q5_1:
    case COT_IQ4_NL:
    case COT_MXFP4:
    case COT_Q4_K:
    case COT_Q5_K:
    case COT_Q6_K: return true;
    default: return false;
    }
}

/* Where in a block the four bytes are that come i-th where rows stand together, in the order of use, so that
 * memory is read in one direction: for Q6_K scales first, then low and high bits as they are needed together;
 * blocks of 32 end with what they begin with, the scale that is left of whole dwords. */
static size_t place(const cot__type_info *t, size_t i) {
    if (t->block == 32) return (size_t)t->bytes % 4 + 4 * i;
    if (t->type != COT_Q6_K) return 4 * i;
    if (i < 4) return 4 * (48 + i);
    size_t half = (i - 4) / 24, c = (i - 4) % 24 / 3;
    return 4 * ((i - 4) % 3 == 2 ? 32 + 8 * half + c : 16 * half + 8 * ((i - 4) % 3) + c);
}
/* Where what is left of whole dwords is. */
static size_t rest_at(const cot__type_info *t) {
    return t->block == 32 ? 0 : (size_t)t->bytes - (size_t)t->bytes % 4;
}

/* Block b of row r of rows that stand together, as the format has it. */
static void gather(const cot_view *v, const cot__type_info *t, int64_t r, int64_t b, char *room) {
    size_t side = (size_t)v->together, row = (size_t)(r % v->together), bytes = (size_t)t->bytes;
    size_t whole = bytes / 4, rest = bytes % 4;
    const char *p = (const char *)cot__view_at(v, r - r % v->together) + (size_t)b * bytes * side;
    for (size_t i = 0; i < whole; i++) memcpy(room + place(t, i), p + (i * side + row) * 4, 4);
    memcpy(room + rest_at(t), p + 4 * whole * side + row * rest, rest);
}

bool cot__view_may_stand_together(const cot_view *v) {
    return !v->scales && may_stand_together(v->type) && v->rows % COT__TOGETHER == 0 &&
           v->row_stride == cot__row_bytes(v->type, v->cols);
}

bool cot__view_put_together(cot_view *v, void *room) {
    const cot__type_info *t = cot__type(v->type);
    if (v->together || !cot__view_may_stand_together(v)) return false;
    size_t block = (size_t)t->bytes, row = v->row_stride;
    for (int64_t r = 0; r < v->rows; r += COT__TOGETHER) {
        char *group = (char *)(uintptr_t)cot__view_at(v, r), *from = room;
        memcpy(room, group, row * COT__TOGETHER);
        for (size_t b = 0; b < row; b += block) {
            for (size_t i = 0; i < block / 4; i++, group += 4 * COT__TOGETHER)
                for (size_t k = 0; k < COT__TOGETHER; k++)
                    memcpy(group + 4 * k, from + k * row + b + place(t, i), 4);
            for (size_t k = 0, rest = block % 4; k < COT__TOGETHER; k++, group += rest)
                memcpy(group, from + k * row + b + rest_at(t), rest);
        }
    }
    v->together = COT__TOGETHER;
    return true;
}

void cot__view_part(const cot_view *v, int64_t r, int64_t c, int64_t n, float *dst) {
    const cot__type_info *t = cot__type(v->type);
    char room[256]; /* the largest block */
    if (!v->together)
        t->decode((const char *)cot__view_at(v, r) + (size_t)(c / t->block) * (size_t)t->bytes, dst, n);
    for (int64_t i = 0; v->together && i < n; i += t->block) {
        gather(v, t, r, (c + i) / t->block, room);
        t->decode(room, dst + i, t->block);
    }
}

void cot__view_row(const cot_view *v, int64_t r, float *dst) {
    cot__view_part(v, r, 0, v->cols, dst);
    if (!v->scales) return;
    const float *s = v->scales + r / v->scale_rows * v->scale_stride;
    for (int64_t c = 0; c < v->cols; c++) dst[c] *= s[c / v->scale_cols];
}

cot_view cot__view_make(const void *data, cot_type type, int64_t rows, int64_t cols) {
    return (cot_view){
        .data = data, .type = type, .rows = rows, .cols = cols, .row_stride = cot__row_bytes(type, cols)};
}

cot_view cot__view_rows(const cot_view *v, int64_t r0, int64_t n) {
    cot_view w = *v;
    w.data = cot__view_at(v, r0);
    w.rows = n;
    if (w.scales) w.scales += r0 / w.scale_rows * w.scale_stride;
    return w;
}
