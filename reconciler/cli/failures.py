"""
Failures of tasks as lines for people.
"""

from reconciler.cli.terminal import value_block
from reconciler.core.runs.failure import FailureSummary, summary_rows


def failure_text(summary: FailureSummary) -> str:
    """Return a failure as lines for people, its cause first."""
    return value_block((name, value) for name, value in summary_rows(summary) if value)
