/* Owns: geometry of views. */
#include "tensor/view.h"

#include <string.h>

/* Which four bytes of a block come i-th where rows stand together: for Q6_K scales first, then low and high
 * bits as they are needed together, so that memory is read in one direction. */
static size_t place(cot_type type, size_t i) {
    if (type != COT_Q6_K) return i;
    if (i < 4) return 48 + i;
    size_t half = (i - 4) / 24, c = (i - 4) % 24 / 3;
    return (i - 4) % 3 == 2 ? 32 + 8 * half + c : 16 * half + 8 * ((i - 4) % 3) + c;
}

const void *cot__view_block(const cot_view *v, int64_t r, int64_t b, void *room) {
    size_t bytes = (size_t)cot__type(v->type)->bytes;
    if (!v->together) return (const char *)cot__view_at(v, r) + (size_t)b * bytes;
    size_t side = (size_t)v->together, row = (size_t)(r % v->together), whole = bytes / 4, rest = bytes % 4;
    const char *p = (const char *)cot__view_at(v, r - r % v->together) + (size_t)b * bytes * side;
    for (size_t i = 0; i < whole; i++)
        memcpy((char *)room + 4 * place(v->type, i), p + (i * side + row) * 4, 4);
    memcpy((char *)room + 4 * whole, p + 4 * whole * side + row * rest, rest);
    return room;
}

bool cot__view_may_stand_together(const cot_view *v) {
    return !v->scales && (v->type == COT_Q4_K || v->type == COT_Q5_K || v->type == COT_Q6_K) &&
           v->rows % COT__TOGETHER == 0 && v->row_stride == cot__row_bytes(v->type, v->cols);
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
                    memcpy(group + 4 * k, from + k * row + b + 4 * place(v->type, i), 4);
            for (size_t k = 0, rest = block % 4; k < COT__TOGETHER; k++, group += rest)
                memcpy(group, from + k * row + b + block - rest, rest);
        }
    }
    v->together = COT__TOGETHER;
    return true;
}

void cot__view_row(const cot_view *v, int64_t r, float *dst) {
    const cot__type_info *t = cot__type(v->type);
    char room[COT__BLOCK_MOST];
    if (!v->together) t->decode(cot__view_at(v, r), dst, v->cols);
    for (int64_t c = 0; v->together && c < v->cols; c += t->block)
        t->decode(cot__view_block(v, r, c / t->block, room), dst + c, t->block);
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
