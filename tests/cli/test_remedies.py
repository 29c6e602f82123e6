"""
Every error says what to type next.
"""

import click
import pytest

from reconciler.cli.exits import ERRORS
from reconciler.cli.main import report_error
from reconciler.cli.remedies import has_remedy, with_remedy
from reconciler.core.errors import Gone, LeaseLost, NotNow, Unavailable


@pytest.mark.parametrize("kind", [*ERRORS, Gone, NotNow, LeaseLost, OSError, click.ClickException])
def test_an_error_of_every_kind_that_says_nothing_more_says_what_to_type_next(kind):
    _, message = report_error(kind("it is as it is"))

    assert message.startswith("error: it is as it is; ")
    assert has_remedy(message)


@pytest.mark.parametrize(
    "message",
    [
        "no task 'exmple' (did you mean 'example'?)",
        "/x: no room; see `df`",
        "name one with --repo",
        "without a terminal it is done (--yes)",
        "`reconciler get` lists them",
    ],
)
def test_what_says_so_itself_is_left_as_it_is(message):
    assert with_remedy(message, Unavailable()) == message


@pytest.mark.parametrize(
    ("message", "next_step"),
    [
        ("fetch failed: fatal: unable to access 'https://x/': Failed to connect", "git ls-remote"),
        (
            "fetch failed: ssh: connect to host x: Connection refused Could not read from remote",
            "git ls-remote",
        ),
        ("git@forge: Permission denied (publickey).", "git ls-remote"),
        ("push of main failed: ! [remote rejected] (pre-receive hook declined)", "rules of the remote"),
        ("git ls-tree failed (128): fatal: not a tree object", "git fsck"),
        ("fatal: cannot lock ref: Unable to create '/x/.git/refs/heads/main.lock': File exists.", "`rm`"),
        ("git for-each-ref failed (128): fatal: unexpected line in /x/packed-refs: oops", "--lost-found"),
        ("vi: Editing failed", "$EDITOR"),
        ("/x: Permission denied", "`id`"),
        ("/x: No such file or directory", "ls -ld"),
        ("the output cannot be written: No space left on device", "make room"),
    ],
)
def test_what_others_say_gets_the_remedy_of_its_signs(message, next_step):
    assert next_step in with_remedy(message, Unavailable())


TYPED = (
    "get exmple",
    "get tasx",
    "get host/gpu9",
    "get -o jsn",
    "get --sort-by nope",
    "describe nope",
    "explain nope",
    "history nope",
    "logs nope",
    "logs hello",
    "logs hello --attempt 9",
    "trace nope",
    "diff hello",
    "wait nope",
    "wait hello --timeout soon",
    "open hello",
    "prompt nope",
    "submit",
    "submit hello -g x",
    "submit -g x --set nope=1",
    "submit -g x --set budget={eur:1}",
    "submit -g x --repo nope",
    "edit nope",
    "suspend nope",
    "resume host/local",
    "approve-rewind nope",
    "adopt-record",
    "host check nope",
    "host trust local",
    "host add gpu1 127.0.0.1:1",
    "adapter test nope",
    "agent pull --command true --url nope",
    "mcp",
    "webhook test nope",
    "man /proc/nope",
    "plan --rev nope",
    "validate /",
    "init /proc/x",
    "serve --listen nope",
    "--branch nope get",
    "--repo /nonexistent get",
    "--repo https://127.0.0.1:1/x.git get",
    "--data-dir /proc/x run --until-idle",
    "gett",
)


@pytest.mark.parametrize("line", TYPED)
def test_what_is_typed_wrongly_ends_with_what_to_type_next(fleet, line, monkeypatch):
    monkeypatch.chdir(fleet.folder)
    monkeypatch.setenv("EDITOR", "true")

    done = fleet.run(*line.split())

    last = done.stderr.strip().splitlines()[-1]
    assert done.exit_code != 0
    assert has_remedy(last) or last.startswith("Try 'reconciler ")
