"""Agents of other frameworks survive kill -9 without knowing of holdfast.

*Goal*: a pydantic-ai and an openai-agents agent with two parallel tool calls, killed at the worst
moments, end with the right answer, each deed done once, and no model call paid twice that was
answered before. *Method*: the agent runs in a process of its own; the shop's server in this one
kills it right after having acted, before its answer can be recorded, and then it is started again.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

SCRIPT = Path(__file__).with_name("framework_agents.py")


class Shop:
    """Does a deed once per idempotency key, and kills its caller when told to."""

    def __init__(self):
        self.deeds = {}
        self.kill_at = ""
        self.victim = None

    def __call__(self, connection):
        seen = connection.seen
        url = urlsplit(seen.path)
        deed = url.path.rpartition("/")[2]
        if seen.method == "GET":
            wanted = (deed, parse_qs(url.query)["order"][0])
            done = [receipt for receipt, what in self.deeds.values() if what == wanted]
            connection.reply(200, {"receipt": done[0] if done else ""})
            return
        receipt = f"{deed} {seen.json['order']} done"
        self.deeds.setdefault(seen.headers["idempotency-key"], (receipt, (deed, seen.json["order"])))
        if not self.killed(deed):
            connection.reply(200, {"receipt": receipt})

    def killed(self, moment):
        if self.kill_at != moment:
            return False
        self.kill_at = ""
        os.kill(self.victim.pid, signal.SIGKILL)
        self.victim.wait()
        return True


@pytest.fixture
def desk(http, provider, tmp_path):
    """A model, a shop, and the processes between them."""
    shop, shop_server = Shop(), http.Provider().start()
    shop_server.answers = [shop]
    asked = Counter()

    def answer(connection):
        request = connection.seen.json
        results = [m["content"] for m in request["messages"] if m["role"] == "tool"]
        asked[len(results)] += 1
        if shop.killed(f"model call {1 if not results else 2}"):
            return
        calls = [("refund", {"order": "A-1"}), ("ship", {"order": "A-2"})] if not results else []
        text = None if calls else "; ".join(results)
        send = http.stream_completion if request.get("stream") else http.say
        send(text, calls)(connection)

    provider.answers = [answer]

    def run(framework, kill_at=""):
        shop.kill_at = kill_at
        command = [sys.executable, SCRIPT, framework, tmp_path / "s.db", provider.url, shop_server.url]
        shop.victim = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with shop.victim as process:
            output, _ = process.communicate(timeout=60)
        return process.returncode, output.strip()

    run.shop, run.asked = shop, asked
    yield run
    shop_server.stop()


FRAMEWORKS = ["pydantic-ai", "pydantic-ai-streamed", "openai-agents", "openai-agents-streamed"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("kill_at", ["model call 1", "refund", "ship", "model call 2"])
def test_an_agent_of_another_framework_survives_kill_9(desk, framework, kill_at):
    code, output = desk(framework, kill_at)
    assert (code, output) == (-signal.SIGKILL, "")

    code, output = desk(framework)
    assert (code, output) == (0, "refund A-1 done; ship A-2 done")
    deeds = sorted(what for _, what in desk.shop.deeds.values())
    assert deeds == [("refund", "A-1"), ("ship", "A-2")]
    lost = int(kill_at[-1]) if "model" in kill_at else 0
    assert desk.asked == {0: 2 if lost == 1 else 1, 2: 2 if lost == 2 else 1}

    before = desk.asked.total()
    assert desk(framework) == (0, "refund A-1 done; ship A-2 done")
    assert desk.asked.total() == before
