"""
Leader lease: which process reconciles a fleet, as a ref beside its record that is compared and swapped.

`refs/fleet/leader/<state branch>` names the holder in a blob. While alive, the holder
cycles the blob through a few values: another reconciler sees that by polling, without
a common clock, and the repository does not grow. A holder whose value did not change
for `LOOKS` polls is dead, and so is, at once, one on this machine whose process
has ended. A local repository has a lock as well: whoever has it need not wait,
and a live holder on this machine must then work in another copy of the fleet.
"""

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from reconciler.core.errors import Conflict, Refused, Unavailable, UsageError
from reconciler.core.text import one_line
from reconciler.files import parse_json
from reconciler.git.remote import push_ref
from reconciler.git.repository import Repository

log = logging.getLogger(__name__)

LEASE_BEAT = 15.0
"""Seconds between two heartbeats, and between two polls for those of another."""
LOOKS = 4
"""Polls without a heartbeat after which a holder counts as dead: a minute."""
_FRESH = 2 * LEASE_BEAT
"""Seconds after a heartbeat in which nobody else can have taken the lease: half of what that takes."""
_CIRCLE = 7
"""Values in the cycle: more than two, as a reader at half the rate would always see the same one."""
_LETTING_GO = 5.0
"""Timeout in seconds for giving the lease back at the end; without it the successor only waits longer."""

LeaderMode = Literal["run", "serve"]
Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A reconciler that holds, or wants, the lease."""

    id: str
    """Random, one per process."""
    mode: LeaderMode
    since: str
    """When it began."""
    host: str = ""
    pid: int = 0
    started: str = ""
    """When the process began, in the kernel's count."""
    where: str = ""
    """The machine's boot and the namespace in which the pid means something."""
    beat: int = 0

    def __str__(self) -> str:
        return f"`reconciler {self.mode}` on {self.host or '?'} (pid {self.pid}, since {self.since})"

    def is_here(self) -> bool:
        """Return whether its process can be checked from here."""
        return bool(self.where) and self.where == _where()

    def is_alive(self) -> bool:
        """Return whether its process lives, given that it is here."""
        return bool(self.started) and self.started == _started(self.pid)


def this_process(token: str, mode: LeaderMode, since: str) -> Holder:
    """Return this process as a holder."""
    pid = os.getpid()
    return Holder(
        id=token,
        mode=mode,
        since=since,
        host=socket.gethostname(),
        pid=pid,
        started=_started(pid) or "",
        where=_where(),
    )


def _where() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Return when a process began; None if there is no such process, or it is a zombie."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return fields[19] if fields[0] not in {"Z", "X"} else None


class LeaderLease:
    """Leader lease of one fleet: `take`, `keep`, `release`."""

    def __init__(
        self,
        repository: Repository,
        branch: str,
        me: Holder,
        *,
        may_share: bool = True,
        pause: Sleep = asyncio.sleep,
        clock: Callable[[], float],
    ) -> None:
        """
        Want the lease of a state branch; `may_share`: another `run` may be at work beside this one.

        `clock` tells seconds, and goes on while the machine sleeps.
        """
        self._repository = repository
        self._ref = f"refs/fleet/leader/{branch}"
        self._theirs = f"refs/remote-fleet/leader/{branch}" if repository.address else self._ref
        self._me = me
        self._may_share = may_share
        self._pause = pause
        self._clock = clock
        self._beaten_at = clock()
        """Before the last heartbeat was sent that came through."""
        self._lost: UsageError | None = None
        """Why it is ours no more."""
        self._turn = asyncio.Lock()
        self._value: str | None = None
        """Blob of ours that the ref has; None while we do not hold it."""
        self._seen: tuple[str | None, int] = None, 0
        """Another holder's value, and how often in a row it was seen."""

    @property
    def is_held(self) -> bool:
        """Whether it is ours."""
        return self._value is not None

    async def take(self, *, by_force: bool = False) -> None:
        """
        Take the lease, or let another `run` keep it; wait until it is clear whether a holder is alive.

        With `by_force` it is taken from whoever has it. Raises UsageError if
        another reconciler is at work, Unavailable. A remote that keeps no such
        refs is served without.
        """
        while not self.is_held:
            await self._repository.fetch()
            value, other = await self._look()
            if value is None or by_force or self._is_gone(value, other):
                await self._try(value)
            elif other is not None and self._is_shared_with(other):
                log.warning("%s reconciles this fleet too: whoever is first starts a task", other)
                return
            elif other is not None and self._is_alive(value, other):
                raise UsageError(self._refusal(other))
            else:
                self._count(value)
                if self._seen[1] == 1:
                    log.warning(
                        "%s has the lease of this fleet; checking whether it is alive", other or "another"
                    )
                await self._pause(LEASE_BEAT)

    async def require(self) -> None:
        """
        Fence: raise Unavailable if another took a lease that was ours; called before anything is written.

        Asks only after a pause, of the process or of its machine, in which that may have happened.
        """
        async with self._turn:
            if self._value and self._clock() - self._beaten_at > _FRESH:
                with suppress(UsageError):
                    await self._renew()
        if self._lost is not None:
            raise Unavailable(str(self._lost))

    async def keep(self) -> None:
        """Send heartbeats until cancelled. Raises UsageError once another reconciler leads."""
        while True:
            await self._pause(LEASE_BEAT)
            if self._lost is not None:
                raise self._lost
            with suppress(Unavailable):  # a remote that cannot be reached takes no commits from us either
                async with self._turn:
                    await (self._renew() if self.is_held else self._watch())

    async def release(self) -> None:
        """Release the lease, so that a successor can start at once."""
        if not self._value:
            return
        with suppress(Unavailable, Conflict, Refused, TimeoutError):
            async with asyncio.timeout(_LETTING_GO):
                await self._move("", self._value)
        self._value = None

    # -----------------------------------------------------------------------

    async def _renew(self) -> None:
        self._me = replace(self._me, beat=(self._me.beat + 1) % _CIRCLE)
        try:
            await self._swap(self._value)
        except Refused as error:
            self._beaten_at = self._clock()  # there is no more to be had of this remote
            log.warning("%s", error)
        except Conflict:
            await self._repository.fetch()
            value, other = await self._look()
            if value is not None and (other is None or other.id != self._me.id):
                self._value = None
                self._lost = UsageError(f"another reconciler took over: {other}; this one ends")
                raise self._lost from None
            self._value = value  # a push of ours whose answer was lost, or a ref that the remote lost
            if value is None:
                await self._try(None)

    async def _watch(self) -> None:
        """Watch a lease that another `run` holds: take it when that one is gone; yield to a `serve`."""
        await self._repository.fetch()
        value, other = await self._look()
        if value is None or self._is_gone(value, other):
            await self._try(value)
        elif other is not None and other.mode == "serve":
            raise UsageError(self._refusal(other))
        else:
            self._count(value)

    async def _try(self, value: str | None) -> None:
        """Take the lease, unless another is first. Raises Unavailable if nobody was and it cannot be had."""
        try:
            await self._swap(value)
        except Conflict as error:
            await self._repository.fetch()
            if self._repository.read_ref(self._theirs) == value:
                raise Unavailable(str(error)) from error
        except Refused as error:
            log.warning("a second reconciler cannot be told of this one: %s", error)
            self._value = ""

    async def _swap(self, value: str | None) -> None:
        began = self._clock()
        if value == "":
            return  # the remote keeps no such refs
        content = json.dumps(_document(self._me), sort_keys=True).encode()
        blob = await self._repository.git.line("hash-object", "-w", "--stdin", stdin=content)
        await self._move(blob, value)
        self._value, self._beaten_at = blob, began

    async def _move(self, value: str, expected: str | None) -> None:
        """Compare and swap the ref, on the remote or locally. Raises Conflict, Refused, Unavailable."""
        if self._repository.address:
            await push_ref(self._repository.network, value, self._ref, expected=expected)
            return
        before = expected or "0" * len(value)
        args = ("update-ref", self._ref, value, before) if value else ("update-ref", "-d", self._ref, before)
        moved = await self._repository.git.attempt(*args)
        if moved.code != 0 and self._remove_damaged():
            moved = await self._repository.git.attempt(*args)
        if moved.code != 0:
            is_anothers = self._repository.read_ref(self._ref) != expected
            raise (Conflict if is_anothers else Unavailable)(f"{self._ref} cannot be moved: {moved.message}")

    def _remove_damaged(self) -> bool:
        """
        Remove what a loss of power left of the ref, or of its lock; return whether anything was there.

        Reconcilers alone write the ref, and in a folder one at a time: who has the lock on the record.
        """
        file = self._repository.git_dir / self._ref
        damaged = [file] if file.is_file() and self._repository.read_ref(self._ref) is None else []
        left = [path for path in (*damaged, file.with_name(f"{file.name}.lock")) if path.is_file()]
        for path in left:
            log.warning("%s is damaged, or was left by who is gone: it is removed", path)
            path.unlink(missing_ok=True)
        return bool(left)

    async def _look(self) -> tuple[str | None, Holder | None]:
        return await holder_of(self._repository, self._theirs)

    def _is_shared_with(self, other: Holder) -> bool:
        """Return whether both may be at work; never in a folder, where one of them has a copy of it."""
        is_possible = self._may_share and self._repository.address is not None
        return is_possible and self._me.mode == other.mode == "run"

    def _is_gone(self, value: str, other: Holder | None) -> bool:
        if other is not None and other.is_here():
            return not other.is_alive()
        if not self._repository.address:
            return True  # nobody else has the lock
        return self._seen[0] == value and self._seen[1] >= LOOKS

    def _is_alive(self, value: str, other: Holder) -> bool:
        if other.is_here():
            return other.is_alive()
        return self._seen[0] is not None and self._seen[0] != value

    def _count(self, value: str) -> None:
        self._seen = value, self._seen[1] + 1 if self._seen[0] == value else 1

    def _refusal(self, other: Holder) -> str:
        if self._repository.address:
            return (
                f"another reconciler serves this fleet: {other}; end it first, or take over from it with "
                "--take-over if its machine is gone for good"
            )
        return (
            f"{self._repository} is a copy of a fleet that is served: {other}; end that one first, or, if "
            "this is to be a fleet of its own, go on with --take-over"
        )


async def holder_of(repository: Repository, ref: str) -> tuple[str | None, Holder | None]:
    """Return the value of a lease's ref, and the holder it names, if it can be read."""
    value = repository.read_ref(ref)
    if value is None:
        return None, None
    result = await repository.git.attempt("cat-file", "blob", value)
    with suppress(ValueError, TypeError):
        return value, _holder(parse_json(result.stdout))
    return value, None


def _document(holder: Holder) -> Mapping[str, Any]:
    return {name: getattr(holder, name) for name in Holder.__slots__}


def _holder(document: Mapping[str, Any]) -> Holder:
    """Return the holder that a blob names, each word of it harmless. Raises TypeError or ValueError."""
    fields = dict(document)
    word: Callable[[str], str] = lambda name: one_line(str(fields.get(name, "")))  # noqa: E731 - said once
    number: Callable[[str], int] = lambda name: int(fields.get(name, 0))  # noqa: E731 - as above
    return Holder(
        id=word("id"),
        mode="run" if fields.get("mode") == "run" else "serve",
        since=word("since"),
        host=word("host"),
        pid=number("pid"),
        started=word("started"),
        where=word("where"),
        beat=number("beat"),
    )
