# ruff: noqa: E501 - one shell script a line reads better than one that is broken in the middle
"""
What agents leave in a workspace: what is unfinished goes back to them; no fault of it is the host's.
"""

import pytest

from reconciler.core.model.runs import FailureClass
from tests.dispatch.world import World, git

COMMIT = "git commit -q -a -m"
CLASH = f"git checkout -q -b side; echo side >README; {COMMIT} Side; git checkout -q -; echo mine >README; {COMMIT} Mine; "
STRAY = "echo x >x; git add x; git commit -q -m X; "
INNER = "git init -q; echo x >f; git add f; git commit -q -m inner; "

LEFT = {
    "a merge with a conflict": (CLASH + "git merge -q side", "A merge is under way", "Not merged: README"),
    "a merge that waits for its commit": (
        (
            "git checkout -q -b side; echo s >s; git add s; git commit -q -m S; git checkout -q -; "
            f"echo m >README; {COMMIT} M; git merge -q --no-commit --no-ff side"
        ),
        "A merge is under way",
    ),
    "a conflict whose markers were added": (
        CLASH + "git merge -q side; git add README",
        "A merge is under way",
    ),
    "a rebase": (CLASH + "git rebase -q side", "A rebase is under way", "Not merged: README"),
    "a rebase by patches": (CLASH + "git rebase -q --apply side", "A rebase is under way"),
    "a rebase that was to be edited": (
        f"echo m >README; {COMMIT} M; GIT_SEQUENCE_EDITOR='sed -i s/^pick/edit/' git rebase -q -i HEAD~1",
        "A rebase is under way",
    ),
    "a cherry-pick": (CLASH + "git cherry-pick side", "A cherry-pick is under way"),
    "a cherry-pick of several": (
        CLASH + "git cherry-pick HEAD~1..side; git cherry-pick --quit 2>/dev/null; git cherry-pick side side",
        "A cherry-pick",
    ),
    "a revert": (
        f"echo 1 >README; {COMMIT} One; echo 2 >README; {COMMIT} Two; git revert HEAD~1",
        "A revert is under way",
    ),
    "patches of a mail": (
        CLASH + "git format-patch -q -1 --stdout side >../p; git am -q -3 ../p; rm ../p",
        "A am is under way",
    ),
    "a conflict of a stash whose markers were added": (
        "echo mine >README; git stash -q; echo theirs >README; git commit -q -a -m T; git stash pop -q; git add README; git stash drop -q",
        "Not merged: README, which has the marks of a conflict",
    ),
    "a conflict whose markers were committed": (
        CLASH + "git merge -q side; git commit -q -a -m Merged; " + STRAY,
        "Not merged: README, which has the marks of a conflict",
    ),
    "a bisect": (STRAY + "git bisect start -q HEAD HEAD~1", "A bisect is under way"),
    "a conflict without an operation": (
        "echo mine >README; git stash -q; echo theirs >README; git commit -q -a -m T; git stash pop -q",
        "Not merged: README",
        "Changes are stashed",
    ),
    "a stash": ("echo x >x; git stash -q -u", "Changes are stashed"),
    "another branch": (
        "git checkout -q -b mine; " + STRAY + "git checkout -q -",
        "refs/heads/mine has 1 commits",
    ),
    "a branch of an awkward name": (
        "git checkout -q -b refs/heads/HEAD; " + STRAY + "git checkout -q -",
        "refs/heads/refs/heads/HEAD has 1 commits",
    ),
    "its own branch, with another checked out": (
        STRAY + "git checkout -q -b other HEAD~1; echo y >y",
        "refs/heads/task/web/fix has 1 commits",
    ),
    "a tag": (
        "git checkout -q -b mine; " + STRAY + "git tag v1; git checkout -q -; git branch -q -D mine",
        "refs/tags/v1 has",
    ),
    "a ref of its own kind": (
        STRAY + "git update-ref refs/wip/x HEAD; git reset -q --hard HEAD~1",
        "refs/wip/x has 1 commits",
    ),
    "the last of many branches": (
        "for i in $(seq 10 70); do git branch b$i; done; git checkout -q -b zz; "
        + STRAY
        + "git checkout -q -",
        "refs/heads/zz has 1 commits",
    ),
    "commits that a branch without any hides": (
        STRAY + "git checkout -q --orphan new; echo z >z",
        "refs/heads/task/web/fix has 1 commits",
    ),
    "a work tree at a commit of no branch": (
        "git worktree add -q --detach ../../tree; cd ../../tree; " + STRAY,
        "is at commit",
    ),
    "a work tree that is ignored": (
        "echo /tree >.gitignore; git worktree add -q --detach tree; cd tree; " + STRAY,
        "is at commit",
    ),
    "a work tree whose folder is gone": (
        "git worktree add -q --detach ../../tree; (cd ../../tree; " + STRAY + "); rm -rf ../../tree",
        "is at commit",
    ),
    "a work tree that left a commit behind": (
        "git worktree add -q --detach ../../tree; cd ../../tree; " + STRAY + "git checkout -q -b t HEAD~1",
        "was made on no branch",
    ),
    "a head on no branch": (
        "git checkout -q --detach; " + STRAY + "git checkout -q task/web/fix",
        "was made on no branch",
    ),
    "a work tree elsewhere": (
        "git worktree add -q ../../tree; echo x >../../tree/x",
        "has changes that are not committed",
    ),
    "an empty repository": (
        "mkdir new; git init -q new",
        "repository within the repository would be lost: new",
    ),
    "an empty repository beside work": ("echo x >x; mkdir -p a/b; git init -q a/b", "would be lost: a/b"),
    "a repository with commits": (f"mkdir new; cd new; {INNER}", "would be lost: new"),
    "a repository that was committed": (
        f"mkdir new; (cd new; {INNER}); git add -A 2>/dev/null; git commit -q -m W",
        "would be lost: new",
    ),
    "a repository of a name in no language": ("mkdir $(printf 'n\\377w'); git init -q n*", "would be lost: "),
    "a submodule whose commits are nowhere else": (
        (
            f'mkdir ../up; (cd ../up; {INNER}); git -c protocol.file.allow=always submodule -q add "$PWD/../up" sub; '
            "cd sub; echo y >f; git commit -q -a -m Y"
        ),
        "Submodule sub is at commit",
    ),
    "a submodule with changes": (
        (
            f'mkdir ../up; (cd ../up; {INNER}); git -c protocol.file.allow=always submodule -q add "$PWD/../up" sub; '
            "cd sub; echo y >f; git config core.fsmonitor 'touch ../trapped'"
        ),
        "Submodule sub has changes",
    ),
}
SUBMODULE = (
    f'mkdir ../up; (cd ../up; {INNER}); git -c protocol.file.allow=always submodule -q add "$PWD/../up" sub; '
    "git commit -q -m Sub; cd sub; echo y >f; "
)
LEFT |= {
    "commits from which HEAD was moved by hand": (
        "git checkout -q --detach; "
        + STRAY
        + "git symbolic-ref HEAD refs/heads/task/web/fix; git reset -q --hard",
        "was made on no branch and left behind",
    ),
    "commits from which HEAD was moved by hand at last": (
        "git checkout -q --detach; " + STRAY + "git symbolic-ref HEAD refs/heads/task/web/fix",
        "was made on no branch and left behind",
    ),
    "commits from which HEAD was written over": (
        "git checkout -q --detach; "
        + STRAY
        + "echo ref: refs/heads/task/web/fix >.git/HEAD; git reset -q --hard",
        "was made on no branch and left behind",
    ),
    "commits of a work tree whose HEAD was moved by hand": (
        "git worktree add -q --detach ../../tree; cd ../../tree; "
        + STRAY
        + "git symbolic-ref HEAD refs/heads/t; git reset -q --hard task/web/fix",
        "was made on no branch and left behind",
    ),
    "a submodule with a stash": (SUBMODULE + "git stash -q", "Submodule sub has changes that are stashed"),
    "a submodule with another branch": (
        SUBMODULE + "git checkout -q -b other; git commit -q -a -m Y; git checkout -q -",
        "Submodule sub has commits on refs/heads/other",
    ),
}
INSIDE = SUBMODULE + "git checkout -q -b other; git commit -q -a -m Y; git checkout -q -; "
LEFT |= {
    f"a submodule with commits that only {ref} holds": (
        INSIDE + f"git update-ref {ref} other; git branch -q -D other",
        f"Submodule sub has commits on {ref} that nobody else has",
    )
    for ref in ("refs/wip/x", "refs/remotes/origin/other", "refs/tags/v1", "refs/notes/x", "refs/bisect/bad")
}
LEFT |= {
    "a submodule with commits that only a ref beside its HEAD holds": (
        INSIDE + "git rev-parse other >../.git/modules/sub/MINE; git branch -q -D other",
        "Submodule sub has commits on MINE that nobody else has",
    ),
    "a submodule with commits of no branch that were left behind": (
        SUBMODULE + "git checkout -q --detach; git commit -q -a -m Y; git checkout -q master",
        "Submodule sub has commit ",
        "which was made on no branch and left behind",
    ),
    "a submodule at a merge that nobody else has": (
        "git init -q ../up; (cd ../up; " + INNER + "git checkout -q -b b; git commit -q --allow-empty -m B; "
        "git checkout -q -; git commit -q --allow-empty -m A); "
        'git -c protocol.file.allow=always submodule -q add "$PWD/../up" sub; cd sub; '
        "git merge -q --no-ff -m M origin/b; cd ..; git add sub; git commit -q -m Sub",
        "Submodule sub is at commit",
    ),
}
ASIDE = "git checkout -q -b mine; " + STRAY + "git checkout -q -; "
LEFT |= {
    f"commits that only {ref} holds": (
        ASIDE + f"git update-ref {ref} mine; git branch -q -D mine",
        f"{ref} has 1 commits",
    )
    for ref in (
        "refs/remotes/origin/main",
        "refs/remotes/origin/mine",
        "refs/remotes/mine",
        "refs/notes/commits",
        "refs/original/refs/heads/task/web/fix",
        "refs/bisect/bad",
        "refs/prefetch/remotes/origin/main",
        "refs/rewritten/onto",
        "refs/worktree/mine",
        "refs/pull/1/head",
        "refs/odd",
        "MINE",
    )
}
LEFT |= {
    "commits that were pushed elsewhere alone": (
        ASIDE
        + "git init -q --bare ../up; git remote add up ../up; git push -q up mine:mine; git branch -q -D mine",
        "refs/remotes/up/mine has 1 commits",
    ),
    "commits that were fetched from itself": (
        ASIDE + "git fetch -q . mine:refs/remotes/origin/mine; git branch -q -D mine",
        "refs/remotes/origin/mine has 1 commits",
    ),
    "commits on top of those of others": (
        f"git init -q ../up; (cd ../up; {INNER}); git fetch -q ../up HEAD:refs/remotes/up/main; "
        "git checkout -q -b mine refs/remotes/up/main; "
        + STRAY
        + "git checkout -q -; git update-ref refs/remotes/up/main mine; git branch -q -D mine",
        "refs/remotes/up/main has",
    ),
    "a submodule whose repository is elsewhere": (
        SUBMODULE + "cd ..; mv .git/modules/sub ../sub; echo gitdir: $PWD/../sub >sub/.git; "
        "rm ../sub/HEAD; mkfifo ../sub/HEAD",
        "Submodule sub has its repository, or parts of it, outside",
    ),
    "a submodule that borrows from elsewhere": (
        SUBMODULE
        + "cd ..; mkdir -p ../e/info; mkfifo ../e/info/alternates; echo $PWD/../e >.git/modules/sub/objects/info/alternates",
        "Submodule sub has its repository, or parts of it, outside",
    ),
    "a submodule with the settings of elsewhere": (
        SUBMODULE
        + "cd ..; mkdir ../e; mkfifo ../e/HEAD ../e/config; echo $PWD/../e >.git/modules/sub/commondir",
        "Submodule sub has its repository, or parts of it, outside",
    ),
}
IDENTITY = {
    f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "a world")


def branch(world: World) -> str:
    return git(world.code, "for-each-ref", "refs/heads/task")


@pytest.mark.parametrize("left", LEFT)
async def test_what_is_unfinished_is_told_and_nothing_of_it_is_delivered(world, left):
    script, *args = LEFT[left]

    report = await world.carry_out(
        world.order(f"({script}) >/dev/null 2>&1; true", env=IDENTITY, validation=(world.note("validated"),))
    )

    assert (report.verdict.outcome, report.verdict.message) == ("success", "")
    check = report.failed_check
    assert check is not None
    assert check.summary.startswith("the work was left unfinished: ")
    assert [word for word in args if word not in check.output] == []
    assert (branch(world), world.noted, list(world.folder.rglob("trapped"))) == ("", [], [])


@pytest.mark.parametrize(
    ("left", "end"),
    [
        ("a merge with a conflict", "echo both >README; git commit -q -a -m Both"),
        ("a rebase", "echo both >README; git add README; GIT_EDITOR=true git rebase --continue"),
        ("a cherry-pick", "git cherry-pick --abort; git branch -q -D side"),
        ("a stash", "git stash pop -q"),
        ("another branch", "git merge -q mine"),
        ("a head on no branch", "git merge -q $(git rev-parse HEAD@{1})"),
        ("a repository with commits", "rm -rf new/.git"),
    ],
)
async def test_the_next_round_finds_it_as_it_was_left_and_finishes_it(world, left, end):
    first = await world.carry_out(world.order(f"({LEFT[left][0]}) >/dev/null 2>&1; true", env=IDENTITY))

    second = await world.carry_out(world.order(f"({end}) >/dev/null 2>&1", number=2, env=IDENTITY))

    assert first.failed_check is not None
    assert second.failed_check is None, second.failed_check.output
    assert (second.verdict.outcome, second.verdict.message) == ("success", "")
    assert second.commits >= 1
    assert branch(world) != ""


async def test_what_is_left_unfinished_again_is_told_again(world):
    script = f"({LEFT['a rebase'][0]}) >/dev/null 2>&1; true"
    first = await world.carry_out(world.order(script, env=IDENTITY))

    second = await world.carry_out(world.order("true", number=2, env=IDENTITY))

    assert second.failed_check == first.failed_check


async def test_a_failed_agent_keeps_what_it_left_unfinished_and_it_is_noted(world):
    report = await world.carry_out(
        world.order(f"({LEFT['a merge with a conflict'][0]}) >/dev/null 2>&1; exit 3", env=IDENTITY)
    )

    assert report.verdict.kind == FailureClass.AGENT
    assert any("A merge is under way" in note for note in report.verdict.notes)
    (work,) = (world.data / "host/f1/work").iterdir()
    assert (work / ".git/MERGE_HEAD").exists()


# --- What is no less done for being odd ------------------------------------------

UPSTREAM = (
    f"git init -q ../up; (cd ../up; {INNER}git checkout -q -b spare; git commit -q --allow-empty -m S; "
    "git tag side; git commit -q --amend --allow-empty -m T; git checkout -q -; git tag -a -m v1 v1); "
    'git -c protocol.file.allow=always submodule -q add "$PWD/../up" sub; git commit -q -m Sub; cd sub; '
)
DONE = {
    "a submodule that was pushed to": UPSTREAM
    + "git checkout -q -b mine; echo y >f; git commit -q -a -m Y; git push -q origin mine 2>/dev/null; cd ..; echo new >x",
    "a submodule that was pulled": "git config --global protocol.file.allow always; "
    + UPSTREAM
    + "(cd ../../up; git commit -q --allow-empty -m P; git checkout -q --detach; git commit -q --allow-empty -m Q; "
    "git tag loose; git checkout -q master); git fetch -q --tags; git pull -q; git checkout -q --detach v1; "
    "git checkout -q master; cd ..; echo new >x",
    "a lock of the index": "echo new >x; : >.git/index.lock",
    "a lock that is a folder": "echo new >x; mkdir .git/index.lock",
    "locks of everything": "echo new >x; for at in HEAD config packed-refs shallow refs/heads/task/web/fix; do : >.git/$at.lock; done",
    "an index of garbage": "echo new >x; echo oops >.git/index",
    "an index that is cut": "echo new >x; head -c 20 .git/index >i; mv i .git/index",
    "a file to be taken for unchanged": "echo new >x; git update-index --assume-unchanged README; echo more >README",
    "a file to be left out": "echo new >x; git update-index --skip-worktree README; echo more >README",
    "a file that is only intended": "echo new >x; git add -N x",
    "a file that was added though it is ignored": "echo x >.gitignore; echo new >x; git add -f x",
    "a sparse checkout": "echo new >x; git sparse-checkout set --no-cone /README",
    "commits that were given up": "echo new >x; "
    "git commit -q --allow-empty -m Z; git reset -q --hard HEAD~; echo new >x",
    "a branch that was moved on by hand": (
        "echo new >x; git add x; git update-ref refs/heads/task/web/fix $(git commit-tree -p HEAD -m X $(git write-tree))"
    ),
    "a branch as it was before a rebase": (
        "echo new >x; git add x; git commit -q -m X; git branch before; git commit -q --amend --reset-author -m Y"
    ),
    "a name of more than one line": "echo new >x; echo y >\"$(printf 'a\\nb')\"",
    "a name in no language": "echo new >x; echo y >\"$(printf 'a\\377b')\"",
    "a branch called MERGE_HEAD": "echo new >x; git branch MERGE_HEAD; git branch HEAD 2>/dev/null; git tag main",
    "files called as refs are": "echo new >x; mkdir -p refs/reconciler; echo y >refs/reconciler/base; echo y >HEAD",
    "a replaced commit": "echo new >x; git add x; git commit -q -m X; git replace --graft HEAD",
    "a repository that is ignored": "echo new >x; echo /cache >.gitignore; git init -q cache",
    "a folder nobody may enter": "echo new >x; mkdir closed; echo y >closed/y; chmod 0 closed",
    "a pipe": "echo new >x; mkfifo pipe",
    "pipes where git looks": (
        "echo new >x; mkfifo .gitignore .gitattributes .gitmodules; mkdir n; mkfifo n/.git; cd .git; mkdir -p info worktrees/a; "
        "for at in config index packed-refs shallow info/exclude info/grafts MERGE_HEAD logs/HEAD refs/heads/p refs/stash worktrees/a/gitdir; "
        "do rm -rf $at; mkfifo $at; done"
    ),
    "links to what has no end": (
        "echo new >x; ln -s /dev/zero .gitignore; git init -q n; ln -sf /dev/zero n/.git/HEAD; cd .git; "
        "for at in shallow packed-refs MERGE_HEAD refs/stash; do rm -f $at; ln -s /dev/zero $at; done"
    ),
    "a socket": "echo new >x; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'",
    "pipes that git would read": "echo new >x; mkfifo .gitattributes src/.gitignore .gitmodules",
    "a pipe in a folder that is closed": "echo new >x; mkdir y; mkfifo y/.gitignore; echo y >y/y; chmod 500 y",
    "a pipe as the index": "echo new >x; rm .git/index; mkfifo .git/index",
    "pipes among the refs": "echo new >x; mkfifo .git/packed-refs .git/refs/heads/pipe .git/shallow .git/index.lock",
    "pipes behind what it borrows from": (
        "echo new >x; mkdir -p ../e/info ../e/pack; mkfifo ../e/info/alternates ../e/pack/multi-pack-index; "
        "echo $PWD/../e >>.git/objects/info/alternates"
    ),
    "a pipe instead of what it borrows from": (
        "echo new >x; git repack -q -a -d; mkdir -p ../e/info; mkfifo ../e/info/alternates; echo $PWD/../e >.git/objects/info/alternates"
    ),
    "a graph of commits that is somebody's": "echo new >x; head -c 2000 /dev/urandom >.git/objects/info/commit-graph",
    "a pipe as the log": "echo new >x; mkdir -p .git/logs; rm -f .git/logs/HEAD; mkfifo .git/logs/HEAD",
    "pipes among the objects": "echo new >x; mkfifo .git/objects/info/commit-graph .git/objects/pack/multi-pack-index",
    "links out of the repository": "echo new >x; ln -s / .git/refs/heads/root; ln -s /dev/zero .git/packed-refs",
    "a work tree of a pipe": "echo new >x; mkdir -p .git/worktrees/a; mkfifo .git/worktrees/a/gitdir",
    "a work tree that is everything": "echo new >x; mkdir -p .git/worktrees/a; echo /.git >.git/worktrees/a/gitdir",
    "a link to nowhere": "echo new >x; ln -s /nowhere/at/all link",
    "marks of a conflict that is none": "echo new >x; printf '<<<<<<< a\\n=======\\n>>>>>>> b\\n' >how-to-merge; git add .",
    "a conflict that was resolved": (
        f"echo new >x; {CLASH}git merge -q side; echo hello >README; git add README; git commit -q -m Merged"
    ),
    "a branch of others": (
        f"echo new >x; git init -q ../up; (cd ../up; {INNER}); git fetch -q ../up HEAD:refs/remotes/up/main; "
        "git fetch -q ../up HEAD:refs/heads/up; git fetch -q ../up HEAD"
    ),
    "a remote of others": (
        f"echo new >x; git init -q ../up; (cd ../up; {INNER}); git remote add up ../up; git remote update >/dev/null 2>&1; "
        "git branch -q theirs $(git for-each-ref --format='%(refname)' refs/remotes/up); git pack-refs --all"
    ),
    "a branch that was pushed": (
        "echo new >x; git add x; git commit -q -m X; git init -q --bare ../up; git push -q ../up HEAD:main; "
        "git remote add up ../up; git push -q up HEAD:other"
    ),
    "notes": "echo new >x; git notes add -m Well",
    "what was rewritten": (
        "echo new >x; git add x; git commit -q -m X; "
        "FILTER_BRANCH_SQUELCH_WARNING=1 git filter-branch -f --msg-filter 'echo Y' HEAD~1..HEAD"
    ),
    "a work tree that has nothing of its own": "echo new >x; git worktree add -q --detach ../../tree",
    "a bisect that was ended": "echo new >x; git bisect start -q; git bisect reset",
}


@pytest.mark.parametrize("left", DONE)
async def test_whatever_else_lies_in_the_workspace_the_work_is_delivered(world, left):
    report = await world.carry_out(world.order(f"{DONE[left]}; true", env=IDENTITY))

    assert (report.verdict.outcome, report.verdict.message, report.failed_check) == ("success", "", None)
    assert git(world.code, "show", "task/web/fix:x") == "new"
    assert git(world.code, "show", "task/web/fix:README") == (
        "more" if "more >README" in DONE[left] else "hello"
    )
    assert git(world.code, "show", "task/web/fix:src/main.py") == "print('hello')"
    assert git(world.code, "fsck", "--full", "--strict", "--no-dangling") == ""


@pytest.mark.parametrize(
    "left",
    [
        "rm -rf .git",
        "rm .git/HEAD",
        "rm .git/HEAD; mkfifo .git/HEAD",
        "rm .git/HEAD; mkfifo p; ln -s ../p .git/HEAD",
        "rm .git/objects/info/alternates; mkfifo .git/objects/info/alternates",
        ": >.git/HEAD",
        "rm -rf .git/objects; mkdir .git/objects",
        "echo /nowhere >.git/objects/info/alternates",
        "echo oops >.git/packed-refs",
        "rm -rf .git/refs/reconciler",
        "git update-ref -d refs/reconciler/base; git update-ref refs/reconciler/done HEAD; git pack-refs --all",
        "git update-ref refs/reconciler/done HEAD",
        "rm .git/refs/heads/task/web/fix; mkfifo .git/refs/heads/task/web/fix",
        "ln -s /dev/zero .gitmodules",
        "echo y >y; git add y; git commit -q -m Y; find .git/objects -type f ! -name alternates -exec rm -f {} +",
        "echo x >y; git add y; git commit -q -m Y; git rev-parse HEAD~1 >.git/shallow",
        "rm -rf ../web+fix*",
    ],
)
async def test_what_nobody_can_take_up_is_the_agents_and_no_fault_of_the_host(world, left):
    report = await world.carry_out(world.order(f"echo x >x; {left}", env=IDENTITY))

    if report.verdict.outcome == "failed":
        assert report.verdict.kind == FailureClass.AGENT, report.verdict.message
        assert "disk" not in report.verdict.message
        assert branch(world) == ""
    else:
        assert git(world.code, "show", "task/web/fix:x") == "x"


@pytest.mark.parametrize(
    "left",
    [
        "git update-ref -d refs/remotes/origin/main; git update-ref refs/remotes/origin/main/x HEAD",
        "git update-ref -d refs/remotes/origin/main; git update-ref refs/remotes/origin/main/x HEAD; git pack-refs --all",
        "mkdir -m 0 closed",
        ": >.git/index.lock",
        "echo oops >.git/index",
        "git init -q validated",
    ],
)
async def test_what_a_round_leaves_does_not_keep_the_next_from_its_start(world, left):
    await world.carry_out(world.order("echo x >x", env=IDENTITY, validation=(left, "false")))

    report = await world.carry_out(world.order("echo y >y", number=2, env=IDENTITY))

    assert (report.verdict.outcome, report.verdict.message, report.failed_check) == ("success", "", None)
    assert git(world.code, "ls-tree", "--name-only", "task/web/fix").splitlines() == [
        "README",
        "src",
        "x",
        "y",
    ]
