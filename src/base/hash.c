/* Owns: the string map (open addressing, keyed by bytes) and counter-based random numbers.
 * Each map hashes with its own random seed, so that a hostile file cannot prepare keys that collide. */
#include "base/hash.h"

#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/error.h"

typedef struct slot {
    const void *key; /* NULL: empty */
    size_t len;
    uint64_t hash, value;
} slot;

struct cot__map {
    slot *slots;
    size_t mask, count;
    uint64_t seed;
};

static uint64_t mix(uint64_t x) { /* finaliser of SplitMix64 (Steele, Lea, Flood 2014) */
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static uint64_t hash_bytes(uint64_t seed, const void *key, size_t len) {
    const unsigned char *p = key;
    uint64_t h = seed ^ len;
    while (len >= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        h = mix(h ^ w);
        p += 8;
        len -= 8;
    }
    uint64_t w = 0;
    if (len) memcpy(&w, p, len);
    return mix(h ^ w);
}

cot_status cot__map_create(cot__map **out, size_t expected, cot_error *err) {
    size_t cap = 16;
    while (cap < expected * 2 && cap < (SIZE_MAX >> 8)) cap *= 2;
    cot__map *m = cot__alloc_zero(1, sizeof *m);
    if (!m) return cot__fail_memory(err, sizeof *m);
    m->slots = cot__alloc_zero(cap, sizeof *m->slots);
    if (!m->slots) {
        cot__free(m);
        return cot__fail_memory(err, cap * sizeof *m->slots);
    }
    m->mask = cap - 1;
    if (getrandom(&m->seed, sizeof m->seed, GRND_NONBLOCK) != (ssize_t)sizeof m->seed)
        m->seed = mix((uintptr_t)m);
    *out = m;
    return COT_OK;
}

void cot__map_free(cot__map **map) {
    if (!map || !*map) return;
    cot__free((*map)->slots);
    cot__free(*map);
    *map = NULL;
}

static slot *find(slot *slots, size_t mask, const void *key, size_t len, uint64_t h) {
    for (size_t i = h & mask;; i = (i + 1) & mask) {
        slot *s = &slots[i];
        if (!s->key || (s->hash == h && s->len == len && memcmp(s->key, key, len) == 0)) return s;
    }
}

static bool grow(cot__map *m) {
    size_t cap = (m->mask + 1) * 2;
    slot *slots = cot__alloc_zero(cap, sizeof *slots);
    if (!slots) return false;
    for (size_t i = 0; i <= m->mask; i++) {
        slot *s = &m->slots[i];
        if (s->key) *find(slots, cap - 1, s->key, s->len, s->hash) = *s;
    }
    cot__free(m->slots);
    m->slots = slots;
    m->mask = cap - 1;
    return true;
}

cot_status cot__map_put(cot__map *m, const void *key, size_t len, uint64_t value, bool *existed,
                        cot_error *err) {
    if ((m->count + 1) * 2 > m->mask + 1 && !grow(m))
        return cot__fail_memory(err, (m->mask + 1) * 2 * sizeof(slot));
    if (!key) key = ""; /* NULL marks an empty slot */
    uint64_t h = hash_bytes(m->seed, key, len);
    slot *s = find(m->slots, m->mask, key, len, h);
    if (existed) *existed = s->key != NULL;
    if (!s->key) {
        *s = (slot){key, len, h, value};
        m->count++;
    }
    return COT_OK;
}

bool cot__map_get(const cot__map *m, const void *key, size_t len, uint64_t *value) {
    const slot *s = find(m->slots, m->mask, key, len, hash_bytes(m->seed, key, len));
    if (!s->key) return false;
    *value = s->value;
    return true;
}

size_t cot__map_count(const cot__map *m) { return m->count; }

uint64_t cot__random_u64(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b) {
    uint64_t h = mix(seed + 0x9e3779b97f4a7c15ull);
    h = mix(h ^ ((uint64_t)purpose * 0xd1342543de82ef95ull + 1));
    h = mix(h ^ (a + 0x2545f4914f6cdd1dull));
    return mix(h ^ (b * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull));
}

double cot__random_unit(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b) {
    return (double)(cot__random_u64(seed, purpose, a, b) >> 11) * 0x1p-53;
}
