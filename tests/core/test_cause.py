"""
A failure is told with its cause first, harmless and short, and with what to type next.
"""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.model.runs import Check, FailureClass
from reconciler.core.model.status import Failure, Phase
from reconciler.core.runs.failure import LINES, WIDTH, last_lines, summarize_failure
from tests.statuses import make_status

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def status(kind, message="it broke", phase=Phase.FAILED, **fields):
    stand = {
        "since": NOW,
        "created_at": NOW,
        "generation": "a" * 40,
        "work": "b" * 12,
        "run": "x.gaaaaaaaa.a1",
    }
    return make_status(phase=phase, failure=Failure(kind=kind, message=message), **{**stand, **fields})


@pytest.mark.parametrize("kind", FailureClass)
@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.ESCALATED])
def test_every_class_of_failure_says_what_to_type_next(kind, phase):
    found = summarize_failure("web/x", status(kind, phase=phase, adapter="codex", assigned_host="gpu1"))

    assert found.summary == f"{kind}: it broke"
    assert found.next[0] == "reconciler logs web/x"
    assert found.next[-1] == "reconciler retry web/x"
    assert not any("{" in step for step in found.next)


@pytest.mark.parametrize("kind", [FailureClass.CONFIG, FailureClass.AUTH])
@pytest.mark.parametrize("adapter", ["codex", "script"])
def test_what_failed_at_the_repo_is_mended_there_and_not_at_the_adapter(kind, adapter):
    found = summarize_failure(
        "x", status(kind, "repo web: cannot push", repo="web", adapter=adapter, assigned_host="gpu1")
    )

    assert found.next[1] == "fix specs/repos/web.yaml, or the repository that it names"
    assert not any("adapter test" in step for step in found.next)


def test_what_a_script_lacks_is_no_matter_of_its_adapter():
    found = summarize_failure("x", status(FailureClass.CONFIG, adapter="script", assigned_host="gpu1"))

    assert found.next[1] == "fix specs/tasks/x.yaml, or install on gpu1 what it calls"


@pytest.mark.parametrize(
    "kind", [FailureClass.BUDGET, FailureClass.TIMEOUT, FailureClass.STALL, FailureClass.CONFIG]
)
def test_what_to_change_of_a_task_of_a_campaign_is_in_the_file_of_the_campaign(kind):
    found = summarize_failure("node22/web", status(kind, campaign="node22", adapter="script"))

    assert "specs/campaigns/node22.yaml" in found.next[1]


def test_a_task_that_goes_on_by_itself_needs_nobody_to_retry_it():
    assert summarize_failure("x", status(FailureClass.AGENT, phase=Phase.CREATED)).next == (
        "reconciler logs x",
    )


def test_what_did_not_fail_has_no_cause():
    assert summarize_failure("x", None) is None
    assert summarize_failure("x", status(FailureClass.AGENT).model_copy(update={"failure": None})) is None


def test_a_failed_validation_shows_what_the_command_that_failed_printed():
    checks = (
        Check(command="true", exit_code=0, seconds=1.0, output="fine"),
        Check(command="make test", exit_code=2, seconds=1.0, output="1 failed\n\n3 != 4\n"),
    )

    found = summarize_failure(
        "x", status(FailureClass.VALIDATION, checks=checks), printed="the agent's words"
    )

    assert found.output == ("1 failed", "3 != 4")


def test_a_message_that_says_its_class_itself_is_not_told_twice():
    assert (
        summarize_failure("x", status(FailureClass.VALIDATION, "validation failed")).summary
        == "validation failed"
    )


@given(st.text(max_size=3000), st.integers(0, 50))
def test_whatever_was_printed_comes_out_harmless_and_bounded(text, times):
    lines = last_lines("\n".join([text] * times))

    assert len(lines) <= LINES
    assert all(0 < len(line) <= WIDTH for line in lines)
    assert not any(odd in line for line in lines for odd in "\x1b\r\n\u202e\u200b\x9b")


def test_of_a_long_output_the_end_is_shown():
    text = "".join(f"line {number}\n" for number in range(100_000))

    assert last_lines(text)[-1] == "line 99999"
    assert len(last_lines(text)) == LINES
