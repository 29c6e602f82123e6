"""
Webhooks of forges: `webhook install`, `webhook test`, `webhook check`.

Webhooks only make reactions faster; without them, polling finds every change.
"""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.output import print_table
from reconciler.cli.references import NameParam
from reconciler.core.errors import NotFound, ReconcilerError, Unavailable, UsageError
from reconciler.core.text import one_line
from reconciler.files import replace_atomically

if TYPE_CHECKING:
    from reconciler.core.adapter import Secret
    from reconciler.core.model.forge import Hint
    from reconciler.core.model.specs import Forge
    from reconciler.forge.forgejo import ForgeRegistry
    from reconciler.forge.journal import Delivery, Journal
    from reconciler.forge.webhook_check import WebhookCheck, WebhookFinding

PATH = "/hooks/forgejo"
"""Path at which `serve` receives them."""

SHOWN = 10
"""Deliveries that are shown."""


@click.group(
    epilog=examples(
        "reconciler webhook install web --url https://fleet.example.org",
        "reconciler webhook test web",
        "reconciler webhook check",
    )
)
def webhook() -> None:
    """Install, test and check the webhooks of repos."""


repo_argument = click.argument("repo", metavar="REPO", type=NameParam("repo"))


@webhook.command(
    epilog=examples(
        "reconciler webhook install web --url https://fleet.example.org",
        "reconciler webhook install fleet --url https://fleet.example.org",
    )
)
@repo_argument
@click.option(
    "--url",
    help="Where the forge reaches `reconciler serve`, such as https://…; without it, what the one that runs "
    "here says.",
)
@click.pass_obj
def install(context: Context, *, repo: str, url: str | None) -> int:
    """
    Install a webhook on the forge of REPO, signed with a fresh secret.

    REPO is a repo's name, or `fleet` for the fleet's own repository. The secret
    goes where `forge.webhook_secret` of its spec points: into a file it is
    written (call this on the machine of `serve`), anything else is told what to
    do with it, once. The token's account must administer the repository. If
    `serve` runs here a test delivery is sent; exits 5 if that does not come in.
    """
    return asyncio.run(_install(context, repo, _address(url) if url else None))


async def _install(context: Context, repo: str, address: str | None, *, is_step: bool = False) -> int:
    async with _place(context, repo) as place:
        url = address or _own_address(place)
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
        if file and place.serve_address:
            await _until_known(url, secret, place.forge)
        hook = await place.forges.install_hook(place.forge, url, secret)
        if file is None:
            _tell(source, secret)
        else:
            _write(file, [secret, *(before if place.is_shared else ())])
            click.echo(f"its secret is in {file}; a reconciler that runs knows it within seconds", err=True)
        message = f"webhook {hook.id} of {place.forge.repo} tells {one_line(hook.url)} of"
        click.echo(f"{repo}: {message} {', '.join(sorted(hook.events))}", err=is_step)
        return await _verify(context, repo, place, is_known=file is not None)


async def _until_known(url: str, secret: str, forge: "Forge") -> None:
    """Wait a few seconds until the reconciler that runs knows a secret, so that it refuses no delivery."""
    from reconciler.forge.webhook_check import ping_from_here

    await ping_from_here(url, [secret], forge.ca)


async def _verify(context: Context, repo: str, place: "_Place", *, is_known: bool) -> int:
    """Have a test delivery sent if there is somebody here who takes it; say what came of it."""
    if not place.serve_address or not is_known:
        click.echo("not tried: once `reconciler serve` runs, `reconciler webhook check` does", err=True)
        return ExitCode.OK
    results = await (await _check(context, place)).findings(sends=True)
    for each in results:
        click.echo(f"{repo}: {each.message}", err=True)
    return ExitCode.ENDED_BADLY if any(each.result == "failed" for each in results) else ExitCode.OK


async def ensure_webhook(context: Context, repo: str, url: str | None) -> tuple[str, str]:
    """Let there be a webhook that works; return what was done, and what came of it."""
    async with _place(context, repo) as place:
        check = await _check(context, place)
        if place.serve_address:
            results = await check.findings(sends=True)
            if results and all(each.result == "ok" for each in results):
                return "already so", results[0].message
        elif not url:
            return "skipped", "no `reconciler serve` runs here: start it first, or say --webhook-url"
        elif check.secrets and (address := _address(url)) and await check.is_sound(address):
            return "already so", f"{address}; `reconciler webhook check` tries it once `serve` runs"
    code = await _install(context, repo, _address(url) if url else None, is_step=True)
    return ("done" if code == ExitCode.OK else "failed"), f"made; `reconciler webhook check {repo}` tries it"


def _own_address(place: "_Place") -> str:
    """Return where the `serve` that runs here takes webhooks; a forge elsewhere must be able to reach it."""
    url = _address(place.serve_address)
    if _is_loopback(url) and not _is_loopback(place.forge.api):
        raise UsageError(
            f"`reconciler serve` knows itself only as {place.serve_address}, which {place.forge.api} "
            "does not reach: start it with --public-url, or say --url https://…"
        )
    return url


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _address(url: str) -> str:
    if not url:
        raise UsageError(
            "no `reconciler serve` runs here: say where the forge reaches it, by --url https://…"
        )
    root = url.rstrip("/").removesuffix(PATH)
    if not root.startswith(("http://", "https://")):
        raise UsageError(f"--url {url!r} is not an address such as https://reconciler.example.org")
    return f"{root}{PATH}"


# --- The secret --------------------------------------------------------------


def _file(source: "Secret") -> Path | None:
    return Path(source.file).expanduser() if source.file else None


def _read_secrets(file: Path | None) -> list[str]:
    """Return the secrets that are in a file; none if it is not there. Raises UsageError if it is not text."""
    try:
        return file.read_text(encoding="utf-8").split() if file and file.exists() else []
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8; it holds secrets, one a line") from None


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
    Says how late it came, or why it did not. Exits 5 if nothing new arrives.
    """
    return asyncio.run(_test(context, repo))


async def _test(context: Context, repo: str) -> int:
    async with _place(context, repo) as place:
        hooks = await place.forges.hooks(place.forge)
        ours = [hook for hook in hooks if hook.url.endswith(PATH)]
        for hook in ours:
            state = "active" if hook.is_active else "not active"
            click.echo(f"webhook {hook.id} to {one_line(hook.url)} is {state}", err=True)
        if not any(hook.is_active for hook in ours):
            raise NotFound(f"{place.forge.repo} has no active webhook to {PATH}; see `webhook install`")
        results = await (await _check(context, place)).findings(sends=True)
        _print([each for each in _journal(context).recent() if place.name in each.hint.repos][:SHOWN])
    for each in results:
        click.echo(f"{repo}: {each.message}{f'; {each.fix}' if each.fix else ''}", err=True)
    return ExitCode.OK if any(each.result == "ok" for each in results) else ExitCode.ENDED_BADLY


@webhook.command("check", epilog=examples("reconciler webhook check", "reconciler webhook check web fleet"))
@click.argument("repos", metavar="[REPO]...", nargs=-1, type=NameParam("repo"))
@click.pass_obj
def check_command(context: Context, *, repos: Sequence[str]) -> int:
    """
    Check whether the events of each repo come in, how late, and why not.

    Looks at the webhooks on the forge, sends a ping to their address from here,
    and makes the forge send a test delivery. Call this on the machine of
    `serve`, for the same fleet and data folder. Exits 5 if some do not come in.
    """
    return asyncio.run(_check_all(context, repos))


async def _check_all(context: Context, names: Sequence[str]) -> int:
    async with AsyncExitStack() as stack:
        names = names or await _with_forge(context)
        places = [await stack.enter_async_context(_place(context, name)) for name in names]
        by_repo = await asyncio.gather(*(_findings(context, place) for place in places))
    rows = [
        [name, each.result, each.message + (f"; {each.fix}" if each.fix else "")]
        for name, results in zip(names, by_repo, strict=True)
        for each in results
    ]
    print_table(["REPO", "RESULT", "WHAT"], rows, empty="no repo of this fleet is on a forge")
    is_bad = any(each.result == "failed" for results in by_repo for each in results)
    return ExitCode.ENDED_BADLY if is_bad else ExitCode.OK


async def _with_forge(context: Context) -> Sequence[str]:
    """Return the repos that are on a forge, the fleet's own last."""
    from reconciler.cli.session import open_fleet
    from reconciler.core.model.specs import FLEET_FORGE

    async with open_fleet(context) as fleet:
        names = (await fleet.recorded())[0].forges
    return [*sorted(name for name in names if name != FLEET_FORGE), *([_OWN] if FLEET_FORGE in names else ())]


async def _findings(context: Context, place: "_Place") -> "Sequence[WebhookFinding]":
    from reconciler.forge.webhook_check import WebhookFinding

    if place.forge.webhook_secret is None:
        message = "`forge` names no webhook_secret: what happens there is found by polling alone"
        return [WebhookFinding("warning", message)]
    try:
        return await (await _check(context, place)).findings(sends=True)
    except ReconcilerError as error:
        return [WebhookFinding("failed", str(error))]


async def _check(context: Context, place: "_Place") -> "WebhookCheck":
    return await webhook_check(context, place.name, place.forge, place.forges, place.serve_address)


async def webhook_check(
    context: Context, name: str, forge: "Forge", forges: "ForgeRegistry", url: str = ""
) -> "WebhookCheck":
    """Return the check of the webhooks of a repo, with this machine's log of deliveries."""
    from reconciler.dispatch.secrets import forge_secret
    from reconciler.forge.webhook_check import WebhookCheck

    secrets: Sequence[str] = ()
    with suppress(Unavailable):  # it may be known to `serve` alone
        secrets = (await forge_secret(forge.webhook_secret)).split() if forge.webhook_secret else ()
    return WebhookCheck(
        name=name,
        forge=forge,
        forges=forges,
        journal=lambda: _journal(context),
        secrets=secrets,
        url=url,
        clock=clock.now,
    )


def _journal(context: Context) -> "Journal":
    from reconciler.forge.journal import Journal

    return Journal(context.data_dir / "hooks", clock.now)


def _print(deliveries: "Sequence[Delivery]") -> None:
    from reconciler.core.times import format_time

    head = ["RECEIVED", "AFTER", "EVENT", "ABOUT", "BY", "OUTCOME", "DELIVERY"]
    rows = [
        [
            format_time(each.at),
            "" if each.delay is None else f"{each.delay.total_seconds():.0f}s",
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
    serve_address: str
    """Of the `serve` that runs with this data folder; empty if none does."""


_OWN = "fleet"
"""Name of the fleet's own repository on the command line, unless a repo has that name."""


@asynccontextmanager
async def _place(context: Context, repo: str) -> AsyncIterator[_Place]:
    """Find the repository on its forge, and close the connections at the end. Raises NotFound."""
    from reconciler.cli.serving import serving
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
        who = await serving(fleet, await fleet.state_branch())
    address = who.presence.address if who.is_running and who.presence else ""
    spec = FLEET_FILE if repo == FLEET_FORGE else spec_path("repo", repo)
    if repo not in forges_by_repo:
        raise NotFound(f"{spec} has no `forge` that can be used; see `reconciler validate`")
    forge = forges_by_repo[repo]
    same = [each for each in forges_by_repo.values() if each.webhook_secret == forge.webhook_secret]
    forges = ForgeRegistry(forge_secret, clock.now)
    try:
        yield _Place(repo, forge, forges, spec, len(same) > 1, address)
    finally:
        await forges.close()
