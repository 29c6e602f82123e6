"""
Putting steps on record, so that one that cannot be written keeps no other back.
"""

import logging
from collections.abc import Callable, Sequence

from reconciler.controller.ports import CommitOutcome, Meter, State, Step, subject
from reconciler.controller.quarantine import Quarantine
from reconciler.core.errors import Conflict, Unavailable

log = logging.getLogger(__name__)

_FAULT: CommitOutcome = "fault"


class Recorder:
    """The one way from the loop to the record."""

    def __init__(
        self, state: State, quarantine: Quarantine, meter: Meter, steady: Callable[[], float]
    ) -> None:
        """`steady` returns the seconds of a clock that nobody sets."""
        self._state = state
        self._quarantine = quarantine
        self._meter = meter
        self._steady = steady

    async def commit(self, steps: Sequence[Step]) -> bool:
        """
        Put steps on record; False if the record is to be read and thought about anew.

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
            log.exception("not everything can be put on record; what can be is")
            await self._commit_apart(steps)
            return False
        return True

    async def _measured(self, steps: Sequence[Step]) -> None:
        """Commit, and tell the meter how that went."""
        began, outcome = self._steady(), _FAULT
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
            self._meter.commit(len(steps), self._steady() - began, outcome)

    async def _commit_apart(self, steps: Sequence[Step]) -> None:
        """Put on record what can be, task by task, and remember what cannot."""
        faults = dict[str, Exception]()
        for name in dict.fromkeys(subject(step) for step in steps):
            try:
                await self._measured([step for step in steps if subject(step) == name])
            except Conflict:
                return  # what else is wrong is found when it was thought about anew
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told of what it is about
                faults[name] = error
        # Only now: an outage half way says nothing of what was not tried.
        self._quarantine.unwritable |= faults.keys()
        for name, why in faults.items():
            log.error("%s: it cannot be put on record; others go on", name, exc_info=why)
            self._quarantine.add(name, why)
