"""Agents of other frameworks survive kill -9 without knowing of holdfast.

*Goal*: a pydantic-ai and an openai-agents agent with two parallel tool calls, killed at the worst
moments, end with the right answer, each deed done once, and no model call paid again that was
answered before. *Method*: the agent runs in a process of its own; the servers in this one kill it
when the shop has done both deeds and answered neither, and again in the middle of the model's last
answer.
"""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

SCRIPT = Path(__file__).with_name("framework_agents.py")
KILLED = (-signal.SIGKILL, "")


class Desk:
    """A model and a shop, and the processes that work between them."""

    def __init__(self, http, model, shop, store):
        self.deeds = {}
        self.asked = Counter()
        self._both = threading.Barrier(2)
        self._kill_at = ""
        self._http, self._urls, self._store = http, (model.url, shop.url), store
        model.answers, shop.answers = [self.answer], [self.serve]

    def run(self, framework, kill_at=""):
        self._kill_at = kill_at
        command = [sys.executable, SCRIPT, framework, self._store, *self._urls]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as self._process:
            output, _ = self._process.communicate(timeout=60)
        return self._process.returncode, output.strip()

    def killed(self, moment):
        if self._kill_at == moment:
            os.kill(self._process.pid, signal.SIGKILL)
        return self._kill_at == moment

    def answer(self, connection):
        """Speak for the model: call both tools, then say what came of it."""
        request = connection.seen.json
        results = [m["content"] for m in request["messages"] if m["role"] == "tool"]
        self.asked[len(results)] += 1
        streams = request.get("stream")
        if results and self._kill_at == "last answer":
            if streams:
                self._http.stream("ref", lambda _: self.killed("last answer"))(connection)
            self.killed("last answer")
            return
        send = self._http.stream_completion if streams else self._http.say
        if results:
            send("; ".join(results))(connection)
        else:
            send(None, [("refund", {"order": "A-1"}), ("ship", {"order": "A-2"})])(connection)

    def serve(self, connection):
        """Speak for the shop, which does a deed once per idempotency key."""
        seen, url = connection.seen, urlsplit(connection.seen.path)
        deed = url.path.rpartition("/")[2]
        if seen.method == "GET":
            what = f"{deed} {parse_qs(url.query)['order'][0]}"
            connection.reply(200, {"receipt": what if what in self.deeds.values() else ""})
            return
        what = f"{deed} {seen.json['order']}"
        self.deeds.setdefault(seen.headers["idempotency-key"], what)
        if self._kill_at == "both deeds":
            self._both.wait(self._http.WAIT_S)
            self.killed("both deeds")
        else:
            connection.reply(200, {"receipt": what})


@pytest.fixture
def desk(http, provider, tmp_path):
    shop = http.Provider().start()
    yield Desk(http, provider, shop, tmp_path / "holdfast.db")
    shop.stop()


@pytest.mark.parametrize(
    "framework",
    ["pydantic-ai", "pydantic-ai-streamed", "openai-agents", "openai-agents-streamed"],
)
def test_an_agent_of_another_framework_survives_kill_9(desk, framework):
    assert desk.run(framework, kill_at="both deeds") == KILLED
    assert desk.asked == {0: 1}

    assert desk.run(framework, kill_at="last answer") == KILLED
    assert desk.asked == {0: 1, 2: 1}  # the first call was not made again

    assert desk.run(framework) == (0, "refund A-1; ship A-2")
    assert desk.asked == {0: 1, 2: 2}
    assert sorted(desk.deeds.values()) == ["refund A-1", "ship A-2"]
