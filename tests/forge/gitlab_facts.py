"""
What GitLab's own description says of the operations that are used: names, values and fields.

The description has no types that can be relied on, so answers are held to the
names of fields. A field or parameter that it does not name is a mismatch.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("gitlab_facts.json")

Asked = tuple[str, str, Mapping[str, str], Any]
"""Method, path, query and body of a request."""


class Facts:
    """The operations and the shapes of answers."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._shapes = document["shapes"]
        self._operations = [
            (method, re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + r"\Z"), path, operation)
            for name, operation in document["operations"].items()
            for method, path in [name.split(" ", 1)]
        ]
        self._operations.sort(key=lambda each: each[2].count("{"))

    def mismatches(self, request: Asked, status: int, answer: Any) -> list[str]:
        """Return what of an exchange is not as described."""
        method, path, query, body = request
        operation = next(
            (op for verb, at, _, op in self._operations if verb == method and at.match(path)), None
        )
        if operation is None:
            return [f"{method} {path}: there is no such operation"]
        found = [*_of_query(operation, query), *_of_body(operation, body)]
        if status < 300:
            found += self._of_answer(operation, answer)
        elif not isinstance(answer, dict) or not answer.keys() & {"message", "error"}:
            found.append(f"answer {status}: {answer}")
        return [f"{method} {path}: {each}" for each in found]

    def name(self, method: str, path: str) -> str:
        """Return the operation of a request; empty if there is none."""
        return next(
            (f"{verb} {name}" for verb, at, name, _ in self._operations if verb == method and at.match(path)),
            "",
        )

    def _of_answer(self, operation: Mapping[str, Any], answer: Any) -> Iterator[str]:
        shape = operation.get("answer")
        if operation.get("is_list", False) != isinstance(answer, list):
            yield f"answer: {'no' if operation.get('is_list') else 'a'} list"
        elif shape:
            for each in answer if isinstance(answer, list) else [answer]:
                yield from self._of_shape(shape, each)

    def _of_shape(self, shape: str, value: Any) -> Iterator[str]:
        known = self._shapes[shape]
        for name, each in (value or {}).items():
            if name not in known:
                yield f"{shape} has no {name}"
            elif known[name] and isinstance(each, list):
                for item in each:
                    yield from self._of_shape(known[name], item)
            elif known[name] and isinstance(each, dict):
                yield from self._of_shape(known[name], each)


def _of_query(operation: Mapping[str, Any], query: Mapping[str, str]) -> Iterator[str]:
    known = operation.get("query", {})
    for name, value in query.items():
        if name not in known:
            yield f"has no parameter {name}"
        elif known[name] and value not in known[name]:
            yield f"parameter {name} is not {value}"


def _of_body(operation: Mapping[str, Any], body: Any) -> Iterator[str]:
    known = operation.get("body", {"fields": {}, "required": []})
    for name, value in (body or {}).items():
        if name not in known["fields"]:
            yield f"body has no {name}"
        elif (values := known["fields"][name]) and value not in values:
            yield f"{name} is not {value}"
    yield from (f"body lacks {name}" for name in known["required"] if name not in (body or {}))


@cache
def facts() -> Facts:
    """Return them."""
    return Facts(json.loads(PATH.read_bytes()))
