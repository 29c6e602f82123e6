"""
Best of n over a whole fleet: variants by different agents, a judge, and one that is kept.
"""

WRITES = """\
command: [sh, -c, "cat >/dev/null; echo {word} >who.txt; echo I wrote {word}."]
"""
JUDGE = """\
command:
  - sh
  - -c
  - |
    commit=$(awk '/^## Commit /{c=$3} /^\\+two$/{print c}')
    echo x >>"$COUNTER"
    echo touched >who.txt
    printf 'I looked.\\n{"commit": "%s", "reason": "it says two"}\\n' "$commit"
env: {COUNTER: COUNTED}
"""
TASK = """\
goal: Say who.
repo: code
variants: [one, two, three]
retries: 0
fix_attempts: 0
validation: grep -q -e one -e two who.txt
"""


def write(playground, path, text):
    file = playground.fleet / "specs" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def prepare(playground, more):
    for word in ("one", "two", "three"):
        write(playground, f"adapters/{word}.yaml", WRITES.format(word=word))
    write(playground, "adapters/judge.yaml", JUDGE.replace("COUNTED", str(playground.root / "judged")))
    playground.task("pick", TASK + more)
    playground.commit()


def branches(playground):
    return playground.sh(
        "git for-each-ref --format='%(refname:short)' refs/heads", cwd=playground.code
    ).split()


def test_a_judge_chooses_among_the_variants_that_passed_and_the_others_are_closed(playground):
    prepare(playground, "judge: judge\n")

    playground.reconciler("run", "--until-idle", code=5)

    assert playground.phases() == {
        "pick": "completed",
        "pick@1": "cancelled",
        "pick@2": "completed",
        "pick@3": "failed",
    }
    assert branches(playground) == ["main", "task/pick"]
    assert playground.sh("git show task/pick:who.txt", cwd=playground.code) == "two\n"
    assert (playground.root / "judged").read_text() == "x\n"
    assert "pick@2 is chosen by judge: it says two" in playground.reconciler("history", "pick")
    assert "not chosen: pick@2 was" in playground.reconciler("history", "pick@1")
    assert "pick@2, by judge: it says two" in playground.reconciler("describe", "pick")
    won = {
        line.split()[0]: line.split()[-1]
        for line in playground.reconciler("cost", "--by", "adapter").splitlines()
    }
    assert (won["one"], won["two"], won["three"]) == ("0/1", "1/1", "0/1")
    assert "each follows from the one before" in playground.reconciler("verify")
