"""
Tasks and other specs from the command line: `submit`, `edit`.

What is written is validated as `validate` does, before it is committed and pushed.
"""

import asyncio
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.change import reason_option
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.params import duration
from reconciler.cli.references import reference_argument, resolve_references
from reconciler.core.edits import edit_message, edit_subject
from reconciler.core.errors import Conflict, Problem, SpecError, UsageError

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.core.model.specs import Kind

TEMPLATE = """\
# What should be true when the work is done. Lines that begin with # may stay;
# an empty goal submits nothing. All fields: `reconciler schema task`.
goal: |

# repo: web
# validation: [make test]
"""


@click.command(
    epilog=examples(
        'reconciler submit --goal "Fix the typos in README.md" --repo web',
        'reconciler submit web/fix-login -g "Login works" --repo web --review pull_request',
        "reconciler submit nightly -f task.yaml --set priority=10",
        "generate-task | reconciler submit web/generated -f - --wait --timeout 2h",
        "reconciler submit web/with-editor   # opens $EDITOR",
    )
)
@click.argument("name", required=False)
@click.option("-g", "--goal", help="What should be true when the work is done.")
@click.option("--title", help="One line for people.")
@click.option("--repo", metavar="NAME", help="Code repository of the fleet to work in.")
@click.option("--adapter", metavar="NAME", help="Agent CLI that does the work.")
@click.option("--model", metavar="NAME", help="Model that it is asked to use.")
@click.option("--script", help="With the adapter `script`: shell text that does the work.")
@click.option("--priority", type=click.IntRange(-1000, 1000), help="Higher starts first.")
@click.option("--review", type=click.Choice(["none", "merge", "pull_request"]), help="What follows the work.")
@click.option("--requires", multiple=True, metavar="LABEL", help="Label a host must have; may be repeated.")
@click.option("--validation", multiple=True, metavar="COMMAND", help="Must exit 0 then; may be repeated.")
@click.option("--depends-on", multiple=True, metavar="TASK", help="Must be completed first; may be repeated.")
@click.option("--label", "labels", multiple=True, help="To select it by; may be repeated.")
@click.option("--set", "more", multiple=True, metavar="FIELD=VALUE", help="Any field, its value as in YAML.")
@click.option("-f", "--file", metavar="FILE", type=click.File("rb"), help="A spec; - is stdin.")
@click.option("--wait", is_flag=True, help="Wait until it is completed, or its pull request is open.")
@click.option(
    "--timeout", metavar="DURATION", callback=duration, help="With --wait: longest time, such as 2h."
)
@click.option("--dry-run", is_flag=True, help="Print the file, and commit nothing.")
@reason_option
@click.pass_obj
def submit(
    context: Context,
    /,
    name: str | None,
    *,
    file: Any,
    more: tuple[str, ...],
    wait: bool,
    timeout: timedelta | None,
    dry_run: bool,
    reason: str,
    **fields: Any,
) -> int:
    """
    Submit a task: write its file, validate, commit and push it.

    From options, a file or stdin (-f; options go over it), or $EDITOR where
    neither says what to do. NAME is made of the goal if left out.
    """
    if timeout and not wait:
        raise click.UsageError("--timeout is how long --wait waits: add --wait")
    changes = {field: _plain(value) for field, value in fields.items() if value not in (None, ())}
    changes |= dict(map(_assignment, more))
    return asyncio.run(
        _submit(context, name, file, changes, reason, limit=timeout, waits=wait, is_dry=dry_run)
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _assignment(text: str) -> tuple[str, Any]:
    """Return field and value of `FIELD=VALUE`."""
    from reconciler.specs.yaml import load_yaml, to_bytes

    field, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[a-z_]+", field):
        raise click.UsageError(f"--set {text!r}: write FIELD=VALUE, such as --set retries=2")
    try:
        loaded, _ = load_yaml(to_bytes(f"{field}: {value}\n"), "--set")
    except SpecError as error:
        raise click.UsageError(f"--set {text!r}: {error.problems[0].message}") from error
    return field, loaded[field]


async def _submit(
    context: Context,
    name: str | None,
    file: Any,
    changes: Mapping[str, Any],
    reason: str,
    *,
    limit: timedelta | None,
    waits: bool,
    is_dry: bool,
) -> ExitCode:
    from reconciler.cli.session import open_fleet, spec_path
    from reconciler.cli.wait import wait_for
    from reconciler.specs.edit import edit

    async with open_fleet(context) as fleet:
        text = await asyncio.to_thread(_text, file, changes)
        text = edit(text, changes, path=spec_path("task", name or "task"))
        name = await _new_name(fleet, name, text)
        path = spec_path("task", name)
        text = await _checked(fleet, path, text, again=None if file or changes else _reopened)
        if is_dry:
            click.echo(text, nl=False)
            return ExitCode.OK
        await fleet.commit(path, text, edit_message(edit_subject("Submit", "task", name), reason))
        click.echo(name)
        click.echo(f"committed {path}; `reconciler wait {name}` waits for it", err=True)
        if not waits:
            return ExitCode.OK
        return await wait_for(fleet, lambda _: [name], "review", limit)


def _text(file: Any, changes: Mapping[str, Any]) -> str:
    """Return the spec to begin with: from the file, or the editor if nothing else says what to do."""
    from reconciler.specs.yaml import to_text

    if file is not None:
        return to_text(file.read())
    if "goal" in changes or "script" in changes:
        return ""
    if not sys.stdin.isatty():
        raise UsageError("nothing says what to do: give --goal, or a spec with -f FILE (-f - for stdin)")
    text = _in_editor(TEMPLATE)
    if text is None or text == TEMPLATE:
        raise UsageError("nothing was written, so nothing was submitted; --goal does without an editor")
    return text


async def _new_name(fleet: "FleetSession", name: str | None, text: str) -> str:
    """Return the name of a new task: as given, or made of its goal. Raises UsageError."""
    names = await fleet.names("task")
    if name is None:
        return _free(_slug(text), names)
    name = resolve_references([name], lambda _: names, "task")[0].name
    if name in names:
        raise UsageError(
            f"task {name} is there already: `reconciler edit {name}` changes it, `reconciler retry {name}` "
            "runs it again"
        )
    return name


def _slug(text: str) -> str:
    from reconciler.specs.yaml import load_yaml, to_bytes

    loaded = None
    with suppress(SpecError):  # it is told of with the others
        loaded, _ = load_yaml(to_bytes(text), "task")
    values = loaded if isinstance(loaded, dict) else {}
    title = str(values.get("title") or values.get("goal") or values.get("script") or "task")
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    slug = "-".join(re.findall(r"[a-z0-9]+", plain)[:6])[:50].strip("-")
    return slug or "task"


def _free(name: str, names: frozenset[str]) -> str:
    return next(
        each for n in range(1, len(names) + 3) if (each := name if n == 1 else f"{name}-{n}") not in names
    )


# --- edit ------------------------------------------------------------------


@click.command(
    epilog=examples(
        "reconciler edit web/fix-login",
        "reconciler edit host/gpu1 --reason 'More slots since the new disk'",
        "reconciler edit repo/web --set base=trunk   # opens no editor",
    )
)
@reference_argument("[KIND[/]]NAME")
@click.option(
    "--set",
    "more",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Set a field, its value as in YAML; no editor.",
)
@reason_option
@click.pass_obj
def edit_command(context: Context, args: tuple[str, ...], more: tuple[str, ...], reason: str) -> None:
    """
    Edit the spec of a task, host, agent, adapter or repo in $EDITOR.

    What is saved is validated, committed and pushed. With a mistake in it, the
    editor opens once more and says where it is. --set changes fields without
    an editor; comments and all other fields stay as they are.
    """
    asyncio.run(_edit(context, args, dict(map(_assignment, more)), reason))


async def _edit(context: Context, args: tuple[str, ...], changes: Mapping[str, Any], reason: str) -> None:
    from reconciler.cli.session import open_fleet, spec_path
    from reconciler.specs.edit import edit
    from reconciler.specs.yaml import to_text

    async with open_fleet(context) as fleet:
        desired, _ = await fleet.recorded()
        names = {"task": await fleet.names("task"), "host": desired.hosts, "agent": desired.agents}
        names |= {"adapter": desired.adapters, "repo": desired.repos}
        references = resolve_references(args, lambda kind: names[kind])
        if len(references) != 1:
            raise click.UsageError(f"one thing at a time, not {len(references)}: {' '.join(args)}")
        kind, name = references[0]
        file, path = await fleet.spec_file(kind, name), spec_path(kind, name)
        before = to_text(file.data)
        by_hand = None if changes else await asyncio.to_thread(_in_editor, before)
        text = edit(before, changes, path=path) if changes else by_hand
        if text is None or text == before:
            click.echo("nothing was changed", err=True)
            return
        text = await _checked(fleet, path, text, again=None if changes else _reopened)
        await _require_unchanged(fleet, kind, name, file.blob, text)
        await fleet.commit(path, text, edit_message(edit_subject("Edit", kind, name), reason))
    click.echo(f"{name}: committed {path}", err=True)


async def _require_unchanged(fleet: "FleetSession", kind: "Kind", name: str, blob: str, text: str) -> None:
    if (await fleet.spec_file(kind, name)).blob != blob:
        raise Conflict(f"{name} was changed by somebody else meanwhile; what you wrote is in {_kept(text)}")


# --- Writing ---------------------------------------------------------------


async def _checked(
    fleet: "FleetSession",
    path: str,
    text: str,
    again: Callable[[str, list[Problem]], str | None] | None,
) -> str:
    """
    Return a text that is a good spec at a path, with the mistakes given back to the editor.

    Raises SpecError where there is no editor, or the person gives up.
    """
    while problems := await _problems(fleet, path, text):
        better = await asyncio.to_thread(again, text, problems) if again and sys.stdin.isatty() else None
        if better is None or better == text:
            kept = f"; what was written is in {_kept(text)}" if again else ""
            click.echo(f"nothing was committed{kept}", err=True)
            raise SpecError(problems)
        text = better
    return text


async def _problems(fleet: "FleetSession", path: str, text: str) -> list[Problem]:
    """Return the mistakes that a file would have among the others of the branch."""
    from reconciler.specs.build import build
    from reconciler.specs.parse import File
    from reconciler.specs.source import read_revision
    from reconciler.specs.yaml import to_bytes

    files = await read_revision(fleet.tree, await fleet.tree.head())
    data = to_bytes(text)
    files = {**files, path: File("100644", fleet.repository.blob_id(data), data)}
    return [each for each in build(files).problems if each.path == path]


def _reopened(text: str, problems: list[Problem]) -> str | None:
    """Return what the person makes of a text with mistakes; None if they leave it."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith(_MARK)]
    head = [f"{_MARK}{line}\n" for problem in problems for line in str(problem).splitlines()]
    written = _in_editor("".join([*head, *lines]))
    return written and "".join(
        line for line in written.splitlines(keepends=True) if not line.startswith(_MARK)
    )


_MARK = "#! "
"""Before lines that tell the person of mistakes, and are taken out again."""


def _in_editor(text: str) -> str | None:
    """Return what the person makes of a text in $VISUAL or $EDITOR; None if they save nothing."""
    from reconciler.specs.yaml import to_bytes, to_text

    written = click.edit(to_bytes(text), extension=".yaml")
    return None if written is None else to_text(written)


def _kept(text: str) -> str:
    """Keep what a person wrote, and return where."""
    from reconciler.specs.yaml import to_bytes

    with NamedTemporaryFile(suffix=".yaml", prefix="reconciler-", delete=False) as file:
        file.write(to_bytes(text))
    return str(Path(file.name))
