"""
Decisions of a real fleet, made again from its repository alone.
"""

import json
import subprocess

from reconciler.cli.exits import ExitCode

BRANCH = "fleet-state"


def work(fleet):
    """Let a fleet of several hosts do its tasks, one of which fails and is tried again."""
    for host in ("alpha", "beta", "gamma"):
        fleet.write(f"specs/hosts/{host}.yaml", f"slots: 1\nlabels: [{host}]\n")
    fleet.write("specs/fleet.yaml", "backoff: 1s\n")
    fleet.write("specs/tasks/fails.yaml", "goal: x\nscript: exit 3\nretries: 1\nrequires: [beta]\n")
    fleet.write("specs/tasks/prefers.yaml", "goal: x\nscript: echo x\nprefer: [gamma]\n")
    fleet.commit()
    fleet.run("run", "--until-idle")


def replayed(fleet, commit):
    """Return how `replay` ends, and the document that it prints."""
    done = fleet.run("replay", commit, "-o", "json")
    return done.exit_code, json.loads(done.stdout)


def tampered(fleet, commit, path, old, new):
    """Let the record end with a commit in which a file says something else; return that commit."""
    text = fleet.git("show", f"{commit}:{path}")
    assert old in text
    hash_object = ["git", "hash-object", "-w", "--stdin"]
    blob = subprocess.run(
        hash_object,
        cwd=fleet.folder,
        input=f"{text.replace(old, new)}\n",
        text=True,
        check=True,
        capture_output=True,
    ).stdout.strip()
    fleet.git("read-tree", "--index-output=.git/other", commit)
    index = {"GIT_INDEX_FILE": ".git/other"}
    script = f"git update-index --cacheinfo 100644,{blob},{path} && git write-tree"
    tree = (
        subprocess.run(
            ["sh", "-ec", script],
            cwd=fleet.folder,
            env={**index, "PATH": "/usr/bin:/bin"},
            check=True,
            capture_output=True,
        )
        .stdout.decode()
        .strip()
    )
    content = fleet.git("cat-file", "commit", commit).replace(
        fleet.git("rev-parse", f"{commit}^{{tree}}"), tree
    )
    made = subprocess.run(
        ["git", "hash-object", "-t", "commit", "-w", "--stdin"],
        cwd=fleet.folder, input=f"{content}\n", text=True, check=True, capture_output=True,
    ).stdout.strip()  # fmt: skip
    fleet.git("update-ref", f"refs/heads/{BRANCH}", made)
    return made


def test_every_decision_of_a_fleet_is_made_again_and_a_changed_one_is_told(fleet):
    work(fleet)
    subjects = dict(
        line.split(" ", 1)[::-1]
        for line in fleet.git("log", "--reverse", "--format=%H %s", BRANCH).splitlines()
    )

    verdicts = {subject: replayed(fleet, commit) for subject, commit in subjects.items()}

    assert {code for code, _ in verdicts.values()} == {ExitCode.OK}
    assert verdicts["task prefers: created"][1]["verdict"] == "same"
    assert verdicts["task prefers: running → completed"][1]["verdict"] == "fact"
    _, choice = verdicts["task prefers: created → assigned"]
    assert (choice["verdict"], choice["differences"]) == ("same", [])
    assert choice["hosts"][0].startswith("gamma: 11")
    assert verdicts["task fails: created → assigned"][1]["hosts"][1] == "alpha: lacks beta"

    commit = subjects["task prefers: created → assigned"]
    other = tampered(
        fleet, commit, "fleet-state/tasks/prefers.yaml", "assigned_host: gamma", "assigned_host: alpha"
    )
    text = fleet.run("replay", other)

    assert text.exit_code == ExitCode.ENDED_BADLY
    assert "DIFFERS: attempt 1 on gamma: 1 free, weight 1" in text.stdout
    assert "assigned_host: the record says alpha, the decision gamma" in text.stdout

    nowhere = fleet.run("replay", "main")

    assert nowhere.exit_code == ExitCode.NOT_FOUND
    assert "is no commit of the record (fleet-state)" in nowhere.stderr
