#!/bin/sh
# Detached runs that can be found again. POSIX sh; no daemon, nothing to install but this file.
#
#   start  ROOT ID TIMEOUT SIGNAL GRACE SHELL   start the run once, however often it is asked for
#   stat   ROOT ID...                           one line for the host, then one per run
#   cancel ROOT ID SIGNAL GRACE WHY             end the run; if it never started, it never will
#   rm     ROOT ID...                           forget runs that are over
#   ls     ROOT                                 one line per run
#
# Every answer begins with "S " (done as asked) or "E " (why not).
# `start` reads from stdin: "run1 <lines of the job> <bytes of the agent's stdin>", the job, the bytes.
#
# A run is the folder ROOT/ID:
#   claim   pid, start time and boot id of the supervisor; made by hard link, so it is there once and whole
#   pid     pid, start time and group of the agent
#   out err what the agent printed
#   cancel  why it is to end
#   exit    exit code, bytes of out, bytes of err, hundredths of a second, why it ended
# Every record ends in the word "ok": a torn one counts as not there.
# ROOT/events gets one short line per ended run, so that one reader can follow them all.

case $0 in /*) SELF=$0 ;; *) SELF=$PWD/$0 ;; esac
LC_WAS=${LC_ALL-} LC_SET=${LC_ALL+x}
LC_ALL=C; export LC_ALL
PROC=${RECONCILER_PROC:-/proc} # a name for what is not there shows how this does without

refuse() { printf 'E %s\n' "$*"; exit 70; }
room='see whether the disk is full there, and who may write to it'
nap() { sleep "$1" 2>/dev/null || sleep 1; }

# --- What is known of processes ---------------------------------------------

find_boot() { # -> $boot
  if [ -r "$PROC/sys/kernel/random/boot_id" ]; then
    read -r boot <"$PROC/sys/kernel/random/boot_id"
  else
    boot=$(sysctl -n kern.bootsessionuuid 2>/dev/null || sysctl -n kern.boottime 2>/dev/null || who -b)
    boot=$(printf %s "$boot" | tr -c 'A-Za-z0-9-' _)
  fi
}

read_clock() { # -> $clock, in hundredths of a second
  if [ -r "$PROC/uptime" ]; then
    read -r clock _ <"$PROC/uptime"
    clock=${clock%.*}${clock#*.}
  else
    clock=$(date +%s)00
  fi
}

find_process() { # pid -> $started $group; false for the dead, zombies among them
  started='' group=''
  if [ -r "$PROC/self/stat" ]; then
    { IFS= read -r stat_line <"$PROC/$1/stat"; } 2>/dev/null || return 1
    set -- ${stat_line##*\) }
    case $1 in Z | X | x) return 1 ;; esac
    group=$3
    shift 19
    started=$1
  else
    set -- $(ps -o state= -o pgid= -o lstart= -p "$1" 2>/dev/null)
    case ${1:-Z} in Z*) return 1 ;; esac
    group=$2
    shift 2
    started=$(printf %s "$*" | tr -c 'A-Za-z0-9' _)
  fi
}

is_alive() { find_process "$1" && [ "$started" = "$2" ]; } # pid start-time

members() { # folder group -> pids of the run: all that carry its mark in their environment
  if [ -r "$PROC/self/environ" ]; then
    head -c 1000000 "$PROC"/[0-9]*/environ 2>/dev/null | tr '\0' '\n' | MARK="RECONCILER_RUN_DIR=$1" awk '
      /^==> .*\/[0-9]+\/environ <==$/ { n = split($2, part, "/"); pid = part[n - 1] }
      $0 == ENVIRON["MARK"] { printf "%s ", pid }'
  else # all below the agent, and all of its group
    ps -A -o pid= -o ppid= -o pgid= | awk -v group="${2:-none}" '
      { parent[$1] = $2; of[$1] = $3 }
      END { for (i in parent) for (j = i; j > 1; j = parent[j]) if (of[j] == group) { printf "%s ", i; break } }'
  fi
}

# --- Records ----------------------------------------------------------------

get() { # folder name -> $record, when it is whole
  record=
  { IFS= read -r record <"$1/$2"; } 2>/dev/null
  case $record in *' ok') record=${record% ok} ;; *) record=''; return 1 ;; esac
}

put() { # folder name words...
  put_to=$1/$2 put_by=$1/$2.$$
  shift 2
  printf '%s ok\n' "$*" >"$put_by" && mv -f "$put_by" "$put_to"
}

find_state() { # folder -> $state
  if [ ! -d "$1" ]; then state=absent; return; fi
  for turn in 1 2; do # twice: the exit may have been written while we looked
    if get "$1" exit; then state="done $record"; return; fi
    if ! get "$1" claim; then state=unstarted; return; fi
    set -- "$1" $record
    if [ "$4" != "$boot" ]; then state=rebooted; return; fi
    if is_alive "$2" "$3"; then state=running; return; fi
    if get "$1" pid; then
      set -- "$1" $record
      if is_alive "$2" "$3"; then state=orphan; return; fi
    fi
  done
  state=lost
}

put_exit() { # folder code hundredths why
  set -- "$@" $(cd "$1" && wc -c out err 2>/dev/null)
  put "$1" exit "$2" "${5:-0}" "${7:-0}" "$3" "$4"
  printf '%s %s\n' "${1##*/}" "$2" >>"${1%/*}/events"
}

# --- Ending a run -----------------------------------------------------------

find_left() { # folder -> $left: what is still there of the run; false if nothing
  agent='' agents_group=''
  if get "$1" pid; then
    set -- "$1" $record
    agents_group=$4
    is_alive "$2" "$3" && agent=$2
  fi
  left="$agent $(members "$1" "$agents_group")"
  case $left in *[0-9]*) ;; *) return 1 ;; esac
}

end_all() { # folder signal grace
  find_left "$1" || return 0
  # The group first, while its leader shows that the number is still its own.
  [ -n "$agent" ] && [ "$agents_group" = "$agent" ] && kill "-$2" "-$agent" 2>/dev/null
  kill "-$2" $left 2>/dev/null
  tenths=$(($3 * 10))
  while [ "$tenths" -gt 0 ]; do
    nap 0.1
    find_left "$1" || return 0
    tenths=$((tenths - 1))
  done
  for turn in 1 2 3 4 5 6 7 8; do # they may be forking while we kill
    find_left "$1" || return 0
    kill -KILL $left 2>/dev/null
    nap 0.05
  done
}

end_run() { # folder signal grace why
  get "$1" cancel || put "$1" cancel "$4"
  end_all "$1" "$2" "$3"
}

# --- Sessions ---------------------------------------------------------------

leave() { # command... in a session of its own, not waited for; this process ends
  # A transport starts us as leader of a group, so setsid forks by itself. With `&` the
  # agent would ignore INT and QUIT.
  if command -v setsid >/dev/null 2>&1; then exec setsid "$@"; fi
  if command -v perl >/dev/null 2>&1; then
    exec perl -MPOSIX -e 'exit 0 if fork; POSIX::setsid(); exec @ARGV' "$@"
  fi
  "$@" &
  exit 0
}

lead() { # command... in a session of its own, waited for
  if command -v setsid >/dev/null 2>&1; then setsid "$@"
  elif command -v perl >/dev/null 2>&1; then perl -MPOSIX -e 'POSIX::setsid(); exec @ARGV' "$@"
  else "$@"; fi
}

give_up() { # why; for jobs: the agent cannot be started
  put "$run" cancel "$1"
  exit 125
}

# --- Verbs ------------------------------------------------------------------

enter() { # root id -> $root $run
  umask_was=$(umask)
  umask 077
  mkdir -p -- "$1" && cd -P -- "$1" || refuse "cannot make the folder $1; $room, or choose another workdir"
  root=$PWD run=$PWD/${2:-}
  case ${2:-} in *[!A-Za-z0-9._+-]* | .*) refuse "not a name of a run: $2" ;; esac
  find_boot
}

case ${1:-} in
start) # ROOT ID TIMEOUT SIGNAL GRACE SHELL
  enter "$2" "$3"
  if [ -f "$run/claim" ]; then
    cat >/dev/null
    find_state "$run"
    printf 'S exists %s\n' "$state"
    exit 0
  fi
  mkdir -p "$run" || refuse "cannot make the folder $run; $room"
  mine=$run/by.$$ # .job .in .claim: of this launcher alone, until the claim is won
  IFS=' ' read -r magic lines bytes || refuse 'no header'
  [ "$magic" = run1 ] || refuse 'not a header'
  full=
  {
    printf 'rm -f -- "$mine.job"\n' || full=yes
    while [ "$lines" -gt 0 ] && IFS= read -r line; do
      printf '%s\n' "$line" || full=yes
      lines=$((lines - 1))
    done
  } >"$mine.job" || full=yes
  if [ -n "$full" ] || ! cat >"$mine.in"; then
    rm -f "$mine".*
    refuse "cannot write down the job; $room"
  fi
  set -- "$@" $(wc -c <"$mine.in")
  if [ "$8" != "$bytes" ]; then # cut on its way: nothing stays that could be started
    rm -f "$mine".*
    refuse "short: $8 of $bytes bytes"
  fi
  exec </dev/null 2>>"$run/supervisor.log"
  # The supervisor claims for itself: a claim names a process that lives, or once lived.
  leave "$7" "$SELF" _supervise "$run" "$mine" "$4" "$5" "$6" "$7" "$umask_was" "$LC_SET" "$LC_WAS"
  ;;
_supervise) # RUN MINE TIMEOUT SIGNAL GRACE SHELL UMASK LC_SET LC_WAS
  run=$2 mine=$3 timeout=$4 signal=$5 grace=$6 shell=$7
  trap : TERM HUP PIPE # caught, not ignored: the agent gets the defaults
  umask 077
  find_boot
  find_process $$
  printf '%s %s %s ok\n' $$ "$started" "$boot" >"$mine.claim" || {
    rm -f "$mine".*
    refuse "cannot write down the claim; $room"
  }
  if ! ln "$mine.claim" "$run/claim" 2>/dev/null; then
    rm -f "$mine".*
    find_state "$run"
    printf 'S exists %s\n' "$state"
    exit 0
  fi
  : >>"$run/out"
  : >>"$run/err"
  printf 'S started running\n'
  exec >/dev/null
  watchdog=
  if [ "$timeout" -gt 0 ]; then
    trap - TERM # a fork that has not set its own trap yet must not swallow the signal
    (
      trap 'kill $! 2>/dev/null; exit 0' TERM
      sleep "$timeout" &
      wait $! || exit 0
      trap '' TERM # from here on it is ended by nobody
      end_run "$run" "$signal" "$grace" timeout
    ) &
    watchdog=$!
    trap : TERM
  fi
  read_clock
  began=$clock
  shift 7
  lead "$shell" "$SELF" _become "$run" "$mine" "$@"
  code=$?
  read_clock
  [ -n "$watchdog" ] && kill -TERM "$watchdog" 2>/dev/null
  rm -f "$mine".* "$run/prompt"
  end_all "$run" TERM 1 # what a run that ended by itself left behind
  why=exit
  get "$run" cancel && why=$record
  put_exit "$run" "$code" $((clock - began)) "$why"
  ;;
_become) # RUN MINE UMASK LC_SET LC_WAS
  run=$2 mine=$3
  find_process $$
  put "$run" pid $$ "$started" "$group"
  [ -f "$run/cancel" ] && exit 143
  umask "$4"
  if [ -n "$5" ]; then LC_ALL=$6; else unset LC_ALL; fi
  RECONCILER_RUN_DIR=$run
  export RECONCILER_RUN_DIR
  exec <"$mine.in" >>"$run/out" 2>>"$run/err"
  rm -f "$mine.in" # the job removes itself: neither has a name while the agent runs
  . "$mine.job"
  exit
  ;;
stat) # ROOT ID...
  enter "$2"
  : >>events
  # The size first: what ends after this is in the events after it.
  printf 'S %s %s\n' "$(($(wc -c <events)))" "$root"
  shift 2
  for id in "$@"; do
    find_state "$root/$id"
    printf '%s %s\n' "$id" "$state"
  done
  ;;
cancel) # ROOT ID SIGNAL GRACE WHY
  enter "$2" "$3"
  trap '' HUP PIPE
  find_state "$run"
  case $state in done*)
    printf 'S %s\n' "$state"
    exit 0
    ;;
  esac
  mkdir -p "$run"
  get "$run" cancel || put "$run" cancel "$6"
  find_process $$
  printf '%s %s %s ok\n' $$ "$started" "$boot" >"$run/by.$$.claim"
  if ln "$run/by.$$.claim" "$run/claim" 2>/dev/null; then
    end_all "$run" "$4" "$5" # its folder may have been removed under it
    put_exit "$run" 143 0 "$6"
  fi
  rm -f "$run/by.$$.claim"
  find_state "$run"
  case $state in running | orphan) end_run "$run" "$4" "$5" "$6" ;; esac
  turn=0
  find_state "$run"
  while [ "$state" = running ] && [ "$turn" -lt 60 ]; do # its supervisor writes the exit
    nap 0.05
    turn=$((turn + 1))
    find_state "$run"
  done
  case $state in
  lost | rebooted) # nobody is left to write it
    put_exit "$run" 143 0 "$6"
    find_state "$run"
    ;;
  esac
  printf 'S %s\n' "$state"
  ;;
rm) # ROOT ID...
  enter "$2"
  shift 2
  for id in "$@"; do
    find_state "$root/$id"
    case $state in
    running | orphan) refuse "$id is alive" ;;
    absent) ;;
    *) mv "$root/$id" "$root/.gone.$$" && rm -rf "$root/.gone.$$" ;; # never half a run
    esac
  done
  rm -rf "$root"/.gone.*
  : >>events
  # Who follows runs looks at all of them after a removal, and needs no old events.
  [ "$(($(wc -c <events)))" -le 65536 ] || : >events
  printf 'S removed\n'
  ;;
ls) # ROOT
  enter "$2"
  printf 'S\n'
  for run in "$root"/*/; do
    run=${run%/}
    [ -d "$run" ] || continue
    find_state "$run"
    printf '%s %s\n' "${run##*/}" "$state"
  done
  ;;
*) refuse "no such verb: ${1:-}" ;;
esac
