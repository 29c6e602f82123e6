"""Files to what they ask for; a revision after another costs what changed, and says the same."""

import hashlib
from datetime import timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.adapter import Budget
from reconciler.core.model.specs import work_id
from reconciler.specs import build as fleet_room
from reconciler.specs import parse as parse_room
from reconciler.specs.build import Builder, build
from reconciler.specs.graph import Index, cycles
from reconciler.specs.parse import File, Parser


def files(**texts: str) -> dict[str, File]:
    return {f"specs/{path}": file(text) for path, text in texts.items()}


def file(text: str, mode: str = "100644") -> File:
    data = text.encode()
    return File(mode, hashlib.sha1(data).hexdigest(), data)


def test_an_empty_fleet_has_the_local_host_and_the_built_in_adapters():
    desired = build({}, revision="1")

    assert desired.problems == ()
    assert desired.hosts["local"].is_local
    assert desired.hosts["local"].slots == 2
    assert desired.adapters["script"].command == ("{shell}", "-c", "{script}")


def test_a_file_for_the_local_host_takes_the_place_of_the_one_that_is_there_without():
    desired = build(files(**{"hosts/local.yaml": "slots: 5\n"}))

    assert {name: host.slots for name, host in desired.hosts.items()} == {"local": 5}


def test_a_broken_file_for_the_local_host_is_not_papered_over():
    assert build(files(**{"hosts/local.yaml": "slots: many\n"})).hosts == {}


def test_the_task_counts_before_its_repo_before_the_fleet_before_the_program():
    desired = build(
        files(
            **{
                "fleet.yaml": "timeout: 1h\nretries: 5\npriority: 5\nadapter: codex\n",
                "repos/shop.yaml": "url: /shop\nretries: 6\npriority: 6\n",
                "tasks/a.yaml": "goal: x\nrepo: shop\npriority: 7\n",
                "tasks/b.yaml": "goal: x\n",
            }
        )
    )

    a, b = desired.tasks["a"], desired.tasks["b"]
    assert (a.priority, a.retries, a.timeout, a.fix_attempts) == (7, 6, timedelta(hours=1), 2)
    assert (b.priority, b.retries, b.adapter) == (5, 5, "codex")
    assert desired.problems == ()


def test_mappings_are_merged_key_by_key_and_lists_are_replaced():
    desired = build(
        files(
            **{
                "fleet.yaml": (
                    "env: {A: '1', B: '1'}\nbudget: {cost_usd: 5}\nconstraints: [x, y]\nadapter: codex\n"
                ),
                "tasks/a.yaml": "goal: x\nenv: {B: '2'}\nbudget: {tokens: 9}\nconstraints: z\n",
                "tasks/b.yaml": "goal: x\nbudget: null\n",
            }
        )
    )

    assert desired.tasks["a"].env == {"A": "1", "B": "2"}
    assert desired.tasks["a"].budget == Budget(cost_usd=5.0, tokens=9)
    assert desired.tasks["a"].constraints == ("z",)
    assert desired.tasks["b"].budget is None


def test_defaults_move_neither_the_generation_nor_the_work():
    task = {"tasks/a.yaml": "goal: x\nscript: make\n"}
    before = build(files(**task)).tasks["a"]

    after = build(files(**task, **{"fleet.yaml": "priority: 9\nvalidation: make test\n"})).tasks["a"]

    assert (after.generation, after.work) == (before.generation, before.work)
    assert after.validation == ("make test",)
    assert before.generation == file(task["tasks/a.yaml"]).blob
    assert before.work == work_id(before)


def test_an_adapter_of_the_fleet_lies_over_the_built_in_one():
    plain = build({}).adapters["codex"]

    laid = build(files(**{"adapters/codex.yaml": "limits: {output_mb: 7}\nenv: {X: y}\n"})).adapters["codex"]

    assert laid.command == plain.command
    assert laid.env == {**plain.env, "X": "y"}
    assert laid.limits == plain.limits.model_copy(update={"output_mb": 7})


def test_a_broken_file_keeps_its_last_good_version_in_force():
    good = files(
        **{
            "tasks/a.yaml": "goal: x\nscript: make\n",
            "repos/r.yaml": "url: /r\n",
            "hosts/h.yaml": "slots: 3\n",
        }
    )
    bad = files(**{"tasks/a.yaml": "goal: [", "repos/r.yaml": "url: 3\n", "hosts/h.yaml": "slots: -1\n"})

    desired = build(bad, last_good=good)

    before = build(good)
    assert (desired.tasks, desired.repos, desired.hosts) == (before.tasks, before.repos, before.hosts)
    assert set(desired.broken) == {"a"}
    assert len(desired.problems) == 3


def test_a_task_goes_on_with_the_last_good_version_of_its_repo():
    good = files(**{"repos/r.yaml": "url: /r\nadapter: codex\n", "tasks/a.yaml": "goal: x\nrepo: r\n"})

    desired = build({**good, **files(**{"repos/r.yaml": "uri: /r\n"})}, last_good=good)

    assert desired.broken == {}
    assert desired.tasks["a"].adapter == "codex"


def test_a_task_for_outside_agents_needs_neither_script_nor_adapter():
    assert build(files(**{"tasks/a.yaml": "goal: x\nexecution_mode: http_pull\n"})).problems == ()


def test_an_adapter_of_the_fleet_may_take_scripts():
    desired = build(
        files(
            **{
                "adapters/bash.yaml": 'command: [bash, -c, "{script}"]\n',
                "tasks/a.yaml": "goal: x\nadapter: bash\nscript: make\n",
            }
        )
    )

    assert desired.problems == ()


def test_too_many_files_are_refused_as_a_whole(monkeypatch):
    monkeypatch.setattr(fleet_room, "MAX_FILES", 1)

    desired = build(files(**{"tasks/a.yaml": "goal: x\n", "tasks/b.yaml": "goal: x\n"}))

    assert desired.tasks == {}
    assert [str(problem) for problem in desired.problems] == [
        "specs:1:1: error: more than 1 files; nothing of this revision is in force"
    ]


def test_a_cycle_of_ten_thousand_tasks_is_found():
    count = 10_000
    graph = {str(number): [str((number + 1) % count)] for number in range(count)}

    found = cycles(["0"], graph.__getitem__)

    assert len(found) == count
    assert found["0"][:3] == ["0", "1", "2"]


NODES = st.integers(0, 6).map(str)


@given(graph=st.fixed_dictionaries({str(node): st.lists(NODES, max_size=3) for node in range(7)}))
def test_cycles_are_those_that_walking_finds(graph):
    found = cycles(sorted(graph), graph.__getitem__)

    for node in graph:
        reached, todo = set(), list(graph[node])
        while todo:
            if (name := todo.pop()) not in reached:
                reached.add(name)
                todo += graph[name]
        assert (node in found) == (node in reached)
    for cycle in found.values():
        assert cycle[0] == cycle[-1]
        assert all(after in graph[before] for before, after in pairwise(cycle))


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd"), st.sampled_from("xy"))))
def test_the_index_knows_who_is_filed_where(steps):
    index, model = Index(), {"x": set(), "y": set()}

    for adds, name, key in steps:
        if adds:
            index.add(name, [key])
            model[key].add(name)
        elif name in model[key]:
            index.remove(name, [key])
            model[key].discard(name)
        for other in "abcd":
            assert index.other(key, other) == min(model[key] - {other}, default=None)

    assert {key: index.names(key) for key in model} == model


TEXTS = {
    "fleet.yaml": ["adapter: codex\n", "adapter: nobody\n", "retries: x\n", "priority: 3\n"],
    "repos/r.yaml": [
        "url: /r\n",
        "url: /r\nadapter: codex\nbase: task/a\n",
        "url: 3\n",
        "url: /r\nadapter: zz\n",
        "url: /r\nforge: {api: 'https://f', repo: a/b, token: {env: T}}\n",
    ],
    "adapters/mine.yaml": ["command: x\n", "command: '{nope}'\n"],
    "hosts/h.yaml": ["jump: i\n", "slots: 1\n", "slots: x\n"],
    "hosts/i.yaml": ["jump: h\n", "adapters: {mine: {}}\n"],
    "tasks/a.yaml": [
        "goal: x\nscript: y\n",
        "goal: x\nrepo: r\nreview: pull_request\n",
        "goal: x\nrepo: r\nstart_from: b\n",
        "goal: x\ndepends_on: b\n",
        "goal: [",
        "goal: x\nadapter: mine\n",
    ],
    "tasks/A.yaml": ["goal: x\nrepo: r\nbranch_name: task/a\n"],
    "tasks/b.yaml": [
        "goal: x\ndepends_on: [a, c]\nadapter: mine\n",
        "goal: x\nrepo: r\nbranch_name: task/a/b\n",
        "goal: x\nrepo: r\nstart_from: a\n",
    ],
    "tasks/f/c.yaml": [
        "goal: x\ndepends_on: b\n",
        "goal: x\nrepo: r\nbranch_name: task\ndesired: cancelled\n",
    ],
    "tasks/c.yaml": ["goal: x\ndepends_on: [f/c, f/d]\n", "goal: x\nrepo: r\nbranch_name: task\n"],
    "junk.txt": ["x"],
    "README.md": ["x"],
}
CHANGE = st.sampled_from(sorted(TEXTS)).flatmap(
    lambda path: st.tuples(st.just(f"specs/{path}"), st.none() | st.sampled_from(TEXTS[path]))
)


@given(st.lists(st.lists(CHANGE, min_size=1, max_size=4), min_size=1, max_size=8))
def test_step_by_step_is_what_a_fresh_look_says(steps):
    parser, builder, present = Parser(), Builder(), {}

    for step in steps:
        changes = {path: text and file(text) for path, text in step}
        present = {path: text for path, text in {**present, **changes}.items() if text}
        parsed = {path: text and parser.parse(path, text) for path, text in changes.items()}
        desired = builder.update(parsed, revision="r")

        assert desired == build(present, revision="r")


def test_what_was_handed_out_does_not_change_any_more():
    parser, builder = Parser(), Builder()
    path, text = "specs/tasks/a.yaml", file("goal: x\nscript: y\n")
    before = builder.update({path: parser.parse(path, text)}, revision="1")

    builder.update({path: None}, revision="2")

    assert set(before.tasks) == {"a"}


def test_a_push_of_three_files_parses_three(monkeypatch):
    parsed = []
    real = parse_room.parse_file
    monkeypatch.setattr(parse_room, "parse_file", lambda *args: parsed.append(args[3]) or real(*args))
    parser = Parser()
    old = {f"specs/tasks/t{number}.yaml": file(f"goal: {number}\n") for number in range(50)}
    for path, text in old.items():
        parser.parse(path, text)
    parsed.clear()

    new = {**old, **{f"specs/tasks/t{number}.yaml": file(f"goal: new {number}\n") for number in range(3)}}
    moved = {path.replace("/t", "/u"): text for path, text in old.items()}
    for path, text in {**new, **moved}.items():
        parser.parse(path, text)

    assert sorted(parsed) == ["specs/tasks/t0.yaml", "specs/tasks/t1.yaml", "specs/tasks/t2.yaml"]


def test_what_nobody_asks_for_any_more_is_forgotten(monkeypatch):
    parser = Parser()
    kept = parser.parse("specs/tasks/a.yaml", file("goal: 0\n"))
    for number in range(1, 10):
        parser.parse("specs/tasks/a.yaml", file(f"goal: {number}\n"))
    parsed = []
    real = parse_room.parse_file
    monkeypatch.setattr(parse_room, "parse_file", lambda *args: parsed.append(args[3]) or real(*args))

    parser.forget([kept])

    assert parser.parse("specs/tasks/a.yaml", file("goal: 0\n")) is kept
    assert parsed == []
    parser.parse("specs/tasks/a.yaml", file("goal: 9\n"))
    assert parsed == ["specs/tasks/a.yaml"]


def test_one_edit_looks_at_one_task_of_a_thousand(monkeypatch):
    parser, builder = Parser(), Builder()
    texts = {f"specs/tasks/t{number}.yaml": file(f"goal: {number}\nscript: y\n") for number in range(1000)}
    builder.update({path: parser.parse(path, text) for path, text in texts.items()}, revision="1")
    resolved = []
    real = fleet_room.resolve
    monkeypatch.setattr(
        fleet_room,
        "resolve",
        lambda name, spec, **fields: resolved.append(name) or real(name, spec, **fields),
    )

    path = "specs/tasks/t7.yaml"
    builder.update({path: parser.parse(path, file("goal: new\nscript: y\n"))}, revision="2")

    assert resolved == ["t7"]


def test_the_same_content_in_two_places_is_told_of_in_both():
    desired = build(files(**{"tasks/a.yaml": "goal: 3\n", "tasks/b.yaml": "goal: 3\n"}))

    assert [problem.path for problem in desired.problems] == ["specs/tasks/a.yaml", "specs/tasks/b.yaml"]
