"""
Layers: task over repo over fleet, a fleet's adapter over the built-in one.

One rule for all: mappings are merged key by key, everything else is replaced,
and only what a file sets counts.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from reconciler.core.adapter import Adapter, AdapterSpec
from reconciler.core.fields import Frozen
from reconciler.core.model.specs import FleetSpec, RepoSpec, Task, TaskDefaults, TaskSpec, work_id
from reconciler.core.prices import PricesSpec
from reconciler.specs import yaml

Model = TypeVar("Model", bound=Frozen)


def resolve(
    name: str,
    spec: TaskSpec,
    *,
    generation: str,
    blank: Task,
    campaign: str | None = None,
    is_pilot: bool = False,
) -> Task:
    """Return the task: what its file sets, laid over the blank task of its repo."""
    own = _override(blank, spec, spec.model_fields_set)
    # Every value was validated where it was read.
    whole = {"name": name, "generation": generation, "work": work_id(spec)}
    return blank.model_copy(update={**own, **whole, "campaign": campaign, "is_pilot": is_pilot})


def default_task(fleet: FleetSpec, repo: RepoSpec | None) -> Task:
    """Return a blank task with the defaults of a repo and the fleet."""
    blank = Task.model_construct(name="blank", goal="blank", generation="", work="")
    for spec in (fleet, repo) if repo else (fleet,):
        fields = spec.model_fields_set & TaskDefaults.model_fields.keys()
        blank = blank.model_copy(update=_override(blank, spec, fields))
    return blank


def resolve_adapter(name: str, spec: AdapterSpec | None, blob: str = "") -> Adapter:
    """Return the adapter of that name: the fleet's spec, of the file `blob`, over the built-in one."""
    base = builtin_adapters().get(name, AdapterSpec())
    adapter = with_name(Adapter, overlay(base, spec) if spec else base, name)
    return adapter.model_copy(update={"blob": blob if spec else builtin_blobs().get(name, "")})


@cache
def builtin_prices() -> PricesSpec:
    """Return the prices that are there without a file."""
    value, _ = yaml.load_yaml(Path(__file__).with_name("prices.yaml").read_bytes(), "prices.yaml")
    return PricesSpec.model_validate(value)


@cache
def builtin_adapters() -> Mapping[str, AdapterSpec]:
    """Return the adapters that are there without a file."""
    adapters = {}
    for name, content in _builtin_files().items():
        value, _ = yaml.load_yaml(content, f"{name}.yaml")
        adapters[name] = AdapterSpec.model_validate(value)
    return adapters


@cache
def builtin_blobs() -> Mapping[str, str]:
    """Return the git blob ids of the files of built-in adapters, by name."""
    return {name: blob_id(content) for name, content in _builtin_files().items()}


def _builtin_files() -> Mapping[str, bytes]:
    files = Path(__file__).with_name("builtin").iterdir()
    return {file.name.removesuffix(".yaml"): file.read_bytes() for file in files}


def blob_id(data: bytes, hash_name: str = "sha1") -> str:
    """Return git's name of the content."""
    return hashlib.new(hash_name, b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


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
