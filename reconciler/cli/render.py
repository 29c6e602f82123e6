"""
What `get` shows of each kind: columns for people, documents for programs.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from reconciler.cli.live import live_document, live_text
from reconciler.cli.output import Column
from reconciler.core.adapter import Adapter
from reconciler.core.conditions import Condition
from reconciler.core.model.specs import Agent, Repo
from reconciler.core.model.status import HostCli
from reconciler.core.runs.failure import FailureSummary
from reconciler.core.times import Age, format_time
from reconciler.core.views import (
    CAMPAIGN_PHASES,
    AccountView,
    AdapterView,
    CampaignView,
    HostView,
    RepoView,
    TaskView,
    WorkerView,
)

if TYPE_CHECKING:
    from reconciler.cli.shapes import (
        AccountShape,
        CampaignShape,
        CauseShape,
        ConditionShape,
        HostShape,
        SpecShape,
        TaskShape,
    )

DASH = "-"
"""Empty cell of a table."""

# --- Tables ----------------------------------------------------------------


def task_columns(age: Age) -> Sequence[Column]:
    """Return the columns of `get tasks`."""
    return (
        Column("NAME", lambda view: view.name),
        Column("PHASE", lambda view: view.state, least=14),
        Column("SINCE", lambda view: age(view.since) if view.since else DASH),
        Column("ATTEMPT", lambda view: str(view.status.attempt) if view.status else DASH),
        Column("HOST", _place),
        Column("SHARD", lambda view: view.shard, is_optional=True),
        Column("ADAPTER", lambda view: view.spec.adapter if view.spec else DASH, is_wide=True),
        Column("REPO", lambda view: view.repo or DASH, is_wide=True),
        Column("BRANCH", _of_run("branch"), is_wide=True),
        Column("RUN", _of_run("key"), is_wide=True),
        Column("LABELS", lambda view: _joined(view.spec.labels if view.spec else ()), is_wide=True),
        Column("TITLE", lambda view: view.spec.headline if view.spec else DASH, is_wide=True),
        Column(
            "REASON",
            lambda view: _reason_and_last_line(view) or (live_text(view.live, age) if view.live else ""),
        ),
    )


def shown_reason(view: TaskView) -> str:
    """Return why a task is not further along; for one that is not on record yet, a hint."""
    is_unseen = view.status is None and view.blocker is None
    return (
        "not yet seen by the reconciler (does one run? see `reconciler status`)" if is_unseen else view.reason
    )


def _reason_and_last_line(view: TaskView) -> str:
    reason = shown_reason(view)
    last = view.cause.output[-1:] if view.cause and reason == view.failure else ()
    return ": ".join([reason, *(line for line in last if line not in reason)])


def _place(view: TaskView) -> str:
    """Return the host of the last run, or the agent that pulled it."""
    return f"agent {view.assigned_agent}" if view.assigned_agent else view.assigned_host or DASH


def _joined(texts: Sequence[str]) -> str:
    return ",".join(texts) or DASH


def _of_run(field: str) -> Callable[[TaskView], str]:
    return lambda view: getattr(view.status.run, field) if view.status and view.status.run else DASH


def host_columns(age: Age) -> Sequence[Column]:
    """Return the columns of `get hosts`."""
    return (
        Column("NAME", lambda view: view.name),
        Column("STATE", lambda view: view.state),
        Column("SINCE", lambda view: age(view.since) if view.since else DASH),
        Column("USED", lambda view: f"{view.used}/{view.spec.slots}"),
        Column("SHARD", lambda view: view.shard, is_optional=True),
        Column("LABELS", lambda view: _joined(view.spec.labels)),
        Column("ADDRESS", lambda view: view.spec.address or "this machine", is_wide=True),
        Column("ADAPTERS", adapters_of, is_wide=True),
        Column("REASON", lambda view: view.status.message if view.status else ""),
    )


def adapters_of(view: HostView) -> str:
    """Return the agent CLIs of a host as text, with the versions that were found."""
    versions = view.status.adapters if view.status else {}
    if view.spec.adapters is None:
        return ", ".join(["any", *(_cli(name, cli) for name, cli in versions.items() if cli.ok)])
    return ", ".join(_cli(name, versions.get(name)) for name in view.spec.adapters) or "none"


def _cli(name: str, cli: HostCli | None) -> str:
    if cli is None:
        return name
    return f"{name} {cli.version or 'not found'}{'' if cli.ok or cli.version is None else ' (will not do)'}"


AGENT_COLUMNS = (
    Column("NAME", lambda view: view.name),
    Column("DESIRED", lambda view: view.spec.desired),
    Column("SLOTS", lambda view: str(view.spec.slots)),
    Column("CAPABILITIES", lambda view: ",".join(view.spec.capabilities) or DASH),
    Column("EXPIRES", lambda view: format_time(view.spec.expires) if view.spec.expires else "never"),
    Column("SCOPES", lambda view: ",".join(view.spec.scopes), is_wide=True),
)


ADAPTER_COLUMNS = (
    Column("NAME", lambda view: view.name),
    Column("STATE", lambda view: view.state),
    Column("PROGRAM", lambda view: view.spec.command[0] if view.spec.command else DASH),
    Column("VERSION", lambda view: (view.spec.version and view.spec.version.range) or "any"),
    Column("PROMPT", lambda view: view.spec.prompt),
    Column("RESUMES", lambda view: "yes" if view.spec.resume else "no"),
    Column("COMMAND", lambda view: " ".join(view.spec.command), is_wide=True),
    Column(
        "REASON",
        lambda view: "; ".join(f"account {name}: {each.reason}" for name, each in view.failing.items()),
    ),
)
REPO_COLUMNS = (
    Column("NAME", lambda view: view.name),
    Column("BASE", lambda view: view.spec.base),
    Column("URL", lambda view: view.spec.url),
    Column("PATHS", lambda view: ",".join(view.spec.paths) or "all", is_wide=True),
    Column("VALIDATION", lambda view: "; ".join(view.spec.validation) or DASH, is_wide=True),
    Column("FORGE", lambda view: view.spec.forge.repo if view.spec.forge else DASH),
    Column("REASON", lambda view: view.forge_fault or ""),
)


def campaign_columns(_: Age) -> Sequence[Column]:
    """Return the columns of `get campaigns`."""
    return (
        Column("NAME", lambda view: view.name),
        Column("STATE", lambda view: view.state),
        Column("TASKS", lambda view: str(len(view.tasks))),
        *map(_count_column, CAMPAIGN_PHASES),
        Column("REASON", lambda view: f"{view.gate.reason}: {view.gate.message}" if view.gate else ""),
    )


def _count_column(group: str) -> Column:
    return Column(group.replace("_", " ").upper(), lambda view: str(view.counts[group]))


def account_columns(age: Age) -> Sequence[Column]:
    """Return the columns of `get accounts`."""
    return (
        Column("NAME", lambda view: view.name),
        Column("STATE", lambda view: view.state),
        Column("SINCE", lambda view: age(view.status.since) if view.status else DASH),
        Column("RUNNING", account_running),
        Column("PROVIDER", lambda view: view.spec.provider if view.spec else DASH),
        Column("ADAPTERS", lambda view: _joined(view.spec.adapters if view.spec else ()), is_wide=True),
        Column("HOSTS", lambda view: _joined((view.spec.hosts if view.spec else None) or ()), is_wide=True),
        Column("TRIED AGAIN", lambda view: format_time(view.status.until) if view.status else DASH),
        Column("REASON", lambda view: view.status.reason if view.status else ""),
    )


def account_running(view: AccountView) -> str:
    """Return how many live runs an account has, and how many it may have."""
    most = view.spec.max_running if view.spec else None
    return f"{len(view.runs)}{'' if most is None else f'/{most}'}"


# --- Documents -------------------------------------------------------------


def task_document(view: TaskView) -> "TaskShape":
    """Return a task as `-o json` prints it."""
    document: TaskShape = {
        "kind": "task",
        "name": view.name,
        "phase": view.phase.value,
        "since": format_time(view.since) if view.since else None,
        "reason": shown_reason(view),
        "cause": cause_document(view.cause) if view.cause else None,
        "conditions": [condition_document(condition) for condition in view.conditions],
        "problems": [str(problem) for problem in view.problems],
        "spec": view.spec.model_dump(mode="json", exclude={"name"}) if view.spec else None,
        "status": view.status.model_dump(mode="json") if view.status else None,
    }
    if view.shard:
        document["shard"] = view.shard
    if view.live:
        document["live"] = live_document(view.live)
    return document


def cause_document(summary: FailureSummary) -> "CauseShape":
    """Return why a task failed as `-o json` prints it."""
    return {
        "summary": summary.summary,
        "output": list(summary.output),
        "workspace": summary.workspace or None,
        "kept_until": format_time(summary.kept_until) if summary.kept_until else None,
        "next": list(summary.next),
    }


def condition_document(condition: Condition) -> "ConditionShape":
    """Return a condition as `-o json` prints it."""
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "since": format_time(condition.since) if condition.since else None,
    }


def host_document(view: HostView) -> "HostShape":
    """Return a host as `-o json` prints it."""
    document: HostShape = {
        "kind": "host",
        "name": view.name,
        "state": view.state,
        "since": format_time(view.since) if view.since else None,
        "slots": {"used": view.used, "free": view.free},
        "runs": list(view.runs),
        "spec": view.spec.model_dump(mode="json", exclude={"name"}),
        "status": view.status.model_dump(mode="json") if view.status else None,
    }
    if view.shard:
        document["shard"] = view.shard
    return document


def campaign_document(view: CampaignView) -> "CampaignShape":
    """Return a campaign as `-o json` prints it."""
    return {
        "kind": "campaign",
        "name": view.name,
        "state": view.state,
        "counts": dict(view.counts),
        "waiting": {
            "reason": view.gate.reason,
            "message": view.gate.message,
            "since": format_time(view.gate.since),
        }
        if view.gate
        else None,
        "tasks": [task.name for task in view.tasks],
        "spec": view.spec.model_dump(mode="json", include={"pilot", "width", "stop_after"}),
    }


def account_document(view: AccountView) -> "AccountShape":
    """Return an account as `-o json` prints it."""
    return {
        "kind": "account",
        "name": view.name,
        "state": view.state,
        "runs": list(view.runs),
        "spec": view.spec.model_dump(mode="json", exclude={"name"}) if view.spec else None,
        "status": view.status.model_dump(mode="json") if view.status else None,
    }


def spec_document(value: WorkerView | AdapterView | RepoView) -> "SpecShape":
    """Return a thing that has no status as `-o json` prints it; of an agent, what it holds too."""
    if isinstance(value, RepoView):
        return {**_spec_document(value.spec), "forge_fault": value.forge_fault}
    if isinstance(value, AdapterView):
        return {**_spec_document(value.spec), "failing": sorted(value.failing)}
    return {**_spec_document(value.spec), "held": list(value.held)}


def _spec_document(value: Agent | Adapter | Repo) -> "SpecShape":
    kind: Literal["agent", "adapter", "repo"] = "repo" if isinstance(value, Repo) else "adapter"
    kind = "agent" if isinstance(value, Agent) else kind
    return {"kind": kind, "name": value.name, "spec": value.model_dump(mode="json", exclude={"name"})}
