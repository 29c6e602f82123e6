"""
Shell syntax: commands of specs that no shell could read.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cache, partial

from reconciler.core.errors import Problem
from reconciler.core.model.specs import Desired, Task, TaskDefaults
from reconciler.core.text import one_line
from reconciler.specs.campaigns import read_cells
from reconciler.specs.parse import File, locate_mistakes
from reconciler.specs.rules import Mistake
from reconciler.specs.yaml import Path, decode, key_positions

_FEW = 100
"""Commands that are looked at one by one: together, one may close what another leaves open."""
_AT_ONCE = 100
_ALONE = ('( {{\n:\n{}\n\n}} )\n: "\')"\n', "( {{\n:\n{}\n\n}} )\n: '\")'\n")
"""A command by itself, in two ways: what it leaves open is an error in one of them before the next begins."""
_REACHES_ON = re.compile(r"<<|`|\(\(|\[\[|\$\{[^}]*$|\0")
"""What may be left open without an error, or only be closed by the next command."""


def unreadable_commands(files: Mapping[str, File], desired: Desired) -> Iterator[Problem]:
    """
    Yield the commands that no shell could read: an open quote, an `if` without end.

    bash is asked, which reads all that other shells of hosts do; without it nothing is found.
    """
    if (bash := shutil.which("bash")) is None:
        return
    commands = [each for each in _commands(desired) if each[0] in files and _may_set(files[each[0]], each[1])]
    commands += _of_campaigns(files, desired)
    readable = _readable(bash, [*dict.fromkeys(command for *_, command in commands)])
    why_unreadable = cache(partial(_why_unreadable, bash))
    placed = set[tuple[str, Path]]()
    for path, field, command in commands:
        if command in readable or (path, field) in placed or not (why := why_unreadable(command)):
            continue
        placed.add((path, field))
        mistake = Mistake(field, f"no shell can read it ({why})", is_doubt=True)
        yield from locate_mistakes([mistake], path, files[path].data)


def _may_set(file: File, field: Path) -> bool:
    """Return whether a file may set a field itself, and not only inherit it."""
    return str(field[0]).encode() in (file.data or b"")


def _commands(desired: Desired) -> Iterator[tuple[str, Path, str]]:
    """Yield the path of each file that may set a command, its field there, and the command."""
    owners: list[tuple[str, TaskDefaults | Task]] = [("specs/fleet.yaml", desired.fleet)]
    owners += [(f"specs/repos/{name}.yaml", repo) for name, repo in desired.repos.items()]
    owners += [(f"specs/tasks/{name}.yaml", task) for name, task in desired.tasks.items()]
    for path, owner in owners:
        for field, command in _own_commands(owner.validation, getattr(owner, "script", None)):
            yield path, field, command
    places = [(f"specs/hosts/{name}.yaml", host.hooks) for name, host in desired.hosts.items()]
    places += [(f"specs/repos/{name}.yaml", repo.hooks) for name, repo in desired.repos.items()]
    for path, hooks in places:
        for place, command in hooks.commands():
            yield path, ("hooks", *place), command


def _own_commands(validation: Sequence[str], script: str | None) -> Iterator[tuple[Path, str]]:
    for at, command in enumerate(validation):
        yield ("validation", at), command
    if script:
        yield ("script",), script


def _of_campaigns(files: Mapping[str, File], desired: Desired) -> Iterator[tuple[str, Path, str]]:
    """Yield the commands of the tasks of each sound campaign, with their fields in the campaign's file."""
    broken = {problem.path for problem in desired.problems}
    paths = {f"specs/campaigns/{name}.yaml" for name in desired.campaigns}
    for path in sorted(paths & files.keys() - broken):
        data = files[path].data
        places = key_positions(decode(data, path))
        for cell in read_cells(data, path):
            validation = cell.task.get("validation", ())
            commands = (validation,) if isinstance(validation, str) else validation
            for field, command in _own_commands(commands, cell.task.get("script")):
                yield path, cell.place(field, places), command


def _readable(bash: str, commands: Sequence[str]) -> AbstractSet[str]:
    """Return commands that a shell can read, many looked at together; each other is to be looked at alone."""
    readable: set[str] = set()
    if len(commands) <= _FEW:
        return readable
    plain = [command for command in commands if not _REACHES_ON.search(command)]
    for at in range(0, len(plain), _AT_ONCE):
        some = plain[at : at + _AT_ONCE]
        if all(_can_read(bash, "".join(map(alone.format, some))) for alone in _ALONE):
            readable.update(some)
    return readable


def _can_read(bash: str, script: str) -> bool:
    done = subprocess.run([bash, "--norc", "-n"], input=script.encode(), capture_output=True, check=False)
    return done.returncode == 0


def _why_unreadable(bash: str, command: str) -> str:
    """Return why a shell cannot read a command; empty if it can. Nothing of it is run."""
    args = [bash, "--norc", "-n", "-c", "--", command]
    done = subprocess.run(args, capture_output=True, check=False, env={"LC_ALL": "C"})
    message = done.stderr.decode(errors="replace").strip().splitlines()
    return one_line(message[0].partition(": ")[2].removeprefix("-c: ")) if done.returncode and message else ""
