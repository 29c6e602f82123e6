"""
The page of one task: its goal, why it is where it is, its attempts and record, the origin of each value.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from reconciler.api.pages.actions import task_verbs
from reconciler.api.pages.fleet import Fleet
from reconciler.api.pages.handlers import Visit
from reconciler.api.pages.rendering import View
from reconciler.api.pages.services import LogPart, SpecValue
from reconciler.core.adapter import Usage
from reconciler.core.errors import NotFound, SpecError, Unavailable
from reconciler.core.model.runs import Check, Opinion
from reconciler.core.model.specs import Desired, Task
from reconciler.core.model.status import Phase, Status
from reconciler.core.planning.accounts import AccountPool
from reconciler.core.planning.placement import Placement, place, slots_in_use
from reconciler.core.runs.command import build_prompt
from reconciler.core.runs.prompt import sha256
from reconciler.core.transitions import TransitionRecord
from reconciler.core.views import ReadModel, TaskView

MOST_STEPS = 60
"""Steps of the timeline that are shown at once."""
MOST_CHOICES = 40
"""Hosts of which is told why not."""
LONGEST = 12_000
"""Characters of the goal, and of all prompts together, and of all that checks printed together."""


class HostChoice(NamedTuple):
    """Whether a host could take the task now, and why."""

    host: str
    verdict: str
    """`chosen`, `possible`, `full` or `no`."""
    score: float | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundView:
    """One round of a run, put together from the record."""

    attempt: int
    number: int
    run: str
    place: str
    """Host, or outside agent."""
    adapter: str
    model: str
    began: TransitionRecord
    ended: TransitionRecord | None
    """None: it goes on."""
    outcome: str
    """`running`, `completed`, `failed`, … in a word."""
    reason: str
    """The verdict in a sentence."""
    checks: Sequence[Check]
    opinion: Opinion | None
    """What a second agent made of its work."""
    usage: Usage
    prompt: str
    """As it is built from what is on record; empty if it cannot be, or is another than was sent."""
    prompt_sha256: str
    summary: str


async def task_page(visit: Visit) -> View:
    """Show a task."""
    fleet, name = visit.fleet, visit.name
    model = await fleet.model_with(name)
    if not model.has(name):
        return await _gone(visit)
    view = await _with_cause(fleet, model.task(name))
    steps = await _steps(fleet, name, visit.query.get("before"))
    statuses = await _statuses(fleet, steps)
    values = {
        "task": view,
        "status": view.status,
        "steps": steps,
        "older": steps[-1].commit if len(steps) == MOST_STEPS else None,
        "rounds": shortened(rounds(view, steps, statuses, model.desired)),
        "hosts": (choices := host_choices(view, fleet, model))[:MOST_CHOICES],
        "more_hosts": max(0, len(choices) - MOST_CHOICES),
        "longest": LONGEST,
        "fields": await _fields(fleet, name),
        "logs": log_parts(fleet, view),
        "has_diff": has_diff(view),
        "verbs": task_verbs(view),
        "revision": model.desired.revision,
        "commit_id": steps[0].commit if steps else "",
    }
    return View("task.html", name, values)


async def _with_cause(fleet: Fleet, view: TaskView) -> TaskView:
    """Return a task with all that is known here of why its last run failed, as `describe` tells it."""
    if view.status is None or view.status.failure is None:
        return view
    return replace(view, known_cause=await asyncio.to_thread(fleet.services.failure, view.name, view.status))


async def _gone(visit: Visit) -> View:
    """Show what is on record of a task that is not there any more."""
    steps = await _steps(visit.fleet, visit.name, visit.query.get("before"))
    if not steps and visit.query.get("committed"):
        return View("task_soon.html", visit.name, {"name": visit.name})
    if not steps:
        raise NotFound(f"no task {visit.name}, and the record has none of that name; /tasks lists them")
    return View("task_gone.html", visit.name, {"name": visit.name, "steps": steps})


async def _steps(fleet: Fleet, name: str, before: str | None) -> Sequence[TransitionRecord]:
    try:
        return await fleet.record.before(before, name, MOST_STEPS)
    except Unavailable:
        return ()


async def _statuses(fleet: Fleet, steps: Sequence[TransitionRecord]) -> Sequence[Status | None]:
    """Return the status after each step; None where there was none."""
    places = [(step.commit, step.task) for step in steps if step.task and step.after]
    read = dict(zip(places, await fleet.services.statuses_at(places), strict=True))
    return [read.get((step.commit, step.task or "")) for step in steps]


async def _fields(fleet: Fleet, name: str) -> Sequence[SpecValue] | str:
    """Return the resolved spec; where it cannot be had, why."""
    try:
        return await fleet.services.explain(name)
    except (NotFound, SpecError, Unavailable) as error:
        return str(error)


def log_parts(fleet: Fleet, view: TaskView) -> Sequence[LogPart]:
    """Return the logs of a task's last run."""
    return fleet.services.logs.parts(view.status.run.key) if view.status and view.status.run else ()


def has_diff(view: TaskView) -> bool:
    """Return whether there is delivered work to show."""
    status = view.status
    return bool(status and view.repo and status.base_commit and status.head_commit)


# --- Why not -----------------------------------------------------------------


def host_choices(view: TaskView, fleet: Fleet, model: ReadModel) -> Sequence[HostChoice]:
    """Return every host, and why a task that waits is there or not; none for one that does not wait."""
    if view.phase is not Phase.CREATED or view.spec is None or view.execution_mode != "ssh_cli":
        return ()
    planned = fleet.view.last_plan.placements.get(view.name)
    return list(_choices(planned or _placed(view, view.spec, model, fleet)))


def _placed(view: TaskView, task: Task, model: ReadModel, fleet: Fleet) -> Placement:
    observed = model.observed
    others = {name: status for name, status in observed.statuses.items() if name != view.name}
    accounts = AccountPool(model.desired, observed, others.values(), fleet.clock())
    used = slots_in_use(observed.statuses, observed)
    return place(task, view.status, model.desired, observed, used, accounts=accounts)


def _choices(placement: Placement) -> Iterator[HostChoice]:
    for candidate in placement.ranked:
        verdict = "chosen" if candidate.host == placement.chosen else "possible"
        yield HostChoice(candidate.host, verdict, candidate.score, candidate.why)
    for host, why in sorted(placement.rejected.items()):
        is_soon = host in placement.full or host in placement.spent
        yield HostChoice(host, "full" if is_soon else "no", None, why)


# --- Rounds ------------------------------------------------------------------


class _Step(NamedTuple):
    record: TransitionRecord
    before: Status | None
    after: Status


@dataclass
class _Span:
    """The steps between which a round went on."""

    began: _Step
    ended: _Step | None = None
    last: Status | None = None
    """The last status within it."""


def rounds(
    view: TaskView,
    steps: Sequence[TransitionRecord],
    statuses: Sequence[Status | None],
    desired: Desired,
) -> Sequence[RoundView]:
    """Return the rounds that the steps tell of, newest first as they are; `statuses` are after each."""
    spans: dict[tuple[int, int], _Span] = {}
    before: Status | None = None
    for record, after in reversed(list(zip(steps, statuses, strict=False))):
        if after is not None:
            _note(spans, _Step(record, before, after))
        before = after
    return [_round(view, key, span, desired) for key, span in reversed(spans.items())]


def shortened(all_rounds: Sequence[RoundView], most: int = LONGEST) -> Sequence[RoundView]:
    """Return rounds whose texts fit into a page: of the newest as they are, of older ones what is left."""
    prompts = printed = most
    short = []
    for each in all_rounds:
        checks = list[Check]()
        for check in each.checks:
            output = check.output[-printed:] if printed else ""
            checks.append(check.model_copy(update={"output": output}))
            printed -= len(output)
        prompt = each.prompt[:prompts]
        prompts -= len(prompt)
        short.append(replace(each, prompt=prompt, checks=checks, summary=each.summary[:1000]))
    return short


def _note(spans: dict[tuple[int, int], _Span], step: _Step) -> None:
    """Let a step begin a round, end one, or both."""
    was, now = _live_round(step.before), _live_round(step.after)
    if was is not None and was != now:
        spans.setdefault(was, _Span(step)).ended = step
    if now is not None:
        spans.setdefault(now, _Span(step)).last = step.after


def _live_round(status: Status | None) -> tuple[int, int] | None:
    """Return which attempt and round goes on by a status; None if none does."""
    run = status.live_run if status else None
    return (status.attempt, run.round) if status and run else None


def _round(view: TaskView, key: tuple[int, int], span: _Span, desired: Desired) -> RoundView:
    begin, end = span.began.after, span.ended
    last = span.last or (end.before if end else None) or begin
    over = end.after if end else None
    prompt, sent = _prompt(view.spec, begin, desired), last.prompt_sha256 or ""
    return RoundView(
        attempt=key[0],
        number=key[1],
        run=last.run_key or "",
        place=last.assigned_host or last.assigned_agent or "",
        adapter=(last.run.adapter if last.run else None) or "",
        model=(last.run.model if last.run else None) or "",
        began=span.began.record,
        ended=end.record if end else None,
        outcome=_outcome(over, key) if over else last.phase.value,
        reason=end.record.reason if end else "",
        checks=over.checks if over else (),
        opinion=over.opinion if over else None,
        usage=over.usage - begin.usage if over else Usage(),
        prompt=prompt if sent and sha256(prompt) == sent else "",
        prompt_sha256=sent,
        summary=over.summary if over else "",
    )


def _outcome(after: Status, key: tuple[int, int]) -> str:
    """Return how a round ended, in a word."""
    if _live_round(after) not in {None, key}:
        return "failed"
    if after.phase is Phase.CREATED:
        return "failed" if after.failure else "ended"
    return after.phase.value


def _prompt(task: Task | None, status: Status, desired: Desired) -> str:
    """Return what the agent is told in a round, by the spec as it is now; empty if that cannot be built."""
    if task is None:
        return ""
    try:
        return build_prompt(task, status, desired)
    except (SpecError, ValueError):
        return ""
