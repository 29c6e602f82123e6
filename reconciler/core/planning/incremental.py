"""
Incremental plan: looks at what changed, what is live, what is due and the heads of the queues.

It finds what `plan` would after a look at everything, at a cost that does not
grow with the number of tasks that wait.
"""

from collections.abc import Iterable
from datetime import datetime

from reconciler.core.lifecycle import old_name
from reconciler.core.model.specs import Desired, ExecutionMode, Task
from reconciler.core.model.status import Observed, Phase, Status
from reconciler.core.planning.backlog import Backlog, Parked, recorded_wait
from reconciler.core.planning.liveness import deadline_end
from reconciler.core.planning.plan import PartialPlan, Plan, is_known, needs_attention, plan, plan_some
from reconciler.core.planning.resting import may_rest
from reconciler.core.planning.schedule import JUMP
from reconciler.core.variants import family


class Planner:
    """
    Incremental twin of `plan`, told which tasks have changed.

    Whoever has it says so by `notice`, for each change of a task's spec or
    status, those that are observed but not on record yet included. All other
    input is compared by itself, or looked at anew each time.
    """

    def __init__(self) -> None:
        self._backlog = Backlog()
        self._awake = set[str]()
        """Tasks to look at: what changed, what is live, and whatever else does not only wait."""
        self._now: datetime | None = None
        self.has_offers = True
        """Whether an agent that asked might have got a task from the last plan; else it asks in vain."""

    def notice(self, names: Iterable[str]) -> None:
        """Look at these tasks again: their specs or statuses have changed, or may have."""
        names = set(names)
        names |= self._backlog.dependents(names)
        self._backlog.take(names)
        self._awake |= names

    def plan(self, desired: Desired, observed: Observed, now: datetime) -> Plan:
        """
        Return what should be done now.

        Actions, faults and due time are those of `plan`; what tasks wait for is told of those only that
        were looked at: of the others it is what their statuses say.
        """
        if not desired.revision:
            return Plan()
        if self._now is not None and now < self._now:  # somebody set the clock
            self.notice(list(self._backlog.names))
        self._now, self.has_offers = now, True
        self.notice(self._backlog.take_due(now))
        self.notice(self._backlog.resting.roused(desired, observed, now))
        self.notice({*desired.broken, *observed.damaged, *observed.faults})
        self._awake = {name for name in self._awake if is_known(name, desired, observed)}
        try:
            partial = plan_some(desired, observed, now, frozenset(self._awake), self._backlog)
        except Exception:  # noqa: BLE001 - whatever it is, it is met again by a look at everything
            self.notice(list(self._backlog.names))
            return plan(desired, observed, now)
        self._park(partial, desired, observed, now)
        lanes = (*self._backlog.lanes, *(lane for lane, _ in partial.ready.values()))
        self.has_offers = any(lane.execution_mode is ExecutionMode.HTTP_PULL for lane in lanes)
        return partial.plan

    def _park(self, partial: PartialPlan, desired: Desired, observed: Observed, now: datetime) -> None:
        """Put those of the tasks that were looked at and only wait into the backlog."""
        changed = {name for event in partial.plan.events for name in (event.task, old_name(event))}
        busy = {action.task for action in partial.plan.actions}
        idle, parked = set[str](), dict[str, Parked]()
        for name in self._awake - changed:
            spec, status = desired.tasks.get(name), observed.statuses.get(name)
            if name in desired.broken or name in observed.damaged or name in observed.faults:
                continue
            if not needs_attention(spec, status):
                idle.add(name)
            elif spec and status and (place := _parked(spec, status, partial, now)):
                parked[name] = place
            elif (
                spec
                and status
                and name not in busy
                and partial.plan.waiting.get(name) == status.waiting
                and may_rest(spec, status, desired, observed)
            ):
                parked[name] = Parked(True, _others(spec), rests=True)
                self._backlog.resting.put(name, spec, status, observed)
        self._awake -= idle | parked.keys()
        self._backlog.park(parked)


def _parked(spec: Task, status: Status, partial: PartialPlan, now: datetime) -> Parked | None:
    """
    Return the place in the backlog of a task about which there is nothing to record; None if it has none.

    While the clock is behind the one by which its status was recorded, other rules hold, and they
    end by themselves. Answers and deadlines are few, and have times of their own.
    """
    is_out_of_times = spec.schedule is not None and status.due_at is None
    is_asking = status.question is not None or status.interrupted_run is not None
    has_time = is_asking or deadline_end(spec, status) is not None
    if status.removed or is_out_of_times or has_time or status.since - now > JUMP:
        return None
    others, wait = _others(spec), partial.blocked.get(spec.name)
    if status.phase is Phase.CREATED and wait is None:
        lane, turn = partial.ready[spec.name]
        return Parked(True, others, None, lane, turn, recorded_wait(status))
    if status.phase is Phase.CREATED and wait is not None:
        return Parked(True, others, wait.until)
    is_scheduled = status.phase.is_settled and status.due_at is not None and status.due_at > now
    return Parked(False, others, status.due_at) if is_scheduled else None


def _others(spec: Task) -> frozenset[str]:
    """Return the tasks that one builds on."""
    if not spec.depends_on and not spec.start_from and not spec.variants and not spec.variant_of:
        return frozenset()
    return frozenset({*spec.depends_on, *([spec.start_from] if spec.start_from else []), *family(spec)})
