"""
Whether the reconciler lives, and whether it can serve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.api.models import Health
from reconciler.api.operation import Answer, Call, Operation
from reconciler.api.shelf import Record
from reconciler.controller.ports import Desk
from reconciler.core.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Pulse:
    """What load balancers and service managers ask for."""

    desk: Desk
    record: Record

    async def lives(self, call: Call) -> Health:  # noqa: ARG002 - every handler is called so
        """Answer: the event loop turns."""
        return Health()

    async def is_ready(self, call: Call) -> Health:  # noqa: ARG002 - as above
        """Answer if specs and state were read. Raises Unavailable."""
        if not self.desk.desired.revision:
            raise Unavailable("the specs were not read yet; the log says what is in the way")
        return Health(revision=self.desk.desired.revision, state=self.record.head() or None)

    @property
    def operations(self) -> Sequence[Operation]:
        """Return both as operations."""
        lives = Operation(
            method="GET",
            path="/healthz",
            name="healthz",
            summary="Tell whether the process lives",
            handler=self.lives,
            answers={200: Answer("It lives", Health)},
        )
        ready = Operation(
            method="GET",
            path="/readyz",
            name="readyz",
            summary="Tell whether tasks are being looked after",
            handler=self.is_ready,
            answers={200: Answer("They are", Health)},
        )
        return lives, ready
