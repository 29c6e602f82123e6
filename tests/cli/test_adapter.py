import contextlib
import json
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.cli.adapter import next_round
from reconciler.cli.exits import ExitCode
from reconciler.cli.main import cli
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Task
from reconciler.core.model.status import Failure, Phase
from tests.dispatch.sshd import needs_sshd, yard
from tests.forking import Process
from tests.statuses import make_status

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
    return make_status(
        **{
            "phase": Phase.CREATED,
            "since": NOW,
            "created_at": NOW,
            "generation": "a" * 40,
            "work": "w",
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("goal: x\nscript: x\nrepo: web\n", "no repo 'web'; make specs/repos/web.yaml"),
        ("goal: x\nscript: x\ndepends_on: [other]\n", "no task 'other'; make specs/tasks/other.yaml"),
        ("goal: x\nadapter: mine\n", "no adapter 'mine'"),
        ("goal: x\n", "script: is missing"),
    ],
)
def test_a_task_that_cannot_run_has_no_prompt_but_mistakes(fleet, spec, message):
    fleet.write("specs/tasks/broken.yaml", spec)

    found = fleet.run("prompt", "broken")

    assert (found.exit_code, found.stdout) == (ExitCode.FAILURE, "")
    assert message in found.stderr


def test_the_prompt_of_a_live_task_is_that_of_its_round():
    live = status(phase=Phase.RUNNING, attempt=2, round=3)

    assert next_round(TASK, {TASK.name: live}, NOW) == live


def test_the_next_run_of_a_task_begins_where_it_stands():
    failure = Failure(kind=FailureClass.TIMEOUT, message="too long")

    first = next_round(TASK, {}, NOW)
    again = next_round(TASK, {TASK.name: status(attempt=1, failure=failure)}, NOW)
    reviewed = next_round(TASK, {TASK.name: status(phase=Phase.REVIEW_PENDING, attempt=1)}, NOW)
    anew = next_round(TASK, {TASK.name: status(phase=Phase.FAILED, attempt=4, failure=failure)}, NOW)

    assert (first.attempt, first.run_key) == (1, "hello.gaaaaaaaa.a1")
    assert (again.attempt, again.failure) == (2, failure)
    assert reviewed.review.count == 1
    assert (anew.attempt, anew.failure) == (5, None)


# --- adapter test ----------------------------------------------------------

ECHO = """\
command: [echo-agent, --model, small]
env: {GREETING: hello}
version: {command: [echo-agent, --version], range: ">=1.2"}
health: {command: [echo-agent, login, status], timeout: 60s}
"""
AGENT = """\
#!/bin/sh
case $1 in
--version) echo echo-agent 1.4.0 ;;
login) [ "$TOKEN" = s3cret ] || { echo "not logged in" >&2; exit 3; } ;;
*) touch "$HOME/asked"; printf '%s from %s files: %s' "$GREETING" "$(ls | wc -l | tr -d ' ')" "$(cat)" ;;
esac
"""


@pytest.fixture
def echo(fleet, tmp_path):
    """Return a fleet with an agent of its own, and the folder that its CLI is in."""
    program = tmp_path / "bin" / "echo-agent"
    program.parent.mkdir()
    program.write_text(AGENT)
    program.chmod(0o755)
    fleet.write("specs/adapters/echo.yaml", ECHO + "secrets: {TOKEN: {env: ECHO_TOKEN}}\n")
    fleet.write("specs/hosts/local.yaml", f"adapters: {{echo: {{path: {program.parent}}}}}\n")
    return fleet


def results(done):
    """Return what came of each check, as `adapter test` prints it."""
    return {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}


def test_an_agent_is_tried_as_a_run_would_use_it(echo, monkeypatch, person):
    monkeypatch.setenv("ECHO_TOKEN", "s3cret")

    done = echo.run("adapter", "test", "echo")

    assert done.exit_code == 0
    assert results(done) == dict.fromkeys(["host", "version", "health", "prompt"], "ok")
    assert "1.4.0 is in >=1.2" in done.stdout
    assert "hello from 0 files: Reply with the one word: ready." in done.stdout
    assert (person / "asked").exists()
    assert not echo.data.exists(), "nothing is left behind"


def test_what_works_and_what_does_not_is_told_apart(echo):
    done = echo.run("adapter", "test", "echo", "-o", "json")

    assert done.exit_code == 5
    document = json.loads(done.stdout)
    assert (document["adapter"], document["host"], document["ok"]) == ("echo", "local", False)
    checks = {check["check"]: check for check in document["checks"]}
    assert {name: check["ok"] for name, check in checks.items()} == {
        "host": True, "version": True, "health": False, "prompt": False,
    }  # fmt: skip
    assert checks["version"]["version"] == "1.4.0"
    assert "the environment of the reconciler has no ECHO_TOKEN" in checks["health"]["message"]
    assert checks["prompt"]["verdict"]["class"] == "auth"


def test_a_secret_that_is_wrong_shows_nowhere_but_in_what_it_leads_to(echo, monkeypatch):
    monkeypatch.setenv("ECHO_TOKEN", "wr0ng")

    done = echo.run("adapter", "test", "echo", "--no-prompt")

    assert done.exit_code == 5
    assert results(done) == {"host": "ok", "version": "ok", "health": "failed"}
    assert "`echo-agent login status` ended with 3: not logged in" in done.stdout
    assert "wr0ng" not in done.stdout + done.stderr


def test_without_a_prompt_no_model_is_called(echo, monkeypatch, person):
    monkeypatch.setenv("ECHO_TOKEN", "s3cret")

    done = echo.run("adapter", "test", "echo", "--no-prompt")

    assert (done.exit_code, "prompt" in results(done)) == (0, False)
    assert not (person / "asked").exists()


def test_a_health_command_that_hangs_is_cut_off(echo):
    echo.write(
        "specs/adapters/echo.yaml", "command: [echo-agent]\nhealth: {command: [sleep, '600'], timeout: 1s}\n"
    )

    done = echo.run("adapter", "test", "echo", "--no-prompt")

    assert results(done) == {"host": "ok", "version": "-", "health": "failed"}
    assert "took longer than 1s and was stopped" in done.stdout


def test_who_gives_up_waiting_leaves_no_agent_behind(echo, person):
    begun = person / "pid"
    script = f'echo $$ >"{begun}.new"; mv "{begun}.new" "{begun}"; exec sleep 600'
    echo.write("specs/adapters/echo.yaml", f"command: [sh, -c, {json.dumps(script)}]\n")
    check_result = Process([*echo.command, "adapter", "test", "echo"], stdout=subprocess.DEVNULL)
    while not begun.exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"it ended with {check_result.wait(timeout=0.02)}")

    check_result.send_signal(signal.SIGINT)

    assert check_result.wait() == 130
    assert not Path(f"/proc/{begun.read_text().strip()}").exists()


def test_a_host_that_does_not_offer_an_adapter_says_so(echo):
    done = echo.run("adapter", "test", "script")

    assert done.exit_code == 5
    assert "host local does not offer script; name it under its `adapters`" in done.stdout


def test_adapters_and_hosts_that_are_unknown_or_broken_are_told(echo):
    echo.write("specs/adapters/bad.yaml", "comand: [x]\n")

    assert "did you mean 'echo'?" in echo.run("adapter", "test", "ecko").stderr
    assert echo.run("adapter", "test", "echo", "--host", "nowhere").exit_code == 3
    bad = echo.run("adapter", "test", "bad")
    assert (bad.exit_code, "specs/adapters/bad.yaml:1:1: error: comand:" in bad.stderr) == (1, True)


def test_a_host_that_does_not_answer_is_all_there_is_to_tell(echo):
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "Gtra" + "2tra" * 9 + "2tr"
    echo.write("specs/hosts/away.yaml", f"address: 127.0.0.1\nport: 1\nhost_key: {key}\n")

    done = echo.run("adapter", "test", "echo", "--host", "away")

    assert (done.exit_code, results(done)) == (5, {"host": "failed"})


def test_what_is_built_in_can_be_tried_without_a_fleet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    done = CliRunner().invoke(cli, ["adapter", "test", "script"], prog_name="reconciler")

    assert done.exit_code == 0
    assert results(done) == {"host": "ok", "version": "-", "health": "-", "prompt": "ok"}


@pytest.mark.sshd
@needs_sshd[1]
def test_behind_ssh_it_is_tried_with_the_secrets_of_that_host(echo, tmp_path):
    with yard(tmp_path / "servers") as servers:
        server = servers.sshd("build")
        (server.home / "token").write_text("s3cret\n")
        echo.write("specs/adapters/echo.yaml", ECHO + "secrets: {TOKEN: {file: ~/token, on: host}}\n")
        echo.write(
            "specs/hosts/build.yaml",
            f"address: 127.0.0.1\nport: {server.port}\n"
            f"host_key: {server.host_key}\nidentity: {server.identity}\n"
            f"adapters: {{echo: {{path: {tmp_path / 'bin'}}}}}\n",
        )

        done = echo.run("adapter", "test", "echo", "--host", "build")

        assert done.exit_code == 0, done.stdout
        assert results(done) == dict.fromkeys(["host", "version", "health", "prompt"], "ok")
        left = server.home / ".local/state/reconciler/adapter-test"
        assert not list(left.glob("work/*"))
        assert not [path for path in left.glob("runs/*") if path.is_dir()]


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


# --- adapter record, adapter check -----------------------------------------


RECORDINGS = "specs/adapters/parrot/recordings"
SECRETIVE = PARROT + "secrets: {PARROT_KEY: {command: [echo, cracker-cracker-cracker]}}\n"


@pytest.fixture
def parrot(fleet, recording):
    """Return a fleet with an adapter and one recording of it."""
    fleet.write("specs/adapters/parrot.yaml", SECRETIVE)
    recording.write_text('{"k": "bye", "words": "cracker-cracker-cracker"}\n')
    recording.with_suffix(".stderr").write_text("squawk\n")
    made = fleet.run("adapter", "record", "parrot", "bye", "--from", str(recording), "--rc", "0")
    assert made.exit_code == 0, made.stderr
    return fleet


def test_a_recording_is_kept_without_secrets_and_with_the_verdict_on_it(parrot):
    assert "cracker" not in parrot.read(f"{RECORDINGS}/bye.stdout")
    assert parrot.read(f"{RECORDINGS}/bye.stderr") == "squawk\n"
    assert "exit_code: 0\nexpect:\n  outcome: success\n" in parrot.read(f"{RECORDINGS}/bye.yaml")


def test_adapters_are_held_to_their_recordings(parrot):
    held, valid = parrot.run("adapter", "check"), parrot.run("validate")
    parrot.write("specs/adapters/parrot.yaml", PARROT.replace("bye", "see you"))
    missed, broken = parrot.run("adapter", "check", "parrot", "-o", "json"), parrot.run("validate")
    other = parrot.run("adapter", "check", "codex")

    assert (held.exit_code, valid.exit_code, other.exit_code) == (0, 0, 0)
    assert held.stdout.split()[4:] == ["parrot", "bye", "success", "yes"]
    assert (missed.exit_code, broken.exit_code) == (5, 1)
    assert [each["ok"] for each in json.loads(missed.stdout)["recordings"]] == [False]
    assert f"{RECORDINGS}/bye.yaml:3:12: error: expect.outcome: adapter parrot reads it" in broken.stdout


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (f"{RECORDINGS}/lone.stderr", "", "no lone.yaml beside it"),
        (f"{RECORDINGS}/lone.yaml", "exit_code: 0\nexpect: {outcome: success}\n", "no lone.stdout beside it"),
        (f"{RECORDINGS}/bye.yaml", "exit_code: 0\nexpect: {outcome: failed}\n", "expect: has no `class`"),
        (f"{RECORDINGS}/bye.yaml", "exit_code: 0\nexpect: {outcome: succes}\n", "did you mean 'success'?"),
        (f"{RECORDINGS}/notes.txt", "", "not a part of a recording"),
        (f"{RECORDINGS}/bye.stdout", "x" * 300_000, "too long"),
        ("specs/adapters/parot/recordings/bye.yaml", "", "did you mean 'parrot'?"),
    ],
)
def test_what_is_wrong_with_a_recording_is_told_where_it_is(parrot, path, content, message):
    parrot.write(path, content)

    told = parrot.run("validate")

    assert told.exit_code == 1
    assert message in told.stdout


def test_of_an_adapter_with_a_mistake_nothing_is_said_of_its_recordings(parrot):
    parrot.write("specs/adapters/parrot.yaml", PARROT + "comand: [x]\n")

    told = parrot.run("validate")

    assert "specs/adapters/parrot.yaml" in told.stdout
    assert "recordings" not in told.stdout


def test_recordings_change_nothing_of_what_runs(parrot):
    parrot.write(f"{RECORDINGS}/notes.txt", "")
    parrot.commit()

    parrot.reconcile()

    assert "completed" in parrot.run("get", "tasks").stdout


def test_the_run_of_a_task_is_recorded(fleet):
    fleet.reconcile()

    made = fleet.run("adapter", "record", "script", "hello", "--task", "hello")
    checked = fleet.run("adapter", "check", "script")

    assert made.exit_code == 0, made.stderr
    assert fleet.read("specs/adapters/script/recordings/hello.yaml").startswith("exit_code: 0\n")
    assert checked.exit_code == 0


def test_only_one_source_of_a_recording_is_taken_and_none_is_overwritten(parrot, recording):
    neither = parrot.run("adapter", "record", "parrot", "hello")
    again = parrot.run("adapter", "record", "parrot", "bye", "--from", str(recording), "--rc", "0")
    unknown = parrot.run("adapter", "record", "parrot", "hello", "--task", "hello")

    assert [each.exit_code for each in (neither, again, unknown)] == [64, 64, 3]
    assert "is there already" in again.stderr
    assert "has not run yet" in unknown.stderr
