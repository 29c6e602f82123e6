"""
Dispatcher: implements `controller.ports.Dispatch` with hosts, repositories and logs.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypedDict

from reconciler import log_fields
from reconciler.controller.ports import Emit
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.events import RunEnded, RunQueued, RunSeen
from reconciler.core.forge.merge_queue import MergeChain
from reconciler.core.masking import Mask
from reconciler.core.model.runs import (
    Assignment,
    Check,
    Claim,
    FailureClass,
    Report,
    RunRequest,
    ValidationRequest,
    Verdict,
)
from reconciler.core.model.specs import Host, Repo
from reconciler.core.runs.prompt import sha256
from reconciler.core.runs.retention import Retention
from reconciler.core.text import one_line
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.merging import MergeConflict
from reconciler.dispatch.mirrors import remove_unused
from reconciler.dispatch.proofs import Proofs
from reconciler.dispatch.protocol import folder_name, is_agent, is_check, is_removal, round_of, run_of
from reconciler.dispatch.removal import RemovalHooks
from reconciler.dispatch.repos import CodeRepository, mirror_name
from reconciler.dispatch.retrying import ON_RETRY, StepFailed
from reconciler.dispatch.round import CANCELLED, DELIVERY_PATIENCE, ReadOutput, Round
from reconciler.dispatch.runs import Pace, RunEnding
from reconciler.dispatch.secrets import InjectedSecrets
from reconciler.dispatch.session import HostSession, is_same_place, open_session, usual_pace
from reconciler.dispatch.shown_logs import WITHHELD, ShownLogs
from reconciler.dispatch.transport import Transport
from reconciler.dispatch.verify import candidate_key, validate_commit, validation_order, verify

log = logging.getLogger(__name__)

Key = tuple[str, int]
_PRUNED_EVERY = timedelta(hours=1)
_MEBIBYTE = 2**20
_LASTING = 10.0
"""Seconds for which a step waits or is retried before that is reported."""
_MOST_REMEMBERED = 512
"""Tasks whose secrets are kept in memory; those of others are masked as after a restart."""
_FAREWELL = 10.0
"""Seconds that the follower of a stopped run has to report its end, before it is reported without it."""


class _Subject(TypedDict):
    """What a fact of a run is about."""

    task: str
    run: str
    round: int


class Dispatcher:
    """
    Carries out orders on hosts; one asyncio task per order, ended only by its `RunEnded` or `close`.

    `data` holds the mirrors of code repositories and the logs; `base` is the
    folder that relative addresses of repos start from. Logs that no open task
    has are kept for `keep_logs`, and no more than `keep_logs_mb` of them.
    """

    def __init__(
        self,
        transports: Callable[[Host], Transport],
        *,
        data: Path,
        base: Path,
        fleet: str,
        clock: Callable[[], datetime],
        read_output: ReadOutput,
        keep_logs: timedelta,
        keep_logs_mb: int,
        pace: Callable[[Host], Pace] = usual_pace,
        patience: float = 300,
        delivery_patience: float = DELIVERY_PATIENCE,
        farewell: float = _FAREWELL,
        lasting: float = _LASTING,
    ) -> None:
        self.logs = LogFolder(data / "logs")
        self._transports = transports
        self._data = data
        self._base = base
        self._fleet = fleet
        self._clock = clock
        self._read_output = read_output
        self._keep_logs = keep_logs
        self._keep_logs_mb = keep_logs_mb
        self._prune_due = clock()
        self._proofs = Proofs(data / "proofs")
        self._pace = pace
        self._patience = patience
        self._delivery_patience = delivery_patience
        self._farewell = farewell
        self._lasting = lasting
        self._retries: dict[Key, tuple[float, str]] = {}
        """Since when steps of orders wait or are retried, and for what or why."""
        self._agent_over = set[Key]()
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._stops: dict[Key, asyncio.Task[None]] = {}
        self._sites: dict[str, HostSession] = {}
        self._left_sites: list[HostSession] = []
        """Sessions of hosts whose spec has changed; runs may still be followed there."""
        self._repositories: dict[str, CodeRepository] = {}
        self._secrets: dict[str, InjectedSecrets] = {}
        """By task."""
        self._mask = Mask()

    @property
    def followed(self) -> frozenset[Key]:
        """(run key, round) of every order that is being followed."""
        return frozenset(self._tasks)

    @property
    def retry_reasons(self) -> Mapping[str, str]:
        """Steps of live runs that wait or are tried again for a while now; see controller.ports.Dispatch."""
        latest = asyncio.get_running_loop().time() - self._lasting
        return {run: why for (run, _), (since, why) in self._retries.items() if since <= latest}

    @property
    def agent_over(self) -> frozenset[str]:
        """Run keys of the rounds whose agent is over; see controller.ports.Dispatch."""
        return frozenset(run for run, _ in self._agent_over)

    @property
    def mask(self) -> Mask:
        """The mask of all secrets in memory that runs were given."""
        values = frozenset[str]().union(*(secrets.values for secrets in self._secrets.values()))
        if values != self._mask.values:
            self._mask = Mask(values)  # its computed encodings are cached in it
        return self._mask

    def shown_logs(self) -> ShownLogs:
        """Return the logs of runs as others than the operator may see them."""
        return ShownLogs(self.logs, self._mask_of_log)

    def _mask_of_log(self, task: str, run_id: str) -> Mask:
        """Return what is to be masked in a log; withheld, if its run was given what is not known any more."""
        secrets = self._secrets.get(task) or InjectedSecrets()
        if secrets.unproven([round_of(run_id)], self.logs, must=""):
            return replace(secrets.mask, withheld=WITHHELD)
        return secrets.mask

    async def diff(self, repo: Repo, base: str, head: str) -> str:
        """Return how a commit of a repo differs from another. Raises NotFound if one is not here."""
        return await self._repository(repo).diff(base, head)

    def follow(self, order: RunRequest, emit: Emit) -> None:
        """Carry out the order, or resume it; see controller.ports.Dispatch."""
        if order.key in self._tasks:
            return
        # Unknown runs can only be adopted before anything was started from here.
        following = self._carry_out(order, emit, may_adopt=self._proofs.is_blank)
        task = asyncio.create_task(following, name=f"{order.run} round {order.round}")
        self._tasks[order.key] = task

    def stop(self, order: RunRequest, why: str, emit: Emit) -> None:
        """End the run of the order; see controller.ports.Dispatch."""
        if order.key in self._stops:
            return
        log.info("stopping %s round %d: %s", order.run, order.round, why)
        cancelling = self._cancel(order, emit, is_followed=order.key in self._tasks)
        task = asyncio.create_task(cancelling, name=f"stop {order.run} round {order.round}")
        self._stops[order.key] = task

    async def sweep(self, host: Host, needs: Callable[[], Retention]) -> None:
        """Remove from the host what is no longer needed, and prune logs; see controller.ports.Dispatch."""
        await self._prune(needs())
        with _unavailable():
            await self._sweep(host, self._host_session(host), needs)

    async def reach(self, repo: Repo) -> None:
        """Fetch the newest state of a code repository; see controller.ports.Dispatch."""
        with suppress(StepFailed):
            await self._repository(repo).newest()

    async def merged(self, repo: Repo, heads: Collection[str]) -> frozenset[str]:
        """Return those of the delivered commits that were merged; see controller.ports.Dispatch."""
        with _unavailable():
            return await self._repository(repo).merged(heads)

    async def deliver(self, repo: Repo, head: str, branch: str, expected: str | None) -> str:
        """Push delivered work to another branch; see controller.ports.Dispatch."""
        repository = self._repository(repo)
        with _unavailable():
            await repository.starting_point(head)
            return await repository.deliver(head, branch, expected)

    async def close_branch(self, repo: Repo, branch: str, head: str) -> None:
        """Delete a branch that holds our delivery; see controller.ports.Dispatch."""
        with _unavailable():
            await self._repository(repo).close(branch, head)

    async def verify(self, assignment: Assignment, claim: Claim) -> Report:
        """Return the report on an agent's finished work; see controller.ports.Dispatch."""
        repository = self._repository(assignment.repo) if assignment.repo else None
        may_adopt = self._proofs.is_blank
        return await verify(
            assignment, claim, repository, lambda order: self._round(order, may_adopt=may_adopt).validate()
        )

    async def merge_chain(self, repo: Repo, heads: Sequence[tuple[str, str]]) -> MergeChain:
        """Merge heads onto the newest base in the mirror; see controller.ports.Dispatch."""
        with _unavailable():
            return await self._repository(repo).merge_chain(heads)

    async def validate(self, request: ValidationRequest) -> Sequence[Check]:
        """Return what the validation of a commit came to; see controller.ports.Dispatch."""
        may_adopt = self._proofs.is_blank
        try:
            return await validate_commit(
                request,
                candidate_key(request),
                lambda order: self._round(order, may_adopt=may_adopt).validate(),
            )
        except StepFailed as error:  # it is no result, so the next request must not meet its record
            await self.end_validation(request)
            raise Unavailable(str(error)) from error

    async def end_validation(self, request: ValidationRequest) -> None:
        """End the validation of a commit; see controller.ports.Dispatch."""
        with suppress(StepFailed):
            await self._round(validation_order(request, candidate_key(request))).forget_validation()

    async def land(self, repo: Repo, commit: str, base: str) -> bool:
        """Let the base branch hold a commit; see controller.ports.Dispatch."""
        with _unavailable():
            return await self._repository(repo).land(commit, base)

    async def close(self) -> None:
        """Stop following; runs go on. The caller closes the transports."""
        tasks = [*self._tasks.values(), *self._stops.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(
            *(host_session.runs.close() for host_session in [*self._sites.values(), *self._left_sites])
        )

    async def _sweep(self, host: Host, host_session: HostSession, needed: Callable[[], Retention]) -> None:
        names = await host_session.workspaces.list()
        states = await host_session.runs.list()
        # Called after the listing: everything listed belongs to runs that were recorded before.
        needs = needed()
        alive = [run_id for run_id, state in states.items() if state.stage.is_alive]
        stale = [run_id for run_id in alive if _is_stale(run_id, needs) and not is_removal(run_id)]
        lingering = await asyncio.gather(*(self._end_stale(host_session, run_id) for run_id in stale))
        kept = {run_of(run_id) for run_id in alive if run_id not in stale}
        kept.update(needs.open, self._followed_runs, *lingering)
        kept |= {run for run in map(run_of, (*states, *names)) if needs.is_of_damaged(run)}
        kept |= await self._failed_with_room(host_session, names, needs)
        followed = needs.live | self._followed_runs
        await host_session.workspaces.discard(
            run_id
            for run_id in states
            if is_agent(run_id) and run_of(run_id) in kept - followed and run_id not in alive
        )
        gone = [name for name in names if run_of(name) not in kept]
        over = [run_id for run_id in states if run_of(run_id) not in kept]
        hooked = await self._put_away(host, host_session, gone, needs)
        await host_session.runs.remove(run_id for run_id in over if not is_removal(run_id))
        for name, commit in (await host_session.workspaces.remove(gone)).items():
            log.warning(
                "host %s: the workspace of %s was removed, with work that was never delivered: commit %s",
                host.name,
                run_of(name),
                commit[:12],
            )
        # Last: as long as there is a workspace, it is on record there that its hooks were run.
        await host_session.runs.remove({*hooked, *filter(is_removal, over)})

    async def _put_away(
        self, host: Host, host_session: HostSession, names: Collection[str], needs: Retention
    ) -> list[str]:
        """Run the hooks before the removal of workspaces; return their ids. A half-made one has none."""
        whole = [run for run in map(run_of, names) if folder_name(run) in names]
        hooks = [RemovalHooks(host_session, host, run, needs.removal_hooks(host, run)) for run in whole]
        hooks = [each for each in hooks if each.hooks.before_remove]
        running = [each.carry_out(self.logs, self.mask) for each in hooks]
        for error in await asyncio.gather(*running, return_exceptions=True):
            if error is not None:
                raise error
        return [each.run_id for each in hooks]

    async def _end_stale(self, host_session: HostSession, run_id: str) -> set[str]:
        """End a stale run; return its key if it is still there."""
        log.info("stopping %s: its task has moved on", run_id)
        state = await host_session.runs.cancel(run_id, CANCELLED, RunEnding())
        return {run_of(run_id)} if state.stage.is_alive else set()

    @staticmethod
    async def _failed_with_room(
        host_session: HostSession, names: Collection[str], needs: Retention
    ) -> frozenset[str]:
        failed = {folder_name(run): run for run in needs.failed}
        sizes = await host_session.workspaces.sizes(name for name in names if name in failed)
        return needs.failed_with_room({failed[name]: size for name, size in sizes.items()})

    async def _prune(self, needs: Retention) -> None:
        """Remove old logs and mirrors here, and tidy those that are in use, from time to time."""
        now = self._clock()
        if now < self._prune_due:
            return
        self._prune_due = now + _PRUNED_EVERY
        followed = self._followed_runs

        def is_needed(run: str) -> bool:
            return run in followed or needs.is_of_open_task(run)

        await asyncio.to_thread(
            self.logs.prune,
            is_needed,
            before=now - self._keep_logs,
            most=self._keep_logs_mb * _MEBIBYTE,
        )
        await asyncio.to_thread(self._proofs.prune, is_needed)
        await self._tidy_mirrors(needs, lambda run_id: is_needed(run_of(run_id)))

    async def _tidy_mirrors(self, needs: Retention, is_needed: Callable[[str], bool]) -> None:
        used = {mirror_name(name) for name in needs.used_repos}
        if not needs.damaged:  # a task whose status cannot be read may need any
            await asyncio.to_thread(remove_unused, self._data / "repos", used, self._clock())
        for repo in needs.repos.values():
            # Whoever needs a damaged mirror finds out, and repairs it.
            with suppress(StepFailed, Unavailable, OSError):
                await self._repository(repo).tidy(is_needed)

    @property
    def _followed_runs(self) -> frozenset[str]:
        return frozenset(run for run, _ in self._tasks)

    async def _carry_out(self, order: RunRequest, emit: Emit, *, may_adopt: bool) -> None:
        def seen() -> None:
            blob = order.adapter.blob or None
            prompt = sha256(order.prompt)
            emit(RunSeen(**about, at=self._clock(), prompt_sha256=prompt, adapter_blob=blob))

        def queued(message: str) -> None:
            emit(RunQueued(**about, at=self._clock(), message=message))

        about = _Subject(task=order.task, run=order.run, round=order.round)
        _bind_log_fields(order)
        ON_RETRY.set(partial(self._note_retry, order.key))
        try:
            report = await self._report(order, seen, queued, may_adopt=may_adopt)
        finally:
            self._retries.pop(order.key, None)
            self._agent_over.discard(order.key)
            del self._tasks[order.key]  # before the event is emitted: its receiver may read `followed`
        self._tell(order, report, emit)

    def _note_retry(self, key: Key, why: str | None) -> None:
        """Remember what a step waits for, since when it does; forget it once the step succeeded."""
        if why is None:
            self._retries.pop(key, None)
        else:
            since, _ = self._retries.get(key, (asyncio.get_running_loop().time(), ""))
            self._retries[key] = since, why

    async def _report(
        self,
        order: RunRequest,
        seen: Callable[[], None],
        queued: Callable[[str], None],
        *,
        may_adopt: bool,
    ) -> Report:
        try:
            return await self._round(order, may_adopt=may_adopt).carry_out(seen, queued)
        except StepFailed as error:
            return _failure(error.kind, str(error))
        except Exception as error:
            log.exception("%s round %d: an unexpected error", order.run, order.round)
            with suppress(Exception):  # the same fault may prevent this; then a sweep ends it
                await self._round(order).cancel()
            message = self._secrets_of(order.task).mask.hide(one_line(repr(error), 5000))
            return _failure(FailureClass.HOST, f"a bug of the reconciler: {message}; its log has more")

    async def _cancel(self, order: RunRequest, emit: Emit, *, is_followed: bool) -> None:
        """End the run; its follower reports the end, unless that takes too long."""
        _bind_log_fields(order)
        try:
            await self._round(order).cancel()
            if is_followed:
                await self._end_following(order, emit)
        except StepFailed as error:
            log.warning("%s round %d cannot be stopped: %s", order.run, order.round, error)
        except Exception:
            log.exception("%s round %d cannot be stopped: an unexpected error", order.run, order.round)
        finally:
            del self._stops[order.key]
        if not is_followed:
            self.follow(order, emit)

    async def _end_following(self, order: RunRequest, emit: Emit) -> None:
        """Stop waiting for an unreachable repository once the run was stopped."""
        follower = self._tasks.get(order.key)
        if follower is None:
            return
        await asyncio.wait([follower], timeout=self._farewell)
        if follower.cancel():
            await asyncio.wait([follower])
        if follower.cancelled():
            self._tell(order, _failure(FailureClass.CANCELLED, "the run was stopped"), emit)

    def _tell(self, order: RunRequest, report: Report, emit: Emit) -> None:
        emit(RunEnded(task=order.task, run=order.run, round=order.round, at=self._clock(), report=report))

    def _round(self, order: RunRequest, *, may_adopt: bool = False) -> Round:
        return Round(
            order=order,
            host_session=self._host_session(order.host),
            repository=self._repository(order.repo) if order.repo else None,
            logs=self.logs,
            read_output=self._read_output,
            clock=self._clock,
            patience=self._patience,
            delivery_patience=self._delivery_patience,
            may_adopt=may_adopt,
            on_agent_over=partial(self._agent_over.add, order.key),
            secrets=self._secrets_of(order.task),
        )

    def _secrets_of(self, task: str) -> InjectedSecrets:
        """Return the secrets that the rounds of a task were given; the least recently used are dropped."""
        secrets = self._secrets.pop(task, None) or InjectedSecrets()
        self._secrets[task] = secrets
        while len(self._secrets) > _MOST_REMEMBERED:
            del self._secrets[next(iter(self._secrets))]
        return secrets

    def _host_session(self, host: Host) -> HostSession:
        transport = self._transports(host)
        session = self._sites.get(host.name)
        if session and session.transport is transport and is_same_place(session, host):
            return session
        host_session = open_session(
            host,
            transport,
            fleet=self._fleet,
            logs=self.logs,
            pace=self._pace(host),
            proofs=self._proofs,
        )
        self._sites[host.name] = host_session
        self._left_sites = [
            each for each in (*self._left_sites, *([session] if session else ())) if each.runs.is_busy
        ]
        return host_session

    def _repository(self, repo: Repo) -> CodeRepository:
        repository = self._repositories.get(repo.name)
        if repository is None or repository.repo != repo:
            repository = CodeRepository(repo, mirrors=self._data / "repos", fleet=self._base)
            self._repositories[repo.name] = repository
        return repository


@contextmanager
def _unavailable() -> Iterator[None]:
    """Raise Unavailable for what fails outside of a run: there is none that could fail in its place."""
    try:
        yield
    except (MergeConflict, Refused, StepFailed) as error:
        raise Unavailable(str(error)) from error


def _is_stale(run_id: str, needs: Retention) -> bool:
    return needs.is_stale(run_of(run_id), is_check=is_check(run_id))


def _failure(kind: FailureClass, message: str) -> Report:
    return Report(verdict=Verdict(outcome="failed", kind=kind, message=message))


def _bind_log_fields(order: RunRequest) -> None:
    """Let what is logged in this task name the run that it is about."""
    log_fields.bind(task=order.task, run=order.run, host=order.host.name, session=order.session_id)
