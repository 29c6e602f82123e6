"""
Renames: which task whose spec is gone is the same as one that has come.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from reconciler.core.model.specs import Desired, Task
from reconciler.core.model.status import Status
from reconciler.core.names import moved_name, spec_owner, variant_of

IDENTITIES = ("generation", "work")
"""What a task is recognised by: first the same file elsewhere, then one that asks for the same."""


def has_spec(desired: Desired, name: str, status: Status | None) -> bool:
    """Return whether the file is there, be it broken, or that of its campaign, be it unreadable."""
    if name in desired.tasks or name in desired.broken or spec_owner(name) in desired.broken:
        return True
    return status is not None and status.campaign in desired.unreadable_campaigns


def renames(gone: Mapping[str, Status], new: Mapping[str, Task]) -> Iterator[tuple[str, str]]:
    """
    Yield old and new name of each task whose spec is gone and whose like has come, and of its variants.

    Whatever fits more than one is no rename: guessing would mix up two tasks.
    """
    families = defaultdict[str, list[str]](list)
    for variant in sorted(filter(variant_of, gone)):
        families[spec_owner(variant)].append(variant)
    for old, name in _alike(gone, new):
        yield old, name
        moved = {variant: moved_name(variant, old, name) for variant in families[old]}
        yield from ((variant, now) for variant, now in moved.items() if now in new)


def _alike(gone: Mapping[str, Status], new: Mapping[str, Task]) -> Iterator[tuple[str, str]]:
    """Yield the renames of tasks with a file of their own."""
    gone = {name: status for name, status in gone.items() if not variant_of(name)}
    new = {name: task for name, task in new.items() if not variant_of(name)}
    for identity in IDENTITIES:
        before = _unambiguous({name: getattr(status, identity) for name, status in gone.items()})
        after = _unambiguous({name: getattr(task, identity) for name, task in new.items()})
        for shared in sorted(before.keys() & after.keys()):
            old, name = before[shared], after[shared]
            del gone[old], new[name]
            yield old, name


def _unambiguous(identities: Mapping[str, str]) -> Mapping[str, str]:
    """Return name by identity, for the identities that only one has."""
    counts = Counter(identities.values())
    return {identity: name for name, identity in identities.items() if counts[identity] == 1}
