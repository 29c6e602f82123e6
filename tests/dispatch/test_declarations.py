"""
What an agent declares in place of a result: read when all of it is gone, and never a verdict.
"""

from datetime import timedelta

import pytest

from reconciler.core.adapter import Secret
from reconciler.core.model.runs import Declaration, FailureClass
from tests.dispatch.world import RUN, World, git

ASK = 'echo "Which one?" >"$RECONCILER_QUESTION_FILE"'


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "a world")


def branches(world: World) -> str:
    return git(world.code, "for-each-ref", "--format=%(refname:short)", "refs/heads")


async def test_a_question_is_reported_and_nothing_is_validated_or_delivered(world):
    order = world.order(f"echo half >half; {ASK}", validation=(world.note("validated"),))

    report = await world.carry_out(order)

    assert report.declared == Declaration(kind="question", text="Which one?")
    assert (report.checks, report.commits, report.head_commit) == ((), 0, None)
    assert (world.noted, branches(world)) == ([], "main")


async def test_the_next_round_finds_the_work_of_the_one_that_asked_and_no_question(world):
    await world.carry_out(world.order(f"echo half >half; git add half; echo more >more; {ASK}"))

    report = await world.carry_out(
        world.order('cat half more; test ! -e "$RECONCILER_QUESTION_FILE"', number=2)
    )

    assert report.declared is None
    assert (report.verdict.text, report.verdict.outcome) == ("half\nmore\n", "success")
    assert git(world.code, "ls-tree", "--name-only", "task/web/fix").split() == [
        "README",
        "half",
        "more",
        "src",
    ]


async def test_a_folder_without_a_repository_is_kept_for_the_next_round(world):
    await world.carry_out(world.order(f"echo half >half; {ASK}", repo=None))

    report = await world.carry_out(world.order("cat half", number=2, repo=None))

    assert report.verdict.text == "half\n"


@pytest.mark.parametrize("kind", ["blocked", "released"])
async def test_an_agent_can_say_that_it_is_blocked_or_gives_its_task_back(world, kind):
    report = await world.carry_out(world.order(f'echo No access. >"$RECONCILER_{kind.upper()}_FILE"; exit 1'))

    assert report.declared == Declaration(kind=kind, text="No access.")
    assert report.verdict.kind is FailureClass.AGENT


async def test_a_question_comes_before_all_else_that_is_declared(world):
    report = await world.carry_out(world.order(f'echo x >"$RECONCILER_RELEASED_FILE"; {ASK}'))

    assert report.declared.kind == "question"


@pytest.mark.parametrize(
    "trick",
    [
        'mkfifo "$RECONCILER_QUESTION_FILE"',
        'ln -s /dev/zero "$RECONCILER_QUESTION_FILE"',
        'ln -s /etc/passwd "$RECONCILER_QUESTION_FILE"',
        'mkdir "$RECONCILER_QUESTION_FILE"',
        'rm -rf "${RECONCILER_QUESTION_FILE%/*}"; echo x >"${RECONCILER_QUESTION_FILE%/*}"',
        'rm -rf "${RECONCILER_QUESTION_FILE%/*}"; ln -s /etc "${RECONCILER_QUESTION_FILE%/*}"',
        ': >"$RECONCILER_QUESTION_FILE"',
        'printf "\\n \\033[2J\\n" >"$RECONCILER_QUESTION_FILE"',
        'echo x >"${RECONCILER_QUESTION_FILE%/*}/completed"',
    ],
)
async def test_what_is_no_file_with_words_declares_nothing(world, trick):
    report = await world.carry_out(world.order(f"echo done >done; {trick}", validation=("test -e done",)))

    assert (report.declared, report.verdict.outcome, report.commits) == (None, "success", 1)


async def test_a_question_without_end_is_cut(world):
    report = await world.carry_out(
        world.order('head -c 300000 /dev/zero | tr "\\0" x >"$RECONCILER_QUESTION_FILE"')
    )

    assert len(report.declared.text) < 4100


async def test_what_an_agent_that_was_stopped_had_asked_does_not_count(world):
    order = world.order(f"{ASK}; sleep 60", timeout=timedelta(seconds=1))

    report = await world.carry_out(order)

    assert (report.declared, report.verdict.kind) == (None, FailureClass.TIMEOUT)


async def test_a_restart_after_the_question_was_written_reads_it_again(world):
    order = world.order(f"{ASK}; {world.note('started')}")

    first = await world.carry_out(order)
    second = await world.carry_out(order)

    assert first.declared == second.declared
    assert world.noted == ["started"]


async def test_secrets_in_a_question_are_masked(world, monkeypatch):
    monkeypatch.setenv("SECRET_OF_A_TEST", "correct horse battery")
    adapter = {"secrets": {"TOKEN": Secret(env="SECRET_OF_A_TEST")}}

    report = await world.carry_out(
        world.order('echo "Is it $TOKEN?" >"$RECONCILER_QUESTION_FILE"', adapter=adapter)
    )

    assert "horse" not in report.declared.text
    assert report.declared.text.startswith("Is it *")


async def test_the_file_is_in_the_folder_of_the_run_and_gone_with_it(world):
    report = await world.carry_out(
        world.order('echo "$RECONCILER_QUESTION_FILE" >"$RECONCILER_QUESTION_FILE"')
    )

    assert f"/runs/{RUN.replace('/', '+')}.r1/declared/question" in report.declared.text


# --- Outputs -------------------------------------------------------------------


async def test_what_an_agent_writes_for_other_tasks_is_reported_without_secrets_and_not_delivered(
    world, monkeypatch
):
    monkeypatch.setenv("SECRET_OF_A_TEST", "a-secret-of-ours")
    adapter = {"secrets": {"TOKEN": Secret(env="SECRET_OF_A_TEST")}}
    script = 'echo "v1 $TOKEN" >"$RECONCILER_OUTPUT_DIR/api.json"; echo x >x'
    order = world.order(script, adapter=adapter, outputs=("api.json",))

    report = await world.carry_out(order)

    assert [each.name for each in report.outputs] == ["api.json"]
    assert "v1" in report.outputs[0].text
    assert "a-secret-of-ours" not in report.outputs[0].text
    assert "api.json" not in git(world.code, "ls-tree", "--name-only", "task/web/fix")


@pytest.mark.parametrize(
    ("script", "lacks"),
    [
        ("true", "api.json was not written"),
        ('head -c 9000 /dev/zero | tr "\\0" x >"$RECONCILER_OUTPUT_DIR/api.json"', "api.json is too long"),
        ('ln -s /etc/passwd "$RECONCILER_OUTPUT_DIR/api.json"', "api.json was not written"),
    ],
)
async def test_an_output_that_is_not_there_whole_fails_the_round(world, script, lacks):
    order = world.order(f"echo x >x; {script}", outputs=("api.json",))

    report = await world.carry_out(order)

    assert report.failed_check.summary == f"outputs: {lacks}"
    assert (report.outputs, report.head_commit) == ((), None)
