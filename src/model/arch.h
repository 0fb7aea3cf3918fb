/* An architecture is data: a JSON description, interpreted. docs/add-a-model.md is its manual. */
#ifndef COT_MODEL_ARCH_H
#define COT_MODEL_ARCH_H

#include "model/source.h"

/* A description with what it extends merged in (JSON merge patch, RFC 7396), and its parameters' values for
 * one source. Owned by the model. */
typedef struct cot__param {
    const char *name;
    enum { COT__PARAM_NONE, COT__PARAM_NUMBER, COT__PARAM_STRING, COT__PARAM_LIST } kind;
    bool resolving, resolved;
    const char *key; /* of the file, where the value comes from there; borrowed from the description */
    double number;   /* booleans are 0 and 1 */
    const char *str; /* borrowed from the source or the description */
    double *list;    /* owned */
    size_t n_list;
} cot__param;

typedef struct cot__arch {
    json_t *doc;
    char *file; /* names the description in errors */
    const char *name;
    const cot__source *source;
    cot__param *params;
    size_t n_params;
} cot__arch;

/* Finds the description for a source: `file` when not NULL, else the one the file embeds (key coterie.arch),
 * else the built-in that matches; checks it; computes every parameter. */
cot_status cot__arch_open(cot__arch **out, const cot__source *source, const char *file, cot_error *err);
void cot__arch_close(cot__arch **arch);

/* A value in the description: a literal, "$name" for a parameter (its element `layer` when it is a list), or
 * {"gguf": …, "hf": …}. NULL or an absent parameter leaves *out unchanged and sets *found to false. */
cot_status cot__arch_number(const cot__arch *a, const json_t *value, const char *field, int layer,
                            double *out, bool *found, cot_error *err);
cot_status cot__arch_string(const cot__arch *a, const json_t *value, const char *field, const char **out,
                            cot_error *err);
/* The whole list of a "$name" parameter; *n = 0 when absent. Borrowed. */
cot_status cot__arch_list(const cot__arch *a, const json_t *value, const char *field, const double **out,
                          size_t *n, cot_error *err);
/* The same for a field of an object, with a range check. */
cot_status cot__arch_int(const cot__arch *a, const json_t *op, const char *field, int layer, int64_t lo,
                         int64_t hi, int64_t *out, cot_error *err);
cot_status cot__arch_f32(const cot__arch *a, const json_t *op, const char *field, int layer, float *out,
                         cot_error *err);
cot_status cot__arch_flag(const cot__arch *a, const json_t *op, const char *field, int layer, bool *out,
                          cot_error *err);

/* The names that the description uses, all of them known (arch_check.c). */
cot_status cot__arch_check(const cot__arch *a, cot_error *err);
/* Parameters by name; the internal half of arch.c. */
cot_status cot__params_compute(cot__arch *a, cot_error *err);
/* Where a parameter's value stands, for errors: the file, and its field there (or the parameter's own name).
 */
enum { COT__FIELD_NAME = 192 };
const char *cot__param_file(const cot__arch *a, const cot__param *p);
const char *cot__param_field(const cot__arch *a, const cot__param *p, char buf[COT__FIELD_NAME]);
const cot__param *cot__param_find(const cot__arch *a, const char *name);

#endif
