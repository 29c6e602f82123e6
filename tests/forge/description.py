"""
GitHub's own OpenAPI description, to hold requests and answers to.

It is an npm package that is not part of this project; see `package.json` beside
this file. Held to it are the path, the names and values of parameters, the
fields of a body, and the whole of an answer. Fields that it does not name are
mismatches too, in requests and in answers: who sends one expects something of it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft4Validator, FormatChecker

PACKAGES = Path(__file__).parent / "node_modules"
PATH = PACKAGES / "@octokit/openapi/generated/api.github.com.json"
_FORMATS = FormatChecker(formats=())
_ERROR = {"$ref": "#/components/schemas/basic-error"}
_PARTS = {"allOf", "anyOf", "oneOf"}


@_FORMATS.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value) is not None


@_FORMATS.checks("uri")
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or re.match(r"https?://\S+\Z", value) is not None


Asked = tuple[str, str, Mapping[str, str], Any]
"""Method, path, query and body of a request."""


def _pattern(path: str) -> str:
    """Return what an address looks like; the name of a branch may have slashes in it."""
    escaped = re.escape(path).replace(re.escape("{branch}"), ".+")
    return re.sub(r"\\\{\w+\\\}", "[^/]+", escaped) + r"\Z"


class Description:
    """An OpenAPI 3.0 description, read as far as it is asked of."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._paths = [
            (re.compile(_pattern(path)), path)
            for path in sorted(document["paths"], key=lambda path: (path.count("{"), -len(path)))
        ]
        self._strict: dict[str, Any] = {}

    def mismatches(self, request: Asked, status: int, answer: Any) -> list[str]:
        """Return what of an exchange is not as described."""
        method, path, query, body = request
        operation = self._operation(method, path)
        if operation is None:
            return [f"{method} {path}: there is no such operation"]
        found = [
            *self._of_query(operation, query),
            *self._of_body(operation, body),
            *self._of_answer(operation, status, answer),
        ]
        return [f"{method} {path}: {each}" for each in found]

    def _operation(self, method: str, path: str) -> Any:
        for pattern, name in self._paths:
            if pattern.match(path) and (operation := self._document["paths"][name].get(method.lower())):
                return operation
        return None

    def _of_query(self, operation: Any, query: Mapping[str, str]) -> Iterator[str]:
        parameters = [self._resolved(each) for each in operation.get("parameters", ())]
        known = {each["name"]: each["schema"] for each in parameters if each["in"] == "query"}
        for name, value in query.items():
            if name not in known:
                yield f"has no parameter {name}"
            else:
                kind = self._resolved(known[name]).get("type")
                given = int(value) if kind == "integer" else value == "true" if kind == "boolean" else value
                yield from self._errors(f"parameter {name}", known[name], given)

    def _of_body(self, operation: Any, body: Any) -> Iterator[str]:
        content = operation.get("requestBody", {}).get("content", {})
        if body and not content:
            yield "takes no body"
        elif body is not None and content:
            yield from self._errors("body", content["application/json"]["schema"], body)

    def _of_answer(self, operation: Any, status: int, answer: Any) -> Iterator[str]:
        responses = operation["responses"]
        if str(status) in responses:
            content = self._resolved(responses[str(status)]).get("content", {})
            schema = content.get("application/json", {}).get("schema")
            if schema is not None:
                yield from self._errors(f"answer {status}", schema, answer)
            elif status >= 400:  # it says nothing of the body
                yield from self._errors(f"answer {status}", _ERROR, answer)
            elif answer not in (None, {}):
                yield f"answer {status}: has no body"
        elif status >= 400:  # those that every operation may have: 401, 403, 429, 5xx
            yield from self._errors(f"answer {status}", _ERROR, answer)
        else:
            yield f"does not answer {status}"

    def _errors(self, what: str, schema: Any, value: Any) -> Iterator[str]:
        root = {**self._translated(schema), "components": {"schemas": self._strict}}
        for error in Draft4Validator(root, format_checker=_FORMATS).iter_errors(value):
            at = ".".join(map(str, error.absolute_path))
            yield f"{what}{f' at {at}' if at else ''}: {error.message[:300]}"

    def _resolved(self, node: Any) -> Any:
        while "$ref" in node:
            part = self._document
            for key in node["$ref"].split("/")[1:]:
                part = part[key]
            node = part
        return node

    def _translated(self, schema: Any, *, is_part: bool = False) -> Any:
        """
        Return a schema of OpenAPI 3.0 as JSON Schema; what it refers to is translated beside it.

        An object has the fields that are described and no others, unless it is part of one (`allOf`).
        """
        if "$ref" in schema:
            return self._referred(schema, is_part)
        new = dict(schema)
        for key in {"properties", "patternProperties"} & schema.keys():
            new[key] = {name: self._translated(each) for name, each in schema[key].items()}
        for key in {"items", "additionalProperties"} & schema.keys():
            if isinstance(schema[key], dict):
                new[key] = self._translated(schema[key])
        for key in _PARTS & schema.keys():
            is_whole = key != "allOf" and "properties" not in schema and not is_part
            new[key] = [self._translated(each, is_part=not is_whole) for each in schema[key]]
        if schema.get("properties") and not is_part and not _PARTS & schema.keys():
            new.setdefault("additionalProperties", False)
        return {"anyOf": [{"type": "null"}, new]} if new.pop("nullable", False) else new

    def _referred(self, schema: Any, is_part: bool) -> Any:
        reference = f"{schema['$ref']}{'-part' if is_part else ''}"
        name = reference.rpartition("/")[2]
        if name not in self._strict:
            self._strict[name] = {}  # it may refer to itself
            self._strict[name] |= self._translated(self._resolved(schema), is_part=is_part)
        return {"$ref": reference}


@cache
def description() -> Description | None:
    """Return GitHub's, if it is installed."""
    return Description(json.loads(PATH.read_bytes())) if PATH.exists() else None
