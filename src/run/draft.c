/* Owns: drafts of the tokens to come, from the sequence itself (Saxena, prompt lookup decoding, 2023). */
#include "run/draft.h"

#include <string.h>

enum { LEAST = 2, LONGEST = 4 };

int cot__draft_lookup(const int32_t *tokens, size_t n, int most, int32_t *out) {
    size_t best = 0, best_length = 0;
    for (size_t end = n ? n - 1 : 0; end > 0 && best_length < LONGEST; end--) { /* latest place first */
        size_t length = 0;
        while (length < LONGEST && length < end && tokens[end - 1 - length] == tokens[n - 1 - length])
            length++;
        if (length > best_length) best = end, best_length = length;
    }
    if (best_length < LEAST || most <= 0) return 0;
    size_t have = n - best < (size_t)most ? n - best : (size_t)most;
    memcpy(out, tokens + best, have * sizeof *out);
    return (int)have;
}
