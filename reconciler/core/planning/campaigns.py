"""
Campaigns: which of their tasks may begin, and what the others wait for.

A task that is begun goes on as any other, and none of this is about it.
"""

from collections import Counter

from reconciler.core.model.specs import Campaign, DesiredState, Task
from reconciler.core.model.status import Phase, Reason, Status
from reconciler.core.planning.context import PlanContext, Wait

_MOST_NAMES = 5
"""How many tasks a message names."""


def campaign_wait(context: PlanContext, name: str, *, is_pilot: bool) -> Wait | None:
    """
    Return what keeps the tasks of a campaign from beginning; None if nothing does.

    Thousands may wait the same wait: its message stays the same while others come and go.
    """
    campaign = context.desired.campaigns.get(name)
    if campaign is None:
        return None
    limit = campaign.stop_after
    if limit and _failure_count(context, campaign) >= limit.failures:
        more = f"; `reconciler describe campaign/{name}` names them, `reconciler retry` asks for them again"
        return Wait(Reason.HALTED, f"campaign {name} has stopped after {limit.failures} failures{more}")
    if is_pilot:
        return None
    open_pilots = [pilot for pilot in campaign.tasks[: campaign.pilot] if _is_awaited(context, pilot)]
    if not open_pilots:
        return None
    bad = [f"{each} ({phase})" for each in open_pilots if (phase := _bad_end(context, each))]
    return Wait(Reason.PILOT, f"waits for the pilot of campaign {name}: {_listed(bad or open_pilots)}")


def _is_awaited(context: PlanContext, name: str) -> bool:
    """Return whether a pilot is to be completed and is not."""
    spec, status = context.desired.tasks.get(name), context.status(name)
    if spec is None or spec.desired is DesiredState.CANCELLED:
        return False
    return status is None or status.phase is not Phase.COMPLETED


def _failure_count(context: PlanContext, campaign: Campaign) -> int:
    return sum(_bad_end(context, name) is not None for name in campaign.tasks)


def _bad_end(context: PlanContext, name: str) -> Phase | None:
    """Return how a task ended that was not completed and that nobody cancelled in its spec."""
    spec, status = context.desired.tasks.get(name), context.status(name)
    if spec is None or status is None or not status.phase.is_settled or status.phase is Phase.COMPLETED:
        return None
    is_asked = status.phase is Phase.CANCELLED and spec.desired is DesiredState.CANCELLED
    return None if is_asked else status.phase


def _listed(names: list[str]) -> str:
    more = [f"{len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
    return ", ".join([*names[:_MOST_NAMES], *more])


class CampaignCounts:
    """How many tasks of each campaign are begun and not settled, while slots are given out."""

    def __init__(self, context: PlanContext) -> None:
        self._context = context
        self._counts = Counter[str]()
        self._counted = set[str]()

    def full(self, spec: Task, status: Status) -> str | None:
        """Return why a task that is not begun cannot begin, in words; None if it can."""
        campaign = self._context.desired.campaigns.get(spec.campaign or "")
        if campaign is None or campaign.width is None or status.is_begun:
            return None
        self._count(campaign)
        if self._counts[campaign.name] < campaign.width:
            return None
        return f"campaign {campaign.name} has as many tasks begun as it may (width: {campaign.width})"

    def add(self, spec: Task, status: Status) -> None:
        """Count a task that begins."""
        if spec.campaign and not status.is_begun:
            self._counts[spec.campaign] += 1

    def _count(self, campaign: Campaign) -> None:
        if campaign.name not in self._counted:
            self._counted.add(campaign.name)
            statuses = filter(None, map(self._context.status, campaign.tasks))
            self._counts[campaign.name] += sum(status.is_begun for status in statuses)
