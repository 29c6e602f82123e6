"""
Daily spending: read from the record once a day, then updated with each recorded step.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from reconciler.controller.ports import State
from reconciler.core.adapter import Usage
from reconciler.core.errors import ReconcilerError
from reconciler.core.lifecycle import Transition
from reconciler.core.model.specs import Desired
from reconciler.core.model.status import BudgetScope
from reconciler.core.planning.limits import budget_use, has_daily_budget, midnight, with_expenses

log = logging.getLogger(__name__)


class DailySpending:
    """Running total: what was spent since midnight (UTC), and from whose budget."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._spent: Mapping[BudgetScope, Usage] = {}
        self._since: datetime | None = None
        """The midnight it counts from; None if the record is to be read."""

    async def today(
        self, desired: Desired, unrecorded: Sequence[Transition], now: datetime
    ) -> Mapping[BudgetScope, Usage] | None:
        """
        Return today's spending, with steps about to be recorded; empty if there is no daily budget.

        None if a bug of ours keeps it from being known: that holds up what a budget
        bounds, and nothing else. Raises Unavailable.
        """
        if not has_daily_budget(desired):
            return {}
        today = midnight(now)
        try:
            if self._since != today:
                self._spent, self._since = await self._state.spent(today), today
            return with_expenses(self._spent, unrecorded, today)
        except ReconcilerError:
            raise
        except Exception:
            log.exception("what was spent today cannot be read; what no daily budget bounds goes on")
            self.forget()
            return None

    def use(self, desired: Desired, now: datetime) -> Mapping[BudgetScope, float]:
        """Return which share of each daily budget is spent today, as far as it is on record."""
        return budget_use(desired, self._spent if self._since == midnight(now) else {})

    def add(self, recorded: Sequence[Transition]) -> None:
        """Add steps that are on record now."""
        if self._since is None:
            return
        try:
            self._spent = with_expenses(self._spent, recorded, self._since)
        except Exception:
            log.exception("a step cannot be added to what was spent today; it is read from the record again")
            self.forget()

    def forget(self) -> None:
        """Read the record again: somebody else may have written to it."""
        self._since = None
