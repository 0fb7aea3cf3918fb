/* The architecture descriptions compiled into the library, ended by a NULL name. */
#ifndef COT_MODEL_ARCH_BUILTIN_H
#define COT_MODEL_ARCH_BUILTIN_H
#include <stddef.h>
typedef struct cot__arch_text {
    const char *name; /* file name without extension */
    const char *json;
    size_t len;
} cot__arch_text;
extern const cot__arch_text cot__arch_builtin[];
#endif
