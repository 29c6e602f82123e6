"""
What agents took, read back from the commits of the state branch.

A status file counts what all runs of its task took so far, so that each commit
that raises the count tells what one round took: a task that was removed since
is still in the sum, and nothing is in it twice.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from reconciler.core.adapter import Usage
from reconciler.core.model.status import Phase
from reconciler.core.names import variant_of
from reconciler.core.times import time_at
from reconciler.git.repository import Repository
from reconciler.store import statuses
from reconciler.store.layout import recorded_task

_ACCOUNT = re.compile(
    rb"^(?:phase|assigned_host|adapter|account|model|repo|usage|opinion):.*\n(?: .*\n)*", re.MULTILINE
)
"""The lines of a status that matter here: to parse them alone is ten times as quick."""
_WALK = (
    *("log", "--format=%ct", "--reverse", "--first-parent", "-m"),
    *("--raw", "-z", "--no-abbrev", "--no-renames"),
)
"""Every file of every commit: to be told that only one folder matters, git would compare all trees twice."""
_MARGIN = timedelta(days=1)
"""Git stops its walk at the first commit that is too old; clocks may have gone back so far."""
_NONE = Usage()


@dataclass(frozen=True, slots=True)
class Spending:
    """What one round of an agent cost."""

    at: datetime
    """When it was recorded."""
    task: str
    repo: str | None
    adapter: str | None
    host: str | None
    model: str | None
    usage: Usage
    account: str | None = None
    """Account whose credential it used; None for the adapter's own."""
    tries: int = 0
    """1 if a variant ended with it."""
    wins: int = 0
    """1 if that was the one that was chosen."""


async def spending(
    repository: Repository, branch: str, *, since: datetime | None = None
) -> Sequence[Spending]:
    """Return what was spent, from a time on if one is given, the oldest first. Raises Unavailable."""
    head = repository.read_ref(repository.ref(branch))
    if head is None:
        return ()
    most = () if since is None else (f"--since=@{int((since - _MARGIN).timestamp())}",)
    listed = await repository.git.run(*_WALK, *most, head)
    changes = list(_changes(listed))
    accounts: dict[str, bytes] = {}

    def take(blob: str, content: bytes) -> None:
        accounts[blob] = b"".join(_ACCOUNT.findall(content))

    wanted = {blob: None for change in changes for blob in (change.before, change.after) if blob}
    await repository.objects.read(list(wanted), take)
    return [each for each in _spent(changes, accounts) if since is None or each.at >= since]


class _Change(NamedTuple):
    """A status file that a commit changed or brought."""

    at: datetime
    task: str
    before: str | None
    """Blob it was; of a task that was renamed, under its old name."""
    after: str


def _changes(listed: bytes) -> Iterator[_Change]:
    """Yield what `git log` tells; of files that went, only whether they came back by another name."""
    fields = iter(listed.decode("utf-8", "surrogateescape").split("\0"))
    at = time_at(0)
    brought: list[tuple[str, str]] = []
    left: str | None = None
    for field in fields:
        if not field.lstrip("\n").startswith(":"):
            yield from (_Change(at, task, left, blob) for task, blob in brought)
            brought, left = [], None
            at = time_at(int(field or 0))
            continue
        _, _, before, after, _ = field.split(" ")
        task = recorded_task(next(fields))
        if task is None:
            continue
        if not after.strip("0"):
            left = before
        elif not before.strip("0"):
            brought.append((task, after))
        else:
            yield _Change(at, task, before, after)
    yield from (_Change(at, task, left, blob) for task, blob in brought)


def _spent(changes: Sequence[_Change], accounts: Mapping[str, bytes]) -> Iterator[Spending]:
    read: dict[str, Mapping[str, Any] | None] = {}
    """By blob; one that is damaged tells nothing new: what stands there is what stood there before."""
    for at, task, before, after in changes:
        if accounts.get(before or "", b"") == accounts[after]:
            read |= {after: read[before]} if before in read else {}
            continue
        was = read[before] if before in read else _parsed(accounts.get(before or "", b""))
        now = _parsed(accounts[after])
        fields = read[after] = was if now is None else now
        if fields is None or was is None:
            continue
        rise = _increase(_usage(was), _usage(fields))
        if rise != _NONE and (review := _review(at, task, was, fields)):
            yield review
            rise = _increase(review.usage, rise)
        tries, wins = _contest(task, was, fields)
        if rise != _NONE or tries:
            yield replace(_spending(at, task, fields, fields, rise), tries=tries, wins=wins)


def _spending(
    at: datetime, task: str, status: Mapping[str, Any], by: Mapping[str, Any], usage: Usage
) -> Spending:
    """Return what was spent on a task, by its run or another that the same status tells of."""
    return Spending(
        at,
        task,
        _name(status.get("repo")),
        _name(by.get("adapter")),
        _name(status.get("assigned_host")),
        _name(by.get("model")),
        usage,
        account=_name(by.get("account")),
    )


@lru_cache(maxsize=10_000)  # what a status was is what it had become before
def _parsed(account: bytes) -> Mapping[str, Any] | None:
    """Return the fields; None if somebody damaged them."""
    try:
        fields = statuses.parse_status(account.decode()) if account else {}
        _usage(fields)
    except (statuses.UnreadableError, ValueError, AttributeError):
        return None
    return fields


def _review(at: datetime, task: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> Spending | None:
    """Return what a second opinion took that came with a step; it is part of what the round took."""
    opinion = now.get("opinion") or {}
    if opinion == (was.get("opinion") or {}) or not opinion.get("usage"):
        return None
    return _spending(at, task, now, opinion, _usage(opinion))


def _contest(task: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[int, int]:
    """Return whether a variant that was run ended with a step, and whether it was the chosen one."""
    has_ended = now.get("phase") in _ENDS and was.get("phase") not in _ENDS
    if variant_of(task) is None or not has_ended or not now.get("adapter"):
        return 0, 0
    return 1, int(now["phase"] == Phase.COMPLETED)


_ENDS = frozenset(phase.value for phase in Phase if phase.is_settled)


def _name(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _usage(fields: Mapping[str, Any]) -> Usage:
    return Usage.model_validate(fields.get("usage") or {})


def _increase(was: Usage, now: Usage) -> Usage:
    """Return how much was added; a count that was lowered by hand adds nothing."""
    added = {name: max(0, getattr(now, name) - getattr(was, name)) for name in Usage.model_fields}
    return Usage.model_validate({name: round(value, 6) for name, value in added.items()})
