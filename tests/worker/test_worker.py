"""
A command as a pull agent: real commands, real git, a stand-in for the reconciler.
"""

import asyncio
import os
import select
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from reconciler.core.errors import Refused, UsageError
from reconciler.wire import RepoBody, StatusRequest
from reconciler.worker import job
from reconciler.worker.client import ApiClient
from reconciler.worker.job import JobConfig
from reconciler.worker.process import identity
from reconciler.worker.slot import HeldTask, Slot
from reconciler.worker.worker import Worker
from tests import processes
from tests.processes import is_alive
from tests.worker.standin import TOKEN, StandIn, lease


@pytest.fixture
async def server():
    async with StandIn().listening() as server:
        yield server


@pytest.fixture
async def agent(server, tmp_path, monkeypatch):
    """Return how an agent is made of a command; it ends when there is no task, unless told otherwise."""
    monkeypatch.setattr(job, "_TICK", 0.01)
    numbers = count(1)

    def made(command, *, clones=True, say=lambda _: None, **changes):
        return Worker(
            **{
                "client": client,
                "means": JobConfig(command=command, clones=clones, say=say),
                "state": tmp_path / "state",
                "workdir": tmp_path / "runs",
                "until": "idle",
                "draw": lambda: f"key-{next(numbers)}",
                **changes,
            }
        )

    async def pause(_):
        await asyncio.sleep(0)

    async with ApiClient(server.url, TOKEN, tries=None, pause=pause) as client:
        yield made


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """Return a code repository with one commit, and a person to commit."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.org")
    folder = tmp_path / "origin.git"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(folder))
    git(tmp_path, "clone", "--quiet", str(folder), "seed")
    git(tmp_path / "seed", "switch", "--quiet", "--create", "main")
    git(tmp_path / "seed", "commit", "--quiet", "--allow-empty", "--message=Begin")
    git(tmp_path / "seed", "push", "--quiet", "origin", "main")
    return folder


def git(folder, *args):
    done = subprocess.run(["git", *args], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def with_repo(origin, **changes):
    return lease(repo=RepoBody(name="app", url=str(origin), base="main"), **changes)


def report(server):
    assert len(server.reports) == 1
    return server.reports[0][1]


# --- One task --------------------------------------------------------------


async def test_a_command_gets_the_prompt_and_its_output_is_the_log(server, agent):
    server.leases = [lease(prompt="Say hello.\n")]

    is_good = await agent('cat; cat "$RECONCILER_PROMPT_FILE"; echo done >&2').run()

    assert is_good
    assert server.logs["hello"] == b"Say hello.\nSay hello.\ndone\n"
    assert report(server)["status"] == "completed"
    assert report(server)["result"] == "Say hello.\nSay hello.\ndone"


async def test_a_command_knows_its_task_but_not_the_token(server, agent, monkeypatch):
    monkeypatch.setenv("RECONCILER_TOKEN", TOKEN)
    server.leases = [lease("web/fix", start_from="c" * 40)]

    await agent("env").run()

    seen = dict(line.split("=", 1) for line in server.logs["web/fix"].decode().splitlines() if "=" in line)
    assert seen["RECONCILER_TASK"] == "web/fix"
    assert seen["RECONCILER_RUN"] == "web/fix.gaaaaaaaa.a1"
    assert (seen["RECONCILER_EPOCH"], seen["RECONCILER_BRANCH"]) == ("1", "task/web/fix")
    assert seen["RECONCILER_START_FROM"] == "c" * 40
    assert "secret" not in server.logs["web/fix"].decode()


async def test_an_exit_code_other_than_0_is_a_failure_with_the_end_of_the_output(server, agent):
    server.leases = [lease()]

    is_good = await agent("echo no such file; exit 3").run()

    assert not is_good
    assert report(server)["status"] == "failed"
    assert report(server)["result"] == "exit code 3\nno such file"


@pytest.mark.parametrize(
    "command",
    [
        'echo "I used $MODEL_API_KEY"',
        'echo "I used $MODEL_API_KEY" | fold -w 11; exit 3',
        'printf \'{"result": "I used %s"}\' "$MODEL_API_KEY" >"$RECONCILER_RESULT_FILE"',
        'echo "I used $(printf %s "$MODEL_API_KEY" | base64)"',
    ],
)
async def test_what_is_reported_tells_no_secret_of_the_environment(server, agent, monkeypatch, command):
    monkeypatch.setenv("MODEL_API_KEY", "sk-aB3xYz9Q7wE5rT1uJ4")
    server.leases = [lease()]

    await agent(command).run()

    letters = "".join(filter(str.isalnum, report(server)["result"]))
    assert letters.removeprefix("exitcode3") in {"Iused", "IusedQ"}


async def test_work_to_be_reviewed_is_reported_as_such(server, agent):
    server.leases = [lease(review="pull_request")]

    await agent("true").run()

    assert report(server)["status"] == "review_pending"


async def test_a_command_can_say_more_than_its_exit_code(server, agent):
    said = '{"outcome": "released", "result": "No GPU.", "pull_request": 7, "usage": {"cost_usd": 0.5}}'
    server.leases = [lease()]

    await agent(f"printf '%s' '{said}' >\"$RECONCILER_RESULT_FILE\"; exit 1").run()

    told = report(server)
    assert (told["status"], told["result"], told["pull_request"]) == ("released", "No GPU.", 7)
    assert told["usage"]["cost_usd"] == 0.5


async def test_a_command_asks_a_person_by_a_file_and_is_told_the_answer(server, agent, monkeypatch):
    monkeypatch.setenv("MODEL_API_KEY", "sk-aB3xYz9Q7wE5rT1uJ4")
    server.leases = [lease(), lease("other", answer="That one.")]

    await agent(
        'if [ "$RECONCILER_ANSWER" ]; then echo "took $RECONCILER_ANSWER"; '
        'else echo "Which one? $MODEL_API_KEY" >"$RECONCILER_QUESTION_FILE"; exit 1; fi'
    ).run()

    [(_, asked), (_, done)] = server.reports
    assert (asked["status"], asked["result"]) == ("asks", "")
    assert asked["question"].startswith("Which one? *")
    assert "sk-" not in asked["question"]
    assert (done["status"], done["result"]) == ("completed", "took That one.")


@pytest.mark.parametrize("trick", [': >"$F"', 'mkfifo "$F"', 'mkdir "$F"', 'ln -s /dev/zero "$F"'])
async def test_what_is_no_file_with_words_asks_nobody(server, agent, trick):
    server.leases = [lease()]

    await agent(f"F=$RECONCILER_QUESTION_FILE; {trick}").run()

    assert report(server)["status"] == "completed"


async def test_a_result_that_cannot_be_read_is_a_failure_that_says_why(server, agent):
    server.leases = [lease()]

    await agent("""echo '{"outcome": "done"}' >"$RECONCILER_RESULT_FILE" """).run()

    assert report(server)["status"] == "failed"
    assert "outcome: Input should be 'completed'" in report(server)["result"]


async def test_what_the_command_leaves_running_is_ended_with_it(server, agent, tmp_path):
    server.leases = [lease()]

    await agent(f"sleep 600 >/dev/null 2>&1 & echo $! >{tmp_path}/pid").run()

    assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_a_command_that_takes_too_long_is_stopped(server, agent, tmp_path):
    server.leases = [lease(timeout_seconds=0.2)]

    await agent(f"until [ -e {tmp_path}/never ]; do sleep 0.1; done").run()

    assert report(server)["status"] == "failed"
    assert "longer than 0.2 s" in report(server)["result"]
    assert processes.left_with_word(f"{tmp_path}/never") == []


async def test_a_command_that_prints_too_much_is_stopped(server, agent, monkeypatch):
    monkeypatch.setattr(job, "MOST_OUTPUT", 2**20)
    server.leases = [lease()]

    await agent("yes").run()

    assert report(server)["status"] == "failed"
    assert "printed more than 1 MiB" in report(server)["result"]


async def test_a_log_that_is_too_long_for_the_reconciler_costs_no_work(server, agent):
    said = []
    server.leases, server.log_limit = [lease()], 3

    is_good = await agent("echo much too long", say=said.append).run()

    assert is_good
    assert report(server)["status"] == "completed"
    assert any("the log is too long" in line for line in said)


async def test_a_task_that_is_cancelled_is_given_back(server, agent):
    server.leases, server.desired = [lease(heartbeat_seconds=0.05)], "cancel"

    is_good = await agent("sleep 600").run()

    assert is_good
    assert (report(server)["status"], report(server)["result"]) == ("released", "because")


async def test_a_task_that_is_lost_is_not_reported(server, agent):
    said = []
    server.leases, server.lost = [lease(heartbeat_seconds=0.05)], True

    await agent("sleep 600", say=said.append).run()

    assert server.reports == []
    assert any("lost" in line for line in said)


async def test_a_command_that_heeds_no_signal_is_killed(server, agent, monkeypatch):
    monkeypatch.setattr("reconciler.worker.process.GRACE", 0.2)
    server.leases, server.desired = [lease(heartbeat_seconds=0.05)], "cancel"

    await agent("trap '' TERM; while :; do sleep 1; done").run()

    assert report(server)["status"] == "released"


async def test_tasks_are_taken_until_there_is_none(server, agent):
    server.leases = [lease(name) for name in ("a", "b", "c")]

    await agent("echo hi", slots=2).run()

    assert sorted(name for name, _ in server.reports) == ["a", "b", "c"]


async def test_one_task_may_be_enough(server, agent):
    server.leases = [lease("a"), lease("b")]

    await agent("true", until="once").run()

    assert [name for name, _ in server.reports] == ["a"]


async def test_lost_answers_cost_nothing(server, agent):
    server.leases, server.drops = [lease("a"), lease("b")], 6

    await agent("echo hi", slots=1).run()

    assert {name for name, _ in server.reports} == {"a", "b"}
    assert server.logs == {"a": b"hi\n", "b": b"hi\n"}


async def test_a_token_that_is_refused_ends_the_agent(server, agent):
    server.answers = [(401, {})]

    with pytest.raises(Refused):
        await agent("true").run()


# --- Its repository --------------------------------------------------------


MINE = "echo mine >>mine; git add mine; git commit -q -m Mine; "


async def test_the_branch_is_made_from_the_base_and_pushed(server, agent, origin):
    server.leases = [with_repo(origin)]

    await agent("echo hi >new && git add new && git commit --quiet -m 'Say hi'").run()

    assert report(server)["status"] == "completed"
    assert git(origin, "log", "--format=%s", "task/hello") == "Say hi\nBegin"


async def test_nothing_that_the_command_leaves_in_git_runs_outside_of_it(server, agent, origin, tmp_path):
    server.leases = [with_repo(origin)]
    trap = (
        f"printf '#!/bin/sh\\ntouch {tmp_path}/sprung\\n' >.git/hooks/pre-push; chmod +x .git/hooks/pre-push"
    )
    watch = "cp .git/hooks/pre-push .git/watch; git config core.fsmonitor .git/watch"

    await agent(f"{MINE}{trap}; {watch}").run()

    assert report(server)["status"] == "completed"
    assert not (tmp_path / "sprung").exists()


async def test_it_goes_on_from_the_commit_that_the_lease_names(server, agent, origin, tmp_path):
    seed = tmp_path / "seed"
    git(seed, "switch", "--quiet", "--create", "task/hello")
    git(seed, "commit", "--quiet", "--allow-empty", "--message=First try")
    git(seed, "push", "--quiet", "origin", "task/hello")
    server.leases = [with_repo(origin, start_from=git(seed, "rev-parse", "HEAD"))]

    await agent("echo more >>mine; git add mine; git commit --quiet -m 'As the reviewer asked'").run()

    subjects = git(origin, "log", "--format=%s", "task/hello").splitlines()
    assert subjects == ["As the reviewer asked", "First try", "Begin"]


async def test_what_somebody_else_pushed_meanwhile_is_not_overwritten(server, agent, origin, tmp_path):
    server.leases = [with_repo(origin)]
    intruder = f"git -C {tmp_path}/seed push --quiet origin main:task/hello"

    await agent(f"{MINE}env -u GIT_DIR {intruder}").run()

    assert report(server)["status"] == "failed"
    assert "could not be pushed" in report(server)["result"]
    assert git(origin, "log", "--format=%s", "task/hello") == "Begin"


async def test_a_branch_that_the_command_pushed_itself_is_fine(server, agent, origin):
    server.leases = [with_repo(origin)]

    await agent(f"{MINE}git push --quiet origin HEAD").run()

    assert report(server)["status"] == "completed"


async def test_nothing_is_pushed_for_a_lease_that_is_lost(server, agent, origin, tmp_path):
    server.leases = [with_repo(origin)]
    work = asyncio.create_task(agent(f"{MINE}cat {fifo(tmp_path)}", until="once").run())
    with await asyncio.to_thread((tmp_path / "fifo").open, "w"):
        server.lost = True

    await work

    assert server.reports == []
    assert git(origin, "branch", "--format=%(refname:short)") == "main"


CLASH = (
    "git checkout -q -b side; echo side >f; git add f; git commit -q -m S; git checkout -q -; "
    "echo mine >f; git add f; git commit -q -m M; "
)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (CLASH + "git merge -q side", "a merge is under way"),
        (CLASH + "git rebase -q side", "a rebase is under way"),
        (CLASH + "git cherry-pick side", "a cherry-pick is under way"),
        (MINE + "git bisect start -q HEAD HEAD~1", "a bisect is under way"),
        ("echo x >x; git add x; git stash -q", "changes are stashed"),
        ("git checkout -q -b mine; " + MINE + "git checkout -q -", "refs/heads/mine has 1 commits"),
        ("git checkout -q --detach; " + MINE, "HEAD has 1 commits"),
    ],
)
async def test_work_that_was_left_unfinished_has_failed_and_is_not_pushed(
    server, agent, origin, script, message
):
    server.leases = [with_repo(origin)]

    await agent(f"({script}) >/dev/null 2>&1; true").run()

    assert report(server)["status"] == "failed"
    assert message in report(server)["result"]
    assert git(origin, "branch", "--format=%(refname:short)") == "main"


async def test_work_on_another_branch_that_was_merged_is_finished(server, agent, origin):
    server.leases = [with_repo(origin)]

    await agent(f"git checkout -q -b mine; {MINE}git checkout -q -; git merge -q mine").run()

    assert report(server)["status"] == "completed"
    assert git(origin, "log", "-1", "--format=%s", "task/hello") == "Mine"


async def test_work_that_was_left_uncommitted_is_told(server, agent, origin):
    server.leases = [with_repo(origin)]

    await agent("echo hi >new").run()

    assert "uncommitted" in report(server)["result"]


async def test_a_repository_that_cannot_be_cloned_is_a_failure_without_credentials(server, agent, tmp_path):
    repo = RepoBody(name="app", url="http://me:hunter2@127.0.0.1:1/app.git", base="main")
    server.leases = [lease(repo=repo)]

    await agent("true").run()

    assert report(server)["status"] == "failed"
    assert "could not be cloned" in report(server)["result"]
    assert "hunter2" not in report(server)["result"]


async def test_cloning_may_be_left_to_the_command(server, agent, origin):
    server.leases = [with_repo(origin)]

    await agent('ls -A; echo "$RECONCILER_REPO_URL $RECONCILER_BASE"', clones=False).run()

    assert server.logs["hello"].decode() == f"{origin} main\n"


# --- Its lives -------------------------------------------------------------


async def test_when_it_is_told_to_stop_it_gives_its_task_back(server, agent, tmp_path):
    server.leases = [lease()]
    work = asyncio.create_task(agent(f"echo $$ >{tmp_path}/pid; echo up; sleep 600").run())
    await server.logged.wait()

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert report(server)["status"] == "released"
    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert list((tmp_path / "state").glob("slot-*")) == []


async def test_a_report_that_was_not_acknowledged_is_sent_by_the_next_life(server, agent, tmp_path):
    done = StatusRequest(epoch=1, status="completed", result="Done.")
    remember(tmp_path, HeldTask(request_key="k0", lease=lease(), process="1 - -", report=done))
    (tmp_path / "runs/slot-0").mkdir(parents=True)
    (tmp_path / "runs/slot-0/output.log").write_text("all of it")
    server.logs["hello"] = b"all"

    await agent("false").run()

    assert report(server)["result"] == "Done."
    assert server.logs["hello"] == b"all of it"


async def test_a_command_that_outlived_its_agent_is_ended_and_its_task_given_back(server, agent, tmp_path):
    left = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    remember(tmp_path, HeldTask(request_key="k0", lease=lease(), process=identity(left.pid)))

    await agent("true").run()

    assert await left.wait() < 0
    assert report(server)["status"] == "released"


async def test_a_process_that_only_has_the_same_number_is_left_alone(server, agent, tmp_path):
    other = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    number, boot, born = identity(other.pid).split()
    remember(tmp_path, HeldTask(request_key="k0", lease=lease(), process=f"{number} {boot} {int(born) - 1}"))

    await agent("true").run()

    assert other.returncode is None
    other.kill()
    await other.wait()


async def test_a_dequeue_whose_answer_was_lost_is_asked_again_with_the_same_key(server, agent, tmp_path):
    remember(tmp_path, HeldTask(request_key="k0"))
    server.held["k0"] = lease("mine")

    await agent("echo hi").run()

    assert [name for name, _ in server.reports] == ["mine"]


async def test_slots_that_are_not_there_any_more_are_finished_too(server, agent, tmp_path):
    remember(tmp_path, HeldTask(request_key="k5", lease=lease("fifth")), number=5)

    await agent("true").run()

    assert [(name, told["status"]) for name, told in server.reports] == [("fifth", "released")]


async def test_two_agents_do_not_share_a_state_folder(server, agent, tmp_path):
    server.leases = [lease()]
    first = asyncio.create_task(agent(f"echo up; cat {fifo(tmp_path)}").run())
    await server.logged.wait()

    with pytest.raises(UsageError, match="--state-dir"):
        await agent("true").run()

    await asyncio.to_thread((tmp_path / "fifo").write_text, "")
    await first


async def test_a_state_that_cannot_be_read_says_what_to_do(agent, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/slot-0.json").write_text("{}")

    with pytest.raises(UsageError, match="remove it"):
        await agent("true").run()


def test_a_command_never_begins_if_its_agent_dies_before_it_is_on_record(tmp_path):
    program = (
        "import asyncio, os, pathlib\n"
        "from reconciler.worker.process import run_command\n"
        "def die(process):\n"
        "    print(process, flush=True)\n"
        "    os._exit(0)\n"
        "async def main():\n"
        "    folder = pathlib.Path.cwd()\n"
        "    output = folder / 'log'\n"
        "    command = run_command(\n"
        "        'touch begun', folder=folder, env=os.environ, output=output, record=die)\n"
        "    async with command:\n"
        "        pass\n"
        "asyncio.run(main())\n"
    )
    env = {**os.environ, "RECONCILER_PROMPT_FILE": "/dev/null", "PYTHONPATH": str(Path.cwd())}

    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, check=True, stdout=-1)
    wait_for_end(int(done.stdout.split()[0]))

    assert not (tmp_path / "begun").exists()


def wait_for_end(pid):
    """Wait for the end of a process that is not our child."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([handle], [], [], 30)
    os.close(handle)


def remember(tmp_path, held, number=0):
    (tmp_path / "state").mkdir()
    Slot(tmp_path / "state", number).write(held)


def fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"
