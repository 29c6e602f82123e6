import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.adapter import Adapter, Output, Usage
from reconciler.core.model.runs import FailureClass
from reconciler.dispatch.output import OutputRequest, RoundOutput, judge_output, read_events
from reconciler.specs.layers import resolve_adapter as built_in

NOW = datetime(2030, 1, 1, 9, 0, tzinfo=UTC)
ADAPTERS = ("claude-code", "codex", "gemini", "opencode", "qwen", "script")

# --- Bytes to events -------------------------------------------------------


@pytest.mark.parametrize(
    ("stdout", "events"),
    [
        (b'{"a":1}\n{"b":2}\n', [{"a": 1}, {"b": 2}]),
        (b'{"a":1}\r\n\x1b[?25h{"b":2}\r\n\x1b]0;title\x07', [{"a": 1}, {"b": 2}]),
        (b'\xef\xbb\xbf{"a":1}', [{"a": 1}]),
        ('{"a":"x\u2028y\u2029z"}\n'.encode(), [{"a": "x\u2028y\u2029z"}]),
        (b'[{"a":1},{"b":2}]', [{"a": 1}, {"b": 2}]),
        (b'{\n  "a": {\n    "b": 1\n  }\n}\n', [{"a": {"b": 1}}]),
        (b'Loaded.\n{\n  "a": {\n    "b": 1\n  }\n}', [{"a": {"b": 1}}]),
        (b'1\n"text"\nnull\ntrue\n', []),
        (b"", []),
        (b"{" * 200_000, []),
        (b"[" * 200_000, []),
        (b'{"a":' + b"9" * 5000 + b"}", []),
    ],
    ids=str,
)
def test_events_are_found_in_any_dress(stdout, events):
    assert list(read_events(stdout).events) == events


def test_a_line_of_megabytes_is_one_event():
    long = "x" * 3_000_000

    found = read_events(json.dumps({"a": long}).encode() + b"\n" + b'{"b":2}\n')

    assert found.events == ({"a": long}, {"b": 2})


def test_noise_between_events_is_counted():
    found = read_events(b'warning: old\n{"a":1}\n\n  \nmore noise\n')

    assert found.events == ({"a": 1},)
    assert found.notes == ("lines of output that are not events: 2",)
    assert not found.was_cut


@pytest.mark.parametrize(
    "stdout", [b'{"a":1}\n{"b":', b'{"a"', b'[{"a":1},', b'{"a":1}\n\x1b[0m{"b"\r\n'], ids=str
)
def test_a_last_line_that_stops_in_the_middle_is_noticed(stdout):
    assert read_events(stdout).was_cut


# --- Any bytes -------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
WORDS = """
    item_type type result subtype success is_error session_id usage input_tokens total_cost_usd errors
    permission_denials tool_use_id message content thread_id turn.started turn.completed
    turn.failed item item.completed agent_message status failed declined aggregated_output error
    text msg task_started token_count info total_token_usage part reason stop tokens sessionID
    step_finish stats models tools byName totalFail warnings response role assistant
    terminal_reason structured_result
"""
words = st.sampled_from(WORDS.split())
odd_events = st.lists(
    st.recursive(
        values | words,
        lambda inner: st.dictionaries(words, inner, max_size=5) | st.lists(inner, max_size=3),
        max_leaves=12,
    ),
    max_size=6,
)


def test_text_made_to_be_slow_is_not():
    found = read_events(b"{\n" * 20_000 + b"]}")

    assert found.events == ()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ADAPTERS), st.binary(), st.binary(), st.integers(0, 255))
def test_any_bytes_give_a_verdict(name, stdout, stderr, exit_code):
    found = judge_output(built_in(name, None), RoundOutput(stdout, stderr, exit_code), OutputRequest(), NOW)

    assert found.outcome == "failed" or (name == "script" and exit_code == 0)
    assert found.model_dump_json()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ADAPTERS), odd_events, st.integers(0, 255))
def test_events_of_any_shape_give_a_verdict(name, events, exit_code):
    stdout = b"".join(json.dumps(event).encode() + b"\n" for event in events)

    found = judge_output(built_in(name, None), RoundOutput(stdout, stdout, exit_code), OutputRequest(), NOW)

    assert found.outcome == "failed" or found.kind is None
    assert found.model_dump_json()
    assert found.usage.cost_usd >= 0


# --- Raw text --------------------------------------------------------------


@pytest.mark.parametrize(
    ("exit_code", "outcome", "kind"),
    [
        (0, "success", None),
        (1, "failed", FailureClass.AGENT),
        (2, "failed", FailureClass.AGENT),
        (126, "failed", FailureClass.CONFIG),
        (127, "failed", FailureClass.CONFIG),
        (124, "failed", FailureClass.TIMEOUT),
        (143, "failed", FailureClass.HOST),
    ],
)
def test_a_script_is_judged_by_its_exit_code(exit_code, outcome, kind):
    found = judge_output(
        built_in("script", None), RoundOutput(b"working\ndone\n", b"", exit_code), OutputRequest(), NOW
    )

    assert (found.outcome, found.kind, found.text) == (outcome, kind, "working\ndone")


def test_what_a_script_says_of_logins_and_limits_is_not_taken_for_the_clis_own_error():
    said = b"GET /login 401 Unauthorized\nrate limit\n"

    found = judge_output(built_in("script", None), RoundOutput(said, b"", 1), OutputRequest(), NOW)

    assert found.kind is FailureClass.AGENT


# --- A CLI of one's own, without code --------------------------------------

PARROT = Adapter(
    name="parrot",
    command=("parrot", "{session}"),
    output=Output(
        format="json_lines",
        session_id="[?k=='hello'] | [0].nest",
        terminal="[?k=='bye'] | [-1]",
        success="[?k=='bye'] | [-1].mood=='happy'",
        text="join(' ', [?k=='squawk'].words)",
        error="[?k=='ouch'] | [-1].why",
        error_class="[?k=='ouch'] | [-1].what",
        input_tokens="sum([?k=='squawk'].seeds)",
        cost_usd="[?k=='bye'] | [-1].crackers",
        exit_codes={"9": "budget"},
        cumulative=("cost",),
    ),
)


def parrot(*events, exit_code=0, stderr=b"", **asked):
    stdout = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    return judge_output(PARROT, RoundOutput(stdout, stderr, exit_code), OutputRequest(**asked), NOW)


HELLO = {"k": "hello", "nest": "n1"}
SQUAWK = {"k": "squawk", "words": "Polly did it", "seeds": 3}
BYE = {"k": "bye", "mood": "happy", "crackers": 0.5}


def test_a_cli_with_odd_field_names_needs_rules_only():
    found = parrot(HELLO, SQUAWK, SQUAWK, BYE)

    assert (found.outcome, found.session_id, found.text) == ("success", "n1", "Polly did it Polly did it")
    assert found.usage == Usage(input_tokens=6, cost_usd=0.5)


def test_its_rules_tell_failures_apart():
    assert parrot(HELLO, SQUAWK).outcome == "failed"
    assert parrot(HELLO, SQUAWK, {**BYE, "mood": "sad"}).kind is FailureClass.AGENT
    assert (
        parrot(HELLO, {"k": "ouch", "why": "no key", "what": "auth"}, exit_code=1).kind is FailureClass.AUTH
    )
    assert parrot(HELLO, exit_code=9).kind is FailureClass.BUDGET
    assert parrot(HELLO, SQUAWK, BYE, exit_code=1).outcome == "failed"


def test_its_running_totals_are_counted_from_where_they_were():
    found = parrot(HELLO, SQUAWK, BYE, session="n1", totals=Usage(cost_usd=0.2))

    assert found.usage.cost_usd == pytest.approx(0.3)
    assert found.session_totals.cost_usd == 0.5


@pytest.mark.parametrize("nest", ["--dangerous", "a b", "", "x" * 201, "a\nb", "\ud800", 7, None], ids=repr)
def test_a_session_that_could_be_something_else_on_a_command_line_is_none(nest):
    assert parrot({"k": "hello", "nest": nest}, SQUAWK, BYE).session_id is None


def test_a_rule_that_does_not_fit_the_events_finds_nothing():
    found = parrot(HELLO, {"k": "squawk", "words": 7, "seeds": "many"}, BYE)

    assert (found.outcome, found.text, found.usage.input_tokens) == ("failed", "", 0)


def test_a_cli_without_rules_is_judged_by_whole_events_and_the_exit_code():
    plain = PARROT.model_copy(update={"output": Output(format="json", text="[-1].said")})

    def judge(stdout, exit_code=0):
        return judge_output(plain, RoundOutput(stdout, b"", exit_code), OutputRequest(), NOW).outcome

    assert judge(b'{"said": "done"}') == "success"
    assert judge(b'{"said": "done"}', exit_code=1) == "failed"
    assert judge(b'{"said": "do') == "failed"
    assert judge(b"") == "failed"
