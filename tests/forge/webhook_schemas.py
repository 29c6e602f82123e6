"""
GitHub's own schemas of its webhooks, to hold bodies to.

They are an npm package that is not part of this project; see `package.json`
beside this file. The bodies of the double have little of what GitHub sends,
as little of it is read: what they have is to be as described, and of the
actions that there are.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema import Draft7Validator

from tests.forge.description import PACKAGES

PATH = PACKAGES / "@octokit/webhooks-schemas/schema.json"


class WebhookSchemas:
    """Schemas of webhooks, by event."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._definitions = document["definitions"]
        self._partial = _without_required(document["definitions"])

    def mismatches(self, event: str, body: Mapping[str, Any], *, is_whole: bool = False) -> list[str]:
        """Return what of a body is not as described; of a body that is not whole nothing is missing."""
        kinds = [name for name in (f"{event}_event", f"{event}$event") if name in self._definitions]
        if not kinds:
            return [f"{event}: there is no such event"]
        action, name = body.get("action"), kinds[0]
        if "action" in body and (name := f"{event}${action}") not in self._definitions:
            return [f"{event}: there is no action {action}"]
        definitions = self._definitions if is_whole else self._partial
        validator = Draft7Validator({**definitions[name], "definitions": definitions})
        return [
            f"{event} {action or ''} at {'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"
            for error in validator.iter_errors(body)
        ]


def _without_required(schema: Any) -> Any:
    """Return a schema by which nothing is missing; alternatives that differ in that alone both fit then."""
    if isinstance(schema, list):
        return [_without_required(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        {"oneOf": "anyOf"}.get(name, name): _without_required(each)
        for name, each in schema.items()
        if name != "required" or not isinstance(each, list)
    }


@cache
def webhook_schemas() -> WebhookSchemas | None:
    """Return GitHub's, if they are installed."""
    return WebhookSchemas(json.loads(PATH.read_bytes())) if PATH.exists() else None
