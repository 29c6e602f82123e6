"""
How people name things: `task/web/fix-login`, `host gpu1`, `t web/fix-login`, or a name alone.

One reader for every command, and what to say where a name leads nowhere.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Literal, NamedTuple

ReferenceKind = Literal["task", "campaign", "host", "agent", "adapter", "account", "repo"]

REFERABLE: tuple[ReferenceKind, ...] = ("task", "campaign", "host", "agent", "adapter", "account", "repo")
SHORT: Mapping[ReferenceKind, str] = {
    "task": "t",
    "campaign": "c",
    "host": "h",
    "agent": "ag",
    "adapter": "ad",
    "account": "ac",
    "repo": "r",
}
_KIND_NAMES: Mapping[str, ReferenceKind] = {
    word: kind
    for kind in REFERABLE
    for word in (kind, f"{kind}s", SHORT[kind], kind.title(), f"{kind.title()}s")
}

NamesOf = Callable[[ReferenceKind], Collection[str]]
"""Returns the names that things of a kind have."""


class Reference(NamedTuple):
    """A thing, by kind and name."""

    kind: ReferenceKind
    name: str


def kind_of(word: str) -> ReferenceKind | None:
    """Return the kind that a word means: in the singular, the plural, or short."""
    return _KIND_NAMES.get(word)


def references(
    args: Sequence[str], names_of: NamesOf, only: ReferenceKind | None = None
) -> Sequence[Reference]:
    """
    Return what words refer to: `[KIND] NAME...` or `[KIND/]NAME...`; without a kind, tasks.

    `only` is the one kind that is meant. A task may be called as a kind is, or
    lie in such a folder: what is the name of a task as it stands is that task,
    unless something of that kind has the rest for its name; `task/` before it
    leaves no doubt.
    Raises ValueError for words that cannot mean this.
    """
    kind = kind_of(args[0]) if len(args) > 1 else None
    if kind and only == "task" and args[0] in names_of("task"):
        kind = None
    if kind and only and kind != only:
        raise ValueError(f"{args[0]!r} is no {only}, and {kind}s cannot be meant here")
    return [_reference(word, names_of, kind or only) for word in (args[1:] if kind else args)]


def _reference(word: str, names_of: NamesOf, wanted: ReferenceKind | None) -> Reference:
    """Return what a word refers to; `wanted` is the kind that is meant in any case."""
    kind, name = split(word)
    if kind is None or (wanted == "task" and kind != "task"):
        return Reference(wanted or "task", word)
    if wanted and kind != wanted:
        raise ValueError(f"{word!r} is no {wanted}")
    if word in names_of("task") and (kind == "task" or (wanted is None and name not in names_of(kind))):
        return Reference("task", word)
    return Reference(kind, name)


def split(word: str) -> tuple[ReferenceKind | None, str]:
    """Return the kind that a word names before a slash, and the rest; also of the path of a spec file."""
    file = _FILE.fullmatch(word)
    before, _, name = (f"{file['kind']}/{file['name']}" if file else word).partition("/")
    kind = kind_of(before)
    return (kind, name) if kind and name else (None, word)


_FILE = re.compile(r"(?:.*/)?specs/(?P<kind>[a-z]+)/(?P<name>.+)\.yaml")

# --- Names that lead nowhere -------------------------------------------------

MINIMAL: Mapping[str, str] = {
    "task": "goal: What should be true when it is done.",
    "campaign": "{{matrix: {{file: [a.py, b.py]}}, task: {{goal: 'Check {{{{file}}}}.', script: 'true'}}}}",
    "host": "address: {name}.example.org",
    "agent": "slots: 1",
    "adapter": "command: [{name}]",
    "account": "{{provider: anthropic, adapters: [claude-code]}}",
    "repo": "url: https://code.example.org/{name}.git",
}
"""The least that a file of each kind holds."""


def no_such(kind: str, name: str, candidates: Iterable[str] = (), *, where: str = "") -> str:
    """Return what to say of a name that nothing has: what it may have meant, or which file makes it."""
    names = sorted(candidates)
    if close := get_close_matches(name, names, n=1):
        return f"no {kind} {name!r}{where} (did you mean {close[0]!r}?)"
    if kind == "task" and (other := _kind_meant(name)):
        return f"no task {name!r}{where}{other}"
    return f"no {kind} {name!r}{where}{remedy(kind, name, names)}"


def _kind_meant(name: str) -> str:
    """Return the end of a sentence about no task, whose name says or nearly says a kind; empty if not."""
    before, slash, _ = name.partition("/")
    kind = kind_of(before)
    if slash:
        return (
            f"; {kind}s cannot be meant here, only tasks (`reconciler get` lists them)"
            if kind not in {None, "task"}
            else ""
        )
    if kind:
        return f"; {name!r} is a kind: name one as `{kind}/NAME`"
    close = get_close_matches(name, [word for word in _KIND_NAMES if len(word) >= _NO_SHORTHAND], n=1)
    return f" (did you mean the kind {close[0]!r}?)" if close else ""


_NO_SHORTHAND = 4
"""Least letters of a word that a mistyped one is likely to have meant."""


def remedy(kind: str, name: str, names: Sequence[str] = ()) -> str:
    """Return the end of a sentence about a name that nothing has: which file makes it, with what in it."""
    if not _NAME.fullmatch(name):
        return ""
    file = f"specs/{kind}s/{name}.yaml"
    makes = f"make {file} with, say, `{MINIMAL[kind].format(name=name)}`"
    match kind:
        case "agent":
            return f"; `reconciler token new {name}` makes it"
        case "host":
            return f"; {makes}, or call `reconciler host add {name} ADDRESS`"
        case "adapter":
            return f"; take {', '.join(names)}, or {makes}" if names else f"; {makes}"
    return f"; {makes}"


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
