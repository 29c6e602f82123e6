"""
`reconciler init`: a fleet's repository with an example to change.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.context import is_repository, require_text
from reconciler.cli.folders import NamedFolder
from reconciler.cli.help import examples
from reconciler.cli.references import NameParam
from reconciler.core.errors import ReconcilerError, UsageError

if TYPE_CHECKING:
    from reconciler.git.checkout import Checkout

_OWN = ("specs/", ".schemas/")
"""What belongs to a fleet alone; settings of editors and of CI that are there already stay as they are."""

NEXT = """\
Made a fleet in {folder}. {agents}
Next:
{enter}  reconciler plan            what would happen now
  reconciler resume example  let the example start
  reconciler run             make it so; Ctrl-C stops looking, never a run
  reconciler history         what happened, and why
Then write your own tasks in specs/tasks/ and commit them; repos and other hosts are made
from specs/repos/web.yaml.example and specs/hosts/gpu1.yaml.example."""


@click.command(epilog=examples("reconciler init my-fleet", "reconciler init --adapter codex"))
@click.argument("folder", metavar="[DIR]", default=".", type=NamedFolder())
@click.option(
    "--adapter",
    type=NameParam("adapter"),
    help="Agent CLI for tasks that name none; by default the first built-in one that is found.",
)
def init(folder: Path, adapter: str | None) -> None:
    """
    Create a fleet's repository, with examples to edit.

    DIR may be new, empty, or the root of a repository that has no fleet yet;
    it is the current folder if left out. A workflow for Forgejo and GitHub
    Actions, pre-commit hooks and settings of editors are made as well, unless
    they are there already. Which agent CLIs are on the PATH is
    looked up as runs look; the first of claude-code, codex, gemini, opencode
    and qwen becomes the `adapter` in specs/fleet.yaml.
    """
    from reconciler.cli.agent_clis import choose
    from reconciler.git.process import GitFailed

    folder = require_text(folder.resolve())
    choice = choose(adapter)
    wanted = {
        path: choice.written(text)
        for path, text in scaffold()
        if path.startswith(_OWN) or not (folder / path).exists()
    }
    _refuse_to_nest(folder)
    _refuse_to_overwrite(folder, wanted)
    try:
        _make(folder, wanted)
    except GitFailed as error:  # a retry would not help
        raise ReconcilerError(str(error)) from error
    enter = "" if folder == Path.cwd() else f"  cd {folder}\n"
    click.echo(NEXT.format(folder=folder, agents=choice.message, enter=enter), err=True)


def _make(folder: Path, wanted: Mapping[str, str]) -> None:
    """Create the repository, or what it lacks; clean up after a failure."""
    from reconciler.git.checkout import Checkout

    is_new = not (folder / ".git").exists()
    if not is_new:
        Checkout(folder).check()  # raises git's own message
    _require_identity(folder)
    with ExitStack() as undo:
        _make_folder(folder, undo)
        checkout = Checkout(folder)
        if is_new:
            undo.callback(shutil.rmtree, folder / ".git", ignore_errors=True)
            checkout.create("main")
        undo.callback(_take_out, checkout, wanted)
        _commit(checkout, folder, wanted)
        undo.pop_all()


def scaffold() -> Iterator[tuple[str, str]]:
    """Yield path and content of every file of a new fleet."""
    yield from _texts(files("reconciler.cli") / "scaffold")
    yield from schema_files()
    yield from editor_files()


EDITORS: Mapping[str, Callable[[Mapping[str, str]], object]] = {
    ".vscode/settings.json": lambda schemas: {"yaml.schemas": schemas},
    ".zed/settings.json": lambda schemas: {
        "lsp": {"yaml-language-server": {"settings": {"yaml": {"schemas": schemas}}}}
    },
}
"""Settings by which editors find the schemas without a line in each file."""


def editor_files() -> Iterator[tuple[str, str]]:
    """Yield path and content of the settings that tie spec files to their schemas by where they are."""
    from reconciler.specs.parse import MODELS, SINGLE_FILES
    from reconciler.specs.schema import SCHEMA_FOLDER

    places = {kind: path for path, (kind, _) in SINGLE_FILES.items()} | {"task": "specs/tasks/**/*.yaml"}
    schemas = {f"./{SCHEMA_FOLDER}/{kind}.json": places.get(kind, f"specs/{kind}s/*.yaml") for kind in MODELS}
    for path, settings in EDITORS.items():
        yield path, json.dumps(settings(schemas), indent=2) + "\n"


def schema_files() -> Iterator[tuple[str, str]]:
    """Yield path and content of the schemas that the first lines of spec files name."""
    from reconciler.specs.parse import MODELS
    from reconciler.specs.schema import SCHEMA_FOLDER, json_schema

    for kind in MODELS:
        yield f"{SCHEMA_FOLDER}/{kind}.json", json.dumps(json_schema(kind), indent=2) + "\n"


def _texts(folder: Traversable, above: str = "") -> Iterator[tuple[str, str]]:
    for child in folder.iterdir():
        if child.is_dir():
            yield from _texts(child, f"{above}{child.name}/")
        else:
            yield above + child.name, child.read_text(encoding="utf-8")


def _refuse_to_nest(folder: Path) -> None:
    around = next((above for above in folder.parents if is_repository(above)), None)
    if around and not is_repository(folder):
        raise UsageError(
            f"{folder} is inside of the repository {around}, and nothing was changed: run "
            f"`reconciler init` in {around}, or choose a folder outside of it"
        )


def _refuse_to_overwrite(folder: Path, wanted: Mapping[str, str]) -> None:
    if (folder / "HEAD").is_file() and (folder / "objects").is_dir():
        raise UsageError(f"{folder} is a bare repository: clone it, and run `reconciler init` in the clone")
    there = sorted(path for path in wanted if (folder / path).exists())
    there.sort(key=lambda path: (path.startswith("."), path.count("/")))
    if there:
        more = f" and {len(there) - _FEW} more" if len(there) > _FEW else ""
        raise UsageError(
            f"{folder} has a fleet already, and nothing was changed: {', '.join(there[:_FEW])}{more}; "
            "`reconciler doctor` says how it is"
        )


_FEW = 3


def _require_identity(folder: Path) -> None:
    """Raise UsageError if git has no identity to commit with, before anything is written."""
    from reconciler.git.checkout import NOBODY, Checkout

    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    if not Checkout(there).has_identity():
        raise UsageError(NOBODY)


def _make_folder(folder: Path, undo: ExitStack) -> None:
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    if new:
        undo.callback(shutil.rmtree, new[-1], ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be made: {error.strerror}; see who may write there, or choose another folder"
        ) from error


def _commit(checkout: "Checkout", folder: Path, wanted: Mapping[str, str]) -> None:
    for path, content in wanted.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    checkout.stage(*wanted)
    checkout.commit("Begin a fleet of coding agents", *wanted)


def _take_out(checkout: "Checkout", wanted: Mapping[str, str]) -> None:
    """Remove what was staged, and the folders that are empty then."""
    with suppress(ReconcilerError):  # the original error matters more
        checkout.remove(*wanted)
