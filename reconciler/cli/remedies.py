"""
What to type next, as the end of an error that does not say so itself.

Most errors name their own remedy, where they are raised: nobody knows better.
What git, a remote or the file system says names none; it gets that of its signs,
else that of its kind.
"""

import re
from collections.abc import Mapping, Sequence

from reconciler.core.errors import Conflict, NotFound, Refused, Unavailable

_SIGNS: Sequence[tuple[Sequence[str], str]] = (
    (("No space left on device", "Out of diskspace", "quota exceeded"), "make room there and try again"),
    (("Read-only file system",), "mount it for writing (see `dmesg` if it was), or use another place"),
    (
        ("Could not read from remote", "unable to access", "Authentication failed", "(publickey"),
        "`git ls-remote` with the address tries it, and the credentials",
    ),
    (
        ("remote rejected", "hook declined", "protected branch"),
        "see the rules of the remote for this branch, and who you are there, and try again",
    ),
    (
        ("not a tree object", "bad object", "unable to read", "object file", "is corrupt"),
        "`git fsck` says what is damaged; `git fetch` brings back what a remote has, else clone it anew",
    ),
    (
        ("packed-refs: ",),
        "branches have their names there: `mv` it, and `git branch` what `git fsck --lost-found` lists",
    ),
    (
        (".lock': File exists",),
        "if neither git nor an editor of its runs there, it was left by one that was killed: `rm` that file",
    ),
    (("Editing failed",), "name an editor that is there in $EDITOR, such as `export EDITOR=nano`"),
    (("Permission denied", "Operation not permitted"), "see who may write there, and who you are (`id`)"),
    (("No such file or directory",), "see what is there (`ls -ld`), or name another place"),
)
"""What to do about what others say, by signs in it; the first that fits."""

_KINDS: Mapping[type[Exception], str] = {
    NotFound: "`reconciler get` lists what there is",
    Refused: "`reconciler doctor` says who may do it, and with what",
    Conflict: "try again, from what is there now",
    Unavailable: "try again later; `reconciler doctor` says what is in the way",
    Exception: "`reconciler doctor` looks for what is wrong",
}
"""What to do about an error of a kind; the first that fits."""

_REMEDY = re.compile(r";|`[^`]+`|did you mean|\(--[a-z]|\B--[a-z]")
"""In a message that says itself what to do: a second part, a command, an option."""


def has_remedy(message: str) -> bool:
    """Return whether a message says what to do next."""
    return bool(_REMEDY.search(message))


def with_known_remedy(message: str) -> str:
    """Return a message with what to do next at its end, where a sign in it says what."""
    by_sign = (remedy for signs, remedy in _SIGNS if any(sign in message for sign in signs))
    if has_remedy(message) or not (remedy := next(by_sign, "")):
        return message
    return f"{message.rstrip('.')}; {remedy}"


def with_remedy(message: str, error: Exception) -> str:
    """Return the message of an error with what to do next at its end."""
    by_sign = with_known_remedy(message)
    if has_remedy(by_sign):
        return by_sign
    return (
        f"{message.rstrip('.')}; {next(remedy for kind, remedy in _KINDS.items() if isinstance(error, kind))}"
    )
