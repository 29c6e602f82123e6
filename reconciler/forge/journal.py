"""
Delivery log: what became of webhooks.

JSON lines, one for each signed delivery, on disk before it is answered, and one
more once it was acted upon: what was not when the process ended is acted upon
by the next. Only the hint is kept: bodies have addresses of people in them, and
nothing in them is believed anyway. Of deliveries that were not accepted the
last few are in a file of their own, for `reconciler webhook`: anybody can send
such, so it stays small and is seldom written.
"""

import json
import logging
import os
import threading
from collections import Counter, deque
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from reconciler.controller.ports import Clock
from reconciler.core.bounded import BoundedDict
from reconciler.core.errors import Unavailable
from reconciler.core.model.forge import Hint
from reconciler.core.times import parse_time
from reconciler.files import make_folder, parse_json, replace_atomically, replace_durably, sync_folder

log = logging.getLogger(__name__)

WINDOW = timedelta(minutes=10)
"""
A body that was already received within this time is a duplicate.

A forge that replays a delivery gives it another id. If something did change in
between, the next look without a hint finds it.
"""
_KEPT = 500
"""Deliveries that are remembered, and kept when the file is written anew."""
_LARGEST = 2**20
_REJECTIONS = 20
"""Rejected deliveries that are kept."""
_SELDOM = timedelta(seconds=1)
"""Least time between two writes of them."""

KeptOutcome = Literal["taken", "duplicate"]
DeliveryOutcome = Literal[KeptOutcome, "ignored", "refused"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery in the log."""

    hint: Hint
    at: datetime
    digest: str
    """Of its body."""
    outcome: KeptOutcome
    done_at: datetime | None = None
    """When everybody whom it concerns had looked, and what they saw was on record."""

    @property
    def delay(self) -> timedelta | None:
        """How long after the event it came, if its body says when that was; forges count in seconds."""
        return self.delay_by(timedelta())

    def delay_by(self, offset: timedelta) -> timedelta | None:
        """Return the same for a forge whose clock is that far ahead of ours."""
        if self.hint.happened_at is None:
            return None
        return max(self.at - self.hint.happened_at + offset, timedelta())


@dataclass(frozen=True, slots=True)
class Rejection:
    """A delivery that was not accepted. Nothing of it is proven: anybody can send one."""

    at: datetime
    event: str
    place: str
    """Repository that it claims to be from, as far as that is one of the fleet's."""
    status: int
    """Of the answer."""
    why: str


class Journal:
    """Delivery log in a folder; safe to read while another process writes."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.counts: Counter[tuple[str, DeliveryOutcome]] = Counter()
        """Deliveries of this process, by event and what became of them."""
        self._path = folder / "deliveries.jsonl"
        self._rejections_path = folder / "rejected.json"
        self._clock = clock
        self._lock = threading.Lock()
        self._last = deque(_read(self._path), _KEPT)
        self._rejections = deque(_read_rejections(self._rejections_path), _REJECTIONS)
        self._rejected_at: MutableMapping[str, datetime] = BoundedDict(_REJECTIONS)
        """When one was written last, by its place; these are few."""

    def add(self, hint: Hint, digest: str) -> KeptOutcome:
        """
        Append a delivery durably; return whether it is new.

        Raises Unavailable if it cannot be written.
        """
        with self._lock:
            now = self._clock()
            outcome: KeptOutcome = "duplicate" if self._is_known(hint, digest, now) else "taken"
            delivery = Delivery(hint, now, digest, outcome)
            self._append(_line(delivery))
            self._last.append(delivery)
            return outcome

    def complete(self, delivery: str) -> None:
        """
        Note that a delivery was acted upon.

        Not durably, and never failing: at worst it is acted upon once more.
        """
        with self._lock:
            now = self._clock()
            for at, each in enumerate(self._last):
                if each.hint.delivery == delivery and each.outcome == "taken" and each.done_at is None:
                    self._last[at] = replace(each, done_at=now)
                    with suppress(OSError), self._path.open("ab") as file:
                        file.write(_done_line(delivery, now))

    def pending(self) -> Sequence[Delivery]:
        """Return the deliveries that were not acted upon yet, oldest first."""
        with self._lock:
            return [each for each in self._last if each.outcome == "taken" and each.done_at is None]

    def reject(self, event: str, place: str, status: int, why: str) -> None:
        """Note a delivery that was not accepted."""
        with self._lock:
            now = self._clock()
            self._rejections.append(Rejection(now, event, place, status, why))
            if (last := self._rejected_at.get(place)) and abs(now - last) < _SELDOM:
                return
            self._rejected_at[place] = now
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                entries = [asdict(each) | {"at": each.at.isoformat()} for each in self._rejections]
                replace_atomically(self._rejections_path, json.dumps(entries).encode())

    def rejections(self) -> Sequence[Rejection]:
        """Return the last deliveries that were not accepted, newest first."""
        with self._lock:
            return tuple(reversed(self._rejections))

    def recent(self) -> Sequence[Delivery]:
        """Return the last deliveries, newest first."""
        with self._lock:
            return tuple(reversed(self._last))

    def count(self, event: str, outcome: DeliveryOutcome) -> None:
        """Count a delivery and log it."""
        self.counts[event, outcome] += 1
        log.info("webhook %s is %s (%d so far)", event, outcome, self.counts[event, outcome])

    def _is_known(self, hint: Hint, digest: str, now: datetime) -> bool:
        # Duplicates do not count here: the window begins with what was taken.
        return any(
            other.hint.delivery == hint.delivery
            or ((other.hint.event, other.digest) == (hint.event, digest) and abs(now - other.at) < WINDOW)
            for other in self._last
            if other.outcome == "taken"
        )

    def _append(self, line: bytes) -> None:
        try:
            make_folder(self._path.parent)
            is_new = not self._path.exists()
            if not is_new and self._path.stat().st_size > _LARGEST:
                replace_durably(self._path, b"".join(map(_line, self._last)))
            with self._path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync_folder(self._path.parent)
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror}; the delivery is not kept") from error


def _line(delivery: Delivery) -> bytes:
    # The line break comes first, so that a line torn by a crash does not corrupt this one.
    return b"\n" + json.dumps(asdict(delivery), default=datetime.isoformat).encode()


def _done_line(delivery: str, at: datetime) -> bytes:
    return b"\n" + json.dumps({"done": delivery, "at": at.isoformat()}).encode()


def _read(path: Path) -> Sequence[Delivery]:
    deliveries: dict[int, Delivery] = {}
    places: dict[str, int] = {}
    """Line at which a delivery was taken, by its id."""
    with suppress(OSError):
        for number, line in enumerate(path.read_bytes().splitlines()):
            # Torn by a crash: it was not answered either.
            with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                value = parse_json(line)
                if "done" in value:
                    at = places[value["done"]]
                    deliveries[at] = replace(deliveries[at], done_at=parse_time(value["at"]))
                    continue
                delivery = deliveries[number] = _delivery(value)
                if delivery.outcome == "taken":
                    places[delivery.hint.delivery] = number
    return list(deliveries.values())


def _delivery(value: Any) -> Delivery:
    if value["outcome"] not in get_args(KeptOutcome):
        raise ValueError(value["outcome"])
    hint, done = value["hint"], value.get("done_at")
    happened = hint.get("happened_at")
    times = {"happened_at": parse_time(happened) if happened else None, "repos": tuple(hint["repos"])}
    return Delivery(
        Hint(**{**hint, **times}),
        parse_time(value["at"]),
        value["digest"],
        value["outcome"],
        parse_time(done) if done else None,
    )


def _read_rejections(path: Path) -> Sequence[Rejection]:
    try:
        values = parse_json(path.read_bytes())
        return [Rejection(**{**each, "at": parse_time(each["at"])}) for each in values]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()
