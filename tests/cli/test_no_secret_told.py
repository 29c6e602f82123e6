"""
What a whole reconciler says, logs and commits tells no secret.
"""

import logging

from reconciler.core.masking import Mask
from reconciler.serve.fleet import masked_logs
from tests.forking import run

TELLING = """\
command: [sh, -c, 'echo "I was given $KEY"; echo "$KEY" >&2; exit 1']
secrets:
  KEY: {command: [sh, -c, 'echo tok-$(date +%N)-a1B2c3D4e5F6']}
"""


def test_no_commit_no_line_and_no_log_of_a_fleet_tells_a_secret_that_was_minted(fleet):
    fleet.write("specs/adapters/telling.yaml", TELLING)
    fleet.write("specs/tasks/hello.yaml", "goal: Say hello.\nadapter: telling\nretries: 0\n")
    fleet.commit()

    done = run(
        [*fleet.command, "run", "--until-idle", "-v"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert "failed" in done.stdout
    assert "a1B2c3D4" not in done.stdout + done.stderr
    assert "a1B2c3D4" not in fleet.git("log", "-p", "fleet-state")
    assert "a1B2c3D4" in fleet.run("logs", "hello").stdout


def test_a_mistake_of_ours_is_logged_without_secrets(caplog):
    class Dispatch:
        mask = Mask(frozenset({"tok-a1B2c3D4e5F6"}))

    error = ValueError("it was tok-a1B2c3D4e5F6")
    with masked_logs(Dispatch()):
        logging.getLogger("here").error("a mistake with %s", "tok-a1B2c3D4e5F6", exc_info=error)

    assert "a mistake with ****" in caplog.text
    assert "ValueError: it was ****" in caplog.text
    assert "a1B2" not in caplog.text
