"""
Names of things and branches: which ones are safe, wherever they are put.

It takes none of the models to check one: looking back is quick.
"""

import re

_SEGMENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\Z")
NAME_LENGTH = 200
SEGMENT_LENGTH = 64


def check_name(name: str) -> str:
    """
    Return the name if it is safe as a file name, in a branch and on a command line.

    Raises ValueError with the reason otherwise.
    """
    for segment in name.split("/"):
        if not _SEGMENT.match(segment):
            message = (
                f"unsafe name {name!r}: use letters, digits, '.', '_' and '-', "
                "beginning and ending with a letter or digit"
            )
            raise ValueError(message)
        if ".." in segment or segment.endswith(".lock") or len(segment) > SEGMENT_LENGTH:
            message = f"unsafe name {name!r}: no '..', no '.lock', at most {SEGMENT_LENGTH} characters"
            raise ValueError(message)
    if len(name) > NAME_LENGTH:
        message = f"name longer than {NAME_LENGTH} characters"
        raise ValueError(message)
    return name


_FILE = re.compile(r"[A-Za-z0-9._+@-]+(?:/[A-Za-z0-9._+@-]+)*\Z")
FILES_FOLDER = "{files}/"
"""How the path of a file begins that is written outside of the workspace."""


def check_file_path(path: str) -> str:
    """
    Return the path of a file that is written before a run if it stays where such files may be.

    Raises ValueError with the reason, and with what to write.
    """
    if path.startswith("~"):
        message = (
            f"{path!r} is in the home of the host's user, which all runs share with people: write "
            f"'{FILES_FOLDER}NAME', and name that in `command` or `env`"
        )
        raise ValueError(message)
    if path.startswith("/"):
        message = (
            f"{path!r} is absolute: a path is in the workspace ('a/b'), or outside of it ('{FILES_FOLDER}a')"
        )
        raise ValueError(message)
    if not _FILE.match(name := path.removeprefix(FILES_FOLDER)):
        message = f"unsafe path {path!r}: use letters, digits and any of . _ + @ -, between slashes"
        raise ValueError(message)
    if {".", ".."} & {*name.split("/")}:
        raise ValueError(f"{path!r} goes elsewhere: no '.' and no '..' between slashes")
    if name.split("/")[0].casefold() == ".git":
        raise ValueError(f"{path!r} is in git's own folder")
    if len(name) > NAME_LENGTH:
        raise ValueError(f"path longer than {NAME_LENGTH} characters")
    return path


_VARIANT = re.compile(r"(?P<task>.+)@(?P<number>[1-9][0-9]?)\Z")


def variant_name(task: str, number: int) -> str:
    """Return the name of a variant of a task, from 1 on; no file can have it."""
    return f"{task}@{number}"


def variant_of(name: str) -> tuple[str, int] | None:
    """Return the task that a name is a variant of, and which; None if it is none."""
    match = _VARIANT.match(name) if "@" in name else None
    return (match["task"], int(match["number"])) if match else None


def spec_owner(name: str) -> str:
    """Return the task in whose file a task is: itself, or that which it is a variant of."""
    variant = variant_of(name)
    return variant[0] if variant else name


def moved_name(name: str, old: str, new: str) -> str:
    """Return what a variant is called after its task has got another name; any other name as it is."""
    variant = variant_of(name)
    return variant_name(new, variant[1]) if variant and variant[0] == old else name


_HOST_PATH = re.compile(r"~?(/[^/\0\n]+)+\Z")
_TOO_MUCH = frozenset({"/home", "/root", "/proc", "/dev", "/run", "/sys"})


def check_host_path(path: str) -> str:
    """
    Return the path of a folder or file on a host if a sandbox can grant it or hide it.

    Raises ValueError with the reason, and with what to write.
    """
    if not _HOST_PATH.match(path) or {".", ".."} & set(path.split("/")):
        message = f"{path!r} is no path of a host: write an absolute one, or '~/NAME' in the home of its user"
        raise ValueError(message)
    if path in _TOO_MUCH:
        message = f"{path!r} as a whole has what a sandbox is there to keep; name what is needed in it"
        raise ValueError(message)
    return path


def check_task_name(name: str) -> str:
    """Return the name if it is that of a task, or of a variant of one. Raises ValueError as `check_name`."""
    check_name(spec_owner(name))
    return name


def is_task_name(name: str) -> bool:
    """Return whether a task, or a variant of one, can have a name."""
    try:
        return bool(check_task_name(name))
    except ValueError:
        return False


def task_spec_file(task: str, campaign: str | None) -> str:
    """Return where the spec of a task is: in a file of its own, or in that of its campaign."""
    return f"specs/campaigns/{campaign}.yaml" if campaign else f"specs/tasks/{spec_owner(task)}.yaml"


_OF_JOBS = frozenset({"run", "mine", "safe", "bwrap", "path_was"})
"""What the scripts that begin a run on a host read after the variables of the specs were set."""


def check_env_name(name: str) -> str:
    """Return the name of a variable for runs. Raises ValueError if it is one of what begins them."""
    if name in _OF_JOBS:
        raise ValueError(f"{name} is a variable of the script that begins a run; take another name")
    return name


_BAD_IN_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|[^\x00-\x7f]")


def check_branch(branch: str) -> str:
    """
    Return the branch name if git takes it and no option, revision or ref hides in it.

    Stricter than `git check-ref-format --branch`. Raises ValueError with the reason.
    """
    parts = branch.split("/")
    if (
        not branch
        or _BAD_IN_BRANCH.search(branch)
        or branch.startswith(("-", "/", "refs/"))
        or branch.endswith(("/", "."))
        or branch in {"HEAD", "@"}
        or any(part.startswith((".", "-")) or part.endswith(".lock") for part in parts)
        or len(branch) > NAME_LENGTH
    ):
        message = f"unsafe branch name {branch!r}"
        raise ValueError(message)
    return branch


# --- Shards ----------------------------------------------------------------

DEFAULT_SHARD = "default"
"""The shard of the reconciler that is started without `--shard`: it has what no other one claims."""


def state_branch_of(state_branch: str, shard: str) -> str:
    """Return the branch with the record of a shard, given that of the fleet."""
    return state_branch if shard == DEFAULT_SHARD else f"{state_branch}-{shard}"


def owners_branch_of(state_branch: str) -> str:
    """Return the branch with the owners of tasks; no name of a shard leads there."""
    return f"{state_branch}.shards"
