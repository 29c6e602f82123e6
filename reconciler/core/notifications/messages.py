"""
Messages: what a person reads on a phone at night.

What happened, since when, what it touches, where to look, what to type. Texts
that agents or hosts may have written can do nothing where they are shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from reconciler.core.planning.schedule import format_in
from reconciler.core.text import one_line, visible, without_credentials
from reconciler.core.times import ago

LONGEST = 3500
"""Characters of a body: most services take 4096 bytes."""
_TITLE, _TEXT, _MOST_CAUSES = 140, 300, 10
_INERT = str.maketrans(
    {"<": "(", ">": ")", "[": "(", "]": ")", "*": "", "`": "'", "@": "(at)", "|": "/", "~": "-", "\\": "/"}
)
"""What chats, mails and browsers obey, and what stands for it: mentions, links, markup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message for people, as plain text."""

    title: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseReport:
    """What a message says of one cause."""

    headline: str
    message: str = ""
    page: str = ""
    """Path below the URL of the pages."""
    command: str = ""
    since: datetime
    tasks: tuple[str, ...] = ()
    """The first ones that it touches."""
    touched: int = 0
    is_escalation: bool = False
    over_at: datetime | None = None
    is_kept: bool = False
    """Whether quiet hours held it back."""


def inert(text: str, limit: int = _TEXT) -> str:
    """Return a text of others as one line that nothing reacts to: no markup, no mention, no link."""
    line = without_credentials(visible(text)).replace("://", ": //").translate(_INERT)
    return one_line(line, limit)


def compose(reports: Sequence[CauseReport], fleet: str, url: str, timezone: str, now: datetime) -> Message:
    """Return one message about some causes; at most ten are described, the others counted."""
    titles = [_title(report, now) for report in reports]
    title = titles[0] if len(titles) == 1 else f"{len(titles)} things: {'; '.join(titles)}"
    blocks = [_block(report, url, timezone, now) for report in reports[:_MOST_CAUSES]]
    if len(reports) > _MOST_CAUSES:
        blocks.append(f"and {len(reports) - _MOST_CAUSES} more: {f'{url}/' if url else 'reconciler status'}")
    if any(report.is_kept for report in reports):
        blocks.insert(0, "Held back in quiet hours.")
    body = "\n\n".join(blocks)
    if len(body) > LONGEST:
        body = f"{body[: LONGEST - 1]}…"
    return Message(title=one_line(f"{fleet}: {title}" if fleet else title, _TITLE), body=body)


def _title(report: CauseReport, now: datetime) -> str:
    headline = inert(report.headline)
    if report.over_at is not None:
        return f"over: {headline}"
    if report.is_escalation:
        return f"not over after {ago(report.since, now)}: {headline}"
    return f"{headline}, {report.touched} tasks" if report.touched > 1 else headline


def _block(report: CauseReport, url: str, timezone: str, now: datetime) -> str:
    since = format_in(report.since.replace(microsecond=0), timezone)
    lines = [f"{inert(report.headline)}, since {since} ({ago(report.since, now)})"]
    if report.over_at is not None:
        over = format_in(report.over_at.replace(microsecond=0), timezone)
        lines = [f"Over: {inert(report.headline)}", f"from {since} to {over}"]
    if report.message:
        lines.append(f"Why: {inert(report.message)}")
    if report.touched:
        lines.append(_touched(report))
    if report.page and url:
        lines.append(f"Page: {url}{report.page}")
    if report.command and report.over_at is None:
        lines.append(f"Next: {report.command}")
    return "\n".join(lines)


def _touched(report: CauseReport) -> str:
    names, more = ", ".join(report.tasks), report.touched - len(report.tasks)
    count = "1 task" if report.touched == 1 else f"{report.touched} tasks"
    return f"Touches {count}: {names}" + (f" and {more} more" if more > 0 else "")
