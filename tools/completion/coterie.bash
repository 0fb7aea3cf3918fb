# Completion of coterie(1) for bash. The same words stand in _coterie (zsh) and coterie.fish.
_coterie() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]}
    local types="f32 f16 bf16 q8_0 q4_0 q5_0 q4_k q5_k q6_k mxfp4"
    local common="--model --arch --threads --quiet --verbose --json --help"
    local sampling="--temp --top-k --top-p --min-p --typical --repeat-penalty --frequency-penalty --presence-penalty --logit-bias --seed --stop --draft"
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "run chat logits tokenize detokenize eval inspect bench convert pack plan replay help --help --version" -- "$cur")
        return
    fi
    case $prev in
    --kv) mapfile -t COMPREPLY < <(compgen -W "f16 f32 q8_0" -- "$cur"); return ;;
    --residency) mapfile -t COMPREPLY < <(compgen -W "auto memory mmap stream ring sim" -- "$cur"); return ;;
    --control) mapfile -t COMPREPLY < <(compgen -W "none shuffle uniform" -- "$cur"); return ;;
    --predict) mapfile -t COMPREPLY < <(compgen -W "none last popularity token transition gate" -- "$cur"; compgen -f -X '!*.rpp' -- "$cur"; compgen -d -S / -- "$cur"); return ;;
    --experts-lossy) mapfile -t COMPREPLY < <(compgen -W "none low miss" -- "$cur"); return ;;
    --retention) mapfile -t COMPREPLY < <(compgen -W "lru lfu decay layer demand" -- "$cur"); return ;;
    --act) mapfile -t COMPREPLY < <(compgen -W "auto f32" -- "$cur"); return ;;
    --type | --type-experts | --type-attention | --type-head) mapfile -t COMPREPLY < <(compgen -W "$types" -- "$cur"); return ;;
    esac
    if [[ $cur == -* ]]; then
        local words
        case $command in
        run) words="$common $sampling --beams --groups --diversity --length-penalty -p -f -n --ctx --kv --act --experts --chat --memory --residency --repack --retention --predict --experts-lossy --trace --stats" ;;
        chat) words="$common $sampling -n --ctx --kv --act --experts --memory --residency --repack --retention --predict --experts-lossy --trace --stats" ;;
        logits) words="$common --tokens -o" ;;
        tokenize) words="$common -p -f --special" ;;
        detokenize) words="$common --tokens" ;;
        eval) words="$common -f --ctx --stride --kv --act --experts --memory --residency --repack --retention --predict --experts-lossy --trace --stats" ;;
        inspect) words="$common --tensors --ctx --kv" ;;
        bench) words="$common -p -n -r --batch --depth --seed --zipf --ctx --kv --act --experts --machine --memory --residency --repack --retention --predict --experts-lossy --trace --stats" ;;
        convert) words="$common --type --type-experts --type-attention --type-head --split-experts --experts-used --pre" ;;
        pack) words="$common --tiers --repack" ;;
        plan) words="$common --memory --prompt --batch --ctx --kv --measure" ;;
        replay) words="$common --retention --predict --capacity --ahead --control --seed" ;;
        *) words="--help" ;;
        esac
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        return
    fi
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    compopt -o filenames
}
complete -F _coterie coterie
