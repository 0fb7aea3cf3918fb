#!/bin/sh
# The checks of tools/ must see what they are for: each offence is planted in a small tree of its own and must be
# reported, and a clean tree must pass.
set -eu
source=$PWD
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0

fresh() {
    rm -rf "$tree/t"
    mkdir -p "$tree/t/src/base" "$tree/t/src/tensor" "$tree/t/src/text" "$tree/t/src/format" "$tree/t/src/cli" \
        "$tree/t/include/coterie" "$tree/t/tests/base" "$tree/t/.ci"
    cp -r "$source/tools" "$source/.clang-format" "$tree/t/"
    cp "$source/src/LAYERS" "$tree/t/src/"
    cp "$source/.ci/run" "$tree/t/.ci/"
    cd "$tree/t"
    put src/base/one.h '/* One. */' '#ifndef ONE_H' '#define ONE_H' 'int cot__one(void);' '#endif'
    put src/base/one.c '/* One. */' '#include "base/one.h"' '' 'int cot__one(void) { return 1; }'
    put src/tensor/two.c '/* Two. */' '#include "base/one.h"' '#include <coterie/a.h>' '' 'int cot__two(void);' \
        'int cot__two(void) { return cot__one(); }'
    put include/coterie/a.h '/* A. */' '#include <stddef.h>' 'size_t cot_a(void);'
    put src/text/three.h '/* Three. */' 'int cot__three(void);'
}
put() {
    file=$1
    shift
    printf '%s\n' "$@" >"$file"
}
# expect TOOL WORDS: the tool fails and says so
expect() {
    if out=$("tools/$1" 2>&1); then
        echo "FAIL: $1 passed, it should report: $2"
        failures=$((failures + 1))
    elif ! echo "$out" | grep -q -- "$2"; then
        printf 'FAIL: %s did not report "%s" but:\n%s\n' "$1" "$2" "$out"
        failures=$((failures + 1))
    fi
}
pass() {
    if ! out=$("tools/$1" 2>&1); then
        printf 'FAIL: %s refused a clean tree:\n%s\n' "$1" "$out"
        failures=$((failures + 1))
    fi
}

fresh; pass check-layers; pass check-style
fresh; put src/base/up.c '/* Up. */' '#include "tensor/type.h"'; expect check-layers 'up.c:2: base (layer 0) includes tensor'
fresh; put src/format/side.c '/* Side. */' '#include "text/three.h"'; expect check-layers 'siblings'
fresh; put src/cli/deep.c '/* Deep. */' '#include "text/three.h"'; expect check-layers 'cli may include'
fresh; put src/text/rel.c '/* Rel. */' '#include "three.h"'; expect check-layers 'write the path from src/'
fresh; put src/text/odd.c '/* Odd. */' '#  include "nowhere/x.h"'; expect check-layers 'no such layer'
fresh; put src/text/gone.c '/* Gone. */' '#include "base/gone.h"'; expect check-layers 'does not exist'
fresh; put include/coterie/b.h '/* B. */' '#include "base/one.h"'; expect check-layers 'public headers do not include'
fresh; put include/coterie/b.h '/* B. */' '#include <jansson.h>'; expect check-layers 'C standard headers only'
fresh; put tests/base/one.c '/* Twin. */' 'int x;'; expect check-layers 'same name'
fresh; mkdir src/other; put src/other/x.c '/* X. */' 'int x;'; expect check-layers 'not in src/LAYERS'

plant() { # planted lines as the body of a function of base
    fresh
    put src/base/bad.c '/* Bad. */' 'int cot__bad(char *p);' 'int cot__bad(char *p) {' "$@" '    return 0;' '}'
}
plant '    p = malloc(3);'; expect check-style 'bad.c:4: malloc() is banned'
plant '    p = (char *)(malloc (3));'; expect check-style 'malloc() is banned'
plant '    strcpy(p, "x");'; expect check-style 'strcpy() is banned'
plant '    if (p) abort();'; expect check-style 'abort() is banned'
plant '    assert(p);'; expect check-style 'assert() is banned'
plant '    /* once: */ printf("x");'; expect check-style 'bad.c:4: printf() is banned'
plant '    my_free(p); x.free(p); s->free(p); snprintf(p, 1, "free(p)"); /* free(p) */ // exit(1)'
if tools/check-style 2>&1 | grep banned; then failures=$((failures + 1)); echo "FAIL: banned words inside others"; fi
plant '  return  1;'
clang-format --version 2>/dev/null | grep -q 'version 14\.' && expect check-style 'make format'
fresh; put src/base/long.c '/* Long. */' 'int cot__long(void);' 'int cot__long(void) {'
i=0; while [ $i -lt 98 ]; do echo "    (void)$i;"; i=$((i + 1)); done >>src/base/long.c
printf '    return 1;\n}\n' >>src/base/long.c; expect check-style 'long.c:3: the function has 101 lines'
sed -i 4d src/base/long.c; pass check-style
fresh; { echo '/* Table. */'; i=0; while [ $i -lt 1500 ]; do echo "/* 345678901234567890123456789012345678901234567890 */"; i=$((i + 1)); done; } >src/base/big.c
expect check-style 'KiB, 60 is the limit'
echo 'src/base/big.c file-size a table' >>tools/style-allow; pass check-style
echo 'src/base/big.c file-size' >>tools/style-allow; expect check-style 'no reason given'
fresh; put src/base/headless.c 'int x;'; expect check-style 'begins without a comment'
fresh; put src/base/name.h '/* Name. */' 'typedef int cot__name_t;'; expect check-style 'do not end in _t'
fresh; put include/coterie/b.h '/* B. */' 'size_t cot_b(void);'; expect check-style 'size_t'
fresh; put src/base/alone.h '/* Alone. */' 'bool cot__x(void);'; expect check-style 'bool'
fresh; printf '#!/bin/sh\nif true; then\n' >tools/broken; expect check-style 'broken'

mkdir -p "$tree/b"; cd "$tree/b"
sh="$source/tools/check-symbols"
build() { printf '%s\n' "$1" >s.c; cc -shared -fPIC -o libcoterie.so s.c; cc -c s.c -o s.o; rm -f libcoterie.a; ar rcs libcoterie.a s.o; }
build 'int cot_fine(void) { return 1; }'; "$sh" . || { echo "FAIL: check-symbols refused a clean library"; failures=$((failures + 1)); }
build 'int cot__inner(void) { return 1; }'; ! "$sh" . >/dev/null || { echo "FAIL: an exported cot__ name passed"; failures=$((failures + 1)); }
build '__attribute__((visibility("hidden"))) int helper(void) { return 1; }'; ! "$sh" . >/dev/null || { echo "FAIL: a global name without cot_ passed"; failures=$((failures + 1)); }
[ $failures = 0 ] && echo "all checks see what they are for"
exit $failures
