"""
What is laid over what: task over repo over fleet, a fleet's adapter over the built-in one.

One rule for all: mappings are merged key by key, everything else is replaced,
and only what a file sets counts.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar, cast

from reconciler.core.adapter import Adapter, AdapterSpec
from reconciler.core.fields import Frozen
from reconciler.core.model import FleetSpec, RepoSpec, Task, TaskDefaults, TaskSpec, work_id
from reconciler.specs import yaml

Model = TypeVar("Model", bound=Frozen)
Layer = Mapping[str, Any]
"""Fields that a repo or the fleet sets for its tasks, and their values."""


def resolve(name: str, spec: TaskSpec, *, generation: str, layer: Layer) -> Task:
    """Return the task with every field that its file leaves out filled in."""
    values = {**vars(spec), "name": name, "generation": generation, "work": work_id(spec)}
    for field, below in layer.items():
        values[field] = merged(below, values[field]) if field in spec.model_fields_set else below
    # Every value was validated where it was read.
    return Task.model_construct(spec.model_fields_set, **values)


def layer(fleet: FleetSpec, repo: RepoSpec | None) -> Layer:
    """Return the defaults of a repo's tasks, or of the tasks without a repo."""
    values: dict[str, Any] = {}
    for spec in (fleet, repo):
        if spec is not None:
            for field in TaskDefaults.model_fields.keys() & spec.model_fields_set:
                values[field] = merged(values.get(field), getattr(spec, field))
    return values


def adapter(name: str, spec: AdapterSpec | None) -> Adapter:
    """Return the adapter of that name: what the fleet says of it over the built-in one."""
    base = builtin_adapters().get(name, AdapterSpec())
    return named(Adapter, overlay(base, spec) if spec else base, name)


@cache
def builtin_adapters() -> Mapping[str, AdapterSpec]:
    """Return the adapters that are there without a file."""
    found = {}
    for file in files("reconciler.specs").joinpath("builtin").iterdir():
        value, _ = yaml.load(file.read_bytes(), file.name)
        found[file.name.removesuffix(".yaml")] = AdapterSpec.model_validate(value)
    return found


def overlay(below: Model, above: Model) -> Model:
    """Return the lower model with what the upper one sets."""
    fields = above.model_fields_set
    return below.model_copy(
        update={name: merged(getattr(below, name), getattr(above, name)) for name in fields}
    )


def merged(below: Any, above: Any) -> Any:
    """Return what counts where both layers set a value."""
    if isinstance(below, Frozen) and isinstance(above, Frozen):
        return overlay(below, above)
    if isinstance(below, dict) and isinstance(above, dict):
        keys = {**below, **above}
        return {key: merged(below.get(key), above[key]) if key in above else below[key] for key in keys}
    return above


def named(model: type[Model], spec: Frozen, name: str) -> Model:
    """Return the model that is this spec with its name."""
    values = {**vars(spec), "name": name}
    # pydantic's plugin for mypy takes the variable's bound for what is built.
    return cast("Model", model.model_construct(spec.model_fields_set, **values))
