"""
Isolation of the meter: what goes wrong in counting costs the figures, and nothing that is counted.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.controller.ports import CommitOutcome, LookOutcome, Meter, PushRefusal, ValidationOutcome

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IsolatedMeter:
    """A meter whose bugs are logged, and do not reach whoever tells it something."""

    inner: Meter

    def look(self, seconds: float, outcome: LookOutcome) -> None:
        """Take note of a look of the loop."""
        _guarded(lambda: self.inner.look(seconds, outcome))

    def commit(self, steps: int, seconds: float, outcome: CommitOutcome) -> None:
        """Take note of a batch of steps that was to go on record."""
        _guarded(lambda: self.inner.commit(steps, seconds, outcome))

    def push_refused(self, why: PushRefusal) -> None:
        """Take note of a push of the record that the remote did not take."""
        _guarded(lambda: self.inner.push_refused(why))

    def queue_validated(self, repo: str, outcome: ValidationOutcome) -> None:
        """Take note of a commit of a repo's merge queue that was validated."""
        _guarded(lambda: self.inner.queue_validated(repo, outcome))


def _guarded(note: Callable[[], None]) -> None:
    try:
        note()
    except Exception:
        log.exception("metrics miss a measurement; everything else goes on")
