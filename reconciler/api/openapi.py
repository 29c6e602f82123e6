"""
The OpenAPI 3.1 document, made from the operations and the models.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic.json_schema import models_json_schema

from reconciler import __version__
from reconciler.api import problems
from reconciler.api.operation import JSON, Operation, Reply
from reconciler.core.fields import Frozen
from reconciler.wire import ProblemDetails

SchemaMode = Literal["validation", "serialization"]
Refs = Mapping[Any, Mapping[str, Any]]
"""What stands for a model, by model and mode."""

_ABOUT = (
    "Outside agents take tasks, work and report; people and programs look. Every answer in the range of 2xx "
    "to what changes something means that it is on record in git. Every request may be sent again. Errors "
    "are `application/problem+json`, and their `detail` says what to do."
)
_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": (
        "Name of the task. Its slashes are written as they are, or as `%2F`: so a name that ends like one "
        "of the operations on tasks, such as `web/start`."
    ),
    "schema": {"type": "string", "maxLength": 200},
}
_EVERYWHERE = {
    400: "The request cannot be read",
    408: "The request took too long to arrive",
    413: "The request is too large",
    429: "Too many requests, or streams: wait as long as `Retry-After` says",
    500: "A bug of the reconciler; its log has the details",
    503: "Not available now: ask again when `Retry-After` says",
}


def openapi_document(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the document that describes the operations."""
    refs, schemas = _schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "reconciler", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas(operations: Sequence[Operation]) -> tuple[Refs, dict[str, Any]]:
    wanted: list[tuple[type[Frozen], SchemaMode]] = [(ProblemDetails, "serialization")]
    wanted += [(one.body, "validation") for one in operations if one.body]
    answers = [answer for one in operations for answer in one.answers.values()]
    wanted += [(answer.model, "serialization") for answer in answers if answer.model]
    refs, definitions = models_json_schema(
        list(dict.fromkeys(wanted)), ref_template="#/components/schemas/{model}"
    )
    return refs, definitions["$defs"]


def _described(operation: Operation, refs: Refs) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": dict(_responses(operation, refs)),
    }
    if operation.scopes:
        scopes = " or ".join(f"`{scope}`" for scope in (*operation.scopes, "admin"))
        described["description"] = f"Needs a token with scope {scopes}."
        described["security"] = [{"token": []}]
    if parameters := list(_parameters(operation)):
        described["parameters"] = parameters
    if operation.body:
        schema = refs[operation.body, "validation"]
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    elif operation.raw_body:
        described["requestBody"] = {"required": True, "content": {operation.raw_body: {"schema": {}}}}
    return described


def _parameters(operation: Operation) -> Iterator[Mapping[str, Any]]:
    if operation.has_name:
        yield _NAME
    if operation.query is not None:
        whole = operation.query.model_json_schema(ref_template="#/components/schemas/{model}")
        kinds, required = whole.get("$defs", {}), whole.get("required", ())
        for name, schema in whole["properties"].items():
            about = {key: schema.pop(key) for key in ("description",) if key in schema}
            yield {
                "name": name,
                "in": "query",
                "required": name in required,
                **about,
                "schema": _inlined(schema, kinds),
            }


def _inlined(schema: Any, kinds: Mapping[str, Any]) -> Any:
    """Return a parameter's schema without references, and without null: it is left out then."""
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"enum": kinds[schema["$ref"].rpartition("/")[2]]["enum"], "type": "string"}
    if "anyOf" in schema:
        return next(_inlined(one, kinds) for one in schema["anyOf"] if one != {"type": "null"})
    return schema


def _responses(operation: Operation, refs: Refs) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for status, answer in operation.answers.items():
        yield str(status), _answer(operation, answer, refs)
    if operation.is_versioned:
        yield "304", {"description": "Nothing changed since the version named in `If-None-Match`"}
    problem = {problems.PROBLEM_TYPE: {"schema": refs[ProblemDetails, "serialization"]}}
    for status, description in sorted(_problems(operation).items()):
        yield str(status), {"description": description, "content": problem}


def _answer(operation: Operation, answer: Reply, refs: Refs) -> Mapping[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.model is not None:
        schema = refs[answer.model, "serialization"]
        described["content"] = {
            JSON: {"schema": {"type": "array", "items": schema} if answer.is_list else schema}
        }
    elif answer.media_type:
        kind = "object" if answer.media_type == JSON else "string"
        described["content"] = {answer.media_type: {"schema": {"type": kind}}}
    if operation.is_versioned:
        described["headers"] = {
            "ETag": {"description": "Version of specs and state", "schema": {"type": "string"}}
        }
    return described


def _problems(operation: Operation) -> Mapping[int, str]:
    responses = dict(_EVERYWHERE)
    if operation.scopes:
        responses |= {401: "The token is missing or invalid", 403: "The token is not good for this"}
    if operation.body or operation.query:
        responses |= {422: "Fields with mistakes: see `errors`"}
    if operation.has_name or operation.name == "history":
        responses |= {404: "Nothing has that name"}
    return {**responses, **operation.problems}
