"""
Layers: task over repo over fleet, a fleet's adapter over the built-in one.

One rule for all: mappings are merged key by key, everything else is replaced,
and only what a file sets counts.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from reconciler.core.adapter import Adapter, AdapterSpec
from reconciler.core.fields import Frozen
from reconciler.core.model.specs import FleetSpec, RepoSpec, Task, TaskDefaults, TaskSpec, work_id
from reconciler.specs import yaml

Model = TypeVar("Model", bound=Frozen)


def resolve(name: str, spec: TaskSpec, *, generation: str, blank: Task) -> Task:
    """Return the task: what its file sets, laid over the blank task of its repo."""
    own = _override(blank, spec, spec.model_fields_set)
    # Every value was validated where it was read.
    return blank.model_copy(update={**own, "name": name, "generation": generation, "work": work_id(spec)})


def default_task(fleet: FleetSpec, repo: RepoSpec | None) -> Task:
    """Return a blank task with the defaults of a repo and the fleet."""
    blank = Task.model_construct(name="blank", goal="blank", generation="", work="")
    for spec in (fleet, repo) if repo else (fleet,):
        fields = spec.model_fields_set & TaskDefaults.model_fields.keys()
        blank = blank.model_copy(update=_override(blank, spec, fields))
    return blank


def resolve_adapter(name: str, spec: AdapterSpec | None) -> Adapter:
    """Return the adapter of that name: the fleet's spec over the built-in one."""
    base = builtin_adapters().get(name, AdapterSpec())
    return with_name(Adapter, overlay(base, spec) if spec else base, name)


@cache
def builtin_adapters() -> Mapping[str, AdapterSpec]:
    """Return the adapters that are there without a file."""
    adapters = {}
    for file in Path(__file__).with_name("builtin").iterdir():
        value, _ = yaml.load_yaml(file.read_bytes(), file.name)
        adapters[file.name.removesuffix(".yaml")] = AdapterSpec.model_validate(value)
    return adapters


def overlay(below: Model, above: Model) -> Model:
    """Return the lower model with what the upper one sets."""
    return below.model_copy(update=_override(below, above, above.model_fields_set))


def _override(below: Frozen, above: Frozen, fields: Iterable[str]) -> dict[str, Any]:
    under, over = vars(below), vars(above)
    return {field: merge_layers(under[field], over[field]) for field in fields}


def merge_layers(below: Any, above: Any) -> Any:
    """Return the merged value where both layers set one."""
    if type(above) in _LEAVES:  # the common case; checking for a model takes ten times as long
        return above
    if isinstance(below, Frozen) and isinstance(above, Frozen):
        return overlay(below, above)
    if isinstance(below, dict) and isinstance(above, dict):
        keys = {**below, **above}
        return {key: merge_layers(below.get(key), above[key]) if key in above else below[key] for key in keys}
    return above


_LEAVES = frozenset({str, int, float, bool, tuple, timedelta, type(None)})


def with_name(model: type[Model], spec: Frozen, name: str) -> Model:
    """Return the model that is this spec with its name."""
    values = {**vars(spec), "name": name}
    # pydantic's plugin for mypy takes the variable's bound for what is built.
    return cast("Model", model.model_construct(spec.model_fields_set, **values))
