# Completion of rltrader and its programs, made by `rltrader completion @SHELL@` of version @VERSION@: make it again after an
# upgrade. It starts no program of rltrader; what it knows stands below.
@HEAD@
_rltrader_tables() {  # PATH -> what may follow it: commands (and words), flags; of "PATH FLAG": words
  words="" flags="" kind=""
  case "$1" in
@TABLES@
  esac
}

_rltrader_complete() {
  local cur="${COMP_WORDS[COMP_CWORD]}" flag="" path="" word="" words="" flags="" kind="" state="" place=0
  case "${COMP_WORDS[0]##*/}" in
@PROGRAMS@
  esac
  COMPREPLY=()
  for ((place = 1; place < COMP_CWORD; place++)); do
    word="${COMP_WORDS[place]}"
    _rltrader_tables "$path"
    case " $words " in *" $word "*) path="$path $word" ;; esac
  done
  [ "$COMP_CWORD" -ge 2 ] && flag="${COMP_WORDS[COMP_CWORD - 1]}"
  if [ "$cur" = "=" ]; then cur=""; elif [ "$flag" = "=" ]; then flag="${COMP_WORDS[COMP_CWORD - 2]}"; fi
  case "$flag" in --*) _rltrader_tables "$path $flag" ;; esac
  if [ -z "$kind" ]; then
    _rltrader_tables "$path"
    case "$cur" in -*) words="$flags" ;; esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    return 0
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  local IFS=$'\n'
  compopt -o filenames 2>/dev/null  # a blank in a name is then written as the shell wants it
  case "$kind" in
    state)
      COMPREPLY=($(for state in "$cur"*/@JOURNAL@ "$cur"*/*/@JOURNAL@; do
        [ -f "$state" ] && printf '%s\n' "${state%/*}"
      done))
      [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -d -- "$cur"))
      ;;
    strategy) COMPREPLY+=($(compgen -f -- "$cur")) ;;
  esac
}

complete -o default -F _rltrader_complete @NAMES@
