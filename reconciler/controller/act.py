"""
Actuator: carries out a plan once it is on record.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.controller.assigned import AssignedSpecs
from reconciler.controller.cache import FleetCache
from reconciler.controller.hosts import unrunnable
from reconciler.controller.inbox import Inbox
from reconciler.controller.ports import Clock, Dispatch
from reconciler.controller.quarantine import Quarantine
from reconciler.core.errors import SpecError, Unavailable
from reconciler.core.lifecycle import Transition
from reconciler.core.model.status import Status
from reconciler.core.planning.plan import FollowRun, Plan, StopRun

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Actuator:
    """Starts, follows and stops runs on their hosts, as a recorded plan says."""

    cache: FleetCache
    inbox: Inbox
    assigned: AssignedSpecs
    dispatch: Dispatch
    clock: Clock
    quarantine: Quarantine

    async def act(self, planned: Plan, recorded: Sequence[Transition]) -> None:
        """Set a plan in motion; `recorded` are its steps. Raises Unavailable."""
        # The record no longer names a run that its task went on without (a new generation,
        # a removed spec): to stop it takes the status from before that step.
        left = {step.before.run_key: step.before for step in recorded if step.before}
        for action in planned.actions:
            if not isinstance(action, FollowRun | StopRun):
                continue
            status = self.cache.statuses.get(action.task)
            if isinstance(action, StopRun):
                status = left.get(action.run, status)
            if status and status.run and status.run.round_key == (action.run, action.round):
                await self._start(action, status)

    async def _start(self, action: FollowRun | StopRun, status: Status) -> None:
        """Start following a run; a fault affects only its task."""
        try:
            request = await self.assigned.run_request(action.task, status)
            if isinstance(action, StopRun):
                # To carry a round out once more whose end is not on record yet would deliver it once more.
                if not self.inbox.has_end_of(action.run, action.round):
                    self.dispatch.stop(request, action.reason, self.inbox.emit)
            else:
                self.dispatch.follow(request, self.inbox.emit)
        except SpecError as error:
            self.inbox.emit(unrunnable(action.task, status, str(error), self.clock()))
        except Unavailable:
            raise
        except Exception as error:
            log.exception("task %s: its run cannot be followed; others go on", action.task)
            self.quarantine.add(action.task, error)
            self.quarantine.rounds.add((action.run, action.round))
            self.inbox.wake()
