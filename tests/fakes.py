"""
Fakes of what the loop needs from the outside.

They keep what they are given in memory and pass the same contract tests as
the real ones (`tests/controller/test_contracts.py`).
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from reconciler import clock
from reconciler.controller.build import build_loop
from reconciler.controller.cache import FleetCache
from reconciler.controller.loop import Loop
from reconciler.controller.ports import (
    UNREAD_METER,
    ControllerSettings,
    Dispatch,
    Emit,
    Forges,
    Meter,
    Ports,
    Prober,
    Specs,
    State,
    Step,
    WaitForNews,
)
from reconciler.core.adapter import Adapter, Secret, Usage
from reconciler.core.errors import Conflict, Problem, Unavailable
from reconciler.core.events import Assigned, RunEnded, RunQueued, RunSeen
from reconciler.core.forge.merge_queue import MergeChain
from reconciler.core.hosts import HostChange
from reconciler.core.lifecycle import Transition
from reconciler.core.model.forge import (
    Comment,
    CommitStatus,
    ForgeView,
    Issue,
    ManagedComment,
    MergeRefusal,
    PullRequestSnapshot,
    Review,
)
from reconciler.core.model.runs import (
    Assignment,
    Check,
    Claim,
    FailureClass,
    Report,
    ReviewNote,
    RunRequest,
    ValidationRequest,
    Verdict,
    read_run_key,
)
from reconciler.core.model.specs import Desired, Forge, Host, Repo, Task, TaskSpec, work_id
from reconciler.core.model.status import (
    AccountStatus,
    ArchivedTasks,
    BudgetScope,
    HostCli,
    HostStatus,
    Status,
)
from reconciler.core.notifications.messages import Message
from reconciler.core.planning.limits import with_expenses
from reconciler.core.runs.accounts import AccountChange
from reconciler.core.runs.prompt import sha256
from reconciler.core.runs.retention import Retention

START = datetime(2030, 1, 1, 9, 0, tzinfo=UTC)
SUCCESS = Report(verdict=Verdict(outcome="success", text="done"), head_commit="f" * 40, commits=1)
FAILURE = Report(verdict=Verdict(outcome="failed", kind=FailureClass.AGENT, message="gave up"))
UNSTARTED = Report(
    verdict=Verdict(outcome="failed", kind=FailureClass.HOST, message="nothing can be written"), started=False
)
RED = Report(
    verdict=Verdict(outcome="success"),
    checks=(Check(command="make test", exit_code=2, seconds=0.1, output="1 failed"),),
)


def make_task(name: str, generation: str | None = None, **fields: object) -> Task:
    """Return a resolved task as the specs room would make it."""
    spec = TaskSpec.model_validate({"goal": f"Do {name}.", "script": "true", **fields})
    generation = generation or f"{abs(hash((name, spec.model_dump_json()))):040x}"
    return Task(**dict(spec), name=name, generation=generation, work=work_id(spec))


def make_desired(*tasks: Task, revision: str = "1" * 40, **fields: object) -> Desired:
    """Return a revision with these tasks, one local host and the built-in script adapter."""
    shell = Adapter(name="script", command=("{shell}", "-c", "{script}"))
    fields = {"hosts": {"local": Host(name="local")}, "adapters": {"script": shell}, **fields}
    return Desired(revision=revision, tasks={task.name: task for task in tasks}, **fields)


@dataclass
class FakeClock:
    """A clock that moves when there is nothing else to do."""

    time: datetime = START

    def __call__(self) -> datetime:
        self.time += timedelta(milliseconds=1)
        return self.time

    async def pause(self, news: asyncio.Event, longest: timedelta | None) -> None:
        """Let everybody else have a turn; if that brings no news, let the time pass."""
        for _ in range(5):
            await asyncio.sleep(0)
        if news.is_set():
            return
        if longest is None:
            await news.wait()
        else:
            self.time += max(longest, timedelta(0))


@dataclass
class FakeSpecs:
    """Specs that are what a test says."""

    desired: Desired = field(default_factory=Desired)
    broken: bool = False
    older: dict[tuple[str, str], Task] = field(default_factory=dict)

    def push(self, desired: Desired) -> None:
        """Make this the newest revision; what was there stays known by its generation."""
        self.older |= {(task.name, task.generation): task for task in self.desired.tasks.values()}
        self.desired = desired

    async def read(self, statuses: Mapping[str, Status]) -> Desired:
        if self.broken:
            raise Unavailable("the specs cannot be read")
        return self.desired

    async def recall(self, name: str, generation: str) -> Task | None:
        return self.older.get((name, generation))


@dataclass
class FakeSender:
    """A sender whose targets take messages, or do not, as a test says."""

    refuses: dict[str, str] = field(default_factory=dict)
    """Why a target takes none, by name."""
    sent: list[tuple[str, Message]] = field(default_factory=list)
    """Target and message, in the order in which they were taken."""
    tries: int = 0

    async def send(self, target: str, secret: Secret, message: Message) -> None:
        self.tries += 1
        await asyncio.sleep(0)
        if target in self.refuses:
            raise Unavailable(self.refuses[target])
        self.sent.append((target, message))


@dataclass
class FakeProber:
    """Hosts that answer, but for those that a test takes away."""

    away: set[str] = field(default_factory=set)
    faults: dict[str, str] = field(default_factory=dict)
    """Why no run can start on a host, as far as a probe can see it."""
    asked: list[tuple[str, frozenset[str]]] = field(default_factory=list)

    async def probe(
        self, host: Host, adapters: Mapping[str, Adapter], before: HostStatus | None
    ) -> tuple[HostStatus, float | None]:
        self.asked.append((host.name, frozenset(adapters)))
        reachable = host.name not in self.away
        since = before.since if before and before.reachable == reachable else START
        if not reachable:
            return HostStatus(reachable=False, since=since, message="no answer"), None
        clis = {name: HostCli(path=f"/bin/{name}", ok=True) for name in adapters}
        fault = self.faults.get(host.name, "")
        status = HostStatus(reachable=True, since=since, message=fault, fault=fault, os="Linux", git="2.39.5")
        return status.model_copy(update={"adapters": clis}), 0.5


@dataclass
class FakeState:
    """A state branch in memory."""

    statuses: dict[str, Status] = field(default_factory=dict)
    hosts: dict[str, HostStatus] = field(default_factory=dict)
    archive: dict[str, Status] = field(default_factory=dict)
    log: list[Transition] = field(default_factory=list)
    accounts: dict[str, AccountStatus] = field(default_factory=dict)
    host_log: list[HostChange] = field(default_factory=list)
    account_log: list[AccountChange] = field(default_factory=list)
    moved: bool = False
    refuse: list[Exception] = field(default_factory=list)
    """What the next commits raise, first come first served."""
    damaged: dict[str, Problem] = field(default_factory=dict)
    counted: int = 0
    """How often the whole record was asked what was spent."""

    async def load(self) -> tuple[Mapping[str, Status], Mapping[str, HostStatus]]:
        self.moved = False
        return dict(self.statuses), dict(self.hosts)

    @property
    def head(self) -> str:
        return f"{len(self.log) + len(self.host_log) + len(self.account_log):040x}"

    def has_moved(self) -> bool:
        return self.moved

    async def commit(self, steps: Sequence[Step]) -> None:
        if self.refuse:
            raise self.refuse.pop(0)
        for change in (step for step in steps if isinstance(step, HostChange)):
            self.hosts.pop(change.host, None)
            if change.after is not None:
                self.hosts[change.host] = change.after
            self.host_log.append(change)
        for news in (step for step in steps if isinstance(step, AccountChange)):
            self.accounts = {name: each for name, each in self.accounts.items() if name != news.account}
            self.accounts |= {news.account: news.after} if news.after else {}
            self.account_log.append(news)
        for step in (step for step in steps if isinstance(step, Transition)):
            old = getattr(step.event, "old", step.task)
            if self.statuses.get(old, self.archive.get(old)) != step.before:
                raise Conflict(f"{step.task} has moved on")
            self.statuses.pop(old, None)
            self.archive.pop(old, None)
            if step.after is not None:
                (self.archive if step.after.archived else self.statuses)[step.task] = step.after
            self.log.append(step)

    async def archived(self, names: Collection[str]) -> ArchivedTasks:
        return ArchivedTasks({name: self.archive[name] for name in names if name in self.archive}, {})

    async def past_attempts(self, names: Collection[str]) -> Mapping[str, int]:
        keys = [read_run_key(step.event.run) for step in self.log if isinstance(step.event, Assigned)]
        return {key[0]: key[1] for key in keys if key and key[0] in names}

    async def spent(self, since: datetime) -> Mapping[BudgetScope, Usage]:
        self.counted += 1
        return with_expenses({}, self.log, since)

    def phases(self, task: str) -> list[str]:
        """Return the phases a task went through, in order."""
        steps = [str(step.after.phase) for step in self.log if step.task == task and step.after]
        return [phase for at, phase in enumerate(steps) if at == 0 or steps[at - 1] != phase]


@dataclass
class FakeDispatch:
    """Hosts that do at once what a test says; what was started there survives the controller."""

    reports: dict[str, list[Report]] = field(default_factory=dict)
    """What comes of the rounds of a task, in order; after that, successes."""
    broken: set[str] = field(default_factory=set)
    """Hosts on which nothing can be started."""
    refused: list[RunRequest] = field(default_factory=list)
    """What could not be started there."""
    hold: bool = False
    """Runs are seen but do not end until `finish`."""
    started: dict[tuple[str, int], RunRequest] = field(default_factory=dict)
    """Every round that was ever started on a host."""
    follows: list[RunRequest] = field(default_factory=list)
    stopped: list[tuple[str, str]] = field(default_factory=list)
    swept: list[Retention] = field(default_factory=list)
    ended: dict[tuple[str, int], Report] = field(default_factory=dict)
    followed: frozenset[tuple[str, int]] = frozenset()
    on_base: set[str] = field(default_factory=set)
    branches: dict[str, str] = field(default_factory=dict)
    """Branches to which chosen work was pushed."""
    """Commits that were merged."""
    looks: int = 0
    away: set[str] = field(default_factory=set)
    """Repos that do not answer."""
    reached: list[str] = field(default_factory=list)
    retry_reasons: dict[str, str] = field(default_factory=dict)
    agent_over: frozenset[str] = frozenset()
    queued: dict[str, str] = field(default_factory=dict)
    """What the runs of a task wait for in a queue, before they start."""
    emits: dict[tuple[str, int], Emit] = field(default_factory=dict)

    def follow(self, order: RunRequest, emit: Emit) -> None:
        self.follows.append(order)
        self.emits[order.key] = emit
        self.followed |= {order.key}
        if message := self.queued.get(order.task):
            emit(RunQueued(task=order.task, run=order.run, round=order.round, at=START, message=message))
            return
        next_report = next(iter(self.reports.get(order.task, [])), SUCCESS)
        if order.key not in self.started and (order.host.name in self.broken or not next_report.started):
            self.refused.append(order)
            self.finish(order, UNSTARTED if order.host.name in self.broken else None)
            return
        if order.key not in self.started:
            self.started[order.key] = order
            emit(
                RunSeen(
                    task=order.task,
                    run=order.run,
                    round=order.round,
                    at=START,
                    prompt_sha256=sha256(order.prompt),
                )
            )
        if not self.hold or order.key in self.ended:
            self.finish(order)

    def finish(self, order: RunRequest, report: Report | None = None) -> None:
        """Let a run end."""
        scripted = self.reports.get(order.task, [])
        if order.key not in self.ended:
            self.ended[order.key] = report or (scripted.pop(0) if scripted else SUCCESS)
        self.followed -= {order.key}
        self.emits[order.key](
            RunEnded(
                task=order.task, run=order.run, round=order.round, at=START, report=self.ended[order.key]
            )
        )

    def stop(self, order: RunRequest, why: str, emit: Emit) -> None:
        self.stopped.append((order.run, why))
        self.emits[order.key] = emit
        cancelled = Verdict(outcome="failed", kind=FailureClass.CANCELLED, message=why)
        self.finish(order, Report(verdict=cancelled))

    async def sweep(self, host: Host, needs: Callable[[], Retention]) -> None:
        self.swept.append(needs())

    async def reach(self, repo: Repo) -> None:
        self.reached.append(repo.name)
        if repo.name in self.away:
            raise Unavailable(f"repo {repo.name}: no answer")

    async def merged(self, repo: Repo, heads: Collection[str]) -> frozenset[str]:
        self.looks += 1
        return frozenset(heads) & self.on_base

    async def deliver(self, repo: Repo, head: str, branch: str, expected: str | None) -> str:
        self.branches[branch] = head
        return head

    async def close_branch(self, repo: Repo, branch: str, head: str) -> None:
        self.branches.pop(branch, None)

    async def verify(self, assignment: Assignment, claim: Claim) -> Report:
        if self.hold:
            raise Unavailable("nothing can be checked now")
        key = assignment.run, 1
        scripted = self.reports.get(assignment.task, [])
        if key not in self.ended:
            self.ended[key] = scripted.pop(0) if scripted else SUCCESS
        said = {"text": claim.result, "usage": claim.usage}
        found = self.ended[key]
        return found.model_copy(update={"verdict": found.verdict.model_copy(update=said)})

    async def merge_chain(self, repo: Repo, heads: Sequence[tuple[str, str]]) -> MergeChain:
        return MergeChain(base="0" * 40, commits=tuple(head for _, head in heads))

    async def validate(self, request: ValidationRequest) -> Sequence[Check]:
        raise Unavailable("nothing can be validated now")

    async def end_validation(self, request: ValidationRequest) -> None:
        """Nothing to end."""

    async def land(self, repo: Repo, commit: str, base: str) -> bool:
        return False

    async def close(self) -> None:
        self.followed = frozenset()


def make_loop(
    specs: Specs,
    state: State,
    dispatch: Dispatch,
    clock: FakeClock,
    *,
    prober: Prober | None = None,
    forges: Forges | None = None,
    monotonic: Callable[[], float] | None = None,
    pause: WaitForNews | None = None,
    meter: Meter = UNREAD_METER,
    **settings: Any,
) -> Loop:
    """Return a loop among these; nobody sets its clock, unless there is another that is `monotonic`."""
    ports = Ports(
        specs=specs,
        state=state,
        dispatch=dispatch,
        prober=prober or FakeProber(),
        forges=forges or FakeForges(clock=clock),
        clock=clock,
        monotonic=monotonic or partial(_seconds, clock),
        pause=pause or clock.pause,
        meter=meter,
    )
    return build_loop(FleetCache(), ports, ControllerSettings(**settings))


def _seconds(clock: FakeClock) -> float:
    return clock.time.timestamp()


@dataclass
class FakeSite:
    """A repository on a forge, in memory; its methods are what people do there."""

    heads: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    pulls: dict[int, PullRequestSnapshot] = field(default_factory=dict)
    issues: dict[int, Issue] = field(default_factory=dict)
    comments: list[Comment] = field(default_factory=list)
    lights: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    """State and description by commit and context."""
    titles: dict[int, str] = field(default_factory=dict)
    """Titles that we gave."""
    bodies: dict[int, str] = field(default_factory=dict)
    count: int = 0
    clock: Callable[[], datetime] = clock.now
    """Forges have clocks of their own."""

    def next(self) -> int:
        """Return the next number; of ids, commits and seconds too."""
        self.count += 1
        return self.count

    @property
    def now(self) -> datetime:
        return self.clock().replace(microsecond=0)

    def push(self, branch: str, *, pusher: str = "ann", commit: str | None = None) -> str:
        """Push a commit to a branch."""
        self.heads[branch] = commit or f"{self.next():040x}"
        for pull in [pull for pull in self.pulls.values() if pull.branch == branch and pull.state == "open"]:
            reviews = tuple(replace(review, is_stale=True) for review in pull.reviews)
            self.change(pull.number, head=self.heads[branch], pusher=pusher, reviews=reviews, mergeable=True)
        return self.heads[branch]

    def change(self, number: int, **fields: object) -> None:
        """Change a pull request or an issue."""
        tickets = self.pulls if number in self.pulls else self.issues
        tickets[number] = replace(tickets[number], **fields, updated_at=self.now)

    edit = change

    def close(self, number: int, *, by: str = "ann") -> None:
        self.change(
            number, state="closed", **({"by": by} if number in self.pulls else {"closed_at": self.now})
        )

    def reopen(self, number: int) -> None:
        self.change(number, state="open", **({} if number in self.pulls else {"closed_at": None}))

    def merge(self, number: int, *, by: str = "ann") -> None:
        self.change(number, state="closed", is_merged=True, by=by)

    def comment(self, number: int, body: str, *, author: str = "ann", key: str = "") -> None:
        at = self.now
        self.comments.append(
            Comment(id=self.next(), number=number, author=author, body=body, key=key, created_at=at)
        )

    def open_issue(self, title: str, body: str, *, author: str = "ann", labels: tuple[str, ...] = ()) -> int:
        number = self.next()
        self.issues[number] = Issue(
            number=number,
            url=f"http://127.0.0.1/issues/{number}",
            title=title,
            body=body,
            author=author,
            labels=labels,
            updated_at=self.now,
        )
        return number

    def set_status(self, commit: str, state: str, context: str = "ci/test", description: str = "") -> None:
        self.lights[commit, context] = state, description

    def review(self, number: int, verdict: str, text: str = "", *, author: str = "ann") -> int:
        """Review a pull request: `approved`, `changes_requested` or `comment`; return the review's id."""
        pull = self.pulls[number]
        notes = (ReviewNote(author=author, text=text),) if text else ()
        review = Review(id=self.next(), author=author, verdict=verdict, commit=pull.head, notes=notes)
        self.change(number, reviews=(*pull.reviews, review))
        return review.id

    def newest(self, branch: str) -> PullRequestSnapshot | None:
        mine = [pull for pull in self.pulls.values() if pull.branch == branch]
        return max(mine, key=lambda pull: (pull.state == "open", pull.number), default=None)

    def seen(self, pull: PullRequestSnapshot) -> PullRequestSnapshot:
        """Return a pull request with its checks."""
        others = {
            context: said
            for (commit, context), said in self.lights.items()
            if commit == pull.head and not context.startswith("reconciler/")
        }
        states = {state for state, _ in others.values()}
        worst = next((state for state in ("failure", "pending", "success") if state in states), "none")
        failed = tuple(f"{name}: {said}" for name, (state, said) in others.items() if state == "failure")
        return replace(pull, checks=worst, failed_checks=failed)


@dataclass
class FakeForges:
    """Forges in memory, one site for each repository."""

    sites: dict[str, FakeSite] = field(default_factory=dict)
    away: bool = False
    """Whether they cannot be reached."""
    looks: int = 0
    shown: list[ForgeView] = field(default_factory=list)
    """Everything that was to be shown, in order."""
    clock: Callable[[], datetime] = clock.now
    deleted_labels: set[str] = field(default_factory=set)

    def at(self, forge: Forge) -> FakeSite:
        """Return the site of a repository."""
        if self.away:
            raise Unavailable(f"forge {forge.repo}: no answer")
        return self.sites.setdefault(forge.repo, FakeSite(clock=self.clock))

    async def close(self) -> None:
        """Nothing to close."""

    async def whoami(self, forge: Forge) -> str:
        return "bot"

    async def pulls(
        self, forge: Forge, branches: Collection[str], fresh: Collection[int], *, refreshes: bool = True
    ) -> Mapping[str, PullRequestSnapshot]:
        self.looks += 1
        site = self.at(forge)
        found = {branch: site.newest(branch) for branch in branches}
        return {branch: site.seen(pull) for branch, pull in found.items() if pull}

    async def show(self, forge: Forge, want: ForgeView) -> PullRequestSnapshot | None:
        site = self.at(forge)
        self.shown.append(want)
        pull = site.newest(want.branch)
        if want.opens and (pull is None or pull.state == "closed"):
            pull = self._open(site, want)
        if pull is not None:
            self._dress(site, pull, want)
        if want.issue in site.issues:
            issue = site.issues[want.issue]
            site.change(issue.number, labels=_with_phase(issue.labels, want.phase))
            if want.closes_issue and issue.state == "open":
                site.close(issue.number, by="bot")
            for note in want.issue_notes:
                await self.upsert_comment(forge, issue.number, note, on_pull=False)
        for note in want.notes if pull else ():
            await self.upsert_comment(forge, pull.number, note, on_pull=True)
        if pull is None:
            return None
        is_refused = want.merges is not None and pull.is_draft
        refusal = MergeRefusal("it is a draft") if is_refused else None
        return replace(site.seen(site.pulls[pull.number]), refusal=refusal)

    def _open(self, site: FakeSite, want: ForgeView) -> PullRequestSnapshot:
        if want.branch not in site.heads:
            raise Unavailable(f"no pull request can be opened: is {want.branch} there?")
        number = site.next()
        site.titles[number] = want.title
        site.pulls[number] = PullRequestSnapshot(
            number=number,
            url=f"http://127.0.0.1/pulls/{number}",
            title=want.title,
            body="",
            author="bot",
            branch=want.branch,
            base=want.base,
            head=site.heads[want.branch],
            pusher="bot",
            is_draft=want.is_draft,
            mergeable=True,
            labels=want.labels,
            updated_at=site.now,
        )
        return site.pulls[number]

    def _dress(self, site: FakeSite, pull: PullRequestSnapshot, want: ForgeView) -> None:
        fields: dict[str, object] = {"labels": _with_phase(pull.labels, want.phase)}
        if pull.state == "open":
            ours = site.bodies.get(pull.number, "")
            body = pull.body.replace(ours, want.body) if ours else pull.body + want.body
            site.bodies[pull.number] = want.body
            fields["body"] = body
            fields["base"] = want.base if pull.base == want.leaves else pull.base
            if pull.title == site.titles.get(pull.number):
                fields["title"] = site.titles[pull.number] = want.title
            if want.merges == pull.head and pull.mergeable and not pull.is_draft:
                fields |= {"state": "closed", "is_merged": True, "by": "bot"}
        if want.commit_status is not None:
            site.set_status(
                want.commit_status.commit,
                want.commit_status.state,
                want.commit_status.context,
                want.commit_status.description,
            )
        site.change(pull.number, **fields)

    async def issues(self, forge: Forge, label: str) -> Sequence[Issue]:
        issues = self.at(forge).issues.values()
        return [issue for issue in issues if issue.state == "open" and label in issue.labels]

    async def has_label(self, forge: Forge, label: str) -> bool:
        return label not in self.deleted_labels

    async def issue(self, forge: Forge, number: int) -> Issue | None:
        return self.at(forge).issues.get(number)

    async def comments(self, forge: Forge, since: datetime) -> Sequence[Comment]:
        return [comment for comment in self.at(forge).comments if comment.created_at >= since]

    async def branch_head(self, forge: Forge, branch: str) -> str | None:
        return self.at(forge).heads.get(branch)

    async def upsert_comment(self, forge: Forge, number: int, note: ManagedComment, *, on_pull: bool) -> bool:
        site = self.at(forge)
        for at, comment in enumerate(site.comments):
            if (comment.number, comment.key) == (number, note.key):
                site.comments[at] = replace(comment, body=note.text)
                return False
        site.comment(number, note.text, author="bot", key=note.key)
        return True

    async def open_pulls(self, forge: Forge, base: str) -> Sequence[PullRequestSnapshot]:
        pulls = self.at(forge).pulls.values()
        return [pull for pull in pulls if pull.state == "open" and pull.base == base]

    async def commit_status(self, forge: Forge, commit_status: CommitStatus) -> None:
        self.at(forge).set_status(
            commit_status.commit, commit_status.state, commit_status.context, commit_status.description
        )


def _with_phase(labels: tuple[str, ...], phase: str) -> tuple[str, ...]:
    return (*(label for label in labels if not label.startswith("agent/")), f"agent/{phase}")
