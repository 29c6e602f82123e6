"""
What the help of every command ends with: examples that can be typed as they are.
"""


def examples(*lines: str) -> str:
    """Return the end of a command's help; `#` begins what is said of an example."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
