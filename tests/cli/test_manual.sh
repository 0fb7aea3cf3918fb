#!/bin/sh
# The manual, the shell completions and the program's own help must name the same commands and the same options.
set -eu
binary=$1/coterie
[ -x "$binary" ] || { echo "no $binary yet"; exit 77; }
failures=0
common='arch threads json quiet verbose help model'
long() { grep -oE -e '--[a-z][a-z-]*[a-z]' | sed 's/^--//' | sort -u; }
complain() { echo "$1"; failures=$((failures + 1)); }
for command in run chat logits tokenize detokenize eval inspect bench convert pack plan replay; do
    [ ! -f "src/cli/stub_$command.c" ] || continue # not written yet
    "$binary" "$command" --help >/tmp/help.$$ 2>&1 || complain "coterie $command --help fails"
    help=$(long </tmp/help.$$)
    page=$(sed 's/\\-/-/g' "docs/man/coterie-$command.1" docs/man/coterie.1 | long)
    own=$(sed 's/\\-/-/g' "docs/man/coterie-$command.1" | long)
    bash_words=$( (sed -n "s/^ *$command) words=//p" tools/completion/coterie.bash
        grep -E '^ *local (common|sampling)=' tools/completion/coterie.bash) | long)
    fish_words=$(grep -E "seen_subcommand_from( [a-z]+)* $command( |')|from \\\$commands\"|^for o in" tools/completion/coterie.fish |
        grep -oE -e '(-l|in|[a-z-]+)( [a-z][a-z-]+)+' | tr ' ' '\n' | sort -u)
    for option in $help; do
        echo "$page" | grep -qx -e "$option" || complain "$command: --$option is not in the manual"
        echo "$bash_words" | grep -qx -e "$option" || complain "$command: --$option is not completed by bash"
        echo "$fish_words" | grep -qx -e "$option" || complain "$command: --$option is not completed by fish"
        grep -q -e "--$option\[\|--$option:" tools/completion/_coterie || complain "$command: --$option is not completed by zsh"
    done
    for option in $own; do
        echo "$help $common" | tr ' ' '\n' | grep -qx -e "$option" || complain "$command: the manual has --$option, --help has not"
    done
done
rm -f /tmp/help.$$
[ $failures = 0 ]
