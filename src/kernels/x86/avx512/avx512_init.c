/* The avx512 level: the same with 32 registers and VNNI. */
#include "kernels/x86/level.h"

void cot__kernels_init_avx512(cot_kernels *k) {
    fetch_as_measured();
    fill(k);
}
