"""
Retention: which files of past runs on hosts are still needed, and which runs are stale.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate

from reconciler.core.model.runs import read_run_key
from reconciler.core.model.specs import FleetSpec, Host, Repo, RunHooks
from reconciler.core.model.status import Phase, Status

_KIBIBYTES = 1024
NO_REPOS: Mapping[str, Repo] = {}
NO_DRIFT: Mapping[tuple[str, datetime], timedelta] = {}


@dataclass(frozen=True, slots=True)
class Retention:
    """What a sweep has to know of the fleet; runs by their keys."""

    statuses: Mapping[str, Status]
    live: frozenset[str]
    """That are asked for now, whatever the names of their tasks are by now."""
    open: frozenset[str]
    """Of tasks that are not settled; all that belongs to them stays."""
    failed: tuple[str, ...]
    """Of tasks that failed not long ago, the newest first; they stay as far as there is room."""
    damaged: frozenset[str]
    """Tasks with a status that cannot be read: nobody knows what of theirs is needed, so all is."""
    failed_mb: int
    """Room for their workspaces on one host, in MiB."""
    repos: Mapping[str, Repo] = field(default_factory=dict)
    """Repos of the fleet: they may have hooks before a workspace is removed."""

    def removal_hooks(self, host: Host, run: str) -> RunHooks:
        """Return the hooks of a host, and of the repo of a run where that is on record."""
        status = self.statuses.get(task_of_run(run) or "")
        repo = self.repos.get(status.run.repo or "") if status and status.run else None
        return host.hooks.followed_by(repo.hooks) if repo else host.hooks

    @property
    def used_repos(self) -> frozenset[str]:
        """Names of the repos of the fleet, and of those that runs which stay began from."""
        statuses = (self.statuses.get(task_of_run(run) or "") for run in (*self.open, *self.failed))
        of_runs = {status.run.repo for status in statuses if status and status.run and status.run.repo}
        return frozenset(of_runs | self.repos.keys())

    def failed_with_room(self, sizes: Mapping[str, int]) -> frozenset[str]:
        """Return the failed runs that stay where their workspaces have these sizes in KiB: the oldest go."""
        totals = accumulate(sizes.get(run, 0) for run in self.failed)
        most = self.failed_mb * _KIBIBYTES
        return frozenset(run for run, total in zip(self.failed, totals, strict=True) if total <= most)

    def is_stale(self, run: str, *, is_check: bool = False) -> bool:
        """
        Return whether a run that is alive on a host should not be: its task has moved on without it.

        A run of a task that has no status was let go of on purpose, and one of
        an attempt that is not on record here may be on record elsewhere: both
        are left alone. What only validates a commit (`is_check`) may do so as long as the task
        is open: in a merge queue its run is over by then.
        """
        task, attempt = read_run_key(run) or ("", 0)
        status = self.statuses.get(task)
        if status is None or run in self.live or (is_check and run in self.open):
            return False
        return run == status.run_key or attempt < status.attempt

    def is_of_damaged(self, run: str) -> bool:
        """Return whether a run belongs to a task of which nobody knows where it stands."""
        return task_of_run(run) in self.damaged

    def is_of_open_task(self, run: str) -> bool:
        """Return whether a run, be it of an earlier attempt, belongs to a task that is not settled."""
        task, _ = read_run_key(run) or ("", 0)
        status = self.statuses.get(task)
        return (
            task in self.damaged or run in self.open or (status is not None and not status.phase.is_settled)
        )


def task_of_run(run: str) -> str | None:
    """Return the task that a run is of; None for what is no key of a run."""
    named = read_run_key(run)
    return named[0] if named else None


def retention(
    statuses: Mapping[str, Status],
    now: datetime,
    fleet: FleetSpec,
    *,
    live: Iterable[str],
    open_runs: Iterable[str],
    failed: Iterable[str],
    damaged: Iterable[str] = (),
    repos: Mapping[str, Repo] = NO_REPOS,
    drift: Mapping[tuple[str, datetime], timedelta] = NO_DRIFT,
) -> Retention:
    """
    Return what is needed of all that runs left: by tasks that are open, and by people after a failure.

    `live` and `open_runs` are the runs of tasks that are live, and that are not settled, by their keys;
    `failed` are the tasks that failed. `drift` is how far the clock was set since (see `Observed.drift`).
    """
    candidates = (statuses.get(name) for name in failed)
    ended = [(status.run.key, status) for status in candidates if status and status.run]
    fresh = sorted(
        (
            (status.since, run)
            for run, status in ended
            if _is_fresh_failure(status, now - drift.get((run, status.since), timedelta()), fleet)
        ),
        reverse=True,
    )
    return Retention(
        statuses=statuses,
        live=frozenset(live),
        open=frozenset(open_runs),
        failed=tuple(run for _, run in fresh),
        damaged=frozenset(damaged),
        failed_mb=fleet.keep_failed_mb,
        repos=repos,
    )


def _is_fresh_failure(status: Status, now: datetime, fleet: FleetSpec) -> bool:
    return status.phase is Phase.FAILED and now - status.since < fleet.keep_failed
