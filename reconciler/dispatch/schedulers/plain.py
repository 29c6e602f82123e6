"""
Plain host: runs are processes on it, from their start on.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from reconciler.dispatch.schedulers.base import JobEnd, Scheduler, SchedulerFacts


class PlainScheduler(Scheduler):
    """Processes of the host itself; the functions of `wrapper.sh` are its own."""

    name = "processes"
    has_queue = False
    functions = ""
    queue_timeout = None
    ends: Mapping[str, JobEnd] = {}
    probe = ""

    def job_head(self, requires: Sequence[str], timeout: timedelta) -> str:  # noqa: ARG002 - no job has options
        """Return nothing: the wrapper itself keeps the time."""
        return ""

    def wait_message(self, reason: str) -> str:
        """Return the reason; nothing waits here."""
        return reason

    def facts(self, values: Mapping[str, str]) -> SchedulerFacts | None:  # noqa: ARG002 - nobody was asked
        """Return None: there is nobody to ask."""
        return None
