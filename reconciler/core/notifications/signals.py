"""
Signals: what is so of tasks, hosts and forges now, and the cause of each.

What has one cause has one key: forty tasks that wait for a host that is down
are forty signals, and one thing to tell.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from reconciler.core.errors import Problem
from reconciler.core.faults import fault_message
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import FLEET_FORGE, Desired, Host, Task
from reconciler.core.model.status import HostStatus, Phase, Reason, Status, Waiting
from reconciler.core.transitions import TransitionRecord
from reconciler.core.views import BAD_ENDS, HostView, ReadModel, TaskView, observed_on_record

FORGE, RECONCILER, UNSENT = "Forge", "Reconciler", "Unsent"
"""Reasons beside those of tasks: of forges, of the reconciler itself, of targets that take no message."""
LASTING = timedelta(minutes=10)
"""How long an outage lasts before it is news: most end by themselves."""
FINAL = frozenset({Phase.COMPLETED.value, Phase.CANCELLED.value, "up"})
"""States that nobody has to do anything about."""
_HELD_UP = "a fault of the reconciler holds up tasks"
_UNTIL_PROBED = timedelta(minutes=1)
"""How long a task may wait for hosts without any of them being down: they are asked for the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSnapshot:
    """A fleet at one moment, as far as news can be in it."""

    desired: Desired
    statuses: Mapping[str, Status] = field(default_factory=dict)
    hosts: Mapping[str, HostStatus] = field(default_factory=dict)
    damaged: Mapping[str, Problem] = field(default_factory=dict)
    planned: Mapping[str, Waiting] = field(default_factory=dict)
    """What tasks that are not on record yet wait for."""
    head: str = ""
    """Commit that statuses and hosts are on record with."""
    forges: Mapping[str, str] = field(default_factory=dict)
    """Why a forge does not answer, by repo."""
    unasked: frozenset[str] = frozenset()
    """Repos whose forge was not asked yet by this process: whether it answers is not known."""
    unready: str = ""
    """Why tasks are not looked after now; empty if they are."""
    unsent: Mapping[str, str] = field(default_factory=dict)
    """Which messages could not be sent, in a sentence, by target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Something that happened, whatever it touches: told once."""

    key: str
    """Signals with the same one have the same cause."""
    headline: str
    """What is so, in half a line."""
    message: str = ""
    """Why, in a sentence that others may have written."""
    page: str = ""
    """Path of the page that shows it."""
    command: str = ""
    """What to type next."""
    patience: timedelta = timedelta()
    """How long it lasts before it is told."""
    recurs: bool = False
    """Whether what it touches long after the rest is a new case: failed tasks stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What is so of one subject, as rules see it."""

    cause: Cause
    subject: str
    """`task NAME`, `host NAME`, `forge ADDRESS`, `file PATH`, `target NAME`, `reconciler`."""
    state: str = ""
    """Phase of a task, state of a host."""
    before: str = ""
    """The one before, of a step."""
    reasons: frozenset[str] = frozenset()
    """What a task waits for, the class of its failure."""
    since: datetime | None = None
    """When it began. None: that is on no record."""
    needs_person: bool = False
    labels: frozenset[str] = frozenset()
    repos: frozenset[str] = frozenset()
    tasks: tuple[str, ...] = ()
    """Tasks that it touches."""
    is_over: bool = False
    """Whether it is over as soon as it is told: a step into what is no more, or is as it should be."""


# --- What is so now ---------------------------------------------------------


def current_signals(fleet: FleetSnapshot) -> Iterator[Signal]:
    """Yield what is so of everything that is not as it should be, or under way."""
    observed = observed_on_record(fleet.statuses, fleet.hosts, fleet.damaged)
    model = ReadModel(fleet.desired, observed, fleet.planned)
    out = [host for host in model.hosts().values() if _is_out(host)]
    yield from map(_host_signal, out)
    yield from _file_signals(fleet.desired.problems)
    yield from _forge_signals(fleet)
    yield from _own_signals(fleet)
    for name in sorted(model.names()):
        if _is_at_rest(name, fleet):
            continue
        try:
            yield task_signal(model.task(name), out)
        except Exception as error:  # noqa: BLE001 - whatever it is, other tasks have news too
            yield _faulty(name, error)


def _is_at_rest(name: str, fleet: FleetSnapshot) -> bool:
    """Return whether a task is over and well, as most are: they are passed over quickly."""
    status = fleet.statuses.get(name)
    is_over = status is not None and status.phase.value in FINAL and status.waiting is None
    return is_over and name not in fleet.desired.broken


def _faulty(task: str, error: Exception) -> Signal:
    """Return the signal of a task that cannot be judged, by a bug of ours."""
    message = fault_message(error, "judging it for notifications")
    cause = Cause(key=f"Fault/{message}", headline=_HELD_UP, message=message, page="/problems")
    reasons = frozenset({Reason.FAULT.value})
    return Signal(cause=cause, subject=f"task {task}", reasons=reasons, needs_person=True, tasks=(task,))


def _is_out(host: HostView) -> bool:
    return host.spec.desired == "active" and host.status is not None and host.status.state != "up"


def _own_signals(fleet: FleetSnapshot) -> Iterator[Signal]:
    """Yield what is wrong with the reconciler itself, and with the targets of its messages."""
    wrong = [("reconciler", RECONCILER, "the fleet is not looked after", fleet.unready, "reconciler status")]
    wrong += [
        (f"target {name}", UNSENT, f"messages do not reach {name}", why, f"reconciler notify test {name}")
        for name, why in fleet.unsent.items()
    ]
    for subject, reason, headline, message, command in wrong:
        if message:
            cause = Cause(
                key=subject.replace(" ", "/"),
                headline=headline,
                message=message,
                page="/problems",
                command=command,
                patience=LASTING,
            )
            yield Signal(cause=cause, subject=subject, reasons=frozenset({reason}), needs_person=True)


def _host_signal(host: HostView) -> Signal:
    status = host.status
    return Signal(
        cause=_host_cause(host),
        subject=f"host {host.name}",
        state=status.state if status else "",
        since=status.since if status else None,
        needs_person=True,
        labels=host.spec.capabilities | {host.name},
    )


def _host_cause(host: HostView) -> Cause:
    is_down = host.status is None or host.status.state == "down"
    return Cause(
        key=f"host/{host.name}/{'down' if is_down else 'unready'}",
        headline=f"host {host.name} is down" if is_down else f"no run can start on host {host.name}",
        message=(host.status.fault or host.status.message) if host.status else "",
        page=f"/hosts/{host.name}",
        command=f"reconciler host check {host.name}",
    )


def _file_signals(problems: Sequence[Problem]) -> Iterator[Signal]:
    """Yield one signal for each file with mistakes."""
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.path, problem)
    for path, problem in first.items():
        yield Signal(
            cause=_file_cause(problem),
            subject=f"file {path}",
            reasons=frozenset({Reason.SPEC_ERROR.value}),
            needs_person=True,
        )


def _file_cause(problem: Problem) -> Cause:
    return Cause(
        key=f"file/{problem.path}",
        headline=f"{problem.path} has a mistake",
        message=str(problem),
        page="/problems",
        command="reconciler validate",
    )


def _forge_signals(fleet: FleetSnapshot) -> Iterator[Signal]:
    """Yield one signal for each forge that does not answer, whatever repos it has."""
    repos: dict[str, list[str]] = {}
    forges = fleet.desired.forges
    for repo in sorted((fleet.forges.keys() | fleet.unasked) & forges.keys()):
        repos.setdefault(urlsplit(forges[repo].api).netloc, []).append(repo)
    for place, names in repos.items():
        failing = [name for name in names if name in fleet.forges]
        cause = Cause(
            key=f"forge/{place}",
            headline=f"the forge {place} does not answer",
            message=fleet.forges[failing[0]] if failing else "",
            page="/problems",
            command="reconciler doctor",
            patience=LASTING,
        )
        touched = [name for name, status in fleet.statuses.items() if _is_on(names, fleet, name, status)]
        yield Signal(
            cause=cause,
            subject=f"forge {place}",
            # One that was not asked yet is no news; what is known of it is not over for that.
            reasons=frozenset({FORGE} if failing else ()),
            needs_person=bool(failing),
            repos=frozenset(names) - {FLEET_FORGE},
            tasks=tuple(sorted(touched)),
        )


def _is_on(repos: Sequence[str], fleet: FleetSnapshot, name: str, status: Status) -> bool:
    """Return whether a task that is not over works in one of the repos."""
    spec = fleet.desired.tasks.get(name)
    return spec is not None and spec.repo in repos and not status.phase.is_settled


# --- Tasks -------------------------------------------------------------------


def task_signal(view: TaskView, out: Sequence[HostView]) -> Signal:
    """Return what is so of a task; `out` are the hosts that take no runs now."""
    spec, waiting, failure = view.spec, view.waiting, _last_failure(view)
    reasons = [waiting.reason.value] if waiting else []
    reasons += [failure] if failure else []
    reasons += [Reason.SPEC_ERROR.value] if view.problems else []
    return Signal(
        cause=_task_cause(view, out),
        subject=f"task {view.name}",
        state=view.phase.value,
        reasons=frozenset(reasons),
        since=waiting.since if waiting else view.since,
        needs_person=view.is_stalled,
        labels=frozenset({*spec.requires, *spec.labels}) if spec else frozenset(),
        repos=frozenset({view.repo}) if view.repo else frozenset(),
        tasks=(view.name,),
    )


def _last_failure(view: TaskView) -> FailureClass | None:
    """Return the class of the failure that a task has ended with."""
    status = view.status
    return status.failure.kind if status and status.failure and status.phase in BAD_ENDS else None


def _task_cause(view: TaskView, out: Sequence[HostView]) -> Cause:
    if view.problems:
        return _file_cause(view.problems[0])
    if view.waiting is not None:
        return _waiting_cause(view, view.waiting, out)
    if _last_failure(view) is not None:
        return _failure_cause(view, out)
    return _own_cause(view, f"task {view.name} is {view.phase.value.replace('_', ' ')}", view.reason)


def _waiting_cause(view: TaskView, waiting: Waiting, out: Sequence[HostView]) -> Cause:
    """Return why a task waits; where many wait for the same, that."""
    if waiting.reason is Reason.HOST and (host := _missed(view, out)):
        return _host_cause(host)
    if shared := _SHARED.get(waiting.reason):
        return shared(view, waiting.message)
    asks = _ASKS[view.question.kind] if view.question else f"waits ({waiting.reason.value})"
    headline = f"task {view.name} {asks}"
    return _own_cause(view, headline, waiting.message, waiting.reason.value, waiting.since)


_ASKS = {
    "question": "asks a question",
    "plan": "has a plan and waits for a yes",
    "choice": "has several variants to choose from",
}


def _no_host(view: TaskView, message: str) -> Cause:
    return Cause(
        key=f"Host/{message}",
        headline="no host takes a task that waits for one",
        message=message,
        page="/hosts",
        command=_next_step(view),
        patience=_UNTIL_PROBED,
    )


def _approval(_: TaskView, message: str) -> Cause:
    return Cause(
        key="Approval",
        headline="the removal of tasks waits for approval",
        message=message,
        page="/",
        command="reconciler approve-prune",
    )


def _budget(_: TaskView, message: str) -> Cause:
    headline = message.partition(";")[0]
    return Cause(
        key=f"Budget/{message}", headline=headline, message=message, page="/cost", command="reconciler cost"
    )


def _quota(view: TaskView, message: str) -> Cause:
    adapter = _adapter_of(view)
    return Cause(
        key=f"Quota/{adapter}",
        headline=f"the quota of {adapter} is used up",
        message=message,
        page="/tasks?phase=created",
        command=_next_step(view),
    )


def _circuit(_: TaskView, message: str) -> Cause:
    return Cause(
        key=f"Circuit/{message.partition(';')[0]}",
        headline="an account is out of service",
        message=message,
        page="/tasks?phase=created",
        command="reconciler get accounts",
    )


def _repo(view: TaskView, message: str) -> Cause:
    return Cause(
        key=f"Repo/{view.repo}",
        headline=f"repo {view.repo} does not answer",
        message=message,
        page="/problems",
        command="reconciler doctor",
        patience=_UNTIL_PROBED,
    )


def _fault(view: TaskView, message: str) -> Cause:
    return Cause(
        key=f"Fault/{message}",
        headline=_HELD_UP,
        message=message,
        page="/problems",
        command=_next_step(view),
    )


_SHARED: Mapping[Reason, Callable[[TaskView, str], Cause]] = {
    Reason.HOST: _no_host,
    Reason.APPROVAL: _approval,
    Reason.BUDGET: _budget,
    Reason.QUOTA: _quota,
    Reason.CIRCUIT: _circuit,
    Reason.REPO: _repo,
    Reason.FAULT: _fault,
}
"""What many tasks may wait for at once."""


def _failure_cause(view: TaskView, out: Sequence[HostView]) -> Cause:
    """Return why a task failed; where that is no matter of the task, the thing itself."""
    failure = view.status.failure if view.status else None
    kind, adapter, message = _last_failure(view), _adapter_of(view), failure.message if failure else ""
    if kind is FailureClass.HOST and (host := _missed(view, out)):
        return _host_cause(host)
    if kind in _SHARED_FAILURES:
        thing = f"host {view.assigned_host}" if kind is FailureClass.HOST else adapter
        more = f"/{message}" if kind is FailureClass.CONFIG else ""
        return Cause(
            key=f"{kind}/{thing}{more}",
            headline=f"tasks fail at {thing} ({kind})",
            message=message,
            page="/tasks?phase=failed",
            command=_repair(view),
            recurs=True,
        )
    verb = "needs a person" if view.phase is Phase.ESCALATED else "has failed"
    return _own_cause(view, f"task {view.name} {verb}", f"{kind}: {message}")


_SHARED_FAILURES = frozenset({FailureClass.AUTH, FailureClass.QUOTA, FailureClass.HOST, FailureClass.CONFIG})
"""Failures that are no matter of the task, so that others have the same."""


def _own_cause(
    view: TaskView, headline: str, message: str, state: str = "", since: datetime | None = None
) -> Cause:
    """Return a cause that touches one task, and it only this once."""
    at = since or view.since
    key = f"task/{view.name}/{state or view.phase.value}/{at.isoformat() if at else ''}"
    return Cause(
        key=key,
        headline=headline,
        message=message,
        page=f"/tasks/{view.name}",
        command=_next_step(view),
    )


def _next_step(view: TaskView) -> str:
    if view.question:
        return _NEXT_STEPS[view.question.kind].format(view.name)
    return f"reconciler describe {view.name}"


_NEXT_STEPS = {
    "question": "reconciler answer {} TEXT",
    "plan": "reconciler approve {}",
    "choice": "reconciler choose {} NUMBER",
}


def _repair(view: TaskView) -> str:
    """Return what helps against a failure that is no matter of the task."""
    steps = view.cause.next if view.cause else ()
    tries = (f"reconciler logs {view.name}", f"reconciler retry {view.name}")
    return next((step for step in steps if step not in tries), _next_step(view))


def _adapter_of(view: TaskView) -> str:
    run = view.status.run if view.status else None
    return (run.adapter if run else None) or (view.spec.adapter if view.spec else "") or "a worker"


def _missed(view: TaskView, out: Sequence[HostView]) -> HostView | None:
    """Return the host that is out, and that a task would run on: its own, else the first that would do."""
    named = [host for host in out if view.is_live and host.name == view.assigned_host]
    return next(iter(named or [host for host in out if view.spec and _would_do(host.spec, view.spec)]), None)


def _would_do(host: Host, task: Task) -> bool:
    has_labels = {*task.requires} <= {*host.labels, host.name}
    takes_repo = task.repo is None or host.repos is None or task.repo in host.repos
    return has_labels and takes_repo and (host.adapters is None or task.adapter in host.adapters)


# --- What happened ------------------------------------------------------------


def step_signals(
    records: Sequence[TransitionRecord], current: Sequence[Signal], desired: Desired
) -> Iterator[Signal]:
    """
    Yield steps on record as signals, oldest first; those that changed no phase and no state are none.

    A step into what is still so has the cause that this has now; of one that
    was passed since, no more is known than the record says.
    """
    now = {signal.subject: signal for signal in current}
    last = {_subject(record): record for record in records if record.after != record.before}
    for record in records:
        if record.after is None or record.after == record.before:
            continue
        subject = _subject(record)
        signal = now.get(subject) if last[subject] is record else None
        if signal is not None and signal.state == record.after:
            yield replace(signal, before=record.before or "")
        else:
            yield _passed(record, subject, desired)


def _subject(record: TransitionRecord) -> str:
    return f"task {record.task}" if record.task else f"host {record.host}"


def _passed(record: TransitionRecord, subject: str, desired: Desired) -> Signal:
    task, host = desired.tasks.get(record.task or ""), desired.hosts.get(record.host or "")
    labels = {*task.requires, *task.labels} if task else set[str]()
    labels |= {*host.labels, host.name} if host and not record.task else set()
    state, name = (record.after or "").replace("_", " "), record.task or record.host or ""
    cause = Cause(
        key=f"{subject.replace(' ', '/', 1)}/{record.after}/{record.commit}",
        headline=f"{subject} is {state}",
        message=record.reason,
        page=f"/tasks/{name}" if record.task else f"/hosts/{name}",
        command=f"reconciler describe {'' if record.task else 'host '}{name}",
    )
    return Signal(
        cause=cause,
        subject=subject,
        state=record.after or "",
        before=record.before or "",
        since=record.at,
        labels=frozenset(labels),
        repos=frozenset({task.repo}) if task and task.repo else frozenset(),
        tasks=(record.task,) if record.task else (),
        is_over=True,
    )
