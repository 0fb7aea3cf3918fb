/* Filling cot_error and passing log lines on. */
#ifndef COT_BASE_ERROR_H
#define COT_BASE_ERROR_H

#include <coterie/base.h>

/* Lets the compiler know that a failure is never COT_OK, so that it can tell which outputs are set. */
static inline cot_status cot__failed(cot_status status) {
    if (status == COT_OK) __builtin_unreachable();
    return status;
}

/* Fills *err (if not NULL) and returns `status`, so that `return cot__fail(err, …)` is the idiom.
 * file and field may be NULL. The message becomes "FILE: FIELD: text", with control bytes of hostile
 * names replaced, always one line and always terminated. COT_OK as status becomes COT_INTERNAL. */
#define cot__fail(...) cot__failed(cot__fail_fill(__VA_ARGS__))
COT_PRINTF(5, 6)
cot_status cot__fail_fill(cot_error *err, cot_status status, const char *file, const char *field,
                          const char *fmt, ...);

/* As above for a failed system call: appends strerror(errno). */
#define cot__fail_errno(...) cot__failed(cot__fail_errno_fill(__VA_ARGS__))
COT_PRINTF(4, 5)
cot_status cot__fail_errno_fill(cot_error *err, const char *file, const char *field, const char *fmt, ...);

/* "out of memory" with the size asked for; takes no memory itself. */
#define cot__fail_memory(...) cot__failed(cot__fail_memory_fill(__VA_ARGS__))
cot_status cot__fail_memory_fill(cot_error *err, size_t bytes);

/* Clears *err to COT_OK; NULL is allowed. */
void cot__error_clear(cot_error *err);

COT_PRINTF(2, 3) void cot__log(cot_log_level level, const char *fmt, ...);

#define COT_TRY(call)                                                                                        \
    do {                                                                                                     \
        cot_status cot_try_status = (call);                                                                  \
        if (cot_try_status != COT_OK) return cot_try_status;                                                 \
    } while (0)

#endif
