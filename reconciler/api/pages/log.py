"""
The log of a task's run: its end, what is before it, a search in it, and what comes as it comes.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import NamedTuple

from markupsafe import Markup, escape

from reconciler.api.pages.handlers import Visit
from reconciler.api.pages.readable import readable
from reconciler.api.pages.rendering import View
from reconciler.api.pages.safe_text import Terminal, plain
from reconciler.api.pages.services import LogPart, RunLogs, ShownLine
from reconciler.api.pages.task import has_diff
from reconciler.core.errors import NotFound, Refused
from reconciler.core.model.runs import read_run_key
from reconciler.core.views import TaskView

CHUNK = 32 * 1024
"""Bytes of a log on one page."""
MOST_MARKUP = 64 * 1024
"""Characters of lines, colours and all, on one page."""
SEARCHED = 4 * 1024 * 1024
"""Bytes at the end of a log that a search goes through."""
MOST_MATCHES = 200
LONGEST = 4_000
"""Characters of a line."""
MOST_SENT = 64 * 1024
"""Bytes that are sent at once to who follows."""
ERRORS = " (stderr)"
"""How the label of a log ends that has what was printed as errors."""


class LogSegment(NamedTuple):
    """A part of a log on a page."""

    lines: Sequence[Markup]
    begin: int
    """Byte at which it begins."""
    end: int
    """Byte after it."""


async def log_page(visit: Visit) -> View:
    """Show a log of a task's run: the one that is asked for, or the last."""
    view = await task_of(visit)
    run = requested_run(visit, view)
    logs = visit.fleet.services.logs
    parts = logs.parts(run) if run else ()
    part = _part(parts, visit.query.get("part"))
    is_raw = "raw" in visit.query
    query, mistake, piece = visit.query.get("q", ""), "", LogSegment((), 0, 0)
    try:
        if run and part and query:
            piece = await asyncio.to_thread(partial(search, is_raw=is_raw), logs, run, part, query)
        elif run and part:
            end = min(visit.number("end", least=1, otherwise=part.size), part.size)
            piece = await asyncio.to_thread(partial(read_before, is_raw=is_raw), logs, run, part.label, end)
    except Refused as error:
        mistake = str(error)
    is_last = run is not None and view.status is not None and view.status.run_key == run
    is_at_end = bool(part) and piece.end == (part.size if part else 0) and not query
    values = {
        "task": view,
        "has_diff": has_diff(view),
        "run": run,
        "parts": parts,
        "part": part,
        "piece": piece,
        "search_text": query,
        "is_raw": is_raw,
        "mistake": mistake,
        "follows": is_last
        and is_at_end
        and not mistake
        and run is not None
        and not _is_over(visit, run, part.label if part else ""),
        "is_at_end": is_at_end,
        "chunk": CHUNK,
        "commits": await visit.fleet.services.last_commits(),
    }
    return View("log.html", f"Log of {visit.name}", values)


async def task_of(visit: Visit) -> TaskView:
    """Return the task that an address names. Raises NotFound."""
    model = await visit.fleet.model_with(visit.name)
    if not model.has(visit.name):
        raise NotFound(f"no task {visit.name}; /tasks lists them")
    return model.task(visit.name)


def requested_run(visit: Visit, view: TaskView) -> str | None:
    """Return the run that is asked for, which must be one of the task's, or its last. Raises NotFound."""
    wanted = visit.query.get("run")
    if wanted is None:
        return view.status.run_key if view.status else None
    named = read_run_key(wanted)
    if named is None or named[0] != view.name:
        raise NotFound(f"{wanted[:200]!r} is no run of {view.name}")
    return wanted


def _part(parts: Sequence[LogPart], label: str | None) -> LogPart | None:
    """Return the log that is asked for; else the last that holds anything, the agent's own output first."""
    by_label = {part.label: part for part in parts}
    if label in by_label:
        return by_label[label]
    filled = [part for part in parts if part.size] or list(parts)
    own = [part for part in filled if "validation" not in part.label and "(stderr)" not in part.label]
    return (own or filled)[-1] if filled else None


# --- Reading -----------------------------------------------------------------


def read_before(logs: RunLogs, run: str, label: str, end: int, *, is_raw: bool = False) -> LogSegment:
    """Return the lines before a byte, as many as a page holds."""
    begin = max(0, end - CHUNK)
    lines = logs.read(run, label, begin, end)
    if begin and len(lines) > 1:
        lines = lines[1:]  # it began somewhere before
    terminal = Terminal()
    markup = [line_of(terminal, line.text, is_raw=is_raw) for line in lines]
    first, size = len(markup), 0
    while first > 0 and (size := size + len(markup[first - 1])) <= MOST_MARKUP:
        first -= 1
    return LogSegment(markup[first:], lines[first].begin if first < len(lines) else end, end)


def line_of(
    terminal: Terminal, text: str, mark: Callable[[str], Markup] = escape, *, is_raw: bool = False
) -> Markup:
    """Return a line of a log as HTML; an event that an agent's CLI printed as what it says."""
    if not is_raw and (pieces := readable(text)) is not None:
        return Markup("\n").join(
            Markup('<span class="e-{}">{}</span>').format(piece.kind, mark(plain(piece.text)))
            for piece in pieces
        )
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}… [{len(text) - LONGEST} characters more]"
    return terminal.line(text, mark)


def search(logs: RunLogs, run: str, part: LogPart, query: str, *, is_raw: bool = False) -> LogSegment:
    """Return the last lines with these words, in the end of a log."""
    begin = max(0, part.size - SEARCHED)
    wanted = query.casefold()
    matches = list[Markup]()
    for line in reversed(logs.read(run, part.label, begin, part.size)):
        if wanted in line.text.casefold():
            matches.append(line_of(Terminal(), line.text, lambda text: _marked(text, wanted), is_raw=is_raw))
        if len(matches) == MOST_MATCHES:
            break
    return LogSegment(matches[::-1], begin, part.size)


def _marked(text: str, wanted: str) -> Markup:
    """Return a text with what was searched for marked."""
    folded, parts, at = text.casefold(), list[Markup](), 0
    if len(folded) != len(text):  # some letters are two, folded: then places are not the same
        return escape(text)
    while (place := folded.find(wanted, at)) >= 0:
        parts += [escape(text[at:place]), Markup("<mark>{}</mark>").format(text[place : place + len(wanted)])]
        at = place + len(wanted)
    return Markup("").join([*parts, escape(text[at:])])


# --- Following ---------------------------------------------------------------


async def follow_log(visit: Visit, last_id: str) -> AsyncGenerator[str, None]:
    """
    Yield the lines that come as server-sent events, until the log is over; an empty text where none came.

    The id of each is the byte after it: who comes back with it has missed nothing.
    """
    run, label = requested_run(visit, await task_of(visit)), visit.query.get("part", "")
    terminal, is_raw = Terminal(), "raw" in visit.query
    at = int(last_id) if last_id.isdecimal() else visit.number("from")
    while run:
        is_over = _is_over(visit, run, label)  # before the read: what was printed last is there then
        try:
            lines = await asyncio.to_thread(_read_on, visit.fleet.services.logs, run, label, at)
        except (NotFound, Refused):  # swept, or its secrets are not known any more: the page says so
            break
        if not is_over:
            lines = [line for line in lines if line.text.endswith("\n") or line.end - at >= MOST_SENT]
        if lines:
            at = lines[-1].end
            markup = (line_of(terminal, line.text, is_raw=is_raw) for line in lines)
            yield event("".join(f'<span class="line">{line}</span>' for line in markup), at)
        elif is_over:
            break
        else:
            yield ""
    yield "event: end\ndata: over\n\n"


def _is_over(visit: Visit, run: str, label: str) -> bool:
    """Return whether nothing is printed any more to a log: its run is over, or the next step began."""
    status = visit.fleet.view.statuses.get(visit.name)
    if status is None or status.run_key != run or not status.phase.is_live:
        return True
    steps = [part.label.removesuffix(ERRORS) for part in visit.fleet.services.logs.parts(run)]
    return label.removesuffix(ERRORS) in steps[:-1] and steps[-1] != label.removesuffix(ERRORS)


def _read_on(logs: RunLogs, run: str, label: str, at: int) -> Sequence[ShownLine]:
    """Return what comes after a byte, as much as is sent at once. Raises NotFound, Refused."""
    size = next((part.size for part in logs.parts(run) if part.label == label), 0)
    return logs.read(run, label, at, min(size, at + MOST_SENT)) if size > at else ()


def event(data: str, at: int) -> str:
    """Return a server-sent event; line ends within it are ends of its data lines."""
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"id: {at}\n{lines}\n"
