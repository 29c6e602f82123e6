"""
Orders carried out on this machine: workspace, agent, validation, delivery.
"""

import asyncio
import os
import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.core.adapter import Secret
from reconciler.core.errors import Unavailable
from reconciler.core.events import RunEnded, RunSeen
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Host, HostAdapter, Repo
from reconciler.core.runs.command import PROMPT_FILE, WORKDIR
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.workspace import Workspaces
from tests import processes
from tests.dispatch.world import NOW, RUN, World, ended, git, seen, until

EDIT = "echo more >>README; echo new >new; rm src/main.py"


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "a world")


def heads(world: World) -> dict[str, str]:
    lines = git(world.code, "for-each-ref", "--format=%(refname:short) %(objectname)").splitlines()
    return dict(line.split() for line in lines)


# --- The whole way -------------------------------------------------------------


async def test_uncommitted_work_is_committed_in_the_agents_name_and_delivered(world):
    base = heads(world)["main"]

    report = await world.carry_out(world.order(EDIT))

    assert (report.verdict.outcome, report.commits, report.base_commit) == ("success", 1, base)
    assert heads(world) == {"main": base, "task/web/fix": report.head_commit}
    assert git(world.code, "log", "-1", "--format=%an <%ae>|%cn|%B", "task/web/fix") == (
        "script <agent@reconciler.invalid>|script|Mend it\n\nTask: web/fix"
    )
    assert git(world.code, "diff", "--name-status", "main", "task/web/fix").split() == (
        ["M", "README", "A", "new", "D", "src/main.py"]
    )


async def test_the_agents_own_commits_are_left_as_they_are(world):
    script = (
        "echo a >a; git add a; git -c user.name=Me -c user.email=me@example.org commit -qm Mine; "
        "echo b >b; git add b; git commit -qm 'In its own name'; echo c >c"
    )

    report = await world.carry_out(world.order(script))

    assert report.commits == 3
    assert git(world.code, "log", "-3", "--format=%an: %s", "task/web/fix").splitlines() == [
        "script: Mend it",
        "script: In its own name",
        "Me: Mine",
    ]


async def test_facts_come_in_order_and_name_the_run(world):
    dispatcher, facts = world.dispatcher(), []
    order = world.order("true", repo=None)

    dispatcher.follow(order, facts.append)
    followed = dispatcher.followed
    await until(lambda: not dispatcher.followed)
    await asyncio.sleep(0)
    await dispatcher.close()

    assert followed == {order.key}
    assert [type(fact) for fact in facts] == [RunSeen, RunEnded]
    assert {(fact.task, fact.run, fact.round, fact.at) for fact in facts} == {("web/fix", RUN, 1, NOW)}


async def test_the_agent_knows_its_task_and_gets_the_environment_in_order(world):
    host = Host(name="local", env={"A": "host", "B": "host", "C": "host"})
    adapter = {"env": {"B": "adapter", "C": "adapter"}}
    order = world.order(
        'echo "$A $B $C"; env | grep ^RECONCILER_ | grep -v -e _DIR= -e _FILE= | sort; cat',
        host=host,
        adapter=adapter,
        env={"C": "it's $HOME"},
        repo=None,
    )

    report = await world.carry_out(order)

    assert report.verdict.text.splitlines() == [
        "host adapter it's $HOME",
        "RECONCILER_BRANCH=task/web/fix",
        "RECONCILER_MODE=work",
        "RECONCILER_ROUND=1",
        f"RECONCILER_RUN={RUN}",
        "RECONCILER_TASK=web/fix",
        "Do it.",
    ]


async def test_a_prompt_can_be_a_file_that_only_its_user_reads(world):
    argv = ("sh", "-c", 'stat -c %a "$1"; cat "$1"; wc -c; echo "$2"; pwd', "sh", PROMPT_FILE, WORKDIR)
    order = world.order("", argv=argv, adapter={"prompt": "file"}, repo=None)

    report = await world.carry_out(order)

    mode, prompt, left, workdir, cwd = report.verdict.text.splitlines()
    assert (mode, prompt, int(left)) == ("600", "Do it.", 0)
    assert workdir == cwd == str(world.data / "host/f1/work" / RUN.replace("/", "+"))


@pytest.mark.parametrize("at", ["folder", "file"])
async def test_a_host_may_say_where_a_cli_is(world, at):
    tools = world.folder / "tools"
    tools.mkdir()
    (tools / "mycli").write_text("#!/bin/sh\necho found $1\n")
    (tools / "mycli").chmod(0o755)
    path = str(tools if at == "folder" else tools / "mycli")
    host = Host(name="local", adapters={"script": HostAdapter(path=path)})

    report = await world.carry_out(world.order("", argv=("mycli", "it"), host=host, repo=None))

    assert report.verdict.text == "found it\n"


async def test_a_task_without_a_repo_works_in_an_empty_folder(world):
    report = await world.carry_out(world.order("ls -A; echo x >x", repo=None, validation=("test -f x",)))

    assert (report.verdict.text, report.failed_check, report.commits) == ("", None, 0)
    assert report.head_commit is report.base_commit is None


async def test_work_that_changes_nothing_is_not_delivered(world):
    before = heads(world)

    report = await world.carry_out(world.order("true", validation=("test -f README",)))

    assert (report.verdict.outcome, report.commits, report.head_commit) == ("success", 0, None)
    assert heads(world) == before


@pytest.mark.parametrize(
    "script",
    [
        "git commit -q --allow-empty -m Empty",
        "echo x >x; git add .; git commit -qm Do; git revert --no-edit HEAD",
        "echo x >x; git add .; git commit -qm Do; rm x",
        "git checkout -qb s; echo x >x; git add .; git commit -qm S; git checkout -q -; git merge -s ours -",
        "git merge -q --no-ff --no-edit newer",
        "chmod +x README; git commit -qam Mode; git -c core.fileMode=false revert --no-edit HEAD",
    ],
)
async def test_commits_that_together_change_nothing_are_no_work(world, script):
    before = heads(world)
    order = world.order(f"git branch newer origin/main; ({script}) >&2; git branch -D newer")

    report = await world.carry_out(order)

    assert (report.verdict.outcome, report.failed_check) == ("success", None), report
    assert (report.commits, report.head_commit) == (0, None)
    assert heads(world) == before


async def test_what_the_cli_leaves_behind_is_not_committed(world):
    order = world.order("mkdir .codex; echo x >.codex/x; echo y >y", adapter={"cleanup": (".codex",)})

    report = await world.carry_out(order)

    assert git(world.code, "diff", "--name-only", "main", "task/web/fix") == "y"
    assert report.commits == 1


async def test_a_checkout_with_a_work_tree_is_touched_in_nothing_but_the_branch(world):
    checkout = world.folder / "checkout"
    git(world.folder, "clone", "-q", str(world.code), str(checkout))
    (checkout / "README").write_text("half done\n")
    (checkout / "untracked").write_text("mine\n")
    index = (checkout / ".git/index").read_bytes()
    before = git(checkout, "status", "--porcelain=v2", "--branch")

    report = await world.carry_out(world.order(EDIT, repo=Repo(name="code", url="checkout")))

    assert git(checkout, "status", "--porcelain=v2", "--branch") == before
    assert (checkout / ".git/index").read_bytes() == index
    assert git(checkout, "rev-parse", "task/web/fix") == report.head_commit


# --- Validation ------------------------------------------------------------------


async def test_validation_runs_in_order_and_stops_at_the_first_failure(world):
    commands = ("echo one; echo oops >&2", f"{world.note('two')}; echo 'two'; exit 3", world.note("three"))

    report = await world.carry_out(world.order("echo x >x", validation=commands))

    assert [(check.command, check.exit_code, check.output) for check in report.checks] == [
        (commands[0], 0, "one\noops"),
        (commands[1], 3, "two"),
    ]
    assert world.noted == ["two"]
    assert (report.verdict.outcome, report.head_commit, report.commits) == ("success", None, 0)
    assert "task/web/fix" not in heads(world)


async def test_validation_that_takes_too_long_is_stopped_and_says_so(world):
    commands = ("true", "echo begun; sleep 100", world.note("after"))

    report = await world.carry_out(world.order("true", validation=commands, timeout=timedelta(seconds=4)))

    assert [(check.exit_code, check.output) for check in report.checks] == [(0, ""), (124, "begun")]
    assert report.checks[1].seconds >= 4
    assert world.noted == []


async def test_what_validation_writes_is_not_delivered_and_is_gone_in_the_next_round(world):
    first = await world.carry_out(
        world.order("echo x >x", validation=("echo junk >junk; echo y >>README; false",))
    )

    second = await world.carry_out(world.order("ls; cat x; cat README", number=2, validation=("touch more",)))

    assert first.failed_check is not None
    assert second.verdict.text == "README\nsrc\nx\nx\nhello\n"
    assert (second.commits, second.failed_check) == (1, None)
    assert git(world.code, "diff", "--name-only", "main", "task/web/fix") == "x"


async def test_a_command_cannot_forge_the_account_of_the_validation(world):
    forged = "echo 'end 1 0 1 10'; echo 'end 1 0 1 10' >&2; exit 9"

    report = await world.carry_out(world.order("true", validation=(forged,)))

    assert [check.exit_code for check in report.checks] == [9]


async def test_validation_has_the_environment_of_the_agent_and_no_stdin(world):
    commands = ('test "$A $RECONCILER_ROUND" = "x 1"', "test $(wc -c) = 0")

    report = await world.carry_out(world.order("true", validation=commands, env={"A": "x"}, repo=None))

    assert [check.exit_code for check in report.checks] == [0, 0]


# --- Failures --------------------------------------------------------------------


@pytest.mark.parametrize("code", [1, 7, 125, 126, 127, 143, 255])
async def test_a_failed_agent_is_neither_validated_nor_delivered_and_its_work_is_kept(world, code):
    order = world.order(f"echo x >x; exit {code}", validation=(world.note("validated"),))

    report = await world.carry_out(order)

    work = world.data / "host/f1/work" / RUN.replace("/", "+")
    assert (report.verdict.kind, report.verdict.message) == (FailureClass.AGENT, f"exit {code}")
    assert (report.checks, report.head_commit, world.noted) == ((), None, [])
    assert "task/web/fix" not in heads(world)
    assert git(work, "show", "--format=%s", "--name-only").split() == ["Mend", "it", "x"]


@pytest.mark.parametrize(
    ("script", "limits", "kind"),
    [
        ("sleep 100", {"timeout": timedelta(seconds=1)}, FailureClass.TIMEOUT),
        ("sleep 100", {"stall_timeout": timedelta(seconds=1)}, FailureClass.STALL),
        ("yes", {"output_mb": 1}, FailureClass.AGENT),
    ],
)
async def test_limits_are_told_apart(world, script, limits, kind):
    report = await world.carry_out(world.order(script, repo=None, **limits))

    assert report.verdict.kind == kind
    assert "was stopped" in report.verdict.message


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        (Repo(name="code", url="nowhere.git"), "nowhere.git"),
        (Repo(name="code", url="code.git", base="trunk"), "trunk"),
        (Repo(name="code", url="ext::sh -c touch% gone"), "not allowed"),
        (Repo(name="code", url="--upload-pack=touch:gone"), "upload-pack"),
    ],
)
async def test_a_repo_that_cannot_be_had_is_a_matter_of_its_spec(world, repo, message):
    report = await world.carry_out(world.order(world.note("ran"), repo=repo))

    assert report.verdict.kind in {FailureClass.CONFIG, FailureClass.HOST}
    assert message in report.verdict.message
    assert world.noted == []
    assert not list(world.folder.rglob("gone"))


async def test_a_repo_that_is_away_for_long_is_given_up_before_the_agent_starts(world):
    repo = Repo(name="code", url="http://127.0.0.1:9/code.git")

    report = await world.carry_out(world.order(world.note("ran"), repo=repo))

    assert report.verdict.kind == FailureClass.HOST
    assert "127.0.0.1" in report.verdict.message
    assert world.noted == []


async def test_a_step_that_is_tried_again_is_told_in_the_words_of_its_first_try_until_the_round_ends(world):
    repo = Repo(name="code", url="http://127.0.0.1:9/code.git")
    dispatcher, facts = world.dispatcher(lasting=0.0), asyncio.Queue()
    dispatcher.follow(world.order("true", repo=repo), facts.put_nowait)

    await until(lambda: "cannot look at" in dispatcher.retry_reasons.get(RUN, ""))
    (found,) = dispatcher.retry_reasons.items()
    await ended(facts)

    assert found[0] == RUN
    assert "cannot look at http://127.0.0.1:9/code.git" in found[1]
    assert dispatcher.retry_reasons == {}
    await dispatcher.close()


async def test_a_step_that_waits_for_somebody_who_is_silent_says_for_whom(world):
    gate, hook = world.folder / "gate", world.code / "hooks/pre-receive"
    os.mkfifo(gate)
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\nread line <'{gate}'\n")
    hook.chmod(0o755)
    key = Secret(command=("sh", "-c", f"read line <'{gate}'; echo \"$line\""))
    order = world.order("echo x >x", adapter={"secrets": {"KEY": key}}, validation=(f"read line <'{gate}'",))
    dispatcher, facts = world.dispatcher(lasting=0.0), asyncio.Queue()
    dispatcher.follow(order, facts.put_nowait)

    def is_told(message):
        return lambda: dispatcher.retry_reasons.get(RUN, "").startswith(message)

    await until(is_told("looks up the secrets of adapter script"))
    assert RUN not in dispatcher.agent_over
    await asyncio.to_thread(gate.write_text, "a secret\n")
    await until(lambda: RUN in dispatcher.agent_over)  # and the validation runs
    await asyncio.to_thread(gate.write_text, "go on\n")
    await until(is_told("repo code: waits for an answer of "))
    assert RUN in dispatcher.agent_over
    await asyncio.to_thread(gate.write_text, "go on\n")
    report = await ended(facts)

    assert report.verdict.outcome == "success"
    assert (dispatcher.retry_reasons, dispatcher.agent_over) == ({}, frozenset())
    await dispatcher.close()


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("prepare", "host local: prepares the workspace from "),
        ("take_up", "host local: takes up what the agent left"),
        ("bundle", "host local: sends the work"),
    ],
)
async def test_a_step_that_hangs_on_a_host_says_so_before_it_ends(world, monkeypatch, step, told):
    async def hang(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(Workspaces, step, hang)
    dispatcher, facts = world.dispatcher(lasting=0.0), asyncio.Queue()
    dispatcher.follow(world.order("echo x >x"), facts.put_nowait)

    await until(lambda: dispatcher.retry_reasons.get(RUN, "").startswith(told))
    await dispatcher.close()


async def test_a_host_without_git_says_so(world):
    tools = world.folder / "tools"
    tools.mkdir()
    for name in ("sh", "mkdir", "cat", "rm", "mv", "tr", "awk", "head", "wc", "setsid", "ln", "sleep"):
        (tools / name).symlink_to(shutil.which(name))
    world.transport = LocalTransport(world.data / "host", {"PATH": str(tools)})

    report = await world.carry_out(world.order("true"))

    assert report.verdict.kind == FailureClass.HOST
    assert "git is not installed" in report.verdict.message


async def test_a_workdir_that_is_no_safe_word_is_a_matter_of_the_spec(world):
    host = Host(name="far", address="127.0.0.1", workdir="/srv/$(touch gone)")

    report = await world.carry_out(world.order("true", host=host))

    assert report.verdict.kind == FailureClass.CONFIG
    assert "workdir" in report.verdict.message


async def test_a_mistake_of_ours_ends_the_run_and_is_reported(world):
    def stumbling(*_, **__):
        raise ZeroDivisionError

    report = await world.carry_out(world.order("true", repo=None), read_output=stumbling)

    assert report.verdict.kind == FailureClass.HOST
    assert "ZeroDivisionError" in report.verdict.message


# --- Delivery --------------------------------------------------------------------


async def test_a_branch_of_somebody_else_is_left_alone(world):
    git(world.code, "branch", "task/web/fix", "main")
    before = heads(world)

    report = await world.carry_out(world.order(EDIT))

    assert report.verdict.kind == FailureClass.CONFIG
    assert "is not this task's" in report.verdict.message
    assert (heads(world), report.head_commit) == (before, None)


async def test_a_branch_that_moved_since_its_delivery_is_left_alone(world):
    first = await world.carry_out(world.order("echo x >x"))
    git(world.code, "update-ref", "refs/heads/task/web/fix", "main")

    second = await world.carry_out(
        world.order(
            "echo y >y",
            run="web/fix.g12345678.a2",
            start_from=first.head_commit,
            expected_head=first.head_commit,
        )
    )

    assert "somebody pushed" in second.verdict.message
    assert heads(world)["task/web/fix"] == heads(world)["main"]


async def test_the_next_attempt_goes_on_from_what_was_delivered(world):
    first = await world.carry_out(world.order("echo x >x"))

    second = await world.carry_out(
        world.order(
            "cat x; echo y >y",
            run="web/fix.g12345678.a2",
            start_from=first.head_commit,
            expected_head=first.head_commit,
        )
    )

    assert second.verdict.text == "x\n"
    assert (second.base_commit, second.commits) == (first.head_commit, 1)
    assert heads(world)["task/web/fix"] == second.head_commit


async def test_a_new_attempt_may_replace_what_its_task_delivered_before(world):
    first = await world.carry_out(world.order("echo x >x"))

    second = await world.carry_out(
        world.order("echo y >y", run="web/fix.g12345678.a2", expected_head=first.head_commit)
    )

    assert second.base_commit == heads(world)["main"]
    assert heads(world)["task/web/fix"] == second.head_commit != first.head_commit


@pytest.mark.parametrize(
    ("script", "is_allowed"),
    [
        ("echo x >src/x", True),
        ("echo x >x", False),
        ("git mv README src/", False),
        ("echo x >src/secret", False),
    ],
)
async def test_only_paths_that_the_repo_allows_are_delivered(world, script, is_allowed):
    repo = Repo(name="code", url="code.git", paths=("src/", "!src/secret"))

    report = await world.carry_out(world.order(script, repo=repo))

    assert (report.head_commit is not None) == is_allowed
    if not is_allowed:
        assert (report.verdict.kind, report.checks) == (FailureClass.AGENT, ())
        assert "outside of the repo's `paths`" in report.verdict.message


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("git checkout -q --orphan new; echo x >x", "does not go on from"),
        ("rm -rf .git", "gone or damaged"),
        ("rm -rf .git; git init -q .; echo x >x", "gone or damaged"),
        ("rm -rf ../web+fix*", "gone or damaged"),
    ],
)
async def test_work_whose_history_is_gone_is_refused(world, script, message):
    outer = world.folder / "data"  # a repository around the workspaces must not be found in their place
    git(outer.parent, "init", "-q", str(outer))

    report = await world.carry_out(world.order(script))

    assert report.verdict.outcome == "failed"
    assert message in report.verdict.message
    assert git(outer, "rev-list", "--all", "--count") == "0"
    assert "task/web/fix" not in heads(world)


NESTED = "mkdir 'my part'; cd 'my part'; git init -q; echo x >x; git add x; git commit -q -m part; cd ..; "
IDENTITY = {
    f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


@pytest.mark.parametrize("more", ["", "git add -A 2>/dev/null; git commit -q -m whole"])
async def test_a_repository_within_the_work_is_told_of_before_it_is_lost(world, more):
    report = await world.carry_out(world.order(NESTED + more, env=IDENTITY))

    assert report.failed_check is not None
    assert "A repository within the repository would be lost: my part." in report.failed_check.output
    assert "task/web/fix" not in heads(world)


async def test_a_submodule_is_work_as_any_other(world):
    add = "git -c protocol.file.allow=always submodule -q add -- \"$PWD/my part\" 'a module'; rm -r 'my part'"

    report = await world.carry_out(world.order(NESTED + add, env=IDENTITY))

    assert (report.verdict.outcome, report.commits) == ("success", 1)
    assert "160000 commit" in git(world.code, "ls-tree", "task/web/fix")


async def test_work_is_never_pushed_onto_the_base_branch(world):
    before = heads(world)

    report = await world.carry_out(world.order(EDIT, branch="main", expected_head=before["main"]))

    assert report.verdict.kind == FailureClass.CONFIG
    assert heads(world) == before


async def test_work_on_another_branch_of_the_workspace_is_taken_too(world):
    report = await world.carry_out(world.order("git checkout -q -b mine; echo x >x"))

    assert git(world.code, "show", "--format=", "--name-only", "task/web/fix") == "x"
    assert report.commits == 1


async def test_hooks_and_settings_that_the_agent_leaves_are_not_obeyed(world):
    trap = world.note("trapped")
    script = (
        f"mkdir -p .git/hooks; printf '%s\\n' '#!/bin/sh' \"{trap}\" | tee .git/hooks/pre-commit"
        " .git/hooks/post-commit .git/hooks/reference-transaction >/dev/null; chmod +x .git/hooks/*; "
        "git config core.hooksPath .git/hooks; "
        f'git config core.fsmonitor "{trap}; false"; git config commit.gpgSign true; '
        f'git config gpg.program "{trap}; false"; echo x >x'
    )

    report = await world.carry_out(world.order(script))

    assert (report.verdict.outcome, report.commits) == ("success", 1)
    assert world.noted == []


CLEAN = "git config filter.f.clean \"{filter}\"; echo '* filter=f' >.gitattributes; echo x >x"


@pytest.mark.parametrize(
    "hide",
    [
        "true",
        "mkdir .git/info; mv .gitattributes .git/info/attributes",
        "mv .git/config more; git config -f .git/config include.path ../more",
        (
            "cp .git/config .git/config.worktree; git config --unset filter.f.clean; "
            "git config extensions.worktreeConfig true"
        ),
        "mkdir c; cp -R .git/refs .git/objects .git/config c; echo ../c >.git/commondir; rm .git/config",
        "git sparse-checkout set nothing",
        "chmod 400 .git/config",
    ],
)
async def test_a_filter_that_the_agent_leaves_is_not_run_when_its_work_is_taken_up(world, hide):
    script = CLEAN.format(filter=f"{world.note('filtered')}; cat")

    report = await world.carry_out(world.order(f"{script}; {hide}; rm -f '{world.journal}'"))

    assert (report.verdict.outcome, report.verdict.message, world.noted) == ("success", "", [])
    assert git(world.code, "show", "task/web/fix:x") == "x"
    assert (
        git(world.code, "ls-tree", "--name-only", "task/web/fix", "README", "src/") == "README\nsrc/main.py"
    )


async def test_a_filter_that_hangs_stalls_neither_this_round_nor_the_next(world):
    hang = CLEAN.format(filter="sleep 1000") + "; git config filter.f.smudge 'sleep 1000'"
    first = await world.carry_out(world.order(hang))

    second = await world.carry_out(
        world.order("echo y >y; git config user.name", number=2, expected_head=first.head_commit)
    )

    assert (second.verdict.outcome, second.verdict.text) == ("success", "script\n")
    assert git(world.code, "show", "task/web/fix:y") == "y"


async def test_a_repository_that_is_only_linked_to_is_left_as_it_is(world):
    precious = world.folder / "precious"
    git(world.folder, "clone", "-q", str(world.code), str(precious))
    git(precious, "update-ref", "refs/reconciler/base", "HEAD")
    before = (precious / ".git/config").read_text()

    for link in ("rm -rf .git; ln -s '{0}/.git' .git", "rm -rf .git; echo 'gitdir: {0}/.git' >.git"):
        report = await world.carry_out(
            world.order(link.format(precious), run=f"web/fix.g12345678.a{len(link)}")
        )

        assert "gone or damaged" in report.verdict.message
    assert (precious / ".git/config").read_text() == before


# --- Stopping ----------------------------------------------------------------------


async def test_stopping_a_live_run_ends_its_processes_and_its_round(world):
    word = f"stopme{os.getpid()}"
    dispatcher, facts = world.dispatcher(), asyncio.Queue()
    order = world.order(f": {word}; echo x >x; while :; do sleep 0.1; done")
    dispatcher.follow(order, facts.put_nowait)
    await seen(facts)

    dispatcher.stop(order, "task cancelled", facts.put_nowait)
    report = await ended(facts)
    await dispatcher.close()

    assert report.verdict.kind == FailureClass.CANCELLED
    assert (processes.with_word(word), facts.qsize(), dispatcher.followed) == ([], 0, frozenset())


async def test_a_run_that_is_stopped_before_its_start_never_starts(world):
    order = world.order(world.note("started"))
    dispatcher, facts = world.dispatcher(), asyncio.Queue()

    dispatcher.stop(order, "task cancelled", facts.put_nowait)
    stopped = await ended(facts)
    dispatcher.follow(order, facts.put_nowait)
    followed = await ended(facts)
    await dispatcher.close()

    assert stopped == followed
    assert stopped.verdict.kind == FailureClass.CANCELLED
    assert world.noted == []
    assert not list((world.data / "host/f1/work").iterdir())


async def test_a_run_that_was_quicker_than_its_stop_keeps_its_result(world):
    order = world.order(EDIT)
    done = await world.carry_out(order)
    dispatcher, facts = world.dispatcher(), asyncio.Queue()

    dispatcher.stop(order, "task removed", facts.put_nowait)
    report = await ended(facts)
    await dispatcher.close()

    assert report == done


async def test_stopping_while_it_is_validated_ends_the_validation(world):
    dispatcher, facts = world.dispatcher(), asyncio.Queue()
    order = world.order("echo x >x", validation=(f"{world.note('validating')}; sleep 100",))
    dispatcher.follow(order, facts.put_nowait)
    await until(lambda: world.noted)

    dispatcher.stop(order, "task cancelled", facts.put_nowait)
    report = await ended(facts)
    await dispatcher.close()

    assert report.verdict.kind == FailureClass.CANCELLED
    assert "task/web/fix" not in heads(world)


async def test_stopping_a_run_ends_its_round_even_if_its_repository_is_away(world):
    away = Repo(name="away", url="http://127.0.0.1:9/code.git")  # the port of "discard", where nobody listens
    order = world.order(world.note("started"), repo=away)
    dispatcher, facts = world.dispatcher(patience=1000, farewell=0.1), asyncio.Queue()
    dispatcher.follow(order, facts.put_nowait)
    await until((world.data / "repos/away.git/HEAD").exists)

    dispatcher.stop(order, "task cancelled", facts.put_nowait)
    report = await ended(facts)
    await dispatcher.close()

    assert report.verdict.kind == FailureClass.CANCELLED
    assert (facts.qsize(), dispatcher.followed, world.noted) == (0, frozenset(), [])


def away(world) -> None:
    """Let the forge break off whatever is pushed to it."""
    hook = world.code / "hooks/pre-receive"
    hook.write_text(f"#!/bin/sh\n{world.note('tried')}\nkill -9 $PPID\n")
    hook.chmod(0o755)


async def test_stopping_a_run_ends_its_round_even_if_its_work_cannot_be_delivered(world):
    away(world)
    order = world.order("echo x >x")
    dispatcher, facts = world.dispatcher(farewell=0.1), asyncio.Queue()
    dispatcher.follow(order, facts.put_nowait)
    await until(lambda: world.noted)

    dispatcher.stop(order, "task cancelled", facts.put_nowait)
    report = await ended(facts)
    await dispatcher.close()

    assert report.verdict.kind == FailureClass.CANCELLED
    assert (facts.qsize(), dispatcher.followed) == (0, frozenset())


async def test_work_that_cannot_be_delivered_for_long_fails_its_round_and_is_kept(world):
    away(world)

    report = await world.carry_out(world.order("echo x >x"), delivery_patience=0.5)

    where = re.search(
        r"the work is kept: commit ([0-9a-f]{40}) in (.+), on the machine", report.verdict.message
    )
    assert report.verdict.kind == FailureClass.HOST
    assert "repo code: cannot push 'task/web/fix'" in report.verdict.message
    assert git(Path(where[2]), "show", f"{where[1]}:x") == "x"
    assert "task/web/fix" not in heads(world)
    assert len(world.noted) > 1


async def test_a_repository_that_is_gone_when_the_work_is_delivered_is_told_with_where_the_work_is(world):
    gone = f"cd /; rm -rf '{world.data}/repos' '{world.code}'"
    far = Host(name="far", address="127.0.0.1", workdir="far")

    report = await world.carry_out(world.order(f"echo x >x; {gone}", host=far), delivery_patience=0.5)

    where = re.search(r"the work is kept: commit ([0-9a-f]{40}) in (.+), on host far", report.verdict.message)
    assert report.verdict.kind == FailureClass.CONFIG
    assert git(Path(where[2]), "show", f"{where[1]}:x") == "x"


# --- Crashes -----------------------------------------------------------------------


class Crashing(LocalTransport):
    """Lets the reconciler die after so many calls: the next is carried out, but never answered."""

    def __init__(self, folder, calls: int) -> None:
        super().__init__(folder)
        self.left = calls
        self.crashed = asyncio.Event()

    async def call(self, message, stdin=b"", *, timeout):
        self.left -= 1
        answer = await super().call(message, stdin, timeout=timeout)
        if self.left < 0:
            self.crashed.set()
            await asyncio.Event().wait()
        return answer


@pytest.mark.parametrize("calls", range(14))
async def test_a_restart_after_any_step_runs_nothing_twice_and_reports_the_same(world, calls):
    order = world.order(
        f"{world.note('agent')}; echo x >x; sleep 0.2",
        validation=(f"{world.note('check')}; touch junk", "test -f x"),
    )
    world.transport = Crashing(world.data / "host", calls)
    dispatcher, facts = world.dispatcher(), asyncio.Queue()
    dispatcher.follow(order, facts.put_nowait)
    crash, end = asyncio.create_task(world.transport.crashed.wait()), asyncio.create_task(ended(facts))
    await asyncio.wait({crash, end}, return_when=asyncio.FIRST_COMPLETED)
    await dispatcher.close()
    for task in (crash, end):
        task.cancel()

    world.transport = LocalTransport(world.data / "host")
    report = await world.carry_out(order)
    again = await world.carry_out(order)

    assert world.noted == ["agent", "check"]
    assert (report.verdict.outcome, report.commits, len(report.checks)) == ("success", 1, 2)
    assert report == again
    assert heads(world)["task/web/fix"] == report.head_commit
    assert git(world.code, "diff", "--name-only", "main", "task/web/fix") == "x"


async def test_mirrors_and_logs_are_made_again_when_they_are_deleted_under_a_live_run(world):
    far = Host(name="far", address="127.0.0.1", workdir="far")
    gate = world.folder / "gate"
    order = world.order(f"echo x >x; while [ ! -e '{gate}' ]; do sleep 0.05; done; echo end", host=far)
    first, facts = world.dispatcher(), asyncio.Queue()
    world.transport = LocalTransport(world.folder)
    first.follow(order, facts.put_nowait)
    await seen(facts)
    await first.close()
    shutil.rmtree(world.data)
    gate.touch()

    report = await world.carry_out(order)

    assert (report.verdict.text, report.commits) == ("end\n", 1)
    assert heads(world)["task/web/fix"] == report.head_commit


class Forgetful(LocalTransport):
    """Carries every other call out without telling."""

    calls = 0

    async def call(self, message, stdin=b"", *, timeout):
        self.calls += 1
        answer = await super().call(message, stdin, timeout=timeout)
        if self.calls % 2:
            raise Unavailable("the line was cut")
        return answer


async def test_calls_whose_answers_are_lost_are_made_again_and_start_nothing_twice(world):
    world.transport = Forgetful(world.data / "host")

    report = await world.carry_out(
        world.order(f"{world.note('agent')}; echo x >x", validation=(world.note("check"),))
    )

    assert world.noted == ["agent", "check"]
    assert (report.verdict.outcome, report.commits) == ("success", 1)


# --- Hosts that are not this machine ------------------------------------------------


async def test_a_host_gets_the_commits_it_lacks_and_no_others(world):
    """Through a transport whose commands run here, but that does not share our mirrors."""
    far = Host(name="far", address="127.0.0.1", workdir="far")
    world.transport = LocalTransport(world.folder)
    first = await world.carry_out(world.order("ls", host=far))
    git(world.folder / "seed", "commit", "-q", "--allow-empty", "-m", "Go on")
    git(world.folder / "seed", "push", "-q", str(world.code), "main")

    second = await world.carry_out(world.order("echo x >x", host=far, run="web/fix.g12345678.a2"))

    mirror = world.folder / "far/f1/repos/code.git"
    assert first.verdict.text == "README\nsrc\n"
    assert (second.base_commit, second.commits) == (heads(world)["main"], 1)
    assert len(git(mirror, "for-each-ref").splitlines()) == 2


async def test_many_runs_that_start_at_once_do_not_get_into_each_others_way(world):
    far = Host(name="far", address="127.0.0.1", workdir="far")
    world.transport = LocalTransport(world.folder)
    dispatcher, facts = world.dispatcher(), asyncio.Queue()
    orders = [
        world.order(f"echo {n} >{n}", run=f"t{n}.g12345678.a1", branch=f"task/t{n}", host=far)
        for n in range(8)
    ]

    for order in orders:
        dispatcher.follow(order, facts.put_nowait)
    reports = [await ended(facts) for _ in orders]
    await dispatcher.close()

    assert [report.verdict.message for report in reports if report.verdict.outcome == "failed"] == []
    assert set(heads(world)) == {"main", *(order.branch for order in orders)}


# --- Logs ---------------------------------------------------------------------------


async def test_logs_are_found_by_the_run_in_the_order_of_the_rounds(world):
    await world.carry_out(world.order("echo one; echo oops >&2", validation=("echo checked; false",)))
    for number in (2, 10):
        await world.carry_out(world.order(f"echo round {number}", number=number))

    logs = world.dispatcher().logs.paths(RUN)

    assert [(label, path.read_text()) for label, path in logs] == [
        ("round 1 agent", "one\n"),
        ("round 1 agent (stderr)", "oops\n"),
        ("round 1 validation", "$ echo checked; false\nchecked\n"),
        ("round 2 agent", "round 2\n"),
        ("round 10 agent", "round 10\n"),
    ]
    assert world.dispatcher().logs.paths("web/fix.g12345678.a11") == []
