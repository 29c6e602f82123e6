"""
Work with secrets in it is not delivered, wherever in it they are and however they are written.
"""

import bz2
import gzip
import lzma
import os
import zipfile
from base64 import b32encode, b64encode
from io import BytesIO

import pytest

from reconciler.core.adapter import Secret
from reconciler.core.model.runs import FailureClass, Report, RunRequest
from reconciler.core.model.specs import SecretGate
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.protocol import agent_id
from tests.dispatch.world import World, git

VALUE = "correct horse/battery+staple"
TOKEN = "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6"
BRANCH = "task/web/fix"
COMMIT = "git add -A && git commit -qm {}"


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    world = World(tmp_path / "a world")
    monkeypatch.setenv("MY_KEY", VALUE)
    environ = {"PATH": os.environ["PATH"], "HOME": str(world.folder), "VALUE": "", "LANG": "C.UTF-8"}
    world.transport = LocalTransport(world.folder, environ)
    return world


def order(world: World, script: str, **fields) -> RunRequest:
    """Return an order whose agent is given a secret, as `KEY`."""
    return world.order(script, adapter={"secrets": {"KEY": Secret(env="MY_KEY")}}, **fields)


def gate(world: World, **fields) -> None:
    world.repo = world.repo.model_copy(update={"secret_gate": SecretGate(**fields)})


def write(world: World, name: str, content: bytes) -> str:
    """Return shell text that copies a file with that content into the workspace."""
    (world.folder / "made").mkdir(exist_ok=True)
    (world.folder / "made" / name).write_bytes(content)
    return f"cp '{world.folder}/made/{name}' ."


def branches(world: World) -> str:
    return git(world.code, "branch", "--format=%(refname:short)")


def refused(world: World, report: Report) -> str:
    """Return why a report says that nothing was delivered; nothing tells the secret."""
    assert (report.verdict.outcome, report.verdict.kind) == ("failed", FailureClass.AGENT)
    assert (report.head_commit, branches(world)) == (None, "main")
    assert VALUE not in report.model_dump_json()
    return report.verdict.message


# --- The run's own secrets ---------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        'printf "a\\nb\\n%s\\n" "$KEY"',
        'printf "a\\nb\\n%s\\n" "$(printf %s "$KEY" | base64)"',
        'printf "a\\nb\\n%s\\n" "$(printf %s "$KEY" | base64 | base64)"',
        'printf "a\\nb\\n%s\\n" "$(printf %s "$KEY" | base32)"',
        'printf "a\\nb\\n%s\\n" "$(printf %s "$KEY" | od -An -v -tx1 | tr -d " \\n")"',
        'printf "a\\nb\\n%s\\n" "$(printf %s "$KEY" | rev)"',
        'printf "a\\nb\\n"; printf %s "$KEY" | gzip -c | base64 -w0',
        'printf "a\\nb\\n\\033]8;;%s" "$KEY"',
        'printf "a\\nb\\n%s" "$KEY" | sed "s/bat/&\\x1b[31m/"',
    ],
    ids=["plain", "base64", "twice", "base32", "hex", "reversed", "gzip in base64", "in a title", "coloured"],
)
async def test_a_secret_of_the_run_is_found_in_every_form_and_its_line_is_told(world, form):
    report = await world.carry_out(order(world, f"({form}) >settings.conf"))

    message = refused(world, report)
    assert "secret gate: settings.conf:3 (commit " in message
    assert "a secret that the run was given" in message
    assert "the work is kept: commit" in message


async def test_a_secret_that_a_later_commit_removes_is_in_the_history_all_the_same(world):
    script = f'echo "$KEY" >.env; {COMMIT.format("One")}; git rm -q .env; {COMMIT.format("Two")}'

    message = refused(world, await world.carry_out(order(world, f"echo x >x; {script}")))

    assert ".env:1 (commit " in message


async def test_messages_names_and_authors_are_searched(world):
    scripts = {
        "the message of commit": 'echo x >x; git add x; git commit -qm "Use $(printf %s "$KEY" | base64)"',
        "the name of": 'echo x >"$(printf %s "$KEY" | base32)"',
        "author": 'echo x >x; git add x; git -c user.name="$KEY" commit -qm One',
    }
    for number, (place, script) in enumerate(scripts.items(), 1):
        key = f"web/fix.g12345678.a{number}"
        message = refused(world, await world.carry_out(order(world, script, run=key)))

        assert place.replace("author", "the message of commit") in message
        assert b32encode(VALUE.encode()).decode().rstrip("=") not in message


def zipped(data: bytes) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.txt", b"x" * 100 + data)
    return file.getvalue()


@pytest.mark.parametrize(
    "pack",
    [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        zipped,
        lambda data: b"\0\xff\n" + data + b"\n\0",
        lambda data: b"\0\xff" + data.decode().encode("utf-16"),
    ],
    ids=["gzip", "bzip2", "xz", "zip", "binary", "utf-16"],
)
async def test_binary_files_are_searched_and_unpacked(world, pack):
    message = refused(world, await world.carry_out(order(world, write(world, "a.bin", pack(VALUE.encode())))))

    assert "a.bin:" in message


async def test_what_the_merged_base_branch_brings_is_not_the_work(world):
    seed = world.folder / "seed"
    (seed / "theirs").write_text(f"{VALUE}\n{TOKEN}\n")
    git(seed, "add", ".")
    git(seed, "commit", "-q", "-m", "Leak it")
    git(seed, "push", "-q", str(world.code), "HEAD:main")
    first = git(world.code, "rev-list", "--max-parents=0", "main")

    script = "echo x >x; git add x; git commit -qm x; git merge -q --no-edit origin/main"
    report = await world.carry_out(order(world, script, start_from=first))

    assert (report.verdict.message, report.failed_check) == ("", None)
    assert BRANCH in branches(world)


async def test_what_only_a_merge_adds_is_the_work(world):
    script = (
        "git switch -qc side; echo a >a; git add a; git commit -qm a; git switch -q -; echo b >b; git add b; "
        'git commit -qm b; git merge -q --no-commit side; echo "$KEY" >c; git add c; git commit -qm Merge'
    )

    assert "c:1 (commit " in refused(world, await world.carry_out(order(world, script)))


async def test_no_path_is_allowed_to_have_own_secrets(world):
    gate(world, allow=["*"])

    assert "x:1" in refused(world, await world.carry_out(order(world, 'echo "$KEY" >x')))


async def test_own_secrets_may_be_let_through_by_the_repo(world):
    gate(world, own=False)

    report = await world.carry_out(order(world, 'echo "$KEY" >x'))

    assert (report.verdict.outcome, report.failed_check) == ("success", None)
    assert BRANCH in branches(world)


MINT = 'n=$(cat "{at}" 2>/dev/null || echo 0); n=$((n + 1)); echo $n >"{at}"; echo "tok-$n-a1B2c3D4e5F6g7"'


def minted(world: World) -> RunRequest:
    """Return an order whose secret is another one each time it is looked up."""
    secret = Secret(command=("sh", "-c", MINT.format(at=world.folder / "minted")))
    return world.order("echo x >x", adapter={"secrets": {"KEY": secret}})


async def test_after_a_restart_work_that_was_searched_counts_as_delivered(world):
    order = minted(world)
    first = await world.carry_out(order)

    again = await world.carry_out(order)

    assert again.verdict.outcome == "success"
    assert again.head_commit == first.head_commit == git(world.code, "rev-parse", BRANCH)


async def test_after_a_restart_work_that_cannot_be_searched_any_more_is_not_delivered(world):
    order = minted(world)
    await world.carry_out(order)
    git(world.code, "branch", "-D", BRANCH)
    (mirror,) = (world.data / "repos").iterdir()
    git(mirror, "update-ref", "-d", f"refs/reconciler/searched/{agent_id(order.run, 1)}")

    report = await world.carry_out(order)

    assert report.verdict.kind is FailureClass.HOST
    assert "cannot be searched" in report.verdict.message
    assert branches(world) == "main"


# --- Tokens of others --------------------------------------------------------


async def test_what_looks_like_a_token_is_a_failed_check_that_tells_its_line(world):
    report = await world.carry_out(world.order(f"printf 'a\\n{TOKEN}\\n' >config.py"))

    check = report.failed_check
    assert check is not None
    assert check.summary.startswith("secret gate: config.py:2 (commit ")
    assert check.summary.endswith(": looks like a GitHub token")
    assert "every commit of this branch" in check.output
    assert TOKEN not in report.model_dump_json()
    assert (report.head_commit, branches(world)) == (None, "main")


async def test_the_next_round_may_take_it_out_of_the_history(world):
    await world.carry_out(world.order(f"echo {TOKEN} >config.py; {COMMIT.format('One')}"))

    report = await world.carry_out(
        world.order("echo x >config.py; git commit -qa --amend --no-edit", number=2)
    )

    assert report.failed_check is None
    assert git(world.code, "show", f"{BRANCH}:config.py") == "x"


async def test_fixtures_that_the_repo_names_may_have_tokens(world):
    gate(world, allow=["tests/fixtures/"])

    report = await world.carry_out(
        world.order(f"mkdir -p tests/fixtures; echo {TOKEN} >tests/fixtures/a; echo {b64encode(b'x')} >y")
    )

    assert report.failed_check is None
    assert BRANCH in branches(world)


async def test_tokens_of_others_may_be_let_through_by_the_repo(world):
    gate(world, formats=False)

    assert (await world.carry_out(world.order(f"echo {TOKEN} >x"))).failed_check is None


async def test_odd_names_are_told_as_they_are(world):
    for number, name in enumerate(["a b", "Größe", 'quo"te', "tab\there"], 1):
        key = f"web/fix.g12345678.a{number}"
        report = await world.carry_out(world.order(f"echo {TOKEN} >'{name}'", run=key))

        assert f"gate: {name.replace(chr(9), ' ')}:1 (" in report.failed_check.summary
