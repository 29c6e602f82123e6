"""
Edits behind `suspend`, `resume`, `cancel` and `retry`: which fields change, or why none needs to.
"""

from collections.abc import Mapping

from reconciler.core.errors import UsageError
from reconciler.core.model.specs import DesiredState, TaskSpec
from reconciler.core.model.status import Status

FieldChanges = Mapping[str, object]
"""New values by field; None removes the field."""


def suspending(name: str, spec: TaskSpec, _: Status | None) -> FieldChanges | str:
    """Suspend a task that is active."""
    if spec.desired is DesiredState.ACTIVE:
        return {"desired": "suspended"}
    return f"{name} is {spec.desired} already"


def resuming(name: str, spec: TaskSpec, _: Status | None) -> FieldChanges | str:
    """Resume a task that is suspended."""
    if spec.desired is DesiredState.CANCELLED:
        raise UsageError(f"{name} is cancelled: `reconciler retry {name}` asks for it again")
    return {"desired": "active"} if spec.desired is DesiredState.SUSPENDED else f"{name} is active already"


def cancelling(name: str, spec: TaskSpec, _: Status | None) -> FieldChanges | str:
    """Cancel a task that is not cancelled."""
    if spec.desired is DesiredState.CANCELLED:
        return f"{name} is cancelled already"
    return {"desired": "cancelled"}


def retrying(name: str, spec: TaskSpec, status: Status | None) -> FieldChanges | str:
    """Run a task once more that is settled or cancelled."""
    if spec.desired is DesiredState.CANCELLED:
        return {"desired": "active", "rerun": spec.rerun + 1}
    if status is None or not status.phase.is_settled:
        return (
            f"{name} is {status.phase if status else 'new'}: it is not settled, so there is nothing to retry"
        )
    return {"rerun": spec.rerun + 1}
