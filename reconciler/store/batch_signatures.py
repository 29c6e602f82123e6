"""
Signatures of the record: one for each batch of commits.

The last commit of a batch is signed, and says in a trailer how many commits
it vouches for: as each names the one before by its hash, those cannot be others.
`git fast-import` cannot sign, so it writes to a ref beside the branch; the last
commit is made again with a signature, and then the branch is moved to it.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler.core.audit import Flaw
from reconciler.core.errors import Conflict
from reconciler.git.fastimport import IDENTITY, Change
from reconciler.git.provenance import signing_options
from reconciler.git.repository import Repository

VOUCHES_FOR = "Vouches-For"
"""Trailer with the number of commits that a signature is for, its own included."""
_DATED = re.compile(rb"^committer .*> (\d+ [+-]\d{4})$", re.MULTILINE)
_TREE = re.compile(rb"^tree ([0-9a-f]+)$", re.MULTILINE)
_PARENT = re.compile(rb"^parent ([0-9a-f]+)$", re.MULTILINE)
_GOOD, _NONE = "G", "N"


class BatchSignatures:
    """Signs batches with the reconciler's SSH key. Raises Unavailable where the key cannot be used."""

    def __init__(self, repository: Repository, branch_ref: str, key: Path) -> None:
        self._branch_ref = branch_ref
        self.ref = branch_ref.replace("refs/heads/", "refs/reconciler/unsigned/", 1)
        """Where a batch is until it is signed."""
        name, address = IDENTITY.removesuffix(">").split(" <")
        people = {
            f"GIT_{role}_{part}": value
            for role in ("AUTHOR", "COMMITTER")
            for part, value in (("NAME", name), ("EMAIL", address))
        }
        self._git = repository.git.synced().with_options(*signing_options(key)).with_env(people)

    def announced(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Return the changes of a batch, the last of which says how many there are."""
        message, number = changes[-1].message, len(changes)

        def announced(id_of: Callable[[int], str]) -> str:
            return _with_trailer(message(id_of), f"{VOUCHES_FOR}: {number}")

        return [*changes[:-1], replace(changes[-1], message=announced)]

    async def sign(self, commit: str, head: str | None) -> str:
        """Return a commit made again with a signature, once the branch was moved to it from `head`."""
        header, _, message = (await self._git.run("cat-file", "commit", commit)).partition(b"\n\n")
        parents = [word for parent in _PARENT.findall(header) for word in ("-p", parent.decode())]
        [when], [tree] = _DATED.findall(header), _TREE.findall(header)
        signed = await self._git.line(
            *("commit-tree", tree.decode(), *parents, "-S", "-F", "-"),
            stdin=message,
            env={f"GIT_{role}_DATE": when.decode() for role in ("AUTHOR", "COMMITTER")},
        )
        done = await self._git.attempt("update-ref", self._branch_ref, signed, head or "0" * len(signed))
        if done.code:
            raise Conflict(f"{self._branch_ref} is not at {head} any more: {done.message}")
        return signed


def _with_trailer(message: str, trailer: str) -> str:
    """Return a message with one more trailer at its end; a subject alone gets its first."""
    text = message.rstrip("\n")
    return f"{text}{chr(10) if chr(10) * 2 in text else chr(10) * 2}{trailer}\n"


# --- Looking at them -------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSignatures:
    """What the signatures of a record vouch for."""

    since: str | None
    """The oldest commit that one vouches for; None: there are none."""
    signers: Sequence[str]
    flaws: Sequence[Flaw]


async def record_signatures(repository: Repository, head: str, allowed_signers: Path) -> RecordSignatures:
    """
    Check every signature of a record.

    Since the first of them each commit has to be vouched for. Raises Unavailable.
    """
    git = repository.git.with_options("-c", f"gpg.ssh.allowedSignersFile={allowed_signers}")
    fields = f"%H%x00%G?%x00%GS%x00%(trailers:key={VOUCHES_FOR},valueonly,separator=%x2C)%x00"
    listed = await git.run("log", "--first-parent", f"--format={fields}", head)
    parts = [part.strip() for part in listed.decode("utf-8", "replace").split("\0")]
    rows = list(zip(*(parts[at::4] for at in range(4)), strict=False))
    vouched = list(_vouched(rows))
    since = max((at for at, (is_vouched, _) in enumerate(vouched) if is_vouched), default=None)
    later = vouched[: since + 1] if since is not None else []
    bad = [Flaw(row[0], why) for row, (_, why) in zip(rows, vouched, strict=True) if why]
    missing = [
        Flaw(row[0], _UNSIGNED) for row, (ok, why) in zip(rows, later, strict=False) if not (ok or why)
    ]
    signers = sorted({signer for _, letter, signer, _ in rows if letter == _GOOD})
    return RecordSignatures(
        since=rows[since][0] if since is not None else None, signers=signers, flaws=[*bad, *missing]
    )


_UNSIGNED = "is not signed, and no signature after it vouches for it, though others before it are"


def _vouched(rows: Sequence[tuple[str, ...]]) -> Iterator[tuple[bool, str]]:
    """Yield of each commit, the newest first, whether it is vouched for, and what is wrong with it."""
    left = 0
    for _, letter, signer, number in rows:
        if letter == _GOOD:
            left = max(left, int(number) if number.isdecimal() else 1)
        why = (
            ""
            if letter in {_GOOD, _NONE}
            else f"has a signature that is not good ({letter}) {signer}".strip()
        )
        yield left > 0, why
        left = max(0, left - 1)
