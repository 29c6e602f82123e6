"""
Ports: what the controller needs from the outside, as protocols.

The other packages (specs, store, dispatch) implement these; tests provide fakes
that pass the same contract tests.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from reconciler.core.adapter import Adapter, Secret, Usage
from reconciler.core.errors import Problem, Unavailable
from reconciler.core.events import (
    BranchSeen,
    HostSeen,
    MergeSeen,
    PullRequestSeen,
    RunEnded,
    RunQueued,
    RunSeen,
    VariantClosed,
    VariantDelivered,
    WorkerReport,
)
from reconciler.core.forge.merge_queue import MergeChain
from reconciler.core.hosts import HostChange
from reconciler.core.lifecycle import Transition
from reconciler.core.model.forge import (
    Comment,
    CommitStatus,
    ForgeView,
    Issue,
    ManagedComment,
    PullRequestSnapshot,
)
from reconciler.core.model.runs import Assignment, Check, Claim, Report, RunRequest, ValidationRequest
from reconciler.core.model.specs import Desired, Forge, Host, Repo, Task
from reconciler.core.model.status import (
    AccountStatus,
    ArchivedTasks,
    BudgetScope,
    HostStatus,
    LeaseRequest,
    Status,
    Waiting,
)
from reconciler.core.notifications.book import Book
from reconciler.core.notifications.messages import Message
from reconciler.core.outages import ForgeOutage
from reconciler.core.planning.plan import Plan
from reconciler.core.runs.accounts import AccountChange
from reconciler.core.runs.retention import Retention
from reconciler.core.shards import Owner, Owners
from reconciler.core.transitions import TransitionRecord
from reconciler.core.views import Elsewhere

Clock = Callable[[], datetime]
TaskFact = (
    RunSeen
    | RunQueued
    | RunEnded
    | MergeSeen
    | PullRequestSeen
    | BranchSeen
    | VariantDelivered
    | VariantClosed
)
Fact = TaskFact | HostSeen
Step = Transition | HostChange | AccountChange
Emit = Callable[[Fact], None]
WaitForNews = Callable[[asyncio.Event, timedelta | None], Awaitable[None]]
"""Wait until there is news, but no longer than the time given."""


async def wait_for_news(news: asyncio.Event, longest: timedelta | None) -> None:
    """Wait until there is news, but no longer than the time given."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if longest is None else max(longest.total_seconds(), 0)):
            await news.wait()


def subject(step: Step) -> str:
    """Return the subject of a step: a task, `host NAME` or `account NAME`."""
    if isinstance(step, Transition):
        return step.task
    return f"host {step.host}" if isinstance(step, HostChange) else f"account {step.account}"


class Specs(Protocol):
    """Desired state: the specs of one revision at a time."""

    async def read(self, statuses: Mapping[str, Status]) -> Desired:
        """
        Return the desired state of the newest revision; the same object if it has not moved.

        `statuses` names the generations in force, so that a file that is broken
        now can be answered with its last good version after a restart.
        Raises Unavailable if the revision cannot be read as a whole.
        """

    async def recall(self, name: str, generation: str) -> Task | None:
        """
        Return a task as it was in an earlier generation, with today's defaults.

        A live run goes on by the spec it was assigned with. None if that
        generation is not in the repository any more.
        """


class State(Protocol):
    """Observed state on record: the state branch, with one writer."""

    async def load(self) -> tuple[Mapping[str, Status], Mapping[str, HostStatus]]:
        """
        Return every status on record, of tasks and of hosts, at the newest commit.

        Those that cannot be read are not in it. Raises Unavailable.
        """

    @property
    def damaged(self) -> Mapping[str, Problem]:
        """What is wrong with the status files of tasks that could not be read, by task."""

    @property
    def accounts(self) -> Mapping[str, AccountStatus]:
        """What is on record of accounts at their limits, as last loaded."""

    @property
    def head(self) -> str:
        """The commit that what was last loaded or committed is on record with; empty before the first."""

    def has_moved(self) -> bool:
        """Return whether somebody else wrote since, as far as can be told without asking a remote."""

    async def commit(self, steps: Sequence[Step]) -> None:
        """
        Put the steps on record, in order, a commit each; durable when it returns.

        Nothing of them is recorded if it raises: Conflict if somebody else
        wrote first (load and plan again), Unavailable.
        """

    async def archived(self, names: Collection[str]) -> ArchivedTasks:
        """
        Return those of these tasks that are in the archive.

        Asked for new tasks: what was settled and comes back is not done again. Raises Unavailable.
        """

    async def past_attempts(self, names: Collection[str]) -> Mapping[str, int]:
        """
        Return the last attempt on record by name, of those that ever had a run.

        Asked for new tasks: one that had the same name before may have left run
        folders behind, and results in them. Raises Unavailable.
        """

    async def spent(self, since: datetime) -> Mapping[BudgetScope, Usage]:
        """Return what was spent since a time, and from whose money. Raises Unavailable."""


class OwnerRegistry(Protocol):
    """Which shard has which task, as all reconcilers of the fleet have agreed on its remote."""

    is_shared: bool
    """Whether the fleet is on a remote, which several reconcilers can share."""

    async def read(self) -> Owners | None:
        """Return the owners as of the last fetch; None for a fleet of one reconciler. Raises Unavailable."""

    async def fetch(self) -> None:
        """Fetch what the others did. Raises Unavailable, Refused."""

    async def change(
        self,
        owners: Owners | None,
        take: Mapping[str, Owner],
        release: Collection[str],
        shards: Collection[str],
    ) -> None:
        """
        Record new owners, and which shards there are, on top of what was read (None: begin).

        Raises Conflict if another shard was first (fetch, read and decide again), Unavailable, Refused.
        """

    async def recorded(self, names: Mapping[str, str]) -> Mapping[str, Status | None]:
        """Return what is on record of tasks of other shards, given which; None where nothing is."""

    async def also_recorded(self, names: Collection[str], shards: Iterable[str]) -> Mapping[str, str]:
        """Return which of these tasks another shard has on record, whoever owns them, and which shard."""

    async def all_recorded(self, shards: Iterable[str]) -> Mapping[str, Owner]:
        """Return what other shards have on record: to begin anew where the owners were lost."""


class Prober(Protocol):
    """Probes hosts for their platform, health and agent CLIs."""

    async def probe(
        self, host: Host, adapters: Mapping[str, Adapter], before: HostStatus | None
    ) -> tuple[HostStatus, float | None]:
        """
        Return what is known of the host now, and its load per core if it said.

        `adapters` are those it may be asked for. A host that does not answer is
        an answer too; nothing is raised.
        """


class Dispatch(Protocol):
    """Hosts that carry out orders."""

    @property
    def followed(self) -> frozenset[tuple[str, int]]:
        """(run key, round) of every order that is being followed."""

    def follow(self, order: RunRequest, emit: Emit) -> None:
        """
        Carry out the order, or take it up where it stands; return at once.

        The same run and round is started once on its host, however often this
        is called. Ends in a `RunEnded`; the agent's first sign of life is a
        `RunSeen`, and where it waits in a queue before that, each reason is a
        `RunQueued`. Failures arrive as events too.
        """

    def stop(self, order: RunRequest, why: str, emit: Emit) -> None:
        """
        End the run of the order, started or not, followed or not; return at once.

        It will not start afterwards. Ends in a `RunEnded` whose verdict is of
        class `cancelled` (or the true one, if the run was quicker).
        """

    async def sweep(self, host: Host, needs: Callable[[], Retention]) -> None:
        """
        Remove from the host what this fleet left there and no longer needs.

        Live runs that are stale are stopped; any other live run is left alone.
        Workspaces and run folders go, but for those of live, open and freshly
        failed runs. `needs` is asked after the host was: what is there by then
        was on record before. Raises Unavailable.
        """

    @property
    def retry_reasons(self) -> Mapping[str, str]:
        """Steps of live runs that are tried again for a while now, and why they fail, by run key."""

    @property
    def agent_over(self) -> frozenset[str]:
        """Run keys of the rounds whose agent is over: what is left is validation and delivery."""

    async def reach(self, repo: Repo) -> None:
        """
        Fetch the newest state of a code repository.

        Raises Unavailable if it does not answer; other faults surface in its runs.
        """

    async def merged(self, repo: Repo, heads: Collection[str]) -> frozenset[str]:
        """Return those of the delivered commits that are on the base branch by now. Raises Unavailable."""

    async def deliver(self, repo: Repo, head: str, branch: str, expected: str | None) -> str:
        """
        Push work that was delivered before to another branch, which holds what is expected (None: nothing).

        Returns the commit that it holds then. Idempotent. Raises Unavailable.
        """

    async def close_branch(self, repo: Repo, branch: str, head: str) -> None:
        """Delete a branch that holds our delivery; one that somebody pushed to stays. Raises Unavailable."""

    async def verify(self, assignment: Assignment, claim: Claim) -> Report:
        """
        Return the report on work that an outside agent says it finished.

        Its branch is there and goes on from where it should; its validation is
        run where there is a host for that. Asking again after a restart is
        asking once. Raises Unavailable if it cannot be told now.
        """

    async def merge_chain(self, repo: Repo, heads: Sequence[tuple[str, str]]) -> MergeChain:
        """
        Merge heads, given with their branches, onto the newest base of a code repository in turn.

        The same heads and the same base make the same commits; nothing is pushed. Raises Unavailable.
        """

    async def validate(self, request: ValidationRequest) -> Sequence[Check]:
        """
        Run the validation of a commit on a host, and return what came of it.

        It is run once: asking again, after a restart too, finds it running or done, as long as
        the run that names it is not settled. Raises Unavailable if that cannot be told now.
        """

    async def end_validation(self, request: ValidationRequest) -> None:
        """End the validation of a commit that nobody needs any more, as long as that takes."""

    async def land(self, repo: Repo, commit: str, base: str) -> bool:
        """
        Let the base branch hold a commit, if it holds `base` now; return whether it does then.

        Asking again is asking once. Raises Unavailable if it cannot be done now.
        """

    async def close(self) -> None:
        """Stop following; runs go on."""


class Forges(Protocol):
    """
    The forges of the fleet's repos.

    Every method raises Unavailable for an outage, a limit of requests or a
    token that is refused; no task fails because of its forge.
    """

    async def whoami(self, forge: Forge) -> str:
        """Return the name of our own account there; remembered for a while."""

    async def pulls(
        self, forge: Forge, branches: Collection[str], fresh: Collection[int], *, refreshes: bool = True
    ) -> Mapping[str, PullRequestSnapshot | Unavailable]:
        """
        Return the newest pull request of each head branch that has one, an open one first.

        One that cannot be read is the reason instead. Raises Unavailable if
        the forge cannot be asked at all.

        One request tells whether anything moved since the last call; details
        are read of those that did, of the numbers in `fresh`, and with
        `refreshes` of a few others in turn: some things change without a sign.
        """

    async def show(self, forge: Forge, want: ForgeView) -> PullRequestSnapshot | None:
        """
        Make the forge show the view of a task; return its pull request, if it has one.

        Nothing is written that is there already. A merge that cannot be done
        now is left for the next time.
        """

    async def issues(self, forge: Forge, label: str) -> Sequence[Issue] | None:
        """
        Return every open issue that has the label now, oldest first; nothing is kept between calls.

        None if the repository takes no issues: that says nothing of those it had.
        """

    async def has_label(self, forge: Forge, label: str) -> bool:
        """Return whether the repository, or its owner, may have a label of that name."""

    async def issue(self, forge: Forge, number: int) -> Issue | None:
        """Return an issue as it is now, open or closed; None if it was deleted, or transferred elsewhere."""

    async def comments(self, forge: Forge, since: datetime) -> Sequence[Comment]:
        """
        Return the comments written or edited at or after a time, oldest first; all times are by our clock.

        On issues and in the conversations of pull requests, our own among them
        (with their `key`, so that who answered before sees it).
        Nothing is kept between calls: who could not work them asks again.
        """

    async def branch_head(self, forge: Forge, branch: str) -> str | None:
        """Return the commit of a branch; None if there is no such branch."""

    async def upsert_comment(self, forge: Forge, number: int, note: ManagedComment, *, on_pull: bool) -> bool:
        """
        Create or update our comment with that key; return whether it is new.

        `on_pull` says whether the number is of a pull request: an issue may have the same.
        """

    async def open_pulls(self, forge: Forge, base: str) -> Sequence[PullRequestSnapshot]:
        """
        Return the open pull requests against a base branch, without reviews and checks.

        Those from forks are among them: anybody may open one, so nothing that it brings is run.
        """

    async def commit_status(self, forge: Forge, commit_status: CommitStatus) -> None:
        """Set a commit status, unless it is so already."""


class SpecWriter(Protocol):
    """The branch with the specs, read and committed to in the bot's name."""

    async def files(self, under: str) -> tuple[str, Mapping[str, str]]:
        """
        Return the newest commit and the text of its files, by path: all in a folder (`a/`), or one.

        What is no text, or too large to be a spec, is left out. Raises Unavailable.
        """

    async def put(
        self,
        files: Mapping[str, str | None],
        message: str,
        *,
        made_from: str | None = None,
        branch: str | None = None,
    ) -> str:
        """
        Commit changed files (None: removed) and return the commit; the head if nothing differs.

        `made_from` is the commit that the changes were made from: the newest, if
        None. `branch` is another than that of the specs, made from it if it is
        not there. Raises Conflict if somebody else changed one of the files
        meanwhile, Unavailable, Refused.
        """

    async def has_told(self, trailer: str, value: str, since: datetime) -> bool:
        """Return whether a commit since then has a trailer with this value. Raises Unavailable."""

    async def touched_at(self, path: str, *, apart_from: str) -> datetime | None:
        """
        Return when a file was last changed; None if it never was.

        Commits with a trailer of the name `apart_from` do not count. Raises Unavailable.
        """


class FleetView(Protocol):
    """Read-only view of the controller's cache."""

    @property
    def desired(self) -> Desired:
        """What the specs ask for."""

    @property
    def statuses(self) -> Mapping[str, Status]:
        """What is on record, by task."""

    @property
    def hosts(self) -> Mapping[str, HostStatus]:
        """What is on record, by host."""

    @property
    def accounts(self) -> Mapping[str, AccountStatus]:
        """What is on record of accounts at their limits, by name."""

    @property
    def damaged(self) -> Mapping[str, Problem]:
        """What is wrong with status files that cannot be read, by task; those are not in `statuses`."""

    @property
    def drift(self) -> Mapping[tuple[str, datetime], timedelta]:
        """How far the clock was set since what is on record; see `Observed.drift`."""

    @property
    def elsewhere(self) -> Callable[[], Elsewhere | None]:
        """Return what the other shards have on record; None where the fleet has one reconciler."""

    @property
    def forge_outages(self) -> Callable[[], Mapping[str, ForgeOutage]]:
        """Return which forges cannot be worked with now, by repo; the fleet's own is `.fleet`."""

    @property
    def last_plan(self) -> Plan:
        """Plan of the last round; it tells of those tasks only that were looked at."""

    @property
    def waiting(self) -> Mapping[str, Waiting]:
        """What each open task waits for."""


class LeaseService(Protocol):
    """Leases: what workers ask of the controller."""

    async def acquire(self, lease_request: LeaseRequest, wait: timedelta) -> str | None:
        """
        Return the name of the task that the agent holds now; None if there was none in that time.

        It is on record when this returns. Raises Refused if the agent may not
        have one, Unavailable.
        """

    async def submit(self, report: WorkerReport) -> Status:
        """
        Record a worker's report; return the task's status after it.

        The lease is renewed. Raises NotFound, NotNow (another phase, another
        mode), LeaseLost, Unavailable; nothing is recorded then.
        """

    def heartbeat(self, task: str, agent: str, epoch: int) -> str | None:
        """
        Renew the lease; return why the agent should stop, None if it should go on.

        Raises NotFound, NotNow, LeaseLost.
        """

    async def assignment(self, task: str) -> Assignment:
        """Return what the holder of a task is to carry out; the same for the same run. Raises SpecError."""


class Hooks(Protocol):
    """Receiver of webhook deliveries."""

    async def receive(self, headers: Mapping[str, str], body: bytes) -> None:
        """
        Accept a delivery; it is on disk when this returns. Header names are in lower case.

        Raises Refused if its signature is missing or wrong, UsageError if it
        is no webhook.
        """


class NotificationSender(Protocol):
    """Sends messages to targets: services that reach people."""

    async def send(self, target: str, secret: Secret, message: Message) -> None:
        """
        Send a message to a target, whose URL is looked up now.

        It is over within a minute. Raises Unavailable if the target did not
        take it, with a reason that holds nothing of the URL.
        """


class BookStore(Protocol):
    """Where the book of the notifications lies."""

    def read(self) -> Book:
        """Return the book; an empty one if there is none, or none that can be read."""

    def write(self, book: Book) -> None:
        """Write the book; it is on disk when this returns. Raises OSError."""


class StepReader(Protocol):
    """Reads steps back from the record."""

    async def __call__(self, head: str, after: str, limit: int) -> Sequence[TransitionRecord]:
        """
        Return the steps up to `head` and after a commit (empty: all), oldest first.

        Raises NotFound if that commit is not in the history, Unavailable.
        """


LookOutcome = Literal["ok", "unavailable", "fault"]
CommitOutcome = Literal["recorded", "conflict", "unavailable", "fault"]
PushRefusal = Literal["conflict", "refused", "unavailable"]


class Meter(Protocol):
    """
    Observer of the reconciler's own work: how long it took, and how it ended.

    Durations are in seconds. Nothing is awaited here and nothing is raised.
    """

    def look(self, seconds: float, outcome: LookOutcome) -> None:
        """Take note of a look of the loop: read, observe, plan, record, act."""

    def commit(self, steps: int, seconds: float, outcome: CommitOutcome) -> None:
        """Take note of a batch of steps that was to go on record."""

    def push_refused(self, why: PushRefusal) -> None:
        """Take note of a push of the record that the remote did not take."""


class NoMeter:
    """A meter that nobody reads."""

    def look(self, seconds: float, outcome: LookOutcome) -> None:
        """Do nothing."""

    def commit(self, steps: int, seconds: float, outcome: CommitOutcome) -> None:
        """Do nothing."""

    def push_refused(self, why: PushRefusal) -> None:
        """Do nothing."""


UNREAD_METER = NoMeter()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything outside that the controller talks to."""

    specs: Specs
    state: State
    dispatch: Dispatch
    prober: Prober
    forges: Forges
    clock: Clock
    monotonic: Callable[[], float]
    """Seconds of a monotonic clock, by which jumps of the wall clock are detected."""
    pause: WaitForNews = wait_for_news
    """How the loop waits; tests let their clock pass instead."""
    meter: Meter = UNREAD_METER
    """Who is told how long things take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """What an operator decides about the controller."""

    machine: str | None = None
    """This reconciler's machine: a local host is another on each."""
    takes_over: bool = False
    """Whether the local runs of other machines are taken for this one's: those are gone for good."""
    address: str = ""
    """Base URL of the pages of tasks, to which a name is appended; empty if there are none."""
    sweep_interval: timedelta = timedelta(hours=1)
    probe_interval: timedelta = timedelta(minutes=1)

    def records(self, host: HostStatus | None) -> bool:
        """Return whether this reconciler records changes of a host with this status."""
        machine = host.machine if host else None
        return self.takes_over or machine is None or machine == self.machine
