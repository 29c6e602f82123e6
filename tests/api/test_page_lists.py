"""
The pages about hosts, agents, the plan, the history, cost and problems.
"""

from datetime import timedelta

import pytest

from reconciler.api.pages.cost import HEIGHT, bars
from reconciler.api.pages.problems import mistake
from reconciler.core.adapter import Usage
from reconciler.core.errors import Problem
from reconciler.core.hosts import HostChange
from reconciler.core.model.specs import Host
from reconciler.core.model.status import HostCli, HostStatus
from reconciler.store.spending import Spending
from tests.api.test_pages import create, page, start
from tests.api.world import pulled
from tests.fakes import START, make_desired, make_task


async def test_a_host_shows_its_slots_its_load_its_versions_and_who_holds_what(world, nobody):
    task = make_task("a")
    await world.ask(task, hosts={"local": Host(name="local", slots=4, labels=("gpu",))})
    create(world, task)
    start(world, task)
    codex = HostCli(path="/bin/codex", version="1.2.3", ok=True)
    world.controller.hosts["local"] = HostStatus(reachable=True, since=START, adapters={"codex": codex})

    for path in ("/hosts", "/hosts/local"):
        outline = await page(nobody, path)

        assert "0.50" in outline.text
        assert "codex" in outline.text
        assert "1.2.3" in outline.text
        assert "1 of 4" in outline.text
        assert "/tasks/a" in outline.links
        assert f"/commits/{'3' * 40}" in outline.links


async def test_a_host_tells_what_happened_there_and_nothing_else(world, nobody):
    await world.ask(hosts={"one": Host(name="one"), "two": Host(name="two", address="x")})
    for host in ("one", "two"):
        down = HostStatus(reachable=False, since=START, message="no answer")
        world.record.add(HostChange(host, None, down, START, f"{host} is away"))

    outline = await page(nobody, "/hosts/one")

    assert "one is away" in outline.text
    assert "two is away" not in outline.text


async def test_a_host_that_there_is_not_is_said_to_be_none(nobody):
    assert (await nobody.get("/hosts/none")).status_code == 404


async def test_an_agent_shows_what_it_holds_and_when_it_was_last_seen(world, jeeves, nobody):
    await world.ask(pulled("a"))
    await jeeves.post("/api/v1/dequeue", json={"request_key": "k"})

    outline = await page(nobody, "/agents")

    assert "1 of 3" in outline.text
    assert "/tasks/a" in outline.links
    assert "never" in outline.text.partition("watcher")[2]


async def test_no_page_shows_the_hash_of_a_token(world, nobody):
    hashes = [digest for agent in world.desired.agents.values() for digest in agent.token_hash]
    text = (await nobody.get("/agents")).text

    assert hashes
    assert not any(digest in text for digest in hashes)


# --- Plan --------------------------------------------------------------------


async def test_the_plan_says_what_a_look_does_now(world, nobody):
    await world.ask(make_task("a"), make_task("b", depends_on=("a",)))

    outline = await page(nobody, "/plan")

    assert "start" in outline.text.partition("/a")[0] or "wait" in outline.text
    assert "waits for a" in outline.text


async def test_the_plan_of_another_revision_is_told_as_what_it_changes(world, nobody):
    await world.ask(make_task("a"))
    world.revisions["next"] = make_desired(make_task("a"), make_task("new"), revision="9" * 40)

    outline = await page(nobody, "/plan?revision=next")

    assert "/tasks/new" in outline.links
    assert "/tasks/a" not in outline.links
    assert f"/commits/{'9' * 40}" in outline.links


@pytest.mark.parametrize("revision", ["none", "--all", "a..b", "x%0ay", "%3Cb%3E"])
async def test_a_revision_that_there_is_not_is_a_mistake_in_words(nobody, revision):
    outline = await page(nobody, f"/plan?revision={revision}")

    assert "no revision" in outline.text or "names no commit" in outline.text


# --- History -----------------------------------------------------------------


async def test_the_history_is_searched_by_what_is_in_the_address(world, nobody):
    tasks = [make_task("a"), make_task("b")]
    await world.ask(*tasks)
    create(world, *tasks)
    start(world, tasks[0])

    by_task = await page(nobody, "/history?task=b")
    by_text = await page(nobody, "/history?q=seen+alive")
    nothing = await page(nobody, "/history?actor=nobody")

    assert ("/tasks/b" in by_task.links, "/tasks/a" in by_task.links) == (True, False)
    assert ("/tasks/b" in by_text.links, "/tasks/a" in by_text.links) == (False, True)
    assert "Nothing in the history is like that" in nothing.text


async def test_older_entries_are_a_link_that_keeps_the_filters(world, nobody):
    tasks = [make_task(f"t{number}") for number in range(60)]
    await world.ask(*tasks)
    create(world, *tasks)

    first = await page(nobody, "/history?q=new")
    (older,) = [link for link in first.links if "before=" in link]
    rest = await page(nobody, older)

    assert "q=new" in older
    assert "/tasks/t9" in rest.links
    assert "/tasks/t59" not in rest.links


@pytest.mark.parametrize("query", ["since=yesterday", "until=2030-13-99", f"before={'f' * 40}"])
async def test_a_filter_that_is_none_is_said_to_be_so(nobody, query):
    text = (await nobody.get(f"/history?{query}")).text

    assert 'role="alert"' in text


# --- Cost --------------------------------------------------------------------


async def test_cost_is_summed_by_what_is_asked_for(world, nobody):
    await world.ask(make_task("a"))
    world.spent = [
        Spending(world.clock.time, task, None, adapter, "local", None, Usage(cost_usd=cost, input_tokens=10))
        for task, adapter, cost in (("a", "codex", 2.0), ("b", "codex", 1.0), ("b", "claude-code", 0.5))
    ]

    by_task = await page(nobody, "/cost")
    by_adapter = await page(nobody, "/cost?by=adapter&days=7")

    assert "$3.50 in 30 days" in by_task.text
    assert "a 2.00" in by_task.text
    assert "codex 3.00" in by_adapter.text
    assert "rect" in by_task.tags


def test_every_day_has_its_bar_and_the_dearest_is_the_highest():
    spent = {"2030-01-02": Usage(cost_usd=5), "2030-01-04": Usage(cost_usd=2.5)}

    made = bars(spent, START, 5, is_money=True)

    assert [bar.height for bar in made] == [0, HEIGHT, 0, HEIGHT / 2, 0]
    assert all(bar.y + bar.height == HEIGHT for bar in made)


async def test_old_spending_is_left_out(world, nobody):
    old = world.clock.time - timedelta(days=40)
    world.spent = [Spending(old, "a", None, "codex", "local", None, Usage(cost_usd=7))]

    assert "7.00" not in (await page(nobody, "/cost?days=30")).text
    assert "7.00" in (await page(nobody, "/cost?days=90")).text


# --- Problems ----------------------------------------------------------------


async def test_a_mistake_is_shown_with_its_line_and_a_caret(world, nobody):
    problem = Problem("specs/tasks/a.yaml", 2, 3, "unknown field", "gaol", "goal")
    world.files["specs/tasks/a.yaml"] = "# a task\n  gaol: <b>\n"
    await world.ask(problems=(problem,))

    text = (await nobody.get("/problems")).text

    assert '  gaol: &lt;b&gt;\n<span class="caret">  ^</span>' in text
    assert 'href="/files/specs/tasks/a.yaml#L2"' in text


@pytest.mark.parametrize(("line", "column"), [(0, 1), (9, 1), (1, 5000), (1, 400)])
def test_a_caret_is_never_far_from_its_line(line, column):
    made = mistake(Problem("p", line, column, "m"), ["x" * 1000])

    assert len(made.line) <= 160
    assert len(made.caret) <= 161


async def test_notifications_that_could_not_be_sent_are_problems(nobody):
    text = (await nobody.get("/problems")).text

    assert "2 messages wait, and cannot be sent: HTTP 404" in text
    assert "reconciler notify test" in text


async def test_refused_webhooks_and_hosts_that_are_away_are_problems(world, nobody):
    await world.ask(hosts={"gpu": Host(name="gpu", address="x")})
    world.controller.hosts["gpu"] = HostStatus(reachable=False, since=START, message="the key has changed")

    outline = await page(nobody, "/problems")

    assert "the key has changed" in outline.text
    assert "2 \u00d7 push" in outline.text
    assert "repo code the token may not do this: it lacks write:issue" in outline.text
