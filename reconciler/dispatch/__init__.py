"""
Dispatch: runs and workspaces on hosts, and the output of agents.

A run lives on its host under its id and outlives the process that started it; starting
the same id twice starts it once.
"""
