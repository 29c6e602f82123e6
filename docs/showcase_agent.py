"""
A stand-in for an agent's CLI, for `showcase.py`: it prints what one prints, and changes a file.

What it does is in its environment: PACE seconds between two events, FILE and ADD what it writes,
COST in USD, and SCENE: `done`, `long` (it goes on for hours), `error` or `login`.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SCENE, PACE = os.environ.get("SCENE", "done"), float(os.environ.get("PACE", "0.2"))
PAGES = ("cart", "address", "payment", "summary", "receipt", "returns")
LOGIN = "API Error: 401 authentication_error: OAuth token has expired. Please run /login"
DATABASE = "the integration tests need PostgreSQL on 127.0.0.1:5432, and nothing listens there"

Event = dict[str, object]


def main() -> None:
    """Print all events, one a line; exit as the scene says."""
    sys.stdin.read()
    turns = 0
    show({"type": "system", "subtype": "init", "model": "claude-opus-4-8", "session_id": "s"})
    for event in {"long": work_long, "error": fail, "login": read_code}.get(SCENE, work)():
        turns += event["type"] == "assistant"
        show({**event, "session_id": "s"})
        time.sleep(PACE)
    text = {"login": LOGIN, "error": f"I cannot go on: {DATABASE}."}.get(SCENE, "Done; the tests pass.")
    is_error = SCENE in {"login", "error"}
    show(result(text, turns, is_error=is_error))
    sys.exit(is_error)


def show(event: Event) -> None:
    """Print an event."""
    sys.stdout.write(f"{json.dumps(event)}\n")
    sys.stdout.flush()


def result(text: str, turns: int, *, is_error: bool) -> Event:
    """Return the last event."""
    usage = {
        "input_tokens": 2100 * turns,
        "output_tokens": 410 * turns,
        "cache_read_input_tokens": 8800 * turns,
    }
    cost = float(os.environ.get("COST", "0.42"))
    known = {"type": "result", "subtype": "success", "session_id": "s", "num_turns": turns}
    status = {"api_error_status": 401} if SCENE == "login" else {}
    return {
        **known,
        **status,
        "result": text,
        "is_error": is_error,
        "usage": usage,
        "total_cost_usd": cost,
    }


def say(kind: str, **block: object) -> Event:
    """Return what the model says, or the tool that it calls."""
    usage = {"input_tokens": 900, "output_tokens": 1, "cache_read_input_tokens": 11_000}
    message = {"id": str(time.monotonic_ns()), "content": [{"type": kind, **block}], "usage": usage}
    return {"type": "assistant", "message": message}


def tool(name: str, answer: str, **given: str) -> Iterator[Event]:
    """Yield a call of a tool, and its answer."""
    yield say("tool_use", name=name, input=given)
    yield {
        "type": "user",
        "message": {"role": "user", "content": [{"type": "tool_result", "content": answer}]},
    }


def read_code() -> Iterator[Event]:
    """Yield what each scene begins with."""
    yield say("text", text="I look at the code that this is about first.")
    yield from tool("Bash", "3f2a91c Show the total with tax\n88be0d1 Begin", command="git log --oneline -5")


def work() -> Iterator[Event]:
    """Yield a change that succeeds."""
    yield from read_code()
    if name := os.environ.get("FILE"):
        path, added = Path(name), os.environ.get("ADD", "").replace("\\n", "\n")
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(old.replace("sum(prices)", "round(sum(prices), 2)") + added, encoding="utf-8")
        yield from tool("Edit", "The file has been updated.", file_path=name)
    yield from tool("Bash", "....  [100%]\n4 passed in 0.03s", command="python -m pytest -q")


def work_long() -> Iterator[Event]:
    """Yield measurements, one after the other."""
    yield from read_code()
    for number in range(2000):
        page = PAGES[number % len(PAGES)]
        if number % 4 == 0:
            yield say("text", text=f"Now the page {page}: I measure it before I change anything.")
        figures = f"median {820 - number * 7 % 400} ms   p95 {1140 - number * 11 % 500} ms"
        yield from tool("Bash", f"{page:10} {figures}", command=f"python -m bench.pages --page {page}")


def fail() -> Iterator[Event]:
    """Yield work that cannot be finished."""
    yield from read_code()
    yield from tool("Bash", "2 failed, 31 passed", command="pytest -q")
    sys.stderr.write("Error: cannot reach the database at 127.0.0.1:5432\n")


if __name__ == "__main__":
    main()
