#!/bin/sh
# Workspaces of runs on a host: one verb per step. POSIX sh and git.
#
#   prepare FLEET KEY ID          make the workspace of a run, or clean it for its next round
#   take    FLEET KEY ID          commit what the agent of a round left uncommitted
#   bundle  FLEET KEY ID BASE     the commits of a round that the base does not have, as a git bundle
#   push    FLEET KEY ID COMMIT   push the commit of a round to its branch from here
#   ls      FLEET                 one line per workspace
#   sizes   FLEET KEY...          KiB on disk and name of each workspace that is there
#   rm      FLEET KEY...          remove workspaces; a few are cleaned and kept as spares
#
# Every answer begins with "S " (done as asked) or "E " (why not).
#   FLEET/repos/NAME.git   objects that the workspaces of a repo share; never pruned
#   FLEET/work/KEY         the workspace: a repository of its own, so that no agent can touch another's
#   FLEET/spare/NAME.git/KEY  a work tree of that repo which nobody has: to fill it anew is quicker than an empty folder
#   FLEET/runs/ID/claim    there once the agent of that round was started

refuse() { printf 'E %s\n' "$*"; exit 70; }
room='see whether the disk is full there, and who may write to it'
damaged='the agent must leave its .git alone'

export LC_ALL=C GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0 GIT_NO_REPLACE_OBJECTS=1
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES
run_git() { # without hooks and helpers: the agent may have put some there
  git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c commit.gpgSign=false \
    -c gc.auto=0 -c maintenance.auto=false -c checkout.workers=0 "$@"
}
# Named, never searched for: with its .git gone, a search would end in somebody else's repository.
in_work() { run_git -C "$work" --git-dir="$work/.git" --work-tree="$work" "$@"; }

enter() { # fleet key id -> $fleet $work $run
  mkdir -p -m 700 -- "$1" 2>/dev/null && mkdir -p -m 700 -- "$1/work" "$1/repos" "$1/runs" && cd -P -- "$1" ||
    refuse "cannot make the folder $1; $room, or choose another workdir"
  fleet=$PWD work=$PWD/work/${2:-} run=$PWD/runs/${3:-}
}

need_git() { command -v git >/dev/null 2>&1 || refuse 'git is not installed, or not on the PATH of a login without terminal; install it'; }

has_all() { # commits...
  for wanted; do run_git --git-dir="$mirror" cat-file -e "$wanted^{commit}" 2>/dev/null || return 1; done
}

name_agent() { # folder
  printf '[user]\n\tname = %s\n\temail = agent@reconciler.invalid\n' "$name" >>"$1/.git/config"
}

own_git() { # whether .git is a folder of the workspace's own: the settings behind a link or a file are somebody's
  [ ! -h "$work" ] && [ -d "$work/.git" ] && [ ! -h "$work/.git" ]
}

restore_settings() { # git would run what the agent set there: filters, drivers, what is included
  new=$work.new.$$
  run_git init -q --template= "$new" && name_agent "$new" &&
    rm -rf "$work/.git/config" "$work/.git/config.lock" "$work/.git/config.worktree" "$work/.git/commondir" \
      "$work/.git/hooks" "$work/.git/info" "$work/.git/refs/replace" &&
    mv "$new/.git/config" "$work/.git/config"
  restored=$?
  rm -rf "$new"
  return $restored
}

take_back() { # $work/.git, from whoever was there since
  own_git || refuse "the repository in the workspace $work is gone or damaged; $damaged"
  said=$(restore_settings 2>&1) || refuse "cannot write $work/.git/config: $said; $room"
}

answer_ready() { # base
  printf 'S ready\nbase %s\nwork %s\nrun %s\n' "$1" "$work" "$run"
  exit 0
}

clean() { # what the agent did is committed; what lies around is of the validation
  rm -f "$work/.git/index.lock"
  in_work reset -q --hard && in_work clean -q -f -d
}

create_mirror() { # in one move, as below
  [ -d "$mirror" ] && return
  run_git init -q --bare --template= "$mirror.$$" || return 1
  [ -d "$mirror" ] || mv "$mirror.$$" "$mirror"
  rm -rf "$mirror.$$"
}

take_in() { # commits... that $mirror shall have; stdin: a bundle of those it lacks, or nothing
  cat >"$work.in.$$" || {
    rm -f "$work.in.$$"
    refuse "cannot take in commits; $room"
  }
  if ! has_all "$@" && [ -s "$work.in.$$" ]; then
    said=$(run_git --git-dir="$mirror" fetch -q --no-tags --no-write-fetch-head "$work.in.$$" \
      '+refs/reconciler/base/*:refs/reconciler/base/*' 2>&1) || said="cannot take in commits: $said; $room"
  fi
  rm -f "$work.in.$$"
  has_all "$@" && return
  case ${said:-} in *lacks*these*prerequisite* | '') ;; *) refuse "$said" ;; esac
  printf 'S need\n'
  run_git --git-dir="$mirror" for-each-ref --sort=-creatordate --count=64 --format='have %(objectname)' refs/reconciler
  exit 0
}

create_work() { # in one move, so that a half made one is never seen
  new=$work.new.$$
  rm -rf "$new"
  take_spare && fill && return
  rm -rf "$new"
  run_git init -q --template= "$new" && fill || {
    rm -rf "$new"
    return 1
  }
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
    IFS= read -r mirror <"$work/.git/objects/info/alternates" || return 1
  mirror=${mirror%/objects}
  case $mirror in *.git) pool=$fleet/spare/${mirror##*/} ;; *) return 1 ;; esac
  mkdir -p "$pool" || return 1
  set -- "$pool"/*
  [ $# -lt 2 ] || return 1
  old=$work.old.$$
  mv "$work/.git" "$old" && run_git init -q --template= "$work" && mv "$old/index.made" "$work/.git/index" &&
    in_work clean -q -ff -d -x && reset_modes && touch "$work" && mv "$work" "$pool/${work##*/}"
  kept=$?
  rm -rf "$old"
  return $kept
}

renew_index() { # from what is committed: the agent's may say of files that they are to be taken for unchanged
  sparse=$(in_work ls-files -t 2>/dev/null | sed -n 's/^S //p')
  rm -rf "$work/.git/index"
  in_work rev-parse -q --verify HEAD >/dev/null || return 0
  in_work read-tree HEAD || return 1
  printf '%s\n' "$sparse" | while IFS= read -r path; do
    case $path in '' | \"*) continue ;; esac
    [ -e "$work/$path" ] || [ -h "$work/$path" ] || printf '%s\n' "$path"
  done | in_work update-index --skip-worktree --stdin
}

find_nested() { # -> $nested: new repositories in the work tree that are no submodules
  nested=$(
    {
      run_git config -f "$work/.gitmodules" --get-regexp '^submodule\..*\.path$' 2>/dev/null | sed 's/^.*\.path //'
      in_work -c core.quotePath=false diff --cached --raw --no-renames --ignore-submodules=none refs/reconciler/base
    } | awk -F '\t' 'NF == 1 { known[$1] } $1 ~ /^:[0-7]* 160000 / && !($2 in known) { print $2 }'
  )
  [ -n "$nested" ]
}

case ${1:-} in
prepare) # FLEET KEY ID; stdin: name of the agent, repository ("" for none), branch, commit, base branch, its newest commit, a line each; a bundle
  enter "$2" "$3" "$4"
  for field in name mirror branch commit upstream newest; do IFS= read -r "$field" || refuse 'short'; done
  if [ -f "$run/claim" ] || [ -f "${run}v/claim" ]; then # nothing is touched any more
    cat >/dev/null
    answer_ready "$(in_work rev-parse -q --verify 'refs/reconciler/base^{commit}' 2>/dev/null || echo -)"
  fi
  if [ -z "$mirror" ]; then
    cat >/dev/null
    case $4 in *.r1) rm -rf "$work" ;; esac
    mkdir -p "$work" || refuse "cannot make the folder $work; $room"
    answer_ready -
  fi
  need_git
  case $4 in *.r1) rm -rf "$work" ;; esac # before the first round nothing of it is ours but what is cut off
  case $mirror in /*) ;; *) mirror=$fleet/$mirror ;; esac
  said=$(create_mirror 2>&1) || refuse "cannot make $mirror: $said; $room"
  take_in "$commit" "$newest"
  if [ -e "$work/.git" ]; then
    take_back
    said=$(clean 2>&1) || refuse "cannot clean $work: $said; $room"
    commit=$(in_work rev-parse -q --verify 'refs/reconciler/base^{commit}') ||
      refuse "the repository in the workspace $work is gone or damaged; $damaged"
  else
    said=$(create_work 2>&1) || refuse "cannot make $work: $said; $room"
  fi
  # A kill in the middle of the next line leaves this behind; nobody else is at work here before the agent.
  rm -f "$work/.git/refs/remotes/origin/$upstream.lock"
  said=$(in_work update-ref "refs/remotes/origin/$upstream" "$newest" 2>&1) ||
    refuse "cannot write refs/remotes/origin/$upstream in $work: $said; $damaged"
  answer_ready "$commit"
  ;;
take) # FLEET KEY ID; stdin: name of the agent, number of paths to leave out, those paths, a line each; the message
  enter "$2" "$3" "$4"
  IFS= read -r name && IFS= read -r count || refuse 'short'
  set --
  while [ "$count" -gt 0 ] && IFS= read -r path; do
    set -- "$@" ":(top,exclude)$path"
    count=$((count - 1))
  done
  [ -f "${run}v/claim" ] || take_back
  base=$(in_work rev-parse -q --verify 'refs/reconciler/base^{commit}' 2>/dev/null) ||
    refuse "the repository in the workspace $work is gone or damaged; $damaged"
  result=refs/reconciler/done/${run##*/}
  if [ -f "${run}v/claim" ]; then # what lies there by now is of the validation
    cat >/dev/null
  else
    rm -f "$work/.git/index.lock" "$work/.git/HEAD.lock"
    said=$(renew_index 2>&1 </dev/null && in_work add -A -- . "$@" 2>&1 </dev/null) || refuse "cannot take up what lies in $work: $said; $room"
    if find_nested; then # git takes up which commit they are at, and none of their files
      refuse "a repository within the repository would be lost:" $nested "in $work; have its .git removed, or make it a submodule"
    fi
    if in_work diff --cached --quiet && ! in_work rev-parse -q --verify MERGE_HEAD >/dev/null; then
      cat >/dev/null
    else
      said=$(GIT_AUTHOR_NAME=$name GIT_AUTHOR_EMAIL=agent@reconciler.invalid \
        GIT_COMMITTER_NAME=$name GIT_COMMITTER_EMAIL=agent@reconciler.invalid \
        in_work commit -q --no-verify --cleanup=verbatim -F - 2>&1) || refuse "cannot commit in $work: $said; $room"
    fi
    # What the agent kept out of its work tree (sparse) is in the commit, and so in what is validated.
    said=$(rm -f "$work/.git/index" && in_work read-tree HEAD 2>&1 && in_work ls-files -z --deleted | in_work checkout-index -q -z --stdin 2>&1) ||
      refuse "cannot complete $work: $said; $room"
    said=$(in_work update-ref "$result" HEAD 2>&1) || refuse "no commit in $work: $said; $damaged"
  fi
  head=$(in_work rev-parse -q --verify "$result^{commit}") || refuse "the repository in the workspace $work is gone or damaged; $damaged"
  printf 'S taken %s %s\n' "$base" "$head"
  ;;
bundle) # FLEET KEY ID BASE
  enter "$2" "$3" "$4"
  file=$work.out.$$
  said=$(in_work bundle create -q "$file" "refs/reconciler/done/$4" "^$5" 2>&1) || {
    rm -f "$file"
    refuse "cannot bundle the work in $work: $said; $room"
  }
  printf 'S bundle %s\n' "$(($(wc -c <"$file")))"
  cat "$file"
  rm -f "$file"
  ;;
push) # FLEET KEY ID COMMIT; stdin: repository, URL, ref, commit that it holds now ("" for none), a line each; a bundle
  enter "$2" "$3" "$4"
  for field in mirror url ref expected; do IFS= read -r "$field" || refuse 'short'; done
  case $mirror in /*) ;; *) mirror=$fleet/$mirror ;; esac
  borrowed="\"$work/.git/objects\""
  # Into the mirror goes nothing that counts on the workspace, which will be gone.
  if (export GIT_ALTERNATE_OBJECT_DIRECTORIES="$borrowed" && has_all "$5"); then cat >/dev/null; else take_in "$5"; fi
  # From the repository whose settings no agent wrote; those of the user here count, for credentials.
  unset GIT_CONFIG_GLOBAL GIT_CONFIG_NOSYSTEM
  export GIT_ALTERNATE_OBJECT_DIRECTORIES="$borrowed" GIT_ALLOW_PROTOCOL=file:https:http:ssh
  said=$(run_git --git-dir="$mirror" -c push.gpgSign=false -c push.recurseSubmodules=no push -q --no-verify \
    --no-follow-tags "--force-with-lease=$ref:$expected" -- "$url" "$5:$ref" 2>&1 </dev/null) || refuse "$said"
  printf 'S pushed\n'
  ;;
ls) # FLEET
  enter "$2"
  find spare -type d -path 'spare/*/*' -prune -mtime +7 -exec rm -rf {} + 2>/dev/null # nobody took them for a week
  printf 'S\n'
  for work in "$fleet"/work/*; do
    [ -e "$work" ] && printf '%s\n' "${work##*/}"
  done
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
  for key in "$@"; do
    work=$fleet/work/$key
    keep_spare >/dev/null 2>&1 && continue
    rm -rf "$work" 2>/dev/null || { chmod -R u+rwx "$work" && rm -rf "$work"; } || refuse "cannot remove $work; see whose files are in it"
  done
  printf 'S removed\n'
  ;;
*) refuse "no such verb: ${1:-}" ;;
esac
