#!/bin/sh
# bench/side_by_side: reads each form of result, takes medians and ratios right, reports a peer that fails.
set -u
binary=$1/coterie
[ -x "$binary" ] || { echo "no $binary yet"; exit 77; }
command -v python3 >/dev/null 2>&1 || { echo "no python3"; exit 77; }
model=tests/golden/noise/model.gguf
dir=$(mktemp -d /tmp/coterie-test-XXXXXX)
trap 'rm -rf "$dir"' EXIT
failures=0
fail() { echo "FAILED: $1"; failures=$((failures + 1)); }

cat >"$dir/list" <<'END'
#!/bin/sh
echo "some line [1] before"  >&2
cat <<JSON
[ {"n_prompt": 16, "n_gen": 0, "avg_ts": 1, "samples_ts": [ 9000000, 7000000, 8000000 ]},
  {"n_prompt": 0, "n_gen": 8, "avg_ts": 5000000} ]
JSON
END
cat >"$dir/table" <<'END'
#!/bin/sh
echo "$*" >>"${0%/*}/calls"
echo "|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |"
echo "|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|"
echo "|     1 |      8 |    3 |     27 |    0.001 |  1000.00 |    0.001 | 2500000.0 |    0.002 | 13500.00 |"
END
cat >"$dir/broken" <<'END'
#!/bin/sh
echo "no such model" >&2
exit 3
END
chmod +x "$dir/list" "$dir/table" "$dir/broken"
cat >"$dir/busy" <<'END'
#!/bin/sh
# Leaves a process behind that is nobody's child and works while the next run is measured.
echo x >>"${0%/*}/busy-calls"
n=$(wc -l <"${0%/*}/busy-calls")
[ "$n" -gt 2 ] || setsid timeout 1 sh -c 'while :; do :; done' >/dev/null 2>&1 &
sleep 1
echo '{"n_prompt": 0, "n_gen": 8, "avg_ts": 77}'
END
chmod +x "$dir/busy"
bench/side_by_side $model --coterie "$binary" -p 16 -n 8 --rounds 1 --reps 1 --threads 1 --batch 3 --depth 4 --retries 0 \
    --out "$dir/out" --ours 'f32-cache=--kv f32' --peer "list=$dir/list" --peer "broken=$dir/broken {model}" \
    --batch-peer "table=$dir/table -m {model} -c {context} -npp {past} -npl {batch}" >"$dir/printed" 2>"$dir/err" ||
    fail "exit code $?: $(tail -n 1 "$dir/err")"
python3 - "$dir/out.json" <<'END' || fail "what is written"
import json, sys
d = json.load(open(sys.argv[1]))
single, deep, batch = d["results"]
assert single["median"]["list"] == {"prefill": 8e6, "decode": 5e6}, single["median"]
assert len(single["samples"]["coterie"]["decode"]) == 1 and "f32-cache" in single["median"]
assert single["fastest_peer"] == {"prefill": "list", "decode": "list"}
assert single["ratio"]["coterie"]["decode"] == single["median"]["coterie"]["decode"] / 5e6
assert 0 < single["share"]["coterie"]["decode"] and 0 < single["share"]["coterie"]["prefill"]
assert single["errors"] == {"broken": "exit code 3: no such model"}, single["errors"]
assert deep["fill"]["depth"] == 4 and batch["median"]["table"] == {"decode": 2.5e6}, batch["median"]
assert len(single["others"]["list"]) == 1
assert d["limits"]["1"]["int8_gops"] > 0
END
grep -qF "failed: exit code 3: no such model" "$dir/out.md" || fail "the table does not name the peer that failed"
grep -qF -- "-m $model -c 256 -npp 1 -npl 3" "$dir/calls" || fail "filled in: $(head -n 1 "$dir/calls")"
# Another process working meanwhile: measured again. (Whatever else this machine does must not end the test.)
bench/side_by_side $model --coterie "$binary" -p 0 -n 1 --rounds 1 --reps 1 --threads 1 --retries 3 --foreign 0.4 \
    --out "$dir/out" --peer "busy=$dir/busy" >/dev/null 2>"$dir/err" || fail "beside a busy process: $(tail -n 1 "$dir/err")"
grep -q "^again: other processes took .*/busy$" "$dir/err" || fail "a busy machine was not seen"
# Others that compute all the time, asked for: they are seen and believed, and gone afterwards.
printf '#!/bin/sh\nsleep 1\necho "{\\"n_prompt\\": 0, \\"n_gen\\": 8, \\"avg_ts\\": 77}"\n' >"$dir/slow"
chmod +x "$dir/slow"
bench/side_by_side $model --coterie "$binary" -p 0 -n 1 --rounds 1 --reps 1 --threads 1 --retries 0 --busy 1 \
    --out "$dir/out" --peer "slow=$dir/slow" >/dev/null 2>"$dir/err" || fail "with --busy: $(tail -n 1 "$dir/err")"
grep -q "1 other process computed all the time" "$dir/out.md" || fail "--busy is not in the table"
python3 -c 'import json, sys; o = json.load(open(sys.argv[1]))["results"][0]["others"]["slow"]; sys.exit(not o[0] > 0.2)' \
    "$dir/out.json" || fail "nothing computed beside the engines"
bench/side_by_side $model --peer 'x=a {nonsense}' >/dev/null 2>"$dir/err" && fail "an unknown word in braces was accepted"
grep -q "cannot fill in" "$dir/err" || fail "an unknown word in braces: $(cat "$dir/err")"
[ $failures = 0 ]
