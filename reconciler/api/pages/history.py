"""
The page History: every transition and all news of hosts, searched by task, host, actor, cause, text and time.
"""

from datetime import datetime, timedelta

from reconciler.api.pages.handlers import Visit
from reconciler.api.pages.rendering import View
from reconciler.core.errors import NotFound
from reconciler.core.times import parse_time
from reconciler.core.transitions import HistoryFilter

PAGE_SIZE = 50
CAUSES = ("spec", "host", "agent", "webhook", "person", "clock")


async def history_page(visit: Visit) -> View:
    """Show what happened, newest first."""
    wanted, mistake = filter_of(visit)
    before = visit.query.get("before")
    try:
        entries = await visit.fleet.record.search(wanted, before, PAGE_SIZE + 1)
    except NotFound as error:
        entries, mistake = (), str(error)
    page = entries[:PAGE_SIZE]
    values = {
        "entries": page,
        "older": page[-1].commit if len(entries) > PAGE_SIZE else None,
        "causes": CAUSES,
        "mistake": mistake,
        "is_filtered": bool({*visit.query} - {"before"}),
    }
    return View("history.html", "History", values)


def filter_of(visit: Visit) -> tuple[HistoryFilter, str]:
    """Return what an address looks for, and what is wrong with it."""
    query = visit.query
    try:
        since, until = _time(query.get("since")), _time(query.get("until"))
        mistake = ""
    except ValueError as error:
        since, until, mistake = None, None, f"time: {error}"
    wanted = HistoryFilter(
        task=query.get("task"),
        host=query.get("host"),
        actor=query.get("actor"),
        cause=query.get("cause"),
        text=query.get("q", ""),
        since=since,
        until=until + timedelta(days=1)
        if until and len(query.get("until", "")) <= len("2030-01-31")
        else until,
    )
    return wanted, mistake


def _time(text: str | None) -> datetime | None:
    return parse_time(text) if text else None
