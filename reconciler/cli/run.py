"""
Commands that reconcile: `run`, `serve`.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.log_format import LogFormat, formatter, log_format_option, notice_json, step_json
from reconciler.cli.streams import LineWriter, LogHandler
from reconciler.core.model.specs import Desired
from reconciler.core.names import DEFAULT_SHARD
from reconciler.settings import Settings, Web

if TYPE_CHECKING:
    from reconciler.core.model.status import Status

_SHOWN = 5
"""Runs that are listed at the end."""
LISTEN = "127.0.0.1:8420"

_take_over = click.option(
    "--take-over", is_flag=True, help="Restart here the local runs of a machine that is gone for good."
)


def _file_option(name: str, purpose: str) -> Callable[[Any], Any]:
    """Return the option of a file that must be there; a variable may name it too."""
    return click.option(
        name,
        type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
        envvar=f"RECONCILER_{name.strip('-').replace('-', '_').upper()}",
        show_envvar=True,
        metavar="FILE",
        help=purpose,
    )


_allowed_signers = _file_option(
    "--allowed-signers",
    "Act only on specs signed by one of these, or by a GPG key of this user: git's allowed signers.",
)
_signing_key = _file_option(
    "--signing-key",
    "SSH key with which the reconciler signs its own commits, to the specs and to the record.",
)
_shard = click.option(
    "--shard",
    default=DEFAULT_SHARD,
    envvar="RECONCILER_SHARD",
    show_envvar=True,
    metavar="NAME",
    help="Reconcile this part of the fleet, of `shards` in specs/fleet.yaml; else what none of them has.",
)
_verbose = click.option("-v", "--verbose", is_flag=True, help="Log more.")


@click.command(
    epilog=examples(
        "reconciler run",
        "reconciler run --until-idle   # in a script",
        "reconciler --repo ssh://git@code.example.org/fleet.git run",
    )
)
@click.option("--once", is_flag=True, help="Start what can start now, then end; runs go on by themselves.")
@click.option("--until-idle", is_flag=True, help="End when nothing more happens by itself.")
@_shard
@_take_over
@_allowed_signers
@_signing_key
@_verbose
@log_format_option
@click.pass_obj
def run(
    context: Context,
    /,
    *,
    once: bool,
    until_idle: bool,
    shard: str,
    verbose: bool,
    log_format: LogFormat,
    **trust: Any,
) -> int:
    """
    Reconcile: bring the fleet to what its specs say, and record every step.

    Serves until it is told to stop (SIGTERM, Ctrl-C); live runs go on without
    it, and the next `run` takes them up. Outside agents and webhooks need
    `reconciler serve`. With --once or --until-idle it exits 1 if the specs have
    mistakes, and with --until-idle 5 if a task ended badly.
    """
    from reconciler.controller.loop import StopWhen

    if once and until_idle:
        raise click.UsageError("--once and --until-idle exclude each other")
    until: StopWhen = "started" if once else "idle" if until_idle else "stopped"
    settings = replace(context.settings, shard=shard, data_dir=context.data_of(shard), **trust)
    ended = _serve(settings, verbose=verbose, log_format=log_format, until=until)
    if ended.steps == 0 and until != "stopped":
        click.echo(_nothing(ended), err=True)
    if until_idle and ended.is_bad:
        return ExitCode.ENDED_BADLY
    return ExitCode.FAILURE if until != "stopped" and ended.mistakes else ExitCode.OK


def _nothing(ended: "_Summary") -> str:
    """Return why nothing happened."""
    waiting = f"; {ended.waiting} waiting (`reconciler get tasks` says for what)" if ended.waiting else ""
    count = f"{ended.mistakes} mistake{'s' * (ended.mistakes != 1)}"
    broken = f"; {count} in the specs (`reconciler validate`)" if ended.mistakes else ""
    return f"nothing to do{waiting}{broken}"


@click.command(
    epilog=examples(
        "reconciler serve",
        "reconciler serve --listen 0.0.0.0:8420 --behind-proxy --public-url https://fleet.example.org",
    )
)
@click.option(
    "--listen", default=LISTEN, show_default=True, metavar="HOST:PORT", help="Where to listen for HTTP."
)
@click.option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Its private key, PEM.")
@click.option(
    "--behind-proxy",
    is_flag=True,
    help="It is behind a proxy that terminates TLS and forwards the peers' addresses.",
)
@click.option(
    "--public-url",
    default="",
    metavar="URL",
    help="URL by which others reach it; links on forges point there.",
)
@_shard
@_take_over
@_allowed_signers
@_signing_key
@_verbose
@log_format_option
@click.pass_obj
def serve_command(
    context: Context,
    /,
    *,
    shard: str,
    take_over: bool,
    allowed_signers: Path | None,
    signing_key: Path | None,
    verbose: bool,
    log_format: LogFormat,
    public_url: str,
    **listen: Any,
) -> int:
    """
    Reconcile, and serve the HTTP API for outside agents and webhooks.

    The API is described at /api/v1/openapi.json. A public address is refused
    without TLS files, or --behind-proxy.
    """
    web = Web(public_url=public_url.rstrip("/"), **listen)
    settings = replace(
        context.settings,
        shard=shard,
        data_dir=context.data_of(shard),
        take_over=take_over,
        allowed_signers=allowed_signers,
        signing_key=signing_key,
        web=web,
    )
    _serve(settings, verbose=verbose, log_format=log_format, until="stopped")
    return ExitCode.OK


class _Summary(NamedTuple):
    """Summary of a reconciler that ended."""

    steps: int
    """Number of recorded steps."""
    is_bad: bool
    """Whether a task ended badly."""
    mistakes: int
    """Number of mistakes in the specs at the end."""
    waiting: int
    """Tasks that wait for something."""


def _serve(settings: Settings, *, verbose: bool, log_format: LogFormat, **how: Any) -> _Summary:
    """Reconcile and print every step; return a summary."""
    from reconciler.cli.progress import bad_end_lines, is_bad_end, line
    from reconciler.controller.loop import Loop
    from reconciler.controller.ports import Step
    from reconciler.dispatch.environ import close_memory
    from reconciler.serve.process import reconcile as serve_fleet

    close_memory()
    line_writer = LineWriter()
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        handlers=[LogHandler(line_writer, formatter(log_format))],
    )
    steps, bad_ends = 0, 0
    loops: list[Loop] = []

    def show(step: Step) -> None:
        nonlocal steps, bad_ends
        steps += 1
        bad_ends += is_bad_end(step)
        if log_format == "json":
            line_writer.tell(step_json(step, loops[0].cache.desired if loops else Desired()))
            return
        line_writer.tell(line(step))
        if loops and (why := bad_end_lines(step, loops[0].cache.desired, settings.data_dir)):
            line_writer.tell(why)

    def say(message: str, *, err: bool = True) -> None:
        line_writer.tell(notice_json(message, clock.now()) if log_format == "json" else message, err=err)

    def listen(url: str) -> None:
        say(f"listening on {url}", err=False)

    def stopping(number: int) -> None:
        if number == signal.SIGINT:
            say("ending; once more ends at once")

    tells: dict[str, Any] = {"on_step": show, "on_listen": listen, "on_signal": stopping}
    try:
        with _plain_interrupt():
            ended = asyncio.run(serve_fleet(settings, on_loop=loops.append, **tells, **how))
        if summary := _what_goes_on(ended.cache.statuses):
            say(summary)
    finally:
        line_writer.close()
    problems, waiting = ended.cache.desired.problems, ended.cache.waiting
    return _Summary(steps, bool(bad_ends), len(problems), len(waiting))


@contextmanager
def _plain_interrupt() -> Iterator[None]:
    """
    Let SIGINT kill the process as usual, until the reconciler handles it itself.

    asyncio makes a cancellation of it, and one that comes while a fleet is
    being opened may get lost: then nothing would end.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # the parent set another one: `nohup`, a test
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _what_goes_on(statuses: "Mapping[str, Status]") -> str:
    """Return a message about the runs that go on, and how to see them again; empty if there are none."""
    live = [
        f"{name} on {status.assigned_host}"
        for name, status in sorted(statuses.items())
        if status.phase.is_live and status.assigned_host
    ]
    if not live:
        return ""
    some = ", ".join(live[:_SHOWN]) + (f" and {len(live) - _SHOWN} more" if len(live) > _SHOWN else "")
    return (
        f"{len(live)} {'run goes' if len(live) == 1 else 'runs go'} on without the reconciler: {some}; "
        "the next `reconciler run` takes up what came of them, `reconciler cancel TASK` stops one then"
    )
