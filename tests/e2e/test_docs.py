"""The documentation says what the program does: what it knows better is written by it."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from reconciler.cli.main import cli
from reconciler.core.model.status import Status
from reconciler.core.runs.recording import Recording
from reconciler.specs.parse import MODELS

ROOT = Path(__file__).parents[2]


def test_the_written_parts_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "docs/write.py", "--check"], capture_output=True, text=True, check=False
    )

    assert done.stdout == ""
    assert done.returncode == 0


def test_defaults_are_written_as_in_yaml():
    rows = re.findall(r"^\| `\w+` \|.*\| `(.+?)` \|$", (ROOT / "docs/repo.md").read_text(), re.MULTILINE)

    assert "{own: true, formats: true}" in rows
    foreign = re.compile(r"\| `(?:[{\[]'.*|True|False|None)` \|$", re.MULTILINE)
    assert [page.name for page in (ROOT / "docs").glob("*.md") if foreign.search(page.read_text())] == []


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_every_example_of_a_kind_is_a_good_spec(kind):
    page = (ROOT / f"docs/{kind}.md").read_text()
    examples = [block.partition("```")[0] for block in page.split("```yaml\n")[1:]]

    for example in examples:
        document = YAML(typ="safe", pure=True).load(example)
        model = Recording if "expect" in document else MODELS[kind]
        model.model_validate_json(json.dumps(document))
    assert examples or kind in {"agent", "fleet"}


def test_the_example_fleet_has_no_mistakes_and_nothing_to_warn_of():
    done = CliRunner().invoke(cli, ["validate", str(ROOT)], catch_exceptions=False)

    assert (done.exit_code, done.stdout) == (0, "")


def test_every_command_is_in_the_documentation():
    from reconciler.cli.main import COMMANDS

    page = (ROOT / "docs/commands.md").read_text()

    assert [name for part in COMMANDS.values() for name in part if f"`{name}`" not in page] == []


def test_the_example_of_a_record_is_one():
    from reconciler.store.statuses import dump_status, load_status

    files = sorted((ROOT / "fleet-state/tasks").rglob("*.yaml"))

    assert len(files) == 3
    for file in files:
        assert dump_status(load_status(Status, file.read_bytes(), str(file))) == file.read_bytes()


def test_the_page_on_architecture_names_files_and_methods_that_are_there():
    page = re.sub(r"```.*?```", "", (ROOT / "docs/architecture.md").read_text(), flags=re.DOTALL)
    places = re.findall(r"`([\w/]+\.(?:py|sh))`", page)
    methods = re.findall(r"`([A-Z]\w+)\.(\w+)`", page)
    trees = [ast.parse(file.read_text()) for file in (ROOT / "reconciler").rglob("*.py")]
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    there = {(each.name, getattr(node, "name", "")) for each in classes for node in each.body}

    assert len(places) > 30
    assert [place for place in places if not (ROOT / "reconciler" / place).is_file()] == []
    assert len(methods) > 10
    assert [method for method in methods if method not in there] == []


PROGRAMS = [*(ROOT / "bench").glob("*.py"), *(ROOT / "docs").glob("*.py")]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_what_a_program_beside_the_package_imports_of_it_is_there(program):
    nodes = ast.walk(ast.parse(program.read_text()))
    imported = [
        (node.module, alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").partition(".")[0] in {"reconciler", "tests"}
        for alias in node.names
    ]
    modules = {module: importlib.import_module(module) for module, _ in imported}

    assert [
        (module, name)
        for module, name in imported
        if not hasattr(modules[module], name) and importlib.util.find_spec(f"{module}.{name}") is None
    ] == []


def test_every_answer_to_a_threat_names_tests_that_are_there():
    page = (ROOT / "docs/security.md").read_text()
    named = re.findall(r"`([a-z0-9]+/test_[a-z_0-9]+\.py)(?:::(test_\w+))?`", page)

    def is_there(path, test):
        file = ROOT / "tests" / path
        return file.exists() and f"def {test}" in file.read_text()

    assert [place for place in named if not is_there(*place)] == []
    assert len(named) > 80
