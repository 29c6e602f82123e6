import json
from datetime import UTC, datetime

import pytest

from reconciler.cli.agents import upcoming
from reconciler.core.model import Failure, FailureClass, Phase, Status, Task

NOW = datetime(2030, 1, 1, 9, 0, tzinfo=UTC)
TASK = Task(name="hello", generation="a" * 40, work="w", goal="Say hello.")
RESULT = {"type": "result", "subtype": "success", "is_error": False, "result": "Done.", "session_id": "s1"}
PARROT = """\
command: [parrot]
output:
  format: json_lines
  terminal: "[?k=='bye']"
  text: "[-1].words"
"""


# --- prompt ----------------------------------------------------------------


def test_the_prompt_of_a_task_is_printed(fleet):
    found = fleet.run("prompt", "hello")

    assert found.exit_code == 0
    assert "# Goal\n\nSay hello." in found.stdout


def test_the_prompt_of_an_unknown_task_is_not_found(fleet):
    found = fleet.run("prompt", "helo")

    assert found.exit_code == 3
    assert "did you mean 'hello'" in found.stderr


def status(**changes):
    return Status(
        **{
            "phase": Phase.CREATED,
            "since": NOW,
            "created_at": NOW,
            "generation": "a" * 40,
            "work": "w",
            **changes,
        }
    )


def test_the_prompt_of_a_live_task_is_that_of_its_round():
    live = status(phase=Phase.RUNNING, attempt=2, round=3)

    assert upcoming(TASK, live, NOW) == live


def test_the_next_run_of_a_task_begins_where_it_stands():
    failure = Failure(kind=FailureClass.TIMEOUT, message="too long")

    first = upcoming(TASK, None, NOW)
    again = upcoming(TASK, status(attempt=1, failure=failure), NOW)
    reviewed = upcoming(TASK, status(phase=Phase.REVIEW_PENDING, attempt=1), NOW)
    anew = upcoming(TASK, status(phase=Phase.FAILED, attempt=4, failure=failure), NOW)

    assert (first.attempt, first.run) == (1, "hello.gaaaaaaaa.a1")
    assert (again.attempt, again.failure) == (2, failure)
    assert reviewed.review_count == 1
    assert (anew.attempt, anew.failure) == (5, None)


# --- adapter parse ---------------------------------------------------------


@pytest.fixture
def recording(tmp_path):
    file = tmp_path / "run.stdout"
    file.write_text(json.dumps({**RESULT, "total_cost_usd": 0.5, "num_turns": 2}) + "\n")
    return file


def test_a_recorded_output_gets_its_verdict_as_json(fleet, recording):
    found = fleet.run("adapter", "parse", "claude-code", str(recording), "--rc", "0", "-o", "json")

    assert found.exit_code == 0
    verdict = json.loads(found.stdout)
    assert set(verdict) >= {"outcome", "class", "session_id", "text", "usage", "cost_usd", "turns", "notes"}
    assert (verdict["outcome"], verdict["session_id"], verdict["cost_usd"]) == ("success", "s1", 0.5)


def test_a_recorded_output_gets_its_verdict_in_words(fleet, recording):
    recording.with_suffix(".stderr").write_text("Not logged in\n")
    recording.write_text("")

    found = fleet.run("adapter", "parse", "claude-code", str(recording), "--rc", "-15")
    other = fleet.run("adapter", "parse", "claude-code", str(recording), "--rc", "1")

    assert "SIGTERM" in found.stdout
    assert "auth" in other.stdout


def test_an_adapter_of_the_fleet_reads_its_own_format(fleet, recording):
    fleet.write("specs/adapters/parrot.yaml", PARROT)
    recording.write_text('{"k": "bye", "words": "Polly did it"}\n')

    found = fleet.run("adapter", "parse", "parrot", str(recording), "--rc", "0")

    assert "success" in found.stdout
    assert "Polly did it" in found.stdout


def test_an_unknown_adapter_is_not_found(fleet, recording):
    found = fleet.run("adapter", "parse", "claude-cod", str(recording), "--rc", "0")

    assert found.exit_code == 3
    assert "did you mean 'claude-code'" in found.stderr
