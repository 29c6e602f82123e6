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


_VARIANT = re.compile(r"(?P<task>.+)@(?P<number>[1-9][0-9]?)\Z")


def variant_name(task: str, number: int) -> str:
    """Return the name of a variant of a task, from 1 on; no file can have it."""
    return f"{task}@{number}"


def variant_of(name: str) -> tuple[str, int] | None:
    """Return the task that a name is a variant of, and which; None if it is none."""
    match = _VARIANT.match(name)
    return (match["task"], int(match["number"])) if match else None


def spec_owner(name: str) -> str:
    """Return the task in whose file a task is: itself, or that which it is a variant of."""
    variant = variant_of(name)
    return variant[0] if variant else name


def check_task_name(name: str) -> str:
    """Return the name if it is that of a task, or of a variant of one. Raises ValueError as `check_name`."""
    check_name(spec_owner(name))
    return name


def task_spec_file(task: str, campaign: str | None) -> str:
    """Return where the spec of a task is: in a file of its own, or in that of its campaign."""
    return f"specs/campaigns/{campaign}.yaml" if campaign else f"specs/tasks/{spec_owner(task)}.yaml"


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
