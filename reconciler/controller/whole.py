"""
Whole fleet: what people and agents may speak of at any reconciler, whichever shard has it.
"""

from reconciler.controller.ports import FleetView
from reconciler.core.model.specs import Desired
from reconciler.core.model.status import Status


def whole_desired(view: FleetView) -> Desired:
    """Return what is asked of all shards, by the last look."""
    others = view.elsewhere()
    return others.desired if others else view.desired


def status_anywhere(view: FleetView, task: str) -> Status | None:
    """Return where a task of any shard stands, by the last look; None if it is on no record."""
    others = view.elsewhere()
    return view.statuses.get(task) or (others.statuses.get(task) if others else None)
