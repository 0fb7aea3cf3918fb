/* Owns: messages, progress, interrupts, reading input, writing JSON strings. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/pool.h"
#include "cli/cli.h"

volatile int cli_interrupted, cli_ever_interrupted;

static void on_interrupt(int sig) {
    if (cli_interrupted) _exit(EXIT_INTERRUPTED);
    cli_ever_interrupted = 1;
    cli_interrupted = 1;
}

void cli_catch_interrupts(void) {
    struct sigaction a = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

/* A mapped model whose file was cut, or whose disk failed. Nothing but write may be called here. */
static char mapped_path[512];

static void on_bus_error(int sig) {
    static const char start[] = "error: ",
                      end[] = ": was cut while it was mapped, or a page of it cannot be read; "
                              "--residency stream reports such things without ending\n";
    (void)sig;
    if (write(STDERR_FILENO, start, sizeof start - 1) < 0 ||
        write(STDERR_FILENO, mapped_path, strlen(mapped_path)) < 0 ||
        write(STDERR_FILENO, end, sizeof end - 1) < 0)
        _exit(EXIT_FAILED);
    _exit(EXIT_FAILED);
}

static void catch_bus_errors(const char *path) {
    struct sigaction a = {.sa_handler = on_bus_error};
    snprintf(mapped_path, sizeof mapped_path, "%s", path);
    sigaction(SIGBUS, &a, NULL);
}

int cli_fail(const cot_error *err) {
    fprintf(stderr, "error: %s\n",
            err->message[0]         ? err->message
            : err->status == COT_OK ? "out of memory" /* of the command itself */
                                    : cot_status_text(err->status));
    return err->status == COT_CANCELLED && cli_interrupted ? EXIT_INTERRUPTED : EXIT_FAILED;
}

int cli_usage(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("error: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    return EXIT_USAGE;
}

/* Shown only for what lasts: nothing in the first half second, then ten times a second. */
bool cli_progress(void *user, const char *what, uint64_t done, uint64_t total) {
    static double start, last;
    static bool shown;
    double now = cot__now();
    if (done <= 1 || start == 0) start = now;
    bool end = done >= total;
    if (isatty(STDERR_FILENO) && ((now - start > 0.5 && now - last > 0.1) || (end && shown))) {
        fprintf(stderr, "\r%s %3d %%%s", what, total ? (int)(done * 100 / total) : 100,
                end ? "\r\033[K" : "");
        fflush(stderr);
        shown = !end;
        last = now;
    }
    if (end) start = 0;
    return !cli_interrupted;
}

bool cli_silent(void *user, const char *what, uint64_t done, uint64_t total) { return !cli_interrupted; }

int cli_open(cot_model **out, const cli_common *c) {
    cot_error err;
    cot_model_options o;
    cot_model_defaults(&o);
    o.arch_file = c->arch;
    o.progress = c->quiet ? cli_silent : cli_progress;
    int code = cli_memory_options(c, &o);
    if (code >= 0) return code;
    if (!c->model)
        return cli_usage("no MODEL is given: a GGUF file, the first of a split, or a Hugging Face folder");
    catch_bus_errors(c->model);
    return cot_model_open(out, c->model, &o, &err) == COT_OK ? -1 : cli_fail(&err);
}

void cli_put(const char *text, size_t n) {
    errno = 0;
    size_t done = fwrite(text, 1, n, stdout);
    while ((done < n || fflush(stdout) != 0) && errno == EINTR) {
        clearerr(stdout);
        errno = 0;
        done += fwrite(text + done, 1, n - done, stdout);
    }
}

bool cli_ids(const char *text, int32_t **ids, size_t *n) {
    size_t cap = 1;
    for (const char *p = text; *p; p++) cap += *p == ',' || *p == ' ';
    int32_t *out = malloc(cap * sizeof *out);
    size_t count = 0;
    while (out && *text) {
        char *end;
        errno = 0;
        long v = strtol(text, &end, 10);
        if (end == text || errno || v < 0 || v > INT32_MAX) {
            cli_usage("--tokens: \"%.20s\" is no list of token ids such as 1,2,3", text);
            free(out);
            return false;
        }
        out[count++] = (int32_t)v;
        text = end + strspn(end, " \n");
        if (*text == ',' && *(text += 1 + strspn(text + 1, " \n")) == 0)
            text = ","; /* a number must follow */
    }
    if (!out) fprintf(stderr, "error: out of memory\n");
    *ids = out;
    *n = count;
    return out != NULL;
}

bool cli_read(const char *path, char **text, size_t *n) {
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    char *buf = NULL;
    size_t len = 0, cap = 0;
    bool ok = f != NULL;
    while (ok) {
        if (len + 1 >= cap) {
            cap = cap ? cap * 2 : 1 << 16;
            char *p = realloc(buf, cap);
            if (!p) {
                errno = ENOMEM;
                ok = false;
                break;
            }
            buf = p;
        }
        size_t got = fread(buf + len, 1, cap - len - 1, f);
        len += got;
        if (!got) break;
    }
    if (ok && ferror(f)) ok = false;
    if (!ok) fprintf(stderr, "error: %s: cannot read: %s\n", path, strerror(errno));
    if (f && f != stdin) fclose(f);
    if (!ok) {
        free(buf);
        return false;
    }
    buf[len] = 0;
    *text = buf;
    *n = len;
    return true;
}

/* Length of a valid UTF-8 character at s, 0 when there is none. */
static size_t utf8_at(const char *s, size_t n) {
    const unsigned char *p = (const unsigned char *)s;
    size_t len = p[0] < 0x80                   ? 1
                 : p[0] >= 0xC2 && p[0] < 0xE0 ? 2
                 : p[0] >= 0xE0 && p[0] < 0xF0 ? 3
                 : p[0] >= 0xF0 && p[0] < 0xF5 ? 4
                                               : 0;
    if (!len || len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) || (p[0] == 0xF0 && p[1] < 0x90) ||
        (p[0] == 0xF4 && p[1] > 0x8F))
        return 0;
    return len;
}

void cli_json_string(FILE *f, const char *s, size_t n) {
    fputc('"', f);
    for (size_t i = 0; i < n;) {
        size_t len = utf8_at(s + i, n - i);
        unsigned char c = (unsigned char)s[i];
        if (!len) fputs("\\ufffd", f), i++;
        else if (len > 1) fwrite(s + i, 1, len, f), i += len;
        else {
            if (c == '"' || c == '\\') fprintf(f, "\\%c", c);
            else if (c == '\n') fputs("\\n", f);
            else if (c < 32 || c == 127) fprintf(f, "\\u%04x", c);
            else fputc(c, f);
            i++;
        }
    }
    fputc('"', f);
}

const char *cli_bytes(uint64_t n, char *buf, size_t cap) {
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double x = (double)n;
    int u = 0;
    while (x >= 1024 && u < 4) x /= 1024, u++;
    snprintf(buf, cap, u ? "%.2f %s" : "%.0f %s", x, unit[u]);
    return buf;
}

const char *cli_count(uint64_t n, char *buf, size_t cap) {
    if (n < 1000000) snprintf(buf, cap, "%.1f thousand", (double)n / 1e3);
    else if (n < 1000000000) snprintf(buf, cap, "%.1f million", (double)n / 1e6);
    else snprintf(buf, cap, "%.2f billion", (double)n / 1e9);
    return buf;
}
