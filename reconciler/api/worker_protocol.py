"""
Worker protocol: outside agents dequeue a task, send heartbeats and logs, and report the result.

Whatever an agent sends may be sent again: the same request key gets the same
task, the same piece of log is kept once, the same report is recorded once.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Literal

from reconciler.api.limits import Buckets
from reconciler.api.operation import Call, Handler, Operation, Reply, pieces
from reconciler.api.problems import TooMany
from reconciler.api.server import Closing
from reconciler.api.services import Services
from reconciler.api.views import lease_body, progress_body
from reconciler.controller.ports import FleetView, LeaseService
from reconciler.core.errors import LeaseLost, NotNow, Unavailable
from reconciler.core.events import WorkerReport
from reconciler.core.model.runs import Claim
from reconciler.core.model.status import AtWorker, LeaseRequest
from reconciler.core.runs.leases import heartbeat, holder
from reconciler.core.text import harmless
from reconciler.wire import (
    MOST_WAIT,
    DequeueRequest,
    Heartbeat,
    HeartbeatRequest,
    Lease,
    LogAck,
    LogQuery,
    Progress,
    Proposal,
    ProposalRequest,
    StartRequest,
    StatusRequest,
)

LOG_LIMIT = 8 * 1024 * 1024
"""Most bytes of log in one request."""


@dataclass(frozen=True, slots=True)
class WorkerProtocol:
    """Operations for outside agents."""

    view: FleetView
    leases: LeaseService
    services: Services
    clock: Callable[[], datetime]
    closing: Closing
    proposals: Buckets
    most: int
    """Requests that wait for a task with one token."""
    _waiting: Counter[str] = field(default_factory=Counter)

    async def dequeue(self, call: Call) -> Lease | None:
        """Give the agent a task, waiting for one if it is asked to."""
        request: DequeueRequest = call.body
        lease_request = LeaseRequest(
            agent=call.caller.agent, request_key=request.request_key, capabilities=request.capabilities
        )
        try:
            with self._counted(lease_request.agent):
                async with self.closing.limit():
                    task = await self.leases.acquire(lease_request, timedelta(seconds=request.wait))
        except TimeoutError:
            raise Unavailable("the reconciler is stopping; ask again with the same request_key") from None
        if task is None or not self._is_for(task, lease_request):
            return None
        assignment = await self.leases.assignment(task)
        if not self._is_for(task, lease_request):
            return None
        return lease_body(assignment, self.view, self.services.whole_url)

    @contextmanager
    def _counted(self, agent: str) -> Iterator[None]:
        if self._waiting[agent] >= self.most:
            raise TooMany(f"agent {agent} waits for {self.most} tasks already; wait for an answer", MOST_WAIT)
        self._waiting[agent] += 1
        try:
            yield
        finally:
            self._waiting[agent] -= 1

    def _is_for(self, task: str, lease_request: LeaseRequest) -> bool:
        """Return whether the task is still held by this lease request: it may have been lost meanwhile."""
        status = self.view.statuses.get(task)
        if status is None or not status.phase.is_live or not isinstance(status.holder, AtWorker):
            return False
        key = (lease_request.agent, lease_request.request_key)
        return (status.holder.agent, status.holder.request_key) == key

    async def start(self, call: Call) -> Progress:
        """Record that the agent has started."""
        return await self._submit(call, call.body.epoch, None)

    async def heartbeat(self, call: Call) -> Heartbeat:
        """Renew the lease, and tell the agent whether to go on."""
        fleet = self.view.desired.fleet
        desired: Literal["run", "cancel", "lost"]
        try:
            why = self.leases.heartbeat(call.name, call.caller.agent, call.body.epoch)
        except LeaseLost as lost:
            why, desired = str(lost), "lost"
        else:
            desired = "cancel" if why else "run"
        return Heartbeat(
            desired=desired,
            message=why or "",
            lease_seconds=fleet.lease.total_seconds(),
            heartbeat_seconds=heartbeat(fleet).total_seconds(),
        )

    async def log(self, call: Call) -> LogAck:
        """Append a chunk to the agent's log; the lease is renewed."""
        query: LogQuery = call.query
        run, offset = self._held(call, query.epoch), query.offset
        kept = self.services.logs.size(run)
        async for piece in pieces(call.request, LOG_LIMIT):
            kept = await self.services.logs.append(run, offset, piece)
            offset += len(piece)
        return LogAck(offset=kept)

    async def status(self, call: Call) -> Progress:
        """Record the agent's report on its work."""
        request: StatusRequest = call.body
        if request.branch is not None:
            self._require_own(call, request.epoch, request.branch)
        return await self._submit(call, request.epoch, _claim(request))

    async def propose(self, call: Call) -> Proposal:
        """Commit a proposed task to a branch for a person to review."""
        self.proposals.take(call.caller.agent)
        return await self.services.propose(call.body, call.caller.agent)

    async def _submit(self, call: Call, epoch: int, claim: Claim | None) -> Progress:
        report = WorkerReport(
            task=call.name, agent=call.caller.agent, epoch=epoch, at=self.clock(), claim=claim
        )
        return progress_body(call.name, await self.leases.submit(report))

    def _require_own(self, call: Call, epoch: int, branch: str) -> None:
        """
        Refuse a report that names the branch of another task.

        Raises NotNow, and what `holder` raises.
        """
        desired, statuses = self.view.desired, self.view.statuses
        own, status = holder(desired.tasks, statuses, call.name, call.caller.agent, epoch)
        run = status.last_run
        if branch == run.branch:
            return
        wanted = ((name, task.repo, task.branch) for name, task in desired.tasks.items())
        runs = ((name, other.run) for name, other in statuses.items())
        branches = ((name, other.repo, other.branch) for name, other in runs if other)
        for name, repo, taken in chain(wanted, branches):
            if name != own and (repo, taken) == (run.repo, branch):
                raise NotNow(
                    f"branch {branch} is that of task {name}; push your work to {run.branch} and report again"
                )

    def _held(self, call: Call, epoch: int) -> str:
        """Return the run that the agent holds, its lease renewed. Raises NotFound, NotNow, LeaseLost."""
        agent = call.caller.agent
        self.leases.heartbeat(call.name, agent, epoch)
        _, status = holder(self.view.desired.tasks, self.view.statuses, call.name, agent, epoch)
        return status.last_run.key

    @property
    def operations(self) -> Sequence[Operation]:
        """Return the operations."""
        stands = Reply("Where the task stands", Progress)
        go_on = Reply("What the agent should do; a lost lease is an answer too", Heartbeat)
        kept = Reply("How much is kept, on disk", LogAck)
        gap = f"{_LOST[409]}, or a gap in the log: see `acknowledged_offset`"
        return (
            Operation(
                method="POST",
                path="/api/v1/dequeue",
                name="dequeue",
                summary="Take a task, waiting up to 25 s for one",
                handler=self.dequeue,
                scopes=("agent",),
                body=DequeueRequest,
                answers={
                    200: Reply("The task that the agent holds now", Lease),
                    204: Reply("There is none now"),
                },
            ),
            _on_task("start", "Report that the work begins", self.start, stands, body=StartRequest),
            _on_task(
                "heartbeat",
                "Send a heartbeat, and learn whether to go on",
                self.heartbeat,
                go_on,
                body=HeartbeatRequest,
                problems={409: _LOST[409]},
            ),
            _on_task(
                "log",
                "Send a piece of the log, up to 8 MiB; what is kept already is passed over",
                self.log,
                kept,
                method="PUT",
                query=LogQuery,
                raw_body="application/octet-stream",
                problems={**_LOST, 409: gap},
            ),
            _on_task(
                "status",
                "Report what came of the work; it is checked",
                self.status,
                stands,
                body=StatusRequest,
            ),
            Operation(
                method="POST",
                path="/api/v1/proposals",
                name="propose",
                summary="Propose a task; a person decides",
                handler=self.propose,
                scopes=("agent",),
                body=ProposalRequest,
                answers={201: Reply("Where the proposal waits for a person", Proposal)},
                problems={409: "There is a task of that name"},
            ),
        )


_LOST = {
    409: "The task is not handed out to agents, or is in another phase",
    410: "The lease is lost: stop working on it, and dequeue another",
}


def _on_task(name: str, summary: str, handler: Handler, answer: Reply, **more: Any) -> Operation:
    """Return an operation of the agent that holds a task."""
    return Operation(
        name=name,
        summary=summary,
        handler=handler,
        path=f"/api/v1/tasks/{{name}}/{name}",
        scopes=("agent",),
        answers={200: answer},
        **{"method": "POST", "problems": _LOST, **more},
    )


def _claim(request: StatusRequest) -> Claim | None:
    """Return the claim in an agent's report; None while it is still at work."""
    if request.status == "running":
        return None
    return Claim(
        outcome=request.status,
        result=harmless(request.question or request.result),
        branch=request.branch,
        pull_request=request.pull_request,
        usage=request.usage,
    )
