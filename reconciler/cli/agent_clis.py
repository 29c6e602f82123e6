"""
Agent CLIs on this machine, and the choice among them for a new fleet.
"""

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import NotFound, Refused, Unavailable
from reconciler.core.model.specs import LOCAL, Host
from reconciler.core.model.status import HostCli
from reconciler.core.references import no_such
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.probe import probe
from reconciler.specs.build import build

ORDER = ("claude-code", "codex", "gemini", "opencode", "qwen")
"""Order of preference; others follow by name."""
SCRIPT_ADAPTER = "script"
PLACE = "# adapter: claude-code\n"
"""The line of a new fleet.yaml that is replaced by the chosen adapter."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The choice of an adapter for a new fleet."""

    adapter: str | None
    message: str
    """For people: what was found, or what to install."""

    def written(self, text: str) -> str:
        """Return the content of a file of a new fleet, with the adapter in fleet.yaml."""
        return text.replace(PLACE, f"adapter: {self.adapter}\n") if self.adapter else text


def choose(wanted: str | None) -> Choice:
    """Return the adapter of a new fleet: the requested one, else one that is installed. Raises NotFound."""
    adapters = {name: adapter for name, adapter in build({}).adapters.items() if name != SCRIPT_ADAPTER}
    if wanted == SCRIPT_ADAPTER:
        return Choice(SCRIPT_ADAPTER, "Tasks run their own `script:` unless they name an `adapter`.")
    if wanted is not None and wanted not in adapters:
        raise NotFound(no_such("adapter", wanted, [*adapters, SCRIPT_ADAPTER]))
    installed = asyncio.run(_look())
    usable = [name for name in _ordered(installed) if installed[name].ok]
    if chosen := wanted or next(iter(usable), None):
        return Choice(chosen, _choice_note(chosen, installed, usable))
    programs = ", ".join(adapters[name].command[0] for name in _ordered(adapters))
    bad = "".join(f" {name}: {cli.message}." for name, cli in installed.items() if cli.path)
    return Choice(
        None,
        f"No agent CLI was found on the PATH ({programs}).{bad} Install one and write its adapter into "
        "specs/fleet.yaml, such as `adapter: claude-code`; until then a task needs a `script:`.",
    )


def _ordered(names: Mapping[str, object]) -> list[str]:
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def _choice_note(chosen: str, installed: Mapping[str, HostCli], usable: list[str]) -> str:
    cli = installed.get(chosen)
    if cli is None or not cli.ok:
        why = cli.message if cli else "it was not found"
        return f"Tasks are given to {chosen}, which cannot be used here yet: {why}."
    text = f"Tasks are given to {chosen} ({cli.path} {cli.version or ''}".rstrip() + ")"
    others = [name for name in usable if name != chosen]
    also = f"; {', '.join(others)} would do too (`adapter` in specs/fleet.yaml)" if others else ""
    return f"{text}{also}. Try it: `reconciler adapter test {chosen}`."


async def _look() -> Mapping[str, HostCli]:
    """Return the CLIs of the built-in adapters, looked up as runs on this machine would."""
    adapters = {name: adapter for name, adapter in build({}).adapters.items() if name != SCRIPT_ADAPTER}
    with tempfile.TemporaryDirectory(prefix="reconciler-init-") as folder:
        try:
            facts = await probe(LocalTransport(Path(folder)), Host(name=LOCAL), adapters, workdir=folder)
        except (Unavailable, Refused):
            return {}
    return {name: each.cli for name, each in (facts.clis or {}).items()}
