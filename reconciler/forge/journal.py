"""
Delivery log: what became of signed webhooks.

JSON lines, one for each delivery, on disk before it is answered. Nothing of it
is worked later: after a restart everybody looks in any case. Only the hint is
kept: bodies have addresses of people in them, and nothing in them is believed
anyway.
"""

import json
import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from reconciler.controller.ports import Clock
from reconciler.core.errors import Unavailable
from reconciler.core.model.forge import Hint
from reconciler.core.times import parse_time
from reconciler.files import replace_durably, sync_folder

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


class Journal:
    """Delivery log in a folder; safe to read while another process writes."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.counts: Counter[tuple[str, DeliveryOutcome]] = Counter()
        """Deliveries of this process, by event and what became of them."""
        self._path = folder / "deliveries.jsonl"
        self._clock = clock
        self._lock = threading.Lock()
        self._last = deque(_read(self._path), _KEPT)

    def add(self, hint: Hint, digest: str) -> KeptOutcome:
        """
        Append a delivery durably; return whether it is new.

        Raises Unavailable if it cannot be written.
        """
        with self._lock:
            now = self._clock()
            outcome: KeptOutcome = "duplicate" if self._is_known(hint, digest, now) else "taken"
            delivery = Delivery(hint, now, digest, outcome)
            self._append(delivery)
            self._last.append(delivery)
            return outcome

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

    def _append(self, delivery: Delivery) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self._path.exists()
            if not is_new and self._path.stat().st_size > _LARGEST:
                replace_durably(self._path, b"".join(map(_line, self._last)))
            with self._path.open("ab") as file:
                file.write(_line(delivery))
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync_folder(self._path.parent)
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror}; the delivery is not kept") from error


def _line(delivery: Delivery) -> bytes:
    value = asdict(delivery) | {"at": delivery.at.isoformat()}
    # The line break comes first, so that a line torn by a crash does not corrupt this one.
    return b"\n" + json.dumps(value).encode()


def _read(path: Path) -> Iterator[Delivery]:
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            # Torn by a crash: it was not answered either.
            with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                yield _delivery(json.loads(line))


def _delivery(value: Any) -> Delivery:
    if value["outcome"] not in get_args(KeptOutcome):
        raise ValueError(value["outcome"])
    hint = Hint(**{**value["hint"], "repos": tuple(value["hint"]["repos"])})
    return Delivery(hint, parse_time(value["at"]), value["digest"], value["outcome"])
