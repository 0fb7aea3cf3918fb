/* Parts of the reference level. */
#ifndef COT_KERNELS_REF_H
#define COT_KERNELS_REF_H
#include "kernels/kernels.h"
void cot__ref_gemm_init(cot_kernels *k);
void cot__ref_attn_init(cot_kernels *k);
#endif
