"""
Client side of the worker protocol: a worker that runs a command per task, and MCP tools.
"""
