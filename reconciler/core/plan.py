"""
What should be done now, and what everything else waits for.

`plan` compares what the specs ask for with what is observed and returns
actions, each with its reason in words. What goes on record (`Plan.events`) is
complete in one pass: folded into what is observed, it leaves nothing more to
record. So a plan is also its own preview: nothing is done by making one.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime

from reconciler.core.events import (
    Assigned,
    Cancelled,
    Created,
    Escalated,
    Event,
    Removed,
    Renamed,
    Renewed,
    Restored,
    SpecChanged,
    SpecRemoved,
    WaitingChanged,
)
from reconciler.core.fields import format_time
from reconciler.core.lifecycle import fold, transition
from reconciler.core.model import (
    Desired,
    ExecutionMode,
    FailureClass,
    Observed,
    Phase,
    Reason,
    Status,
    Task,
    Waiting,
    Wish,
    run_key,
)
from reconciler.core.placement import Placement, place
from reconciler.core.rounds import overspent

# --- What comes out --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """Put an event on record; nothing is set in motion by it."""

    event: Event

    @property
    def task(self) -> str:
        """The task it is about."""
        return self.event.task

    @property
    def reason(self) -> str:
        """Why, in words."""
        return self.event.reason


@dataclass(frozen=True, slots=True)
class Start:
    """Put a new run on record; once it is there, the next plan says `Follow`."""

    event: Assigned
    placement: Placement

    @property
    def task(self) -> str:
        """The task it is about."""
        return self.event.task

    @property
    def reason(self) -> str:
        """Why there, in words."""
        return self.event.reason


@dataclass(frozen=True, slots=True)
class Follow:
    """Carry out a round that is on record, or take it up where it stands."""

    task: str
    run: str
    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End a live run that no spec asks for; said again until its end is on record."""

    task: str
    run: str
    round: int
    reason: str


Action = Record | Start | Follow | Stop


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in order, and what everything else waits for."""

    actions: tuple[Action, ...] = ()
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    """What each task waits for, by name."""
    placements: Mapping[str, Placement] = field(default_factory=dict)
    """Of the tasks that only a place was missing for, by name."""
    due: datetime | None = None
    """When something may change by itself."""

    @property
    def events(self) -> tuple[Event, ...]:
        """Return what goes on record before anything is set in motion."""
        return tuple(action.event for action in self.actions if isinstance(action, Record | Start))


# --- The plan --------------------------------------------------------------


def plan(desired: Desired, observed: Observed, now: datetime, among: Collection[str] | None = None) -> Plan:
    """
    Return what should be done now.

    `among` are the names to look at: all that need attention, or more; every
    name if None. Before the specs were read for the first time nothing is done.
    """
    if not desired.revision:
        return Plan()
    names = _every_name(desired, observed) if among is None else {*among, *desired.broken}
    statuses: Mapping[str, Status] = {n: observed.statuses[n] for n in names if n in observed.statuses}
    renames = tuple(_renames(desired, statuses, names, now))
    statuses, _ = fold(statuses, renames)
    held = _held(desired, statuses)
    changes = tuple(_spec_changes(desired, statuses, names - held, now))
    statuses, _ = fold(statuses, changes)
    scene = _Scene(desired, observed, now, names, statuses, held)
    queue = _queue(scene)
    waiting = {**_standing(scene), **queue.waiting}
    told = {*queue.starts, *(event.task for event in changes if isinstance(event, Created))}
    return Plan(
        actions=(
            *(Record(_with_waiting(event, waiting)) for event in (*renames, *changes)),
            *(Record(event) for event in _waiting_changes(scene, waiting, told)),
            *_stops(scene),
            *_follows(scene),
            *queue.starts.values(),
        ),
        waiting=waiting,
        placements=queue.placements,
        due=queue.due,
    )


def attention(desired: Desired, observed: Observed) -> frozenset[str]:
    """Return the names that `plan` has to look at; it finds nothing to do for the others."""
    return frozenset(
        name
        for name in _every_name(desired, observed)
        if name in desired.broken or needs_attention(desired.tasks.get(name), observed.statuses.get(name))
    )


def needs_attention(spec: Task | None, status: Status | None) -> bool:
    """Return whether a plan may find something to do for a task: all but what is settled and at rest."""
    if spec is None or status is None:
        return not (spec is None and status is None)
    if status.phase.is_settled and not status.removed and status.waiting is None:
        return _is_asked_again(spec, status) or _is_cancelled_anew(spec, status)
    return True


def prune_digest(names: Iterable[str]) -> str:
    """Return the 8 hex digits by which a person allows the removal of exactly these tasks."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:8]


def _every_name(desired: Desired, observed: Observed) -> AbstractSet[str]:
    return {*desired.tasks, *desired.broken, *observed.statuses}


def _with_waiting(event: Event, waiting: Mapping[str, Waiting]) -> Event:
    """Let a new task say at once what it waits for."""
    return replace(event, waiting=waiting.get(event.task)) if isinstance(event, Created) else event


# --- Removed and renamed specs ---------------------------------------------


def _renames(
    desired: Desired, statuses: Mapping[str, Status], names: AbstractSet[str], now: datetime
) -> Iterator[Renamed]:
    """
    Yield a rename for each status whose spec is gone and whose like has come.

    First the same file elsewhere, then one that asks for the same. Whatever
    fits more than one is no rename: guessing would mix up two tasks.
    """
    gone = {n for n, status in statuses.items() if not status.removed and not _has_spec(desired, n)}
    new = {n for n in names if n in desired.tasks and n not in statuses}
    for identity in ("generation", "work"):
        before = _unambiguous({n: getattr(statuses[n], identity) for n in gone})
        after = _unambiguous({n: getattr(desired.tasks[n], identity) for n in new})
        for shared in sorted(before.keys() & after.keys()):
            old, name = before[shared], after[shared]
            gone.remove(old)
            new.remove(name)
            yield Renamed(task=name, old=old, at=now, reason=f"the spec moved from {old}")


def _has_spec(desired: Desired, name: str) -> bool:
    """Return whether the file is there, be it broken."""
    return name in desired.tasks or name in desired.broken


def _unambiguous(identities: Mapping[str, str]) -> Mapping[str, str]:
    """Return name by identity, for the identities that only one has."""
    counts = Counter(identities.values())
    return {identity: name for name, identity in identities.items() if counts[identity] == 1}


def _held(desired: Desired, statuses: Mapping[str, Status]) -> frozenset[str]:
    """
    Return the tasks whose spec is gone but that a person must allow to remove.

    Once held is held, until the spec is back or the removal allowed: neither
    new tasks nor held ones that settle make it look small, and the digest does
    not change under the eyes of the person who decides.
    """
    present = {n: status for n, status in statuses.items() if not status.removed}
    live = {n for n, status in present.items() if not status.phase.is_settled}
    waits = {n for n, status in present.items() if _awaits_approval(status)}
    gone = frozenset(n for n in live | waits if not _has_spec(desired, n))
    is_much = len(gone) > max(5, len(live | gone) / 5) or live <= gone
    held = gone if is_much else gone & waits
    return held if desired.fleet.prune_approved != prune_digest(held) else frozenset()


def _awaits_approval(status: Status) -> bool:
    return status.waiting is not None and status.waiting.reason is Reason.APPROVAL


# --- What the specs change on record ---------------------------------------


def _spec_changes(
    desired: Desired, statuses: Mapping[str, Status], names: AbstractSet[str], now: datetime
) -> Iterator[Event]:
    """Yield, task by task, every event by which the record catches up with the specs; removals first."""
    for name in sorted(names, key=lambda name: (name in desired.tasks, name)):
        status, spec = statuses.get(name), desired.tasks.get(name)
        if name in desired.broken and (status is not None or spec is None):
            continue  # its last good version stays in force as far as it got
        while (event := _spec_change(name, spec, status, now)) is not None:
            yield event
            status = transition(status, event)


def _spec_change(name: str, spec: Task | None, status: Status | None, now: datetime) -> Event | None:
    """Return the next thing to record so that the status answers the spec; None if it does."""
    if spec is None:
        return None if status is None else _removal(name, status, now)
    if status is None:
        return Created(task=name, at=now, spec=spec, reason="a new spec")
    if status.removed:
        return Restored(task=name, at=now, reason="the spec came back")
    return _answer(name, spec, status, now)


def _answer(name: str, spec: Task, status: Status, now: datetime) -> Event | None:
    if _is_asked_again(spec, status):
        return Renewed(task=name, at=now, spec=spec, reason="asked for again by a new spec")
    if _is_behind(spec, status):
        return SpecChanged(task=name, at=now, spec=spec, reason=f"the spec is {spec.generation[:8]} now")
    if spec.desired is Wish.CANCELLED and status.phase in {Phase.CREATED, Phase.REVIEW_PENDING}:
        return Cancelled(task=name, at=now, reason="cancelled in the spec")
    if status.phase is Phase.CREATED and (spent := overspent(spec.budget, status.usage)):
        return Escalated(task=name, at=now, reason=f"{spent}; raise the budget, then retry")
    return None


def _removal(name: str, status: Status, now: datetime) -> Event | None:
    if not status.removed:
        return SpecRemoved(task=name, at=now, reason="the spec was removed")
    if status.on_delete == "orphan" and status.phase.is_live:
        return Removed(task=name, at=now, reason="removed; its run is let go of (on_delete: orphan)")
    if not status.phase.is_live:
        return Removed(task=name, at=now, reason="removed; nothing of it runs")
    return None


def _is_behind(spec: Task, status: Status) -> bool:
    """Return whether the spec has news for the status, in the phase it is in."""
    if status.phase is Phase.CREATED:
        return (status.generation, status.work) != (spec.generation, spec.work)
    if status.phase.is_settled:
        return _is_cancelled_anew(spec, status)
    return status.on_delete != spec.on_delete


def _is_asked_again(spec: Task, status: Status) -> bool:
    """
    Return whether a settled task should run once more.

    Any edit renews a task that failed or was cancelled: a person has acted.
    What was completed or escalated runs again only for new work.
    """
    if spec.desired is not Wish.ACTIVE or not status.phase.is_settled:
        return False
    if status.phase in {Phase.FAILED, Phase.CANCELLED}:
        return status.generation != spec.generation
    return status.work != spec.work


def _is_cancelled_anew(spec: Task, status: Status) -> bool:
    """
    Return whether a cancelled task should answer a newer spec that cancels it.

    Otherwise reverting that spec would bring back the generation on record, and
    the task would not run again.
    """
    return (
        status.phase is Phase.CANCELLED
        and spec.desired is Wish.CANCELLED
        and status.generation != spec.generation
    )


# --- Live runs -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is decided upon once the record has caught up with the specs."""

    desired: Desired
    observed: Observed
    now: datetime
    names: AbstractSet[str]
    statuses: Mapping[str, Status]
    held: frozenset[str]


def _stops(scene: _Scene) -> Iterator[Stop]:
    """Yield a stop for every live run that no spec asks for."""
    for name, status in _within_reach(scene):
        if why := _why_stop(scene, name, status):
            yield Stop(name, *_round(status), why)


def _follows(scene: _Scene) -> Iterator[Follow]:
    """Yield a follow for every live round that nobody follows, but for those to be stopped."""
    for name, status in _within_reach(scene):
        if _round(status) not in scene.observed.followed and not _why_stop(scene, name, status):
            yield Follow(name, *_round(status), f"round {status.round} of {status.run} is on record")


def _why_stop(scene: _Scene, name: str, status: Status) -> str | None:
    spec = scene.desired.tasks.get(name)
    if status.removed:
        return "the spec was removed" if status.on_delete == "cancel" else None
    if spec is None or name in scene.desired.broken:
        return None
    if spec.desired is not Wish.ACTIVE:
        return f"{spec.desired} in the spec"
    if spec.on_change == "restart" and spec.generation != status.generation:
        return "the spec changed (on_change: restart)"
    return None


def _within_reach(scene: _Scene) -> Iterator[tuple[str, Status]]:
    """Yield the live tasks whose run somebody can be sent to."""
    for name in sorted(scene.statuses):
        status = scene.statuses[name]
        if status.phase.is_live and status.assigned_host in scene.desired.hosts:
            yield name, status


def _round(status: Status) -> tuple[str, int]:
    return status.run or "", status.round  # a live task has a run


# --- What tasks wait for ---------------------------------------------------

Wait = tuple[Reason, str]


def _standing(scene: _Scene) -> Mapping[str, Waiting]:
    """Return what those tasks wait for that no slot would help."""
    waits = {name: wait for name in sorted(scene.names) if (wait := _standing_wait(scene, name))}
    return {name: _waiting(scene, name, wait) for name, wait in waits.items()}


def _standing_wait(scene: _Scene, name: str) -> Wait | None:
    status = scene.statuses.get(name)
    if name in scene.held:
        digest = prune_digest(scene.held)
        return Reason.APPROVAL, (
            "the spec was removed together with many others; put it back, "
            f"or allow the removal with `reconciler approve-prune` ({digest})"
        )
    if name in scene.desired.broken and (status is None or status.phase is Phase.CREATED):
        return Reason.SPEC_ERROR, str(scene.desired.broken[name][0])
    if status is not None and status.phase.is_live and not _has_executor(scene, status):
        return Reason.HOST, f"host {status.assigned_host} of the live run is gone from specs/hosts"
    return None


def _has_executor(scene: _Scene, status: Status) -> bool:
    return status.assigned_host in scene.desired.hosts or status.assigned_host in scene.desired.agents


def _waiting(scene: _Scene, name: str, wait: Wait) -> Waiting:
    """Return the waiting with its time: of old if the reason is not new."""
    reason, message = wait
    status = scene.statuses.get(name)
    before = status.waiting if status else None
    since = before.since if before and before.reason is reason else scene.now
    return Waiting(reason=reason, message=message, since=since)


def _waiting_changes(
    scene: _Scene, waiting: Mapping[str, Waiting], told: Collection[str]
) -> Iterator[WaitingChanged]:
    """Yield a change for every task that waits for another thing than its record says."""
    for name in sorted(scene.statuses.keys() - set(told)):
        before, after = scene.statuses[name].waiting, waiting.get(name)
        if before != after:
            reason = after.message if after else "waits for nothing any more"
            yield WaitingChanged(task=name, at=scene.now, waiting=after, reason=reason)


# --- New runs --------------------------------------------------------------


@dataclass(slots=True)
class _Queue:
    """What became of the tasks that want to run."""

    starts: dict[str, Start] = field(default_factory=dict)
    waiting: dict[str, Waiting] = field(default_factory=dict)
    placements: dict[str, Placement] = field(default_factory=dict)
    due: datetime | None = None


def _queue(scene: _Scene) -> _Queue:
    """Give out the free slots: highest priority first, then oldest, then by name."""
    queue, slots = _Queue(), _Slots(scene)
    for spec, status in _wanting(scene):
        wait = next(_hindrances(scene, spec, status), None) or slots.take(spec, status, queue)
        if wait is not None:
            queue.waiting[spec.name] = _waiting(scene, spec.name, wait)
    queue.due = min(_times(scene, queue.waiting), default=None)
    return queue


def _wanting(scene: _Scene) -> Sequence[tuple[Task, Status]]:
    """Return the tasks that want to run, in the order in which they may."""
    wanting = [
        (scene.desired.tasks[name], status)
        for name, status in scene.statuses.items()
        if status.phase is Phase.CREATED and name in scene.desired.tasks and name not in scene.desired.broken
    ]
    return sorted(wanting, key=lambda pair: (-pair[0].priority, pair[1].created_at, pair[0].name))


def _hindrances(scene: _Scene, spec: Task, status: Status) -> Iterator[Wait]:
    """Yield what keeps a task from running wherever there is a place; what a person decides first."""
    if spec.desired is Wish.SUSPENDED:
        yield Reason.SUSPENDED, "suspended in the spec"
    if open_ends := [end for name in spec.depends_on if (end := _open_end(scene, name))]:
        yield Reason.DEPENDENCY, f"waits for {', '.join(open_ends)}"
    if spec.not_before and spec.not_before > scene.now:
        yield Reason.NOT_BEFORE, f"not before {format_time(spec.not_before)}"
    if status.not_before and status.not_before > scene.now:
        is_quota = status.failure is not None and status.failure.kind is FailureClass.QUOTA
        reason = Reason.QUOTA if is_quota else Reason.BACKOFF
        yield reason, f"next attempt not before {format_time(status.not_before)}"
    if spec.execution_mode is ExecutionMode.HTTP_PULL:
        yield Reason.AGENT, "waits for an agent to take it over HTTP"


def _open_end(scene: _Scene, name: str) -> str | None:
    """Return the dependency in words if it is not completed; a settled one says how it ended."""
    status = (scene.statuses if name in scene.names else scene.observed.statuses).get(name)
    if status is None or not status.phase.is_settled:
        return name
    return None if status.phase is Phase.COMPLETED else f"{name} ({status.phase})"


class _Slots:
    """The free slots of the fleet while they are given out."""

    def __init__(self, scene: _Scene) -> None:
        self._scene = scene
        live = (status for status in scene.statuses.values() if status.phase.is_live)
        self._live = Counter(status.assigned_host or "" for status in live)
        self._refused: dict[tuple[str, Sequence[str]], Placement] = {}

    def take(self, spec: Task, status: Status, queue: _Queue) -> Wait | None:
        """Give the task a slot and a start; or return what it waits for."""
        most = self._scene.desired.fleet.max_running
        if most is not None and self._live.total() >= most:
            return Reason.SLOT, f"the fleet runs as many as it may (max_running: {most})"
        placement = queue.placements[spec.name] = self._place(spec, status)
        if placement.chosen is None:
            return _no_place(placement)
        self._live[placement.chosen] += 1
        queue.starts[spec.name] = _start(self._scene, spec, status, placement)
        return None

    def _place(self, spec: Task, status: Status) -> Placement:
        """Place the task; once its kind was refused, nothing behind it in the queue has a chance."""
        kind = spec.adapter, spec.requires
        placement = self._refused.get(kind)
        if placement is None:
            placement = place(spec, status, self._scene.desired, self._scene.observed, self._live)
            if placement.chosen is None:
                self._refused[kind] = placement
        return placement


def _start(scene: _Scene, spec: Task, status: Status, placement: Placement) -> Start:
    best, attempt = placement.ranked[0], status.attempt + 1
    event = Assigned(
        task=spec.name,
        at=scene.now,
        reason=f"attempt {attempt} on {best.host}: {best.why}",
        run=run_key(spec.name, spec.generation, attempt),
        host=best.host,
        spec=spec,
    )
    return Start(event, placement)


MOST_HOSTS = 5
"""How many hosts a waiting message names."""


def _no_place(placement: Placement) -> Wait:
    """Return the wait for a slot or for a host, in words that change only with the hosts."""
    if placement.full:
        return Reason.SLOT, f"no free slot on {_listed(placement.full, ', ')}"
    why_not = [f"{host} {why}" for host, why in sorted(placement.rejected.items())]
    return Reason.HOST, f"no host fits: {_listed(why_not, '; ') or 'there is none'}"


def _listed(items: Sequence[str], separator: str) -> str:
    more = [f"{len(items) - MOST_HOSTS} more"] if len(items) > MOST_HOSTS else []
    return separator.join([*items[:MOST_HOSTS], *more])


def _times(scene: _Scene, waiting: Mapping[str, Waiting]) -> Iterator[datetime]:
    """Yield when tasks that wait for a time may go on."""
    for name, wait in waiting.items():
        if wait.reason is Reason.NOT_BEFORE and (time := scene.desired.tasks[name].not_before):
            yield time
        if wait.reason in {Reason.BACKOFF, Reason.QUOTA} and (time := scene.statuses[name].not_before):
            yield time
