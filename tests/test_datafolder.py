"""Whatever lies in the data folder, the next start finds its way."""

import os

import pytest

from reconciler import datafolder
from reconciler.core.errors import UsageError


def draw():
    return "fresh"


@pytest.mark.parametrize("damage", [b"", b"\n", b"\0\0\0", b"\xff\xfe", b"a b", b"x" * 65])
def test_a_damaged_name_of_the_machine_is_taken_from_the_record(tmp_path, damage, caplog):
    (tmp_path / "machine").write_bytes(damage)

    found = datafolder.machine(tmp_path, {"known"}, draw)

    assert found == datafolder.machine(tmp_path, set(), draw) == "known"
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("on_record", [set(), {"one", "other"}])
def test_where_the_record_does_not_tell_it_is_drawn_anew(tmp_path, on_record):
    (tmp_path / "machine").write_bytes(b"")

    assert datafolder.machine(tmp_path, on_record, draw) == "fresh"
    assert datafolder.machine(tmp_path, on_record, lambda: "another") == "fresh"


def test_at_first_it_is_drawn_whatever_is_on_record(tmp_path):
    assert datafolder.machine(tmp_path, {"somebody"}, draw) == "fresh"
    assert [path.name for path in tmp_path.iterdir()] == ["machine"]


def test_what_stands_in_the_way_is_set_aside_again_and_again(tmp_path):
    for _ in range(2):
        (tmp_path / "clones").write_bytes(b"")
        (tmp_path / "machine").mkdir()
        (tmp_path / "agents.json").mkdir()
        (tmp_path / "hooks" / "deliveries.jsonl").mkdir(parents=True)

        datafolder.prepare_data_folder(tmp_path)
        assert datafolder.machine(tmp_path, set(), draw) == "fresh"
        (tmp_path / "machine").unlink()

    names = {path.name for path in tmp_path.rglob("*")}
    assert {"clones.damaged", "machine.damaged", "agents.json.damaged", "deliveries.jsonl.damaged"} <= names


@pytest.mark.parametrize("name", ["machine", "agents.json", "hooks/deliveries.jsonl"])
def test_what_may_not_be_read_is_set_aside(tmp_path, name, monkeypatch):
    datafolder.prepare_data_folder(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("known")
    (tmp_path / name).chmod(0)
    monkeypatch.setattr(os, "access", lambda path, _: path.stat().st_mode & 0o400 != 0)  # of root too

    datafolder.prepare_data_folder(tmp_path)

    assert not (tmp_path / name).exists()
    assert (tmp_path / f"{name}.damaged").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_in_is_refused_with_words(tmp_path):
    tmp_path.chmod(0o500)

    with pytest.raises(UsageError, match="--data-dir"):
        datafolder.prepare_data_folder(tmp_path)
