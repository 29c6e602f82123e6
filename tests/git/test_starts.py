"""
Git is started in one place: what import-linter cannot see, for a name of a program is no import.
"""

import ast
from pathlib import Path

import reconciler

HOUSE = Path(reconciler.__file__).parent
STARTERS = {"subprocess", "reconciler.subprocesses", "asyncio.subprocess"}


def starts_processes(tree):
    """Return whether a module imports what starts processes."""
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return bool(modules & STARTERS) or "create_subprocess" in ast.unparse(tree)


def names_git(tree):
    """Return whether a module has the name of the program among its words."""
    return any(isinstance(node, ast.Constant) and node.value == "git" for node in ast.walk(tree))


def test_of_all_that_starts_processes_one_module_starts_git():
    trees = {str(path.relative_to(HOUSE)): ast.parse(path.read_text()) for path in HOUSE.rglob("*.py")}
    starters = {path for path, tree in trees.items() if starts_processes(tree)}

    assert {"git/process.py", "dispatch/local.py", "worker/process.py"} <= starters
    assert {path for path in starters if names_git(trees[path])} == {"git/process.py"}
