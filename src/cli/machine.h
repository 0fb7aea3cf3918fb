/* The machine's own limits, measured. */
#ifndef COT_CLI_MACHINE_H
#define COT_CLI_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct machine_limits {
    double memory_gbs, memory_gbs_1; /* reading with all threads, with one */
    double gflops, int8_gops; /* F32; products of 8-bit integers summed in 32 bits (2 operations each) */
    double disk_gbs;
    const char *int8_how; /* the instructions of int8_gops */
} machine_limits;
/* Memory read and arithmetic with so many threads; the best of a few rounds (more when thorough), since
 * whatever disturbs a round only makes it slower. */
void machine_measure(machine_limits *out, int threads, bool thorough);
/* Direct sequential reads of a file, of the largest file in a folder, or for "" of a file without a name that
 * is written for it in /var/tmp. */
void machine_disk(machine_limits *out, const char *path);

/* A chain of so many rounds of 8-bit products on this thread; returns how many multiply-adds that were. The
 * sum goes to *sink. */
double machine_int8(long rounds, int32_t *sink);
const char *machine_int8_how(void);

#endif
