"""
Recorder: writes steps to the record; one that cannot be written does not block the others.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from reconciler.controller.ports import CommitOutcome, Meter, State, Step, subject
from reconciler.controller.quarantine import Quarantine
from reconciler.core.errors import Conflict, Unavailable

log = logging.getLogger(__name__)

_FAULT: CommitOutcome = "fault"


class Recorder:
    """The one way from the loop to the record."""

    def __init__(
        self, state: State, quarantine: Quarantine, meter: Meter, monotonic: Callable[[], float]
    ) -> None:
        """`monotonic` returns the seconds of a clock that nobody sets."""
        self._state = state
        self._quarantine = quarantine
        self._meter = meter
        self._monotonic = monotonic
        self.took = timedelta(0)
        """How long the last commit took."""

    async def commit(self, steps: Sequence[Step]) -> bool:
        """
        Put steps on record; False if the record must be read again before the next plan.

        Somebody else wrote first, or a step cannot be written: what it is about
        is in quarantine then. Raises Unavailable.
        """
        if not steps:
            return True
        try:
            await self._measured(steps)
        except Conflict as conflict:
            log.info("%s; thinking again", conflict)
            return False
        except Unavailable:
            raise
        except Exception:
            log.exception("not everything can be recorded; the rest is")
            await self._commit_apart(steps)
            return False
        return True

    async def _measured(self, steps: Sequence[Step]) -> None:
        """Commit, and tell the meter how that went."""
        began, outcome = self._monotonic(), _FAULT
        try:
            await self._state.commit(steps)
            outcome = "recorded"
        except Conflict:
            outcome = "conflict"
            raise
        except Unavailable:
            outcome = "unavailable"
            raise
        finally:
            seconds = self._monotonic() - began
            self.took = timedelta(seconds=seconds)
            self._meter.commit(len(steps), seconds, outcome)

    async def _commit_apart(self, steps: Sequence[Step]) -> None:
        """Put on record what can be, task by task, and remember what cannot."""
        faults = dict[str, Exception]()
        for name in dict.fromkeys(subject(step) for step in steps):
            try:
                await self._measured([step for step in steps if subject(step) == name])
            except Conflict:
                return  # further faults are found after the next plan
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told of what it is about
                faults[name] = error
        # Only now: after an outage half way, the rest was not even tried.
        self._quarantine.unwritable |= faults.keys()
        for name, why in faults.items():
            log.error("%s: it cannot be recorded; others go on", name, exc_info=why)
            self._quarantine.add(name, why)
