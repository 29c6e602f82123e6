"""
Metrics: what is counted, who may read them, and that nothing in them grows with the tasks.
"""

import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from reconciler.api.app import make_app
from reconciler.api.exposure import exposure_of
from reconciler.api.limits import Rate, RateLimits
from reconciler.api.listen import read_listen
from reconciler.api.metrics import TABLE, Metrics, MetricSources
from reconciler.api.server import serve_app
from reconciler.core.adapter import Usage
from reconciler.core.errors import Conflict, Unavailable
from reconciler.core.model.runs import Report, Verdict
from reconciler.core.model.specs import Campaign, Host
from reconciler.core.model.status import HostStatus
from reconciler.core.notifications.book import TargetCounts, TargetReport
from tests.api.world import TOKENS, pulled
from tests.fakes import (
    FAILURE,
    START,
    FakeClock,
    FakeDispatch,
    FakeSpecs,
    FakeState,
    make_desired,
    make_loop,
    make_task,
)

MANY = RateLimits()
UP = Campaign(name="up", tasks=("up/a", "up/b"))
FEW = RateLimits(peer=Rate(per_second=0.001, burst=3))


@pytest.fixture
def metrics(world):
    return made_metrics(world)


def made_metrics(world, **sources):
    metrics = Metrics(world.clock)
    metrics.sample(MetricSources(view=world.controller, clock=world.clock, version="1.2.3", **sources))
    return metrics


@pytest.fixture
def serve(world, metrics, exposure, tmp_path):
    """Serve it with metrics; on the loopback alone, unless a test says otherwise."""

    def serve(*, is_local=True, limits=MANY, unready=lambda: ""):
        services = replace(world.services, metrics=metrics, unready=unready)
        app = make_app(
            world.controller,
            world.leases,
            services,
            clock=world.clock,
            last_use=tmp_path / "last_use",
            limits=limits,
            exposure=replace(exposure, is_open=is_local),
        )
        return serve_app(app, read_listen("127.0.0.1:0"))

    return serve


@pytest.fixture
async def client():
    async with httpx2.AsyncClient(trust_env=False) as client:
        yield client


def samples(text):
    """Return every sample by name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def values(metrics):
    return samples(metrics.exposition("text/plain")[0].decode())


# --- Who may read ------------------------------------------------------------


async def test_tasks_of_a_campaign_are_counted_by_where_they_stand(world, metrics):
    await world.ask(make_task("up/a"), make_task("up/b"), campaigns={"up": UP})

    shown = values(metrics)

    assert shown["reconciler_campaign_tasks", "up", "waiting"] == 2
    assert shown["reconciler_campaign_tasks", "up", "failed"] == 0


async def test_programs_of_this_machine_need_no_token(serve, client):
    async with serve() as address:
        answer = await client.get(f"{address}/metrics")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert samples(answer.text)["reconciler_ready",] == 1


async def test_elsewhere_a_token_that_reads_is_asked_for(serve, client):
    def bearer(name):
        return {"Authorization": f"Bearer {TOKENS[name]}"}

    async with serve(is_local=False) as address:
        url = f"{address}/metrics"
        answers = [
            (await client.get(url, headers=headers)).status_code
            for headers in ({}, bearer("jeeves"), bearer("watcher"))
        ]

    assert answers == [401, 403, 200]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8420", "10.0.0.7:8420", "127.0.0.1.evil.example"]
)
async def test_a_page_whose_name_leads_here_reads_nothing(serve, client, host):
    async with serve() as address:
        answer = await client.get(f"{address}/metrics", headers={"Host": host})

    assert answer.status_code == 401


@pytest.mark.parametrize("host", ["localhost:8420", "127.0.0.1", "[::1]:8420", "127.1.2.3:1"])
async def test_every_name_of_this_machine_will_do(serve, client, host):
    async with serve() as address:
        answer = await client.get(f"{address}/metrics", headers={"Host": host})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("address", "behind_proxy", "expected"),
    [
        ("127.0.0.1:0", False, True),
        ("[::1]:0", False, True),
        ("localhost:0", False, True),
        ("127.0.0.1:0", True, False),
        ("0.0.0.0:0", True, False),
    ],
)
def test_behind_a_proxy_nobody_is_known_to_be_here(address, behind_proxy, expected):
    assert exposure_of(read_listen(address, behind_proxy=behind_proxy), "", b"key").is_open is expected


# --- Health ------------------------------------------------------------------


async def test_who_asks_too_often_keeps_nobody_from_asking_whether_it_lives(serve, client):
    async with serve(limits=FEW) as address:
        strangers = [(await client.get(f"{address}/api/v1/tasks")).status_code for _ in range(6)]
        probes = [(await client.get(f"{address}{path}")).status_code for path in ("/healthz", "/readyz") * 10]
        scrape = await client.get(f"{address}/metrics")

    assert strangers[-1] == 429
    assert set(probes) == {200}
    assert scrape.status_code == 200


async def test_who_probes_often_takes_nothing_from_others(serve, client):
    async with serve(limits=FEW) as address:
        for _ in range(10):
            await client.get(f"{address}/healthz")
        answer = await client.get(f"{address}/api/v1/tasks")

    assert answer.status_code == 401


async def test_readiness_says_what_is_in_the_way(serve, client):
    async with serve(unready=lambda: "push of fleet-state failed: no answer") as address:
        answer = await client.get(f"{address}/readyz")
        alive = await client.get(f"{address}/healthz")

    assert answer.status_code == 503
    assert answer.json()["detail"] == "push of fleet-state failed: no answer"
    assert alive.status_code == 200


# --- What is counted -----------------------------------------------------------


async def test_answers_are_counted_by_operation_and_never_by_address(serve, client, metrics):
    async with serve() as address:
        for path in ("/healthz", "/api/v1/tasks", "/api/v1/tasks/web/a", "/nowhere/1", "/nowhere/2"):
            await client.get(f"{address}{path}")
        await client.delete(f"{address}/healthz")

    counted = values(metrics)

    assert counted["reconciler_http_requests_total", "healthz", "200"] == 1
    assert counted["reconciler_http_requests_total", "tasks", "401"] == 1
    assert counted["reconciler_http_requests_total", "task", "401"] == 1
    assert counted["reconciler_http_requests_total", "none", "404"] == 2
    assert counted["reconciler_http_requests_total", "none", "405"] == 1
    assert not any("nowhere" in label for key in counted for label in key)


def test_what_never_happened_is_there_as_a_zero(metrics):
    counted = values(metrics)

    assert counted["reconciler_transitions_total", "created", "assigned"] == 0
    assert counted["reconciler_transitions_total", "review_pending", "completed"] == 0
    assert ("reconciler_transitions_total", "completed", "running") not in counted


def test_many_tasks_with_any_names_are_as_many_series_as_few(world):
    hostile = ['a"b', "x{y}", "n\\n", "ünï/cödé", "a" * 200]
    few, many = (
        make_desired(*(make_task(f"{name}{n}") for n in range(size) for name in hostile)) for size in (1, 400)
    )

    counts = []
    for desired in (few, many):
        world.controller.desired = desired
        counts.append(len(values(made_metrics(world))))

    assert counts[0] == counts[1]


async def test_a_fleet_at_work_is_measured(world):
    usage = Usage(input_tokens=10, output_tokens=4, cost_usd=0.5, seconds=12.0)
    report = Report(verdict=Verdict(outcome="success", usage=usage), head_commit="f" * 40, commits=1)
    state, dispatch = FakeState(), FakeDispatch(reports={"web/a": [report], "web/b": [FAILURE, FAILURE]})
    desired = make_desired(
        make_task("web/a"), make_task("web/b", retries=0), make_task("web/c", requires="gpu")
    )
    clock = FakeClock()
    metrics = Metrics(clock)
    loop = make_loop(FakeSpecs(desired), state, dispatch, clock, meter=metrics)
    loop.listeners.steps.append(metrics.step)
    metrics.sample(MetricSources(view=loop.cache, clock=clock, version="1", unready=lambda: loop.unready))
    assert values(metrics)["reconciler_ready",] == 0

    await loop.run("idle")
    counted = values(metrics)

    assert counted["reconciler_tasks", "completed", "none"] == 1
    assert counted["reconciler_tasks", "failed", "none"] == 1
    assert counted["reconciler_tasks", "created", "Host"] == 1
    assert counted["reconciler_needs_person", "Failed"] == 1
    assert counted["reconciler_transitions_total", "created", "assigned"] == 2
    assert counted["reconciler_transitions_total", "none", "created"] == 3
    assert counted["reconciler_run_duration_seconds_count", "script", "completed"] == 1
    assert counted["reconciler_run_duration_seconds_count", "script", "failed"] == 1
    assert counted["reconciler_dispatch_duration_seconds_count", "ssh_cli"] == 2
    assert counted["reconciler_round_duration_seconds_sum", "script"] == 12
    assert counted["reconciler_tokens_total", "script", "input"] == 10
    assert counted["reconciler_cost_dollars_total", "script", "reported"] == 0.5
    assert counted["reconciler_state_commits_total",] == len(state.log) + len(state.host_log)
    assert counted["reconciler_look_duration_seconds_count", "ok"] >= 1
    assert counted["reconciler_last_look_timestamp_seconds",] > START.timestamp()
    assert counted["reconciler_ready",] == 1
    assert not any("web/" in label for key in counted for label in key)


@pytest.mark.parametrize(
    ("error", "outcome", "look"),
    [
        (Conflict("other"), "conflict", "ok"),
        (Unavailable("away"), "unavailable", "unavailable"),
        (ValueError("x"), "fault", "ok"),
    ],
)
async def test_commits_and_looks_that_fail_are_counted_apart(error, outcome, look):
    clock = FakeClock()
    metrics = Metrics(clock)
    loop = make_loop(
        FakeSpecs(make_desired(make_task("a"))),
        FakeState(refuse=[error]),
        FakeDispatch(),
        clock,
        meter=metrics,
    )

    await loop.run("idle")

    assert values(metrics)["reconciler_state_commit_duration_seconds_count", outcome] == 1
    assert values(metrics)["reconciler_look_duration_seconds_count", look] >= 1


def test_slots_and_hosts_are_told_by_host(world, metrics):
    hosts = {
        "alpha": Host(name="alpha", address="a", slots=3),
        "beta": Host(name="beta", address="b", desired="suspended"),
    }
    world.controller.desired = make_desired(hosts=hosts)
    world.controller.hosts = {"alpha": HostStatus(reachable=False, since=START - timedelta(minutes=1))}

    counted = values(metrics)

    assert counted["reconciler_slots", "alpha"] == 3
    assert counted["reconciler_slots_used", "alpha"] == 0
    assert counted["reconciler_host_up", "alpha"] == 0
    assert ("reconciler_host_up", "beta") not in counted, "nobody asks it"
    assert counted["reconciler_needs_person_age_seconds",] >= 60


async def test_the_wait_of_outside_agents_is_told_apart(world, metrics):
    await world.ask(pulled("a"))
    steps = len(world.record.entries)
    world.record.add = metrics.step
    await world.controller.acquire(lease("jeeves"), timedelta())

    assert steps == 1
    assert values(metrics)["reconciler_queue_wait_seconds_count", "http_pull"] == 1


def lease(agent):
    from reconciler.core.model.status import LeaseRequest

    return LeaseRequest(agent=agent, request_key="k")


def test_what_others_say_is_passed_on(world):
    metrics = made_metrics(
        world,
        forges=lambda: {"web": False},
        budgets=lambda: {("fleet", "fleet"): 0.8},
        deliveries=lambda: {"refused": 3},
        notifications=lambda: {"phone": TargetReport(waiting=2, counts=TargetCounts(sent=5, failed=3))},
        is_leader=lambda: False,
    )

    counted = values(metrics)

    assert counted["reconciler_forge_up", "web"] == 0
    assert counted["reconciler_budget_used_ratio", "fleet", "fleet"] == 0.8
    assert counted["reconciler_webhook_deliveries_total", "refused"] == 3
    assert counted["reconciler_notifications_waiting", "phone"] == 2
    assert counted["reconciler_notifications_total", "failed", "phone"] == 3
    assert counted["reconciler_leader",] == 0


# --- The format ----------------------------------------------------------------


def test_every_metric_of_the_table_is_there(metrics):
    families = {family.name for family in metrics.registry.collect()}

    assert {each.name.removesuffix("_total") for each in TABLE} <= families
    assert len({each.name for each in TABLE}) == len(TABLE)


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool (Debian: prometheus)")
def test_promtool_has_nothing_against_them(world, metrics):
    metrics.push_refused("conflict")
    metrics.request("tasks", 200, 0.1)

    text, _ = metrics.exposition("text/plain")
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)

    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_openmetrics_are_told_to_who_asks_for_them(metrics):
    text, media_type = metrics.exposition("application/openmetrics-text; version=1.0.0")

    assert media_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
