"""
Times of the day and of the calendar: when a task is due, and when runs may start.

Time zones come from the tz database, which zoneinfo reads from the machine (or
from the package tzdata, where a machine has none).
That is the one look outside here: it gives the same answer for the same name,
as a table in the program would, and no caller has to carry offsets about that
hold until the next change of the clocks only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from reconciler.core.times import format_time

JUMP = timedelta(minutes=1)
"""A clock that is further off than this was set, and did not only drift."""

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_WINDOW = re.compile(
    r"(?:(?P<days>[a-z,-]+) +)?(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)\Z", re.ASCII | re.IGNORECASE
)


def zone(name: str) -> tzinfo:
    """Return the time zone. Raises ValueError for one that is not in the tz database."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # not there, a folder, not a name at all
        raise ValueError(f"expected a time zone such as 'UTC' or 'Europe/Berlin', got {name!r}") from None


# --- Due times -------------------------------------------------------------


@lru_cache(maxsize=1 << 14)
def format_in(moment: datetime, timezone: str) -> str:
    """Return a time as people of a time zone read it, with its offset and the zone's name."""
    place = zone(timezone)
    if place is UTC:
        return format_time(moment)
    return f"{moment.astimezone(place).isoformat(timespec='seconds')} ({timezone})"


def next_due(schedule: str, timezone: str, after: datetime) -> datetime | None:
    """
    Return the first due time after a time, in UTC; None if there is none in 50 years.

    An hour that the clocks skip is due when they jump; one that comes twice is
    due once, the first time. Raises ValueError for what is no cron expression.
    """
    from cronsim import CronSim, CronSimError

    try:
        for due in CronSim(schedule, after.astimezone(zone(timezone))):
            if due > after:  # the hour that comes twice is counted from its first time
                return due.astimezone(UTC)
    except CronSimError as error:
        raise ValueError(str(error)) from None
    return None


def is_due_time(schedule: str, timezone: str, moment: datetime) -> bool:
    """Return whether the schedule is due at exactly this time."""
    return next_due(schedule, timezone, moment - timedelta(seconds=1)) == moment


# --- Windows ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of some days of the week, by the clocks of a place; over midnight if they end first."""

    days: frozenset[int]
    """Days on which it begins; 0 is Monday."""
    start: time
    end: time
    """00:00 is midnight at the end of the day."""


@lru_cache(maxsize=1 << 10)
def read_window(text: str) -> Window:
    """Return the window that a text such as `mon-fri 09:00-17:30` means. Raises ValueError."""
    match = _WINDOW.match(text.strip())
    if match is None:
        raise ValueError(f"expected hours such as 'mon-fri 09:00-17:30' or '22:00-06:00', got {text!r}")
    start, end = _time(match["start"]), _time("00:00" if match["end"] == "24:00" else match["end"])
    if start == end and match["end"] != "24:00":
        raise ValueError(f"begins and ends at the same time: {text!r}; the whole day is 00:00-24:00")
    return Window(frozenset(_days(match["days"] or "mon-sun")), start, end)


@lru_cache(maxsize=1 << 6)  # of many tasks, at one moment, most have the same
def next_opening(windows: tuple[str, ...], timezone: str, now: datetime) -> datetime | None:
    """
    Return when the first of the windows opens, in UTC; None if one is open now.

    An edge in an hour that the clocks skip is where they jump; one in an hour
    that comes twice is in its first time.
    """
    place = zone(timezone)
    spans = [span for text in windows for span in _spans(read_window(text), place, now)]
    if any(start <= now < end for start, end in spans):
        return None
    return min(start for start, _ in spans if start > now)


def open_until(windows: tuple[str, ...], timezone: str, now: datetime) -> datetime | None:
    """
    Return when the windows that are open now close, in UTC; None if none is open.

    One that opens before another closes goes on from it. Those that never close
    do so in two weeks.
    """
    place = zone(timezone)
    end = now
    for start, last in sorted(span for text in windows for span in _spans(read_window(text), place, now)):
        if start <= end:
            end = max(end, last)
    return end if end > now else None


def _spans(window: Window, place: tzinfo, now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yield begin and end of a window, from yesterday on: two weeks, for the clocks may skip it in one."""
    today = now.astimezone(place).date()
    for offset in range(-1, 15):
        day = today + offset * _DAY
        if day.weekday() in window.days:
            last = day if window.start < window.end else day + _DAY
            start = _first_moment(datetime.combine(day, window.start, place))
            end = _first_moment(datetime.combine(last, window.end, place))
            if start < end:
                yield start, end


def _first_moment(wall: datetime) -> datetime:
    """Return when the clocks show this time or, if they skip it, when they jump over it."""
    while (moment := wall.astimezone(UTC)).astimezone(wall.tzinfo).replace(fold=0) != wall:
        wall += _MINUTE
    return moment


def _time(text: str) -> time:
    try:
        return time.fromisoformat(text)
    except ValueError:
        raise ValueError(f"expected a time of the day such as '09:00', got {text!r}") from None


def _days(text: str) -> Iterator[int]:
    for part in text.lower().split(","):
        first, _, last = part.partition("-")
        begin = _day(first)
        yield begin
        while begin != _day(last or first):
            begin = (begin + 1) % len(DAYS)
            yield begin


def _day(name: str) -> int:
    if name not in DAYS:
        raise ValueError(f"expected days such as 'mon-fri' or 'sat,sun', got {name!r}")
    return DAYS.index(name)
