"""
The pages as a browser shows them: live, by keyboard, without JavaScript, on a phone, and with hostile text.
"""

import re

import pytest

from tests.browser.conftest import AXE

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible(visit, settled, scheme):
    if not AXE.exists():
        pytest.skip("axe-core is not installed: npm install --prefix tests/browser --no-package-lock")
    page = visit("/", is_boss=True, color_scheme=scheme, viewport={"width": 1280, "height": 800})
    found = []
    for path in (*PAGES, "/new"):
        page.goto(path)
        page.evaluate(AXE.read_text())  # the policy holds for the page's scripts, not for the debugger's
        for rule in page.evaluate("axe.run().then(seen => seen.violations)"):
            found += [f"{path} {rule['id']}: {node['html'][:200]}" for node in rule["nodes"]]
    assert found == []


def test_no_page_is_wider_than_a_phone(visit, settled):
    page = visit("/", is_boss=True, viewport={"width": 390, "height": 844})
    wide = {}
    for path in (*PAGES, "/new"):
        page.goto(path)
        wide[path] = page.evaluate(OVERFLOW)
    assert {path: by for path, by in wide.items() if by > 0} == {}


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
