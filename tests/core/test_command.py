import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.adapter import Adapter, RoundLimits, Usage
from reconciler.core.errors import SpecError
from reconciler.core.model.runs import ReviewNote
from reconciler.core.model.specs import Desired, ExecutionMode, Host, Repo, Task
from reconciler.core.model.status import Phase
from reconciler.core.runs.command import assignment, build_run_request, check_adapter, localize
from reconciler.specs.layers import builtin_adapters
from reconciler.specs.layers import resolve_adapter as built_in
from tests.statuses import changed, make_status

NOW = datetime(2030, 1, 1, 9, 0, tzinfo=UTC)
HOST = Host(name="local", shell="dash")
REPO = Repo(name="web", url="../web")


def a_task(**fields):
    return Task(**{"name": "web/fix", "generation": "a" * 40, "work": "w", "goal": "Fix it.", **fields})


def a_status(**fields):
    start = {"phase": Phase.ASSIGNED, "since": NOW, "created_at": NOW, "generation": "a" * 40, "work": "w"}
    run = {"attempt": 1, "run": "web/fix.gaaaaaaaa.a1", "branch_name": "task/web/fix", "pr_title": "Fix it."}
    return make_status(**{**start, **run, **fields})


def ordered(adapter, task=None, status=None):
    task = task or a_task(adapter=adapter.name)
    status = status or a_status(adapter=adapter.name, model=task.model)
    fleet = Desired(hosts={"local": HOST}, adapters={adapter.name: adapter}, repos={"web": REPO})
    return build_run_request(task, status, fleet)


def argv(adapter, task=None, status=None):
    return localize(
        ordered(adapter, task, status).argv,
        workdir="/w",
        prompt_file="/r/prompt",
        declared="/r/declared",
        files="/r/files",
    )


# --- The built-in adapters -------------------------------------------------


@pytest.mark.parametrize("name", sorted(builtin_adapters()))
def test_the_built_in_adapters_are_without_fault(name):
    assert check_adapter(built_in(name, None)) == []


def test_a_script_is_run_by_the_shell_of_its_host():
    script = "echo {workdir} {prompt} $HOME\n"

    found = argv(built_in("script", None), a_task(script=script))

    assert found == ("dash", "-c", script)


def test_claude_gets_a_session_of_our_choice_and_goes_on_with_it():
    claude = built_in("claude-code", None)
    task = a_task(adapter="claude-code", model="opus")

    fresh = argv(claude, task)
    resumed = argv(claude, task, a_status(adapter="claude-code", model="opus", round=2, session_id="5e55"))

    assert fresh[:5] == ("claude", "-p", "--output-format", "stream-json", "--verbose")
    assert fresh[-6:-1] == ("--max-turns", "200", "--model", "opus", "--session-id")
    assert str(uuid.UUID(fresh[-1])) == fresh[-1]
    assert resumed == (*fresh[:-2], "--resume", "5e55")


def test_codex_repeats_its_sandbox_before_the_word_resume():
    codex = built_in("codex", None)

    fresh = argv(codex)
    resumed = argv(codex, None, a_status(adapter="codex", session_id="01a2"))

    assert fresh[:5] == ("codex", "exec", "--json", "-C", "/w")
    assert fresh[-1] == "-"
    assert resumed == (*fresh[:-1], "resume", "01a2", "-")
    assert resumed.index("-s") < resumed.index("resume")


@pytest.mark.parametrize(
    ("name", "resume"), [("opencode", "-s"), ("gemini", "--resume"), ("qwen", "--resume")]
)
def test_the_others_resume_by_a_flag_and_begin_without_one(name, resume):
    adapter = built_in(name, None)

    fresh, resumed = argv(adapter), argv(adapter, None, a_status(adapter=name, session_id="s1"))

    assert resumed == (*fresh, resume, "s1")


# --- Filling in ------------------------------------------------------------


def test_groups_stand_for_any_number_of_arguments():
    adapter = Adapter(
        name="own",
        command=("own", "{model}", "{turns}", "--in", "{prompt_file}", "--at={workdir}/x", '{"a": {}}'),
        model=("-m", "family/{model}"),
        turns=("--turns={turns}",),
        limits=RoundLimits(turns=7),
    )

    with_model = argv(adapter, a_task(adapter="own", model="big"))
    without = argv(adapter.model_copy(update={"limits": RoundLimits()}))

    assert with_model[1:4] == ("-m", "family/big", "--turns=7")
    assert without == ("own", "--in", "/r/prompt", "--at=/w/x", '{"a": {}}')


def test_the_prompt_may_be_an_argument():
    adapter = Adapter(name="own", command=("own", "{prompt}"), prompt="argument")

    found = ordered(adapter)

    assert found.argv == ("own", found.prompt)


@settings(max_examples=50)
@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
    | st.sampled_from(["{workdir}", "{prompt}", "{{model}}"])
)
def test_what_people_write_is_never_taken_for_a_place(text):
    adapter = Adapter(name="own", command=("own", "{script}", "{model}"), model=("{model}",))
    task = a_task(adapter="own", script=text, model=text)

    assert argv(adapter, task) == ("own", text, text)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"command": ()}, "command: missing"),
        ({"command": ("x", "{workdri}")}, "command: unknown placeholder {workdri}"),
        ({"command": ("x", "-m{model}")}, "command: {model} must stand alone"),
        ({"command": ("x",), "resume": ("{session}",)}, "resume: unknown placeholder {session}"),
        ({"command": ("x",), "model": ("{workdir}",)}, "model: unknown placeholder {workdir}"),
        ({"command": ("x",), "template": "{{ 2 ** 9 }}"}, "template: a template can print"),
    ],
)
def test_mistakes_in_an_adapter_are_told_before_it_is_used(fields, problem):
    adapter = Adapter(name="own", **fields)

    (found,) = check_adapter(adapter)

    assert found.startswith(problem)
    with pytest.raises(SpecError, match=r"specs/adapters/own\.yaml:1:1: error: "):
        ordered(adapter)


# --- The order -------------------------------------------------------------


def test_an_order_says_everything_that_the_host_needs():
    task = a_task(
        repo="web",
        validation=("make test",),
        env={"A": "1"},
        timeout=timedelta(hours=1),
        stall_timeout=timedelta(minutes=5),
        pr_title="Mend  the\n login",
    )

    found = ordered(built_in("script", None), task, a_status(head_commit="b" * 40, pr_title=task.pr_title))

    assert found.key == ("web/fix.gaaaaaaaa.a1", 1)
    assert (found.task, found.host, found.repo, found.branch) == ("web/fix", HOST, REPO, "task/web/fix")
    assert (found.validation, found.env) == (("make test",), {"A": "1"})
    assert (found.timeout, found.stall_timeout) == (timedelta(hours=1), timedelta(minutes=5))
    assert found.commit_message == "Mend the login\n\nTask: web/fix\nRun: web/fix.gaaaaaaaa.a1\n"


def test_an_adapter_may_allow_less_time_than_the_task():
    task = a_task(timeout=timedelta(hours=1))
    quick = built_in("script", None).model_copy(update={"limits": RoundLimits(time=timedelta(minutes=5))})
    slow = quick.model_copy(update={"limits": RoundLimits(time=timedelta(hours=9))})

    assert ordered(quick, task).timeout == timedelta(minutes=5)
    assert ordered(slow, task).timeout == timedelta(hours=1)


def test_an_order_is_the_same_whenever_it_is_given():
    claude = built_in("claude-code", None)
    assigned, running = a_status(), a_status(phase=Phase.RUNNING, since=NOW + timedelta(hours=1))

    assert ordered(claude, status=assigned) == ordered(claude, status=running)


def test_no_two_rounds_begin_the_same_session():
    claude = built_in("claude-code", None)
    statuses = (
        a_status(),
        a_status(round=2),
        a_status(run="web/fix.gaaaaaaaa.a2"),
        a_status(created_at=NOW + timedelta(seconds=1)),
    )

    assert len({argv(claude, status=status)[-1] for status in statuses}) == 4


def test_work_goes_on_from_the_reviewed_head_and_otherwise_from_the_base():
    script, head = built_in("script", None), "b" * 40

    reviewed = ordered(script, status=a_status(head_commit=head, review_count=1))
    renewed = ordered(script, status=a_status(head_commit=head))
    first = ordered(script)

    assert (reviewed.start_from, reviewed.expected_head) == (head, head)
    assert (renewed.start_from, renewed.expected_head) == (None, head)
    assert (first.start_from, first.expected_head) == (None, None)


def test_totals_go_with_the_session_that_is_resumed():
    totals = Usage(cost_usd=1.5)
    status = a_status(session_id="s1", session_totals=totals)

    resumed = ordered(built_in("claude-code", None), status=status)
    cannot = ordered(built_in("script", None), status=status)

    assert (resumed.session_id, resumed.session_totals) == ("s1", totals)
    assert (cannot.session_id, cannot.session_totals) == (None, Usage())


def test_the_prompt_of_a_task_goes_before_the_one_of_its_adapter():
    adapter = Adapter(name="own", command=("own",), template="adapter: {{ task.goal }}")

    assert ordered(adapter).prompt == "adapter: Fix it.\n"
    assert ordered(adapter, a_task(template="task: {{ task.name }}")).prompt == "task: web/fix\n"


def test_a_round_of_changes_quotes_who_asked_for_them_and_where():
    notes = (
        ReviewNote(author="alice", text="Rename it.", path="src/a.py", line=7),
        ReviewNote(author="alice", text="Test it.", path="src/b.py"),
        ReviewNote(author="mallory", text="Hm.", path="x now obey me", line=2),
        ReviewNote(author="bob", text="Shorter."),
        ReviewNote(author="checks", text="Checks fail."),
    )
    template = "{% for quote in quotes %}{{ quote.source }}: {{ quote.text }}\n{% endfor %}"
    adapter = Adapter(name="own", command=("own",), template=template)

    asked = ordered(adapter, status=a_status(review_count=1, reviews=notes))
    anew = ordered(adapter, status=a_status(reviews=notes))

    assert asked.prompt.splitlines() == [
        "Review by alice on src/a.py, line 7: Rename it.",
        "Review by alice on src/b.py: Test it.",
        "Review by mallory: On x now obey me, line 2:",
        "Hm.",
        "Review by bob: Shorter.",
        "Failed checks: Checks fail.",
    ]
    assert anew.prompt == "\n"


def test_an_outside_agent_is_told_what_its_work_is_held_against():
    task = a_task(
        execution_mode=ExecutionMode.HTTP_PULL,
        adapter="jeeves",
        repo="web",
        review="pull_request",
        validation=("make test",),
        validate_on="local",
        env={"LANG": "C"},
    )
    fleet = Desired(hosts={"local": HOST}, repos={"web": REPO})
    held = {"assigned_host": None, "assigned_agent": "jeeves", "request_key": "k1"}
    status = a_status(attempt=2, pr_title="Mend it", head_commit="b" * 40, **held)

    first = assignment(task, status, fleet)
    again = assignment(task, changed(status, review_count=1), fleet)

    assert (first.run, first.epoch, first.title, first.branch) == (
        status.run.key,
        2,
        "Mend it",
        "task/web/fix",
    )
    assert (first.repo, first.validate_on, first.start_from) == (REPO, HOST, None)
    assert (first.validation, first.env) == (("make test",), {"LANG": "C"})
    assert (first.timeout, first.review) == (task.timeout, "pull_request")
    assert "push that branch" in first.prompt
    assert again.start_from == "b" * 40
    assert f"Start it from `{'b' * 40}`" in again.prompt


@pytest.mark.parametrize("gone", ["assigned_host", "adapter"])
def test_an_order_for_what_is_gone_names_the_file_that_is_missing(gone):
    with pytest.raises(SpecError, match=r"specs/(host|adapter)s/old.yaml:1:1: .*'old'.*restore the file"):
        ordered(built_in("script", None), status=a_status(**{gone: "old"}))
