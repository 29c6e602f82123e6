"""
Text that others wrote, made harmless and short.

What agents, commands and forges say passes here before it reaches a status, a
prompt, a commit or a terminal.
"""

import re

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, DCS, SOS, PM, APC: titles, clipboards, links
    r"|\x1b[ -/]*[0-~]?"  # the rest
)
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""C0 but for tab and line end, C1, what changes the direction of writing, and halves of characters."""
_C0 = bytes([*range(9), *range(11, 32), 127])

_INVISIBLE = re.compile(
    r"[\u00ad\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
"""What shows nothing by itself, and can spell words that only a machine reads."""

_LOGINS = re.compile(r"(?<=://)[^/@\s]+@")


def harmless(text: str) -> str:
    """Return the text without anything a terminal would obey; line ends and tabs stay."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def is_harmless(text: bytes) -> bool:
    """Tell whether `harmless` would leave a text as it is, quickly. Raises UnicodeDecodeError."""
    if len(text.translate(None, _C0)) < len(text):  # every escape sequence begins with one
        return False
    return text.isascii() or _CONTROLS.search(text.decode()) is None


def visible(text: str) -> str:
    """Return the harmless text without characters that nobody sees: nothing can be hidden in it."""
    return _INVISIBLE.sub("", harmless(text))


def one_line(text: str, limit: int = 500) -> str:
    """Return the text as one harmless line of at most `limit` characters."""
    line = " ".join(harmless(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def both_ends(text: str, limit: int = 600) -> str:
    """Return the text as one harmless line; of one over `limit` characters the beginning and the end."""
    line = one_line(text, len(text))
    return line if len(line) <= limit else f"{line[: limit // 2]} … {line[-limit // 2 :]}"


def without_credentials(text: str) -> str:
    """Return a text in which no URL tells who somebody is."""
    return _LOGINS.sub("", text)


def tail(text: str, *, lines: int, characters: int) -> str:
    """Return the end of a text, harmless; the first line says so if something is left out."""
    whole = harmless(text).strip("\n")
    end = "\n".join(whole.split("\n")[-lines:])[-characters:]
    return end if end == whole else f"[… {len(whole) - len(end)} characters left out]\n{end}"


def head(text: str, *, characters: int) -> str:
    """Return the beginning of a text, harmless; the last line says so if something is left out."""
    whole = harmless(text).strip()
    beginning = whole[:characters]
    return whole if beginning == whole else f"{beginning}\n[… {len(whole) - characters} characters left out]"
