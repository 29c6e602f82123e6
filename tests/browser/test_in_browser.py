"""
The pages as a browser shows them: live, by keyboard, without JavaScript, on a phone, and with hostile text.
"""

import re

import pytest

from tests.browser.conftest import AXE, HOSTILE

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGES = (
    "/",
    "/tasks",
    "/tasks?view=board",
    "/tasks/web/hostile",
    "/tasks/ops/gpu",
    "/tasks/web/bad",
    "/logs/web/hostile",
    "/diff/web/hostile",
    "/hosts",
    "/hosts/local",
    "/agents",
    "/plan",
    "/history",
    "/cost",
    "/problems",
    "/files/specs/tasks/web/hostile.yaml",
    "/login",
)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
FOCUSED = "document.activeElement.id || document.activeElement.textContent.trim()"


@pytest.fixture
def settled(visit):
    """What the fleet has to do on its own is done: pages have something to show."""
    page = visit("/tasks")
    for name in ("hostile", "bad"):
        page.locator(f"[id='t-web/{name}']").get_by_text(
            re.compile("^(completed|failed|escalated)$")
        ).wait_for()


def row(page, name):
    return page.locator(f"[id='t-{name}']")


def test_a_row_changes_its_phase_by_push_and_keeps_the_focus_that_is_in_it(visit, fleet):
    page = visit("/tasks")
    row(page, "web/row").get_by_text("running", exact=True).wait_for()
    page.get_by_text("Live", exact=True).wait_for()
    page.evaluate("window.isTheSame = true")
    row(page, "web/row").get_by_role("link").first.focus()

    fleet.gate("row.end").touch()
    fleet.gate("row").touch()
    row(page, "web/row").get_by_text("completed", exact=True).wait_for()

    assert page.evaluate("window.isTheSame")
    assert page.evaluate("document.activeElement.closest('tr')?.id") == "t-web/row"


@pytest.mark.parametrize("late", ["hx-sse", "pages.js", "live"])
def test_a_page_that_is_slow_to_load_misses_nothing_that_happens_meanwhile(visit, fleet, late):
    """One of its files, or the connection for what comes next, is held back until something has changed."""
    name = f"ops/{late.lower().replace('.', '')}"
    page = visit("/login")
    held = []

    def hold(route):  # a method of a builtin will not do for Playwright
        held.append(route)

    page.route(re.compile(rf"/{late}|/vendor/{late}"), hold)
    page.goto("/tasks", wait_until="commit")
    row(page, "ops/gpu").wait_for(state="attached")
    fleet.playground.task(name, "goal: Come late.\nadapter: script\nscript: 'true'\n")
    fleet.playground.commit()
    other = visit("/tasks")
    row(other, name).get_by_text("completed", exact=True).wait_for()
    while not held:
        page.wait_for_timeout(50)
    assert row(page, name).count() == 0

    for route in held:
        route.continue_()

    row(page, name).get_by_text("completed", exact=True).wait_for()


def test_search_and_filters_are_in_the_address_and_a_link_to_it_shows_the_same(visit):
    page = visit("/tasks")
    page.keyboard.press("/")
    page.keyboard.type("gpu")
    page.keyboard.press("Enter")
    page.wait_for_url("**/tasks?*q=gpu*")
    page.get_by_label("phase").select_option("created")
    page.wait_for_url("**/tasks?*phase=created*")

    linked = visit(page.url)

    assert linked.locator("tbody tr").count() == 1
    assert row(linked, "ops/gpu").is_visible()


def test_a_log_grows_as_its_run_prints(visit, fleet):
    tasks = visit("/tasks")
    row(tasks, "web/log").get_by_text("running", exact=True).wait_for()
    page = visit("/logs/web/log")
    page.get_by_text("it began").wait_for()

    fleet.gate("log").touch()

    page.get_by_role("log").get_by_text("the gate is open").wait_for()


def test_a_log_goes_on_over_a_restart_of_the_server_without_loss_or_repetition(visit, fleet):
    page, tasks = visit("/logs/web/counts"), visit("/tasks")
    lines = page.get_by_role("log").locator(".line")
    page.get_by_text("count 3", exact=True).wait_for()
    tasks.get_by_text("Live", exact=True).wait_for()

    with fleet.stopped():
        tasks.get_by_text("Connection lost; reconnecting").wait_for()
        fleet.playground.task("ops/meanwhile", "goal: Come.\nadapter: script\nscript: 'true'\n")
        fleet.playground.commit()
        fleet.gate("counts").touch()
    row(tasks, "ops/meanwhile").get_by_text("completed", exact=True).wait_for()
    page.locator("h1").get_by_text("completed", exact=True).wait_for()

    assert lines.all_inner_texts() == [f"count {number}" for number in range(1, 7)]
    visit.forgive("ERR_", "Failed to fetch", "network error", "status of 503", "status 503")


def test_a_page_whose_stream_could_not_begin_tries_again(visit, fleet):
    page = visit("/login")
    page.route("**/live*", lambda route: route.abort(), times=1)
    page.goto("/tasks")
    page.get_by_text("Not connected; trying again").wait_for()

    page.get_by_text("Live", exact=True).wait_for()

    visit.forgive("ERR_FAILED", "Failed to fetch")


def test_a_change_that_could_not_be_fetched_is_fetched_again_and_the_page_stays_meanwhile(visit, fleet):
    page = visit("/tasks")
    page.get_by_text("Live", exact=True).wait_for()
    page.route("**/tasks", lambda route: route.fulfill(status=503), times=1)

    page.evaluate("document.body.dispatchEvent(new Event('changed'))")
    page.get_by_text("This page could not be refreshed; trying again").wait_for()
    assert row(page, "ops/gpu").is_visible()

    page.get_by_text("Live", exact=True).wait_for()
    visit.forgive("status of 503")


def test_half_a_reason_in_a_form_stays_whatever_happens_meanwhile(visit, fleet):
    page = visit("/tasks/web/typed", is_boss=True)
    page.locator("h1").get_by_text("running", exact=True).wait_for()
    page.get_by_text("Live", exact=True).wait_for()
    page.locator("summary", has_text="Cancel").click()
    reason = page.get_by_label("Why").locator("visible=true")
    reason.type("half a rea")

    fleet.playground.task("ops/nudge", "goal: Nudge.\nadapter: script\nscript: 'true'\n")
    fleet.playground.commit()  # a change that leaves the form as it is
    row(visit("/tasks"), "ops/nudge").get_by_text("completed", exact=True).wait_for()
    page.wait_for_function("document.querySelector('#menu-cancel[open] input[name=reason]').value")
    assert reason.input_value() == "half a rea"
    assert reason.evaluate("each => each === document.activeElement")

    fleet.gate("typed.end").touch()
    fleet.gate("typed").touch()  # one that would take it away: only what has not ended is cancelled
    page.get_by_text("There is news; send or close your form to see it").wait_for()
    reason.type("son")
    assert reason.input_value() == "half a reason"

    page.keyboard.press("Escape")
    page.locator("summary", has_text="Retry").wait_for()
    assert page.locator("summary", has_text="Cancel").count() == 0


def test_what_is_opened_stays_open_and_is_up_to_date(visit, fleet):
    page = visit("/tasks/web/opened")
    page.locator("h1").get_by_text("running", exact=True).wait_for()
    page.get_by_text("Live", exact=True).wait_for()
    page.locator("#defaults summary").click()
    page.locator("#prompt-1-1 summary").focus()

    fleet.gate("opened.end").touch()
    fleet.gate("opened").touch()
    page.locator("h1").get_by_text("completed", exact=True).wait_for()

    assert page.locator("#defaults").get_attribute("open") is not None
    assert page.evaluate("document.activeElement.parentElement.id") == "prompt-1-1"
    assert page.locator("#round-1-1").get_by_text("completed", exact=True).count() == 1


def test_the_focus_stays_with_what_it_is_on_when_something_comes_before_it(visit, fleet):
    page = visit("/")
    page.get_by_text("Live", exact=True).wait_for()
    link = page.locator("[id='queued-ops/waits'] a").first
    link.focus()

    first = "goal: Come first.\nadapter: script\nscript: 'true'\nschedule: '0 0 1 1 *'\npriority: 9\n"
    fleet.playground.task("ops/first", first)
    fleet.playground.commit()
    page.locator("[id='queued-ops/first']").wait_for()

    assert page.evaluate("document.activeElement.closest('li').id") == "queued-ops/waits"


def test_actions_are_commits_in_the_name_of_who_is_logged_in_and_the_page_shows_them(visit, fleet):
    page = visit("/tasks/ops/later", is_boss=True)
    for verb, task in (("Resume", "ops/later"), ("Cancel", "ops/plain")):
        page.goto(f"/tasks/{task}")
        page.locator("summary", has_text=verb).click()
        page.get_by_label("Why").locator("visible=true").fill("it is time")
        page.get_by_role("button", name=verb, exact=True).click()
        page.get_by_text("Committed as").wait_for()
        assert fleet.subject() == f"boss: {verb} {task}"

    page.goto("/new")
    page.get_by_label("Name").fill("ops/new")
    page.get_by_label("Goal").fill("Another.")
    page.get_by_label("Script").fill("true")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("Committed as").wait_for()
    assert fleet.subject().startswith("boss: Submit ops/new")


def test_what_agents_and_specs_say_is_text_and_nothing_of_it_runs(visit, settled):
    for path in ("/logs/web/hostile", "/tasks/web/hostile", "/tasks/web/log", "/", "/history"):
        page = visit(path)
        assert page.evaluate("window.hurt") is None
        assert page.locator("a[href^='javascript:'], main script, main img").count() == 0
    log = visit("/logs/web/hostile").get_by_role("log")
    assert "<script>window.hurt=1</script>" in log.inner_text()
    assert "\x1b" not in log.inner_text()
    assert "\u202e" not in log.inner_text()
    assert log.locator(".fg-red").inner_text() == "red"


@pytest.mark.parametrize(("scheme", "rules"), [("light", "{}"), ("dark", "{runOnly: 'color-contrast'}")])
def test_every_page_is_accessible(visit, settled, scheme, rules):
    page = visit("/", is_boss=True, color_scheme=scheme, viewport={"width": 1280, "height": 800})
    found = []
    for path in (*PAGES, "/new"):
        page.goto(path)
        found += barriers(page, rules)
    assert found == []


def barriers(page, rules="{}"):
    """Return what axe finds on a page, each with the element."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed: npm install --prefix tests/browser --no-package-lock")
    page.evaluate(AXE.read_text())  # the policy holds for the page's scripts, not for the debugger's
    seen = page.evaluate(f"axe.run({rules}).then(seen => seen.violations)")
    return [f"{page.url} {rule['id']}: {node['html'][:200]}" for rule in seen for node in rule["nodes"]]


def test_no_page_is_wider_than_a_phone(visit, settled):
    page = visit("/", is_boss=True, viewport={"width": 390, "height": 844})
    wide = {}
    for path in (*PAGES, "/new"):
        page.goto(path)
        wide[path] = page.evaluate(OVERFLOW)
    assert {path: by for path, by in wide.items() if by > 0} == {}


# --- Whether these tests would see a fault -----------------------------------


def spoil(page, path, html, *, has_policy=True):
    """Open a page into which something was put, with the policy that it is served with or without."""

    def fulfill(route):
        answer = route.fetch()
        headers = {name: value for name, value in answer.headers.items() if name != "content-encoding"}
        if not has_policy:
            headers.pop("content-security-policy")
        route.fulfill(status=200, headers=headers, body=answer.text().replace("</main>", f"{html}</main>"))

    page.route(f"**{path}", fulfill)
    page.goto(path)


@pytest.mark.parametrize(
    ("html", "has_policy", "told"),
    [
        ("<script>window.hurt = 1</script>", True, "Content Security Policy"),
        ("<p style='color: red'>x</p>", True, "Content Security Policy"),
        ("<img src=x onerror='window.hurt = 1' alt=x>", True, "Content Security Policy"),
        ("<script>console.error('broken')</script>", False, "broken"),
        ("<script>throw new Error('thrown')</script>", False, "thrown"),
        ("<img src='http://127.0.0.1:9/pixel' alt=x>", False, "a request to http://127.0.0.1:9/pixel"),
    ],
)
def test_a_fault_on_a_page_is_one_of_the_test_that_opened_it(visit, html, has_policy, told):
    spoil(visit("/login"), "/agents", html, has_policy=has_policy)

    assert any(told in fault for fault in visit.faults)
    visit.faults.clear()


def test_a_script_that_runs_is_seen_where_the_policy_does_not_stop_it(visit):
    page = visit("/login")
    spoil(page, "/agents", HOSTILE[0], has_policy=False)

    assert page.evaluate("window.hurt") == 1
    assert page.locator("main script").count() == 1


@pytest.mark.parametrize(
    ("scheme", "html", "rule"),
    [
        ("light", "<img src='/static/icon.svg'>", "image-alt"),
        ("light", "<input name=x>", "label"),
        ("dark", "<p style='color: #333'>hard to read</p>", "color-contrast"),
    ],
)
def test_what_keeps_people_out_is_found(visit, scheme, html, rule):
    page = visit("/login", color_scheme=scheme)
    spoil(page, "/agents", html, has_policy=False)

    assert any(rule in barrier for barrier in barriers(page))


def test_a_page_that_is_too_wide_is_found(visit):
    page = visit("/login", viewport={"width": 390, "height": 844})
    spoil(page, "/agents", f"<pre>{'wide ' * 100}</pre>")

    assert page.evaluate(OVERFLOW) > 0


# --- By keyboard, and without JavaScript -------------------------------------


def test_the_keyboard_alone_reaches_the_content_the_pages_and_the_search(visit):
    page = visit("/tasks")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate(FOCUSED) == "main"
    page.goto("/tasks")
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(FOCUSED))
    tabs = ["Tasks", "Hosts", "Agents", "Plan", "History", "Cost", "Problems"]
    assert [each for each in seen if each in {*tabs, "search"}] == [*tabs, "search"]


def test_without_javascript_every_page_is_whole_and_its_forms_work(visit, fleet, settled):
    page = visit("/", is_boss=True, java_script_enabled=False)
    for path in PAGES:
        assert page.goto(path).status == 200, path
        assert page.locator("main h1, main h2").count() > 0, path
    page.goto("/tasks?q=web/hostile")
    assert page.locator("tbody tr").count() == 1
    page.goto("/tasks/ops/dull")
    page.locator("summary", has_text="Resume").click()
    page.get_by_role("button", name="Resume", exact=True).click()
    page.get_by_text("Committed as").wait_for()
    assert fleet.subject() == "boss: Resume ops/dull"
