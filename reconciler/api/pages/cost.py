"""
The page Cost: what was spent, by task, repo, adapter, host, model and day, as tables and a drawing.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from reconciler.api.pages.handlers import Visit
from reconciler.api.pages.now import budget_rows
from reconciler.api.pages.rendering import View
from reconciler.core.adapter import Usage
from reconciler.core.costs import KEYS, NONE, sums_by_name, total
from reconciler.core.planning.limits import midnight

SPANS: Mapping[str, int] = {"7": 7, "30": 30, "90": 90, "365": 365}
"""Days, as the address says them."""
MOST_ROWS = 100
WIDTH, HEIGHT = 720, 160
"""Units of the drawing, without its labels."""


class Bar(NamedTuple):
    """A day in the drawing."""

    day: str
    usage: Usage
    x: float
    y: float
    width: float
    height: float
    label: str
    """Below it; empty where there is no room."""


async def cost_page(visit: Visit) -> View:
    """Show what was spent in the last days."""
    fleet, now = visit.fleet, visit.fleet.clock()
    days = SPANS.get(visit.query.get("days", ""), 30)
    since = midnight(now) - timedelta(days=days - 1)
    spent = await fleet.services.spending(since)
    by = visit.query.get("by", "task")
    by = by if by in KEYS else "task"
    sums = sums_by_name(spent, by)
    rows = list(sums.items())
    is_money = any(each.usage.cost_usd for each in spent)
    values = {
        "by": by,
        "keys": list(KEYS),
        "days": days,
        "spans": list(SPANS.values()),
        "rows": rows[:MOST_ROWS],
        "more": max(0, len(rows) - MOST_ROWS),
        "total": total(sums),
        "none": NONE,
        "bars": bars(sums_by_name(spent, "day"), since, days, is_money=is_money),
        "is_money": is_money,
        "is_reckoned": any(each.usage.reckoned_usd for each in spent),
        "peak": peak(sums_by_name(spent, "day"), is_money=is_money),
        "size": (WIDTH, HEIGHT),
        "budgets": budget_rows(fleet.view.desired, await fleet.spent_today()),
        "commits": await fleet.services.last_commits() if by == "task" else {},
    }
    return View("cost.html", "Cost", values)


def _amount(usage: Usage, *, is_money: bool) -> float:
    return usage.cost_usd if is_money else usage.input_tokens + usage.output_tokens


def peak(by_day: Mapping[str, Usage], *, is_money: bool) -> float:
    """Return the most of a day: what the highest bar stands for."""
    return max((_amount(usage, is_money=is_money) for usage in by_day.values()), default=0.0)


def bars(by_day: Mapping[str, Usage], since: datetime, days: int, *, is_money: bool) -> Sequence[Bar]:
    """Return a bar for each day from the first on, those without spending too."""
    most, step, every = peak(by_day, is_money=is_money) or 1.0, WIDTH / days, max(1, days // 10)
    gap = min(2.0, step / 4)
    made = []
    for at in range(days):
        day = since.date() + timedelta(days=at)
        usage = by_day.get(day.isoformat(), Usage())
        height = round(HEIGHT * _amount(usage, is_money=is_money) / most, 1)
        made.append(
            Bar(
                day=day.isoformat(),
                usage=usage,
                x=round(at * step + gap / 2, 1),
                y=HEIGHT - height,
                width=round(step - gap, 1),
                height=height,
                label=f"{day:%m-%d}" if at % every == 0 else "",
            )
        )
    return made
