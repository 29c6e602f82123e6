"""
Secrets of an adapter, found as late as can be: when its agent is started.

Values go over stdin into the environment of the agent and nowhere else: no
error and no command line has them. What the agent itself prints of them stands
in its log, which stays on the machines it was on, but not in the record.
"""

import asyncio
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from reconciler.core.adapter import Adapter, Secret
from reconciler.core.model import Desired, FailureClass
from reconciler.dispatch import environ
from reconciler.dispatch.steps import StepFailed

_COMMAND_TIMEOUT = 30.0
_SHORTEST = 6
"""Shorter values stand everywhere by chance; to hide them would tear words and ids apart."""


async def find_secrets(adapter: Adapter) -> dict[str, str]:
    """
    Return the values of the secrets that are looked up on this machine.

    Raises StepFailed, of class `auth`, for one that cannot be had.
    """
    return {name: await find_secret(what, secret) for name, what, secret in _here(adapter)}


async def spellings(adapter: Adapter) -> tuple[bytes, ...]:
    """
    Return what `hide` takes for the secrets of an adapter: each as it is, and as JSON spells it.

    Those are not among them that only the host knows, and those that cannot be
    had any more.
    """
    found = set[str]()
    for _, what, secret in _here(adapter):
        with suppress(StepFailed):
            value = await find_secret(what, secret)
            found |= {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    known = [word.encode(errors="surrogateescape") for word in found if len(word) >= _SHORTEST]
    return tuple(sorted(known, key=len, reverse=True))


def hide(text: bytes, words: tuple[bytes, ...]) -> bytes:
    """Return the text with asterisks for these words; what stands where stays as it is."""
    for word in words:
        text = text.replace(word, b"*" * len(word))
    return text


def host_secrets(secrets: Mapping[str, Secret]) -> Iterator[str]:
    """Yield the lines of a job that look up the others, on the host."""
    for name, secret in secrets.items():
        if secret.on == "host":
            yield f"{name}={_shell_value(secret)} && export {name} || give_up secret"


def _here(adapter: Adapter) -> Iterator[tuple[str, str, Secret]]:
    """Yield name, description and source of the secrets that are looked up on this machine."""
    for name, secret in adapter.secrets.items():
        if secret.on == "reconciler":
            yield name, f"adapter {adapter.name}: secret {name}", secret


async def find_secret(what: str, secret: Secret) -> str:
    """Return a secret that is looked up on this machine. Raises StepFailed, with what is missing."""
    try:
        if secret.env:
            return _from_environment(secret.env)
        if secret.command:
            return _without_line_end(await _output(secret.command))
        return _without_line_end(await asyncio.to_thread(_file(secret).read_text))
    except KeyError as error:
        raise _missing(what, f"the environment of the reconciler has no {error.args[0]}") from None
    except OSError as error:
        raise _missing(what, f"{error.filename}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _missing(what, "it is not text in UTF-8") from None


def _from_environment(name: str) -> str:
    found = environ.value(name)
    if found is None:
        raise KeyError(name)
    return found


def secret_variables(desired: Desired) -> frozenset[str]:
    """Return the variables of our environment that the specs call secrets."""
    of_adapters = [each for adapter in desired.adapters.values() for each in adapter.secrets.values()]
    forges = [desired.fleet.forge, *(repo.forge for repo in desired.repos.values())]
    of_forges = [each for forge in forges if forge for each in (forge.token, forge.webhook_secret) if each]
    wanted = (secret.env for secret in (*of_adapters, *of_forges) if secret.on == "reconciler")
    return frozenset(name for name in wanted if name)


def _file(secret: Secret) -> Path:
    if secret.credential:
        return Path(os.environ["CREDENTIALS_DIRECTORY"]) / secret.credential
    return Path(secret.file or "").expanduser()


async def _output(command: tuple[str, ...]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_COMMAND_TIMEOUT):
            stdout, _ = await process.communicate()
    except TimeoutError:
        raise OSError(0, f"did not answer within {_COMMAND_TIMEOUT:g} s", command[0]) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
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
    return StepFailed(FailureClass.AUTH, f"{what} cannot be had: {why}; mend it, then retry the task")
