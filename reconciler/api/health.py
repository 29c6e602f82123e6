"""
Whether the reconciler lives, and whether it can serve.

Neither asks for a token, and neither has a limit: whoever else asks too often
must not make a service manager believe that it is dead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reconciler.api.operation import Call, Operation, Reply
from reconciler.api.services import HistorySource
from reconciler.controller.ports import FleetView
from reconciler.core.errors import Unavailable
from reconciler.wire import HealthBody


@dataclass(frozen=True, slots=True)
class Pulse:
    """What load balancers and service managers ask for."""

    view: FleetView
    record: HistorySource
    unready: Callable[[], str]
    """Return why tasks are not looked after now, in words; empty if they are."""

    async def last_transitions(self, call: Call) -> HealthBody:  # noqa: ARG002 - every handler is called so
        """Answer: the event loop turns."""
        return HealthBody()

    async def is_ready(self, call: Call) -> HealthBody:  # noqa: ARG002 - as above
        """Answer if specs and state were read and what follows goes on record. Raises Unavailable."""
        if why := self.unready():
            raise Unavailable(why)
        if not self.view.desired.revision:
            raise Unavailable("the specs were not read yet; the log says what is in the way")
        return HealthBody(revision=self.view.desired.revision, state=self.record.head() or None)

    @property
    def operations(self) -> Sequence[Operation]:
        """Return both as operations."""
        last_transitions = Operation(
            method="GET",
            path="/healthz",
            name="healthz",
            summary="Tell whether the process is alive",
            handler=self.last_transitions,
            answers={200: Reply("It lives", HealthBody)},
            is_unlimited=True,
        )
        ready = Operation(
            method="GET",
            path="/readyz",
            name="readyz",
            summary="Tell whether tasks are being reconciled",
            handler=self.is_ready,
            answers={200: Reply("They are", HealthBody)},
            problems={503: "They are not; `detail` says why"},
            is_unlimited=True,
        )
        return last_transitions, ready
