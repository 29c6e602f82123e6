"""
Fault isolation: a bug met while one task is judged must not stop the others.

The faulty task is found by bisection, so that the code that judges tasks
need not know about it.
"""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

Think = Callable[[Sequence[str]], object]


def culprits(think: Think, names: Sequence[str]) -> Mapping[str, Exception]:
    """
    Return the names for which `think` raises, each with the exception.

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
"""Where a fault occurred; one in judging an outcome lasts until there is another outcome."""


def fault_message(error: Exception, subject: str = PLANNING) -> str:
    """
    Return the message by which a fault of ours is recorded.

    The same fault has the same message, without the values that led to it:
    those may differ at each look, and each new message is a commit.
    """
    return (
        f"{subject} meets {bug_message(error)}; others go on, and an edit of the spec lets it be tried again"
    )


def bug_message(error: Exception) -> str:
    """Return what is said of an error that nobody expected: its type and place."""
    where = _place(error.__traceback__)
    return f"a bug of the reconciler ({type(error).__name__}{where}; its log has more)"


def _place(trace: TracebackType | None) -> str:
    """Return the innermost line of our own code, as a suffix to the name of an error."""
    place = ""
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if module.startswith("reconciler."):
            place = f" in {module}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
