"""
What every transport owes its callers; collected by the tests that bring a `transport` fixture.
"""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from reconciler.core.errors import Unavailable
from reconciler.dispatch.transport import Transport

HOSTILE = bytes(range(256)) + b"'\"`$(touch gone)`\n\r\n\\'x; touch gone; #\0\xff!!\n"


async def test_the_exit_code_is_that_of_the_command(transport: Transport):
    for code in (0, 1, 7, 125, 126, 127, 143, 255):
        answer = await transport.call(("sh", "-s"), f"exit {code}".encode(), timeout=300)

        assert answer.exit_code == code


async def test_a_command_ended_by_a_signal_answers_as_a_shell_would(transport: Transport):
    answer = await transport.call(("sh", "-s"), b"kill -9 $$", timeout=300)

    assert answer.exit_code == 137


async def test_stdin_arrives_byte_for_byte(transport: Transport):
    sent = HOSTILE * 4000

    answer = await transport.call(("cat",), sent, timeout=60)

    assert answer.stdout == sent


async def test_stdin_that_is_empty_has_an_end(transport: Transport):
    answer = await transport.call(("cat",), timeout=300)

    assert (answer.exit_code, answer.stdout) == (0, b"")


async def test_a_command_need_not_read_its_stdin(transport: Transport):
    answer = await transport.call(("true",), os.urandom(3_000_000), timeout=300)

    assert answer.exit_code == 0


async def test_stdout_and_stderr_are_whole_and_apart(transport: Transport):
    script = b"head -c 700000 /dev/zero; printf end; head -c 600000 /dev/zero >&2; printf err >&2"

    answer = await transport.call(("sh", "-s"), script, timeout=60)

    assert answer.stdout == bytes(700_000) + b"end"
    assert answer.stderr == bytes(600_000) + b"err"


async def test_the_home_of_the_host_may_stand_in_a_word(transport: Transport):
    answer = await transport.call(("echo", "$HOME/runs"), timeout=300)

    assert answer.stdout.startswith(b"/")
    assert answer.stdout.endswith(b"/runs\n")


async def test_a_word_that_some_shell_may_misread_is_not_sent(transport: Transport):
    for word in ("a b", "$(id)", "a;b", "`id`", "a\nb", "'a'", "", "a|b", "ä", "a\n"):
        with pytest.raises(ValueError, match="command line"):
            await transport.call(("echo", word), timeout=300)


async def test_a_command_that_takes_too_long_is_doubt_and_the_next_one_works(transport: Transport):
    await transport.call(("true",), timeout=300)
    with pytest.raises(Unavailable, match=r"sleep 300"):
        await transport.call(("sleep", "300"), timeout=1)

    answer = await transport.call(("echo", "next"), timeout=300)
    assert answer.stdout == b"next\n"


async def test_many_calls_at_once_all_get_their_own_answer(transport: Transport):
    answers = await asyncio.gather(
        *(transport.call(("echo", f"call-{number}"), timeout=60) for number in range(40))
    )

    assert [answer.stdout for answer in answers] == [f"call-{number}\n".encode() for number in range(40)]


async def test_a_missing_file_reads_as_empty(transport: Transport, tmp_path: Path):
    assert await transport.read(str(tmp_path / "nothing"), 0, 100) == b""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
async def test_a_file_that_cannot_be_read_is_no_empty_file(transport: Transport, tmp_path: Path):
    (tmp_path / "locked").write_bytes(b"here")
    (tmp_path / "locked").chmod(0)

    with pytest.raises(Unavailable):
        await transport.read(str(tmp_path / "locked"), 0, 100)


async def test_a_folder_in_the_place_of_a_file_blocks_nobody_and_has_no_content(
    transport: Transport, tmp_path: Path
):
    with suppress(Unavailable):
        assert await transport.read(str(tmp_path), 0, 100) == b""


async def test_a_file_is_read_from_any_offset_up_to_a_limit(transport: Transport, tmp_path: Path):
    file = tmp_path / "a file's $name"
    file.write_bytes(HOSTILE)

    assert await transport.read(str(file), 0, 10_000) == HOSTILE
    assert await transport.read(str(file), 100, 7) == HOSTILE[100:107]
    assert await transport.read(str(file), len(HOSTILE) - 3, 100) == HOSTILE[-3:]
    assert await transport.read(str(file), len(HOSTILE), 100) == b""
    assert await transport.read(str(file), len(HOSTILE) + 50, 100) == b""


@pytest.mark.parametrize("limit", [255 * 1024, 255 * 1024 + 1, 2_000_000, 10_000_000])
async def test_a_large_file_is_read_in_one_piece_or_in_many(transport: Transport, tmp_path: Path, limit: int):
    data = os.urandom(3_500_000)
    file = tmp_path / "large"
    file.write_bytes(data)

    got = b""
    while piece := await transport.read(str(file), len(got), limit):
        assert len(piece) <= limit
        got += piece

    assert got == data


async def test_a_file_that_grows_is_read_on_from_where_it_ended(transport: Transport, tmp_path: Path):
    file = tmp_path / "log"
    file.write_bytes(b"one")
    assert await transport.read(str(file), 0, 100) == b"one"
    assert await transport.read(str(file), 3, 100) == b""

    with file.open("ab") as log:
        log.write(b"two")

    assert await transport.read(str(file), 3, 100) == b"two"
