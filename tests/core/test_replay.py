"""Which recorded events bind the code: not the parts of a cut attempt, nor an accepted divergence.

*Goal*: what is void is kept and shown, but not fed, and everything else is. *Method*: streams of a
turn are written by hand, sorted by ``plan`` and fed to a machine.
"""

import asyncio

import pytest

import holdfast as hf
from holdfast.core import events as ev
from holdfast.core.calls import Call
from holdfast.core.machine import Machine
from holdfast.core.replay import feed_all, open_streams, plan
from holdfast.core.specs import agent_spec, spec_of
from holdfast.core.state import fold


@hf.step
async def words():
    yield ""


@hf.step
async def look(n: int) -> int: ...


@hf.agent
async def talk() -> str:
    heard = []
    async for word in words():
        hf.emit(word)
        heard.append(word)
    return " ".join(heard)


class Log:
    """Events written by hand: each is caused by the one before unless told otherwise."""

    def __init__(self):
        self.events = []

    def add(self, body, payload=None, cause=None):
        seq = len(self.events) + 1
        event = ev.seal(
            body,
            run="run-1",
            seq=seq,
            prev=self.events[-1].hash if self.events else ev.GENESIS,
            at=1_790_000_000_000_000 + seq,
            epoch=1,
            agent="agent:talk",
            cause=(seq - 1 if cause is None else cause,),
            payload=payload,
            salt=None if payload is None else b"s" * 32,
        )
        self.events.append(event)
        return event.seq


def cut_and_made_again(*between):
    """Attempt 1 gave "a" and was cut; attempt 2 gives "b" and "c"."""
    log = Log()
    log.add(ev.TurnStarted(1))
    log.add(ev.StepStarted("words#1", "read"), b"{}")
    log.add(ev.StepEmitted("words#1", 1, 1), b'"a"')
    log.add(ev.StreamEmitted(1), b'"a"')
    for body, payload in between:
        log.add(body, payload)
    log.add(ev.StepStarted("words#1", "read", 2))
    for n, word in enumerate((b'"b"', b'"c"'), start=1):
        log.add(ev.StepEmitted("words#1", 2, n), word)
        log.add(ev.StreamEmitted(n), word)
    log.add(ev.StepFinished("words#1", 2), b"2")
    log.add(ev.RunSucceeded(), b'"b c"')
    return log.events


def fed(events, **options):
    return [event.seq for event in plan(events, **options).feed]


FAILURE = (ev.StepFailed("words#1", 1, final=False, retry_at=5), b'{"type":"ConnectionError"}')


@pytest.mark.parametrize("between", [(), (FAILURE,)], ids=["crashed", "failed"])
def test_the_parts_of_a_cut_attempt_are_void_with_what_was_emitted_for_them(between):
    events = cut_and_made_again(*between)
    assert fed(events) == [n for n in range(1, len(events) + 1) if n not in (3, 4)]
    machine = Machine(agent_spec(talk), run="run-1", seed=1)
    feed_all(machine, plan(events).feed)
    assert machine.ended


def test_an_attempt_that_failed_and_waits_for_the_next_has_no_parts_either():
    events = cut_and_made_again(FAILURE)[:5]
    assert fed(events) == [1, 2, 5]


def test_the_parts_of_the_last_attempt_stand_until_it_is_cut():
    events = cut_and_made_again()[:4]
    assert fed(events) == [1, 2, 3, 4]
    assert fed(events, cut=frozenset({("words#1", 1)})) == [1, 2]
    assert fed(events, cut=frozenset({("words#1", 2), ("other#1", 1)})) == [1, 2, 3, 4]


def test_an_attempt_that_failed_for_good_keeps_its_parts():
    events = cut_and_made_again((ev.StepFailed("words#1", 1, final=True), b"{}"))[:5]
    assert fed(events) == [1, 2, 3, 4, 5]


def test_open_streams_are_those_with_parts_and_without_outcome():
    events = cut_and_made_again()
    begun = Log()
    begun.add(ev.RunCreated(1))
    for event in events:
        begun.add(event.body, event.payload)
    stream = begun.events

    def open_after(count):
        turn = stream[1 : count + 1]
        return open_streams(turn, fold(stream[: count + 1]))

    assert open_after(2) == frozenset(), "asked for, no part yet"
    assert open_after(3) == {("words#1", 1)}
    assert open_after(5) == frozenset(), "attempt 2 has no part yet"
    assert open_after(6) == {("words#1", 2)}
    assert open_after(10) == frozenset(), "it has its outcome"


def accepted():
    """The code asked for look(1), then look(2) diverged and was accepted; now it asks otherwise."""
    log = Log()
    log.add(ev.TurnStarted(1))
    log.add(ev.StepStarted("look#1", "read"), b'{"n":1}')
    log.add(ev.StepFinished("look#1"), b"10")
    log.add(ev.VersionMarked("old"), cause=3)
    log.add(ev.StepStarted("look#2", "read"), b'{"n":2}', cause=3)
    log.add(ev.StepFinished("look#2"), b"20")
    log.add(ev.RunDiverged(4), b"{}")
    log.add(ev.RunParked("diverged"))
    log.add(ev.RunAccepted(4, "ann"))
    log.add(ev.VersionMarked("new"), cause=3)
    log.add(ev.StepStarted("look#2", "read"), b'{"n":3}', cause=3)
    return log.events


def test_an_accepted_divergence_is_void_up_to_its_acceptance():
    sorted_out = plan(accepted())
    assert [event.seq for event in sorted_out.feed] == [1, 2, 3, 9, 10, 11]
    assert [event.seq for event in sorted_out.voided] == [4, 5, 6, 7, 8]
    assert sorted_out.marks == {"new"}


def test_new_code_is_bound_by_what_an_acceptance_left():
    @hf.agent
    async def job() -> int:
        await look(1)
        if hf.version_guard("new"):
            return await look(3)
        return await look(4)

    sorted_out = plan(accepted())
    machine = Machine(agent_spec(job), run="run-1", seed=1, marks=sorted_out.marks)
    feed_all(machine, sorted_out.feed)
    assert list(machine.calls) == ["look#2"]
    machine.close()


def test_two_acceptances_each_void_their_own_part():
    events = accepted()
    log = Log()
    log.events = events
    log.add(ev.RunDiverged(11), b"{}")
    log.add(ev.RunAccepted(11, "ann"))
    log.add(ev.StepStarted("look#2", "read"), b'{"n":4}', cause=3)
    assert fed(log.events) == [1, 2, 3, 9, 10, 13, 14]


def voided(*lives):
    """The plan of a turn in which ``pay`` was asked for and accepted away, once for each life."""
    log = Log()
    log.add(ev.TurnStarted(1))
    for args, outcome in lives:
        begin = log.add(ev.StepStarted("pay#1", "once"), args)
        log.add(ev.StepStarted("pay#1", "once", 2))
        if outcome is not None:
            log.add(ev.StepFinished("pay#1", 2), outcome)
        log.add(ev.RunAccepted(begin, "ann"))
    return plan(log.events)


@hf.tool
async def pay(to: set[str]) -> int: ...


def asked(args, key="pay#1"):
    call = Call(key, "step", "once")
    call.spec, call.args = spec_of(pay), args
    return call


def found(sorted_out, args, key="pay#1"):
    """The arguments and the outcome of the void step that is to be taken over."""
    pair = sorted_out.voided_step(asked(args, key))
    return pair and (pair[0].payload, pair[1] and pair[1].payload)


def test_a_void_step_is_found_again_by_key_and_arguments():
    sorted_out = voided((b'{"to":["a"]}', b"1"))
    assert found(sorted_out, b'{"to":["a"]}') == (b'{"to":["a"]}', b"1")
    assert found(sorted_out, b'{"to":["b"]}') is None
    assert found(sorted_out, b'{"to":["a"]}', key="pay#2") is None


def test_a_void_step_without_an_outcome_is_found_too():
    assert found(voided((b'{"to":["a"]}', None)), b'{"to":["a"]}') == (b'{"to":["a"]}', None)


def test_arguments_of_other_bytes_and_the_same_value_are_the_same():
    assert found(voided((b'{"to":["a","b"]}', b"1")), b'{"to":["b","a"]}') is not None


def test_of_several_lives_each_outcome_stays_with_its_arguments():
    sorted_out = voided((b'{"to":["a"]}', b"1"), (b'{"to":["b"]}', None))
    assert found(sorted_out, b'{"to":["b"]}') == (b'{"to":["b"]}', None)
    assert found(sorted_out, b'{"to":["a"]}') == (b'{"to":["a"]}', b"1")
    again = voided((b'{"to":["a"]}', b"1"), (b'{"to":["a"]}', None))
    assert found(again, b'{"to":["a"]}') == (b'{"to":["a"]}', b"1"), "the deed was done"


def test_a_void_step_whose_arguments_were_erased_is_not_taken_over():
    sorted_out = voided((b'{"to":["a"]}', b"1"))
    for event in sorted_out.voided:
        event.payload = event.salt = None
    assert found(sorted_out, b'{"to":["a"]}') is None


def test_a_marker_in_the_void_does_not_count_for_the_guard():
    events = [event for event in accepted() if event.body != ev.VersionMarked("new")]
    assert plan(events).marks == frozenset()


def test_only_the_last_recorded_event_is_fed_as_the_last():
    @hf.agent
    async def job() -> bool:
        await asyncio.gather(look(1), look(2))
        return hf.version_guard("g")

    log = Log()
    log.add(ev.TurnStarted(1))
    log.add(ev.StepStarted("look#1", "read"), b'{"n":1}')
    log.add(ev.StepStarted("look#2", "read"), b'{"n":2}')
    log.add(ev.StepFinished("look#2"), b"20")
    log.add(ev.StepFinished("look#1"), b"10")
    machine = Machine(agent_spec(job), run="run-1", seed=1)
    feed_all(machine, log.events)
    assert [command.body for command in machine.issued] == [
        ev.VersionMarked("g"),
        ev.RunSucceeded(),
    ]
    log.add(ev.RunSucceeded(), b"false")
    machine = Machine(agent_spec(job), run="run-1", seed=1)
    feed_all(machine, log.events)
    assert machine.ended, "this run ended before there was a guard"
