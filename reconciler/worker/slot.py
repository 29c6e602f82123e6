"""
Slots: the state of a pull agent on disk, which survives restarts.

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
    """Of the pending dequeue, or of the one answered with the lease."""
    lease: Lease | None = None
    process: str | None = None
    """Of the command; see `process.identity`."""
    report: StatusRequest | None = None
    """The report to be sent, once the work is over."""


class Slot:
    """File of one slot, durable."""

    def __init__(self, state: Path, number: int) -> None:
        self.number = number
        self.name = f"slot-{number}"
        self._path = state / f"{self.name}.json"

    def read(self) -> HeldTask | None:
        """Return the slot's content; None if it is empty."""
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
        """Write the slot durably: it survives a loss of power once this returns."""
        replace_durably(self._path, held.model_dump_json().encode())

    def clear(self) -> None:
        """Empty the slot."""
        self._path.unlink(missing_ok=True)


def slots(state: Path, wanted: int) -> list[Slot]:
    """Return the slots of a state folder: the requested number, and any others that are not empty."""
    left = {int(path.stem.removeprefix("slot-")) for path in state.glob("slot-*.json")}
    return [Slot(state, number) for number in sorted({*range(wanted)} | left)]


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Lock a state folder for this process. Raises UsageError if another process has it."""
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
