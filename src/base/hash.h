/* A string-keyed hash map (bytes to a 64-bit value) and the counter-based random numbers of the project. */
#ifndef COT_BASE_HASH_H
#define COT_BASE_HASH_H

#include <coterie/base.h>

typedef struct cot__map cot__map;
cot_status cot__map_create(cot__map **out, size_t expected, cot_error *err);
void cot__map_free(cot__map **map);
/* Keys are borrowed: they must live as long as the map. put on an existing key keeps the first value and
 * sets *existed when not NULL. */
cot_status cot__map_put(cot__map *map, const void *key, size_t len, uint64_t value, bool *existed,
                        cot_error *err);
bool cot__map_get(const cot__map *map, const void *key, size_t len, uint64_t *value);
size_t cot__map_count(const cot__map *map);

/* Counter-based randomness: the same (seed, purpose, a, b) always gives the same 64 bits, on every thread
 * and machine. purpose is a small constant per use. */
uint64_t cot__random_u64(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b);
double cot__random_unit(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b); /* in [0, 1) */

#endif
