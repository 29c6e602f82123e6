"""
The journal of deliveries: what webhooks hinted at, on disk before they are answered.

A file of JSON lines: a line for each delivery, and one more when it was worked.
Only the hint is kept: bodies have addresses of people in them, and nothing in
them is believed anyway.
"""

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from reconciler.controller.ports import Clock
from reconciler.core.errors import Unavailable
from reconciler.core.model.forge import Hint
from reconciler.core.times import parse_time
from reconciler.files import replace_durably, sync_folder

log = logging.getLogger(__name__)

WINDOW = timedelta(minutes=10)
"""
A body that came within this time comes again in vain.

A forge that replays a delivery gives it another id. If something did change in
between, the next look without a hint finds it.
"""
_KEPT = 500
"""Worked deliveries that are remembered when the file is written anew."""
_LARGEST = 2**20

DeliveryOutcome = Literal["taken", "duplicate", "ignored", "refused"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery on record."""

    hint: Hint
    at: datetime
    digest: str
    """Of its body."""
    is_done: bool = False


class Journal:
    """Deliveries in a folder; to read it while another process writes does no harm."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.counts: Counter[tuple[str, DeliveryOutcome]] = Counter()
        """Deliveries of this process, by event and what became of them."""
        self._path = folder / "deliveries.jsonl"
        self._clock = clock
        self._lock = threading.Lock()
        self._by_id: dict[str, Delivery] = dict(_read(self._path))

    def add(self, hint: Hint, digest: str) -> bool:
        """
        Put a delivery on disk; return False if it is there already.

        Raises Unavailable if it cannot be written.
        """
        with self._lock:
            now = self._clock()
            if self._is_known(hint, digest, now):
                return False
            delivery = Delivery(hint, now, digest)
            self._append(_line(delivery), is_durable=True)
            self._by_id[hint.delivery] = delivery
            return True

    def done(self, delivery: str) -> None:
        """
        Note that a delivery was worked; to forget that in a crash is to work it once more.

        Raises Unavailable if it cannot be written.
        """
        with self._lock:
            delivered = self._by_id.get(delivery)
            if delivered is not None and not delivered.is_done:
                self._by_id[delivery] = replace(delivered, is_done=True)
                self._append({"done": delivery}, is_durable=False)

    def pending(self) -> Sequence[Hint]:
        """Return what is still to be worked, in the order in which it came."""
        return [delivery.hint for delivery in self._deliveries() if not delivery.is_done]

    def recent(self, most: int) -> Sequence[Delivery]:
        """Return the last deliveries, newest first."""
        return self._deliveries()[::-1][:most]

    def count(self, event: str, outcome: DeliveryOutcome) -> None:
        """Count a delivery, and say so in the log."""
        self.counts[event, outcome] += 1
        log.info("webhook %s is %s (%d so far)", event, outcome, self.counts[event, outcome])

    def _deliveries(self) -> Sequence[Delivery]:
        with self._lock:
            return tuple(self._by_id.values())

    def _is_known(self, hint: Hint, digest: str, now: datetime) -> bool:
        if hint.delivery in self._by_id:
            return True
        return any(
            (other.hint.event, other.digest) == (hint.event, digest) and abs(now - other.at) < WINDOW
            for other in self._by_id.values()
        )

    def _append(self, value: dict[str, Any], *, is_durable: bool) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self._path.exists()
            if not is_new and self._path.stat().st_size > _LARGEST:
                self._write_anew()
            with self._path.open("ab") as file:
                # A line that was torn off by a crash must not take this one with it.
                file.write(b"\n" + json.dumps(value).encode())
                file.flush()
                if is_durable:
                    os.fsync(file.fileno())
            if is_new:
                sync_folder(self._path.parent)
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror}; the delivery is not kept") from error

    def _write_anew(self) -> None:
        """Let go of what was worked long ago."""
        done = [name for name, delivery in self._by_id.items() if delivery.is_done]
        for name in done[:-_KEPT]:
            del self._by_id[name]
        lines = (b"\n" + json.dumps(_line(delivery)).encode() for delivery in self._by_id.values())
        replace_durably(self._path, b"".join(lines))


def _line(delivery: Delivery) -> dict[str, Any]:
    document = {"at": delivery.at.isoformat(), "digest": delivery.digest, "hint": asdict(delivery.hint)}
    return document | ({"is_done": True} if delivery.is_done else {})


def _read(path: Path) -> Iterable[tuple[str, Delivery]]:
    deliveries: dict[str, Delivery] = {}
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            with suppress(
                ValueError, KeyError, TypeError, AttributeError, RecursionError
            ):  # torn by a crash: it was not answered either
                value = json.loads(line)
                if "done" in value:
                    deliveries[value["done"]] = replace(deliveries[value["done"]], is_done=True)
                else:
                    hint = Hint(**{**value["hint"], "repos": tuple(value["hint"]["repos"])})
                    at = parse_time(value["at"])
                    deliveries[hint.delivery] = Delivery(
                        hint, at, value["digest"], value.get("is_done", False)
                    )
    return deliveries.items()
