"""
The runs of one host: start, stat, cancel, remove; and one follower for all of them.

The follower copies the output of agents into our logs and notices their end, their
silence, and output without end.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.model.runs import Declaration
from reconciler.dispatch.declarations import parse_declaration
from reconciler.dispatch.live import FigureCounter, RefusalCounter
from reconciler.dispatch.logs import LogFolder, StreamName
from reconciler.dispatch.proofs import Proofs
from reconciler.dispatch.protocol import (
    DECLARATIONS,
    RUN_ID,
    HostRuns,
    RunState,
    Stage,
    batches,
    lock_of,
    parse_stat,
    parse_state,
    parse_states,
    payload,
)
from reconciler.dispatch.scripts import CALL_TIMEOUT, Following, Scripts
from reconciler.dispatch.transport import Transport

log = logging.getLogger(__name__)

_STREAMS: Sequence[StreamName] = ("out", "err")
_CHUNK = 255 * 1024
"""Most bytes per read: what one SFTP packet carries."""
_BACKLOG = 8 * _CHUNK
"""The same, where much is there already: several packets are under way at a time."""
_PAUSE_PER_RUN = 0.15
"""Seconds."""
_QUIET_EVERY = 4
_ERR_EVERY = 5
"""stderr is copied at every nth copy of stdout: it is mostly empty before the end."""
_BACKOFF_CAP = 10.0
DECLARED_BYTES = 64 * 1024
"""Most bytes that are read of what an agent declares; far less is kept of it."""
GAVE_UP = "gave-up"
"""Reason in the wrapper's records of a run that was ended because its CLI kept retrying (`give_up`)."""
_OVERTIME = 30.0
"""Seconds past time and grace after which a run is ended from here: its agent can stop what does it there."""
QUEUE = "queue"
"""Reason in the wrapper's records of a run that was ended because it waited in the queue for too long."""
_MOST_ENDED = 10_000
"""Ends that are kept until they are awaited."""

Signal = Literal["TERM", "INT", "HUP"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Poll intervals of the follower, in seconds."""

    events: float
    """For the events file, which tells whether a run has ended."""
    copy: float
    """For the output of the runs."""
    liveness: float
    """For the processes; finds runs that ended without a record."""
    quiet_after: float = 10
    """A run that printed nothing for so long is copied from only at every fourth of these times."""


LOCAL_PACE = Pace(events=0.05, copy=0.25, liveness=5)
"""Polling is cheap locally, and people wait."""
REMOTE_PACE = Pace(events=0.5, copy=1, liveness=30)
QUEUE_PACE = Pace(events=2, copy=2, liveness=30)
"""A look at all processes asks a queue that many share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnding:
    """Signal and grace period with which a run is ended."""

    signal: Signal = "TERM"
    grace: float = 15
    """Seconds between the signal and KILL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How the follower looks after a run: when it ends it, and what it counts."""

    silence: float | None = None
    """Seconds without a new byte; None: it may be silent."""
    time: float | None = None
    """Seconds in all, of a run whose host does not end it in time, as it should; None: however long."""
    output: int
    """Bytes."""
    give_up: str | None = None
    """Beginning of a line at which the run is ended (`give_up` of an adapter's output); None: never."""
    give_up_after: int = 1
    """How many such lines in a row it takes."""
    counter: FigureCounter | None = None
    """Counts what it prints, for who looks; None: its events tell nothing as it goes."""
    queue: float | None = None
    """Seconds that it may wait in a queue; None: as long as it takes."""
    on_look: Callable[[RunState], None] = lambda _: None
    """Called with its state at each look at it while it is alive."""


class Runs:
    """The runs of one fleet on one host."""

    def __init__(
        self,
        scripts: Scripts,
        transport: Transport,
        *,
        root: str,
        logs: LogFolder,
        pace: Pace,
        proofs: Proofs,
        has_queue: bool = False,
    ) -> None:
        self.host = scripts.host
        self.has_queue = has_queue
        self.proofs = proofs
        self._scripts = scripts
        self._transport = transport
        self._root = root
        self._follower = _Follower(self, transport, logs, pace)

    async def start(
        self, run_id: str, job: str, stdin: bytes = b"", *, timeout: float, ending: RunEnding
    ) -> RunState:
        """
        Start the run, unless it was started before; return its state.

        `timeout`, in seconds, is enforced by the host itself.
        """
        seal = await asyncio.to_thread(self.proofs.draw, run_id)
        limits = (str(int(timeout)), ending.signal, str(int(ending.grace)))
        args = (run_id, *limits, self._scripts.shell, lock_of(seal))
        answer = await self._call("start", *args, stdin=payload(job, stdin, seal=seal))
        with self._naming_the_host():
            return parse_state(answer.decode().split()[2:])

    async def stat(self, run_ids: Iterable[str]) -> HostRuns:
        """Return the states of the runs."""
        answer = await self._call("stat", *run_ids)
        with self._naming_the_host():
            return parse_stat(answer.decode())

    async def cancel(self, run_id: str, why: str, ending: RunEnding) -> RunState:
        """End all processes of the run and return its state; if it had not started, it never will."""
        seal = await asyncio.to_thread(self.proofs.draw, run_id)
        args = (run_id, ending.signal, str(int(ending.grace)), why, lock_of(seal))
        stdin, timeout = f"{seal}\n".encode(), ending.grace + CALL_TIMEOUT
        answer = await self._call("cancel", *args, stdin=stdin, timeout=timeout)
        with self._naming_the_host():
            return parse_state(answer.decode().split()[1:])

    async def remove(self, run_ids: Iterable[str]) -> None:
        """Forget runs that are over. Raises Refused at one that is alive."""
        for some in batches(run_ids):
            await self._call("rm", *some)
            self._follower.look_whole_soon()

    async def install_scripts(self) -> bool:
        """Reinstall our scripts on the host; return whether they had been changed."""
        return await self._scripts.install_all()

    async def install_scripts_then_stat(
        self, run_id: str, following: Following | None = None
    ) -> tuple[bool, RunState, bytes]:
        """
        Do both at once; return what `install_scripts` returns, and the state of the run.

        The host goes on to the call `following` by itself if the run was not started; what that
        answered comes last.
        """
        args = ("wrapper", "stat", self._root, run_id)
        was_changed, answer = await self._scripts.install_all_then_call(*args, following=following)
        lines = answer.split(b"\n", 2)
        with self._naming_the_host():
            state = parse_stat(b"\n".join(lines[:2]).decode()).states[run_id]
        return was_changed, state, b"".join(lines[2:])

    async def draw_seal(self, run_id: str) -> None:
        """Draw the seal of a run whose start follows, which then need not wait for the disk here."""
        with suppress(Unavailable):  # then it is said at the start
            await asyncio.to_thread(self.proofs.draw, run_id)

    async def declared(self, run_id: str) -> Declaration | None:
        """Return what the agent of a run that is over declared by a file; None if nothing."""
        answer = await self._call("declared", run_id, str(DECLARED_BYTES), *DECLARATIONS)
        with self._naming_the_host():
            return parse_declaration(answer)

    async def output(self, run_id: str, name: str, most: int) -> bytes | None:
        """Return the beginning of a file that the agent of a run that is over wrote; None: it did not."""
        first, _, text = (await self._call("declared", run_id, str(most), name)).partition(b"\n")
        return None if first == b"S none" else text

    async def means(self) -> tuple[str, ...]:
        """Return the means by which the processes of a run are found there: `cgroup`, `reaper`, `mark`."""
        return tuple((await self._call("means")).decode().split()[1:])

    async def list(self) -> dict[str, RunState]:
        """Return every run on the host."""
        answer = await self._call("ls")
        with self._naming_the_host():
            return parse_states(answer.decode().splitlines()[1:])

    async def follow(self, run_id: str, state: RunState, bounds: Bounds, ending: RunEnding) -> RunState:
        """
        Wait until a run is over and all it printed is in the logs; end it if it leaves its bounds.

        `state` is what its start answered.
        """
        return await self._follower.follow(run_id, state, bounds, ending)

    @property
    def is_busy(self) -> bool:
        """Whether any run is followed, or being ended."""
        return self._follower.is_busy

    async def close(self) -> None:
        """Stop following; the runs go on."""
        await self._follower.close()

    @contextmanager
    def _naming_the_host(self) -> Iterator[None]:
        try:
            yield
        except Unavailable as error:
            raise Unavailable(f"host {self.host}: {error}") from error

    async def _call(self, verb: str, *args: str, stdin: bytes = b"", timeout: float = CALL_TIMEOUT) -> bytes:
        return await self._scripts.call("wrapper", verb, self._root, *args, stdin=stdin, timeout=timeout)


class _Watch:
    """One followed run."""

    def __init__(self, run_id: str, bounds: Bounds, ending: RunEnding, logs: LogFolder, now: float) -> None:
        self.run_id = run_id
        self.bounds = bounds
        self.ending = ending
        self._logs = logs
        self.at: dict[StreamName, int] = {}
        """How far its output was copied."""
        self.measure()
        self._refusals = RefusalCounter(bounds.give_up, logs, run_id, self.at) if bounds.give_up else None
        self._is_uncounted = True
        """There may be output that was not counted yet."""
        self._counting: asyncio.Task[None] | None = None
        self.began = self.moved = now
        """When it was first looked at, and when it printed last."""
        self.is_being_ended = False
        self._state = RunState(Stage.ABSENT)
        """As it was at the last look."""
        self.over: asyncio.Future[RunState] = asyncio.get_running_loop().create_future()

    def measure(self) -> None:
        """Read the offsets from the logs' sizes: a full disk may have cut the last piece."""
        self.at = {stream: self._logs.size(self.run_id, stream) for stream in _STREAMS}

    def look(self, state: RunState, now: float) -> None:
        """Note its state; its time begins when it does."""
        if state.stage is Stage.QUEUED or self._state.stage is Stage.QUEUED:
            self.began = self.moved = now
        self._state = state
        self.bounds.on_look(state)

    def take(self, stream: StreamName, data: bytes, now: float) -> None:
        """Note new output."""
        self._logs.append(self.run_id, stream, data)
        self.at[stream] += len(data)
        self.moved = now
        self._is_uncounted = True

    def count(self) -> None:
        """Let what is new be counted, beside all else."""
        counters = [each for each in (self.bounds.counter, self._refusals) if each]
        if counters and self._is_uncounted and (self._counting is None or self._counting.done()):
            self._is_uncounted = False
            self._counting = asyncio.create_task(self._count(counters), name=f"count {self.run_id}")

    async def _count(self, counters: Sequence[FigureCounter | RefusalCounter]) -> None:
        try:
            for counter in counters:
                self._is_uncounted |= await asyncio.to_thread(counter.count_on)
        except OSError as error:  # our own disk may be full
            log.warning("%s: its figures cannot be kept: %s", self.run_id, error)

    @property
    def room(self) -> int:
        """Bytes that it may still print."""
        return self.bounds.output - sum(self.at.values())

    def exceeded_limit(self, now: float) -> str | None:
        """Return which limit is exceeded; None if none is."""
        if self.room <= 0:
            return "output"
        if self._refusals and self._refusals.longest >= self.bounds.give_up_after:
            return GAVE_UP
        if self._state.stage is Stage.QUEUED:
            most = self.bounds.queue
            return QUEUE if most is not None and self._state.seconds >= most else None
        if (
            self.bounds.time is not None
            and now - self.began >= self.bounds.time + self.ending.grace + _OVERTIME
        ):
            return "timeout"
        silence = self.bounds.silence
        return "stall" if silence is not None and now - self.moved >= silence else None


class _Follower:
    """One task that looks after all followed runs of a host, as long as there are any."""

    def __init__(self, runs: Runs, transport: Transport, logs: LogFolder, pace: Pace) -> None:
        self._runs = runs
        self._transport = transport
        self._logs = logs
        self._pace = pace
        self._watches: dict[str, _Watch] = {}
        self._ended: set[str] = set()
        """Runs whose end was read and not awaited yet."""
        self._is_whole_look_due = False
        """Whether there may be ends without an event."""
        self._failures = 0
        self._task: asyncio.Task[None] | None = None
        self._endings: set[asyncio.Task[None]] = set()

    async def follow(self, run_id: str, state: RunState, bounds: Bounds, ending: RunEnding) -> RunState:
        self._is_whole_look_due |= not state.stage.is_alive
        now = asyncio.get_running_loop().time()
        watch = _Watch(run_id, bounds, ending, self._logs, now)
        watch.look(state, now)
        self._watches[run_id] = watch
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_on(), name="follower")
        try:
            return await watch.over
        finally:
            self._watches.pop(run_id, None)

    def look_whole_soon(self) -> None:
        """Discard the read position in the events file, from which old events may have been removed."""
        self._is_whole_look_due = True

    @property
    def is_busy(self) -> bool:
        return bool(self._watches or self._endings or (self._task and not self._task.done()))

    async def close(self) -> None:
        tasks = [task for task in (self._task, *self._endings) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_on(self) -> None:
        while self._watches:
            try:
                await self._look_often()
            except (Unavailable, Refused, OSError) as error:  # OSError: our own disk may be full
                pause = min(self._pace.events * 2 ** min(self._failures, 16), _BACKOFF_CAP)
                self._failures += 1
                log.warning(
                    "host %s: cannot see its runs: %s; looking again in %.1f s", self._runs.host, error, pause
                )
                await asyncio.sleep(pause)
            except Exception as error:  # noqa: BLE001  whoever waits for a run must hear of it
                self._fail_all(error)

    def _fail_all(self, error: Exception) -> None:
        for run_id in tuple(self._watches):
            watch = self._watches.pop(run_id)
            if not watch.over.done():
                watch.over.set_exception(error)

    async def _look_often(self) -> None:
        """Poll the runs as long as there are any, beginning with a full `stat`."""
        clock = asyncio.get_running_loop().time
        for watch in self._watches.values():
            watch.measure()
        host_runs = await self._look_whole()
        root, events = host_runs.root, host_runs.events_bytes
        next_copy = clock()
        next_whole = clock() + self._pause_between_looks()
        copies = 0
        while self._watches:
            events = await self._read_events(root, events)
            for run_id in self._ended & self._watches.keys():
                await self._finish_by_hint(root, self._watches[run_id])
            if clock() >= next_copy:
                next_copy = clock() + self._pace.copy
                await self._copy_all(root, copies)
                copies += 1
            if self._is_whole_look_due or clock() >= next_whole:
                next_whole = clock() + self._pause_between_looks()
                events = min(events, (await self._look_whole()).events_bytes)
            await asyncio.sleep(self._pace.events)

    def _pause_between_looks(self) -> float:
        """Return seconds; a look costs the host about a millisecond for each run, so many take longer."""
        return max(self._pace.liveness, _PAUSE_PER_RUN * len(self._watches))

    async def _look_whole(self) -> HostRuns:
        self._is_whole_look_due = False
        host_runs = await self._runs.stat(tuple(self._watches))
        self._failures = 0
        for run_id, state in host_runs.states.items():
            watch = self._watches.get(run_id)
            if watch and state.stage.is_alive:
                watch.look(state, asyncio.get_running_loop().time())
            elif watch:
                await self._finish(host_runs.root, watch, state)
        self._is_whole_look_due |= any(
            state.stage is Stage.ENDING and run_id in self._watches
            for run_id, state in host_runs.states.items()
        )
        return host_runs

    async def _read_events(self, root: str, offset: int) -> int:
        """
        Handle the events of ended runs; return the new offset in the events file, at the end of a line.

        Whoever works there can write what they like into them: they are a hint
        to look, and what cannot be a line of ours is passed over.
        """
        data = await self._transport.read(f"{root}/events", offset, _CHUNK)
        whole = data if len(data) == _CHUNK else data[: data.rfind(b"\n") + 1]
        names = (line.partition(b" ")[0].decode(errors="replace") for line in whole.splitlines())
        self._ended.update(name for name in names if RUN_ID.match(name))
        if len(self._ended) > _MOST_ENDED:  # more runs than there can be
            self._ended.clear()
            self._is_whole_look_due = True
        return offset + len(whole)

    async def _finish_by_hint(self, root: str, watch: _Watch) -> None:
        """Finish a run that is over according to an event, if its record, or its queue, confirms that."""
        self._ended.discard(watch.run_id)
        if self._runs.has_queue:
            self._is_whole_look_due = True
            return
        record = await self._transport.read(f"{root}/{watch.run_id}/exit", 0, _CHUNK)
        message = record.decode(errors="replace").split()
        try:
            state = parse_state(["done", *message[:-1]] if message[-1:] == ["ok"] else [])
        except Unavailable:  # missing or malformed: `stat` tells which
            self._is_whole_look_due = True
            return
        await self._finish(root, watch, state)

    async def _finish(self, root: str, watch: _Watch, state: RunState) -> None:
        """Copy the rest of the output, then report the end."""
        for stream in _STREAMS:
            await self._copy(root, watch, stream)
        self._ended.discard(watch.run_id)
        if not watch.over.done():
            watch.over.set_result(state)

    async def _copy_all(self, root: str, copies: int) -> None:
        """Copy what came, of quiet runs more seldom, in turn; `copies` is how often it was done before."""
        quiet_since = asyncio.get_running_loop().time() - self._pace.quiet_after
        due = list[tuple[_Watch, StreamName]]()
        for turn, watch in enumerate(self._watches.values(), copies):
            if watch.moved <= quiet_since:
                due += [(watch, stream) for stream in _STREAMS if turn % _QUIET_EVERY == 0]
            else:
                due += [(watch, stream) for stream in _STREAMS if stream == "out" or copies % _ERR_EVERY == 0]
        await asyncio.gather(*(self._copy(root, *each) for each in due))
        for watch in tuple(self._watches.values()):
            self._keep_in_bounds(watch)
            watch.count()

    async def _copy(self, root: str, watch: _Watch, stream: StreamName) -> None:
        path = f"{root}/{watch.run_id}/{stream}"
        limit = _CHUNK
        while watch.room > 0:
            wanted = min(limit, watch.room)
            data = await self._transport.read(path, watch.at[stream], wanted)
            if data:
                watch.take(stream, data, asyncio.get_running_loop().time())
            if len(data) < wanted:
                return
            limit = _BACKLOG
            await asyncio.sleep(0)  # a local read does not yield to the event loop

    def _keep_in_bounds(self, watch: _Watch) -> None:
        why = watch.exceeded_limit(asyncio.get_running_loop().time())
        if why and not watch.is_being_ended:
            watch.is_being_ended = True
            task = asyncio.create_task(self._end(watch, why), name=f"end {watch.run_id}")
            self._endings.add(task)
            task.add_done_callback(self._endings.discard)

    async def _end(self, watch: _Watch, why: str) -> None:
        try:
            await self._runs.cancel(watch.run_id, why, watch.ending)
        except (Unavailable, Refused) as error:
            log.warning("cannot end %s (%s) yet: %s", watch.run_id, why, error)
            watch.is_being_ended = False
