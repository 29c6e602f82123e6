#!/bin/sh
# Workspaces of runs on a host: one verb per step. POSIX sh and git.
#
#   find    FLEET KEY ID          a workspace as it is
#   prepare FLEET KEY ID          make the workspace of a run, or clean it for its next round
#   write   FLEET KEY ID          write the files that a round has, outside of git
#   discard FLEET ID...           remove those of rounds
#   undo    FLEET KEY ID          take back all that a round did which began in a clean workspace
#   take    FLEET KEY ID          commit what the agent of a round left uncommitted, or say what it left unfinished
#   bundle  FLEET KEY ID BASE     the commits of a round that the base does not have, as a git bundle
#   push    FLEET KEY ID COMMIT   push the commit of a round to its branch from here
#   ls      FLEET                 one line per workspace, be it one of which only a scratch folder is left; spares
#                                 and mirrors that nobody used for long go first, and crowded mirrors are tidied
#   sizes   FLEET KEY...          KiB on disk and name of each workspace that is there
#   rm      FLEET KEY...          remove workspaces; a few are cleaned and kept as spares. Name and commit of
#                                 each whose work nobody fetched
#
# Every answer begins with "S " (done as asked) or "E " (why not: a matter of the host).
# "S fault WHY" is the agent's matter: it left its workspace in a state that nobody can take up.
# "S unfit WHY" is the specs' matter: they ask for what cannot be done in this repository.
#   FLEET/repos/NAME.git   objects that the workspaces of a repo share; none goes before all do, a month after the last use
#   FLEET/work/KEY         the workspace: a repository of its own, so that no agent can touch another's
#   FLEET/spare/NAME.git/KEY  a work tree of that repo which nobody has: to fill it anew is quicker than an empty folder
#   FLEET/runs/ID/files    files of that round which are not in its workspace
#   FLEET/runs/ID/began    commit with which that round began, if it is to be taken back
#   FLEET/runs/ID/written  paths of those that are
#   FLEET/runs/ID/claim    there once the agent of that round was started
#   FLEET/runs/ID/unfinished   there if it left something unfinished, which the next round goes on with
#   FLEET/left/KEY         commit in that workspace that nobody fetched yet
#   FLEET/steps/KEY        pid and start time of the step that is at work on a workspace
#   FLEET/scratch/KEY      what that step has on its way; gone when it ends

refuse() { printf 'E %s\n' "$*"; exit 70; }
fault() { printf 'S fault %s\n' "$*"; exit 0; }
unfit() { printf 'S unfit %s\n' "$*"; exit 0; }
room='see whether the disk is full there, and who may write to it'
damaged='the agent must leave its .git alone'
tab='	'

# What startup files set for people: other repositories, dates and settings for git, other folders for cd.
names=CDPATH
case $(export -p) in *GIT_*) names="$names $(env | sed -n 's/^\(GIT_[A-Za-z0-9_]*\)=.*/\1/p')" ;; esac
for name in $names; do
  case $1:$name in push:GIT_CONFIG_* | *:GIT_SSH* | *:GIT_ASKPASS | *:GIT_SSL_* | *:GIT_HTTP_* | *:GIT_PROXY_*) ;; *) unset "$name" ;; esac
done
export LC_ALL=C GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0 GIT_NO_REPLACE_OBJECTS=1
run_git() { # without hooks and helpers: the agent may have put some there
  git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.alternateRefsCommand=true -c commit.gpgSign=false \
    -c gc.auto=0 -c maintenance.auto=false -c checkout.workers=0 "$@"
}
# Named, never searched for: with its .git gone, a search would end in somebody else's repository.
in_work() { run_git -C "$work" --git-dir="$work/.git" --work-tree="$work" "$@"; }

blame() { # what was being done, what git said of it: the host's matter is what no agent can bring about
  case $2 in
  *'No space left'* | *'quota exceeded'* | *'Read-only file system'* | *'Input/output error'* | *'Cannot allocate memory'*)
    refuse "$1: $2; $room"
    ;;
  esac
  fault "$1: $2; $damaged"
}

make_folders() { # those that are not there: to find that out starts nothing
  for each; do
    [ -d "$each" ] || mkdir -p -m 700 -- "$each" 2>/dev/null || return
  done
}

clear_away() { # files, most of which are not there: nothing is started for those
  for each; do
    [ ! -e "$each" ] && [ ! -h "$each" ] || remove "$each" || return
  done
}

enter() { # fleet key id -> $fleet $work $run
  make_folders "$1" "$1/work" "$1/repos" "$1/runs" && cd -P -- "$1" ||
    refuse "cannot make the folder $1; $room, or choose another workdir"
  fleet=$PWD work=$PWD/work/${2:-} run=$PWD/runs/${3:-}
  gone="the repository in the workspace $work is gone or damaged; $damaged"
}

find_start() { # pid -> $started; nothing for the dead
  started=
  if { IFS= read -r stat_line <"/proc/$1/stat"; } 2>/dev/null; then
    set -- ${stat_line##*\) }
    started=${20-}
  else
    started=$({ ps -o lstart= -p "$1" | tr ' ' _; } 2>/dev/null)
  fi
}

end_step() { # the one at work on $work, and all that it started
  IFS=' ' read -r pid since <"$step" && find_start "$pid" && [ -n "$since" ] && [ "$started" = "$since" ] && kill -KILL "$pid"
  kill -KILL $(head -c 1000000 /proc/[0-9]*/environ | tr '\0' '\n' | MARK="RECONCILER_STEP=$work" awk '
    /^==> .*\/[0-9]+\/environ <==$/ { split($2, part, "/"); pid = part[3] }
    $0 == ENVIRON["MARK"] { printf "%s ", pid }')
} 2>/dev/null

remove() { # paths...: also what an agent closed against us
  rm -rf "$@" 2>/dev/null || { chmod -R u+rwx "$@" && rm -rf "$@"; }
}

begin_step() { # nobody may be left who asked for the one before, or for this one: it ends when the next begins, or in time
  step=$fleet/steps/${work##*/} scratch=$fleet/scratch/${work##*/}
  make_folders "$fleet/steps" "$fleet/scratch"
  [ ! -f "$step" ] || [ -h "$step" ] || end_step
  find_start $$
  clear_away "$step"
  printf '%s %s\n' $$ "$started" >"$step" || refuse "cannot write $step; $room"
  clear_away "$scratch" && mkdir -m 700 "$scratch" || refuse "cannot make the folder $scratch; $room"
  RECONCILER_STEP=$work
  export RECONCILER_STEP
  (
    trap 'kill -KILL $!; exit' TERM # one that does not sleep yet would swallow another signal
    sleep "${RECONCILER_STEP_LIMIT:-1860}" & # somewhat longer than its caller waits
    wait $! && end_step
  ) </dev/null >/dev/null 2>&1 &
  watchdog=$!
  trap 'kill "$watchdog" 2>/dev/null; rm -rf "$scratch" "$step"' EXIT
}

need_git() { command -v git >/dev/null 2>&1 || refuse 'git is not installed, or not on the PATH of a login without terminal; install it'; }

has_all() { # commits...
  for wanted; do run_git --git-dir="$mirror" cat-file -e "$wanted^{commit}" 2>/dev/null || return 1; done
}

name_agent() { # folder
  printf '[user]\n\tname = %s\n\temail = agent@reconciler.invalid\n' "$name" >>"$1/.git/config"
}

odd='-type p -o -type s -o -type b -o -type c' # whoever reads one waits, or reads without end

remove_odd() { # in $work, also what its agent closed against us; in .git links too, as they lead out of it
  find "$work" \( $odd -o -type l -path "$work/.git/*" \) -exec sh -c '
    for at; do chmod u+rwx "${at%/*}" && rm -f "$at"; done' sh {} + 2>/dev/null
  # In repositories within, links to what is odd or not there.
  find "$work" -path "$work/.git" -prune -o -type l \( -name .git -o -path '*/.git/*' \) \
    -exec sh -c 'for at; do [ -f "$at" ] || [ -d "$at" ] || rm -f "$at"; done' sh {} + 2>/dev/null
}

make_new() { # a repository of our own at $new
  new=$scratch/new
  rm -rf "$new" && mkdir "$new" && run_git init -q --template= "$new"
}

own_git() { # whether .git is a folder of the workspace's own: the settings behind a link or a file are somebody's
  [ ! -h "$work" ] && [ -d "$work/.git" ] && [ ! -h "$work/.git" ]
}

restore_settings() { # git would run what the agent set there: filters, drivers, what is included
  make_new && name_agent "$new" &&
    rm -rf "$work/.git/config" "$work/.git/config.lock" "$work/.git/config.worktree" "$work/.git/commondir" \
      "$work/.git/hooks" "$work/.git/info" "$work/.git/refs/replace" &&
    mv "$new/.git/config" "$work/.git/config"
  restored=$?
  rm -rf "$new"
  return $restored
}

borrow_objects() { # of our mirror alone: what is read elsewhere may be a pipe, or may be gone tomorrow
  case $mirror in /*) ;; *) mirror=$fleet/$mirror ;; esac
  rm -rf "$work/.git/objects/info" && mkdir -p "$work/.git/objects/info" &&
    printf '%s/objects\n' "$mirror" >"$work/.git/objects/info/alternates"
}

take_back() { # $work/.git, from whoever was there since
  own_git || fault "$gone"
  remove_odd
  said=$({ restore_settings && borrow_objects; } 2>&1) || blame "cannot write $work/.git/config" "$said"
  # What was at work there is over; what it was killed at must not stop us.
  find "$work/.git" -path "$work/.git/objects" -prune -o -name '*.lock' -exec rm -rf {} + 2>/dev/null
  in_work ls-files >/dev/null 2>&1 || { # no index at all is better than one that cannot be read
    rm -rf "$work/.git/index"
    in_work read-tree HEAD 2>/dev/null
  }
}

open_up() { # what the agent closed against itself
  find "$work" -path "$work/.git" -prune -o \( -type d ! -perm -700 -o -type f ! -perm -400 \) \
    -exec chmod u+rwX {} \; 2>/dev/null
  remove_odd
}

answer_ready() { # base
  printf 'S ready\nbase %s\nwork %s\nrun %s\n' "$1" "$work" "$run"
  exit 0
}

clean() { # what the agent did is committed; what lies around is of the validation
  in_work reset -q --hard && in_work clean -q -ff -d
}

note_begin() { # of a round that is to be taken back; not if a person left something there
  mkdir -p "$run" && rm -rf "$run/began" || return 1
  [ -z "$(in_work status --porcelain | sed 1q)" ] || return 0
  in_work rev-parse -q --verify 'HEAD^{commit}' >"$run/began"
}

go_back() { # commit: that and what git ignores is all that stays
  for at in MERGE_HEAD MERGE_MSG CHERRY_PICK_HEAD REVERT_HEAD BISECT_LOG BISECT_START rebase-merge rebase-apply sequencer worktrees; do
    rm -rf "$work/.git/$at"
  done
  printf 'ref: refs/heads/%s\n' "$branch" >"$work/.git/HEAD.new" && mv -f "$work/.git/HEAD.new" "$work/.git/HEAD" &&
    in_work for-each-ref --format='delete %(refname)' | grep -v -e '^delete refs/remotes/' -e '^delete refs/reconciler/' |
    in_work update-ref --stdin &&
    in_work update-ref "refs/heads/$branch" "$1" || return 1
  rm -rf "$work/.git/index" # it may say of files that they are to be taken for unchanged
  clean || { open_up && clean; } || return 1
  rm -rf "$work/.git/logs" # what was left behind there is meant to be
}

is_unfinished() { # whether the round before this one left something that this one is to finish
  round=${run##*.r}
  case $round in *[!0-9]* | '' | 1) return 1 ;; esac
  [ -f "${run%.r*}.r$((round - 1))/unfinished" ]
}

set_upstream() { # branch commit
  in_work update-ref "refs/remotes/origin/$1" "$2" && return
  # Something else has a name that this one cannot be beside; all of them are ours to give.
  in_work for-each-ref --format='delete %(refname)' refs/remotes | in_work update-ref --stdin
  rm -rf "$work/.git/refs/remotes"
  in_work update-ref "refs/remotes/origin/$1" "$2"
}

create_mirror() { # in one move, as below
  before=$(last_remake)
  if [ -e "$mirror" ] || [ -h "$mirror" ]; then # looked for first: another step may make it meanwhile
    run_git --git-dir="$mirror" for-each-ref --count=1 >/dev/null 2>&1 || remake_mirror
    return
  fi
  rm -rf "$mirror.$$"
  run_git init -q --bare --template= "$mirror.$$" || return 1
  [ -d "$mirror" ] || mv "$mirror.$$" "$mirror" || return 1
  rm -rf "$mirror.$$" "$mirror/${mirror##*/}.$$" # into it went one that lost by a moment
}

last_remake() { cat "$mirror/remade" 2>/dev/null; }

remake_mirror() { # one step at a time, unless another has since $before
  case $mirror in "$fleet"/repos/*) ;; *) return 0 ;; esac # that of the reconciler it makes again itself
  (
    if command -v flock >/dev/null 2>&1; then flock -w 60 9 || exit 1; fi
    [ "$(last_remake)" != "$before" ] || renew_mirror
  ) 9>"$fleet/steps/.${mirror##*/}"
}

renew_mirror() { # all of it can be sent again; sound objects stay, and stay in their place: workspaces borrow them
  rm -rf "$mirror.$$"
  run_git init -q --bare --template= "$mirror.$$" || return 1
  if [ -h "$mirror" ] || [ -h "$mirror/objects" ] || [ ! -d "$mirror/objects" ]; then rm -rf "$mirror"; fi
  mkdir -p "$mirror/objects/pack" || return 1
  for left in "$mirror"/* "$mirror/objects/info"; do
    [ "$left" = "$mirror/objects" ] || rm -rf "$left"
  done
  mkdir -p "$mirror/objects/info"
  find "$mirror/objects" -type f \( -size 0 -o -name '*.lock' -o -name 'tmp_*' -o -name 'multi-pack-index*' \) -exec rm -f {} +
  for made in HEAD config refs; do mv "$mirror.$$/$made" "$mirror/$made" || return 1; done
  rm -rf "$mirror.$$"
  for index in "$mirror/objects/pack"/*.idx; do [ -f "${index%.idx}.pack" ] || rm -f "$index"; done
  for pack in "$mirror/objects/pack"/*.pack; do
    if [ -f "$pack" ] && ! run_git --git-dir="$mirror" verify-pack "$pack" >/dev/null 2>&1; then
      rm -f "${pack%.pack}.idx"
      run_git --git-dir="$mirror" index-pack "$pack" >/dev/null 2>&1 || rm -f "${pack%.pack}".*
    fi
  done
  run_git --git-dir="$mirror" fsck --full --no-dangling 2>&1 |
    sed -n 's|.*objects/\([0-9a-f][0-9a-f]/[0-9a-f]\{38,\}\).*|\1|p' | while IFS= read -r object; do
    rm -f "$mirror/objects/$object"
  done
  printf '%s\n' "$$ $started" >"$mirror/remade"
}

take_in() { # commits... that $mirror shall have; stdin: a bundle of those it lacks, or nothing
  before=$(last_remake)
  cat >"$scratch/in" || refuse "cannot take in commits; $room"
  if ! has_all "$@" && [ -s "$scratch/in" ]; then
    said=$(run_git --git-dir="$mirror" fetch -q --no-tags --no-write-fetch-head "$scratch/in" \
      '+refs/reconciler/base/*:refs/reconciler/base/*' 2>&1) || said="cannot take in commits: $said; $room"
  fi
  rm -f "$scratch/in"
  has_all "$@" && return
  case ${said:-} in
  *lacks*these*prerequisite* | '') ;;
  *)
    if [ "$(last_remake)" = "$before" ] && [ -n "$(find "$mirror/remade" -mmin -10 2>/dev/null)" ]; then
      refuse "$said" # it is not the mirror
    fi
    remake_mirror >/dev/null 2>&1 || refuse "$said"
    ;;
  esac
  printf 'S need\n'
  run_git --git-dir="$mirror" for-each-ref --sort=-creatordate --count=64 --format='have %(objectname)' refs/reconciler
  exit 0
}

tidy_mirrors() { # work goes on beside it: no object goes that a workspace may borrow
  find repos -type f -path '*/objects/pack/*tmp[_-]*' -mtime +1 -exec rm -f {} + # of fetches that were killed
  for mirror in repos/*.git; do
    set -- "$mirror"/objects/pack/*.pack
    packs=$#
    set -- "$mirror"/objects/17/*
    [ $packs -gt 50 ] || [ $# -gt 27 ] || continue
    run_git --git-dir="$mirror" for-each-ref --sort=-creatordate --format='delete %(refname)' refs/reconciler/base |
      sed 1,256d | run_git --git-dir="$mirror" update-ref --stdin
    run_git --git-dir="$mirror" -c pack.threads=1 repack -d -q -n --geometric=2
  done
  find repos -type d -path 'repos/*' -prune -mtime +30 | while IFS= read -r mirror; do
    is_borrowed || [ -z "$(find "$mirror" -prune -mtime +30)" ] || # somebody took it up since they were listed
      { mv -- "$mirror" "repos/.gone.$$" && rm -rf "repos/.gone.$$"; }
  done
}

is_borrowed() { # whether a workspace has objects of $mirror
  for alternates in work/*/.git/objects/info/alternates spare/*/*/.git/objects/info/alternates; do
    [ -f "$alternates" ] && IFS= read -r lender <"$alternates" && [ "$lender" = "$fleet/$mirror/objects" ] && return
  done
  return 1
}

create_work() { # in one move, so that a half made one is never seen
  new=$scratch/new
  take_spare && fill && return
  make_new && fill
}

take_spare() { # a rename has one winner
  for spare in "$fleet/spare/${mirror##*/}"/*; do
    [ -d "$spare" ] && mv "$spare" "$new" 2>/dev/null && return
  done
  return 1
}

fill() { # $new -> $work
  printf '%s/objects\n' "$mirror" >"$new/.git/objects/info/alternates" &&
    printf 'ref: refs/heads/%s\n' "$branch" >"$new/.git/HEAD" &&
    name_agent "$new" &&
    printf 'create %s %s\n' refs/reconciler/base "$commit" "refs/heads/$branch" "$commit" |
    run_git -C "$new" update-ref --stdin &&
    # Read anew, not believed: an agent may have had the index by which a spare counts as unchanged.
    rm -f "$new/.git/index" && run_git -C "$new" read-tree HEAD &&
    { run_git -C "$new" update-index -q --refresh >/dev/null || :; } &&
    run_git -C "$new" reset -q --hard && run_git -C "$new" clean -q -ff -d -x &&
    cp -p "$new/.git/index" "$new/.git/index.made" && # which files are as we made them, whoever was there since
    mv "$new" "$work"
}

reset_modes() { # of what is not as the umask has it; git knows of no mode but x
  find "$work" -path "$work/.git" -prune -o \
    \( -type d ! -perm "$(umask -S)" -o -type f ! -perm "$(umask -S)" ! -perm "$(umask -S | tr -d x)" \) \
    -exec chmod =rwX {} +
}

keep_spare() { # $work; of what its agent left nothing stays but files as they were committed
  [ ! -h "$work" ] && [ -f "$work/.git/index.made" ] && [ ! -e "$work/.gitmodules" ] &&
    [ -f "$work/.git/objects/info/alternates" ] && IFS= read -r mirror <"$work/.git/objects/info/alternates" || return 1
  mirror=${mirror%/objects}
  case $mirror in *.git) pool=$fleet/spare/${mirror##*/} ;; *) return 1 ;; esac
  mkdir -p "$pool" || return 1
  set -- "$pool"/*
  [ $# -lt 2 ] || return 1
  old=$scratch/old
  remove "$scratch" && mkdir -p "$scratch" && mv "$work/.git" "$old" && run_git init -q --template= "$work" && mv "$old/index.made" "$work/.git/index" &&
    in_work clean -q -ff -d -x && reset_modes && touch "$work" && mv "$work" "$pool/${work##*/}"
}

renew_index() { # from what is committed: the agent's may say of files that they are to be taken for unchanged
  sparse=$(in_work ls-files -t 2>/dev/null | sed -n 's/^S //p')
  forced=$(in_work ls-files --cached --ignored --exclude-standard 2>/dev/null)
  rm -rf "$work/.git/index"
  in_work rev-parse -q --verify HEAD >/dev/null || return 0
  in_work read-tree HEAD || return 1
  [ -z "$forced" ] || printf '%s\n' "$forced" | in_work update-index --add --remove --stdin || return 1
  printf '%s\n' "$sparse" | while IFS= read -r path; do
    case $path in '' | \"*) continue ;; esac
    [ -e "$work/$path" ] || [ -h "$work/$path" ] || printf '%s\n' "$path"
  done | in_work update-index --skip-worktree --stdin
}

find_nested() { # paths to leave out... -> the repositories in the work tree that are no submodules
  {
    in_work -c core.quotePath=false ls-files --others --exclude-standard -- . "$@" | sed -n 's|/$||p; s|/"$|"|p'
    {
      [ ! -h "$work/.gitmodules" ] && run_git config -f "$work/.gitmodules" --get-regexp '^submodule\..*\.path$' 2>/dev/null | sed 's/^.*\.path //'
      in_work -c core.quotePath=false diff --cached --raw --no-renames --ignore-submodules=none refs/reconciler/base --
    } | awk -F '\t' 'NF == 1 { known[$1] } $1 ~ /^:[0-7]* 160000 / && !($2 in known) { print $2 }'
  } 2>/dev/null | sort -u
}

find_operation() { # -> what git is in the middle of
  at=$work/.git
  if [ -e "$at/rebase-merge" ] || { [ -e "$at/rebase-apply" ] && [ ! -e "$at/rebase-apply/applying" ]; }; then
    operation=rebase
  elif [ -e "$at/rebase-apply" ]; then operation=am
  elif [ -e "$at/MERGE_HEAD" ]; then operation=merge
  elif [ -e "$at/CHERRY_PICK_HEAD" ]; then operation=cherry-pick
  elif [ -e "$at/REVERT_HEAD" ]; then operation=revert
  elif [ -e "$at/sequencer" ]; then operation='cherry-pick or revert'
  fi
  [ -n "${operation:-}" ] &&
    printf 'A %s is under way. Finish it (git %s --continue), or give it up (--abort).\n' "$operation" "${operation%% *}"
  if [ -e "$at/BISECT_LOG" ] || [ -e "$at/BISECT_START" ]; then
    printf 'A bisect is under way. End it (git bisect reset).\n'
  fi
  in_work -c core.quotePath=false ls-files --unmerged | cut -f 2- | sort -u |
    sed 's/^/Not merged: /; 20q'
  # Git remembers which files had a conflict, whatever became of the operation; other files may have such lines.
  in_work -c core.quotePath=false ls-files --resolve-undo | cut -f 2- | sort -u | while IFS= read -r path; do
    [ -f "$work/$path" ] && [ ! -h "$work/$path" ] && grep -q '^<<<<<<< ' "$work/$path" &&
      grep -q '^>>>>>>> ' "$work/$path" && printf 'Not merged: %s, which has the marks of a conflict\n' "$path"
  done | sed 20q
}

count_left() { # commit not-in...: how many commits no line of work that is delivered has, nor one that does the same
  commit=$1
  shift
  head=$(in_work rev-parse -q --verify HEAD) || head=refs/reconciler/base # on a branch that has no commit yet
  printf '^%s\n' $others | in_work rev-list --count --no-merges --cherry-pick --right-only --stdin "$head...$commit" \
    --not refs/reconciler/base "$@" 2>/dev/null || echo 0
}

find_others() { # -> $others: commits here that are others' work: what the mirror has, and what a fetch brought
  others=$({
    echo refs/reconciler/base
    in_work for-each-ref --format='%(objectname)' | run_git --git-dir="$mirror" cat-file --batch-check='%(objectname) %(objecttype)' |
      sed -n 's/ commit$//p'
    [ ! -d "$work/.git/logs/refs" ] || find "$work/.git/logs/refs" -type f -exec awk '
      function note() { if (last ~ /\t(fetch|pull|clone)/ && last !~ /\t(fetch|pull) ([^:]* )?\.[ :]/) { split(last, id, " "); print id[2] } }
      FILENAME != file { note(); file = FILENAME }
      { last = $0 }
      END { note() }' {} +
  } | sort -u | in_work cat-file --batch-check='%(objectname) %(objecttype)' | sed -n 's/ commit$//p')
}

find_left_heads() { # log of a HEAD -> commits that it was moved from, but for what rewrites or drops them
  # Who moves HEAD by hand leaves an entry without words, or none: the next does not begin where the last ended.
  # A rebase moves from commits too, and writes other words.
  head=
  [ "$1" != "$work/.git/logs/HEAD" ] || head=$(in_work rev-parse -q --verify HEAD)
  awk -F '\t' -v head="$head" '
    function left(id) { if (length(id) >= 40 && id !~ /^0+$/) print id }
    { split($1, id, " "); split($2, words, " ") }
    $2 == "" || (NR > 1 && id[1] "" != last "") { left(NR > 1 ? last : id[1]) }
    $2 ~ /^checkout: moving from [0-9a-f]+ to / && words[4] == id[1] { left(id[1]) }
    { last = id[2] }
    END { if (head != "" && last "" != head "") left(last) }' "$1"
}

find_root_refs() { # repository -> refs beside its HEAD, but for those by which git remembers where it was
  for ref in "$1"/*[A-Z]; do
    ref=${ref##*/}
    case $ref in *[!A-Z_]* | HEAD | FETCH_HEAD | ORIG_HEAD | AUTO_MERGE | BISECT_* | *_MSG) continue ;; esac
    case $ref in MERGE_HEAD | REBASE_HEAD | CHERRY_PICK_HEAD | REVERT_HEAD) continue ;; esac
    run_git --git-dir="$1" rev-parse -q --verify "$ref^{commit}" >/dev/null && printf '%s\n' "$ref"
  done
}

is_note() { # ref: whether it has remarks about objects alone, by the names of its files
  case $1 in refs/notes/*) ;; *) return 1 ;; esac
  ! in_work ls-tree -r --name-only "$1" | tr -d / | grep -qvE '^[0-9a-f]{40}([0-9a-f]{24})?$'
}

is_backup() { # ref: whether filter-branch made it: its branch is there, and was there
  log=$work/.git/logs/${1#refs/original/}
  [ "$log" != "$work/.git/logs/$1" ] && [ -f "$log" ] && commit=$(in_work rev-parse -q --verify "$1^{commit}") &&
    grep -q "^$commit .*filter-branch" "$log"
}

find_strays() { # -> commits that the delivered branch would not have
  # Wherever the ref is, but for ours; not the remarks of git notes, nor what git keeps of a branch that it rewrote.
  find_others
  {
    in_work for-each-ref --no-merged=refs/reconciler/base --format='%(refname)' | grep -v -e '^refs/reconciler/' -e '^refs/stash$'
    find_root_refs "$work/.git"
  } | while IFS= read -r ref; do
    left=$(count_left "$ref^{commit}")
    [ "$left" = 0 ] || is_note "$ref" || is_backup "$ref" ||
      printf '%s has %s commits that HEAD does not have. Merge them, or delete it.\n' "$ref" "$left"
  done | sed 50q
  # A head that was on no branch when it was left.
  for log in "$work/.git/logs/HEAD" "$work"/.git/worktrees/*/logs/HEAD; do
    [ -f "$log" ] && find_left_heads "$log"
  done | sort -u | while IFS= read -r commit; do
    left=$(count_left "$commit" --branches --tags)
    [ "$left" = 0 ] || printf 'Commit %s was made on no branch and left behind. Cherry-pick it, or forget it (git reflog expire --expire=now --all).\n' "$commit"
  done | sed 50q
  in_work rev-parse -q --verify refs/stash >/dev/null &&
    printf 'Changes are stashed. Apply them (git stash pop), or drop them (git stash drop).\n'
  for tree in "$work"/.git/worktrees/*/; do
    tree=${tree%/}
    IFS= read -r place 2>/dev/null <"$tree/gitdir" || continue
    place=${place%/.git}
    IFS= read -r head 2>/dev/null <"$tree/HEAD" || head=
    case $head in
    '' | *[!0-9a-f]*) ;; # on a branch, whose commits were looked at
    *)
      [ "$(count_left "$head" --branches --tags)" = 0 ] ||
        printf 'The work tree %s is at commit %s, which no branch has. Cherry-pick it, or remove the work tree (git worktree remove --force).\n' "$place" "$head"
      ;;
    esac
    [ -f "$place/.git" ] && IFS= read -r back 2>/dev/null <"$place/.git" && [ "$back" = "gitdir: $tree" ] || continue
    # Its settings are those of the workspace, which are ours, and not those of another place that it names.
    rm -rf "$tree/commondir" && printf '../..\n' >"$tree/commondir"
    changed=$(find "$place" \( $odd \) 2>/dev/null | sed 1q)
    if [ -n "${changed:-$(run_git --git-dir="$tree" --work-tree="$place" status --porcelain 2>/dev/null | sed 1q)}" ]; then
      printf 'The work tree %s has changes that are not committed. Commit them, or remove it (git worktree remove --force).\n' "$place"
    fi
  done
}

leads_out() { # folder of a submodule's repository: whether git would go on reading elsewhere, where it may wait for ever
  at=$(cd -P -- "$1" && pwd) || return 0
  case $at in "$work"/*) ;; *) return 0 ;; esac
  [ -e "$at/commondir" ] || [ -e "$at/objects/info/alternates" ] || [ -e "$at/objects/info/http-alternates" ]
}

# The settings of a submodule are the agent's; none of them is heeded by what looks at refs and commits alone.
in_inner() { GIT_ALLOW_PROTOCOL=none run_git --git-dir="$inner" "$@"; }

find_theirs() { # of $inner -> $theirs: what others have: a clone or a fetch brought it, or a push took it to them
  theirs=$({
    in_inner for-each-ref --format='%(objectname) %(refname)' refs/remotes | while read -r commit ref; do
      log=$inner/logs/$ref
      [ ! -f "$log" ] || sed -n '$p' "$log" | grep -E "$tab(fetch|pull|clone|update by push)" | grep -qvE "$tab(fetch|pull) ([^:]* )?\.[ :]" &&
        printf '%s\n' "$commit"
    done
    [ ! -f "$inner/packed-refs" ] || sed -n 's|^\([0-9a-f]*\) refs/tags/.*|\1|p' "$inner/packed-refs"
    [ ! -f "$inner/FETCH_HEAD" ] || sed -n "/ of \\.\$/d; s|^\\([0-9a-f]*\\)$tab.*|\\1|p" "$inner/FETCH_HEAD"
  } | sort -u | in_inner cat-file --batch-check='%(objectname) %(objecttype)' | sed -n 's/ \(commit\|tag\)$//p')
}

count_inner() { # commit not-in...: how many commits of a submodule are nobody else's, nor in others of its own
  commit=$1
  shift
  printf '^%s\n' $theirs | grep -vFx '^' |
    in_inner rev-list --count --stdin "$commit" --not "$@" 2>/dev/null || echo 0
}

is_fetched_tag() { # ref of $inner: whether it is a tag of a commit that was not made here; fetches leave no log of tags
  case $1 in refs/tags/*) ;; *) return 1 ;; esac
  made=$(in_inner rev-parse -q --verify "$1^{commit}") && [ -f "$inner/logs/HEAD" ] &&
    ! grep "^[0-9a-f]* $made " "$inner/logs/HEAD" | grep -qvE "$tab(checkout|clone)"
}

find_submodules() { # -> submodules with work that nobody else could get
  in_work -c core.quotePath=false ls-files --stage | sed -n 's/^160000 \([0-9a-f]*\) 0\t/\1 /p' |
    while read -r commit path; do
      there=$work/$path
      if [ -f "$there/.git" ]; then
        IFS= read -r inner <"$there/.git" && inner=${inner#gitdir: }
        case $inner in /*) ;; *) inner=$there/$inner ;; esac
      else inner=$there/.git; fi
      [ -d "$inner" ] || continue
      if leads_out "$inner"; then
        printf 'Submodule %s has its repository, or parts of it, outside of this folder. Make it anew (git submodule deinit, then update --init).\n' "$path"
        continue
      fi
      find_theirs
      head=$(in_inner rev-parse -q --verify 'HEAD^{commit}') || continue
      [ "$(count_inner "$head")" = 0 ] ||
        printf 'Submodule %s is at commit %s, which only this folder has. Push it to where the submodule is from, or go back.\n' "$path" "$head"
      in_inner rev-parse -q --verify refs/stash >/dev/null &&
        printf 'Submodule %s has changes that are stashed. Commit and push them there, or drop them (git stash drop).\n' "$path"
      {
        in_inner for-each-ref --format='%(refname)' | grep -v '^refs/stash$'
        find_root_refs "$inner"
      } | while IFS= read -r ref; do
        [ "$(count_inner "$ref^{commit}" "$head")" = 0 ] || is_fetched_tag "$ref" ||
          printf 'Submodule %s has commits on %s that nobody else has. Push them to where the submodule is from, or delete it.\n' "$path" "$ref"
      done | sed 50q
      [ -f "$inner/logs/HEAD" ] && find_left_heads "$inner/logs/HEAD" | sort -u | while IFS= read -r commit; do
        [ "$(count_inner "$commit" "$head" --branches --tags)" = 0 ] ||
          printf 'Submodule %s has commit %s, which was made on no branch and left behind. Cherry-pick and push it, or forget it (git reflog expire --expire=now --all).\n' "$path" "$commit"
      done | sed 50q
      [ ! -h "$inner/index" ] && make_new && printf '%s/objects\n' "$inner" >"$new/.git/objects/info/alternates" &&
        printf '%s\n' "$head" >"$new/.git/HEAD" && cp -p "$inner/index" "$new/.git/index" &&
        [ -n "$(run_git --git-dir="$new/.git" --work-tree="$there" status --porcelain --ignore-submodules=all | sed 1q)" ] &&
        printf 'Submodule %s has changes that are not committed. Commit and push them there, or undo them.\n' "$path"
      rm -rf "$new"
    done 2>/dev/null
}

find_unfinished() { # paths to leave out... -> what would be lost, or be taken for done, a line each
  find_operation
  find_nested "$@" | sed -n 's|^|A repository within the repository would be lost: |; s|$|. Remove its .git, or make it a submodule.|p; 20q'
  find_submodules
  find_strays
}

add_all() { # paths to leave out... -> $said; a folder that cannot be entered is only a warning of git's
  said=$(in_work add -A -- . "$@" 2>&1 </dev/null)
  code=$?
  case $said in *'Permission denied'*) return 1 ;; esac
  return $code
}

answer_as_it_is() { # of a workspace in which something of ours was started
  [ -z "$(find "$work/.git" -type p 2>/dev/null | sed 1q)" ] || answer_ready - # nobody waits for the agent's pipes
  answer_ready "$(in_work rev-parse -q --verify 'refs/reconciler/base^{commit}' 2>/dev/null || echo -)"
}

is_tracked() { # path in the workspace, of a file or a folder
  [ -d "$work/.git" ] && [ -n "$(in_work ls-files -- ":(top,literal)$1" | sed 1q)" ]
}

has_link() { # base path -> $target; whether it, or a folder on the way to the path, is a link: $target is that then
  target=$1 rest=$2
  [ ! -h "$target" ] || return 0
  while [ "$rest" != "${rest#*/}" ]; do
    target=$target/${rest%%/*} rest=${rest#*/}
    [ ! -h "$target" ] || return 0
  done
  target=$target/$rest
  return 1
}

exclude_file() { # path in the workspace: it is never committed, and it is removed
  printf '%s\n' "$1" >>"$run/written" || return 1
  [ ! -d "$work/.git" ] || { mkdir -p "$work/.git/info" && printf '/%s\n' "$1" >>"$work/.git/info/exclude"; }
}

is_ignored() { # path in the workspace; an agent that adds all it has would commit one that is not
  [ ! -d "$work/.git" ] || in_work check-ignore -q --no-index -- "$1"
}

write_file() { # lines path; stdin has those lines
  case $2 in
  '{files}/'*) base=$run/files at=${2#*/} ;;
  *)
    ! is_tracked "$2" || unfit "file $2: git has one of that name, and what is in git is never written over; choose another path, or {files}/${2##*/}"
    base=$work at=$2
    ;;
  esac
  ! has_link "$base" "$at" || unfit "file $2: ${target#"$base/"} is a link here; name the folder that it leads to"
  [ -h "$target" ] || [ ! -d "$target" ] || unfit "file $2: there is a folder of that name; choose another"
  mkdir -p "${target%/*}" 2>/dev/null || unfit "file $2: cannot make its folder: a file has the name of that, or nobody may write there"
  if [ "$base" = "$work" ]; then
    exclude_file "$at" || refuse "cannot write to $run and $work/.git; $room"
    is_ignored "$at" || unfit "file $2: a .gitignore here takes it in again (\`!\`), so that it would be committed; choose another path, or {files}/${2##*/}"
  fi
  left=$1
  while [ "$left" -gt 0 ] && IFS= read -r line; do
    printf '%s\n' "$line"
    left=$((left - 1))
  done >"$run/file.$$" && [ "$left" = 0 ] && mv -f "$run/file.$$" "$target" || refuse "cannot write $target; $room"
}

discard_files() { # of $run; what stands there may be the agent's by now
  [ -f "$run/written" ] && [ ! -h "$run/written" ] && while IFS= read -r path; do
    case /$path/ in */../* | */./* | *//* | /.git/*) continue ;; esac
    ! has_link "$work" "$path" || continue
    rm -rf "$target" 2>/dev/null || { chmod u+rwx "${target%/*}" && rm -rf "$target"; }
    case $path in */*) (cd "$work" && rmdir -p "${path%/*}") 2>/dev/null ;; esac # made for it, or empty all the same
  done <"$run/written"
  rm -rf "$run/written" "$run/files"
}

case ${1:-} in
find) # FLEET KEY ID; no stdin
  enter "$2" "$3" "$4"
  answer_as_it_is
  ;;
prepare) # FLEET KEY ID; stdin: name of the agent, repository ("" for none), branch, commit, base branch, its newest commit, whether to leave what lies there, mode, a line each; a bundle
  enter "$2" "$3" "$4"
  begin_step
  for field in name mirror branch commit upstream newest keep mode; do IFS= read -r "$field" || refuse 'short'; done
  if [ -f "$run/claim" ] || [ -f "${run}v/claim" ]; then # nothing is touched any more
    cat >/dev/null
    answer_as_it_is
  fi
  if [ -z "$mirror" ]; then
    case $4 in *.r1) clear_away "$work" ;; esac
    [ -d "$work" ] || mkdir -p "$work" || refuse "cannot make the folder $work; $room"
    answer_ready -
  fi
  need_git
  case $4 in *.r1) clear_away "$work" ;; esac # before the first round nothing of it is ours but what is cut off
  case $mirror in /*) ;; *) mirror=$fleet/$mirror ;; esac
  said=$(create_mirror 2>&1) || refuse "cannot make $mirror: $said; $room"
  touch "$mirror" 2>/dev/null # one that was not used for long is removed
  take_in "$commit" "$newest"
  if [ -e "$work/.git" ]; then
    take_back
    [ -n "$keep" ] || is_unfinished || said=$(clean 2>&1) || { open_up && said=$(clean 2>&1); } || blame "cannot clean $work" "$said"
    commit=$(in_work rev-parse -q --verify 'refs/reconciler/base^{commit}') || fault "$gone"
  else
    said=$(create_work 2>&1) || refuse "cannot make $work: $said; $room"
  fi
  said=$(set_upstream "$upstream" "$newest" 2>&1) || blame "cannot write refs/remotes/origin/$upstream in $work" "$said"
  [ "$mode" != plan ] || note_begin || refuse "cannot write to $run; $room"
  answer_ready "$commit"
  ;;
undo) # FLEET KEY ID; stdin: name of the agent, repository, branch, a line each
  enter "$2" "$3" "$4"
  begin_step
  for field in name mirror branch; do IFS= read -r "$field" || refuse 'short'; done
  if [ -f "$run/began" ] && IFS= read -r commit <"$run/began"; then
    take_back
    said=$(go_back "$commit" 2>&1) || blame "cannot take back what a plan left in $work" "$said"
    rm -f "$run/began"
  fi
  printf 'S undone\n'
  ;;
write) # FLEET KEY ID; stdin: for each file a line "LINES PATH", then its lines; a path with {files}/ is not in the workspace
  enter "$2" "$3" "$4"
  begin_step
  umask 077
  mkdir -p "$run/files" || refuse "cannot make the folder $run; $room"
  while IFS=' ' read -r lines path; do write_file "$lines" "$path"; done
  printf 'S written\n'
  ;;
discard) # FLEET ID...; no stdin
  enter "$2" # beside any step: it would only be ended, and begun again
  shift 2
  for id; do
    run=$fleet/runs/$id work=$fleet/work/${id%.r*}
    discard_files
  done
  printf 'S discarded\n'
  ;;
take) # FLEET KEY ID; stdin: name of the agent, repository, number of paths to leave out, those paths, a line each; the message
  enter "$2" "$3" "$4"
  begin_step
  IFS= read -r name && IFS= read -r mirror && IFS= read -r count || refuse 'short'
  set --
  while [ "$count" -gt 0 ] && IFS= read -r path; do
    set -- "$@" ":(top,exclude)$path"
    count=$((count - 1))
  done
  [ -f "${run}v/claim" ] || take_back
  discard_files
  base=$(in_work rev-parse -q --verify 'refs/reconciler/base^{commit}' 2>/dev/null) || fault "$gone"
  result=refs/reconciler/done/${run##*/}
  if [ -f "${run}v/claim" ]; then # what lies there by now is of the validation
    cat >/dev/null
  else
    # Looked for first: what follows makes one commit of whatever lies there.
    unfinished=$(find_unfinished "$@")
    if [ -n "$unfinished" ]; then
      cat >/dev/null
      mkdir -p "$run" && : >"$run/unfinished" || refuse "cannot write to $run; $room"
      printf 'S unfinished\n%s\n' "$unfinished"
      exit 0
    fi
    rm -f "$run/unfinished"
    said=$(renew_index 2>&1 </dev/null) || blame "cannot read what is committed in $work" "$said"
    add_all "$@" || { open_up; add_all "$@"; } || blame "cannot take up what lies in $work" "$said"
    if in_work diff --cached --quiet; then
      cat >/dev/null
    else
      said=$(GIT_AUTHOR_NAME=$name GIT_AUTHOR_EMAIL=agent@reconciler.invalid \
        GIT_COMMITTER_NAME=$name GIT_COMMITTER_EMAIL=agent@reconciler.invalid \
        in_work commit -q --no-verify --cleanup=verbatim -F - 2>&1) || blame "cannot commit in $work" "$said"
    fi
    # What the agent kept out of its work tree (sparse) is in the commit, and so in what is validated.
    said=$(rm -f "$work/.git/index" && in_work read-tree HEAD 2>&1 && in_work ls-files -z --deleted | in_work checkout-index -q -z --stdin 2>&1) ||
      blame "cannot complete $work" "$said"
    said=$(in_work update-ref "$result" HEAD 2>&1) || blame "no commit in $work" "$said"
  fi
  head=$(in_work rev-parse -q --verify "$result^{commit}") || fault "$gone"
  left=$fleet/left/${work##*/}
  mkdir -p -m 700 "$fleet/left" && rm -rf "$left" && { [ "$head" = "$base" ] || printf '%s\n' "$head" >"$left"; } ||
    refuse "cannot write $left; $room"
  printf 'S taken %s %s\n' "$base" "$head"
  ;;
bundle) # FLEET KEY ID BASE; stdin: repository, a line
  enter "$2" "$3" "$4"
  begin_step
  IFS= read -r mirror || refuse 'short'
  name=agent
  take_back # the validation ran the code of the branch
  file=$scratch/out
  said=$(in_work bundle create -q "$file" "refs/reconciler/done/$4" "^$5" 2>&1) ||
    blame "cannot bundle the work in $work" "$said"
  printf 'S bundle %s\n' "$(($(wc -c <"$file")))"
  cat "$file" && rm -f "$fleet/left/${work##*/}"
  ;;
push) # FLEET KEY ID COMMIT; stdin: repository, URL, ref, commit that it holds now ("" for none), a line each; a bundle
  enter "$2" "$3" "$4"
  begin_step
  for field in mirror url ref expected; do IFS= read -r "$field" || refuse 'short'; done
  own_git || fault "$gone"
  remove_odd
  borrow_objects || refuse "cannot write $work/.git/objects; $room"
  borrowed="\"$work/.git/objects\""
  # Into the mirror goes nothing that counts on the workspace, which will be gone.
  if (export GIT_ALTERNATE_OBJECT_DIRECTORIES="$borrowed" && has_all "$5"); then cat >/dev/null; else take_in "$5"; fi
  # From a repository made for it: an agent may have written settings (SSH command, credential helper) into the
  # others, the mirror too. Those of the user here count, for credentials.
  make_new || refuse "cannot make $new; $room"
  unset GIT_CONFIG_GLOBAL GIT_CONFIG_NOSYSTEM
  export GIT_ALTERNATE_OBJECT_DIRECTORIES="\"$mirror/objects\":$borrowed" GIT_ALLOW_PROTOCOL=file:https:http:ssh
  said=$(run_git --git-dir="$new/.git" -c push.gpgSign=false -c push.recurseSubmodules=no push -q --no-verify \
    --no-follow-tags "--force-with-lease=$ref:$expected" -- "$url" "$5:$ref" 2>&1 </dev/null) || refuse "$said"
  printf 'S pushed\n'
  ;;
ls) # FLEET
  enter "$2"
  find spare -type d -path 'spare/*/*' -prune -mtime +7 -exec rm -rf {} + 2>/dev/null # nobody took them for a week
  tidy_mirrors >/dev/null 2>&1
  printf 'S\n'
  for work in "$fleet"/work/* "$fleet"/scratch/*; do
    [ -e "$work" ] && printf '%s\n' "${work##*/}"
  done | sort -u
  exit 0
  ;;
sizes) # FLEET KEY...
  enter "$2"
  shift 2
  printf 'S\n'
  cd work && du -sk -- "$@" 2>/dev/null
  exit 0
  ;;
rm) # FLEET KEY...
  enter "$2"
  shift 2
  unfetched=
  for key in "$@"; do
    work=$fleet/work/$key scratch=$fleet/scratch/$key left=$fleet/left/$key
    if [ -f "$left" ] && [ ! -h "$left" ] && IFS= read -r commit <"$left"; then
      case $commit in *[!0-9a-f]*) ;; *) unfetched="$unfetched$key $commit
" ;; esac
    fi
    rm -rf "$left"
    keep_spare >/dev/null 2>&1
    remove "$work" "$scratch" || refuse "cannot remove $work; see whose files are in it"
  done
  printf 'S removed\n%s' "$unfetched"
  ;;
*) refuse "no such verb: ${1:-}" ;;
esac
