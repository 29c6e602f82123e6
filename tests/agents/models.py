"""
A model server on loopback that speaks enough of two protocols for real agents.

It answers a prompt with one reply and the result of a tool with another; what
it was asked is kept.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the model says: words, perhaps a command to run; or how the call goes wrong."""

    text: str = "Done: the task is finished."
    command: str | None = None
    status: int = 200
    cut: bool = False
    """The stream ends in the middle."""
    hang: bool = False
    """No answer ever comes."""


@dataclass
class Model:
    """Replies, and what was asked."""

    reply: Reply = Reply()
    then: Reply = Reply()
    """After the result of a tool."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    was_asked: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: dict[str, Any], *, is_result: bool) -> Reply:
        self.asked.append(request)
        self.was_asked.set()
        return self.then if is_result else self.reply

    def saw(self, message: str) -> bool:
        return message in json.dumps(self.asked)


@contextmanager
def serving(model: Model) -> Iterator[str]:
    """Serve the model; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"model": model}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        model.is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    model: Model

    def log_message(self, format, *args):  # noqa: A002 - its name in the standard library
        pass

    def do_GET(self):
        self._json(200, {"data": [], "models": []})

    def do_HEAD(self):
        self._json(200, {})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path = self.path.split("?")[0]
        if path.endswith("/v1/messages"):
            self._answer(Anthropic(request))
        elif path.endswith("/responses"):
            self._answer(OpenAI(request))
        else:
            self._json(200, {"input_tokens": 1})

    def _answer(self, call: "Anthropic | OpenAI"):
        reply = self.model.answer(call.request, is_result=call.is_result)
        if reply.hang:
            self.model.is_over.wait()
        elif reply.status != 200:
            self._json(reply.status, call.error(reply.status))
        else:
            self._stream(list(call.events(reply)), cut=reply.cut)

    def _json(self, status: int, value: object):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, events: list[dict[str, Any]], *, cut: bool):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events[: len(events) // 2] if cut else events:
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())


class Anthropic:
    """One call of the Messages API."""

    def __init__(self, request: dict[str, Any]):
        self.request = request

    @property
    def is_result(self) -> bool:
        said = [message for message in self.request.get("messages", []) if message["role"] == "user"]
        content = said[-1]["content"] if said else ""
        return isinstance(content, list) and any(part.get("type") == "tool_result" for part in content)

    def error(self, status: int) -> dict[str, Any]:
        kinds = {401: "authentication_error", 429: "rate_limit_error", 529: "overloaded_error"}
        return {
            "type": "error",
            "error": {"type": kinds.get(status, "api_error"), "message": f"fake {status}"},
        }

    def events(self, reply: Reply) -> Iterator[dict[str, Any]]:
        usage = {"input_tokens": 100, "output_tokens": 40}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "fake", "content": []}
        yield {"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage}}
        blocks = [({"type": "text", "text": ""}, {"type": "text_delta", "text": reply.text})]
        if reply.command:
            tool = {"type": "tool_use", "id": f"toolu_{id(self)}", "name": "Bash", "input": {}}
            arguments = json.dumps({"command": reply.command, "description": "Run it"})
            blocks.append((tool, {"type": "input_json_delta", "partial_json": arguments}))
        for index, (block, delta) in enumerate(blocks):
            yield {"type": "content_block_start", "index": index, "content_block": block}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        stop = "tool_use" if reply.command else "end_turn"
        yield {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 40}}
        yield {"type": "message_stop"}


class OpenAI:
    """One call of the Responses API."""

    def __init__(self, request: dict[str, Any]):
        self.request = request

    @property
    def is_result(self) -> bool:
        for item in reversed(self.request.get("input", [])):
            if item.get("role") == "user":
                return False
            if str(item.get("type", "")).endswith("_output"):
                return True
        return False

    def error(self, status: int) -> dict[str, Any]:
        return {"error": {"message": f"fake {status}", "type": "server_error", "param": None, "code": None}}

    def events(self, reply: Reply) -> Iterator[dict[str, Any]]:
        response = {"id": "resp_1", "object": "response", "status": "in_progress", "output": []}
        content = [{"type": "output_text", "text": reply.text, "annotations": []}]
        items = [
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": content}
        ]
        if reply.command:
            items.append(self._call(reply.command))
        yield {"type": "response.created", "response": response}
        for index, item in enumerate(items):
            yield {"type": "response.output_item.added", "output_index": index, "item": item}
            yield {"type": "response.output_item.done", "output_index": index, "item": item}
        usage = {
            "input_tokens": 1000,
            "input_tokens_details": {"cached_tokens": 600},
            "output_tokens": 50,
            "output_tokens_details": {"reasoning_tokens": 10},
            "total_tokens": 1050,
        }
        done = {**response, "status": "completed", "output": items, "usage": usage}
        yield {"type": "response.completed", "response": done}

    def _call(self, command: str) -> dict[str, Any]:
        """Return a call of whichever tool runs commands; newest ones take a program that calls it."""
        call = {"id": "call_1", "call_id": f"call_{id(self)}", "status": "completed"}
        tools = dict(self._tools())
        if tools.get("exec") == "custom":
            program = f"text(await tools.exec_command({{cmd: {json.dumps(command)}}}));"
            return {**call, "type": "custom_tool_call", "name": "exec", "input": program}
        name, field = ("exec_command", "cmd") if "exec_command" in tools else ("shell_command", "command")
        return {**call, "type": "function_call", "name": name, "arguments": json.dumps({field: command})}

    def _tools(self) -> Iterator[tuple[str, str]]:
        given = [self.request, *(item for item in self.request.get("input", []) if "tools" in item)]
        for place in given:
            for tool in place.get("tools") or []:
                inner = tool.get("tools") if tool.get("type") == "namespace" else [tool]
                yield from ((one.get("name", ""), one.get("type", "")) for one in inner)
