"""
Proofs that a record on a host is of a run that was started from here.

The folders of runs lie where agents can write, and their names can be guessed.
So each start gets a seal, which is drawn: the wrapper that keeps watch over the
run knows it, and writes it down when all that the run started is gone. Kept
here, below the data folder, is its hash, the lock: enough to know the seal
again after a restart, and of no use to whoever reads it.
"""

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from reconciler.core.errors import Unavailable
from reconciler.dispatch.protocol import RunState, Stage, lock_of, run_of
from reconciler.files import make_folder, sync_folder


class Proofs:
    """The locks of runs: a file for each, a line for each time that its start or its end was asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.is_blank = not folder.exists()
        """Whether there are no proofs, neither on disk nor since: the folder is new, or was lost."""
        self._drawn: dict[str, str] = {}
        """Seals made by this process, so that repeated requests need no new one."""

    def draw(self, run_id: str) -> str:
        """Return the seal of a run, once its lock is safe on the disk. Raises Unavailable."""
        self.is_blank = False
        if run_id not in self._drawn:
            seal = secrets.token_hex(32)
            self._add(run_id, lock_of(seal))
            self._drawn[run_id] = seal
        return self._drawn[run_id]

    def has_drawn(self, run_id: str) -> bool:
        """Return whether this process made a seal for the run: then a proof of it cannot be lost."""
        return run_id in self._drawn

    def adopt(self, run_id: str, state: RunState) -> None:
        """Accept a run as ours that was started before the data folder was lost."""
        self._add(run_id, state.lock or lock_of("-"))

    def is_ours(self, run_id: str, state: RunState) -> bool:
        """
        Return whether the record that says so was made by a start, or an end, that was asked for from here.

        How one ended that nobody could write down (`lost`, `rebooted`) proves
        itself by nothing, and brings nobody anything.
        """
        if state.stage in {Stage.ABSENT, Stage.UNSTARTED}:
            return True
        locks = self._locks(run_id)
        return state.lock in locks or (state.stage in {Stage.LOST, Stage.REBOOTED} and bool(locks))

    def prune(self, is_needed: Callable[[str], bool]) -> None:
        """Forget the runs that are not needed, by their keys."""
        for file in self._folder.glob("*"):
            if not is_needed(run_of(file.name)):
                self.forget(file.name)

    def forget(self, run_id: str) -> None:
        """Forget a run whose name is free again."""
        self._drawn.pop(run_id, None)
        file = self._file(run_id)
        if file.is_dir() and not file.is_symlink():  # nothing of ours: it stands in the way
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)

    def _locks(self, run_id: str) -> list[str]:
        if not self._file(run_id).is_file():
            return []  # a pipe would keep whoever opens it waiting
        try:
            return self._file(run_id).read_text(encoding="ascii", errors="replace").split()
        except (FileNotFoundError, IsADirectoryError):
            return []

    def _add(self, run_id: str, lock: str) -> None:
        try:
            self._append(run_id, lock)
        except OSError as error:
            raise Unavailable(
                f"cannot write {self._file(run_id)}: {error.strerror}; see whether the disk is full here, "
                "and who may write to the data folder"
            ) from error

    def _append(self, run_id: str, lock: str) -> None:
        make_folder(self._folder)
        if not self._file(run_id).is_file():
            self.forget(run_id)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._file(run_id), flags, mode=0o600)
        try:
            os.write(descriptor, f"{lock}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(self._folder)

    def _file(self, run_id: str) -> Path:
        return self._folder / run_id
