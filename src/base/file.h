/* Files: opening, mapping, reading at offsets, and writing so that nothing half-written takes the final name.
 */
#ifndef COT_BASE_FILE_H
#define COT_BASE_FILE_H

#include <coterie/base.h>

/* An open regular file for reading. Owns the descriptor, the path and the mapping. Thread-safe reads. */
typedef struct cot__file cot__file;
cot_status cot__file_open(cot__file **out, const char *path, cot_error *err);
void cot__file_close(cot__file **file);
const char *cot__file_path(const cot__file *file);
uint64_t cot__file_size(const cot__file *file);
int cot__file_fd(const cot__file *file);
/* Reads exactly n bytes at offset; a short read is an error that names the file and the offset. */
cot_status cot__file_read(cot__file *file, uint64_t offset, void *dst, size_t n, cot_error *err);
/* A descriptor of the same file for direct reads (past the page cache), opened at the first call and owned by
 * the file; −1 where the file system refuses. cot__file_no_direct says that a direct read was refused after
 * all: from then on −1. */
int cot__file_direct_fd(cot__file *file);
void cot__file_no_direct(cot__file *file);
/* Tells the system that these pages of its cache are not wanted any more. */
void cot__file_drop(cot__file *file, uint64_t offset, uint64_t n);
/* Whether the open file is still what was opened: same device, inode, size and time of change of its bytes.
 * (Renaming or unlinking it is no change.) */
bool cot__file_unchanged(const cot__file *file);
/* Maps the whole file read-only (once; later calls return the same). Lives until close. */
cot_status cot__file_map(cot__file *file, const void **out, cot_error *err);

/* Reads a whole file of at most max bytes; *out is NUL-terminated (not counted), freed by cot__free. */
cot_status cot__file_slurp(const char *path, size_t max, char **out, size_t *len, cot_error *err);
bool cot__path_exists(const char *path);
bool cot__path_is_dir(const char *path);
char *cot__path_join(const char *dir, const char *name); /* freed by cot__free; NULL: out of memory */

/* Writes to a temporary name beside `path`; commit does fsync and rename, anything else removes it. After a
 * write that failed, commit fails too. A target that is a device or a pipe is written directly, put only. */
typedef struct cot__writer cot__writer;
cot_status cot__writer_open(cot__writer **out, const char *path, cot_error *err);
cot_status cot__writer_put(cot__writer *w, const void *bytes, size_t n, cot_error *err);
cot_status cot__writer_put_at(cot__writer *w, uint64_t offset, const void *bytes, size_t n, cot_error *err);
uint64_t cot__writer_offset(const cot__writer *w);
cot_status cot__writer_commit(cot__writer **w, cot_error *err); /* closes in every case */
void cot__writer_abort(cot__writer **w);                        /* NULL is allowed */

#endif
