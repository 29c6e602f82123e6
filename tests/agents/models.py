"""
A model server on loopback that speaks enough of four protocols for real agents.

It answers a prompt with one reply and the result of a tool with another; what
it was asked is kept.
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the model says: words, perhaps a command to run; or how the call goes wrong."""

    text: str = "Done: the task is finished."
    command: str | None = None
    tool: str | None = None
    """End of the name of another tool to call, with `arguments`; over the Chat Completions API."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
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
    steps: Sequence[Reply] = ()
    """Replies to a prompt and then to each result of a tool, in place of those two; then `Model.then`."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    was_asked: threading.Event = field(default_factory=threading.Event)
    tool_is_running: threading.Event = field(default_factory=threading.Event)
    """The command of a tool has called `/wait`, and goes on only when all is over."""
    is_over: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: dict[str, Any], *, is_result: bool) -> Reply:
        self.asked.append(request)
        self.was_asked.set()
        if self.steps:
            done = sum(message["role"] == "tool" for message in request["messages"])
            return self.steps[done] if done < len(self.steps) else self.then
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
        if self.path == "/wait":
            self.model.tool_is_running.set()
            self.model.is_over.wait()
        self._json(200, {"data": [], "models": []})

    def do_HEAD(self):
        self._json(200, {})

    def do_POST(self):
        request = json.loads(self._body() or b"{}")
        path = self.path.split("?")[0]
        for end, protocol in PROTOCOLS.items():
            if path.endswith(end):
                return self._answer(protocol(request))
        return self._json(200, {"input_tokens": 1, "totalTokens": 1})

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, call: "Call"):
        reply = self.model.answer(call.request, is_result=call.is_result)
        if reply.hang:
            self.model.is_over.wait()
        elif reply.status != 200:
            self._json(reply.status, call.error(reply.status))
        elif not call.is_streamed:
            self._json(200, call.whole(reply))
        else:
            self._stream(list(call.events(reply)), cut=reply.cut)

    def _json(self, status: int, value: object):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # who called was ended
            self.wfile.write(body)

    def _stream(self, events: list[dict[str, Any]], *, cut: bool):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events[: len(events) // 2] if cut else events:
            name = f"event: {event['type']}\n" if "type" in event else ""
            self.wfile.write(f"{name}data: {json.dumps(event)}\n\n".encode())


class Call:
    """One call of a model; a class for each protocol."""

    is_streamed = True

    def __init__(self, request: dict[str, Any]):
        self.request = request

    @property
    def is_result(self) -> bool:
        """Whether it brings the result of a tool."""
        raise NotImplementedError

    def error(self, status: int) -> dict[str, Any]:
        raise NotImplementedError

    def events(self, reply: Reply) -> Iterator[dict[str, Any]]:
        raise NotImplementedError

    def whole(self, reply: Reply) -> dict[str, Any]:
        """Return the answer to a call that does not stream."""
        raise NotImplementedError


class Anthropic(Call):
    """One call of the Messages API."""

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


class OpenAI(Call):
    """One call of the Responses API."""

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


class Chat(Call):
    """One call of the Chat Completions API."""

    @property
    def is_streamed(self) -> bool:
        return bool(self.request.get("stream"))

    @property
    def is_result(self) -> bool:
        return bool(self.request.get("messages")) and self.request["messages"][-1]["role"] == "tool"

    def error(self, status: int) -> dict[str, Any]:
        kind, code, message = {
            401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-test."),
            429: ("requests", "rate_limit_exceeded", "Rate limit reached for fake-model."),
        }.get(status, ("server_error", None, "The server had an error while processing your request."))
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def events(self, reply: Reply) -> Iterator[dict[str, Any]]:
        call = self._call(reply)
        yield self._chunk({"role": "assistant", "content": ""})
        yield self._chunk({"content": reply.text})
        if call:
            yield self._chunk({"tool_calls": [{"index": 0, **call}]})
        yield self._chunk({}, "tool_calls" if call else "stop")
        yield {**self._base("chat.completion.chunk"), "choices": [], "usage": self.USAGE}

    def whole(self, reply: Reply) -> dict[str, Any]:
        call = self._call(reply)
        message = {"role": "assistant", "content": reply.text, **({"tool_calls": [call]} if call else {})}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if call else "stop"}
        return {**self._base("chat.completion"), "choices": [choice], "usage": self.USAGE}

    USAGE = {  # noqa: RUF012 - nobody changes it
        "prompt_tokens": 1000,
        "prompt_tokens_details": {"cached_tokens": 600},
        "completion_tokens": 50,
        "completion_tokens_details": {"reasoning_tokens": 10},
        "total_tokens": 1050,
    }

    def _base(self, kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": self.request.get("model")}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {**self._base("chat.completion.chunk"), "choices": [choice]}

    def _call(self, reply: Reply) -> dict[str, Any] | None:
        """Return a call of a tool; of whichever runs commands, with the parameters it has; None if none."""
        tools = [tool["function"] for tool in self.request.get("tools") or []]
        tool = next((tool for tool in tools if _is_meant(tool["name"], reply)), None)
        if tool is None:
            return None
        properties, command = tool.get("parameters", {}).get("properties", {}), reply.command
        given = {"command": command, "commands": [command], "description": "Run it", "is_background": False}
        arguments = {name: value for name, value in given.items() if name in properties}
        function = {
            "name": tool["name"],
            "arguments": json.dumps(dict(reply.arguments) if reply.tool else arguments),
        }
        return {"id": f"call_{id(self)}", "type": "function", "function": function}


def _is_meant(tool: str, reply: Reply) -> bool:
    return tool.endswith(reply.tool) if reply.tool else bool(reply.command) and tool in SHELLS


SHELLS = frozenset({"bash", "Bash", "exec", "run_commands", "run_shell_command", "terminal"})
"""Names of the tools that run a command, by whichever CLI."""


class Gemini(Call):
    """One call of the Gemini API."""

    @property
    def is_result(self) -> bool:
        last = (self.request.get("contents") or [{}])[-1]
        return any("functionResponse" in part for part in last.get("parts", []))

    def error(self, status: int) -> dict[str, Any]:
        kinds = {401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED"}
        kind = kinds.get(status, "INTERNAL")
        return {"error": {"code": status, "message": f"fake {status}", "status": kind}}

    def events(self, reply: Reply) -> Iterator[dict[str, Any]]:
        yield self._part({"text": reply.text})
        if reply.command and self.request.get("tools"):
            arguments = {"command": reply.command, "description": "Run it"}
            yield self._part({"functionCall": {"name": "run_shell_command", "args": arguments}})
        yield self._part({"text": ""}, "STOP")

    def whole(self, reply: Reply) -> dict[str, Any]:
        return self._part({"text": reply.text}, "STOP")

    def _part(self, part: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        candidate = {"content": {"role": "model", "parts": [part]}, "index": 0}
        usage = {
            "promptTokenCount": 1000,
            "cachedContentTokenCount": 600,
            "candidatesTokenCount": 50,
            "thoughtsTokenCount": 10,
            "totalTokenCount": 1060,
        }
        if finish:
            candidate["finishReason"] = finish
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "fake"}


class GeminiAtOnce(Gemini):
    """One that does not stream."""

    is_streamed = False


PROTOCOLS: dict[str, type[Call]] = {
    "/v1/messages": Anthropic,
    "/responses": OpenAI,
    "/chat/completions": Chat,
    ":streamGenerateContent": Gemini,
    ":generateContent": GeminiAtOnce,
}
"""Protocols by the end of the path that is called."""
