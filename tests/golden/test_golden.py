"""What each scenario writes to the log is what it always wrote.

*Goal*: a change of behaviour shows as a diff that somebody reviews. *Method*: each ``*.txt`` here
is a scenario: lines that begin with ``> `` are commands, the lines below one are the events that it
adds to the log, times and hashes left out. ``pytest --rewrite`` writes them anew.

Commands: ``start AGENT INPUT [as ID]``, ``work``, ``play`` (work, and let time pass until nothing
would wake), ``kill N`` (work, and die at the N-th write, which is made), ``tick SECONDS``,
``tell RUN TOPIC MESSAGE``, ``cancel RUN``, ``resolve RUN STEP happened OUTCOME``,
``resolve RUN STEP did-not``, ``accept RUN``, ``release N``, ``world NAME VALUE`` (see
``programs.py``) and ``done`` (what was done to the world).
"""

import dataclasses
import importlib.util
import json
import shlex
from pathlib import Path

import pytest

from holdfast.core.machine import describe

HERE = Path(__file__).parent
EVERYTHING = 100_000
TIMES = {"wake_at", "retry_at"}
SAID = {
    "key",
    "effect",
    "agent_called",
    "to",
    "name",
    "timer",
    "seed",
}  # by describe(), or by chance


def load_programs():
    """Load ``programs.py`` anew, so that each scenario has a world of its own."""
    spec = importlib.util.spec_from_file_location("programs", HERE / "programs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line_of(event):
    """An event as one line: run, seq, what, facts, payload and cause."""
    words = [event.run, str(event.seq), describe(event.body)]
    for field in dataclasses.fields(event.body):
        value = getattr(event.body, field.name)
        if field.name in TIMES and value:
            words.append(f"{field.name}=+{(value - event.at) / 1e6:.3f}s")
        elif field.name not in SAID and value != field.default:
            words.append(f"{field.name}={value}")
    if event.payload is not None:
        words.append(event.payload.decode())
    causes = [f"{c[0]}:{c[1]}" if isinstance(c, tuple) else str(c) for c in event.cause]
    return " ".join([*words, f"<- {', '.join(causes)}"] if causes else words)


class Scenario:
    """Carries out commands on a stage and tells what each added to the log."""

    def __init__(self, make_stage):
        self.programs = load_programs()
        self.stage = make_stage(*self.programs.RELEASES["1"])
        self.position = 0

    def carry_out(self, command):
        name, *words = shlex.split(command)
        said = getattr(self, name)(*words)
        log = self.stage.run(self.stage.store.read_log(self.position, limit=EVERYTHING))
        self.position = log[-1][0] if log else self.position
        return [*(said or []), *(line_of(event) for _, event in log)]

    def start(self, name, value="null", _as="as", run="r"):
        client = self.stage.client
        spec = client._spec(name)  # noqa: SLF001 - as the command line does
        self.stage.run(client.start_encoded(spec, value.encode(), run=run))

    def work(self):
        self.stage.work()

    def play(self):
        self.stage.play()

    def kill(self, write):
        assert self.stage.work_until_killed(int(write), made=True), "it did not come so far"

    def tick(self, seconds):
        self.stage.clock.tick(float(seconds))

    def tell(self, run, topic, value):
        self.stage.run(
            self.stage.client.message_encoded(run, value.encode(), topic=topic.strip("-"))
        )

    def cancel(self, run):
        self.stage.run(self.stage.client.cancel(run, by="ann"))

    def resolve(self, run, step, what, value="null"):
        said = {"did_not": True} if what == "did-not" else {"happened": json.loads(value)}
        self.stage.run(self.stage.client.resolve(run, step, by="ann", **said))

    def accept(self, run):
        self.stage.run(self.stage.client.accept(run, by="ann"))

    def release(self, number):
        self.stage.agents = self.programs.RELEASES[number]

    def world(self, name, value):
        setattr(self.programs.WORLD, name, json.loads(value))

    def done(self):
        return self.programs.WORLD.done


def played(text, make_stage):
    """Carry out the commands of a scenario and return it with what they say now."""
    scenario, lines = Scenario(make_stage), []
    for line in text.splitlines():
        if line.startswith("> "):
            lines += [line, *scenario.carry_out(line[2:])]
        elif not line.strip() or line.startswith("#"):
            lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", sorted(HERE.glob("*.txt")), ids=lambda path: path.stem)
def test_the_log_of_a_scenario_is_as_it_was(path, stage, request):
    expected = path.read_text()
    now = played(expected, stage)
    if request.config.getoption("--rewrite"):
        path.write_text(now)
    else:
        assert now == expected, "Hint: pytest --rewrite, then review the diff"


def test_there_are_scenarios():
    assert len(list(HERE.glob("*.txt"))) >= 12
