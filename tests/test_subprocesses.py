"""
Subprocesses that are given up: at any moment, and whatever they started.
"""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE

import pytest

from reconciler.subprocesses import end, start
from tests import processes

LEFT = """
import asyncio, sys
from asyncio.subprocess import PIPE
from reconciler.subprocesses import start

async def main():
    beginning = asyncio.create_task(start("sleep", sys.argv[2], stdin=PIPE, stdout=PIPE, stderr=PIPE))
    for _ in range(int(sys.argv[1])):
        await asyncio.sleep(0)

asyncio.run(main())
"""


@pytest.mark.parametrize("steps", range(10))
def test_a_program_ends_that_ends_while_a_process_is_being_started(steps):
    number = f"60.{steps}0471"

    done = subprocess.run([sys.executable, "-c", LEFT, str(steps), number], timeout=60, check=False)

    assert done.returncode == 0
    assert processes.left_with_word(number) == []


@pytest.mark.parametrize("steps", range(10))
async def test_a_start_that_is_cancelled_leaves_no_process(steps):
    number = f"60.{steps}0472"
    starting = asyncio.create_task(start("sleep", number, stdin=PIPE, stdout=PIPE, stderr=PIPE))
    for _ in range(steps):
        await asyncio.sleep(0)

    starting.cancel()
    await asyncio.wait([starting])

    if not starting.cancelled():
        await end(starting.result())
    assert processes.left_with_word(number) == []


async def test_the_end_of_a_process_is_not_waited_for_where_another_one_holds_its_pipes():
    other = "setsid sh -c 'echo it; exec sleep 20.0473'"  # no word of the first one stands in its line
    process = await start("sh", "-c", f"{other} & exec sleep 60.0473", stdout=PIPE)
    await process.stdout.readline()

    await end(process)

    assert processes.left_with_word("60.0473") == []
    assert process.returncode is not None
    for pid in processes.with_word("20.0473"):
        os.kill(pid, signal.SIGKILL)


async def test_ending_a_process_takes_its_end_from_nobody_who_waits_for_it(caplog):
    for _ in range(100):
        process = await start("sleep", "100", stdout=PIPE)

        await end(process)

        assert process.returncode == -signal.SIGKILL
    assert caplog.text == ""
