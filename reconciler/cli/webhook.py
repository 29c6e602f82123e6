"""
Webhooks of forges: `webhook install`, `webhook test`.

Webhooks only make reactions faster; without them, polling finds every change.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.output import print_table
from reconciler.cli.references import NameParam
from reconciler.core.errors import NotFound, UsageError
from reconciler.core.text import one_line
from reconciler.files import replace_atomically

if TYPE_CHECKING:
    from reconciler.core.adapter import Secret
    from reconciler.core.model.forge import Hint
    from reconciler.core.model.specs import Forge
    from reconciler.forge.forgejo import ForgeRegistry, InstalledWebhook
    from reconciler.forge.journal import Delivery

PATH = "/hooks/forgejo"
"""Path at which `serve` receives them."""

PATIENCE = 10.0
"""Seconds to wait for a requested delivery; forges give up after 5."""

SHOWN = 10
"""Deliveries that are shown."""


@click.group(
    epilog=examples(
        "reconciler webhook install web --url https://fleet.example.org", "reconciler webhook test web"
    )
)
def webhook() -> None:
    """Install and test the webhooks of a repo."""


repo_argument = click.argument("repo", metavar="REPO", type=NameParam("repo"))


@webhook.command(
    epilog=examples(
        "reconciler webhook install web --url https://fleet.example.org",
        "reconciler webhook install fleet --url https://fleet.example.org",
    )
)
@repo_argument
@click.option("--url", required=True, help="Where the forge reaches `reconciler serve`, such as https://….")
@click.pass_obj
def install(context: Context, *, repo: str, url: str) -> None:
    """
    Install a webhook on the forge of REPO, signed with a fresh secret.

    REPO is a repo's name, or `fleet` for the fleet's own repository. The secret
    goes where `forge.webhook_secret` of its spec points: into a file it is
    written (call this on the machine of `serve`), anything else is told what to
    do with it, once. The token's account must administer the repository.
    """
    asyncio.run(_install(context, repo, _address(url)))


async def _install(context: Context, repo: str, url: str) -> None:
    async with _place(context, repo) as place:
        source = place.forge.webhook_secret
        if source is None:
            raise UsageError(
                f"{place.spec}: `forge` says nowhere where its secret is; add such as "
                f"`webhook_secret: {{file: ~/.config/reconciler/{repo}.hook}}`, and commit it"
            )
        secret, file = clock.random_hex(32), _file(source)
        before = _read_secrets(file)
        if file:
            _write(file, [secret, *before])  # the old ones stay valid until the forge has the new one
        hook = await place.forges.install_hook(place.forge, url, secret)
        if file is None:
            _tell(source, secret)
        else:
            _write(file, [secret, *(before if place.is_shared else ())])
            click.echo(f"its secret is in {file}; a reconciler that runs knows it within seconds", err=True)
    message = (
        f"webhook {hook.id} of {place.forge.repo} tells {one_line(hook.url)} of {', '.join(hook.events)}"
    )
    click.echo(f"{repo}: {message}")


def _address(url: str) -> str:
    root = url.rstrip("/").removesuffix(PATH)
    if not root.startswith(("http://", "https://")):
        raise UsageError(f"--url {url!r} is not an address such as https://reconciler.example.org")
    return f"{root}{PATH}"


# --- The secret --------------------------------------------------------------


def _file(source: "Secret") -> Path | None:
    return Path(source.file).expanduser() if source.file else None


def _read_secrets(file: Path | None) -> list[str]:
    """Return the secrets that are in a file; none if it is not there."""
    return file.read_text(encoding="utf-8").split() if file and file.exists() else []


def _write(file: Path, secrets: Sequence[str]) -> None:
    """Write secrets, a line each, atomically and readable only by the user."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_atomically(file, "".join(f"{word}\n" for word in secrets).encode(), mode=0o600)


def _tell(source: "Secret", secret: str) -> None:
    """Print the secret, and where to put it."""
    if source.env:
        where = f"into the environment variable {source.env} of `reconciler serve`, and start that anew"
    elif source.credential:
        where = f"into the systemd credential {source.credential} of `reconciler serve`, and start that anew"
    else:
        where = f"where `{' '.join(source.command)}` prints it"
    click.echo(f"put this {where}; it is shown only now:", err=True)
    click.echo(secret)


# --- What arrives --------------------------------------------------------------


@webhook.command(epilog=examples("reconciler webhook test web"))
@repo_argument
@click.pass_obj
def test_command(context: Context, *, repo: str) -> int:
    """
    Make the forge of REPO send a test delivery, and show the last ones received.

    Call this on the machine of `serve`, for the same fleet and data folder.
    Exits 5 if nothing new arrives.
    """
    return asyncio.run(_test(context, repo))


async def _test(context: Context, repo: str) -> int:
    from reconciler.forge.journal import Journal

    def look() -> "Sequence[Delivery]":
        deliveries = Journal(context.data_dir / "hooks", clock.now).recent()
        return [each for each in deliveries if place.name in each.hint.repos]

    async with _place(context, repo) as place:
        hooks = await place.forges.hooks(place.forge)
        ours = [hook for hook in hooks if hook.url.endswith(PATH)]
        for hook in ours:
            state = "active" if hook.is_active else "not active"
            click.echo(f"webhook {hook.id} to {one_line(hook.url)} is {state}", err=True)
        if not any(hook.is_active for hook in ours):
            raise NotFound(f"{place.forge.repo} has no active webhook to {PATH}; see `webhook install`")
        has_come = await _try(place.forges, place.forge, ours, look)
        _print(look()[:SHOWN])
    if not has_come:
        click.echo(_WHY_NOT.format(data=context.data_dir), err=True)
    return ExitCode.OK if has_come else ExitCode.ENDED_BADLY


async def _try(
    forges: "ForgeRegistry",
    forge: "Forge",
    hooks: "Sequence[InstalledWebhook]",
    look: "Callable[[], Sequence[Delivery]]",
) -> bool:
    """Request a test delivery; return whether one arrived."""
    before = {each.hint.delivery for each in look()}
    for hook in hooks:
        await forges.test_hook(forge, hook)
    for _ in range(round(PATIENCE / 0.1)):
        if any(each.hint.delivery not in before for each in look()):
            return True
        await asyncio.sleep(0.1)
    return False


_WHY_NOT = """\
nothing new arrived. What to look at:
- the forge's page of the webhook says what it was answered: 401 is another secret, no answer is an
  address that it does not reach, or may not (Forgejo: ALLOWED_HOST_LIST)
- `reconciler serve` keeps what it takes in {data}/hooks"""


def _print(deliveries: "Sequence[Delivery]") -> None:
    from reconciler.core.times import format_time

    head = ["RECEIVED", "EVENT", "ABOUT", "BY", "OUTCOME", "DELIVERY"]
    rows = [
        [
            format_time(each.at),
            " ".join(filter(None, (each.hint.event, each.hint.action))),
            _about(each.hint),
            each.hint.sender,
            "done" if each.done_at else each.outcome,
            each.hint.delivery,
        ]
        for each in deliveries
    ]
    print_table(head, rows, empty="no webhook of this repo was taken so far")


def _about(hint: "Hint") -> str:
    if hint.pull is not None:
        return f"pull request #{hint.pull}"
    if hint.issue is not None:
        return f"issue #{hint.issue}"
    return hint.branch or (hint.commit or "")[:10]


# --- The place on the forge ----------------------------------------------------


class _Place(NamedTuple):
    name: str
    """By which deliveries know it."""
    forge: "Forge"
    forges: "ForgeRegistry"
    spec: str
    """Spec file with the forge."""
    is_shared: bool
    """Whether other repos use the same secret file."""


_OWN = "fleet"
"""Name of the fleet's own repository on the command line, unless a repo has that name."""


@asynccontextmanager
async def _place(context: Context, repo: str) -> AsyncIterator[_Place]:
    """Find the repository on its forge, and close the connections at the end. Raises NotFound."""
    from reconciler.cli.session import open_fleet, spec_path
    from reconciler.core.model.specs import FLEET_FORGE
    from reconciler.dispatch.secrets import forge_secret
    from reconciler.forge.forgejo import ForgeRegistry
    from reconciler.specs.parse import FLEET_FILE

    async with open_fleet(context) as fleet:
        forges_by_repo = (await fleet.recorded())[0].forges
        if repo == _OWN and repo not in forges_by_repo:
            repo = FLEET_FORGE
        if repo not in forges_by_repo and repo != FLEET_FORGE:
            await fleet.spec_file("repo", repo)  # raises if it is missing, or not committed
    spec = FLEET_FILE if repo == FLEET_FORGE else spec_path("repo", repo)
    if repo not in forges_by_repo:
        raise NotFound(f"{spec} has no `forge` that can be used; see `reconciler validate`")
    forge = forges_by_repo[repo]
    same = [each for each in forges_by_repo.values() if each.webhook_secret == forge.webhook_secret]
    forges = ForgeRegistry(forge_secret, clock.now)
    try:
        yield _Place(repo, forge, forges, spec, len(same) > 1)
    finally:
        await forges.close()
