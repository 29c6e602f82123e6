"""
Explain: the origin of every field of a task.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from reconciler.core.errors import NotFound, SpecError
from reconciler.core.fields import Frozen
from reconciler.core.model.specs import FleetSpec, RepoSpec, Task, TaskDefaults, TaskSpec
from reconciler.core.names import spec_owner
from reconciler.core.references import no_such
from reconciler.core.variants import variants_of
from reconciler.specs import layers, yaml
from reconciler.specs.parse import FLEET_FILE, ROOT, File, Parsed, Parser, campaign_path, tasks_of

Model = TypeVar("Model", bound=Frozen)

DEFAULT = "default"
TASK_FIELDS = (
    *(field for field in TaskSpec.model_fields if field not in TaskDefaults.model_fields),
    *TaskDefaults.model_fields,
)
"""Fields of a task: those only its own file sets, then those with defaults elsewhere."""


@dataclass(frozen=True, slots=True)
class Explained:
    """One field of a task: its effective value and its origin."""

    field: str
    """Such as `priority`, or `env.PAGE` for one key of a mapping."""
    value: str
    """As YAML, on one line."""
    origin: str
    """`specs/repos/shop.yaml:7`, or `default` for what the program says."""


def explain_fields(files: Mapping[str, File], task: str) -> tuple[Explained, ...]:
    """
    Return every field of a task with its value and its origin, in the order of the documentation.

    Raises NotFound if there is no such task, SpecError if its file, its repo's or the fleet's is broken.
    """
    whole, sources = _resolved(files, task)
    own = next((each for each in (whole, *variants_of(whole)) if each.name == task), None)
    if own is None:
        raise NotFound(no_such("task", task))
    return tuple(_explained(own, sources))


def _resolved(files: Mapping[str, File], name: str) -> tuple[Task, list[Parsed]]:
    """Return the task and the files it is made of, in order of precedence."""
    path = f"{ROOT}/tasks/{spec_owner(name)}.yaml"
    if path not in files and (task := _cell(files, name)):
        return _resolved_over(files, task)
    if path not in files:
        tasks = [path.removeprefix(f"{ROOT}/tasks/").removesuffix(".yaml") for path in files]
        raise NotFound(no_such("task", name, tasks))
    return _resolved_over(files, _read(files, path))


def _cell(files: Mapping[str, File], name: str) -> Parsed | None:
    """Return a task of a campaign; None if there is none of that name."""
    path = campaign_path(name)
    return next((task for task in tasks_of(_read(files, path)) if task.name == name), None) if path else None


def _resolved_over(files: Mapping[str, File], own: Parsed) -> tuple[Task, list[Parsed]]:
    spec, name = _as(TaskSpec, own), own.name
    repo = _read(files, f"{ROOT}/repos/{spec.repo}.yaml")
    fleet = _read(files, FLEET_FILE)
    blank = layers.default_task(_as(FleetSpec, fleet), _as(RepoSpec, repo) if repo.spec else None)
    task = layers.resolve(name, spec, generation=own.file.blob, blank=blank)
    return task, [own, repo, fleet]


def _read(files: Mapping[str, File], path: str) -> Parsed:
    """Return the parsed file; an empty one if it is missing."""
    file = files.get(path)
    parsed = Parser().parse(path, file) if file else None
    if parsed and parsed.problems:
        raise SpecError(parsed.problems)
    return parsed or Parsed(path)


def _as(model: type[Model], parsed: Parsed) -> Model:
    return parsed.spec if isinstance(parsed.spec, model) else model()


def _explained(task: Task, files: list[Parsed]) -> Iterator[Explained]:
    lines = [(parsed.path, _lines(parsed)) for parsed in files]
    values = {**task.model_dump(mode="json"), **_effective(task)}
    for field in TASK_FIELDS:
        for path, value in _leaves(field, values[field]):
            # Only a task's own file may set a field that is not a default.
            given = lines if field in TaskDefaults.model_fields else lines[:1]
            origins = (f"{file}:{positions[path]}" for file, positions in given if path in positions)
            yield Explained(".".join(path), yaml.flow_scalar(value), next(origins, DEFAULT))


def _lines(parsed: Parsed) -> Mapping[yaml.Path, int]:
    places = yaml.key_positions(yaml.decode(parsed.file.data, parsed.path))
    if parsed.cell is None:
        return {path: key[0] for path, (key, _) in places.items()}
    fields = ((field, key) for field in parsed.cell.task for key in _paths_of(field, parsed.cell.task[field]))
    return {
        key: places[where][0][0] for _, key in fields if (where := parsed.cell.place(key, places)) in places
    }


def _paths_of(field: str, value: Any) -> Iterator[tuple[str, ...]]:
    yield (field,)
    yield from ((field, key) for key in value) if isinstance(value, dict) else ()


def _effective(task: Task) -> Mapping[str, Any]:
    """Return the effective values of fields that are None."""
    title = task.headline
    return {"title": title, "pr_title": task.pr_title or title, "branch_name": task.branch}


def _leaves(field: str, value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the parts with an origin of their own: the field, or each key of a (merged) mapping."""
    if not isinstance(value, dict) or not value:
        yield (field,), value
        return
    for key, inner in value.items():
        yield (field, key), inner
