"""
Hook of the build: manual pages and completions of shells, made of the commands, come with the wheel.

An installation puts them where it has its `share/`: of a user (`~/.local`), of pipx, of an environment.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPLETIONS = {
    "bash": "share/bash-completion/completions/reconciler",
    "zsh": "share/zsh/site-functions/_reconciler",
    "fish": "share/fish/vendor_completions.d/reconciler.fish",
}


class SharedFiles(BuildHookInterface):  # type: ignore[type-arg]
    """Adds what the program writes about itself to a wheel; an editable installation goes without."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the files in a folder that lives until the wheel is built."""
        if version == "editable":
            return
        self._made = TemporaryDirectory()
        folder = Path(self._made.name)
        pages = folder / "share/man/man1"
        self._reconciler("man", pages)
        for shell, place in COMPLETIONS.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_text(self._reconciler("completion", shell), encoding="utf-8")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        build_data["shared_data"].update({str(path): str(path.relative_to(folder)) for path in files})

    def _reconciler(self, *words: str | Path) -> str:
        # The folder is not always on the path by itself: pipx sets PYTHONSAFEPATH.
        paths = [self.root, *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", "reconciler", *words]
        return subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove the files."""
        if version != "editable":
            self._made.cleanup()
