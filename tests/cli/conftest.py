"""A command line in this process, and a directory with agents to run.

``cli("ls", "--json")`` is ``holdfast ls --json`` run in an empty directory that holds ``desk.py``;
it returns exit code, stdout and stderr. ``processes`` starts the real command.
"""

import json
import os
import select
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli.main import app

DESK = """
import asyncio
import dataclasses
import os
from pathlib import Path

import holdfast as hf

def deed(name):
    with open("deeds", "a") as file:
        file.write(name + "\\n")

@hf.step
async def look(n: int) -> int:
    return n * 10

@hf.tool(effect="once")
async def refund(order: str, cents: int) -> dict[str, int]:
    deed("refund")
    print("refunding", order)
    if order == "bad":
        raise ConnectionResetError("reset by peer")
    return {"cents": cents}

@hf.tool(effect="idempotent")
async def ship(order: str) -> str:
    deed("ship " + hf.idempotency_key())
    if Path("die").exists():
        os.kill(os.getpid(), 9)
    return "shipped"

@hf.tool(effect="once")
async def slow(name: str) -> str:
    deed("begin " + name)
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    deed("end " + name)
    return name

@hf.agent
async def price(x: int) -> int:
    return await look(x) + 1

@hf.agent
async def triage(ticket: str, cents: int = 500) -> dict[str, int]:
    seen = await asyncio.gather(*(look(i) for i in range(3)))
    worth = await price(7)
    done = await refund(ticket, cents)
    return {"seen": sum(seen), "worth": worth, **done}

@hf.agent
async def deliver(order: str) -> str:
    first = await slow("pack") if order == "slow" else await refund(order, 1)
    return f"{first} {await ship(order)}"

@hf.agent
async def approve(ticket: str) -> str:
    answer = await hf.ask(f"Refund {ticket}?", bool)
    note = await hf.receive("note", str)
    return f"{answer} {note}"

@hf.agent
async def nap(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "woke"

@hf.agent
async def fail(why: str) -> str:
    raise ValueError(why)

@dataclasses.dataclass
class Memory:
    said: list[str] = dataclasses.field(default_factory=list)

@hf.agent
async def support(state: Memory, message: str) -> str:
    if message == "boom":
        raise ValueError("boom")
    state.said.append(message)
    return f"heard {len(state.said)}: {await look(len(state.said))}"

@hf.agent
async def teller(to: str) -> str:
    hf.send(to, "from the teller", topic="note")
    return "told"
"""


@dataclass(frozen=True)
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty directory with desk.py in it, which is the current one; no store yet."""
    (tmp_path / "desk.py").write_text(DESK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_STORE", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def cli(desk):
    """Run a command in this process."""

    def run(*args: str, given: str | None = None) -> Said:
        for name, module in list(sys.modules.items()):  # code may have been changed meanwhile
            if str(getattr(module, "__file__", "")).startswith(str(desk)):
                del sys.modules[name]
        result = CliRunner().invoke(app, list(args), input=given, prog_name="holdfast")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


class Processes:
    """The command in processes of its own, and what they do to the world."""

    def __init__(self, desk: Path) -> None:
        self.desk = desk
        self.running: list[subprocess.Popen[str]] = []

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start a command."""
        pipe = subprocess.PIPE
        env = os.environ | {"PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "holdfast", *args]
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.desk, text=True, env=env
        )
        self.running.append(process)
        return process

    @staticmethod
    def ended(process: subprocess.Popen[str]) -> Said:
        """Wait for a process and return what it said."""
        out, err = process.communicate(timeout=60)
        return Said(process.returncode, out, err)

    def run(self, *args: str) -> Said:
        """Run a command to its end."""
        return self.ended(self.start(*args))

    def deeds(self) -> list[str]:
        """Return what the effects have done, counted outside of holdfast."""
        file = self.desk / "deeds"
        return file.read_text().splitlines() if file.exists() else []

    def until(self, deed: str, times: int = 1) -> None:
        """Wait for a deed to be done."""
        for _ in range(2000):
            if self.deeds().count(deed) >= times:
                return
            select.select([], [], [], 0.01)
        raise AssertionError(f"{deed!r} was not done {times} times in 20 s: {self.deeds()}")


@pytest.fixture
def processes(desk):
    """Processes; what still runs at the end is killed."""
    made = Processes(desk)
    yield made
    for process in made.running:
        process.kill()
        process.communicate()


@pytest.fixture
def deeds(desk):
    """What the effects have done, counted outside of holdfast."""
    return Processes(desk).deeds
