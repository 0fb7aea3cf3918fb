#!/bin/sh
# An installed library serves a stranger: a C program finds it by pkg-config, links both ways and runs; headers, manual
# and completion lie where they belong; nothing of the build tree shows in the installed files.
set -eu
build=$1
source=$PWD
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# A library under a sanitizer does not load into a plain program.
if nm -D "$build"/libcoterie.so 2>/dev/null | grep -qE " U __(asan|tsan|ubsan)_"; then exit 77; fi
cmake --install "$build" --prefix "$root/usr" >"$root/log" || { cat "$root/log"; exit 1; }
cd "$root"
find usr -type f | sort >files
for want in include/coterie/base.h share/bash-completion/completions/coterie share/zsh/site-functions/_coterie \
    share/fish/vendor_completions.d/coterie.fish share/man/man1/coterie.1; do
    grep -qx "usr/$want" files || { echo "missing: $want"; exit 1; }
done
pc=$(dirname "$(find usr -name coterie.pc)")
PKG_CONFIG_PATH=$root/$pc
export PKG_CONFIG_PATH
if grep -e "$source" -e "$build" "$pc/coterie.pc"; then echo "coterie.pc names the build tree"; exit 1; fi
cat >main.c <<'EOF'
#include <coterie/base.h>
#include <string.h>
int main(void) { return strcmp(cot_version(), VERSION) != 0 || strcmp(cot_status_name(COT_IO), "IO") != 0; }
EOF
version=$(pkg-config --modversion coterie)
# shellcheck disable=SC2046  # flags are meant to be split
cc -DVERSION="\"$version\"" main.c -o shared $(pkg-config --cflags --libs coterie)
LD_LIBRARY_PATH=$(pkg-config --variable=libdir coterie) ./shared
library=$(find usr -name libcoterie.a)
# shellcheck disable=SC2046
cc -DVERSION="\"$version\"" main.c -o static $(pkg-config --cflags coterie) "$library" \
    $(pkg-config --libs libpcre2-8 libutf8proc jansson liburing) -lm -pthread
./static
echo "installed version $version serves shared and static programs"
