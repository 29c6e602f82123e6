import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.adapter import Adapter, Usage
from reconciler.core.errors import Problem, SpecError
from reconciler.core.model.runs import Check, Report, RunRequest, Verdict, run_key
from reconciler.core.model.specs import Host, Task, TaskSpec, work_id
from reconciler.core.model.status import FLAT, ReviewState, Run, Session, Status
from tests.strategies import statuses, tasks


@given(st.data())
def test_a_status_reads_back_from_json_as_it_was(data):
    status = data.draw(statuses(data.draw(tasks("a"))))

    assert Status.model_validate(json.loads(status.model_dump_json()), strict=False) == status


@pytest.mark.parametrize(("name", "part"), [("review", ReviewState), ("run", Run), ("session", Session)])
def test_every_field_of_a_part_of_a_status_has_a_name_in_its_file(name, part):
    assert FLAT[name].keys() == part.model_fields.keys()


def test_the_work_changes_with_what_is_asked_for_and_with_nothing_else():
    spec = TaskSpec(goal="Do it.", script="true")

    assert work_id(spec) == work_id(spec.model_copy(update={"priority": 3, "title": "It", "retries": 9}))
    for change in ({"goal": "Do that."}, {"script": "false"}, {"rerun": 1}, {"validation": ("make",)}):
        assert work_id(spec) != work_id(spec.model_copy(update=change))


def test_a_task_has_a_headline_and_a_branch_though_none_was_written():
    plain = Task(name="web/a", generation="1" * 40, work="w", goal="\n Do it.\nWell.")
    named = plain.model_copy(update={"title": "It", "branch_name": "it"})

    assert (plain.headline, plain.branch) == ("Do it.", "task/web/a")
    assert (named.headline, named.branch) == ("It", "it")


def test_a_run_key_names_task_generation_and_attempt():
    assert run_key("web/a", "0123456789abcdef", 3) == "web/a.g01234567.a3"


def test_a_host_without_an_address_is_this_machine():
    assert Host(name="local").is_local
    assert not Host(name="far", address="192.0.2.1").is_local


def test_an_order_is_known_by_its_run_and_round():
    order = RunRequest(
        run="a.g1.a1",
        round=2,
        task="a",
        host=Host(name="local"),
        adapter=Adapter(name="script"),
        repo=None,
        argv=("true",),
        prompt="",
        env={},
        branch="task/a",
        timeout="1h",
        stall_timeout="1m",
        commit_message="It",
    )

    assert order.key == ("a.g1.a1", 2)


def test_a_check_that_was_stopped_says_so_and_when():
    failed = Check(command="npm test", exit_code=3, seconds=2.5)
    stopped = Check(command="npm test", exit_code=124, seconds=7200.0)

    assert failed.ending == "failed with exit code 3"
    assert stopped.ending == "was stopped after 7200 s"


def test_the_first_failed_check_is_the_one_to_tell_of():
    checks = tuple(Check(command=c, exit_code=n, seconds=1) for c, n in (("a", 0), ("b", 2), ("c", 1)))
    report = Report(verdict=Verdict(outcome="success"), checks=checks)

    assert report.failed_check == checks[1]
    assert Report(verdict=Verdict(outcome="success"), checks=checks[:1]).failed_check is None


def test_usage_adds_up():
    one = Usage(input_tokens=1, output_tokens=2, cached_tokens=3, cost_usd=0.1, turns=4, seconds=0.5)

    assert one + one == Usage(
        input_tokens=2, output_tokens=4, cached_tokens=6, cost_usd=0.2, turns=8, seconds=1.0
    )


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (Problem("specs/a.yaml", 3, 5, "no"), "specs/a.yaml:3:5: error: no"),
        (
            Problem("specs/a.yaml", 1, 1, "unknown key", field="prio", hint="priority"),
            "specs/a.yaml:1:1: error: prio: unknown key (did you mean 'priority'?)",
        ),
    ],
)
def test_a_problem_is_one_line_that_says_where_and_what(problem, line):
    assert str(problem) == line
    assert str(SpecError([problem, problem])) == f"{line}\n{line}"
