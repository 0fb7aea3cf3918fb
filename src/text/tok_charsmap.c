/* Owns: SentencePiece's precompiled normalisation map: a little-endian length, a Darts double array of that
 * many bytes, and the NUL-terminated replacements that its values point to. Every index is checked: the map
 * comes from a file. */
#include <string.h>
#include <utf8proc.h>

#include "base/error.h"
#include "text/tok_internal.h"

#define KEY_MAX 256 /* bytes of a prefix: a hostile table may contain cycles */

cot_status cot__tok_charsmap_load(cot__tok_charsmap *out, const char *file, const char *field,
                                  const unsigned char *data, size_t n, cot_error *err) {
    uint32_t bytes;
    if (n < 4) return cot__fail(err, COT_FORMAT, file, field, "is too short for its header");
    bytes = (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
    if (bytes % 4 || bytes > n - 4 || bytes < 4)
        return cot__fail(err, COT_FORMAT, file, field, "says %u bytes of table in %zu bytes", bytes, n);
    unsigned char *raw = cot__alloc(n + 1);
    uint32_t *units = cot__alloc_array(bytes / 4, 4);
    if (!raw || !units) {
        cot__free(raw);
        cot__free(units);
        return cot__fail_memory(err, n);
    }
    memcpy(raw, data, n);
    raw[n] = 0;
    for (size_t i = 0; i < bytes / 4; i++) {
        const unsigned char *p = data + 4 + 4 * i;
        units[i] = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    }
    *out = (cot__tok_charsmap){units, bytes / 4, (char *)raw + 4 + bytes, n - 4 - bytes, raw, n};
    return COT_OK;
}

void cot__tok_charsmap_clear(cot__tok_charsmap *map) {
    cot__free(map->units);
    cot__free(map->raw);
    memset(map, 0, sizeof *map);
}

static uint32_t unit_offset(uint32_t u) { return (u >> 10) << ((u & (1u << 9)) >> 6); }

/* Looks a prefix of s up: the longest, or the shortest as the tokenizers library takes it. */
static bool lookup(const cot__tok_charsmap *m, const char *s, size_t n, bool shortest, size_t *taken,
                   const char **text) {
    bool found = false;
    size_t node = unit_offset(m->units[0]);
    uint32_t value = 0;
    for (size_t i = 0; i < n && i < KEY_MAX && s[i]; i++) {
        unsigned char c = (unsigned char)s[i];
        node ^= c;
        if (node >= m->n_units) break;
        uint32_t u = m->units[node];
        if ((u & (1u << 31 | 0xff)) != c) break;
        node ^= unit_offset(u);
        if (node >= m->n_units) break;
        if ((u >> 8) & 1) {
            value = m->units[node] & 0x7fffffff;
            *taken = i + 1;
            found = true;
            if (shortest) break;
        }
    }
    if (!found || value > m->n_text) return false;
    *text = m->text + value;
    return true;
}

static cot_status put(cot__buf *out, const char *s, size_t n, cot_error *err) {
    return cot__tok_norm_put(out, s, n, err);
}

static size_t text_length(const cot__tok_charsmap *m, const char *text) {
    return strnlen(text, m->n_text - (size_t)(text - m->text));
}

static cot_status apply_longest(const cot__tok_charsmap *m, const char *s, size_t n, cot__buf *out,
                                cot_error *err) {
    for (size_t i = 0; i < n;) {
        size_t taken, len;
        const char *text;
        if (lookup(m, s + i, n - i, false, &taken, &text)) {
            COT_TRY(put(out, text, text_length(m, text), err));
            i += taken;
            continue;
        }
        cot__utf8_get(s + i, n - i, &len);
        COT_TRY(put(out, s + i, len, err));
        i += len;
    }
    return COT_OK;
}

/* End of the grapheme that begins at `at`. */
static size_t grapheme_end(const char *s, size_t n, size_t at) {
    size_t len;
    utf8proc_int32_t state = 0;
    uint32_t c = cot__utf8_get(s + at, n - at, &len);
    for (at += len; at < n; at += len) {
        uint32_t d = cot__utf8_get(s + at, n - at, &len);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)c, (utf8proc_int32_t)d, &state)) break;
        c = d;
    }
    return at;
}

static cot_status apply_graphemes(const cot__tok_charsmap *m, const char *s, size_t n, cot__buf *out,
                                  cot_error *err) {
    for (size_t i = 0, end; i < n; i = end) {
        size_t taken, len;
        const char *text;
        end = grapheme_end(s, n, i);
        if (end - i < 6 && lookup(m, s + i, end - i, true, &taken, &text)) {
            COT_TRY(put(out, text, text_length(m, text), err));
            continue;
        }
        for (size_t k = i; k < end; k += len) {
            cot__utf8_get(s + k, end - k, &len);
            if (lookup(m, s + k, len, true, &taken, &text))
                COT_TRY(put(out, text, text_length(m, text), err));
            else COT_TRY(put(out, s + k, len, err));
        }
    }
    return COT_OK;
}

cot_status cot__tok_charsmap_apply(const cot__tok_charsmap *map, bool by_grapheme, const char *s, size_t n,
                                   cot__buf *out, cot_error *err) {
    return by_grapheme ? apply_graphemes(map, s, n, out, err) : apply_longest(map, s, n, out, err);
}
