"""A fleet behind a URL: the remote is the record."""

import asyncio
import json
import signal
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2

from tests.e2e.served import API, PATIENCE, eventually
from tests.forking import Process, run


def remote_of(playground) -> str:
    remote = playground.root / "remote.git"
    playground.sh(f"git init -q --bare -b main {remote} && git remote add origin file://{remote}")
    return f"file://{remote}"


def test_two_reconcilers_on_one_remote_start_every_task_once(playground):
    starts = playground.root / "starts"
    url = remote_of(playground)
    playground.write("specs/fleet.yaml", "poll_interval: 1s\n")
    for number in range(8):
        playground.task(f"t{number}", f"goal: Count.\nscript: echo $RECONCILER_RUN >> {starts}; sleep 1\n")
    playground.commit()
    playground.sh("git push -q origin main")

    served = [
        Process(
            playground.command("--repo", url, "--data-dir", str(playground.root / name), "run"),
            env=playground.env,
            stdout=subprocess.DEVNULL,
        )
        for name in ("one", "two")
    ]
    try:
        playground.reconciler(
            "--repo", url, "--data-dir", str(playground.root / "three"), "run", "--until-idle"
        )
    finally:
        for process in served:
            process.send_signal(signal.SIGTERM)
        for process in served:
            process.wait(20)

    lines = starts.read_text().split()
    phases = playground.sh(f"git -C {Path(url.removeprefix('file://'))} log --format=%s fleet-state")
    assert len(lines) == len(set(lines)) == 8
    assert phases.count("running → completed") == 8


def test_a_push_is_noticed_and_its_record_is_on_the_remote(playground):
    url = remote_of(playground)
    playground.task("greet", "goal: Greet.\nscript: echo hi\n")
    playground.commit()
    playground.sh("git push -q origin main")

    playground.reconciler("--repo", url, "run", "--until-idle")
    playground.sh("git fetch -q origin")

    assert "task greet: running → completed" in playground.sh("git log --format=%s origin/fleet-state")
    assert "completed" in playground.reconciler("--repo", url, "history", "greet")


def test_a_person_suspends_a_task_of_a_remote_fleet(playground):
    url = remote_of(playground)
    playground.task("later", "# mind the gap\ngoal: Later.\nscript: echo hi\n")
    playground.commit()
    playground.sh("git push -q origin main")

    playground.reconciler("--repo", url, "suspend", "later")
    playground.sh("git pull -q origin main")

    spec = (playground.fleet / "specs/tasks/later.yaml").read_text()
    assert spec.startswith("# mind the gap\n")
    assert "desired: suspended" in spec


def test_a_second_serve_on_one_remote_is_refused_and_follows_once_the_first_was_killed(playground):
    url = remote_of(playground)
    playground.task("greet", "goal: Greet.\nscript: echo hi\n")
    playground.commit()
    playground.sh("git push -q origin main")

    def command_line(data, *command):
        return playground.command("--repo", url, "--data-dir", str(playground.root / data), *command)

    listen = ("serve", "--listen", "127.0.0.1:0")
    with Process(
        command_line("one", *listen), env=playground.env, stdout=subprocess.PIPE, text=True
    ) as first:
        try:
            next(line for line in first.stdout if "completed" in line)
            refused = [
                run(command_line("two", *command), env=playground.env, capture_output=True, text=True)
                for command in (listen, ("run", "--once"))
            ]
        finally:
            first.kill()
    after = run(
        command_line("two", "run", "--until-idle"), env=playground.env, capture_output=True, text=True
    )

    assert [done.returncode for done in refused] == [64, 64]
    assert all(
        "another reconciler serves this fleet: `reconciler serve` on " in each.stderr for each in refused
    )
    assert all(f"(pid {first.pid}, since " in each.stderr for each in refused)
    assert (after.returncode, after.stdout) == (0, "")


def test_a_paused_leader_that_wakes_under_another_does_no_harm(playground):
    starts = playground.root / "starts"
    url = remote_of(playground)
    playground.task("count", f"goal: Count.\nscript: echo $RECONCILER_RUN >> {starts}\n")
    playground.task("pull", "goal: Pull.\nexecution_mode: http_pull\n")
    playground.commit()
    token = playground.reconciler("token", "new", "jeeves").strip()
    playground.sh("git push -q origin main")

    def serve(data, *options):
        command = playground.command("--repo", url, "--data-dir", str(playground.root / data), "serve")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return Process([*command, "--listen", "127.0.0.1:0", *options], env=playground.env, **pipes)

    def address(process):
        line = next(line for line in process.stdout if line.startswith("listening on "))
        return line.removeprefix("listening on ").strip() + API

    def ask(place, **body):
        headers = {"Authorization": f"Bearer {token}"}
        return httpx2.post(place, json=body, headers=headers, trust_env=False, timeout=PATIENCE)

    def heard(place):
        answer = ask(place, epoch=1)
        return None if answer.status_code == 503 else answer

    done = {"epoch": 1, "status": "completed", "result": "Done."}
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        first = stack.enter_context(serve("one"))
        stack.callback(first.kill)
        at_first = address(first)
        next(line for line in first.stdout if "→ completed" in line)
        lease = ask(f"{at_first}/dequeue", request_key="one", wait=20).json()
        first.send_signal(signal.SIGSTOP)
        unanswered = threads.submit(ask, f"{at_first}/tasks/pull/status", **done)
        second = stack.enter_context(serve("two", "--take-over"))
        stack.callback(second.kill)
        at_second = address(second)
        beat = asyncio.run(eventually(lambda: heard(f"{at_second}/tasks/pull/heartbeat")))
        report = ask(f"{at_second}/tasks/pull/status", **done)
        first.send_signal(signal.SIGCONT)
        last_words, _ = first.communicate()
        answer = unanswered.result()

    subjects = playground.sh("git fetch -q origin && git log --format=%s origin/fleet-state").splitlines()
    counts = Counter(subjects)
    assert (lease["task"], lease["epoch"]) == ("pull", 1)
    assert (beat.json()["desired"], report.json()["phase"]) == ("run", "completed")
    assert answer.status_code in {200, 503}  # the same report twice is one; or it was told to ask again
    assert first.returncode == 64
    assert "another reconciler took over: `reconciler serve` on " in last_words
    assert len(starts.read_text().split()) == 1
    assert counts["task pull: created → assigned"] == counts["task pull: running → completed"] == 1
    assert json.loads(playground.reconciler("--repo", url, "verify", "-o", "json"))["is_sound"]
