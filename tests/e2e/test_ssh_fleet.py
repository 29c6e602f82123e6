"""
A fleet of hosts over SSH, end to end: real sshd servers, real git, the program as a person starts it.

More by hand: RECONCILER_TEST_TASKS=40 RECONCILER_TEST_CUTS=100 RECONCILER_TEST_RESTARTS=2
RECONCILER_TEST_KILLS=20.
"""

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import asyncssh
import pytest

from reconciler.dispatch.ssh.connection import fingerprint
from tests import processes
from tests.dispatch.sshd import Sshd, Yard, needs_sshd, public, yard

pytestmark = needs_sshd
T = TypeVar("T")

TASKS = int(os.environ.get("RECONCILER_TEST_TASKS", "12"))
CUTS = int(os.environ.get("RECONCILER_TEST_CUTS", "12"))
"""How many connections are killed."""
RESTARTS = int(os.environ.get("RECONCILER_TEST_RESTARTS", "1"))
"""How often each sshd is started anew."""
KILLS = int(os.environ.get("RECONCILER_TEST_KILLS", "3"))
"""How often the reconciler is killed."""
SLOTS = 2
LABELS = {"h1": "gpu", "h2": "big", "h3": "arm64", "h4": "inner"}
"""What each host has that no other has."""


@pytest.fixture
def servers(tmp_path: Path):
    with yard(tmp_path / "servers") as made:
        yield made


@pytest.fixture
def fleet(playground, servers: Yard) -> Mapping[str, Sshd]:
    """Four hosts with two slots each, h4 behind h1; nothing runs on this machine itself."""
    playground.write("specs/hosts/local.yaml", "slots: 0\n")
    made = {name: servers.sshd(name) for name in LABELS}
    for server in made.values():
        enlist(playground, server)
    return made


def enlist(playground, server: Sshd, **fields: object) -> None:
    """Write the spec of the host that the server is."""
    fields |= {"slots": SLOTS, "labels": ("linux", LABELS[server.name])}
    if server.name == "h4":
        fields["jump"] = "h1"
    spec = server.host(**fields).model_dump(mode="json", exclude={"name"}, exclude_unset=True)
    lines = (f"{field}: {json.dumps(value)}\n" for field, value in spec.items())
    playground.write(f"specs/hosts/{server.name}.yaml", "".join(lines))


def most_at_once(playground) -> Mapping[str, int]:
    """Return how many runs each host had at the most, as the record tells it."""
    live, most = defaultdict[str, set[str]](set), Counter[str]()
    fields = "%x09".join(f"%(trailers:key={key},valueonly,separator=)" for key in ("Task", "To", "Host"))
    for line in playground.sh(f"git log --reverse --format='{fields}' fleet-state").splitlines():
        task, to, host = line.split("\t")
        for tasks in live.values():
            tasks.discard(task)
        if to in {"assigned", "running"}:
            live[host].add(task)
        most |= Counter({name: len(tasks) for name, tasks in live.items()})
    return most


# --- Placed well -------------------------------------------------------------


def test_tasks_with_mixed_labels_complete_and_no_host_is_ever_above_its_slots(playground, fleet):
    preferences = [*LABELS.values(), "linux"]
    for number in range(TASKS):
        playground.task(
            f"mixed/task{number}",
            f"goal: Count.\nrepo: code\nrequires: {preferences[number % len(preferences)]}\n"
            f"validation: grep -q {number} file{number}\n"
            f"script: sleep 0.5; echo {number} > file{number}\n",
        )
    playground.commit()

    playground.reconciler("run", "--until-idle")

    assert playground.phases() == {f"mixed/task{number}": "completed" for number in range(TASKS)}
    assert most_at_once(playground) == dict.fromkeys(LABELS, SLOTS)
    for number in range(TASKS):
        work = playground.sh(f"git show task/mixed/task{number}:file{number}", cwd=playground.code)
        assert work == f"{number}\n"


def test_a_label_that_no_host_has_is_explained_host_by_host(playground, fleet):
    playground.task("nowhere", "goal: Wait.\nrequires: [linux, tpu]\nscript: echo never\n")
    playground.commit()

    playground.reconciler("run", "--until-idle")

    why = "; ".join(f"{name} lacks tpu" for name in LABELS)
    assert playground.phases() == {"nowhere": "created"}
    assert why in playground.reconciler("describe", "nowhere")
    assert why in playground.reconciler("plan")
    table = playground.reconciler("explain", "task", "nowhere").split("\n\n")[-1].splitlines()
    assert [line.split(maxsplit=2) for line in table[1:5]] == [[name, "no", "lacks tpu"] for name in LABELS]


# --- Survives anything -------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_cut_restarted_and_killed_again_and_again_nothing_is_lost_and_nothing_runs_twice(playground, fleet):
    chance = random.Random(11)
    names = [f"task{number:02}" for number in range(TASKS)]
    root = playground.root
    for name in names:
        playground.task(name, printing(root, name, size=chance.randrange(1, 9000)))
    playground.commit()

    with contextlib.ExitStack() as reconcilers:
        reconcilers.enter_context(playground.serving())
        deeds = [*["cut"] * CUTS, *list(fleet) * RESTARTS, *["kill"] * KILLS]
        chance.shuffle(deeds)
        for done, deed in enumerate(deeds):
            time.sleep(chance.uniform(0.1, 0.8))
            if deed == "cut":
                cut(fleet, chance)
            elif deed == "kill":
                reconcilers.close()
                reconcilers.enter_context(playground.serving())
            else:
                fleet[deed].restart()
            may_end(root, names[: TASKS * done // len(deeds)])
    may_end(root, names)
    playground.reconciler("run", "--until-idle")

    assert playground.phases() == dict.fromkeys(names, "completed")
    check_output(root, names)
    for name in names:
        assert playground.sh(f"git show task/{name}:work", cwd=playground.code) == f"{name}\n"
    assert max(most_at_once(playground).values()) <= SLOTS
    assert "Traceback" not in playground.talk


def printing(root: Path, name: str, *, size: int) -> str:
    """Return a task whose agent notes its start, and prints bytes of all kinds until it may end."""
    return (
        "goal: Print.\nrepo: code\nscript: |\n"
        f"  echo $RECONCILER_RUN >> {root}/starts\n"
        f"  while head -c {size} /dev/urandom | tee -a {root}/{name}.out\n"
        f"    head -c 10 /dev/urandom | tee -a {root}/{name}.err >&2\n"
        f"    [ ! -e {root}/{name}.end ]; do sleep 0.1; done\n"
        f"  echo {name} > work\n"
    )


def started(root: Path) -> Sequence[str]:
    """Return the runs that have started, in order."""
    starts = root / "starts"
    return starts.read_text().split() if starts.exists() else ()


def check_output(root: Path, names: Sequence[str]) -> None:
    """See that each task ran once, and that what its agent printed has come back byte for byte."""
    runs = sorted(started(root))
    assert [run.partition(".")[0] for run in runs] == names
    for name, run in zip(names, runs, strict=True):
        for stream in ("out", "err"):
            came = root / f"data/logs/{run}.r1/{stream}"
            assert came.read_bytes() == (root / f"{name}.{stream}").read_bytes(), came


def may_end(root: Path, names: Iterable[str]) -> None:
    for name in names:
        (root / f"{name}.end").touch()


def cut(fleet: Mapping[str, Sshd], chance: random.Random) -> None:
    """Kill one of the connections there are, once there is one."""
    connections = soon(lambda: [pid for server in fleet.values() for pid in server.connections()])
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice(connections), signal.SIGKILL)


def soon(look: Callable[[], T]) -> T:
    """Return what there is as soon as there is something."""
    for _ in range(2400):
        if found := look():
            return found
        time.sleep(0.05)
    pytest.fail("it does not come")


# --- Hosts come and go -------------------------------------------------------


def test_a_host_that_is_drained_while_busy_ends_what_it_has_and_takes_nothing_new(playground, fleet):
    names = ["a", "b", "c"]
    for name in names:
        playground.task(name, "requires: big\n" + printing(playground.root, name, size=100))
    playground.commit()

    with playground.serving() as reconciler:
        assert reconciler.tells("b", "→ running")
        playground.reconciler("host", "drain", "h2")
        assert reconciler.tells("c", "h2 is draining")
        assert host_state(playground, "h2") == "draining"

        may_end(playground.root, names)

        assert reconciler.tells("→ completed")
        assert reconciler.tells("→ completed")
        assert host_state(playground, "h2") == "drained"
        assert playground.phases() == {"a": "completed", "b": "completed", "c": "created"}

        playground.reconciler("host", "uncordon", "h2")

        assert reconciler.tells("c", "→ completed")


def test_a_host_that_goes_away_and_comes_back_has_its_run_taken_up_where_it_stands(playground, fleet):
    playground.task("away", "requires: big\n" + printing(playground.root, "away", size=100))
    playground.commit()

    with playground.serving() as reconciler:
        assert reconciler.tells("away", "→ running")
        fleet["h2"].stop()
        may_end(playground.root, ["away"])
        have_it_probed(playground, fleet["h2"])
        assert reconciler.tells("host h2 ", " down ")
        assert "nothing listens there" in playground.reconciler("describe", "host/h2")
        assert playground.phases() == {"away": "running"}

        fleet["h2"].start()

        assert reconciler.tells("away", "→ completed")
    check_output(playground.root, ["away"])


def test_a_run_on_a_lost_host_goes_on_elsewhere_and_the_old_one_is_stopped_once_its_host_is_back(
    playground, fleet
):
    root = playground.root
    playground.write("specs/fleet.yaml", "backoff: 1s\nlost_after: 1s\n")
    playground.task("lost", "disconnect: retry\n" + printing(root, "lost", size=100))
    playground.commit()

    with playground.serving() as reconciler:
        assert reconciler.tells("lost", "→ running")
        (first,) = soon(lambda: started(root))
        server = fleet[assigned_host(playground, "lost")]
        server.stop()
        have_it_probed(playground, server)
        assert reconciler.tells("lost", "→ assigned", "attempt 2 on h")
        assert soon(lambda: started(root)[1:])
        assert is_alive(first)

        server.start()
        have_it_probed(playground, server, weight=3)
        soon(lambda: not is_alive(first))
        may_end(root, ["lost"])

        assert reconciler.tells("lost", "→ completed")
    _, second = started(root)
    last = "git log -1 --grep '^task lost' --format='%(trailers:key=Run,valueonly)' fleet-state"
    assert playground.sh(last).strip() == second


def test_a_changed_host_key_stalls_only_that_host_until_a_person_trusts_the_new_one(playground, fleet):
    names, server = ["other", "stalled"], fleet["h2"]
    for name, label in zip(names, ("arm64", "big"), strict=True):
        playground.task(name, f"requires: {label}\n" + printing(playground.root, name, size=100))
    playground.commit()
    pinned, shown = server.key, asyncssh.generate_private_key("ssh-ed25519")

    with playground.serving() as reconciler:
        assert reconciler.tells("stalled", "→ running")
        server.use_key(shown)
        server.restart()
        may_end(playground.root, names)
        have_it_probed(playground, server, host_key=(public(pinned),))
        assert reconciler.tells("host h2 ", " down ")
        told = playground.reconciler("describe", "host/h2")
        assert f"expected {fingerprint(pinned)}" in told
        assert f"presented {fingerprint(shown)}" in told

        playground.reconciler("host", "trust", "h2", "--yes")

        assert reconciler.tells("stalled", "→ completed")
    assert playground.phases() == dict.fromkeys(names, "completed")
    check_output(playground.root, names)


def have_it_probed(playground, server: Sshd, **fields: object) -> None:
    """Touch the spec of a host: one that has changed is probed at once."""
    enlist(playground, server, **{"weight": 2.0} | fields)
    playground.commit()


def assigned_host(playground, name: str) -> str:
    (task,) = json.loads(playground.reconciler("get", "tasks", name, "-o", "json"))
    return task["status"]["assigned_host"]


def host_state(playground, name: str) -> str:
    (host,) = json.loads(playground.reconciler("get", "hosts", name, "-o", "json"))
    return host["state"]


def is_alive(run: str) -> bool:
    """Tell whether a process of the run is there, wherever it runs."""
    return bool(processes.with_variable("RECONCILER_RUN", run))


def test_a_question_is_answered_and_goes_on_in_its_workspace_behind_ssh(playground, servers: Yard):
    enlist(playground, servers.sshd("h1"))
    playground.task(
        "paint",
        "goal: Choose a colour.\nrepo: code\nrequires: gpu\nvalidation: grep -q blue colour.txt\nscript: |\n"
        '  if [ -z "$RECONCILER_ANSWER" ]; then\n'
        "    echo begun >colour.txt; echo 'Red or blue?' >\"$RECONCILER_QUESTION_FILE\"; exit\n"
        "  fi\n"
        '  echo "$RECONCILER_ANSWER" >>colour.txt\n',
    )
    playground.commit()

    playground.reconciler("run", "--until-idle")
    playground.reconciler("answer", "paint", "blue")
    playground.reconciler("run", "--until-idle")

    assert playground.sh("git show task/paint:colour.txt", cwd=playground.code) == "begun\nblue\n"
