"""
Hypothesis strategies for whole fleets, and a world in which a plan is carried out.

A fleet is any pair of desired and observed, likely or not, that the types and
the lifecycle allow: specs that are gone, new, renamed or broken, hosts that are
full, cordoned or unreachable, runs that nobody follows.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from reconciler.core.adapter import Adapter, Budget, Usage, Version
from reconciler.core.audit import RecordCommit
from reconciler.core.errors import Problem
from reconciler.core.events import (
    Archived,
    Assigned,
    BranchPushed,
    BranchTouched,
    Cancelled,
    ChangesRequested,
    ChoiceRequested,
    Completed,
    Created,
    Escalated,
    Event,
    Failed,
    FixRequested,
    Origin,
    PullRequestOpened,
    QuestionAnswered,
    QuestionAsked,
    Released,
    Removed,
    Renamed,
    Renewed,
    Reopened,
    Reported,
    Restored,
    Retried,
    RunEnded,
    Scheduled,
    SpecChanged,
    SpecRemoved,
    Started,
    Submitted,
    VariantChosen,
    VariantTaken,
    WaitingChanged,
)
from reconciler.core.lifecycle import Transition, fold
from reconciler.core.model.runs import (
    Check,
    Claim,
    Declaration,
    FailureClass,
    Report,
    Verdict,
    read_run_key,
    run_key,
)
from reconciler.core.model.specs import (
    Account,
    Desired,
    DesiredState,
    ExecutionMode,
    Fallback,
    FleetSpec,
    Host,
    HostAdapter,
    Repo,
    Task,
)
from reconciler.core.model.status import (
    AccountStatus,
    BudgetScope,
    Failure,
    HostCli,
    HostStatus,
    Observed,
    OnHost,
    Phase,
    PullRequest,
    Reason,
    Status,
    VariantChoice,
    Waiting,
)
from reconciler.core.planning import plan as planner
from reconciler.core.planning.plan import Plan, StopRun
from reconciler.core.runs.accounts import AccountChange, Failing, after_round, count_failing, run_account
from reconciler.core.runs.decide import next_event
from reconciler.core.transitions import task_record
from tests.statuses import make_status

NOW = datetime(2030, 1, 1, 9, 0, tzinfo=UTC)
NAMES = ("a", "b", "c", "d", "e", "f", "web/g", "web/h", "web/i", "web/j")
HOSTS = ("alpha", "beta", "local")
ADAPTERS = ("script", "codex")
REPOS = ("shop", "docs")

times = st.sampled_from([NOW - timedelta(hours=1), NOW, NOW + timedelta(minutes=7)])


def blob(*parts: object) -> str:
    """Return an id like git's for the content that the parts stand for."""
    return hashlib.sha1(repr(parts).encode(), usedforsecurity=False).hexdigest()


# --- Desired ---------------------------------------------------------------


TASK_FIELDS = st.fixed_dictionaries(
    {
        "adapter": st.sampled_from(ADAPTERS),
        "accounts": st.sampled_from([(), (), (), ("one",), ("two", "one")]),
        "fallback": st.sampled_from([None, None, Fallback(adapter="codex"), Fallback(model="small")]),
        "execution_mode": st.sampled_from([*[ExecutionMode.SSH_CLI] * 4, ExecutionMode.HTTP_PULL]),
        "requires": st.sampled_from([(), (), ("gpu",), ("arm64",), ("beta",)]),
        "prefer": st.sampled_from([(), ("gpu",), ("beta", "arm64")]),
        "priority": st.integers(-1, 1),
        "retries": st.integers(0, 2),
        "fix_attempts": st.integers(0, 1),
        "review": st.sampled_from(["none", "merge", "pull_request"]),
        "budget": st.sampled_from([None, None, Budget(tokens=100)]),
        "over_budget": st.sampled_from(["finish", "stop"]),
        "disconnect": st.sampled_from(["wait", "retry", "fail"]),
        "repo": st.sampled_from([None, *REPOS]),
        "slots": st.sampled_from([1, 1, 1, 2]),
        "schedule": st.sampled_from([None, None, None, "5 9 * * *", "*/30 9 * * mon-fri"]),
        "window": st.sampled_from([(), (), ("mon-fri 08:00-09:10",), ("22:00-06:00", "sat 00:00-24:00")]),
        "timezone": st.sampled_from(["UTC", "Europe/Berlin"]),
        "on_change": st.sampled_from(["continue", "restart"]),
        "on_delete": st.sampled_from(["cancel", "finish", "orphan"]),
        "desired": st.sampled_from(
            [*[DesiredState.ACTIVE] * 4, DesiredState.SUSPENDED, DesiredState.CANCELLED]
        ),
        "not_before": st.none() | times,
        "depends_on": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
    }
)
READY = {
    "execution_mode": ExecutionMode.SSH_CLI,
    "requires": (),
    "budget": None,
    "schedule": None,
    "window": (),
    "desired": DesiredState.ACTIVE,
    "not_before": None,
    "depends_on": (),
}
"""What lets a task run; without it almost none would, for so much may speak against it."""
IS_EASY = st.sampled_from([True, True, False])
CONTENTS = st.tuples(st.sampled_from(["own", "own", "own", "twin"]), st.integers(0, 1), st.integers(0, 1))


@st.composite
def tasks(draw: st.DrawFn, name: str, **fixed: object) -> Task:
    """Return a task that depends only on names before its own, so that there is no cycle."""
    fields = {**draw(TASK_FIELDS), **(READY if draw(IS_EASY) else {}), **fixed}
    content, version, edit = draw(CONTENTS)
    fields["depends_on"] = tuple(needed for needed in fields["depends_on"] if needed < name)
    goal = f"Do {name if content == 'own' else content}."
    work = blob(goal, version)[:12]
    return Task(name=name, goal=goal, generation=blob(work, edit, fields["desired"]), work=work, **fields)


HOST_FIELDS = st.fixed_dictionaries(
    {
        "labels": st.sampled_from([(), ("gpu",), ("gpu", "arm64")]),
        "slots": st.integers(0, 3),
        "weight": st.sampled_from([0.5, 1.0, 2.0]),
        "adapters": st.sampled_from([None, None, {}, {"codex": HostAdapter()}, {"script": HostAdapter()}]),
        "cordon": st.sampled_from([False, False, False, True]),
        "drain": st.sampled_from([False, False, False, True]),
        "drain_until": st.none() | times,
        "repos": st.sampled_from([None, None, ("shop",)]),
        "address": st.sampled_from([None, None, "host.example.org"]),
        "daily_budget": st.sampled_from([None, None, Budget(tokens=100)]),
    }
)


OPEN = {
    "adapters": None,
    "cordon": False,
    "drain": False,
    "repos": None,
    "address": None,
    "daily_budget": None,
}
"""What lets a host take runs."""


@st.composite
def hosts(draw: st.DrawFn, name: str) -> Host:
    """Return any host; many are open to all."""
    return Host(name=name, **{**draw(HOST_FIELDS), **(OPEN if draw(IS_EASY) else {})})


def some(names: Sequence[str]) -> st.SearchStrategy[Sequence[str]]:
    """Return any of the names, in their order."""
    return st.integers(0, 2 ** len(names) - 1).map(
        lambda bits: [name for bit, name in enumerate(names) if bits & 1 << bit]
    )


SOME_NAMES, SOME_HOSTS = some(NAMES), some(HOSTS)
LIMITS = st.sampled_from([None, None, None, 0, 2, 2])
DAILY = st.sampled_from([None, None, None, Budget(tokens=100)])
FLEETS = st.builds(
    FleetSpec,
    max_running=LIMITS,
    limits=st.sampled_from([{}, {}, {"gpu": 1}]),
    daily_budget=DAILY,
)
COMMANDS = {"codex": ("codex",), "script": ("sh", "-c", "{script}")}
OFFERED = {"codex": Version(command=("codex", "--version")), "script": None}
BROKEN = st.lists(st.sampled_from(NAMES), max_size=2)


ACCOUNTS = ("one", "two")
OWN = "adapter/codex/alpha"
SOME_ACCOUNTS = st.sampled_from([(), (), ("one",), ("two",), ACCOUNTS])
ACCOUNT_SPECS = {
    name: st.builds(
        Account,
        name=st.just(name),
        provider=st.just("openai"),
        adapters=st.just(("codex",)),
        max_running=st.sampled_from([None, None, 1]),
        hosts=st.sampled_from([None, None, ("alpha",)]),
        daily_budget=DAILY,
        weekly_budget=st.sampled_from([None, Budget(tokens=100), Budget(tokens=700)]),
        pace=st.sampled_from(["free", "even"]),
    )
    for name in ACCOUNTS
}
LIMITED = st.builds(
    AccountStatus,
    state=st.sampled_from(["at limit", "at limit", "failing"]),
    until=st.sampled_from([NOW - timedelta(minutes=6), NOW - timedelta(minutes=1), NOW + timedelta(hours=1)]),
    since=st.sampled_from([NOW - timedelta(hours=1), NOW + timedelta(hours=1)]),
    reason=st.just("usage limit"),
    run=st.just("a.g0.a1"),
    models=st.sampled_from([("",), ("small",)]),
    spec=st.just(""),
)


@st.composite
def desireds(draw: st.DrawFn) -> Desired:
    """Return what any one revision may ask for."""
    return Desired(
        revision=blob("revision"),
        fleet=draw(FLEETS),
        tasks={name: draw(tasks(name)) for name in draw(SOME_NAMES)},
        hosts={name: draw(hosts(name)) for name in draw(SOME_HOSTS)},
        accounts={name: draw(ACCOUNT_SPECS[name]) for name in draw(SOME_ACCOUNTS)},
        adapters={
            name: Adapter(
                name=name,
                command=COMMANDS[name],
                version=version,
                max_running=draw(LIMITS),
                daily_budget=draw(DAILY),
            )
            for name, version in OFFERED.items()
        },
        repos={
            name: Repo(name=name, url="r.git", max_running=draw(LIMITS), daily_budget=draw(DAILY))
            for name in REPOS
        },
        broken={name: (Problem(f"specs/tasks/{name}.yaml", 3, 1, "unknown field"),) for name in draw(BROKEN)},
    )


# --- Observed --------------------------------------------------------------

PULL = PullRequest(number=12, url="https://code.example.org/12")
WAITINGS = st.builds(
    Waiting, reason=st.sampled_from(Reason), message=st.sampled_from(["waits for a", "x"]), since=times
)
FAILURES = st.builds(Failure, kind=st.sampled_from(FailureClass), message=st.just("did not work"))
STATUS_FIELDS = st.fixed_dictionaries(
    {
        "created_at": st.integers(5, 8).map(lambda minutes: NOW - timedelta(minutes=minutes)),
        "attempt": st.integers(0, 3),
        "failures": st.integers(0, 3),
        "review_count": st.integers(0, 2),
        "assigned_host": st.sampled_from(HOSTS),
        "pull_request": st.sampled_from([None, PULL]),
        "head_commit": st.sampled_from([None, "e" * 40, "f" * 40]),
        "session_id": st.sampled_from([None, "s-1"]),
        "not_before": st.none() | times,
        "due_at": st.none() | times,
        "slots": st.sampled_from([1, 1, 2]),
        "account": st.sampled_from([None, None, "one"]),
        "failure": st.none() | FAILURES,
        "waiting": st.none() | WAITINGS,
        "usage": st.builds(Usage, input_tokens=st.integers(0, 60), output_tokens=st.integers(0, 60)),
        "removed": st.sampled_from([False] * 5 + [True]),
    }
)
FREE = {"not_before": None, "due_at": None, "removed": False, "usage": Usage()}
IS_OLDER = st.tuples(st.sampled_from([False, False, True]), st.sampled_from([False, False, True]))
PHASES = st.sampled_from(Phase)
HAVE_RUN = {Phase.ASSIGNED, Phase.RUNNING, Phase.REVIEW_PENDING, Phase.COMPLETED, Phase.FAILED}


@st.composite
def statuses(draw: st.DrawFn, spec: Task, phase: Phase | None = None) -> Status:
    """Return a status that the lifecycle may have led to; it answers the spec or an older one."""
    phase = phase or draw(PHASES)
    fields = {**draw(STATUS_FIELDS), **(FREE if draw(IS_EASY) else {})}
    has_older_work, has_older_file = draw(IS_OLDER)
    generation = blob(spec.name, "older") if has_older_file else spec.generation
    attempt = max(fields["attempt"], 1 if phase in HAVE_RUN else 0)
    if attempt:
        run = {"run": run_key(spec.name, generation, attempt), "round": 1}
        branch = {"branch_name": spec.branch, "pr_title": spec.headline}
        fields |= {**run, **branch, "adapter": spec.adapter, "repo": spec.repo}
    else:
        fields |= {"assigned_host": None, "slots": None, "session_id": None, "account": None}
    if phase is not Phase.CREATED:
        fields["not_before"] = None
    if phase is Phase.FAILED:
        fields["failure"] = draw(FAILURES)
    return Status(
        phase=phase,
        since=NOW - timedelta(minutes=5),
        generation=generation,
        work="older" if has_older_work else spec.work,
        on_delete=spec.on_delete,
        **{**fields, "attempt": attempt},
    )


CLIS = st.builds(HostCli, ok=st.sampled_from([True, True, False]), message=st.just("1.0 is not in >=2"))
PROBES = st.builds(
    HostStatus,
    reachable=st.sampled_from([True, True, False]),
    since=st.sampled_from([NOW, NOW - timedelta(hours=1)]),
    fault=st.sampled_from(["", "", "git is missing"]),
    adapters=st.dictionaries(st.sampled_from(ADAPTERS), CLIS),
)
PURSES: Sequence[BudgetScope] = (
    ("fleet", "fleet"),
    ("repo", "shop"),
    ("adapter", "codex"),
    ("account", "one"),
    ("host", "alpha"),
)
SPENT = st.dictionaries(st.sampled_from(PURSES), st.sampled_from([Usage(), Usage(output_tokens=100)]))
LOADS = st.sampled_from([0.0, 0.5, 4.0])


LIMITS_MET = st.dictionaries(st.sampled_from([*ACCOUNTS, OWN]), LIMITED)


@st.composite
def observeds(draw: st.DrawFn, desired: Desired) -> Observed:
    """Return a state of the world for a desired one; it may know tasks the specs do not."""
    known = {name: draw(statuses(desired.tasks.get(name) or draw(tasks(name)))) for name in draw(SOME_NAMES)}
    live = sorted(name for name, status in known.items() if status.phase.is_live)
    return Observed(
        statuses=known,
        hosts={name: draw(PROBES) for name in draw(SOME_HOSTS)},
        load={name: draw(LOADS) for name in draw(SOME_HOSTS)},
        probed=frozenset(HOSTS if draw(IS_EASY) else draw(SOME_HOSTS)),
        half_open=frozenset() if draw(IS_EASY) else frozenset(draw(SOME_HOSTS)),
        past=dict.fromkeys(draw(SOME_NAMES), draw(st.integers(0, 5))),
        spent={} if draw(IS_EASY) else draw(SPENT),
        accounts={} if draw(IS_EASY) else draw(LIMITS_MET),
        spent_in_week={} if draw(IS_EASY) else draw(SPENT),
        followed=frozenset(known[name].run.round_key for name in draw(some(live))),
    )


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Desired, Observed]:
    """Return any fleet: what is asked for, and what is."""
    desired = draw(desireds())
    return desired, draw(observeds(desired))


# --- What rounds bring -----------------------------------------------------

SUCCESS = Report(verdict=Verdict(outcome="success", session_id="s-1"), commits=1, head_commit="f" * 40)
RED = Report(
    verdict=Verdict(outcome="success", session_id="s-1"),
    checks=(Check(command="make test", exit_code=2, seconds=0.1),),
)


TAKEN = Report(
    verdict=Verdict(outcome="failed", kind=FailureClass.CONFIG, message="not ours any more"), touched="d" * 40
)


def failed(kind: FailureClass | None) -> Report:
    """Return the report of a round that failed in this way."""
    return Report(verdict=Verdict(outcome="failed", kind=kind, message="did not work"))


DECLARED = [
    SUCCESS.model_copy(update={"declared": Declaration(kind="question", text="Which one?"), "commits": 0}),
    SUCCESS.model_copy(update={"declared": Declaration(kind="blocked", text="No access."), "commits": 0}),
    SUCCESS.model_copy(update={"declared": Declaration(kind="released", text="Not here."), "commits": 0}),
]


def reports() -> st.SearchStrategy[Report]:
    """Return whatever a round may end in, but for a stop that nobody asked for."""
    kinds = [kind for kind in FailureClass if kind is not FailureClass.CANCELLED]
    return st.sampled_from([SUCCESS, SUCCESS, RED, TAKEN, *DECLARED, *map(failed, kinds)])


# --- Plans --------------------------------------------------------------------


def plan(desired: Desired, observed: Observed, now: datetime) -> Plan:
    """Return what is planned; no task may be set aside by a mistake of ours, which the planner survives."""
    planned = planner.plan(desired, observed, now)
    assert planned.faults == {}
    return planned


# --- A world that carries plans out ----------------------------------------

STOPPED = failed(FailureClass.CANCELLED)
PASSING = {Reason.NOT_BEFORE, Reason.BACKOFF, Reason.QUOTA, Reason.WINDOW, Reason.BUDGET}
"""What a fleet that comes to rest does not wait for any more; only schedules come again for ever."""
Ends = Callable[[str, Status], Report]


@dataclass
class World:
    """Hosts, forge and clock as a plan meets them; rounds end as `ends` says."""

    desired: Desired
    ends: Ends = lambda task, status: SUCCESS  # noqa: ARG005 - the simplest world
    statuses: Mapping[str, Status] = field(default_factory=dict)
    now: datetime = NOW
    followed: frozenset[tuple[str, int]] = frozenset()
    hosts: Mapping[str, HostStatus] = field(default_factory=dict)
    probed: frozenset[str] = frozenset()
    history: list[Transition] = field(default_factory=list)
    accounts: Mapping[str, AccountStatus] = field(default_factory=dict)
    failing: dict[str, Failing] = field(default_factory=dict)
    week: Mapping[BudgetScope, Usage] = field(default_factory=dict)

    @property
    def observed(self) -> Observed:
        return Observed(
            self.statuses,
            self.hosts,
            followed=self.followed,
            probed=self.probed,
            past=self.past,
            accounts=self.accounts,
            spent_in_week=self.week,
        )

    @property
    def past(self) -> Mapping[str, int]:
        """Return the last attempt of every task that there ever was."""
        keys = [read_run_key(step.event.run) for step in self.history if isinstance(step.event, Assigned)]
        return {key[0]: key[1] for key in keys if key}

    @property
    def archive(self) -> Mapping[str, Status]:
        """Return the tasks of the archive."""
        last = {step.task: step.after for step in self.history}
        return {name: after for name, after in last.items() if after and after.archived}

    def take(self, *events: Event) -> None:
        """Put events on record."""
        self.statuses, steps = fold(self.statuses, events)
        self.history += steps

    def look(self) -> Plan:
        """Plan, put on record, and send followers out."""
        planned = plan(self.desired, self.observed, self.now)
        self.take(*planned.events)
        self.followed |= {s.run.round_key for s in self.statuses.values() if s.phase.is_live}
        return planned

    def work(self, planned: Plan) -> None:
        """Let every live round end, and every branch in review be merged."""
        stopped = {action.task for action in planned.actions if isinstance(action, StopRun)}
        for name, status in dict(self.statuses).items():
            if status.phase.is_live:
                self.end(name, STOPPED if name in stopped else self.ends(name, status))
            elif status.phase is Phase.REVIEW_PENDING:
                self.take(Completed(task=name, origin=Origin(self.now, "merged", cause="webhook")))

    def end(self, name: str, report: Report) -> None:
        """Let the live round of a task end."""
        status = self.statuses[name]
        run, number = status.last_run.round_key
        ended = RunEnded(task=name, run=run, round=number, at=self.now, report=report)
        account = run_account(status.last_run, self.desired)
        change = self._account_change(account, status, ended) if account else None
        if change:
            others = {name: limit for name, limit in self.accounts.items() if name != account}
            self.accounts = others | ({change.account: change.after} if change.after else {})
        event = next_event(
            self.desired.tasks.get(name), status, ended, self.now, self.desired.fleet, account=account
        )
        if event is not None:
            self.take(event)

    def _account_change(self, account: str, status: Status, ended: RunEnded) -> AccountChange | None:
        failing = self.failing[account] = count_failing(self.failing.get(account, frozenset()), ended)
        before = self.accounts.get(account)
        return after_round(before, account, status, ended, self.desired, failing=failing)

    def run(self, most: int = 300) -> Plan:
        """Go on until nothing more happens by itself; return the last plan."""
        for _ in range(most):
            before = len(self.history)
            planned = self.look()
            self.work(planned)
            if len(self.history) == before:
                if planned.due is None or not any(w.reason in PASSING for w in planned.waiting.values()):
                    return planned
                self.now = max(self.now, planned.due)
        message = f"no rest after {most} looks: {self.history[-4:]}"
        raise AssertionError(message)

    def push(self, desired: Desired) -> None:
        """Let people push another revision."""
        self.desired = replace(desired, revision=blob(self.desired.revision))
        back = {name: status for name, status in self.archive.items() if name in desired.tasks}
        self.statuses = {**back, **self.statuses}


def recorded(history: Sequence[Transition]) -> Sequence[RecordCommit]:
    """Return the commits that stand for these steps on a state branch."""
    last: dict[str, str] = {}
    commits = []
    for at, each in enumerate(history):
        record = task_record(each, previous=last.get(each.old))
        last[each.task] = f"c{at}"
        commits.append(
            RecordCommit(
                record=replace(record, commit=f"c{at}"),
                author="reconciler",
                parents=(f"c{at - 1}",) if at else (),
                tasks={each.old: None} | {each.task: each.after},
                generation=each.after.generation if each.after else None,
            )
        )
    return commits


# --- Events ----------------------------------------------------------------


def _taken_status() -> Status:
    run = {"run": "a@1.g0.a1", "assigned_host": "alpha", "adapter": "script", "repo": "shop"}
    fields = {"since": NOW, "created_at": NOW, "generation": "g", "work": "w", "head_commit": "d" * 40}
    return make_status(Phase.REVIEW_PENDING, **fields, **run)


def sample_events(task: str, status: Status | None) -> Mapping[type[Event], Event]:
    """Return one event of every kind; those of runs are about the last run."""
    spec = Task(name=task, generation=blob(task, "sample"), work="sample", goal="Do it.")
    head = {"task": task, "origin": Origin(NOW, "it happened")}
    run = (status.run_key if status else None) or f"{task}.g0.a1"
    attempt = status.attempt + 1 if status else 1
    failure = Failure(kind=FailureClass.AGENT, message="did not work")
    waiting = Waiting(reason=Reason.SLOT, message="no free slot", since=NOW)
    open_question = status.question.id if status and status.question else "q1-1"
    events = (
        Created(**head, spec=spec),
        WaitingChanged(**head, waiting=waiting),
        Scheduled(**head, due_at=NOW),
        Assigned(**head, run=run_key(task, spec.generation, attempt), holder=OnHost(host="alpha"), spec=spec),
        Started(**head, run=run),
        Reported(**head, run=run, claim=Claim(outcome="completed")),
        FixRequested(**head, run=run, report=RED),
        Submitted(**head, run=run, report=SUCCESS),
        Completed(**head, report=SUCCESS),
        Retried(**head, run=run, failure=failure, report=failed(None), not_before=NOW),
        Released(**head, run=run),
        QuestionAsked(**head, run=run, question="Which one?", report=SUCCESS),
        QuestionAnswered(**head, question=open_question, answer="That one."),
        ChoiceRequested(**head, question="c-1", text="Which variant?", options=(f"{task}@1",)),
        VariantChosen(**head, choice=VariantChoice(variant=f"{task}@1", by="validation", reason="first")),
        VariantTaken(**head, head="d" * 40, branch="task/a", title="Do it.", chosen=_taken_status()),
        Failed(**head, run=run, failure=failure),
        PullRequestOpened(**head, pull=PULL),
        BranchTouched(**head, head="e" * 40),
        BranchPushed(**head),
        Reopened(**head, head="e" * 40),
        ChangesRequested(**head),
        Escalated(**head, failure=failure),
        Cancelled(**head),
        Renewed(**head, spec=spec),
        SpecChanged(**head, spec=spec),
        Renamed(**head, old=task),
        SpecRemoved(**head),
        Restored(**head),
        Archived(**head),
        Removed(**head),
    )
    return {type(event): event for event in events}
