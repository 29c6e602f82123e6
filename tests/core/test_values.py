"""
Whatever comes in at an edge can be borne further in.

One look at every field of every model that is filled from outside: a field
added later is held to it too.
"""

import math
import pkgutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from importlib import import_module
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, RootModel, TypeAdapter, ValidationError

import reconciler
from reconciler.core.adapter import Usage
from reconciler.core.fields import LARGEST_ID, LONGEST, MOST
from reconciler.core.times import EARLIEST, LATEST, format_time, parse_time

EDGES = [
    *(10**400, -(10**400), 2**63, 2**64, -(2**63) - 1, 1e308, -1e308, math.inf, -math.inf, math.nan),
    *("9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "0001-01-01"),
    *(datetime.max, datetime.min),  # noqa: DTZ901 - that is the case
    datetime.max.replace(tzinfo=timezone(-timedelta(hours=23))),
    *("999999999d", "99999999999999999999999999d", "9" * 5000 + "s", timedelta.max, timedelta.min),
    *("a\ud800b", "\udfff"),
]


def _inside(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield the model and all that its fields are made of."""
    yield model
    for info in model.model_fields.values():
        for inner in _models_in(info.annotation):
            yield from _inside(inner)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models_in(part)


MADE_HERE = {"Verdict", "Report", "RunRequest", "Assignment", "Logged", "Context[Any, Any]", "Ctx"}
"""Models that nothing from outside is read as."""


def _incoming() -> Iterator[type[BaseModel]]:
    """Yield every model of the program: of specs, state files, bodies and queries of the API, answers."""
    for info in pkgutil.walk_packages(reconciler.__path__, "reconciler."):
        if info.name.rpartition(".")[2] != "__main__" and "scaffold" not in info.name:
            yield from (
                each
                for each in vars(import_module(info.name)).values()
                if isinstance(each, type)
                and issubclass(each, BaseModel)
                and each.__module__ == info.name
                and each.__name__ not in MADE_HERE
            )


MODELS_INSIDE = sorted(
    {inner for model in _incoming() for inner in _inside(model)}, key=lambda m: (m.__module__, m.__name__)
)
FIELDS = [
    pytest.param(model, name, id=f"{model.__module__.removeprefix('reconciler.')}.{model.__name__}.{name}")
    for model in MODELS_INSIDE
    for name in model.model_fields
]


@pytest.mark.parametrize(("model", "name"), FIELDS)
def test_no_field_lets_in_what_cannot_be_reckoned_with_or_written(model, name):
    info = model.model_fields[name]
    annotation = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    has_config = isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
    if Any in _parts(annotation):
        pytest.skip("only whether it is there is asked")
    config = ConfigDict(
        allow_inf_nan=model.model_config.get("allow_inf_nan", True),
        str_max_length=model.model_config.get("str_max_length"),
    )
    adapter = TypeAdapter(annotation, config=None if has_config else config)

    for edge in EDGES:
        for value in (edge, [edge], (edge,), {"a": edge}):
            for strict in (True, False):
                try:
                    taken = adapter.validate_python(value, strict=strict)
                except ValidationError:
                    continue
                assert all(map(is_borne, _leaves(taken))), f"{value!r:.80} is taken for {taken!r:.80}"


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _parts(part)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for pair in value.items():
            yield from _leaves(pair)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, BaseModel):
        yield from _leaves(dict(value))
    else:
        yield value


def is_borne(value: Any) -> bool:
    if isinstance(value, datetime):
        return EARLIEST <= value <= LATEST
    if isinstance(value, timedelta):
        return timedelta() <= value <= LONGEST
    if isinstance(value, int | float):
        return abs(value) <= LARGEST_ID or (isinstance(value, float) and math.isfinite(value))
    if isinstance(value, str):
        return value.encode("utf-8", "replace") == value.encode("utf-8", "ignore")
    return True


def test_both_ends_of_time_can_be_shown_anywhere_and_reckoned_with():
    for time in (EARLIEST, LATEST):
        assert parse_time(format_time(time)) == time
        for hours in (-23, 23):
            assert time.astimezone(timezone(timedelta(hours=hours))) == time
        assert time + LONGEST > time - LONGEST


def test_times_are_in_utc_from_the_door_on():
    assert parse_time("2030-01-01T01:00:00+01:00").isoformat() == "2030-01-01T00:00:00+00:00"
    assert parse_time(datetime(2030, 1, 1)) == datetime(2030, 1, 1, tzinfo=UTC)  # noqa: DTZ001 - that is the case


def test_what_was_used_is_added_up_without_end():
    most = Usage(input_tokens=10**400, cost_usd=1e308, seconds=10**400, turns=MOST)

    total = most + most + most

    assert total == most
    assert (Usage() - most - most).cost_usd == -MOST


class _Anything(RootModel[Any]):
    """Not a field of ours; it shows that the check above can fail."""


def test_the_check_finds_what_cannot_be_borne():
    bad = [10**400, math.inf, datetime.max.replace(tzinfo=UTC), timedelta.max, "\ud800"]

    assert not any(is_borne(_Anything(each).root) for each in bad)
