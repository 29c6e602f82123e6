"""Statuses for tests, by the names that their fields have in the file."""

from collections.abc import Mapping
from datetime import datetime

from reconciler.controller.cache import FleetCache
from reconciler.core.model.specs import FleetSpec, Repo
from reconciler.core.model.status import Phase, Status
from reconciler.core.runs.retention import Retention, retention

_OF_A_RUN = {
    "account",
    "model",
    "run",
    "round",
    "assigned_host",
    "assigned_agent",
    "adapter",
    "repo",
    "branch_name",
    "slots",
}
_HAVE_RUN = {Phase.ASSIGNED, Phase.RUNNING, Phase.REVIEW_PENDING, Phase.COMPLETED, Phase.FAILED}


def make_status(phase: Phase = Phase.CREATED, **fields: object) -> Status:
    """Return a status with these fields; whatever else its run must have is filled in."""
    return Status.model_validate(_with_run({"phase": phase, **fields}), strict=False)


def changed(status: Status, **fields: object) -> Status:
    """Return a status with other values in these fields, as if its file said so."""
    known = {**status.model_dump(exclude_defaults=True), **fields}
    return Status.model_validate(_with_run(known), strict=False)


def _with_run(fields: Mapping[str, object]) -> Mapping[str, object]:
    given = {name: value for name, value in fields.items() if value is not None}
    if given["phase"] not in _HAVE_RUN and not _OF_A_RUN & given.keys():
        return given
    place = {} if "assigned_agent" in given else {"assigned_host": "local"}
    return {
        "run": "a.g11111111.a1",
        "round": 1,
        "branch_name": "task/a",
        "pr_title": "Do it.",
        **place,
        **given,
    }


def retention_of(
    statuses: Mapping[str, Status],
    now: datetime,
    fleet: FleetSpec,
    repos: Mapping[str, Repo] | None = None,
) -> Retention:
    """Return what a sweep is told of a fleet with these statuses."""
    cache = FleetCache(statuses=statuses)
    cache.refresh(statuses)
    return retention(
        statuses,
        now,
        fleet,
        live=cache.groups.of("live run"),
        open_runs=cache.groups.of("open run"),
        failed=cache.groups.names("failed"),
        repos=repos or {},
    )
