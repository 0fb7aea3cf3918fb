/* Owns: geometry of views. */
#include "tensor/view.h"

void cot__view_row(const cot_view *v, int64_t r, float *dst) {
    cot__type(v->type)->decode(cot__view_at(v, r), dst, v->cols);
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
