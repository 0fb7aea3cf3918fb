/* How much memory there is for this process. */
#ifndef COT_BASE_LIMITS_H
#define COT_BASE_LIMITS_H

#include <coterie/base.h>

/* Bytes that can still be taken before something is pushed out or killed: the least of what the machine has
 * available and of what every control group above this process (version 1 or 2) leaves; caches that the
 * system gives up by itself count as free. `root`: a folder that stands for / (tests), or NULL. 0: not known.
 */
uint64_t cot__memory_available(const char *root);
/* What stands for / where NULL is given; set by tests alone. */
extern const char *cot__memory_root;
/* Bytes of this process that are resident now, mapped files included; and the most so far. 0: not known. */
uint64_t cot__memory_resident(void);
uint64_t cot__memory_peak(void);

#endif
