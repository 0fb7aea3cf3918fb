/* UTF-8 and the character classes that pre-tokenizers name, over utf8proc. */
#ifndef COT_TEXT_TOK_UTF8_H
#define COT_TEXT_TOK_UTF8_H

#include <coterie/base.h>

/* Length of the longest prefix that is valid UTF-8 (surrogates are not). */
size_t cot__utf8_valid(const char *s, size_t n);
/* Length of the longest prefix in which no valid character starts. */
size_t cot__utf8_invalid(const char *s, size_t n);
/* Decodes one character of valid UTF-8, n > 0; *len is its bytes. Bytes that are not valid give U+FFFD,
 * length 1. */
uint32_t cot__utf8_get(const char *s, size_t n, size_t *len);
size_t cot__utf8_put(uint32_t c, char out[4]);
/* Bytes of the character that starts with this byte (1 for what starts none). */
size_t cot__utf8_length(unsigned char first);

bool cot__char_is_space(uint32_t c);       /* Unicode White_Space */
bool cot__char_is_number(uint32_t c);      /* categories Nd, Nl, No */
bool cot__char_is_punctuation(uint32_t c); /* categories P*, and ASCII's punctuation and symbols */
bool cot__char_is_word(uint32_t c);        /* \w of regular expressions */

#endif
