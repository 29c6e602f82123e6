"""
Specs snapshot: what some specs ask for, in a file, so that commands that look need not parse them again.

Written by whoever had to parse them, and passed over in doubt: of other specs,
by another version of the program, damaged. Its values are validated as they
are read, and those that would not come back as they were are not written.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple
from functools import cache
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler import __version__
from reconciler.core.errors import Problem
from reconciler.files import parse_json, replace_atomically

if TYPE_CHECKING:
    from reconciler.core.fields import Frozen
    from reconciler.core.model.specs import Desired
    from reconciler.core.model.status import Status

Document = Mapping[str, Any]

PROBLEMS = ("problems", "warnings")
DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What is raised by a file that holds anything else than was written here."""


class SpecsSnapshot:
    """The file for who writes it and who reads it; a key names the specs, such as their commit."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def state_branch(self, key: str) -> str | None:
        """Return the branch with the record, without importing any model; None if that is not known."""
        with suppress(*DAMAGED), self._path.open("rb") as file:
            head = parse_json(file.readline())
            if head["of"] == [key, program_id()]:
                return str(head["state_branch"])
        return None

    def load(self, key: str, statuses: "Mapping[str, Status]") -> "Desired | None":
        """Return what the specs ask for, as parsed beside this record; None if that is not known."""
        with suppress(*DAMAGED), self._path.open("rb") as file:
            head, body = parse_json(file.readline()), file.read()
            is_of_these = head["of"] == [key, program_id()] and head["sum"] == sha256(body).hexdigest()
            if is_of_these and _generations(head["generations"], statuses) == head["generations"]:
                return _desired(parse_json(body))
        return None

    def save(self, key: str, desired: "Desired", statuses: "Mapping[str, Status]") -> None:
        """Write what was parsed; where that cannot be done, the next command parses it again."""
        with suppress(*DAMAGED):
            body = json.dumps(_document(desired)).encode()
            head = {
                "of": [key, program_id()],
                "sum": sha256(body).hexdigest(),
                "state_branch": desired.fleet.state_branch,
                "generations": _generations(desired.broken, statuses),
            }
            if _desired(parse_json(body)) == desired:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                replace_atomically(self._path, json.dumps(head).encode() + b"\n" + body, mode=0o600)


def _generations(broken: "Mapping[str, Any]", statuses: "Mapping[str, Status]") -> Mapping[str, str]:
    """Return which versions of broken tasks the record asks for: the last good one may be found by that."""
    return {name: statuses[name].generation if name in statuses else "" for name in broken}


@cache
def program_id() -> str:
    """Return which program writes: an installed one by its version, one that is edited by its files."""
    package = Path(__file__).parents[1]
    parts = (package / part for part in ("specs", "core", "cli"))
    files = sorted(chain.from_iterable(_files(str(part)) for part in parts))
    return sha256(f"{__version__} {files}".encode()).hexdigest()


def _files(folder: str) -> Iterator[tuple[str, int, int]]:
    """Yield path, size and time of every file of a folder, but compiled ones."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from () if entry.name == "__pycache__" else _files(entry.path)
            else:
                stat = entry.stat()
                yield entry.path, stat.st_size, stat.st_mtime_ns


def _models() -> "Mapping[str, type[Frozen]]":
    """Return the model of each mapping of what is desired."""
    from reconciler.core.adapter import Adapter
    from reconciler.core.model.specs import Account, Agent, Campaign, Host, Repo, Task
    from reconciler.core.prices import Price

    return {
        "tasks": Task,
        "hosts": Host,
        "adapters": Adapter,
        "accounts": Account,
        "agents": Agent,
        "repos": Repo,
        "campaigns": Campaign,
        "prices": Price,
    }


def _document(desired: "Desired") -> Document:
    things = {
        kind: {name: _dumped(thing) for name, thing in getattr(desired, kind).items()} for kind in _models()
    }
    problems = {kind: [*map(astuple, getattr(desired, kind))] for kind in PROBLEMS}
    broken = {name: [*map(astuple, problems)] for name, problems in desired.broken.items()}
    fleet = _dumped(desired.fleet)
    campaigns = {"unreadable_campaigns": sorted(desired.unreadable_campaigns), "is_bare": desired.is_bare}
    return {"revision": desired.revision, "fleet": fleet, **things, **problems, "broken": broken, **campaigns}


def _dumped(thing: "Frozen") -> Document:
    return thing.model_dump(mode="json", exclude_defaults=True)


def _desired(document: Document) -> "Desired":
    from reconciler.core.model.specs import Desired, FleetSpec

    values: dict[str, Any] = {
        **{kind: ModelMapping(model, document[kind]) for kind, model in _models().items()},
        **{kind: _problems(document[kind]) for kind in PROBLEMS},
        "broken": {name: _problems(problems) for name, problems in document["broken"].items()},
        "unreadable_campaigns": frozenset(document["unreadable_campaigns"]),
        "is_bare": document["is_bare"],
    }
    fleet = FleetSpec.model_validate(document["fleet"], strict=False)
    return Desired(document["revision"], fleet, **values)


class ModelMapping(Mapping[str, Any]):
    """Things of one kind by name, each validated once it is looked at: most commands look at few kinds."""

    def __init__(self, model: "type[Frozen]", documents: Mapping[str, Document]) -> None:
        self._model = model
        self._documents = documents
        self._things: dict[str, Frozen] = {}

    def __getitem__(self, name: str) -> "Frozen":
        if name not in self._things:
            self._things[name] = self._model.model_validate(self._documents[name], strict=False)
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._documents)

    def __len__(self) -> int:
        return len(self._documents)

    def __contains__(self, name: object) -> bool:
        return name in self._documents


def _problems(problems: list[list[Any]]) -> tuple[Problem, ...]:
    return tuple(Problem(*problem) for problem in problems)
