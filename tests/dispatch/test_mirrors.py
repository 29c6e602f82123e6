"""
Mirrors that are damaged, repositories that are unfit or silent, and branches that cannot be pushed to.
"""

import asyncio
import os
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.errors import Unavailable
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Host
from reconciler.dispatch import mirrors
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.repos import CodeRepository
from reconciler.dispatch.retrying import StepFailed
from reconciler.git.process import Git
from tests.dispatch.world import NOW, World, ended, git, needs_of, sweep


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "a world")


def repository_of(world: World, **fields) -> CodeRepository:
    silence = fields.pop("silence", 60)
    repo = world.repo.model_copy(update=fields)
    return CodeRepository(repo, mirrors=world.data / "repos", fleet=world.folder, silence=silence)


def requests_of(repository: CodeRepository, monkeypatch) -> list[str]:
    """Return what the repository is asked for from now on; a slow machine changes nothing in that."""
    asked, run_network = [], repository._run_network

    async def noted(*args, **options):
        asked.append(args[0])
        return await run_network(*args, **options)

    monkeypatch.setattr(repository, "_run_network", noted)
    monkeypatch.setattr("reconciler.dispatch.repos._MOMENT", 3600.0)
    monkeypatch.setattr("reconciler.dispatch.batching.PATIENCE", 3600.0)
    return asked


def move(world: World, text: str = "more\n") -> str:
    """Let somebody push to the base branch; return the commit."""
    seed = world.folder / "seed"
    (seed / "README").write_text(text)
    git(seed, "commit", "-q", "-a", "-m", "More")
    git(seed, "push", "-q", str(world.code), "HEAD:main")
    return git(seed, "rev-parse", "HEAD")


def every(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.rglob(pattern) if path.is_file()]


def empty_all(paths: list[Path]) -> None:
    for path in paths:
        path.chmod(0o600)
        path.write_bytes(b"")


def cut_all(paths: list[Path]) -> None:
    for path in paths:
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-8] + b"oops")


def make_file(path: Path, text: str = "oops\n") -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)
    (path / "x").write_text("1" * 40 + "\n")


DAMAGE = {
    "a lock of the branch": lambda at: make_file(at / "refs/heads/main.lock", ""),
    "a lock of packed refs": lambda at: (
        make_file(at / "packed-refs.lock"),
        make_file(at / "refs/heads/main", ""),
    ),
    "a lock of a base": lambda at: [
        make_file(at / f"refs/reconciler/base/{c}.lock", "") for c in commits(at)
    ],
    "a lock of shallow": lambda at: (make_file(at / "shallow.lock"), make_file(at / "shallow")),
    "an empty ref": lambda at: make_file(at / "refs/heads/main", ""),
    "a ref of garbage": lambda at: make_file(at / "refs/heads/main"),
    "a ref that became a folder": lambda at: make_folder(at / "refs/heads/main"),
    "a file in place of the branches": lambda at: make_file(at / "refs/heads"),
    "an empty HEAD": lambda at: make_file(at / "HEAD", ""),
    "a HEAD that is gone": lambda at: (at / "HEAD").unlink(),
    "an empty configuration": lambda at: make_file(at / "config", "[core\n"),
    "packed refs of garbage": lambda at: make_file(at / "packed-refs"),
    "no refs": lambda at: shutil.rmtree(at / "refs"),
    "no objects": lambda at: shutil.rmtree(at / "objects"),
    "objects that are empty": lambda at: empty_all(every(at / "objects", "*")),
    "objects that are damaged": lambda at: cut_all(every(at / "objects", "*")),
    "one pack without its index": lambda at: [path.unlink() for path in every(at / "objects", "*.idx")],
    "an index without its pack": lambda at: [path.unlink() for path in every(at / "objects", "*.pack")],
    "an alternate that is not there": lambda at: make_file(at / "objects/info/alternates", "/nowhere\n"),
    "a file in its place": make_file,
    "a link in its place": lambda at: (shutil.rmtree(at), at.symlink_to("/nowhere")),
    "an empty folder in its place": lambda at: (shutil.rmtree(at), at.mkdir()),
}


def commits(mirror: Path) -> list[str]:
    return git(mirror, "rev-list", "--all").split()


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_mirror_that_is_damaged_is_made_again(world, damage, is_packed):
    repository = repository_of(world)
    first = await repository.newest()
    if is_packed:
        git(repository.folder, "repack", "-a", "-d", "-q")
    DAMAGE[damage](repository.folder)
    newest = move(world)

    assert await repository.newest() == newest
    assert await repository.bundle([newest], [])
    assert await repository.starting_point(first) == first
    assert git(repository.folder, "rev-list", "--objects", "--quiet", "refs/heads/main") == ""
    assert not repository.folder.with_name("code.git.new").exists()


async def test_what_workspaces_borrow_stays_where_it_is_when_a_mirror_is_made_again(world):
    await world.carry_out(world.order("true", validation=("false",)))  # its workspace is kept
    (work,) = (world.data / "host/f1/work").iterdir()
    mirror = world.data / "repos/code.git"
    base = git(work, "rev-parse", "refs/reconciler/base")
    git(world.folder / "seed", "checkout", "-q", "--orphan", "anew")
    git(world.folder / "seed", "commit", "-q", "-m", "Anew")
    git(world.folder / "seed", "push", "-q", "-f", str(world.code), "HEAD:main")  # nobody else has it now
    git(world.code, "gc", "--quiet", "--prune=now")
    (mirror / "refs/heads/main.lock").touch()

    await repository_of(world).newest()

    assert git(work, "cat-file", "-t", base) == "commit"
    assert git(work, "status", "--porcelain") == ""


async def test_no_program_that_somebody_set_in_a_mirror_of_ours_runs(world, monkeypatch):
    monkeypatch.delenv("GIT_SSH_COMMAND", raising=False)
    noting = world.folder / "noting"
    noting.write_text(f"#!/bin/sh\n{world.note('planted')}\n")
    noting.chmod(0o755)
    repository = repository_of(world)
    await repository.newest()
    config, other = repository.folder / "config", world.folder / "other"
    mine = config.read_bytes()
    for name in ("core.sshCommand", "core.alternateRefsCommand", "credential.helper", "merge.x.driver"):
        git(repository.folder, "config", name, str(noting))
    git(repository.folder, "config", "include.path", str(other))
    git(repository.folder, "config", f"url.ssh://127.0.0.1/x{world.code}.insteadOf", str(world.code))
    (repository.folder / "hooks").mkdir()
    shutil.copy(noting, repository.folder / "hooks/reference-transaction")
    os.mkfifo(repository.folder / "config.worktree")
    (repository.folder / "objects/info/alternates").write_text(f"{other}\n")
    commit = move(world)

    assert await repository.newest() == commit

    assert world.noted == []
    assert config.read_bytes() == mine
    config.unlink()
    os.mkfifo(config)  # who reads it waits for ever
    assert await repository.newest() == commit


async def test_many_who_find_a_mirror_damaged_make_it_again_once(world, caplog):
    repository = repository_of(world)
    await repository.newest()
    (repository.folder / "refs/heads/main.lock").touch()
    newest = move(world)

    found = await asyncio.gather(*(repository.newest() for _ in range(5)))

    assert set(found) == {newest}
    assert sum("made again" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_mirror_on_a_host_that_is_damaged_is_made_again(world, damage):
    far = Host(name="far", address="127.0.0.1", workdir="far")
    world.transport = LocalTransport(world.folder, {"PATH": os.environ["PATH"], "HOME": str(world.folder)})
    first = await world.carry_out(world.order("echo x >x", host=far))
    (mirror,) = (world.folder / "far/f1/repos").iterdir()
    DAMAGE[damage](mirror)
    move(world)

    then = await world.carry_out(
        world.order("echo y >y", host=far, run="web/then.g12345678.a1", branch="task/then"), patience=20
    )

    assert first.verdict.message == then.verdict.message == ""
    assert git(world.code, "show", "task/then:README") == "more"


@pytest.mark.parametrize(
    "damage", ["no refs", "an empty HEAD", "objects that are damaged", "a file in its place"]
)
async def test_many_who_find_a_mirror_on_a_host_damaged_get_what_they_need(world, damage):
    far = Host(name="far", address="127.0.0.1", workdir="far")
    world.transport = LocalTransport(world.folder, {"PATH": os.environ["PATH"], "HOME": str(world.folder)})
    await world.carry_out(world.order("echo x >x", host=far))
    (mirror,) = (world.folder / "far/f1/repos").iterdir()
    DAMAGE[damage](mirror)
    move(world)
    dispatcher, facts = world.dispatcher(), asyncio.Queue()

    for n in range(6):
        order = world.order(f"echo {n} >{n}", run=f"t{n}.g12345678.a1", branch=f"task/t{n}", host=far)
        dispatcher.follow(order, facts.put_nowait)
    reports = [await ended(facts) for _ in range(6)]
    await dispatcher.close()

    assert {report.verdict.message for report in reports} == {""}
    assert [path.name for path in mirror.parent.iterdir()] == ["code.git"]


async def test_a_branch_that_became_a_folder_of_branches_is_followed(world):
    git(world.code, "branch", "old", "main")
    await repository_of(world, base="old").newest()
    git(world.code, "branch", "-m", "old", "old/er")

    assert await repository_of(world, base="old/er").newest() == git(world.code, "rev-parse", "main")


async def test_a_mirror_that_is_damaged_in_the_middle_of_a_run_costs_it_nothing(world):
    lock = f"touch '{world.data}/repos/code.git/refs/heads/main.lock'; : >'{world.data}/repos/code.git/HEAD'"

    report = await world.carry_out(world.order(f"echo x >x; {lock}"))

    assert (report.verdict.outcome, report.verdict.message, report.commits) == ("success", "", 1)


# --- Names that mean something else too ---------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "refs/tags/main",
        "refs/heads/refs/heads/main",
        "refs/heads/HEAD",
        "refs/heads/origin/main",
        "refs/remotes/origin/main",
        "refs/tags/task/web/fix",
        "refs/notes/commits",
    ],
)
async def test_a_ref_of_a_like_name_changes_nothing(world, name):
    seed = world.folder / "seed"
    git(seed, "commit", "-q", "--allow-empty", "-m", "Another")
    git(seed, "push", "-q", str(world.code), f"HEAD:{name}")

    report = await world.carry_out(world.order("echo x >x"))

    assert (report.verdict.message, report.commits) == ("", 1)
    assert git(world.code, "rev-parse", "refs/heads/task/web/fix~1") == git(
        world.code, "rev-parse", "refs/heads/main"
    )


# --- What no further try changes ------------------------------------------------------


async def refusal(repository: CodeRepository) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        await repository.newest()
    return caught.value


@pytest.mark.parametrize("url", ["{}", "file://{}"])
async def test_a_shallow_repository_is_a_matter_of_its_spec(world, url):
    move(world)
    shallow = world.folder / "shallow.git"
    git(world.folder, "clone", "-q", "--bare", "--depth=1", f"file://{world.code}", str(shallow))

    error = await refusal(repository_of(world, url=url.format(shallow)))

    assert error.kind == FailureClass.CONFIG
    assert "git fetch --unshallow" in str(error)
    assert "objects" not in str(error)  # progress is no part of what git said


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ([], "is empty; push a first commit to it"),
        (["trunk", "old"], "only old, trunk; name the right one as `base` in its spec"),
    ],
)
async def test_a_repository_without_the_base_says_what_is_there(world, branches, message):
    for branch in branches:
        git(world.code, "branch", branch, "main")
    git(world.code, "symbolic-ref", "HEAD", "refs/heads/trunk")
    git(world.code, "update-ref", "-d", "refs/heads/main")

    error = await refusal(repository_of(world))

    assert error.kind == FailureClass.CONFIG
    assert message in str(error)


async def test_a_repository_of_sha256_is_a_matter_of_its_spec(world):
    other = world.folder / "other"
    git(world.folder, "init", "-q", "-b", "main", "--object-format=sha256", str(other))
    git(other, "commit", "-q", "--allow-empty", "-m", "Begin")

    error = await refusal(repository_of(world, url=str(other)))

    assert error.kind == FailureClass.CONFIG
    assert "SHA-256" in str(error)


DAMAGE_THERE = {
    "an object that is corrupt": "for f in objects/??/*; do chmod u+w $f; echo garbage >$f; done",
    "a pack that is corrupt": (
        "git repack -q -a -d; chmod u+w objects/pack/*; "
        "printf XXXXXXXXXXXXXXXX | dd of=$(ls objects/pack/*.pack) bs=1 seek=40 conv=notrunc 2>/dev/null"
    ),
    "a pack without its index": "git repack -q -a -d; rm -f objects/pack/*.idx",
    "a branch of a commit that is not there": (
        "rm -f packed-refs; echo $(seq -s '' 10000001 10000005) >refs/heads/main"
    ),
    "settings that are none": "echo 'garb[age' >>config",
    "settings of a newer git": "git config core.repositoryformatversion 5",
    "an extension of a newer git": (
        "git config core.repositoryformatversion 1; git config extensions.nosuch true"
    ),
    "refs that are none": "echo garbage >packed-refs",
    "a file in its place": "rm -rf ./*; cd ..; rmdir code.git; echo no >code.git",
}


@pytest.mark.parametrize("url", ["code.git", "file://{}"])
@pytest.mark.parametrize("damage", DAMAGE_THERE)
async def test_a_repository_that_is_damaged_is_told_so_and_the_mirror_stays(world, caplog, damage, url):
    repository = repository_of(world, url=url.format(world.code))
    await repository.newest()
    move(world)
    await asyncio.to_thread(subprocess.run, ["sh", "-c", DAMAGE_THERE[damage]], cwd=world.code, check=True)

    error = await refusal(repository)

    assert error.kind == FailureClass.CONFIG
    assert "it is damaged there" in str(error)
    assert "made again" not in caplog.text


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((code, FailureClass.CONFIG) for code in (400, 402, 404, 405, 410, 418, 451)),
        *((code, FailureClass.AUTH) for code in (401, 403)),
        *((code, None) for code in (407, 408, 425, 429, 500, 502, 503)),
    ],
)
async def test_what_a_server_answers_tells_whether_another_try_may_help(world, status, kind):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d Odd\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises((StepFailed, Unavailable)) as caught:
            await repository_of(world, url=f"http://127.0.0.1:{port}/code.git").newest()

    assert getattr(caught.value, "kind", None) == kind


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_a_repository_of_another_owner_is_a_matter_of_its_spec(world):
    for path in (world.code, *world.code.rglob("*")):
        os.chown(path, 12345, -1)

    error = await refusal(repository_of(world))

    assert error.kind == FailureClass.CONFIG
    assert f"safe.directory '{world.code}'" in str(error)


# --- Before an agent is paid ----------------------------------------------------------


@pytest.mark.parametrize("there", ["task", "task/web", "task/web/fix/it"])
async def test_a_branch_that_cannot_be_beside_another_is_told_before_the_agent_starts(world, there):
    git(world.code, "branch", there, "main")

    report = await world.carry_out(world.order(world.note("ran")))

    assert report.verdict.kind == FailureClass.CONFIG
    assert (
        f"branch '{there}' is there, and git cannot have 'task/web/fix' beside it" in report.verdict.message
    )
    assert "branch_name" in report.verdict.message
    assert world.noted == []


async def test_a_branch_of_somebody_else_is_told_before_the_agent_starts(world):
    git(world.code, "branch", "task/web/fix", "main")

    report = await world.carry_out(world.order(world.note("ran")))

    assert report.verdict.kind == FailureClass.CONFIG
    assert "is there already" in report.verdict.message
    assert world.noted == []


async def test_a_branch_that_comes_in_the_way_meanwhile_is_told_by_its_name(world):
    report = await world.carry_out(world.order(f"echo x >x; git --git-dir='{world.code}' branch task main"))

    assert report.verdict.kind == FailureClass.CONFIG
    assert "branch 'task' is there" in report.verdict.message


@pytest.mark.parametrize("near", ["task-web", "task/webs", "task/web/fixes", "web/fix", "tas"])
async def test_branches_of_like_names_are_in_nobodys_way(world, near):
    git(world.code, "branch", near, "main")

    report = await world.carry_out(world.order("echo x >x"))

    assert (report.verdict.message, report.commits) == ("", 1)


async def test_a_repository_that_nobody_may_push_to_is_told_before_the_agent_starts(world, monkeypatch):
    (program := world.folder / "ssh").write_text(READ_ONLY)
    program.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(program))
    repo = world.repo.model_copy(update={"url": f"ssh://there{world.code}".replace(" ", "%20")})

    report = await world.carry_out(world.order(world.note("ran"), repo=repo))

    assert report.verdict.kind == FailureClass.AUTH
    assert "cannot push 'task/web/fix' to" in report.verdict.message
    assert world.noted == []


READ_ONLY = """#!/bin/sh
for command; do :; done
case $command in
git-receive-pack*) echo 'ERROR: Permission denied: this key may read only' >&2; exit 1 ;;
esac
exec sh -c "$command"
"""
"""In place of ssh: the server that it reaches lets everybody read and nobody write."""


# --- Silence --------------------------------------------------------------------------


async def test_a_repository_that_accepts_and_stays_silent_is_given_up(world):
    with socket.create_server(("127.0.0.1", 0)) as server:  # the kernel accepts, and nobody answers
        place = f"http://127.0.0.1:{server.getsockname()[1]}/code.git"

        with pytest.raises(Unavailable) as caught:
            await repository_of(world, url=place, silence=0.3).newest()

    assert f"repo code: {place} does not answer: nothing came for 0.3 s" in str(caught.value)


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_whoever_looks_while_a_mirror_is_made_finds_no_settings_that_somebody_changed(
    world, monkeypatch, is_damaged
):
    repository, mirror = repository_of(world), world.data / "repos/code.git"
    if is_damaged:
        await repository.newest()
        (mirror / "packed-refs").write_text("what is no list of refs\n")
    changed = []

    def looking(step):
        def stepping(*args, **options):
            done = step(*args, **options)
            changed.append(mirrors.reset_settings(mirror))
            return done

        return stepping

    async def attempted(git, *args, **options):
        done = await attempt(git, *args, **options)
        if args[0] == "init":  # writes HEAD before the settings: where it does, nobody may look yet
            changed.append((mirror / "HEAD").exists() and not is_damaged)
        return done

    attempt = Git.attempt
    monkeypatch.setattr(Path, "rename", looking(Path.rename))
    monkeypatch.setattr(mirrors, "_remove", looking(mirrors._remove))
    monkeypatch.setattr(Git, "attempt", attempted)
    await repository.newest()

    assert len(changed) > 2
    assert not any(changed)


# --- Upkeep ------------------------------------------------------------------

MONTHS = 70 * 86400
"""Seconds; longer than anything stays that nobody uses."""


def make_packs(mirror: Path) -> None:
    """Put so many packs into a mirror that it counts as crowded, with blobs that nothing names."""
    pack = "git hash-object -w --stdin | git pack-objects -q objects/pack/pack"
    script = f"for n in $(seq 51); do echo $n | {pack}; done; git prune-packed"
    subprocess.run(["sh", "-ec", script], cwd=mirror, check=True)


def age(path: Path, seconds: int = MONTHS) -> None:
    then = NOW.timestamp() - seconds
    os.utime(path, (then, then))


def rounds(mirror: Path) -> set[str]:
    refs = git(mirror, "for-each-ref", "--format=%(refname:lstrip=3)", "refs/reconciler/done")
    return set(refs.split())


async def test_a_mirror_is_tidied_while_it_is_used_and_keeps_every_object(world, monkeypatch, caplog):
    monkeypatch.setattr("reconciler.git.upkeep.MOST_PACKS", 0)
    runs = ["web/a.g12345678.a1", "web/b.g12345678.a1"]
    for run in runs:
        await world.carry_out(world.order(f"echo {run} >x", run=run, branch=f"task/{run}"))
    mirror = world.data / "repos/code.git"
    before = set(git(mirror, "cat-file", "--batch-all-objects", "--batch-check").splitlines())

    third = world.order("echo c >x", run="web/c.g12345678.a1", branch="task/c")
    report, _ = await asyncio.gather(world.carry_out(third), sweep(world, needs_of(runs[1], third.run)))

    await sweep(world, needs_of(runs[1], third.run))

    assert report.verdict.outcome == "success"
    assert "somebody changed" not in caplog.text  # it was nobody but us
    assert "web+a.g12345678.a1.r1" not in rounds(mirror)
    assert "web+b.g12345678.a1.r1" in rounds(mirror)
    assert before <= set(git(mirror, "cat-file", "--batch-all-objects", "--batch-check").splitlines())
    assert list((mirror / "objects/pack").glob("*.pack"))
    assert git(mirror, "fsck", "--full", "--no-dangling") == ""


async def test_a_mirror_that_neither_specs_nor_runs_name_goes_after_a_month(world):
    run = "web/a.g12345678.a1"
    await world.carry_out(world.order("true", run=run, branch="task/a"))
    repos = world.data / "repos"
    for name in ("long.git", "short.git"):
        (repos / name).mkdir()
    for name, seconds in (("code.git", MONTHS), ("long.git", MONTHS), ("short.git", 86400)):
        age(repos / name, seconds)

    await sweep(world, replace(needs_of(run), repos={}))
    of_a_run = {each.name for each in repos.glob("*.git")}
    age(repos / "code.git")
    await sweep(world, replace(needs_of(), repos={}))

    assert of_a_run == {"code.git", "short.git"}
    assert {each.name for each in repos.glob("*.git")} == {"short.git"}


async def test_a_mirror_on_a_host_is_tidied_and_goes_once_nobody_borrows_from_it(world):
    far = Host(name="far", address="127.0.0.1", workdir="far")
    world.transport = LocalTransport(world.folder, {"PATH": os.environ["PATH"], "HOME": str(world.folder)})
    run = "web/a.g12345678.a1"
    await world.carry_out(world.order("true", host=far, run=run, branch="task/a"))
    (mirror,) = (world.folder / "far/f1/repos").iterdir()
    make_packs(mirror)
    left, fresh = (mirror / "objects/pack" / name for name in ("tmp_pack_old", "tmp_pack_new"))
    for path in (left, fresh):
        path.touch()
    for path in (left, mirror):
        os.utime(path, (0, 0))
    dispatcher = world.dispatcher()

    await dispatcher.sweep(far, lambda: needs_of(run))
    packs = len(list((mirror / "objects/pack").glob("*.pack")))
    kept = git(mirror, "cat-file", "--batch-all-objects", "--batch-check").count("blob")
    is_left, is_fresh = left.exists(), fresh.exists()
    await dispatcher.sweep(far, needs_of)  # the workspace goes, and a spare that borrows may stay
    shutil.rmtree(world.folder / "far/f1/spare", ignore_errors=True)
    os.utime(mirror, (0, 0))
    await dispatcher.sweep(far, needs_of)
    is_gone = not mirror.exists()
    await dispatcher.close()
    report = await world.carry_out(world.order("true", host=far, run="web/b.g1.a1", branch="task/b"))

    assert (packs < 10, kept >= 51, is_left, is_fresh, is_gone) == (True, True, False, True, True)
    assert report.verdict.outcome == "success"


async def test_a_start_asks_a_repository_once_unless_its_base_branch_moved_and_a_delivery_only_pushes(
    world, monkeypatch
):
    repository = repository_of(world)
    asked = requests_of(repository, monkeypatch)

    async def starts(branch):
        asked.clear()
        await repository.see_way_back(branch, None)
        return await repository.newest(), list(asked)

    await starts("task/first")
    base, at_rest = await starts("task/a")
    asked.clear()
    delivered = await repository.deliver(base, "task/a", None)
    delivering = list(asked)
    moved = move(world)
    newest, after_a_move = await starts("task/b")

    assert at_rest == ["ls-remote"]
    assert delivering == ["push"]
    assert delivered == base
    assert (newest, after_a_move) == (moved, ["ls-remote", "fetch"])


async def test_what_is_delivered_meanwhile_is_pushed_together_and_a_branch_that_was_taken_keeps_no_other(
    world, monkeypatch
):
    repository = repository_of(world)
    await repository.see_way_back("task/a", None)
    head, taken = await repository.newest(), move(world)
    git(world.code, "update-ref", "refs/heads/task/c", taken)
    asked = requests_of(repository, monkeypatch)
    branches = [f"task/{letter}" for letter in "abdefgh"]

    sound = await asyncio.gather(*(repository.deliver(head, branch, None) for branch in branches))
    pushes = asked.count("push")
    mixed = await asyncio.gather(
        *(repository.deliver(head, f"task/{letter}", None) for letter in "ijck"), return_exceptions=True
    )
    there = {branch: await repository.find(branch) for branch in [*branches, "task/i", "task/j", "task/k"]}

    assert set(sound) == {head}
    assert pushes == 2  # the first one alone, and all that came meanwhile
    assert [each if isinstance(each, str) else type(each) for each in mixed] == [head, head, StepFailed, head]
    assert "task/c" in str(mixed[2])
    assert set(there.values()) == {head}
    assert await repository.find("task/c") == taken


async def test_runs_that_start_together_ask_the_repository_together(world, monkeypatch):
    repository = repository_of(world)
    await repository.see_way_back("task/first", None)
    asked = requests_of(repository, monkeypatch)
    git(world.code, "update-ref", "refs/heads/task/c", await repository.newest())
    asked.clear()
    outcomes = await asyncio.gather(
        *(repository.see_way_back(f"task/{letter}", None) for letter in "abcdefg"), return_exceptions=True
    )

    assert asked == ["ls-remote", "ls-remote"]
    assert [type(each) for each in outcomes] == [
        StepFailed if letter == "c" else type(None) for letter in "abcdefg"
    ]
