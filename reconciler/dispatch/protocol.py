"""
Protocol of `wrapper.sh`: builds its input and parses its answers. Nothing here does I/O.
"""

import hashlib
import re
import shlex
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Literal

from reconciler.core.errors import Unavailable
from reconciler.dispatch.sandbox import MAKE_TEMPORARY, Confinement, confined, look_up

RUN_ID = re.compile(
    r"(?P<run>[A-Za-z0-9][A-Za-z0-9._+@-]*?)(?:\.c(?P<commit>[0-9a-f]{12}))?(?:\.o(?P<reviewed>[0-9]+))?"
    r"\.r(?P<round>[1-9][0-9]*)(?P<part>[bdev]?)\Z"
)
"""Parts of a round: `b` are the hooks before the agent, `e` those after its end, `d` those before the
workspace is removed, `v` is its validation; of a run that reviews the work of a round, `reviewed` is that."""
_CHECK = re.compile(r"(?:\.c[0-9a-f]{12}|\.o[0-9]+)\Z")
_MOST_TOLD = 120
"""Of more commands it is not told apart which failed: the codes above mean something else."""
_BATCH = 100
"""A name has at most some 250 bytes, a command line holds 128 KiB."""


class Stage(StrEnum):
    """Stage of a run on a host."""

    ABSENT = "absent"
    """Nothing is known of it."""
    UNSTARTED = "unstarted"
    """A start was begun and not completed."""
    QUEUED = "queued"
    """Its job waits in the queue of a scheduler, or is about to begin."""
    DROPPED = "dropped"
    """The queue let go of its job before it began."""
    RUNNING = "running"
    ENDING = "ending"
    """Its exit is on record; its job is on the way out of the queue, which will know why."""
    ORPHAN = "orphan"
    """It runs without its supervisor; its exit code will not be known."""
    DONE = "done"
    LOST = "lost"
    """It is over, without a record of how."""
    REBOOTED = "rebooted"
    """The host was rebooted meanwhile."""
    PAST = "past"
    """It ran, and its folder was removed since."""
    STRANGE = "strange"
    """There is something that the wrapper did not make."""

    @property
    def is_alive(self) -> bool:
        """Whether the agent may still be at work, or may begin by itself."""
        return self is Stage.QUEUED or self.has_begun

    @property
    def has_begun(self) -> bool:
        """Whether the agent was started, and may still be at work."""
        return self in {Stage.RUNNING, Stage.ORPHAN, Stage.ENDING}


@dataclass(frozen=True, slots=True)
class RunState:
    """State of one run on a host; figures are known once it is done."""

    stage: Stage
    exit_code: int | None = None
    """As a shell reports it: 128 + n for one ended by signal n."""
    out_bytes: int = 0
    err_bytes: int = 0
    seconds: float = 0.0
    """Wall clock; of one in a queue, how long it has been there."""
    why: str = ""
    """
    `exit` when it ended by itself; else why it was ended. Of one in a queue why it waits, and of
    one that the queue let go of how: in the scheduler's words.
    """
    lock: str = ""
    """Of the start that made it alive: what its record names, or what its seal opens. See `proofs`."""


@dataclass(frozen=True, slots=True)
class HostRuns:
    """Answer of `stat`: the host's folder of runs, and the state of each run."""

    root: str
    """Absolute."""
    events_bytes: int
    """Size of the events before the states were looked at."""
    states: Mapping[str, RunState]


def folder_name(run: str) -> str:
    """Return the name of what belongs to a run, as one element of a path."""
    return run.replace("/", "+")


def agent_id(run: str, number: int) -> str:
    """Return the id under which the agent of a round is run."""
    return f"{folder_name(run)}.r{number}"


def validation_id(run: str, number: int) -> str:
    """Return the id under which the validation of a round is run."""
    return f"{agent_id(run, number)}v"


def hook_id(run: str, number: int, part: Literal["b", "e", "d"]) -> str:
    """
    Return the id under which hooks are run.

    Those before (`b`) or after (`e`) the agent of a round, or before the removal (`d`) of the workspace.
    """
    return f"{agent_id(run, number)}{part}"


def round_of(run_id: str) -> str:
    """Return the id of the agent whose round a part belongs to."""
    return run_id.rstrip("bdev")


def is_agent(run_id: str) -> bool:
    """Return whether a run is that of an agent."""
    match = RUN_ID.match(run_id)
    return match is not None and match["commit"] is None and not match["part"]


def is_removal(run_id: str) -> bool:
    """Return whether a run is of hooks before the removal of a workspace."""
    match = RUN_ID.match(run_id)
    return match is not None and match["part"] == "d"


def run_of(name: str) -> str:
    """Return the key of the run that a run folder or a workspace belongs to."""
    match = RUN_ID.match(name)
    return (match["run"] if match else _CHECK.sub("", name)).replace("+", "/")


def check_key(run: str, commit: str) -> str:
    """Return the key under which what an outside agent finished is validated: once for each commit."""
    return f"{run}.c{commit[:12]}"


def is_check(run_id: str) -> bool:
    """Return whether a run on a host is the validation of a commit, without an agent."""
    match = RUN_ID.match(run_id)
    return match is not None and match["commit"] is not None


def opinion_key(run: str, number: int) -> str:
    """Return the key under which the work of a round is reviewed by a second agent."""
    return f"{run}.o{number}"


def batches(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield the names in batches that fit on a command line."""
    left = iter(names)
    while batch := tuple(islice(left, _BATCH)):
        yield batch


def payload(job: str, stdin: bytes = b"", *, seal: str = "") -> bytes:
    """Return what `start` reads: a header with the sizes and the seal, the job script, the agent's stdin."""
    job = job if job.endswith("\n") else job + "\n"
    head = f"run1 {job.count(chr(10))} {len(stdin)} {seal}".rstrip()
    return f"{head}\n".encode() + job.encode() + stdin


def lock_of(seal: str) -> str:
    """Return the lock of a seal: its hash."""
    return hashlib.sha256(seal.encode()).hexdigest()


DECLARATIONS: Mapping[Literal["question", "blocked", "released"], str] = {
    "question": "RECONCILER_QUESTION_FILE",
    "blocked": "RECONCILER_BLOCKED_FILE",
    "released": "RECONCILER_RELEASED_FILE",
}
"""What an agent can declare → the variable that names the file to write; the first that it wrote counts."""
OUTPUTS = "RECONCILER_OUTPUT_DIR"
"""Variable that names the folder for what an agent hands down to other tasks."""


def declared_folder(run_folder: str) -> str:
    """Return the folder in the run's folder that is the agent's, for what it declares."""
    return f"{run_folder}/declared"


def files_folder(run_folder: str) -> str:
    """Return the folder in the run's folder with the files that are written outside of the workspace."""
    return f"{run_folder}/files"


def agent_job(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    folder: str,
    path: str | None = None,
    prompt_file: str | None = None,
    declared: str | None = None,
    confinement: Confinement | None = None,
) -> str:
    """
    Return the script that becomes the agent, in its sandbox if it has one.

    `path` is the folder or the file of its CLI. With `prompt_file` the agent's
    stdin is kept there, and the agent itself gets an empty one. In the folder
    `declared` it writes what it declares. The wrapper's `give_up WHY` ends the
    job, and tells that the agent could not be started; its `await_cell` comes
    before anything that is not ours.
    """
    files = {variable: f"{declared}/{kind}" for kind, variable in DECLARATIONS.items()} if declared else {}
    files |= {OUTPUTS: declared} if declared else {}
    keep = [f"(umask 077; cat >{shlex.quote(prompt_file)}) && exec </dev/null"] if prompt_file else []
    make = [f"clear_away {shlex.quote(declared)}; mkdir {shlex.quote(declared)}"] if declared else []
    setting = _setting({**env, **files}, folder)
    if confinement:  # no program that the PATH of the specs names is run outside of it
        lines = [*look_up(confinement), *make, *keep, MAKE_TEMPORARY, *setting]
    else:
        lines = [*setting, *make, "command -v sh >/dev/null || give_up shell"]
    lines += ["await_cell", f"program={shlex.quote(argv[0])}"]
    if path:
        at = shlex.quote(path)
        lines.append(f"if [ -d {at} ]; then PATH={at}:$PATH; else program={at}; fi")
        # The interpreter of a script, such as node, may lie beside it and nowhere else.
        lines.append("case $program in */*) PATH=${program%/*}:$PATH; export PATH ;; esac")
    lines.append('command -v "$program" >/dev/null 2>&1 || give_up cli')
    if confinement:
        lines += [
            confined(confinement, {**env, **files}),
            *_ENTER,
            f'confined "$program" {shlex.join(argv[1:])}',
        ]
    else:
        lines += [*keep, f'exec "$program" {shlex.join(argv[1:])}']
    return "\n".join(lines)


_ENTER = (
    'at=$(command -v "$program")',
    "seen='command -v \"$0\" >/dev/null || exit 96'",
    '(confined sh -c "$seen" "$program") </dev/null >/dev/null 2>"$run/sandbox.log"',
    "case $? in 0) ;; 96) give_up unseen ;;",
    '*) PATH=$safe; cat "$run/sandbox.log" >&2; give_up sandbox ;; esac',
    '(PATH=$safe; find_process $$ && put "$run" pid $$ "$started" "$group" sandbox)',
)
"""
Lines that try the sandbox, and tell the wrapper that this process holds it: what it is, is not signalled.
"""


def commands_job(
    commands: Sequence[str],
    *,
    env: Mapping[str, str],
    folder: str,
    shell: str,
    confinement: Confinement | None = None,
    unconfined: Container[int] = (),
) -> str:
    """
    Return the script that runs the commands in order, up to the first that fails.

    Each is in the sandbox, if there is one, but for those whose numbers, from 1, are `unconfined`.

    What they print goes to `out`; the job's own account, which it does not get
    mixed up with, to `err`: `begin <n> <offset in out>`, and
    `end <n> <exit code> <hundredths of a second> <offset in out>`. What a
    command starts can write there too, so it is the exit code of the job that
    counts: the number of the command that failed (see `failed_command`).

    The programs of the job itself are looked up before `env` may name folders
    of the workspace on the PATH.
    """
    lines = [
        "await_cell",
        f"shell=$(command -v {shlex.quote(shell)}) && wc=$(command -v wc) || give_up workspace",
        *([*look_up(confinement), MAKE_TEMPORARY] if confinement else []),
        *_setting(env, folder),
        *([confined(confinement, env), _TRY] if confinement else []),
        'size() { size=$(($("$wc" -c <"$RECONCILER_RUN_DIR/out"))); }',
        "check() {",
        """  printf '$ %s\\n' "$2"; size; printf 'begin %s %s\\n' "$1" "$size" >&2""",
        "  read_clock; since=$clock",
        '  ($as "$shell" -c "$2") </dev/null 2>&1; code=$?',
        """  read_clock; size; printf 'end %s %s %s %s\\n' "$1" "$code" $((clock - since)) "$size" >&2""",
        f'  [ "$code" = 0 ] || exit $(($1 < {_MOST_TOLD} ? $1 : {_MOST_TOLD}))',
        "}",
    ]
    for number, command in enumerate(commands, 1):
        by = "confined" if confinement and number not in unconfined else "exec"
        lines.append(f"as={by}; check {number} {shlex.quote(command)}")
    return "\n".join(lines)


_TRY = '(confined "$shell" -c :) </dev/null || give_up sandbox'
"""Line that tries the sandbox, which is not the fault of a command."""


EXTRA = "extra"
"""Name of the file beside what an agent declares to which the extra command of its adapter prints."""


def extra_hook(argv: Sequence[str], run_folder: str, path: str | None) -> str:
    """
    Return the shell text that runs the extra command of an adapter.

    It fails no round: what it printed until then is read. `path` is the folder or the file of the CLI.
    """
    file = shlex.quote(f"{declared_folder(run_folder)}/{EXTRA}")
    at = ""
    if path:
        quoted = shlex.quote(path)
        at = f"at={quoted}; [ -d {quoted} ] || at=${{at%/*}}; PATH=$at:$PATH; "
    return f"{at}{shlex.join(argv)} >{file} || :"


def failed_command(exit_code: int, commands: int) -> int | None:
    """Return the number of the command that failed, by the exit code of their job; None if it was ended."""
    return exit_code if 0 < exit_code <= min(_MOST_TOLD, commands) else None


def _setting(env: Mapping[str, str], folder: str) -> list[str]:
    exports = [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
    return [*exports, f"cd -- {shlex.quote(folder)} || give_up workspace"]


def parse_state(fields: Sequence[str]) -> RunState:
    """Return the state in the fields of an answer. Raises Unavailable if they are malformed."""
    try:
        stage, rest = Stage(fields[0]), (*fields[1:], "", "", "")
        if stage is Stage.QUEUED:
            return RunState(stage, lock=rest[0], seconds=float(rest[1] or 0), why=rest[2])
        if stage is not Stage.DONE:
            return RunState(stage, lock=rest[0], why=rest[1])
        code, out, err, hundredths = map(int, fields[1:5])
        seal = "".join(fields[6:7])
        return RunState(
            stage, code, out, err, hundredths / 100, fields[5], lock=lock_of(seal) if seal else ""
        )
    except (ValueError, IndexError) as error:
        raise Unavailable(
            f"the wrapper answered {' '.join(fields)[:200]!r}, which is no state; "
            "see whether its disk is full"
        ) from error


def parse_states(lines: Sequence[str]) -> dict[str, RunState]:
    """Return the states by id, from lines of `<id> <state>`."""
    pairs = (line.split() for line in lines)
    return {fields[0]: parse_state(fields[1:]) for fields in pairs if fields}


def parse_stat(text: str) -> HostRuns:
    """Parse the answer of `stat`. Raises Unavailable if it is truncated."""
    head, *lines = text.splitlines() or [""]
    try:
        size, root = head.removeprefix("S ").split(" ", 1)
        return HostRuns(root, int(size), parse_states(lines))
    except ValueError as error:
        raise Unavailable(
            f"the wrapper answered {text[:200]!r}, which is no answer to `stat`; see whether its disk is full"
        ) from error
