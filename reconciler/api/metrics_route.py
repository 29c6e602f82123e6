"""
Route of the metrics, and the count of all answers.
"""

import time
from collections.abc import Sequence
from typing import Any

from sanic import Sanic
from sanic.request import Request
from sanic.response import BaseHTTPResponse, HTTPResponse

from reconciler.api.operation import Call, Operation, Reply
from reconciler.api.services import MetricsService

NOWHERE = "none"
"""Operation of a request that no route takes."""


def metrics_operations(metrics: MetricsService | None) -> Sequence[Operation]:
    """Return what serves the metrics, if there are any."""
    if metrics is None:
        return ()

    async def expose(call: Call) -> HTTPResponse:
        body, media_type = metrics.exposition(call.request.headers.get("accept", ""))
        return HTTPResponse(body, 200, {"Cache-Control": "no-store"}, media_type)

    return (
        Operation(
            method="GET",
            path="/metrics",
            name="metrics",
            summary="Expose metrics, for Prometheus; without a token where only this machine can ask",
            handler=expose,
            answers={200: Reply("Every metric", media_type="text/plain")},
            scopes=("read",),
            is_open_here=True,
        ),
    )


def count_answers(app: Sanic[Any, Any], metrics: MetricsService) -> None:
    """Let the metrics hear of every answer: its operation, its status, and the time to its header."""

    async def begin(request: Request) -> None:
        request.ctx.began = time.perf_counter()

    async def end(request: Request, response: BaseHTTPResponse) -> None:
        name = request.route.name.rpartition(".")[2] if request.route else NOWHERE
        began = getattr(request.ctx, "began", None)  # what could not be read has none
        metrics.request(name, response.status, time.perf_counter() - began if began else 0.0)

    app.register_middleware(begin, "request")
    app.register_middleware(end, "response")
