"""
MCP server: the worker protocol as tools of the Model Context Protocol.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from reconciler import __version__
from reconciler.core.errors import ReconcilerError
from reconciler.core.fields import Branch, Frozen, Name, Text
from reconciler.core.model.status import Phase
from reconciler.wire import (
    MOST_TEXT,
    MOST_WAIT,
    DequeueRequest,
    Heartbeat,
    Lease,
    Number,
    Progress,
    Proposal,
    ProposalRequest,
    StatusRequest,
    TaskBody,
)
from reconciler.worker.client import ApiClient
from reconciler.worker.lease_renewer import LeaseRenewer

INSTRUCTIONS = """\
Tasks of a fleet of agents. To work on one: call dequeue_task; do what the `prompt` of the lease \
says, on the branch that it names, and push that branch; then call update_task with `completed` (or \
`review_pending`, where `review` is not `none`) and a few sentences on what you did. Report `failed` \
with the reason if it cannot be done, `released` to give it back undone. Where only a person can say what \
is wanted, call ask_person: you get the task back with the answer. What you say is finished is \
checked. Your lease is renewed for you while you work; call append_log now and then with what you \
are doing, and stop when an answer says `cancel` or `lost`."""

QUIET_SECONDS = 1800.0
"""Seconds over HTTP, where nothing tells that an agent is gone: after this silence its lease runs out."""

MOST_SESSIONS = 200
"""Sessions over HTTP at a time: agents seldom close theirs."""

Ctx = Context[Any, Any]
TaskName = Annotated[Name, Field(description="Name of the task, such as `web/fix-login`.")]
EpochGiven = Annotated[int, Field(ge=1, description="`epoch` of the lease that you were given.")]


class Dequeued(Frozen):
    """What came of asking for a task."""

    lease: Lease | None
    """The task that you hold now; null if there is none for you."""
    message: str
    """What to do now."""


class Logged(Frozen):
    """What came of writing to the log."""

    offset: int
    """Bytes of it that are kept, on disk."""
    desired: Literal["run", "cancel", "lost"]
    """`run`: go on. `cancel`: stop and report `released`. `lost`: stop; the task is not yours any more."""
    message: str
    """Why."""


class Tools:
    """
    The tools offered to agents.

    Over HTTP each speaks with the token that it sends; `client` speaks for who
    sends none. `draw` returns a name that nobody drew before.
    """

    def __init__(self, client: ApiClient, renewer: LeaseRenewer, draw: Callable[[], str]) -> None:
        self._client = client
        self._renewer = renewer
        self._draw = draw
        self._logging = asyncio.Lock()

    async def dequeue_task(
        self,
        ctx: Ctx,
        capabilities: Annotated[
            list[Text], Field(description="Labels you have now, of those in your spec; all of them if empty.")
        ] = [],  # noqa: B006 - a schema needs a plain default, and nothing changes it
        wait: Annotated[
            float, Field(ge=0, le=MOST_WAIT, description="Seconds to wait for a task if there is none.")
        ] = 0,
    ) -> Dequeued:
        """Take a task to work on; you hold it then, and others do not get it."""
        client = self._client_of(ctx)
        request = DequeueRequest(capabilities=tuple(capabilities), wait=wait, request_key=self._draw())
        with _tool_errors():
            lease = await client.dequeue(request)
            if lease is None:
                return Dequeued(lease=None, message="There is no task for you now; ask again later.")
            self._renewer.keep(client, lease)
            await client.start(lease.task, lease.epoch)
        message = "Do what `prompt` says, then call update_task with this task and epoch."
        return Dequeued(lease=lease, message=message)

    async def heartbeat(self, ctx: Ctx, task: TaskName, epoch: EpochGiven) -> Heartbeat:
        """Ask whether to go on with a task that you hold, and say that you are at work on it."""
        with _tool_errors():
            answer = await self._client_of(ctx).heartbeat(task, epoch)
        if answer.desired != "lost":  # otherwise it may be another agent's, whose lease this must not prolong
            self._renewer.touch(task, epoch)
        return answer

    async def update_task(
        self,
        ctx: Ctx,
        *,
        task: TaskName,
        epoch: EpochGiven,
        status: Annotated[
            Literal["running", "review_pending", "completed", "failed", "released"],
            Field(
                description="`running`: you are at work. `completed`, `review_pending`: done, and the "
                "branch is pushed. `failed`: it cannot be done. `released`: given back undone."
            ),
        ],
        result: Annotated[
            str, Field(max_length=MOST_TEXT, description="What you did and why, or why it cannot be done.")
        ] = "",
        branch: Annotated[
            Branch | None, Field(description="Branch that you pushed, if not the one of the lease.")
        ] = None,
        pull_request: Annotated[
            Number | None, Field(description="Number of the pull request, if you opened one yourself.")
        ] = None,
    ) -> Progress:
        """Report what came of a task that you hold; everything but `running` ends your hold."""
        report = StatusRequest(
            epoch=epoch, status=status, result=result, branch=branch, pull_request=pull_request
        )
        with _tool_errors():
            progress = await self._client_of(ctx).status(task, report)
        if status == "running":
            self._renewer.touch(task, epoch)
        else:
            self._renewer.release(task, epoch)
        return progress

    async def ask_person(
        self,
        ctx: Ctx,
        task: TaskName,
        epoch: EpochGiven,
        question: Annotated[
            str, Field(pattern=r"\S", max_length=MOST_TEXT, description="What you need to know, and why.")
        ],
    ) -> Progress:
        """
        Ask a person about a task that you hold; that ends your hold.

        Push what you want to keep first. Once it is answered, dequeue_task gives you the task again, with
        question and answer in its prompt.
        """
        report = StatusRequest(epoch=epoch, status="asks", question=question)
        with _tool_errors():
            progress = await self._client_of(ctx).status(task, report)
        self._renewer.release(task, epoch)
        return progress

    async def append_log(
        self,
        ctx: Ctx,
        task: TaskName,
        epoch: EpochGiven,
        text: Annotated[str, Field(min_length=1, max_length=MOST_TEXT, description="Lines to add.")],
    ) -> Logged:
        """Add lines to the log of a task that you hold, for the people who follow it."""
        client = self._client_of(ctx)
        with _tool_errors():
            async with self._logging:  # each piece begins where the one before it ended
                kept = await client.log(task, epoch, 0, b"")
                kept = await client.log(task, epoch, kept, text.rstrip("\n").encode() + b"\n")
            answer = await client.heartbeat(task, epoch)
        self._renewer.touch(task, epoch)
        return Logged(offset=kept, desired=answer.desired, message=answer.message)

    async def list_tasks(
        self,
        ctx: Ctx,
        phase: Annotated[Phase | None, Field(description="Only tasks in this phase.")] = None,
        limit: Annotated[int, Field(ge=1, le=1000, description="Most tasks, by name.")] = 50,
    ) -> list[TaskBody]:
        """List tasks and where they stand: those that you hold, or all if your token has scope `read`."""
        with _tool_errors():
            return list(await self._client_of(ctx).tasks(phase=phase, limit=limit))

    async def get_task(self, ctx: Ctx, task: TaskName) -> TaskBody:
        """Show one task: what is asked for, where it stands, what it waits for."""
        with _tool_errors():
            return await self._client_of(ctx).task(task)

    async def propose_task(
        self,
        ctx: Ctx,
        *,
        name: Annotated[Name, Field(description="Name of the new task, such as `web/fix-login`.")],
        goal: Annotated[
            str, Field(min_length=1, max_length=20_000, description="What should be true when it is done.")
        ],
        title: Annotated[str | None, Field(min_length=1, max_length=200, description="One line.")] = None,
        repo: Annotated[Text | None, Field(description="Code repository, by its name in the fleet.")] = None,
        constraints: Annotated[list[str], Field(description="Rules to keep, a sentence each.")] = [],  # noqa: B006 - as above
        validation: Annotated[list[str], Field(description="Commands that must exit 0 on the work.")] = [],  # noqa: B006 - as above
        depends_on: Annotated[list[Name], Field(description="Tasks that must be completed first.")] = [],  # noqa: B006 - as above
    ) -> Proposal:
        """Propose a new task; a person decides on it by merging the branch that it is put on."""
        request = ProposalRequest(
            name=name,
            goal=goal,
            title=title,
            repo=repo,
            constraints=tuple(constraints),
            validation=tuple(validation),
            depends_on=tuple(depends_on),
        )
        with _tool_errors():
            return await self._client_of(ctx).propose(request)

    def _client_of(self, ctx: Ctx) -> ApiClient:
        """Return a client that speaks for whoever calls."""
        scheme, _, token = ((ctx.headers or {}).get("authorization") or "").partition(" ")
        if scheme.lower() != "bearer":
            return self._client
        with _tool_errors():
            return self._client.speaking_for(token.strip())


@contextmanager
def _tool_errors() -> Iterator[None]:
    """Turn errors into tool errors that tell the agent what to do now."""
    try:
        yield
    except ReconcilerError as error:
        raise ToolError(str(error)) from None


def make_server(tools: Tools) -> MCPServer[Any]:
    """Return the MCP server with these tools."""
    server: MCPServer[Any] = MCPServer(
        "reconciler", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING"
    )
    for reads in (tools.list_tasks, tools.get_task):
        server.add_tool(reads, annotations=ToolAnnotations(read_only_hint=True))
    for writes in (
        tools.dequeue_task,
        tools.heartbeat,
        tools.update_task,
        tools.ask_person,
        tools.append_log,
        tools.propose_task,
    ):
        server.add_tool(writes, annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False))
    return server


async def serve_http(
    server: MCPServer[Any],
    host: str,
    port: int,
    on_address: Callable[[str], None],
    *,
    idle: float = QUIET_SECONDS,
    most: int = MOST_SESSIONS,
) -> None:
    """
    Serve over streamable HTTP until a signal ends it; `on_address` is told where (port 0: any that is free).

    A session without a request for `idle` seconds ends; while `most` are open,
    another is told to come again later. Requests whose Host header names another
    machine are refused (DNS rebinding).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        shown = f"[{host}]" if ":" in host else host
        on_address(f"http://{shown}:{listening.getsockname()[1]}/mcp")
        app = server.streamable_http_app(host=host, session_idle_timeout=idle, max_sessions=most)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        await uvicorn.Server(config).serve(sockets=[listening])
