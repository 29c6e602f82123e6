"""
The commands, a file per group.

Each parses, calls one function and renders; what is heavy is imported late, so
that `--help` and completion stay quick.
"""
