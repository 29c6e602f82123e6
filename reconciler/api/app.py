"""
The app: every operation, behind one gate.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sanic import Sanic
from sanic.response import HTTPResponse

from reconciler.api.gate import Gate
from reconciler.api.health import Pulse
from reconciler.api.hooks import HookDoor
from reconciler.api.limits import Buckets, Limits
from reconciler.api.openapi import document
from reconciler.api.operation import JSON, Answer, Call, Door, Operation, add_routes
from reconciler.api.problems import answer_error
from reconciler.api.pull import Pull
from reconciler.api.reading import Reading
from reconciler.api.server import Closing, bare_app
from reconciler.api.shelf import Shelf
from reconciler.api.stream import Stream, Tail
from reconciler.api.tokens import LastUse
from reconciler.controller.ports import Clock, Desk

LIMITS = Limits()


def make_app(
    desk: Desk, shelf: Shelf, *, clock: Clock, last_use: Path, limits: Limits = LIMITS
) -> Sanic[Any, Any]:
    """
    Return the app; `server.running` serves it.

    `last_use` is a file of the data folder. Call `app.ctx.knock()` whenever
    something went on record, so that those who listen hear of it at once.
    """
    app, closing, tail = bare_app(), Closing(), Tail(shelf.record)
    gate = Gate(desk, clock, LastUse(last_use, clock), Buckets(limits.token), Buckets(limits.peer))
    operations = _with_document(
        (
            *Pull(desk, shelf, clock, closing, Buckets(limits.proposals), limits.waits).operations,
            *Reading(desk, shelf.record, gate.last_use.get, shelf.last_output).operations,
            *Stream(tail, shelf.record, closing, gate.is_still_good, limits.streams).operations,
            *HookDoor(shelf.hooks).operations,
            *Pulse(desk, shelf.record).operations,
        )
    )

    def version() -> str:
        return f"{shelf.record.head()}-{desk.desired.revision}"

    add_routes(app, operations, Door(gate.admit, version))
    app.error_handler.add(Exception, answer_error)
    app.before_server_stop(lambda *_: closing.set())
    app.ctx.operations = operations
    app.ctx.knock = tail.knock
    return app


def _with_document(operations: Sequence[Operation]) -> Sequence[Operation]:
    """Return the operations and the one that describes them all, itself too."""

    async def describe(call: Call) -> HTTPResponse:  # noqa: ARG001 - every handler is called so
        return HTTPResponse(text, 200, {"Cache-Control": "no-cache"}, JSON)

    described = Operation(
        method="GET",
        path="/api/v1/openapi.json",
        name="openapi",
        summary="Describe all of this",
        handler=describe,
        answers={200: Answer("The OpenAPI document", media_type=JSON)},
    )
    everything = (*operations, described)
    text = json.dumps(document(everything))
    return everything
