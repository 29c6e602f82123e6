"""
Observers: turn facts into events of tasks and changes of hosts.

Nothing is recorded here and nothing is set in motion: what comes out is
folded, planned with and put on record by the loop.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from reconciler import __version__
from reconciler.controller.assigned import AssignedSpecs
from reconciler.controller.breakers import Breakers
from reconciler.controller.cache import FleetCache
from reconciler.controller.ports import ControllerSettings, Fact, TaskFact
from reconciler.controller.quarantine import Quarantine
from reconciler.core.adapter import Usage
from reconciler.core.attribution import attribute
from reconciler.core.errors import Unavailable
from reconciler.core.events import (
    BranchPushed,
    BranchSeen,
    Cancelled,
    Completed,
    Event,
    HostSeen,
    MergeSeen,
    Origin,
    PullRequestSeen,
    RunEnded,
    RunQueued,
    RunSeen,
    Started,
    VariantClosed,
    VariantDelivered,
    VariantTaken,
    WaitingChanged,
)
from reconciler.core.forge.pull_request import follow
from reconciler.core.hosts import HostChange, host_change, host_removal
from reconciler.core.lifecycle import transition
from reconciler.core.model.runs import Opinion
from reconciler.core.model.specs import Desired, Task
from reconciler.core.model.status import AccountStatus, HostStatus, Phase, Reason, Status, Waiting
from reconciler.core.prices import reckon, unpriced_reason
from reconciler.core.runs.accounts import (
    AccountChange,
    account_rounds,
    after_round,
    after_specs,
    count_failing,
    run_account,
)
from reconciler.core.runs.decide import next_event
from reconciler.core.text import one_line
from reconciler.core.variants import not_chosen

log = logging.getLogger(__name__)
RunFact = RunSeen | RunQueued | RunEnded


# --- Tasks -----------------------------------------------------------------


@dataclass(slots=True)
class TaskObservation:
    """Result of judging facts about tasks."""

    events: list[Event] = field(default_factory=list)
    statuses: dict[str, Status | None] = field(default_factory=dict)
    """Statuses of the affected tasks after the events."""
    has_late_end: bool = False
    """Whether a run ended that its task no longer refers to: its folders can be swept now."""


@dataclass(frozen=True, slots=True)
class TaskObserver:
    """Judges facts about tasks, each task on its own: a fault in one does not affect the others."""

    cache: FleetCache
    assigned: AssignedSpecs
    quarantine: Quarantine

    async def observe(self, facts: Iterable[Fact], now: datetime) -> TaskObservation:
        """
        Return the events that the facts lead to; a fact about a run that is over is ignored.

        Raises Unavailable if a spec cannot be recalled: all of them wait then.
        """
        observation = TaskObservation()
        for fact in facts:
            if not isinstance(fact, HostSeen):
                await self._take(fact, observation, now)
        return observation

    async def _take(self, fact: TaskFact, observation: TaskObservation, now: datetime) -> None:
        task = self._task_of(fact) if isinstance(fact, RunFact) else fact.task
        if task in self.quarantine.unwritable:
            self.quarantine.drop(fact)
            return
        # A fact is judged by the status after the facts before it, and not by the
        # record: a pull request that is seen twice in one look must not count twice.
        fact, status = replace(fact, task=task), observation.statuses.get(task, self.cache.statuses.get(task))
        if isinstance(fact, RunEnded) and not (status and is_about(fact, status)):
            observation.has_late_end = True
        try:
            events, after = await self._meaning(fact, status, now)
        except Unavailable:
            raise
        except Exception as error:
            log.exception("task %s: its outcome cannot be judged; others go on", task)
            self.quarantine.add(task, error)
            self.quarantine.drop(fact)
            return
        observation.events += events
        observation.statuses[task] = after
        if not isinstance(fact, RunSeen | RunQueued):
            self.quarantine.recover(task)

    async def _meaning(
        self, fact: TaskFact, status: Status | None, now: datetime
    ) -> tuple[Sequence[Event], Status | None]:
        """Return all events that a fact leads to for its task, and the status after them."""
        events, desired = list[Event](), self.cache.desired
        task = desired.tasks.get(fact.task)
        if isinstance(fact, RunEnded) and status is not None and is_about(fact, status):
            task = await self.assigned.last(fact.task, status.generation)
        while (event := task_event(fact, status, task, desired, now, hosts=self.cache.hosts)) is not None:
            before, status = status, transition(status, event)
            if status == before:
                break  # it would lead to the same event for ever
            events.append(event)
        return events, status

    def _task_of(self, fact: RunFact) -> str:
        """Return the current name of the task a run belongs to: its file may have been renamed."""
        statuses = self.cache.statuses
        if (status := statuses.get(fact.task)) and status.run_key == fact.run:
            return fact.task
        at_work = self.cache.at_work()
        return next((name for name, status in at_work.items() if status.run_key == fact.run), fact.task)


def task_event(
    fact: TaskFact,
    status: Status | None,
    task: Task | None,
    desired: Desired,
    now: datetime,
    *,
    hosts: Mapping[str, HostStatus],
) -> Event | None:
    """
    Return the next event that a fact leads to for its task; None if there is none.

    `task` is the spec as it is now, or was last; None if that is lost. `hosts` are
    as they are on record.
    """
    if status is None:
        return None
    if isinstance(fact, MergeSeen | BranchSeen | VariantDelivered | VariantClosed):
        return _of_branch(fact, status, task)
    if isinstance(fact, PullRequestSeen):
        return _reviewed(fact, status, task, desired)
    if not is_about(fact, status):
        return None
    if isinstance(fact, RunSeen | RunQueued):
        return _started(fact, status, hosts) if isinstance(fact, RunSeen) else _queued(fact, status)
    return _ended(fact, status, task, desired, now)


def _ended(
    fact: RunEnded, status: Status, task: Task | None, desired: Desired, now: datetime
) -> Event | None:
    """Return what the end of a live run leads to, with its tokens priced."""
    run, verdict = status.last_run, fact.report.verdict
    adapter = desired.adapters.get(run.adapter or "")
    opinion = _reckoned(fact.report.opinion, desired)
    own = verdict.usage - fact.report.opinion.usage if fact.report.opinion else verdict.usage
    usage = reckon(own, adapter, (verdict.model, run.model), desired.prices)
    usage += opinion.usage if opinion else Usage()
    changes = {"verdict": verdict.model_copy(update={"usage": usage}), "opinion": opinion}
    report = fact.report.model_copy(update=changes)
    account = run_account(run, desired)
    event = next_event(task, status, replace(fact, report=report), now, desired.fleet, account=account)
    if event is None:
        return None
    if lacks := unpriced_reason(usage, verdict.model or run.model):
        event = replace(
            event, origin=replace(event.origin, reason=one_line(f"{event.origin.reason}; {lacks}"))
        )
    return attribute(desired, event)


def _reckoned(opinion: Opinion | None, desired: Desired) -> Opinion | None:
    """Return a second opinion with its tokens priced, by its own model."""
    if opinion is None:
        return None
    adapter = desired.adapters.get(opinion.adapter)
    usage = reckon(opinion.usage, adapter, (None, opinion.model), desired.prices)
    return opinion.model_copy(update={"usage": usage})


def is_about(fact: RunFact, status: Status) -> bool:
    """Return whether a fact is about the round that is under way."""
    run = status.live_run
    return run is not None and run.round_key == (fact.run, fact.round)


def _of_branch(
    fact: MergeSeen | BranchSeen | VariantDelivered | VariantClosed, status: Status, task: Task | None
) -> Event | None:
    if isinstance(fact, VariantDelivered):
        return _taken(fact, status, task)
    if isinstance(fact, VariantClosed):
        return _closed(fact, status, task)
    return _merged(fact, status) if isinstance(fact, MergeSeen) else _pushed(fact, status)


def _merged(fact: MergeSeen, status: Status) -> Event | None:
    if status.phase is not Phase.REVIEW_PENDING or status.head_commit != fact.head:
        return None
    if fact.landed:
        origin = Origin(
            fact.at, f"the merge queue brought it to {fact.base} with {fact.landed[:10]}", cause="clock"
        )
    else:
        origin = Origin(fact.at, f"merged into {fact.base}", cause="person")
    return Completed(task=fact.task, origin=origin, landed=fact.landed or None)


def _taken(fact: VariantDelivered, status: Status, task: Task | None) -> Event | None:
    """Return that the task goes on with the work of its chosen variant, if that is still the chosen one."""
    choice = status.choice
    if task is None or choice is None or choice.is_taken or status.phase is not Phase.CREATED:
        return None
    if choice.variant != fact.variant:
        return None
    reason = f"the work of {fact.variant} is on {task.branch}, chosen by {choice.by}: {choice.reason}"
    return VariantTaken(
        task=fact.task,
        origin=Origin(fact.at, one_line(reason)),
        head=fact.head,
        branch=task.branch,
        title=task.pr_title or task.headline,
        chosen=fact.chosen,
    )


def _closed(fact: VariantClosed, status: Status, task: Task | None) -> Event | None:
    """Return how a variant ends whose branch is gone: completed if it was chosen, else cancelled."""
    if status.phase is not Phase.REVIEW_PENDING:
        return None
    choice = fact.choice
    if choice.variant == fact.task:
        return Completed(
            task=fact.task, origin=Origin(fact.at, one_line(f"chosen by {choice.by}: {choice.reason}"))
        )
    return Cancelled(task=fact.task, origin=Origin(fact.at, not_chosen(choice)), spec=task)


def _reviewed(fact: PullRequestSeen, status: Status, task: Task | None, desired: Desired) -> Event | None:
    repo = desired.repos.get(task.repo or "") if task else None
    if task is None or repo is None:
        return None
    rules = desired.fleet.issues
    return follow(
        task,
        status,
        fact.pull,
        repo,
        fact.at,
        bot=fact.bot,
        allowed=rules.authors if rules else (),
        delivery=fact.delivery,
    )


def _pushed(fact: BranchSeen, status: Status) -> Event | None:
    """Return the sign of life in a push; none in what we delivered, or if the work is over."""
    is_over = status.removed or status.phase in {Phase.COMPLETED, Phase.CANCELLED}
    is_old = fact.at <= max(status.since, status.last_activity_at or status.since)
    if is_over or is_old or fact.head == status.head_commit:
        return None
    reason = f"{fact.head[:8]} was pushed to {fact.branch}"
    return BranchPushed(task=fact.task, origin=Origin(fact.at, reason, "webhook", delivery=fact.delivery))


def _started(fact: RunSeen, status: Status, hosts: Mapping[str, HostStatus]) -> Event | None:
    if status.phase is not Phase.ASSIGNED and fact.prompt_sha256 in {None, status.prompt_sha256}:
        return None
    host, adapter = hosts.get(status.assigned_host or ""), status.last_run.adapter or ""
    cli = host.adapters.get(adapter) if host else None
    return Started(
        task=fact.task,
        origin=Origin(fact.at, f"the agent of round {fact.round} was seen alive", cause="host"),
        run=fact.run,
        prompt_sha256=fact.prompt_sha256,
        adapter_blob=fact.adapter_blob,
        cli_version=cli.version if cli else None,
        program_version=__version__,
    )


def _queued(fact: RunQueued, status: Status) -> Event | None:
    """Return what a run waits for in a queue, or that it does not any more; None if that is on record."""
    before = status.waiting if status.waiting and status.waiting.reason is Reason.QUEUE else None
    if fact.message == (before.message if before else ""):
        return None
    after = Waiting(reason=Reason.QUEUE, message=fact.message, since=fact.at) if fact.message else None
    reason = fact.message or "waits in no queue any more"
    return WaitingChanged(task=fact.task, origin=Origin(fact.at, reason, cause="host"), waiting=after)


# --- Hosts -----------------------------------------------------------------


@dataclass(slots=True)
class HostObservation:
    """Result of judging facts about hosts."""

    hosts: dict[str, HostStatus]
    changes: list[HostChange] = field(default_factory=list)
    """Changes to be recorded."""
    recovered: list[str] = field(default_factory=list)
    """Hosts that start runs again: their recorded status is out of date."""


@dataclass(frozen=True, slots=True)
class HostObserver:
    """Judges facts about hosts, each host on its own."""

    cache: FleetCache
    breakers: Breakers
    settings: ControllerSettings

    def observe(self, facts: Iterable[Fact], now: datetime) -> HostObservation:
        """Return the statuses of the hosts after these facts, and the changes."""
        observation = HostObservation(dict(self.cache.hosts))
        self.breakers.forget(self.cache.desired.hosts)
        # Starts come before probes: one that finds nothing wrong does not clear a host of
        # the start that failed beside it. What the specs no longer have goes last: news
        # of such a host would bring its file back.
        for fact in sorted(facts, key=lambda fact: isinstance(fact, HostSeen)):
            try:
                self._take(fact, observation, now)
            except Exception:
                log.exception("%s: its observation of a host is ignored", _about(fact))
        for change in self.breakers.changes(observation.hosts, now):
            self._add(change, observation)
        if self.cache.desired.revision:
            gone = self.cache.hosts.keys() - self.cache.desired.hosts
            observation.changes += [host_removal(name, observation.hosts.pop(name), now) for name in gone]
        return observation

    def _take(self, fact: Fact, observation: HostObservation, now: datetime) -> None:
        if isinstance(fact, RunSeen | RunEnded):
            host = self.breakers.note(fact, self.cache.statuses.get(fact.task), now)
            observation.recovered += [host] if host else []
        elif isinstance(fact, HostSeen) and fact.host in self.cache.desired.hosts:
            before = observation.hosts.get(fact.host)
            change = host_change(fact.host, before, self.breakers.seen(fact, before), fact.at)
            if change is not None:
                self._add(change, observation)

    def _add(self, change: HostChange, observation: HostObservation) -> None:
        if change.after is not None:
            observation.hosts[change.host] = change.after
        if self.settings.records(change.before):
            observation.changes.append(change)


# --- Accounts --------------------------------------------------------------


@dataclass(slots=True)
class AccountObservation:
    """Result of judging facts about accounts."""

    accounts: dict[str, AccountStatus]
    changes: list[AccountChange] = field(default_factory=list)


def observe_accounts(cache: FleetCache, facts: Iterable[Fact], now: datetime) -> AccountObservation:
    """Return the accounts at their limits after these facts and today's specs, and the changes."""
    observation = AccountObservation(dict(cache.accounts))
    if cache.desired.revision and cache.accounts:
        _take_all(after_specs(cache.accounts, cache.desired, now), observation)
    for fact in facts:
        if isinstance(fact, RunEnded):
            try:
                _take_end(fact, cache, observation)
            except Exception:
                log.exception("task %s: what its run says of an account is ignored", fact.task)
    return observation


def _take_end(fact: RunEnded, cache: FleetCache, observation: AccountObservation) -> None:
    status = cache.statuses.get(fact.task)
    if status is None or not is_about(fact, status):
        return
    for its_status, ended in account_rounds(status, fact):
        account = run_account(its_status.last_run, cache.desired)
        if account is not None:
            before = observation.accounts.get(account)
            failing = cache.failing[account] = count_failing(cache.failing.get(account, frozenset()), ended)
            change = after_round(before, account, its_status, ended, cache.desired, failing=failing)
            _take_all([change] if change else [], observation)


def _take_all(changes: Iterable[AccountChange], observation: AccountObservation) -> None:
    for change in changes:
        observation.changes.append(change)
        if change.after is None:
            observation.accounts.pop(change.account, None)
        else:
            observation.accounts[change.account] = change.after


def _about(fact: Fact) -> str:
    return f"host {fact.host}" if isinstance(fact, HostSeen) else f"task {fact.task}"
