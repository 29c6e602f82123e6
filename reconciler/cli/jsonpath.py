"""
JSONPath templates, the part of kubectl's that prints fields: `{.name} is {.phase}`.

Text, with paths in braces; a path alone needs none. What is refused (filters, recursion, slices,
`range`) is what `jq` does better: `-o json | jq …`.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

Step = str | int | None
"""A field, an element, or None: all of them."""
Path = tuple[Step, ...]


class Template(NamedTuple):
    """Text and paths, in their order."""

    parts: tuple[str | Path, ...]

    def fill(self, document: Any) -> str:
        """Return the text with what the paths lead to; what is not there is empty."""
        return "".join(part if isinstance(part, str) else shown(part, document) for part in self.parts)


def parse_template(text: str) -> Template:
    """Return the template that a text stands for. Raises ValueError, with what to write."""
    if text[:1] in {".", "$", "@", "["} and "{" not in text:
        return Template((parse_path(text),))
    parts: list[str | Path] = []
    at = 0
    while (opened := text.find("{", at)) >= 0:
        closed = _end(text, opened)
        parts += [text[at:opened], _inner(text[opened + 1 : closed].strip())]
        at = closed + 1
    if not parts:
        raise ValueError(f"{text!r} has no path in it: write such as {{.name}}, a field in braces")
    return Template((*parts, text[at:]))


def parse_path(text: str) -> Path:
    """Return the path that a text such as `.status.checks[0].command` stands for. Raises ValueError."""
    steps: list[Step] = []
    at = 1 if text[:1] in {"$", "@"} else 0
    while at < len(text) and text not in {".", "$.", "@."}:
        match = _STEP.match(text, at)
        if match is None:
            raise ValueError(_refusal(text, text[at:]))
        name, element = match.groups()
        steps.append(re.sub(r"\\(.)", r"\1", name) if name and name != "*" else _element(element))
        at = match.end()
    if steps[:1] == ["items"]:
        raise ValueError(f"{text!r}: the path is taken of each thing on its own: write such as {{.name}}")
    return tuple(steps)


_STEP = re.compile(r"""\.(\*|(?:[A-Za-z0-9_/-]|\\.)+)|\[(\*|-?\d+|'[^']*'|"[^"]*")\]""")
"""`.field`, `.*`, `[0]`, `[-1]`, `[*]`, `['field']`."""


def _element(text: str | None) -> Step:
    if text is None or text == "*":
        return None
    return text[1:-1] if text[0] in "'\"" else int(text)


def _refusal(text: str, rest: str) -> str:
    what = "is not understood"
    if rest.startswith(".."):
        what = "looks at every depth"
    elif rest.startswith("[?"):
        what = "is a filter"
    elif rest.startswith("[") and ":" in rest:
        what = "is a slice"
    return (
        f"{text!r}: {rest!r} {what}, and only fields and elements can be named, such as .status.run, "
        ".status.checks[0].command or .conditions[*].type; for more, `-o json | jq …`"
    )


def _end(text: str, opened: int) -> int:
    """Return where the braces that are opened here are closed."""
    match = _INNER.match(text, opened + 1)
    if match is None:
        raise ValueError(f"{text!r}: the brace at character {opened + 1} is not closed")
    return match.end() - 1


_INNER = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^}"'])*\}""")


def _inner(text: str) -> str | Path:
    """Return what stands in braces: a path, or text in quotes."""
    if text[:1] == '"' and text[-1:] == '"' and len(text) > 1:
        return str(json.loads(text))
    if text.split(" ", maxsplit=1)[0] in {"range", "end"}:
        raise ValueError(f"{{{text}}}: the template is filled for each thing on its own: leave `range` out")
    if text[:1] not in {".", "$", "@", "["}:
        raise ValueError(f"{{{text}}}: a path begins with a dot: {{.{text}}}")
    return parse_path(text)


def values(path: Path, document: Any) -> Sequence[Any]:
    """Return what a path leads to in a document; nothing for what is not there."""
    reached = [document]
    for step in path:
        reached = [value for each in reached for value in _children(step, each)]
    return reached


def shown(path: Path, document: Any) -> str:
    """Return what a path leads to as text: words as they are, all else as JSON, null as nothing."""
    return " ".join(map(_text, values(path, document)))


def _children(step: Step, value: Any) -> Iterator[Any]:
    if step is None:
        yield from value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    elif isinstance(value, dict):
        yield from [value[step]] if step in value else ()
    elif isinstance(value, list) and isinstance(step, int) and -len(value) <= step < len(value):
        yield value[step]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
