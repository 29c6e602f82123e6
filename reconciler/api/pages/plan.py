"""
The page Plan: what a look would do now, and what another revision or a pull request would change of it.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from reconciler.api.pages.handlers import Visit
from reconciler.api.pages.rendering import View
from reconciler.core.errors import Conflict, NotFound, Unavailable
from reconciler.core.model.specs import Desired
from reconciler.core.model.status import Observed
from reconciler.core.planning.plan import plan
from reconciler.core.planning.preview import Difference, PlanLine, difference, forecast, plan_lines

MOST_LINES = 100
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_PULL = re.compile(r"#?([0-9]{1,6})")
"""A number; commits have 7 digits or more."""


async def plan_page(visit: Visit) -> View:
    """Show the plan of now; with a revision in the address, what that would change."""
    fleet, now = visit.fleet, visit.fleet.clock()
    desired, observed = fleet.view.desired, await _observed(visit)
    typed, mistake, change, of = visit.query.get("revision", ""), "", Difference(), ""
    if typed:
        try:
            other, of = await _other(visit, typed)
            change = await asyncio.to_thread(_difference, desired, other, observed, now)
        except (NotFound, Conflict, Unavailable) as error:
            mistake = str(error)
    lines: Sequence[PlanLine] = plan_lines(await asyncio.to_thread(plan, desired, observed, now))
    shown = [*change.new, *change.gone] if typed else lines
    pulls = fleet.services.specs_pulls()
    values = {
        "lines": lines[:MOST_LINES],
        "more": max(0, len(lines) - MOST_LINES),
        "counts": Counter(line.verb for line in shown),
        "change": replace(change, new=change.new[:MOST_LINES], gone=change.gone[:MOST_LINES]),
        "typed": typed,
        "of": of,
        "is_linked": await _is_shown(visit, of),
        "pulls": pulls,
        "pull": next((pull for pull in pulls if f"#{pull.number}" == of), None),
        "in_force": desired.revision,
        "mistake": mistake,
        "commits": await fleet.services.last_commits(),
    }
    return View("plan.html", "Plan", values)


async def _is_shown(visit: Visit, commit: str) -> bool:
    """Return whether there is a page of a commit: not of those that are on other branches alone."""
    try:
        return commit[:1] not in {"", "#"} and bool(await visit.fleet.services.commit(commit))
    except NotFound:
        return False


def _difference(base: Desired, head: Desired, observed: Observed, now: datetime) -> Difference:
    return difference(forecast(base, observed, now), forecast(head, observed, now))


async def _observed(visit: Visit) -> Observed:
    fleet = visit.fleet
    observed = fleet.snapshot().model.observed
    return replace(observed, load=fleet.services.load(), spent=await fleet.spent_today())


async def _other(visit: Visit, text: str) -> tuple[Desired, str]:
    """Return the specs that a text names, and what they are of: a commit, or `#3` with that merged."""
    services = visit.fleet.services
    if number := _PULL.fullmatch(text):
        return await services.specs_of_pull(int(number[1])), f"#{int(number[1])}"
    if not _REVISION.fullmatch(text) or ".." in text:
        raise NotFound(f"{text[:100]!r} names no commit, no branch and no pull request")
    other = await services.specs_at(text)
    return other, other.revision
