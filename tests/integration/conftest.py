"""Real HTTP servers on this machine that answer as a test tells them to, and a replay of a run.

``provider`` takes a list of answers, one per request, the last of which serves all that follow. An
answer is a function of the connection; ``say``, ``stream`` and ``refuse`` make those of an
OpenAI-compatible server.

``world`` does the deeds that agents in worker processes ask for, counts them, and interferes.
"""

import contextlib
import json
import select
import threading
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import NamedTuple

import openai
import pytest

import holdfast as hf
from holdfast.core.machine import Machine
from holdfast.core.replay import feed_all, plan
from holdfast.core.specs import agent_spec
from holdfast.core.state import fold

KEY = "sk-this-must-stay-out-of-the-log"
WAIT_S = 20


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def serve(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen = Seen(
            self.command,
            self.path,
            headers,
            self.rfile.read(int(self.headers.get("content-length", "0"))),
        )
        self.server.provider.next_answer(self.seen)(self)

    def do_GET(self):
        self.serve()

    def do_POST(self):
        self.serve()

    def reply(self, status, body, headers=()):
        """Send a whole answer: bytes as they are, anything else as JSON."""
        given = {"content-type": "application/json", **dict(headers)}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**given, "content-length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def begin(self, content_type="text/event-stream; charset=utf-8"):
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def hang_up(self):
        self.close_connection = True

    def wait_until_client_leaves(self):
        """Tell whether the client hangs up while it waits for us."""
        ready, _, _ = select.select([self.connection], [], [], WAIT_S)
        return bool(ready) and not self.connection.recv(1)


class Provider:
    """A server and what it was asked."""

    def __init__(self):
        self.requests: list[Seen] = []
        self.answers = [say("hello")]
        self._lock = threading.Lock()
        self._server = None

    def start(self, port=0):
        self._server = Quiet(("127.0.0.1", port), Connection)
        self._server.provider = self
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()
        return self

    def stop(self):
        """Close the door: whoever asks from now on is refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def next_answer(self, seen):
        with self._lock:
            self.requests.append(seen)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def model(self, library=None, **options):
        """Return the stock OpenAI client."""
        http = hf.async_http_client(library=library)
        return openai.AsyncOpenAI(api_key=KEY, base_url=self.url, http_client=http, **options)

    def sync_model(self, library=None, **options):
        http = hf.http_client(library=library)
        return openai.OpenAI(api_key=KEY, base_url=self.url, http_client=http, **options)


class Quiet(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_):
        """A client that hung up is no news."""


def completion(text, calls=()):
    message = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{i}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for i, (name, arguments) in enumerate(calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    frame = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return {**frame, "choices": [choice], "usage": usage}


def say(text, calls=()):
    return lambda connection: connection.reply(200, completion(text, calls))


def refuse(status, headers=()):
    error = {"error": {"message": "no", "type": "refused", "code": "refused"}}
    return lambda connection: connection.reply(status, error, headers)


def event(choices):
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    data = json.dumps({**frame, "choices": choices}, ensure_ascii=False)
    return f"data: {data}\n\n".encode()


def piece(text):
    return event([{"index": 0, "delta": {"content": text}, "finish_reason": None}])


DONE = b"data: [DONE]\n\n"


def stream(*parts, end=DONE, quietly=True):
    """Stream pieces of text; a part that is a function is called in between."""

    def answer(connection):
        connection.begin()
        for part in parts:
            if callable(part):
                part(connection)
            else:
                connection.chunk(part if isinstance(part, bytes) else piece(part))
        if end:
            connection.chunk(end)
        if quietly:
            connection.chunk(b"")
        else:
            connection.hang_up()

    return answer


def stream_completion(text, calls=()):
    """Stream a completion: one tool call or half of the text a piece."""
    message = completion(text, calls)["choices"][0]
    tool_calls = message["message"].get("tool_calls", ())
    deltas = [{"role": "assistant", "content": None if calls else ""}]
    deltas += [{"tool_calls": [{"index": i, **call}]} for i, call in enumerate(tool_calls)]
    if text is not None:
        deltas += [{"content": text[: len(text) // 2]}, {"content": text[len(text) // 2 :]}]
    ends = {"delta": {}, "finish_reason": message["finish_reason"]}
    choices = [*({"delta": delta, "finish_reason": None} for delta in deltas), ends]
    return stream(*(event([{"index": 0, **choice}]) for choice in choices))


@pytest.fixture
def provider():
    server = Provider().start()
    yield server
    server.stop()


@pytest.fixture
def http():
    """What tests make answers of."""
    return SimpleNamespace(
        DONE=DONE, KEY=KEY, WAIT_S=WAIT_S, Provider=Provider, completion=completion,
        piece=piece, refuse=refuse, say=say, stream=stream,
        stream_completion=stream_completion,
    )  # fmt: skip


@pytest.fixture
def replay():
    """Feed a run's log to its agent again: no effects, and a divergence if it asks for others.

    That the agent comes to the same result is part of it: the end of a run is a note like others.
    """

    def replayed(agent, events):
        machine = Machine(
            agent_spec(agent),
            run=events[0].run,
            seed=fold(events).seed,
            input=events[0].payload,
        )
        with closing(machine):
            feed_all(machine, plan(events[1:]).feed)
            return machine.ended and not machine.issued

    return replayed


class Request(NamedTuple):
    pid: int
    verb: str
    order: str
    key: str
    attempt: int


class World:
    """Does what it is asked, counts, and interferes when told to."""

    def __init__(self):
        self.deeds, self.keys, self.requests = Counter(), set(), []
        self.voided = {}
        """Order → the attempt that was looked up and not found: it is not taken any more."""
        self.interfere = lambda _request, _moment: None
        """Called before and after the deed and behind the answer; True: no answer is given."""
        self._lock = threading.Lock()

    def serve(self, request, answer):
        with self._lock:
            self.requests.append(request)
            if self.interfere(request, "before"):
                return
            said = self._act(request)
            if self.interfere(request, "after"):
                return
        answer(said)
        with self._lock:
            self.interfere(request, "answered")

    def _act(self, request):
        deed = f"{request.verb} {request.order}"
        match request.verb:
            case "look":
                return f"saw {request.order}"
            case "find":
                if self.deeds[f"pay {request.order}"]:
                    return f"paid {request.order}"
                self.voided[request.order] = request.attempt
                return ""
            case "pay":
                if request.attempt <= self.voided.get(request.order, 0):
                    return "void"
                self.deeds[deed] += 1
                return f"paid {request.order}"
            case _:
                if request.key not in self.keys:
                    self.keys.add(request.key)
                    self.deeds[deed] += 1
                return f"shipped {request.order}"


@pytest.fixture
def world():
    """A world, and its URL as an attribute."""
    world = World()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            _, verb, order = self.path.split("/")
            pid, attempt = int(self.headers["pid"]), int(self.headers["attempt"])
            world.serve(Request(pid, verb, order, self.headers["key"], attempt), self.answer)

        def answer(self, said):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, *_):
            pass

        def handle(self):
            with contextlib.suppress(ConnectionError):  # whoever asked is dead
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    world.url = f"http://127.0.0.1:{server.server_port}"
    yield world
    server.shutdown()
    thread.join()
    server.server_close()
