/* Owns: the set of tensors of a model, whatever its format, and the checks that all formats share. */
#include "format/tensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/hash.h"
#include "format/set.h"

const cot__tensor *cot__tensors_find(const cot__tensor_set *set, const char *name) {
    uint64_t i;
    return set->index && cot__map_get(set->index, name, strlen(name), &i) ? &set->tensors[i] : NULL;
}

void cot__tensors_close(cot__tensor_set **set) {
    if (!set || !*set) return;
    cot__tensor_set *s = *set;
    cot__map *map = s->index;
    for (size_t i = 0; i < s->n_tensors; i++) cot__free((char *)s->tensors[i].name);
    for (int i = 0; i < s->n_files; i++) cot__file_close(&s->files[i]);
    cot__map_free(&map);
    cot__free(s->tensors);
    cot__free(s->files);
    cot__free(s);
    *set = NULL;
}

cot_status cot__set_create(cot__tensor_set **out, cot_error *err) {
    cot__tensor_set *s = cot__alloc_zero(1, sizeof *s);
    if (!s) return cot__fail_memory(err, sizeof *s);
    *out = s;
    return COT_OK;
}

cot_status cot__set_add_file(cot__tensor_set *s, const char *path, cot_error *err) {
    cot__file **p = cot__realloc_array(s->files, (size_t)s->n_files + 1, sizeof *p);
    if (!p) return cot__fail_memory(err, ((size_t)s->n_files + 1) * sizeof *p);
    s->files = p;
    COT_TRY(cot__file_open(&p[s->n_files], path, err));
    s->n_files++;
    return COT_OK;
}

cot_status cot__set_add_tensor(cot__tensor_set *s, const char *name, const cot__tensor *t, cot_error *err) {
    if ((s->n_tensors & (s->n_tensors - 1)) == 0) { /* grow at powers of two */
        size_t cap = s->n_tensors ? s->n_tensors * 2 : 1;
        cot__tensor *p = cot__realloc_array(s->tensors, cap, sizeof *p);
        if (!p) return cot__fail_memory(err, cap * sizeof *p);
        s->tensors = p;
    }
    s->tensors[s->n_tensors] = *t;
    s->tensors[s->n_tensors].name = cot__strdup(name);
    if (!s->tensors[s->n_tensors].name) return cot__fail_memory(err, strlen(name));
    s->n_tensors++;
    return COT_OK;
}

static int by_place(const void *a, const void *b) {
    const cot__tensor *x = *(cot__tensor *const *)a, *y = *(cot__tensor *const *)b;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* Names unique, every extent inside its file, no two overlapping. Builds the index. */
cot_status cot__set_finish(cot__tensor_set *s, cot_error *err) {
    cot__map *map = NULL;
    COT_TRY(cot__map_create(&map, s->n_tensors, err));
    s->index = map;
    const cot__tensor **order = cot__alloc_array(s->n_tensors, sizeof *order);
    if (!order) return cot__fail_memory(err, s->n_tensors * sizeof *order);
    cot_status st = COT_OK;
    for (size_t i = 0; i < s->n_tensors && st == COT_OK; i++) {
        cot__tensor *t = &s->tensors[i];
        const char *path = cot__file_path(s->files[t->file]);
        uint64_t size = cot__file_size(s->files[t->file]);
        bool existed = false;
        order[i] = t;
        if (t->offset > size || t->bytes > size - t->offset)
            st = cot__fail(err, COT_FORMAT, path, t->name,
                           "its data (%llu bytes at %llu) ends beyond the file (%llu bytes): truncated?",
                           (unsigned long long)t->bytes, (unsigned long long)t->offset,
                           (unsigned long long)size);
        else st = cot__map_put(map, t->name, strlen(t->name), i, &existed, err);
        if (existed) st = cot__fail(err, COT_FORMAT, path, t->name, "tensor name appears twice");
    }
    if (st == COT_OK && s->n_tensors) {
        qsort(order, s->n_tensors, sizeof *order, by_place);
        for (size_t i = 1; i < s->n_tensors && st == COT_OK; i++)
            if (order[i]->file == order[i - 1]->file && order[i - 1]->bytes && order[i]->bytes &&
                order[i]->offset < order[i - 1]->offset + order[i - 1]->bytes)
                st = cot__fail(err, COT_FORMAT, cot__file_path(s->files[order[i]->file]), order[i]->name,
                               "overlaps tensor %s", order[i - 1]->name);
    }
    cot__free(order);
    return st;
}

cot_status cot__tensor_size(const char *path, const char *name, cot_type type, int n_dims,
                            const int64_t *dims, uint64_t *bytes, cot_error *err) {
    const cot__type_info *t = cot__type(type);
    uint64_t n = 1;
    if (!t) return cot__fail(err, COT_UNSUPPORTED, path, name, "has a type that is not computed with");
    for (int i = 0; i < n_dims; i++) {
        if (dims[i] < 0 || (dims[i] && n > (uint64_t)INT64_MAX / (uint64_t)dims[i]))
            return cot__fail(err, COT_FORMAT, path, name, "dimension %d is %lld: the element count overflows",
                             i, (long long)dims[i]);
        n *= (uint64_t)dims[i];
    }
    if (n_dims && dims[0] % t->block)
        return cot__fail(err, COT_FORMAT, path, name, "row length %lld is no multiple of the %d of %s",
                         (long long)dims[0], t->block, t->name);
    if (t->block > 1 && !n_dims)
        return cot__fail(err, COT_FORMAT, path, name, "a scalar cannot be %s", t->name);
    n /= (uint64_t)t->block;
    if (n > (uint64_t)INT64_MAX / (uint64_t)t->bytes)
        return cot__fail(err, COT_FORMAT, path, name, "size overflows");
    *bytes = n * (uint64_t)t->bytes;
    return COT_OK;
}
