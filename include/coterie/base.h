/* Coterie: status codes, errors, logging, version. Every other public header includes this one. */
#ifndef COTERIE_BASE_H
#define COTERIE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define COT_API          __attribute__((visibility("default")))
#define COT_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define COT_API
#define COT_PRINTF(f, a)
#endif

#define COT_VERSION_MAJOR 0
#define COT_VERSION_MINOR 1
#define COT_VERSION_PATCH 0

/* One list gives codes, names and messages. Zero is success, the rest is negative. */
#define COT_STATUS_MAP(X)                                                                                    \
    X(0, OK, "ok")                                                                                           \
    X(-1, NO_MEMORY, "out of memory")                                                                        \
    X(-2, IO, "input/output error")                                                                          \
    X(-3, FORMAT, "malformed file")                                                                          \
    X(-4, UNSUPPORTED, "not supported")                                                                      \
    X(-5, ARGUMENT, "invalid argument")                                                                      \
    X(-6, NOT_FOUND, "not found")                                                                            \
    X(-7, LIMIT, "limit exceeded")                                                                           \
    X(-8, CONTEXT_FULL, "context is full")                                                                   \
    X(-9, CANCELLED, "cancelled")                                                                            \
    X(-10, INTERNAL, "internal error")

typedef enum cot_status {
#define COT_STATUS_ENUM(code, name, text) COT_##name = code,
    COT_STATUS_MAP(COT_STATUS_ENUM)
#undef COT_STATUS_ENUM
} cot_status;

/* What went wrong. Filled by the failing call when a pointer is passed; owned by the caller; no cleanup.
 * `message` is one line that names the file, the field and, where there is one, the way out.
 * `file` and `field` repeat the names alone, empty where there is none. */
typedef struct cot_error {
    cot_status status;
    char message[768];
    char file[256];
    char field[128];
} cot_error;

/* Stable name ("FORMAT") and short text ("malformed file") of a status; never NULL. */
COT_API const char *cot_status_name(cot_status status);
COT_API const char *cot_status_text(cot_status status);

/* Version of the library as text, such as "0.1.0"; static storage. */
COT_API const char *cot_version(void);

typedef enum cot_log_level { COT_LOG_DEBUG, COT_LOG_INFO, COT_LOG_WARN, COT_LOG_ERROR } cot_log_level;

/* Receives log lines (no newline at the end). Called from any thread. The library itself never prints;
 * without a function set, log lines are dropped. Set it before other calls: not synchronised. */
typedef void cot_log_fn(void *user, cot_log_level level, const char *line);
COT_API void cot_log_set(cot_log_fn *fn, void *user, cot_log_level lowest);

/* Progress of long calls: `done` of `total` units of `what` ("load", "prefill", "convert", …).
 * Returning false cancels the call, which then fails with COT_CANCELLED. May be NULL wherever it is taken. */
typedef bool cot_progress_fn(void *user, const char *what, uint64_t done, uint64_t total);

#ifdef __cplusplus
}
#endif
#endif
