"""
A GitOps reconciler for fleets of coding agents.

What should be done, and where it may be done, is YAML in git; the
reconciler makes it happen and records every step in git.
"""

__version__ = "0.2.0"
