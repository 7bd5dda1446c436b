"""The simulation repeats itself exactly, and it sees what is broken.

Goal: one seed gives one log, byte for byte, the same on every store; points of one moment are one
point to whoever is killed; and a defect put into the library on purpose is found, by the disaster
that should find it. Method: logs are compared; for the defects, one line of a method is replaced by
another before a program is run.
"""

import importlib
import importlib.util
import inspect
import textwrap
from pathlib import Path

import pytest

from holdfast.testing.chaos import chaos
from holdfast.testing.crashes import BrokenPromise, everywhere, once_at

_spec = importlib.util.spec_from_file_location("programs", Path(__file__).with_name("programs.py"))
programs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(programs)


@pytest.mark.parametrize("name", ["gathered", "family", "broken_stream"])
def test_one_seed_gives_one_log_on_every_store(name, in_memory, on_files):
    program = programs.PROGRAMS[name]()
    for disaster, point in [("none", 0), ("kill", 40), ("stop", 60)]:
        logs = {
            once_at(program, fresh, disaster, point, seed=7).left.leaves()
            for fresh in (in_memory, in_memory, on_files)
        }
        assert len(logs) == 1
        other = once_at(program, in_memory, disaster, point, seed=8).left.leaves()
        assert other not in logs


@pytest.mark.parametrize("name", ["gathered", "conversation"])
def test_a_hostile_world_repeats_itself(name, in_memory, on_files):
    program = programs.PROGRAMS[name]()
    for seed in (3, 4):
        outcomes = [
            chaos(program, fresh, seed, pauses=True) for fresh in (in_memory, in_memory, on_files)
        ]
        assert len({outcome.left.leaves() for outcome in outcomes}) == 1
        assert len({tuple(outcome.points) for outcome in outcomes}) == 1


@pytest.mark.parametrize("name", ["once_by_hand", "pen_pals"])
def test_points_of_one_moment_are_one_to_a_killed_process(name, in_memory):
    program = programs.PROGRAMS[name]()
    points = once_at(program, in_memory).moments
    logs = {}
    for number, moment in enumerate(points, 1):
        log = once_at(program, in_memory, "kill", number).left.leaves()
        assert logs.setdefault(moment, log) == log
    assert 1 < len(logs) < len(points)


DEFECTS = {
    "the store does not look at the epoch": (
        "holdfast.stores.memory:MemoryStore._check",
        "if held.epoch > epoch:",
        "if False:",
        ("gathered", "stop"),
    ),
    "a claim leaves the epoch as it is": (
        "holdfast.stores.memory:MemoryStore.claim",
        "held.epoch += 1",
        "held.epoch = max(held.epoch, 1)",
        ("reads_then_once", "kill"),
    ),
    "an effect does not wait for its intent": (
        "holdfast.runtime.appender:Appender.when_durable",
        "if self._done == self._sent:",
        "if True:",
        ("once_by_hand", "kill"),
    ),
    "outcomes are fed in the order asked for": (
        "holdfast.core.replay:feed_all",
        "last = len(events) - 1",
        "events = by_request(events); last = len(events) - 1",
        ("race", "kill"),
    ),
    "a doubt is skipped": (
        "holdfast.runtime.steps:Steps._recover",
        'call.effect == "once"',
        'call.effect == "never"',
        ("once_by_hand", "kill"),
    ),
    "a message is not consumed": (
        "holdfast.runtime.appender:Appender.take",
        "self._consume.append(number)",
        "pass",
        ("conversation", "kill"),
    ),
    "a message is not sent": (
        "holdfast.runtime.appender:Appender.send",
        "self._deliver.append(message)",
        "pass",
        ("pen_pals", "none"),
    ),
    "a parked run is not released": (
        "holdfast.runtime.appender:Appender.release",
        "release=True",
        "release=False",
        ("mailbox", "none"),
    ),
    "a drained run forgets the mail it has not read": (
        "holdfast.runtime.runner:Runner._leave",
        'seen = 0 if kind == "drained" else self.inbox.seen',
        "seen = self.inbox.seen",
        ("question", "drain"),
    ),
    "a drained run leaves doubts": (
        "holdfast.runtime.steps:Steps.give_back",
        'step.effect == "once"',
        'step.effect == "never"',
        ("gathered", "drain"),
    ),
    "a worker acts beyond its lease": (
        "holdfast.runtime.runner:Runner.may_act",
        "not self._lease_holds()",
        "False",
        ("once_by_hand", "stop"),
    ),
    "messages are taken before the turn is replayed": (
        "holdfast.runtime.runner:Runner.drain",
        "if self._begun and not self._closing:",
        "if hasattr(self, 'log') and not self._closing:",
        ("cancelled_saga", "drain"),
    ),
    "a cleanup is taken for code outside a run": (
        "holdfast.core.machine:Machine.close",
        "self._context.run(self.loop.unwind, RunSuspended)",
        "self.loop.unwind(RunSuspended)",
        ("cancelled_saga", "none"),
    ),
    "an effect is done beside its transaction": (
        "holdfast.stores.memory:MemoryStore._transaction",
        'tables.execute("BEGIN")',
        "pass",
        ("transactions", "kill"),
    ),
    "each attempt has a key of its own": (
        "holdfast.runtime.steps:Steps._context",
        "call.key)",
        'f"{call.key} {self._open(call.key).attempt}")',
        ("idempotent_fails_after_acting", "kill"),
    ),
    "a lost worker spends a retry": (
        "holdfast.core.state:_step_started",
        "step = state.open_steps[body.key]",
        "step = state.open_steps[body.key]; step.failures += body.attempt > 1",
        ("idempotent_fails_after_acting", "kill"),
    ),
    "a child is not created with its note": (
        "holdfast.runtime.appender:Appender.start",
        "self._create.append(run)",
        "pass",
        ("family", "none"),
    ),
    "causes are lost": (
        "holdfast.runtime.runner:Runner._note_all",
        "(command.cause,)",
        "(1,)",
        ("reads_then_once", "none"),
    ),
    "compensation in order": (
        "holdfast.core.machine:Machine._compensate",
        "self._undo.pop()",
        "self._undo.pop(0)",
        ("cancelled_saga", "kill"),
    ),
}
"""What is broken → (where, the text replaced, by what, the program and disaster that show it)."""


def by_request(events):
    """Return recorded events with the outcomes in the order in which they were asked for."""
    asked = [e.body.key for e in events if e.body.type == "step.started"]
    places = [n for n, e in enumerate(events) if e.body.type == "step.finished"]
    in_order = iter(sorted((events[n] for n in places), key=lambda e: asked.index(e.body.key)))
    return [next(in_order) if n in places else event for n, event in enumerate(events)]


def break_on_purpose(monkeypatch, where, old, new):
    """Replace a piece of one function of the library, for the length of a test."""
    module_name, _, path = where.partition(":")
    module = importlib.import_module(module_name)
    *owners, name = path.split(".")
    owner = module
    for part in owners:
        owner = getattr(owner, part)
    function = inspect.unwrap(owner.__dict__[name])
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{where} holds {old!r} {source.count(old)} times, not once"
    scope = {**vars(module), "by_request": by_request}
    exec(source.replace(old, new), scope)
    for other in [owner, *feeders(owner, name, function)]:
        monkeypatch.setattr(other, name, scope[name])
    table = vars(module).get("_APPLY", {})
    for kind, applied in table.items():
        if applied is function:
            monkeypatch.setitem(table, kind, scope[name])


def feeders(owner, name, function):
    """Return the modules that have imported a function by its name."""
    if not inspect.ismodule(owner):
        return []
    known = [importlib.import_module("holdfast.runtime.runner")]
    return [module for module in known if vars(module).get(name) is function]


@pytest.mark.parametrize("what", DEFECTS)
def test_a_defect_put_in_on_purpose_is_found(what, monkeypatch, in_memory):
    where, old, new, (name, disaster) = DEFECTS[what]
    break_on_purpose(monkeypatch, where, old, new)
    program = programs.PROGRAMS[name]()
    with pytest.raises(AssertionError):  # noqa: PT012 - either may raise
        if disaster == "none":
            once_at(program, in_memory)
        else:
            everywhere(program, in_memory, disaster)


def test_a_late_word_about_an_earlier_attempt_is_found(monkeypatch, in_memory):
    where, old = "holdfast.runtime.steps:Steps.resolve", '("doubted", said["doubt"])'
    break_on_purpose(monkeypatch, where, old, '("doubted", step.doubt_seq)')
    program = programs.PROGRAMS["once_by_hand"]()
    with pytest.raises(BrokenPromise, match="done too often"):  # noqa: PT012 - either may raise
        for seed in range(1000):
            chaos(program, in_memory, seed)
