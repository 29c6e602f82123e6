"""
State branch: read and written by its single writer.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Self

from reconciler.controller.ports import UNREAD_METER, Meter, Step
from reconciler.core.adapter import Usage
from reconciler.core.errors import Conflict, Problem, Refused, Unavailable
from reconciler.core.events import Assigned
from reconciler.core.hosts import HostChange
from reconciler.core.lifecycle import Transition
from reconciler.core.model.runs import read_run_key
from reconciler.core.model.status import AccountStatus, ArchivedTasks, BudgetScope, Status
from reconciler.core.planning.limits import budget_scopes
from reconciler.core.runs.accounts import AccountChange
from reconciler.git.fastimport import Change
from reconciler.git.remote import push
from reconciler.git.repository import Repository
from reconciler.store import messages, statuses
from reconciler.store.archive import read_archived
from reconciler.store.high_water import HighWaterMarks
from reconciler.store.last_transitions import LastTransitions, load_last, save_last, up_to
from reconciler.store.layout import (
    IDENTITY_FILE,
    account_paths,
    archive_month,
    archive_path,
    host_paths,
    status_paths,
)
from reconciler.store.records import FleetIdentity, Records, Statuses
from reconciler.store.spending import spending
from reconciler.store.state_files import StateFiles
from reconciler.store.writer import Writer

log = logging.getLogger(__name__)

_LAST_PUSH = 0.25
"""Seconds for a push under way when the branch is let go of; a remote that hangs is not waited for."""
_FOUNDING = 3
"""Attempts to record the fleet's id while others write to the same branch."""

PastAttempts = Callable[[Collection[str]], Awaitable[Mapping[str, int]]]
"""Return the last attempts by name."""

Fence = Callable[[], Awaitable[None]]


async def _unfenced() -> None:
    """Let everything pass."""


class StateBranch:
    """
    The state branch, opened for writing by one process.

    What `commit` acknowledges survives `kill -9` and power loss of whatever
    holds the record: without a remote the commits, the ref and their
    directories are synced to this machine's disk; with one, the remote has
    taken the push too. With a remote the local line is a copy: it is set back
    to the remote's whenever they differ, so what was never acknowledged is
    never built on.
    """

    fleet_id: str
    """Identity of the fleet: 12 random hex digits, made at its first start."""

    def __init__(
        self,
        repository: Repository,
        branch: str,
        writer: Writer,
        *,
        revision: Callable[[], str],
        marks: HighWaterMarks | None = None,
        meter: Meter = UNREAD_METER,
        elsewhere: PastAttempts | None = None,
        kept: Path | None = None,
    ) -> None:
        self.ref = repository.ref(branch)
        """Of the branch, where it is read from."""
        self._repository = repository
        self._branch = branch
        self._writer = writer
        self._revision = revision
        self._marks = marks
        self._meter = meter
        self._elsewhere = elsewhere
        self._records = Records(repository, branch)
        self._turn = asyncio.Lock()
        self._head: str | None = None
        self._files = StateFiles.of({})
        self._kept = kept
        self._last_transitions = load_last(kept) if kept else LastTransitions()
        self._queue: list[tuple[Sequence[Step], asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._pushing: asyncio.Timeout | None = None
        self.fence: Fence = _unfenced
        """Awaited before anything is written; raises if that is for somebody else to do now."""

    @classmethod
    async def open(
        cls,
        repository: Repository,
        branch: str,
        *,
        token: Callable[[], str],
        clock: Callable[[], datetime],
        revision: Callable[[], str],
        marks: HighWaterMarks | None = None,
        meter: Meter = UNREAD_METER,
        signing_key: Path | None = None,
        elsewhere: PastAttempts | None = None,
        kept: Path | None = None,
    ) -> Self:
        """
        Become the writer of the state branch, and make it at the first start.

        `token` draws the fleet's id, `clock` dates the commit that records it,
        `revision` names the commit of the specs in force when something is
        committed, `marks` remember what was acknowledged, `meter` is told of
        pushes that were refused, `signing_key` signs what is written, `elsewhere` tells of
        attempts on the records of other shards, `kept` is the file in which the
        next start finds what was read of history. Raises UsageError if the
        branch cannot be ours (another writer, checked out), Rewound if it
        went back, Unavailable if the remote does not answer.
        """
        writer = await Writer.open(repository, branch, signing_key)
        state = cls(
            repository,
            branch,
            writer,
            revision=revision,
            marks=marks,
            meter=meter,
            elsewhere=elsewhere,
            kept=kept,
        )
        try:
            await state._drop_torn_batch()
            state.fleet_id = await state._create(FleetIdentity(id=token()), clock())
        except BaseException:
            await writer.close()
            raise
        return state

    async def load(self) -> Statuses:
        """
        Return every status on record, of tasks and of hosts, at the newest commit.

        Later commits go on top of that one. Those that cannot be read are not
        in it, see `damaged`. Raises Unavailable.
        """
        async with self._turn:
            return await self._load()

    @property
    def damaged(self) -> Mapping[str, Problem]:
        """What is wrong with the status files of tasks that could not be read, by task."""
        return self._records.damaged

    @property
    def accounts(self) -> Mapping[str, AccountStatus]:
        """What is on record of accounts at their limits, as last loaded."""
        return self._records.accounts

    @property
    def head(self) -> str:
        """The commit that what was last loaded or committed is on record with; empty before the first."""
        return self._head or ""

    def has_moved(self) -> bool:
        """Return whether the branch moved since our last commit, according to the last fetch."""
        return self._repository.read_ref(self._repository.ref(self._branch)) != self._head

    async def commit(self, steps: Sequence[Step]) -> None:
        """
        Put the steps on record, in order, a commit each; durable when it returns.

        One that changes no file makes no commit. Calls at the same time share
        one batch. Nothing of them counts as recorded if it raises: Conflict if
        somebody else wrote first (load and plan again), Unavailable.
        Only where a remote fell silent in the middle of a push is it open
        whether it has them; `load` tells.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((steps, done))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        await done

    async def past_attempts(self, names: Collection[str]) -> Mapping[str, int]:
        """Return the last attempt on record by name; see `controller.ports.State.past_attempts`."""
        async with self._turn:
            own = (await self._recall()).attempts
        others = await self._elsewhere(names) if self._elsewhere else {}
        attempts = {name: max(own.get(name, 0), others.get(name, 0)) for name in names}
        return {name: attempt for name, attempt in attempts.items() if attempt}

    async def archived(self, names: Collection[str]) -> ArchivedTasks:
        """Return what is in the archive of these tasks; see `controller.ports.State.archived`."""
        async with self._turn:
            archived = await read_archived(self._repository, self._head, names)
            past = (await self._recall()).attempts if archived.statuses else {}
        # Past attempts may be later ones: a rewind that was approved names those that were lost.
        statuses_now = {
            name: status.model_copy(update={"attempt": max(status.attempt, past.get(name, 0))})
            for name, status in archived.statuses.items()
        }
        return replace(archived, statuses=statuses_now)

    async def last_commits(self) -> Mapping[str, str]:
        """Return the commit of the last transition of every task; no commit under way is waited for."""
        return (await self._recalled()).transitions

    async def last_host_commits(self) -> Mapping[str, str]:
        """Return the commit of the last change of every host; no commit under way is waited for."""
        return (await self._recalled()).hosts

    async def _recalled(self) -> LastTransitions:
        if self._last_transitions.head != self.head:
            async with self._turn:
                return await self._recall()
        return self._last_transitions

    async def spent(self, since: datetime) -> Mapping[BudgetScope, Usage]:
        """Return what was spent since a time, and from whose money. Raises Unavailable."""
        spent = defaultdict[BudgetScope, Usage](Usage)
        for each in await spending(self._repository, self._branch, since=since):
            for scope in budget_scopes(each.adapter, each.repo, each.host, each.account):
                spent[scope] += each.usage
        return spent

    async def close(self) -> None:
        """Finish the running commit, except for a push that hangs, and release the branch."""
        # The push is cut short before it is waited for, and the lock goes last.
        if self._pushing is not None:
            self._pushing.reschedule(asyncio.get_running_loop().time() + _LAST_PUSH)
        if self._flushing is not None:
            await self._flushing
        self._keep()
        await self._writer.close()

    # --- Reading -----------------------------------------------------------

    async def _load(self) -> Statuses:
        # The remote's line first, then whether it went back, and only then what it
        # says: a line that was rewound must not be read as if nothing had been lost.
        await self._catch_up()
        await self._require(self._writer.head)
        loaded = await self._records.read(self._writer.head)
        self._head = self._writer.head
        self._files = StateFiles.of(self._records.blobs)
        return loaded

    async def _catch_up(self) -> None:
        """
        Set the local line to the remote's.

        A remote that lost the branch gets it back: everything on the line was
        meant to be there, and to start from nothing would run every task again.
        """
        if not self._repository.address:
            return
        try:
            await self._repository.fetch()
        except Refused as error:
            raise Unavailable(str(error)) from error
        theirs = self._repository.read_ref(self._repository.ref(self._branch))
        ours = self._writer.head
        if theirs is None and ours is not None:
            log.warning("%s lost branch %s: it is put back", self._repository, self._branch)
            await self._push(ours)
        elif theirs != ours:
            await self._require(theirs)
            await self._writer.reset(theirs)

    async def _require(self, head: str | None) -> None:
        """Accept a line as the record unless it was rewound; the mark is advanced to it."""
        if self._marks is not None:
            # Checked before the mark advances: a mark on a rewound line would hide the rewind.
            await self._marks.require("record", self._branch, head)
            if head is not None:
                await self._marks.advance("record", self._branch, head)

    async def _drop_torn_batch(self) -> None:
        """
        Set the line back to its mark if the newest commit never came to the disk.

        git moves the ref before the folder of packs is synced: a loss of power in
        between may keep the one without the other. Such a batch was not acknowledged:
        the mark follows the sync, so one that names it, or another lost commit, forbids this.
        """
        head, marks = self._writer.head, self._marks
        if head is None or marks is None or self._repository.address or await marks.has(head):
            return
        mark = marks.acted_on("record", self._branch)
        all_marks = marks.marks("record", self._branch)
        if mark is not None and all([await marks.has(each) for each in all_marks]):
            log.warning(
                "%s: its newest batch (%s) was cut off by a loss of power before it was acknowledged; "
                "the record goes on from %s",
                self._branch, head[:10], mark[:10],
            )  # fmt: skip
            await self._writer.reset(mark)

    async def _create(self, fleet: FleetIdentity, at: datetime) -> str:
        """Return the id on record; put this one there if there is none."""
        for _ in range(_FOUNDING):
            await self._load()
            on_record = await self._records.fleet()
            if on_record is not None:
                return on_record.id
            change = Change(
                at, {IDENTITY_FILE: statuses.dump_status(fleet)}, lambda _: "fleet: first start\n"
            )
            with suppress(Conflict):  # another reconciler creates the same fleet
                await self._write([change])
        raise Conflict(f"{self._repository}: {self._branch} moves too quickly to put the fleet's id on it")

    # --- Writing -----------------------------------------------------------

    async def _flush(self) -> None:
        """Commit the queue in batches until it is empty."""
        while self._queue:
            async with self._turn:
                batch, self._queue = self._queue, []
                error = await self._outcome([step for steps, _ in batch for step in steps])
            for _, done in batch:
                if done.done():
                    continue  # its caller was cancelled
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

    async def _outcome(self, steps: Sequence[Step]) -> Exception | None:
        try:
            await self._record(steps)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the callers' to hear
            return error
        return None

    async def _record(self, steps: Sequence[Step]) -> None:
        # Before anything is written: the walk ends at the head these commits go on top of.
        if any(isinstance(step, Transition) for step in steps):
            await self._recall()
        draft = self._files.draft()
        last: dict[str, int] = {}
        hosts: dict[str, int] = {}
        changes: list[Change] = []
        for step in steps:
            files = self._put(step, draft)
            if files:
                changes.append(self._change(step, files, last))
                if isinstance(step, Transition):
                    last[step.task] = len(changes) - 1
                elif isinstance(step, HostChange):
                    hosts[step.host] = len(changes) - 1
        # Memory is updated only after the batch is durable: a failed batch leaves no trace here.
        if changes:
            await self.fence()
            before = self.head
            ids = await self._write(changes)
            self._files.apply(draft)
            if self._last_transitions.head == before:
                self._last_transitions.transitions.update({task: ids[index] for task, index in last.items()})
                self._last_transitions.hosts.update({host: ids[index] for host, index in hosts.items()})
                self._last_transitions.attempts.update(_attempts(steps))
                self._last_transitions.head = ids[-1]

    def _change(self, step: Step, files: Mapping[str, bytes | None], last: Mapping[str, int]) -> Change:
        """Return the commit of a step; `last` has the index in this batch of each task's previous step."""
        revision = self._revision()
        if isinstance(step, HostChange):
            message = messages.render_host(step, revision=revision)
            return Change(step.at, files, lambda _: message)
        if isinstance(step, AccountChange):
            message = messages.render_account(step, revision=revision)
            return Change(step.at, files, lambda _: message)
        previous = last.get(step.old, self._last_transitions.transitions.get(step.old))
        return Change(step.event.origin.at, files, partial(_message, step, revision, previous))

    async def _recall(self) -> LastTransitions:
        """Return the last transitions of all tasks and hosts, with what history has that is new."""
        if self._last_transitions.head != self.head:
            self._last_transitions = await up_to(self._repository, self.head, self._last_transitions)
            self._keep()
        return self._last_transitions

    def _keep(self) -> None:
        if self._kept is not None:
            save_last(self._kept, self._last_transitions)

    def _put(self, step: Step, files: StateFiles) -> Mapping[str, bytes | None]:
        """Put what a step changes among the files; return the content of those, None for one that goes."""
        paths = _paths_of(step)
        old = status_paths(step.old) if isinstance(step, Transition) and step.old != step.task else ()
        wanted: dict[str, bytes | None] = dict.fromkeys(files.places([*old, *paths]))
        if step.after and not _is_archived(step.after):
            wanted[files.place(paths)] = statuses.dump_status(step.after)
        blobs = {path: self._blob(content) for path, content in wanted.items()}
        changed = {path: content for path, content in wanted.items() if blobs[path] != files.blob(path)}
        for path in changed:
            files.put(path, blobs[path])
        return {**changed, **_archive_changes(step)}

    def _blob(self, content: bytes | None) -> str | None:
        return None if content is None else self._repository.blob_id(content)

    async def _write(self, changes: Sequence[Change]) -> Sequence[str]:
        # Write-ahead, in four steps. First the local line, on disk; then the remote,
        # which is authoritative, so the local line is reset if it refuses;
        # then the mark, which must not name a commit that the remote never had;
        # the head last: whoever builds on it builds on acknowledged commits.
        ids = await self._writer.write(self._head, changes)
        if self._repository.address:
            try:
                async with asyncio.timeout(None) as self._pushing:
                    await self._push(ids[-1])
            except BaseException:
                await self._writer.reset(self._head)
                raise
            finally:
                self._pushing = None
        if self._marks is not None:
            await self._marks.advance("record", self._branch, ids[-1])
        self._head = ids[-1]
        return ids

    async def _push(self, commit: str) -> None:
        """Push a commit to the remote; refused access counts as an outage, which may pass."""
        try:
            await push(self._repository.network, "origin", commit, self._branch)
        except Refused as error:
            self._meter.push_refused("refused")
            raise Unavailable(str(error)) from error
        except Conflict:
            self._meter.push_refused("conflict")
            raise
        except Unavailable:
            self._meter.push_refused("unavailable")
            raise


def _paths_of(step: Step) -> Sequence[str]:
    """Return the paths at which the file that a step is about may be."""
    if isinstance(step, Transition):
        return status_paths(step.task)
    return host_paths(step.host) if isinstance(step, HostChange) else account_paths(step.account)


def _is_archived(after: object) -> bool:
    return isinstance(after, Status) and after.archived


def _archive_changes(step: Step) -> Mapping[str, bytes | None]:
    """Return the files of the archive that a step changes: of a task that enters it, or leaves it."""
    if not isinstance(step, Transition):
        return {}
    before, after = step.before, step.after
    left = {_archive_path(step.old, before): None} if before and before.archived else {}
    entered = (
        {_archive_path(step.task, after): statuses.dump_status(after)} if after and after.archived else {}
    )
    return {**left, **entered}


def _archive_path(task: str, status: Status) -> str:
    return archive_path(task, archive_month(status.since))


def _attempts(steps: Iterable[Step]) -> Mapping[str, int]:
    """Return the last attempt of each task that these steps assign a run."""
    events = (step.event for step in steps if isinstance(step, Transition))
    runs = (event.run for event in events if isinstance(event, Assigned))
    return dict(key for run in runs if (key := read_run_key(run)))


def _message(step: Transition, revision: str, previous: str | int | None, id_of: Callable[[int], str]) -> str:
    """Render a commit message; a number stands for the commit at that place in the same batch."""
    commit = id_of(previous) if isinstance(previous, int) else previous
    return messages.render_message(step, revision=revision, previous=commit)
