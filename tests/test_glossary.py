"""The glossary is the law: words it retired name nothing in the code."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = (ROOT / "docs/GLOSSARY.md").read_text().partition("## Retired words")[2]
RETIRED = {
    word
    for row in re.findall(r"^\| (`.+?`) \|", GLOSSARY, re.MULTILINE)
    for word in re.findall(r"`(.+?)`", row)
}
CODE = sorted((ROOT / "reconciler").rglob("*.py"))


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every name that a module gives to something, and its line."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case (
                ast.arg(arg=name)
                | ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
            ):
                yield name, node.lineno
            case ast.alias(name=name, asname=other):
                yield other or name.rpartition(".")[2], node.lineno


def parts(name: str) -> list[str]:
    """Return the words of a name: `_HostSession` and `_host_session` have the same two."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").split("_")


def is_retired(name: str) -> bool:
    """Tell whether a name is retired as a whole (`word`), or for one of its words (`*word*`)."""
    return "_".join(parts(name)) in RETIRED or any(f"*{part}*" in RETIRED for part in parts(name))


def test_no_retired_word_names_anything():
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in CODE
        for name, line in [(part, 0) for part in file.relative_to(ROOT).with_suffix("").parts]
        + list(names(ast.parse(file.read_text())))
        if is_retired(name)
    ]

    assert wrong == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("found", True),
        ("_found", True),
        ("not_found", False),
        ("NotFound", False),
        ("PlanScene", True),
        ("scenery", False),
    ],
)
def test_a_retired_word_is_told_from_another_that_only_looks_like_it(name, expected):
    assert is_retired(name) is expected


def test_no_public_name_is_defined_in_two_modules():
    homes = defaultdict(list)
    for file in CODE:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                homes[node.name].append(str(file.relative_to(ROOT)))

    twice = {name: files for name, files in homes.items() if len(files) > 1 and not name.startswith("_")}

    assert twice.keys() == {"test_command"}, twice  # click's, of two groups
