/* Where tests put their files: $TMPDIR, or memory, or /tmp. Hundreds of small files are synced to disk on
 * their way, which takes a real disk minutes. */
#ifndef COT_TESTS_TEMP_H
#define COT_TESTS_TEMP_H

#include <stdlib.h>
#include <unistd.h>

static inline const char *temp_root(void) {
    const char *own = getenv("TMPDIR");
    if (own && *own && access(own, W_OK | X_OK) == 0) return own;
    return access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp";
}

#endif
