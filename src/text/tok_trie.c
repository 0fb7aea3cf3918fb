/* Owns: prefix search over many byte strings, as a tree whose edges live in one hash table. */
#include <string.h>

#include "base/error.h"
#include "text/tok_internal.h"

typedef struct edge {
    uint64_t key; /* node * 256 + byte + 1; 0: empty */
    uint32_t to;
} edge;

struct cot__tok_trie {
    edge *edges;
    size_t mask, count;
    int32_t *value;
    size_t n_nodes, cap_nodes;
    uint32_t root[256];
    uint64_t seed;
};

static size_t slot_of(uint64_t seed, uint64_t key) {
    key = (key ^ seed) * 0x9e3779b97f4a7c15ull;
    return (size_t)(key ^ (key >> 29));
}

cot_status cot__tok_trie_create(cot__tok_trie **out, size_t expected_nodes, cot_error *err) {
    cot__tok_trie *t = cot__alloc_zero(1, sizeof *t);
    size_t cap = 64;
    while (cap < expected_nodes * 2 && cap < ((size_t)1 << 40)) cap *= 2;
    if (t) t->edges = cot__alloc_zero(cap, sizeof *t->edges);
    if (t) t->value = cot__alloc_array(64, sizeof *t->value);
    if (!t || !t->edges || !t->value) {
        cot__tok_trie_free(&t);
        return cot__fail_memory(err, cap * sizeof(edge));
    }
    t->mask = cap - 1;
    t->cap_nodes = 64;
    t->n_nodes = 1;
    t->value[0] = -1;
    t->seed = cot__random_u64((uintptr_t)t, 0, 0, 0);
    memset(t->root, 0xff, sizeof t->root);
    *out = t;
    return COT_OK;
}

void cot__tok_trie_free(cot__tok_trie **trie) {
    if (!trie || !*trie) return;
    cot__free((*trie)->edges);
    cot__free((*trie)->value);
    cot__free(*trie);
    *trie = NULL;
}

static edge *find(edge *edges, size_t mask, uint64_t seed, uint64_t key) {
    size_t i = slot_of(seed, key) & mask;
    while (edges[i].key && edges[i].key != key) i = (i + 1) & mask;
    return &edges[i];
}

static bool grow_edges(cot__tok_trie *t) {
    size_t cap = (t->mask + 1) * 2;
    edge *edges = cot__alloc_zero(cap, sizeof *edges);
    if (!edges) return false;
    for (size_t i = 0; i <= t->mask; i++)
        if (t->edges[i].key) *find(edges, cap - 1, t->seed, t->edges[i].key) = t->edges[i];
    cot__free(t->edges);
    t->edges = edges;
    t->mask = cap - 1;
    return true;
}

static bool grow_nodes(cot__tok_trie *t) {
    if (t->n_nodes >= UINT32_MAX - 1) return false;
    int32_t *value = cot__realloc_array(t->value, t->cap_nodes * 2, sizeof *value);
    if (!value) return false;
    t->value = value;
    t->cap_nodes *= 2;
    return true;
}

static uint32_t child(cot__tok_trie *t, uint32_t node, unsigned char byte) {
    if (node == 0 && t->root[byte] != UINT32_MAX) return t->root[byte];
    uint64_t key = (uint64_t)node * 256 + byte + 1;
    edge *e = node ? find(t->edges, t->mask, t->seed, key) : NULL;
    if (e && e->key) return e->to;
    if (t->n_nodes == t->cap_nodes && !grow_nodes(t)) return UINT32_MAX;
    uint32_t to = (uint32_t)t->n_nodes;
    if (!node) t->root[byte] = to;
    else {
        if ((t->count + 1) * 2 > t->mask + 1) {
            if (!grow_edges(t)) return UINT32_MAX;
            e = find(t->edges, t->mask, t->seed, key);
        }
        *e = (edge){key, to};
        t->count++;
    }
    t->value[to] = -1;
    t->n_nodes++;
    return to;
}

cot_status cot__tok_trie_put(cot__tok_trie *t, const char *key, size_t len, int32_t value, cot_error *err) {
    uint32_t node = 0;
    for (size_t i = 0; i < len; i++) {
        node = child(t, node, (unsigned char)key[i]);
        if (node == UINT32_MAX) return cot__fail_memory(err, (t->mask + 1) * 2 * sizeof(edge));
    }
    if (node) t->value[node] = value;
    return COT_OK;
}

uint32_t cot__tok_trie_step(const cot__tok_trie *t, uint32_t node, unsigned char byte) {
    if (!node) return t->root[byte];
    const edge *e = find(t->edges, t->mask, t->seed, (uint64_t)node * 256 + byte + 1);
    return e->key ? e->to : UINT32_MAX;
}

int32_t cot__tok_trie_value(const cot__tok_trie *t, uint32_t node) { return t->value[node]; }
