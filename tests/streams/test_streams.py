"""Streams of every release are opened, folded and replayed by today's code.

*Goal*: an upgrade strands no run: what an old release wrote means what it meant. *Method*: for each
stream in ``RELEASE/*.jsonl`` (made by ``freeze.py``, with the agents' code as it was in
``RELEASE/programs.py``), leaves are checked byte for byte, the fold must end where it ended, and
each turn is fed to the code again.
"""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from holdfast.core import events as ev
from holdfast.core.machine import Machine
from holdfast.core.replay import feed_all, plan
from holdfast.core.specs import agent_spec
from holdfast.core.state import ENDED, fold

HERE = Path(__file__).parent
STREAMS = sorted(HERE.glob("*/*.jsonl"))


def opened(path):
    """Return the runs of a frozen file: how each stood at the end, and its events."""
    head, *lines = map(json.loads, path.read_text().splitlines())
    runs = {run: [] for run in head["runs"]}
    for line in lines:
        payload = None if line["payload"] is None else line["payload"].encode()
        salt = None if line["salt"] is None else bytes.fromhex(line["salt"])
        event = ev.open_leaf(line["leaf"].encode(), payload=payload, salt=salt)
        assert event.run == line["run"]
        runs[event.run].append(event)
    return head["runs"], runs


@pytest.fixture(scope="module")
def agents():
    """The agents of a release by URI, as they were then."""

    def agents(release):
        name = f"programs_{release}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, HERE / release / "programs.py")
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        return {agent_spec(agent).uri: agent_spec(agent) for agent in sys.modules[name].AGENTS}

    yield agents
    for name in [name for name in sys.modules if name.startswith("programs_")]:
        del sys.modules[name]


def turns_of(events):
    """Split a stream into its turns, each with the state before it."""
    state, turns = None, []
    for event in events:
        if isinstance(event.body, ev.TurnStarted):
            turns.append((state, []))
        if turns:
            turns[-1][1].append(event)
        if isinstance(event.body, ev.TurnFinished):
            state = json.dumps(json.loads(event.payload)["state"]).encode()
    return turns


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: f"{path.parent.name}-{path.stem}")
class TestFrozen:
    def test_it_is_opened_and_its_bytes_are_what_they_say(self, path):
        for events in opened(path)[1].values():
            prev = ev.GENESIS
            for event in events:
                assert event.prev == prev
                prev = hashlib.sha256(b"\0" + event.leaf).hexdigest()
                if event.payload is not None:
                    assert ev.commitment(event.salt, event.payload) == event.committed
                assert isinstance(event.body, ev.BODIES[json.loads(event.leaf)["type"]])

    def test_it_folds_to_where_it_stood(self, path):
        stood, runs = opened(path)
        assert {run: fold(events).status for run, events in runs.items()} == stood

    def test_it_is_replayed_by_the_code_of_then(self, path, agents):
        for run, events in opened(path)[1].items():
            for state, recorded in turns_of(events):
                sorted_out = plan(recorded)
                machine = Machine(
                    agents(path.parent.name)[events[0].agent],
                    run=run,
                    seed=events[0].body.seed,
                    input=events[0].payload,
                    state=state,
                    marks=sorted_out.marks,
                )
                feed_all(machine, sorted_out.feed)
                last = recorded[-1].body.type
                over = last in {"turn.finished", "turn.failed"} or last.startswith("run.")
                assert not machine.issued
                assert machine.ended == (over and last != "run.parked")
                assert machine.ended or set(fold(events).open_steps) <= machine.calls.keys()
                machine.close()


def test_every_type_of_event_is_frozen_somewhere():
    frozen = {
        event.body.type for path in STREAMS for run in opened(path)[1].values() for event in run
    }
    assert frozen == ev.BODIES.keys()


def test_streams_that_ended_and_streams_that_wait_are_among_them():
    stood = {status for path in STREAMS for status in opened(path)[0].values()}
    assert stood >= ENDED | {"waiting", "idle", "in_doubt"}
