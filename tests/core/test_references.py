"""
How people name things, and what they are told where a name leads nowhere.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.references import MINIMAL, REFERABLE, SHORT, Reference, no_such, references
from reconciler.specs.build import build
from reconciler.specs.parse import File

THERE = {"task": {"web/fix", "host/lost", "task/odd", "t", "x"}, "host": {"local"}}


def read(*args, only=None):
    return [tuple(each) for each in references(args, lambda kind: THERE.get(kind, ()), only)]


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("web/fix", [("task", "web/fix")]),
        ("task/web/fix", [("task", "web/fix")]),
        ("tasks/web/fix", [("task", "web/fix")]),
        ("t/web/fix", [("task", "web/fix")]),
        ("task web/fix", [("task", "web/fix")]),
        ("task task/web/fix", [("task", "web/fix")]),
        ("Tasks web/fix x", [("task", "web/fix"), ("task", "x")]),
        ("web/fix x", [("task", "web/fix"), ("task", "x")]),
        ("host/local", [("host", "local")]),
        ("h local", [("host", "local")]),
        ("host/lost", [("task", "host/lost")]),
        ("task/host/lost", [("task", "host/lost")]),
        ("host/new", [("host", "new")]),
        ("host", [("task", "host")]),
        ("task/odd", [("task", "task/odd")]),
        ("r/web", [("repo", "web")]),
        ("ag/jeeves ad/codex", [("agent", "jeeves"), ("adapter", "codex")]),
        ("specs/tasks/web/fix.yaml", [("task", "web/fix")]),
        ("/home/ada/fleet/specs/hosts/local.yaml", [("host", "local")]),
    ],
)
def test_a_name_is_read_with_its_kind_and_without(line, meant):
    assert read(*line.split()) == meant


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("host/lost", ["host/lost"]),
        ("host/new", ["host/new"]),
        ("task/odd", ["task/odd"]),
        ("t x", ["t", "x"]),
        ("task x", ["x"]),
        ("tasks/x specs/tasks/web/fix.yaml", ["x", "web/fix"]),
    ],
)
def test_where_tasks_alone_can_be_meant_every_name_that_is_there_is_one(line, meant):
    assert read(*line.split(), only="task") == [("task", name) for name in meant]


@pytest.mark.parametrize(("line", "only"), [("host x", "task"), ("task/x", "host"), ("agents a b", "repo")])
def test_another_kind_than_can_be_meant_is_refused(line, only):
    with pytest.raises(ValueError, match=f"no {only}"):
        read(*line.split(), only=only)


@given(st.sampled_from(REFERABLE), st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True))
def test_each_way_to_write_a_kind_means_the_same(kind, name):
    ways = [[f"{word}/{name}"] for word in (kind, f"{kind}s", SHORT[kind])]
    ways += [[word, name] for word in (kind, f"{kind}s", SHORT[kind])]

    assert {tuple(references(message, lambda _: (), None)) for message in ways} == {(Reference(kind, name),)}


@given(st.sets(st.from_regex(r"([a-z]{1,6}/)?(task|host|t|x)(/[a-z]{1,6})?", fullmatch=True), min_size=1))
def test_the_name_of_a_task_that_is_there_always_means_that_task(names):
    for name in names:
        assert references([name], lambda kind: names if kind == "task" else (), None) == [("task", name)]
        assert references([name], lambda _: names, "task") == [("task", name)]


@pytest.mark.parametrize("kind", REFERABLE)
def test_the_file_that_is_to_be_made_is_a_good_one(kind):
    text = MINIMAL[kind].format(name="web")
    extra = "\nscript: echo" if kind == "task" else ""

    desired = build({f"specs/{kind}s/web.yaml": File("100644", "1" * 40, f"{text}{extra}\n".encode())})

    assert desired.problems == ()
    assert f"specs/{kind}s/web.yaml" in no_such(kind, "web") or kind == "agent"


@pytest.mark.parametrize("name", ["", "a b", "-x", "a\nb", "x" * 500, "../../etc/passwd"])
def test_a_name_that_no_file_can_have_is_told_without_one(name):
    assert no_such("repo", name) == f"no repo {name!r}"


def test_a_name_that_is_close_to_another_is_told_with_that_one_alone():
    assert no_such("task", "web/fx", ["web/fix"]) == "no task 'web/fx' (did you mean 'web/fix'?)"


@pytest.mark.parametrize("kind", REFERABLE)
def test_a_kind_in_the_place_of_a_task_is_no_reason_to_make_such_a_task(kind):
    typo = kind[:1] + kind[2:] + "s"

    said = [no_such("task", word) for word in (kind, f"{kind}s", SHORT[kind])]

    assert all("specs/tasks" not in each and f"name one as `{kind}/NAME`" in each for each in said)
    assert no_such("task", typo) == f"no task {typo!r} (did you mean the kind '{kind}s'?)"
    if kind != "task":
        assert no_such("task", f"{kind}/x").startswith(f"no task '{kind}/x'; {kind}s cannot be meant here")
    assert "make specs/tasks/web/hosts.yaml" in no_such("task", "web/hosts")
