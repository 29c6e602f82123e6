"""
One round of a run, from its order to its report.

Every step may be taken again from the top, after a crash at any moment: what
was done is found on the host under its name, and is not done twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

from reconciler.core.adapter import Adapter
from reconciler.core.command import localize
from reconciler.core.fields import format_duration
from reconciler.core.model import Check, FailureClass, Order, Report, Verdict
from reconciler.dispatch.logs import Logs
from reconciler.dispatch.merging import Clash
from reconciler.dispatch.protocol import RunState, Stage, agent_id, agent_job, validation_id, validation_job
from reconciler.dispatch.repos import CodeRepository
from reconciler.dispatch.runs import Bounds, Ending
from reconciler.dispatch.secrets import find_secrets, hide, host_secrets, spellings
from reconciler.dispatch.site import Site
from reconciler.dispatch.steps import StepFailed, persist
from reconciler.dispatch.validation import read_checks
from reconciler.dispatch.workspace import Prepared, Taken, Unfinished

T = TypeVar("T")
_MEBIBYTE = 2**20
DELIVERY_PATIENCE = 1800.0
"""Seconds for which the repository may be away when work is brought to it, before the round fails."""
CANCELLED = "cancelled"
"""Why a run was ended, in the wrapper's records, when it was asked for."""
GONE = "gone"
"""The same, when its folder was removed while it went on."""
_REMOVED = "see who removes files below `workdir`"
_ENDED: Mapping[str, tuple[FailureClass, str]] = {
    "timeout": (
        FailureClass.TIMEOUT,
        "the agent took longer than {timeout} and was stopped; raise `timeout`, or ask for less at once",
    ),
    "stall": (
        FailureClass.STALL,
        "the agent printed nothing for {stall} and was stopped; raise `stall_timeout` if that is its way",
    ),
    "output": (
        FailureClass.AGENT,
        "the agent printed more than {output} MiB and was stopped; see its log, or raise `limits.output_mb`",
    ),
    CANCELLED: (FailureClass.CANCELLED, "the run was stopped"),
    GONE: (FailureClass.HOST, f"host {{host}}: the run's folder was removed under it; {_REMOVED}"),
    "workspace": (FailureClass.HOST, f"host {{host}}: the workspace was gone before the start; {_REMOVED}"),
    "cli": (
        FailureClass.CONFIG,
        "host {host}: {program} is not there; install it, or name its `path` under the host's `adapters`",
    ),
    "secret": (FailureClass.AUTH, "host {host}: a secret could not be had; the run's stderr has more"),
}
_UNKNOWN: Mapping[Stage, str] = {
    Stage.LOST: "the run is over and nobody could write down how: its processes were killed from outside, "
    "or the disk is full; see `dmesg` and `df` there",
    Stage.REBOOTED: "the host was started anew while the run went on; see why in its log",
}


class ReadOutput(Protocol):
    """Makes a verdict of what an agent's CLI printed."""

    def __call__(
        self, adapter: Adapter, *, stdout: bytes, stderr: bytes, exit_code: int, order: Order, now: datetime
    ) -> Verdict:
        """Return the verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """An order, and what it takes to carry it out."""

    order: Order
    site: Site
    repository: CodeRepository | None
    logs: Logs
    read_output: ReadOutput
    clock: Callable[[], datetime]
    patience: float
    """Seconds for which a host or repository may be away before the agent was started."""
    delivery_patience: float = DELIVERY_PATIENCE

    async def carry_out(self, seen: Callable[[], None]) -> Report:
        """Return what came of the round; `seen` is called when the agent is seen alive."""
        try:
            prepared, state = await self._begin()
            if state.stage.is_alive:
                seen()
            state = await self._follow_agent(state)
        except StepFailed as error:
            return Report(verdict=failed(Verdict(outcome="failed"), error))
        secrets = await spellings(self.order.adapter)
        verdict = await asyncio.to_thread(self._judge, state, secrets)  # hundreds of MiB, perhaps
        try:
            return await self._report(prepared, verdict, secrets)
        except StepFailed as error:
            return Report(verdict=failed(verdict, error), base_commit=prepared.base, touched=error.touched)

    async def validate(self) -> tuple[Check, ...]:
        """
        Run the validation alone, once, on the commit that the order starts from; return what came of it.

        Raises StepFailed, Refused and Unavailable.
        """
        prepared = await self.site.workspaces.prepare(self.order, self.repository)
        return await self._validate(prepared)

    async def cancel(self) -> None:
        """End what runs, and prevent what has not been started, of the agent and of the validation."""
        runs = self.site.runs
        await persist(lambda: runs.cancel(self._agent, CANCELLED, self._ending))
        await persist(lambda: runs.cancel(self._validation, CANCELLED, self._ending))

    # --- The agent ----------------------------------------------------------

    async def _begin(self) -> tuple[Prepared, RunState]:
        """
        Start the agent in its workspace, unless it was started before.

        The host is asked that first, as long as it takes: only of an agent that
        was not started may we say after a while that it cannot be.
        """
        runs, workspaces = self.site.runs, self.site.workspaces
        standing = await persist(lambda: runs.stat([self._agent]))
        state = standing.states[self._agent]
        if state.stage not in {Stage.ABSENT, Stage.UNSTARTED}:
            return await persist(lambda: workspaces.find(self.order)), state
        prepared = await persist(
            lambda: workspaces.prepare(self.order, self.repository), patience=self.patience
        )
        if self.repository is not None and self.order.round == 1:  # before an agent is paid
            way_back = partial(self.repository.see_way_back, self.order.branch, self.order.expected_head)
            await persist(way_back, patience=self.patience)
        stdin = b"" if self.order.adapter.prompt == "argument" else self.order.prompt.encode()
        return prepared, await self._start(self._agent, await self._agent_job(prepared), stdin)

    async def _agent_job(self, prepared: Prepared) -> str:
        order, adapter = self.order, self.order.adapter
        prompt_file = f"{prepared.run_folder}/prompt"
        offered = (order.host.adapters or {}).get(adapter.name)
        return agent_job(
            localize(order.argv, workdir=prepared.folder, prompt_file=prompt_file),
            env=self._environment() | await find_secrets(adapter),
            folder=prepared.folder,
            path=offered.path if offered else None,
            prompt_file=prompt_file if adapter.prompt == "file" else None,
            more=host_secrets(adapter.secrets),
        )

    async def _follow_agent(self, state: RunState) -> RunState:
        bounds = Bounds(silence=self.order.stall_timeout.total_seconds(), output=self._most_output)
        return await self._follow(self._agent, state, bounds)

    def _judge(self, state: RunState, secrets: tuple[bytes, ...]) -> Verdict:
        """Return the agent's verdict; where the host knows better than the output, the host's."""
        if state.exit_code is None:
            return failed(Verdict(outcome="failed"), self._unknown(state))
        verdict = self.read_output(
            self.order.adapter,
            stdout=hide(self.logs.read(self._agent, "out"), secrets),
            stderr=hide(self.logs.read(self._agent, "err"), secrets),
            exit_code=state.exit_code,
            order=self.order,
            now=self.clock(),
        )
        verdict = verdict.model_copy(
            update={"usage": verdict.usage.model_copy(update={"seconds": state.seconds})}
        )
        was_done = verdict.outcome == "success" and state.why != CANCELLED
        return verdict if was_done or state.why == "exit" else failed(verdict, self._ended(state.why))

    # --- What it leaves -----------------------------------------------------

    async def _report(self, prepared: Prepared, verdict: Verdict, secrets: tuple[bytes, ...]) -> Report:
        if verdict.outcome == "failed":
            return Report(verdict=await self._keep_work(prepared, verdict), base_commit=prepared.base)
        taken = await self._take_up(prepared)
        if isinstance(taken, Unfinished):  # a round for the agent, as below; nothing of it is validated
            return Report(verdict=verdict, checks=(taken.check(),), base_commit=prepared.base)
        checks = await self._validate(prepared, secrets)
        report = Report(verdict=verdict, checks=checks, base_commit=prepared.base)
        if report.failed_check or taken is None or self.repository is None:
            return report
        if taken.head == taken.base:  # nothing new: after a review, what was reviewed stands
            return report.model_copy(update={"head_commit": self.order.start_from})
        try:
            head, commits = await self._deliver(taken, prepared, self.repository)
        except Clash as clash:  # a round for the agent, as if a command of the validation had failed
            check = clash.check(self.repository.repo.base)
            return report.model_copy(update={"checks": (*checks, check)})
        return report.model_copy(update={"head_commit": head, "commits": commits})

    async def _keep_work(self, prepared: Prepared, verdict: Verdict) -> Verdict:
        """Commit, on the host, what a failed agent left; that it cannot be done is no news but a note."""
        try:
            taken = await self._take_up(prepared)
        except StepFailed as error:
            return verdict.model_copy(update={"notes": (*verdict.notes, str(error))})
        left = taken.lines if isinstance(taken, Unfinished) else ()
        return verdict.model_copy(update={"notes": (*verdict.notes, *left)})

    async def _take_up(self, prepared: Prepared) -> Taken | Unfinished | None:
        if self.order.repo is None:
            return None
        if prepared.base is None:
            raise StepFailed(
                FailureClass.AGENT,
                f"host {self.order.host.name}: the repository in the workspace {prepared.folder} is gone or "
                "damaged; tell the agent to leave `.git` alone",
            )
        taken = await persist(lambda: self.site.workspaces.take_up(self.order))
        return taken if isinstance(taken, Unfinished) else replace(taken, base=prepared.base)

    async def _validate(self, prepared: Prepared, secrets: tuple[bytes, ...] = ()) -> tuple[Check, ...]:
        order = self.order
        if not order.validation:
            return ()
        job = validation_job(
            order.validation, env=self._environment(), folder=prepared.folder, shell=order.host.shell
        )
        state = await self._start(self._validation, job)
        bounds = Bounds(output=self._most_output)
        state = await self._follow(self._validation, state, bounds)
        if state.exit_code is None:
            raise self._unknown(state)
        if state.why in {CANCELLED, GONE}:
            raise self._ended(state.why)
        return read_checks(
            order.validation,
            self.logs.read(self._validation, "err"),
            hide(self.logs.read(self._validation, "out"), secrets),
            seconds=state.seconds,
        )

    async def _deliver(self, taken: Taken, prepared: Prepared, repository: CodeRepository) -> tuple[str, int]:
        """Bring the work back, check it, push it; return what its branch holds then, and how many commits."""
        base, order = taken.base, self.order
        there = f"{taken.head} in {prepared.folder}, on host {order.host.name}"
        await self._reach(lambda: repository.check_base(base, order.start_from), there)
        bundle = await persist(lambda: self.site.workspaces.bundle(order, base))
        head = await persist(lambda: repository.receive(bundle, self._agent))
        if head != taken.head:
            raise self._at_fault(
                f"it spoke of {taken.head} and sent {head}; see what changes the workspace after the agent"
            )
        commits = await persist(lambda: repository.check(base, head))
        push = (
            partial(self.site.workspaces.push, order, repository) if repository.repo.push == "host" else None
        )
        here = f"{head} in {repository.folder}, on the machine of the reconciler"
        delivered = await self._reach(
            lambda: repository.deliver(head, order.branch, order.expected_head, push, stack=order.stack), here
        )
        return delivered, commits

    async def _reach(self, step: Callable[[], Awaitable[T]], kept: str) -> T:
        """Take a step that needs the forge; if it cannot be taken, say which commit is kept where."""
        try:
            return await persist(step, patience=self.delivery_patience)
        except StepFailed as error:
            words = f"{error}; the work is kept: commit {kept}"
            raise StepFailed(error.kind, words, touched=error.touched) from error

    # --- Common to both -----------------------------------------------------

    async def _start(self, run_id: str, job: str, stdin: bytes = b"") -> RunState:
        timeout = self.order.timeout.total_seconds()
        return await persist(
            lambda: self.site.runs.start(run_id, job, stdin, timeout=timeout, ending=self._ending)
        )

    async def _follow(self, run_id: str, state: RunState, bounds: Bounds) -> RunState:
        """Wait for the end of a run; one that goes on without its folder is ended, as it cannot be found."""
        runs = self.site.runs
        state = await runs.follow(run_id, state, bounds, self._ending)
        if state.stage in {Stage.ABSENT, Stage.UNSTARTED}:
            state = await persist(lambda: runs.cancel(run_id, GONE, self._ending))
        return state

    def _environment(self) -> dict[str, str]:
        order = self.order
        return {
            **order.host.env,
            **order.adapter.env,
            **order.env,
            "RECONCILER_TASK": order.task,
            "RECONCILER_RUN": order.run,
            "RECONCILER_ROUND": str(order.round),
            "RECONCILER_BRANCH": order.branch,
        }

    def _ended(self, why: str) -> StepFailed:
        kind, message = _ENDED.get(why, (FailureClass.HOST, "host {host}: the run was ended there: {why}"))
        words = message.format(
            host=self.order.host.name,
            program=self.order.argv[0],
            why=why,
            timeout=format_duration(self.order.timeout),
            stall=format_duration(self.order.stall_timeout),
            output=self.order.adapter.limits.output_mb,
        )
        return StepFailed(kind, words)

    def _unknown(self, state: RunState) -> StepFailed:
        words = f"the run is {state.stage}, and how it ended is not known"
        return self._at_fault(_UNKNOWN.get(state.stage, words))

    def _at_fault(self, words: str) -> StepFailed:
        return StepFailed(FailureClass.HOST, f"host {self.order.host.name}: {words}")

    @property
    def _agent(self) -> str:
        return agent_id(self.order.run, self.order.round)

    @property
    def _validation(self) -> str:
        return validation_id(self.order.run, self.order.round)

    @property
    def _ending(self) -> Ending:
        stop = self.order.adapter.stop
        return Ending(signal=stop.signal, grace=stop.grace.total_seconds())

    @property
    def _most_output(self) -> int:
        return self.order.adapter.limits.output_mb * _MEBIBYTE


def failed(verdict: Verdict, error: StepFailed) -> Verdict:
    """Return the verdict of a round in which a step failed."""
    return verdict.model_copy(update={"outcome": "failed", "kind": error.kind, "message": str(error)})
