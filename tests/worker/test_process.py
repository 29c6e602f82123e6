"""
A command of a pull agent: it and all that it started are gone when it is over.
"""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from reconciler.worker.process import end_left_over, environment, identity, records_beside, run_command
from tests import processes
from tests.dispatch.world import until

LOOP = "trap '' TERM; : {word}; while :; do sleep 0.2; done"
WAYS = {
    "a child": 'sh -c "$loop" &',
    "a session of its own": 'setsid sh -c "$loop" &',
    "nothing of its environment": 'env -i sh -c "$loop" &',
    "both": 'setsid env -i sh -c "$loop" &',
    "twice": '(env -i setsid sh -c \'(env -i setsid sh -c "$0" &)\' "$loop" &);',
    "nohup": 'nohup env -i setsid sh -c "$loop" >/dev/null 2>&1 &',
}


@pytest.fixture
def word() -> str:
    return f"command{os.getpid()}x"


def work(tmp_path: Path, command: str, word: str, records: list[str]):
    """Return the context in which a command runs; its shell has a loop that ends by KILL alone."""
    prompt = tmp_path / "prompt"
    prompt.write_text("Do it.\n")
    env = environment() | {"RECONCILER_PROMPT_FILE": str(prompt), "loop": LOOP.format(word=word)}
    output = tmp_path / "output"
    return run_command(command, folder=tmp_path, env=env, output=output, record=records.append)


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_command_started_does_not_outlive_it(tmp_path, word, way):
    async with work(tmp_path, f"{WAYS[way]} sleep 0.1; exit 3", word, []) as process:
        code = await process.wait()

    assert code == 3
    assert processes.left_with_word(word) == []


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_command_started_does_not_outlive_its_cancel(tmp_path, word, way):
    async with work(tmp_path, f"{WAYS[way]} exec sleep 600", word, []):
        await until(lambda: processes.with_word(word))

    assert processes.left_with_word(word) == []


@pytest.mark.parametrize("is_held", [True, False])
async def test_what_an_earlier_life_began_is_ended_with_all_it_started(tmp_path, word, is_held):
    records: list[str] = []
    async with work(tmp_path, f"{WAYS['a session of its own']} exec sleep 600", word, records) as process:
        await until(lambda: processes.with_word(word))
        if not is_held:
            os.kill(process.pid, signal.SIGKILL)

        await end_left_over(records[0], records_beside(tmp_path / "output"))

        assert processes.left_with_word(word) == []


async def test_a_command_ignores_no_signal_and_has_the_prompt_as_its_input(tmp_path, word):
    status = "grep -E 'SigIgn|SigBlk' /proc/self/status; cat; echo $RECONCILER_RUN_DIR"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with work(tmp_path, status, word, []) as process:
            await process.wait()
    finally:
        signal.signal(signal.SIGHUP, before)

    *masks, prompt, _ = (tmp_path / "output").read_text().splitlines()
    assert [int(line.split()[1], 16) for line in masks] == [0, 0]
    assert prompt == "Do it."


async def test_a_process_of_another_boot_is_left_alone(tmp_path):
    other = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    pid, _, born = identity(other.pid).split(" ")

    await end_left_over(f"{pid} another-boot {born}", records_beside(tmp_path / "output"))

    assert other.returncode is None
    other.kill()
    await other.wait()
