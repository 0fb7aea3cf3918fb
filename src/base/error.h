/* Filling cot_error and passing log lines on. */
#ifndef COT_BASE_ERROR_H
#define COT_BASE_ERROR_H

#include <coterie/base.h>

/* Fills *err (if not NULL) and returns `status`, so that `return cot__fail(err, …)` is the idiom.
 * file and field may be NULL. The message becomes "FILE: FIELD: text", with control bytes of hostile
 * names replaced, always one line and always terminated. */
COT_PRINTF(5, 6)
cot_status cot__fail(cot_error *err, cot_status status, const char *file, const char *field, const char *fmt,
                     ...);

/* As above for a failed system call: appends strerror(errno). */
COT_PRINTF(4, 5)
cot_status cot__fail_errno(cot_error *err, const char *file, const char *field, const char *fmt, ...);

/* "out of memory" with the size asked for; takes no memory itself. */
cot_status cot__fail_memory(cot_error *err, size_t bytes);

/* Clears *err to COT_OK; NULL is allowed. */
void cot__error_clear(cot_error *err);

COT_PRINTF(2, 3) void cot__log(cot_log_level level, const char *fmt, ...);

#define COT_TRY(call)                                                                                        \
    do {                                                                                                     \
        cot_status cot_try_status = (call);                                                                  \
        if (cot_try_status != COT_OK) return cot_try_status;                                                 \
    } while (0)

#endif
