"""
The other side of the API: a worker that takes tasks and reports on them, and the same as MCP tools.
"""
