"""
What people ask for from a page: commits in their name, and nobody else's.
"""

from dataclasses import replace

import pytest

from reconciler.core.errors import Problem
from reconciler.core.events import Assigned, Created, Origin, QuestionAsked
from reconciler.core.model.runs import Report, Verdict
from reconciler.core.model.specs import Host
from reconciler.core.model.status import OnHost, Reason, Waiting
from reconciler.core.planning.plan import Plan, prune_digest
from reconciler.core.views import Elsewhere
from tests.api.test_pages import Outline
from tests.fakes import START, make_task

SAME_SITE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
async def world_with_task(world):
    task = make_task("web/a")
    await world.ask(task)
    world.controller.put(Created(task="web/a", origin=Origin(START, "new"), spec=task))
    world.editor.texts["specs/tasks/web/a.yaml"] = "# mine\ngoal: Do it.\n"
    return world


async def act(client, path, **form):
    return await client.post(path, data=form, headers=SAME_SITE)


@pytest.mark.parametrize(
    ("verb", "line"), [("suspend", "desired: suspended"), ("cancel", "desired: cancelled")]
)
async def test_an_action_is_a_commit_in_the_name_of_who_asks(world_with_task, clients, verb, line):
    answer = await act(clients["boss"], "/act/tasks/web/a", verb=verb, reason="too dear")

    assert answer.status_code == 303
    assert answer.headers["location"] == f"/tasks/web/a?committed={1:040x}"
    assert world_with_task.editor.texts["specs/tasks/web/a.yaml"] == f"# mine\ngoal: Do it.\n{line}\n"
    assert world_with_task.editor.commits == [("boss", f"{verb.capitalize()} web/a\n\ntoo dear\n")]


async def test_the_page_shows_the_commit_that_an_action_made(world_with_task, clients):
    answer = await clients["boss"].get(f"/tasks/web/a?committed={1:040x}")

    assert f'href="/commits/{1:040x}"' in answer.text
    assert "Committed as" not in (await clients["boss"].get("/tasks/web/a?committed=<b>")).text


async def test_what_is_so_already_makes_no_commit(world_with_task, clients):
    world_with_task.editor.texts["specs/tasks/web/a.yaml"] = "goal: Do it.\ndesired: suspended\n"

    answer = await act(clients["boss"], "/act/tasks/web/a", verb="suspend")

    assert "web/a is suspended already" in answer.text
    assert world_with_task.editor.commits == []


@pytest.mark.parametrize("name", ["watcher", "jeeves", "nobody"])
async def test_who_is_no_admin_changes_nothing(world_with_task, clients, name):
    for path, form in (
        ("/act/tasks/web/a", {"verb": "cancel"}),
        ("/new", {"name": "b", "goal": "x", "do": "submit"}),
    ):
        assert (await act(clients[name], path, **form)).status_code in {401, 403}
    assert world_with_task.editor.commits == []


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example.org"}]
)
async def test_nobody_acts_through_the_browser_of_an_admin(world_with_task, clients, headers):
    answer = await clients["boss"].post("/act/tasks/web/a", data={"verb": "cancel"}, headers=headers)

    assert answer.status_code == 403
    assert world_with_task.editor.commits == []


async def test_nothing_is_changed_by_looking(world_with_task, clients):
    assert (await clients["boss"].get("/act/tasks/web/a?verb=cancel")).status_code == 405
    assert world_with_task.editor.commits == []


@pytest.mark.parametrize("verb", ["", "delete", "suspending", "cordon"])
async def test_an_action_that_there_is_not_is_a_mistake(world_with_task, clients, verb):
    assert (await act(clients["boss"], "/act/tasks/web/a", verb=verb)).status_code == 400


async def test_a_task_without_a_file_cannot_be_acted_on(world, clients):
    assert (await act(clients["boss"], "/act/tasks/none", verb="cancel")).status_code == 404


async def test_hosts_are_cordoned_and_drained(world, clients):
    await world.ask(hosts={"gpu1": Host(name="gpu1", address="x")})
    world.editor.texts["specs/hosts/gpu1.yaml"] = "address: x\n"

    for verb in ("cordon", "drain", "uncordon"):
        assert (await act(clients["boss"], "/act/hosts/gpu1", verb=verb)).status_code == 303

    assert [message for _, message in world.editor.commits] == [
        "Cordon host gpu1\n",
        "Drain host gpu1\n",
        "Uncordon host gpu1\n",
    ]


async def test_buttons_are_for_admins_and_fit_what_the_task_is(world_with_task, clients):
    boss = Outline((await clients["boss"].get("/tasks/web/a")).text)
    watcher = Outline((await clients["watcher"].get("/tasks/web/a")).text)

    assert "Suspend" in boss.text
    assert "Retry" not in boss.text
    assert "form" in boss.tags
    assert "Log in to suspend or cancel" in watcher.text


# --- Removals ----------------------------------------------------------------


async def test_a_removal_is_allowed_as_it_was_shown(world, clients):
    waiting = Waiting(reason=Reason.APPROVAL, message="waits for approve-prune", since=START)
    world.controller.last_plan = Plan(waiting={"a": waiting, "b": waiting})
    world.editor.texts["specs/fleet.yaml"] = "retries: 1\n"

    shown = (await clients["boss"].get("/")).text
    other = await act(clients["boss"], "/act/removal", digest="000")
    right = await act(clients["boss"], "/act/removal", digest=prune_digest(["a", "b"]))

    assert f'name="digest" value="{prune_digest(["a", "b"])}"' in shown
    assert other.status_code == 503
    assert right.status_code == 303
    assert world.editor.commits == [("boss", "Allow the removal of 2 tasks\n")]
    assert prune_digest(["a", "b"]) in world.editor.texts["specs/fleet.yaml"]


# --- A new task --------------------------------------------------------------


async def test_a_new_task_is_checked_and_then_committed(world, clients):
    form = {
        "name": "web/new",
        "goal": "Say: it works.\r\nTwice.",
        "validation": "npm test\r\n\r\n npm run lint ",
        "priority": "7",
        "more": "timeout: 1h",
        "reason": "asked for by mail",
    }
    checked = await act(clients["boss"], "/new", **form, do="check")
    submitted = await act(clients["boss"], "/new", **form, do="submit")

    assert "Nothing is wrong with it" in checked.text
    assert submitted.headers["location"] == f"/tasks/web/new?committed={1:040x}"
    assert world.editor.commits == [("boss", "Submit web/new\n\nasked for by mail\n")]
    text = world.editor.texts["specs/tasks/web/new.yaml"]
    assert "npm run lint" in text
    assert "priority: 7" in text
    assert text.endswith("timeout: 1h\n")


async def test_a_new_task_with_a_mistake_comes_back_with_what_was_written(world, clients):
    world.editor.problems = [Problem("specs/tasks/b.yaml", 2, 1, "unknown field gaol")]

    answer = await act(clients["boss"], "/new", name="b", goal="Keep <me>.", more="gaol: x", do="submit")

    assert "specs/tasks/b.yaml:2:1: error: unknown field gaol" in Outline(answer.text).text
    assert "Keep &lt;me&gt;." in answer.text
    assert world.editor.commits == []


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"name": "../x", "goal": "g"}, "unsafe name"),
        ({"name": "web/a", "goal": "g"}, "there is a task web/a already"),
        ({"name": "b", "goal": "g", "priority": "high"}, "is no whole number"),
        ({"goal": "g"}, "needs a name"),
    ],
)
async def test_a_task_that_cannot_be_is_refused_in_words(world_with_task, clients, form, message):
    answer = await act(clients["boss"], "/new", **form, do="submit")

    assert message in Outline(answer.text).text
    assert world_with_task.editor.commits == []


# --- Questions -----------------------------------------------------------------


@pytest.fixture
async def world_with_question(world_with_task):
    task = make_task("web/a")
    run = "web/a.g1.a1"
    head = {"task": "web/a", "origin": Origin(START, "it happened")}
    controller = world_with_task.controller
    controller.put(Assigned(**head, run=run, holder=OnHost(host="local"), spec=task))
    asked = Report(verdict=Verdict(outcome="success"))
    controller.put(QuestionAsked(**head, run=run, question="Which <b>one</b>?\nA or B?", report=asked))
    return world_with_task


async def test_a_question_is_shown_where_a_person_is_needed_and_is_answered_on_the_page_of_its_task(
    world_with_question, clients
):
    now, task = await clients["boss"].get("/"), await clients["boss"].get("/tasks/web/a")
    assert 'href="/tasks/web/a#h-questions"' in now.text
    assert "Which &lt;b&gt;one&lt;/b&gt;?" in task.text
    assert 'name="question" value="q1-1"' in task.text

    answer = await act(
        clients["boss"], "/act/tasks/web/a", verb="answer", question="q1-1", text="B,\r\nbecause it is new."
    )

    assert answer.status_code == 303
    assert world_with_question.editor.texts["specs/tasks/web/a.yaml"].endswith(
        'answer: {to: q1-1, text: "B,\\nbecause it is new."}\n'
    )
    assert world_with_question.editor.commits == [("boss", "Answer web/a\n")]


async def test_a_question_of_a_task_of_another_shard_is_answered_too(world_with_question, clients):
    controller = world_with_question.controller
    others = Elsewhere(shard="b", desired=controller.desired, statuses=dict(controller.statuses))
    controller.elsewhere = lambda: others
    controller.statuses.clear()
    controller.desired = replace(controller.desired, tasks={})

    answer = await act(clients["boss"], "/act/tasks/web/a", verb="answer", question="q1-1", text="B")

    assert answer.status_code == 303
    assert world_with_question.editor.commits == [("boss", "Answer web/a\n")]


async def test_who_may_only_look_is_told_how_to_answer(world_with_question, clients):
    page = await clients["watcher"].get("/tasks/web/a")

    assert "reconciler answer web/a TEXT" in page.text
    assert "<textarea" not in page.text


@pytest.mark.parametrize(
    ("kind", "command", "buttons"),
    [
        ("plan", "reconciler approve web/a<", ("Approve", "Reject")),
        ("choice", "reconciler choose web/a NUMBER<", ("web/a@1", "web/a@2")),
    ],
)
async def test_a_plan_and_a_choice_are_answered_by_buttons_and_told_by_their_own_commands(
    world_with_task, clients, kind, command, buttons
):
    head = {"task": "web/a", "origin": Origin(START, "it happened")}
    run, report = "web/a.g1.a1", Report(verdict=Verdict(outcome="success"))
    put, options = world_with_task.controller.put, buttons if kind == "choice" else ()
    put(Assigned(**head, run=run, holder=OnHost(host="local"), spec=make_task("web/a")))
    put(QuestionAsked(**head, run=run, question="So?", report=report, kind=kind, options=options))

    seen, mine = [await clients[name].get("/tasks/web/a") for name in ("watcher", "boss")]

    assert command in seen.text
    assert all(f"<button>{button}</button>" in mine.text for button in buttons)
    assert ('<textarea id="answer-text"' in mine.text) == (kind == "plan")


@pytest.mark.parametrize("name", ["watcher", "jeeves", "nobody"])
async def test_who_is_no_admin_answers_nothing(world_with_question, clients, name):
    answer = await act(clients[name], "/act/tasks/web/a", verb="answer", question="q1-1", text="B")

    assert answer.status_code in {303, 401, 403}
    assert world_with_question.editor.commits == []


async def test_an_answer_to_a_question_that_is_over_is_told(world_with_question, clients):
    answer = await act(clients["boss"], "/act/tasks/web/a", verb="answer", question="q0-1", text="B")

    assert "asks q1-1 by now" in answer.text
    assert world_with_question.editor.commits == []


async def test_a_program_answers_over_the_api(world_with_question, clients):
    body = {"question": "q1-1", "text": "B"}
    refused = await clients["watcher"].post("/api/v1/tasks/web/a/answer", json=body)
    first = await clients["boss"].post("/api/v1/tasks/web/a/answer", json=body)
    again = await clients["boss"].post("/api/v1/tasks/web/a/answer", json=body)
    other = await clients["boss"].post("/api/v1/tasks/web/a/answer", json={"text": "A"})

    assert refused.status_code == 403
    assert (first.status_code, first.json()["commit"]) == (200, f"{1:040x}")
    assert (again.json()["commit"], again.json()["message"]) == (None, "q1-1 of web/a is answered already: B")
    assert (other.status_code, other.json()["detail"].endswith("the first answer counts")) == (400, True)


async def test_the_api_tells_the_question(world_with_question, clients):
    task = (await clients["boss"].get("/api/v1/tasks/web/a")).json()

    assert (task["question_id"], task["question"]) == ("q1-1", "Which <b>one</b>?\nA or B?")
