"""
`doctor` on a machine where many things are wrong: what it tells to type puts them right.
"""

import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import asyncssh
import pytest

from reconciler.cli.exits import ExitCode
from reconciler.cli.health import _host_fix, command_in
from reconciler.cli.hosts import HostCheck
from reconciler.core.model.specs import Host
from tests.dispatch.sshd import Yard, needs_sshd
from tests.forge.double import ForgejoDouble
from tests.ports import free_port


@pytest.fixture
def typed(fleet, tmp_path, person, monkeypatch):
    """Return how to type a command at the fleet, as people do: in a shell, with `reconciler` on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "reconciler"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m reconciler "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def type_it(line):
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=fleet.folder,
            input="secret\n",
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return type_it


def looked(typed, *, only_bad=True):
    code, out, _ = typed("reconciler doctor -o json")
    findings = [each for each in json.loads(out) if not only_bad or each["result"] != "ok"]
    return code, {(each["check"], each["message"]): each["fix"] for each in findings}


def break_everything(fleet, home, tmp_path):
    """Let eleven things be wrong."""
    subprocess.run(["git", "init", "-qb", "trunk", str(tmp_path / "web")], check=True)
    subprocess.run(["git", "-C", str(tmp_path / "web"), "commit", "-qm", "a", "--allow-empty"], check=True)
    forge = f"{{api: 'http://127.0.0.1:{free_port()}/api/v1', repo: a/b, token: {{file: ~/token}}, "
    fleet.write(
        "specs/repos/app.yaml",
        f"url: ../web\nbase: trunk\nforge: {forge}webhook_secret: {{file: ~/hook}}}}\n",
    )
    fleet.write("specs/repos/web.yaml", "url: ../web\n")
    fleet.write("specs/hosts/gpu1.yaml", "address: 127.0.0.1\nidentity: ~/id\ndesired: suspended\n")
    fleet.write("specs/adapters/key.yaml", "command: [sh]\nsecrets: {KEY: {file: ~/keys/one}}\n")
    fleet.write("specs/tasks/keyed.yaml", "goal: x\nadapter: key\n")
    fleet.commit()
    fleet.write("specs/tasks/draft.yaml", "goal: x\nscript: 'true'\n")
    (home / "token").write_text("x")
    (home / "token").chmod(0o644)
    (fleet.folder / ".git/index.lock").touch()
    (home / ".gitconfig").write_text("")
    (home / "state").write_text("in the way")


def test_what_is_wrong_is_put_right_by_what_it_says(fleet, tmp_path, person, typed):
    break_everything(fleet, person, tmp_path)

    code, before = looked(typed)
    forge = next(key for key in before if key[0] == "forges")
    repairs = {key: fix for key, fix in before.items() if fix and key != forge and fix != "reconciler run"}
    for fix in repairs.values():
        done = typed(fix)
        assert done[0] == 0, (fix, done)
    again, after = looked(typed)

    assert (code, again) == (
        ExitCode.ENDED_BADLY,
        ExitCode.ENDED_BADLY,
    )  # nobody can put the forge right here
    assert len(repairs) >= 9
    assert [key for key in after if key[0] not in {"forges", "reconciler", "hosts"}] == []
    assert (
        typed("git log -1 --format=%an,%s") == (0, "Your Name,Edit repo web\n", "")
        or "draft" in typed("git log --stat -3")[1]
    )
    assert (person / "keys/one").read_text() == "secret\n"
    assert (person / "keys/one").stat().st_mode & 0o77 == 0


def test_a_healthy_fleet_is_well(fleet, typed):
    code, everything = looked(typed, only_bad=False)
    shown = typed("reconciler doctor --all")

    assert code == 0
    assert {check for check, _ in everything} >= {
        "git",
        "identity",
        "data",
        "repository",
        "specs",
        "record",
        "hosts",
    }
    assert "ok       git" in shown[1]
    assert "0 failed" in shown[2]
    assert typed("reconciler doctor -o jsonpath={.check}")[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_repository_of_somebody_else_names_the_way_in(fleet, typed):
    for place in (fleet.folder, fleet.folder / ".git"):
        os.chown(place, 65534, 65534)

    code, before = looked(typed)
    fix = next(fix for (check, _), fix in before.items() if check == "repository")

    assert code == ExitCode.ENDED_BADLY
    assert fix.startswith("git config --global --add safe.directory ")
    assert typed(fix)[0] == 0
    assert not any(check == "repository" for check, _ in looked(typed)[1])


def test_where_there_is_no_fleet_the_rest_is_looked_at_still(typed, tmp_path, fleet):
    (tmp_path / "nowhere").mkdir()
    code, out, _ = typed(f"cd {tmp_path}/nowhere; reconciler doctor -o json")

    bad = [each for each in json.loads(out) if each["result"] == "failed"]
    assert code == ExitCode.ENDED_BADLY
    assert [each["check"] for each in bad] == ["repository"]
    assert bad[0]["fix"] == "reconciler init"


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ("no key is pinned; run `reconciler host trust gpu1`", "reconciler host trust gpu1"),
        (
            "dubious ownership, call: git config --global --add safe.directory /x",
            "git config --global --add safe.directory /x",
        ),
        ("it waits: `reconciler host add NAME ADDRESS`", ""),
        ("`workdir` cannot be made", ""),
    ],
)
def test_a_command_is_taken_out_of_a_message_if_it_can_be_typed(message, command):
    assert command_in(message) == command


@pytest.fixture
def forge(tmp_path, monkeypatch):
    with ForgejoDouble(tmp_path / "forge") as double:
        double.webhooks = "dropped"
        double.add_repo("acme/code")
        monkeypatch.setenv("FORGE_TOKEN", double.token)
        yield double


def test_a_forge_is_asked_whether_it_lets_the_token_in_and_tells_of_news(fleet, forge, monkeypatch):
    at = {"api": forge.api, "repo": "acme/code", "token": {"env": "FORGE_TOKEN"}}
    at |= {"webhook_secret": {"file": "~/hook"}}
    fleet.write("specs/repos/code.yaml", json.dumps({"url": "../code", "forge": at}))
    fleet.commit()

    def forges():
        findings = json.loads(fleet.run("doctor", "-o", "json").stdout)
        checks = {"forges", "webhooks"}
        return [(each["result"], each["fix"] or "") for each in findings if each["check"] in checks]

    (untold, install), (let_in, _) = forges()
    fleet.run(*install.split()[1:])
    (silent, test), _ = forges()
    monkeypatch.setenv("FORGE_TOKEN", "wrong")
    ((refused, fix),) = forges()

    assert (untold, let_in, silent, refused) == ("warning", "ok", "warning", "failed")
    assert test == "reconciler webhook test code"
    assert "read -r FORGE_TOKEN" in fix


def test_a_forge_whose_clock_is_off_is_told(fleet, forge):
    at = {"api": forge.api, "repo": "acme/code", "token": {"env": "FORGE_TOKEN"}}
    fleet.write("specs/repos/code.yaml", json.dumps({"url": "../code", "forge": at}))
    fleet.commit()
    true = forge.now
    forge.now = lambda: true() - timedelta(hours=3)

    findings = json.loads(fleet.run("doctor", "-o", "json").stdout)

    told = [each["message"] for each in findings if each["check"] == "forges" and each["result"] == "warning"]
    assert told == ["code: its clock is 3h behind this machine's: set one of them by NTP"]


# --- Hosts -------------------------------------------------------------------

PROMPT = re.compile(rb"[?:\]] *$")


def typed_on_a_terminal(line, folder):
    """Type a command where it may ask, and say yes to all that it asks; return its exit code and output."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvp("bash", ["bash", "-c", line])
    shown = answered = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            read = os.read(terminal, 1 << 16)
        except OSError:
            break
        if not read:
            break
        shown += read
        if PROMPT.search(shown) and shown != answered:
            os.write(terminal, b"yes\n")
            answered = shown
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode(errors="replace")


@pytest.fixture
def yard(tmp_path):
    made = Yard(tmp_path / "sshd")
    yield made
    made.stop()


def program(file, text):
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def a_host_with_an_old_cli_and_a_wrong_clock(yard, folder):
    """Return a server with an old codex and a wrong clock, until npm and timedatectl were called."""
    program(folder / "codex", "echo codex-cli 0.10.0")
    program(folder / "npm", f"printf '#!/bin/sh\necho codex-cli 0.99.0\n' >{folder}/codex")
    program(folder / "date", 'case "$*" in *%s*) echo 1000000000;; *) exec /bin/date "$@";; esac')
    program(folder / "sudo", 'exec "$@"')
    program(folder / "timedatectl", f"rm {folder}/date")
    return yard.sshd("old", env={"PATH": f"{folder}:/usr/bin:/bin"})


@pytest.mark.parametrize("_", [pytest.param("sshd", marks=needs_sshd)])
def test_what_is_wrong_with_hosts_is_put_right_by_what_it_says(fleet, tmp_path, typed, yard, _):
    old, fresh, changed, open_key = (
        a_host_with_an_old_cli_and_a_wrong_clock(yard, tmp_path / "old"),
        yard.sshd("fresh"),
        yard.sshd("changed"),
        yard.sshd("open"),
    )
    for server, spec in (
        (old, {"adapters": {"codex": {}}}),
        (fresh, {"host_key": None}),
        (changed, {}),
        (open_key, {}),
    ):
        at = {"address": "127.0.0.1", "port": server.port, "user": "root" if os.geteuid() == 0 else None}
        at |= {"identity": str(server.identity), "host_key": server.host_key, **spec}
        given = {key: value for key, value in at.items() if value is not None}
        fleet.write(f"specs/hosts/{server.name}.yaml", json.dumps(given))
    program(tmp_path / "bin/ssh", f'exec /usr/bin/ssh -o UserKnownHostsFile={tmp_path}/hosts "$@"')
    fleet.write("specs/hosts/dead.yaml", json.dumps(given | {"port": free_port()}))
    fleet.write("specs/tasks/coded.yaml", "goal: x\nadapter: codex\n")
    fleet.commit()
    changed.use_key(asyncssh.generate_private_key("ssh-ed25519"))
    changed.restart()
    open_key.identity.chmod(0o644)

    code, before = looked(typed)
    repairs = {key: fix for key, fix in before.items() if key[0] in {"hosts", "secrets"} and fix}
    done = [(fix, *typed_on_a_terminal(fix, fleet.folder)) for fix in repairs.values()]
    _, after = looked(typed)

    assert code == ExitCode.ENDED_BADLY
    assert len(repairs) == 7
    assert [each for each in done if each[1] != 0] == []
    assert [key for key in after if key[0] == "hosts" and "its agents run as" not in key[1]] == []


def test_a_damaged_mirror_is_told_of(fleet, tmp_path, typed):
    subprocess.run(["git", "init", "-qb", "main", str(tmp_path / "web")], check=True)
    subprocess.run(["git", "-C", str(tmp_path / "web"), "commit", "-qm", "a", "--allow-empty"], check=True)
    fleet.write("specs/repos/web.yaml", "url: ../web\n")
    fleet.commit()
    folder = fleet.data / "repos/web.git"
    subprocess.run(["git", "clone", "-q", "--mirror", str(tmp_path / "web"), str(folder)], check=True)

    def damage():
        out = json.loads(fleet.run("doctor", "-o", "json").stdout)
        return [each["message"] for each in out if each["check"] == "repos" and each["result"] == "warning"]

    sound = damage()
    for file in (folder / "objects").glob("??/*"):
        file.chmod(0o600)
        file.write_bytes(b"nothing of it is left")

    assert sound == []
    assert "is damaged; it is made again" in damage()[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_token_of_somebody_else_is_told_of_by_who_may_not_read_it(tmp_path):
    token = tmp_path / "theirs/token"
    token.parent.mkdir()
    token.touch(mode=0o600)
    program = (
        "import os, sys; from pathlib import Path; from reconciler.cli.health import _private_file as look; "
    )
    program += "os.setuid(65534); print(*look('token', Path(sys.argv[1]))[2:], sep='\\n')"

    def found():
        run = [sys.executable, "-c", program, "theirs/token"]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    tmp_path.chmod(0o755)
    token.parent.chmod(0o755)
    unreadable = found()
    token.parent.chmod(0o700)
    unseen = found()

    assert unreadable == ["token: this user may not read theirs/token", "sudo chown 65534 theirs/token"]
    assert unseen == ["token: this user may not look for theirs/token", "sudo chown 65534 theirs"]


def test_of_many_broken_files_each_has_the_command_that_opens_it(fleet, typed):
    for number in range(7):
        fleet.write(f"specs/tasks/bad{number}.yaml", "gaol: x\n")
    fleet.write("specs/fleet.yaml", "max_runing: 1\n")
    fleet.commit()

    _, bad = looked(typed)

    fixes = [fix for (check, _), fix in bad.items() if check == "specs"]
    assert fixes[:2] == ["reconciler validate", "reconciler edit task/bad0"]
    assert len(fixes) == 6
    assert any("3 more files with mistakes" in message for _, message in bad)


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({}, "du -axm /data/hosts/h | sort -n | tail -20"),
        (
            {"address": "h.example.org", "user": "agents", "workdir": "~/my runs"},
            """ssh -p 22 agents@h.example.org 'du -axm ~/'"'"'my runs'"'"' | sort -n | tail -20'""",
        ),
    ],
)
def test_what_takes_the_room_of_a_host_is_looked_for_where_it_is(fields, command):
    check = HostCheck(Host(name="h", **fields), object(), ())

    assert _host_fix(check, "less than 1024 MiB of disk are left", Path("/data")) == command


def test_a_code_repository_that_never_answers_keeps_no_other_from_being_looked_at(
    fleet, tmp_path, monkeypatch
):
    monkeypatch.setattr("reconciler.cli.health._LONG", 5.0)
    subprocess.run(["git", "init", "-qb", "main", str(tmp_path / "web")], check=True)
    subprocess.run(["git", "-C", str(tmp_path / "web"), "commit", "-qm", "a", "--allow-empty"], check=True)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        fleet.write("specs/repos/away.yaml", f"url: http://127.0.0.1:{silent.getsockname()[1]}/x.git\n")
        fleet.write("specs/repos/web.yaml", "url: ../web\n")
        fleet.commit()

        findings = json.loads(fleet.run("doctor", "-o", "json").stdout)

    results = {
        each["message"].split()[0].rstrip(":"): each["result"]
        for each in findings
        if each["check"] == "repos"
    }
    assert results == {"away": "failed", "web": "ok"}


def test_a_repository_with_lost_objects_has_the_command_that_looks_for_them(fleet, typed):
    for folder in (fleet.folder / ".git/objects").glob("??"):
        for file in folder.iterdir():
            if file.name != "pack":
                file.chmod(0o600)
                file.write_bytes(b"")

    code, bad = looked(typed)

    assert code == ExitCode.ENDED_BADLY
    assert any(check == "repository" and fix.startswith("git fsck") for (check, _), fix in bad.items())
