"""The simulation finds what it is there to find.

Goal: each invariant that the simulation is said to check breaks a test when the heart breaks it.
Method: one defect at a time is put into the heart, the machine, a runner, a store; a program that
it matters to is tried everywhere (or in a hostile world), and must be found broken in the words of
the invariant. The same programs pass without a defect in ``test_kill_anywhere.py``.
"""

# ruff: noqa: SLF001 - a defect is put where nobody else has any business

import asyncio
import importlib.util
import itertools
import random
import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from holdfast.core import events as ev
from holdfast.core.machine import Machine
from holdfast.runtime import runner, steps
from holdfast.runtime.appender import Appender
from holdfast.runtime.inbox import Inbox
from holdfast.runtime.runner import Runner
from holdfast.runtime.steps import Steps
from holdfast.stores.memory import MemoryStore
from holdfast.stores.memory_tables import UserTables
from holdfast.stores.sqlite.writer import Writer
from holdfast.testing.chaos import chaos
from holdfast.testing.crashes import BrokenPromise, everywhere, once_at

_spec = importlib.util.spec_from_file_location("programs", Path(__file__).with_name("programs.py"))
programs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(programs)


@dataclass
class Defect:
    """Something put into the heart that should not be there."""

    put_in: Callable[[pytest.MonkeyPatch], None]
    program: str
    """Which program shows it."""
    disaster: str
    """What it takes: a disaster anywhere, or ``chaos``."""
    told: str
    """A part of what the simulation says then, as a regular expression."""
    on: str = "in_memory"

    @property
    def found_by(self) -> Callable:
        return everywhere if self.disaster != "chaos" else in_a_hostile_world


def in_a_hostile_world(program, fresh, _disaster) -> None:
    chaos(program, fresh, 0)


DEFECTS: dict[str, Defect] = {}


def defect(program: str, disaster: str, told: str, on: str = "in_memory"):
    def put(put_in: Callable[[pytest.MonkeyPatch], None]):
        DEFECTS[put_in.__name__] = Defect(put_in, program, disaster, told, on)
        return put_in

    return put


# One authority


@defect("gathered", "pause", "appended to busy at epoch 1, which is 2")
def a_store_takes_what_a_stale_epoch_sends(patch):
    check = MemoryStore._check

    def lenient(self, run, _epoch, expected_seq):
        check(self, run, self._runs[run].epoch, expected_seq)

    patch.setattr(MemoryStore, "_check", lenient)


@defect("reads_then_once", "kill", "the epoch is not new")
def a_claim_raises_no_epoch(patch):
    claim = MemoryStore.claim

    async def same_epoch(self, *args, **facts):
        claims = await claim(self, *args, **facts)
        for claimed in claims:
            self._runs[claimed.row.run].epoch = max(1, claimed.epoch - 1)
        return [replace(c, epoch=max(1, c.epoch - 1)) for c in claims]

    patch.setattr(MemoryStore, "claim", same_epoch)


@defect("gathered", "chaos", "callbacks, and no end")
def a_claim_takes_runs_that_somebody_holds(patch):
    claim = MemoryStore.claim

    async def greedy(self, worker, **facts):
        for held in self._runs.values():
            if held.worker != worker:
                held.worker = ""
        return await claim(self, worker, **facts)

    async def always(*_args, **_facts):
        return True

    patch.setattr(MemoryStore, "claim", greedy)
    patch.setattr(MemoryStore, "ready", always)


@defect("once_by_hand", "stop", "whose lease was over")
def a_paused_worker_acts_although_its_lease_is_over(patch):
    patch.setattr(Runner, "may_act", lambda _self: True)


# All or nothing, and durable before it is told


@defect("reads_then_once", "kill", "acts without an intent of its own in the log")
def an_effect_begins_before_its_intent_is_durable(patch):
    def at_once(self, callback):
        self.flush()
        callback()

    patch.setattr(Appender, "when_durable", at_once)


@defect("reads_then_once", "kill", "is not the fold")
def an_append_is_answered_before_it_is_durable(patch):
    append = MemoryStore.append

    def later(self, change):
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        answer.set_result(None)
        loop.call_later(0.0005, append, self, change)
        return answer

    patch.setattr(MemoryStore, "append", later)


@defect("reads_then_once", "kill", ".", on="on_files")
def a_commit_is_skipped(patch):
    commit, numbers = Writer._commit, itertools.count(1)

    def sometimes(self, group):
        if next(numbers) % 7:
            return commit(self, group)
        self._connection.execute("BEGIN IMMEDIATE")
        answers = [job.operation(*job.arguments) for job in group]
        self._undo()
        return answers

    patch.setattr(Writer, "_commit", sometimes)


@defect("pen_pals", "kill", "has the cause|never delivered|out of order")
def a_message_is_delivered_before_the_event_that_sends_it_is_durable(patch):
    def at_once(self, message):
        store = self._store
        asyncio.get_running_loop().create_task(store.deliver([message]))

    patch.setattr(Appender, "send", at_once)


@defect("transactions", "kill", "is not")
def a_transaction_is_kept_although_its_outcome_is_not(patch):
    transaction = UserTables.transaction

    @contextmanager
    def keeping(self):
        with transaction(self) as given:
            try:
                yield given
            finally:
                given._tables.set_authorizer(None)
                given._tables.execute("COMMIT")
                given._tables.execute("BEGIN")

    patch.setattr(UserTables, "transaction", keeping)


# Fold and replay


@defect("gathered", "kill", "diverged")
def recorded_outcomes_are_fed_in_the_order_they_were_asked_for(patch):
    feed_all = runner.feed_all

    def sorted_first(machine, events):
        places = [n for n, e in enumerate(events) if isinstance(e.body, ev.StepFinished)]
        ordered = sorted((events[n] for n in places), key=lambda e: e.body.key)
        feed = list(events)
        for n, event in zip(places, ordered, strict=True):
            feed[n] = event
        feed_all(machine, feed)

    patch.setattr(runner, "feed_all", sorted_first)


@defect("gathered", "kill", "is not|Diverged|diverged")
def replay_gives_an_outcome_to_another_call_of_the_same_name(patch):
    end_call = Machine._end_call

    def swapped(self, event, body):
        name = getattr(body, "key", "").split("#")[0]
        if self._replaying and isinstance(body, ev.StepFinished):
            key = next(k for k in self.calls if k.startswith(f"{name}#"))
            body = replace(body, key=key)
        end_call(self, event, body)

    patch.setattr(Machine, "_end_call", swapped)


@defect("chance", "kill", "Diverged|diverged")
def chance_is_not_drawn_from_the_seed(patch):
    patch.setattr("holdfast.ambient.draw", lambda *_: random.random())


@defect("conversation", "kill", "Diverged")
def a_turn_begins_without_the_state_that_the_last_one_left(patch):
    start = Runner.start

    async def forgetful(self):
        await start(self)
        self._state = None

    patch.setattr(Runner, "start", forgetful)


# Effects, doubt and retries


@defect("once_by_hand", "kill", "blindly again")
def a_once_effect_is_run_again_blindly(patch):
    recover = Steps._recover

    def blind(self, call):
        step = self._open(call.key)
        if call.effect == "once" and step.stage == "started":
            self._attempt_again(call.key, (step.attempt_seq,))
        else:
            recover(self, call)

    patch.setattr(Steps, "_recover", blind)


@defect("once_by_hand", "kill", "done too often|is not|a verdict of nobody")
def a_doubt_is_settled_without_evidence(patch):
    def optimist(self, key):
        self._hold_back(lambda: self._settle_doubt(key, "not_done", b"", "", ()))

    patch.setattr(Steps, "_doubt", optimist)


@defect("idempotent_fails_after_acting", "kill", "done too often|is not")
def another_worker_uses_another_idempotency_key(patch):
    context = Steps._context

    def keyed(self, call):
        found = context(self, call)
        found.seed = f"{found.seed}-{self._runner.log.epoch}"
        return found

    patch.setattr(Steps, "_context", keyed)


@defect("idempotent_fails_after_acting", "kill", "undisturbed: .* is not")
def another_attempt_uses_another_idempotency_key(patch):
    context = Steps._context

    def keyed(self, call):
        found = context(self, call)
        found.seed = f"{found.seed}-{found.attempt}"
        return found

    patch.setattr(Steps, "_context", keyed)


@defect("stubborn", "kill", "not done")
def a_lost_worker_spends_a_retry(patch):
    recover = Steps._recover

    def count(self, call):
        step = self._open(call.key)
        step.failures += step.stage == "started"
        recover(self, call)

    patch.setattr(Steps, "_recover", count)


@defect("once_by_hand", "kill", "undisturbed: .* is not")
def a_failure_is_taken_for_a_no(patch):
    verdict_of = steps.verdict_of

    def no(error, effect):
        verdict = verdict_of(error, effect)
        return "failed" if verdict == "unknown" else verdict

    patch.setattr(steps, "verdict_of", no)


@defect("failed_saga", "kill", "Diverged|done too often|not done")
def what_a_dead_worker_did_is_not_undone(patch):
    end_call = Machine._end_call

    def careless(self, event, body):
        before = list(self._undo)
        end_call(self, event, body)
        if self._replaying:
            self._undo[:] = before

    patch.setattr(Machine, "_end_call", careless)


# Progress, messages, timers, lineage


@defect("sleeps", "kill", "nothing happens any more|no process waits")
def a_timer_is_lost_when_a_run_parks(patch):
    park = Runner._park
    patch.setattr(Runner, "_park", lambda self, _wake_at: park(self, 0))


@defect("stubborn", "kill", "nothing happens any more|no process waits|it took")
def a_retry_is_forgotten_with_the_worker(patch):
    recover = Steps._recover

    def forgetful(self, call):
        if self._open(call.key).stage != "failed":
            recover(self, call)

    patch.setattr(Steps, "_recover", forgetful)


@defect("mailbox", "kill", "out of order|is lost|more than once|is not")
def a_message_taken_is_not_consumed(patch):
    patch.setattr(Appender, "take", lambda *_: None)


@defect("pen_pals", "kill", "is lost|nothing happens any more|no process waits")
def a_message_is_consumed_when_it_is_looked_at(patch):
    add = Inbox.add

    def greedy(self, messages):
        for message in messages:
            if message.n > self.seen:
                self._runner.log.take(message.n)
        add(self, messages)

    patch.setattr(Inbox, "add", greedy)
    patch.setattr(Inbox, "serve", _serve_without_taking(Inbox.serve))


def _serve_without_taking(serve):
    def without(self):
        log = self._runner.log
        take, log.take = log.take, lambda _n: None
        try:
            serve(self)
        finally:
            log.take = take

    return without


@defect("family", "kill", "nothing happens any more|no process waits")
def the_end_of_a_child_is_not_told_by_a_second_worker(patch):
    tell = Runner._tell_parent

    def only_first(self, *args):
        if self.epoch == 1:
            tell(self, *args)

    patch.setattr(Runner, "_tell_parent", only_first)


@defect("gathered", "kill", "has no cause")
def an_event_has_no_cause(patch):
    record = Appender.record

    def orphan(self, body, payload=None, cause=(), *rest):
        return record(
            self, body, payload, () if isinstance(body, ev.StepFinished) else cause, *rest
        )

    patch.setattr(Appender, "record", orphan)


@defect("cancelled_saga", "kill", "Diverged")
def a_request_to_cancel_is_forgotten_with_the_worker(patch):
    take_in = Machine._take_in

    def deaf(self, event, body):
        if not (self._replaying and isinstance(body, ev.CancelRequested)):
            take_in(self, event, body)

    patch.setattr(Machine, "_take_in", deaf)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found(name, request, monkeypatch):
    put_in = DEFECTS[name]
    program = programs.PROGRAMS[put_in.program]()
    fresh = request.getfixturevalue(put_in.on)
    put_in.put_in(monkeypatch)
    with pytest.raises(BrokenPromise, match=put_in.told):
        put_in.found_by(program, fresh, put_in.disaster)


def test_a_failure_names_what_repeats_it(in_memory, monkeypatch):
    put_in = DEFECTS["a_once_effect_is_run_again_blindly"]
    put_in.put_in(monkeypatch)
    program = programs.PROGRAMS[put_in.program]
    with pytest.raises(BrokenPromise) as found:
        everywhere(program(), in_memory, "kill", seed=7)
    said = re.match(
        r"program 'once_by_hand', seed 7: kill at point (\d+) \(.*\): AssertionError: (.*)",
        str(found.value),
    )
    assert said
    with pytest.raises(AssertionError, match=re.escape(said[2])):
        once_at(program(), in_memory, "kill", int(said[1]), seed=7)
