"""
Changes of spec files on a person's behalf: fields are set, committed and pushed.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from reconciler.core.edits import FieldChanges, edit_message, edit_subject
from reconciler.core.errors import UsageError
from reconciler.core.fields import Frozen
from reconciler.core.model.specs import AgentSpec, HostSpec, Kind, TaskSpec
from reconciler.core.text import one_line

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.specs.parse import File

Spec = TypeVar("Spec", bound=Frozen)

CHANGEABLE: Mapping[type[Frozen], Kind] = {TaskSpec: "task", HostSpec: "host", AgentSpec: "agent"}
"""Kinds of objects that commands can change."""

reason_option = click.option("--reason", default="", help="Reason, for the commit message.")


async def change(
    fleet: "FleetSession",
    model: type[Spec],
    names: Sequence[str],
    decide: Callable[[str, Spec], FieldChanges | str],
    *,
    verb: str,
    reason: str,
) -> None:
    """
    Change the specs of these names, a commit each.

    `decide` tells which fields change, or why there is nothing to do. It is
    asked about every name first, so that a wrong one changes nothing.
    """
    from reconciler.specs.parse import read_spec_of

    kind = CHANGEABLE[model]
    files = {name: await fleet.find_spec(kind, name) for name in dict.fromkeys(names)}
    decided = {name: decide(name, read_spec_of(model, name, *at)) for name, at in files.items()}
    for name, changes in decided.items():
        if isinstance(changes, str):
            click.echo(changes, err=True)
            continue
        commit_message = edit_message(edit_subject(verb, kind, name), reason)
        path, file = await fleet.find_spec(kind, name)  # another name before it may be of the same file
        await set_fields(fleet, path, file, changes, commit_message, name=name)
        click.echo(f"{name}: {', '.join(_field_text(field, value) for field, value in changes.items())}")


async def set_fields(
    fleet: "FleetSession",
    path: str,
    file: "File",
    changes: FieldChanges,
    commit_message: str,
    *,
    name: str = "",
) -> None:
    """Set fields in a spec file, comments kept; commit and push it."""
    from reconciler.specs.edit import edit_spec

    await fleet.commit(path, edit_spec(file.data.decode(), name, changes, path=path), commit_message)


def spec_of(model: type[Spec], name: str, file: "File") -> Spec:
    """Return the spec in a file. Raises SpecError if it is broken."""
    from reconciler.cli.session import spec_path
    from reconciler.specs.parse import read_spec

    return read_spec(model, spec_path(CHANGEABLE[model], name), file)


def is_confirmed(question: str, *, is_sure: bool, refusal: str) -> bool:
    """Ask for confirmation, unless `--yes` was given; refuse without a terminal."""
    if is_sure:
        return True
    if not sys.stdin.isatty():
        raise UsageError(refusal)
    return click.confirm(question, err=True)


def _field_text(field: str, value: object) -> str:
    if value is None:
        return f"{field} is gone now"
    if isinstance(value, dict):
        return f"{field} is now {one_line(', '.join(f'{key}: {each}' for key, each in value.items()))}"
    return f"{field} is {str(value).lower() if isinstance(value, bool) else value} now"
