"""
Renames: which task whose spec is gone is the same as one that has come.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from typing import TypeVar

from reconciler.core.model.specs import Desired, Task
from reconciler.core.model.status import Status
from reconciler.core.names import spec_owner, variant_of

Identity = TypeVar("Identity", bound=Hashable)

IDENTITIES = ("generation", "work")
"""What a task is recognised by: first the same file elsewhere, then one that asks for the same."""


def has_spec(desired: Desired, name: str, status: Status | None) -> bool:
    """Return whether the file is there, be it broken, or that of its campaign, be it unreadable."""
    if name in desired.tasks or name in desired.broken or spec_owner(name) in desired.broken:
        return True
    return status is not None and status.campaign in desired.unreadable_campaigns


def renames(gone: Mapping[str, Status], new: Mapping[str, Task]) -> Iterator[tuple[str, str]]:
    """
    Yield old and new name of each task whose spec is gone and whose like has come.

    Whatever fits more than one is no rename: guessing would mix up two tasks.
    """
    gone, new = dict(gone), dict(new)
    for identity in IDENTITIES:
        before = _unambiguous({n: (getattr(status, identity), variant_of(n)) for n, status in gone.items()})
        after = _unambiguous({n: (getattr(task, identity), variant_of(n)) for n, task in new.items()})
        for shared in sorted(before.keys() & after.keys()):
            old, name = before[shared], after[shared]
            del gone[old], new[name]
            yield old, name


def _unambiguous(identities: Mapping[str, Identity]) -> Mapping[Identity, str]:
    """Return name by identity, for the identities that only one has."""
    counts = Counter(identities.values())
    return {identity: name for name, identity in identities.items() if counts[identity] == 1}
