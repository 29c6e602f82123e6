"""
Group commit for what goes to a remote: each way there costs more than what it carries.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


PATIENCE = 10.0
"""Seconds that an item waits for a batch under way: then what is in that is slow, and others are not."""


class _Entry(NamedTuple, Generic[Item, Result]):
    item: Item
    result: asyncio.Future[Result]


class Batches(Generic[Item, Result]):
    """
    Group commit: what comes while a batch is under way goes together with the next one.

    Nothing waits for others to come: alone, an item goes at once. Nor does one wait for others
    that do not come back: it goes alone then, beside them.
    """

    def __init__(self, carry_out: Callable[[Sequence[Item]], Awaitable[Result]]) -> None:
        """`carry_out` carries a batch out; its result is that of each item."""
        self._carry_out = carry_out
        self._turn = asyncio.Lock()
        self._entries: list[_Entry[Item, Result]] = []

    async def add(self, item: Item) -> Result:
        """Return the result of the batch that the item went with, which began after this call."""
        entry = _Entry[Item, Result](item, asyncio.get_running_loop().create_future())
        self._entries.append(entry)
        try:
            while not entry.result.done():
                if await self._has_turn():
                    try:
                        await self._carry(self._entries)
                    finally:
                        self._turn.release()
                elif entry in self._entries:
                    await self._carry([entry])
        finally:  # who is cancelled leaves the others to whoever is next
            self._entries = [each for each in self._entries if each is not entry]
        return await entry.result

    async def _has_turn(self) -> bool:
        """Wait for the turn; return False if whoever has it keeps it for too long."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._turn.acquire()
        except TimeoutError:
            return False

    async def _carry(self, batch: Sequence[_Entry[Item, Result]]) -> None:
        if not batch:
            return
        self._entries = [entry for entry in self._entries if entry not in batch]
        try:
            result = await self._carry_out([entry.item for entry in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is theirs to hear who are in it
            for entry in batch:
                _fail(entry.result, error)
        except BaseException:
            self._entries = [*batch, *self._entries]
            raise
        else:
            for entry in batch:
                if not entry.result.done():
                    entry.result.set_result(result)


def _fail(future: "asyncio.Future[Result]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # who was cancelled hears nothing of it
