#!/bin/sh
# The commands, end to end on tests/golden/noise: what they print, what they refuse and with which exit code, and that
# the same model from GGUF and from safetensors says the same.
set -u
binary=$1/coterie
[ -x "$binary" ] || { echo "no $binary yet"; exit 77; }
model=tests/golden/noise/hf gguf=tests/golden/noise/model.gguf
dir=$(mktemp -d /tmp/coterie-test-XXXXXX)
trap 'rm -rf "$dir"' EXIT
failures=0
fail() { echo "FAILED: $1"; [ ! -s "$dir/out" ] || head -c 400 "$dir/out"; [ ! -s "$dir/err" ] || head -c 400 "$dir/err"; failures=$((failures + 1)); }

# expect CODE WORD ARGUMENT…: the exit code, and WORD in what it prints (the message's when the code is not 0)
expect() {
    code=$1 word=$2; shift 2
    "$binary" "$@" >"$dir/out" 2>"$dir/err" </dev/null
    got=$?
    [ $got -eq "$code" ] || { fail "coterie $*: exit code $got, not $code"; return; }
    if [ "$code" -eq 0 ]; then grep -qF -e "$word" "$dir/out" || fail "coterie $*: no \"$word\" in the output"
    else
        grep -qF -e "$word" "$dir/err" || fail "coterie $*: no \"$word\" in the message"
        [ "$(wc -l <"$dir/err")" -eq 1 ] || fail "coterie $*: the message has $(wc -l <"$dir/err") lines"
    fi
}
# same WHAT A B: two commands (words without spaces) print the same bytes
same() {
    "$binary" $2 >"$dir/a" 2>/dev/null </dev/null || fail "$1: coterie $2"
    "$binary" $3 >"$dir/b" 2>/dev/null </dev/null || fail "$1: coterie $3"
    cmp -s "$dir/a" "$dir/b" || fail "$1: \"$2\" and \"$3\" differ"
    [ -s "$dir/a" ] || fail "$1: nothing printed"
}

# text
expect 0 '"generated_tokens": 8' run $model -p expert -n 8 --json
for key in text tokens prompt_tokens prompt_ms generate_ms; do grep -q "\"$key\":" "$dir/out" || fail "run --json has no $key"; done
same "container" "run $model -p The_expert -n 40 --temp 0" "run $gguf -p The_expert -n 40 --temp 0"
same "seed" "run $model -p a -n 40 --temp 1 --seed 7" "run $gguf -p a -n 40 --temp 1 --seed 7"
same "threads" "run $model -p a -n 40 --temp 1 --seed 7 --threads 1" "run $model -p a -n 40 --temp 1 --seed 7 --threads 2"
same "habits" "run -m $model -p a -n 4 -c 64 -t 1" "run $model -p a -n 4 --ctx 64 --threads 1"
printf 'a prompt' >"$dir/prompt"
same "prompt file" "run $model -f $dir/prompt -n 8" "run $gguf -f $dir/prompt -n 8"
"$binary" run $model -p a -n 40 --temp 1 --seed 7 --quiet >"$dir/a" 2>"$dir/err"
[ ! -s "$dir/err" ] || fail "run --quiet prints to stderr"
"$binary" run $model -p a -n 40 --temp 1 --seed 8 --quiet >"$dir/b"
cmp -s "$dir/a" "$dir/b" && fail "another seed gives the same text"
expect 0 '"stop": "context"' run $model -p a --temp 0 --ctx 16 --json
[ "$("$binary" run $model -p a -n 8 --temp 0 --logit-bias 11=100 --quiet)" = ",,,,,,,," ] || fail "logit bias"
[ -z "$("$binary" run $model -p a -n 8 --temp 0 --logit-bias 11=100 --stop ,, --quiet | tr -d ',')" ] || fail "stop string"
[ -z "$("$binary" run $model -p a -n 8 --temp 0 --logit-bias 383=100 --quiet)" ] || fail "the end token ends the text"
expect 0 '"tokens": [], ' run $model -p a -n 8 --temp 0 --logit-bias 383=100 --json # no text, but one token
grep -q '"generated_tokens": 1, .*"stop": "end"' "$dir/out" || fail "an end token counts as generated"

# chat
printf 'hello\n' | "$binary" chat $model -n 4 --temp 0 >"$dir/out" 2>"$dir/err" || fail "chat"
a=$("$binary" run $model --chat -p hello -n 1 --temp 0 --json | sed 's/.*"prompt_tokens": \([0-9]*\).*/\1/')
b=$("$binary" tokenize $model --special -p '<|im_start|>user
hello<|im_end|>
<|im_start|>assistant
' | tr ',' '\n' | grep -c .)
[ "$a" = "$b" ] || fail "the chat template gives $a tokens, not $b"

[ "$(printf 'a\nb\n' | "$binary" chat $model -n 4 --json --quiet | grep -c '^{"text": .*"generated_tokens": .*}$')" = 2 ] || fail "chat --json"
expect 1 'no tokenizer' chat tests/golden/qwen3moe/hf
printf 'too long\n' | "$binary" chat $model -c 4 --quiet >"$dir/out" 2>"$dir/err"
[ $? -eq 1 ] && [ "$(wc -l <"$dir/err")" -eq 1 ] || fail "chat with a context that is too small"

# what is not supported in a template is treated alike, whether it shows when it is read or when it is used
mkdir "$dir/template"
for f in tests/golden/noise/hf/*; do ln -s "$PWD/$f" "$dir/template/"; done
for text in '{{ messages | nosuch }}' '{% if true %}x{{ 1 is nosuch }}{% endif %}' '{% nosuch %}'; do
    rm -f "$dir/template/chat_template.jinja"
    printf '%s' "$text" >"$dir/template/chat_template.jinja"
    "$binary" run "$dir/template" --chat -p hello -n 1 --temp 0 --json >"$dir/out" 2>"$dir/err" || fail "template $text"
    grep -q 'a built-in one is used' "$dir/err" || fail "template $text: no warning"
    [ "$(sed 's/.*"prompt_tokens": \([0-9]*\).*/\1/' "$dir/out")" = "$b" ] || fail "template $text: another prompt"
done

# tokens
ids=$("$binary" tokenize $model -p 'Größe 42 — naïve “quotes” 你好' | head -n 1)
[ "$("$binary" detokenize $model --tokens "$ids")" = 'Größe 42 — naïve “quotes” 你好' ] || fail "round trip of text"
same "tokenize" "tokenize $model -f docs/architecture.md" "tokenize $gguf -f docs/architecture.md"
[ "$("$binary" tokenize $model -p '<|im_end|>' | tr ',' '\n' | grep -c .)" -gt 1 ] || fail "special tokens are parsed unasked"

# logits, perplexity, shape, speed
"$binary" logits $model --tokens 1,2,3 -o "$dir/a.npy" --quiet && "$binary" logits $gguf --tokens 1,2,3 -o "$dir/b.npy" --quiet || fail "logits"
cmp -s "$dir/a.npy" "$dir/b.npy" || fail "logits of the two containers differ"
[ "$(head -c 200 "$dir/a.npy" | grep -ac "'shape': (3, 384)")" -eq 1 ] || fail "the .npy header has another shape"
expect 0 '"tokens": ' eval $model -f docs/architecture.md --ctx 64 --json
n=$("$binary" tokenize $model -f docs/architecture.md | tr ',' '\n' | grep -c .)
grep -q "\"tokens\": $((n / 64 * 31))[,}]" "$dir/out" || fail "eval scores other positions than $((n / 64)) windows x 31"
same "perplexity" "eval $model -f docs/architecture.md --ctx 64 --json" "eval $gguf -f docs/architecture.md --ctx 64 --json"
expect 0 'perplexity' eval $model -f docs/architecture.md --ctx 64 --stride 32
expect 0 '"experts": 8' inspect $gguf --json
expect 0 'blk.0.ffn_gate_exps.weight' inspect $gguf --tensors
expect 0 '"decode_tps"' bench $model -p 8 -n 4 -r 1 --batch 2 --depth 4 --json
for key in prefill_tps bytes_per_step ops_per_token prompt_bytes_per_token prompt_ops_per_token memory_gbs f32_gflops int8_gops prefill_limit; do
    grep -q "\"$key\": " "$dir/out" || fail "bench --json has no $key"
done
grep -q '"prefill_limit": "f32"' "$dir/out" || fail "a model of floats is not compared with F32"
"$binary" convert $model "$dir/q8.gguf" --type q8_0 --quiet || fail "convert to q8_0"
expect 0 '"prefill_limit": "int8"' bench "$dir/q8.gguf" -p 8 -n 0 -r 1 --json
expect 0 '"int8_how"' bench --machine --threads 1 --json
for key in memory_gbs memory_gbs_1 f32_gflops int8_gops; do
    grep -qE "\"$key\": [0-9.]*[1-9]" "$dir/out" || fail "bench --machine measured no $key"
done
expect 0 'GOPS (8-bit products' bench --machine --threads 2
expect 0 '"decode_tps"' bench $model -p 8 -n 4 -r 1 -c 64 --act f32 --json
expect 0 '"prefill_tps": 0.000' bench $model -p 0 -n 2 -r 1 --json
expect 0 '"disk_gbs"' bench --machine --json
expect 0 '"kv_positions": 64, "kv_type": "Q8_0"' inspect $gguf -c 64 --kv q8_0 --json
expect 0 '"generated_tokens": 4' run $model -p a -n 4 --beams 4 --groups 2 --diversity 0.5 --length-penalty 2 --json
expect 0 'coterie 0' --version
expect 0 'usage' run --help

# conversion: there and back, the same text
"$binary" convert $model "$dir/a.gguf" --quiet && "$binary" convert "$dir/a.gguf" "$dir/back" --quiet || fail "convert"
same "converted" "run $model -p a -n 20 --temp 0" "run $dir/a.gguf -p a -n 20 --temp 0"
"$binary" logits "$dir/back" --tokens 1,2,3 -o "$dir/b.npy" --quiet || fail "logits of a converted folder"
cmp -s "$dir/a.npy" "$dir/b.npy" || fail "logits change on the way to GGUF and back"

# refusals
expect 1 'nothere: does not exist' run nothere -p a
expect 1 'outside 0' logits $model --tokens 1,999 -o "$dir/x.npy"
expect 1 'cannot create' logits $model --tokens 1 -o "$dir/no/x.npy"
expect 2 'must be a number' run $model -p a --temp hot
expect 2 'is --temp meant' run $model -p a --tmep 1
expect 2 'no command' nosuch
expect 2 'at least 2' eval $model -f /dev/null
expect 2 'no list of token ids' detokenize $model --tokens 1,x
expect 2 'ID=X' run $model -p a --logit-bias 5
expect 2 'ID=X' run $model -p a --logit-bias 5=
expect 2 '--beams must lie' run $model -p a --beams 2000000000
# what a disk or pipe does not take is a failure
if [ -w /dev/full ]; then
    for line in "run $model -p a -n 2" "run $model -p a -n 2 --json" "tokenize $model -p a" "detokenize $model --tokens 70" \
        "inspect $model" "inspect $model --json" "logits $model --tokens 1 -o $dir/full.npy --json" "--version" "--help"; do
        # shellcheck disable=SC2086
        "$binary" $line >/dev/full 2>"$dir/err"
        [ $? -eq 1 ] && grep -q 'standard output: cannot write' "$dir/err" || fail "$line >/dev/full: $(cat "$dir/err")"
    done
fi
# bytes come back as they were
printf 'a\n\377b' >"$dir/bytes"
"$binary" detokenize $model --tokens "$("$binary" tokenize $model -f "$dir/bytes")" | cmp - "$dir/bytes" || fail "tokenize and detokenize"
expect 2 'at least 0' run $model -p a -n -3
expect 2 'at least 0' run $model -p a --temp -1
expect 2 'needs a text' run $model -p a --stop ''
expect 2 'no list of token ids' detokenize $model --tokens 1,,2
expect 2 'no list of token ids' detokenize $model --tokens 1,
expect 2 'stride' eval $model -f docs/architecture.md --stride 0
expect 1 'split_experts' convert tests/golden/llama/hf "$dir/s.gguf" --split-experts 8 --experts-used 9
printf '{"model": 7}' >"$dir/broken.json"
mkdir "$dir/broken"
for f in tests/golden/noise/hf/*; do ln -s "$PWD/$f" "$dir/broken/"; done
rm "$dir/broken/tokenizer.json"
cp "$dir/broken.json" "$dir/broken/tokenizer.json"
"$binary" tokenize "$dir/broken" -p x >/dev/null 2>"$dir/err"
[ "$(wc -l <"$dir/err")" -eq 1 ] || fail "a broken tokenizer: $(cat "$dir/err")"
# an index that lies, and bytes that belong to nothing
mkdir "$dir/shards"
for f in tests/golden/mixtral/hf/*; do ln -s "$PWD/$f" "$dir/shards/"; done
index=$dir/shards/model.safetensors.index.json
lying() { # SED-EXPRESSION WORD
    rm -f "$index"
    sed "$1" tests/golden/mixtral/hf/model.safetensors.index.json >"$index"
    expect 1 "$2" inspect "$dir/shards"
}
lying 's/\("lm_head.weight": "model-0000\)./\12/' 'lm_head.weight: is said to be in'
lying '/"lm_head.weight"/d' 'not in the index'
lying 's/"metadata"/"other"/; s/"weight_map": {/"weight_map": {"more": "model-00001-of-00004.safetensors",/' 'tensors, the shards hold'
mkdir "$dir/longer"
for f in tests/golden/noise/hf/*; do ln -s "$PWD/$f" "$dir/longer/"; done
rm "$dir/longer/model.safetensors"
{ cat tests/golden/noise/hf/model.safetensors; printf x; } >"$dir/longer/model.safetensors"
expect 1 '1 bytes follow the last tensor' inspect "$dir/longer"
# a family that nobody knows: the error, and what the file holds
mkdir "$dir/unknown"
ln -s "$PWD/tests/golden/noise/hf/model.safetensors" "$dir/unknown/"
printf '{"architectures": ["NobodyForCausalLM"]}' >"$dir/unknown/config.json"
"$binary" inspect "$dir/unknown" --tensors >"$dir/out" 2>"$dir/err"
[ $? -eq 1 ] && grep -q 'NobodyForCausalLM' "$dir/err" && grep -q '^model.embed_tokens.weight .*64 × 384' "$dir/out" || fail "inspect of an unknown family"
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n' >"$dir/lfs.gguf"
expect 1 'git lfs pull' inspect "$dir/lfs.gguf"
expect 2 'equal groups' run $model -p a --beams 4 --groups 3
expect 2 '--ctx is 5' bench $model -p 8 -n 2 -c 5
cp $gguf "$dir/nan.gguf" # the file ends with the last norm: bytes of all ones are NaN
head -c 256 /dev/zero | tr '\0' '\377' | dd of="$dir/nan.gguf" bs=1 seek=$(($(wc -c <$gguf) - 256)) conv=notrunc 2>/dev/null
expect 1 'not a number' eval "$dir/nan.gguf" -f docs/architecture.md --ctx 64 --json
expect 1 'logit' run "$dir/nan.gguf" -p a -n 2
head -c 3000 $gguf >"$dir/cut.gguf"
expect 1 'cut.gguf' run "$dir/cut.gguf" -p a
[ $failures -eq 0 ] && echo "all commands do what they say"
exit $((failures > 0))
