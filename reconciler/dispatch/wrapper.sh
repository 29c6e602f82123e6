#!/bin/sh
# Detached runs that can be found again. POSIX sh; no daemon, nothing to install but this file.
#
#   start  ROOT ID TIMEOUT SIGNAL GRACE SHELL LOCK   start the run once, however often it is asked for
#   stat   ROOT ID...                           one line for the host, then one per run
#   cancel ROOT ID SIGNAL GRACE WHY             end the run; if it never started, it never will
#   rm     ROOT ID...                           forget runs that are over
#   ls     ROOT                                 one line per run
#   declared ROOT ID BYTES NAME...              what the agent of a run wrote to the first of these files
#   means  ROOT                                 what finds the processes of a run when it ends
#   hold   FOLDER COMMAND...                    run a command here, and end all it started when it ends
#   end    FOLDER SIGNAL GRACE                  end what `hold` runs, or left when it was killed
#
# Every answer begins with "S " (done as asked) or "E " (why not).
# `start` reads from stdin: "run1 <lines of the job> <bytes of the agent's stdin> <seal>", the job, the bytes;
# `cancel` reads a seal.
#
# A run is the folder ROOT/ID:
#   queued  lock and time of the last submission, where a queue starts runs
#   claim   pid, start time and boot id of the supervisor, lock, cgroup, job; made by hard link: there once and whole
#   pid     pid, start time and group of the agent; `sandbox` if that is what holds its sandbox
#   tmp     the agent's temporary files, if it is in a sandbox
#   out err what the agent printed
#   cancel  why it is to end
#   exit    exit code, bytes of out, bytes of err, hundredths of a second, why it ended, seal
# Every record ends in the word "ok": a torn one counts as not there.
# ROOT/past has the ids of agents' runs whose folders were removed: none of them is started again.
# ROOT/events gets one short line per ended run (where a queue starts them, per begun one too), so that one reader
# can follow them all: a hint, no more.
#
# All this lies where the agent can write. What proves a record is the seal: drawn for this start, known to
# the supervisor alone, and written down only when all that the run started is gone. The lock is its
# hash, which whoever asked for the start keeps.

case $0 in /*) SELF=$0 ;; *) SELF=$PWD/$0 ;; esac
LC_WAS=${LC_ALL-} LC_SET=${LC_ALL+x}
LC_ALL=C; export LC_ALL
unset CDPATH
# Set by startup files, or by a hook of git's: they would point an agent's git to another repository.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_PREFIX GIT_COMMON_DIR GIT_NAMESPACE \
  GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES
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
  boot=${boot:--}
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

is_record() { [ -f "$1" ] && [ ! -h "$1" ]; } # what else has that name may block whoever reads it

find_below() { # pid -> $below: all that descend from it; nothing is started to find out
  below='' next=$1
  while :; do
    case $next in *[0-9]*) set -- $next ;; *) return ;; esac
    next=
    for parent; do
      for list in "$PROC/$parent"/task/*/children; do
        kids=
        { IFS= read -r kids <"$list"; } 2>/dev/null
        for kid in $kids; do
          find_process "$kid" && next="$next $kid" below="$below $kid"
        done
      done
    done
  done
}

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
  is_record "$1/$2" || return 1
  { IFS= read -r record <"$1/$2"; } 2>/dev/null
  case $record in *' ok') record=${record% ok} ;; *) record=''; return 1 ;; esac
}

put() { # folder name words...
  put_to=$1/$2 put_by=$1/$2.$$
  [ ! -d "$put_to" ] && [ -w "$1" ] || { chmod u+rwx "$1" && rm -rf "$put_to"; } 2>/dev/null
  shift 2
  [ ! -e "$put_by" ] && [ ! -h "$put_by" ] || rm -rf "$put_by" # the name can be guessed
  printf '%s ok\n' "$*" >"$put_by" && mv -f "$put_by" "$put_to"
}

put_new() { # folder name words... where nothing has that name; until it is whole it counts as not there
  put_to=$1/$2
  shift 2
  set -C # never through a link that somebody left, nor into what is there
  { printf '%s ok\n' "$*" >"$put_to"; } 2>/dev/null
  made=$?
  set +C
  return $made
}

find_state() { # folder -> $state
  if [ ! -d "$1" ]; then
    state=absent
    ! is_record "${1%/*}/past" || ! grep -qxF -e "${1##*/}" "${1%/*}/past" || state=past
    return
  fi
  for turn in 1 2; do # twice: the exit may have been written while we looked
    if get "$1" exit; then state="done $record"; look_at_ended "$1"; return; fi
    if ! get "$1" claim; then
      state=unstarted
      for name in claim exit; do # each is there whole, or not at all
        [ ! -e "$1/$name" ] && [ ! -h "$1/$name" ] || state=strange
      done
      [ "$state" = strange ] || look_at_unclaimed "$1"
      return
    fi
    state=
    look_at_claimed "$1" $record
    [ -z "$state" ] || return 0
  done
  state="lost $lost"
  state=${state% }
}

clear_away() { # files, most of which are not there: nothing is started for those
  for each; do
    [ ! -e "$each" ] && [ ! -h "$each" ] || rm -rf "$each"
  done
}

make_way() { # file to append to: what else stands there goes; what does not may be made by another meanwhile
  [ -e "$1" ] || [ -h "$1" ] || return 0
  is_record "$1" && { { [ -r "$1" ] && [ -w "$1" ]; } || chmod u+rw "$1"; } 2>/dev/null || rm -rf "$1"
}

count() { # file -> $size: its bytes
  size=0
  ! is_record "$1" || [ ! -s "$1" ] || size=$(($(wc -c <"$1")))
}

put_exit() { # folder code hundredths why seal
  count "$1/out"
  set -- "$@" "$size"
  count "$1/err"
  put "$1" exit "$2" "$6" "$size" "$3" "$4" "${5:--}"
  printf '%s %s\n' "${1##*/}" "$2" >>"${1%/*}/events"
}

# --- Ending a run -----------------------------------------------------------

reaper= # its own pid, in the supervisor of a run that has ended: whatever it started is a child of ours by now

find_left() { # folder -> $left: what is still there of the run; false if nothing
  agent='' agents_group='' below='' holds=''
  if get "$1" pid; then
    set -- "$1" $record
    agents_group=${4:-}
    is_alive "$2" "${3:-}" && agent=$2 holds=${5:-}
  fi
  find_cell "$1"
  left="$agent $(members "$1" "$agents_group") ${cell:+$(awk '$1 > 0 { printf "%s ", $1 }' "$cell/cgroup.procs" 2>/dev/null)}"
  if [ -n "$reaper$agent" ]; then find_below "${reaper:-$agent}"; fi
  left="$left $below"
  case $left in *[1-9]*) ;; *) return 1 ;; esac
}

end_all() { # folder signal grace
  find_left "$1" || return 0
  if [ -n "$holds" ]; then # all that is in a sandbox ends at once with what holds it
    for pid in $left; do [ "$pid" = "$agent" ] || kill "-$2" "$pid" 2>/dev/null; done
  else
    # The group first, while its leader shows that the number is still its own.
    [ -n "$agent" ] && [ "$agents_group" = "$agent" ] && kill "-$2" "-$agent" 2>/dev/null
    kill "-$2" $left 2>/dev/null
  fi
  tenths=$(($3 * 10))
  while [ "$tenths" -gt 0 ]; do
    nap 0.1
    find_left "$1" || return 0
    tenths=$((tenths - 1))
  done
  turn=0
  while [ "$turn" -lt 60 ]; do # they may be forking while we kill
    find_left "$1" || return 0
    [ -z "$cell" ] || { echo 1 >"$cell/cgroup.kill"; } 2>/dev/null
    kill -KILL $left 2>/dev/null
    [ "$turn" -lt 8 ] || nap 0.05
    turn=$((turn + 1))
  done
}

end_run() { # folder signal grace why
  get "$1" cancel || put "$1" cancel "$4"
  end_all "$1" "$2" "$3"
}

# --- What holds a run together -------------------------------------------------

# A mark in the environment finds what has not cleared it. Where there is perl or python3, the supervisor
# becomes the parent of all that loses its own (a "child subreaper"), so that nobody gets away by
# forking twice; and where a cgroup can be made, the run is in one of its own. Besides, the helper
# gives back their defaults to signals that whoever started us ignored (nohup) or blocked: sh cannot.
# Perl's own modules take five times as long to load as all else here, so it makes the calls by their
# numbers: prctl, rt_sigprocmask and setsid, by the machine that its file is for.
PERL='
my $leaves = shift eq "leave";
my %numbers = (62 => [157, 14, 112], 183 => [167, 135, 157], 243 => [167, 135, 157], 258 => [167, 135, 157],
  20 => [171, 174, 66], 21 => [171, 174, 66], 22 => [172, 175, 66], 3 => [172, 175, 66], 40 => [172, 175, 66]);
my ($head, @calls) = "";
open(FILE, "<", "/proc/self/exe") && read(FILE, $head, 20);
if (length $head == 20 && $head =~ /^\x7fELF/) {
  my ($class, $order) = unpack("x4CC", $head);
  my $machine = unpack($order == 2 ? "x18n" : "x18v", $head);
  @calls = @{$numbers{$machine} || []} unless $machine == 62 && $class != 2;
}
my ($prctl, $mask, $session) = @calls;
if ($leaves) {
  exit 70 unless $session;
  defined(my $child = fork) or exit 71;
  exit 0 if $child;
  syscall($session);
}
$ENV{RECONCILER_REAPS} = "yes" if $prctl && syscall($prctl, 36, 1, 0, 0, 0) == 0;
for (keys %SIG) { $SIG{$_} = "DEFAULT" unless /^(KILL|STOP|__\w+__)$/ }
if ($mask) { my $none = "\0" x 8; syscall($mask, 2, $none, 0, 8) }
else { eval { require POSIX; POSIX::sigprocmask(POSIX::SIG_SETMASK(), POSIX::SigSet->new) } }
exec @ARGV;'
PYTHON='
import contextlib, os, signal, sys
with contextlib.suppress(Exception):
    import ctypes
    if ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0:
        os.environ["RECONCILER_REAPS"] = "yes"
for number in signal.valid_signals():
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, [])
os.execvp(sys.argv[1], sys.argv[1:])'

find_helper() { # -> $helper; one that is there and does not work is none
  helper=
  if perl -e 1 >/dev/null 2>&1; then helper=perl
  elif python3 -c 'import signal; signal.valid_signals' >/dev/null 2>&1; then helper=python3; fi </dev/null
}

become() { # command...
  case $helper in
  perl) exec perl -e "$PERL" stay "$@" ;;
  python3) exec python3 -c "$PYTHON" "$@" ;;
  *) exec "$@" ;;
  esac
}

note_means() { # of this process -> $reaps
  reaps=${RECONCILER_REAPS-}
  unset RECONCILER_REAPS
}

make_cell() { # -> $cell: a cgroup for the run, where its user may make one
  cell=
  [ -r "$PROC/self/cgroup" ] && [ -r "$PROC/self/mountinfo" ] || return 0
  while read -r id parent device from at rest; do
    case $rest in *' - cgroup2 '*) [ "$from" = / ] && cell=$at ;; esac
  done <"$PROC/self/mountinfo"
  [ -n "$cell" ] || return 0
  while IFS= read -r line; do
    case $line in 0::*) cell=$cell${line#0::} ;; esac
  done <"$PROC/self/cgroup"
  cell=${cell%/}/reconciler.$$.$started
  case $cell in *[!A-Za-z0-9._/:@-]*) cell= ;; esac
  [ -w "${cell%/*}" ] && mkdir "$cell" 2>/dev/null && [ -w "$cell/cgroup.procs" ] && return
  [ ! -d "$cell" ] || rmdir "$cell" 2>/dev/null
  cell=
}

enter_cell() { # cell or nothing; beside what else this process does, as the kernel takes a while for it
  entering=
  [ -n "$1" ] || return 0
  { echo $$ >"$1/cgroup.procs"; } 2>/dev/null &
  entering=$!
}

await_cell() { wait $entering $removing; } # for jobs: before anything is started that is not ours

find_cell() { # folder -> $cell, if its run has one; in its supervisor it is known
  [ -z "$reaper" ] || return 0
  cell=
  get "$1" claim || return 0
  set -- $record
  case ${5:-} in */reconciler.*) [ -f "$5/cgroup.procs" ] && cell=$5 ;; esac
  return 0
}

end_rest() { # folder; by the supervisor, when the agent has ended: what is left of it
  reaper=${reaps:+$$}
  end_all "$1" TERM 1
  turn=0
  while [ -n "$cell" ] && ! rmdir "$cell" 2>/dev/null && [ -d "$cell" ] && [ "$turn" -lt 20 ]; do
    nap 0.05
    turn=$((turn + 1))
  done
}

# --- Sessions ---------------------------------------------------------------

leave() { # command... in a session of its own, not waited for; this process ends
  # A transport starts us as leader of a group, so setsid forks by itself. With `&` the
  # agent would ignore INT and QUIT.
  command -v perl >/dev/null 2>&1 && perl -e "$PERL" leave "$@" 2>/dev/null && exit 0
  find_helper
  if command -v setsid >/dev/null 2>&1; then
    case $helper in
    perl) exec setsid perl -e "$PERL" stay "$@" ;;
    python3) exec setsid python3 -c "$PYTHON" "$@" ;;
    *) exec setsid "$@" ;;
    esac
  fi
  case $helper in
  perl) exec perl -MPOSIX -e 'exit 0 if fork; POSIX::setsid(); exec @ARGV' perl -e "$PERL" stay "$@" ;;
  python3) exec python3 -c 'import os, sys; os.fork() and os._exit(0); os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])' \
    python3 -c "$PYTHON" "$@" ;;
  esac
  exec 3<&0
  "$@" <&3 3<&- &
  exit 0
}

lead() { # command... in a session of its own, waited for
  if command -v setsid >/dev/null 2>&1; then setsid "$@"
  elif perl -MPOSIX -e 1 >/dev/null 2>&1; then perl -MPOSIX -e 'POSIX::setsid(); exec @ARGV' "$@"
  else "$@"; fi
}

give_up() { # why; for jobs: the agent cannot be started
  PATH=$path_was # the job may have set one on which there is nothing
  put "$run" cancel "$1"
  exit 125
}

note_past() { # id: that its agent ran, for whoever asks for it again: its record, and ours, may have been lost since
  case $1 in *[bdev]) return ;; esac # what goes with an agent may be repeated
  make_way "$root/past"
  printf '%s\n' "$1" >>"$root/past" || return
  count "$root/past"
  [ "$size" -le 4194304 ] || { tail -n 20000 "$root/past" >"$root/past.$$" && mv -f "$root/past.$$" "$root/past"; }
}

# --- Scheduler: processes of this machine -------------------------------------

# What starts runs, knows which of them are there, and ends them. A queue has its own of these, which take
# their place below (schedulers/*.sh).

job=- # of a supervisor: its number in a queue
lost= # why a run is over that has no record of its end, as far as that is known

ask_queue() { :; } # once, before any look: for all runs

submit() { # TIMEOUT SIGNAL GRACE SHELL LOCK; $mine.job and $mine.in are there, $seal is known; this process ends
  # The supervisor claims for itself: a claim names a process that lives, or once lived. The seal goes to it
  # by its stdin: no file, no command line and no environment ever has it.
  leave "$4" "$SELF" _supervise "$run" "$mine" "$1" "$2" "$3" "$4" "${5:--}" "$umask_was" "$LC_SET" "$LC_WAS" <<END
$seal
END
}

look_at_unclaimed() { :; } # folder -> $state, if not `unstarted`

look_at_claimed() { # folder claim... -> $state; nothing if it is over, and then perhaps why in $lost
  lock=${5:--}
  if [ "$4" != "$boot" ]; then state=rebooted; return; fi
  if is_alive "$2" "$3"; then state="running $lock"; return; fi
  get "$1" pid || return 0
  set -- "$1" $record
  if is_alive "$2" "$3"; then state="orphan $lock"; fi
}

look_at_ended() { :; } # folder; $state is `done` and its record

attend() { attendant=; } # folder signal grace; by the supervisor of a run: what is to be done beside it -> $attendant

end_there() { end_all "$@"; } # folder signal grace; from where runs are started

#SCHEDULER

# --- Verbs ------------------------------------------------------------------

enter() { # root id -> $root $run
  umask_was=$(umask)
  umask 077
  [ -d "$1" ] || mkdir -p -- "$1"
  cd -P -- "$1" || refuse "cannot make the folder $1; $room, or choose another workdir"
  root=$PWD run=$PWD/${2:-}
  case ${2:-} in *[!A-Za-z0-9._+@-]* | .*) refuse "not a name of a run: $2" ;; esac
  find_boot
}

case ${1:-} in
start) # ROOT ID TIMEOUT SIGNAL GRACE SHELL LOCK
  enter "$2" "$3"
  [ ! -h "$run" ] || refuse "$run is a link, and no run of ours; see who made it"
  if [ -e "$run/claim" ] || [ -h "$run/claim" ] || [ -e "$run/exit" ]; then
    cat >/dev/null
    ask_queue
    find_state "$run"
    printf 'S exists %s\n' "$state"
    exit 0
  fi
  [ ! -d "$run" ] || ask_queue
  find_state "$run"
  case $state in
  past | queued* | dropped*)
    cat >/dev/null
    printf 'S exists %s\n' "$state"
    exit 0
    ;;
  esac
  mkdir -p "$run" || refuse "cannot make the folder $run; $room"
  mine=$run/by.$$ # .job .in .claim: of this launcher alone, until the claim is won
  clear_away "$mine".*
  IFS=' ' read -r magic lines bytes seal || refuse 'no header'
  [ "$magic" = run1 ] || refuse 'not a header'
  full=
  {
    printf 'rm -f -- "$mine.job" "$mine.in" & removing=$!\n' || full=yes # neither has a name while the agent runs
    while [ "$lines" -gt 0 ] && IFS= read -r line; do
      printf '%s\n' "$line" || full=yes
      lines=$((lines - 1))
    done
  } >"$mine.job" || full=yes
  if [ "$bytes" = 0 ]; then printf '' >"$mine.in"; else cat >"$mine.in"; fi || full=yes
  if [ -n "$full" ]; then
    rm -f "$mine".*
    refuse "cannot write down the job; $room"
  fi
  count "$mine.in"
  if [ "$lines" != 0 ] || [ "$size" != "$bytes" ]; then # cut on its way: nothing stays that could be started
    rm -f "$mine".*
    refuse "short: $size of $bytes bytes, $lines lines missing"
  fi
  is_record "$run/supervisor.log" || clear_away "$run/supervisor.log"
  exec 2>>"$run/supervisor.log"
  submit "$4" "$5" "$6" "$7" "${8:-}"
  ;;
_lead) # COMMAND...
  shift
  find_helper
  become "$@"
  ;;
_supervise) # RUN MINE TIMEOUT SIGNAL GRACE SHELL LOCK UMASK LC_SET LC_WAS
  run=$2 mine=$3 timeout=$4 signal=$5 grace=$6 shell=$7 lock=$8
  trap : TERM HUP PIPE # caught, not ignored: the agent gets the defaults
  IFS= read -r seal
  clear_away "$mine.seal"
  exec </dev/null
  note_means
  umask 077
  find_boot
  find_process $$
  supervised=$started
  make_cell
  printf '%s %s %s %s %s %s ok\n' $$ "$started" "$boot" "$lock" "${cell:--}" "$job" >"$mine.claim" || {
    rm -f "$mine".*
    [ -z "$cell" ] || rmdir "$cell"
    refuse "cannot write down the claim; $room"
  }
  if [ -e "$run/claim" ] || ! ln "$mine.claim" "$run/claim" 2>/dev/null; then
    rm -f "$mine".*
    [ -z "$cell" ] || rmdir "$cell"
    find_state "$run"
    printf 'S exists %s\n' "$state"
    exit 0
  fi
  clear_away "$run/out" "$run/err" "$run/pid" "$run/prompt" # of whoever was here before there was a run
  : >>"$run/out"
  : >>"$run/err"
  printf 'S started running %s\n' "$lock"
  exec >/dev/null
  watchdog=
  if [ "$timeout" -gt 0 ]; then
    trap - TERM # a fork that has not set its own trap yet must not swallow the signal
    (
      trap 'kill -KILL $! 2>/dev/null; exit 0' TERM
      RECONCILER_RUN_DIR=$run sleep "$timeout" & # with the mark: it ends with the run, whoever killed its supervisor
      wait $! || exit 0
      is_alive $$ "$supervised" || exit 0 # without a supervisor it is of nobody's time
      trap '' TERM # from here on it is ended by nobody
      end_run "$run" "$signal" "$grace" timeout
    ) &
    watchdog=$!
    trap : TERM
  fi
  attend "$run" "$signal" "$grace"
  read_clock
  began=$clock
  shift 8
  lead "$shell" "$SELF" _become "$run" "$mine" "$cell" "$@"
  code=$?
  read_clock
  [ -z "$attendant" ] || { kill -KILL "$attendant" && wait "$attendant"; } 2>/dev/null
  if [ -n "$watchdog" ]; then
    kill -TERM "$watchdog" 2>/dev/null
    [ -f "$run/cancel" ] || wait "$watchdog" 2>/dev/null
  fi
  rm -f "$mine".* "$run/prompt"
  end_rest "$run"
  [ ! -d "$run/tmp" ] || { rm -rf "$run/tmp" || { chmod -R u+rwx "$run/tmp" && rm -rf "$run/tmp"; }; } 2>/dev/null
  why=exit
  get "$run" cancel && why=$record
  put_exit "$run" "$code" $((clock - began)) "$why" "$seal"
  ;;
_become) # RUN MINE CELL UMASK LC_SET LC_WAS
  run=$2 mine=$3
  enter_cell "$4"
  find_process $$
  put_new "$run" pid $$ "$started" "$group" || put "$run" pid $$ "$started" "$group"
  [ -f "$run/cancel" ] && exit 143
  umask "$5"
  if [ -n "$6" ]; then LC_ALL=$7; else unset LC_ALL; fi
  RECONCILER_RUN_DIR=$run
  export RECONCILER_RUN_DIR
  exec <"$mine.in" >>"$run/out" 2>>"$run/err"
  path_was=$PATH
  . "$mine.job"
  exit
  ;;
stat) # ROOT ID...
  enter "$2"
  make_way events
  : >>events
  ask_queue
  # The size first: what ends after this is in the events after it.
  count events
  printf 'S %s %s\n' "$size" "$root"
  shift 2
  for id in "$@"; do
    find_state "$root/$id"
    printf '%s %s\n' "$id" "$state"
  done
  ;;
cancel) # ROOT ID SIGNAL GRACE WHY LOCK; stdin: the seal of that lock
  IFS= read -r seal
  enter "$2" "$3"
  trap '' HUP PIPE
  mkdir -p "$run"
  ask_queue
  find_state "$run"
  case $state in
  done*) ;;
  *)
    get "$run" cancel || put "$run" cancel "$6"
    find_process $$
    rm -rf "$run/by.$$.claim"
    # With the lock: whoever looks before the end is written must see whose claim it is.
    printf '%s %s %s %s - - ok\n' $$ "$started" "$boot" "$7" >"$run/by.$$.claim"
    if [ ! -e "$run/claim" ] && ln "$run/by.$$.claim" "$run/claim" 2>/dev/null; then
      end_there "$run" "$4" "$5" # its folder may have been removed under it
      put_exit "$run" 143 0 "$6" "$seal"
    fi
    rm -f "$run/by.$$.claim"
    ;;
  esac
  # Also of a run that is said to be over: somebody else may have written that.
  end_there "$run" "$4" "$5"
  turn=0
  while get "$run" claim && set -- $record && is_alive "$1" "${2:-}" && [ "$1" != $$ ] && [ "$turn" -lt 200 ]; do
    [ "$turn" -gt 0 ] || kill -CONT "$1" 2>/dev/null # the agent may have stopped it
    [ "$turn" -lt 190 ] || kill -KILL "$1" 2>/dev/null
    nap 0.05 # its supervisor writes the exit
    turn=$((turn + 1))
  done
  ask_queue
  find_state "$run"
  case $state in
  lost* | rebooted) # nobody is left to write it
    why=cancelled
    get "$run" cancel && why=$record
    put_exit "$run" 143 0 "$why" "$seal"
    find_state "$run"
    ;;
  esac
  [ -z "$cell" ] || rmdir "$cell" 2>/dev/null
  printf 'S %s\n' "$state"
  ;;
rm) # ROOT ID...
  enter "$2"
  shift 2
  ask_queue
  for id in "$@"; do
    find_state "$root/$id"
    case $state in
    running* | orphan* | queued* | ending*) refuse "$id is alive" ;;
    absent | past) ;;
    *)
      note_past "$id" && mv "$root/$id" "$root/.gone.$$" && rm -rf "$root/.gone.$$" || { # never half a run
        find_state "$root/$id" # two sweeps of one folder may meet
        case $state in
        absent | past) ;;
        *) refuse "cannot remove $root/$id; $room" ;;
        esac
      }
      ;;
    esac
  done
  rm -rf "$root"/.gone.*
  make_way events
  : >>events
  # Who follows runs looks at all of them after a removal, and needs no old events.
  count events
  [ "$size" -le 65536 ] || : >events
  printf 'S removed\n'
  ;;
ls) # ROOT
  enter "$2"
  ask_queue
  printf 'S\n'
  for run in "$root"/*/; do
    run=${run%/}
    [ -d "$run" ] || continue
    find_state "$run"
    printf '%s %s\n' "${run##*/}" "$state"
  done
  ;;
declared) # ROOT ID BYTES NAME...
  enter "$2" "$3"
  bytes=$4
  shift 4
  for name in "$@"; do
    file=$run/declared/$name
    [ ! -h "$run/declared" ] && is_record "$file" && [ -s "$file" ] || continue
    printf 'S %s\n' "$name"
    head -c "$bytes" "$file" 2>/dev/null
    exit 0
  done
  printf 'S none\n'
  ;;
means) # ROOT
  enter "$2"
  find_helper
  become sh "$SELF" _means
  ;;
_means)
  note_means
  find_process $$
  make_cell
  [ -z "$cell" ] || rmdir "$cell"
  printf 'S %s%smark\n' "${cell:+cgroup }" "${reaps:+reaper }"
  ;;
hold) # FOLDER COMMAND...; its stdin, stdout and stderr are the command's
  find_helper
  shift
  become sh "$SELF" _hold "$@"
  ;;
_hold) # FOLDER COMMAND...
  run=$2
  trap : TERM HUP INT PIPE
  note_means
  umask_was=$(umask)
  umask 077
  find_boot
  find_process $$
  make_cell
  put "$run" claim $$ "$started" "$boot" - "${cell:--}"
  shift 2
  lead sh "$SELF" _held "$run" "$cell" "$umask_was" "$LC_SET" "$LC_WAS" "$@"
  code=$?
  end_rest "$run"
  rm -f "$run/claim" "$run/pid"
  exit "$code"
  ;;
_held) # FOLDER CELL UMASK LC_SET LC_WAS COMMAND...
  RECONCILER_RUN_DIR=$2
  export RECONCILER_RUN_DIR
  [ -z "$3" ] || { echo $$ >"$3/cgroup.procs"; } 2>/dev/null
  find_process $$
  put "$2" pid $$ "$started" "$group"
  umask "$4"
  if [ -n "$5" ]; then LC_ALL=$6; else unset LC_ALL; fi
  shift 6
  exec "$@"
  ;;
end) # FOLDER SIGNAL GRACE
  trap '' HUP PIPE
  end_all "$2" "$3" "$4"
  printf 'S ended\n'
  ;;
*) refuse "no such verb: ${1:-}" ;;
esac
