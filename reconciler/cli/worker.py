"""
A pull agent on this machine: `agent pull`.
"""

import asyncio
import logging
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler import clock
from reconciler.cli.context import default_data_dir
from reconciler.cli.exits import ExitCode
from reconciler.cli.folders import NamedFolder
from reconciler.cli.help import examples
from reconciler.cli.streams import LineWriter, LogHandler
from reconciler.cli.worker_options import ca_option, need_token, token_option, url_option

if TYPE_CHECKING:
    from reconciler.worker.worker import Worker, WorkUntil


@click.group(epilog=examples("reconciler agent pull --token-file jeeves.token --command ./work.sh"))
def agent() -> None:
    """Work as an outside agent: take tasks from a reconciler over HTTP."""


@agent.command(
    epilog=examples(
        "reconciler agent pull --token-file jeeves.token --command ./work.sh",
        "reconciler agent pull --url https://fleet.example.org --token-file jeeves.token --command ./work.sh",
    )
)
@url_option
@token_option
@ca_option
@click.option("--command", required=True, metavar="SHELL-TEXT", help="What is run for each task.")
@click.option(
    "--state-dir",
    type=NamedFolder(),
    help="State that must survive restarts; a folder under ~/.local/state/reconciler if left out.",
)
@click.option(
    "--workdir",
    type=NamedFolder(),
    help="Folder in which each slot has a folder for its runs; within the state folder if left out.",
)
@click.option(
    "--capability",
    "capabilities",
    multiple=True,
    metavar="LABEL",
    help="Take only tasks for these labels, of those in the agent's spec; may be repeated.",
)
@click.option(
    "--slots", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many tasks at once."
)
@click.option("--no-clone", is_flag=True, help="Leave cloning and pushing to the command.")
@click.option("--once", is_flag=True, help="Take one task, waiting for it if there is none, and end.")
@click.option("--until-idle", is_flag=True, help="End when there is no task.")
def pull(
    *,
    url: str,
    token_file: Path | None,
    ca: Path | None,
    command: str,
    state_dir: Path | None,
    workdir: Path | None,
    capabilities: tuple[str, ...],
    slots: int,
    no_clone: bool,
    once: bool,
    until_idle: bool,
) -> int:
    """
    Take tasks and run a command for each.

    The command is shell text. It runs in a clone of the task's repository, on
    the task's branch, which is pushed when it exits 0; without a repository, in
    an empty folder. The prompt is its input, and in the file that
    RECONCILER_PROMPT_FILE names. What it prints is the log of the run; its exit
    code says whether the work is done. See docs/pull-agents.md.

    SIGTERM and Ctrl-C end the commands and give their tasks back. Exits 5 if a
    task failed (--once, --until-idle).
    """
    from reconciler.tls import Authorities
    from reconciler.worker.client import ApiClient
    from reconciler.worker.job import JobConfig
    from reconciler.worker.worker import Worker

    if once and until_idle:
        raise click.UsageError("--once and --until-idle exclude each other")
    if once and slots > 1:
        raise click.UsageError("--once takes one task; --slots says otherwise")
    line_writer = LineWriter()
    logging.basicConfig(level=logging.WARNING, handlers=[LogHandler(line_writer)])
    until: WorkUntil = "once" if once else "idle" if until_idle else "stopped"
    state = (state_dir or default_data_dir(url) / "agent").resolve()

    async def run() -> bool:
        trusted = Authorities(str(ca) if ca else None)
        async with ApiClient(url, need_token(token_file), authorities=trusted, tries=None) as client:
            worker = Worker(
                client=client,
                means=JobConfig(command=command, clones=not no_clone, say=line_writer.tell),
                state=state,
                workdir=(workdir or state / "runs").resolve(),
                capabilities=capabilities,
                slots=slots,
                until=until,
                draw=lambda: clock.random_hex(12),
            )
            return await _until_told(worker)

    try:
        return ExitCode.OK if asyncio.run(run()) else ExitCode.ENDED_BADLY
    finally:
        line_writer.close()


async def _until_told(worker: "Worker") -> bool:
    """Run the worker until it ends by itself or by a signal."""
    work = asyncio.create_task(worker.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: work.cancelling() or work.cancel())
    with suppress(asyncio.CancelledError):
        return await work
    return True
