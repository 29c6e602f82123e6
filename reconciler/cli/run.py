"""
The command that reconciles.
"""

import asyncio
import logging
import sys
from dataclasses import replace

import click

from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode


@click.command()
@click.option("--once", is_flag=True, help="Start what can start now, then end; runs go on by themselves.")
@click.option("--until-idle", is_flag=True, help="End when nothing more happens by itself.")
@click.option("--take-over", is_flag=True, help="Local runs of a machine that is gone for good start here.")
@click.option("-v", "--verbose", is_flag=True, help="Say more of what it does.")
@click.pass_obj
def run(context: Context, *, once: bool, until_idle: bool, take_over: bool, verbose: bool) -> int:
    """
    Reconcile: bring about what the specs ask for, and record every step.

    Serves until it is told to stop (SIGTERM, Ctrl-C); live runs go on without
    it, and the next `run` takes them up.
    """
    from reconciler.cli.progress import is_bad_end, line
    from reconciler.controller.ports import Step
    from reconciler.serve import Until, serve

    if once and until_idle:
        raise click.UsageError("--once and --until-idle exclude each other")
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    until: Until = "started" if once else "idle" if until_idle else "stopped"
    ended_badly = False

    def show(step: Step) -> None:
        nonlocal ended_badly
        ended_badly |= is_bad_end(step)
        click.echo(line(step))

    asyncio.run(serve(replace(context.settings, take_over=take_over), until=until, on_step=show))
    return ExitCode.ENDED_BADLY if until_idle and ended_badly else ExitCode.OK
