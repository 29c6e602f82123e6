"""
Where a commit comes from: who signed it, and which branch brought it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.git.process import Git

_FORMAT = "%G?%x00%GS%x00%GF"
_VERDICTS = {
    "G": "good",
    "U": "good, by a key whose owner is not vouched for",
    "B": "bad",
    "X": "expired",
    "Y": "by a key that has expired",
    "R": "by a key that was revoked",
    "E": "not to be checked here: the key is not known",
}
"""What git's letters mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Signature of a commit, as git checks it."""

    is_there: bool
    verdict: str = ""
    """One of git's letters; `N` where git cannot check it as it is set up."""
    signer: str = ""
    key: str = ""
    """Fingerprint."""

    @property
    def is_good(self) -> bool:
        """Whether it is good, by a key that is known."""
        return self.verdict == "G"

    def __str__(self) -> str:
        if not self.is_there:
            return "not signed"
        if self.verdict not in _VERDICTS:
            return "signed, and not checked: name the signers with --allowed-signers"
        by = " ".join(part for part in (self.signer, f"({self.key})" if self.key else "") if part)
        return f"signature {_VERDICTS[self.verdict]}{f': {by}' if by else ''}"


async def signature(git: Git, commit: str, allowed_signers: Path | None) -> Signature:
    """
    Return the signature of a commit.

    Keys of GPG are looked up in the keyring of the user; those of SSH only in
    the file of allowed signers. Raises Unavailable.
    """
    content = await git.run("cat-file", "commit", commit)
    headers = content.partition(b"\n\n")[0]
    if b"\ngpgsig" not in headers:
        return Signature(is_there=False)
    signers = git.with_options("-c", f"gpg.ssh.allowedSignersFile={allowed_signers or '/dev/null'}")
    if allowed_signers is None and b"BEGIN SSH SIGNATURE" in headers:
        return Signature(is_there=True)
    verdict, signer, key = (await signers.line("log", "-1", f"--format={_FORMAT}", commit)).split("\0")
    return Signature(is_there=True, verdict=verdict, signer=signer, key=key)


def signing_options(key: Path | None) -> Sequence[str]:
    """Return the options with which git signs commits with an SSH key; none without a key."""
    values = {"commit.gpgSign": "true", "gpg.format": "ssh", "user.signingKey": str(key)} if key else {}
    return [word for name, value in values.items() for word in ("-c", f"{name}={value}")]


async def has_commit(git: Git, commit: str) -> bool:
    """Return whether a commit is in a repository."""
    return (await git.attempt("cat-file", "-e", f"{commit}^{{commit}}")).code == 0


async def is_ancestor(git: Git, old: str, new: str) -> bool:
    """Return whether a commit is another, or before it."""
    return (await git.attempt("merge-base", "--is-ancestor", old, new)).code == 0


async def first_parent_refs(git: Git, commit: str) -> Sequence[str]:
    """Return the branches that were at a commit and went on from there; empty if none was."""
    names = ("for-each-ref", "--format=%(refname)", "--contains", commit, "refs/heads", "refs/remotes")
    refs = (await git.run(*names)).decode().split()
    return [ref.split("/", 2)[2] for ref in refs if await _was_at(git, ref, commit)]


async def _was_at(git: Git, ref: str, commit: str) -> bool:
    since = await git.run("rev-list", "--first-parent", ref, f"^{commit}^@")
    return commit in since.decode().split()


async def is_of(git: Git, commit: str, base: str, head: str) -> bool:
    """Return whether a commit is one of those that a branch has on top of its base."""
    return await is_ancestor(git, commit, head) and not await is_ancestor(git, commit, base)


async def change_id(git: Git, base: str, head: str) -> str:
    """Return an id of the change from where two commits parted to the second; empty if it changes nothing."""
    patch = await git.diff(base, head, "--full-index")
    return (await git.line("patch-id", "--stable", stdin=patch)).partition(" ")[0]


async def landing(git: Git, commit: str, base: str, head: str) -> str:
    """
    Return in words how a commit brings the work of a branch; empty if it does not.

    It does if it merges the branch's head, or if what it changes against its first
    parent is what the branch changes (squashed, or rebased in one commit).
    """
    parents = (await git.line("show", "--no-patch", "--format=%P", commit)).split()
    if not parents:
        return ""
    if await change_id(git, parents[0], commit) == await change_id(git, base, head):
        return "brings what was delivered, and nothing else"
    return "merges what was delivered, and changes more than that" if head in parents[1:] else ""
