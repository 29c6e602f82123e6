"""
Hosts checked, trusted, closed and opened: against real servers and real repositories.
"""

import json
import os
import pty
import subprocess
from datetime import UTC, datetime, timedelta

import asyncssh
import pytest
from ruamel.yaml import YAML

from reconciler.cli.hosts import _address
from reconciler.core.edits import cordoning, draining, uncordoning
from reconciler.core.model.specs import HostSpec
from tests.dispatch.sshd import needs_sshd, yard
from tests.forking import run

HOST = """\
# The machine under the stairs.
labels: [stairs]   # ask before you move it
slots: 3
"""
SOON = datetime(2030, 1, 1, 10, tzinfo=UTC)
LATER = SOON + timedelta(hours=1)


@pytest.fixture
def stairs(fleet):
    """Return a fleet with one more host, which is this machine too."""
    fleet.write("specs/hosts/stairs.yaml", HOST)
    fleet.commit("Add a host")
    return fleet


@pytest.fixture
def servers(tmp_path):
    with yard(tmp_path / "servers") as made:
        yield made


def describe(server, **fields):
    """Return the spec with which a server is reached; a field that is None is left out."""
    known = {
        "address": "127.0.0.1",
        "port": server.port,
        "identity": str(server.identity),
        "host_key": server.host_key,
        "workdir": str(server.home / "work"),
        **fields,
    }
    return "# Written by hand.\n" + "".join(
        f"{name}: {json.dumps(value)}   # as it is\n" for name, value in known.items() if value is not None
    )


def yaml_of(text):
    return YAML(typ="safe", pure=True).load(text)


# --- Deciding --------------------------------------------------------------


@pytest.mark.parametrize(
    ("decide", "spec", "changes"),
    [
        (cordoning, {}, {"cordon": True}),
        (cordoning, {"cordon": True}, "h is cordoned already"),
        (uncordoning, {}, "h takes runs already"),
        (uncordoning, {"cordon": True}, {"cordon": False}),
        (
            uncordoning,
            {"cordon": True, "drain": True, "drain_until": SOON},
            {"cordon": False, "drain": False, "drain_until": None},
        ),
    ],
)
def test_what_is_so_already_is_not_changed(decide, spec, changes):
    assert decide("h", HostSpec.model_validate(spec)) == changes


@pytest.mark.parametrize(
    ("spec", "until", "changes"),
    [
        ({}, None, {"drain": True}),
        ({}, SOON, {"drain": True, "drain_until": "2030-01-01T10:00:00Z"}),
        ({"drain": True}, None, "h is draining already"),
        ({"drain": True}, SOON, {"drain_until": "2030-01-01T10:00:00Z"}),
        ({"drain": True, "drain_until": SOON}, None, "h is draining already"),
        ({"drain": True, "drain_until": SOON}, LATER, {"drain_until": "2030-01-01T11:00:00Z"}),
        ({"drain_until": SOON}, None, {"drain": True, "drain_until": None}),
    ],
)
def test_a_deadline_is_set_and_moved_and_an_old_one_is_not_taken_up(spec, until, changes):
    assert draining("h", HostSpec.model_validate(spec), until) == changes


# --- cordon, uncordon, drain -----------------------------------------------


def test_a_host_is_cordoned_and_opened_with_its_comments_kept(stairs):
    done = stairs.run("host", "cordon", "stairs", "--reason", "it smells of smoke")

    assert (done.exit_code, done.stdout) == (0, "stairs: cordon is true now\n")
    assert stairs.read("specs/hosts/stairs.yaml") == HOST + "cordon: true\n"
    said = stairs.git("log", "-1", "--format=%an|%s|%b").strip()
    assert said == "Test|Cordon host stairs|it smells of smoke"

    assert stairs.run("host", "uncordon", "stairs").stdout == "stairs: cordon is false now\n"
    assert stairs.read("specs/hosts/stairs.yaml") == HOST + "cordon: false\n"


def test_a_drain_with_a_deadline_says_when_it_ends(stairs):
    before = datetime.now(UTC)  # noqa: TID251  the command reads the real clock

    done = stairs.run("host", "drain", "stairs", "--deadline", "1h30m")

    assert done.exit_code == 0
    document = json.loads(stairs.run("get", "hosts", "stairs", "-o", "json").stdout)
    until = datetime.fromisoformat(document[0]["spec"]["drain_until"])
    assert timedelta(hours=1, minutes=29) < until - before < timedelta(hours=2)
    assert HOST in stairs.read("specs/hosts/stairs.yaml")
    assert "drain until" in stairs.run("describe", "host/stairs").stdout

    stairs.run("host", "uncordon", "stairs")
    assert stairs.read("specs/hosts/stairs.yaml") == HOST + "drain: false\n"


def test_the_host_that_needs_no_file_gets_one(fleet):
    assert fleet.run("host", "drain", "local").exit_code == 0

    assert fleet.read("specs/hosts/local.yaml") == "drain: true\n"
    assert "wait" in fleet.run("plan").stdout


def test_one_unknown_host_among_many_changes_nothing(stairs):
    before = stairs.git("rev-parse", "HEAD")

    done = stairs.run("host", "cordon", "stairs", "stares")

    assert done.exit_code == 3
    assert "did you mean 'stairs'?" in done.stderr
    assert stairs.git("rev-parse", "HEAD") == before


def test_a_host_that_is_not_committed_yet_is_said_to_be_so(fleet):
    fleet.write("specs/hosts/new.yaml", HOST)

    done = fleet.run("host", "cordon", "new")

    assert done.exit_code == 3
    assert "specs/hosts/new.yaml is not on main yet; commit it first" in done.stderr


def test_a_deadline_without_a_unit_is_refused(stairs):
    assert stairs.run("host", "drain", "stairs", "--deadline", "90").exit_code == 64


def test_a_drained_host_ends_what_runs_and_takes_nothing_new(fleet):
    fleet.write(
        "specs/tasks/hello.yaml", "goal: Wait.\nscript: until [ -e ../../../../../go ]; do sleep 0.05; done\n"
    )
    fleet.write("specs/tasks/next.yaml", "goal: Then.\nscript: 'true'\ndepends_on: [hello]\n")
    fleet.commit("Take long")
    fleet.reconcile("--once")
    fleet.run("host", "drain", "local")
    draining_ = fleet.run("get", "hosts").stdout
    (fleet.data / "go").touch()

    fleet.reconcile()

    assert "draining" in draining_
    assert "1/2" in draining_
    shown = json.loads(fleet.run("get", "hosts", "-o", "json").stdout)[0]
    assert (shown["state"], shown["slots"]) == ("drained", {"used": 0, "free": 2})
    phases = {
        task["name"]: task["phase"] for task in json.loads(fleet.run("get", "tasks", "-o", "json").stdout)
    }
    assert phases == {"hello": "completed", "next": "created"}


# --- get and describe ------------------------------------------------------


def test_a_closed_host_shows_since_when(stairs):
    stairs.run("host", "cordon", "stairs")
    at = stairs.git("show", "-s", "--format=%cI", "HEAD")
    stairs.write("specs/hosts/stairs.yaml", stairs.read("specs/hosts/stairs.yaml") + "weight: 2\n")
    stairs.commit("Weigh it")

    document = json.loads(stairs.run("describe", "host/stairs", "-o", "json").stdout)
    table = stairs.run("get", "hosts").stdout

    assert document["state"] == "cordoned"
    assert datetime.fromisoformat(document["since"]) == datetime.fromisoformat(at)
    assert table.splitlines()[2].split()[:2] == ["stairs", "cordoned"]


# --- check -----------------------------------------------------------------


def test_this_machine_can_be_used(fleet):
    done = fleet.run("host", "check", "-o", "json")

    assert done.exit_code == 0
    (found,) = json.loads(done.stdout)
    assert (found["host"], found["usable"], found["reachable"]) == ("local", True, True)
    assert found["cores"] >= 1
    assert found["latency_ms"] > 0
    assert found["adapters"]["codex"]["path"] is None or found["adapters"]["codex"]["version"]


def test_a_host_that_lacks_what_its_spec_names_cannot_be_used(fleet, tmp_path):
    program = tmp_path / "bin" / "parrot"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho parrot 1.4.2\n")
    program.chmod(0o755)
    fleet.write(
        "specs/adapters/parrot.yaml",
        "command: [parrot]\nversion: {command: [parrot, --version], range: '>=2'}\n",
    )
    fleet.write(
        "specs/hosts/local.yaml", f"adapters:\n  parrot: {{path: {program}}}\n  codex: {{path: /nowhere}}\n"
    )

    done = fleet.run("host", "check")

    assert done.exit_code == 5
    lines = done.stdout.splitlines()
    assert lines[1].split()[:2] == ["local", "no"]
    (parrot,) = [line.split() for line in lines if " parrot " in line]
    assert parrot[:4] == ["local", "parrot", "no", "1.4.2"]
    assert "1.4.2 is not in >=2" in done.stdout


def test_an_unknown_host_and_a_broken_one_are_told_apart(fleet):
    fleet.write("specs/hosts/bad.yaml", "slots: many\n")

    assert fleet.run("host", "check", "locl").exit_code == 3
    bad = fleet.run("host", "check", "bad")
    assert bad.exit_code == 1
    assert "specs/hosts/bad.yaml:1:8: error: slots:" in bad.stderr
    everything = fleet.run("host", "check")
    assert everything.exit_code == 5
    assert "specs/hosts/bad.yaml:1:8: error: slots:" in everything.stderr
    assert everything.stdout.splitlines()[1].split()[:2] == ["local", "yes"]


@pytest.mark.sshd
@needs_sshd[1]
def test_hosts_are_asked_at_the_same_time_and_each_says_what_is_wrong(fleet, servers):
    near, jump, far = servers.sshd("near"), servers.sshd("jump"), servers.sshd("far")
    wrong = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    fleet.write("specs/hosts/near.yaml", describe(near))
    fleet.write("specs/hosts/jump.yaml", describe(jump, slots=0))
    fleet.write("specs/hosts/far.yaml", describe(far, jump="jump"))
    fleet.write("specs/hosts/changed.yaml", describe(near, host_key=wrong))
    fleet.write("specs/hosts/closed.yaml", describe(near, port=1))

    done = fleet.run("host", "check", "near", "far", "changed", "closed", "-o", "json")

    assert done.exit_code == 5
    found = {each["host"]: each for each in json.loads(done.stdout)}
    assert {name for name, each in found.items() if each["usable"]} == {"near", "far"}
    assert found["far"]["git"]
    assert jump.logins() == 1
    assert "reconciler host trust changed" in found["changed"]["problems"][0]
    assert "nothing listens there" in found["closed"]["problems"][0]
    assert not fleet.git("for-each-ref", "refs/heads/fleet-state"), "asking puts nothing on record"


# --- trust -----------------------------------------------------------------


def shown_by(server):
    """Return the fingerprint of a server's key as `ssh-keygen` prints it there."""
    file = server.folder / "shown.pub"
    file.write_text(server.host_key)
    return subprocess.check_output(["ssh-keygen", "-lf", str(file)], text=True).split()[1]


@pytest.mark.sshd
@needs_sshd[1]
def test_a_host_is_added_with_its_key_in_one_go(fleet, servers):
    server = servers.sshd("new")
    args = [
        f"ada@127.0.0.1:{server.port}",
        "--identity",
        str(server.identity),
        "--slots",
        "3",
        "--label",
        "gpu",
    ]

    done = fleet.run("host", "add", "host/new", *args, "--yes", "--reason", "More room.")

    assert (done.exit_code, fleet.git("status", "--porcelain")) == (0, ""), done.stderr
    assert yaml_of(fleet.read("specs/hosts/new.yaml")) == {
        "address": "127.0.0.1",
        "user": "ada",
        "port": server.port,
        "identity": str(server.identity),
        "slots": 3,
        "labels": ["gpu"],
        "host_key": server.host_key,
    }
    assert done.stdout == f"new shows ssh-ed25519 {shown_by(server)}\n"
    assert "Add host new" in fleet.git("log", "-1", "--format=%B")
    assert "More room." in fleet.git("log", "-1", "--format=%B")


@pytest.mark.sshd
@needs_sshd[1]
def test_a_host_is_not_added_where_nobody_can_be_asked_or_it_is_there(fleet, servers):
    server = servers.sshd("new")
    args = [f"127.0.0.1:{server.port}", "--identity", str(server.identity)]

    unasked = fleet.run("host", "add", "new", *args)
    fleet.run("host", "add", "new", *args, "--yes")
    again = fleet.run("host", "add", "new", *args, "--yes")

    assert (unasked.exit_code, again.exit_code) == (64, 64)
    assert "--yes" in unasked.stderr
    assert "reconciler host trust new" in again.stderr


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("gone 127.0.0.1:9", 69, "127.0.0.1"),
        ("odd 127.0.0.1:99999", 1, "port"),
        ("odd bad/address", 1, "expected the name or the IP address of a host"),
        ("UPPER..x 127.0.0.1", 1, "unsafe name"),
        ("a/b 127.0.0.1", 1, "only tasks may lie in folders"),
    ],
)
def test_a_host_that_cannot_be_added_changes_nothing(fleet, line, code, said):
    before = fleet.git("rev-parse", "HEAD")

    done = fleet.run("host", "add", *line.split(), "--yes")

    assert done.exit_code == code, done.stderr
    assert said in done.stderr
    assert (fleet.git("rev-parse", "HEAD"), fleet.git("status", "--porcelain")) == (before, "")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("gpu1", {"address": "gpu1"}),
        ("ada@gpu1", {"address": "gpu1", "user": "ada"}),
        ("gpu1:2222", {"address": "gpu1", "port": 2222}),
        ("ada@10.0.0.7:22", {"address": "10.0.0.7", "user": "ada", "port": 22}),
        ("fe80::1", {"address": "fe80::1"}),
        ("ada@[fe80::1]:22", {"address": "fe80::1", "user": "ada", "port": 22}),
        ("[fe80::1]", {"address": "fe80::1"}),
    ],
)
def test_an_address_is_read_as_ssh_reads_it(text, fields):
    assert _address(text) == fields


@pytest.mark.sshd
@needs_sshd[1]
def test_a_key_is_shown_and_pinned_after_a_yes_with_comments_kept(fleet, servers):
    server = servers.sshd("new")
    text = describe(server, host_key=None)
    fleet.write("specs/hosts/new.yaml", text)
    fleet.commit("Add a host")
    assert fleet.run("host", "check", "new").exit_code == 5

    done = fleet.run("host", "trust", "new", "--yes")

    assert done.exit_code == 0
    assert done.stdout == f"new shows ssh-ed25519 {shown_by(server)}\n"
    assert fleet.read("specs/hosts/new.yaml").startswith(text)
    assert shown_by(server) in fleet.git("log", "-1", "--format=%b")
    assert fleet.run("host", "check", "new").exit_code == 0
    again = fleet.run("host", "trust", "new")
    assert (again.exit_code, "already" in again.stderr) == (0, True)


@pytest.mark.sshd
@needs_sshd[1]
def test_nothing_is_trusted_where_nobody_can_be_asked(fleet, servers):
    server = servers.sshd("new")
    fleet.write("specs/hosts/new.yaml", describe(server, host_key=None))
    fleet.commit("Add a host")
    before = fleet.git("rev-parse", "HEAD")

    done = fleet.run("host", "trust", "new")

    assert done.exit_code == 64
    assert shown_by(server) in done.stdout
    assert "--yes" in done.stderr
    assert fleet.git("rev-parse", "HEAD") == before


@pytest.mark.sshd
@needs_sshd[1]
@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_a_changed_key_is_shown_beside_the_old_one_and_a_person_is_asked(fleet, servers, answer, code):
    server = servers.sshd("old")
    fleet.write("specs/hosts/old.yaml", describe(server))
    fleet.commit("Add a host")
    old, before = shown_by(server), fleet.git("rev-parse", "HEAD")
    server.use_key(asyncssh.generate_private_key("ssh-ed25519"))
    server.restart()
    ours, theirs = pty.openpty()
    os.write(ours, answer)

    done = run(
        [*fleet.command, "host", "trust", "old"], stdin=theirs, capture_output=True, text=True, check=False
    )
    os.close(ours)
    os.close(theirs)

    assert done.returncode == code, done.stderr
    assert f"old shows ssh-ed25519 {shown_by(server)}\npinned is ssh-ed25519 {old}\n" in done.stdout
    assert "THE KEY HAS CHANGED" in done.stderr
    assert "Is this the key of old?" in done.stderr
    assert (fleet.git("rev-parse", "HEAD") != before) == (code == 0)
    assert (fleet.run("host", "check", "old").exit_code == 0) == (code == 0)


@pytest.mark.sshd
@needs_sshd[1]
def test_a_host_behind_another_is_trusted_through_it_once_that_one_is_trusted(fleet, servers):
    jump, far = servers.sshd("jump"), servers.sshd("far")
    fleet.write("specs/hosts/jump.yaml", describe(jump, host_key=None))
    fleet.write("specs/hosts/far.yaml", describe(far, host_key=None, jump="jump"))
    fleet.commit("Add hosts")

    too_soon = fleet.run("host", "trust", "far", "--yes")
    fleet.run("host", "trust", "jump", "--yes")
    done = fleet.run("host", "trust", "far", "--yes")

    assert too_soon.exit_code == 69
    assert "reconciler host trust jump" in too_soon.stderr
    assert (done.exit_code, shown_by(far) in done.stdout) == (0, True)
    assert fleet.run("host", "check", "far").exit_code == 0


def test_this_machine_has_no_key_to_trust(fleet):
    done = fleet.run("host", "trust", "local", "--yes")

    assert done.exit_code == 64
    assert "this machine" in done.stderr
