# --- Scheduler: jobs in Slurm's queue ------------------------------------------

# A run is the job that has its id as name; numbers are not trusted: a controller that is killed right after it
# accepted a job forgets it, and gives its number to another. Which job of a name runs the agent, the claim
# decides. The folder of the run is shared with the nodes: its supervisor runs there, and gives a sign of life
# (`beat`) as long as it does, for the case that the queue knows nothing of it.

job=${SLURM_JOB_ID:--}
queue=

ENDED='COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|PREEMPTED|OUT_OF_MEMORY|BOOT_FAIL|DEADLINE|REVOKED'
FRESH=120 # seconds for which a sign of life counts: some file systems show what others wrote a minute later
SETTLE=120 # seconds after its end for which a job may be on its way out of the queue

quietly() { # command...: without what the user's own settings would make of it
  env -u SBATCH_ARRAY_INX -u SBATCH_WAIT -u SBATCH_TEST_ONLY -u SBATCH_REQUEUE -u SQUEUE_FORMAT -u SQUEUE_FORMAT2 \
    -u SQUEUE_STATES -u SQUEUE_USERS -u SQUEUE_PARTITION -u SQUEUE_SORT -u SQUEUE_ACCOUNT -u SQUEUE_NAMES \
    -u SQUEUE_QOS -u SCANCEL_STATE -u SCANCEL_INTERACTIVE -u SCANCEL_PARTITION -u SCANCEL_ACCOUNT -u SCANCEL_QOS \
    -u SCANCEL_NAME -u SCANCEL_WCKEY -u SCANCEL_HURRY "$@"
}

unanswered() { # what a command of Slurm said: it does not answer, but will again
  refuse "later: Slurm does not answer: $(printf %s "$1" | tr '\n' ' '); see \`scontrol ping\` there"
}

find_user() { user=$(id -un); }

ask_queue() { # -> $queue: "number|state|reason|name" of each job from here, of those that ended lately too
  find_user
  if ! command -v squeue >/dev/null 2>&1; then
    refuse 'squeue is not there; set PATH in `env` of the host to where Slurm has its commands'
  fi
  queue=$(quietly squeue --noheader --all --states=all --user="$user" --format='%i|%T|%r|%j|%Z' 2>&1) || unanswered "$queue"
  # Other fleets of the user have jobs of the same names.
  queue=$(printf '%s\n' "$queue" | root=$root awk -F '|' -v OFS='|' '$5 == ENVIRON["root"] { print $1, $2, $3, $4 }')
}

find_job() { # id number -> $job_number $job_state $job_reason; that of this number, or of those with this name a live one
  found=$(printf '%s\n' "$queue" | awk -F '|' -v name="$1" -v number="${2:--}" '
    $4 != name { next }
    { gsub(/[^A-Za-z0-9_.,:()-]+/, "_", $3) }
    { rank = 1 }
    $2 == "COMPLETED" { rank = 0 } # perhaps one that found the claim taken
    $2 !~ /^('"$ENDED"')$/ { rank = 2 }
    $1 == number { rank += 3 }
    rank >= best { best = rank; line = $1 " " $2 " " $3 }
    END { print line }')
  set -- $found
  job_number=${1:-} job_state=${2:-} job_reason=${3:-}
}

has_ended() { # job state
  case "|$ENDED|" in *"|$1|"*) ;; *) return 1 ;; esac
}

is_waiting() { # job state
  case $1 in
  PENDING | CONFIGURING | REQUEUED | REQUEUE_HOLD | REQUEUE_FED | RESV_DEL_HOLD | SPECIAL_EXIT) ;;
  *) return 1 ;;
  esac
}

find_age() { # file -> $age in seconds, by the clock of its file system; false if it is not there
  : >"$root/.now.$$"
  age=$(($(stat -c %Y "$root/.now.$$") - $(stat -c %Y "$1" 2>/dev/null || echo 0)))
  rm -f "$root/.now.$$"
  [ -e "$1" ]
}

refresh() { # folder: a change to it makes a network file system look again at what it has kept of it
  : >"$1/.look.$$" && rm -f "$1/.look.$$"
} 2>/dev/null

submit() { # TIMEOUT SIGNAL GRACE SHELL LOCK
  require_input
  id=${run##*/}
  put "$run" queued "$5" "$(date +%s)"
  printf '%s\n' "$seal" >"$mine.seal" && write_batch "$@" >"$mine.batch" || {
    rm -f "$mine".*
    refuse "cannot write down the job; $room"
  }
  said=$(quietly sbatch --parsable --no-requeue --job-name="$id" --chdir="$root" --input=/dev/null --output=/dev/null \
    --error=/dev/null "$mine.batch" 2>&1) || {
    rm -f "$mine".* # should it have been accepted all the same, it finds nothing to run
    case $said in
    *'Unable to contact'* | *'imed out'* | *'emporarily'* | *'onnect'* | *'Zero Bytes'* | *'uthentication'* | \
      *'MaxSubmit'* | *'submit limit'* | *'try again'*) unanswered "$said" ;;
    *'not found'*) refuse "$said; set PATH in \`env\` of the host to where Slurm has its commands" ;;
    *) refuse "Slurm does not take the job: $said; correct \`scheduler\` of the host" ;;
    esac
  }
  printf 'S queued queued %s 0 Submitted\n' "$5"
  exit 0
}

write_batch() { # TIMEOUT SIGNAL GRACE SHELL LOCK; the options stand at the beginning of the job, as sbatch has them
  echo '#!/bin/sh'
  sed -n '2,$ { /^#SBATCH /!q; p; }' "$mine.job"
  quoted=
  for word in "$4" "$SELF" _lead "$4" "$SELF" _supervise "$run" "$mine" "$1" "$2" "$3" "$4" "${5:--}" "$umask_was" "$LC_SET" "$LC_WAS"; do
    quoted="$quoted '$(printf %s "$word" | sed "s/'/'\\\\''/g")'"
  done
  run_quoted=$(printf %s "$run" | sed "s/'/'\\\\''/g") mine_quoted=$(printf %s "$mine" | sed "s/'/'\\\\''/g")
  # Whoever finds the claim taken, such as a job that the site started once more, has nothing to do.
  printf "cd '%s' || exit 70\n[ ! -e claim ] && [ -f '%s.seal' ] || exit 0\n" "$run_quoted" "$mine_quoted"
  printf "exec %s <'%s.seal' >/dev/null 2>>supervisor.log\n" "$quoted" "$mine_quoted"
}

look_at_unclaimed() { # folder -> $state
  get "$1" queued || return 0
  set -- "$1" $record
  find_job "${1##*/}"
  if [ -z "$job_state" ]; then
    state="dropped $2 Forgotten"
  elif has_ended "$job_state"; then
    state="dropped $2 $job_state"
  elif is_waiting "$job_state"; then
    state="queued $2 $(($(date +%s) - $3)) $job_reason"
  else
    state="queued $2 $(($(date +%s) - $3)) Starting"
  fi
  case $state in dropped*) refresh "$1" ;; esac
  [ ! -e "$1/claim" ] || state="running $2" # it began while we looked; the next look says more
}

look_at_claimed() { # folder claim... -> $state, or $lost
  lock=${5:--}
  find_job "${1##*/}" "$7"
  if [ -n "$job_state" ] && ! has_ended "$job_state" && ! is_waiting "$job_state"; then
    state="running $lock"
    return
  fi
  lost="$lock ${job_state:-Unknown}"
  ! is_waiting "$job_state" || lost="$lock REQUEUED"
  refresh "$1"
  # The job that made the claim is no more if it has ended, or waits once more. A controller that was killed
  # may have forgotten that it began: then it shows it as waiting, and the job runs all the same.
  if [ "$job_number" = "$7" ] && { has_ended "$job_state" || was_restarted "$7"; }; then return; fi
  if find_age "$1/beat" && [ "$age" -lt "$FRESH" ]; then state="running $lock"; fi
}

was_restarted() { # number
  case $(quietly scontrol --oneliner show job "$1" 2>/dev/null) in
  *' Restarts=0 '* | '') return 1 ;;
  esac
}

look_at_ended() { # folder; $state is `done` and its record: why it ended, Slurm may know better
  set -- "$1" $state
  [ "$7" = exit ] && [ "$3" != 0 ] && get "$1" claim || return 0
  set -- "$1" "$3" "$4" "$5" "$6" "$8" $record
  find_job "${1##*/}" "${12}"
  [ "$job_number" = "${12}" ] || return 0
  case $job_state in
  COMPLETED | FAILED) ;;
  TIMEOUT | CANCELLED | PREEMPTED | NODE_FAIL | BOOT_FAIL | OUT_OF_MEMORY | DEADLINE)
    state="done $2 $3 $4 $5 $job_state $6"
    ;;
  PENDING | REQUEUED | REQUEUE_HOLD | SPECIAL_EXIT)
    ! was_restarted "${12}" || state="done $2 $3 $4 $5 REQUEUED $6"
    ;;
  *) if find_age "$1/exit" && [ "$age" -lt "$SETTLE" ]; then state="ending ${10:--}"; fi ;;
  esac
}

attend() { # folder signal grace -> $attendant: signs of life, and an eye on `cancel`, wherever the queue thinks we are
  printf '%s begun\n' "${1##*/}" >>"${1%/*}/events"
  beats=0
  trap - TERM
  (
    trap '' TERM HUP # Slurm sends it to all of a job
    while is_alive $$ "$supervised"; do
      [ $((beats % 10)) -ne 0 ] || : >"$1/beat"
      beats=$((beats + 1))
      for cancel in "$1"/cance[l]; do # listed, not asked for: a network file system keeps what is not there
        [ ! -f "$cancel" ] || { end_run "$@"; break 2; }
      done
      sleep 1
    done
  ) &
  attendant=$!
  trap : TERM
}

end_there() { # folder signal grace; `cancel` is written: its supervisor ends the run, the queue what it does not
  id=${1##*/}
  find_job "$id"
  case $job_state in
  '') ;;
  PENDING | REQUEUED | REQUEUE_HOLD | SPECIAL_EXIT | RESV_DEL_HOLD) drop_jobs "$id" ;;
  *)
    has_ended "$job_state" || wait_for_exit "$1" $(($3 + 10)) || drop_jobs "$id"
    ;;
  esac
  ! get "$1" claim || ! find_age "$1/beat" || [ "$age" -ge "$FRESH" ] || wait_for_exit "$1" $(($3 + 10)) || :
  ask_queue
}

drop_jobs() { # id; a number counts only with the name
  ask_queue
  numbers=$(printf '%s\n' "$queue" | awk -F '|' -v name="$1" '$4 == name && $2 !~ /^('"$ENDED"')$/ { print $1 }')
  [ -n "$numbers" ] || return 0
  said=$(quietly scancel --user="$user" --name="$1" $numbers 2>&1) || case $said in
  *nvalid\ job* | *already*) ;;
  *) unanswered "$said" ;;
  esac
}

wait_for_exit() { # folder seconds; false if there is none by then
  get "$1" claim || return 1
  turn=0
  while [ "$turn" -lt $(($2 * 5)) ]; do
    ! get "$1" exit || return 0
    nap 0.2
    turn=$((turn + 1))
  done
  refresh "$1"
  get "$1" exit
}
