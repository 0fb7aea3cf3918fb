/* The avx512 level: the same with 32 registers and VNNI. */
#include "kernels/x86/level.h"

void cot__kernels_init_avx512(cot_kernels *k) {
    helps_to_fetch = __builtin_cpu_is("intel");
    fill(k);
}
