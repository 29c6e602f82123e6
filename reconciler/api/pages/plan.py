"""
The page Plan: what a look would do now, and what another revision of the specs would change of it.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from reconciler.api.pages.handlers import Visit
from reconciler.api.pages.rendering import View
from reconciler.core.errors import NotFound, Unavailable
from reconciler.core.model.specs import Desired
from reconciler.core.model.status import Observed
from reconciler.core.planning.plan import plan
from reconciler.core.planning.preview import Difference, PlanLine, difference, forecast, plan_lines

MOST_LINES = 200
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


async def plan_page(visit: Visit) -> View:
    """Show the plan of now; with a revision in the address, what that would change."""
    fleet, now = visit.fleet, visit.fleet.clock()
    desired, observed = fleet.view.desired, await _observed(visit)
    revision, mistake, change = visit.query.get("revision", ""), "", Difference()
    if revision:
        try:
            other = await fleet.services.specs_at(_checked(revision))
            change = await asyncio.to_thread(_difference, desired, other, observed, now)
            revision = other.revision
        except (NotFound, Unavailable) as error:
            mistake = str(error)
    lines: Sequence[PlanLine] = plan_lines(await asyncio.to_thread(plan, desired, observed, now))
    shown = [*change.new, *change.gone] if revision else lines
    values = {
        "lines": lines[:MOST_LINES],
        "more": max(0, len(lines) - MOST_LINES),
        "counts": Counter(line.verb for line in shown),
        "change": replace(change, new=change.new[:MOST_LINES], gone=change.gone[:MOST_LINES]),
        "typed": visit.query.get("revision", ""),
        "revision": revision,
        "in_force": desired.revision,
        "mistake": mistake,
        "commits": await fleet.services.last_commits(),
    }
    return View("plan.html", "Plan", values)


def _difference(base: Desired, head: Desired, observed: Observed, now: datetime) -> Difference:
    return difference(forecast(base, observed, now), forecast(head, observed, now))


async def _observed(visit: Visit) -> Observed:
    fleet = visit.fleet
    observed = fleet.snapshot().model.observed
    return replace(observed, load=fleet.services.load(), spent=await fleet.spent_today())


def _checked(revision: str) -> str:
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise NotFound(f"{revision[:100]!r} names no commit and no branch")
    return revision
