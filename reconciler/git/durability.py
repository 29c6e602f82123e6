"""
Durability: settings by which git syncs to disk what it acknowledges.
"""

from collections.abc import Sequence
from pathlib import Path

from reconciler.git.process import Git
from reconciler.git.repository import Repository

SETTING = "core.fsync"
WANTED = "committed,reference"
"""Components that a repository must sync which takes the pushes of a record; `all` does it too."""


async def advice(repository: Repository) -> Sequence[str]:
    """
    Return settings to recommend where a remote is a folder of this machine.

    A path fleet is synced by who writes it; a remote elsewhere cannot be
    looked into, and the documentation asks for it.
    """
    git_dir = _folder(repository.address or "")
    if git_dir is None:
        return ()
    result = await Git.local(git_dir).attempt("config", "--get", SETTING)
    if result.code == 0 and {"all", "reference"} & set(result.text.split(",")):
        return ()
    options = (
        f"{git_dir} does not sync what is pushed to it, and may lose it with the power: "
        f"`git -C {git_dir} config {SETTING} {WANTED}`"
    )
    return (options,)


def _folder(address: str) -> Path | None:
    """Return the git directory of a remote that is a folder of this machine."""
    place = Path(address.removeprefix("file://"))
    return next((folder for folder in (place / ".git", place) if address and folder.is_dir()), None)
