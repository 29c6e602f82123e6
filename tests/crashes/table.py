"""
The table of failpoints and outcomes: what comes of a reconciler that is ended and started again.
"""

import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crashes.failpoints import Failpoint, When

WHEN: Sequence[When] = ("before", "after")
GOOD = "done, once"


@dataclass(frozen=True, slots=True)
class Row:
    """One crash, and what there was after the next start."""

    point: str
    when: When
    outcome: str
    """`GOOD`, or what is wrong."""

    def __str__(self) -> str:
        return f"{self.when:6}  {self.point:24}  {self.outcome}"


def row(point: Failpoint, when: When, faults: Iterable[str]) -> Row:
    """Return the row of a crash after which these things are wrong."""
    return Row(point.name, when, "; ".join(filter(None, faults)) or GOOD)


def output_of(folder: Path, *args: str, env: Mapping[str, str] | None = None) -> str:
    """Return what git says in a repository, be it an error."""
    done = subprocess.run(["git", "-C", folder, *args], capture_output=True, text=True, env=env, check=False)
    return (done.stdout + done.stderr).strip()


def head_of_record(record: Path) -> str:
    """Return the newest commit of the record; empty before the first."""
    return output_of(record, "for-each-ref", "--format=%(objectname)", "refs/heads/fleet-state")


def faults_of_record(record: Path, before: str, verify: Callable[[], int]) -> Iterator[str]:
    """Yield what is wrong with the record, which had this commit as its newest before."""
    if output_of(record, "rev-list", "--min-parents=2", "fleet-state"):
        yield "the record has a merge"
    if before and output_of(record, "merge-base", before, "fleet-state") != before:
        yield "the record was rewritten"
    if said := output_of(record, "fsck", "--full", "--strict", "--no-dangling"):
        yield f"git fsck: {said}"
    if code := verify():
        yield f"verify ended with {code}"
