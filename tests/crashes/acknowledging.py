"""
A process that acknowledges all kinds of things: `python acknowledging.py ROOT BATCHES`.

Each is said on stdout once it is safe: `record N`, `spec N`, `webhook N`, `log N`, `seal N`, `book N`.
Once everything is imported it says `ready`, and begins when it is given a line.
"""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from reconciler.core.model.forge import Hint
from reconciler.core.notifications.book import Book
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.proofs import Proofs
from reconciler.dispatch.worker_logs import AgentLogs
from reconciler.forge.journal import Journal
from reconciler.git.repository import Repository
from reconciler.store.book_file import BookFile
from reconciler.store.bot_commits import BotCommitter
from reconciler.store.high_water import HighWaterMarks
from reconciler.store.state import StateBranch
from tests.store.world import BRANCH, NOW, REVISION, created

PIECE = b"looking\n"
GOAL = "goal: Work."


async def open_repository(stack: AsyncExitStack, root: Path) -> Repository:
    repository = await Repository.open(str(root / "fleet.git"), root / "cache")
    stack.push_async_callback(repository.close)
    return repository


async def open_state(stack: AsyncExitStack, root: Path) -> StateBranch:
    """Open the record with its marks, as a start does."""
    repository = await open_repository(stack, root)
    marks = HighWaterMarks(repository, root / "data", root / "machine")
    stack.push_async_callback(marks.close)
    state = await StateBranch.open(
        repository,
        BRANCH,
        token=lambda: "0123456789ab",
        clock=lambda: NOW,
        revision=lambda: REVISION,
        marks=marks,
    )
    stack.push_async_callback(state.close)
    return state


def journal(root: Path) -> Journal:
    return Journal(root / "data/hooks", lambda: datetime(2026, 1, 1, tzinfo=UTC))


def hint(number: int) -> Hint:
    return Hint(delivery=f"d{number}", event="push", place="acme/code", repos=("code",))


def agent_logs(root: Path) -> AgentLogs:
    return AgentLogs(LogFolder(root / "data/logs"))


def book_file(root: Path) -> BookFile:
    return BookFile(root / "data/notifications/book.json")


async def acknowledge(root: Path, batches: int) -> None:
    """Do so many of each, one after the other."""
    async with AsyncExitStack() as stack:
        state = await open_state(stack, root)
        await state.load()
        proofs, logs, kept = Proofs(root / "data/proofs"), agent_logs(root), journal(root)
        committer = BotCommitter(await open_repository(stack, root), "main")
        for number in range(batches):
            await state.commit([created(f"t{number}/{part}") for part in range(1 + number % 3)])
            say("record", number)
            await committer.put({f"specs/tasks/s{number}.yaml": f"{GOAL}\n"}, f"Ask for s{number}")
            say("spec", number)
            kept.add(hint(number), f"digest{number}")
            say("webhook", number)
            await logs.append("t.g1.a1", number * len(PIECE), PIECE)
            say("log", number)
            proofs.draw(f"t{number}.g1.a1.r1")
            say("seal", number)
            book_file(root).write(Book(cursor=f"{number:040x}"))
            say("book", number)


def say(*args: object) -> None:
    os.write(1, (" ".join(map(str, args)) + "\n").encode())


if __name__ == "__main__":
    say("ready")
    sys.stdin.readline()
    asyncio.run(acknowledge(Path(sys.argv[1]), int(sys.argv[2])))
