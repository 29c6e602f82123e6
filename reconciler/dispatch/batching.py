"""
Group commit for what goes to a remote: each way there costs more than what it carries.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Entry(NamedTuple, Generic[Item, Result]):
    item: Item
    result: asyncio.Future[Result]


class Batches(Generic[Item, Result]):
    """
    Group commit: what comes while a batch is under way goes together with the next one.

    Nothing waits for others to come: alone, an item goes at once.
    """

    def __init__(self, carry_out: Callable[[Sequence[Item]], Awaitable[Result]]) -> None:
        """`carry_out` carries a batch out, one at a time; its result is that of each item."""
        self._carry_out = carry_out
        self._turn = asyncio.Lock()
        self._entries: list[_Entry[Item, Result]] = []

    async def add(self, item: Item) -> Result:
        """Return the result of the batch that the item went with, which began after this call."""
        entry = _Entry[Item, Result](item, asyncio.get_running_loop().create_future())
        self._entries.append(entry)
        try:
            async with self._turn:
                if not entry.result.done():
                    await self._next()
        finally:  # who is cancelled leaves the others to whoever is next
            self._entries = [each for each in self._entries if each is not entry]
        return await entry.result

    async def _next(self) -> None:
        batch = list(self._entries)
        try:
            result = await self._carry_out([entry.item for entry in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is theirs to hear who are in it
            for entry in batch:
                _fail(entry.result, error)
        else:
            for entry in batch:
                if not entry.result.done():
                    entry.result.set_result(result)
        self._entries = [entry for entry in self._entries if not entry.result.done()]


def _fail(future: "asyncio.Future[Result]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # who was cancelled hears nothing of it
