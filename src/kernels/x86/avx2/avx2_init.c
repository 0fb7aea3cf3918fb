/* The avx2 level: AVX2, FMA, F16C. */
#include "kernels/x86/level.h"

void cot__kernels_init_avx2(cot_kernels *k) { fill(k); }
