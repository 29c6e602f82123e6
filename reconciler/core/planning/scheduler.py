"""
Scheduler: which tasks run next and where, and what all the others wait for.
"""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime

from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import DesiredState, ExecutionMode, Task
from reconciler.core.model.status import LeaseRequest, Phase, Reason, Status
from reconciler.core.planning.accounts import AccountPool
from reconciler.core.planning.backlog import Backlog, Lane, LaneQueue, RecordedWait, Turn, recorded_wait, turn
from reconciler.core.planning.campaigns import CampaignCounts, campaign_wait
from reconciler.core.planning.context import PlanContext, Wait
from reconciler.core.planning.limits import (
    FLEET_GROUP,
    LimitGroup,
    budget_scopes,
    full_group,
    groups,
    live_groups,
    next_midnight,
    reviewer_scopes,
    spent_today,
)
from reconciler.core.planning.placement import (
    UNASKED,
    Placement,
    home_host,
    patience_end,
    place,
    slots_in_use,
)
from reconciler.core.planning.schedule import JUMP, format_in, next_opening
from reconciler.core.planning.variants import choice_wait
from reconciler.core.runs.accounts import fallback_task, is_run_of, run_account
from reconciler.core.runs.leases import LeaseQueue, held_now
from reconciler.core.runs.start_point import is_delivered
from reconciler.core.times import format_time
from reconciler.core.variants import as_run

MOST_HOSTS = 5
"""How many hosts a waiting message names."""


@dataclass(slots=True)
class Schedule:
    """What became of the tasks that want to run."""

    starts: dict[str, Placement] = field(default_factory=dict)
    """Those that may, with their hosts, in order."""
    handouts: dict[str, LeaseRequest] = field(default_factory=dict)
    """Those of `starts` that an outside agent gets."""
    waits: dict[str, Wait] = field(default_factory=dict)
    """Of the others; of those in the backlog, only where their statuses say something else."""
    blocked: dict[str, Wait] = field(default_factory=dict)
    """Those of `waits` that no slot would help."""
    ready: dict[str, tuple[Lane, Turn]] = field(default_factory=dict)
    """The others that were looked at, started or not, and where each stood."""
    placements: dict[str, Placement] = field(default_factory=dict)
    """Of all that only a place was missing for, the backlog apart."""
    times: list[datetime] = field(default_factory=list)
    """When a wait of a whole lane ends by itself."""


@dataclass(slots=True)
class _Line:
    """The tasks of a lane while slots are given out."""

    lane: Lane
    rest: Iterator[Turn]
    head: Turn | None = None
    """The first that has no slot."""
    wait: Wait | None = None
    """What it waits for, and all behind it."""
    placement: Placement | None = None
    keeps_message: bool = False
    """Whether those keep their message that wait for the same reason already."""

    def __post_init__(self) -> None:
        self.advance()

    def advance(self) -> None:
        """Go on to the next."""
        self.head, self.wait, self.placement = next(self.rest, None), None, None

    def wait_of(self, before: RecordedWait) -> Wait:
        """Return what a task waits for that is left, and whose status says `before`. Raises LookupError."""
        if self.wait is None:
            raise LookupError(f"nobody waits in lane {self.lane}")
        if self.keeps_message and before and before[0] is self.wait.reason:
            return self.wait._replace(message=before[1])
        return self.wait


def schedule(context: PlanContext, backlog: Backlog) -> Schedule:
    """
    Give out the free slots: highest priority first, then the repo with the fewest live runs, then oldest.

    Of each lane only the first is tried, and the next once that one has started.
    `backlog` has more tasks than those of the context: some that nothing but a
    slot is missing for, and some that have theirs.

    Once more after something started, so that whoever waits does so for what is
    in the way then: the next plan will find it there.
    """
    queue = Schedule()
    ready, parked = _ready(context, queue), backlog.lanes
    lines = [_line(context, lane, ready.get(lane, ()), parked.get(lane)) for lane in {**ready, **parked}]
    slots, open_lines = _SlotPool(context, backlog), [line for line in lines if line.wait is None]
    while slots.give_out(open_lines, queue):
        pass
    queue.times += slots.accounts.times()
    for line in lines:
        if line.wait is not None:
            _tell(context, line, ready.get(line.lane, ()), queue)
            _tell_parked(context, line, parked.get(line.lane), queue)
    return queue


def _line(context: PlanContext, lane: Lane, ready: Iterable[Turn], parked: LaneQueue | None) -> _Line:
    """Return the line of a lane, closed if nothing of it may run now."""
    beside = (each for each in parked.turns if each[2] not in context.names) if parked else ()
    line = _Line(lane, heapq.merge(sorted(ready), beside))
    _close(context, line)
    return line


def _ready(context: PlanContext, queue: Schedule) -> Mapping[Lane, Sequence[Turn]]:
    """Return the tasks that want to run and only lack a slot; the others are told what they wait for."""
    ready, lanes = defaultdict[Lane, list[Turn]](list), dict[Lane, Lane]()
    for name, status in context.statuses.items():
        spec = context.spec(name)
        if name not in context.names or status.phase is not Phase.CREATED or spec is None:
            continue
        if wait := next(_blockers(context, spec, status), None):
            queue.waits[name] = queue.blocked[name] = wait
        else:
            lane = Lane.of(as_run(spec, status), status)
            lane = lanes.setdefault(lane, lane)  # one for all that are in it
            queue.ready[name] = lane, turn(spec, status)
            ready[lane].append(queue.ready[name][1])
    return ready


def _tell(context: PlanContext, line: _Line, ready: Iterable[Turn], queue: Schedule) -> None:
    """Tell those who were looked at, and have no slot, what they wait for."""
    left = [name for *_, name in ready if name not in queue.starts]
    queue.waits |= {name: line.wait_of(recorded_wait(context.statuses[name])) for name in left}
    if line.placement:
        queue.placements |= dict.fromkeys(left, line.placement)


def _tell_parked(context: PlanContext, line: _Line, parked: LaneQueue | None, queue: Schedule) -> None:
    """Tell those in the backlog what they wait for whose statuses say something else."""
    if line.wait is not None and line.wait.until is not None:
        queue.times.append(line.wait.until)
    for before, names in parked.by_wait.items() if parked else ():
        wait = line.wait_of(before)
        if (wait.reason, wait.message) != before:
            queue.waits |= dict.fromkeys(names - queue.starts.keys() - context.names, wait)


# --- Whatever hosts there are ----------------------------------------------


def _blockers(context: PlanContext, spec: Task, status: Status) -> Iterator[Wait]:
    """Yield what keeps a task from running wherever there is a place; what a person decides first."""
    if spec.desired is DesiredState.SUSPENDED:
        yield Wait(Reason.SUSPENDED, "suspended in the spec")
    if spec.held and not status.question:
        yield Wait(Reason.PERSON, f"a person has it: `reconciler release {spec.name}` gives it back")
    if status.question:
        yield Wait(Reason.PERSON, status.question.line, default_due(spec, status))
    if wait := choice_wait(context, spec, status):
        yield wait
    open_ends = [end for name in spec.depends_on if (end := _open_end(context, name))]
    if spec.start_from and spec.start_from not in spec.depends_on:
        open_ends += [end for end in [_undelivered(context, spec.start_from)] if end]
    if open_ends:
        yield Wait(Reason.DEPENDENCY, f"waits for {', '.join(open_ends)}")
    yield from _times(context, spec, status)


def _close(context: PlanContext, line: _Line) -> None:
    """Close a lane in which nothing may run now, whatever hosts there are."""
    lane, observed = line.lane, context.observed
    is_pulled = lane.execution_mode is ExecutionMode.HTTP_PULL
    paying = (
        *budget_scopes(None if is_pulled else lane.adapter, lane.repo),
        *reviewer_scopes(lane.review_by),
    )
    if wait := campaign_wait(context, lane.campaign, is_pilot=lane.is_pilot):
        line.wait = wait
    elif message := spent_today(context.desired, observed.spent, *paying):
        line.wait = _tomorrow(context, message)
    # Before any slot: a repo that does not answer must not hold what others could use.
    elif not is_pulled and lane.repo and lane.repo in observed.unready:
        why = observed.unready[lane.repo]
        # Not asked yet: what was said stays if a restart forgot its answer.
        line.wait = Wait(Reason.REPO, why or f"waits for the first answer of repo {lane.repo}")
        line.keeps_message = not why


def default_due(spec: Task, status: Status) -> datetime | None:
    """Return when the question of a task is answered by default; None: never, or there is none."""
    question = status.question
    return question.asked_at + spec.ask.after if question and spec.ask and not spec.held else None


def _open_end(context: PlanContext, name: str) -> str | None:
    """Return the dependency in words if it is not completed; a settled one says how it ended."""
    status = context.status(name)
    if status is None or not status.phase.is_settled:
        return name
    return None if status.phase is Phase.COMPLETED else f"{name} ({status.phase})"


def _undelivered(context: PlanContext, name: str) -> str | None:
    """Return the task whose branch is to be begun on in words, if that is not there yet."""
    return None if is_delivered(context.status(name)) else _open_end(context, name)


def _times(context: PlanContext, spec: Task, status: Status) -> Iterator[Wait]:
    """Yield the times that have to come first."""
    now = context.now
    if spec.not_before and spec.not_before > now:
        message = f"not before {format_in(spec.not_before, spec.timezone)}"
        yield Wait(Reason.NOT_BEFORE, message, spec.not_before)
    if spec.schedule is not None and (status.due_at is None or status.due_at > now):
        yield due(spec, status, now)
    # What was put on record by a clock that was ahead is not waited for until that comes true.
    if status.not_before and status.not_before > now and status.since - now <= JUMP:
        is_quota = status.failure is not None and status.failure.kind is FailureClass.QUOTA
        message = f"next attempt not before {format_time(status.not_before)}"
        yield Wait(Reason.QUOTA if is_quota else Reason.BACKOFF, message, status.not_before)


def due(spec: Task, status: Status, now: datetime) -> Wait:
    """Return the wait for the next due time of a schedule."""
    if status.due_at is None or status.due_at <= now:
        return Wait(Reason.SCHEDULE, "its schedule has no more due times")
    return Wait(Reason.SCHEDULE, f"due {format_in(status.due_at, spec.timezone)}", status.due_at)


def _tomorrow(context: PlanContext, message: str) -> Wait:
    until = next_midnight(context.now)
    return Wait(Reason.BUDGET, f"{message}; new runs start {format_time(until)}", until)


# --- Slots -----------------------------------------------------------------


_Kind = tuple[Hashable, ...]
"""What feasible hosts depend on: accounts, repo, labels, slots, reviewer, the host that has the workspace."""


class _SlotPool:
    """The free slots of the fleet while they are given out."""

    def __init__(self, context: PlanContext, backlog: Backlog) -> None:
        self._context = context
        resting, self._fits = backlog.resting.beside(context.statuses), backlog.fits
        self._observed = context.observed
        self._close_half_open(
            {s.assigned_host for s in context.statuses.values() if s.phase is Phase.ASSIGNED}
        )
        self._used = slots_in_use(context.statuses, context.observed) + resting.slots
        self._running = Counter(_live_groups(context)) + resting.groups
        self._by_repo = Counter[str | None](
            {name: count for (kind, name), count in self._running.items() if kind == "repo"}
        )
        self._by_repo[None] = self._running[FLEET_GROUP] - sum(self._by_repo.values())
        theirs = itertools.chain(context.statuses.values(), resting.statuses)
        self.accounts = AccountPool(context.desired, context.observed, theirs, context.now)
        held = held_now(context.statuses.values()) + resting.held
        self._lease_queue = LeaseQueue(context.desired, context.observed.lease_requests, held)
        self._kept: dict[str, str] = {}
        """Hosts whose free slots are kept for a task that takes several."""
        self._has_hosts_of_repos = any(host.repos is not None for host in context.desired.hosts.values())
        self._begun = CampaignCounts(context)
        self._refused: dict[_Kind, Placement] = {}
        self._keeping: set[_Kind] = set()

    def give_out(self, lines: Sequence[_Line], queue: Schedule) -> bool:
        """Give slots to those that can have them, in order; return whether any could."""
        before = len(queue.starts)
        self._kept, self._refused, self._keeping = {}, {}, set()
        heads = [(self._rank(line.lane, line.head), place) for place, line in enumerate(lines) if line.head]
        heapq.heapify(heads)
        while heads:
            rank, place = heapq.heappop(heads)
            line = lines[place]
            is_its_turn = line.head is not None and rank == self._rank(line.lane, line.head)
            if is_its_turn and not self._take(rank[-1], line, queue):
                continue
            if is_its_turn:
                line.advance()
            if line.head:  # else others of its repo have started meanwhile, and its turn is later
                heapq.heappush(heads, (self._rank(line.lane, line.head), place))
        return len(queue.starts) > before

    def _rank(self, lane: Lane, head: Turn) -> tuple[int, int, datetime, str]:
        """Return whose turn it is: however much is asked for in one repo, it keeps no other waiting."""
        priority, created_at, name = head
        return priority, self._by_repo[lane.repo], created_at, name

    def _take(self, name: str, line: _Line, queue: Schedule) -> bool:
        """Give the task its slots; return whether it has them. If not, the line says what it waits for."""
        status = self._context.statuses.get(name) or self._context.observed.statuses[name]
        spec = as_run(self._context.desired.tasks[name], status)
        line.wait, line.placement = self._try(spec, status, queue)
        if line.wait is None:
            queue.starts[name] = line.placement or Placement()
            if line.placement:
                queue.placements[name] = line.placement
            self._running.update(groups(_as_placed(spec, line.placement)))
            self._by_repo[line.lane.repo] += 1
            self._begun.add(spec, status)
        return line.wait is None

    def _try(self, spec: Task, status: Status, queue: Schedule) -> tuple[Wait | None, Placement | None]:
        """Return what a task waits for, if it does, and its place."""
        if message := self._begun.full(spec, status):
            return Wait(Reason.WIDTH, message), None
        if message := full_group(self._context.desired, spec, self._running):
            return Wait(Reason.SLOT, message), None
        opening = next_opening(spec.window, spec.timezone, self._context.now) if spec.window else None
        if spec.execution_mode is ExecutionMode.HTTP_PULL:
            return self._lease_out(spec, status, queue, opening), None
        spec, placement = self._place_or_fall_back(spec, status, is_ready=opening is None)
        # Asked of those that have a place: what has none says so by day and by night.
        if placement.chosen and opening:
            return Wait(Reason.WINDOW, f"its window opens {format_in(opening, spec.timezone)}", opening), None
        if placement.chosen is None:
            return self._placement_wait(spec, status, placement), placement
        self._close_half_open({placement.chosen})
        self._used[placement.chosen] += spec.slots
        return None, self._with_account(spec, status, placement)

    def _place_or_fall_back(self, spec: Task, status: Status, *, is_ready: bool) -> tuple[Task, Placement]:
        """Place the task, as it is or as its `fallback` has it; return it as it is to run."""
        other = fallback_task(spec)
        if other and status.interrupted_run and is_run_of(status.interrupted_run, other):
            placement = self._place(other, status, is_ready=is_ready, model=_other_model(spec, other))
            if placement.chosen and self._home(other, status):
                return other, replace(placement, fallback="it goes on with what it began with")
        first = self._place(spec, status, is_ready=is_ready)
        if first.chosen or first.full or not first.unserved or other is None or self._home(spec, status):
            return spec, first
        wait = self.accounts.wait(spec, first.unserved)
        if wait.reason is Reason.SLOT or full_group(self._context.desired, other, self._running):
            return spec, first  # who is only busy is waited for
        second = self._place(other, status, is_ready=is_ready, model=_other_model(spec, other))
        return (other, replace(second, fallback=wait.message)) if second.chosen else (spec, first)

    def _with_account(self, spec: Task, status: Status, placement: Placement) -> Placement:
        """Return the place with the account that the run gets there."""
        host, home = placement.chosen or "", self._home(spec, status)
        only = run_account(status.last_run, self._context.desired) if home else None
        whole = as_run(self._context.desired.tasks[spec.name], status)
        model = _other_model(whole, spec) if placement.fallback else None
        account = self.accounts.choose(spec, host, status, only=only, model=model)
        return replace(placement, account=account)

    def _close_half_open(self, hosts: AbstractSet[str | None]) -> None:
        """Give no more to hosts that are tried with one run: others wait as if they were broken still."""
        if not self._observed.half_open.isdisjoint(hosts):
            self._observed = replace(self._observed, half_open=self._observed.half_open - hosts)

    def _lease_out(
        self, spec: Task, status: Status, queue: Schedule, opening: datetime | None
    ) -> Wait | None:
        """Give the task to an agent that waits for one; or return what it waits for."""
        if spec.validate_on and spec.validate_on not in self._context.desired.hosts:
            return Wait(Reason.HOST, f"`validate_on`: there is no host {spec.validate_on}")
        asker = self._asker(status)
        lease_request = None if opening else self._lease_queue.take(spec, only=asker)
        if lease_request is None and asker:
            until = patience_end(status, self._context.desired)
            message = f"waits for agent {asker}, which asked; from {format_time(until)} on for any that fits"
            return Wait(Reason.AGENT, message, until)
        if lease_request is None:
            # The same words by day and by night: agents that never come must not make commits.
            return Wait(Reason.AGENT, self._lease_queue.why_none(spec), opening)
        queue.handouts[spec.name] = lease_request
        return None

    def _asker(self, status: Status) -> str | None:
        """Return the agent that an answered task is kept for, because it has the session; None: for any."""
        agent = self._context.desired.agents.get(status.assigned_agent or "")
        if agent is None or agent.desired != "active" or status.interrupted_run is None:
            return None
        return agent.name if self._context.now < patience_end(status, self._context.desired) else None

    def _place(self, spec: Task, status: Status, *, is_ready: bool, model: str | None = None) -> Placement:
        """Place the task; once its kind was refused, nothing behind it in the queue has a chance."""
        home = self._home(spec, status)
        # Each refusal is a look at every host: repos that no host minds share one.
        repo = spec.repo if self._has_hosts_of_repos else None
        account = run_account(status.last_run, self._context.desired) if home else None
        paid = spec.adapter, spec.accounts, account, model
        refused: _Kind = paid, repo, spec.requires, spec.slots, spec.review_by, home
        placement = self._refused.get(refused)
        if placement is None:
            desired = self._context.desired
            placement = place(
                spec,
                status,
                desired,
                self._observed,
                self._used,
                kept=self._kept,
                only=home,
                accounts=self.accounts,
                account=account,
                model=model,
                fits=self._fits,
            )
        if placement.chosen is None:
            self._refused[refused] = placement
            kind: _Kind = paid, spec.repo, spec.requires, spec.slots, spec.review_by, home
            if is_ready and spec.slots > 1 and kind not in self._keeping:
                self._keeping.add(kind)
                self._keep(spec, placement)
        return placement

    def _home(self, spec: Task, status: Status) -> str | None:
        """Return the host that an answered task goes back to, if it can have its account there in time."""
        desired, now = self._context.desired, self._context.now
        home = home_host(spec, status, desired, self._observed, now)
        if home is None:
            return None
        account, names = run_account(status.last_run, desired), self.accounts.names(spec, home)
        is_there = account in names if names is not None else account is None
        is_free = now < patience_end(status, desired) or self.accounts.can_have(spec, home, only=account)
        return home if is_there and is_free else None

    def _keep(self, spec: Task, placement: Placement) -> None:
        """
        Keep the slots that are free on the best host for a task that takes several.

        Otherwise smaller ones behind it took each slot as it comes free, and it
        would never start. The best host is the one that lacks the fewest. One
        is kept for each kind of task: to keep more would leave more idle.
        """
        hosts = self._context.desired.hosts
        able = [host for host in placement.full if host not in self._kept]
        if able:
            best = min(able, key=lambda host: (self._used[host] - hosts[host].slots, host))
            self._kept[best] = spec.name

    def _account_wait(self, spec: Task, status: Status, placement: Placement) -> Wait:
        """Return the wait for an account; an answered task waits for its own until others will do."""
        if not self._home(spec, status):
            return self.accounts.wait(spec, placement.unserved)
        only = run_account(status.last_run, self._context.desired)
        wait = self.accounts.wait(spec, placement.unserved, only=only)
        patience = patience_end(status, self._context.desired)
        is_patient = patience > self._context.now
        return wait._replace(until=min(wait.until or patience, patience)) if is_patient else wait

    def _placement_wait(self, spec: Task, status: Status, placement: Placement) -> Wait:
        """
        Return the wait for a slot, for tomorrow or for a host.

        Many tasks may wait the same wait, and other words are a commit for
        each: hosts that come and go one by one must not change them.
        """
        if placement.full:
            needed = "no free slot" if spec.slots == 1 else f"no {spec.slots} free slots"
            return Wait(Reason.SLOT, f"{needed} on any host that fits")
        if placement.unserved:
            return self._account_wait(spec, status, placement)
        if placement.spent:
            message = f"the daily budget is spent of {_listed(placement.spent, ', ')}"
            return _tomorrow(self._context, message)
        if UNASKED in placement.rejected.values():
            return Wait(Reason.HOST, "waits for the first answer of a host that may fit")
        if home := self._home(spec, status):
            until = patience_end(status, self._context.desired)
            why = f"host {home}, which has its workspace, {placement.rejected[home]}"
            return Wait(Reason.HOST, f"{why}; any that fits will do from {format_time(until)} on", until)
        why_not = [f"{host} {why}" for host, why in sorted(placement.rejected.items())]
        return Wait(Reason.HOST, f"no host fits: {_listed(why_not, '; ') or 'there is none'}")


def _other_model(task: Task, other: Task) -> str | None:
    """Return the model of a fallback that may be tried with an account whose limit another model met."""
    return (other.model or "") if other.adapter == task.adapter else None


def _as_placed(spec: Task, placement: Placement | None) -> Task:
    """Return the task as it is to run: as its `fallback` has it, or as it is."""
    return (fallback_task(spec) if placement and placement.fallback else None) or spec


def _live_groups(context: PlanContext) -> Iterator[LimitGroup]:
    for name, status in context.statuses.items():
        if (run := status.live_run) and not status.waits_for_delivery:
            yield from live_groups(run, context.desired.tasks.get(name))


def _listed(items: Sequence[str], separator: str) -> str:
    more = [f"{len(items) - MOST_HOSTS} more"] if len(items) > MOST_HOSTS else []
    return separator.join([*items[:MOST_HOSTS], *more])
