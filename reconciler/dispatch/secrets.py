"""
Secrets of an adapter, found as late as can be: when its agent is started.

Values go over stdin into the environment of the agent and nowhere else: no
log, no error and no command line has them.
"""

import asyncio
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from reconciler.core.adapter import Adapter, Secret
from reconciler.core.model import FailureClass
from reconciler.dispatch.steps import StepFailed

_COMMAND_TIMEOUT = 30.0


async def find_secrets(adapter: Adapter) -> dict[str, str]:
    """
    Return the values of the secrets that are looked up on this machine.

    Raises StepFailed, of class `auth`, for one that cannot be had.
    """
    here = {name: secret for name, secret in adapter.secrets.items() if secret.on == "reconciler"}
    return {
        name: await _find(f"adapter {adapter.name}: secret {name}", secret) for name, secret in here.items()
    }


def host_secrets(secrets: Mapping[str, Secret]) -> Iterator[str]:
    """Yield the lines of a job that look up the others, on the host."""
    for name, secret in secrets.items():
        if secret.on == "host":
            yield f"{name}={_shell_value(secret)} && export {name} || give_up secret"


async def _find(what: str, secret: Secret) -> str:
    try:
        if secret.env:
            return os.environ[secret.env]
        if secret.command:
            return _without_line_end(await _output(secret.command))
        return _without_line_end(await asyncio.to_thread(_file(secret).read_text))
    except KeyError as error:
        raise _missing(what, f"the environment of the reconciler has no {error.args[0]}") from None
    except OSError as error:
        raise _missing(what, f"{error.filename}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _missing(what, "it is not text in UTF-8") from None


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
