import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from reconciler.git.repository import Repository
from reconciler.store.state import StateBranch
from tests.prepared import prepare
from tests.store.world import BRANCH, commit, git, start

IDENTITY = "[user]\n\tname = Test\n\temail = test@example.org\n[init]\n\tdefaultBranch = main\n"


@pytest.fixture(autouse=True)
def person(tmp_path, monkeypatch) -> Path:
    """Give the tests a person's configuration of their own."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "person.gitconfig"
    config.write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return config


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Return a work tree on branch main with one task in it."""
    prepare(begin, tmp_path / "checkout")
    return tmp_path / "checkout"


def begin(place: Path) -> None:
    subprocess.run(["git", "init", "-q", str(place)], check=True)
    commit(place, "specs/tasks/a.yaml", "goal: a\n", "specs")


@pytest.fixture
def bare(tmp_path, checkout) -> Path:
    """Return a bare repository with the same commit on main."""
    prepare(begin_bare, tmp_path / "bare.git")
    return tmp_path / "bare.git"


def begin_bare(place: Path) -> None:
    with TemporaryDirectory() as folder:
        prepare(begin, Path(folder))
        subprocess.run(["git", "clone", "-q", "--bare", folder, str(place)], check=True)
    git(place, "remote", "remove", "origin")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
async def open_repository(cache):
    """Return a function that opens a repository; what it opened is closed at the end."""
    opened: list[Repository] = []

    async def opener(place: object, cache_dir: Path = cache) -> Repository:
        opened.append(await Repository.open(str(place), cache_dir))
        return opened[-1]

    yield opener
    for repository in opened:
        await repository.close()


@pytest.fixture
async def open_state(open_repository):
    """Return a function that opens a state branch for writing; closed at the end, if it still is open."""
    opened: list[StateBranch] = []

    async def opener(
        place: object, cache_dir: Path | None = None, branch: str = BRANCH, **options: Any
    ) -> StateBranch:
        repository = await (open_repository(place, cache_dir) if cache_dir else open_repository(place))
        opened.append(await start(repository, branch, **options))
        return opened[-1]

    yield opener
    for state in opened:
        await state.close()
