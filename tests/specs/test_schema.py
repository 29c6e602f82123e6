"""JSON Schemas that editors can work with."""

from typing import get_args

import pytest

from reconciler.core.errors import SpecError
from reconciler.core.model.specs import Kind
from reconciler.specs.parse import MODELS
from reconciler.specs.schema import json_schema, modeline

KINDS = pytest.mark.parametrize("kind", get_args(Kind))


def objects(node):
    """Yield every schema of an object inside a schema."""
    if isinstance(node, dict):
        if "properties" in node and "type" in node:
            yield node
        for value in node.values():
            yield from objects(value)
    elif isinstance(node, list):
        for value in node:
            yield from objects(value)


@KINDS
def test_every_field_has_a_description(kind):
    found = list(objects(json_schema(kind)))

    assert found
    for each in found:
        assert [name for name, field in each["properties"].items() if not field.get("description")] == []


@KINDS
def test_every_field_of_the_model_is_there_and_no_other_is_allowed(kind):
    document = json_schema(kind)

    assert set(document["properties"]) == set(MODELS[kind].model_fields)
    assert all(each["additionalProperties"] is False for each in objects(document))


@KINDS
def test_a_schema_stands_for_itself(kind):
    text = str(json_schema(kind))

    assert "$ref" not in text
    assert "$defs" not in text
    assert "'$id'" not in text


def test_only_the_goal_of_a_task_is_required():
    assert json_schema("task")["required"] == ["goal"]


def test_defaults_are_written_as_people_write_them():
    fields = json_schema("task")["properties"]

    assert fields["timeout"]["default"] == "2h"
    assert fields["desired"]["enum"] == ["active", "suspended", "cancelled"]
    assert fields["env"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("specs/fleet.yaml", "../.schemas/fleet.json"),
        ("specs/hosts/local.yaml", "../../.schemas/host.json"),
        ("specs/tasks/web/a/b.yaml", "../../../../.schemas/task.json"),
    ],
)
def test_the_first_line_leads_from_the_file_to_its_schema(path, line):
    assert modeline(path) == f"# yaml-language-server: $schema={line}"


def test_there_is_no_schema_where_no_spec_may_be():
    with pytest.raises(SpecError, match="not a place for a spec"):
        modeline("specs/else/x.yaml")
