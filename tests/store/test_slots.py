"""
Slot files: one sync for each value, and whatever the power leaves has the last value or the one before.
"""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.store import slots
from reconciler.store.slots import SLOT, read_slots, write_slot


def test_the_last_value_is_read_again(tmp_path):
    path = tmp_path / "value"

    for value in (b"one", b"two", b"", b"{}", b"x" * 3000, b"three"):
        write_slot(path, value, is_synced=True)
        assert read_slots(path.read_bytes()) == value
        assert path.stat().st_size == 2 * SLOT


def test_a_file_of_another_kind_is_replaced(tmp_path):
    path = tmp_path / "value"
    path.write_text("{}")
    assert read_slots(path.read_bytes()) is None

    write_slot(path, b"one", is_synced=True)

    assert read_slots(path.read_bytes()) == b"one"


@given(cut=st.integers(0, SLOT), noise=st.binary(max_size=64))
def test_what_is_torn_has_the_value_before(cut, noise):
    values = [b'{"record": "%040x"}' % number for number in range(3)]
    before = slots._line(1, values[1]) + slots._line(2, values[2])
    after = bytearray(before)
    after[:SLOT] = slots._line(3, values[0])[:cut] + before[cut:SLOT]
    noise = noise[: SLOT - cut]
    after[cut : cut + len(noise)] = noise

    assert read_slots(bytes(after)) in {values[2], values[0]}


def test_a_value_takes_one_sync_of_its_content(tmp_path, monkeypatch):
    path, synced = tmp_path / "value", []
    write_slot(path, b"one", is_synced=True)
    monkeypatch.setattr(os, "fsync", lambda _: synced.append("whole"))
    monkeypatch.setattr(slots, "_sync", lambda _: synced.append("content"))

    write_slot(path, b"two", is_synced=True)

    assert synced == ["content"]


def test_a_value_that_is_too_long_changes_nothing(tmp_path):
    path = tmp_path / "value"
    write_slot(path, b"one", is_synced=True)

    with pytest.raises(ValueError, match="too many"):
        write_slot(path, b"x" * SLOT, is_synced=True)

    assert read_slots(path.read_bytes()) == b"one"


def test_a_link_in_its_place_is_replaced_and_not_followed(tmp_path):
    path, elsewhere = tmp_path / "value", tmp_path / "elsewhere"
    write_slot(elsewhere, b"one", is_synced=True)
    path.symlink_to(elsewhere)

    write_slot(path, b"two", is_synced=True)

    assert read_slots(path.read_bytes()) == b"two"
    assert read_slots(elsewhere.read_bytes()) == b"one"


class Disk:
    """The blocks of a slot file that have reached the disk: those of the last sync that succeeded."""

    def __init__(self, path):
        self.path, self.is_failing = path, False
        self.sync(None)

    def sync(self, _):
        if self.is_failing:
            raise OSError(5, "Input/output error")
        self.content = self.path.read_bytes() if self.path.exists() else b""

    def tears(self, line, at, cut):
        """Return what the disk may have after a loss of power in the middle of a write."""
        return self.content[:at] + line[:cut] + self.content[at + cut :]


@pytest.mark.parametrize("cut", [0, 1, 60, SLOT])
def test_what_the_disk_may_not_have_is_not_relied_on(tmp_path, monkeypatch, cut):
    path = tmp_path / "value"
    write_slot(path, b"one", is_synced=False)
    write_slot(path, b"two", is_synced=True)
    disk = Disk(path)
    monkeypatch.setattr(slots, "_sync", disk.sync)
    disk.is_failing = True
    with pytest.raises(OSError, match="Input/output"):
        write_slot(path, b"three", is_synced=True)
    written = []
    monkeypatch.setattr(os, "pwrite", lambda _, line, at: written.append((line, at)) or len(line))

    disk.is_failing = False
    write_slot(path, b"four", is_synced=False)

    # Whatever of it was written in place when the power went, the disk has what was synced before.
    assert all(read_slots(disk.tears(line, at, cut)) == b"two" for line, at in written)
    assert read_slots(path.read_bytes()) == b"four"
