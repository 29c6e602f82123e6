"""
The pages, asked for as a browser asks for them.
"""

import hashlib
import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest

from reconciler.api.exposure import Exposure, exposure_of
from reconciler.api.listen import Listen, read_listen
from reconciler.api.pages import handlers, static_files
from reconciler.api.pages.access import LIFETIME
from reconciler.api.pages.rendering import RenderCache, rendered
from reconciler.core.adapter import Budget, Usage
from reconciler.core.errors import Problem
from reconciler.core.events import (
    Assigned,
    Cancelled,
    Completed,
    Created,
    Failed,
    FixRequested,
    Origin,
    Started,
)
from reconciler.core.hosts import HostChange
from reconciler.core.model.runs import Check, FailureClass, Report, Verdict
from reconciler.core.model.specs import Campaign, DesiredState, FleetSpec, Host
from reconciler.core.model.status import Failure, HostStatus, OnHost, Reason, Waiting
from reconciler.core.planning.plan import Plan
from reconciler.specs.explain import Explained
from reconciler.store.commit_view import CommitView
from reconciler.store.spending import Spending
from tests.api.world import TOKENS
from tests.fakes import START, make_task

SAME_SITE = {"Sec-Fetch-Site": "same-origin"}


class Outline(HTMLParser):
    """What is in a page, as far as tests ask for it."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.attributes, self.pieces = [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *each) for each in attrs]
        self.links += [value for name, value in attrs if name == "href"]

    def handle_data(self, data):
        if self.tags[-1:] not in (["script"], ["style"]):
            self.pieces.append(data)


async def page(client, path, **headers):
    answer = await client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    return Outline(answer.text)


def at(hours=0, why="", **fields):
    return Origin(START + timedelta(hours=hours), why, **fields)


def run_of(task, attempt=1):
    return f"{task.name}.g{task.generation[:8]}.a{attempt}"


def create(world, *tasks, waiting=None):
    for task in tasks:
        world.controller.put(Created(task=task.name, origin=at(why="a new spec"), spec=task, waiting=waiting))


def start(world, task, *, host="local"):
    run, holder = run_of(task), OnHost(host=host)
    world.controller.put(
        Assigned(task=task.name, origin=at(1, "2 free"), spec=task, holder=holder, run=run),
        Started(task=task.name, origin=at(1, "seen alive"), run=run),
    )
    return run


# --- Now ---------------------------------------------------------------------


async def test_what_needs_a_person_stands_first(world, nobody):
    task = make_task("web/broken")
    await world.ask(task)
    create(world, task)
    start(world, task)
    failure = Failure(kind=FailureClass.AGENT, message="the agent gave up")
    report = Report(verdict=Verdict(outcome="failed", kind=FailureClass.AGENT, message="gave up"))
    world.controller.put(
        Failed(
            task=task.name, origin=at(2, "agent: gave up"), run=run_of(task), failure=failure, report=report
        )
    )

    outline = await page(nobody, "/")

    assert "Needs a person 1" in outline.text
    assert outline.text.index("the agent gave up") < outline.text.index("Running")
    assert "/tasks/web/broken" in outline.links
    assert f"/commits/{world.record.head()}" in outline.links


async def test_a_campaign_that_is_not_done_says_how_far_it_is(world, nobody):
    tasks = [make_task("up/a"), make_task("up/b")]
    width = Waiting(reason=Reason.WIDTH, message="as many begun as it may", since=START)
    await world.ask(*tasks, campaigns={"up": Campaign(name="up", tasks=("up/a", "up/b"), width=1)})
    create(world, tasks[0])
    create(world, tasks[1], waiting=width)
    start(world, tasks[0])

    outline = await page(nobody, "/")

    assert "Campaigns under way up as many begun as it may 0 of 2 completed 1 live 1 waiting" in outline.text
    assert "/files/specs/campaigns/up.yaml" in outline.links


async def test_what_is_wrong_in_the_specs_needs_a_person_too(world, nobody):
    problem = Problem("specs/tasks/a.yaml", 3, 1, "unknown field gaol")
    await world.ask(problems=(problem,), broken={"a": (problem,)})

    outline = await page(nobody, "/")

    assert "specs/tasks/a.yaml:3" in outline.text
    assert "unknown field gaol" in outline.text


async def test_a_live_run_is_shown_with_its_place_its_last_line_and_its_cost(world, nobody):
    task = make_task("a")
    await world.ask(task)
    create(world, task)
    run = start(world, task)
    world.run_logs.texts[run] = {"round 1 agent": b"reading\nwriting tests\n"}

    outline = await page(nobody, "/")

    assert "writing tests" in outline.text
    assert "/hosts/local" in outline.links
    assert "$0.00" in outline.text


async def test_the_queue_stands_in_the_order_in_which_tasks_start_with_each_reason(world, nobody):
    tasks = [make_task("late"), make_task("urgent", priority=9)]
    await world.ask(*tasks)
    create(world, *tasks, waiting=Waiting(reason=Reason.SLOT, message="every slot is taken", since=START))

    outline = await page(nobody, "/")
    queue = outline.text.partition("Queue")[2]

    assert queue.index("urgent") < queue.index("late")
    assert "every slot is taken" in queue


async def test_a_slot_that_is_taken_leads_to_its_task(world, nobody):
    task = make_task("a", slots=2)
    await world.ask(task, hosts={"big": Host(name="big", slots=5, address="big.example.org")})
    create(world, task)
    start(world, task, host="big")

    text = (await nobody.get("/")).text

    assert text.count('class="slot used"') == 2
    assert text.count('<span class="slot') - text.count('<span class="slots') == 3
    assert "2 of 5 used" in text


async def test_what_was_spent_today_stands_beside_its_budget(world, nobody):
    await world.ask(fleet=FleetSpec(daily_budget=Budget(cost_usd=20)))
    world.spent = [
        Spending(world.clock.time, "a", None, "script", "local", None, Usage(cost_usd=cost))
        for cost in (3, 1.5)
    ]

    assert "$4.50 of $20.00" in (await page(nobody, "/")).text


async def test_news_of_hosts_stand_among_the_last_transitions(world, nobody):
    down = HostStatus(reachable=False, since=START, message="no answer")
    world.record.add(HostChange("gpu1", None, down, START, "no answer"))

    outline = await page(nobody, "/")

    assert "host gpu1" in outline.text
    assert "/hosts/gpu1" in outline.links


# --- Tasks -------------------------------------------------------------------


def names(outline):
    return [link.removeprefix("/tasks/") for link in outline.links if link.startswith("/tasks/")]


async def test_filters_search_and_order_stand_in_the_address(world, nobody):
    tasks = [
        make_task("web/login", title="Log in", priority=1, repo="web"),
        make_task("web/logout", title="Log out", priority=2, repo="web"),
        make_task("calc/mean", title="Average", repo="calc"),
    ]
    await world.ask(*tasks)
    create(world, *tasks)
    start(world, tasks[0])

    expected = {
        "": ["calc/mean", "web/login", "web/logout"],
        "q=log+OUT": ["web/logout"],
        "repo=web&order=priority": ["web/logout", "web/login"],
        "phase=live": ["web/login"],
        "host=local": ["web/login"],
        "q=average": ["calc/mean"],
        "phase=bad": [],
    }

    assert {query: names(await page(nobody, f"/tasks?{query}")) for query in expected} == expected


async def test_a_long_list_comes_page_by_page_and_keeps_its_filters(world, nobody):
    await world.ask(*[make_task(f"t{number:03}") for number in range(120)])

    first = await page(nobody, "/tasks?q=t")
    last = await page(nobody, "/tasks?q=t&page=3")
    beyond = await page(nobody, "/tasks?q=t&page=99999999999999999999")

    assert names(first) == [f"t{number:03}" for number in range(50)]
    assert "/tasks?q=t&page=2" in first.links
    assert names(last) == [f"t{number:03}" for number in range(100, 120)]
    assert names(beyond) == names(first)


async def test_the_board_has_a_column_for_each_part_of_a_life(world, nobody):
    tasks = [make_task("waits"), make_task("runs"), make_task("ended")]
    await world.ask(*tasks)
    create(world, *tasks)
    start(world, tasks[1])
    world.controller.put(Cancelled(task="ended", origin=at(2, "cancelled"), spec=tasks[2]))

    outline = await page(nobody, "/tasks?view=board")

    assert re.search(r"Waiting 1 .*waits.* Running 1 .*runs.* Review 0 .* Cancelled 1 .*ended", outline.text)


async def test_who_needs_a_person_and_what_is_suspended_can_be_filtered_by(world, nobody):
    tasks = [make_task("broken"), make_task("later", desired=DesiredState.SUSPENDED), make_task("runs")]
    problem = Problem("specs/tasks/broken.yaml", 1, 1, "goal is missing")
    await world.ask(*tasks, problems=(problem,), broken={"broken": (problem,)})
    create(world, *tasks[1:])

    listed = {phase: names(await page(nobody, f"/tasks?phase={phase}")) for phase in ("person", "suspended")}
    now = await page(nobody, "/")

    assert listed == {"person": ["broken"], "suspended": ["later"]}
    assert "/tasks?phase=suspended" in now.links
    assert "/tasks/later" not in now.text.partition("Queue")[2]


# --- A task ------------------------------------------------------------------


async def ended(world, task):
    """Let a task need two rounds."""
    await world.ask(task)
    create(world, task)
    run = start(world, task)
    red = Check(command="make test", exit_code=2, seconds=1.5, output="1 failed <b>badly</b>")
    green = Check(command="make test", exit_code=0, seconds=1.0, output="all passed")
    first = Report(verdict=Verdict(outcome="success", usage=Usage(cost_usd=1.0)), checks=(red,))
    second = Report(
        verdict=Verdict(outcome="success", text="I mended it.", usage=Usage(cost_usd=0.25)), checks=(green,)
    )
    world.controller.put(
        FixRequested(task=task.name, origin=at(2, "make test failed"), run=run, report=first),
        Completed(task=task.name, origin=at(3, "done: validated"), report=second),
    )
    return run


async def test_a_task_shows_its_goal_its_rounds_and_a_line_for_each_commit(world, nobody):
    task = make_task("web/a", goal="Make it <fast>.", constraints=("Touch nothing else.",))
    await ended(world, task)

    outline = await page(nobody, "/tasks/web/a")

    assert "Make it <fast>." in outline.text
    assert "Attempt 1, round 2 completed" in outline.text
    assert "Attempt 1, round 1 failed" in outline.text
    assert "1 failed <b>badly</b>" in outline.text
    assert "$1.00" in outline.text.partition("round 1")[2]
    assert "$0.25" in outline.text.partition("round 2")[2].partition("round 1")[0]
    assert "I mended it." in outline.text
    assert {f"/commits/{entry.commit}" for entry in world.record.entries} <= {*outline.links}


async def test_a_failed_task_says_first_why_with_its_last_lines_its_workspace_and_what_to_type(world, nobody):
    task = make_task("web/a", goal="Make it fast.")
    await world.ask(task)
    create(world, task)
    run = start(world, task)
    red = Check(command="make test", exit_code=2, seconds=1.5, output="one\n1 failed <b>badly</b>\n")
    report = Report(verdict=Verdict(outcome="success"), checks=(red,))
    failure = Failure(kind=FailureClass.VALIDATION, message="make test: exit code 2")
    world.controller.put(
        Failed(task="web/a", origin=at(2, "make test failed"), run=run, failure=failure, report=report)
    )
    world.workspaces["web/a"] = "build1:/home/agents/work/web-a"

    text = (await page(nobody, "/tasks/web/a")).text
    why = text.partition("Why it failed")[2].partition("Goal")[0]

    assert "make test: exit code 2" in why
    assert "1 failed <b>badly</b>" in why
    assert "build1:/home/agents/work/web-a kept until" in why
    assert "reconciler retry web/a" in why


async def test_each_value_of_a_spec_says_where_it_comes_from(world, nobody):
    await world.ask(make_task("a"))
    world.explained = [
        Explained("goal", "Do a.", "specs/tasks/a.yaml:1"),
        Explained("priority", "0", "default"),
    ]

    outline = await page(nobody, "/tasks/a")

    assert "/files/specs/tasks/a.yaml#L1" in outline.links
    assert "1 fields have their default" in outline.text


async def test_a_task_that_waits_says_of_each_host_why_not(world, nobody):
    task = make_task("a", requires=("gpu",))
    await world.ask(
        task, hosts={"one": Host(name="one"), "two": Host(name="two", labels=("gpu",), cordon=True)}
    )
    create(world, task, waiting=Waiting(reason=Reason.HOST, message="no host fits", since=START))
    world.controller.last_plan = Plan()

    outline = await page(nobody, "/tasks/a")

    assert "lacks gpu" in outline.text
    assert "is cordoned" in outline.text


async def test_a_task_that_is_not_there_is_said_to_be_so(world, nobody):
    answer = await nobody.get("/tasks/no/such")

    assert answer.status_code == 404
    assert "no task no/such" in Outline(answer.text).text


async def test_a_task_that_was_removed_is_still_told_of(world, nobody):
    task = make_task("a")
    await ended(world, task)
    world.controller.statuses = {}
    await world.ask()

    assert "Nothing" not in (await page(nobody, "/tasks/a")).text


async def test_a_task_of_the_archive_is_shown_by_its_name_and_nothing_can_be_asked_of_it(world, nobody):
    await ended(world, make_task("a"))
    world.archive("a")
    await world.ask()

    shown, listed = await page(nobody, "/tasks/a"), await page(nobody, "/tasks")

    assert "I mended it." in shown.text
    assert "Retry" not in shown.text
    assert "/tasks/a" not in listed.links


# --- Logs, diffs, commits, files ---------------------------------------------


async def with_log(world, text, label="round 1 agent"):
    task = make_task("a")
    await world.ask(task)
    create(world, task)
    run = start(world, task)
    world.run_logs.texts[run] = {label: text}
    return run


async def test_the_end_of_a_log_is_shown_and_what_is_before_it_is_a_link(world, nobody):
    await with_log(world, b"".join(b"line %05d of the log\n" % number for number in range(9000)))

    outline = await page(nobody, "/logs/a")
    (earlier,) = [link for link in outline.links if "end=" in link]
    before = await page(nobody, earlier)

    assert "line 08999" in outline.text
    assert "line 00001" not in outline.text
    first = int(re.search(r"line (\d+)", outline.text)[1])
    assert f"line {first - 1:05} of" in before.text
    assert f"line {first:05} of" not in before.text


async def test_a_log_is_searched(world, nobody):
    await with_log(world, b"one Error here\nnothing\nanother ERROR & more\n")

    answer = await nobody.get("/logs/a?q=error")

    assert "2 lines with" in Outline(answer.text).text
    assert "<mark>ERROR</mark> &amp; more" in answer.text


async def test_a_log_that_may_hold_secrets_is_withheld(world, nobody):
    run = await with_log(world, b"token\n")
    world.run_logs.withheld.add(run)

    outline = await page(nobody, "/logs/a")

    assert "may hold secrets" in outline.text
    assert "token" not in outline.text


async def test_no_run_of_another_task_is_shown_as_one_of_this(world, nobody):
    await with_log(world, b"x\n")

    assert (await nobody.get("/logs/a?run=b.g0.a1")).status_code == 404


async def test_a_log_goes_on_while_its_run_does(world, nobody, monkeypatch):
    monkeypatch.setattr(handlers, "PAUSE", 0.01)
    run = await with_log(world, b"first\n")
    path = "/follow/a?part=round%201%20agent&from=6"
    async with nobody.stream("GET", path) as answer:
        lines = answer.aiter_lines()
        world.run_logs.texts[run]["round 1 agent"] += b"\x1b[31mred\x1b[0m\nhalf a l"
        lines_read = [await anext(lines) for _ in range(4)][2:]

    assert lines_read == ["id: 19", 'data: <span class="line"><span class="fg-red">red</span></span>']


async def test_the_stream_of_a_log_ends_with_its_run(world, nobody, monkeypatch):
    monkeypatch.setattr(handlers, "PAUSE", 0.01)
    task = make_task("a")
    run = await ended(world, task)
    world.run_logs.texts[run] = {"round 1 agent": b"all of it\n"}

    answer = await nobody.get("/follow/a?part=round%201%20agent&from=0")

    assert answer.text.endswith("event: end\ndata: over\n\n")


async def test_what_was_printed_last_is_sent_before_the_stream_ends(world, nobody, monkeypatch):
    monkeypatch.setattr(handlers, "PAUSE", 0.01)
    run = await ended(world, make_task("a"))
    world.run_logs.texts[run] = {"round 1 agent": b"first\nno end of line"}

    answer = await nobody.get("/follow/a?part=round%201%20agent&from=0")

    assert '<span class="line">first' in answer.text
    assert '<span class="line">no end of line</span>\n\nevent: end' in answer.text


async def test_the_stream_of_a_log_ends_with_its_step_of_the_run(world, nobody, monkeypatch):
    monkeypatch.setattr(handlers, "PAUSE", 0.01)
    run = await with_log(world, b"round one\n")
    world.run_logs.texts[run] |= {"round 1 agent (stderr)": b"", "round 2 agent": b"round two\n"}

    answer = await nobody.get("/follow/a?part=round%201%20agent&from=0")

    assert "round one" in answer.text
    assert answer.text.endswith("event: end\ndata: over\n\n")


async def test_the_stream_of_a_log_that_is_withheld_ends(world, nobody):
    run = await with_log(world, b"token\n")
    world.run_logs.withheld.add(run)

    answer = await nobody.get("/follow/a?part=round%201%20agent&from=0")

    assert answer.text.endswith("event: end\ndata: over\n\n")
    assert "token" not in answer.text


async def test_until_the_specs_were_read_a_page_says_so_and_comes_back_by_itself(world, nobody):
    await world.ask(make_task("a"), revision="")

    page, part, stream = [
        await nobody.get(path, headers=headers)
        for path, headers in (("/tasks?q=a", {}), ("/tasks", {"HX-Request": "true"}), ("/follow/a", {}))
    ]

    assert [answer.status_code for answer in (page, part, stream)] == [503, 503, 503]
    assert "reads the specs and the record" in page.text
    assert 'hx-get="/tasks?q=a" hx-trigger="changed from:body, every 3s"' in page.text
    assert "No task" not in page.text


DIFF = """\
diff --git a/calc.py b/calc.py
index 1..2 100644
--- a/calc.py
+++ b/calc.py
@@ -1,3 +1,3 @@ def mean(xs):
 def mean(xs):
-    return sum(xs)
+    return sum(xs) / len(xs)  # <script>alert(1)</script>
\\ No newline at end of file
diff --git a/logo.png b/logo.png
new file mode 100644
Binary files /dev/null and b/logo.png differ
"""


async def test_a_diff_has_its_lines_numbered_and_coloured(world, nobody):
    task = make_task("a", repo="calc")
    await world.ask(task)
    create(world, task)
    start(world, task)
    report = Report(verdict=Verdict(outcome="success"), base_commit="a" * 40, head_commit="b" * 40, commits=1)
    world.controller.put(Completed(task="a", origin=at(2, "done"), report=report))
    world.diffs["calc"] = DIFF

    answer = await nobody.get("/diff/a")
    outline = Outline(answer.text)

    assert '<span class="h-k">return</span>' in answer.text
    assert "<script>alert(1)" not in answer.text
    assert "2 files changed, +1" in outline.text
    assert "logo.png binary" in outline.text or "logo.png new" in outline.text


async def test_a_commit_is_shown_with_its_trailers_as_links(world, nobody):
    message = "task web/a: created → assigned\n\n2 free\n\nTask: web/a\nSpec-Revision: " + "1" * 40 + "\n"
    world.commits["c" * 40] = CommitView(
        commit="c" * 40,
        parents=("d" * 40,),
        author="Ann <ann@example.org>",
        committer="Ann <ann@example.org>",
        authored_at=START,
        committed_at=START,
        message=message,
        patch=DIFF,
        is_cut=False,
    )

    outline = await page(nobody, f"/commits/{'c' * 40}")

    assert "task web/a: created → assigned" in outline.text
    assert "Ann <ann@example.org>" in outline.text
    assert {"/tasks/web/a", f"/commits/{'1' * 40}", f"/commits/{'d' * 40}"} <= {*outline.links}


@pytest.mark.parametrize("name", ["HEAD", "--all", "zzzzzzzz", "abc", "main"])
async def test_what_is_no_commit_is_refused(nobody, name):
    assert (await nobody.get(f"/commits/{name}")).status_code == 404


@pytest.mark.parametrize("path", ["etc/passwd", "specs/../x", "specs//x", "specs/a%00", "fleet-state/x"])
async def test_no_file_outside_the_specs_is_shown(nobody, path):
    assert (await nobody.get(f"/files/{path}")).status_code == 404


async def test_a_file_of_the_specs_has_a_place_for_each_line(world, nobody):
    world.files["specs/tasks/a.yaml"] = "goal: Do it.\npriority: 3\n"

    answer = await nobody.get("/files/specs/tasks/a.yaml")

    assert '<tr id="L2">' in answer.text


# --- What is hostile is inert ------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b]0;title\x07\x1b[31mred\x1b[0m "
    '\u202egnp.exe \u200b{{ 7 * 7 }} "onmouseover="x'
)


def visible_tags(outline):
    return {tag for tag in outline.tags if tag in {"img", "iframe", "object"}}, [
        name for _, name, _ in outline.attributes if name.startswith("on") or name == "style"
    ]


async def test_nothing_that_others_wrote_acts_and_nothing_of_it_is_hidden(world, nobody):
    task = make_task("a", goal=HOSTILE, title="t " + HOSTILE)
    run = await ended(world, task)
    world.run_logs.texts[run] = {"round 1 agent": HOSTILE.encode() + b"\n"}

    for path in ("/", "/tasks", "/tasks?view=board", "/tasks/a", "/logs/a", f"/tasks?q={'%3Cscript%3E'}"):
        answer = await nobody.get(path)
        outline = Outline(answer.text)

        assert visible_tags(outline) in [({"img"}, []), (set(), [])], path
        assert answer.text.count("<img") == 1, path  # our own
        assert "alert(1)</script>" not in answer.text, path
        assert not re.search("[\x00-\x08\x0b-\x1f\u200b\u202a-\u202e]", answer.text), path
        assert "49" not in outline.text.partition("7 * 7")[0][-20:], path
    assert "⟨U+202E⟩" in (await nobody.get("/tasks/a")).text


@pytest.mark.parametrize(
    "query", ["q=%00", "q=%ff%fe", "page=-1", "page=%D9%A3", "q=" + "x" * 4000, "&&==&", "order=no"]
)
async def test_whatever_stands_in_an_address_a_page_comes_of_it(world, nobody, query):
    await world.ask(make_task("a"))

    for path in ("/", "/tasks", "/history", "/plan", "/cost", "/logs/a", "/hosts", "/login"):
        assert (await nobody.get(f"{path}?{query}")).status_code == 200, path


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "https://a\u202e.org", "//x"])
def test_only_what_is_a_plain_address_becomes_a_link(url):
    from reconciler.api.pages.safe_text import link

    assert link(url) is None
    assert link("https://code.example.org/a/b/pulls/3") == "https://code.example.org/a/b/pulls/3"


# --- How it is sent ----------------------------------------------------------


async def test_every_answer_forbids_what_is_not_ours(nobody):
    for path in ("/", "/tasks", "/login", "/tasks/none", "/static/pages.css"):
        headers = (await nobody.get(path)).headers
        policy = headers["content-security-policy"]

        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"


async def test_a_page_has_no_script_and_no_style_of_its_own_and_asks_nobody_else(world, nobody):
    await ended(world, make_task("a"))
    for path in ("/", "/tasks", "/tasks/a", "/login"):
        answer = await nobody.get(path)

        assert not re.search(r"<style|style=|<script(?! src=\"/static/)|\son[a-z]+=", answer.text)
        assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", answer.text)


async def test_a_browser_gets_a_page_where_nothing_is_and_a_program_what_it_can_read(nobody):
    browser = await nobody.get("/no/such", headers={"Accept": "text/html,*/*"})
    program = await nobody.get("/no/such")
    api = await nobody.get("/api/v1/none", headers={"Accept": "text/html"})

    assert (browser.status_code, program.status_code, api.status_code) == (404, 404, 404)
    assert "nothing is at /no/such" in Outline(browser.text).text
    assert program.json()["status"] == 404
    assert api.json()["status"] == 404


async def test_a_page_that_has_not_changed_is_not_sent_again(world, nobody):
    first = await nobody.get("/tasks")
    again = await nobody.get("/tasks", headers={"If-None-Match": first.headers["etag"]})

    assert again.status_code == 304
    assert first.headers["cache-control"] == "private, no-cache"


async def test_who_asks_for_the_header_alone_gets_that_of_the_page(nobody):
    answer = await nobody.head("/tasks")

    assert (answer.status_code, answer.content) == (200, b"")
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_a_part_of_a_page_is_its_main_part_alone(world, nobody):
    whole, part = await nobody.get("/"), await nobody.get("/", headers={"HX-Request": "true"})

    assert "<header" in whole.text
    assert "<header" not in part.text
    title, _, rest = part.text.partition("</title>")
    assert title in whole.text
    assert rest.strip() in whole.text


async def test_a_page_without_javascript_loads_itself_again(nobody):
    assert '<noscript><meta http-equiv="refresh"' in (await nobody.get("/")).text


async def test_who_listens_hears_that_something_changed_and_nothing_else(world, nobody, monkeypatch):
    monkeypatch.setattr(handlers, "PAUSE", 0.01)
    task = make_task("secret/name")
    await world.ask(task)
    async with nobody.stream("GET", "/live") as answer:
        lines = answer.aiter_lines()
        hello = [await anext(lines) for _ in range(6)]
        create(world, task)
        lines_read = [await anext(lines) for _ in range(3)]

    assert "event: hello" in hello
    assert lines_read[0] == "event: changed"
    assert "secret" not in "".join(lines_read)


async def test_pages_stay_under_a_hundred_kilobytes(world, nobody):
    goal = "Words upon words. " * 2000
    tasks = [
        make_task(f"group/of/tasks/number-{number:04}", goal=goal, title="T" * 100) for number in range(1000)
    ]
    hosts = {f"h{n}": Host(name=f"h{n}", slots=40, address="x", labels=("l" * 40,)) for n in range(90)}
    problems = tuple(Problem(f"specs/tasks/p{n}.yaml", 1, 1, "why not " * 40) for n in range(200))
    await world.ask(*tasks, hosts=hosts, problems=problems)
    create(world, *tasks, waiting=Waiting(reason=Reason.SLOT, message="why not " * 20, since=START))
    runs = [start(world, task, host=f"h{n % 90}") for n, task in enumerate(tasks[:720])]
    colourful = b"".join(b"\x1b[1;31m%d\x1b[0m \x1b[32m<&>\x1b[0m\n" % number for number in range(20_000))
    world.run_logs.texts |= {run: {"round 1 agent": colourful} for run in runs[:60]}
    world.spent = [
        Spending(world.clock.time, task.name, None, "script", "h1", None, Usage(cost_usd=1)) for task in tasks
    ]
    world.explained = [Explained("goal", goal, "specs/tasks/a.yaml:1")]
    busy, waiting = tasks[0].name, tasks[-1].name
    lists = ("/hosts", "/plan", "/history", "/cost", "/problems", "/agents", "/hosts/h1")
    paths = ("/", "/tasks", "/tasks?view=board", f"/tasks/{busy}", f"/tasks/{waiting}", f"/logs/{busy}")

    sizes = {path: len((await nobody.get(path)).content) for path in (*paths, *lists)}

    assert {path: size for path, size in sizes.items() if size >= 100_000} == {}


async def test_a_task_with_many_rounds_and_long_texts_fits_on_a_page(world, nobody):
    task = make_task("a", goal="Words upon words. " * 2000)
    await world.ask(task)
    create(world, task)
    run = start(world, task)
    red = Check(command="make test", exit_code=2, seconds=1.0, output="red " * 5000)
    report = Report(verdict=Verdict(outcome="success", text="I did. " * 1000), checks=(red,))
    for number in range(20):
        world.controller.put(
            FixRequested(task="a", origin=at(2 + number, "make test failed"), run=run, report=report)
        )

    answer = await nobody.get("/tasks/a")

    assert len(answer.content) < 100_000
    assert "Attempt 1, round 20" in Outline(answer.text).text


async def test_a_page_is_made_once_for_all_who_ask_for_it_at_once():
    made, cache = [], RenderCache(lambda: 0.0)

    async def make():
        made.append(1)
        return rendered(200, "page")

    pages = [await cache.get("now", "v1", make) for _ in range(50)]
    await cache.get("now", "v2", make)

    assert len(made) == 2
    assert len({id(each) for each in pages}) == 1


async def test_a_page_that_could_not_be_made_is_tried_again():
    cache = RenderCache(lambda: 0.0)

    async def fail():
        raise KeyError("x")

    async def make():
        return rendered(200, "page")

    with pytest.raises(KeyError):
        await cache.get("now", "v1", fail)
    assert (await cache.get("now", "v1", make)).content == b"page"


def test_vendored_files_are_those_that_were_taken_in():
    folder = static_files.FOLDER / "vendor"
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    expected = {name: digest for digest, name in (line.split() for line in lines)}

    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.js")}

    assert there == expected
    assert all(name in (folder / "NOTICE").read_text() for name in there)


async def test_static_files_are_kept_for_good_under_an_address_of_their_own(nobody):
    (address,) = re.findall(r'href="(/static/pages.css[^"]+)"', (await nobody.get("/")).text)
    answer = await nobody.get(address)

    assert answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]


@pytest.mark.parametrize("name", ["../handlers.py", "vendor/NOTICE", "%2e%2e/handlers.py", ""])
async def test_no_other_file_is_served(nobody, name):
    assert (await nobody.get(f"/static/{name}")).status_code in {404, 405}


def test_no_template_is_told_that_anything_is_safe():
    for template in Path(static_files.__file__).with_name("templates").glob("*.html"):
        assert "|safe" not in template.read_text().replace(" ", ""), template


# --- Who may look ------------------------------------------------------------


class TestElsewhere:
    """A server that others reach."""

    @pytest.fixture
    def exposure(self):
        return Exposure(hosts=frozenset({"127.0.0.1"}), is_open=False, is_secure=False, key=b"key")

    async def log_in(self, client, token, **more):
        return await client.post("/login", data={"token": token, **more}, headers=SAME_SITE)

    async def test_who_has_shown_no_token_is_led_to_the_login(self, nobody):
        answer = await nobody.get("/tasks/a")

        assert answer.status_code == 303
        assert answer.headers["location"] == "/login?next=%2Ftasks%2Fa"

    async def test_after_the_login_a_cookie_is_enough(self, nobody):
        answer = await self.log_in(nobody, TOKENS["watcher"], next="/tasks")
        cookie = answer.headers["set-cookie"]

        assert (answer.status_code, answer.headers["location"]) == (303, "/tasks")
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKENS["watcher"] not in cookie
        assert "watcher" in (await page(nobody, "/")).text

    async def test_a_cookie_is_good_no_longer_than_its_token(self, world, nobody):
        await self.log_in(nobody, TOKENS["watcher"])
        agents = {name: agent for name, agent in world.desired.agents.items() if name != "watcher"}
        await world.ask(agents=agents)

        assert (await nobody.get("/")).status_code == 303

    async def test_a_cookie_ends(self, world, nobody):
        await self.log_in(nobody, TOKENS["watcher"])
        world.clock.time += LIFETIME + timedelta(minutes=1)

        assert (await nobody.get("/")).status_code == 303

    @pytest.mark.parametrize("cookie", ["boss.99999999999.00", "boss", "..", "boss.9.x" * 50, "ö.1.2", ""])
    async def test_a_cookie_that_we_did_not_make_is_none(self, address, cookie):
        async with httpx2.AsyncClient(base_url=address, trust_env=False) as client:
            headers = {"Cookie": f"reconciler={cookie}".encode()}
            assert (await client.get("/", headers=headers)).status_code == 303

    async def test_a_wrong_token_is_said_to_be_one(self, nobody):
        answer = await self.log_in(nobody, "rct_watcher.wrong")

        assert answer.status_code == 401
        assert "not known here" in Outline(answer.text).text
        assert "set-cookie" not in answer.headers

    async def test_a_token_for_agents_alone_does_not_look(self, nobody, jeeves):
        assert (await self.log_in(nobody, TOKENS["jeeves"])).status_code == 403
        assert (await jeeves.get("/")).status_code == 403

    async def test_a_token_in_the_header_is_enough(self, watcher):
        assert (await watcher.get("/")).status_code == 200

    async def test_who_logs_out_is_out(self, nobody):
        await self.log_in(nobody, TOKENS["watcher"])
        await nobody.post("/logout", headers=SAME_SITE)

        assert (await nobody.get("/")).status_code == 303

    @pytest.mark.parametrize("place", ["//evil.example.org", "https://evil.org", "/\\evil", "javascript:x"])
    async def test_the_login_leads_nowhere_else(self, nobody, place):
        assert (await self.log_in(nobody, TOKENS["watcher"], next=place)).headers["location"] == "/"

    async def test_nobody_listens_without_a_token(self, nobody):
        assert (await nobody.get("/live")).status_code in {303, 401}


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example.org"},
        {"Origin": "null"},
        {},
    ],
)
async def test_a_form_of_another_site_is_refused(nobody, headers):
    answer = await nobody.post("/login", data={"token": TOKENS["boss"]}, headers=headers)

    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("host", ["evil.example.org", "evil.org:80", "127.0.0.1.evil.org", "[::2]", ""])
async def test_a_server_that_is_called_by_another_name_answers_nothing(world, nobody, host):
    await world.ask(make_task("secret"))

    answer = await nobody.get("/tasks", headers={"Host": host})

    assert answer.status_code in {421, 400}
    assert "/tasks/secret" not in answer.text


@pytest.mark.parametrize("host", ["localhost:8420", "127.0.0.1", "[::1]:8420", "LOCALHOST"])
async def test_this_machine_has_several_names(nobody, host):
    assert (await nobody.get("/", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    ("listen", "public", "is_open", "is_secure"),
    [
        (Listen("127.0.0.1", 1), "", True, False),
        (Listen("::1", 1), "http://localhost:9", True, False),
        (Listen("127.0.0.1", 1, behind_proxy=True), "", False, True),
        (Listen("127.0.0.1", 1), "https://fleet.example.org", False, True),
        (Listen("10.0.0.7", 1, behind_proxy=True), "", False, True),
        (Listen("0.0.0.0", 1, behind_proxy=True), "", False, True),
    ],
)
def test_reading_is_open_only_where_this_machine_alone_gets(listen, public, is_open, is_secure):
    made = exposure_of(listen, public, b"k")

    assert (made.is_open, made.is_secure) == (is_open, is_secure)


def test_a_server_on_all_addresses_may_be_called_anything_but_where_it_has_a_public_name():
    everywhere = read_listen("0.0.0.0:1", behind_proxy=True)

    assert exposure_of(everywhere, "", b"k").hosts is None
    assert "fleet.example.org" in exposure_of(everywhere, "https://fleet.example.org/x", b"k").hosts
