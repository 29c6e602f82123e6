"""
Secrets of an adapter, looked up when its agent is started.

Values go over stdin into the environment of the agent and nowhere else: no
error and no command line has them. They stay in memory until the task is over,
so that what the agent prints of them can be masked; what it prints stands
unmasked in its log alone, which stays on the machines it was on.
"""

import asyncio
import hashlib
import json
import logging
import os
import secrets as random
import shlex
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.core.adapter import Secret
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.masking import Mask
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Desired, Host
from reconciler.dispatch import environ
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.retrying import StepFailed
from reconciler.dispatch.transport import Transport
from reconciler.files import parse_json, read_in_time
from reconciler.subprocesses import end, start

log = logging.getLogger(__name__)

_COMMAND_TIMEOUT = 30.0
_CALL_TIMEOUT = 15.0
"""Seconds for the way to a host and back."""
_ROUNDS_OF_HASH = 100_000
_BEGIN, _END = "--- the secret begins ---", "--- the secret ends ---"

WITHHELD = (
    "[withheld: the reconciler was started anew while this ran, and the secrets it was given cannot be "
    "looked up any more; its log has all of it]"
)


@dataclass
class InjectedSecrets:
    """The values that this process gave to the rounds of one task."""

    values: set[str] = field(default_factory=set)
    rounds: set[str] = field(default_factory=set)
    """Ids of the agents that this process gave secrets to."""
    _proofs: set[str] = field(default_factory=set, init=False)
    """Those that this process wrote: it knows the values."""
    _mask: Mask = field(default_factory=Mask, init=False)

    @property
    def mask(self) -> Mask:
        """The mask of the known values."""
        if self.values != self._mask.values:
            self._mask = Mask(frozenset(self.values))
        return self._mask

    def keep(self, agent: str, values: Iterable[str], logs: LogFolder) -> None:
        """
        Remember the values that an agent is about to be given.

        A proof that a value was given, which does not reveal it, is written to disk.
        """
        given = set(values)
        self.values |= given
        self.rounds.add(agent)
        if given:
            try:
                proof = _prove(given)
                self._proofs.add(proof)
                logs.append_proof(agent, proof)
            except OSError as error:  # after a restart its texts are withheld then
                log.warning("%s: what proves its secrets cannot be written: %s", agent, error.strerror)

    def unproven(self, agents: Iterable[str], logs: LogFolder, *, must: str) -> bool:
        """
        Tell whether agents were given secrets that are not among the values.

        `must` is the one that was given some, whether that can be proved or not.
        """
        for agent in agents:
            proofs = logs.proofs(agent)
            if not proofs and agent == must and agent not in self.rounds:
                return True
            if not all(proof in self._proofs or _is_proved(proof, self.values) for proof in proofs):
                return True
        return False


def _prove(values: Iterable[str]) -> str:
    salt = random.token_hex(16)
    return json.dumps({"salt": salt, "digests": [_digest(salt, value) for value in sorted(values)]})


def _is_proved(proof: str, values: Iterable[str]) -> bool:
    try:
        document = parse_json(proof)
        return set(document["digests"]) <= {_digest(document["salt"], value) for value in values}
    except (ValueError, KeyError, TypeError):
        return False


def _digest(salt: str, value: str) -> str:
    data = value.encode("utf-8", "surrogateescape")
    return hashlib.pbkdf2_hmac("sha256", data, salt.encode(), _ROUNDS_OF_HASH).hex()


# --- Looking them up -------------------------------------------------------


async def find_secrets(
    what: str, references: Mapping[str, Secret], host: Host, transport: Transport, env: Mapping[str, str]
) -> dict[str, str]:
    """
    Return the values of all secrets of something, such as `adapter codex`, looked up here or on the host.

    `env` is what commands on the host find in their environment besides its
    own. Raises StepFailed, of class `auth`, for one that cannot be had, and
    Unavailable and Refused of the host.
    """
    secrets = {}
    for name, secret in references.items():
        if secret.on == "host":
            there = f"host {host.name}: secret {name} of {what}"
            secrets[name] = await _find_there(there, secret, host, transport, env)
        else:
            secrets[name] = await find_secret(f"{what}: secret {name}", secret)
    return secrets


async def find_known(
    references: Iterable[Secret], host: Host, transport: Transport, env: Mapping[str, str]
) -> set[str]:
    """Return the values that can be looked up now, for a mask; failures are ignored."""
    values = set[str]()
    for secret in references:
        with suppress(StepFailed, Unavailable, Refused):
            values.update((await find_secrets("a run", {"": secret}, host, transport, env)).values())
    return values


async def forge_secret(secret: Secret) -> str:
    """Return a token or the secret of a webhook. Raises Unavailable, with what is missing."""
    try:
        return await find_secret("a secret of a forge", secret)
    except StepFailed as error:
        raise Unavailable(str(error)) from error


async def target_secret(secret: Secret) -> str:
    """Return the URL of a target of notifications. Raises Unavailable, with what is missing."""
    try:
        return await find_secret("its URL", secret)
    except StepFailed as error:
        raise Unavailable(str(error).removesuffix(_RETRY)) from error


async def find_secret(what: str, secret: Secret) -> str:
    """Return a secret that is looked up on this machine. Raises StepFailed, with what is missing."""
    try:
        if secret.env:
            return _from_environment(secret.env)
        if secret.command:
            return _without_line_end(await _output(secret.command))
        file = _file(secret)
        content = await read_in_time(file.read_bytes, str(file), _COMMAND_TIMEOUT)
        return _without_line_end(content.decode())
    except KeyError as error:
        raise _missing(what, f"the environment of the reconciler has no {error.args[0]}") from None
    except OSError as error:
        raise _missing(what, f"{error.filename}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _missing(what, "it is not text in UTF-8") from None


def _from_environment(name: str) -> str:
    value = environ.value(name)
    if value is None:
        raise KeyError(name)
    return value


def secret_variables(desired: Desired) -> frozenset[str]:
    """Return the variables of our environment that the specs use as secrets."""
    of_runs = [adapter.secrets for adapter in desired.adapters.values()]
    of_runs += [account.secrets for account in desired.accounts.values()]
    files = [adapter.files for adapter in desired.adapters.values()]
    files += [task.files for task in desired.tasks.values() if task.files]
    of_runs += [file.secrets for some in files for file in some.values()]
    named = [each for some in of_runs for each in some.values()]
    forges = [desired.fleet.forge, *(repo.forge for repo in desired.repos.values())]
    of_forges = [each for forge in forges if forge for each in forge.secrets.values()]
    of_targets = desired.fleet.notify.targets.values() if desired.fleet.notify else ()
    wanted = (secret.env for secret in (*named, *of_forges, *of_targets) if secret.on == "reconciler")
    return frozenset(name for name in wanted if name)


async def _find_there(
    what: str, secret: Secret, host: Host, transport: Transport, env: Mapping[str, str]
) -> str:
    """Look up a secret on a host. The output of a failed command is not repeated in the error."""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
    script = (
        f"{exports}(trap 'kill $at; exit' TERM; sleep {_COMMAND_TIMEOUT:g} & at=$!; wait $at; kill -KILL 0)"
        " >/dev/null 2>&1 </dev/null &\n"
        f"value={_shell_value(secret)}; code=$?; kill $! 2>/dev/null\n"
        f"[ $code = 0 ] || exit $code\n"
        f"printf '%s\\n%s\\n%s\\n' '{_BEGIN}' \"$value\" '{_END}'\n"
    )
    answer = await transport.call(
        (host.shell, "-s"), script.encode(), timeout=_COMMAND_TIMEOUT + _CALL_TIMEOUT
    )
    value, end, _ = answer.stdout.partition(f"{_BEGIN}\n".encode())[2].rpartition(f"\n{_END}".encode())
    if not end:
        raise _missing(what, _why_not(secret, answer.exit_code))
    try:
        return _without_line_end(value.decode())
    except UnicodeDecodeError:
        raise _missing(what, "it is not text in UTF-8") from None


def _why_not(secret: Secret, code: int) -> str:
    if code == 128 + signal.SIGKILL:
        return f"there was no answer within {_COMMAND_TIMEOUT:g} s"
    if secret.env:
        return f"the environment there has no {secret.env}"
    if secret.command:
        return f"{secret.command[0]} there ended with exit code {code}"
    return f"{secret.file or secret.credential} there cannot be read"


def _file(secret: Secret) -> Path:
    if secret.credential:
        return Path(os.environ["CREDENTIALS_DIRECTORY"]) / secret.credential
    return Path(secret.file or "").expanduser()


async def _output(command: tuple[str, ...]) -> str:
    process = await start(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_COMMAND_TIMEOUT):
            stdout, _ = await process.communicate()
    except TimeoutError:
        await end(process)
        raise OSError(0, f"did not answer within {_COMMAND_TIMEOUT:g} s", command[0]) from None
    except asyncio.CancelledError:
        await end(process)
        raise
    if process.returncode:
        raise OSError(0, f"ended with exit code {process.returncode}", command[0])
    return stdout.decode()


def _shell_value(secret: Secret) -> str:
    if secret.env:
        return f'"$(printenv {secret.env})"'
    if secret.command:
        return f'"$({shlex.join(secret.command)})"'
    if secret.credential:
        return f'"$(cat -- "$CREDENTIALS_DIRECTORY"/{shlex.quote(secret.credential)})"'
    path = secret.file or ""
    home, rest = ('"$HOME"/', path[2:]) if path.startswith("~/") else ("", path)
    return f'"$(cat -- {home}{shlex.quote(rest)})"'


def _without_line_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _missing(what: str, why: str) -> StepFailed:
    return StepFailed(FailureClass.AUTH, f"{what} cannot be had: {why}{_RETRY}")


_RETRY = "; fix it, then retry the task"
