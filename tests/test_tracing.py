"""
Traces: what is recorded arrives at a collector as spans, and no collector matters to what is traced.
"""

import os
import subprocess
import sys
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reconciler import tracing
from reconciler.core.events import Created, Origin
from reconciler.core.lifecycle import step
from reconciler.core.model.specs import Task
from tests.strategies import NOW

needs_otel = pytest.mark.skipif(
    not tracing.is_installed(), reason="the packages of the extra otel are not installed"
)
SPEC = Task(name="web/a", goal="Do it.", generation="1" * 40, work="w1")
CREATED = step(
    {}, Created(task="web/a", origin=Origin(NOW + timedelta(microseconds=5), "a new spec"), spec=SPEC)
)


class Collector(ThreadingHTTPServer):
    """What takes OTLP over HTTP on loopback, and keeps it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Taker)
        self.taken = []
        self.answer = 200
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def spans(self):
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        requests = [ExportTraceServiceRequest.FromString(body) for body in self.taken]
        return [
            (resource.resource, span)
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class Taker(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.taken.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.server.answer)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fleet(folder, task):
    (folder / "specs/tasks").mkdir(parents=True)
    (folder / "specs/tasks/a.yaml").write_text(task)
    for args in (["init", "-qb", "main"], ["add", "-A"], ["commit", "-qm", "Ask for a"]):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *args], cwd=folder, check=True)


def reconcile(folder, *args, **variables):
    program = [
        sys.executable,
        "-m",
        "reconciler",
        "--repo",
        str(folder),
        "--data-dir",
        f"{folder}.data",
        "run",
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")} | variables
    return subprocess.run([*program, *args], env=environment, capture_output=True, text=True, check=False)


@needs_otel
def test_a_task_is_one_trace_over_restarts_and_nothing_of_it_is_told_twice(tmp_path, collector):
    fleet(tmp_path / "fleet", "goal: x\nscript: 'true'\nvalidation: ['true']\n")
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}

    codes = [
        reconcile(tmp_path / "fleet", how, **variables).returncode
        for how in ("--once", "--until-idle", "--until-idle")
    ]

    spans = [span for _, span in collector.spans]
    assert codes == [0, 0, 0]
    assert sorted({span.name for span in spans} - {"dispatch"}) == [
        "queue",
        "round",
        "run",
        "task",
        "validation",
    ]
    assert len({span.trace_id for span in spans}) == 1
    assert len({span.span_id for span in spans}) == len(spans)
    attributes = {each.key: each.value.string_value for each in collector.spans[0][0].attributes}
    assert attributes["service.name"] == "reconciler"


@needs_otel
def test_a_collector_that_is_not_there_or_refuses_changes_nothing(tmp_path, collector):
    fleet(tmp_path / "fleet", "goal: x\nscript: 'true'\n")
    collector.answer = 503
    gone = reconcile(tmp_path / "fleet", "--once", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    refusing = reconcile(tmp_path / "fleet", "--until-idle", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)

    assert (gone.returncode, refusing.returncode) == (0, 0)
    assert "Traceback" not in refusing.stderr + gone.stderr
    assert "completed" in refusing.stdout + gone.stdout


@needs_otel
def test_the_span_of_the_sdk_is_what_was_recorded():
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    tracer = tracing.Tracer("f1", exporter)
    tracer.notify(CREATED)
    tracer.notify("news of a host")
    tracer.close()

    (span,) = exporter.get_finished_spans()
    assert (span.name, span.parent, span.attributes["reconciler.task"]) == ("task", None, "web/a")
    assert span.start_time == int(NOW.timestamp()) * 10**9 + 5000


@pytest.mark.parametrize(
    ("environment", "is_wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_traces_are_sent_only_where_the_environment_names_a_collector(environment, is_wanted):
    assert tracing.is_wanted(environment) is is_wanted


def test_a_collector_without_the_packages_is_told_once_and_nothing_else_changes(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(tracing, "is_installed", lambda: False)

    with tracing.tracing("f1") as listeners:
        assert listeners == []

    assert "opentelemetry-sdk" in caplog.text
