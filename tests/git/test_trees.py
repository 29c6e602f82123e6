"""
What differs between commits, found without a program: what `git diff-tree` says, or nothing.
"""

import itertools
import random
import subprocess
from contextlib import asynccontextmanager

import pytest

from reconciler.core.errors import Unavailable
from reconciler.git import trees
from reconciler.git.catfile import CatFile
from reconciler.git.objects import GitTree
from reconciler.git.process import Git
from reconciler.git.repository import Repository
from reconciler.git.trees import few_differences, first_parent

UNDER = ("", "specs", "specs/", "specs/tasks", "specs/tasks/a", "specs/t", "nowhere")
PATHS = (
    "specs/tasks/a",
    "specs/tasks/a/b",
    "specs/tasks/a b/ö",
    "specs/tasks-too",
    "specs",
    "other",
    "z/y/x",
)


def git(folder, *args):
    me = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", *me, "-C", folder, *args], check=True, capture_output=True)
    return done.stdout


def commit(folder, message="x"):
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message, "--allow-empty")
    return git(folder, "rev-parse", "HEAD").decode().strip()


def edit(folder, draw):
    """Write, link or remove a file, over whatever stands there."""
    path = folder / draw.choice(PATHS)
    for above in (*reversed(path.parents), path):
        if above.is_relative_to(folder) and (above.is_symlink() or above.is_file()):
            above.unlink()
    if path.is_dir():
        subprocess.run(["rm", "-rf", path], check=True)
    what = draw.choice(("write", "write", "run", "link", "remove"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "link":
        path.symlink_to("elsewhere")
    elif what != "remove":
        path.write_text(f"{draw.randint(0, 2)}\n")
        path.chmod(0o755 if what == "run" else 0o644)


def from_git(folder, old, new, under):
    only = ("--", f"{under.rstrip('/')}/") if under else ()
    listed = git(folder, "diff-tree", "-r", "-z", "--no-renames", "--no-abbrev", old, new, *only)
    fields = listed.decode("utf-8", "surrogateescape").split("\0")
    found = {}
    for meta, path in zip(fields[:-1:2], fields[1::2], strict=True):
        _, mode, _, blob, _ = meta.split(" ")
        found[path] = (mode, blob) if blob.strip("0") else None
    return found


@asynccontextmanager
async def objects(folder):
    reader = CatFile(Git.local(folder / ".git"))
    yield reader
    await reader.close()


@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
@pytest.mark.parametrize("seed", range(3))
async def test_two_commits_differ_as_git_says(tmp_path, seed, hash_name):
    draw = random.Random(seed)
    git(tmp_path, "init", "-qb", "main", f"--object-format={hash_name}")
    commits = []
    for _ in range(8):
        for _ in range(draw.randint(0, 3)):
            edit(tmp_path, draw)
        commits.append(commit(tmp_path))

    async with objects(tmp_path) as reader:
        for (old, new), under in itertools.product(itertools.permutations(commits, 2), draw.sample(UNDER, 3)):
            assert await few_differences(reader, old, new, under) == from_git(tmp_path, old, new, under)


FILES = (b"100644", b"100755", b"100664", b"100600", b"0100644", b"120000", b"160000")
NAMES = (b"a", b"a.b", b"a-b", b"\xff", "ö".encode(), b"a b", b"new\nline")


def put(folder, kind, content):
    """Put an object into the repository, be it as git would not make it."""
    into = ("hash-object", "-t", kind, "--literally", "-w", "--stdin")
    done = subprocess.run(["git", "-C", folder, *into], input=content, check=True, capture_output=True)
    return bytes.fromhex(done.stdout.decode())


def odd_tree(folder, draw, depth=0):
    """Make a tree of names and modes that tools other than git have left in repositories."""
    entries = {}
    for name in draw.sample(NAMES, draw.randint(0, 3)):
        if depth < 2 and draw.random() < 0.5:
            mode, made = draw.choice((b"40000", b"040000")), odd_tree(folder, draw, depth + 1)
            entries[name + b"/"] = mode + b" " + name + b"\0" + made
        else:
            mode, made = draw.choice(FILES), put(folder, "blob", b"%d" % draw.randint(0, 1))
            entries[name] = mode + b" " + name + b"\0" + made
    return put(folder, "tree", b"".join(entries[name] for name in sorted(entries)))


@pytest.mark.parametrize("seed", range(3))
async def test_trees_that_other_tools_made_differ_as_git_says(tmp_path, seed):
    draw = random.Random(seed)
    git(tmp_path, "init", "-qb", "main")
    made = [odd_tree(tmp_path, draw).hex() for _ in range(6)]
    commits = [git(tmp_path, "commit-tree", "-m", "x", tree).decode().strip() for tree in made]

    async with objects(tmp_path) as reader:
        for old, new in itertools.permutations(commits, 2):
            assert await few_differences(reader, old, new, "") == from_git(tmp_path, old, new, "")


async def test_what_is_too_much_or_not_there_is_left_to_git(tmp_path, monkeypatch):
    git(tmp_path, "init", "-qb", "main")
    old = commit(tmp_path)
    for number in range(3):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}" / "file").write_text(f"{number}\n")
    new = commit(tmp_path)

    async with objects(tmp_path) as reader:
        assert len(await few_differences(reader, old, new, "")) == 3
        assert await few_differences(reader, "1" * 40, new, "") is None
        monkeypatch.setattr(trees, "_MOST_TREES", 2)
        assert await few_differences(reader, old, new, "") is None
        monkeypatch.undo()
        monkeypatch.setattr(trees, "_MOST_BYTES", 40)
        assert await few_differences(reader, old, new, "") is None


async def test_the_first_of_many_parents_is_told(tmp_path):
    git(tmp_path, "init", "-qb", "main")
    first = commit(tmp_path)
    git(tmp_path, "checkout", "-qb", "side")
    commit(tmp_path, "On the side")
    git(tmp_path, "checkout", "-q", "main")
    main = commit(tmp_path)
    git(tmp_path, "merge", "-q", "--no-ff", "side")
    merge = git(tmp_path, "rev-parse", "HEAD").decode().strip()

    async with objects(tmp_path) as reader:
        assert await first_parent(reader, merge) == main
        assert await first_parent(reader, first) is None
        assert await first_parent(reader, "1" * 40) is None


async def test_one_commit_on_top_is_read_without_a_program(tmp_path, monkeypatch):
    git(tmp_path, "init", "-qb", "main")
    (tmp_path / "specs" / "tasks").mkdir(parents=True)
    (tmp_path / "specs" / "tasks" / "a.yaml").write_text("goal: a\n")
    old = commit(tmp_path)
    (tmp_path / "specs" / "tasks" / "b.yaml").write_text("goal: b\n")
    new = commit(tmp_path, "Ask for b")
    async with await Repository.open(str(tmp_path), tmp_path) as repository:
        tree = GitTree(repository, "main")
        monkeypatch.setattr(Git, "run", no_program)

        changed = await tree.changed(old, new, "specs")
        askers = await tree.touched(new, ["specs/tasks/b.yaml"], "specs/tasks")

        assert [*changed] == ["specs/tasks/b.yaml"]
        assert askers["specs/tasks/b.yaml"].message == "Ask for b"
        with pytest.raises(Unavailable, match="a program"):  # who touched it before is a longer walk
            await tree.touched(new, ["specs/tasks/a.yaml"], "specs/tasks")


async def no_program(*_, **__):
    raise Unavailable("a program is started")
