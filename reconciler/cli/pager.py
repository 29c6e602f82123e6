"""
A pager for what is longer than the terminal, and a sign of life for what takes longer than a second.
"""

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

from reconciler.cli.context import Context
from reconciler.cli.streams import clean
from reconciler.cli.terminal import terminal_size

PATIENCE = 1.0
"""Seconds that something may take before it is told what it is."""
_TURN = 0.25
_WHEEL = "|/-\\"


@contextmanager
def paged(context: Context) -> Iterator[None]:
    """
    Print to a pager what does not fit on the terminal: RECONCILER_PAGER, else PAGER, else less.

    Nothing of it where stdout or stdin is no terminal, or with --no-pager.
    """
    if not (context.has_pager and sys.stdout.isatty() and sys.stdin.isatty()):
        yield
        return
    stdout, kept = sys.stdout, _Kept(sys.stdout.encoding)
    sys.stdout = kept
    try:
        yield
    finally:
        sys.stdout = stdout
        text = kept.getvalue()
        if text.count("\n") < terminal_size().lines:
            stdout.write(text)
        else:
            _page(text)


class _Kept(io.StringIO):
    """What is printed meanwhile, as if to the terminal."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override] # of the terminal
        return self._encoding

    def isatty(self) -> bool:
        return True


def _page(text: str) -> None:
    if pager := os.environ.get("RECONCILER_PAGER"):
        os.environ["PAGER"] = pager
    os.environ.setdefault("LESS", "FRX")  # as git has it: end if it fits, colours, leave the screen alone
    click.echo_via_pager(clean(text, keeps_colours=True))


@contextmanager
def busy(what: str, *, may_ask: bool = False) -> Iterator[None]:
    """
    Say on a terminal what goes on, once it takes longer than a second, and wipe that away at the end.

    What `may_ask` the person (for a passphrase, in an editor) is said once, and nothing is drawn over it.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_turn, args=(what, done, may_ask), name="busy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _turn(what: str, done: threading.Event, is_still: bool) -> None:
    if done.wait(PATIENCE):
        return
    turns = 0
    line = clean(what, keeps_colours=False)[: terminal_size().columns - 4]
    if is_still:
        os.write(2, f"{line} …\n".encode())
        return
    while not done.is_set():
        os.write(2, f"\r{_WHEEL[turns % len(_WHEEL)]} {line}".encode())
        turns += 1
        done.wait(_TURN)
    os.write(2, b"\r\x1b[K")
