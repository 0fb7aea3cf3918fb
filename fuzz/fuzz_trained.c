/* Files of trained predictors: whatever the bytes, an error or one that can be evaluated. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "store/predict.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static int fd = -1;
    char path[40];
    cot__trained *t = NULL;
    if (fd < 0) fd = memfd_create("trained", 0);
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, n, 0) != (ssize_t)n) return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int banks = n > 24 ? data[24] : 1; /* what the header says, so that not all ends there */
    if (cot__trained_open(&t, path, 0, banks, 1, NULL) != COT_OK) return 0;
    const int32_t tokens[] = {0, 1, 2, 0, -1, 0, 0, 2, 1, 0};
    float *scratch = malloc(cot__trained_scratch(t)), *p = calloc(1, cot__trained_forecast_bytes(t));
    for (int i = 0; scratch && p && i < 10; i++) cot__trained_forecast(t, tokens, i + 1, scratch, p);
    for (int i = 5; scratch && p && i < 10; i++) cot__trained_forecast(t, tokens + 5, i - 4, scratch, p);
    free(scratch);
    free(p);
    cot__trained_close(&t);
    return 0;
}
