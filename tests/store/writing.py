"""
Processes that commit until they are killed: `python writing.py <repository>`.

For each number on stdin one is forked, which spares the tests thirty starts of
Python. It says its own process id, then its git's and a number for each batch
that is acknowledged. "over" follows when it is dead.
"""

import asyncio
import os
import sys
from pathlib import Path

from reconciler.git.repository import Repository
from tests.store.world import created, start


async def write(place: str, first: int) -> None:
    repository = await Repository.open(place, Path("/nowhere"))
    state = await start(repository)
    await state.load()
    for number in range(first, first + 100_000):
        await state.commit([created(f"t{number}/{part}") for part in range(1 + number % 7)])
        say(state._writer._stream._process.pid, number)


def say(*args: object) -> None:
    os.write(1, (" ".join(map(str, args)) + "\n").encode())


def main(place: str) -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            say(os.getpid())
            asyncio.run(write(place, int(line)))
        os.waitpid(child, 0)
        say("over")


if __name__ == "__main__":
    main(sys.argv[1])
