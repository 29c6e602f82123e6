"""
What fails and is tried again: in memory while it may pass, for the record once it lasts.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

LASTING = timedelta(minutes=10)
"""How long something has to fail before it is told: what is told is a commit, and its end another."""


class FailingTries:
    """Why things fail, by what is tried; in the words of the first time, as others would be a commit each."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[datetime, str]] = {}

    def failed(self, key: str, why: str, at: datetime) -> None:
        """Take note that a try failed."""
        self._failures.setdefault(key, (at, why))

    def worked(self, key: str) -> None:
        """Take note that one did not."""
        self._failures.pop(key, None)

    def keep(self, keys: Collection[str]) -> None:
        """Forget all but these."""
        self._failures = {key: failure for key, failure in self._failures.items() if key in keys}

    def lasting(self, now: datetime) -> Mapping[str, str]:
        """Return what fails for long, and why."""
        return {key: why for key, (since, why) in self._failures.items() if since + LASTING <= now}
