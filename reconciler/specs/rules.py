"""
Rules within one file that a field's type cannot express.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import singledispatch
from urllib.parse import urlsplit

from reconciler.core.adapter import RULES, AdapterSpec, Secret
from reconciler.core.fields import Frozen
from reconciler.core.model.specs import (
    AgentSpec,
    FleetSpec,
    Forge,
    HostSpec,
    RepoSpec,
    TaskDefaults,
    TaskSpec,
)
from reconciler.core.planning.schedule import next_due, read_window, zone
from reconciler.specs.sshkeys import check_host_key
from reconciler.specs.yaml import Path, quoted_excerpt


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake at a path within a spec; its position in the file is found later."""

    path: Path
    message: str
    hint: str = ""
    at_key: bool = False
    is_doubt: bool = False
    """Whether it is only a warning."""


def broken_rules(spec: Frozen) -> list[Mistake]:
    """Return every rule that a spec breaks by itself, whatever the other files say."""
    return list(_mistakes(spec))


@singledispatch
def _mistakes(spec: Frozen) -> Iterator[Mistake]:
    raise NotImplementedError(spec)


@_mistakes.register
def _task(spec: TaskSpec) -> Iterator[Mistake]:
    if not spec.goal.strip():
        yield Mistake(("goal",), "must not be empty")
    if spec.validate_on is not None and spec.repo is None:
        yield Mistake(("validate_on",), "needs a `repo`: there is nothing to validate without one")
    if spec.schedule is not None:
        yield from _tried(("schedule",), _check_cron, spec.schedule)
    if spec.review == "merge" and spec.repo is None:
        yield Mistake(("review",), "merge needs a `repo`: there is nothing to merge without one")
    yield from _defaults(spec, has_repo=spec.repo is not None)


def _defaults(spec: TaskDefaults, *, has_repo: bool = True) -> Iterator[Mistake]:
    """Yield mistakes in fields that a task, its repo or the fleet may set."""
    yield from _tried(("timezone",), zone, spec.timezone)
    for index, window in enumerate(spec.window):
        yield from _tried(("window", index), read_window, window)
    for index, command in enumerate(spec.validation):
        if not command.strip():  # the shell would let it pass
            yield Mistake(("validation", index), "must not be empty")
    if spec.template is not None:
        from reconciler.core.runs.prompt import try_template

        yield from (Mistake(("template",), each) for each in try_template(spec.template, has_repo=has_repo))


@_mistakes.register
def _host(spec: HostSpec) -> Iterator[Mistake]:
    if spec.address is not None and not _ADDRESS.fullmatch(spec.address):
        yield Mistake(
            ("address",), f"expected the name or the IP address of a host, got {quoted_excerpt(spec.address)}"
        )
    elif spec.address is not None and spec.address.count(":") == 1:
        name, _, port = spec.address.partition(":")
        yield Mistake(("address",), f"a port has a field of its own: `address: {name}` and `port: {port}`")
    for index, key in enumerate(spec.host_key):
        yield from _tried(("host_key", index), check_host_key, key)
    for field in ("workdir", "identity"):
        if (place := getattr(spec, field)) is not None:
            yield from _tried((field,), _check_place, place)
    if spec.workdir is not None and spec.address is not None and not _ON_COMMAND_LINE.fullmatch(spec.workdir):
        yield Mistake(("workdir",), "may have letters, digits and any of _ . / + = : , @ % - only")
    for name, adapter in (spec.adapters or {}).items():
        if adapter.version is not None:
            yield from _tried(("adapters", name, "version"), _check_range, adapter.version)


@_mistakes.register
def _adapter(spec: AdapterSpec) -> Iterator[Mistake]:
    if spec.version is not None:
        yield from _tried(("version", "pattern"), _check_pattern, spec.version.pattern)
        if spec.version.range is not None:
            yield from _tried(("version", "range"), _check_range, spec.version.range)
    for name, secret in spec.secrets.items():
        yield from _secret(("secrets", name), secret)
    for field, probe in (("version", spec.version), ("health", spec.health)):
        if probe is not None and not probe.command:
            yield Mistake((field, "command"), "must name a program")
    if spec.command and not spec.command[0].strip():
        yield Mistake(("command", 0), "must name a program")
    is_text = "format" in spec.output.model_fields_set and spec.output.format == "text"
    for field in (
        RULES if not is_text else ()
    ):  # of text, they are patterns: see `core.runs.command.check_adapter`
        expression = getattr(spec.output, field)
        if expression is not None:
            yield from _tried(("output", field), _check_expression, expression)
    yield from _places_and_codes(spec)


def _places_and_codes(spec: AdapterSpec) -> Iterator[Mistake]:
    for code in spec.output.exit_codes:
        if int(code) > _LAST_EXIT_CODE:
            yield Mistake(("output", "exit_codes", code), "no process ends with it: at most 255", at_key=True)
    for index, path in enumerate(spec.cleanup):
        if path.startswith(("/", "~")) or ".." in path.split("/") or not path.strip():
            yield Mistake(("cleanup", index), "expected a path inside the workspace")


def _secret(path: Path, secret: Secret) -> Iterator[Mistake]:
    sources = [source for source in _SOURCES if getattr(secret, source)]
    if len(sources) != 1:
        named = " and ".join(sources) or "none"
        yield Mistake(path, f"needs exactly one of {', '.join(_SOURCES)}; found {named}")
    elif secret.file is not None:
        yield from _tried((*path, "file"), _check_place, secret.file)
    elif secret.credential is not None and "/" in secret.credential:
        yield Mistake((*path, "credential"), "expected the name of a credential, not a path")


@_mistakes.register
def _agent(spec: AgentSpec) -> Iterator[Mistake]:
    for index, digest in enumerate(spec.token_hash):
        if not _SHA256.fullmatch(digest):
            yield Mistake(("token_hash", index), "expected a SHA-256 in hex: 64 digits, lower case")


@_mistakes.register
def _repo(spec: RepoSpec) -> Iterator[Mistake]:
    yield from _tried(("url",), _check_url, spec.url)
    yield from _forge(spec.forge)
    for index, pattern in enumerate(spec.paths):
        if not pattern.strip():
            yield Mistake(("paths", index), "must not be empty")
    yield from _defaults(spec)


@_mistakes.register
def _fleet(spec: FleetSpec) -> Iterator[Mistake]:
    yield from _forge(spec.forge)
    yield from _defaults(spec)


def _forge(forge: Forge | None) -> Iterator[Mistake]:
    if forge is None:
        return
    yield from _tried(("forge", "api"), _check_api, forge.api)
    for name, secret in (("token", forge.token), ("webhook_secret", forge.webhook_secret)):
        if secret is not None:
            yield from _secret(("forge", name), secret)
            if secret.on != "reconciler":
                yield Mistake(("forge", name, "on"), "only the reconciler speaks to forges; leave `on` out")


_ADDRESS = re.compile(r"[A-Za-z0-9:_][A-Za-z0-9._:%-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SOURCES = ("env", "file", "command", "credential")


def _tried(path: Path, check: Callable[[str], object], text: str) -> Iterator[Mistake]:
    try:
        check(text)
    except ValueError as error:
        yield Mistake(path, str(error))


def _check_place(path: str) -> None:
    """Check that a path does not depend on the current folder."""
    if not path.startswith(("/", "~/")):
        raise ValueError(
            f"expected a path that begins with / or ~/, got {quoted_excerpt(path)}: relative to what?"
        )


_ON_COMMAND_LINE = re.compile(r"(?:~/)?[A-Za-z0-9_./+=:,@%-]+")
_LAST_EXIT_CODE = 255


def _check_cron(expression: str) -> None:
    try:
        is_ever_due = next_due(expression, "UTC", datetime(2000, 1, 1, tzinfo=UTC)) is not None
    except ValueError as error:
        message = (
            f"expected a cron expression such as '0 9 * * 1-5', got {quoted_excerpt(expression)}: {error}"
        )
        raise ValueError(message) from None
    if not is_ever_due:
        raise ValueError(f"{quoted_excerpt(expression)} is never due")


def _check_range(text: str) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        message = f"expected a version range such as '>=2.1,<3', got {quoted_excerpt(text)}"
        raise ValueError(message) from None


def _check_expression(text: str) -> None:
    from reconciler.specs.expressions import check_expression

    check_expression(text)


def _check_pattern(text: str) -> None:
    try:
        groups = re.compile(text).groups
    except (re.error, RecursionError, OverflowError) as error:
        message = f"not a regular expression: {error}"
        raise ValueError(message) from None
    if not groups:
        message = "needs a group (…) around the version"
        raise ValueError(message)


def _check_url(url: str) -> None:
    """Check that a URL is safe to fetch: no remote helpers, no options, no clear text protocol."""
    if url != url.strip() or not url.isprintable() or _OPTION.match(url):
        message = "unsafe address: it begins with '-', or has characters that none has"
        raise ValueError(message)
    if helper := _HELPER.match(url):
        message = f"git's remote helpers are not allowed ({helper[0]}…)"
        raise ValueError(message)
    if "://" in url:
        _check_remote(url)


_OPTION = re.compile(r"(?:[a-z]+://)?(?:[^@/]*@)?-")
"""An address, or a host in one, that a program could take for an option."""
_HELPER = re.compile(r"[\w+.-]+::")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def _check_remote(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        message = "not an address"
        raise ValueError(message) from None
    if parts.password is not None:
        message = (
            "contains a password, and files of a fleet are no place for one; use a credential helper or SSH"
        )
    elif parts.scheme == "http" and host not in _LOOPBACK:
        message = "plain http is allowed for this machine only; use https"
    elif parts.scheme not in _SCHEMES:
        message = f"scheme {quoted_excerpt(parts.scheme)} is not allowed; use https, ssh, file or a path"
    elif host is None and parts.scheme != "file":
        message = "names no host"
    else:
        return
    raise ValueError(message)


_SCHEMES = {"https", "ssh", "file", "http"}


def _check_api(url: str) -> None:
    """Check that a token may be sent to an API address: encrypted or local, and without credentials in it."""
    if url != url.strip() or not url.isprintable():
        message = "has characters that no address has"
        raise ValueError(message)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        message = "not an address"
        raise ValueError(message) from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        message = "holds more than an address; the token is found by `token`"
    elif not host or parts.scheme not in {"https", "http"}:
        message = f"expected an address such as 'https://code.example.org/api/v1', got {quoted_excerpt(url)}"
    elif parts.scheme == "http" and host not in _LOOPBACK:
        message = "plain http is allowed for this machine only; use https"
    else:
        return
    raise ValueError(message)
