/* Owns: the unigram model: the segmentation of a piece with the highest sum of scores, by dynamic
 * programming. */
#include <string.h>

#include "base/error.h"
#include "text/tok_internal.h"

#define UNKNOWN_PENALTY 10.0 /* below the lowest score of the vocabulary, as SentencePiece has it */

typedef struct node {
    double score;
    uint32_t start; /* where the last token of the best way here begins; UINT32_MAX: no way yet */
    int32_t id;     /* −1: a character that no token holds */
} node;

static void reach(node *to, double score, size_t start, int32_t id) {
    if (to->start == UINT32_MAX || score > to->score) *to = (node){score, (uint32_t)start, id};
}

static void forward(const cot__tokenizer *t, const char *text, size_t n, node *best) {
    for (size_t i = 0; i <= n; i++) best[i] = (node){0, UINT32_MAX, -1};
    double unknown = t->min_score - UNKNOWN_PENALTY;
    for (size_t i = 0, len; i < n; i += len) {
        double here = best[i].score;
        bool single = false;
        cot__utf8_get(text + i, n - i, &len);
        uint32_t at = 0;
        for (size_t k = i; k < n; k++) {
            at = cot__tok_trie_step(t->trie, at, (unsigned char)text[k]);
            if (at == UINT32_MAX) break;
            int32_t id = cot__tok_trie_value(t->trie, at);
            if (id < 0) continue;
            reach(&best[k + 1], here + t->entry[id].score, i, id);
            single |= k + 1 - i == len;
        }
        if (!single) reach(&best[i + len], here + unknown, i, -1);
    }
}

cot_status cot__tok_unigram_encode(cot__tok_run *run, const char *text, size_t n) {
    const cot__tokenizer *t = run->t;
    size_t bytes;
    if (!n) return COT_OK;
    if (cot__mul_overflow(n + 1, sizeof(node), &bytes)) return cot__fail_memory(run->err, n);
    node *best = cot__tok_work(run, bytes);
    if (!best) return COT_NO_MEMORY;
    forward(t, text, n, best);
    /* Backwards to the start, turning the links round; then forwards. */
    size_t end = n;
    uint32_t next = UINT32_MAX;
    while (end > 0) {
        uint32_t start = best[end].start;
        best[end].start = next; /* now: the end of the token behind this one */
        next = (uint32_t)end;
        end = start;
    }
    size_t from = 0, unknown_from = SIZE_MAX;
    for (uint32_t to = next; to != UINT32_MAX; to = best[to].start) {
        int32_t id = best[to].id;
        if (id < 0 && t->fuse_unk) {
            if (unknown_from == SIZE_MAX) unknown_from = from;
        } else {
            if (unknown_from != SIZE_MAX)
                COT_TRY(cot__tok_bytes_encode(run, text + unknown_from, from - unknown_from));
            unknown_from = SIZE_MAX;
            if (id >= 0) COT_TRY(cot__tok_emit(run, id));
            else COT_TRY(cot__tok_bytes_encode(run, text + from, to - from));
        }
        from = to;
    }
    if (unknown_from != SIZE_MAX) return cot__tok_bytes_encode(run, text + unknown_from, n - unknown_from);
    return COT_OK;
}
