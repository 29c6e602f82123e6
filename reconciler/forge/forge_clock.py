"""
Forge clock: how far the clock of a forge is from ours, as its answers tell.

Forges and their clients are seldom of one time: a server without NTP is hours
off. The times that a forge gives are compared with each other as they are, and
with ours only by way of this offset.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_SECOND = timedelta(seconds=1)


class ForgeClock:
    """The clock of a forge beside ours; the same as ours until an answer says otherwise."""

    def __init__(self) -> None:
        self.offset = timedelta()
        """How far the forge is ahead; kept as long as answers agree with it."""

    def note(self, headers: Mapping[str, str], sent: datetime, received: datetime) -> None:
        """Learn from the `Date` of an answer, given when it was asked for and when it came, by our clock."""
        try:
            date = parsedate_to_datetime(headers.get("date", "")).astimezone(UTC)
        except (ValueError, OverflowError):
            return
        least, most = date - received, date + _SECOND - sent  # it counts whole seconds
        if not least <= self.offset <= most:
            self.offset = least + (most - least) / 2

    def ours(self, time: datetime) -> datetime:
        """Return a time of the forge by our clock."""
        return _moved(time, -self.offset)

    def theirs(self, time: datetime) -> datetime:
        """Return a time of ours by the forge's clock."""
        return _moved(time, self.offset)


def _moved(time: datetime, by: timedelta) -> datetime:
    try:
        return time + by
    except OverflowError:  # the ends of time, which stand for "never" and "always"
        return time
