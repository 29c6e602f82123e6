"""
Commands that look start quickly: what each may import, so that none gets slow unseen.
"""

import subprocess
import sys

import pytest

NEVER = (
    # packages
    *("asyncssh", "cryptography", "sanic", "httpx2", "rich", "git", "jinja2", "jmespath", "cronsim"),
    *("packaging", "pathspec", "watchfiles", "mcp"),
    # our own rooms that only who acts needs
    *(
        "reconciler.serve",
        "reconciler.api",
        "reconciler.forge",
        "reconciler.worker",
        "reconciler.controller.loop",
    ),
    *(
        "reconciler.controller.ports",
        "reconciler.core.events",
        "reconciler.core.lifecycle",
        "reconciler.core.planning.plan",
    ),
    *("reconciler.core.runs.prompt", "reconciler.store.writer", "reconciler.git.fastimport"),
    *("reconciler.dispatch.ssh.transport", "reconciler.dispatch.runs", "reconciler.dispatch.workspace"),
)
PARSER = ("ruamel.yaml", "reconciler.specs.build")
MODELS = ("reconciler.core.model",)

WORDS = {
    ("get",): NEVER,
    ("get", "hosts"): NEVER,
    ("get", "failed"): NEVER,
    ("get", "-o", "json"): NEVER,
    ("describe", "hello"): NEVER,
    ("describe", "failed"): NEVER,
    ("describe", "host/local"): NEVER,
    ("logs", "hello"): (*NEVER, *PARSER),
    ("logs", "failed"): (*NEVER, *PARSER),
    ("history",): (*NEVER, *PARSER, *MODELS),
    ("history", "hello", "-o", "wide"): (*NEVER, *PARSER, *MODELS),
    ("version",): (*NEVER, *PARSER, *MODELS, "pydantic", "asyncio"),
}

PROGRAM = """
import sys
from reconciler.cli.main import cli
try: cli.main(sys.argv[1:], prog_name="reconciler")
finally: print("imported:", *sorted(sys.modules), file=sys.stderr)
"""


@pytest.fixture
def ran(fleet):
    fleet.write("specs/tasks/failed.yaml", "goal: x\nretries: 0\nscript: echo no >&2; exit 3\n")
    fleet.write("specs/fleet.yaml", "max_running: 4\n")
    fleet.commit()
    fleet.run("run", "--until-idle")
    return fleet


@pytest.mark.parametrize("args", WORDS, ids=" ".join)
def test_a_command_that_looks_imports_nothing_heavy(ran, args):
    place = ["--repo", str(ran.folder), "--data-dir", str(ran.data)]

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *place, *args], capture_output=True, text=True, check=True
    )

    imported = set(done.stderr.rpartition("imported: ")[2].split())
    assert {name for name in imported if name in WORDS[args]} == set()
    assert "click" in imported


@pytest.mark.parametrize(
    ("settings", "branch"),
    [
        ("max_running: 4\n", "fleet-state"),
        ("state_branch: elsewhere\n", "elsewhere"),
        ('"state_\\u0062ranch": elsewhere\n', "elsewhere"),
        ("{state_branch: elsewhere, max_running: 4}\n", "elsewhere"),
        ("# state_branch: elsewhere\nmax_running: 4\n", "fleet-state"),
    ],
)
def test_the_record_is_found_where_the_settings_say(fleet, settings, branch):
    fleet.git("branch", "fleet-state")  # what somebody else may have left
    fleet.write("specs/fleet.yaml", settings)
    fleet.commit()
    if branch == "fleet-state":
        fleet.git("branch", "-D", "fleet-state")
    fleet.run("run", "--until-idle")

    done = fleet.run("history", "hello")

    assert fleet.git("log", "--format=%s", "-1", branch, "--grep=task hello: running")
    assert "completed" in done.stdout


def test_a_broken_fleet_file_hides_no_record(fleet):
    fleet.write("specs/fleet.yaml", "state_branch: elsewhere\n")
    fleet.commit()
    fleet.run("run", "--until-idle")
    fleet.write("specs/fleet.yaml", "state_branch: [\n")
    fleet.commit()

    assert "completed" in fleet.run("history", "hello").stdout


def test_the_program_ends_with_its_code_and_all_it_had_to_say(fleet):
    done = subprocess.run([*fleet.command, "get", "nobody"], capture_output=True, text=True, check=False)
    listed = subprocess.run([*fleet.command, "schema"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (3, "")
    assert "no task 'nobody'" in done.stderr
    assert (listed.returncode, listed.stdout[-2:]) == (0, "}\n")


def test_nobody_who_reads_is_no_traceback(fleet):
    message = " ".join([*fleet.command, "schema"])

    done = subprocess.run(["sh", "-c", f"{message} | head -1"], capture_output=True, text=True, check=False)

    assert done.returncode == 0
    assert "Traceback" not in done.stderr
