"""
Parser: one file to one model of `core`, or every mistake in it at once.

The folder decides the kind, the path is the name.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from reconciler.core.adapter import AdapterSpec
from reconciler.core.errors import NotFound, Problem, SpecError
from reconciler.core.faults import fault_message
from reconciler.core.fields import Frozen
from reconciler.core.model.specs import (
    AccountSpec,
    AgentSpec,
    CampaignSpec,
    DesiredState,
    FleetSpec,
    HostSpec,
    Kind,
    RepoSpec,
    TaskSpec,
)
from reconciler.core.names import check_name, variant_of
from reconciler.core.prices import PRICES_FILE, PricesSpec
from reconciler.core.text import one_line
from reconciler.specs import layers, yaml
from reconciler.specs.campaigns import Cell, campaign_mistakes, read_cells
from reconciler.specs.rules import Mistake, broken_rules
from reconciler.specs.yaml import MAX_MISTAKES, Path

Spec = TypeVar("Spec", bound=Frozen)

MODELS: Mapping[Kind, type[Frozen]] = {
    "fleet": FleetSpec,
    "task": TaskSpec,
    "campaign": CampaignSpec,
    "host": HostSpec,
    "adapter": AdapterSpec,
    "account": AccountSpec,
    "agent": AgentSpec,
    "repo": RepoSpec,
    "prices": PricesSpec,
}
FOLDERS: Mapping[str, Kind] = {
    "tasks": "task",
    "campaigns": "campaign",
    "hosts": "host",
    "adapters": "adapter",
    "accounts": "account",
    "agents": "agent",
    "repos": "repo",
}
ROOT = "specs"
FLEET_FILE = f"{ROOT}/fleet.yaml"
SINGLE_FILES: Mapping[str, tuple[Kind, str]] = {
    FLEET_FILE: ("fleet", "fleet"),
    PRICES_FILE: ("prices", "prices"),
}
"""Kind and name of what a fleet has one of, by path."""


class File(NamedTuple):
    """A file of a revision, as git knows it."""

    mode: str
    """As `git ls-tree` prints it: `100644`, `100755`, `120000` (a symbolic link), `160000`."""
    blob: str
    """Git's id of the content."""
    data: bytes
    """The content, or its beginning if it is larger than `yaml.MAX_BYTES`."""


NO_FILE = File("", "", b"")


@dataclass(frozen=True, slots=True)
class Parsed:
    """Result of parsing one file."""

    path: str
    kind: Kind | None = None
    """None: no spec file may be at this path."""
    name: str = ""
    file: File = NO_FILE
    spec: Frozen | None = None
    """None: there are problems."""
    problems: tuple[Problem, ...] = ()
    standin: "Parsed | None" = None
    """The last good version, in force while this one is broken."""
    cell: Cell | None = None
    """Of a task of a campaign: which; the file is the campaign's, but for its id."""
    is_pilot: bool = False

    @property
    def in_force(self) -> "Parsed | None":
        """This version if it is good, else the last good one."""
        return self if self.spec is not None else self.standin


class Parser:
    """Parses files, with a cache by content: a push of 3 files parses 3."""

    def __init__(self) -> None:
        self._parsed: dict[_Key, Parsed] = {}

    def parse(self, path: str, file: File) -> Parsed | None:
        """Return the parsed file; None if it is not a spec file (README, dotfile)."""
        if is_ignored(path):
            return None
        place = locate(path)
        if isinstance(place, Problem):
            return Parsed(path, problems=(_other_entry(_printable(path), file.mode) or place,))
        kind, name = place
        if problem := _not_a_file(path, file.mode):
            return Parsed(path, kind, name, file, problems=(problem,))
        key = _key(kind, name, file)
        cached = self._parsed.get(key)
        if cached is None:
            cached = self._parsed[key] = Parsed(
                path, kind, name, file, *parse_file(kind, name, file.data, path)
            )
        if cached.path == path:
            return cached
        problems = tuple(replace(problem, path=path) for problem in cached.problems)
        return Parsed(path, kind, name, file, cached.spec, problems)

    def forget(self, keep: Iterable[Parsed]) -> None:
        """Drop cached results that are no longer in force, once they are the majority."""
        kept = {_key(each.kind, each.name, each.file) for one in keep for each in (one, one.standin) if each}
        if len(self._parsed) > 2 * len(kept):
            self._parsed = {key: parsed for key, parsed in self._parsed.items() if key in kept}


_Key = tuple[Kind | None, str, str]


def _key(kind: Kind | None, name: str, file: File) -> _Key:
    """Return the cache key; it includes an adapter's name, which selects the built-in one below it."""
    return kind, name if kind == "adapter" else "", file.blob


def is_ignored(path: str) -> bool:
    """Tell whether a file below `specs/` is for people or tools only."""
    name = path[path.rfind("/") + 1 :]
    is_for_people = name == "README.md" or name.endswith(".example") or "/." in f"/{path}"
    return is_for_people or is_recording(path)


def is_recording(path: str) -> bool:
    """Tell whether a file is part of a recording beside an adapter: nothing that runs depends on it."""
    return "/recordings/" in path and _RECORDING.match(path) is not None


_RECORDING = re.compile(rf"{ROOT}/adapters/[^/]+/recordings/(?!README\.md$)")


def locate(path: str) -> tuple[Kind, str] | Problem:
    """Return the kind and the name of a file by its path, or why it has none."""
    if single := SINGLE_FILES.get(path):
        return single
    shown = _printable(path)
    folder, _, rest = path.removeprefix(f"{ROOT}/").partition("/")
    kind = FOLDERS.get(folder)
    if kind is None or not rest:
        expected = f"expected fleet.yaml, prices.yaml or a file in {', '.join(FOLDERS)}"
        singles = ["fleet.yaml", "fleet.yml", "prices.yaml", "prices.yml"]
        hint = nearest(folder, FOLDERS) if rest else nearest(folder, singles, 0.8)
        return Problem(shown, 1, 1, f"not a place for a spec; {expected}", hint=hint.replace(".yml", ".yaml"))
    if not rest.endswith(".yaml"):
        hint = f"{shown.removesuffix('.yml')}.yaml" if path.endswith(".yml") else ""
        return Problem(shown, 1, 1, "the name of a spec file ends in .yaml", hint=hint)
    name = rest.removesuffix(".yaml")
    if "/" in name and kind != "task":
        return Problem(shown, 1, 1, f"only tasks may lie in folders; move it to {ROOT}/{folder}/")
    try:
        return kind, check_name(name)
    except ValueError as error:
        return Problem(shown, 1, 1, one_line(str(error), _MESSAGE))


def _printable(path: str) -> str:
    """Return a path that may have any bytes in it as text for a terminal and a commit."""
    if path.isprintable():
        return path
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in path)


def _other_entry(path: str, mode: str) -> Problem | None:
    """Return what to do about an entry of git that is a link or another repository."""
    if mode == "120000":
        return Problem(path, 1, 1, "a symbolic link is not followed; put the file itself here")
    if mode == "160000":
        return Problem(path, 1, 1, "another repository is not looked into; put its files themselves here")
    return None


def _not_a_file(path: str, mode: str) -> Problem | None:
    if problem := _other_entry(path, mode):
        return problem
    return None if mode.startswith("100") else Problem(path, 1, 1, "not a file")


def parse_file(kind: Kind, name: str, data: bytes, path: str) -> tuple[Frozen | None, tuple[Problem, ...]]:
    """Return the model that a file's content makes, or None and every mistake in it."""
    try:
        return _parse(kind, name, data, path)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told of the file it is about
        return None, (Problem(path, 1, 1, fault_message(error, "reading it")),)


def _parse(kind: Kind, name: str, data: bytes, path: str) -> tuple[Frozen | None, tuple[Problem, ...]]:
    try:
        value, problems = yaml.load_yaml(data, path)
    except SpecError as error:
        return None, tuple(error.problems)
    spec, mistakes = _validate(MODELS[kind], {} if value is None else value)
    if isinstance(spec, AdapterSpec):
        paths = {mistake.path for mistake in mistakes}
        mistakes += [mistake for mistake in _adapter_mistakes(name, spec) if mistake.path not in paths]
    if isinstance(spec, CampaignSpec) and not mistakes:
        mistakes = _campaign_mistakes(spec, value, data, path)
    if not mistakes and not problems:
        return spec, ()
    placed = locate_mistakes(mistakes, path, data)
    taken = {(problem.line, problem.column) for problem in problems}
    problems += [problem for problem in placed if (problem.line, problem.column) not in taken]
    return None, tuple(sorted(problems)[:MAX_MISTAKES])


def read_data_file(model: type[Spec], data: bytes, path: str) -> tuple[Spec | None, tuple[Problem, ...]]:
    """Return the model of a kind of file that is no spec, or None and every mistake in it."""
    try:
        value, problems = yaml.load_yaml(data, path)
    except SpecError as error:
        return None, tuple(error.problems)
    made, mistakes = _validate(model, {} if value is None else value)
    problems += locate_mistakes(mistakes, path, data)
    return (None, tuple(sorted(problems))) if problems or not isinstance(made, model) else (made, ())


def read_task(path: str, text: str) -> TaskSpec:
    """Return the task spec in a text. Raises SpecError."""
    spec, problems = parse_file("task", path, text.encode(), path)
    if not isinstance(spec, TaskSpec):
        raise SpecError(problems)
    return spec


def read_spec(model: type[Spec], path: str, file: File) -> Spec:
    """Return what a file says by itself. Raises SpecError if it is broken, or of another kind."""
    parsed = Parser().parse(path, file)
    if parsed is None or not isinstance(parsed.spec, model):
        raise SpecError(parsed.problems if parsed else ())
    return parsed.spec


def read_spec_of(model: type[Spec], name: str, path: str, file: File) -> Spec:
    """Return the spec of an object by name; of a task of a campaign, what its file says of that one."""
    if not path.startswith(f"{ROOT}/campaigns/"):
        spec = read_spec(model, path, file)
        return _variant_spec(spec, variant[1]) if (variant := variant_of(name)) else spec
    read_spec(CampaignSpec, path, file)
    for task in tasks_of(Parser().parse(path, file) or Parsed(path)):
        if task.name == name and isinstance(task.spec, model):
            return task.spec
    raise NotFound(f"no task {name!r} in {path}")


def _variant_spec(spec: Spec, number: int) -> Spec:
    """Return what a task's file says of one of its variants alone. Raises NotFound if it has no such."""
    variants = getattr(spec, "variants", ())
    if not 0 < number <= len(variants):
        raise NotFound(f"there is no variant {number}: `variants` has {len(variants)}")
    own = variants[number - 1]
    return spec.model_copy(update={"desired": own.desired, "answer": own.answer, "held": own.held})


def _validate(model: type[Frozen], value: Any) -> tuple[Frozen | None, list[Mistake]]:
    if not isinstance(value, dict):
        return None, [Mistake((), "expected 'key: value' lines")]
    try:
        spec = model.model_validate(value)
    except ValidationError as error:
        return None, [_explain(model, value, details) for details in error.errors(include_url=False)]
    return spec, broken_rules(spec)


def _adapter_mistakes(name: str, spec: AdapterSpec) -> list[Mistake]:
    """Return what is wrong with the adapter once it lies over the built-in one."""
    from reconciler.specs.adapters import broken_parts, useless_parts

    whole = layers.resolve_adapter(name, spec)
    useless = (mistake for mistake in useless_parts(whole) if _is_own(spec, mistake))
    return [*broken_parts(whole), *useless]


def _campaign_mistakes(spec: CampaignSpec, value: Any, data: bytes, path: str) -> list[Mistake]:
    """Return what is wrong with a campaign, and with its tasks once they are as they would be read."""
    if mistakes := list(campaign_mistakes(spec, value)):
        return mistakes
    places = yaml.key_positions(yaml.decode(data, path))
    by_place: dict[tuple[Path, str], Mistake] = {}
    for cell in read_cells(data, path):
        for mistake in _validate(TaskSpec, cell.task)[1]:
            where = cell.place(mistake.path, places)
            by_place.setdefault((where, mistake.message), replace(mistake, path=where))
    return list(by_place.values())[:MAX_MISTAKES]


def campaign_path(task: str) -> str:
    """Return where the campaign would be that a task is of, by its name; empty if none could."""
    campaign, _, cell = task.partition("/")
    return f"{ROOT}/campaigns/{campaign}.yaml" if cell else ""


def campaign_generation(task: str, data: bytes) -> str:
    """Return the generation of a task in the content of its campaign's file; empty if it is not of it."""
    path = campaign_path(task)
    campaign = Parser().parse(path, File("100644", "", data)) or Parsed(path)
    return next((each.file.blob for each in tasks_of(campaign) if each.name == task), "")


def tasks_of(campaign: Parsed) -> tuple[Parsed, ...]:
    """Return the tasks of a campaign's file, in the order of its matrix; of a broken one, those in force."""
    good = campaign.in_force
    if campaign.kind != "campaign" or good is None or not isinstance(good.spec, CampaignSpec):
        return ()
    every = []
    for cell in read_cells(good.file.data, good.path):
        name, file = f"{campaign.name}/{cell.name}", good.file._replace(blob=cell.generation)
        spec, _ = _validate(TaskSpec, cell.task)
        task = Parsed(campaign.path, "task", name, file, spec, cell=cell)
        every.append(
            task if good is campaign else replace(task, spec=None, problems=campaign.problems, standin=task)
        )
    wanted = [task for task in every if not _is_cancelled(task)]
    pilots = {task.name for task in wanted[: good.spec.pilot]}
    return tuple(replace(task, is_pilot=task.name in pilots) for task in every)


def _is_cancelled(task: Parsed) -> bool:
    spec = task.in_force.spec if task.in_force else None
    return isinstance(spec, TaskSpec) and spec.desired is DesiredState.CANCELLED


def _is_own(spec: Frozen, mistake: Mistake) -> bool:
    """Return whether a mistake is in a field that the file itself sets; what it inherits is not its own."""
    part: object = spec
    for step in mistake.path:
        if isinstance(part, Frozen):
            if step not in part.model_fields_set:
                return False
            part = getattr(part, str(step))
        elif isinstance(part, dict):
            part = part.get(step)
    return True


def locate_mistakes(
    unplaced: Iterable[Mistake], path: str, data: bytes, cell: Cell | None = None
) -> list[Problem]:
    """Give each mistake its position: of the value, of the key, or of the key that lacks something."""
    mistakes = list(unplaced)
    if not mistakes:
        return []
    text = yaml.decode(data, path)
    places = yaml.key_positions(text)
    problems = []
    for mistake in (
        mistakes if cell is None else [replace(m, path=cell.place(m.path, places)) for m in mistakes]
    ):
        where: Path = mistake.path
        while where and where not in places:
            where = where[:-1]
        lacks_key = isinstance(mistake.path[len(where)], str) if where != mistake.path else False
        line, column = places[where][0 if mistake.at_key or lacks_key else 1] if where else (1, 1)
        message = mistake.message
        if mistake.within:
            inner = yaml.place_within(text, (line, column), mistake.within) if where == mistake.path else None
            line, column = inner or (line, column)
            message = message if inner or mistake.within[0] == 1 else f"line {mistake.within[0]}: {message}"
        field = ".".join(map(str, mistake.path if lacks_key else where))
        problems.append(
            Problem(
                path,
                line,
                column,
                one_line(message, _MESSAGE),
                one_line(field, _MESSAGE),
                mistake.hint,
                "warning" if mistake.is_doubt else "error",
            )
        )
    return problems


_MESSAGE = 240
"""Longest message; a value in it may be a page."""


def _explain(model: type[Frozen], value: Any, details: ErrorDetails) -> Mistake:
    """Explain an error of pydantic in terms of YAML."""
    loc, kind = details["loc"], details["type"]
    if loc and loc[-1] == "[key]":
        return replace(_explain(model, value, {**details, "loc": loc[:-1]}), at_key=True)
    if kind == "extra_forbidden":
        fields = _fields_at(model, loc[:-1])
        hint = nearest(str(loc[-1]), fields)
        return Mistake(loc, "unknown field" if hint else f"unknown field{_which(fields)}", hint, at_key=True)
    if kind == "missing":
        return Mistake(loc, "is missing")
    given = _at(value, loc)
    if given is None:
        return Mistake(loc, "has no value; give it one or remove the line")
    return Mistake(loc, *_wrong_value(details, given))


_FEW_FIELDS = 12


def _which(fields: Collection[str]) -> str:
    """Return the end of a sentence about a field that is none: which there are, or what lists them."""
    few = f"there are {', '.join(fields)}" if len(fields) <= _FEW_FIELDS else "`reconciler schema` lists them"
    return f"; {few}" if fields else ""


def _wrong_value(details: ErrorDetails, given: object) -> tuple[str, str]:
    """Return what is wrong with a value, and what was meant where that can be guessed."""
    kind, context = details["type"], details.get("ctx", {})
    if kind in {"enum", "literal_error"}:
        allowed = str(context["expected"])
        return f"expected {allowed}", nearest(given, _QUOTED.findall(allowed))
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], f"must match {context['pattern']}"), ""
    if kind in _BOUNDS:
        message, bound = _BOUNDS[kind]
        return f"must be {message} {context[bound]}, not {given}", ""
    if kind in _EXPECTED:
        return _EXPECTED[kind] + _quote_it(kind, given), ""
    return str(context.get("error", details["msg"])), ""


_QUOTED = re.compile(r"'([^']+)'")
_EXPECTED = {
    "string_type": "expected a text",
    "string_too_short": "must not be empty",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list of texts",
    "dict_type": "expected 'key: value' lines",
    "model_type": "expected 'key: value' lines",
}
_PATTERNS = {
    r"^[A-Za-z_][A-Za-z0-9_]*$": (
        "expected the name of an environment variable: letters, digits and '_', no digit first"
    ),
    r"^[A-Za-z0-9_./+=:,@%-]+$": "expected one word of letters, digits and any of _ . / + = : , @ % -",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _quote_it(kind: str, given: object) -> str:
    """Return the hint to quote a value such as `version: 1.10` or `answer: yes`."""
    is_scalar = isinstance(given, bool | int | float)
    return f", not {given}; put it in quotes".lower() if kind == "string_type" and is_scalar else ""


def _at(value: Any, path: Iterable[str | int]) -> Any:
    for step in path:
        if not isinstance(value, dict | tuple):  # one text where a list may stand
            return value
        value = value[step]  # type: ignore[index] # pydantic found it there
    return value


def _fields_at(model: type[Frozen], path: Iterable[str | int]) -> Collection[str]:
    """Return the fields of the model that a path leads to."""
    for step in path:
        info = model.model_fields.get(str(step))
        inner = _model_in(info.annotation) if info else None
        model = inner or model
    return model.model_fields


def _model_in(annotation: Any) -> type[Frozen] | None:
    """Return the model in an annotation such as `Budget | None` or `dict[str, Secret]`."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def nearest(word: object, candidates: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the candidate that was probably meant; empty if none is close."""
    matches = get_close_matches(word, sorted(candidates), 1, cutoff) if isinstance(word, str) else []
    return matches[0] if matches else ""
