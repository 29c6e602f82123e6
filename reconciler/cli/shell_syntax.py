"""
Shell syntax: commands of specs that no shell could read.
"""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache, partial

from reconciler.core.errors import Problem
from reconciler.core.model.specs import HOOKS, Desired, Task, TaskDefaults
from reconciler.core.text import one_line
from reconciler.specs.parse import File, locate_mistakes
from reconciler.specs.rules import Mistake
from reconciler.specs.yaml import Path


def unreadable_commands(files: Mapping[str, File], desired: Desired) -> Iterator[Problem]:
    """
    Yield the commands that no shell could read: an open quote, an `if` without end.

    bash is asked, which reads all that other shells of hosts do; without it nothing is found.
    """
    if (bash := shutil.which("bash")) is None:
        return
    why_unreadable = cache(partial(_why_unreadable, bash))
    for path, field, command in _commands(desired):
        if path in files and _may_set(files[path], field) and (why := why_unreadable(command)):
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
        for at, command in enumerate(owner.validation):
            yield path, ("validation", at), command
        if script := getattr(owner, "script", None):
            yield path, ("script",), script
    places = [(f"specs/hosts/{name}.yaml", host.hooks) for name, host in desired.hosts.items()]
    places += [(f"specs/repos/{name}.yaml", repo.hooks) for name, repo in desired.repos.items()]
    for path, hooks in places:
        for name in HOOKS:
            for at, command in enumerate(getattr(hooks, name)):
                yield path, ("hooks", name, at), command


def _why_unreadable(bash: str, command: str) -> str:
    """Return why a shell cannot read a command; empty if it can. Nothing of it is run."""
    args = [bash, "--norc", "-n", "-c", command]
    done = subprocess.run(args, capture_output=True, check=False, env={"LC_ALL": "C"})
    message = done.stderr.decode(errors="replace").strip().splitlines()
    return one_line(message[0].partition(": ")[2].removeprefix("-c: ")) if done.returncode and message else ""
