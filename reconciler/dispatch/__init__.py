"""
Hosts that carry out orders: runs, workspaces, and what agents print.

A run lives on its host under a name and outlives whoever started it; starting
the same name twice starts it once.
"""
