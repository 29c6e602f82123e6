"""
What `init` makes beside the specs: CI, hooks before a commit, settings of editors; tried as their tools do.
"""

import fnmatch
import json
import os
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from reconciler.specs.parse import MODELS


@pytest.fixture
def made(fleet, tmp_path, monkeypatch):
    """Return the folder of a fleet that `init` made, with `reconciler` on the PATH."""
    program = tmp_path / "bin/reconciler"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m reconciler "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    fleet.run("init", str(tmp_path / "made"), "--adapter", "script")
    return tmp_path / "made"


def read(path):
    return YAML(typ="safe", pure=True).load(path.read_text())


def shell(folder, text):
    return subprocess.run(["bash", "-ec", text], cwd=folder, capture_output=True, text=True, check=False)


def checked_out(made, tmp_path):
    """Return a clone as CI makes it for a pull request: on no branch."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(made), str(clone)], check=True)
    subprocess.run(["git", "-C", str(clone), "checkout", "-q", "--detach"], check=True)
    return clone


@pytest.mark.parametrize("is_good", [True, False])
def test_the_workflow_validates_and_plans_what_is_checked_out(made, tmp_path, is_good):
    clone = checked_out(made, tmp_path)
    (clone / "specs/tasks/next.yaml").write_text("goal: x\nscript: 'true'\n" if is_good else "gaol: x\n")
    steps = {
        step.get("name"): step
        for step in read(clone / ".github/workflows/specs.yaml")["jobs"]["specs"]["steps"]
    }

    validated, planned = shell(clone, steps["Validate"]["run"]), shell(clone, steps["Plan"]["run"])
    refused = shell(clone, steps["Install the reconciler"]["run"].replace("pip", "false"))

    assert validated.returncode == (0 if is_good else 1)
    assert is_good or validated.stdout.startswith("::error file=specs/tasks/next.yaml,line=1")
    assert not is_good or "next" in planned.stdout
    assert refused.returncode == 1
    assert "set the variable RECONCILER" in refused.stdout


def test_the_hooks_before_a_commit_can_be_called(made):
    (repo,) = read(made / ".pre-commit-config.yaml")["repos"]

    assert [shell(made, hook["entry"]).returncode for hook in repo["hooks"]] == [0, 0]
    assert all(hook["always_run"] and not hook["pass_filenames"] for hook in repo["hooks"]), "deletions count"
    (made / "specs/tasks/bad.yaml").write_text("gaol: x\n")
    assert shell(made, repo["hooks"][0]["entry"]).returncode == 1


def test_editors_find_the_schema_of_every_file_by_its_place(made):
    code = json.loads((made / ".vscode/settings.json").read_text())["yaml.schemas"]
    zed = json.loads((made / ".zed/settings.json").read_text())

    assert zed["lsp"]["yaml-language-server"]["settings"]["yaml"]["schemas"] == code
    assert sorted(code) == sorted(f"./.schemas/{kind}.json" for kind in MODELS)
    assert all((made / schema).is_file() for schema in code)
    for file in (made / "specs").rglob("*.yaml"):
        path = file.relative_to(made).as_posix()
        ours = [schema for schema, glob in code.items() if fnmatch.fnmatch(path, glob.replace("**/", ""))]
        assert len(ours) == 1, path


def test_settings_that_are_there_stay_as_they_are(fleet, tmp_path):
    mine = tmp_path / "mine/.vscode/settings.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    subprocess.run(["git", "init", "-q", str(tmp_path / "mine")], check=True)

    done = fleet.run("init", str(tmp_path / "mine"), "--adapter", "script")

    assert done.exit_code == 0
    assert mine.read_text() == "{}"
    assert (tmp_path / "mine/.zed/settings.json").is_file()
    assert fleet.run("init", str(tmp_path / "mine")).exit_code == 64
