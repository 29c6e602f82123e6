"""
What `get` shows of each kind: columns for people, documents for programs.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from reconciler.cli.output import Column, Document
from reconciler.cli.terminal import ago
from reconciler.cli.views import HostView, TaskView
from reconciler.core.adapter import Adapter
from reconciler.core.conditions import Condition
from reconciler.core.fields import format_time
from reconciler.core.model.specs import Agent, LiveOutput, Repo
from reconciler.core.model.status import HostCli
from reconciler.core.runs.failure import FailureSummary

DASH = "-"
"""What stands in a table where there is nothing to say."""

# --- Tables ----------------------------------------------------------------


def task_columns(now: datetime) -> Sequence[Column]:
    """Return the columns of `get tasks`."""
    return (
        Column("NAME", lambda view: view.name),
        Column("PHASE", lambda view: view.stand),
        Column("SINCE", lambda view: ago(view.status.since, now) if view.status else DASH),
        Column("ATTEMPT", lambda view: str(view.status.attempt) if view.status else DASH),
        Column("HOST", _place),
        Column("ADAPTER", lambda view: view.spec.adapter if view.spec else DASH, is_wide=True),
        Column("REPO", lambda view: (view.spec and view.spec.repo) or DASH, is_wide=True),
        Column("BRANCH", _of_status("branch_name"), is_wide=True),
        Column("RUN", _of_status("run"), is_wide=True),
        Column("TITLE", lambda view: view.spec.headline if view.spec else DASH, is_wide=True),
        Column("REASON", lambda view: view.line or _last_output(view, now)),
    )


def _last_output(view: TaskView, now: datetime) -> str:
    return f"last output {ago(view.heard.at, now)} ago" if view.heard else ""


def _place(view: TaskView) -> str:
    """Return the host of the last run, or the agent that pulled it."""
    status = view.status
    agent = status.assigned_agent if status else None
    return f"agent {agent}" if agent else (status and status.assigned_host) or DASH


def _of_status(field: str) -> Callable[[TaskView], str]:
    return lambda view: (view.status and getattr(view.status, field)) or DASH


def host_columns(now: datetime) -> Sequence[Column]:
    """Return the columns of `get hosts`."""
    return (
        Column("NAME", lambda view: view.name),
        Column("STATE", lambda view: view.stand),
        Column("SINCE", lambda view: ago(view.since, now) if view.since else DASH),
        Column("USED", lambda view: f"{view.used}/{view.spec.slots}"),
        Column("LABELS", lambda view: ",".join(view.spec.labels) or DASH),
        Column("ADDRESS", lambda view: view.spec.address or "this machine", is_wide=True),
        Column("ADAPTERS", adapters_of, is_wide=True),
        Column("REASON", lambda view: view.status.message if view.status else ""),
    )


def adapters_of(view: HostView) -> str:
    """Return which agent CLIs a host offers, in words, with their versions as far as they were found."""
    known = view.status.adapters if view.status else {}
    if view.spec.adapters is None:
        return ", ".join(["any", *(_cli(name, cli) for name, cli in known.items() if cli.ok)])
    return ", ".join(_cli(name, known.get(name)) for name in view.spec.adapters) or "none"


def _cli(name: str, cli: HostCli | None) -> str:
    if cli is None:
        return name
    return f"{name} {cli.version or 'not found'}{'' if cli.ok or cli.version is None else ' (will not do)'}"


AGENT_COLUMNS = (
    Column("NAME", lambda agent: agent.name),
    Column("DESIRED", lambda agent: agent.desired),
    Column("SLOTS", lambda agent: str(agent.slots)),
    Column("CAPABILITIES", lambda agent: ",".join(agent.capabilities) or DASH),
    Column("EXPIRES", lambda agent: format_time(agent.expires) if agent.expires else "never"),
    Column("SCOPES", lambda agent: ",".join(agent.scopes), is_wide=True),
)
ADAPTER_COLUMNS = (
    Column("NAME", lambda adapter: adapter.name),
    Column("PROGRAM", lambda adapter: adapter.command[0] if adapter.command else DASH),
    Column("VERSION", lambda adapter: (adapter.version and adapter.version.range) or "any"),
    Column("PROMPT", lambda adapter: adapter.prompt),
    Column("RESUMES", lambda adapter: "yes" if adapter.resume else "no"),
    Column("COMMAND", lambda adapter: " ".join(adapter.command), is_wide=True),
)
REPO_COLUMNS = (
    Column("NAME", lambda repo: repo.name),
    Column("BASE", lambda repo: repo.base),
    Column("URL", lambda repo: repo.url),
    Column("PATHS", lambda repo: ",".join(repo.paths) or "all", is_wide=True),
    Column("VALIDATION", lambda repo: "; ".join(repo.validation) or DASH, is_wide=True),
)


# --- Documents -------------------------------------------------------------


def task_document(view: TaskView) -> Document:
    """Return a task as `-o json` prints it."""
    return {
        "kind": "task",
        "name": view.name,
        "phase": view.status.phase.value if view.status else None,
        "reason": view.reason,
        "cause": cause_document(view.cause) if view.cause else None,
        "conditions": [condition_document(condition) for condition in view.conditions],
        "problems": [str(problem) for problem in view.problems],
        "spec": view.spec.model_dump(mode="json", exclude={"name"}) if view.spec else None,
        "status": view.status.model_dump(mode="json") if view.status else None,
        **({"live": heard_document(view.heard)} if view.heard else {}),
    }


def cause_document(found: FailureSummary) -> Document:
    """Return why a task failed as `-o json` prints it."""
    return {
        "summary": found.summary,
        "output": list(found.output),
        "workspace": found.workspace or None,
        "kept_until": format_time(found.kept_until) if found.kept_until else None,
        "next": list(found.next),
    }


def heard_document(heard: LiveOutput) -> Document:
    """Return the live figures of a run as `-o json` prints them."""
    return {"last_output_at": format_time(heard.at)}


def condition_document(condition: Condition) -> Document:
    """Return a condition as `-o json` prints it."""
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "since": format_time(condition.since) if condition.since else None,
    }


def host_document(view: HostView) -> Document:
    """Return a host as `-o json` prints it."""
    return {
        "kind": "host",
        "name": view.name,
        "state": view.stand,
        "since": format_time(view.since) if view.since else None,
        "slots": {"used": view.used, "free": max(0, view.spec.slots - view.used)},
        "runs": list(view.runs),
        "spec": view.spec.model_dump(mode="json", exclude={"name"}),
        "status": view.status.model_dump(mode="json") if view.status else None,
    }


def spec_document(value: Agent | Adapter | Repo) -> Document:
    """Return a thing that has a spec and no status, as `-o json` prints it."""
    kind = type(value).__name__.lower()
    return {"kind": kind, "name": value.name, "spec": value.model_dump(mode="json", exclude={"name"})}
