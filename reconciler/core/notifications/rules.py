"""
Rules: which signals are sent, and to whom.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from reconciler.core.lifecycle import TRANSITIONS
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import NotifyRule, NotifySpec
from reconciler.core.model.status import Phase, Reason
from reconciler.core.notifications.signals import FORGE, RECONCILER, UNSENT, Signal

HOST_STATES = ("up", "unready", "down")
STATES = (*(phase.value for phase in Phase), *HOST_STATES)
REASONS = (
    *(reason.value for reason in Reason),
    *(kind.value for kind in FailureClass if kind is not FailureClass.CANCELLED),
    FORGE,
    RECONCILER,
    UNSENT,
)
ANY = "*"


class StateChange(NamedTuple):
    """What a rule says of a step: phases or states of hosts, or `*` for any."""

    before: str
    after: str


_ARROW = re.compile(r"\s*(?:->|→)\s*")


@lru_cache(maxsize=256)
def read_change(text: str) -> StateChange:
    """Return what a text such as `failed`, `running -> failed` or `* -> down` means. Raises ValueError."""
    before, *after = _ARROW.split(text.strip())
    if len(after) > 1 or not all((before, *after)):
        raise ValueError(f"expected a phase, or two such as `running -> failed`, got {text!r}")
    change = StateChange(before, after[0]) if after else StateChange(ANY, before)
    for state in change:
        if state not in {*STATES, ANY}:
            raise ValueError(_unknown("phase of a task or state of a host", state, STATES))
    return change


def ways_to(state: str) -> Sequence[str]:
    """Return the phases that a task can come to a phase from, by the table of the lifecycle."""
    return [
        before.value
        for before, row in TRANSITIONS.items()
        if before is not None and before.value != state and state in row.values()
    ]


def can_happen(change: StateChange) -> bool:
    """Return whether a task or a host ever makes such a step."""
    if ANY in change:
        return True
    if change.after in HOST_STATES:
        return change.before in HOST_STATES and change.before != change.after
    return change.before in ways_to(change.after)


def check_reason(text: str) -> None:
    """Raise ValueError for what no task waits for, and no failure is of."""
    if text not in REASONS:
        raise ValueError(_unknown("reason to wait and no class of failure", text, REASONS))


def _unknown(what: str, text: str, candidates: Collection[str]) -> str:
    folded = {other.casefold(): other for other in candidates}
    close = get_close_matches(text.casefold(), folded, 1, 0.6)
    hint = f"did you mean {folded[close[0]]!r}?" if close else f"expected one of {', '.join(candidates)}"
    return f"{text!r} is no {what}; {hint}"


# --- Matching ------------------------------------------------------------------


def is_meant(rule: NotifyRule, signal: Signal) -> bool:
    """Return whether a signal is of what a rule is about, whatever happened to it."""
    if rule.labels and not signal.labels & {*rule.labels}:
        return False
    if rule.repos and not signal.repos & {*rule.repos}:
        return False
    return not rule.tasks or any(fnmatchcase(name, like) for name in signal.tasks for like in rule.tasks)


def matches_current(rule: NotifyRule, signal: Signal) -> bool:
    """Return whether a rule wants told what is so; one with `transitions` is about steps."""
    if rule.transitions or not is_meant(rule, signal):
        return False
    return bool(signal.reasons & {*rule.reasons}) if rule.reasons else signal.needs_person


def matches_step(rule: NotifyRule, signal: Signal) -> bool:
    """Return whether a rule wants a step told."""
    if not is_meant(rule, signal) or (rule.reasons and not signal.reasons & {*rule.reasons}):
        return False
    return any(_fits(read_change(text), signal) for text in rule.transitions)


def _fits(change: StateChange, signal: Signal) -> bool:
    return change.before in {ANY, signal.before} and change.after in {ANY, signal.state}


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """Who gets it as well when something is not over after a time."""

    after: timedelta
    to: tuple[str, ...]
    resolved: bool = False
    urgent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOptions:
    """How one target is to be told of a cause."""

    urgent: bool = False
    """In quiet hours, too."""
    resolved: bool = False
    """Its end as well."""
    is_step: bool = False
    """Even if it is over by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Signals with one cause that rules want told, and how."""

    signals: tuple[Signal, ...]
    targets: Mapping[str, SendOptions]
    escalations: tuple[Escalation, ...] = ()


def match_signals(
    spec: NotifySpec, current: Iterable[Signal], steps: Iterable[Signal]
) -> Mapping[str, Match]:
    """Return what is to be told, by the key of its cause."""
    hits: dict[str, list[_Hit]] = defaultdict(list)
    for matches, signals in ((matches_current, current), (matches_step, steps)):
        for signal in signals:
            for rule in spec.rules:
                if matches(rule, signal):
                    hits[signal.cause.key].append(_Hit(rule, signal, matches is matches_step))
    return {key: _match(of_one) for key, of_one in hits.items()}


class _Hit(NamedTuple):
    rule: NotifyRule
    signal: Signal
    is_step: bool


def _match(hits: Sequence[_Hit]) -> Match:
    targets = {name for hit in hits for name in _others(hit.rule.to, hit.signal)}
    return Match(
        signals=tuple({hit.signal.subject: hit.signal for hit in hits}.values()),
        targets={name: _options([hit for hit in hits if name in hit.rule.to]) for name in sorted(targets)},
        escalations=tuple(dict.fromkeys(_escalations(hits))),
    )


def _others(targets: Iterable[str], signal: Signal) -> tuple[str, ...]:
    """Return the targets but for the one that a signal is about: it takes no message now."""
    return tuple(name for name in targets if signal.subject != f"target {name}")


def _options(hits: Sequence[_Hit]) -> SendOptions:
    return SendOptions(
        urgent=any(hit.rule.urgent for hit in hits),
        resolved=any(hit.rule.resolved and not hit.signal.is_over for hit in hits),
        is_step=any(hit.is_step for hit in hits),
    )


def _escalations(hits: Iterable[_Hit]) -> Iterator[Escalation]:
    for rule, signal, _ in hits:
        if rule.escalate_after is not None and not signal.is_over:
            yield Escalation(
                after=rule.escalate_after,
                to=_others(rule.escalate_to or rule.to, signal),
                resolved=rule.resolved,
                urgent=rule.urgent,
            )
