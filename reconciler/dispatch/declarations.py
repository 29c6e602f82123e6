"""
Declarations of agents, as the wrapper answers them.
"""

from reconciler.core.errors import Unavailable
from reconciler.core.model.runs import Declaration
from reconciler.dispatch.protocol import DECLARATIONS


def parse_declaration(answer: bytes) -> Declaration | None:
    """Return what `declared` answered; None if the agent declared nothing. Raises Unavailable."""
    first, _, text = answer.partition(b"\n")
    message = first.decode(errors="replace").split()
    if message == ["S", "none"]:
        return None
    for kind in DECLARATIONS:
        if message[:2] == ["S", kind]:
            return Declaration(kind=kind, text=text.decode(errors="replace"))
    raise Unavailable(f"the wrapper answered {answer[:200]!r}, which declares nothing")
