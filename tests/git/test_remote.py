import pytest

from reconciler.core.errors import Refused, Unavailable
from reconciler.git.process import GitResult
from reconciler.git.remote import fetch

MOVED = "error: cannot lock ref 'refs/remotes/origin/main': is at a1b2 but expected c3d4"


class Racing:
    """A git whose fetches lose a race with another git in the same clone, as git words it."""

    def __init__(self, lost: int) -> None:
        self.lost, self.asked = lost, 0

    async def attempt(self, *_args: str, timeout: float) -> GitResult:
        self.asked += 1
        return GitResult(1, b"", MOVED) if self.asked <= self.lost else GitResult(0, b"", "")


class Refusing:
    """A git that may not fetch, as git words it."""

    async def attempt(self, *_args: str, timeout: float) -> GitResult:
        return GitResult(128, b"", "fatal: detected dubious ownership in repository at '/srv/fleet/.git'")


async def test_a_remote_that_belongs_to_another_user_is_no_outage():
    with pytest.raises(Refused, match="dubious ownership"):
        await fetch(Refusing())


async def test_a_fetch_during_which_another_git_moved_a_ref_is_made_again():
    git = Racing(lost=2)

    await fetch(git)

    assert git.asked == 3


async def test_a_fetch_that_always_loses_the_race_is_an_outage():
    git = Racing(lost=100)

    with pytest.raises(Unavailable, match="cannot lock ref"):
        await fetch(git)

    assert git.asked == 3
