"""
Rules within one file that a field's type cannot express.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import singledispatch
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from reconciler.core.adapter import AdapterSpec, FileTemplate, Secret
from reconciler.core.fields import Frozen
from reconciler.core.model.specs import (
    NESTED,
    AccountSpec,
    AgentSpec,
    CampaignSpec,
    FleetSpec,
    Forge,
    HostSpec,
    RepoSpec,
    RunHooks,
    TaskDefaults,
    TaskSpec,
)
from reconciler.core.patterns import constant_of
from reconciler.core.planning.schedule import next_due, read_window, zone
from reconciler.core.prices import PricesSpec
from reconciler.core.runs.recording import Recording
from reconciler.specs.sshkeys import check_host_key
from reconciler.specs.yaml import Path, quoted_excerpt

if TYPE_CHECKING:
    from reconciler.core.runs.prompt import TemplateMistake


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake at a path within a spec; its position in the file is found later."""

    path: Path
    message: str
    hint: str = ""
    at_key: bool = False
    is_doubt: bool = False
    """Whether it is only a warning."""
    within: tuple[int, int] | None = None
    """Line and column in the text at the path, both from 1; None for all of it."""


def broken_rules(spec: Frozen) -> list[Mistake]:
    """Return every rule that a spec breaks by itself, whatever the other files say."""
    mistakes = list(_mistakes(spec))
    taken = {mistake.path for mistake in mistakes}
    return [*mistakes, *(each for each in _blanks(spec) if each.path not in taken)]


def _blanks(spec: Frozen, path: Path = ()) -> Iterator[Mistake]:
    """Yield the texts that a file sets and that hold nothing but blanks."""
    values = vars(spec)
    for field in sorted(spec.model_fields_set - _MAY_BE_BLANK):
        if not _is_filled(values[field]):  # the common case; a generator for each takes far longer
            yield from _blank((*path, field), values[field])


def _is_filled(value: object) -> bool:
    """Tell whether a value is certainly no blank text, and holds none."""
    if type(value) is tuple:
        return all(type(each) is str and each and not each.isspace() for each in value)
    return type(value) in _NO_TEXT or (type(value) is str and value != "" and not value.isspace())


_NO_TEXT = frozenset({int, float, bool, timedelta, type(None)})


def _blank(path: Path, value: object) -> Iterator[Mistake]:
    if isinstance(value, Frozen):
        yield from _blanks(value, path)
    elif isinstance(value, str) and not value.strip():
        yield Mistake(path, "must not be empty")
    elif isinstance(value, tuple):
        for at, each in enumerate(value):
            yield from _blank((*path, at), each)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _blank((*path, key), each if isinstance(each, Frozen) else None)


_MAY_BE_BLANK = frozenset({"command", "model", "turns", "fresh", "resume"})
"""Arguments of programs; a task's `model` stands in one."""


@singledispatch
def _mistakes(spec: Frozen) -> Iterator[Mistake]:
    raise NotImplementedError(spec)


@_mistakes.register
def _campaign_mistakes(_: CampaignSpec) -> Iterator[Mistake]:
    """Yield none: its tasks are looked at one by one."""
    yield from ()


@_mistakes.register
def _task(spec: TaskSpec) -> Iterator[Mistake]:
    if not spec.goal.strip():
        yield Mistake(("goal",), "must not be empty")
    if spec.model is not None and not spec.model.strip():
        yield Mistake(("model",), "must not be empty")
    yield from _outputs(spec)
    if spec.judge is not None and not spec.variants:
        yield Mistake(("judge",), "chooses among `variants`, and there are none", at_key=True)
    if spec.validate_on is not None and spec.repo is None:
        yield Mistake(("validate_on",), "needs a `repo`: there is nothing to validate without one")
    if spec.schedule is not None:
        yield from tried(("schedule",), _check_cron, spec.schedule)
    if spec.review == "merge" and spec.repo is None:
        yield Mistake(("review",), "merge needs a `repo`: there is nothing to merge without one")
    yield from _defaults(spec, has_repo=spec.repo is not None)


@_mistakes.register
def _recording(spec: Recording) -> Iterator[Mistake]:
    if spec.expect.outcome == "failed" and spec.expect.kind is None:
        yield Mistake(("expect",), "has no `class`: a failure has one")
    if spec.expect.outcome == "success" and spec.expect.kind is not None:
        yield Mistake(("expect", "class"), "a success has none")


def _defaults(spec: TaskDefaults, *, has_repo: bool = True) -> Iterator[Mistake]:
    """Yield mistakes in fields that a task, its repo or the fleet may set."""
    yield from tried(("timezone",), zone, spec.timezone)
    if spec.fallback is not None and not spec.fallback.model_fields_set:
        yield Mistake(("fallback",), "names neither an `adapter` nor a `model` nor `accounts`")
    for index, window in enumerate(spec.window):
        yield from tried(("window", index), read_window, window)
    for index, command in enumerate(spec.validation):
        if not command.strip():  # the shell would let it pass
            yield Mistake(("validation", index), "must not be empty")
    if spec.template is not None:
        from reconciler.core.runs.prompt import try_template

        wrong = try_template(spec.template, has_repo=has_repo)
        yield from (template_mistake(("template",), each) for each in wrong)
    yield from _files(spec.files)


def template_mistake(path: Path, mistake: "TemplateMistake", whose: str = "") -> Mistake:
    """Return what is wrong with a template as a mistake at its place in it."""
    return Mistake(path, f"{whose}{mistake.message}", within=(mistake.line, mistake.column))


def _files(files: Mapping[str, FileTemplate]) -> Iterator[Mistake]:
    """Yield what is wrong with files that are written before a run."""
    if not files:
        return
    from reconciler.core.runs.files import try_file

    for path, file in files.items():
        for name, secret in file.secrets.items():
            yield from secret_mistakes(("files", path, "secrets", name), secret)
        wrong = try_file(path, file)
        yield from (template_mistake(("files", path, "template"), each) for each in wrong)
        if other := next((each for each in files if each.startswith(f"{path}/")), None):
            yield Mistake(("files", path), f"is a file, and a folder in {other!r}", at_key=True)


def _hooks(hooks: RunHooks) -> Iterator[Mistake]:
    for place, command in hooks.commands():
        if not command.strip():
            yield Mistake(("hooks", *place), "must not be empty")


@_mistakes.register
def _host(spec: HostSpec) -> Iterator[Mistake]:
    yield from _hooks(spec.hooks)
    if spec.address is not None:
        yield from _address(spec.address)
    if spec.user is not None and not _USER.fullmatch(spec.user):
        yield Mistake(("user",), f"expected the name of a user, got {quoted_excerpt(spec.user)}")
    if spec.jump is not None:
        yield from _jump(spec.jump)
    for index, key in enumerate(spec.host_key):
        yield from tried(("host_key", index), check_host_key, key)
    yield from _host_places(spec)
    for name, adapter in (spec.adapters or {}).items():
        if adapter.version is not None:
            yield from tried(("adapters", name, "version"), _check_range, adapter.version)
        if adapter.path is not None:
            yield from tried(("adapters", name, "path"), _check_place, adapter.path)


def _address(address: str) -> Iterator[Mistake]:
    if not _ADDRESS.fullmatch(address) or not _is_ip_if_numbers(address):
        message = f"expected the name or the IP address of a host, got {quoted_excerpt(address)}"
        yield Mistake(("address",), message)
    elif address.count(":") == 1:
        name, _, port = address.partition(":")
        yield Mistake(("address",), f"a port has a field of its own: `address: {name}` and `port: {port}`")


def _is_ip_if_numbers(address: str) -> bool:
    """Return whether an address of numbers alone, which no name is, is one of IP."""
    if not _NUMBERS.fullmatch(address):
        return True
    try:
        return bool(ip_address(address))
    except ValueError:
        return False


def _host_places(spec: HostSpec) -> Iterator[Mistake]:
    for field in ("workdir", "identity"):
        if (place := getattr(spec, field)) is not None:
            yield from tried((field,), _check_place, place)
    if spec.identity is not None and spec.identity.endswith("/"):
        yield Mistake(("identity",), "names a folder; expected the file of a private key")
    if spec.workdir is not None and spec.address is not None and not _ON_COMMAND_LINE.fullmatch(spec.workdir):
        yield Mistake(("workdir",), "may have letters, digits and any of _ . / + = : , @ % - only")
    if "/" in spec.shell and not spec.shell.startswith("/"):
        yield Mistake(("shell",), "expected a name, such as `bash`, or a path that begins with /")


def _jump(jump: str) -> Iterator[Mistake]:
    """Yield why nothing can be gone through: names are looked for among the other files."""
    port = _JUMP.fullmatch(jump)
    if port is None:
        yield Mistake(("jump",), f"expected a host's name or `user@address:port`, got {quoted_excerpt(jump)}")
    elif port[1] and not 1 <= int(port[1]) <= _LAST_PORT:
        yield Mistake(("jump",), f"no port is {port[1]}: from 1 to {_LAST_PORT}")


_NUMBERS = re.compile(r"[0-9.]+")
_USER = re.compile(r"[^\s\x00-\x1f:/-][^\s\x00-\x1f:/]*")
_JUMP = re.compile(r"(?:[^@\s-][^@\s]*@)?(?:\[[0-9A-Fa-f:.]+\]|[^@:\s-][^@:\s]*)(?::(\d{1,9}))?")
_LAST_PORT = 65535


@_mistakes.register
def _adapter(spec: AdapterSpec) -> Iterator[Mistake]:
    if spec.version is not None:
        yield from tried(("version", "pattern"), _check_pattern, spec.version.pattern)
        if spec.version.range is not None:
            yield from tried(("version", "range"), _check_range, spec.version.range)
    for name, secret in spec.secrets.items():
        yield from secret_mistakes(("secrets", name), secret)
    yield from _files(spec.files)
    for field, probe in (("version", spec.version), ("health", spec.health)):
        if probe is not None:
            yield from _program((field, "command"), probe.command)
    if spec.command:
        yield from _program(("command",), spec.command)
    yield from _places_and_codes(spec)


def _program(path: Path, argv: Sequence[str]) -> Iterator[Mistake]:
    """Yield why nothing can be started by these arguments."""
    program = argv[0] if argv else ""
    if not program.strip():
        yield Mistake((*path, 0) if argv else path, "must name a program")
    elif program.startswith(("~", "$")):
        yield Mistake(
            (*path, 0),
            "is taken as it stands, no shell reads it; name a program on the PATH, or a whole path",
        )
    elif program != program.strip() or (" " in program and "/" not in program):
        yield Mistake(
            (*path, 0), "names a program with a blank in it; each argument is an element of its own"
        )


def _places_and_codes(spec: AdapterSpec) -> Iterator[Mistake]:
    for code in spec.output.exit_codes:
        if int(code) > _LAST_EXIT_CODE:
            yield Mistake(("output", "exit_codes", code), "no process ends with it: at most 255", at_key=True)
    for index, path in enumerate(spec.cleanup):
        if path.startswith(("/", "~")) or ".." in path.split("/") or not path.strip():
            yield Mistake(("cleanup", index), "expected a path inside the workspace")


def secret_mistakes(path: Path, secret: Secret) -> Iterator[Mistake]:
    """Yield why a secret cannot be found by what stands at a path."""
    sources = [source for source in _SOURCES if getattr(secret, source)]
    if len(sources) != 1:
        named = " and ".join(sources) or "none"
        yield Mistake(path, f"needs exactly one of {', '.join(_SOURCES)}; found {named}")
    elif secret.file is not None:
        yield from tried((*path, "file"), _check_place, secret.file)
    elif secret.command:
        yield from _program((*path, "command"), secret.command)
    elif secret.credential is not None and ("/" in secret.credential or not secret.credential.strip(". ")):
        yield Mistake((*path, "credential"), "expected the name of a credential, not a path")


@_mistakes.register
def _account(spec: AccountSpec) -> Iterator[Mistake]:
    if not spec.adapters:
        yield Mistake(("adapters",), "names none; an account serves at least one, such as claude-code")
    for name, secret in spec.secrets.items():
        yield from secret_mistakes(("secrets", name), secret)
    if spec.pace == "even" and spec.weekly_budget is None:
        yield Mistake(("pace",), "needs a `weekly_budget`: that is what is spent evenly")


_OUTPUT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MOST_OUTPUTS = 5
_DECLARATIONS = frozenset({"question", "blocked", "released"})
"""Files of the same folder by which an agent declares something."""


def _outputs(spec: TaskSpec) -> Iterator[Mistake]:
    for at, name in enumerate(spec.outputs):
        if _OUTPUT.fullmatch(name) is None or name in _DECLARATIONS:
            yield Mistake(("outputs", at), f"{name!r} is no name for a file, such as `api.json`")
    if len(spec.outputs) > _MOST_OUTPUTS:
        yield Mistake(("outputs",), f"has {len(spec.outputs)} names, and there may be {_MOST_OUTPUTS}")


@_mistakes.register
def _prices(spec: PricesSpec) -> Iterator[Mistake]:
    if spec.date is not None:
        try:
            date.fromisoformat(spec.date)
        except ValueError:
            yield Mistake(("date",), f'expected a day such as "2026-11-01", not {spec.date}')
    for model, price in spec.models.items():
        if price.cached_input is not None and price.cached_input > price.input:
            yield Mistake(
                ("models", model, "cached_input"), f"is more than `input`, {price.input:g}: are they swapped?"
            )


@_mistakes.register
def _agent(spec: AgentSpec) -> Iterator[Mistake]:
    for index, digest in enumerate(spec.token_hash):
        if not _SHA256.fullmatch(digest):
            yield Mistake(("token_hash", index), "expected a SHA-256 in hex: 64 digits, lower case")


@_mistakes.register
def _repo(spec: RepoSpec) -> Iterator[Mistake]:
    yield from tried(("url",), _check_url, spec.url)
    yield from _hooks(spec.hooks)
    yield from _forge(spec.forge)
    yield from _paths(spec.paths)
    if spec.merge == "queue":
        yield from _queue(spec)
    yield from _defaults(spec)


def _queue(spec: RepoSpec) -> Iterator[Mistake]:
    """Yield what keeps a merge queue from landing what it validated."""
    if not spec.validation:
        yield Mistake(("merge",), "queue needs a `validation` in this file: nothing lands before that passes")
    if spec.merge_style != "merge":
        yield Mistake(("merge_style",), "must be `merge` with `merge: queue`: it lands what was validated")
    if spec.push != "reconciler":
        yield Mistake(("push",), "must be `reconciler` with `merge: queue`, which pushes to the base branch")


def _paths(patterns: Sequence[str]) -> Iterator[Mistake]:
    """Yield the patterns that fit no file; all of them may leave none that could be touched."""
    for at, pattern in enumerate(patterns):
        if pattern.startswith("#"):
            yield Mistake(("paths", at), r"is a comment, and fits no file; a name begins with \#")
        elif pattern.strip() and not pattern.strip("!/ "):
            yield Mistake(("paths", at), "fits no file; `*` fits all of them")
        elif {".", ".."} & {*pattern.lstrip("!").split("/")}:
            yield Mistake(("paths", at), "fits no file: a path in git has no `.` or `..`")
    if patterns and all(pattern.startswith("!") for pattern in patterns):
        yield Mistake(("paths",), "only takes files away, so that none may be touched; begin with `*`")


@_mistakes.register
def _fleet(spec: FleetSpec) -> Iterator[Mistake]:
    yield from _forge(spec.forge)
    if spec.notify is not None:
        from reconciler.specs.notifications import notify_mistakes

        yield from notify_mistakes(spec.notify)
    if spec.shards:
        from reconciler.specs.shards import shards_mistakes

        yield from shards_mistakes(spec)
    yield from _defaults(spec)


def _forge(forge: Forge | None) -> Iterator[Mistake]:
    if forge is None:
        return
    yield from tried(("forge", "api"), _check_api, forge.api)
    parts = forge.repo.split("/")
    if not all(part.strip(".") for part in parts) or (len(parts) > 2 and forge.kind not in NESTED):  # noqa: PLR2004 - owner and name
        yield Mistake(
            ("forge", "repo"), "expected owner and name of a repository, such as `tools/calculator`"
        )
    if forge.ca is not None:
        yield from tried(("forge", "ca"), _check_place, forge.ca)
    if (forge.token is None) == (forge.app is None):
        yield Mistake(
            ("forge", *(("app",) if forge.app else ())), "expected exactly one of `token` and `app`"
        )
    if forge.app and forge.kind != "github":
        yield Mistake(("forge", "app"), "only GitHub has Apps; set `kind: github`, or give a `token`")
    for path, secret in forge.secrets.items():
        yield from secret_mistakes(("forge", *path), secret)
        if secret.on != "reconciler":
            yield Mistake(("forge", *path, "on"), "only the reconciler speaks to forges; leave `on` out")


_ADDRESS = re.compile(r"[A-Za-z0-9:_][A-Za-z0-9._:%-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SOURCES = ("env", "file", "command", "credential")


def tried(path: Path, check: Callable[[str], object], text: str) -> Iterator[Mistake]:
    """Yield what a check that raises ValueError has against a text."""
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
        versions = SpecifierSet(text)
    except InvalidSpecifier:
        message = f"expected a version range such as '>=2.1,<3', got {quoted_excerpt(text)}"
        raise ValueError(message) from None
    if not text.strip():
        raise ValueError("must not be empty")
    if versions.is_unsatisfiable():
        raise ValueError(f"no version is in {quoted_excerpt(text)}")


def _check_pattern(text: str) -> None:
    try:
        groups = re.compile(text).groups
    except (re.error, RecursionError, OverflowError) as error:
        message = f"not a regular expression: {error}"
        raise ValueError(message) from None
    if not groups:
        message = "needs a group (…) around the version"
        raise ValueError(message)
    if constant_of(text) is not None:
        raise ValueError(f"finds {constant_of(text)!r}, whatever the version is")


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
    elif url.startswith("~"):
        raise ValueError("a path begins with / or is relative to the fleet's repository; git knows no ~")
    elif (scp := _SCP.fullmatch(url)) and not scp[1].strip("/"):
        raise ValueError(_NO_PATH)


def is_path(url: str) -> bool:
    """Tell whether the address of a repository is a path on the machine of the reconciler."""
    return "://" not in url and _SCP.fullmatch(url) is None


_OPTION = re.compile(r"(?:[a-z]+://)?(?:[^@/]*@)?-")
"""An address, or a host in one, that a program could take for an option."""
_SCP = re.compile(r"(?:[^/:\[]*\[[^]/]*\]|[^/:\[]+):(.*)")
_NO_PATH = "names a machine and no repository there; expected such as 'https://example.org/team/shop.git'"
_HELPER = re.compile(r"[\w+.-]+::")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def _check_remote(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
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
    elif port == 0:
        message = f"no port is 0: from 1 to {_LAST_PORT}"
    elif parts.scheme == "file" and parts.netloc not in {"", "localhost"}:
        message = f"names the machine {quoted_excerpt(parts.netloc)}, and a file is on this one: file:///…"
    elif not parts.path.strip("/"):
        message = _NO_PATH
    elif parts.fragment:
        message = "an address of git has no `#`"
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
