"""
Traces: spans of what goes on record, sent to an OpenTelemetry collector by OTLP over HTTP.

Listens to recorded steps. Spans are queued, and sent by a thread of the SDK's:
whoever receives them, or does not, nothing of it delays what is traced.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from reconciler.core.lifecycle import Transition
from reconciler.core.spans import Span, spans

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Variables that name a collector, as OpenTelemetry has them; without one, nothing is traced."""
PACKAGES = ("opentelemetry-sdk>=1.30", "opentelemetry-exporter-otlp-proto-http>=1.30")
"""Packages that tracing needs; extra `otel` of the distribution."""
LAST_SPANS = 2.0
"""Seconds for sending what is queued at the end."""
_NANO = 1_000_000_000


def is_wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment names a collector, and does not say that the SDK is off."""
    is_off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not is_off and any(environ.get(name, "").strip() for name in ENDPOINTS)


def is_installed() -> bool:
    """Return whether the packages are there."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


@contextmanager
def tracing(fleet: str) -> Iterator[Sequence[Callable[[object], None]]]:
    """
    Yield the listener of steps that sends their spans; none where no collector is named.

    Whatever keeps spans from being sent is logged, and keeps nothing else from anything.
    """
    tracer = _tracer(fleet) if is_wanted() else None
    try:
        yield [tracer.notify] if tracer else []
    finally:
        if tracer:
            tracer.close()


def _tracer(fleet: str) -> "Tracer | None":
    if not is_installed():
        log.warning(
            "%s is set, and nothing is traced: %s are not installed", ENDPOINTS[1], " and ".join(PACKAGES)
        )
        return None
    try:
        return Tracer(fleet)
    except Exception:
        log.exception("nothing is traced; everything else goes on")
        return None


class Tracer:
    """Sends the spans of recorded steps."""

    def __init__(self, fleet: str, exporter: "SpanExporter | None" = None) -> None:
        """Begin; `fleet` is the fleet's id. By default spans go where the environment says."""
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # each retry, else
        self._fleet = fleet
        self._processor: SpanProcessor = BatchSpanProcessor(exporter)
        self._readable = _Converter(fleet)

    def notify(self, step: object) -> None:
        """Queue the spans that a step ends; what does not fit into the queue is dropped."""
        if isinstance(step, Transition):
            for span in spans(step, self._fleet):
                self._processor.on_end(self._readable(span))

    def close(self, seconds: float = LAST_SPANS) -> None:
        """Send what is queued, within a time."""
        last = threading.Thread(target=self._processor.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(seconds)
        if last.is_alive():
            log.warning("the collector of traces did not take the last spans within %g s", seconds)


class _Converter:
    """Makes the SDK's spans of ours."""

    def __init__(self, fleet: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        from reconciler import __version__

        own: dict[str, Any] = {"service.version": __version__, "service.namespace": fleet}
        if not os.environ.get("OTEL_SERVICE_NAME"):
            own["service.name"] = "reconciler"
        self._resource = Resource.create(own)
        self._scope = InstrumentationScope("reconciler", __version__)

    def __call__(self, span: Span) -> "ReadableSpan":
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, TraceFlags
        from opentelemetry.trace.status import Status, StatusCode

        def context(span_id: int) -> SpanContext:
            return SpanContext(
                span.trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
            )

        return ReadableSpan(
            span.name,
            context=context(span.span_id),
            parent=None if span.parent_id is None else context(span.parent_id),
            resource=self._resource,
            attributes=span.attributes,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=_nanoseconds(span.begin),
            end_time=_nanoseconds(span.end),
            instrumentation_scope=self._scope,
        )


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp()) * _NANO + at.microsecond * 1000
