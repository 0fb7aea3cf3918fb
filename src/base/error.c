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

/* Bytes of the well-formed, printable UTF-8 character at s; 0 when there is none: C0 and C1 controls, DEL,
 * line separators and bidirectional overrides count as none. */
static size_t printable(const unsigned char *s) {
    if (s[0] < 0x80) return s[0] >= 32 && s[0] != 127;
    size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
    uint32_t c = s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) { /* stops at the terminator, which is no continuation byte */
        if ((s[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    if (c < (n == 4 ? 0x10000u : n == 3 ? 0x800u : 0xa0u) || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return 0;
    if (c >= 0x2028 && c <= 0x202e) return 0;
    if (c >= 0x2066 && c <= 0x2069) return 0;
    return n;
}

/* Names come from hostile files: only whole, printable characters reach a terminal or a JSON answer. */
static void copy_name(char *dst, size_t cap, const char *src) {
    size_t out = 0;
    while (src && *src) {
        size_t n = printable((const unsigned char *)src), step = n ? n : 1;
        if (out + step >= cap) break;
        if (n) memmove(dst + out, src, n); /* src may be dst itself */
        else dst[out] = '?';
        out += step;
        src += step;
    }
    dst[out] = 0;
}

static cot_status fill(cot_error *err, cot_status status, const char *file, const char *field,
                       const char *fmt, va_list ap) {
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

cot_status cot__fail_fill(cot_error *err, cot_status status, const char *file, const char *field,
                          const char *fmt, ...) {
    va_list ap;
    if (status == COT_OK) status = COT_INTERNAL;
    va_start(ap, fmt);
    fill(err, status, file, field, fmt, ap);
    va_end(ap);
    return status;
}

cot_status cot__fail_errno_fill(cot_error *err, const char *file, const char *field, const char *fmt, ...) {
    int code = errno;
    char text[256], reason[128];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    const char *r = strerror_r(code, reason, sizeof reason);
    return cot__fail(err,
                     code == ENOENT   ? COT_NOT_FOUND
                     : code == ENOMEM ? COT_NO_MEMORY
                                      : COT_IO,
                     file, field, "%s: %s", text, r);
}

cot_status cot__fail_memory_fill(cot_error *err, size_t bytes) {
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
