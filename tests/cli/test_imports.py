"""
Commands that look start quickly: what each may import, so that none gets slow unseen.
"""

import subprocess
import sys

import pytest

NEVER = (
    # packages
    *("asyncssh", "cryptography", "sanic", "httpx2", "rich", "git", "jinja2", "jmespath", "cronsim"),
    *("packaging", "pathspec", "watchfiles", "mcp", "importlib.metadata"),
    # what parses specs: a look finds what the last one parsed
    *("ruamel.yaml", "_ruamel_yaml", "reconciler.specs.parse", "reconciler.specs.build"),
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
    # what others look at, or who goes on
    *("reconciler.settings", "reconciler.store.leader", "reconciler.store.user_commits"),
)
HISTORY = ("reconciler.store.history", "reconciler.core.transitions")
MODELS = ("reconciler.core.model", "pydantic")

WORDS = {
    ("get",): (*NEVER, *HISTORY, *MODELS),
    ("get", "hosts"): (*NEVER, *HISTORY, *MODELS),
    ("get", "failed"): (*NEVER, *HISTORY),
    ("get", "-o", "json"): (*NEVER, *HISTORY, *MODELS),
    ("describe", "hello"): (*NEVER, *HISTORY, *MODELS),
    ("describe", "failed"): (*NEVER, *HISTORY),
    ("describe", "host/local"): (*NEVER, *HISTORY, *MODELS),
    ("status",): (*NEVER, *HISTORY, *MODELS),
    ("logs", "hello"): (*NEVER, *MODELS),
    ("logs", "failed"): NEVER,
    ("history",): (*NEVER, *MODELS),
    ("history", "hello", "-o", "wide"): (*NEVER, *MODELS),
    ("version",): (*NEVER, *HISTORY, *MODELS, "asyncio"),
}

PROGRAM = """
import sys
from reconciler.cli.main import cli
try: cli.main(sys.argv[1:], prog_name="reconciler")
except SystemExit as end: assert end.code in (0, 7, 8), end.code
finally: print("imported:", *sorted(sys.modules), file=sys.stderr)
"""


@pytest.fixture
def ran(fleet):
    fleet.write("specs/tasks/failed.yaml", "goal: x\nretries: 0\nscript: echo no >&2; exit 3\n")
    fleet.write("specs/fleet.yaml", "max_running: 4\nstate_branch: elsewhere\n")
    fleet.commit()
    fleet.run("run", "--until-idle")
    return fleet


def imported_by(fleet, args):
    place = ["--repo", str(fleet.folder), "--data-dir", str(fleet.data)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *place, *args], capture_output=True, text=True, check=True
    )
    return set(done.stderr.rpartition("imported: ")[2].split())


def test_a_command_that_looks_imports_nothing_heavy(ran):
    for args in WORDS:
        ran.run(*args)  # the first that looks at a commit parses it, and the second keeps what is shown

    imported = {args: imported_by(ran, args) for args in WORDS}

    assert {args: names & {*WORDS[args]} for args, names in imported.items()} == {
        args: set() for args in WORDS
    }
    assert all("click" in names for names in imported.values())


def test_a_reconciler_imports_what_speaks_to_hosts_and_forges_once_there_are_any(ran):
    imported = imported_by(ran, ("run", "--once"))

    assert imported & {"asyncssh", "cryptography", "httpx2", "sanic", "git", "rich", "mcp"} == set()
    assert "reconciler.controller.loop" in imported


def test_a_doctor_imports_what_speaks_to_forges_only_where_there_is_one(ran):
    assert not {each for each in imported_by(ran, ("doctor",)) if each.startswith("reconciler.forge")}


def test_specs_with_a_mistake_are_parsed_once_too(ran):
    ran.write("specs/tasks/hello.yaml", "goal: [\n")
    ran.write("specs/hosts/odd.yaml", "slots: many\n")
    ran.commit()
    first = ran.run("get", "-o", "json")

    assert "ruamel.yaml" not in imported_by(ran, ("get",))
    assert ran.run("get", "-o", "json").stdout == first.stdout
    assert "specs/tasks/hello.yaml:2:1" in first.stdout


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
