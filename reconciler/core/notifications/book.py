"""
Book: what was told of which cause and to whom, and what is still to be sent.

It is one value that is written as a whole: whatever is in the outbox is in no
later message once more, and what is not is still to be told.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from reconciler.core.fields import Frozen, Time, Total
from reconciler.core.model.specs import NotifySpec
from reconciler.core.notifications.messages import CauseReport, compose
from reconciler.core.notifications.quiet import quiet_until
from reconciler.core.notifications.rules import Match, SendOptions
from reconciler.core.notifications.signals import Signal

MOST_WAITING = 50
"""Messages for one target that wait; the oldest are dropped for newer ones."""
GIVE_UP = timedelta(days=1)
"""How long a message is tried to be sent: later nobody can do anything with it."""
FIRST_RETRY, LONGEST_RETRY = timedelta(seconds=10), timedelta(minutes=10)
SPACING = 6
"""Multiple of `hold` between two messages to one target that are not urgent."""
RECURS_AFTER = timedelta(hours=1)
"""After so long without another one, failed tasks of one cause are a new case."""
_NAMED = 5
"""Tasks that a message names."""

NoticeKind = Literal["begin", "escalation", "end"]


class Notice(Frozen):
    """What one target is told of a cause: that it began, is not over yet, or is over."""

    target: str
    kind: NoticeKind = "begin"
    due: Time
    urgent: bool = False
    resolved: bool = False
    """Whether the end is told, too."""
    is_step: bool = False
    """Whether it is told even if it is over by then."""
    sent: Time | None = None
    """When it went into the outbox; None: it is still to be told."""


class OpenCause(Frozen):
    """A cause that is not over, or of which not everything is told."""

    headline: str
    message: str = ""
    page: str = ""
    command: str = ""
    since: Time
    recurs: bool = False
    newest: Time
    """When the last signal began that belongs to it."""
    tasks: tuple[str, ...] = ()
    """Names of the first tasks that it touches."""
    touched: Total = 0
    """How many tasks those are."""
    notices: tuple[Notice, ...] = ()
    gone: Time | None = None
    """Since when nothing shows it any more; None while something does."""
    over: bool = False


class OutboxEntry(Frozen):
    """A message on its way to one target."""

    number: Total
    target: str
    title: str
    body: str
    urgent: bool = False
    made: Time
    attempts: Total = 0
    due: Time
    """When it is tried next."""
    error: str = ""
    """Why the last attempt failed."""


class TargetCounts(Frozen):
    """What became of the messages to one target."""

    sent: Total = 0
    failed: Total = 0
    """Attempts that failed; each is repeated."""
    dropped: Total = 0
    """Messages that were given up."""
    lost: str = ""
    """Why the last one was given up; empty once another was sent."""


class Book(Frozen):
    """State of the notifications of one fleet."""

    cursor: str = ""
    """Commit of the record up to which steps were read; empty: before the first."""
    began: Time | None = None
    """What was so before is not told; None: nothing was ever read."""
    rules: str = ""
    """Digest of the rules that were applied last."""
    rules_since: Time | None = None
    """When those were applied first: what was so before is not told."""
    causes: dict[str, OpenCause] = Field(default_factory=dict)
    outbox: tuple[OutboxEntry, ...] = ()
    numbered: Total = 0
    """Messages so far."""
    last: dict[str, Time] = Field(default_factory=dict)
    """When the last message went into the outbox, by target."""
    counts: dict[str, TargetCounts] = Field(default_factory=dict)

    def with_counts(self, target: str, **changes: int | str) -> "Book":
        """Return the book with other counts of a target; numbers are added."""
        before = self.counts.get(target, TargetCounts())
        after = {
            name: getattr(before, name) + value if isinstance(value, int) else value
            for name, value in changes.items()
        }
        return self.model_copy(update={"counts": {**self.counts, target: before.model_copy(update=after)}})


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a book is brought up to date with."""

    spec: NotifySpec
    timezone: str
    now: datetime
    current: Sequence[Signal]
    """Everything that is so now."""
    matches: Mapping[str, Match]
    """What of it, and of the steps since, is to be told."""
    fleet: str = ""
    """What the fleet is called."""
    url: str = ""
    """Of the pages; empty if they cannot be reached by others."""


def begin_book(book: Book, head: str, now: datetime) -> Book:
    """Return the book for a process that starts: a new one tells nothing of what was before."""
    return book if book.began else book.model_copy(update={"cursor": head, "began": now, "rules_since": now})


def advance(book: Book, situation: Situation) -> Book:
    """Return the book after a look: causes begin, go on or end, and what is due goes into the outbox."""
    book = _without_old_targets(_with_rules(book, situation), situation.spec.targets)
    causes = dict(book.causes)
    for key, match in situation.matches.items():
        if cause := _matched(causes.get(key), match, book, situation):
            causes[key] = cause
    present = _present(situation.current, causes)
    seen = {key: _seen(cause, present.get(key, ()), situation) for key, cause in causes.items()}
    left = {key: cause for key, cause in seen.items() if not _is_done(cause)}
    return _flush(book.model_copy(update={"causes": left}), situation)


def _present(current: Iterable[Signal], causes: Collection[str]) -> Mapping[str, Sequence[Signal]]:
    """Return the signals that show that causes are not over, by cause."""
    present: dict[str, list[Signal]] = defaultdict(list)
    for signal in current:
        if signal.cause.key in causes and not signal.is_over:
            present[signal.cause.key].append(signal)
    return present


def _with_rules(book: Book, situation: Situation) -> Book:
    """Note when the rules are others."""
    digest = hashlib.sha256(situation.spec.model_dump_json().encode()).hexdigest()[:16]
    if digest == book.rules:
        return book
    since = situation.now if book.rules else book.rules_since
    return book.model_copy(update={"rules": digest, "rules_since": since})


def _without_old_targets(book: Book, targets: Collection[str]) -> Book:
    """Return the book without what is for targets that the specs do not have any more."""
    causes = {key: _without(cause, targets) for key, cause in book.causes.items()}
    return book.model_copy(
        update={
            "causes": causes,
            "outbox": tuple(entry for entry in book.outbox if entry.target in targets),
            "last": {name: at for name, at in book.last.items() if name in targets},
            "counts": {name: counts for name, counts in book.counts.items() if name in targets},
        }
    )


def _without(cause: OpenCause, targets: Collection[str]) -> OpenCause:
    if all(notice.target in targets for notice in cause.notices):
        return cause
    notices = tuple(notice for notice in cause.notices if notice.target in targets)
    return cause.model_copy(update={"notices": notices})


# --- Causes --------------------------------------------------------------------


def _matched(cause: OpenCause | None, match: Match, book: Book, situation: Situation) -> OpenCause | None:
    """Return a cause with what is so of it now; None for one that began before anybody was to be told."""
    fresh = [signal for signal in match.signals if _is_news(signal, book, situation)]
    if not fresh:
        return cause
    if cause is None or _recurs(cause, fresh):
        cause = _new(fresh, match, situation)
    tasks = dict.fromkeys(name for signal in fresh for name in signal.tasks)
    newest = max([each.since for each in fresh if each.since], default=cause.newest)
    cause = cause.model_copy(
        update={
            "newest": max(newest, cause.newest),
            "tasks": cause.tasks or tuple(list(tasks)[:_NAMED]),
            "touched": cause.touched or len(tasks),
        }
    )
    return _with_targets(cause, match, situation)


def _is_news(signal: Signal, book: Book, situation: Situation) -> bool:
    """Return whether a signal began since these rules are in force; of one without a time: since now."""
    since = book.rules_since or situation.now
    # Steps that were read back have a time to the second.
    return (signal.since or situation.now) >= since.replace(microsecond=0)


def _recurs(cause: OpenCause, fresh: Sequence[Signal]) -> bool:
    """Return whether it is a new case, and not part of one that is still to be told."""
    is_told = all(notice.sent for notice in cause.notices if notice.kind == "begin")
    late = cause.newest + RECURS_AFTER
    return cause.recurs and is_told and any(each.since and each.since > late for each in fresh)


def _new(fresh: Sequence[Signal], match: Match, situation: Situation) -> OpenCause:
    first = match.signals[0].cause
    of_case = [each for each in fresh if _is_recent(each, fresh)] if first.recurs else match.signals
    since = [each.since for each in of_case if each.since]
    return OpenCause(
        headline=first.headline,
        message=first.message,
        page=first.page,
        command=first.command,
        since=min(since, default=situation.now),
        newest=max(since, default=situation.now),
        recurs=first.recurs,
    )


def _is_recent(signal: Signal, fresh: Sequence[Signal]) -> bool:
    newest = max((each.since for each in fresh if each.since), default=None)
    return newest is None or signal.since is None or signal.since >= newest - RECURS_AFTER


def _with_targets(cause: OpenCause, match: Match, situation: Situation) -> OpenCause:
    """Add a notice for each target that has none yet."""
    patience = max(situation.spec.hold, match.signals[0].cause.patience)
    have = {(notice.kind, notice.target) for notice in cause.notices}
    more = [
        _notice(target, "begin", situation.now + patience, options)
        for target, options in match.targets.items()
        if ("begin", target) not in have
    ]
    for each in match.escalations:
        options = SendOptions(urgent=each.urgent, resolved=each.resolved)
        due = situation.now + max(each.after, patience)
        more += [
            _notice(target, "escalation", due, options)
            for target in each.to
            if ("escalation", target) not in have
        ]
    return cause.model_copy(update={"notices": (*cause.notices, *more)})


def _notice(target: str, kind: NoticeKind, due: datetime, options: SendOptions) -> Notice:
    return Notice(
        target=target,
        kind=kind,
        due=due,
        urgent=options.urgent,
        resolved=options.resolved,
        is_step=options.is_step,
    )


def _seen(cause: OpenCause, present: Sequence[Signal], situation: Situation) -> OpenCause:
    """Return a cause after a look: it shows, or has been gone for so long that it is over."""
    if present:
        notices = tuple(each for each in cause.notices if each.kind != "end" or each.sent)
        update = {"gone": None, "over": False, "notices": notices, **_counted(cause, present)}
        return cause.model_copy(update=update)
    gone = cause.gone or situation.now
    cause = cause.model_copy(update={"gone": gone})
    if cause.over or situation.now < gone + situation.spec.hold:
        return cause
    return cause.model_copy(update={"over": True, "notices": tuple(_at_end(cause, situation.now))})


def _counted(cause: OpenCause, present: Sequence[Signal]) -> Mapping[str, object]:
    """Return which tasks a cause touches, as long as that is to be told; else what was counted is good."""
    if all(notice.sent for notice in cause.notices):
        return {}
    counted = [
        each for each in present if not cause.recurs or each.since is None or each.since >= cause.since
    ]
    tasks = sorted({name for signal in counted for name in signal.tasks})
    return {"tasks": tuple(tasks[:_NAMED]), "touched": len(tasks)}


def _at_end(cause: OpenCause, now: datetime) -> Iterator[Notice]:
    """Yield the notices of a cause that is over: what was held back, and its end for who wants it."""
    gone = cause.gone or now
    for notice in cause.notices:
        if notice.sent or notice.is_step or (notice.kind == "begin" and notice.due <= gone):
            yield notice
    reached = {notice.target: notice for notice in cause.notices if notice.sent and notice.resolved}
    for target, notice in reached.items():
        yield Notice(target=target, kind="end", due=now, urgent=notice.urgent)


def _is_done(cause: OpenCause) -> bool:
    return cause.over and all(notice.sent for notice in cause.notices)


# --- Into the outbox -------------------------------------------------------------


def _flush(book: Book, situation: Situation) -> Book:
    """Put one message for each target into the outbox, of all that is due there."""
    quiet = quiet_until(situation.spec, situation.timezone, situation.now) is not None
    targets = {notice.target for cause in book.causes.values() for notice in cause.notices if not notice.sent}
    for target in sorted(targets & situation.spec.targets.keys()):
        if not (due := _of_target(book, target, situation, timedelta(), is_quiet=quiet)):
            continue
        is_urgent = any(notice.urgent for notices in due.values() for notice in notices)
        if is_urgent or _has_space(book, target, situation):
            siblings = _of_target(book, target, situation, situation.spec.hold, is_quiet=quiet)
            book = _put(book, target, siblings, situation)
    return book


def _of_target(
    book: Book, target: str, situation: Situation, ahead: timedelta, *, is_quiet: bool
) -> Mapping[str, Sequence[Notice]]:
    """Return what one target is to be told now, by cause; `ahead`: and what has just begun."""
    now = situation.now
    due = {
        key: [
            each
            for each in cause.notices
            if each.target == target
            and not each.sent
            and each.due <= (now + ahead if each.kind == "begin" else now)
            and (each.urgent or not is_quiet)
        ]
        for key, cause in book.causes.items()
    }
    return {key: notices for key, notices in due.items() if notices}


def _has_space(book: Book, target: str, situation: Situation) -> bool:
    last = book.last.get(target)
    return last is None or last + situation.spec.hold * SPACING <= situation.now


def _put(book: Book, target: str, due: Mapping[str, Sequence[Notice]], situation: Situation) -> Book:
    now = situation.now
    reports = [_report(book.causes[key], notices, situation) for key, notices in due.items()]
    reports.sort(key=lambda report: report.since)
    message = compose(reports, situation.fleet, situation.url, situation.timezone, now)
    entry = OutboxEntry(
        number=book.numbered + 1,
        target=target,
        title=message.title,
        body=message.body,
        urgent=any(notice.urgent for notices in due.values() for notice in notices),
        made=now,
        due=now,
    )
    causes = {
        key: _marked(cause, due[key], now) if key in due else cause for key, cause in book.causes.items()
    }
    book = book.model_copy(
        update={
            "causes": {key: cause for key, cause in causes.items() if not _is_done(cause)},
            "outbox": (*book.outbox, entry),
            "numbered": entry.number,
            "last": {**book.last, target: now},
        }
    )
    return _bounded(book, target)


def _report(cause: OpenCause, notices: Sequence[Notice], situation: Situation) -> CauseReport:
    kinds = {notice.kind for notice in notices}
    kept = any(
        not notice.urgent and quiet_until(situation.spec, situation.timezone, notice.due)
        for notice in notices
    )
    return CauseReport(
        headline=cause.headline,
        message=cause.message,
        page=cause.page,
        command=cause.command,
        since=cause.since,
        tasks=cause.tasks,
        touched=cause.touched,
        is_escalation=kinds == {"escalation"},
        over_at=cause.gone if cause.over and not all(each.is_step for each in notices) else None,
        is_kept=kept,
    )


def _marked(cause: OpenCause, notices: Sequence[Notice], now: datetime) -> OpenCause:
    sent = tuple(each.model_copy(update={"sent": now}) if each in notices else each for each in cause.notices)
    return cause.model_copy(update={"notices": sent})


def _bounded(book: Book, target: str) -> Book:
    """Drop the oldest messages of a target that takes none."""
    waiting = [entry for entry in book.outbox if entry.target == target]
    old = {entry.number for entry in waiting[: max(0, len(waiting) - MOST_WAITING)]}
    if not old:
        return book
    outbox = tuple(entry for entry in book.outbox if entry.number not in old)
    lost = f"more than {MOST_WAITING} messages waited for it"
    return book.model_copy(update={"outbox": outbox}).with_counts(target, dropped=len(old), lost=lost)


# --- Sending -----------------------------------------------------------------------


def to_send(book: Book, now: datetime) -> Sequence[OutboxEntry]:
    """Return the messages to send now: the oldest of each target, if it is due."""
    first: dict[str, OutboxEntry] = {}
    for entry in book.outbox:
        first.setdefault(entry.target, entry)
    return [entry for entry in first.values() if entry.due <= now]


def delivered(book: Book, number: int) -> Book:
    """Return the book without a message that its target took."""
    [target] = [entry.target for entry in book.outbox if entry.number == number] or [""]
    if not target:
        return book
    outbox = tuple(entry for entry in book.outbox if entry.number != number)
    return book.model_copy(update={"outbox": outbox}).with_counts(target, sent=1, lost="")


def undelivered(book: Book, number: int, error: str, now: datetime) -> Book:
    """Return the book with a message to be tried again later, or without it if it is too old by now."""
    entry = next((each for each in book.outbox if each.number == number), None)
    if entry is None:
        return book
    book = book.with_counts(entry.target, failed=1)
    if entry.made + GIVE_UP <= now:
        outbox = tuple(each for each in book.outbox if each.number != number)
        return book.model_copy(update={"outbox": outbox}).with_counts(entry.target, dropped=1, lost=error)
    wait = min(FIRST_RETRY * 2 ** min(entry.attempts, 10), LONGEST_RETRY)
    later = entry.model_copy(update={"attempts": entry.attempts + 1, "due": now + wait, "error": error})
    outbox = tuple(later if each.number == number else each for each in book.outbox)
    return book.model_copy(update={"outbox": outbox})


def next_change(
    book: Book, spec: NotifySpec, timezone: str, now: datetime, busy: Collection[str] = ()
) -> datetime | None:
    """Return when a book has something to do next, if nothing else happens; `busy` targets are sent to."""
    quiet = quiet_until(spec, timezone, now)
    first = {entry.target: entry.due for entry in reversed(book.outbox) if entry.target not in busy}
    times = [*first.values()]
    for cause in book.causes.values():
        times += [cause.gone + spec.hold] if cause.gone and not cause.over else []
        for notice in cause.notices:
            if not notice.sent and notice.target in spec.targets:
                times.append(_earliest(book, notice, spec, quiet))
    return min(times, default=None)


def _earliest(book: Book, notice: Notice, spec: NotifySpec, quiet: datetime | None) -> datetime:
    if notice.urgent:
        return notice.due
    last = book.last.get(notice.target)
    return max(notice.due, quiet or notice.due, last + spec.hold * SPACING if last else notice.due)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetReport:
    """How one target is served."""

    waiting: int = 0
    """Messages that wait for it."""
    since: datetime | None = None
    """When the first of these was made."""
    error: str = ""
    """Why it is not sent, or why the last one was given up; empty if all is well."""
    counts: TargetCounts = field(default_factory=TargetCounts)


def target_reports(book: Book, targets: Iterable[str]) -> Mapping[str, TargetReport]:
    """Return how each target is served, by name."""
    reports = {}
    for target in sorted(targets):
        waiting = [entry for entry in book.outbox if entry.target == target]
        counts = book.counts.get(target, TargetCounts())
        reports[target] = TargetReport(
            waiting=len(waiting),
            since=waiting[0].made if waiting else None,
            error=(waiting[0].error if waiting else "") or counts.lost,
            counts=counts,
        )
    return reports


def unsent(reports: Mapping[str, TargetReport]) -> Mapping[str, str]:
    """Return what could not be sent, in a sentence, by target."""
    return {name: _unsent(report) for name, report in reports.items() if report.error}


def _unsent(report: TargetReport) -> str:
    if not report.waiting:
        return f"messages were given up ({report.counts.dropped} so far): {report.error}"
    count = "1 message waits" if report.waiting == 1 else f"{report.waiting} messages wait"
    return f"{count}, and cannot be sent: {report.error}"
