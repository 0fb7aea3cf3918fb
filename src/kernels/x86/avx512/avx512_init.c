/* The avx512 level: entries that this folder overrides. */
#include "kernels/kernels.h"

void cot__kernels_init_avx512(cot_kernels *k) { (void)k; }
