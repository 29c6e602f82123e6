"""
The app: every operation, behind one gate.
"""

import asyncio
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sanic import Sanic
from sanic.request import Request
from sanic.response import HTTPResponse

from reconciler.api.auth import Authenticator
from reconciler.api.exposure import Exposure
from reconciler.api.health import Pulse
from reconciler.api.limits import Buckets, RateLimits
from reconciler.api.metrics_route import count_answers, metrics_operations
from reconciler.api.openapi import openapi_document
from reconciler.api.operation import JSON, Admission, Call, Operation, Reply, add_routes
from reconciler.api.pages.access import PageAccess
from reconciler.api.pages.all import ACTIONS, PAGES, STREAMS, TABS
from reconciler.api.pages.fleet import Fleet
from reconciler.api.pages.handlers import Pages
from reconciler.api.problems import answer_error
from reconciler.api.reading import ReadOperations
from reconciler.api.server import Closing, bare_app
from reconciler.api.services import Services
from reconciler.api.steering import SteeringOperations
from reconciler.api.stream import EventStream, Tail
from reconciler.api.tokens import LastUse
from reconciler.api.views import state_version
from reconciler.api.webhooks import WebhookRoute
from reconciler.api.worker_protocol import WorkerProtocol
from reconciler.controller.ports import Clock, FleetView, LeaseService

LIMITS = RateLimits()


def make_app(
    view: FleetView,
    leases: LeaseService,
    services: Services,
    *,
    clock: Clock,
    last_use: Path,
    exposure: Exposure,
    limits: RateLimits = LIMITS,
) -> Sanic[Any, Any]:
    """
    Return the app; `server.running` serves it.

    `last_use` is a file of the data folder, `exposure` says who may look at pages
    and metrics. Call
    `app.ctx.notify()` whenever something went on record, so that those who listen
    hear of it at once.
    """
    app, closing, tail = bare_app(), Closing(), Tail(services.record)
    gate = Authenticator(
        view,
        clock,
        LastUse(last_use, clock),
        Buckets(limits.token),
        Buckets(limits.peer),
        exposure,
    )
    operations = _with_document(
        (
            *WorkerProtocol(
                view, leases, services, clock, closing, Buckets(limits.proposals), limits.waits
            ).operations,
            *ReadOperations(view, services.record, gate.last_use.get, services.figures).operations,
            *EventStream(tail, services.record, closing, gate.is_still_good, limits.streams).operations,
            *SteeringOperations(services.pages.steering).operations,
            *WebhookRoute(services.hooks, gate.peers).operations,
            *Pulse(view, services.record, services.unready).operations,
            *metrics_operations(services.metrics),
        )
    )

    add_routes(app, operations, Admission(gate.admit, lambda: state_version(view, services.record.head())))
    fleet = Fleet(view, services.record, services.pages, clock, services.figures, gate.last_use.get)
    access = PageAccess(exposure, view, clock, gate.peers, Buckets(limits.visitors))
    pages = Pages(fleet, access, closing, tabs=TABS, pages=PAGES, streams=STREAMS, actions=ACTIONS)
    pages.add_to(app)

    def answer(request: Request, error: Exception) -> HTTPResponse:
        return pages.not_found(request, error) or answer_error(request, error)

    app.error_handler.add(Exception, answer)
    app.ctx.pages = pages
    if services.metrics is not None:
        count_answers(app, services.metrics)
    app.before_server_stop(lambda *_: closing.set())
    app.ctx.operations = operations
    app.ctx.notify = tail.notify
    return app


def _with_document(operations: Sequence[Operation]) -> Sequence[Operation]:
    """Return the operations and the one that describes them all, itself too."""

    @cache
    def text() -> str:
        return json.dumps(openapi_document(everything))  # takes a fifth of a start, and few ask for it

    async def describe(call: Call) -> HTTPResponse:  # noqa: ARG001 - every handler is called so
        return HTTPResponse(await asyncio.to_thread(text), 200, {"Cache-Control": "no-cache"}, JSON)

    described = Operation(
        method="GET",
        path="/api/v1/openapi.json",
        name="openapi",
        summary="Describe all of this",
        handler=describe,
        answers={200: Reply("The OpenAPI document", media_type=JSON)},
    )
    everything = (*operations, described)
    return everything
