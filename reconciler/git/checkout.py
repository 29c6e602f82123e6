"""
Checkout: a facade over GitPython for a person's checkout, used as they would by hand.

Their identity, hooks, filters and signatures count, and their credentials when
they push; so none of our safety settings goes over theirs. The library takes
longer to import than most commands to run: it is imported where it is used.
"""

import os
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from reconciler.core.errors import Unavailable
from reconciler.git.process import PLACES, QUIET, GitFailed, printable_error
from reconciler.git.remote import NETWORK_TIMEOUT, explain

if TYPE_CHECKING:
    from git.exc import CommandError

IDENTITIES = ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT")
STRICTLY = ("-c", "user.useConfigOnly=true")
"""Otherwise git makes up an identity from the name of the machine."""
NOBODY = (
    'git does not know who commits: run `git config --global user.name "Your Name"` '
    "and `git config --global user.email you@example.org`"
)
_OUTPUT = re.compile(r"\s*std(?:out|err): '(.*)'", re.DOTALL)
"""How the library formats git's output in an error."""


class Upstream(NamedTuple):
    """Where a branch is pushed to."""

    remote: str
    """Name or address."""
    branch: str


def upstream_of(place: Path, branch: str) -> Upstream | None:
    """Return where the branch of a repository is pushed to; None if nowhere. Raises Unavailable."""
    library = _library()
    with library.Repo(place) as repo:
        settings = library.Head(repo, f"refs/heads/{branch}").config_reader()
        remote, merge = (str(settings.get(name, fallback="")) for name in ("remote", "merge"))
    return Upstream(remote, merge.removeprefix("refs/heads/")) if remote and merge else None


def begin(folder: Path, message: str, *, name: str, address: str) -> None:
    """Initialise a repository in a folder and commit its content in our own name, without hooks."""
    library = _library()
    author = library.Actor(name, address)
    with library.Repo.init(folder, initial_branch="main") as repo:
        repo.git.add(all=True)
        repo.index.commit(message, author=author, committer=author, skip_hooks=True)


class Checkout:
    """
    A folder in which a person works, whether it is a repository yet or not.

    Every method raises GitFailed, with git's own message, if git does not do
    what it is asked.
    """

    def __init__(self, folder: Path) -> None:
        """Raise Unavailable if there is no git."""
        self._git = _library().Git(folder)
        self._git.update_environment(**QUIET)

    def create(self, branch: str) -> None:
        """Make a repository, with a branch that has no commit yet."""
        self._do("init", "--quiet", f"--initial-branch={branch}")

    def check(self) -> None:
        """Raise GitFailed if git cannot work in it."""
        self._do("rev-parse", "--git-dir")

    def head(self) -> str:
        """Return the newest commit."""
        return self._do("rev-parse", "HEAD")

    def has_identity(self) -> bool:
        """Return whether git has a configured identity, without guessing one."""
        try:
            for who in IDENTITIES:
                self._do(*STRICTLY, "var", who)
        except GitFailed:
            return False
        return True

    def is_touched(self, *paths: str) -> bool:
        """Return whether a file differs from the commit: staged, changed, ignored or not known to git."""
        args = ("status", "--porcelain", "-z", "--ignored", "--untracked-files=all")
        return bool(self._do(*args, "--", *paths))

    def stage(self, *paths: str) -> None:
        """Put files in the index, as they are."""
        self._do("add", "--", *paths)

    def unstage(self, *paths: str) -> None:
        """Put files in the index as they are in the commit."""
        self._do("reset", "--quiet", "--", *paths)

    def commit(self, message: str, *paths: str) -> None:
        """Commit files as they are, and nothing else that is staged."""
        self._do("commit", "--quiet", "--only", f"--message={message}", "--", *paths)

    def remove(self, *paths: str) -> None:
        """Take files out of the index and the folder, and folders that are empty then."""
        self._do("rm", "--quiet", "--force", "--ignore-unmatch", "--", *paths)

    def restore(self, *paths: str) -> None:
        """Put files in the index and the folder as they are in the commit."""
        self._do("checkout", "--quiet", "HEAD", "--", *paths)

    def diff(self, old: str, new: str) -> str:
        """Return which files differ between two commits, and by how much, as people read it."""
        return self._do("diff", "--stat", old, new)

    def log(self, branch: str) -> str:
        """Return the subjects of a branch's commits, oldest first."""
        return self._do("log", "--reverse", "--format=%h  %s", branch)

    def clone(self, folder: str, branch: str) -> None:
        """Make a clone that borrows the objects, on a branch."""
        self._do("clone", "--quiet", "--shared", "--branch", branch, ".", folder)

    def push(self, upstream: Upstream, commit: str) -> None:
        """Make a commit the head of a branch of a remote, if it only adds to it. Raises as `remote.push`."""
        try:
            ref = f"{commit}:refs/heads/{upstream.branch}"
            self._do("push", "--quiet", "--porcelain", upstream.remote, ref, timeout=NETWORK_TIMEOUT)
        except GitFailed as error:
            explain(f"push of {upstream.branch} failed", str(error))

    def _do(self, *args: str, timeout: float | None = None) -> str:
        from git.exc import CommandError  # noqa: PLC0415 - see above

        try:
            return str(self._git.execute(["git", *args], kill_after_timeout=timeout))
        except CommandError as error:
            raise _failed(args, error) from error


def _library() -> ModuleType:
    for name in filter(PLACES.match, list(os.environ)):
        del os.environ[name]  # it hands on all that there is
    try:
        import git  # noqa: PLC0415 - see above
    except ImportError as error:  # so it says that there is no git
        raise Unavailable("git cannot be started; is it installed and on the PATH?") from error
    return git


def _failed(args: tuple[str, ...], error: "CommandError") -> GitFailed:
    name = next(word for word in args if word[0] != "-" and "=" not in word)
    message = " ".join(_OUTPUT.sub(r"\1", text) for text in (error.stdout, error.stderr))
    return GitFailed(f"git {name} failed ({error.status}): {printable_error(message)}")
