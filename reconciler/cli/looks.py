"""
Look snapshot: what commands show of a fleet, as they print it, in a file of the data folder.

The models and their library take longer to import than all else that a look does. A look holds for one
commit of the specs, one of the record and one version of the program; it is kept only where no run is
live. In doubt it is passed over: who looks then reads the fleet itself.
"""

import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.cli.output import Column, Document
from reconciler.cli.shown import ShownKind
from reconciler.core.needs import Need
from reconciler.core.times import Age, time_at
from reconciler.files import parse_json, replace_atomically
from reconciler.specs.snapshot import DAMAGED, program_id
from reconciler.store.presence import fleet_file

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.core.views import ReadModel

MOST_TASKS = 1000
"""With more of them the models are not what takes the time, and the file gets large."""

Key = Sequence[str]
"""Commit of the specs, of the record (of every shard), and the program."""


@dataclass(frozen=True, slots=True)
class ShownThing:
    """One task, host or other thing, as it is printed."""

    name: str
    document: Document
    cells: Mapping[str, str]
    """Its cells of a table, by the title of the column; times in them are marked."""
    details: str
    """What `describe` prints of it; times in it are marked."""
    labels: Sequence[str]
    is_bad_end: bool
    """Whether it is a task that failed."""


@dataclass(frozen=True, slots=True)
class FleetSummary:
    """What `status` says of all tasks and hosts."""

    phases: Mapping[str, int]
    hosts: Mapping[str, int]
    needs: Sequence[Need]
    is_settled: bool
    """Whether no task on record waits for a reconciler."""


class Look:
    """The lines of a file: the summary, and then each kind, read once it is looked at."""

    def __init__(self, lines: Sequence[bytes], mark: str) -> None:
        self._lines = lines
        self._mark = re.compile(rf"{mark}(\d+\.\d+);")
        self._things: dict[str, Mapping[str, ShownThing]] = {}

    @cached_property
    def summary(self) -> FleetSummary:
        """Return what `status` says."""
        document = parse_json(self._lines[0])
        return FleetSummary(**{**document, "needs": [Need(*need) for need in document["needs"]]})

    @cached_property
    def kinds(self) -> Mapping[str, ShownKind]:
        """Return every kind, by name."""
        return {kind.name: kind for kind in map(self._kind, self._lines[1::2], self._lines[2::2])}

    def _kind(self, head: bytes, body: bytes) -> ShownKind:
        document = parse_json(head)
        name, has_labels, columns = document["name"], document["has_labels"], document["columns"]
        return ShownKind(
            name,
            lambda _: self._things_of(name, body),
            lambda age: [Column(title, self._cell(title, age), *rest) for title, *rest in columns],
            attrgetter("document"),
            lambda thing, age: self._filled(thing.details, age),
            attrgetter("labels") if has_labels else None,
        )

    def _things_of(self, kind: str, body: bytes) -> Mapping[str, ShownThing]:
        if kind not in self._things:
            things = (ShownThing(**document) for document in parse_json(body))
            self._things[kind] = {thing.name: thing for thing in things}
        return self._things[kind]

    def _cell(self, title: str, age: Age) -> Callable[[ShownThing], str]:
        return lambda thing: self._filled(thing.cells[title], age)

    def _filled(self, text: str, age: Age) -> str:
        """Return a text with how long ago the marked times were."""
        return self._mark.sub(lambda match: age(time_at(float(match[1]))), text)


@dataclass(frozen=True, slots=True)
class LookSnapshot:
    """The file with the last look, for who writes it and who reads it."""

    path: Path
    key: Key

    def load(self) -> Look | None:
        """Return the look; None if there is none of these commits."""
        with suppress(*DAMAGED), self.path.open("rb") as file:
            head, body = parse_json(file.readline()), file.read()
            if head["of"] == [*self.key] and head["sum"] == sha256(body).hexdigest():
                return Look(body.split(b"\n"), head["mark"])
        return None

    def save(self, model: "ReadModel") -> None:
        """
        Write the look; where that cannot be done, the next command reads the fleet again.

        The first time that a commit is looked at only that is noted: while a fleet is at work, nobody
        comes back to the same one.
        """
        with suppress(*DAMAGED):
            mark, lines = secrets.token_hex(8), []
            if self._was_seen():
                lines = [*look_lines(model, mark)]
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            body = b"\n".join(lines)
            head = {"of": self.key, "sum": sha256(body).hexdigest() if lines else "", "mark": mark}
            replace_atomically(self.path, json.dumps(head).encode() + b"\n" + body, mode=0o600)

    def _was_seen(self) -> bool:
        with suppress(*DAMAGED), self.path.open("rb") as file:
            return bool(parse_json(file.readline())["of"] == [*self.key])
        return False


async def look_snapshot(fleet: "FleetSession") -> LookSnapshot:
    """Return the snapshot of what is there now; prints notices of the record on stderr."""
    branches = (await fleet.record_branches()).values()
    heads = (fleet.repository.read_ref(fleet.repository.ref(branch)) or "" for branch in branches)
    path = fleet_file(fleet.repository, fleet.branch, fleet.context.data_dir / "parsed", "looks")
    return LookSnapshot(path, (await fleet.guarded_tree().head(), *heads, *branches, program_id()))


async def save_look(fleet: "FleetSession", seen: LookSnapshot, model: "ReadModel") -> None:
    """Save what was read, unless the fleet is large, at work or damaged, or has moved on meanwhile."""
    observed, desired = model.observed, model.desired
    passing = (each.phase.is_live or each.archived for each in observed.statuses.values())
    is_quiet = not observed.damaged and not any(passing)
    if is_quiet and len(model.names()) <= MOST_TASKS and (await look_snapshot(fleet)) == seen:
        closed = await fleet.closed_since(
            host.name for host in desired.hosts.values() if host.cordon or host.drain
        )
        seen.save(replace(model, closed=closed))


# --- Writing ---------------------------------------------------------------


def look_lines(model: "ReadModel", mark: str) -> Iterator[bytes]:
    """Yield the lines of a file; times are marked where how long ago they were is shown."""
    from reconciler.cli.kinds import SHOWN_KINDS

    def age(at: Any) -> str:
        return f"{mark}{at.timestamp():.3f};"

    yield _line(_summary_document(summary_of(model)))
    for kind in SHOWN_KINDS.values():
        columns = kind.columns(age)
        titles = [(column.title, column.is_wide, column.least, column.is_optional) for column in columns]
        yield _line({"name": kind.name, "has_labels": kind.labels is not None, "columns": titles})
        yield _line([_thing_document(kind, thing, columns, age) for thing in kind.pick(model)])


def summary_of(model: "ReadModel") -> FleetSummary:
    """Return what `status` says of a fleet."""
    from reconciler.cli.notices import is_settled

    views = model.tasks()
    return FleetSummary(
        phases=dict(sorted(Counter(view.state for view in views.values()).items())),
        hosts=dict(sorted(Counter(view.state for view in model.hosts().values()).items())),
        needs=[*model.needs(views.values())],
        is_settled=all(map(is_settled, model.observed.statuses.values())),
    )


def _summary_document(summary: FleetSummary) -> Document:
    names = FleetSummary.__slots__
    return {name: getattr(summary, name) for name in names}


def _thing_document(kind: ShownKind, thing: Any, columns: Sequence[Column], age: Age) -> Document:
    return {
        "name": thing.name,
        "document": kind.document(thing),
        "cells": {column.title: column.cell(thing) for column in columns},
        "details": kind.details(thing, age),
        "labels": [*kind.labels(thing)] if kind.labels else [],
        "is_bad_end": getattr(thing, "is_bad_end", False),
    }


def _line(document: object) -> bytes:
    return json.dumps(document).encode()
