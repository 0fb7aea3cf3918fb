#!/bin/sh
# The Python binding, when there is a Python.
set -eu
library=$1/libcoterie.so
[ -f "$library" ] || { echo "no $library yet"; exit 77; }
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
if nm -D "$library" 2>/dev/null | grep -qE '__(asan|tsan|ubsan)_'; then
    echo "a library with a sanitizer does not load into python3"
    exit 77
fi
COTERIE_LIBRARY=$library exec python3 bindings/python/test_coterie.py
