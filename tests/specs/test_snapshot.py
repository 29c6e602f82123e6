"""A specs snapshot gives what was parsed, whole and as it was, or nothing."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings

from reconciler.core.errors import Problem
from reconciler.core.model.specs import Desired, FleetSpec
from reconciler.core.model.status import Phase, Status
from reconciler.specs import snapshot as snapshot_room
from reconciler.specs.build import build
from reconciler.specs.snapshot import SpecsSnapshot
from reconciler.specs.worktree import read_worktree
from tests.strategies import desireds

NOW = datetime(2030, 1, 1, tzinfo=UTC)
EXAMPLE = build(read_worktree(Path(__file__).parents[2]), revision="c1")


@pytest.fixture
def snapshot(tmp_path):
    return SpecsSnapshot(tmp_path / "data" / "parsed" / "f.specs")


@settings(max_examples=25)
@given(desireds())
def test_what_comes_back_is_what_was_parsed(desired):
    with TemporaryDirectory() as folder:
        snapshot = SpecsSnapshot(Path(folder) / "f")

        snapshot.save("c1", desired, {})

        assert snapshot.load("c1", {}) == desired
        assert snapshot.state_branch("c1") == desired.fleet.state_branch


def test_every_field_of_an_example_comes_back(snapshot):
    problem = Problem("specs/tasks/a.yaml", 3, 7, "not so", field="goal", hint="so", severity="warning")
    desired = replace(EXAMPLE, problems=(problem,), warnings=(problem,), broken={"a": (problem, problem)})

    snapshot.save("c1", desired, {})
    loaded = snapshot.load("c1", {})

    assert loaded == desired
    assert loaded.revision == "c1"
    for kind in ("tasks", "hosts", "adapters", "agents", "repos"):
        assert list(getattr(loaded, kind)) == list(getattr(desired, kind))
    assert [*loaded.tasks.values()] == [*desired.tasks.values()]


def test_specs_of_another_commit_are_not_known(snapshot):
    snapshot.save("c1", EXAMPLE, {})

    assert snapshot.load("c2", {}) is None
    assert snapshot.state_branch("c2") is None


def test_another_program_parses_again(snapshot, monkeypatch):
    snapshot.save("c1", EXAMPLE, {})

    monkeypatch.setattr(snapshot_room, "program_id", lambda: "another")

    assert snapshot.load("c1", {}) is None
    assert snapshot.state_branch("c1") is None


def test_a_broken_task_is_parsed_again_once_the_record_names_another_generation(snapshot):
    desired = replace(EXAMPLE, broken={"a": (Problem("specs/tasks/a.yaml", 1, 1, "not so"),)})
    status, other = (
        Status(phase=Phase.CREATED, since=NOW, created_at=NOW, generation=g, work="w") for g in "12"
    )

    snapshot.save("c1", desired, {"a": status, "b": status})

    assert snapshot.load("c1", {"a": status, "b": other}) == desired
    assert snapshot.load("c1", {"a": other, "b": status}) is None
    assert snapshot.load("c1", {"b": status}) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"\n",
        lambda _: b"\xff\xfe\n{}",
        lambda _: b"[]\n{}",
        lambda _: b"null",
        lambda whole: whole[:-1],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole.replace(b'"tasks"', b'"other"'),
        lambda whole: whole.replace(b'"goal": "', b'"goal": "Not '),
        lambda whole: whole[:200] + b"\0" * 200 + whole[400:],
        lambda _: b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_passed_over_and_written_anew(snapshot, damage, tmp_path):
    snapshot.save("c1", EXAMPLE, {})
    (file,) = (tmp_path / "data" / "parsed").iterdir()
    file.write_bytes(damage(file.read_bytes()))

    assert snapshot.load("c1", {}) is None

    snapshot.save("c1", EXAMPLE, {})
    assert snapshot.load("c1", {}) == EXAMPLE


def test_a_folder_that_cannot_be_written_in_keeps_nobody_from_looking(tmp_path):
    (tmp_path / "file").write_text("in the way")
    snapshot = SpecsSnapshot(tmp_path / "file" / "f")

    snapshot.save("c1", EXAMPLE, {})

    assert snapshot.load("c1", {}) is None


def test_what_would_not_come_back_as_it_was_is_not_written(snapshot):
    half = FleetSpec.model_construct(timeout=timedelta(milliseconds=500))  # written in whole seconds

    snapshot.save("c1", Desired(fleet=half), {})

    assert snapshot.load("c1", {}) is None


def test_the_file_is_for_its_owner_alone(snapshot, tmp_path):
    snapshot.save("c1", EXAMPLE, {})

    (file,) = (tmp_path / "data" / "parsed").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    assert json.loads(file.read_bytes().splitlines()[0])["state_branch"] == "fleet-state"
