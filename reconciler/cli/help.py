"""
What the help of every command ends with: examples that can be typed as they are.
"""

WIDTH = 80
"""Columns of the narrowest terminal that the help is made for."""
_MORE = " \\"


def examples(*lines: str) -> str:
    """Return the end of a command's help; `#` begins what is said of an example."""
    return "\n".join(("\b", "Examples:", *("\n".join(_continued(f"  {line}")) for line in lines)))


def _continued(line: str) -> list[str]:
    """Return a line as several that a shell takes for one, where a terminal is too narrow for it."""
    room = WIDTH - 2 - len(_MORE)  # help is indented by two
    if len(line) <= WIDTH - 2:
        return [line]
    at = _last_break(line, room)
    return [line[:at] + _MORE, *_continued(f"      {line[at:].lstrip()}")] if at else [line]


def _last_break(line: str, room: int) -> int:
    """Return where a line may be broken for a shell, best before an option; 0 if nowhere."""
    breaks, quote = [0], ""
    for at, character in enumerate(line[:room]):
        if character in {"'", '"'} and quote in {"", character}:
            quote = "" if quote else character
        elif character == " " and not quote and line[:at].strip():
            breaks.append(at)
    return next((at for at in reversed(breaks) if line[at + 1] in "-&|"), breaks[-1])
