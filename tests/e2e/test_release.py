"""A release is built to the same bytes by whoever builds it, and its workflow says what it does."""

import os
import re
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

import reconciler

ROOT = Path(__file__).parents[2]


def test_a_wheel_is_built_twice_to_the_same_bytes(tmp_path):
    built = []
    for name in ("one", "other"):
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / name],
            cwd=ROOT,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "PYTHONSAFEPATH": "1"},  # as pipx does
            capture_output=True,
            check=True,
        )
        [wheel] = (tmp_path / name).iterdir()
        built.append((wheel.name, wheel.read_bytes()))

    assert built[0] == built[1]
    assert built[0][0] == f"fleet_reconciler-{reconciler.__version__}-py3-none-any.whl"


def test_the_version_has_its_section_in_the_changelog():
    sections = re.findall(r"^## \[(.+?)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert sections[0][0] == reconciler.__version__


def test_the_workflow_of_a_release_publishes_without_a_token():
    workflow = YAML(typ="safe", pure=True).load(ROOT / ".github/workflows/release.yml")
    publish = workflow["jobs"]["publish"]

    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()
