/* Drafting by prompt lookup: what followed the last tokens when they stood in the sequence before. */
#ifndef COT_RUN_DRAFT_H
#define COT_RUN_DRAFT_H

#include <stddef.h>
#include <stdint.h>

enum { COT__DRAFT_MOST = 16 };

/* Writes up to `most` tokens that may follow tokens[0 … n − 1] and returns how many: those that followed the
 * latest earlier place of the longest ending of four to two tokens that has one. Reads `tokens` once. */
int cot__draft_lookup(const int32_t *tokens, size_t n, int most, int32_t *out);

#endif
