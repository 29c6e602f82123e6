"""
Files that are written before a run: what their templates make of its values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import TemplateError, nodes

from reconciler.core.adapter import FileTemplate
from reconciler.core.runs.prompt import (
    TemplateMistake,
    check_template,
    compile_template,
    mistake_at,
    print_template,
    template_language,
    unknown_variables,
)
from reconciler.core.text import one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class FileValues:
    """What the templates of a run's files see, beside the secrets of each."""

    workspace: str
    """Folder in which the agent works, on its host."""
    files: str
    """Folder of the files that are outside of it."""
    task: str
    run: str
    round: int
    branch: str
    repo: str | None


SAMPLE = FileValues(
    workspace="/workspace",
    files="/files",
    task="sample",
    run="sample",
    round=1,
    branch="sample",
    repo="sample",
)


def render_file(path: str, file: FileTemplate, values: FileValues, secrets: Mapping[str, str]) -> str:
    """
    Return the text of a file, which ends with a line end.

    Raises ValueError, without any value of a secret, if the template cannot be
    printed with these values.
    """
    try:
        text = print_template(compile_template(file.template), {**_variables(values), "secrets": secrets})
    except (TemplateError, TypeError, ValueError) as error:
        message = f"file {path}: its template cannot be printed ({type(error).__name__})"
        raise ValueError(message) from None
    if "\0" in text:
        raise ValueError(f"file {path}: a secret in it has U+0000, which no text has")
    return text if text.endswith("\n") else f"{text}\n"


def try_file(path: str, file: FileTemplate) -> Sequence[TemplateMistake]:
    """Return what is wrong with the template of a file."""
    if wrong := check_template(file.template):
        return wrong
    if unknown := unknown_variables(file.template, (*FileValues.__slots__, "secrets")):
        return unknown
    named = _secrets_of(template_language().parse(file.template))
    missing = {name: line for name, line in sorted(named.items()) if name not in file.secrets}
    if missing:
        message = "secret {!r} is not among `secrets` of this file"
        return [
            mistake_at(file.template, name, line, message.format(one_line(name)))
            for name, line in missing.items()
        ]
    try:
        render_file(path, file, SAMPLE, dict.fromkeys(file.secrets, "sample"))
    except ValueError as error:
        return [TemplateMistake(str(error))]
    return []


def _secrets_of(tree: nodes.Template) -> dict[str, int]:
    """Return the secrets that a template prints, each with the line of its first place."""
    names = dict[str, int]()
    places: list[nodes.Getattr | nodes.Getitem] = [*tree.find_all(nodes.Getattr)]
    places += tree.find_all(nodes.Getitem)
    for each in places:
        name = each.attr if isinstance(each, nodes.Getattr) else getattr(each.arg, "value", None)
        if _is_secrets(each.node) and isinstance(name, str):
            names.setdefault(name, each.lineno)
    return names


def _is_secrets(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "secrets"


def _variables(values: FileValues) -> dict[str, object]:
    return {name: getattr(values, name) for name in FileValues.__slots__}
