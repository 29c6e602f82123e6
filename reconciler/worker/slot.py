"""
What a pull agent must not forget, on its disk.

One small file for each slot. It says which request for a task is out, which
task is held, which process works on it, and what is to be reported; each step
is on disk before it is taken.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from reconciler.core.errors import UsageError
from reconciler.core.fields import Frozen
from reconciler.files import replace_durably
from reconciler.wire import Lease, StatusRequest


class HeldTask(Frozen):
    """The task that a slot holds, or the request for one."""

    request_key: str
    """Of the dequeue that is out, or was answered with the lease."""
    lease: Lease | None = None
    process: str | None = None
    """Of the command; see `process.identity`."""
    report: StatusRequest | None = None
    """What is to be said of the work, once it is over."""


class Slot:
    """File of one slot, durable."""

    def __init__(self, state: Path, number: int) -> None:
        self.number = number
        self.name = f"slot-{number}"
        self._path = state / f"{self.name}.json"

    def read(self) -> HeldTask | None:
        """Return what the slot was about when it was last written; None if it was about nothing."""
        try:
            return HeldTask.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise UsageError(
                f"{self._path} cannot be read ({error.error_count()} mistakes): "
                "it was changed, or written by another version; remove it, and its task is handed out again"
            ) from None

    def write(self, held: HeldTask) -> None:
        """Put on disk what the slot is about; it survives a loss of power when this returns."""
        replace_durably(self._path, held.model_dump_json().encode())

    def clear(self) -> None:
        """Let the slot be about nothing."""
        self._path.unlink(missing_ok=True)


def slots(state: Path, wanted: int) -> list[Slot]:
    """Return the slots of a state folder: those wanted, and any more in which something was left."""
    left = {int(path.stem.removeprefix("slot-")) for path in state.glob("slot-*.json")}
    return [Slot(state, number) for number in sorted({*range(wanted)} | left)]


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Have a state folder for this process alone. Raises UsageError if it cannot be had."""
    with _lock_file(state) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another agent works in {state}; give this one a folder of its own with --state-dir"
            ) from None
        yield


def _lock_file(state: Path) -> TextIO:
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        return (state / "lock").open("a")
    except OSError as error:
        raise UsageError(
            f"{state} cannot be used ({error.strerror}); name another folder with --state-dir"
        ) from error
