import csv
import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.adapter import Adapter, Output, Usage
from reconciler.core.model.runs import FailureClass, Verdict
from reconciler.core.model.specs import Desired, Host, Task
from reconciler.core.model.status import Phase
from reconciler.core.runs.command import build_run_request
from reconciler.dispatch.output import (
    OutputRequest,
    RoundOutput,
    judge_output,
    parse_recording,
    read_output,
    verdict_as_json,
)
from reconciler.specs.layers import resolve_adapter as built_in
from reconciler.store import statuses
from tests.statuses import make_status

NOW = datetime(2030, 1, 1, 9, 0, tzinfo=UTC)
SAMPLES = Path(__file__).parent.parent / "samples"
RECORDINGS = SAMPLES / "agent-clis"


def read_table() -> list[dict[str, str]]:
    """Return what is expected of each recording; `-` stands for nothing."""
    with (SAMPLES / "verdicts.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [{name: "" if value == "-" else value for name, value in row.items()} for row in rows]


VERDICTS = read_table()
by_name = pytest.mark.parametrize("row", VERDICTS, ids=[row["recording"] for row in VERDICTS])


def round_output(row):
    code, stderr = int(row["exit_code"]), RECORDINGS / f"{row['recording']}.stderr"
    return RoundOutput(
        stdout=(RECORDINGS / f"{row['recording']}.stdout").read_bytes(),
        stderr=stderr.read_bytes() if stderr.exists() else b"",
        exit_code=code if code >= 0 else 128 - code,
    )


def asked(row):
    message = row["asked"].split()
    sessions = [word.removeprefix("session=") for word in message if word.startswith("session=")]
    return OutputRequest(tuple(word for word in message if word.startswith("--")), *sessions)


def recording(name):
    return next(row for row in VERDICTS if row["recording"] == name)


# --- Recordings of the real CLIs -------------------------------------------


@by_name
def test_every_recording_gets_the_verdict_of_the_table(row):
    adapter = built_in(row["adapter"], None)

    found = judge_output(adapter, round_output(row), asked(row), NOW)

    assert (found.outcome, found.kind or "") == (row["outcome"], row["class"])
    assert row["words"] in "\n".join((found.message, *found.notes))


@by_name
def test_every_recording_that_names_its_session_can_be_resumed(row):
    adapter = built_in(row["adapter"], None)

    found = judge_output(adapter, round_output(row), OutputRequest(), NOW)

    assert bool(found.session_id) is bool(row["session"])


def test_every_recording_is_in_the_table_and_has_a_reason_if_it_failed():
    recorded = {str(path.relative_to(RECORDINGS).with_suffix("")) for path in RECORDINGS.rglob("*.stdout")}

    assert recorded == {row["recording"] for row in VERDICTS}
    assert all(row["class"] for row in VERDICTS if row["outcome"] == "failed")


ENDS = {
    "claude-code": b'"type":"result"',
    "codex": b'{"type":"turn.completed"',
    "opencode": b'"reason":"stop"',
    "gemini": b'"status":"success"',
    "qwen": b'"type":"result"',
    "pi": b'"type":"agent_settled"',
    "copilot": b'"type":"result"',
    "cline": b'"type":"run_result"',
    "kimi": b'"type":"session.resume_hint"',
}
WHOLE = [
    row
    for row in VERDICTS
    if row["outcome"] == "success" and not row["recording"].startswith("codex-0.39/")  # knows no last event
]


def end_of_result(row, stdout):
    """Return where the last event is whole: the end of its line, or of a document of many lines."""
    lines = stdout.split(b"\n")
    at = [index for index, line in enumerate(lines) if ENDS[row["adapter"]] in line]
    return len(b"\n".join(lines[: at[-1] + 1] if at else lines).rstrip())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_cut_output_is_no_success_unless_its_last_event_is_whole(data):
    row = data.draw(st.sampled_from(WHOLE), label="recording")
    stdout = round_output(row).stdout
    end = end_of_result(row, stdout)
    cut = data.draw(st.integers(0, end - 1) | st.integers(max(0, end - 20), end - 1), label="cut")
    exit_code = data.draw(st.sampled_from([0, 143]))
    adapter = built_in(row["adapter"], None)

    before = judge_output(adapter, RoundOutput(stdout[:cut], b"", exit_code), OutputRequest(), NOW)
    after = judge_output(adapter, RoundOutput(stdout[:end], b"", exit_code), OutputRequest(), NOW)

    assert before.outcome == "failed"
    assert after.outcome == "success"


def test_an_output_cut_in_its_last_line_is_told_from_one_that_just_ends():
    whole = round_output(recording("claude/streamjson_text")).stdout
    adapter = built_in("claude-code", None)

    in_a_line = judge_output(adapter, RoundOutput(whole[:-100], b"", 0), OutputRequest(), NOW)
    between_lines = judge_output(
        adapter, RoundOutput(whole[: whole.rindex(b"\n", 0, -1)], b"", 0), OutputRequest(), NOW
    )

    assert "cut off" in in_a_line.message
    assert "without its last event" in between_lines.message


def test_the_old_codex_format_says_that_its_end_is_a_guess():
    stdout = round_output(recording("codex-0.39/json_tool_bypass")).stdout
    adapter = built_in("codex", None)

    whole = judge_output(adapter, RoundOutput(stdout, b"", 0), OutputRequest(), NOW)
    cut = judge_output(
        adapter, RoundOutput(stdout[: stdout.index(b"exec_command_end")], b"", 0), OutputRequest(), NOW
    )

    assert "guess" in " ".join(whole.notes)
    assert cut.outcome == "failed"


def test_a_line_of_a_log_that_has_a_msg_is_not_of_the_old_codex_format():
    end = b'{"level": "info", "msg": "bye"}\n'
    good = round_output(recording("codex-0.171/json_text"))

    found = judge_output(
        built_in("codex", None), RoundOutput(end + good.stdout + end, good.stderr, 0), OutputRequest(), NOW
    )

    assert (found.outcome, found.notes) == ("success", ())


def test_the_names_codex_had_for_a_while_are_understood():
    events = (
        {"type": "turn.started"},
        {"type": "item.completed", "item": {"item_type": "assistant_message", "text": "Done."}},
        {"type": "turn.completed", "usage": {"input_tokens": 5, "cached_input_tokens": 2}},
    )
    stdout = b"".join(json.dumps(event).encode() + b"\n" for event in events)

    found = judge_output(built_in("codex", None), RoundOutput(stdout, b"", 0), OutputRequest(), NOW)

    assert (found.outcome, found.text) == ("success", "Done.")
    assert (found.usage.input_tokens, found.usage.cached_tokens) == (3, 2)


# --- Sessions and totals ---------------------------------------------------


def test_a_session_that_was_begun_anew_is_noted_and_its_totals_are_its_own():
    row = recording("codex-0.98/resume_5_unknown")
    before = Usage(input_tokens=100, output_tokens=10, cached_tokens=1)

    found = judge_output(
        built_in("codex", None), round_output(row), OutputRequest(session="01a20000-fc7b", totals=before), NOW
    )

    assert found.session_id != "01a20000-fc7b"
    assert "new session" in found.notes[0]
    assert (found.usage.input_tokens, found.usage.output_tokens) == (401, 50)


def test_the_tokens_of_a_resumed_codex_session_are_counted_from_where_it_was_left():
    first, second = recording("codex/resume_1_first"), recording("codex/resume_6_nostdinprompt")
    adapter = built_in("codex", None)
    before = judge_output(adapter, round_output(first), OutputRequest(), NOW)

    after = judge_output(
        adapter,
        round_output(second),
        OutputRequest(session=before.session_id, totals=before.session_totals),
        NOW,
    )

    assert after.session_id == before.session_id
    assert after.session_totals.input_tokens == before.usage.input_tokens + after.usage.input_tokens
    assert after.usage.input_tokens == 2005 - 401


def test_the_cost_of_a_resumed_claude_session_is_a_difference_and_its_tokens_are_not():
    row = recording("claude/tpl_resume")
    before = Usage(input_tokens=1, cost_usd=0.002)

    found = judge_output(
        built_in("claude-code", None),
        round_output(row),
        OutputRequest(session="a478c207-35fd-41d9-b120-288ec3eb4cb6", totals=before),
        NOW,
    )

    total = json.loads(round_output(row).stdout.splitlines()[-1])
    assert found.usage.cost_usd == pytest.approx(total["total_cost_usd"] - 0.002)
    assert found.usage.output_tokens == total["usage"]["output_tokens"]


def test_totals_of_a_session_survive_a_run_that_told_none():
    row = recording("codex/sig_json_tool_SIGTERM")
    session = json.loads(round_output(row).stdout.split(b"\n")[0])["thread_id"]
    before = Usage(input_tokens=100, output_tokens=10)

    found = judge_output(
        built_in("codex", None), round_output(row), OutputRequest(session=session, totals=before), NOW
    )

    assert found.session_totals == before
    assert found.usage == Usage()


# --- Claude ----------------------------------------------------------------


def claude_events(*, denied=(), used=(), **result):
    """Return a stream in which tools were used and some of them denied."""
    results = [
        {"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": tool}]}}
        for tool in used
    ]
    denials = [{"tool_name": "Bash", "tool_use_id": tool} for tool in denied]
    end = {"type": "result", "subtype": "success", "is_error": False, "result": "Done."}
    events = [*results, {**end, "session_id": "s", "permission_denials": denials, **result}]
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def judge_claude(stdout, exit_code=0, **about):
    return judge_output(
        built_in("claude-code", None), RoundOutput(stdout, b"", exit_code), OutputRequest(**about), NOW
    )


def test_an_agent_that_found_a_way_around_a_denial_has_succeeded():
    found = judge_claude(claude_events(used=["a", "b"], denied=["a"]))

    assert found.outcome == "success"
    assert found.notes == ("denied on the way: Bash",)


def test_an_agent_that_gave_up_at_a_denial_has_not():
    found = judge_claude(claude_events(used=["a", "b"], denied=["b"]))

    assert (found.outcome, found.kind) == ("failed", FailureClass.CONFIG)
    assert "Bash" in found.message


def test_of_two_results_the_last_counts():
    good, bad = claude_events(), claude_events(is_error=True, result="API Error: 529 Overloaded")

    assert judge_claude(bad + good).outcome == "success"
    assert judge_claude(good + bad).kind is FailureClass.QUOTA
    assert judge_claude(good + bad).notes == ("2 results; the last one counts",)


def test_an_empty_answer_is_no_success():
    found = judge_claude(claude_events(result=" \n"))

    assert (found.outcome, found.kind) == ("failed", FailureClass.AGENT)
    assert "without any text" in found.message


def test_success_with_an_exit_code_that_says_otherwise_is_none():
    found = judge_claude(claude_events(), exit_code=1)

    assert found.outcome == "failed"
    assert "exited with 1" in found.message


def test_a_missing_structured_answer_is_missed_only_where_it_was_asked_for():
    answer = claude_events(structured_output={"status": "ok"})

    assert judge_claude(claude_events(), argv=("claude", "--json-schema", "{}")).outcome == "failed"
    assert judge_claude(answer, argv=("claude", "--json-schema", "{}")).outcome == "success"
    assert judge_claude(claude_events()).outcome == "success"


def test_a_quota_with_a_time_says_until_when_to_wait():
    message = "Claude usage limit reached. Your limit will reset at 3pm (UTC)."

    found = judge_claude(claude_events(is_error=True, result=message), exit_code=1)

    assert found.kind is FailureClass.QUOTA
    assert found.retry_at == datetime(2030, 1, 1, 15, 0, tzinfo=UTC)


ODD = [10**400, -(10**400), 1e308, -1, math.inf, -math.inf, math.nan, True, None, "7", "\ud800", {}, []]


@pytest.mark.parametrize("odd", ODD, ids=[f"{odd!r:.12}" for odd in ODD])
@pytest.mark.parametrize("exit_code", [0, 1, 2**31 - 1])
def test_whatever_an_agent_writes_for_a_number_or_a_text_becomes_a_verdict_that_can_be_kept(odd, exit_code):
    usage = dict.fromkeys(("input_tokens", "output_tokens", "cache_read_input_tokens"), odd)
    told = dict.fromkeys(("total_cost_usd", "num_turns", "result", "api_error_status", "session_id"), odd)

    found = judge_claude(claude_events(usage=usage, **told), exit_code=exit_code)

    assert statuses.load_status(Verdict, statuses.dump_status(found), "x") == found
    assert found.usage + found.usage


def test_a_rule_that_cannot_reckon_with_what_it_finds_finds_nothing():
    adapter = Adapter(name="a", output=Output(format="json", cost_usd="sum([*].cost)", text="[0].text"))
    stdout = json.dumps({"cost": 10**400, "text": "Done."}).encode()

    found = judge_output(adapter, RoundOutput(stdout, b"", 0), OutputRequest(), NOW)

    assert (found.outcome, found.usage.cost_usd) == ("success", 0.0)


# --- The ways in -----------------------------------------------------------


def test_the_order_of_a_run_says_which_session_and_form_its_output_must_answer_for():
    claude = built_in("claude-code", None)
    strict = claude.model_copy(update={"command": (*claude.command, "--json-schema", "{}")})
    status = make_status(
        phase=Phase.RUNNING,
        since=NOW,
        created_at=NOW,
        generation="a" * 40,
        work="w",
        run="t.gaaaaaaaa.a1",
        assigned_host="local",
        session_id="s0",
        session_totals=Usage(cost_usd=0.25),
    )
    task = Task(name="t", generation="a" * 40, work="w", goal="Do it.", adapter="claude-code")
    fleet = Desired(hosts={"local": Host(name="local")}, adapters={"claude-code": strict})
    work = build_run_request(task, status, fleet)

    def read(stdout):
        return read_output(strict, stdout=stdout, stderr=b"", exit_code=0, order=work, now=NOW)

    good = read(claude_events(session_id="s0", structured_output={"a": 1}, total_cost_usd=0.75))
    formless = read(claude_events(session_id="s1", total_cost_usd=0.75))

    assert (good.outcome, good.usage.cost_usd, good.notes) == ("success", 0.5, ())
    assert (formless.outcome, formless.usage.cost_usd) == ("failed", 0.75)
    assert formless.notes == ("new session s1, not s0 as asked",)


# --- What is no fact -------------------------------------------------------


@pytest.mark.parametrize("name", ["claude-code", "codex", "gemini", "opencode", "qwen"])
@pytest.mark.parametrize(
    "stderr",
    [
        "TypeError: x is not a function\n    at run (/usr/lib/cli.js:429:21)",
        "file:///usr/lib/cli.js:503\n    throw e\n    ^\n\nError: x\n    at quota (/usr/lib/cli.js:401:1)",
        "(node:401) [DEP0040] DeprecationWarning: The `punycode` module is deprecated.",
        "(node:429) Warning: rate limit exceeded",
        "Traceback (most recent call last):\n  File 'quota.py', line 429, in limit\nKeyError: 'unauthorized'",
    ],
)
def test_a_crash_of_any_cli_costs_an_attempt_whatever_numbers_are_in_it(name, stderr):
    found = judge_output(built_in(name, None), RoundOutput(b"", stderr.encode(), 1), OutputRequest(), NOW)

    assert (found.outcome, found.kind, found.retry_at) == ("failed", FailureClass.AGENT, None)


PROSE = (
    "I fixed it: API Error: 429 rate limit exceeded, try again in 3 hours. Unauthorized users get "
    "401 Unauthorized. No conversation found."
)


def said(name, prose):
    """Return what a CLI prints whose agent ends with these words and succeeds."""
    recordings = {
        "claude-code": "claude-332/streamjson_text",
        "codex": "codex-0.171/json_text",
        "gemini": "gemini/streamjson_text",
        "opencode": "opencode/json_text",
        "qwen": "qwen/streamjson_text",
    }
    events = [json.loads(line) for line in round_output(recording(recordings[name])).stdout.splitlines()]
    message = judge_output(
        built_in(name, None), round_output(recording(recordings[name])), OutputRequest(), NOW
    ).text
    whole = "".join(f"{json.dumps(event)}\n" for event in events)
    assert json.dumps(message)[1:-1] in whole
    return whole.replace(json.dumps(message)[1:-1], json.dumps(prose)[1:-1]).encode()


@pytest.mark.parametrize("exit_code", [1, 3, 255])
@pytest.mark.parametrize("name", ["claude-code", "codex", "gemini", "opencode", "qwen"])
def test_what_an_agent_says_at_its_end_is_no_error_of_its_cli_whatever_the_exit_code(name, exit_code):
    found = judge_output(
        built_in(name, None), RoundOutput(said(name, PROSE), b"", exit_code), OutputRequest(), NOW
    )

    assert found.text == PROSE
    assert (found.outcome, found.kind, found.retry_at) == ("failed", FailureClass.AGENT, None)
    assert found.message == f"says success but exited with {exit_code}"


def test_only_a_session_that_was_asked_for_can_be_gone():
    stdout = claude_events(subtype="error_max_turns", is_error=True, result=PROSE, session_id="s1")

    found = judge_output(built_in("claude-code", None), RoundOutput(stdout, b"", 1), OutputRequest(), NOW)

    assert (found.kind, found.session_id) == (FailureClass.BUDGET, "s1")


# --- Recordings by hand ----------------------------------------------------


def test_a_recording_is_read_with_what_stands_beside_it_and_pythons_exit_code(tmp_path):
    stdout = tmp_path / "run.stdout"
    stdout.write_bytes(b"")
    stdout.with_suffix(".stderr").write_text("Not logged in")
    adapter = built_in("claude-code", None)

    assert parse_recording(adapter, stdout, 1, NOW).kind is FailureClass.AUTH
    assert "SIGTERM" in parse_recording(adapter, stdout, -15, NOW).message


def test_a_verdict_prints_as_json():
    found = judge_claude(claude_events(used=["a", "b"], denied=["a"], total_cost_usd=0.25, num_turns=3))

    printed = json.loads(json.dumps(verdict_as_json(found)))

    assert printed == {
        "outcome": "success",
        "class": None,
        "message": "",
        "session_id": "s",
        "text": "Done.",
        "usage": {"input_tokens": 0, "output_tokens": 0, "cached_tokens": 0},
        "cost_usd": 0.25,
        "model": None,
        "turns": 3,
        "retry_at": None,
        "notes": ["denied on the way: Bash"],
    }
