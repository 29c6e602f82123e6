"""
Forges: `forge connect` sets up repositories on a forge, step by step.
"""

import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import click

from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.core.edits import edit_message
from reconciler.core.errors import NotFound, ReconcilerError, UsageError
from reconciler.core.model.specs import ForgeKind
from reconciler.core.text import one_line
from reconciler.files import replace_atomically

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.core.adapter import Secret
    from reconciler.core.model.specs import Forge
    from reconciler.forge.setup import ForgePlace, ForgeSetup, RepositoryDetail, SetupStep

FOLDER = "~/.config/reconciler"
"""Where secrets go that nobody says a place for."""
_OWN = "fleet"


@click.group(epilog=examples("reconciler forge connect https://code.example.org tools/web"))
def forge() -> None:
    """Connect repositories on a forge: token, labels, webhooks."""


@forge.command(
    epilog=examples(
        "reconciler forge connect https://code.example.org tools/web --fleet tools/fleet",
        "reconciler forge connect https://code.example.org tools/web=frontend --protect",
        "reconciler forge connect https://code.example.org tools/web --token-from env:FORGE_TOKEN --dry-run",
    )
)
@click.argument("url")
@click.argument("repos", metavar="[OWNER/NAME[=REPO]]...", nargs=-1)
@click.option("--fleet", "own", metavar="OWNER/NAME", help="The fleet's own repository there.")
@click.option(
    "--token-from",
    metavar="env:NAME|file:PATH",
    default=f"file:{FOLDER}/forge.token",
    show_default=True,
    help="Where the token is. A file that is missing is written, from a prompt without echo.",
)
@click.option("--account", help="The token's account, for a token that may not read it.")
@click.option("--kind", type=click.Choice(get_args(ForgeKind)), help="Whose API it speaks, if not seen.")
@click.option("--ca", metavar="FILE", help="Certificate of a private authority, in PEM.")
@click.option("--label", default="agent", show_default=True, help="Label of the issues that become tasks.")
@click.option("--protect", is_flag=True, help="Protect base branches that nothing protects.")
@click.option("--webhook-url", metavar="URL", help="Where the forge reaches `reconciler serve`.")
@click.option("--no-webhooks", is_flag=True, help="Leave webhooks as they are: polling alone.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.pass_obj
def connect(context: Context, /, **options: Any) -> int:
    """
    Connect repositories on the forge at URL to this fleet.

    Looks at the token and tries each right that is needed by use; writes
    `forge` into the specs of the repos, as commits; makes labels; looks at the
    protection of base branches; makes webhooks. Prints what each step came to.
    Call it as often as you like: what is so already stays. URL is that of the
    forge, or of one repository there. Exits 5 if a step failed.
    """
    return asyncio.run(_Connection(context, **options).carry_out())


class _Target(NamedTuple):
    place: str
    """`owner/name` on the forge."""
    name: str
    """Of the repo in the specs; `fleet` for the fleet's own repository."""
    is_own: bool


class _Connection:
    """One call of `forge connect`."""

    def __init__(self, context: Context, **options: Any) -> None:
        self.context = context
        self.url: str = options["url"]
        self.repos: Sequence[str] = options["repos"]
        self.own: str | None = options["own"]
        self.source: Mapping[str, str] = _source(options["token_from"])
        self.account: str | None = options["account"]
        self.kind = options["kind"]
        self.ca: str | None = options["ca"]
        self.label: str = options["label"]
        self.protects: bool = options["protect"]
        self.webhook_url: str | None = options["webhook_url"]
        self.has_webhooks: bool = not options["no_webhooks"]
        self.is_dry: bool = options["dry_run"]
        self.has_failed = False

    async def carry_out(self) -> int:
        """Carry out every step; one that fails ends the steps of its repository and no other's."""
        from reconciler.cli.session import open_fleet
        from reconciler.forge.setup import locate_forge

        self._ensure_token()
        at = await locate_forge(self.url, self._token, self.kind, self.ca)
        targets = _targets([*([at.repo] if at.repo else []), *self.repos], self.own)
        self._say("forge", "already so", f"{at.kind} at {at.api}")
        connected = []
        async with open_fleet(self.context) as fleet:
            for target in targets:
                try:
                    if await self._connect(fleet, at, target):
                        connected.append(target)
                except ReconcilerError as error:
                    self._say(target.place, "failed", str(error))
        for target in connected:
            try:
                await self._webhook(target)
            except ReconcilerError as error:
                self._say(f"{target.place} webhook", "failed", str(error))
        return ExitCode.ENDED_BADLY if self.has_failed else ExitCode.OK

    # --- The token ---------------------------------------------------------

    @property
    def _secret(self) -> "Secret":
        from reconciler.core.adapter import Secret

        return Secret.model_validate(self.source)

    async def _token(self) -> str:
        from reconciler.dispatch.secrets import forge_secret

        return await forge_secret(self._secret)

    def _ensure_token(self) -> None:
        """Let there be a token where the specs will point."""
        file = Path(self.source["file"]).expanduser() if "file" in self.source else None
        if file is None or file.exists():
            is_open = file is not None and file.stat().st_mode & 0o077
            doubt = f"; others may read it: chmod 600 {file}" if is_open else ""
            self._say("token", "already so", f"in {_source_text(self.source)}{doubt}")
            return
        if not _is_terminal():
            raise UsageError(f"{file} is not there: write the token into it, or name it by --token-from")
        if self.is_dry:
            raise UsageError(f"{file} is not there: without a token nothing can be looked at")
        token = click.prompt("Token of the bot account", hide_input=True, err=True).strip()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_atomically(file, f"{token}\n".encode(), mode=0o600)
        self._say("token", "done", f"written to {file}, for this user alone")

    # --- One repository ----------------------------------------------------

    async def _connect(self, fleet: "FleetSession", at: "ForgePlace", target: _Target) -> bool:
        """Set up one repository; return whether it is to have a webhook."""
        from reconciler.forge.setup import PHASE_LABELS, forge_setup

        async with forge_setup(self._forge(at, target), self._token) as setup:
            account = await self._read_account(setup, target)
            repository = await setup.repository()
            if not account or not await self._has_rights(setup, repository, target, account):
                return False
            await self._write_spec(fleet, at, target, repository)
            if not target.is_own:
                labels = await setup.labels([self.label, *PHASE_LABELS], is_dry=self.is_dry)
                self._tell(target, labels)
            if not await setup.may_administer():
                self._say_no_administration(target, account)
                return False
            # Commands and issues push to the specs: a rule that forbids it is for people to make.
            protects = self.protects and not target.is_own
            for step in await setup.protection(
                repository.default_branch,
                account,
                protects=protects,
                is_dry=self.is_dry,
                pushes=await self._has_queue(fleet, target),
            ):
                self._tell(target, step)
        return self.has_webhooks

    def _say_no_administration(self, target: _Target, account: str) -> None:
        message = f"{account} does not administer the repository: its protection is not seen"
        if self.has_webhooks:
            self._say(f"{target.place} webhook", "failed", f"{message}, and no webhook made (--no-webhooks)")
        else:
            self._say(f"{target.place} protection", "skipped", message)

    async def _read_account(self, setup: "ForgeSetup", target: _Target) -> str:
        """Return the account of the token; empty if nobody says whose it is."""
        from reconciler.forge.client import Forbidden

        try:
            name = await setup.account()
        except Forbidden:
            name = self.account or ""
            if not name:
                message = f"missing {setup.account_right}; add it, or say whose the token is: --account NAME"
                self._say(f"{target.place} account", "failed", message)
            return name
        until = await setup.expires_on()
        end = f"; its token expires on {until}" if until else ""
        self._say(f"{target.place} account", "already so", f"{name}{end}")
        return name

    async def _has_rights(
        self, setup: "ForgeSetup", repository: "RepositoryDetail", target: _Target, account: str
    ) -> bool:
        missing = list(await setup.missing_rights(repository))
        if repository.archived:
            missing.append("a repository that is not archived")
        for right in missing:
            self._say(f"{target.place} rights", "failed", f"missing: {right}")
        if not missing:
            self._say(f"{target.place} rights", "already so", f"{account} may do all that is needed")
        return not missing

    async def _write_spec(
        self, fleet: "FleetSession", at: "ForgePlace", target: _Target, repository: "RepositoryDetail"
    ) -> None:
        """Write `forge` into the spec, as a commit; what it says already stays."""
        from reconciler.cli.session import spec_path
        from reconciler.specs.edit import edit
        from reconciler.specs.parse import FLEET_FILE

        path = FLEET_FILE if target.is_own else spec_path("repo", target.name)
        before = await self._text(fleet, target)
        fields = _fields(before, path)
        changes: dict[str, Any] = {"forge": self._forge_fields(at, target, fields.get("forge"))}
        if not target.is_own and "url" not in fields:
            new = {"url": await _git_url(repository), "base": repository.default_branch}
            changes = {**new, "review": "pull_request", **changes}
        after = edit(before, changes, path=path)
        if after == before:
            self._say(f"{target.place} specs", "already so", path)
            return
        if not self.is_dry:
            subject = f"Connect {'the fleet' if target.is_own else target.name} to {target.place}"
            await fleet.commit(path, after, edit_message(subject, f"By `reconciler forge connect`: {at.api}"))
        self._say(f"{target.place} specs", "would" if self.is_dry else "done", f"write {path}")

    async def _has_queue(self, fleet: "FleetSession", target: _Target) -> bool:
        """Return whether the spec asks for a merge queue."""
        if target.is_own:
            return False
        return _fields(await self._text(fleet, target), target.name).get("merge") == "queue"

    async def _text(self, fleet: "FleetSession", target: _Target) -> str:
        if target.is_own:
            return await fleet.settings_text()
        with suppress(NotFound):
            return (await fleet.spec_file("repo", target.name)).data.decode()
        return ""

    def _forge(self, at: "ForgePlace", target: _Target) -> "Forge":
        from reconciler.core.model.specs import Forge

        return Forge.model_validate(self._forge_fields(at, target, None))

    def _forge_fields(
        self, at: "ForgePlace", target: _Target, before: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        fields: dict[str, Any] = dict(before or {})
        fields |= {"api": at.api, "repo": target.place, "token": dict(self.source)}
        if at.kind != "forgejo" or "kind" in fields:
            fields["kind"] = at.kind
        if self.account:
            fields["account"] = self.account
        if self.ca:
            fields["ca"] = self.ca
        if self.has_webhooks:
            file = f"{FOLDER}/{target.place.replace('/', '-')}.hook"  # other fleets may have such a name, too
            fields.setdefault("webhook_secret", {"file": file})
        return fields

    # --- Its webhook -------------------------------------------------------

    async def _webhook(self, target: _Target) -> None:
        """Make the webhook, unless one is there that works."""
        from reconciler.cli.webhook import ensure_webhook

        subject = f"{target.place} webhook"
        if self.is_dry:
            self._say(subject, "would", "make one, unless one is there that works")
            return
        result, message = await ensure_webhook(self.context, target.name, self.webhook_url)
        self._say(subject, result, message)

    # --- Words -------------------------------------------------------------

    def _tell(self, target: _Target, step: "SetupStep") -> None:
        self._say(f"{target.place} {step.subject}", step.result, step.message)

    def _say(self, subject: str, result: str, message: str) -> None:
        self.has_failed |= result == "failed"
        click.echo(f"{subject:<28} {result:<10} {one_line(message, 600)}")


def _is_terminal() -> bool:
    """Return whether somebody can be asked."""
    return sys.stdin.isatty()


def _targets(repos: Sequence[str], own: str | None) -> Sequence[_Target]:
    """Return what is to be connected. Raises UsageError for what is no `owner/name`."""
    targets = [_target(each, is_own=False) for each in repos]
    targets += [_target(own, is_own=True)] if own else []
    if not targets:
        raise UsageError("name at least one repository there, as OWNER/NAME, or the fleet's own by --fleet")
    return targets


_PLACE = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _target(text: str, *, is_own: bool) -> _Target:
    place, _, name = text.partition("=")
    if not _PLACE.fullmatch(place) or (name and not _NAME.fullmatch(name)):
        raise UsageError(f"{one_line(text)!r} is not a repository such as tools/web, or tools/web=frontend")
    return _Target(place, _OWN if is_own else name or place.rpartition("/")[2].lower(), is_own)


def _source(text: str) -> Mapping[str, str]:
    """Return where a secret is found, as specs say it."""
    kind, _, value = text.partition(":")
    is_name = kind == "env" and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value)
    if not is_name and not (kind == "file" and value):
        raise UsageError("--token-from is env:NAME or file:PATH; a token itself never stands in a command")
    return {kind: value}


def _source_text(source: Mapping[str, str]) -> str:
    return "".join(f"the variable {value}" if kind == "env" else value for kind, value in source.items())


def _fields(text: str, path: str) -> Mapping[str, Any]:
    """Return the fields of a spec file. Raises SpecError if it cannot be read."""
    from reconciler.core.errors import SpecError
    from reconciler.specs.yaml import load_yaml

    value, problems = load_yaml(text.encode(), path)
    if problems:
        raise SpecError(problems)
    return value if isinstance(value, dict) else {}


async def _git_url(repository: "RepositoryDetail") -> str:
    """Return the address for git that answers, that of SSH first; which one is not asked for a password."""
    from reconciler.git.process import Git

    for url in filter(None, (repository.ssh_url, repository.clone_url)):
        listed = await Git.nowhere().attempt("ls-remote", "--heads", "--", url, timeout=_PATIENCE)
        if listed.code == 0:
            return url
    return repository.ssh_url or repository.clone_url


_PATIENCE = 10.0
"""Seconds for git to answer."""
