/* Owns: filling cot_error, names of status codes, the log function. Refuses: printing anything itself. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *cot_status_name(cot_status status) {
    switch (status) {
#define COT_NAME(code, name, text)                                                                           \
    case COT_##name: return #name;
        COT_STATUS_MAP(COT_NAME)
#undef COT_NAME
    }
    return "UNKNOWN";
}

const char *cot_status_text(cot_status status) {
    switch (status) {
#define COT_TEXT(code, name, text)                                                                           \
    case COT_##name: return text;
        COT_STATUS_MAP(COT_TEXT)
#undef COT_TEXT
    }
    return "unknown status";
}

const char *cot_version(void) {
#define COT_STR2(x) #x
#define COT_STR(x)  COT_STR2(x)
    return COT_STR(COT_VERSION_MAJOR) "." COT_STR(COT_VERSION_MINOR) "." COT_STR(COT_VERSION_PATCH);
}

void cot__error_clear(cot_error *err) {
    if (err) memset(err, 0, sizeof *err);
}

/* Names come from hostile files: no control bytes reach a terminal. */
static void copy_name(char *dst, size_t cap, const char *src) {
    size_t n = 0;
    for (; src && src[n] && n + 1 < cap; n++) {
        unsigned char c = (unsigned char)src[n];
        dst[n] = c < 32 || c == 127 ? '?' : (char)c;
    }
    dst[n] = 0;
}

static cot_status fill(cot_error *err, cot_status status, const char *file, const char *field, const char *fmt,
                       va_list ap) {
    if (!err) return status;
    char text[sizeof err->message];
    vsnprintf(text, sizeof text, fmt, ap);
    err->status = status;
    copy_name(err->file, sizeof err->file, file);
    copy_name(err->field, sizeof err->field, field);
    char whole[sizeof err->message + sizeof err->file + sizeof err->field + 8];
    snprintf(whole, sizeof whole, "%s%s%s%s%s", err->file, err->file[0] ? ": " : "", err->field,
             err->field[0] ? ": " : "", text);
    copy_name(err->message, sizeof err->message, whole);
    return status;
}

cot_status cot__fail(cot_error *err, cot_status status, const char *file, const char *field, const char *fmt,
                     ...) {
    va_list ap;
    va_start(ap, fmt);
    fill(err, status, file, field, fmt, ap);
    va_end(ap);
    return status;
}

cot_status cot__fail_errno(cot_error *err, const char *file, const char *field, const char *fmt, ...) {
    int code = errno;
    char text[256], reason[128];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    const char *r = strerror_r(code, reason, sizeof reason);
    return cot__fail(err, code == ENOENT ? COT_NOT_FOUND : code == ENOMEM ? COT_NO_MEMORY : COT_IO, file, field,
                     "%s: %s", text, r);
}

cot_status cot__fail_memory(cot_error *err, size_t bytes) {
    return cot__fail(err, COT_NO_MEMORY, NULL, NULL, "out of memory (%zu bytes asked for)", bytes);
}

static struct {
    cot_log_fn *fn;
    void *user;
    cot_log_level lowest;
} log_sink;

void cot_log_set(cot_log_fn *fn, void *user, cot_log_level lowest) {
    log_sink.fn = fn;
    log_sink.user = user;
    log_sink.lowest = lowest;
}

void cot__log(cot_log_level level, const char *fmt, ...) {
    if (!log_sink.fn || level < log_sink.lowest) return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    log_sink.fn(log_sink.user, level, line);
}
