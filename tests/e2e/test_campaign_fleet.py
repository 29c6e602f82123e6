"""
A campaign over five repositories: a pilot that fails, one that does not, and a revert while it is at work.
"""

import signal
import subprocess

from tests.forking import Process

REPOS = ("api", "billing", "docs", "shop", "web")
CAMPAIGN = """\
matrix:
  repo: [web, api, billing, docs, shop]
pilot: 1
width: 2
stop_after: {{failures: 3}}
task:
  goal: Upgrade {{{{repo}}}}.
  retries: 0
  validation: grep -q {{{{repo}}}} done.txt
  script: |
    {script}
"""
WAITS_UNLESS_PILOT = "echo {{repo}} > done.txt; [ {{repo}} = web ] || until [ -e never ]; do sleep 0.1; done"


def write(playground, script):
    path = playground.fleet / "specs" / "campaigns" / "up.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CAMPAIGN.format(script=script))


def test_a_campaign_waits_for_its_pilot_keeps_its_width_and_is_stopped_by_a_revert(playground):
    for name in REPOS:
        playground.sh(
            f"git init -q -b main {name} && cd {name} && git commit -q --allow-empty -m first",
            cwd=playground.root,
        )
        path = playground.fleet / "specs" / "repos" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"url: {playground.root / name}\n")
    playground.commit()
    write(playground, "echo wrong > done.txt")
    playground.commit()

    playground.reconciler("run", "--until-idle", code=5)

    assert playground.phases() == {"up/web": "failed"} | {
        f"up/{name}": "created" for name in REPOS if name != "web"
    }
    shown = playground.reconciler("describe", "campaign/up")
    assert "Pilot: waits for the pilot of campaign up: up/web (failed)" in shown
    assert playground.reconciler("explain", "campaign/up").splitlines()[-1] == shown.splitlines()[-1]

    write(playground, WAITS_UNLESS_PILOT)
    playground.commit()
    process = Process(
        playground.command("run"), cwd=playground.fleet, env=playground.env, stdout=subprocess.PIPE, text=True
    )
    try:
        seen = iter(process.stdout.readline, "")
        assert any("up/web" in line and "completed" in line for line in seen)
        assert any("up/api" in line and "→ running" in line for line in seen)
        assert "width: 2" in playground.reconciler("get", "tasks")

        playground.sh("git revert --no-edit HEAD~2..HEAD")
        gone = set()
        for line in seen:
            if "→ ·" in line or "it is archived" in line:
                gone.add(line.split()[1])
            if len(gone) == len(REPOS):
                break
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)

    assert gone == {f"up/{name}" for name in REPOS}
    assert playground.phases() == {}
    assert "running → completed" in playground.reconciler("history", "up/web")
    assert "each follows from the one before" in playground.reconciler("verify")
