"""
Options of the commands for outside agents: the reconciler's address, and a token.
"""

from contextlib import suppress
from pathlib import Path

import click

from reconciler.core.errors import UsageError

TOKEN = "RECONCILER_TOKEN"  # noqa: S105 - the variable's name
"""Environment variable with the token, where there is no file."""

url_option = click.option(
    "--url",
    envvar="RECONCILER_URL",
    show_envvar=True,
    default="http://127.0.0.1:8420",
    show_default=True,
    help="Where the reconciler listens.",
)
token_option = click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"File with the agent's token; the environment variable {TOKEN} if left out.",
)


ca_option = click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the certificate of a private authority, besides SSL_CERT_FILE and the system's.",
)


class TokenFile:
    """A token in a file, read for each request: it may be replaced while we run."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._last = file.read_text(encoding="utf-8", errors="replace").strip()  # refused once it is sent

    def __call__(self) -> str:
        """Return the current token; the last one while the file is being replaced."""
        with suppress(OSError, UnicodeDecodeError):
            self._last = self._file.read_text(encoding="utf-8").strip() or self._last
        return self._last


def find_token(file: Path | None) -> str | TokenFile | None:
    """
    Return the token in a file, else that of the environment; None if there is none.

    It is taken out of the environment, so that no command we start inherits it
    or reads it from `/proc`.
    """
    from reconciler.dispatch import environ

    environ.close_memory()
    inherited = environ.take([TOKEN]).get(TOKEN, "").strip()
    return TokenFile(file) if file else inherited or None


def need_token(file: Path | None) -> str | TokenFile:
    """Return the token. Raises UsageError if there is none."""
    token = find_token(file)
    if token is None:
        raise UsageError(
            f"no token: name its file with --token-file, or put it into {TOKEN}; "
            "`reconciler token new` makes one"
        )
    return token
