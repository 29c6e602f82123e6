"""
Interface of schedulers, which a plain host implements too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from reconciler.core.model.runs import FailureClass


@dataclass(frozen=True, slots=True)
class JobEnd:
    """An end that the scheduler, or somebody through it, gave to a run."""

    kind: FailureClass
    message: str
    """Why, and what to do; follows the name of the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerFacts:
    """A scheduler as a probe met it."""

    name: str
    version: str
    partitions: tuple[str, ...]
    """Those that take jobs."""
    proctrack: str
    """Its plugin that knows the processes of a job, without `proctrack/`."""
    ends_detached: bool
    """Whether what a job started is ended with it, whatever it did to get away."""
    faults: tuple[str, ...] = ()
    """Why no run can start, and what to do."""
    warnings: tuple[str, ...] = ()


class Scheduler(Protocol):
    """What starts the runs of a host: processes on it, or jobs in a queue."""

    @property
    def name(self) -> str:
        """Its name for people."""

    @property
    def has_queue(self) -> bool:
        """Whether runs may wait there before they begin, and it has a say in how they ended."""

    @property
    def functions(self) -> str:
        """Shell functions that take the place of those of `wrapper.sh`; empty for its own."""

    @property
    def queue_timeout(self) -> timedelta | None:
        """How long a run may wait in the queue before it is taken back; None: as long as it takes."""

    def job_head(self, requires: Sequence[str], timeout: timedelta) -> str:
        """
        Return what stands at the beginning of a job: lines of its options.

        `requires` are the labels that the task requires, `timeout` how long it may run.
        """

    def wait_message(self, reason: str) -> str:
        """Return what a run waits for, by the scheduler's own word for it; empty if nothing is to be said."""

    @property
    def ends(self) -> Mapping[str, JobEnd]:
        """How the scheduler ends runs, by its own word for it."""

    @property
    def probe(self) -> str:
        """Shell text by which a probe asks it; it prints `<fact> <value>` in lines."""

    def facts(self, values: Mapping[str, str]) -> SchedulerFacts | None:
        """
        Return what it said to a probe; None for a plain host.

        Raises Unavailable if it does not answer.
        """
