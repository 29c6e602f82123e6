"""A fleet of several reconcilers: real processes over one remote."""

import contextlib
import json
import subprocess
from collections import Counter

from tests.e2e.test_remote_fleet import remote_of
from tests.forking import Process

TASKS = 10


@contextlib.contextmanager
def shard(playground, url, name):
    """Run the reconciler of a shard as long as the block lasts; it ends by SIGKILL."""
    process = Process(
        playground.command("--repo", url, "run", "--shard", name),
        env=playground.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield iter(process.stdout.readline, "")
    finally:
        process.kill()
        process.communicate()


def read_until(lines, *words, times=1):
    """Read what a reconciler prints until so many lines have all of these words."""
    for line in lines:
        times -= all(word in line for word in words)
        if not times:
            return
    raise AssertionError(f"it ended before it said {words}")


def test_two_shards_start_every_task_once_though_one_is_killed_and_a_task_moves(playground):
    starts, url = playground.root / "starts", remote_of(playground)
    playground.write("specs/fleet.yaml", "poll_interval: 1s\nshards:\n  a: {tasks: [a]}\n  b: {tasks: [b]}\n")
    for name in ("a", "b"):
        playground.write(f"specs/hosts/{name}.yaml", f"shard: {name}\nslots: {TASKS}\n")
        for number in range(TASKS):
            script = f"echo $RECONCILER_RUN >> {starts}"
            playground.task(f"{name}/t{number}", f"goal: Count {name}{number}.\nscript: {script}\n")
    playground.commit()
    playground.sh("git push -q origin main")
    playground.reconciler("--repo", url, "run", "--until-idle")  # it divides the fleet, and has no task

    with shard(playground, url, "b") as others:
        with shard(playground, url, "a") as lines:
            read_until(lines, "a/t0 ", "created → assigned")
        playground.sh("git mv specs/tasks/a/t9.yaml specs/tasks/b/moved.yaml")
        playground.commit()
        playground.sh("git push -q origin main")
        read_until(others, "running → completed", times=TASKS)
        playground.reconciler("--repo", url, "run", "--shard", "a", "--until-idle")

    runs = starts.read_text().split()
    assert Counter(run.split(".g")[1] for run in runs) == Counter({run.split(".g")[1]: 1 for run in runs})
    assert len(runs) == 2 * TASKS
    tasks = json.loads(playground.reconciler("--repo", url, "get", "tasks", "-o", "json"))
    assert {task["phase"] for task in tasks} == {"completed"}
    assert {task["name"]: task["shard"] for task in tasks}["b/moved"] == "a"
    assert Counter(task["shard"] for task in tasks) == {"a": TASKS, "b": TASKS}
