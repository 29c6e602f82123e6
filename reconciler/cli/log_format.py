"""
How `run` and `serve` print: lines for people, or one JSON object a line.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import click

from reconciler import log_fields
from reconciler.controller.ports import Step
from reconciler.core.hosts import HostChange
from reconciler.core.lifecycle import Transition
from reconciler.core.model.specs import Desired
from reconciler.core.runs.accounts import AccountChange
from reconciler.core.times import time_at

LogFormat = Literal["human", "json"]

log_format_option = click.option(
    "--log-format",
    type=click.Choice(get_args(LogFormat)),
    default="human",
    show_default=True,
    envvar="RECONCILER_LOG_FORMAT",
    show_envvar=True,
    help="Print lines for people, or a JSON object for each step and each log record.",
)


def formatter(form: LogFormat) -> logging.Formatter | None:
    """Return the formatter of log records; None: that of lines for people."""
    return JsonFormatter() if form == "json" else None


class JsonFormatter(logging.Formatter):
    """Formats a log record as one line of JSON, with the fields that are bound where it is logged."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback is in `exception`."""
        exception = self.formatException(record.exc_info) if record.exc_info else None
        at = time_at(int(record.created)).replace(microsecond=int(record.msecs) * 1000)
        return _line(at, record.levelname.lower(), record.name, record.getMessage(), exception=exception)


def step_json(step: Step, desired: Desired) -> str:
    """Return a step on record as one line of JSON."""
    if isinstance(step, HostChange):
        state = step.after.state if step.after else "gone"
        return _line(step.at, "info", "reconciler.record", step.reason, host=step.host, after=state)
    if isinstance(step, AccountChange):
        stand = step.after.state if step.after else "usable"
        return _line(step.at, "info", "reconciler.record", step.reason, account=step.account, after=stand)
    return _line(
        step.event.origin.at, "info", "reconciler.record", step.event.origin.reason, **_fields(step, desired)
    )


def notice_json(message: str, now: datetime) -> str:
    """Return what the process says of itself as one line of JSON."""
    return _line(now, "info", "reconciler", message)


def _fields(step: Transition, desired: Desired) -> dict[str, str | None]:
    status, spec = step.after or step.before, desired.tasks.get(step.task)
    return {
        "task": step.task,
        "before": str(step.before.phase) if step.before else None,
        "after": str(step.after.phase) if step.after else None,
        "run": status.run_key if status else None,
        "host": status.assigned_host if status else None,
        "agent": status.assigned_agent if status else None,
        "session": status.session.id if status and status.session else None,
        "issue": spec.issue if spec else None,
        "cause": step.event.origin.cause,
        "actor": step.event.origin.actor,
    }


def _line(at: datetime, level: str, logger: str, message: str, **fields: str | None) -> str:
    given = {name: value for name, value in fields.items() if value is not None}
    entry: dict[str, Any] = {
        "time": at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level,
        "logger": logger,
        "message": message,
        **log_fields.bound(),
        **given,
    }
    return json.dumps(entry, ensure_ascii=False)
