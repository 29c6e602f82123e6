"""
Campaigns: from one file to a task for each combination of its matrix.

The tasks are as any other: their specs are those that files of their own would hold.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

from reconciler.core.model.specs import Campaign, CampaignSpec
from reconciler.core.names import check_name
from reconciler.specs import yaml
from reconciler.specs.layers import blob_id, merge_layers
from reconciler.specs.rules import Mistake
from reconciler.specs.yaml import Path

MOST_TASKS = 1000
"""Most tasks of one campaign."""
MOST_TEXT = 8 * 1024 * 1024
"""Most characters of all of them together."""
REPO_AXIS = "repo"
_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_VERBATIM = frozenset({"template"})
"""Fields whose own language writes variables in the same way."""

Raw = Mapping[str, Any]


class Cell(NamedTuple):
    """One combination of a matrix, as a task."""

    name: str
    """Below that of the campaign."""
    values: Mapping[str, str]
    task: Raw
    """What a file of its own would hold."""

    @property
    def generation(self) -> str:
        """What git would call that file."""
        return blob_id(json.dumps(self.task, sort_keys=True, default=str).encode())

    def place(self, path: Path, places: Mapping[Path, object]) -> Path:
        """Return where in the campaign's file a field of the task is written, as far as it is."""
        if path and ("tasks", self.name, path[0]) in places:
            return ("tasks", self.name, *path)
        if path and path[0] == REPO_AXIS and ("task", REPO_AXIS) not in places:
            return ("matrix", REPO_AXIS)
        return ("task", *path)


def cells(value: Raw) -> Sequence[Cell]:
    """Return the tasks of a campaign whose file holds a valid value, in the order of its matrix."""
    axes = {axis: _texts(values) for axis, values in value["matrix"].items()}
    every = []
    for combination in product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        name = "/".join(map(_segment, combination))
        own = (value.get("tasks") or {}).get(name, {})
        repo = {REPO_AXIS: values[REPO_AXIS]} if REPO_AXIS in values else {}
        task = {key: _filled(each, values, key) for key, each in value["task"].items()}
        every.append(Cell(name, values, merge_layers({**task, **repo}, dict(own))))
    return every


def campaign_mistakes(spec: CampaignSpec, value: Raw) -> Iterator[Mistake]:
    """Yield what is wrong with a campaign beside its fields' types."""
    count = prod(len(values) for values in spec.matrix.values())
    if count == 0:
        yield Mistake(("matrix",), "an axis without values makes no tasks")
    elif count > MOST_TASKS:
        yield Mistake(("matrix",), f"makes {count} tasks; {MOST_TASKS} are the most, so divide the campaign")
    elif count * len(json.dumps(value["task"], default=str)) > MOST_TEXT:
        yield Mistake(("task",), f"{count} tasks of this length are more than {MOST_TEXT} characters")
    else:
        yield from _variable_mistakes(value["task"], spec.matrix, ("task",))
        yield from _cell_mistakes(spec, cells(value))
    if "repo" in spec.task.model_fields_set and REPO_AXIS in spec.matrix:
        yield Mistake(("task", "repo"), "the matrix says it", at_key=True)


def _cell_mistakes(spec: CampaignSpec, all_cells: Sequence[Cell]) -> Iterator[Mistake]:
    taken: dict[str, Cell] = {}
    for cell in all_cells:
        if other := taken.get(cell.name):
            yield Mistake(
                ("matrix",), f"two tasks would be called {cell.name!r}: {_values(other)}, {_values(cell)}"
            )
        taken[cell.name] = cell
        try:
            check_name(cell.name)
        except ValueError as error:
            yield Mistake(("matrix",), str(error))
    for name in sorted(spec.tasks.keys() - taken.keys()):
        from reconciler.specs.parse import nearest  # noqa: PLC0415 - it reads campaigns by this module

        yield Mistake(("tasks", name), "no such task in the matrix", nearest(name, taken), at_key=True)


def _values(cell: Cell) -> str:
    return ", ".join(f"{axis} {value!r}" for axis, value in cell.values.items())


def _variable_mistakes(value: Any, axes: Mapping[str, object], path: Path) -> Iterator[Mistake]:
    """Yield the variables that no axis of the matrix has."""
    if isinstance(value, str):
        for name in _VARIABLE.findall(value):
            if name not in axes:
                yield Mistake(path, f"{{{{{name}}}}} is no axis of the matrix: {', '.join(axes)}")
    elif isinstance(value, dict):
        for key, each in value.items():
            if key not in _VERBATIM:
                yield from _variable_mistakes(each, axes, (*path, key))
    elif isinstance(value, tuple):
        for at, each in enumerate(value):
            yield from _variable_mistakes(each, axes, (*path, at))


def _texts(values: Any) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)


def _segment(value: str) -> str:
    """Return a value as a part of a name."""
    return _UNSAFE.sub("-", value).strip("-._") or "-"


def _filled(value: Any, values: Mapping[str, str], key: str = "") -> Any:
    """Return a value with the variables in its texts replaced."""
    if key in _VERBATIM:
        return value
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: values.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {name: _filled(each, values) for name, each in value.items()}
    return tuple(_filled(each, values) for each in value) if isinstance(value, tuple) else value


def read_cells(data: bytes, path: str) -> Sequence[Cell]:
    """Return the tasks of a campaign's file that was validated before."""
    value, _ = yaml.load_yaml(data, path)
    return cells(value)


def as_campaign(name: str, spec: CampaignSpec, names: Sequence[str]) -> Campaign:
    """Return the campaign as the planner sees it."""
    return Campaign.model_construct(
        name=name, tasks=tuple(names), pilot=spec.pilot, width=spec.width, stop_after=spec.stop_after
    )
