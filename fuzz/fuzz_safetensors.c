/* Fuzz: safetensors. The input is a file; or, when it begins with '{', an index beside which two shards lie,
 * one good and one that is the input itself. What opens is read whole. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/tensors.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[64], index_path[112], file_path[112], good_path[112];
static volatile uint64_t sum; /* keeps the reads alive */

static void write_file(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!f || (n && fwrite(data, 1, n, f) != n)) _exit(3);
    fclose(f);
}

static void leave(void) {
    unlink(index_path);
    unlink(file_path);
    unlink(good_path);
    rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    snprintf(folder, sizeof folder, "/dev/shm/coterie-fuzz-XXXXXX");
    if (!mkdtemp(folder)) _exit(3);
    snprintf(index_path, sizeof index_path, "%s/model.safetensors.index.json", folder);
    snprintf(file_path, sizeof file_path, "%s/a.safetensors", folder);
    snprintf(good_path, sizeof good_path, "%s/b.safetensors", folder);
    atexit(leave);
    static const char text[] = "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}} ";
    char good[8 + sizeof text - 1 + 24] = {0};
    good[0] = (char)(sizeof text - 1);
    memcpy(good + 8, text, sizeof text - 1);
    write_file(good_path, good, sizeof good);
    return 0;
}

static void read_all(const cot__tensor_set *set) {
    for (size_t i = 0; i < set->n_tensors; i++) {
        const cot__tensor *t = &set->tensors[i];
        const void *base;
        if (cot__tensors_find(set, t->name) != t) abort();
        if (cot__file_map(set->files[t->file], &base, NULL) != COT_OK) continue;
        const uint8_t *p = (const uint8_t *)base + t->offset;
        for (uint64_t k = 0; k < t->bytes; k++) sum += p[k];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bool is_index = size && data[0] == '{';
    cot__tensor_set *set = NULL;
    cot_error err = {0};
    write_file(is_index ? index_path : file_path, data, size);
    if (cot__safetensors_open(&set, is_index ? folder : file_path, &err) == COT_OK) read_all(set);
    else if (err.status == COT_OK || !err.message[0] || strchr(err.message, '\n')) abort(); /* one line */
    cot__tensors_close(&set);
    return 0;
}
