"""
The decisions: models, state machine, planner and rules.

Nothing here reads a clock, a file, a socket or an environment variable.
Functions take values and return values; time arrives as an argument.
"""
