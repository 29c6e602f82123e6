"""Rules for CLIs that print nothing but text."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.adapter import Adapter, Output, Usage
from reconciler.core.model.runs import FailureClass
from reconciler.dispatch.output import OutputRequest, RoundOutput, judge_output

NOW = datetime(2030, 1, 1, 9, 0, tzinfo=UTC)
SAMPLES = Path(__file__).parent.parent / "samples" / "aider"
RULES = Output(
    format="text",
    success=r"Tokens: .* sent,",
    error=r"(litellm\.\w+(?:Error|Exception)\b.*)",
    error_patterns={
        "auth": r".*litellm\.(?:Authentication|PermissionDenied)Error",
        "quota": r".*litellm\.RateLimitError",
    },
    input_tokens=r"Tokens: ([\d.]+k?) sent",
    output_tokens=r"Tokens: [\d.]+k? sent, ([\d.]+k?) received",
    give_up=r"Retrying in (?:[4-9]|\d\d)[\d.]* seconds",
)
AIDER = Adapter(name="aider", command=("aider",), output=RULES)


def judge(stdout, *, stderr=b"", exit_code=0, rules=RULES):
    adapter = AIDER.model_copy(update={"output": rules})
    return judge_output(adapter, RoundOutput(stdout, stderr, exit_code), OutputRequest(), NOW)


def recorded(name):
    return (SAMPLES / f"{name}.stdout").read_bytes()


def test_an_error_fails_a_run_whose_exit_code_says_nothing_of_it():
    found = judge(recorded("err401"))

    assert (found.outcome, found.kind) == ("failed", FailureClass.AUTH)
    assert found.message.startswith(
        "litellm.AuthenticationError: AuthenticationError: OpenAIException - Incorrect API key"
    )


def test_a_run_that_did_its_work_succeeds_and_tells_what_it_took():
    found = judge(recorded("text"))

    assert (found.outcome, found.kind) == ("success", None)
    assert found.usage == Usage(input_tokens=1000, output_tokens=50)


def test_what_a_cli_tells_of_each_message_is_added_up_over_all_of_its_output():
    noise = b"".join(b"line %d of a long talk\n" % number for number in range(20_000))
    rules = RULES.model_copy(update={"added_up": ("tokens",)})

    found = judge(recorded("text") + noise + recorded("text"), rules=rules)

    assert found.usage == Usage(input_tokens=2000, output_tokens=100)


def test_a_run_that_was_stopped_is_no_success():
    assert judge(recorded("hang"), exit_code=143).kind is FailureClass.HOST
    assert judge(recorded("hang")).outcome == "failed"


def test_of_an_error_and_a_success_the_later_one_counts():
    error, success = (
        b"litellm.RateLimitError: 429 slow down, try again in 20 minutes\n",
        b"Tokens: 5 sent, 6 received.\n",
    )

    assert judge(error + success).outcome == "success"
    found = judge(success + error)
    assert (found.kind, found.retry_at) == (FailureClass.QUOTA, NOW + timedelta(minutes=20))


@pytest.mark.parametrize(
    ("rules", "stdout", "outcome"),
    [
        ({"success": "done"}, b"done\n", "success"),
        ({"success": "done"}, b"well, done\n", "failed"),
        ({"error": "oops"}, b"fine\n", "success"),
        ({"error": "oops"}, b"oops\nfine\n", "failed"),
        ({"terminal": "bye"}, b"fine\n", "failed"),
        ({"terminal": "bye"}, b"fine\nbye\n", "success"),
        ({"text": "said: (.*)"}, b"fine\n", "failed"),
        ({"text": "said: (.*)"}, b"said: hello\n", "success"),
    ],
)
def test_each_rule_alone_does_what_it_says(rules, stdout, outcome):
    assert judge(stdout, rules=Output(format="text", **rules)).outcome == outcome
    assert judge(stdout, rules=Output(format="text", **rules), exit_code=1).outcome == "failed"


def test_a_session_a_status_and_a_class_are_read_of_text_too():
    rules = Output(format="text", session_id=r"session: (\S+)", error=r"E: .*", error_status=r"E: (\d+)")

    found = judge(b"session: s1\nE: 503 x\n", rules=rules, exit_code=1)

    assert (found.session_id, found.kind) == ("s1", FailureClass.QUOTA)


def test_what_the_exit_code_of_a_cli_means_can_be_said():
    assert (
        judge(b"", rules=Output(format="text", exit_codes={"3": "auth"}), exit_code=3).kind
        is FailureClass.AUTH
    )


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(0, 255))
def test_any_bytes_give_a_verdict(stdout, stderr, exit_code):
    assert judge(stdout, stderr=stderr, exit_code=exit_code).model_dump_json()


@pytest.mark.parametrize(
    ("stdout", "stderr", "exit_code", "kind"),
    [
        (b"", b"Error: 429 Too Many Requests, try again in 90s\n", 1, FailureClass.QUOTA),
        (b"Error: You've hit your usage limit. Try again in 90s\n", b"", 1, FailureClass.QUOTA),
        (b"the test of the rate limit says 429\n", b"", 1, FailureClass.AGENT),
        (b"", b"Error: Invalid API key\n", 1, FailureClass.AGENT),
        (b"Error: 429 Too Many Requests\n", b"", 0, None),
    ],
)
def test_a_limit_that_a_failed_cli_tells_in_plain_text_is_one_without_any_rule(
    stdout, stderr, exit_code, kind
):
    verdict = judge(stdout, stderr=stderr, exit_code=exit_code, rules=Output())

    assert verdict.kind == kind
    assert verdict.retry_at == (NOW + timedelta(seconds=90) if kind is FailureClass.QUOTA else None)
