"""
`doctor` on a machine where many things are wrong: what it tells to type puts them right.
"""

import json
import os
import socket
import subprocess
import sys

import pytest

from reconciler.cli.exits import ExitCode
from reconciler.cli.health import command_in
from tests.forge.double import ForgejoDouble


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


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def break_everything(fleet, home, tmp_path):
    """Let eleven things be wrong."""
    subprocess.run(["git", "init", "-qb", "trunk", str(tmp_path / "web")], check=True)
    subprocess.run(["git", "-C", str(tmp_path / "web"), "commit", "-qm", "a", "--allow-empty"], check=True)
    forge = f"{{api: 'http://127.0.0.1:{closed_port()}/api/v1', repo: a/b, token: {{file: ~/token}}, "
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
