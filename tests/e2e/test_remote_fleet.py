"""A fleet behind a URL: the remote is the record."""

import signal
import subprocess
from pathlib import Path


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
        subprocess.Popen(
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
    with subprocess.Popen(
        command_line("one", *listen), env=playground.env, stdout=subprocess.PIPE, text=True
    ) as first:
        try:
            next(line for line in first.stdout if "completed" in line)
            refused = [
                subprocess.run(
                    command_line("two", *command),
                    env=playground.env,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                for command in (listen, ("run", "--once"))
            ]
        finally:
            first.kill()
    after = subprocess.run(
        command_line("two", "run", "--until-idle"),
        env=playground.env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert [done.returncode for done in refused] == [64, 64]
    assert all(
        "another reconciler serves this fleet: `reconciler serve` on " in each.stderr for each in refused
    )
    assert all(f"(pid {first.pid}, since " in each.stderr for each in refused)
    assert (after.returncode, after.stdout) == (0, "")
