"""
Secrets of the environment: gone from what the system shows of a process to others of its user.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.core.adapter import Adapter, FileTemplate, Secret
from reconciler.core.model.specs import Account, Desired
from reconciler.dispatch.scripts import script_file
from reconciler.dispatch.secrets import secret_variables
from tests.fakes import make_task

SECRET = "tok-0123456789-secret"
READ = """
import os, subprocess, sys
from reconciler.dispatch import environ
before = open('/proc/self/environ', 'rb').read()
environ.take(['MY_TOKEN', 'NOT_THERE', 'PATH'])
after = open('/proc/self/environ', 'rb').read()
child = subprocess.run(['cat', '/proc/self/environ'], capture_output=True).stdout
print('SECRET' in os.environ, environ.value('MY_TOKEN'), environ.value('NOT_THERE'), bool(os.environ['PATH']))
print(*(value.encode() in text for value in (os.environ['KEPT'], environ.value('MY_TOKEN'))
        for text in (before, after, child)))
"""
HOLD = """
import sys
from reconciler.dispatch import environ
environ.close_memory()
print('ready', flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")


def test_every_secret_that_runs_and_forges_are_given_is_taken_from_the_environment():
    def of(name: str) -> dict[str, Secret]:
        return {name: Secret(env=name)}

    file = FileTemplate(template="x", secrets=of("FILE"))
    desired = Desired(
        adapters={"cli": Adapter(name="cli", secrets=of("ADAPTER"), files={"a": file})},
        accounts={"work": Account(name="work", provider="x", adapters=("cli",), secrets=of("ACCOUNT"))},
        tasks={"fix": make_task("fix", files={"b": FileTemplate(template="x", secrets=of("TASK"))})},
    )

    assert secret_variables(desired) == {"ADAPTER", "FILE", "ACCOUNT", "TASK"}


def test_a_variable_that_was_taken_is_neither_shown_nor_inherited():
    env = os.environ | {"MY_TOKEN": SECRET, "KEPT": "no-secret-at-all", "AFTER": "x"}

    done = subprocess.run([sys.executable, "-c", READ], env=env, capture_output=True, text=True, check=True)

    known, shown = done.stdout.splitlines()
    assert known == f"False {SECRET} None True"
    assert shown == "True True True True False False"


@pytest.mark.parametrize("file", ["environ", "mem", "maps"])
def test_a_user_without_rights_reads_nothing_of_a_process_of_the_same_user(tmp_path: Path, file):
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to become somebody else")
    somebody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    readable = subprocess.run([*somebody, sys.executable, "-c", "import reconciler"], check=False)
    if readable.returncode:
        pytest.skip("somebody else cannot run this Python")
    env = {"PATH": os.environ["PATH"], "MY_TOKEN": SECRET}
    with subprocess.Popen(
        [*somebody, sys.executable, "-c", HOLD], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()

        read = subprocess.run(
            [*somebody, "cat", f"/proc/{process.pid}/{file}"], capture_output=True, check=False
        )
        process.stdin.close()

    assert (read.returncode, read.stdout) == (1, b"")


def test_nothing_that_a_login_set_points_the_git_of_a_run_to_another_repository(tmp_path: Path):
    places = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_NAMESPACE")
    objects = ("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES")
    env = os.environ | dict.fromkeys((*places, *objects), "/nowhere") | {"GIT_AUTHOR_NAME": "kept"}
    wrapper = ["sh", str(script_file("wrapper")), "hold", str(tmp_path)]

    done = subprocess.run([*wrapper, "env"], env=env, capture_output=True, text=True, check=True)

    assert "/nowhere" not in done.stdout
    assert "GIT_AUTHOR_NAME=kept" in done.stdout
