"""
Optional packages, and how to install them in each kind of installation.

The package itself is named, never this project: what an index offers under a
project's name need not be the project.
"""

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

MCP = "mcp>=2.0"
"""Packages that `reconciler mcp` needs; extra `mcp` of the distribution."""
APPRISE = "apprise>=1.9"
"""Package that notifications need; extra `notify` of the distribution."""


def install_command(
    requirement: str, prefix: Path | None = None, python: str | None = None, *, has_pip: bool | None = None
) -> str:
    """
    Return the command that adds a package to an installation, by default to the running one.

    pipx and uv are recognised by a file that they leave in their environments.
    """
    prefix, python = prefix or Path(sys.prefix), python or sys.executable
    if (prefix / "pipx_metadata.json").exists():
        return shlex.join(["pipx", "inject", prefix.name, requirement])
    if has_pip is None:
        has_pip = find_spec("pip") is not None
    if not has_pip or (prefix / "uv-receipt.toml").exists():
        return shlex.join(["uv", "pip", "install", "--python", python, requirement])
    return shlex.join([python, "-m", "pip", "install", requirement])
