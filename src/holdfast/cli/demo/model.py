"""A model behind OpenAI's chat API: a scripted planner with the failures of a real provider.

``python -m holdfast.cli.demo.model --seed N [--port 0] [--faults on|off]`` prints ``{"port": N}``
when it listens.

- ``POST /v1/chat/completions`` takes ``{model, messages, tools, stream?, stream_options?,
  parallel_tool_calls?}``. What it says is planner.py's matter. Streamed, it sends ``data: {chunk}``
  events with deltas of content and of tool calls (name first, then arguments in pieces), a chunk
  with ``finish_reason``, one with ``usage`` if ``stream_options.include_usage``, and
  ``data: [DONE]``. A broken conversation, such as a tool call without an answer, is 400.
- ``GET /v1/models`` lists the one model.
- ``GET /stats`` gives ``{calls, paid, distinct, refused, faults: {NAME: n}, tickets: {ID: paid}}``:
  requests, those answered in full, different conversations among those, broken conversations,
  faults met, and those answered in full by ticket.

Faults, drawn from the seed, the messages and how often they were sent before, at most two in a row
for the same messages: ``rate_limited`` (429 with Retry-After, a fraction of a second), ``error``
(500), ``cut`` (the connection closes in mid-answer, and the transport can tell), ``cut_quietly`` (a
stream ends without ``[DONE]`` although the transport ends it properly; an answer that is not
streamed is cut instead). Every answer takes 10 to 60 ms; with faults off it takes none.

Invariants: stateless but for the counting of faults, so that the same messages get the same answer,
ids included; streamed or not, the message is the same.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

from holdfast.cli.demo.faults import NONE, Chance, Fault, draw
from holdfast.cli.demo.planner import Reply, TranscriptError, digest, reply, ticket_of
from holdfast.cli.demo.wire import JsonHandler, Refusal, Request, Server, arguments, serve

__all__ = ["CHANCES", "MODEL", "Model", "main"]

MODEL = "desk-planner-1"
CREATED = 1_790_000_000  # a fixed moment: the same messages get the same answer
PIECE_CHARS = 24

CHANCES = (
    Chance("rate_limited", 0.08, (50, 250)),
    Chance("error", 0.05),
    Chance("cut", 0.05),
    Chance("cut_quietly", 0.05),
)
LATENCY = (Chance("latency", 1.0, (10, 60), fails=False),)


class Model(Server):
    """The server's state: what it was asked and how that went."""

    def __init__(self, *, seed: int, port: int, faults: bool) -> None:
        super().__init__(("127.0.0.1", port), ModelHandler)
        self._seed = seed
        self._faults = faults
        self._lock = threading.Lock()
        self._asked: Counter[str] = Counter()
        self._paid: Counter[str] = Counter()
        self._tickets: Counter[str] = Counter()
        self._met: Counter[str] = Counter()
        self._refused = 0

    def fault(self, conversation: str) -> tuple[Fault, float]:
        """Draw what happens to this request, and how long the answer takes in seconds."""
        with self._lock:
            self._asked[conversation] += 1
            nth = self._asked[conversation]
        if not self._faults:
            return NONE, 0.0
        fault = draw(self._seed, conversation, nth, CHANCES)
        with self._lock:
            if fault.fails:
                self._met[fault.name] += 1
        return fault, draw(self._seed, f"{conversation} latency", nth, LATENCY).wait_s

    def count_paid(self, conversation: str, ticket: str) -> None:
        """Count an answer given in full."""
        with self._lock:
            self._paid[conversation] += 1
            self._tickets[ticket] += 1

    def count_refused(self) -> None:
        """Count a broken conversation."""
        with self._lock:
            self._refused += 1

    def stats(self) -> dict[str, Any]:
        """Return the counts."""
        with self._lock:
            return {
                "calls": self._asked.total() + self._refused,
                "paid": self._paid.total(),
                "distinct": len(self._paid),
                "refused": self._refused,
                "faults": dict(self._met),
                "tickets": dict(self._tickets),
            }


class ModelHandler(JsonHandler):
    """Answers for the model."""

    server: Model

    def route(self, request: Request) -> None:
        match request.method, request.path:
            case "POST", ("v1", "chat", "completions"):
                self._complete(request)
            case "GET", ("v1", "models"):
                card = {"id": MODEL, "object": "model", "created": CREATED, "owned_by": "demo"}
                self.answer(200, {"object": "list", "data": [card]})
            case "GET", ("stats",):
                self.answer(200, self.server.stats())
            case _:
                path = "/".join(request.path)
                raise Refusal(404, "unknown_url", f"{request.method} /{path} is unknown")

    def _complete(self, request: Request) -> None:
        body = request.body
        try:
            said = reply(
                body.get("messages", ()),
                [tool["function"]["name"] for tool in body.get("tools") or ()],
                parallel=body.get("parallel_tool_calls") is not False,
            )
        except (TranscriptError, AttributeError, KeyError, TypeError) as error:
            self.server.count_refused()
            raise Refusal(400, "invalid_request_error", f"{error}") from error
        conversation = digest(body["messages"])
        fault, latency_s = self.server.fault(conversation)
        time.sleep(latency_s / 2)  # the other half passes between the pieces of a stream
        if fault.name == "rate_limited":
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS,
                "rate_limit_exceeded",
                "too many requests, slow down",
                {"Retry-After": f"{fault.wait_s:g}"},
            )
        if fault.name == "error":
            raise Refusal(500, "server_error", "the server had an error, sorry about that")
        usage = _usage(body["messages"], said)
        if body.get("stream"):
            chunks = _chunks(conversation, said, usage, body)
            whole = self._stream(chunks, fault, latency_s / 2)
        else:
            time.sleep(latency_s / 2)
            whole = self._send(_completion(conversation, said, usage), fault)
        if whole:
            self.server.count_paid(conversation, str(ticket_of(body["messages"])["id"]))

    def _send(self, completion: dict[str, Any], fault: Fault) -> bool:
        if not fault.fails:
            self.answer(200, completion)
            return True
        data = json.dumps(completion).encode()
        self.head(200, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        self.end_headers()
        self.wfile.write(data[: int(fault.point * len(data))])
        self.hang_up()
        return False

    def _stream(self, chunks: Iterator[dict[str, Any]], fault: Fault, latency_s: float) -> bool:
        events = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
        events.append(b"data: [DONE]\n\n")
        # At least the first event is sent and at least the end marker is not.
        sent = 1 + int(fault.point * (len(events) - 1)) if fault.fails else len(events)
        self.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        self.end_headers()
        for event in events[:sent]:
            self._write_chunk(event)
            time.sleep(latency_s / len(events))
        if fault.name == "cut":
            self.hang_up()
        else:
            self._write_chunk(b"")
        return not fault.fails

    def _write_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


def _message(said: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said.content, "refusal": None}
    if said.calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for call in said.calls
        ]
    return message


def _completion(conversation: str, said: Reply, usage: dict[str, int]) -> dict[str, Any]:
    choice = {"index": 0, "message": _message(said), "logprobs": None}
    choice["finish_reason"] = _finish_reason(said)
    return {
        "id": f"chatcmpl-{conversation[:24]}",
        "object": "chat.completion",
        "created": CREATED,
        "model": MODEL,
        "choices": [choice],
        "usage": usage,
    }


def _chunks(
    conversation: str, said: Reply, usage: dict[str, int], asked: Any
) -> Iterator[dict[str, Any]]:
    frame = {
        "id": f"chatcmpl-{conversation[:24]}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": MODEL,
    }
    for delta in _deltas(said):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        yield {**frame, "choices": [choice]}
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": _finish_reason(said)}
    yield {**frame, "choices": [last]}
    if (asked.get("stream_options") or {}).get("include_usage"):
        yield {**frame, "choices": [], "usage": usage}


def _deltas(said: Reply) -> Iterator[dict[str, Any]]:
    message = _message(said)
    yield {"role": "assistant", "content": None if said.content is None else "", "refusal": None}
    for piece in _pieces(said.content or ""):
        yield {"content": piece}
    for index, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        opening = {"name": function["name"], "arguments": ""}
        yield {"tool_calls": [{**call, "index": index, "function": opening}]}
        for piece in _pieces(function["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _pieces(text: str) -> list[str]:
    return [text[start : start + PIECE_CHARS] for start in range(0, len(text), PIECE_CHARS)]


def _finish_reason(said: Reply) -> str:
    return "tool_calls" if said.calls else "stop"


def _usage(messages: Sequence[Any], said: Reply) -> dict[str, int]:
    """Count tokens as four characters each, which is about right for English."""
    asked, answered = len(json.dumps(messages)) // 4, len(json.dumps(_message(said))) // 4
    return {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
    }


def main() -> None:
    """Serve until told to stop."""
    given = arguments("The demo's model.").parse_args()
    serve(Model(seed=given.seed, port=given.port, faults=given.faults == "on"))


if __name__ == "__main__":
    main()
