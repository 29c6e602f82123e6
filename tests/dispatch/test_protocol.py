"""
What is sent to the wrapper, and what its answers mean.
"""

import subprocess
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.errors import Unavailable
from reconciler.core.masking import Mask
from reconciler.dispatch.protocol import (
    RUN_ID,
    RunState,
    Stage,
    agent_id,
    agent_job,
    hook_id,
    parse_stat,
    parse_state,
    payload,
    round_of,
    validation_id,
)
from reconciler.dispatch.transport import SAFE_WORD
from reconciler.dispatch.validation import read_checks

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
SHOW = 'printf "%s\\0" "$@" "$A"'


@settings(max_examples=40, deadline=None)
@given(arguments=st.lists(texts, min_size=1, max_size=4), value=texts)
def test_no_argument_and_no_value_is_looked_into_by_the_shell(arguments, value):
    job = agent_job(["sh", "-c", SHOW, "sh", *arguments], env={"A": value}, folder="/")

    printed = subprocess.run(["sh"], input=job.encode(), capture_output=True, check=True).stdout

    assert printed.split(b"\0")[:-1] == [text.encode() for text in (*arguments, value)]


@given(job=texts, stdin=st.binary(max_size=200))
def test_the_header_tells_where_the_job_ends(job, stdin):
    header, _, rest = payload(job, stdin).partition(b"\n")
    magic, lines, size = header.split()

    assert magic == b"run1"
    assert rest.split(b"\n", int(lines))[-1] == stdin
    assert int(size) == len(stdin)


@pytest.mark.parametrize("run", ["a.g12345678.a1", "web/fix.r2.g12345678.a10", "a_b/c-d.g1.a1"])
@pytest.mark.parametrize(
    ("name", "part"),
    [
        (agent_id, ""),
        (validation_id, "v"),
        (lambda run, number: hook_id(run, number, "b"), "b"),
        (lambda run, number: hook_id(run, number, "e"), "e"),
    ],
    ids=["agent", "validation", "hooks before", "hooks after"],
)
def test_the_id_of_a_run_is_one_safe_word_that_names_its_round(run, name, part):
    found = RUN_ID.match(name(run, 12))

    assert SAFE_WORD.match(name(run, 12))
    assert found
    assert (found["run"], found["round"], found["part"]) == (run.replace("/", "+"), "12", part)
    assert round_of(name(run, 12)) == agent_id(run, 12)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.DONE])
def test_a_state_is_a_word(stage):
    assert parse_state([stage.value]) == RunState(stage)


def test_the_end_of_a_run_is_known_in_full():
    assert parse_state(["done", "143", "12", "0", "250", "timeout"]) == RunState(
        Stage.DONE, 143, 12, 0, 2.5, "timeout"
    )


@pytest.mark.parametrize(
    "message", [[], ["gone"], ["done"], ["done", "x", "1", "1", "1", "exit"], ["done", "0"]]
)
def test_what_is_no_state_is_doubt(message):
    with pytest.raises(Unavailable, match="which is no state"):
        parse_state(message)


def test_a_standing_names_the_folder_even_with_spaces_in_it():
    host_runs = parse_stat("S 42 /a folder/runs\na.r1 running\nb.r1 done 0 1 2 3 exit\n")

    assert (host_runs.root, host_runs.events_bytes) == ("/a folder/runs", 42)
    assert {run_id: state.stage for run_id, state in host_runs.states.items()} == {
        "a.r1": Stage.RUNNING,
        "b.r1": Stage.DONE,
    }


@pytest.mark.parametrize("text", ["", "S", "S x /root", "E no"])
def test_what_is_no_standing_is_doubt(text):
    with pytest.raises(Unavailable, match="which is no answer to `stat`"):
        parse_stat(text)


def checks_of(commands, account, output, *, seconds):
    return read_checks(commands, BytesIO(account), BytesIO(output), seconds=seconds, mask=Mask())


ACCOUNT = b"begin 1 4\nend 1 0 150 8\nbegin 2 12\nend 2 3 25 17\n"
OUTPUT = b"$ a\none\n$ b\nsix7\n"


@given(cut=st.integers(0, len(ACCOUNT)))
def test_an_account_that_is_cut_never_makes_a_check_pass_that_did_not_end(cut):
    whole = checks_of(("a", "b", "c"), ACCOUNT, OUTPUT, seconds=2)
    checks = checks_of(("a", "b", "c"), ACCOUNT[:cut], OUTPUT, seconds=2)

    assert [(check.exit_code, check.seconds, check.output) for check in whole] == [
        (0, 1.5, "one"),
        (3, 0.25, "six7"),
    ]
    assert len(checks) <= 2
    assert all(check.exit_code == 124 or check == same for check, same in zip(checks, whole, strict=False))
    assert any(check.exit_code for check in checks)


def test_a_command_that_was_never_begun_has_not_passed():
    one = b"begin 1 4\nend 1 0 150 8\n"

    neither = checks_of(("a", "b"), b"", b"", seconds=0)
    first = checks_of(("a", "b"), one, b"$ a\none\n", seconds=2)

    assert [(check.command, check.exit_code) for check in neither] == [("a", 124)]
    assert [(check.command, check.exit_code, check.seconds) for check in first] == [
        ("a", 0, 1.5),
        ("b", 124, 0.5),
    ]


@given(
    account=st.binary(max_size=200)
    | st.from_regex(rb"(begin [0-9]+ [0-9]+\n|end [0-9 ]+\n)*", fullmatch=True)
)
def test_no_account_makes_more_checks_than_there_are_commands(account):
    assert len(checks_of(("a", "b"), account, OUTPUT, seconds=1)) <= 2
