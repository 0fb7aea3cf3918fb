/* The machine's own limits, measured. */
#ifndef COT_CLI_MACHINE_H
#define COT_CLI_MACHINE_H

#include <stdbool.h>

typedef struct machine_limits {
    double memory_gbs, gflops, disk_gbs;
} machine_limits;
/* Memory read and F32 arithmetic with so many threads; medians of a few rounds (more when thorough). */
void machine_measure(machine_limits *out, int threads, bool thorough);
/* Direct sequential reads of a file, of the largest file in a folder, or for "" of a file without a name that
 * is written for it in /var/tmp. */
void machine_disk(machine_limits *out, const char *path);

#endif
