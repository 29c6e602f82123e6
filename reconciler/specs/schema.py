"""
JSON Schema of each kind, for editors.
"""

from typing import Any

from reconciler.core.errors import Problem, SpecError
from reconciler.core.model.specs import Kind
from reconciler.specs.parse import MODELS, locate

SCHEMA_FOLDER = ".schemas"
"""Where `init` puts them, below the root of the fleet's repository."""

DIALECT = "http://json-schema.org/draft-07/schema#"
"""The JSON Schema version that yaml-language-server supports best."""


def json_schema(kind: Kind) -> dict[str, Any]:
    """Return the JSON Schema of a kind, without references: editors show the text of every field."""
    document = MODELS[kind].model_json_schema(mode="serialization")
    definitions = document.pop("$defs", {})
    inlined: dict[str, Any] = _inline(document, definitions)
    return {"$schema": DIALECT, **inlined, "title": f"reconciler: {kind}"}


def modeline(path: str) -> str:
    """
    Return the first line that ties the spec file at this path to its schema.

    Raises SpecError if no spec file may be there.
    """
    place = locate(path)
    if isinstance(place, Problem):
        raise SpecError([place])
    up = "../" * path.count("/")
    return f"# yaml-language-server: $schema={up}{SCHEMA_FOLDER}/{place[0]}.json"


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _inline({**definitions[name], **beside}, definitions)
    if "patternProperties" in node:
        node = {**node, "additionalProperties": False}
    return {key: _inline(value, definitions) for key, value in node.items() if not _is_title(key, value)}


def _is_title(key: str, value: Any) -> bool:
    """Tell pydantic's title of a field, its name once more, from a field that is called title."""
    return key == "title" and isinstance(value, str)
