"""
MCP server for agents: `mcp`.
"""

import asyncio
from pathlib import Path

import click

from reconciler import clock
from reconciler.cli.extras import MCP, install_command
from reconciler.cli.help import examples
from reconciler.cli.worker_options import (
    TokenFile,
    ca_option,
    find_token,
    need_token,
    token_option,
    url_option,
)
from reconciler.core.errors import UsageError


@click.command(
    epilog=examples(
        "reconciler mcp --token-file jeeves.token",
        "reconciler mcp --url https://fleet.example.org --token-file jeeves.token",
    )
)
@url_option
@token_option
@ca_option
@click.option(
    "--http",
    metavar="127.0.0.1:PORT",
    help="Listen there for streamable HTTP, at /mcp; stdin and stdout if left out.",
)
def mcp(url: str, token_file: Path | None, ca: Path | None, http: str | None) -> None:
    """
    Serve a reconciler's tasks to an agent as MCP tools.

    Over stdin and stdout it speaks for the one agent whose token it is given,
    and renews the leases of the tasks taken until the session ends. Over HTTP
    every caller is known by its own `Authorization: Bearer` header; a token
    given here speaks for who sends none. See docs/pull-agents.md.
    """
    try:
        import reconciler.worker.mcp  # noqa: F401 - looked for before anything is opened
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: {install_command(MCP)}") from None
    if http is None:
        asyncio.run(_stdio(url, need_token(token_file), ca))
    else:
        asyncio.run(_http(url, find_token(token_file), ca, *_address(http)))


async def _stdio(url: str, token: str | TokenFile, ca: Path | None) -> None:
    from reconciler.tls import Authorities
    from reconciler.worker.client import ApiClient
    from reconciler.worker.lease_renewer import LeaseRenewer
    from reconciler.worker.mcp import Tools, make_server

    trusted = Authorities(str(ca) if ca else None)
    async with ApiClient(url, token, authorities=trusted) as client, LeaseRenewer() as renewer:
        await make_server(Tools(client, renewer, _draw)).run_stdio_async()


async def _http(url: str, token: str | TokenFile | None, ca: Path | None, host: str, port: int) -> None:
    from reconciler.tls import Authorities
    from reconciler.worker.client import ApiClient
    from reconciler.worker.lease_renewer import LeaseRenewer
    from reconciler.worker.mcp import QUIET_SECONDS, Tools, make_server, serve_http

    trusted = Authorities(str(ca) if ca else None)
    async with ApiClient(url, token, authorities=trusted) as client, LeaseRenewer(QUIET_SECONDS) as renewer:
        server = make_server(Tools(client, renewer, _draw))
        await serve_http(server, host, port, lambda address: click.echo(f"listening on {address}", err=True))


def _address(text: str) -> tuple[str, int]:
    """Return host and port; only loopback addresses are allowed."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if host not in _LOOPBACK or not port.isdecimal() or int(port) > _MOST_PORT:
        raise UsageError(
            f"--http {text} is no address of this machine alone, such as 127.0.0.1:8421: agents elsewhere "
            "run `reconciler mcp` where they are, with --url"
        )
    return host, int(port)


_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_MOST_PORT = 65535


def _draw() -> str:
    return clock.random_hex(12)
