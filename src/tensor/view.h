/* Views: where a matrix lies in memory and in which format. A view owns nothing. */
#ifndef COT_TENSOR_VIEW_H
#define COT_TENSOR_VIEW_H

#include "tensor/type.h"

/* rows × cols, cols the fastest axis (input features of a weight matrix: out = W x has rows outputs).
 * A vector is 1 × cols. No alignment is assumed. row_stride may exceed the row's bytes (an interleaved or
 * split tensor). */
typedef struct cot_view {
    const void *data; /* borrowed; NULL = absent */
    cot_type type;
    int64_t rows, cols;
    size_t row_stride; /* bytes */
    /* F8_E4M3 only: value = decoded · scales[(r / scale_rows) · scale_stride + c / scale_cols]. */
    const float *scales;
    int64_t scale_rows, scale_cols, scale_stride;
    /* Not 0: COT__TOGETHER. Rows stand in groups of so many, block by block: the first four bytes of each
     * row's block side by side, then the next four, … and what is left of each block (view.c says in which
     * order). The bytes are those of row_stride. */
    int together;
} cot_view;

/* Rows that a repacked matrix holds together. */
#define COT__TOGETHER 16

/* Not for rows that stand together, but where a group begins. */
static inline const void *cot__view_at(const cot_view *v, int64_t row) {
    return (const char *)v->data + (size_t)row * v->row_stride;
}
/* Decodes row r to cols floats, scales applied. The truth for every kernel. */
void cot__view_row(const cot_view *v, int64_t r, float *dst);
/* Elements c … c + n − 1 of row r, whole blocks, without scales. */
void cot__view_part(const cot_view *v, int64_t r, int64_t c, int64_t n, float *dst);
/* Whether a matrix of this form can be repacked: its format has such a layout, its rows are whole groups. */
bool cot__view_may_stand_together(const cot_view *v);
/* Repacks a matrix in place: true when its format and rows allow it, else nothing is changed. room: as many
 * bytes as COT__TOGETHER rows have. Its data must be the caller's to write. */
bool cot__view_put_together(cot_view *v, void *room);
/* A contiguous view over rows × cols of a type. */
cot_view cot__view_make(const void *data, cot_type type, int64_t rows, int64_t cols);
/* Rows [r0, r0 + n) of v. Scales are handled only when r0 is a multiple of scale_rows. */
cot_view cot__view_rows(const cot_view *v, int64_t r0, int64_t n);

#endif
