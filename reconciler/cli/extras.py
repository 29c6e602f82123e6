"""
Packages that only some commands need, and how each kind of installation gets them.

The package itself is named, never this project: what an index offers under a
project's name need not be the project.
"""

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

MCP = "mcp>=2.0"
"""What `reconciler mcp` needs beside the rest; extra `mcp` of the distribution."""


def install_command(
    requirement: str, prefix: Path | None = None, python: str | None = None, *, has_pip: bool | None = None
) -> str:
    """
    Return the command that adds a package to an installation; to the one that runs, if none is named.

    pipx and uv leave a file of theirs in the environments that they keep.
    """
    prefix, python = prefix or Path(sys.prefix), python or sys.executable
    if (prefix / "pipx_metadata.json").exists():
        return shlex.join(["pipx", "inject", prefix.name, requirement])
    if has_pip is None:
        has_pip = find_spec("pip") is not None
    if not has_pip or (prefix / "uv-receipt.toml").exists():
        return shlex.join(["uv", "pip", "install", "--python", python, requirement])
    return shlex.join([python, "-m", "pip", "install", requirement])
