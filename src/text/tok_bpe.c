/* Owns: byte-pair merging, both kinds: ranks of pairs (GPT-2) and scores of the joined text (SentencePiece).
 * Lowest key first, leftmost among equals. Short pieces are scanned, long ones use a heap over a linked list,
 * so that a text without a single break costs n log n. */
#include <string.h>

#include "base/error.h"
#include "text/tok_internal.h"

#define SHORT     40 /* symbols up to which scanning beats the heap */
#define CACHE     2048
#define CACHE_KEY 24
#define CACHE_IDS 8

typedef struct symbol {
    uint32_t start, len; /* len 0: merged into its left neighbour */
    int32_t id;          /* −1: not a token */
    uint32_t prev, next; /* UINT32_MAX: none */
} symbol;

typedef struct candidate {
    uint32_t key, left, len; /* len: of both together; older candidates of the same place have less */
    int32_t id;
} candidate;

/* Scores as unsigned keys: the higher the score, the lower the key. */
static uint32_t score_key(float score) {
    uint32_t u;
    score += 0.0f; /* one zero */
    memcpy(&u, &score, 4);
    u = u & 0x80000000u ? ~u : u | 0x80000000u;
    return ~u;
}

bool cot__tok_pair_find(const cot__tokenizer *t, int32_t left, int32_t right, uint32_t *rank, int32_t *id) {
    if (left < 0 || right < 0 || !t->pairs) return false;
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t h = (key ^ t->pair_seed) * 0x9e3779b97f4a7c15ull;
    for (size_t i = (h ^ h >> 32) & t->pair_mask;; i = (i + 1) & t->pair_mask) {
        const cot__tok_pair *p = &t->pairs[i];
        if (p->key == key) {
            *rank = p->rank;
            *id = p->id;
            return true;
        }
        if (p->key == UINT64_MAX) return false;
    }
}

/* What joining two neighbours gives. */
static bool join(const cot__tokenizer *t, const char *text, const symbol *a, const symbol *b, uint32_t *key,
                 int32_t *id) {
    if (t->model == COT__MODEL_BPE) return cot__tok_pair_find(t, a->id, b->id, key, id);
    size_t len = (size_t)a->len + b->len;
    uint64_t found;
    if (len > t->longest || !cot__map_get(t->by_model, text + a->start, len, &found)) return false;
    *id = (int32_t)found;
    *key = score_key((float)t->entry[found].score);
    return true;
}

/* ---- first symbols ---- */

static size_t first_bytes(const cot__tokenizer *t, const char *text, size_t n, symbol *s) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = t->byte_id[(unsigned char)text[i]];
        if (id >= 0) s[k++] = (symbol){.start = (uint32_t)i, .len = 1, .id = id};
        else if (t->unk >= 0) s[k++] = (symbol){.start = (uint32_t)i, .len = 1, .id = t->unk};
    }
    return k;
}

/* Characters. For SentencePiece's BPE what is not in the vocabulary may still merge; elsewhere it becomes
 * bytes or the unknown token at once. */
static size_t first_characters(const cot__tokenizer *t, const char *text, size_t n, symbol *s) {
    size_t k = 0, unk_start = 0, unk_len = 0, len;
    for (size_t i = 0; i < n; i += len) {
        cot__utf8_get(text + i, n - i, &len);
        uint64_t id;
        if (cot__map_get(t->by_model, text + i, len, &id) || t->model == COT__MODEL_SCORES) {
            if (unk_len)
                s[k++] = (symbol){.start = (uint32_t)unk_start, .len = (uint32_t)unk_len, .id = t->unk};
            unk_len = 0;
            bool known = cot__map_get(t->by_model, text + i, len, &id);
            s[k++] = (symbol){.start = (uint32_t)i, .len = (uint32_t)len, .id = known ? (int32_t)id : -1};
            continue;
        }
        bool all = t->byte_fallback;
        for (size_t b = 0; all && b < len; b++) all = t->byte_id[(unsigned char)text[i + b]] >= 0;
        if (all) {
            for (size_t b = 0; b < len; b++)
                s[k++] = (symbol){
                    .start = (uint32_t)(i + b), .len = 1, .id = t->byte_id[(unsigned char)text[i + b]]};
            continue;
        }
        if (t->unk < 0) continue;
        if (unk_len && !t->fuse_unk) {
            s[k++] = (symbol){.start = (uint32_t)unk_start, .len = (uint32_t)unk_len, .id = t->unk};
            unk_len = 0;
        }
        if (!unk_len) unk_start = i;
        unk_len += len;
    }
    if (unk_len) s[k++] = (symbol){.start = (uint32_t)unk_start, .len = (uint32_t)unk_len, .id = t->unk};
    return k;
}

/* ---- merging ---- */

static void note_unused(cot__tok_run *run, int32_t id, uint32_t left_len) {
    if (run->unused_cut && run->t->entry[id].type == COT__TOK_UNUSED) run->unused_cut[id] = left_len;
}

static size_t merge_short(cot__tok_run *run, const char *text, symbol *s, size_t n) {
    const cot__tokenizer *t = run->t;
    uint32_t key[SHORT];
    int32_t id[SHORT];
    for (size_t i = 0; i + 1 < n; i++)
        if (!join(t, text, &s[i], &s[i + 1], &key[i], &id[i])) id[i] = -1;
    for (;;) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i + 1 < n; i++)
            if (id[i] >= 0 && (best == SIZE_MAX || key[i] < key[best])) best = i;
        if (best == SIZE_MAX) return n;
        note_unused(run, id[best], s[best].len);
        s[best].id = id[best];
        s[best].len += s[best + 1].len;
        memmove(&s[best + 1], &s[best + 2], (n - best - 2) * sizeof *s);
        if (best + 2 < n) {
            memmove(&key[best + 1], &key[best + 2], (n - best - 2) * sizeof *key);
            memmove(&id[best + 1], &id[best + 2], (n - best - 2) * sizeof *id);
        }
        n--;
        if (best > 0 && !join(t, text, &s[best - 1], &s[best], &key[best - 1], &id[best - 1]))
            id[best - 1] = -1;
        if (best + 1 < n) {
            if (!join(t, text, &s[best], &s[best + 1], &key[best], &id[best])) id[best] = -1;
        }
    }
}

static bool before(const candidate *a, const candidate *b) {
    return a->key != b->key ? a->key < b->key : a->left < b->left;
}

static cot_status heap_push(cot__tok_run *run, size_t *n, candidate c) {
    if (*n == run->heap_cap) {
        size_t cap = run->heap_cap ? run->heap_cap * 2 : 256;
        void *p = cot__realloc_array(run->heap, cap, sizeof c);
        if (!p) return cot__fail_memory(run->err, cap * sizeof c);
        run->heap = p;
        run->heap_cap = cap;
    }
    candidate *h = run->heap;
    size_t i = (*n)++;
    for (; i > 0 && before(&c, &h[(i - 1) / 2]); i = (i - 1) / 2) h[i] = h[(i - 1) / 2];
    h[i] = c;
    return COT_OK;
}

static candidate heap_pop(candidate *h, size_t *n) {
    candidate top = h[0], last = h[--*n];
    size_t i = 0;
    for (size_t c; (c = 2 * i + 1) < *n; i = c) {
        if (c + 1 < *n && before(&h[c + 1], &h[c])) c++;
        if (!before(&h[c], &last)) break;
        h[i] = h[c];
    }
    if (*n) h[i] = last;
    return top;
}

static cot_status offer(cot__tok_run *run, size_t *heap, const char *text, const symbol *s, uint32_t left) {
    candidate c = {.left = left};
    if (left == UINT32_MAX || s[left].next == UINT32_MAX) return COT_OK;
    const symbol *b = &s[s[left].next];
    if (!join(run->t, text, &s[left], b, &c.key, &c.id)) return COT_OK;
    c.len = s[left].len + b->len;
    return heap_push(run, heap, c);
}

static cot_status merge_long(cot__tok_run *run, const char *text, symbol *s, size_t *count) {
    size_t n = *count, heap = 0;
    for (size_t i = 0; i < n; i++) {
        s[i].prev = i ? (uint32_t)i - 1 : UINT32_MAX;
        s[i].next = i + 1 < n ? (uint32_t)i + 1 : UINT32_MAX;
    }
    for (uint32_t i = 0; i + 1 < n; i++) COT_TRY(offer(run, &heap, text, s, i));
    while (heap) {
        candidate c = heap_pop(run->heap, &heap);
        symbol *a = &s[c.left];
        /* Whatever has changed at this place since then has made it longer. */
        if (!a->len || a->next == UINT32_MAX || a->len + s[a->next].len != c.len) continue;
        symbol *b = &s[a->next];
        note_unused(run, c.id, a->len);
        a->id = c.id;
        a->len = c.len;
        b->len = 0;
        a->next = b->next;
        if (a->next != UINT32_MAX) s[a->next].prev = c.left;
        COT_TRY(offer(run, &heap, text, s, a->prev));
        COT_TRY(offer(run, &heap, text, s, c.left));
    }
    size_t k = 0;
    for (uint32_t i = 0, next; i != UINT32_MAX; i = next) {
        next = s[i].next;
        s[k++] = s[i];
    }
    *count = k;
    return COT_OK;
}

/* ---- output ---- */

/* SentencePiece's unused tokens only serve as steps of merging: they fall apart again as they were joined. */
static cot_status emit_text(cot__tok_run *run, const char *text, size_t n, int32_t id, unsigned depth) {
    const cot__tokenizer *t = run->t;
    if (id >= 0 && t->entry[id].type == COT__TOK_UNUSED && run->unused_cut && run->unused_cut[id] &&
        run->unused_cut[id] < n && depth < 64) {
        uint32_t cut = run->unused_cut[id];
        uint64_t l, r;
        COT_TRY(
            emit_text(run, text, cut, cot__map_get(t->by_model, text, cut, &l) ? (int32_t)l : -1, depth + 1));
        return emit_text(run, text + cut, n - cut,
                         cot__map_get(t->by_model, text + cut, n - cut, &r) ? (int32_t)r : -1, depth + 1);
    }
    return id >= 0 ? cot__tok_emit(run, id) : cot__tok_bytes_encode(run, text, n);
}

cot_status cot__tok_bytes_encode(cot__tok_run *run, const char *bytes, size_t n) {
    const cot__tokenizer *t = run->t;
    if (t->byte_level) return cot__tok_bpe_encode(run, bytes, n);
    bool all = t->byte_fallback;
    for (size_t i = 0; all && i < n; i++) all = t->byte_id[(unsigned char)bytes[i]] >= 0;
    if (!all) return t->unk >= 0 ? cot__tok_emit(run, t->unk) : COT_OK;
    for (size_t i = 0; i < n; i++) COT_TRY(cot__tok_emit(run, t->byte_id[(unsigned char)bytes[i]]));
    return COT_OK;
}

/* ---- cache of short pieces ---- */

typedef struct cached {
    char key[CACHE_KEY];
    uint8_t len, n; /* len 0: empty */
    int32_t ids[CACHE_IDS];
} cached;
struct cot__tok_cache {
    cached at[CACHE];
};

void cot__tok_cache_start(cot__tok_run *run) {
    if (run->t->model == COT__MODEL_BPE && run->t->n_split)
        run->cache = cot__alloc_zero(1, sizeof *run->cache);
}

static cached *cache_slot(cot__tok_run *run, const char *text, size_t n) {
    if (!run->cache || n > CACHE_KEY || n < 2) return NULL;
    uint64_t w[CACHE_KEY / 8] = {0};
    memcpy(w, text, n);
    uint64_t h =
        (w[0] * 0x9e3779b97f4a7c15ull) ^ (w[1] * 0xc2b2ae3d27d4eb4full) ^ (w[2] * 0x165667b19e3779f9ull) ^ n;
    h *= 0x9e3779b97f4a7c15ull;
    return &run->cache->at[(h >> 40) % CACHE];
}

static cot_status merge_and_emit(cot__tok_run *run, const char *text, size_t n) {
    const cot__tokenizer *t = run->t;
    symbol few[SHORT], *s = few;
    if (n > SHORT) {
        /* A character is one byte or more, a symbol one byte or more. */
        size_t bytes;
        if (cot__mul_overflow(n, sizeof *s, &bytes)) return cot__fail_memory(run->err, n);
        if (!(s = cot__tok_work(run, bytes))) return COT_NO_MEMORY;
    }
    size_t k = t->byte_level ? first_bytes(t, text, n, s) : first_characters(t, text, n, s);
    if (k <= SHORT) k = merge_short(run, text, s, k);
    else COT_TRY(merge_long(run, text, s, &k));
    for (size_t i = 0; i < k; i++) {
        if (t->model == COT__MODEL_BPE) COT_TRY(cot__tok_emit(run, s[i].id));
        else COT_TRY(emit_text(run, text + s[i].start, s[i].len, s[i].id, 0));
    }
    return COT_OK;
}

cot_status cot__tok_bpe_encode(cot__tok_run *run, const char *text, size_t n) {
    const cot__tokenizer *t = run->t;
    uint64_t whole;
    if (!n) return COT_OK;
    if (t->ignore_merges && n <= t->longest && cot__map_get(t->by_model, text, n, &whole))
        return cot__tok_emit(run, (int32_t)whole);
    if (t->has_unused && !run->unused_cut) {
        run->unused_cut = cot__alloc_zero(t->n_tokens, sizeof *run->unused_cut);
        if (!run->unused_cut) return cot__fail_memory(run->err, t->n_tokens * sizeof *run->unused_cut);
    }
    cached *c = cache_slot(run, text, n);
    if (c && c->len == n && memcmp(c->key, text, n) == 0) {
        for (size_t i = 0; i < c->n; i++) COT_TRY(cot__tok_emit(run, c->ids[i]));
        return COT_OK;
    }
    size_t at = run->n_ids;
    COT_TRY(merge_and_emit(run, text, n));
    if (c && run->n_ids - at <= CACHE_IDS) {
        memcpy(c->key, text, n);
        c->len = (uint8_t)n;
        c->n = (uint8_t)(run->n_ids - at);
        if (c->n) memcpy(c->ids, run->ids + at, c->n * sizeof *c->ids);
    }
    return COT_OK;
}
