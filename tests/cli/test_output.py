"""
What `-o` prints: for programs a shape that is written down, for people tables they can sort and select from.
"""

import json

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from reconciler.cli import shapes
from reconciler.cli.jsonpath import parse_template
from reconciler.cli.selectors import parse_selector, selects

DOCUMENT = {
    "name": "a",
    "conditions": [{"type": "Ready"}, {"type": "Stalled"}],
    "status": {"attempt": 1, "x.y": True, "run": None, "checks": []},
}

# --- Documents -------------------------------------------------------------

READING = {
    "get": shapes.TaskShape,
    "get failed": shapes.TaskShape,
    "describe hello": shapes.TaskShape,
    "describe broken": shapes.TaskShape,
    "get hosts": shapes.HostShape,
    "describe host/local": shapes.HostShape,
    "get agents": shapes.SpecShape,
    "get adapters": shapes.SpecShape,
    "get repos": shapes.SpecShape,
    "history": shapes.TransitionShape,
    "plan": shapes.PlanShape,
    "explain failed": shapes.ExplainShape,
    "explain waits": shapes.ExplainShape,
    "status": shapes.StatusShape,
    "validate": shapes.ProblemShape,
    "cost": shapes.CostShape,
    "cost --by day --since 1d": shapes.CostShape,
    "host check local": shapes.HostCheckShape,
    "token list": shapes.TokenShape,
    "adapter test script --no-prompt": shapes.AdapterTestShape,
    "version": shapes.VersionShape,
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return a fleet in which all has happened that is shown differently; it is only looked at."""
    from tests.cli.conftest import TASK, Fleet

    folder = tmp_path_factory.mktemp("output")
    fleet = Fleet(folder / "fleet", folder / "data")
    fleet.write("specs/tasks/hello.yaml", TASK + "labels: [team=web, quick]\n")
    fleet.write("specs/tasks/failed.yaml", "goal: x\nretries: 0\nscript: exit 3\nlabels: [quick]\n")
    fleet.write("specs/tasks/waits.yaml", "goal: x\nscript: 'true'\nrequires: [gpu]\n")
    fleet.write("specs/tasks/broken.yaml", "gaol: x\n")
    fleet.write("specs/agents/jeeves.yaml", "capabilities: [python]\n")
    fleet.write("specs/repos/web.yaml", "url: ../web\nlabels: [agent]\n")
    with pytest.MonkeyPatch.context() as patch:
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "Test")
            patch.setenv(f"GIT_{role}_EMAIL", "test@example.org")
        fleet.git("init", "--quiet", "--initial-branch=main")
        fleet.commit()
        fleet.run("run", "--until-idle")
    return fleet


def documents(ran, words, form):
    done = ran.run(*words.split(), "-o", form)
    loaded = json.loads(done.stdout) if form == "json" else YAML(typ="safe", pure=True).load(done.stdout)
    return loaded if isinstance(loaded, list) else [loaded]


@pytest.mark.parametrize("words", READING)
def test_what_is_printed_for_programs_has_the_shape_that_is_written_down(ran, words):
    shape = TypeAdapter(READING[words])

    printed = documents(ran, words, "json")

    assert printed
    for document in printed:
        assert document.pop("format") == 3
        shape.validate_python(document)


@pytest.mark.parametrize("words", [words for words in READING if not words.startswith(("host", "adapter"))])
def test_the_same_is_printed_as_yaml_and_by_templates(ran, words):
    printed = documents(ran, words, "yaml")

    filled = ran.run(*words.split(), "-o", "jsonpath={.format} {.name}").stdout

    assert [document["format"] for document in printed] == [3] * len(printed)
    assert filled.splitlines() == [f"3 {document.get('name', '')}" for document in printed]


# --- Templates -------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.name}", "a"),
        (".name", "a"),
        ("$.name", "a"),
        ("task {.name}: {.status.attempt}", "task a: 1"),
        ('{.name}{"\\t"}{.name}', "a\ta"),
        ("{.conditions[*].type}", "Ready Stalled"),
        ("{.conditions[-1]['type']}", "Stalled"),
        ("{.status['x.y']} {.status.x\\.y}", "true true"),
        ("[{.status.run}{.status.checks[0].command}{.no.such}]", "[]"),
        ("{.conditions[0]}", '{"type": "Ready"}'),
        ("{.status.*}", "1 true  []"),
        ("{@.name}", "a"),
    ],
)
def test_a_template_is_text_with_fields_in_it(template, text):
    assert parse_template(template).fill(DOCUMENT) == text


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("name", "write such as {.name}"),
        ("{name}", "{.name}"),
        ("{.items[*].name}", "of each thing on its own"),
        ("{range .items[*]}{.name}{end}", "leave `range` out"),
        ("{..name}", "every depth"),
        ("{.conditions[?(@.type=='Ready')]}", "filter"),
        ("{.conditions[0:1]}", "slice"),
        ("{.name", "not closed"),
        ("{.a.}", "only fields and elements"),
        ("", "no path"),
    ],
)
def test_what_a_template_cannot_do_is_refused_with_what_to_write(ran, template, words):
    with pytest.raises(ValueError, match=r".") as refusal:
        parse_template(template)

    done = ran.run("get", "-o", f"jsonpath={template}")

    assert words in str(refusal.value)
    assert (done.exit_code, done.stdout) == (64, "")


# --- Lists -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("name", "broken failed hello waits"),
        ("-name", "waits hello failed broken"),
        ("phase", "hello broken waits failed"),
        (".status.attempt", "waits failed hello broken"),
        ("-.status.attempt", "failed hello waits broken"),
    ],
)
def test_a_list_is_sorted_by_any_field_and_what_lacks_it_is_last(ran, by, names):
    assert ran.run("get", "tasks", f"--sort-by={by}", "-o", "name").stdout.split() == names.split()


@pytest.mark.parametrize(("by", "words"), [("attempt", "did you mean .status.attempt"), ("naem", "'name'")])
def test_a_field_that_nothing_has_is_told_with_the_one_that_may_be_meant(ran, by, words):
    done = ran.run("get", "hello", "--sort-by", by)

    assert done.exit_code == 64
    assert words in done.stderr


def test_the_head_of_a_table_can_be_left_out(ran):
    with_head = ran.run("get", "adapters").stdout.splitlines()

    assert ran.run("get", "adapters", "--no-headers").stdout.splitlines() == with_head[1:]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("tasks -l quick", ["failed", "hello"]),
        ("tasks -l quick,!team", ["failed"]),
        ("tasks -l quick -l team=web", ["hello"]),
        ("tasks -l team!=web", ["broken", "failed", "waits"]),
        ("tasks -l team==app", []),
        ("agents -l python", ["jeeves"]),
        ("repos -l agent", ["web"]),
        ("hosts -l gpu", []),
    ],
)
def test_things_are_selected_by_their_labels(ran, words, names):
    assert ran.run("get", *words.split(), "-o", "name").stdout.split() == names


@pytest.mark.parametrize(
    "words", ["adapters -l x", "tasks -l ,", "tasks -l !", "tasks -l", "tasks -la in (b)"]
)
def test_a_selector_that_cannot_work_is_a_wrong_call(ran, words):
    assert ran.run("get", *words.split(" ", 1)).exit_code == 64


def test_a_label_with_any_value_is_selected_by_its_name_alone():
    assert selects([parse_selector("team")], ["team=web"])
    assert not selects([parse_selector("team=app")], ["team=web"])
    assert not selects([parse_selector("web")], ["team=web"])
