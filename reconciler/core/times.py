"""
Times: how they are read, written and kept within what every calendar can bear.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

# Sums, differences and time zones of what lies between can be borne: no conversion
# further in has to think of the edges of what Python can represent.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9000, 1, 1, tzinfo=UTC)


def parse_time(value: object) -> datetime:
    """
    Return the time that a text such as `2030-01-31T09:00:00+01:00` means, in UTC (also without an offset).

    Raises ValueError for anything else, and for a time that is not between `EARLIEST` and `LATEST`.
    """
    try:
        time = (
            value
            if isinstance(value, datetime)
            else datetime.fromisoformat(value if isinstance(value, str) else "")
        )
    except ValueError:
        message = f'expected a time such as "2030-01-31T09:00:00+01:00", got {value!r}'
        raise ValueError(message) from None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    if not EARLIEST <= time <= LATEST:
        message = f"must be a time from {EARLIEST.year} to {LATEST.year - 1}, not {value!s}"
        raise ValueError(message)
    return time.astimezone(UTC)


def time_at(seconds: float) -> datetime:
    """
    Return the time so many seconds after the epoch, in UTC: what git, a file system or a header tells.

    Nobody refuses those at a door, so one beyond `EARLIEST` and `LATEST` is the nearer of the two.
    """
    first, last = EARLIEST.timestamp(), LATEST.timestamp()
    return datetime.fromtimestamp(max(first, min(seconds, last)), UTC)  # noqa: TID251 - within bounds


def format_time(value: datetime) -> str:
    """Return the time in UTC, to the millisecond, as ISO 8601 with a `Z`."""
    text = value.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00").removesuffix(".000") + "Z"


Age = Callable[[datetime], str]
"""Return how long ago a time was; see `age_at`."""


def age_at(now: datetime) -> Age:
    """Return what tells how long ago something was, as of a time."""
    return lambda since: ago(since, now)


def ago(since: datetime, now: datetime) -> str:
    """Return how long ago that was, in its largest unit: `40s`, `12m`, `3h`, `5d`."""
    seconds = max(now - since, timedelta()).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"
