# What a host is and has; read by the host's shell from stdin, after `workdir`, `shell` and `set_env` (what the
# host's `env` sets for each run) and before the asks.
#
# Answers in lines, `<fact> <value>`; for each CLI that was asked `cli <number> <exit code> <late> <bytes> <path>`,
# the bytes it printed, and a line end. The last line is `end`: an answer without it was cut off.

LC_ALL=C; export LC_ALL
umask 077
leader=''; command -v setsid >/dev/null 2>&1 && leader=setsid

fact() { [ -z "$2" ] || printf '%s %s\n' "$1" "$2"; }

first_line() { { IFS= read -r line <"$1" && printf %s "$line"; } 2>/dev/null; }

ask() { # number seconds path program arguments... ; in the background, all at once
  number=$1 seconds=$2 path=$3
  shift 3
  if [ -d "$path" ]; then
    PATH=$path:$PATH; export PATH
  elif [ -n "$path" ]; then
    case $path in */*) PATH=${path%/*}:$PATH; export PATH ;; esac # of a script, its interpreter lies beside it
    shift
    set -- "$path" "$@"
  fi
  command -v "$1" >"$folder/$number.path" 2>/dev/null || { echo 127 >"$folder/$number.code"; return; }
  # Into a file, not a pipe: what the CLI leaves behind would keep a pipe open.
  $leader "$@" </dev/null >"$folder/$number.out" 2>&1 &
  cli=$!
  watch "$cli" "$seconds" "$folder/$number.late" </dev/null >/dev/null 2>&1 &
  watcher=$!
  wait "$cli"
  echo $? >"$folder/$number.code"
  kill "$watcher"
}

watch() { # pid seconds file; kills what takes too long, and all it started where there is a setsid
  trap 'kill "$sleeper"; exit' TERM
  sleep "$2" &
  sleeper=$!
  wait "$sleeper"
  : >"$3"
  kill -9 "-$1" || kill -9 "$1"
}

tell() { # number
  code=$(first_line "$folder/$1.code") late=no
  [ ! -e "$folder/$1.late" ] || late=yes
  : >>"$folder/$1.out"
  head -c 4096 "$folder/$1.out" >"$folder/$1.said"
  printf 'cli %s %s %s %s %s\n' "$1" "${code:-1}" "$late" $(($(wc -c <"$folder/$1.said"))) "$(first_line "$folder/$1.path")"
  cat "$folder/$1.said"
  echo
}

of_meminfo() { # name -> MiB
  while read -r name size unit; do
    [ "$name" != "$1:" ] || echo $((size / 1024))
  done 2>/dev/null </proc/meminfo
}

tell_host() {
  fact os "$(uname -s)"
  fact arch "$(uname -m)"
  fact boot "$(first_line /proc/sys/kernel/random/boot_id || sysctl -n kern.bootsessionuuid 2>/dev/null)"
  fact cores "$(getconf _NPROCESSORS_ONLN 2>/dev/null || nproc 2>/dev/null)"
  fact load "$({ first_line /proc/loadavg || sysctl -n vm.loadavg 2>/dev/null | tr -d '{'; } | { read -r one rest; echo "$one"; })"
  fact memory "$(of_meminfo MemTotal)"
  fact memory_free "$(of_meminfo MemAvailable)"
  fact clock "$(date +%s)"
  fact shell "$SHELL"
  fact git "$(git --version 2>/dev/null)"
  (set_env; sh -c :) >/dev/null 2>&1 || fact environment "$(set_env; echo "PATH='$PATH'")"
  tell_disk
}

tell_disk() {
  said=$(try_start 2>&1) && fact writable yes || fact fault "${said##*: }"
  fact disk_free "$(df -Pk "$workdir" | { read -r head; read -r device size used free rest; echo $((free / 1024)); })"
  fact files_free "$(df -Pi "$workdir" | { # not in POSIX; some have no such count, or other columns
    read -r head what rest
    read -r device size used free rest
    [ "$what" != Inodes ] || [ "$((size))" -eq 0 ] || echo "$((free))"
  })"
} 2>/dev/null

try_start() ( # what every run begins with: a folder, a file, a hard link, a rename, a script
  at=$workdir/.probe.$$
  trap 'rm -rf "$at"' EXIT
  mkdir -p "$at" && head -c 65536 /dev/zero >"$at/in" && [ "$(($(wc -c <"$at/in")))" -eq 65536 ] &&
    ln "$at/in" "$at/claim" && mv -f "$at/in" "$at/exit" && echo 'exit 0' >"$at/script" && "$shell" "$at/script"
)

# What the CLIs print is kept in a file; what they have no room for, no run has either.
temporary=$(set_env; echo "${TMPDIR:-/tmp}")
folder=$(mktemp -d "$temporary/reconciler-probe.XXXXXX" 2>/dev/null) && : >"$folder/tried" || {
  fact temporary "$temporary"
  tell_host
  echo end
  exit 0
}
trap 'rm -rf "$folder"' EXIT
