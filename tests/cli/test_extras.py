"""
What is said of installing fetches this project's parts and nobody else's.
"""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from reconciler.cli.extras import MCP, install_command
from reconciler.tracing import PACKAGES

ROOT = Path(__file__).parents[2]
INSTALL = re.compile(r"\b(?:pip3?|pipx|uvx?|uv tool|uv pip)\b[^\n`|&;]*")
OURS = re.compile(r"reconciler(\[[^]]*\])?([<>=!~@].*)?")
"""What on an index is another project: our package's name, with extras or a version or without."""


def test_the_extra_is_what_the_project_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["optional-dependencies"]["mcp"] == [MCP]
    assert sorted(project["optional-dependencies"]["otel"]) == sorted(PACKAGES)
    assert project["name"] == "fleet-reconciler"
    assert list(project["scripts"]) == ["reconciler"]


def foreign(text):
    """Return the commands in a text that would fetch the other project."""
    found = []
    for command in INSTALL.findall(text):
        message = re.split(r"[\s'\"]+", command)
        if any(OURS.fullmatch(word) for word in message if not word.startswith(("/", "."))):
            found.append(command)
    return found


@pytest.mark.parametrize(
    "command",
    [
        "pip install 'reconciler[mcp]'",
        "pip install reconciler",
        ".venv/bin/pip install -q reconciler==1.0",
        "pipx install reconciler",
        "pipx inject reconciler mcp",
        "uv tool install reconciler",
        "uvx reconciler",
        "uv pip install --python x reconciler[mcp]",
    ],
)
def test_a_command_that_fetches_the_other_project_is_found(command):
    assert foreign(f"say: {command}; more")


def test_nothing_in_the_project_fetches_another_one_of_its_name():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name and ROOT / name != Path(__file__)]
    texts = {file: file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()}

    assert {file.name: found for file, text in texts.items() if (found := foreign(text))} == {}


def test_each_kind_of_installation_is_told_its_own_command(tmp_path):
    pipx, uv, venv = (tmp_path / name for name in ("fleet-reconciler", "tool", "venv"))
    for folder in (pipx, uv, venv):
        folder.mkdir()
    (pipx / "pipx_metadata.json").touch()
    (uv / "uv-receipt.toml").touch()

    said = [install_command(MCP, folder, "/x/python", has_pip=True) for folder in (pipx, uv, venv)]

    assert said == [
        "pipx inject fleet-reconciler 'mcp>=2.0'",
        "uv pip install --python /x/python 'mcp>=2.0'",
        "/x/python -m pip install 'mcp>=2.0'",
    ]


def test_an_environment_without_pip_is_told_to_use_uv(tmp_path):
    assert install_command(MCP, tmp_path, "/x/python", has_pip=False).startswith("uv pip install")


def test_the_installation_that_runs_is_the_one_that_is_named():
    message = shlex.split(install_command(MCP))

    assert message[-1] == MCP
    assert sys.executable in message or message[0] == "pipx"
