"""
Mistakes in `notify` of `specs/fleet.yaml`, and rules that never match.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from reconciler.core.model.specs import NotifyRule, NotifySpec, Task
from reconciler.core.notifications.rules import (
    HOST_STATES,
    StateChange,
    can_happen,
    check_reason,
    read_change,
    ways_to,
)
from reconciler.core.notifications.signals import FINAL
from reconciler.core.planning.schedule import read_window, zone
from reconciler.specs.parse import nearest
from reconciler.specs.rules import Mistake, secret_mistakes, tried
from reconciler.specs.shared import SharedSpecs
from reconciler.specs.yaml import Path


def notify_mistakes(spec: NotifySpec) -> Iterator[Mistake]:
    """Yield what is wrong with `notify`, whatever the other files say."""
    for name, secret in spec.targets.items():
        path: Path = ("notify", "targets", name)
        yield from secret_mistakes(path, secret)
        if secret.on != "reconciler":
            yield Mistake((*path, "on"), "only the reconciler sends messages; leave `on` out")
    for index, hours in enumerate(spec.quiet):
        yield from tried(("notify", "quiet", index), read_window, hours)
    if spec.timezone is not None:
        yield from tried(("notify", "timezone"), zone, spec.timezone)
    for index, rule in enumerate(spec.rules):
        yield from _rule_mistakes(("notify", "rules", index), rule, spec.targets)


def _rule_mistakes(path: Path, rule: NotifyRule, targets: Collection[str]) -> Iterator[Mistake]:
    if not rule.to:
        yield Mistake((*path, "to"), "names nobody; expected a target")
    for field in ("to", "escalate_to"):
        for at, target in enumerate(getattr(rule, field)):
            if target not in targets:
                hint = nearest(target, targets)
                among = "" if hint else f"; `targets` has {', '.join(sorted(targets)) or 'none'}"
                yield Mistake((*path, field, at), f"no target {target!r}{among}", hint)
    for at, text in enumerate(rule.transitions):
        yield from tried((*path, "transitions", at), read_change, text)
    for at, text in enumerate(rule.reasons):
        yield from tried((*path, "reasons", at), check_reason, text)


def notify_doubts(spec: NotifySpec, shared: SharedSpecs, tasks: Mapping[str, Task]) -> Iterator[Mistake]:
    """Yield targets that nothing is sent to, and rules that never match."""
    used = {name for rule in spec.rules for name in (*rule.to, *rule.escalate_to)}
    for name in sorted(spec.targets.keys() - used):
        yield _no_effect(("notify", "targets", name), "no rule sends anything to it")
    for at, rule in enumerate(spec.rules):
        yield from _rule_doubts(("notify", "rules", at), rule, shared)
        yield from _nobody_doubts(("notify", "rules", at), rule, shared, tasks)


def _rule_doubts(path: Path, rule: NotifyRule, shared: SharedSpecs) -> Iterator[Mistake]:
    changes = [read_change(text) for text in rule.transitions]
    for at, change in enumerate(changes):
        if not can_happen(change):
            yield Mistake((*path, "transitions", at), f"never happens: {_ways(change)}")
    if changes and all(change.after in HOST_STATES for change in changes):
        for field in ("tasks", "repos", "reasons"):
            if getattr(rule, field):
                why = "`transitions` names states of hosts, and this is about tasks"
                yield Mistake((*path, field), f"never matches: {why}", at_key=True)
    for at, repo in enumerate(rule.repos):
        if repo not in shared.repos:
            yield Mistake((*path, "repos", at), *shared.missing("repo", repo, shared.repos))
    yield from _escalation_doubts(path, rule, changes)


def _nobody_doubts(
    path: Path, rule: NotifyRule, shared: SharedSpecs, tasks: Mapping[str, Task]
) -> Iterator[Mistake]:
    """Yield the labels and the names of tasks that nothing has now."""
    if rule.labels:
        labels = {label for host in shared.hosts.values() for label in (*host.capabilities, host.name)}
        labels |= {label for task in tasks.values() for label in (*task.requires, *task.labels)}
        for at, label in enumerate(rule.labels):
            if label not in labels:
                hint = nearest(label, labels)
                yield Mistake((*path, "labels", at), f"no task and no host has the label {label!r}", hint)
    for at, like in enumerate(rule.tasks):
        if not any(fnmatchcase(name, like) for name in tasks):
            yield Mistake((*path, "tasks", at), f"no task is called like {like!r}")


def _escalation_doubts(path: Path, rule: NotifyRule, changes: Sequence[StateChange]) -> Iterator[Mistake]:
    if rule.escalate_to and rule.escalate_after is None:
        yield _no_effect((*path, "escalate_to"), "it needs `escalate_after`")
    if changes and all(change.after in FINAL for change in changes):
        for field in ("escalate_after", "resolved"):
            if getattr(rule, field):
                yield _no_effect((*path, field), "what `transitions` names is over as soon as it is sent")


def _ways(change: StateChange) -> str:
    """Return how a state is come to, in words."""
    if change.after in HOST_STATES:
        return f"a host comes to {change.after} from another of {', '.join(HOST_STATES)}"
    return f"a task comes to {change.after} from {', '.join(ways_to(change.after)) or 'no phase'}"


def _no_effect(path: Path, why: str) -> Mistake:
    return Mistake(path, f"has no effect: {why}", at_key=True)
