"""
Functions of the rules of adapters, besides those of JMESPath.
"""

from jmespath import Options
from jmespath.functions import Functions, signature


class RuleFunctions(Functions):  # type: ignore[misc]  # jmespath has no types
    """JMESPath's functions, and arithmetic that totals of tokens need."""

    @signature({"types": ["number", "null"]}, {"types": ["number", "null"]})  # type: ignore[untyped-decorator]
    def _func_subtract(self, whole: float | None, part: float | None) -> float:
        """Return a number without a part of it, at least 0; null is 0: `subtract(input, cached)`."""
        return max((whole or 0) - (part or 0), 0)


RULE_OPTIONS = Options(custom_functions=RuleFunctions())
"""What each rule is evaluated with."""
