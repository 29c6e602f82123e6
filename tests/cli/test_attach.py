"""
Taking a task over, and giving it back.
"""

import shlex
import subprocess

from reconciler.cli.attach import login_argv
from reconciler.core.model.specs import Host

AGENT = """\
command:
  - sh
  - -c
  - |
    cat >/dev/null
    echo '{"id": "s-1", "text": "done"}'
    test -e by-hand || echo "What now?" >"$RECONCILER_QUESTION_FILE"
  - "{session}"
resume: ["{session_id}"]
attach: [sh, -c, 'echo "goes on with $0"; touch by-hand', "{session_id}"]
output:
  format: json_lines
  session_id: "[-1].id"
  text: "[-1].text"
"""


def test_a_person_goes_on_in_the_workspace_and_the_agent_after_them(fleet):
    fleet.write("specs/adapters/cli.yaml", AGENT)
    fleet.write("specs/tasks/hello.yaml", "goal: Say hello.\nadapter: cli\nvalidation: test -e by-hand\n")
    fleet.commit("Ask for it")
    fleet.reconcile()

    attached = fleet.run("attach", "hello")
    command = attached.stdout.splitlines()[-1]
    taken = subprocess.run(shlex.split(command), check=True, capture_output=True, text=True)
    held = fleet.read("specs/tasks/hello.yaml")
    released = fleet.run("release", "hello", "I did it by hand")
    fleet.reconcile()

    assert attached.exit_code == 0
    assert taken.stdout == "goes on with s-1\n"
    assert "held: true" in held
    assert "held is gone now" in released.stdout
    described = fleet.run("describe", "hello").stdout
    assert "completed" in described
    assert "I did it by hand" in described


def test_a_task_that_never_ran_cannot_be_taken_over(fleet):
    fleet.write("specs/tasks/hello.yaml", "goal: x\nscript: 'true'\n")
    fleet.commit("Ask for it")

    done = fleet.run("attach", "hello")

    assert done.exit_code != 0
    assert "there is nothing to take over" in done.stderr


def test_a_host_is_logged_in_to_as_its_spec_says():
    jump = Host(name="gate", address="gate.example.org", user="jump", port=2222)
    host = Host(name="far", address="192.0.2.7", user="agent", identity="~/.ssh/fleet", jump="gate")

    assert login_argv(host, "cd x", jump=jump) == (
        *("ssh", "-t", "-p", "22", "-i", "~/.ssh/fleet", "-J", "jump@gate.example.org:2222"),
        *("agent@192.0.2.7", "cd x"),
    )
    assert login_argv(Host(name="local"), "cd x") == ("sh", "-c", "cd x")
