"""What power losses, crashes and people leave behind stalls itself and nothing else."""

import contextlib
import shutil
import subprocess
import time

import pytest


def _empty(path):
    path.write_bytes(b"")


def _rubbish(path):
    path.write_bytes(b"\0\xff\x1b[2J\n" * 9)


def _folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("wreck", [_empty, _rubbish, _folder], ids=lambda wreck: wreck.__name__)
def test_whatever_happens_to_the_files_of_the_data_folder_the_next_start_goes_on(playground, wreck):
    playground.task("a", "goal: Work.\nscript: echo hi\n")
    playground.commit()
    playground.reconciler("run", "--until-idle")
    data = playground.root / "data"
    for path in [path for path in data.rglob("*") if path.is_file()]:
        wreck(path)
    playground.task("b", "goal: Work.\nscript: echo hi\n")
    playground.commit()

    playground.reconciler("run", "--until-idle")

    assert playground.phases() == {"a": "completed", "b": "completed"}
    assert playground.sh("git log --format=%s fleet-state").count("task a: running → completed") == 1


def test_without_its_data_folder_a_fleet_goes_on_as_well(playground):
    playground.task("a", "goal: Work.\nscript: echo hi\n")
    playground.commit()
    playground.reconciler("run", "--until-idle")
    shutil.rmtree(playground.root / "data")
    head = playground.sh("git rev-parse fleet-state")

    playground.reconciler("run", "--until-idle")

    assert playground.sh("git rev-parse fleet-state") == head


@pytest.mark.parametrize("date", ["@253402300800 +1400", "@9999999999999 +0000", "@0 -1200"])
def test_whatever_date_a_commit_has_everything_goes_on(playground, date):
    playground.task("a", "goal: Work.\nscript: echo hi\n")
    (playground.fleet / "specs/fleet.yaml").write_text("daily_budget: {cost_usd: 5}\n")
    playground.commit()
    playground.reconciler("run", "--until-idle")
    playground.task("b", "goal: Work.\nscript: echo hi\n")
    dated = f"GIT_AUTHOR_DATE='{date}' GIT_COMMITTER_DATE='{date}' git commit -q"
    playground.sh(f"git add specs; {dated} -m Ask")
    playground.sh("git worktree add -q ../state fleet-state")
    state = playground.root / "state"
    playground.sh(
        f"echo '# by hand' >>fleet-state/tasks/a.yaml; {dated} -am Hand; git checkout -q --detach", cwd=state
    )

    for command in (
        "status",
        "history",
        "history a",
        "cost",
        "cost --by task",
        "get tasks",
        "get hosts",
        "describe a",
        "plan",
    ):
        playground.reconciler(*command.split(), code=8 if command == "status" else 0)
    playground.reconciler("run", "--until-idle")

    assert playground.phases() == {"a": "completed", "b": "completed"}


def test_files_that_no_status_could_be_are_let_be(playground):
    for name in ("a", "b"):
        playground.task(name, "goal: Work.\nscript: echo hi\n")
    playground.commit()
    playground.reconciler("run", "--until-idle")
    playground.sh("git worktree add -q ../state fleet-state")
    names = ("a\\377b", "two\\nlines\\033[2J", "-a b", "a.lock", ".a", "", "x" * 99)
    for name in names:
        playground.sh(
            f"echo oops >\"$(printf 'fleet-state/tasks/{name}.yaml')\"", cwd=playground.root / "state"
        )
    playground.sh("git add -A; git commit -qm odd; git checkout -q --detach", cwd=playground.root / "state")
    playground.task("c", "goal: Work.\nscript: echo hi\n")
    playground.commit()

    playground.reconciler("run", "--until-idle")

    assert playground.phases() == dict.fromkeys("abc", "completed")


def test_a_damaged_status_stalls_its_task_says_where_and_is_mended_by_a_revert(playground):
    for name in ("a", "b"):
        playground.task(name, "goal: Work.\nscript: echo hi\n")
    playground.commit()
    playground.reconciler("run", "--until-idle")
    playground.sh("git worktree add -q ../state fleet-state")
    state = playground.root / "state"
    (state / "fleet-state/tasks/a.yaml").write_text("phase: [\n")
    playground.sh("git commit -qam damage; git checkout -q --detach", cwd=state)
    playground.task("c", "goal: Work.\nscript: echo hi\n")
    playground.commit()

    playground.reconciler("run", "--until-idle")
    shown = playground.reconciler("get", "tasks")
    playground.reconciler("plan")
    playground.sh(
        "git checkout -q fleet-state; git revert --no-edit $(git log -1 --format=%h --grep=^damage)"
        "; git checkout -q --detach",
        cwd=state,
    )
    playground.reconciler("run", "--until-idle")

    assert "fleet-state/tasks/a.yaml:" in shown
    assert playground.phases() == {"a": "completed", "b": "completed", "c": "completed"}
    assert playground.sh("git log --format=%s fleet-state").count("task a: running → completed") == 1


@pytest.fixture
def small_fleet(playground):
    """Return a playground whose fleet is on a file system of 40 MiB; what runs is elsewhere."""
    small = playground.root / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(small)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    shutil.move(playground.fleet, small / "fleet")
    playground.fleet.symlink_to(small / "fleet")
    yield playground
    subprocess.run(["umount", "-l", str(small)], check=True)


def test_on_a_full_disk_all_can_be_read_new_work_waits_and_it_heals_by_itself(small_fleet):
    gate, starts, ballast = (small_fleet.root / name for name in ("gate", "starts", "small/ballast"))
    script = f"echo $RECONCILER_TASK | tee -a {starts}; until [ -e {gate} ]; do sleep 0.1; done"
    small_fleet.task("long", f"goal: Work.\nscript: {script}\n")
    small_fleet.task("next", f"goal: Work.\nscript: {script}\ndepends_on: [long]\n")
    small_fleet.commit()

    with small_fleet.serving() as reconciler:
        assert reconciler.tells("long", "running")
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        gate.touch()
        wait_for(lambda: "fleet-state cannot be written" in small_fleet.talk)

        read = [small_fleet.reconciler(*command.split()) for command in READS]
        full = small_fleet.reconciler("status", code=7)
        begun = starts.read_text().split()
        ballast.unlink()
        assert reconciler.tells("next", "completed")

    assert all("long" in each for each in read)
    assert "less than 16 MiB are free at" in full
    assert begun == ["long"]
    assert "Full" not in small_fleet.reconciler("status", code=8)
    assert starts.read_text().split() == ["long", "next"]
    assert small_fleet.sh("git fsck --no-dangling") == ""
    small_fleet.reconciler("verify")


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


READS = ("get tasks", "describe long", "history long", "logs long")
