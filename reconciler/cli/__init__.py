"""
The commands, a file per group.

Each parses, calls one function and renders; heavy modules are imported late, so
that `--help` and completion stay quick.
"""
