"""
Real agent CLIs: how each is called in a home of its own, to ask a model on loopback.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.core.adapter import Adapter
from reconciler.core.model.runs import FailureClass

HERE = Path(__file__).parent
INSTALLED = Path(os.environ.get("RECONCILER_TEST_AGENTS", HERE)) / "node_modules" / ".bin"
MORE = HERE / "more" / "node_modules" / ".bin"
"""CLIs that `INSTALLED` may lack: they are installed by themselves, so that neither waits for the other."""
NODE = INSTALLED.parent / "node" / "bin"
"""A Node.js for the CLIs that need a newer one than the machine has."""
Environment = dict[str, str]


@dataclass(frozen=True)
class Cli:
    """A CLI, by the name of its adapter."""

    program: str
    model: str
    reach: Callable[[str, Path], Environment]
    """Return the environment in which it finds the model at an address; may write into its home."""
    denying: Mapping[str, tuple[str, ...]] | None = None
    """Arguments in place of others, with which its tools are denied; None: it does not offer them then."""

    resumes: bool = True
    """Whether its output names a session to go on with."""
    plans: bool = True
    """Whether it has a mode in which it changes nothing."""
    otherwise: Mapping[str, frozenset[FailureClass]] = field(default_factory=dict)
    """Scenarios that are another class of failure to it."""

    def has(self, scenario: str) -> bool:
        """Tell whether a scenario can happen to it."""
        lacking = {"denial": self.denying is not None, "resume": self.resumes, "plan": self.plans}
        return lacking.get(scenario, True)

    @property
    def path(self) -> Path | None:
        """Where it is installed; None: nowhere."""
        return next((path for path in (INSTALLED / self.program, MORE / self.program) if path.exists()), None)

    def without_tools(self, adapter: Adapter) -> Adapter:
        """Return the adapter with which no tool may be used."""
        assert self.denying is not None
        work = tuple(new for word in adapter.work for new in self.denying.get(word, (word,)))
        return adapter.model_copy(update={"work": work})


def _claude(address: str, _: Path) -> Environment:
    # The tests run as root only where nothing else is: in a sandbox.
    return {
        "ANTHROPIC_BASE_URL": address,
        "ANTHROPIC_API_KEY": "sk-test",
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "IS_SANDBOX": "1",
    }


def _codex(address: str, home: Path) -> Environment:
    _write(
        home / ".codex" / "config.toml",
        f"""
        model_provider = "loopback"
        [model_providers.loopback]
        name = "loopback"
        base_url = "{address}/v1"
        env_key = "LOOPBACK_KEY"
        wire_api = "responses"
        request_max_retries = 1
        stream_max_retries = 1
        """,
    )
    return {"LOOPBACK_KEY": "sk-test"}


def _gemini(address: str, home: Path) -> Environment:
    settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}, "general": {"maxAttempts": 2}}
    _write(home / ".gemini" / "settings.json", json.dumps(settings))
    return {"GOOGLE_GEMINI_BASE_URL": address, "GEMINI_API_KEY": "sk-test"}


def _opencode(address: str, home: Path) -> Environment:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{address}/v1", "apiKey": "sk-test"},
        "models": {"fake-model": {"tool_call": True}},
    }
    config = {"provider": {"loopback": provider}, "autoupdate": False, "small_model": "loopback/fake-model"}
    _write(home / ".config" / "opencode" / "opencode.json", json.dumps(config))
    return {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}


def _qwen(address: str, home: Path) -> Environment:
    _write(
        home / ".qwen" / "settings.json",
        json.dumps(
            {
                "security": {"auth": {"selectedType": "openai"}},
                "model": {"generationConfig": {"maxRetries": 1}},
            }
        ),
    )
    return {"OPENAI_BASE_URL": f"{address}/v1", "OPENAI_API_KEY": "sk-test", "OPENAI_MODEL": "fake-model"}


def _pi(address: str, home: Path) -> Environment:
    provider = {
        "baseUrl": f"{address}/v1",
        "api": "openai-completions",
        "apiKey": "$LOOPBACK_KEY",
        "models": [{"id": "fake-model"}],
    }
    _write(home / ".pi" / "agent" / "models.json", json.dumps({"providers": {"loopback": provider}}))
    return {"LOOPBACK_KEY": "sk-test"}


def _copilot(address: str, _: Path) -> Environment:
    return {
        "COPILOT_PROVIDER_BASE_URL": f"{address}/v1",
        "COPILOT_PROVIDER_API_KEY": "sk-test",
        "COPILOT_OFFLINE": "true",
    }


def _cline(address: str, home: Path) -> Environment:
    settings = {
        "provider": "openai-compatible",
        "apiKey": "sk-test",
        "model": "fake-model",
        "baseUrl": f"{address}/v1",
    }
    stored = {
        "version": 1,
        "lastUsedProvider": "openai-compatible",
        "providers": {
            "openai-compatible": {
                "settings": settings,
                "updatedAt": "2030-01-01T00:00:00.000Z",
                "tokenSource": "manual",
            }
        },
    }
    _write(home / ".cline" / "data" / "settings" / "providers.json", json.dumps(stored))
    return {}


def _kimi(address: str, _: Path) -> Environment:
    return {
        "KIMI_MODEL_NAME": "fake-model",
        "KIMI_MODEL_PROVIDER_TYPE": "openai",
        "KIMI_MODEL_BASE_URL": f"{address}/v1",
        "KIMI_MODEL_API_KEY": "sk-test",
        "KIMI_MODEL_MAX_CONTEXT_SIZE": "128000",
    }


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# Gemini says nothing when it is ended, and exits with 0: that a run was stopped is known to who stopped it.
CLIS: Mapping[str, Cli] = {
    "claude-code": Cli("claude", "sonnet", _claude, {"bypassPermissions": ("dontAsk",)}),
    "codex": Cli("codex", "gpt-5.4", _codex, {"workspace-write": ("read-only",)}),
    "opencode": Cli("opencode", "loopback/fake-model", _opencode),
    "gemini": Cli(
        "gemini",
        "gemini-2.5-pro",
        _gemini,
        otherwise=dict.fromkeys(("hang", "cancel"), frozenset({FailureClass.AGENT})),
    ),
    "qwen": Cli("qwen", "fake-model", _qwen),
    "pi": Cli("pi", "loopback/fake-model", _pi),
    "copilot": Cli("copilot", "fake-model", _copilot, {"--allow-all": ("--deny-tool", "shell")}),
    "cline": Cli("cline", "fake-model", _cline, {"true": ("false",)}, resumes=False),
    "kimi": Cli("kimi", "", _kimi, plans=False),  # its model is in its environment
}
