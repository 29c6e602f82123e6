"""The tutorial and the how-to pages say what is true: their blocks are run as a newcomer would."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest

from reconciler.cli.main import cli
from tests.e2e.conftest import IDENTITY
from tests.forge.double import ForgejoDouble

DOCS = Path(__file__).parents[2] / "docs"
TUTORIALS = sorted(DOCS.glob("tutorial*.md"))
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
TAKES_FIRST = ("follow-a-stuck-task", "review-without-a-forge")
"""Pages whose tasks are to be the first that run."""
HELLO = "goal: Say hello.\nadapter: script\nscript: echo hello\n"


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the word after `sh`, and the commands, of each block of a page."""
    yield from re.findall(r"```sh ?(\w*)\n(.*?)```", page.read_text(), re.DOTALL)


class Shell:
    """A shell of a newcomer: what a block leaves as folder and variables the next one finds."""

    def __init__(self, root: Path, **env: str) -> None:
        programs = root / "bin"
        programs.mkdir()
        (programs / "reconciler").write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m reconciler "$@"\n'
        )
        (programs / "reconciler").chmod(0o755)
        (root / "home").mkdir()
        self.state = root / "shell"
        self.state.write_text(f"cd {shlex.quote(str(root))}\n")
        self.env: Mapping[str, str] = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("RECONCILER", "XDG"))
            },
            **IDENTITY,
            "HOME": str(root / "home"),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "NO_COLOR": "1",
            **env,
        }

    def run(self, commands: str) -> str:
        """Run a block, and return all that it prints."""
        keep = f"{{ export -p; echo cd \"'$PWD'\"; }} >{shlex.quote(str(self.state))}"
        done = subprocess.run(
            ["sh", "-ec", f". {shlex.quote(str(self.state))}\nset -a\n{commands}\n{keep}"],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}"
        return done.stdout


def test_the_tutorial_leads_from_nothing_to_a_merged_pull_request(tmp_path):
    shown = ""
    with ForgejoDouble(tmp_path / "forge") as forge:
        forge.webhooks = "dropped"
        forge.add_user("ann")
        forge.add_repo("you/web", {"README.md": "Web.\n"})
        shell = Shell(tmp_path)

        for word, commands in blocks(DOCS / "tutorial.md"):
            match word:
                case "":
                    shown += shell.run(commands)
                case "token":
                    shell.run(commands.replace("cat >", f"echo {forge.token} >").partition("#")[0])
                case "forge":
                    shell.run(f"FORGE={forge.api.removesuffix('/api/v1')} REPO=you/web")
                case "browser":
                    assert re.search(r"greet .*review_pending .*a person has to merge it", shown)
                    forge.merge_pull("you/web", 1)

        assert forge.repos["you/web"].pull(1).merged
    assert "Hello from" in shown
    assert re.search(r"greet .*completed", shown)
    assert "+Good morning." in shown
    assert re.search(r"asked by: .*Greet the reader", shown)


def test_the_commands_of_the_how_to_pages_do_what_they_are_for(tmp_path):
    shell = Shell(tmp_path)
    shell.run("reconciler init fleet && cd fleet")
    (tmp_path / "fleet/specs/tasks/hello.yaml").write_text(HELLO)
    (tmp_path / "fleet/specs/tasks/stuck.yaml").write_text(HELLO + "requires: [gpu]\n")
    shell.run("git add specs && git commit -qm 'Say hello'")

    shown = {}
    for page in sorted(HOW_TO, key=lambda page: (page.stem not in TAKES_FIRST, page.stem)):
        shown[page.stem] = "".join(shell.run(commands) for word, commands in blocks(page) if not word)

    assert "gpu" in shown["follow-a-stuck-task"]
    assert "Host (waiting reason)" in shown["follow-a-stuck-task"]
    assert re.search(r"stuck .*completed", shown["follow-a-stuck-task"])
    assert re.search(r"open .*review_pending.*open .*completed", shown["review-without-a-forge"], re.DOTALL)
    assert "+Open from nine to five." in shown["review-without-a-forge"]
    assert re.search(r"local .*cordoned", shown["add-a-host"])
    assert "'The work is done.' after" in shown["add-an-agent-cli"]
    assert "hello" in shown["limit-spending"]
    assert len((tmp_path / "fleet/jeeves.new").read_text().split()) == 1


def invocations(commands: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of `reconciler`."""
    for line in commands.splitlines():
        words = shlex.split(line, comments=True)
        for at, word in enumerate(words):
            if word == "reconciler" and words[at - 1 : at] in ([], ["&&"]):
                rest = words[at + 1 :]
                yield rest[: rest.index("&&")] if "&&" in rest else rest


@pytest.mark.parametrize("page", [*TUTORIALS, *HOW_TO], ids=lambda page: page.stem)
def test_blocks_that_need_more_than_a_test_has_are_commands_that_exist(page):
    for word, commands in blocks(page):
        subprocess.run(["sh", "-n"], input=commands, text=True, check=True)
        for args in invocations(commands) if word else ():
            parsed(args)


def parsed(args: list[str]) -> None:
    """Parse a call to the end, without carrying it out."""
    context, command = click.Context(cli, info_name="reconciler"), cli
    while isinstance(command, click.Group):
        name, command, args = command.resolve_command(context, args)
        context = click.Context(command, info_name=name, parent=context)
    command.make_parser(context).parse_args(args)
