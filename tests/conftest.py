"""
How Hypothesis looks: at the same examples each time.

`HYPOTHESIS_PROFILE=thorough pytest` draws ten times as many, and others.
"""

import os

from hypothesis import HealthCheck, settings

# No deadline and no check of speed: tests assert nothing about time.
settings.register_profile(
    "house",
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("house"), max_examples=400, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))
