"""
What there is to read: filters, pages, versions.
"""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.api.reading import _page
from reconciler.api.views import read_model, run_body, task_body
from reconciler.core.figures import LiveFigures
from reconciler.core.model.specs import Campaign, Host
from reconciler.core.model.status import HostStatus, Phase, Reason, Waiting
from reconciler.core.outages import ForgeOutage
from reconciler.core.planning.plan import Plan, StopRun
from reconciler.core.times import format_time
from reconciler.wire import PageQuery
from tests.api.world import pulled
from tests.fakes import START, make_task
from tests.statuses import make_status

API = "/api/v1"
STAND = {"since": START, "created_at": START, "generation": "a" * 40, "work": "b" * 12}
UP, ZOO = Campaign(name="up", tasks=("up/a", "up/b", "up/c")), Campaign(name="zoo", tasks=())


async def names(client, path):
    return [one["name"] for one in (await client.get(f"{API}{path}")).json()]


async def take(client, key="k1"):
    return (await client.post(f"{API}/dequeue", json={"request_key": key})).json()


async def test_a_task_shows_what_is_asked_for_and_where_it_stands(world, jeeves, watcher):
    await world.ask(pulled("web/a", goal="Do it.\nWell.", priority=7, repo=None), make_task("b"))
    lease = await take(jeeves)

    held = (await watcher.get(f"{API}/tasks/web/a")).json()
    new = (await watcher.get(f"{API}/tasks/b")).json()

    assert (held["title"], held["goal"], held["priority"]) == ("Do it.", "Do it.\nWell.", 7)
    assert (held["phase"], held["assigned_agent"], held["run"]) == ("assigned", "jeeves", lease["lease"])
    assert (held["epoch"], held["branch_name"]) == (lease["epoch"], lease["branch"])
    assert (new["phase"], new["since"], new["execution_mode"]) == ("created", None, "ssh_cli")


async def test_the_last_sign_of_a_live_run_is_its_last_output_where_it_is_followed(world, jeeves):
    await world.ask(pulled("a"), pulled("b"))
    run = (await take(jeeves))["lease"]
    printed = world.controller.statuses["a"].since + timedelta(hours=1)
    figures = LiveFigures(last_output_at=printed, turns=2, input_tokens=203, cached_tokens=6000)
    heard = {(run, world.controller.statuses["a"].run.round): figures}

    model = replace(read_model(world.controller), live=lambda *key: heard.get(key))
    shown = task_body(model.task("a"))
    (live,) = map(run_body, model.runs())

    assert shown.last_activity_at == live.last_activity_at == format_time(printed)
    assert shown.live == live.live
    assert (shown.live.turns, shown.live.input_tokens, shown.live.output_tokens) == (2, 203, None)
    assert task_body(model.task("b")).last_activity_at is None
    assert task_body(model.task("b")).live is None


async def test_a_task_of_the_archive_is_had_by_its_name_alone(world, watcher):
    await world.ask(make_task("a"), make_task("b"))
    world.controller.statuses["a"] = make_status(Phase.COMPLETED, **STAND)
    world.archive("a")
    await world.ask(make_task("b"))

    shown = (await watcher.get(f"{API}/tasks/a")).json()

    assert (shown["name"], shown["phase"], shown["goal"]) == ("a", "completed", "")
    assert await names(watcher, "/tasks") == ["b"]
    assert (await watcher.get(f"{API}/tasks/c")).status_code == 404


async def test_a_task_says_what_it_waits_for_before_it_is_on_record(world, watcher):
    await world.ask(make_task("a"))
    waiting = Waiting(reason=Reason.SLOT, message="every slot is taken", since=START)
    world.controller.last_plan = Plan(waiting={"a": waiting})

    shown = (await watcher.get(f"{API}/tasks/a")).json()

    assert (shown["waiting_reason"], shown["waiting"]) == ("Slot", "every slot is taken")


async def test_a_campaign_says_how_far_its_tasks_are_and_what_keeps_more_of_them_back(world, watcher):
    await world.ask(*map(make_task, ("up/a", "up/b", "up/c")), campaigns={"up": UP, "zoo": ZOO})
    world.controller.statuses["up/a"] = make_status(Phase.FAILED, **STAND)
    pilot = Waiting(reason=Reason.PILOT, message="waits for the pilot", since=START)
    world.controller.statuses["up/b"] = make_status(Phase.CREATED, waiting=pilot, **STAND)

    first = await watcher.get(f"{API}/campaigns?limit=1")
    (up,) = first.json()

    assert (up["name"], up["state"], up["tasks"]) == ("up", "in pilot", 3)
    assert (up["failed"], up["waiting"], up["live"], up["completed"]) == (1, 2, 0, 0)
    assert (up["reason"], up["message"]) == ("Pilot", "waits for the pilot")
    assert 'rel="next"' in first.headers["Link"]


async def test_work_in_review_waits_for_a_forge_that_is_silent_also_for_who_saw_it_before(world, watcher):
    in_review = make_status(Phase.REVIEW_PENDING, **STAND)
    await world.ask(make_task("a", repo="web", review="pull_request"))
    world.controller.statuses = {**world.controller.statuses, "a": in_review}
    before = await watcher.get(f"{API}/tasks/a")

    world.controller.forge_outages = lambda: {"web": ForgeOutage("no answer within 60 s", START)}
    now = await watcher.get(f"{API}/tasks/a", headers={"If-None-Match": before.headers["etag"]})

    assert before.json()["waiting"] is None
    assert now.json()["waiting"] == "its forge does not answer: no answer within 60 s"


async def test_a_task_whose_spec_is_gone_is_shown_as_it_stands(world, jeeves, watcher):
    await world.ask(pulled("a"))
    await take(jeeves)
    await world.ask()

    shown = (await watcher.get(f"{API}/tasks/a")).json()

    assert (shown["title"], shown["phase"], shown["execution_mode"]) == ("a", "assigned", "http_pull")


async def test_tasks_are_found_by_what_they_are(world, jeeves, watcher):
    await world.ask(pulled("a"), pulled("b", repo="calc"), make_task("c"), make_task("d", repo="calc"))
    await take(jeeves)

    found = {
        query: await names(watcher, f"/tasks?{query}")
        for query in (
            "",
            "phase=assigned",
            "execution_mode=http_pull",
            "repo=calc",
            "repo=calc&execution_mode=ssh_cli",
            "assigned_agent=jeeves",
            "assigned_host=nowhere",
        )
    }

    assert found == {
        "": ["a", "b", "c", "d"],
        "phase=assigned": ["a"],
        "execution_mode=http_pull": ["a", "b"],
        "repo=calc": ["b", "d"],
        "repo=calc&execution_mode=ssh_cli": ["d"],
        "assigned_agent=jeeves": ["a"],
        "assigned_host=nowhere": [],
    }


@pytest.mark.parametrize(
    "query", ["phase=done", "phse=created", "limit=0", "limit=1001", "limit=", "limit=x", "cursor="]
)
async def test_a_filter_that_is_no_filter_is_a_mistake(watcher, query):
    answer = await watcher.get(f"{API}/tasks?{query}")

    assert answer.status_code == 422
    assert [one["field"] for one in answer.json()["errors"]] == [query.partition("=")[0]]


async def test_a_parameter_that_is_given_twice_is_a_mistake(watcher):
    assert (await watcher.get(f"{API}/tasks?limit=1&limit=2")).status_code == 400


async def test_pages_lead_to_each_other_and_keep_the_filters(world, watcher):
    await world.ask(*(pulled(f"web/{number:02}") for number in range(7)), make_task("other"))
    found, place = [], f"{API}/tasks?limit=3&execution_mode=http_pull"

    while place:
        answer = await watcher.get(place)
        found.append([one["name"] for one in answer.json()])
        place = answer.links.get("next", {}).get("url")

    assert [len(page) for page in found] == [3, 3, 1]
    assert [name for page in found for name in page] == [f"web/{number:02}" for number in range(7)]


@given(st.sets(st.text("ab/", min_size=1, max_size=4), max_size=20), st.integers(1, 5))
def test_pages_together_are_the_whole_in_order(things, limit):
    found, cursor = [], None

    while True:
        page, cursor = _page(things, str, PageQuery(limit=limit, cursor=cursor))
        found += page
        assert len(page) <= limit
        if cursor is None:
            break

    assert found == sorted(things)


# --- Who may read what -----------------------------------------------------


async def test_an_agent_reads_what_it_was_given_and_no_more(world, clients, jeeves):
    await world.ask(pulled("a"), pulled("b"))
    await take(jeeves)

    own = await jeeves.get(f"{API}/tasks/a")
    others = [await clients["hermes"].get(f"{API}/tasks/{name}") for name in ("a", "b", "nowhere")]

    assert own.status_code == 200
    assert [answer.status_code for answer in others] == [403, 403, 403]
    assert (await names(jeeves, "/tasks"), await names(clients["hermes"], "/tasks")) == (["a"], [])


async def test_a_reader_learns_that_a_name_is_unknown(watcher):
    assert (await watcher.get(f"{API}/tasks/nowhere")).status_code == 404


# --- The rest --------------------------------------------------------------


async def test_live_runs_are_listed(world, jeeves, watcher):
    await world.ask(pulled("a"), pulled("b"))
    lease = await take(jeeves)

    runs = (await watcher.get(f"{API}/runs")).json()

    assert [(run["run"], run["task"], run["assigned_agent"]) for run in runs] == [
        (lease["lease"], "a", "jeeves")
    ]
    assert (await watcher.get(f"{API}/runs?assigned_agent=hermes")).json() == []
    assert (await watcher.get(f"{API}/runs?assigned_agent=jeeves")).json() == runs


async def test_hosts_are_shown_with_what_is_known_of_them(world, watcher):
    hosts = {"local": Host(name="local"), "h1": Host(name="h1", address="192.0.2.1", cordon=True)}
    await world.ask(hosts=hosts)
    world.controller.hosts = {"h1": HostStatus(reachable=False, since=START, message="no answer")}

    far, near = (await watcher.get(f"{API}/hosts")).json()

    assert (far["name"], far["reachable"], far["message"], far["cordon"]) == ("h1", False, "no answer", True)
    assert (near["name"], near["address"], near["reachable"], near["slots"]) == ("local", None, None, 2)


async def test_agents_are_shown_with_what_they_hold_and_when_they_came(world, jeeves, watcher):
    await world.ask(pulled("a"))
    await take(jeeves)

    shown = {one["name"]: one for one in (await watcher.get(f"{API}/agents")).json()}

    assert shown["jeeves"]["held"] == ["a"]
    assert shown["jeeves"]["last_used_at"].startswith("2030-01-01T09:00:00")
    assert (shown["hermes"]["last_used_at"], shown["hermes"]["tokens"]) == (None, 1)
    assert "hash" not in str(shown)


async def test_the_plan_is_shown_with_its_reasons(world, watcher):
    stop = StopRun("a", "a.g1.a1", 1, "task removed from specs")
    waiting = {
        name: Waiting(reason=Reason.SLOT, message="every slot is taken", since=START) for name in "bcd"
    }
    world.controller.last_plan = Plan(actions=(stop,), waiting=waiting, due=START)

    shown = (await watcher.get(f"{API}/plan?limit=2")).json()

    assert shown["actions"] == [{"kind": "stop", "task": "a", "reason": "task removed from specs"}]
    assert [one["task"] for one in shown["waiting"]] == ["b", "c"]
    assert (shown["waiting_count"], shown["due"]) == (3, "2030-01-01T09:00:00Z")


async def test_the_history_is_read_backwards_in_pages(world, jeeves, watcher):
    await world.ask(pulled("a"), pulled("b"))
    await take(jeeves)

    first = await watcher.get(f"{API}/history?limit=2")
    second = await watcher.get(first.links["next"]["url"])
    of_b = await watcher.get(f"{API}/history?task=b")

    assert [(one["task"], one["after"]) for one in first.json()] == [("a", "assigned"), ("b", "created")]
    assert [(one["task"], one["after"]) for one in second.json()] == [("a", "created")]
    assert "next" not in second.links
    assert [one["task"] for one in of_b.json()] == ["b"]


@pytest.mark.parametrize(
    ("query", "status"),
    [(f"cursor={'e' * 40}", 404), ("cursor=--all", 422), ("cursor=HEAD", 422), ("task=../x", 422)],
)
async def test_a_part_of_the_history_that_is_not_there(watcher, query, status):
    assert (await watcher.get(f"{API}/history?{query}")).status_code == status


# --- Versions --------------------------------------------------------------


@pytest.mark.parametrize("path", ["/tasks", "/tasks/a", "/runs", "/history"])
async def test_what_did_not_change_is_not_sent_again(world, jeeves, watcher, path):
    await world.ask(pulled("a"))
    first = await watcher.get(f"{API}{path}")
    known = {"If-None-Match": f'"other", W/{first.headers["etag"]}'}

    again = await watcher.get(f"{API}{path}", headers=known)
    await take(jeeves)
    changed = await watcher.get(f"{API}{path}", headers=known)

    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert (changed.status_code, changed.headers["etag"]) == (200, f'"{world.record.head()}-{"1" * 40}"')
    assert first.headers["cache-control"] == "private, no-cache"


async def test_new_specs_are_a_new_version(world, watcher):
    first = await watcher.get(f"{API}/tasks")
    await world.ask(revision="2" * 40)

    again = await watcher.get(f"{API}/tasks", headers={"If-None-Match": first.headers["etag"]})

    assert again.status_code == 200


async def test_who_may_not_read_is_not_told_that_nothing_changed(world, watcher, nobody, jeeves):
    etag = (await watcher.get(f"{API}/runs")).headers["etag"]

    for client, status in ((nobody, 401), (jeeves, 403)):
        answer = await client.get(f"{API}/runs", headers={"If-None-Match": etag})

        assert answer.status_code == status
