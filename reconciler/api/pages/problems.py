"""
The page Problems: what is wrong with specs, records, hosts, webhooks and notifications, and where.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from reconciler.api.pages.handlers import Visit
from reconciler.api.pages.rendering import View
from reconciler.core.errors import NotFound, Problem, Unavailable

MOST_PROBLEMS = 60
LONGEST = 160
"""Characters of a line with a mistake."""


class MistakeView(NamedTuple):
    """A problem, with the line it is about."""

    problem: Problem
    line: str
    """Of the file, if it can be shown."""
    caret: str
    """Blanks up to the column, and a caret."""


async def problems_page(visit: Visit) -> View:
    """Show everything that is wrong."""
    fleet = visit.fleet
    desired, model = fleet.view.desired, fleet.snapshot().model
    hosts = [host for host in model.hosts().values() if host.state in {"down", "unready"}]
    hooks = fleet.services.hooks()
    refused = [(event, n) for event, outcome, n in hooks.counts if outcome == "refused"]
    values = {
        "mistakes": await mistakes(visit, desired.problems[:MOST_PROBLEMS]),
        "more": max(0, len(desired.problems) - MOST_PROBLEMS),
        "warnings": await mistakes(visit, desired.warnings[:MOST_PROBLEMS]),
        "damaged": sorted(fleet.view.damaged.items()),
        "hosts": hosts,
        "forges": sorted(fleet.services.forge_problems().items()),
        "unsent": fleet.services.unsent(),
        "refused": refused,
        "hooks": hooks,
        "revision": desired.revision,
    }
    return View("problems.html", "Problems", values)


async def mistakes(visit: Visit, problems: Iterable[Problem]) -> Sequence[MistakeView]:
    """Return problems with the lines they are about; each file is read once."""
    texts: dict[str, Sequence[str]] = {}
    shown = []
    for problem in problems:
        if problem.path not in texts:
            texts[problem.path] = await _lines(visit, problem.path)
        shown.append(mistake(problem, texts[problem.path]))
    return shown


async def _lines(visit: Visit, path: str) -> Sequence[str]:
    if not path.startswith("specs/"):
        return ()
    try:
        return (await visit.fleet.services.file(path)).text.splitlines()
    except (NotFound, Unavailable):
        return ()


def mistake(problem: Problem, lines: Sequence[str]) -> MistakeView:
    """Return a problem with its line, cut where it is long, and a caret below the column."""
    if not 0 < problem.line <= len(lines):
        return MistakeView(problem, "", "")
    line = lines[problem.line - 1].replace("\t", " ")
    begin = max(0, problem.column - LONGEST // 2) if len(line) > LONGEST else 0
    shown = line[begin : begin + LONGEST]
    return MistakeView(problem, shown, " " * min(problem.column - 1 - begin, len(shown)) + "^")
