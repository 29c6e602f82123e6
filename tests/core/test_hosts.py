from datetime import UTC, datetime

import pytest

from reconciler.core.hosts import host_change, host_removal
from reconciler.core.model.status import HostCli, HostStatus

NOW = datetime(2030, 1, 1, tzinfo=UTC)
UP = HostStatus(reachable=True, since=NOW, os="Linux", arch="x86_64", git="2.39.5", boot_id="one")
DOWN = UP.model_copy(update={"reachable": False, "message": "no route"})


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (None, UP, "answers: Linux x86_64, git 2.39.5"),
        (None, UP.model_copy(update={"git": None}), "answers: Linux x86_64, git missing"),
        (UP, DOWN, "does not answer: no route"),
        (DOWN, UP, "answers: Linux x86_64, git 2.39.5"),
        (UP, UP.model_copy(update={"boot_id": "two"}), "was started anew"),
        (UP, UP.model_copy(update={"git": "2.50.0"}), "git 2.50.0"),
        (UP, UP.model_copy(update={"message": "little disk is left"}), "little disk is left"),
        (UP.model_copy(update={"message": "little"}), UP, "nothing is wrong with it any more"),
        (UP, UP.model_copy(update={"adapters": {"codex": HostCli(version="1.2.3", ok=True)}}), "codex 1.2.3"),
        (
            UP,
            UP.model_copy(update={"adapters": {"codex": HostCli(ok=False, message="install it")}}),
            "codex not found (install it)",
        ),
    ],
)
def test_news_of_a_host_say_what_changed(before, after, message):
    change = host_change("h1", before, after, NOW)

    assert change is not None
    assert (change.host, change.before, change.after, change.reason) == ("h1", before, after, message)


def test_of_several_clis_only_the_one_that_changed_is_told():
    codex, claude = HostCli(version="1.2.3", ok=True), HostCli(version="2.0.0", ok=True)
    before = UP.model_copy(update={"adapters": {"codex": codex, "claude-code": claude}})
    newer = claude.model_copy(update={"version": "2.1.0"})

    change = host_change(
        "h1", before, UP.model_copy(update={"adapters": {"codex": codex, "claude-code": newer}}), NOW
    )

    assert change is not None
    assert change.reason == "claude-code 2.1.0"


def test_a_cli_that_no_open_task_needs_any_more_is_named_when_it_goes_from_the_record():
    asked = UP.model_copy(update={"adapters": {"codex": HostCli(version="1.2.3", ok=True)}})

    change = host_change("h1", asked, UP, NOW)

    assert change is not None
    assert change.reason == "not asked for codex any more"


def test_what_has_not_changed_is_no_news():
    assert host_change("h1", UP, UP.model_copy(), NOW) is None
    assert host_change("h1", DOWN, DOWN.model_copy(update={"message": "refused"}), NOW) is None


def test_a_host_whose_spec_is_gone_goes_from_the_record():
    change = host_removal("h1", UP, NOW)

    assert (change.before, change.after, change.reason) == (UP, None, "the spec was removed")
