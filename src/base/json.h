/* JSON: a thin wrapper over Jansson that bounds size and depth and turns type errors into cot_error. */
#ifndef COT_BASE_JSON_H
#define COT_BASE_JSON_H

#include <coterie/base.h>
#include <jansson.h>

/* Parses text (n bytes, need not be terminated). `file` names it in errors. Duplicate keys are refused.
 * *out is a new reference, released by json_decref. Depth is bounded by Jansson (2048). A file with an
 * integer beyond 64 bits ("model_max_length": 1e30 written out) is read with every number as a real: use the
 * getters below, which take whole reals as integers, and not json_is_integer. */
cot_status cot__json_parse(json_t **out, const char *file, const char *text, size_t n, cot_error *err);
cot_status cot__json_load(json_t **out, const char *path, size_t max_bytes, cot_error *err);

/* Looks a dotted path up ("rope_scaling.factor"); a key that itself contains dots is tried first.
 * NULL when absent or null. Borrowed. */
const json_t *cot__json_at(const json_t *root, const char *path);

/* Typed getters for a field of an object: absent leaves *out unchanged and returns COT_OK; a wrong type or a
 * value outside [lo, hi] is COT_FORMAT naming file and field. */
cot_status cot__json_int(const json_t *obj, const char *file, const char *key, int64_t lo, int64_t hi,
                         int64_t *out, cot_error *err);
cot_status cot__json_f64(const json_t *obj, const char *file, const char *key, double *out, cot_error *err);
cot_status cot__json_bool(const json_t *obj, const char *file, const char *key, bool *out, cot_error *err);
cot_status cot__json_str(const json_t *obj, const char *file, const char *key, const char **out,
                         cot_error *err); /* borrowed */

#endif
