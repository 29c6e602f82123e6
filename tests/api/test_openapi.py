"""
The document that describes the API: complete, and true under people who try everything.
"""

import asyncio
import importlib.util
import json
import re
import sys
from datetime import timedelta

import pytest

from reconciler.api.limits import Rate, RateLimits
from tests.api.world import TOKENS, pulled
from tests.fakes import make_task

PLACE = "/api/v1/openapi.json"
PLENTY = Rate(per_second=1e6, burst=10**6)


@pytest.fixture
def limits():
    return RateLimits(PLENTY, PLENTY, PLENTY)


@pytest.fixture
async def document(nobody):
    return (await nobody.get(PLACE)).json()


def operations(document):
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


async def test_every_route_of_the_app_that_is_no_page_is_in_the_document(app, document):
    routes = {
        (method, f"/{route.path}".replace("<name:path>", "{name}"))
        for route in app.router.routes
        if f"/{route.path}" not in app.ctx.pages.paths
        for method in route.methods
    }

    assert routes == operations(document).keys()


async def test_whatever_needs_a_token_says_so_and_refuses_those_who_have_none(nobody, document):
    for (method, path), operation in operations(document).items():
        answer = await nobody.request(method, path.replace("{name}", "a"))

        assert ("security" in operation) == (answer.status_code == 401 and not path.startswith("/hooks"))
        assert str(answer.status_code) in operation["responses"]


async def test_every_reference_leads_somewhere_and_every_schema_is_used(document):
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))

    assert names == document["components"]["schemas"].keys()


async def test_every_schema_is_one(document):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed (extra `fuzz`)")

    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


async def test_what_can_be_left_out_of_a_query_is_never_null(document):
    parameters = [
        one for operation in operations(document).values() for one in operation.get("parameters", ())
    ]

    assert {one["name"] for one in parameters} >= {"limit", "cursor", "phase", "offset", "epoch", "task"}
    assert all(one["schema"]["type"] in {"string", "integer"} for one in parameters)
    assert {one["name"] for one in parameters if one["required"]} == {"name", "offset", "epoch"}


@pytest.fixture
async def busy(world, jeeves, monkeypatch):
    """A fleet with tasks, one of them held, where no request has to wait."""
    await world.ask(*(pulled(f"web/{number}") for number in range(10)), make_task("ours"))
    await jeeves.post("/api/v1/dequeue", json={"request_key": "k1"})
    acquire = world.leases.acquire
    monkeypatch.setattr(world.leases, "acquire", lambda asked, _: acquire(asked, timedelta(0)))


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed (extra `fuzz`)"
)
@pytest.mark.parametrize("agent", ["boss", "jeeves", None])
async def test_no_request_leads_to_a_mistake_or_to_an_answer_that_is_not_documented(
    busy, address, tmp_path, agent
):
    checks = (
        "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
        "response_schema_conformance,unsupported_method,allow_header_conformance,ignored_auth"
    )
    # The stream has no end, and is tested by itself.
    args = ["run", address + PLACE, "--exclude-operation-id=events", f"--checks={checks}", "--seed=1"]
    args += ["--max-examples=20", "--phases=coverage,fuzzing", "--suppress-health-check=all", "--no-color"]
    args += [f"--header=Authorization: Bearer {TOKENS[agent]}"] if agent else []

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "schemathesis.cli",
        *args,
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()

    assert process.returncode == 0, told.decode()
    assert b"Tested: 18" in told
