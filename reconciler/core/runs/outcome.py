"""
How much of what an agent's CLI said may be believed.

No single sign is enough: a CLI may exit 0 with nothing done, or print success
and be killed. A success needs the last event, what stands in it, and the exit
code; whether the work is any good is for the validation to say.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from reconciler.core.adapter import Usage
from reconciler.core.model.runs import FailureClass, Verdict
from reconciler.core.patterns import lines_of
from reconciler.core.runs.provider_errors import PHRASES, STATUSES, class_of
from reconciler.core.text import harmless, one_line, tail
from reconciler.core.times import time_at

SIGNALS = {
    129: "HUP",
    130: "INT",
    131: "QUIT",
    134: "ABRT",
    137: "KILL",
    139: "SEGV",
    141: "PIPE",
    143: "TERM",
}
"""Exit codes of a shell that mean the end by a signal; others above 128 are the CLI's own."""

NOTHING = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFacts:
    """What one run of a CLI left behind: read, but not judged."""

    exit_code: int
    """As the shell reports it: 128 + n after signal n."""
    complete: bool
    """The last event is there."""
    succeeded: bool
    """The CLI says that it succeeded."""
    text: str = ""
    """The agent's last words."""
    needs_text: bool = True
    """Whether an agent that says nothing has failed."""
    error: str = ""
    """The CLI's own error message."""
    error_class: FailureClass | None = None
    """Failure class, where the output or the exit code names it."""
    error_status: int | None = None
    """HTTP status of the model's server."""
    stderr: str = ""
    """Its end; of stdout, if there is nothing but words on that."""
    complaints: tuple[str, ...] | None = None
    """Lines of stderr in which this CLI tells its errors; None: it is not known which."""
    error_patterns: Mapping[Any, str] = field(default_factory=dict)
    """What phrases of this CLI's errors mean: regular expressions by failure class."""
    session_id: str | None = None
    wanted_session: str | None = None
    """Session that was to be resumed."""
    chosen_session: str | None = None
    """Id that was made for its session: a CLI that is ended may not have told it yet."""
    denials: tuple[str, ...] = ()
    """Tools that were denied, if the agent had to give up for that."""
    lacks_structure: bool = False
    """A structured answer was asked for and is not there."""
    started: bool = True
    """Whether the CLI got as far as its first event."""
    was_cut: bool = False
    """The last line stops in the middle."""
    totals: Usage = NOTHING
    """As the CLI reports it."""
    usage: Usage = NOTHING
    """What this run alone took."""
    model: str | None = None
    """Model that it used."""
    notes: tuple[str, ...] = ()


def verdict(facts: OutputFacts, now: datetime) -> Verdict:
    """Return what to make of a run; `now` is what times such as "in 5 minutes" count from."""
    failure = next(_failures(facts), None)
    kind, message = failure or (None, "")
    return Verdict(
        outcome="failed" if failure else "success",
        kind=kind,
        message=one_line(message),
        session_id=None if failure and _session_is_gone(facts) else _session(facts),
        text=tail(facts.text, lines=200, characters=20_000),
        usage=facts.usage,
        model=one_line(facts.model) if facts.model else None,
        session_totals=facts.totals,
        retry_at=retry_time(_error_text(facts), now) if kind is FailureClass.QUOTA else None,
        notes=tuple(one_line(note) for note in (*facts.notes, *_notes(facts, failed=failure is not None))),
    )


def _session(facts: OutputFacts) -> str | None:
    return facts.session_id or facts.wanted_session or (facts.chosen_session if facts.started else None)


def _failures(facts: OutputFacts) -> Iterator[tuple[FailureClass, str]]:
    """Yield why the run is not a success, the plainest reason first; nothing if it is one."""
    if not facts.complete:
        yield _incomplete(facts)
    elif not facts.succeeded:
        yield classify(facts), facts.error or f"exited with {facts.exit_code}{_because(facts)}"
    if facts.denials:
        yield FailureClass.CONFIG, f"denied and given up: {_listed(facts.denials)}; allow it in the adapter"
    if facts.exit_code != 0 and facts.exit_code not in SIGNALS:
        yield classify(facts), f"says success but exited with {facts.exit_code}{_because(facts)}"
    if facts.lacks_structure:
        yield FailureClass.AGENT, "the answer is not in the form that was asked for"
    if facts.needs_text and not facts.text.strip():
        yield FailureClass.AGENT, "ended without any text: an empty answer or a refusal"


def _incomplete(facts: OutputFacts) -> tuple[FailureClass, str]:
    because = _because(facts)
    if facts.exit_code in SIGNALS:
        return FailureClass.HOST, f"ended by SIG{SIGNALS[facts.exit_code]} before it was done{because}"
    if facts.was_cut:
        return classify(facts), f"output is cut off in its last line (exit code {facts.exit_code}){because}"
    if not facts.started:
        return classify(facts), f"exited with {facts.exit_code} and printed no event{because}"
    return classify(facts), f"exited with {facts.exit_code} without its last event{because}"


def _because(facts: OutputFacts) -> str:
    complaint = facts.error or _error_line("\n".join(facts.complaints or ()) or facts.stderr)
    return f": {complaint}" if complaint else ""


# --- Failure classes -------------------------------------------------------

EXIT_CODES = {
    124: FailureClass.TIMEOUT,
    126: FailureClass.CONFIG,
    127: FailureClass.CONFIG,
}
"""What `timeout` and the shell mean by theirs."""


def classify(facts: OutputFacts) -> FailureClass:
    """
    Return the failure class that a status, words or the exit code of a failure tell.

    What has a field of its own counts first, then what stands where the CLI
    writes its errors.
    """
    if _session_is_gone(facts):
        return FailureClass.AGENT
    return (
        facts.error_class
        or STATUSES.get(facts.error_status or 0)
        or EXIT_CODES.get(facts.exit_code)
        or class_of(_error_text(facts), facts.error_patterns)
        or (FailureClass.CONFIG if _refused_to_start(facts) else FailureClass.AGENT)
    )


def _refused_to_start(facts: OutputFacts) -> bool:
    """Tell whether the CLI did nothing but complain of how it was called; one that crashed shows where."""
    text = harmless(facts.stderr)
    complaint = re.search(r"^[^\w\n]*error\b", text, re.IGNORECASE | re.MULTILINE)
    return not facts.started and complaint is not None and _CRASH.search(text) is None


_CRASH = re.compile(r"^[ \t]*at .{0,300}:\d+(?::\d+)?\)?$|^Traceback \(most recent call last\)", re.MULTILINE)
"""A line of a stack."""


_GONE = re.compile(
    r"no conversation found|session not found|no (saved|previous) sessions? found|no rollout found",
    re.IGNORECASE,
)


def _session_is_gone(facts: OutputFacts) -> bool:
    """Tell whether the session to resume is not there: the next run must begin a new one."""
    is_good = facts.complete and facts.succeeded
    is_asked = facts.wanted_session is not None
    return is_asked and not is_good and _GONE.search(_error_text(facts)) is not None


_COMPLAINT = re.compile(
    r"[^\w\n]*(?:\d{4}-\d\d-\d\d\S*\s+)?"  # brackets, bullets, the time
    r"(?:(?:api |fatal )?(?:[\w.]*error|fatal|panic)\b|"
    r"(?:connect|exceeded|failed|reached|unexpected|you(?:'ve| have)|the model|cannot|could not|unable)\b|"
    + "|".join(f"(?:{phrase})" for phrase in (*(p for ps in PHRASES.values() for p in ps), _GONE.pattern))
    + ")",
    re.IGNORECASE,
)
"""How a line of stderr begins that is an error, where nothing better is known of a CLI."""


def _error_text(facts: OutputFacts) -> str:
    """Return the error in words: the CLI's own, or else the lines of stderr that are one."""
    if facts.error:
        return harmless(facts.error)[:_MOST_TEXT]
    if facts.complaints is not None:
        return "\n".join(facts.complaints)[-_MOST_TEXT:]
    complaints = [line for line in lines_of(facts.stderr) if _COMPLAINT.match(line)]
    return "\n".join(complaints)[-_MOST_TEXT:]


_MOST_TEXT = 8000


# --- Notes -----------------------------------------------------------------


def _notes(facts: OutputFacts, *, failed: bool) -> Iterator[str]:
    if facts.exit_code in SIGNALS and not failed:
        yield f"ended by SIG{SIGNALS[facts.exit_code]} after its result"
    if facts.was_cut and facts.complete:
        yield "output after the result is cut off"
    if facts.wanted_session and facts.session_id not in {None, facts.wanted_session}:
        yield f"new session {facts.session_id}, not {facts.wanted_session} as asked"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _error_line(text: str) -> str:
    """Return the last line that names an error and the one below it, or else the last line."""
    lines = [line.strip() for line in harmless(text).split("\n") if line.strip(" \t{}[]")]
    errors = [at for at, line in enumerate(lines) if re.search(r"error\b|failed", line, re.IGNORECASE)]
    return " ".join(lines[errors[-1] :][:2] if errors else lines[-1:])


# --- Usage -----------------------------------------------------------------


def run_usage(before: Usage, now: Usage, cumulative: Iterable[str]) -> Usage:
    """
    Return what one run took, where the CLI counts on over the runs of a session.

    A total that got smaller was begun anew: then it is the run's own.
    `cumulative` says which are totals: `tokens`, `cost`.
    """
    taken = dict[str, Any]()
    for group in cumulative:
        names = TOTALS[group]
        if all(getattr(now, name) >= getattr(before, name) for name in names):
            taken |= {name: round(getattr(now, name) - getattr(before, name), 6) for name in names}
    return now.model_copy(update=taken)


ADDED_UP: Mapping[str, Sequence[str]] = {
    "tokens": ("input_tokens", "output_tokens", "cached_tokens"),
    "cost": ("cost_usd",),
    "turns": ("turns",),
}
"""Fields of a usage by the names of `added_up`."""
TOTALS = {group: ADDED_UP[group] for group in ("tokens", "cost")}


# --- When a quota is full again --------------------------------------------

_EPOCH = re.compile(r"(?:limit reached\||reset\w*[\"']?\s*[:=|]\s*)(\d{10})(\d{3})?\b", re.IGNORECASE)
_ISO = re.compile(r"\b(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)")
_SPAN = re.compile(
    r"(?:retry[- _]?after|retry[- _]?delay|(?:re)?try(?: again)? (?:in|after)|again in|\bwait(?: for)?"
    r"|resets?[ _](?:in|after)(?:_seconds)?|reset-(?:requests|tokens))(?: about)?[\"'\s:=]*"
    r"((?:\d+(?:\.\d+)?\s*(?:days?|hours?|hrs?|minutes?|mins?|seconds?|secs?|ms|[dhms])?[\s,]*(?:and\s+)?)+)",
    re.IGNORECASE,
)
_HTTP_DATE = re.compile(r"\b[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[dhms]?)", re.IGNORECASE)
_CLOCK = re.compile(
    r"(?:resets?|again|until)(?: at| on)?\s+"
    r"(?:(mon|tue|wed|thu|fri|sat|sun)[a-z]*,? (?:at )?)?"
    r"(?:([A-Z][a-z]{2,8})\.? (\d{1,2})(?:st|nd|rd|th)?,?(?: (\d{4}),?)?(?: at)? )?"
    r"(\d{1,2})(?::(\d\d))?\s*([ap]m)?(?:\s*\(?([A-Za-z]+/[A-Za-z_/]+|UTC|GMT)\)?)?",
    re.IGNORECASE,
)
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
FARTHEST = timedelta(days=32)
"""A time further away than this was misread."""


def retry_time(text: str, now: datetime) -> datetime | None:
    """
    Return the time from which a provider takes calls again, if its words name it.

    Known are epochs (`limit reached|1790000000`), ISO times, spans (`try again
    in 1h30m`, `retry-after: 30`) and times of day (`resets at 3pm (Europe/Berlin)`,
    `resets Mon 9am`; UTC if no zone is named, the next one if it is over).
    """
    readers = (_from_epoch, _from_http_date, _from_span, _from_iso, _from_clock)
    times = (reader(text, now) for reader in readers)
    return next((time for time in times if time and now <= time <= now + FARTHEST), None)


def _from_epoch(text: str, _now: datetime) -> datetime | None:
    match = _EPOCH.search(text)
    return time_at(int(match[1])) if match else None


def _from_http_date(text: str, _now: datetime) -> datetime | None:
    """Return the first date such as that of a Retry-After header."""
    match = _HTTP_DATE.search(text)
    with suppress(ValueError):
        return datetime.strptime(match[0], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC) if match else None
    return None


def _from_span(text: str, now: datetime) -> datetime | None:
    match = _SPAN.search(text)
    if not match:
        return None
    units = {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600, "d": 86400}
    seconds = sum(float(number) * units[unit.lower()] for number, unit in _PART.findall(match[1]))
    return now + timedelta(seconds=min(seconds, 10 * FARTHEST.total_seconds()))


def _from_iso(text: str, now: datetime) -> datetime | None:
    """Return the first such time that is not over: those before are of log lines."""
    for moment in _ISO.findall(text):
        with suppress(ValueError):
            time = datetime.fromisoformat(moment)
            time = time if time.tzinfo else time.replace(tzinfo=UTC)
            if time >= now:
                return time
    return None


def _from_clock(text: str, now: datetime) -> datetime | None:
    match = _CLOCK.search(text)
    if match is None or not (match[6] or match[7]):
        return None
    weekday, month, day, year, hour, minute, half, zone = match.groups()
    local = now.astimezone(_zone(zone))
    try:
        time = local.replace(hour=_hour(int(hour), half), minute=int(minute or 0), second=0, microsecond=0)
        if month:
            number = _MONTHS.index(month[:3].lower()) + 1
            time = time.replace(year=int(year or local.year), month=number, day=int(day))
            is_next_year = year is None and time < local and local.month > number
            return time.replace(year=time.year + 1) if is_next_year else time
    except ValueError:
        return None
    days = (_WEEKDAYS.index(weekday.lower()) - local.weekday()) % 7 if weekday else 0
    time += timedelta(days=days)
    return time if time >= local else time + timedelta(days=7 if weekday else 1)


def _hour(hour: int, half: str | None) -> int:
    if half is None or hour > 12:  # noqa: PLR2004 - noon
        return hour
    return hour % 12 + (12 if half.lower() == "pm" else 0)


def _zone(name: str | None) -> tzinfo:
    try:
        return ZoneInfo(name) if name else UTC
    except (KeyError, ValueError, OSError):
        return UTC
