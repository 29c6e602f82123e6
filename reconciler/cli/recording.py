"""
One recording, made: of the last run of a task, or of what a CLI printed by hand.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from ruamel.yaml import YAML

from reconciler.cli.context import Context
from reconciler.cli.session import open_fleet
from reconciler.core.adapter import Adapter, Secret
from reconciler.core.errors import NotFound, Unavailable, UsageError
from reconciler.core.masking import Mask
from reconciler.core.model.specs import Account
from reconciler.core.names import check_name
from reconciler.core.runs.recording import expectation
from reconciler.core.token_formats import hide_tokens
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.output import OutputRequest, RoundOutput, judge_output
from reconciler.dispatch.protocol import agent_id
from reconciler.dispatch.retrying import StepFailed
from reconciler.dispatch.secrets import find_secret
from reconciler.specs.recordings import recording_path
from reconciler.specs.yaml import MAX_BYTES


@dataclass(frozen=True, slots=True)
class Printed:
    """What a CLI printed, and how it exited."""

    stdout: bytes
    stderr: bytes
    exit_code: int
    session: str | None = None
    """Session that it went on with."""


async def printed_by(context: Context, task: str, number: int | None) -> Printed:
    """Return what the agent of a task printed in its last run. Raises NotFound."""
    logs = LogFolder(context.data_dir / "logs")
    async with open_fleet(context) as fleet:
        statuses, _ = await (await fleet.record()).load()
    status = statuses.get(task)
    if status is None or status.run is None:
        raise NotFound(f"{task} has not run yet")
    agent = agent_id(status.run.key, number or status.run.round)
    exit_code = logs.exit_code(agent)
    if exit_code is None:
        raise NotFound(f"no whole log of {agent} in {context.data_dir}: it is on the machine that ran it")
    return Printed(logs.read(agent, "out"), logs.read(agent, "err"), exit_code)


def write_recording(
    root: Path, adapter: Adapter, case: str, printed: Printed, *, mask: Mask, now: datetime
) -> list[Path]:
    """Write the files of a recording below a fleet's folder; return their paths. Raises UsageError."""
    paths = _paths(root, adapter.name, case)
    masked = _masked(printed, mask)
    if max(len(masked.stdout), len(masked.stderr)) > MAX_BYTES:
        raise UsageError(
            f"the output is too long to be kept beside an adapter: more than {MAX_BYTES // 1024} KiB"
        )
    shell_code = printed.exit_code if printed.exit_code >= 0 else 128 - printed.exit_code
    output = RoundOutput(masked.stdout, masked.stderr, shell_code)
    verdict = judge_output(adapter, output, OutputRequest((), printed.session), now)
    paths["yaml"].parent.mkdir(parents=True, exist_ok=True)
    paths["stdout"].write_bytes(masked.stdout)
    if masked.stderr:
        paths["stderr"].write_bytes(masked.stderr)
    with paths["yaml"].open("w", encoding="utf-8") as file:
        YAML().dump({"exit_code": printed.exit_code, "expect": expectation(verdict)}, file)
    return [path for path in paths.values() if path.exists()]


def _paths(root: Path, adapter: str, case: str) -> Mapping[str, Path]:
    """Return the paths of a new recording by their endings. Raises UsageError for one that is there."""
    try:
        check_name(case)
    except ValueError as error:
        raise UsageError(str(error)) from error
    paths = {ending: root / recording_path(adapter, case, ending) for ending in ("yaml", "stdout", "stderr")}
    if there := next((path for path in paths.values() if path.exists()), None):
        raise UsageError(f"{there} is there already; remove it, or give the new recording another name")
    return paths


def _masked(printed: Printed, mask: Mask) -> Printed:
    """Return what was printed without secrets, and without tokens of well-known formats."""

    def hide(data: bytes) -> bytes:
        return hide_tokens(mask.hide(data.decode("utf-8", "replace"))).encode()

    return replace(printed, stdout=hide(printed.stdout), stderr=hide(printed.stderr))


async def mask_of(adapter: Adapter, accounts: Iterable[Account], *, is_whole: bool) -> Mask:
    """
    Return the mask of the secrets that a run of an adapter is given, with any of the accounts.

    Raises UsageError for one of the adapter's that cannot be looked up on this
    machine, if the mask has to be whole.
    """
    values = set[str]()
    for name, secret in adapter.secrets.items():
        try:
            values.add(await _secret(name, secret))
        except (StepFailed, Unavailable) as error:
            if is_whole:
                raise UsageError(f"what it printed cannot be masked here: {error}") from error
    for account in accounts:
        for name, secret in account.secrets.items():
            with suppress(StepFailed, Unavailable):
                values.add(await _secret(name, secret))
    return Mask(frozenset(values))


async def _secret(name: str, secret: Secret) -> str:
    if secret.on == "host":
        raise Unavailable(f"secret {name} is on the host")
    return await find_secret(f"secret {name}", secret)
