"""
Proof of where work comes from: records sound and corrupted, and the way from a commit to who asked.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace

import pytest

from reconciler import __version__
from reconciler.cli.exits import ExitCode

BRANCH = "fleet-state"
IT, HELLO = "fleet-state/tasks/it.yaml", "fleet-state/tasks/hello.yaml"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Return where the fleet that every test begins with is kept, once it was made."""
    return tmp_path_factory.mktemp("template") / "all"


@pytest.fixture
def worked(fleet, tmp_path, template):
    """Return a fleet with two tasks that ran; one had its validation handed back, and was delivered."""
    if not template.exists():
        work(fleet, tmp_path)
        for place in (fleet.folder, fleet.data, tmp_path / "web"):
            shutil.copytree(place, template / place.name, symlinks=True)
    for place in (fleet.folder, fleet.data, tmp_path / "web"):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(template / place.name, place, symlinks=True)
    return fleet


def work(fleet, tmp_path):
    """Let a fleet do two tasks."""
    web = tmp_path / "web"
    for args in (["init", "-qb", "main", web], ["-C", web, "commit", "-qm", "a", "--allow-empty"]):
        subprocess.run(["git", *args], check=True)
    fleet.write("specs/repos/web.yaml", "url: ../web\n")
    fleet.commit()
    spec = "goal: x\nrepo: web\nscript: echo b >> README\nvalidation: [grep -c b README | grep 2]\n"
    fleet.run("submit", "it", "-f", "-", stdin=spec)
    fleet.run("run", "--until-idle")


def verified(fleet, *args):
    """Return how `verify` ends, and the document that it prints."""
    done = fleet.run("verify", *args, "-o", "json")
    return done.exit_code, json.loads(done.stdout)


# --- A record held against itself -------------------------------------------


def test_what_the_reconciler_wrote_is_sound(worked):
    code, found = verified(worked)

    assert (code, found["is_sound"], found["flaws"]) == (ExitCode.OK, True, [])
    assert found["commits"] == int(worked.git("rev-list", "--count", BRANCH))
    assert found["runs"] == 2
    assert found["steps"] == len(worked.git("log", "--format=%h", "--grep=^Task: ", BRANCH).splitlines())


@dataclass(frozen=True)
class Commit:
    """A commit of a record, to be made again."""

    message: str
    files: dict
    """Changed files: mode and blob, None for one that goes."""
    old: str


def read(fleet):
    """Return the commits of the record, the oldest first."""
    return [
        Commit(fleet.git("log", "-1", "--format=%B", each) + "\n", changes(fleet, each), each)
        for each in fleet.git("rev-list", "--reverse", BRANCH).split()
    ]


def changes(fleet, commit):
    listed = fleet.git("diff-tree", "-r", "--root", "--no-commit-id", "--no-abbrev", commit)
    rows = [line.replace("\t", " ").split(" ") for line in listed.splitlines()]
    return {row[5]: (row[1], row[3]) if row[3].strip("0") else None for row in rows}


def write(fleet, commits):
    """Make the record again from commits, as a forger would: each names the new id of the step before."""
    index = {"GIT_INDEX_FILE": str(fleet.folder / ".git" / "forged")}
    head, new, last = None, {}, {}

    def git(*args, stdin=None):
        done = subprocess.run(
            ["git", *args],
            check=False,
            cwd=fleet.folder,
            env=os.environ | index,
            input=stdin,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    git("read-tree", "--empty")
    for commit in commits:
        for path, entry in commit.files.items():
            git("update-index", "--add", "--cacheinfo", f"{entry[0]},{entry[1]},{path}")
        task = next(iter(re.findall("^Task: (.*)$", commit.message, re.MULTILINE)), None)
        renamed = f"Prev-Transition: {last.get(task, '')}"
        message = re.sub("Prev-Transition: .*", renamed, commit.message)
        parent = ["-p", head] if head else []
        head = git("commit-tree", git("write-tree"), *parent, stdin=message)
        last[task] = new[commit.old] = head
    fleet.git("update-ref", f"refs/heads/{BRANCH}", head)
    fleet.git("update-ref", "-d", f"refs/fleet/record/{BRANCH}")
    shutil.rmtree(fleet.data / "marks", ignore_errors=True)


def blob(fleet, text):
    command = ["git", "hash-object", "-w", "--stdin"]
    done = subprocess.run(command, cwd=fleet.folder, input=text, capture_output=True, text=True, check=True)
    return "100644", done.stdout.strip()


def edited(fleet, commit, path, before, after):
    """Return a commit whose file is another."""
    text = fleet.git("cat-file", "blob", commit.files[path][1]) + "\n"
    assert before in text
    return replace(commit, files=commit.files | {path: blob(fleet, text.replace(before, after))})


def step_of(commits, subject):
    return next(at for at, commit in enumerate(commits) if commit.message.startswith(subject))


def without(commits, subject):
    at = step_of(commits, subject)
    return commits[:at] + commits[at + 1 :]


def with_changed(commits, subject, change):
    at = step_of(commits, subject)
    return [*commits[:at], change(commits[at]), *commits[at + 1 :]]


def swapped(commits, first, second):
    one, other = step_of(commits, first), step_of(commits, second)
    order = list(commits)
    order[one], order[other] = order[other], order[one]
    return order


FORGERIES = {
    "a step removed": (lambda _, old: without(old, "task it: assigned → running"), "says running"),
    "an assignment removed": (lambda _, old: without(old, "task it: created → assigned"), "says assigned"),
    "two steps swapped": (
        lambda _, old: swapped(old, "task it: assigned → running", "task it: created → assigned"),
        "says assigned → running, but the files say created → running",
    ),
    "a verdict changed": (
        lambda fleet, old: with_changed(
            old, "task it: running → ", lambda step: edited(fleet, step, IT, "phase: ", "phase: escalated\n#")
        ),
        "but the files say running → escalated",
    ),
    "a phase that no step leads to": (
        lambda fleet, old: with_changed(
            old,
            "task it: created → assigned",
            lambda step: replace(
                edited(fleet, step, IT, "phase: assigned", "phase: failed"),
                message=step.message.replace("To: assigned", "To: failed"),
            ),
        ),
        "goes created → failed, which no step does",
    ),
    "another host": (
        lambda _, old: with_changed(
            old,
            "task it: assigned → running",
            lambda step: replace(step, message=step.message.replace("Host: local", "Host: other")),
        ),
        "names other as who has the run",
    ),
    "another spec": (
        lambda fleet, old: with_changed(
            old,
            "task it: created → assigned",
            lambda step: edited(fleet, step, IT, "generation: ", f'generation: "{"0" * 40}" #'),
        ),
        "answers the spec 0000000000, but specs commit",
    ),
    "another prompt": (
        lambda _, old: with_changed(
            old,
            "task it: assigned → running",
            lambda step: replace(step, message=re.sub("SHA256: .*", f"SHA256: {'0' * 64}", step.message)),
        ),
        "names a prompt that the file does not",
    ),
    "another adapter": (
        lambda _, old: with_changed(
            old,
            "task it: assigned → running",
            lambda step: replace(
                step, message=re.sub("Adapter-Blob: .*", f"Adapter-Blob: {'2' * 40}", step.message)
            ),
        ),
        "names an adapter that the file does not",
    ),
    "a run started again": (
        lambda _, old: [*old, old[step_of(old, "task it: created → assigned")]],
        "starts run it.g",
    ),
    "another task's file": (
        lambda fleet, old: with_changed(
            old,
            "task it: assigned → running",
            lambda step: replace(step, files=step.files | {HELLO: blob(fleet, "phase: created\n")}),
        ),
        "is a step of it, but changes hello, it",
    ),
    "a file by hand": (
        lambda fleet, old: [*old, Commit("mend it\n", {IT: blob(fleet, "phase: [")}, "hand")],
        "was made by hand by Test <test@example.org>",
    ),
    "something else": (
        lambda fleet, old: [*old, Commit("more\n", {"fleet-state/more": blob(fleet, "more")}, "hand")],
        "changes fleet-state/more, which no record has",
    ),
    "specs that are not there": (
        lambda _, old: with_changed(
            old,
            "task it: assigned → running",
            lambda step: replace(step, message=re.sub("Revision: .*", f"Revision: {'1' * 40}", step.message)),
        ),
        "names specs commit 1111111111, which is not on main",
    ),
}


def test_a_record_that_somebody_changed_is_told_with_the_commit_at_which_it_shows(worked):
    original = read(worked)
    write(worked, original)
    assert verified(worked)[0] == ExitCode.OK, "made again as it was, it is sound"
    told = {}
    for name, (forge, _) in FORGERIES.items():
        write(worked, forge(worked, original))
        code, found = verified(worked)
        told[name] = code, "; ".join(flaw["what"] for flaw in found["flaws"])

    missed = {name: told[name] for name, (_, words) in FORGERIES.items() if words not in told[name][1]}
    assert missed == {}
    assert {code for code, _ in told.values()} == {ExitCode.ENDED_BADLY}


def test_a_step_of_another_history_does_not_fit(worked):
    worked.git("branch", "kept", BRANCH)
    steps = worked.git("rev-list", "--reverse", BRANCH).split()
    at = next(each for each in steps if "running → " in worked.git("log", "-1", "--format=%s", each))
    tree = worked.git("rev-parse", f"{at}~1^{{tree}}")
    new = worked.git("commit-tree", tree, "-p", f"{at}~1", "-m", "nothing")
    forged = worked.git(
        "commit-tree", f"{at}^{{tree}}", "-p", new, "-m", worked.git("log", "-1", "--format=%B", at)
    )
    worked.git("update-ref", f"refs/heads/{BRANCH}", forged)

    _, found = verified(worked)

    assert "the record went back" in found["flaws"][-1]["what"]


def test_a_merge_in_a_record_is_told(worked):
    head = worked.git("rev-parse", BRANCH)
    merged = worked.git("commit-tree", f"{head}^{{tree}}", "-p", head, "-p", f"{head}~1", "-m", "merge")
    worked.git("update-ref", f"refs/heads/{BRANCH}", merged)

    assert [flaw["what"] for flaw in verified(worked)[1]["flaws"]] == ["is a merge: a record is one line"]


def test_without_a_record_there_is_nothing_to_verify(fleet):
    done = fleet.run("verify")

    assert (done.exit_code, done.stdout) == (ExitCode.NOT_FOUND, "")
    assert "has no branch fleet-state" in done.stderr


# --- From work to who asked for it ------------------------------------------


@pytest.fixture
def web(worked, tmp_path):
    """Return a function that calls git in the code repository."""

    def call(*args):
        done = subprocess.run(
            ["git", "-C", tmp_path / "web", *args], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    call("reset", "-q", "--hard")
    return call


def links(found):
    [proof] = found["proofs"]
    return {link["name"]: (link["is_sound"], link["message"]) for link in proof["links"]}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (["merge", "-q", "--no-ff", "-m", "m", "task/it"], "brings what was delivered, and nothing else"),
        (["merge", "-q", "--ff-only", "task/it"], "is part of what was delivered"),
        (["merge", "-q", "--squash", "task/it"], "brings what was delivered, and nothing else"),
    ],
)
def test_every_way_to_merge_leads_back_to_who_asked(worked, web, tmp_path, how, words):
    web(*how)
    if "--squash" in how:
        web("commit", "-qm", "squashed")
    fresh = tmp_path / "fresh"
    subprocess.run(["git", "clone", "-q", worked.folder, fresh], check=True)
    worked.folder, worked.data = fresh, tmp_path / "nothing"

    code, found = verified(worked, web("rev-parse", "HEAD"), "--code", str(tmp_path / "web"))

    assert code == ExitCode.OK
    told = links(found)
    assert words in told["commit"][1]
    assert told["delivered"][0] is True
    assert "it.g" in told["run"][1]
    assert told["adapter"][0] is True
    assert "script (" in told["adapter"][1]
    assert "built in" in told["adapter"][1]
    assert "Test: Submit it (not signed)" in told["asked by"][1]


def test_a_merge_that_adds_to_what_was_delivered_says_so(worked, web, tmp_path):
    web("merge", "-q", "--no-ff", "--no-commit", "task/it")
    (tmp_path / "web" / "more").write_text("more")
    web("add", "--all")
    web("commit", "-qm", "merge, and more")

    _, found = verified(worked, web("rev-parse", "HEAD"), "--code", str(tmp_path / "web"))

    assert "changes more than that" in links(found)["commit"][1]


def test_a_commit_that_no_run_delivered_is_told(worked, web):
    web("commit", "-qm", "by hand", "--allow-empty")

    done = worked.run("verify", web("rev-parse", "HEAD"), "--code", web("rev-parse", "--show-toplevel"))

    assert done.exit_code == ExitCode.NOT_FOUND
    assert "no run on record delivered it" in done.stderr


def test_delivered_work_that_is_gone_is_told(worked, tmp_path):
    other = tmp_path / "other"
    subprocess.run(["git", "init", "-q", other], check=True)

    code, found = verified(worked, "it", "--code", str(other))

    assert (code, links(found)["delivered"][0]) == (ExitCode.ENDED_BADLY, False)


def test_a_broken_record_proves_nothing_of_a_run(worked):
    write(worked, without(read(worked), "task it: assigned → running"))

    code, found = verified(worked, "it")

    assert code == ExitCode.ENDED_BADLY
    assert links(found)["run"][0] is False


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen, of OpenSSH")
@pytest.mark.parametrize("is_allowed", [True, False])
def test_specs_are_held_against_the_allowed_signers(fleet, tmp_path, is_allowed):
    keys = {name: tmp_path / name for name in ("mine", "other")}
    for key in keys.values():
        subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", key], check=True)
    signers = tmp_path / "signers"
    public = keys["mine" if is_allowed else "other"].with_suffix(".pub").read_text()
    signers.write_text(f"test@example.org {public}")
    for name, value in {
        "gpg.format": "ssh",
        "user.signingkey": keys["mine"],
        "commit.gpgsign": "true",
    }.items():
        fleet.git("config", name, str(value))
    fleet.run("submit", "signed", "-f", "-", stdin="goal: x\nscript: echo x\n")
    fleet.run("run", "--until-idle")

    code, found = verified(fleet, "signed", "--allowed-signers", str(signers))

    assert links(found)["asked by"][0] is is_allowed
    assert code == (ExitCode.OK if is_allowed else ExitCode.ENDED_BADLY)
    assert "signature good: test@example.org" in links(found)["asked by"][1] or not is_allowed


@pytest.fixture
def signed(fleet, tmp_path):
    """Return a fleet whose record is signed, and the file of who may sign."""
    key, signers = tmp_path / "key", tmp_path / "signers"
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", key], check=True)
    signers.write_text(f"reconciler@localhost {key.with_suffix('.pub').read_text()}")
    for name in ("one", "two"):
        fleet.run("submit", name, "-f", "-", stdin="goal: x\nscript: echo x\n")
        fleet.run("run", "--until-idle", "--signing-key", str(key))
    return fleet, str(signers)


needs_ssh_keygen = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="needs ssh-keygen, of OpenSSH"
)


@needs_ssh_keygen
def test_a_record_is_signed_from_its_first_commit_on(signed):
    fleet, signers = signed

    _, found = verified(fleet, "--allowed-signers", signers)

    assert (found["flaws"], found["signers"]) == ([], ["reconciler@localhost"])
    assert found["signed_since"] == fleet.git("rev-list", "--max-parents=0", BRANCH)
    assert fleet.git("fsck", "--strict", "--no-dangling", BRANCH) == ""


@needs_ssh_keygen
def test_an_unsigned_or_changed_commit_in_a_signed_record_is_told(signed):
    fleet, signers = signed
    head = fleet.git("rev-parse", BRANCH)
    content = fleet.git("cat-file", "commit", head)
    flipped = content.replace("Task: ", "Task:  ").replace("Host: ", "Host:  ")
    command = ["git", "hash-object", "-t", "commit", "-w", "--stdin"]
    changed = subprocess.run(
        command, cwd=fleet.folder, input=flipped + "\n", capture_output=True, text=True, check=True
    ).stdout.strip()
    added = fleet.git("commit-tree", f"{head}^{{tree}}", "-p", head, "-m", "more")
    for forged, words in (
        (changed, "has a signature that is not good (B)"),
        (added, "is not signed, and no"),
    ):
        fleet.git("update-ref", f"refs/heads/{BRANCH}", forged)
        code, found = verified(fleet, "--allowed-signers", signers)

        assert code == ExitCode.ENDED_BADLY
        assert words in "; ".join(flaw["what"] for flaw in found["flaws"])


def test_unsigned_specs_do_not_pass_where_signers_are_named(worked, tmp_path):
    (tmp_path / "signers").write_text("")

    _, found = verified(worked, "it", "--allowed-signers", str(tmp_path / "signers"))

    assert links(found)["asked by"][0] is False


def test_who_insists_on_signed_specs_starts_no_reconciler_without_the_signers(fleet, tmp_path):
    fleet.write("specs/fleet.yaml", "require_signed: true\n")
    fleet.commit()

    done = fleet.run("run", "--once")

    assert done.exit_code == ExitCode.USAGE
    assert "--allowed-signers" in done.stderr


def test_unsigned_specs_start_nothing(fleet, tmp_path):
    (tmp_path / "signers").write_text("")

    done = fleet.run("run", "--once", "--allowed-signers", str(tmp_path / "signers"))

    assert done.exit_code == ExitCode.UNAVAILABLE
    assert "is not signed by any of" in done.stderr
    assert fleet.git("for-each-ref", "refs/heads/fleet-state") == ""


def test_specs_beside_the_record_cannot_be_required_to_be_signed(fleet, tmp_path):
    fleet.write("specs/fleet.yaml", "state_branch: main\n")
    fleet.commit()
    (tmp_path / "signers").write_text("")

    done = fleet.run("run", "--once", "--allowed-signers", str(tmp_path / "signers"))

    assert done.exit_code != ExitCode.OK


def test_the_record_of_a_run_names_the_version_of_the_program_that_started_it(fleet):
    fleet.write("specs/tasks/hello.yaml", "goal: x\nscript: 'true'\n")
    fleet.commit("Ask for it")
    fleet.reconcile()

    assert f"Program-Version: {__version__}" in fleet.git("log", "fleet-state")
