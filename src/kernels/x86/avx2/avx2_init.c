/* The avx2 level: entries that this folder overrides. */
#include "kernels/kernels.h"

void cot__kernels_init_avx2(cot_kernels *k) { (void)k; }
