"""
Forge set-up: what a repository and an account on a forge need, tried by use and put right.

Every step looks first and says what it came to; carried out once more it
changes nothing.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from reconciler.core.adapter import Secret
from reconciler.core.errors import Unavailable, UsageError
from reconciler.core.model.specs import Forge, ForgeKind
from reconciler.core.model.status import Phase
from reconciler.core.text import one_line
from reconciler.forge.answers import ForgeAnswer, ForgeUser, JsonLine, LabelAnswer, ProtectionRule
from reconciler.forge.client import Declined, Forbidden, ForgeClient, Moved, UnexpectedAnswer
from reconciler.forge.dialect import Dialect
from reconciler.forge.dialects import DIALECTS
from reconciler.forge.tokens import SecretToken
from reconciler.forge.writer import label_body

StepResult = Literal["done", "already so", "would", "skipped", "failed"]
Token = Callable[[], Awaitable[str]]

PHASE_LABELS = tuple(f"agent/{phase}" for phase in Phase)
_GITHUB = "github.com"
_V1, _V4 = "/api/v1", "/api/v4"
"""Where the APIs of Forgejo and Gitea, and of GitLab, are below the address of the forge."""


class SetupStep(NamedTuple):
    """What a step of the set-up came to."""

    subject: str
    result: StepResult
    message: str


class ForgePlace(NamedTuple):
    """Where a forge is."""

    api: str
    kind: ForgeKind
    repo: str
    """`owner/name`, if the address was that of a repository; else empty."""


class _Permissions(ForgeAnswer):
    admin: bool = False
    push: bool = False


class RepositoryDetail(ForgeAnswer):
    """A repository, as far as its set-up has to know it."""

    default_branch: JsonLine = "main"
    clone_url: JsonLine = ""
    ssh_url: JsonLine = ""
    archived: bool = False
    permissions: _Permissions = _Permissions()


class _Version(ForgeAnswer):
    version: JsonLine = ""


# --- Where a forge is ------------------------------------------------------------


async def locate_forge(
    url: str, token: Token, kind: ForgeKind | None = None, ca: str | None = None
) -> ForgePlace:
    """
    Find the API of a forge, given its address, that of the API, or that of a repository there.

    Raises UsageError if there is none, Unavailable if it cannot be asked.
    """
    parts = urlsplit(url.rstrip("/"))
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
        raise UsageError(f"{one_line(url)!r} is not an address such as https://code.example.org")
    path = parts.path.removesuffix(_V1).removesuffix(_V4).partition("/-/")[0].removesuffix(".git").strip("/")
    root = f"{parts.scheme}://{parts.netloc}"
    if kind == "github" or parts.hostname in {_GITHUB, f"api.{_GITHUB}"}:
        is_public = parts.hostname in {_GITHUB, f"api.{_GITHUB}"}
        return ForgePlace(f"https://api.{_GITHUB}" if is_public else f"{root}/api/v3", "github", path)
    segments = path.split("/") if path else []
    errors: list[str] = []
    for end, cut in _roots(len(segments), kind):
        at = "/".join([root, *segments[:cut]])
        try:
            await _version(f"{at}{end}", token, ca, "gitlab" if end == _V4 else "forgejo")
        except (Declined, UnexpectedAnswer, Moved) as error:  # somebody else answers there
            errors.append(_without_place(error))
            continue
        except Unavailable as error:
            raise Unavailable(_without_place(error)) from None
        seen: ForgeKind = "gitlab" if end == _V4 else kind or await _kind_at(at, token, ca)
        return ForgePlace(f"{at}{end}", seen, "/".join(segments[cut:]))
    raise UsageError(
        f"{one_line(url)}: neither Forgejo nor Gitea nor GitLab answers there ({one_line(errors[0])})"
    )


def _roots(length: int, kind: ForgeKind | None) -> Iterator[tuple[str, int]]:
    """
    Yield where an API may be: its path, and how many parts of the address come before it.

    The rest of the address is a repository; on GitLab it may be in a group within a group.
    """
    if kind != "gitlab":
        yield from ((_V1, cut) for cut in dict.fromkeys((length, max(length - 2, 0))))
    if kind in {None, "gitlab"}:
        yield from ((_V4, cut) for cut in dict.fromkeys((0, *range(1, max(length - 1, 0)), length)))


def _without_place(error: Unavailable) -> str:
    return str(error).replace(f"forge {_NO_PLACE} at", "forge at")


_NO_PLACE = "-/-"
"""Stands for a repository while only the forge is asked."""


async def _kind_at(root: str, token: Token, ca: str | None) -> ForgeKind:
    """Return which of the two it is: Forgejo alone has an API of its own name."""
    try:
        await _version(f"{root}/api/forgejo/v1", token, ca, "forgejo")
    except Unavailable:
        return "gitea"
    return "forgejo"


async def _version(api: str, token: Token, ca: str | None, kind: ForgeKind) -> None:
    forge = Forge(kind=kind, api=api, repo=_NO_PLACE, token=Secret(env="TOKEN"), ca=ca)
    async with forge_setup(forge, token) as setup:
        await setup.client.get("/version", _Version)


# --- What is needed there ----------------------------------------------------------


@asynccontextmanager
async def forge_setup(forge: Forge, token: Token) -> "AsyncIterator[ForgeSetup]":
    """Yield the set-up of a repository, and close its connections at the end."""
    client = ForgeClient(forge, SecretToken(token), dialect=DIALECTS[forge.kind])
    try:
        yield ForgeSetup(client)
    finally:
        await client.close()


@dataclass(frozen=True, slots=True)
class ForgeSetup:
    """The set-up of one repository."""

    client: ForgeClient

    @property
    def _dialect(self) -> Dialect:
        return DIALECTS[self.client.forge.kind]

    async def account(self) -> str:
        """Return the name of the account that the token is of. Raises Forbidden if it may not say."""
        return (await self.client.get("/user", ForgeUser)).login

    async def expires_on(self) -> date | None:
        """Return when the token expires; None where that is not told."""
        read = self._dialect.expires_on
        return await read(self.client) if read else None

    @property
    def account_right(self) -> str:
        """What the token needs to tell whose it is."""
        return self._dialect.account_right

    async def repository(self) -> RepositoryDetail:
        """Return the repository. Raises Declined if the account does not see it."""
        return await self.client.get(f"/repos/{self.client.forge.repo}", RepositoryDetail)

    async def missing_rights(self, repository: RepositoryDetail) -> Sequence[str]:
        """Return the rights that the token or its account lacks, each tried by use."""
        missing = [
            right
            for right, (method, path) in self._dialect.tries.items()
            if not await self._may(method, path)
        ]
        if not repository.permissions.push:
            missing.append("write access of its account to the repository")
        return missing

    async def may_administer(self) -> bool:
        """Return whether the token's account administers the repository, as webhooks and protection need."""
        return await self._may("GET", "hooks")

    async def _may(self, method: str, path: str) -> bool:
        try:
            await self.client.send(method, path, {} if method != "GET" else None)
        except Forbidden:
            return False
        except Declined:
            return True
        return True

    async def labels(self, names: Sequence[str], *, is_dry: bool) -> SetupStep:
        """Let there be labels."""
        existing = {label.name async for label in self.client.pages("labels", LabelAnswer)}
        missing = [name for name in names if name not in existing]
        if not missing:
            return SetupStep("labels", "already so", ", ".join(names))
        for name in () if is_dry else missing:
            await self.client.write("POST", "labels", LabelAnswer, label_body(name, self._dialect))
        return SetupStep("labels", "would" if is_dry else "done", f"make {', '.join(missing)}")

    async def protection(
        self, base: str, account: str, *, protects: bool, is_dry: bool, pushes: bool = False
    ) -> Sequence[SetupStep]:
        """
        Look at what protects the base branch; with `protects`, protect it if nothing does.

        `pushes` says that a merge queue has to push there.
        """
        try:
            ours = await self._rules(base)
        except (Forbidden, Declined) as error:
            return [_protection("failed" if protects else "skipped", f"not seen: {error}")]
        problems = [problem for rule in ours for problem in _problems(rule, account)]
        problems += [_no_pushes(rule.name, account) for rule in ours if pushes and not _takes(rule, account)]
        if problems:
            return [_protection("failed", problem) for problem in problems]
        if ours:
            most = max(rule.required_approvals for rule in ours)
            return [_protection("already so", f"{base}: approvals required: {most}")]
        if pushes and protects:
            why = f"{self._dialect.protection} would keep `merge: queue` out: protect {base} there, by hand"
            return [_protection("skipped", why)]
        return [await self._newly_protected(base, protects=protects, is_dry=is_dry)]

    async def _newly_protected(self, base: str, *, protects: bool, is_dry: bool) -> SetupStep:
        """Protect a branch that nothing protects, if that is wanted."""
        if not protects:
            return _protection("skipped", f"nothing protects {base}")
        if is_dry:
            return _protection("would", f"{base}: {self._dialect.protection}")
        return await self._protect(base)

    async def _rules(self, base: str) -> Sequence[ProtectionRule]:
        if self._dialect.protection_rules:
            return await self._dialect.protection_rules(self.client, base)
        rules = [each async for each in self.client.pages("branch_protections", ProtectionRule)]
        return [rule for rule in rules if rule.name == base]

    async def _protect(self, base: str) -> SetupStep:
        if self._dialect.protect:
            await self._dialect.protect(self.client, base)
        else:
            await self.client.send("POST", "branch_protections", _rule_body(base))
        if not await self._rules(base):
            return _protection("failed", f"the forge took it, but nothing protects {base}: protect it there")
        return _protection("done", f"{base}: {self._dialect.protection}")


def _protection(result: StepResult, message: str) -> SetupStep:
    return SetupStep("protection", result, message)


def _problems(rule: ProtectionRule, account: str) -> Iterator[str]:
    """Yield what in a rule would keep pull requests of tasks from being merged."""
    for context in rule.status_check_contexts if rule.enable_status_check else ():
        if context in {"*", "reconciler/*", "reconciler/task"}:
            check = one_line(context, 100)
            yield f"{rule.name} requires the check {check}, which waits for the merge: take it out"
    is_on_list = account in rule.merge_whitelist_usernames or rule.merge_whitelist_teams
    if rule.enable_merge_whitelist and not is_on_list:
        yield f"{account} is not among those who may merge into {rule.name}: add it, or leave `merge: never`"


def _takes(rule: ProtectionRule, account: str) -> bool:
    """Return whether a rule lets an account push, as far as can be seen."""
    is_on_list = account in rule.push_whitelist_usernames or bool(rule.push_whitelist_teams)
    return rule.enable_push and (not rule.enable_push_whitelist or is_on_list)


def _no_pushes(base: str, account: str) -> str:
    return (
        f"{base} takes no pushes of {account}, and `merge: queue` pushes what it has validated: let it push "
        "there, or say `merge: when_approved`"
    )


def _rule_body(base: str) -> Mapping[str, object]:
    return {
        "rule_name": base,
        "branch_name": base,
        "enable_push": False,
        "required_approvals": 1,
        "dismiss_stale_approvals": True,
    }
