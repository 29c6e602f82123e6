"""
A pull agent made of a command: takes tasks, runs it for each, reports what came of it.

What it must not forget is on disk first (`held`), so that it can be ended at
any time: its next life ends the commands that the last one left running, gives
their tasks back, and sends the reports that were not acknowledged.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reconciler.core.errors import ReconcilerError
from reconciler.wire import MOST_WAIT, DequeueRequest
from reconciler.worker.client import ApiClient
from reconciler.worker.job import Job, JobConfig
from reconciler.worker.slot import HeldTask, Slot, locked, slots

WorkUntil = Literal["stopped", "once", "idle"]

SHORT_WAIT = 2.0
"""Seconds to wait for a task before there counts as none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """Takes tasks and works on them."""

    client: ApiClient
    means: JobConfig
    state: Path
    """Folder with the slots' files."""
    workdir: Path
    """Folder with a working folder per slot, recreated for each run."""
    capabilities: tuple[str, ...] = ()
    slots: int = 1
    """How many tasks at once."""
    until: WorkUntil = "stopped"
    """`once`: end after one task. `idle`: end when there is none."""
    draw: Callable[[], str]
    """Returns a random name."""

    async def run(self) -> bool:
        """
        Take tasks until the time to end has come; return whether all ended well.

        When this is cancelled, commands are ended and their tasks given back.
        Raises Refused or UsageError if the reconciler rejects us,
        UsageError if another agent works in the state folder, OSError for a
        disk that takes nothing.
        """
        ends: list[Exception] = []
        with locked(self.state):
            try:
                async with asyncio.TaskGroup() as group:
                    served = [group.create_task(self._serve(slot)) for slot in slots(self.state, self.slots)]
            except* (ReconcilerError, OSError) as errors:
                ends.extend(errors.exceptions)
        if ends:
            raise ends[0]  # out here: CPython 3.11.2 wraps what is raised within `except*` in a group
        return all(task.result() for task in served)

    async def _serve(self, slot: Slot) -> bool:
        """Finish a slot's leftover job, then take one task after the other."""
        left = slot.read()
        if left is not None and left.lease is not None:
            await self._job(slot, left).take_up()
        is_good = True
        while slot.number < self.slots:
            held = await self._take(slot)
            if held is None:
                break
            is_good &= await self._job(slot, held).run()
            if self.until == "once":
                break
        return is_good

    async def _take(self, slot: Slot) -> HeldTask | None:
        """Return the held task after a dequeue; None if there is none and we are not to wait for one."""
        slot_content = slot.read() or HeldTask(request_key=self.draw())
        slot.write(slot_content)
        request = DequeueRequest(
            capabilities=self.capabilities,
            wait=SHORT_WAIT if self.until == "idle" else MOST_WAIT,
            request_key=slot_content.request_key,
        )
        lease = await self.client.dequeue(request)
        while lease is None and self.until != "idle":
            lease = await self.client.dequeue(request)
        if lease is None:
            slot.clear()
            return None
        held = slot_content.model_copy(update={"lease": lease})
        slot.write(held)
        return held

    def _job(self, slot: Slot, held: HeldTask) -> Job:
        return Job(self.client, self.means, slot, self.workdir / slot.name, held)
