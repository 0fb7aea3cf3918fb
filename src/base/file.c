/* Owns: open files, mappings, atomic writing. Refuses: reading anything but regular files. A file that
 * another process shortens while it is mapped ends this one with SIGBUS; model files are taken to be
 * immutable. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"

struct cot__file {
    int fd;
    uint64_t size;
    char *path;
    void *map;
    pthread_mutex_t lock; /* guards map, and the opening of direct */
    atomic_int direct;    /* descriptor; −2: not asked for yet, −1: refused */
    int direct_owned;     /* what close must close, also after a refusal; −1: none */
    struct stat seen;     /* when it was opened */
};

cot_status cot__file_open(cot__file **out, const char *path, cot_error *err) {
    cot__file *f = cot__alloc_zero(1, sizeof *f);
    if (!f) return cot__fail_memory(err, sizeof *f);
    f->fd = f->direct_owned = -1;
    atomic_init(&f->direct, -2);
    pthread_mutex_init(&f->lock, NULL);
    f->path = cot__strdup(path);
    if (!f->path) {
        cot__file_close(&f);
        return cot__fail_memory(err, strlen(path) + 1);
    }
    if (cot__fault_hit(COT__FAULT_READ)) {
        cot__file_close(&f);
        return cot__fail(err, COT_IO, path, NULL, "cannot open: input/output error");
    }
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block us */
    struct stat st;
    if (f->fd < 0 || fstat(f->fd, &st) != 0) {
        cot_status s = cot__fail_errno(err, path, NULL, "cannot open");
        cot__file_close(&f);
        return s;
    }
    if (!S_ISREG(st.st_mode)) {
        cot__file_close(&f);
        return cot__fail(err, COT_ARGUMENT, path, NULL, "is not a regular file");
    }
    /* Nothing to wait for from here on; io_uring would take the flag as "only what is cached". */
    (void)fcntl(f->fd, F_SETFL, fcntl(f->fd, F_GETFL) & ~O_NONBLOCK);
    f->size = (uint64_t)st.st_size;
    f->seen = st;
    *out = f;
    return COT_OK;
}

void cot__file_close(cot__file **file) {
    if (!file || !*file) return;
    cot__file *f = *file;
    if (f->map) munmap(f->map, f->size);
    if (f->direct_owned >= 0) close(f->direct_owned);
    if (f->fd >= 0) close(f->fd);
    pthread_mutex_destroy(&f->lock);
    cot__free(f->path);
    cot__free(f);
    *file = NULL;
}

const char *cot__file_path(const cot__file *f) { return f->path; }
uint64_t cot__file_size(const cot__file *f) { return f->size; }
int cot__file_fd(const cot__file *f) { return f->fd; }

cot_status cot__file_read(cot__file *f, uint64_t offset, void *dst, size_t n, cot_error *err) {
    char *p = dst;
    if (cot__fault_hit(COT__FAULT_READ))
        return cot__fail(err, COT_IO, f->path, NULL, "read of %zu bytes at %llu failed: input/output error",
                         n, (unsigned long long)offset);
    if (offset > f->size || n > f->size - offset)
        return cot__fail(err, COT_FORMAT, f->path, NULL, "%zu bytes at %llu lie beyond its end at %llu", n,
                         (unsigned long long)offset, (unsigned long long)f->size);
    while (n > 0) {
        ssize_t got = pread(f->fd, p, n > (1u << 30) ? (1u << 30) : n, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return cot__fail_errno(err, f->path, NULL, "read at %llu failed", (unsigned long long)offset);
        if (got == 0)
            return cot__fail(err, COT_FORMAT, f->path, NULL,
                             "file ends at %llu, %zu more bytes were expected", (unsigned long long)offset,
                             n);
        p += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return COT_OK;
}

static bool same_file(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

bool cot__file_unchanged(const cot__file *f) {
    struct stat now;
    return fstat(f->fd, &now) == 0 && same_file(&now, &f->seen);
}

/* By the descriptor, so that it is this file whatever its name leads to by now; by the name where /proc is
 * not mounted, and then compared. */
static int open_direct(const cot__file *f) {
    char link[40];
    struct stat st;
    snprintf(link, sizeof link, "/proc/self/fd/%d", f->fd);
    int fd = open(link, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd < 0) fd = open(f->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd >= 0 && (fstat(fd, &st) != 0 || !same_file(&st, &f->seen))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

int cot__file_direct_fd(cot__file *f) {
    int fd = atomic_load_explicit(&f->direct, memory_order_acquire);
    if (fd != -2) return fd;
    pthread_mutex_lock(&f->lock);
    if ((fd = atomic_load(&f->direct)) == -2) {
        fd = f->direct_owned = open_direct(f);
        atomic_store_explicit(&f->direct, fd, memory_order_release);
    }
    pthread_mutex_unlock(&f->lock);
    return fd;
}

void cot__file_no_direct(cot__file *f) { atomic_store(&f->direct, -1); }

void cot__file_drop(cot__file *f, uint64_t offset, uint64_t n) {
    (void)posix_fadvise(f->fd, (off_t)offset, (off_t)n, POSIX_FADV_DONTNEED);
}

cot_status cot__file_map(cot__file *f, const void **out, cot_error *err) {
    static const char empty[1];
    cot_status s = COT_OK;
    if (f->size == 0) {
        *out = empty;
        return COT_OK;
    }
    pthread_mutex_lock(&f->lock);
    if (!f->map) {
        void *p = cot__fault_hit(COT__FAULT_READ) ? (errno = EIO, MAP_FAILED)
                                                  : mmap(NULL, f->size, PROT_READ, MAP_SHARED, f->fd, 0);
        if (p == MAP_FAILED) s = cot__fail_errno(err, f->path, NULL, "cannot map");
        else f->map = p;
    }
    if (s == COT_OK) *out = f->map;
    pthread_mutex_unlock(&f->lock);
    return s;
}

cot_status cot__file_slurp(const char *path, size_t max, char **out, size_t *len, cot_error *err) {
    cot__file *f = NULL;
    COT_TRY(cot__file_open(&f, path, err));
    cot_status s = COT_OK;
    char *text = NULL;
    if (f->size > max)
        s = cot__fail(err, COT_LIMIT, path, NULL, "has %llu bytes, at most %zu are read",
                      (unsigned long long)f->size, max);
    else if (!(text = cot__alloc((size_t)f->size + 1))) s = cot__fail_memory(err, (size_t)f->size + 1);
    else s = cot__file_read(f, 0, text, (size_t)f->size, err);
    if (s == COT_OK) {
        text[f->size] = 0;
        *out = text;
        *len = (size_t)f->size;
    } else cot__free(text);
    cot__file_close(&f);
    return s;
}

bool cot__path_exists(const char *path) { return access(path, F_OK) == 0; }

bool cot__path_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *cot__path_join(const char *dir, const char *name) {
    size_t a = strlen(dir), b = strlen(name);
    char *p = cot__alloc(a + b + 2);
    if (!p) return NULL;
    memcpy(p, dir, a);
    if (a && p[a - 1] != '/') p[a++] = '/';
    memcpy(p + a, name, b + 1);
    return p;
}

/* ---- writing ---- */

struct cot__writer {
    int fd;
    char *path, *temp; /* temp NULL: the target is a device or pipe, written directly */
    uint64_t offset;
    size_t fill;
    cot_status failed; /* of the first write that failed: nothing is committed after it */
    char buffer[1 << 16];
};

static void writer_free(cot__writer **writer) {
    cot__writer *w = *writer;
    if (w->fd >= 0) close(w->fd);
    cot__free(w->path);
    cot__free(w->temp);
    cot__free(w);
    *writer = NULL;
}

/* Creates a file beside the target under a name that is nobody else's. */
static int open_temp(cot__writer *w, size_t cap) {
    static atomic_uint counter;
    int fd = -1;
    for (int tries = 0; tries < 100 && fd < 0; tries++) {
        snprintf(w->temp, cap, "%s.tmp.%ld.%u", w->path, (long)getpid(), atomic_fetch_add(&counter, 1));
        fd = open(w->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST) break;
    }
    return fd;
}

cot_status cot__writer_open(cot__writer **out, const char *path, cot_error *err) {
    cot__writer *w = cot__alloc_zero(1, sizeof *w);
    if (!w) return cot__fail_memory(err, sizeof *w);
    w->fd = -1;
    struct stat st;
    bool special = stat(path, &st) == 0 && !S_ISREG(st.st_mode);
    size_t n = strlen(path) + 48;
    w->path = cot__strdup(path);
    if (!special) w->temp = cot__alloc(n);
    if (!w->path || (!special && !w->temp)) {
        writer_free(&w);
        return cot__fail_memory(err, n);
    }
    if (cot__fault_hit(COT__FAULT_WRITE)) errno = EIO;
    else w->fd = special ? open(path, O_WRONLY | O_CLOEXEC) : open_temp(w, n);
    if (w->fd < 0) {
        cot_status s = cot__fail_errno(err, path, NULL, "cannot create");
        writer_free(&w);
        return s;
    }
    *out = w;
    return COT_OK;
}

static cot_status write_all(cot__writer *w, uint64_t offset, const char *p, size_t n, cot_error *err) {
    if (w->failed) return cot__fail(err, w->failed, w->path, NULL, "an earlier write failed");
    bool fault = cot__fault_hit(COT__FAULT_WRITE);
    while (n > 0) {
        size_t piece = n > (1u << 30) ? (1u << 30) : n;
        ssize_t put = fault     ? (errno = ENOSPC, -1)
                      : w->temp ? pwrite(w->fd, p, piece, (off_t)offset)
                                : write(w->fd, p, piece);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return w->failed = cot__fail_errno(err, w->path, NULL, "write failed");
        p += put;
        n -= (size_t)put;
        offset += (uint64_t)put;
    }
    return COT_OK;
}

static cot_status flush(cot__writer *w, cot_error *err) {
    size_t n = w->fill;
    w->fill = 0;
    return n ? write_all(w, w->offset - n, w->buffer, n, err) : COT_OK;
}

cot_status cot__writer_put(cot__writer *w, const void *bytes, size_t n, cot_error *err) {
    if (n >= sizeof w->buffer) {
        COT_TRY(flush(w, err));
        COT_TRY(write_all(w, w->offset, bytes, n, err));
        w->offset += n;
        return COT_OK;
    }
    if (w->fill + n > sizeof w->buffer) COT_TRY(flush(w, err));
    if (n) memcpy(w->buffer + w->fill, bytes, n);
    w->fill += n;
    w->offset += n;
    return COT_OK;
}

cot_status cot__writer_put_at(cot__writer *w, uint64_t offset, const void *bytes, size_t n, cot_error *err) {
    if (!w->temp)
        return w->failed = cot__fail(err, COT_UNSUPPORTED, w->path, NULL,
                                     "is no regular file, and this kind of file is not written in one go");
    COT_TRY(flush(w, err));
    return write_all(w, offset, bytes, n, err);
}

uint64_t cot__writer_offset(const cot__writer *w) { return w->offset; }

void cot__writer_abort(cot__writer **writer) {
    if (!writer || !*writer) return;
    if ((*writer)->temp) unlink((*writer)->temp);
    writer_free(writer);
}

/* Makes the rename itself durable; a folder that cannot be synced is no failure of the data. */
static void sync_folder(const char *path) {
    char *dir = cot__strdup(path);
    if (!dir) return;
    char *slash = strrchr(dir, '/');
    if (slash) slash[slash == dir] = 0;
    int fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    cot__free(dir);
}

cot_status cot__writer_commit(cot__writer **writer, cot_error *err) {
    cot__writer *w = *writer;
    cot_status s = flush(w, err);
    if (s == COT_OK && w->failed) s = cot__fail(err, w->failed, w->path, NULL, "an earlier write failed");
    if (s == COT_OK && w->temp) {
        if ((cot__fault_hit(COT__FAULT_WRITE) ? (errno = EIO, -1) : fsync(w->fd)) != 0)
            s = cot__fail_errno(err, w->path, NULL, "cannot sync");
        else if ((cot__fault_hit(COT__FAULT_WRITE) ? (errno = EIO, -1) : rename(w->temp, w->path)) != 0)
            s = cot__fail_errno(err, w->path, NULL, "cannot take its final name");
        else sync_folder(w->path);
    }
    if (s != COT_OK) cot__writer_abort(writer);
    else writer_free(writer);
    return s;
}
