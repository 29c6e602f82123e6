"""
Spending of the day and the week: read from the record once, then updated with each recorded step.
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
from reconciler.core.planning.limits import (
    budget_use,
    has_daily_budget,
    has_weekly_budget,
    midnight,
    monday,
    with_expenses,
)

log = logging.getLogger(__name__)


class DailySpending:
    """Running totals: what was spent since midnight and since Monday (UTC), and from whose budget."""

    def __init__(self, state: State) -> None:
        self._day = _Total(state)
        self._week = _Total(state)

    async def today(
        self, desired: Desired, unrecorded: Sequence[Transition], now: datetime
    ) -> Mapping[BudgetScope, Usage] | None:
        """
        Return today's spending, with steps about to be recorded; empty if there is no daily budget.

        None if a bug of ours keeps it from being known: that holds up what a budget
        bounds, and nothing else. Raises Unavailable.
        """
        return await self._day.since(midnight(now), unrecorded) if has_daily_budget(desired) else {}

    async def in_week(
        self, desired: Desired, unrecorded: Sequence[Transition], now: datetime
    ) -> Mapping[BudgetScope, Usage] | None:
        """Return likewise what was spent since Monday; empty if there is no weekly budget."""
        return await self._week.since(monday(now), unrecorded) if has_weekly_budget(desired) else {}

    def use(self, desired: Desired, now: datetime) -> Mapping[BudgetScope, float]:
        """Return which share of each daily budget is spent today, as far as it is on record."""
        return budget_use(desired, self._day.spent if self._day.begin == midnight(now) else {})

    def add(self, recorded: Sequence[Transition]) -> None:
        """Add steps that are on record now."""
        self._day.add(recorded)
        self._week.add(recorded)

    def forget(self) -> None:
        """Read the record again: somebody else may have written to it."""
        self._day.forget()
        self._week.forget()


class _Total:
    """Running total since one time."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.spent: Mapping[BudgetScope, Usage] = {}
        self.begin: datetime | None = None
        """The time it counts from; None if the record is to be read."""

    async def since(
        self, begin: datetime, unrecorded: Sequence[Transition]
    ) -> Mapping[BudgetScope, Usage] | None:
        """Return what was spent since then; None if a bug of ours keeps it from being known."""
        try:
            if self.begin != begin:
                self.spent, self.begin = await self._state.spent(begin), begin
            return with_expenses(self.spent, unrecorded, begin)
        except ReconcilerError:
            raise
        except Exception:
            log.exception("what was spent cannot be read; what no budget bounds goes on")
            self.forget()
            return None

    def add(self, recorded: Sequence[Transition]) -> None:
        """Add steps that are on record now."""
        if self.begin is None:
            return
        try:
            self.spent = with_expenses(self.spent, recorded, self.begin)
        except Exception:
            log.exception("a step cannot be added to what was spent; it is read from the record again")
            self.forget()

    def forget(self) -> None:
        """Read the record again."""
        self.begin = None
