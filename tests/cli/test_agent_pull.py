"""
`agent pull` as a process: it stops, it is killed, and its next life goes on.
"""

import asyncio
import secrets
import signal
import sys

import pytest
from click.testing import CliRunner

from reconciler.cli.exits import ExitCode
from reconciler.cli.main import cli
from tests.processes import is_alive
from tests.worker.standin import TOKEN, StandIn, lease


@pytest.fixture
async def server():
    async with StandIn().listening() as server:
        yield server


@pytest.fixture
def token(server):
    """Draw a token of this test alone: other processes of this machine may have anything in theirs."""
    server.token = secrets.token_hex(16)
    return server.token


@pytest.fixture
async def pull(server, token, tmp_path):
    """Return how the command is begun; what is left of it at the end is killed."""
    (tmp_path / "token").write_text(f"{token}\n")
    begun = []

    async def begin(command, *args):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "reconciler", "agent", "pull", "--url", server.url),
            *("--token-file", str(tmp_path / "token"), "--state-dir", str(tmp_path / "state")),
            *("--command", command, *args),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_takes_a_task_says_so_and_ends(server, pull):
    server.leases = [lease("web/fix")]

    process = await pull("cat", "--until-idle")
    said, stderr = await process.communicate()

    assert (process.returncode, stderr) == (0, b"")
    assert said.decode().splitlines() == [
        "web/fix: taken as web/fix.gaaaaaaaa.a1",
        "web/fix: reported completed: Say hello.",
    ]


async def test_a_failed_task_is_told_by_the_exit_code(server, pull):
    server.leases = [lease()]

    process = await pull("exit 7", "--once")
    await process.communicate()

    assert process.returncode == 5


async def test_the_token_is_in_no_argument_and_no_environment(server, pull, token):
    server.leases = [lease()]

    process = await pull("cat /proc/*/cmdline /proc/self/environ 2>/dev/null | tr '\\0' '\\n'", "--once")
    await process.communicate()

    assert b"agent\npull\n" in server.logs["hello"]
    assert token.encode() not in server.logs["hello"]


async def test_sigterm_ends_the_command_and_gives_its_task_back(server, pull):
    server.leases = [lease()]
    process = await pull("echo up; sleep 600")
    await server.logged.wait()

    process.send_signal(signal.SIGTERM)
    await process.communicate()

    assert process.returncode == 0
    assert [told["status"] for _, told in server.reports] == ["released"]


async def test_after_a_kill_the_next_life_ends_the_command_and_goes_on(server, pull, tmp_path):
    server.leases = [lease()]
    first = await pull(f"echo $$ >{tmp_path}/pid; echo up; sleep 600")
    await server.logged.wait()
    first.kill()
    await first.communicate()
    left = int((tmp_path / "pid").read_text())
    assert is_alive(left)

    server.leases = [lease(epoch=2)]
    second = await pull("true", "--until-idle")
    await second.communicate()

    assert not is_alive(left)
    assert [(told["epoch"], told["status"]) for _, told in server.reports] == [
        (1, "released"),
        (2, "completed"),
    ]


async def test_a_reconciler_that_is_away_is_waited_for(server, pull):
    server.leases, server.answers = [lease()], [(503, {"Retry_After": "0"})]

    process = await pull("true", "--once")
    _, stderr = await process.communicate()

    assert process.returncode == 0
    assert b"answered 503: not now; trying again" in stderr


async def test_a_token_that_is_exchanged_in_its_file_is_good_from_the_next_request_on(server, pull, tmp_path):
    server.leases = [lease()]
    rotate = f"cd {tmp_path}; printf new-token >fresh && mv fresh token; touch rotated"
    process = await pull(f"{rotate}; while [ ! -e known ]; do sleep 0.01; done", "--once")
    while not (tmp_path / "rotated").exists():  # noqa: ASYNC110  other processes set no events
        await asyncio.sleep(0.01)
    server.token = "new-token"
    (tmp_path / "known").touch()

    await process.communicate()

    assert process.returncode == 0
    assert [told["status"] for _, told in server.reports] == ["completed"]


async def test_a_token_that_is_refused_is_told_by_the_exit_code(server, pull, tmp_path):
    (tmp_path / "token").write_text("rct_jeeves.other")

    process = await pull("true")
    _, stderr = await process.communicate()

    assert process.returncode == 4
    assert stderr.startswith(b"error: this token is not known here; `reconciler doctor`")


async def test_a_token_file_that_is_no_text_is_told(pull, tmp_path):
    (tmp_path / "token").write_bytes(b"\x96\x00\xff")

    process = await pull("true")
    _, stderr = await process.communicate()

    assert process.returncode == ExitCode.USAGE
    assert stderr.startswith(b"error: the token is empty, or not the one line")


# --- Calls that cannot work ------------------------------------------------


def run(*args, **env):
    return CliRunner().invoke(cli, args, prog_name="reconciler", env=env, catch_exceptions=False)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("agent", "pull", "--command", "x"), "--token-file"),
        (("agent", "pull", "--command", "x", "--once", "--until-idle"), "exclude each other"),
        (("agent", "pull", "--command", "x", "--once", "--slots", "2"), "--slots"),
        (("agent", "pull"), "--command"),
        (("mcp",), "--token-file"),
        (("mcp", "--http", "0.0.0.0:8421"), "this machine alone"),
        (("mcp", "--http", "127.0.0.1"), "this machine alone"),
        (("mcp", "--http", "127.0.0.1:99999"), "this machine alone"),
    ],
)
def test_a_call_that_cannot_work_says_what_to_do(args, said):
    done = run(*args)

    assert (done.exit_code, done.stdout) == (64, "")
    assert said in done.stderr


def test_a_state_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()

    done = run(
        *("agent", "pull", "--command", "x", "--state-dir", str(tmp_path / "file/state")),
        RECONCILER_TOKEN=TOKEN,
    )

    assert done.exit_code == 64
    assert "--state-dir" in done.stderr


def test_tools_without_the_extra_say_how_to_install_it(monkeypatch):
    for name in [name for name in sys.modules if name == "reconciler.worker.mcp" or name.startswith("mcp")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)

    done = run("mcp", RECONCILER_TOKEN=TOKEN)

    assert done.exit_code == 64
    assert "install 'mcp>=2.0'" in done.stderr
