#!/bin/sh
# Budgets and residencies on the command line: what is refused and how, and the same text whatever they are.
set -eu
coterie=$1/coterie
[ -x "$coterie" ] || { echo "no $coterie yet"; exit 77; }
dir=$(mktemp -d /tmp/coterie-memory.XXXXXX)
trap 'rm -rf "$dir"' EXIT
model=tests/golden/qwen3moe/hf
failures=0
complain() { echo "$1"; failures=$((failures + 1)); }
refused() { # CODE TEXT ARGUMENTS…
    code=$1 text=$2
    shift 2
    set +e
    "$coterie" "$@" >"$dir/out" 2>&1
    got=$?
    set -e
    [ $got = "$code" ] || complain "coterie $*: exit code $got, not $code: $(cat "$dir/out")"
    grep -q -e "$text" "$dir/out" || complain "coterie $*: says \"$(cat "$dir/out")\", not \"$text\""
}
bench() { "$coterie" bench $model -p 8 -n 4 -r 1 --json "$@"; }

refused 1 'MiB are too few: at least [0-9]* MiB are needed' bench $model -p 8 -n 1 -r 1 --memory 1MiB --residency stream
refused 2 '--memory must be a size' bench $model --memory 8GX
refused 2 '--memory must be a size' bench $model --memory -3
refused 2 '--residency must be' bench $model --residency disk
refused 1 'is none of lru' bench $model --retention best -n 1 -p 0 -r 1
for size in 64MiB 64M 0.1GB 70000000 65536KiB; do
    bench --memory $size --residency stream | grep -q '"residency": "stream"' || complain "--memory $size"
done
bench --memory 64MiB --residency ring | grep -q '"hit_rate"' || complain "no hit rate in --json"
least=$("$coterie" bench $model -p 8 -n 1 -r 1 --memory 1MiB --residency stream 2>&1 | sed -n 's/.*at least \([0-9]*\) MiB.*/\1/p')
bench --memory $((least + 2))MiB --residency stream >/dev/null || complain "$least MiB were said to do"
# What is recorded can be replayed.
"$coterie" bench $model -p 8 -n 20 -r 1 --trace "$dir/trace" >/dev/null || complain "bench --trace fails"
[ "$(wc -l <"$dir/trace")" -gt 50 ] || complain "the trace has $(wc -l <"$dir/trace") lines"
"$coterie" replay "$dir/trace" --retention lru,oracle --capacity 25,100 --json >"$dir/out" || complain "replay fails"
grep -q '"retention": "oracle", "predict": "none", "capacity": 1.0000' "$dir/out" || complain "replay says $(cat "$dir/out")"
"$coterie" replay "$dir/trace" --control uniform --predict none,transition >/dev/null || complain "replay --control uniform"
"$coterie" replay "$dir/trace" --control shuffle >/dev/null || complain "replay --control shuffle"
refused 2 'none, shuffle or uniform' replay "$dir/trace" --control chance
refused 2 'percentages' replay "$dir/trace" --capacity ten
refused 1 'is none of lru' replay "$dir/trace" --retention best
refused 1 'cannot open' replay "$dir/none"
refused 1 'cannot create' bench $model -p 1 -n 1 -r 1 --trace "$dir/none/trace"
"$coterie" bench $model -p 8 -n 4 -r 1 --residency stream --stats 2>&1 | grep -q '^ *1 .*[0-9]' || complain "no table by layer"
# A file that is cut while it is mapped ends the command with a message; streamed, too.
for residency in mmap stream; do
    cp tests/golden/noise/model.gguf "$dir/cut.gguf"
    set +e
    "$coterie" bench "$dir/cut.gguf" -p 0 -n 1000000 -r 1 --residency $residency --trace "$dir/cut.trace" >"$dir/out" 2>&1 &
    pid=$!
    waited=0 # the machine is measured first
    while [ ! -s "$dir/cut.trace" ] && [ $waited -lt 120 ]; do sleep 1; waited=$((waited + 1)); done
    : >"$dir/cut.gguf"
    wait $pid
    got=$?
    rm -f "$dir/cut.trace"
    set -e
    [ $got = 1 ] || complain "a cut file, $residency: exit code $got"
    grep -q -e 'cut.gguf: .*cut while\|cut.gguf: was changed' "$dir/out" || complain "a cut file, $residency: $(cat "$dir/out")"
done

# An interrupt ends a streamed run at once, whenever it comes; what was written begins the whole text.
streamed() { "$@" "$coterie" run tests/golden/noise/model.gguf -p expert -n 500 --seed 3 --quiet --residency stream; }
streamed env >"$dir/whole" || complain "a streamed run fails"
for after in 0.005 0.01 0.015 0.02 0.03 0.04 0.06 0.1; do
    set +e
    streamed timeout --preserve-status -s INT -k 20 $after >"$dir/part" 2>"$dir/err"
    got=$?
    set -e
    [ $got = 130 ] || [ $got = 0 ] || complain "interrupted after $after s: exit code $got"
    size=$(wc -c <"$dir/part")
    [ "$size" = 0 ] || head -c $((size - 1)) "$dir/part" | cmp -n $((size - 1)) - "$dir/whole" || complain "interrupted after $after s: other text"
done

# What was measured is kept, read by plan and bench, and not believed about another machine.
XDG_CACHE_HOME=$dir/cache
export XDG_CACHE_HOME
kept=$dir/cache/coterie/machine.json
plan() { "$coterie" plan $model --memory 64MiB --json "$@" >"$dir/out" 2>"$dir/err"; }
plan
grep -q 'this machine was not calibrated' "$dir/err" || complain "plan without a calibration says $(cat "$dir/err")"
grep -q '"shares": "(assumed)"' "$dir/out" || complain "plan without a calibration: $(cat "$dir/out")"
mkdir "$dir/cache"
"$coterie" bench --machine $model --residency stream --json >"$dir/out" || complain "no calibration"
grep -q '"calibrated": true' "$dir/out" || complain "not calibrated: $(cat "$dir/out")"
[ -s "$kept" ] || complain "nothing is kept"
plan
[ ! -s "$dir/err" ] || complain "plan with a calibration says $(cat "$dir/err")"
grep -q '"shares": "as calibrated"' "$dir/out" || complain "plan does not read it: $(cat "$dir/out")"
bench --memory 64MiB --residency stream | grep -q '"calibrated": true.*"predicted_decode_tps": [0-9]' || complain "bench predicts nothing"
sed -i 's/"threads": [0-9]*/"threads": 777/' "$kept"
plan
grep -q '"shares": "as calibrated"' "$dir/out" || complain "plan does not know the model's own calibration: $(cat "$dir/out")"
rm "$dir"/cache/coterie/machine-*-*-*-*.json || complain "no calibration of the model's own"
plan
grep -q 'for 777 threads' "$dir/err" || complain "other threads: $(cat "$dir/err")"
sed -i 's/"machine": "[^"]*"/"machine": "abacus"/' "$kept"
plan
grep -q 'another machine (abacus)' "$dir/err" || complain "another machine: $(cat "$dir/err")"
for bad in '{' '{"coterie_machine": 9}' '[]' ''; do
    printf '%s' "$bad" >"$kept"
    plan || complain "a broken calibration ends plan"
    grep -q '^note: .*machine.json' "$dir/err" || complain "calibration $bad: $(cat "$dir/err")"
done
[ $failures = 0 ]
