"""A record or specs that went back, and clones, as people meet them at the command line."""

import subprocess

import pytest

from reconciler.cli.exits import ExitCode
from tests.forking import run


@pytest.fixture
def ran(fleet):
    """Return a fleet whose task counts its starts and was carried out."""
    fleet.write("specs/tasks/hello.yaml", f"goal: Count.\nscript: echo $RECONCILER_RUN >> {starts(fleet)}\n")
    fleet.commit("Count")
    fleet.run("run", "--until-idle")
    return fleet


def starts(fleet):
    return fleet.folder.parent / "starts"


def started(fleet):
    return starts(fleet).read_text().split()


def attempt(fleet, *args):
    """Call `reconciler` in this process; what it logs is not in what it printed."""
    done = fleet.run(*args)
    return subprocess.CompletedProcess(args, done.exit_code, done.stdout, done.stderr)


def run_apart(fleet, *args):
    """Let a process of its own reconcile: what it logs is on stderr."""
    command = [*fleet.command, "run", *args]
    return run(command, capture_output=True, text=True, check=False, timeout=200)


BACK = {
    "deleted": ["update-ref", "-d", "refs/heads/fleet-state"],
    "moved back by one": ["update-ref", "refs/heads/fleet-state", "fleet-state~1"],
    "moved back by four": ["update-ref", "refs/heads/fleet-state", "fleet-state~4"],
}


@pytest.mark.parametrize("how", ["--once", "--until-idle"])
@pytest.mark.parametrize("back", BACK.values(), ids=BACK)
def test_a_record_that_went_back_stops_the_fleet_and_is_put_back(ran, back, how):
    ran.git(*back)

    done = attempt(ran, "run", how)
    looks = [ran.run(*args) for args in (["get", "tasks"], ["plan"], ["history"], ["describe", "hello"])]

    assert done.returncode == ExitCode.ATTENTION
    assert "reconciler restore-record" in done.stderr
    assert all("reconciler approve-rewind record" in look.stderr for look in looks[:3])
    assert ran.run("restore-record", "--yes").exit_code == 0
    assert run_apart(ran, "--until-idle").stderr == "nothing to do\n"
    assert len(started(ran)) == 1


DAMAGED = {
    "empty": b"",
    "zeros": b"\0" * 41,
    "words": b"oops\n",
    "bytes": b"\xff\xfe" * 20,
}
NO_COMMIT = {
    "a commit that is not there": b"12" * 20 + b"\n",
    "the empty tree": b"4b825dc642cb6eb9a060e54bf8d69288fbee4904\n",
}


WAYS_OUT = ("restore-record", "approve-rewind")
EVERY_TWO = [
    pytest.param(content, (number + turn) % 2 == 1, way, id=f"{name}-{way}")
    for number, (name, content) in enumerate(DAMAGED.items())
    for turn, way in enumerate(WAYS_OUT)
]
"""Each content with each way out, and each of them with and without an older record that is packed."""


@pytest.mark.parametrize(("content", "packed", "way"), EVERY_TWO)
def test_a_record_whose_branch_is_damaged_has_both_ways_out(ran, content, packed, way):
    if packed:
        ran.git("pack-refs", "--all")
        ran.write("specs/tasks/more.yaml", "goal: More.\nscript: 'true'\n")
        ran.commit("More")
        ran.reconcile()
    (ran.folder / ".git/refs/heads/fleet-state").write_bytes(content)

    done = attempt(ran, "run", "--until-idle")

    assert done.returncode == ExitCode.ATTENTION, done.stderr
    assert f"reconciler {way}" in done.stderr
    assert ran.run(way, "--yes").exit_code == 0
    assert attempt(ran, "run", "--until-idle").returncode == 0
    assert len(started(ran)) == len(set(started(ran))) == (1 if way == "restore-record" else 2)
    assert ran.git("fsck", "--no-dangling") == ""


@pytest.mark.parametrize("content", NO_COMMIT.values(), ids=NO_COMMIT)
def test_a_record_whose_newest_commit_never_came_to_the_disk_goes_on_from_what_was_acted_on(ran, content):
    (ran.folder / ".git/refs/heads/fleet-state").write_bytes(content)

    done = run_apart(ran, "--until-idle")

    assert done.returncode == 0, done.stderr
    assert "cut off by a loss of power before it was acknowledged" in done.stderr
    assert len(started(ran)) == 1
    assert ran.git("fsck", "--no-dangling") == ""


@pytest.mark.parametrize("back", BACK.values(), ids=BACK)
def test_an_approved_rewind_does_again_what_is_asked_for_by_other_attempts(ran, back):
    ran.git(*back)
    refused = ran.run("approve-rewind", stdin="")
    allowed = ran.run("approve-rewind", "--yes", "--reason", "a test")

    done = attempt(ran, "run", "--until-idle")

    assert (refused.exit_code, allowed.exit_code, done.returncode) == (ExitCode.USAGE, 0, 0)
    assert len(started(ran)) == len(set(started(ran))) == 2
    assert ran.run("approve-rewind", "--yes").stderr == "nothing went back\n"


def test_specs_that_went_back_are_said_and_the_last_ones_go_on(ran):
    ran.write("specs/tasks/hello.yaml", ran.read("specs/tasks/hello.yaml") + "desired: suspended\n")
    ran.commit("Rest")
    ran.reconcile()
    ran.git("reset", "--quiet", "--hard", "HEAD~1")
    ran.write("specs/tasks/new.yaml", "goal: New.\nscript: 'true'\n")
    ran.commit("Force another line")

    done = run_apart(ran, "--until-idle")

    assert done.returncode == ExitCode.FAILURE
    assert "the specs went back" in done.stderr
    assert "went back" in ran.run("get", "tasks").stderr
    assert ran.run("get", "tasks", "-o", "name").stdout == "hello\n"
    assert ran.run("approve-rewind", "specs", "--yes").exit_code == 0
    assert ran.git("status", "--porcelain") == ""
    ran.reconcile()
    assert ran.run("get", "tasks", "-o", "name").stdout == "hello\nnew\n"


def test_a_revert_is_the_normal_way_and_needs_nobody(ran):
    ran.write("specs/tasks/new.yaml", "goal: New.\nscript: 'true'\n")
    ran.commit("Add")
    ran.reconcile()
    ran.git("revert", "--no-edit", "HEAD")

    done = run_apart(ran, "--once")

    assert "went back" not in done.stderr


def test_the_state_branch_may_be_that_of_the_specs_in_a_bare_repository(ran, tmp_path):
    ran.write("specs/fleet.yaml", "state_branch: main\n")
    ran.commit("One branch")
    bare = tmp_path / "one.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(ran.folder), str(bare)], check=True)
    subprocess.run(["git", "-C", str(bare), "remote", "remove", "origin"], check=True)
    ran.folder = bare

    assert attempt(ran, "run", "--until-idle").returncode == 0
    ran.git("update-ref", "refs/heads/main", "main~3")
    done = attempt(ran, "run", "--until-idle")

    assert done.returncode == ExitCode.ATTENTION
    assert ran.run("restore-record", "--yes").exit_code == 0
    assert attempt(ran, "run", "--until-idle").returncode == 0


def test_another_branch_of_specs_may_be_served(ran):
    ran.git("branch", "staging", "HEAD~1")

    assert attempt(ran, "--branch", "staging", "run", "--once").returncode == 0
    assert attempt(ran, "run", "--once").returncode == 0


# --- Clones ----------------------------------------------------------------


@pytest.fixture
def clone(ran, tmp_path):
    place = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ran.folder), str(place)], check=True)
    ran.folder, ran.data = place, tmp_path / "other-data"
    return ran


def test_a_clone_shows_the_record_and_runs_nothing_again(clone):
    shown = clone.run("get", "tasks")
    plan = clone.run("plan", "--exit-code")
    told = [clone.run(*args) for args in (["history"], ["describe", "hello"], ["cost"])]
    done = [attempt(clone, *args) for args in (["run", "--once"], ["serve", "--listen", "127.0.0.1:0"])]

    assert "completed" in shown.stdout
    assert "The record is origin's, as of the fetch" in shown.stderr
    assert plan.exit_code == 0
    assert all("completed" in look.stdout for look in told[:2])
    assert [each.returncode for each in done] == [ExitCode.USAGE, ExitCode.USAGE]
    assert all("--repo" in each.stderr and "reconciler adopt-record" in each.stderr for each in done)
    assert len(started(clone)) == 1


def test_a_clone_goes_on_with_the_record_that_it_adopted(clone):
    unsure = clone.run("adopt-record", stdin="")
    clone.run("adopt-record", "--from", "origin", "--yes")

    done = run_apart(clone, "--until-idle")

    assert unsure.exit_code == ExitCode.USAGE
    assert (done.returncode, done.stderr) == (0, "nothing to do\n")
    assert len(started(clone)) == 1
