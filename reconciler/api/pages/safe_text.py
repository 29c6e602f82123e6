"""
Text that others wrote, as a page may show it: nothing in it acts, and nothing in it is hidden.

Colours of a terminal become classes; every other sequence that a terminal would
obey is dropped; what changes the direction of writing, or is not seen, is shown
by its name.
"""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from markupsafe import Markup, escape

_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
"""Controls but for tab and line end, and what is not seen or turns the writing round."""
_SEQUENCE = re.compile(
    r"\x1b\[(?P<sgr>[0-9;:]*)m"
    r"|\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
)
_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")


def show_hidden(text: str) -> str:
    """Return a text with its hidden characters named, as `⟨U+202E⟩`; line ends and tabs stay."""
    return _HIDDEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def plain(text: str) -> str:
    """Return what a terminal would show of a text: no sequences, its hidden characters named."""
    return show_hidden(_SEQUENCE.sub("", text.replace("\r\n", "\n")))


def link(url: str) -> str | None:
    """Return a URL that may be followed; None for all but http and https, as `javascript:`."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return None
    is_plain = parts.scheme in {"http", "https"} and bool(parts.netloc) and not _HIDDEN.search(url)
    return url.strip() if is_plain else None


class Terminal:
    """Lines of a terminal as HTML: keeps the colour from line to line."""

    def __init__(self) -> None:
        self._style: dict[str, str] = {}

    def line(self, text: str, mark: Callable[[str], Markup] = escape) -> Markup:
        """Return a line as HTML; of one that was written over, what was written last."""
        text = text.rstrip("\r\n").rpartition("\r")[2]
        parts: list[Markup] = []
        at = 0
        for match in _SEQUENCE.finditer(text):
            parts.append(self._span(text[at : match.start()], mark))
            at = match.end()
            if match["sgr"] is not None:
                self._set(match["sgr"])
        parts.append(self._span(text[at:], mark))
        return Markup("").join(parts)

    def _span(self, text: str, mark: Callable[[str], Markup]) -> Markup:
        if not text:
            return Markup("")
        markup = mark(show_hidden(text))
        return (
            Markup('<span class="{}">{}</span>').format(" ".join(self._style.values()), markup)
            if self._style
            else markup
        )

    def _set(self, codes: str) -> None:
        numbers = [int(code[:4] or 0) for code in re.split("[;:]", codes)]
        while numbers:
            number = numbers.pop(0)
            if number in {38, 48}:  # a colour out of many: the first sixteen have names here
                self._set_of_many("fg" if number == 38 else "bg", numbers)  # noqa: PLR2004 - ECMA-48's
            else:
                self._set_one(number)

    def _set_of_many(self, place: str, numbers: list[int]) -> None:
        kind = numbers.pop(0) if numbers else 0
        taken, numbers[:] = numbers[: 1 if kind == 5 else 3], numbers[1 if kind == 5 else 3 :]  # noqa: PLR2004
        self._style.pop(place, None)
        if kind == 5 and taken and taken[0] < 16:  # noqa: PLR2004 - as above
            self._style[place] = f"{place}-{_COLOURS[taken[0] % 8]}"

    def _set_one(self, number: int) -> None:
        match number:
            case 0:
                self._style.clear()
            case 1 | 2 | 3 | 4 | 9:
                names = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 9: "struck"}
                self._style[f"t{number}"] = f"t-{names[number]}"
            case 21 | 22:
                self._drop("t1", "t2")
            case 23 | 24 | 29:
                self._drop(f"t{number - 20}")
            case 39:
                self._drop("fg")
            case 49:
                self._drop("bg")
            case _:
                self._colour(number)

    def _colour(self, number: int) -> None:
        for first, place in ((30, "fg"), (90, "fg"), (40, "bg"), (100, "bg")):
            if first <= number < first + 8:
                self._style[place] = f"{place}-{_COLOURS[number - first]}"

    def _drop(self, *keys: str) -> None:
        for key in keys:
            self._style.pop(key, None)
