"""
Mistakes of our own, kept to the one thing they are about.

Nothing that is thought about one task may keep the others from being thought
about. What fails is found by trying, so that whoever thinks need not know of it.
"""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

Think = Callable[[Sequence[str]], object]


def culprits(think: Think, names: Sequence[str]) -> Mapping[str, Exception]:
    """
    Return those of the names that cannot be thought about, each with what was raised.

    Bisection: `think` is asked of all of them, then of each half of what fails.
    Names that fail only together are all returned.
    """
    try:
        think(names)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told of the task it is about
        middle = len(names) // 2
        faults = {
            name: why
            for half in (names[:middle], names[middle:])
            if half and len(names) > 1
            for name, why in culprits(think, half).items()
        }
        return faults or dict.fromkeys(names, error)
    return {}


PLANNING = "planning it"
OUTCOME = "what came of it"
"""In what a mistake was met; that about an outcome lasts until there is another."""


def fault_message(error: Exception, subject: str = PLANNING) -> str:
    """
    Return what a mistake of ours is called on record.

    The same mistake has the same words, without the values that led to it:
    they may be others at each look, and other words are a commit.
    """
    where = _place(error.__traceback__)
    return (
        f"{subject} meets a mistake of the reconciler ({type(error).__name__}{where}; its log has more); "
        "others go on, and an edit of the spec lets it be tried again"
    )


def _place(trace: TracebackType | None) -> str:
    """Return the innermost line of ours, as it follows the name of an error."""
    place = ""
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if module.startswith("reconciler."):
            place = f" in {module}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
