"""A machine sees only its log: what it asks for follows from the events fed, live and on replay.

*Goal*: commands come out in program order, notes are held against them, and code that asks for
something else is stopped before anything new is issued. *Method*: ``Turn`` (see ``conftest.py``)
plays the runner; no body of a step ever runs. Replays feed the same log to the same or other code.
"""

import asyncio
import contextlib
import contextvars
import threading

import pytest

import holdfast as hf
from holdfast.core import events as ev
from holdfast.core.machine import Machine, current
from holdfast.core.specs import agent_spec, spec_of
from holdfast.errors import IoOutsideStep, NotInRun, RunSuspended, UsageError


@hf.step
async def look(n: int) -> int: ...


@hf.step
async def peek(n: int) -> int: ...


@hf.tool(effect="once")
async def refund(order: str) -> str: ...


@hf.agent
async def two_looks(n: int) -> list[int]:
    return await asyncio.gather(look(n), look(n + 1))


# Feeding


def test_an_input_brings_commands_in_program_order(turn):
    t = turn(two_looks, 1)
    assert t.begin() == ["step.started look#1 (read)", "step.started look#2 (read)"]
    assert t.done("look#2", 20) == []
    assert t.done("look#1", 10) == ["run.succeeded"]
    assert t.result == [10, 20]


def test_feed_returns_the_commands_with_their_payload_and_cause(turn):
    t = turn(two_looks, 1)
    first, second = t.machine.feed(t.record(ev.TurnStarted(1)))
    assert first.body == ev.StepStarted("look#1", "read")
    assert (first.payload, second.payload) == (b'{"n":1}', b'{"n":2}')
    assert first.cause == 1
    assert list(t.machine.calls) == ["look#1", "look#2"]


def test_a_command_is_caused_by_the_event_that_woke_its_code(turn):
    @hf.agent
    async def chain() -> int:
        return await peek(await look(1))

    t = turn(chain)
    t.begin()
    t.done("look#1", 5)
    assert [(e.body.type, e.cause) for e in t.log if e.body.role == "note"] == [
        ("step.started", (1,)),
        ("step.started", (3,)),
    ]


def test_keys_count_calls_of_a_name_in_program_order(turn):
    @hf.agent
    async def mixed() -> None:
        await asyncio.gather(look(1), peek(1), look(2), peek(2))

    t = turn(mixed)
    t.begin()
    assert list(t.machine.calls) == ["look#1", "peek#1", "look#2", "peek#2"]


def test_the_coroutine_gets_the_decoded_value(turn):
    @hf.step
    async def pair() -> tuple[int, str]: ...

    @hf.agent
    async def unpack() -> str:
        got = await pair()
        return f"{type(got).__name__} {got}"

    t = turn(unpack)
    t.begin()
    t.done("pair#1", [1, "a"])
    assert t.result == "tuple (1, 'a')"


def test_a_failure_is_raised_as_recorded(turn):
    @hf.agent
    async def careful() -> str:
        try:
            await look(1)
        except hf.StepFailed as error:
            return f"{error.step} {error.error_type} {error.error_message} {error.retryable}"
        return "fine"

    t = turn(careful)
    t.begin()
    t.failed("look#1", "KeyError", "gone")
    assert t.result == "look#1 KeyError gone False"


def test_bookkeeping_and_failures_that_are_not_final_do_not_reach_the_coroutine(turn):
    t = turn(two_looks, 1)
    t.begin()
    assert t.feed(ev.StepFailed("look#1", 1, final=False, retry_at=5), b"{}") == []
    assert t.feed(ev.StepStarted("look#1", "read", 2)) == []
    assert t.feed(ev.RunParked("waiting")) == []
    assert list(t.machine.calls) == ["look#1", "look#2"]


def test_time_in_a_turn_is_that_of_the_event_fed(turn):
    @hf.agent
    async def watch() -> list[float]:
        before = hf.now().timestamp()
        await look(1)
        return [before, hf.now().timestamp()]

    t = turn(watch)
    t.begin()
    t.done("look#1", 1)
    assert t.result == [t.log[0].at / 1e6, t.log[2].at / 1e6]


def test_chance_is_drawn_from_the_seed(turn):
    @hf.agent
    async def dice() -> list[str]:
        return [str(hf.random()), str(hf.random()), str(hf.uuid()), hf.run_id()]

    results = []
    for seed in (7, 7, 8):
        t = turn(dice, seed=seed)
        t.begin()
        results.append(t.result)
    assert results[0] == results[1]
    assert results[0][3] == "run-1"
    assert not set(results[0][:3]) & set(results[2][:3])
    assert len(set(results[0])) == 4


def test_another_turn_draws_otherwise(turn):
    @hf.agent
    async def dice(state: list[float]) -> float:
        state.append(hf.random())
        return state[-1]

    replies = []
    for number in (1, 2):
        t = turn(dice, turn=number)
        t.begin()
        replies.append(t.result["reply"])
    assert replies[0] != replies[1]


def test_a_question_is_answered_under_its_key_which_names_the_turn(turn):
    @hf.agent
    async def curious(state: int) -> str:
        return await hf.ask(f"what is {state}?")

    for number, topic in ((1, "ask#1"), (2, "ask#1@2")):
        t = turn(curious, turn=number, state=number)
        assert t.begin() == [f"question.asked {topic}"]
        assert t.machine.calls["ask#1"].topic == topic
        t.tell("ask#1", topic, "a number")
        assert t.result == {"reply": "a number", "state": number}


def test_a_child_is_a_run_below_its_mother_whose_name_tells_the_turn(turn):
    @hf.agent
    async def mother(state: int) -> list[int]:
        return await two_looks(state)

    for number, child in ((1, "run-1/two_looks#1"), (2, "run-1/two_looks#1.2")):
        t = turn(mother, turn=number, state=5)
        t.begin()
        note = t.log[-1]
        assert note.body == ev.ChildStarted("two_looks#1", child, "agent:two_looks")
        assert note.payload == b"5"
        t.feed(ev.ChildFinished("two_looks#1", child, ok=True), b"[1,2]")
        assert t.result["reply"] == [1, 2]


def test_a_child_that_failed_is_a_failure_here(turn):
    @hf.agent
    async def mother() -> str:
        try:
            await two_looks(1)
        except hf.StepFailed as error:
            return error.error_message
        return ""

    t = turn(mother)
    t.begin()
    error = b'{"type":"ValueError","message":"no","retryable":false}'
    t.feed(ev.ChildFinished("two_looks#1", "run-1/two_looks#1", ok=False), error)
    assert t.result == "no"


def test_a_message_sent_has_an_id_of_its_own_unless_it_is_given_one(turn):
    @hf.agent
    async def sender(state: int) -> None:
        for n in range(2):
            hf.send("other", n + state, topic="t")
        hf.send("other", 9, id="mine")

    t = turn(sender, turn=3, state=0)
    t.begin()
    sent = [event.body for event in t.log if isinstance(event.body, ev.MessageSent)]
    assert [(body.key, body.topic, body.id) for body in sent] == [
        ("send#1", "t", "run-1/3/send#1"),
        ("send#2", "t", "run-1/3/send#2"),
        ("send#3", "", "mine"),
    ]


# Recorded order


@hf.agent
async def race() -> list[int]:
    tasks = [asyncio.create_task(look(n)) for n in range(3)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    winners = [tasks.index(task) for task in done]
    await asyncio.wait(pending)
    return winners


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_the_first_outcome_in_the_log_wins_live_and_on_replay(turn, order):
    t = turn(race)
    t.begin()
    for n in order:
        t.done(f"look#{n + 1}", n)
    assert t.result == [order[0]]
    assert t.replay().ended  # the same payload of run.succeeded, or it would have diverged


def test_a_prefix_fed_again_issues_what_followed_it(turn):
    t = turn(race)
    t.begin()
    for n in (2, 0, 1):
        t.done(f"look#{n + 1}", n)
    recorded = [event.body for event in t.log]
    for length in range(1, len(t.log)):
        machine = t.replay(log=t.log[:length])
        asked = [command.body for command in machine.issued]
        notes = recorded[length : length + len(asked)]
        assert asked == notes
        following = recorded[length + len(asked) :]
        assert not following or following[0].role == "input"
        machine.close()


# Divergence


def diverged(turn_, agent, **changes):
    with pytest.raises(hf.Diverged) as caught:
        turn_.replay(agent, **changes)
    return caught.value


@pytest.fixture
def recorded(turn):
    """A finished turn: look(1), then refund("a")."""

    @hf.agent
    async def job() -> str:
        await look(1)
        return await refund("a")

    t = turn(job)
    t.begin()
    t.done("look#1", 10)
    t.done("refund#1", "ok")
    assert t.said == [
        "turn.started",
        "step.started look#1 (read)",
        "step.finished look#1",
        "step.started refund#1 (once)",
        "step.finished refund#1",
        "run.succeeded",
    ]
    return t


def test_other_code_asks_for_another_step(recorded):
    @hf.agent
    async def job() -> str:
        await look(1)
        return str(await peek(1))

    error = diverged(recorded, job)
    assert (error.seq, error.recorded) == (4, "step.started refund#1 (once)")
    assert error.requested == "step.started peek#1 (read)"
    assert "hf.version_guard" in str(error)


def test_other_code_asks_with_other_arguments(recorded):
    @hf.agent
    async def job() -> str:
        await look(1)
        return await refund("b")

    error = diverged(recorded, job)
    assert error.seq == 4
    assert error.recorded == 'step.started refund#1 (once) with {"order":"a"}'
    assert error.requested == 'step.started refund#1 (once) with {"order":"b"}'


def test_other_code_gives_the_step_another_contract(recorded):
    @hf.tool(effect="read", name="refund")
    async def refund_freely(order: str) -> str: ...

    @hf.agent
    async def job() -> str:
        await look(1)
        return await refund_freely("a")

    assert diverged(recorded, job).requested == "step.started refund#1 (read)"


def test_other_code_asks_for_one_more(recorded):
    @hf.agent
    async def job() -> str:
        await asyncio.gather(look(1), peek(1))
        return await refund("a")

    error = diverged(recorded, job)
    assert (error.seq, error.recorded) == (3, "step.finished look#1")
    assert error.requested == "step.started peek#1 (read)"


def test_other_code_ends_earlier(recorded):
    @hf.agent
    async def job() -> str:
        await look(1)
        return "done"

    error = diverged(recorded, job)
    assert (error.seq, error.requested) == (4, "run.succeeded")


def test_other_code_asks_for_nothing_where_the_log_holds_a_step(recorded):
    @hf.agent
    async def job() -> str:
        await look(1)
        await hf.receive("word")
        return await refund("a")

    assert diverged(recorded, job).requested == "nothing more here"


def test_other_code_ends_with_another_result(recorded):
    @hf.agent
    async def job() -> str:
        await look(1)
        await refund("a")
        return "other"

    error = diverged(recorded, job)
    assert error.seq == 6
    assert error.recorded == 'run.succeeded with "ok"'
    assert error.requested == 'run.succeeded with "other"'


def test_other_code_carries_on_where_the_log_ends(recorded):
    @hf.agent
    async def job() -> str:
        await look(1)
        await refund("a")
        return await refund("b")

    assert diverged(recorded, job).requested == "step.started refund#2 (once)"


def ask(text):
    return hf.ask(text)


async def send(to, text="hi", **options):
    hf.send(to, text, **options)


async def emit(value):
    hf.emit(value)


async def guard(name):
    hf.version_guard(name)


OTHERWISE = {
    "a question": (lambda: ask("a"), lambda: ask("b")),
    "a message": (lambda: send("a", "hi"), lambda: send("a", "ho")),
    "a receiver": (lambda: send("a"), lambda: send("b")),
    "a topic": (lambda: send("a", topic="t"), lambda: send("a", topic="u")),
    "an id": (lambda: send("a", id="1"), lambda: send("a", id="2")),
    "a value for followers": (lambda: emit(1), lambda: emit(2)),
    "another child": (lambda: two_looks(1), race),
    "a child's input": (lambda: two_looks(1), lambda: two_looks(2)),
    "a guard that is gone": (lambda: guard("g"), lambda: asyncio.sleep(0)),
    "a guard of another name": (lambda: guard("g"), lambda: guard("h")),
    "a step for a message": (lambda: look(1), lambda: send("a")),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_other_code_asks_the_world_otherwise(turn, what):
    def agent(first):
        @hf.agent
        async def job() -> None:
            await first()

        return job

    before, after = map(agent, OTHERWISE[what])
    t = turn(before)
    t.begin()
    machine = t.replay()
    assert not machine.issued
    machine.close()
    assert diverged(t, after).seq == 2


def test_an_outcome_nobody_asked_for_diverges(turn):
    t = turn(two_looks, 1)
    t.begin()
    with pytest.raises(hf.Diverged, match=r"step\.finished peek#1"):
        t.done("peek#1", 1)


def test_a_timer_that_was_never_set_diverges(turn):
    t = turn(two_looks, 1)
    t.begin()
    with pytest.raises(hf.Diverged, match=r"timer\.fired 1"):
        t.feed(ev.TimerFired(1))


def test_an_input_before_the_notes_diverges(turn):
    t = turn(two_looks, 1)
    t.machine.feed(t.record(ev.TurnStarted(1)))
    with pytest.raises(hf.Diverged):
        t.machine.feed(t.record(ev.StepFinished("look#1"), b"1"))


def test_a_divergence_is_raised_before_the_new_code_is_carried_further(recorded):
    asked = []

    @hf.agent
    async def job() -> str:
        asked.append("look")
        await look(1)
        asked.append("peek")
        await peek(1)
        asked.append("further")
        return await refund("a")

    diverged(recorded, job)
    assert asked == ["look", "peek"]


def test_the_same_value_in_other_bytes_is_no_divergence(turn):
    @hf.step
    async def count(names: set[str]) -> int: ...

    @hf.agent
    async def job() -> set[str]:
        hf.emit({"x", "y"})
        await count({"a", "b", "c"})
        return {"d", "e"}

    t = turn(job)
    t.begin()
    t.done("count#1", 3)
    written = {
        "stream.emitted": [b'["y","x"]', b'["x","y"]'],
        "step.started": [b'{"names":["b","c","a"]}', b'{"names":["a","c","b"]}'],
        "run.succeeded": [b'["e","d"]', b'["d","e"]'],
    }
    for other in (0, 1):  # in one order or the other, whatever the hash seed
        for event in t.log:
            if event.body.type in written:
                event.payload = written[event.body.type][other]
                event.committed = ev.commitment(event.salt, event.payload)
        assert t.replay().ended
    event.payload = b'["d","f"]'
    event.committed = ev.commitment(event.salt, event.payload)
    with pytest.raises(hf.Diverged):
        t.replay()


def test_an_erased_payload_is_matched_by_its_key_alone(recorded):
    for event in recorded.log:
        if isinstance(event.body, ev.StepStarted):
            event.payload = event.salt = None
    assert recorded.replay().ended


# Cancelled waits


def test_a_timeout_abandons_a_read(turn):
    @hf.agent
    async def hurry() -> str:
        try:
            async with asyncio.timeout(5):
                await look(1)
        except TimeoutError:
            return "late"
        return "in time"

    t = turn(hurry)
    t.begin()
    assert t.fire() == ["step.abandoned look#1", "run.succeeded"]
    assert t.result == "late"
    assert t.replay().ended


def test_a_timeout_waits_for_an_effect_and_hands_over_its_outcome(turn):
    @hf.agent
    async def hurry() -> str:
        async with asyncio.timeout(5):
            return await refund("a")

    t = turn(hurry)
    t.begin()
    assert t.fire() == []
    assert list(t.machine.calls) == ["refund#1"]
    assert t.done("refund#1", "ok") == ["run.succeeded"]
    assert t.result == "ok"
    assert t.replay().ended


def test_a_timeout_that_an_effect_outlived_ends_the_next_wait(turn):
    @hf.agent
    async def hurry() -> str:
        done = "nothing"
        try:
            async with asyncio.timeout(5):
                done = await refund("a")
                await look(1)
        except TimeoutError:
            return f"{done}, and then it was late"
        return "in time"

    t = turn(hurry)
    t.begin()
    assert t.fire() == []
    t.done("refund#1", "ok")
    assert t.result == "ok, and then it was late"
    assert t.replay().ended


def test_a_timeout_that_an_effect_outlived_does_not_reach_beyond_its_block(turn):
    @hf.agent
    async def hurry() -> str:
        async with asyncio.timeout(5):
            done = await refund("a")
        return done + str(await look(1))

    t = turn(hurry)
    t.begin()
    t.fire()
    assert t.done("refund#1", "ok") == ["step.started look#1 (read)"]
    assert t.done("look#1", 1) == ["run.succeeded"]
    assert t.result == "ok1"


def test_a_lost_race_abandons_reads_alone(turn):
    @hf.agent
    async def either() -> str:
        tasks = [asyncio.create_task(c) for c in (refund("a"), look(1), look(2))]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        return await tasks[0]

    t = turn(either)
    t.begin()
    assert t.done("look#2", 1) == ["step.abandoned look#1"]
    assert t.done("refund#1", "ok") == ["run.succeeded"]


def test_a_cancelled_wait_for_a_message_leaves_no_trace(turn):
    @hf.agent
    async def listen() -> str:
        try:
            return await hf.receive("word", str, timeout=60)
        except TimeoutError:
            return await hf.receive("word", str)

    t = turn(listen)
    t.begin()
    assert list(t.machine.calls) == ["receive#1"]
    assert t.fire() == []
    assert list(t.machine.calls) == ["receive#2"]
    t.tell("receive#2", "word", "hello")
    assert t.result == "hello"


def test_a_cancelled_wait_for_a_child_cancels_the_child(turn):
    @hf.agent
    async def parent() -> str:
        try:
            async with asyncio.timeout(5):
                await two_looks(1)
        except TimeoutError:
            return "late"
        return "in time"

    t = turn(parent)
    assert t.begin() == ["child.started two_looks#1 (agent:two_looks)"]
    assert t.fire() == ["message.sent cancel:two_looks#1 to 'run-1/two_looks#1'", "run.succeeded"]


@hf.step
async def words():
    yield ""


def test_closing_a_stream_early_abandons_it(turn):
    @hf.agent
    async def first() -> str:
        async with contextlib.aclosing(words()) as heard:
            async for word in heard:
                if word:
                    break
        return word + str(await look(1))

    t = turn(first)
    t.begin()
    assert t.part("words#1", 1, "hello") == [
        "step.abandoned words#1",
        "step.started look#1 (read)",
    ]


def test_a_stream_left_behind_is_abandoned_at_the_end_of_the_turn(turn):
    @hf.agent
    async def first() -> str:
        async for word in words():
            if word:
                break
        return word + str(await look(1))

    t = turn(first)
    t.begin()
    assert t.part("words#1", 1, "hello") == ["step.started look#1 (read)"]
    assert t.part("words#1", 2, "there") == []
    assert t.done("look#1", 5) == ["step.abandoned words#1", "run.succeeded"]
    assert t.result == "hello5"


def test_a_stream_hands_over_its_parts_then_its_failure(turn):
    @hf.agent
    async def listen() -> list[str]:
        stream, heard = words(), []
        try:
            while True:
                heard.append(await anext(stream))
        except hf.StepFailed as error:
            return [*heard, error.error_type]

    t = turn(listen)
    t.begin()
    t.part("words#1", 1, "a")
    t.part("words#1", 2, "b")
    t.failed("words#1", "ConnectionError")
    assert t.result == ["a", "b", "ConnectionError"]


# Cancelling a run


def test_a_cancelled_run_may_clean_up(turn):
    @hf.agent
    async def tidy() -> str:
        try:
            return str(await look(1))
        finally:
            await peek(2)

    t = turn(tidy)
    t.begin()
    assert t.cancel() == ["step.abandoned look#1", "step.started peek#1 (read)"]
    assert t.done("peek#1", 0) == ["run.cancelled"]
    assert t.replay().ended


def test_a_cancelled_run_waits_for_its_effect_first(turn):
    @hf.agent
    async def busy() -> str:
        return await refund("a")

    t = turn(busy)
    t.begin()
    assert t.cancel() == []
    assert t.done("refund#1", "ok") == ["run.cancelled"]


def test_a_run_that_ends_all_the_same_has_succeeded(turn):
    @hf.agent
    async def stubborn() -> str:
        try:
            await look(1)
        except asyncio.CancelledError:
            return "no"
        return "yes"

    t = turn(stubborn)
    t.begin()
    assert t.cancel() == ["step.abandoned look#1", "run.succeeded"]
    assert t.result == "no"


def test_a_cancelled_run_whose_cleanup_fails_has_failed(turn):
    @hf.agent
    async def clumsy() -> None:
        try:
            await look(1)
        finally:
            raise ValueError("stumbled")

    t = turn(clumsy)
    t.begin()
    assert t.cancel() == ["step.abandoned look#1", "run.failed"]
    assert t.result["message"] == "stumbled"


def test_an_agent_that_cancels_itself_has_failed(turn):
    @hf.agent
    async def job() -> None:
        raise asyncio.CancelledError

    t = turn(job)
    assert t.begin() == ["run.failed"]


def test_tasks_left_behind_are_cancelled_and_their_effects_waited_for(turn):
    @hf.agent
    async def careless() -> str:
        keep.extend([asyncio.create_task(refund("a")), asyncio.create_task(look(1))])
        await asyncio.sleep(0)
        return "bye"

    keep = []
    t = turn(careless)
    assert t.begin()[-1] == "step.abandoned look#1"
    assert not t.machine.ended
    assert t.done("refund#1", "ok") == ["run.succeeded"]


# Compensation


@hf.step(effect="idempotent")
async def unbook(what: str, outcome: int) -> None: ...


@hf.tool(effect="once", compensate=unbook)
async def book(what: str) -> int: ...


@hf.agent
async def trip() -> None:
    for what in ("flight", "hotel"):
        await book(what)
    await look(1)


def test_a_failed_run_undoes_in_reverse_with_the_outcomes(turn):
    t = turn(trip)
    t.begin()
    t.done("book#1", 11)
    t.done("book#2", 22)
    assert t.failed("look#1") == ["step.started undo:book#2 (idempotent)"]
    assert t.log[-1].payload == b'{"what":"hotel","outcome":22}'
    assert t.done("undo:book#2") == ["step.started undo:book#1 (idempotent)"]
    assert t.log[-1].payload == b'{"what":"flight","outcome":11}'
    assert t.done("undo:book#1") == ["run.failed"]
    assert t.replay().ended


def test_what_failed_or_never_ran_is_not_undone(turn):
    t = turn(trip)
    t.begin()
    t.done("book#1", 11)
    assert t.failed("book#2") == ["step.started undo:book#1 (idempotent)"]


def test_an_undo_that_fails_does_not_keep_the_others_from_theirs(turn):
    t = turn(trip)
    t.begin()
    t.done("book#1", 11)
    t.done("book#2", 22)
    t.failed("look#1")
    assert t.failed("undo:book#2") == ["step.started undo:book#1 (idempotent)"]


def test_a_cancellation_does_not_disturb_the_undoing(turn):
    t = turn(trip)
    t.begin()
    t.done("book#1", 11)
    t.done("book#2", 22)
    t.failed("look#1")
    assert t.cancel() == []
    assert t.done("undo:book#2") == ["step.started undo:book#1 (idempotent)"]
    assert t.done("undo:book#1") == ["run.failed"]


def test_a_cancelled_run_undoes_too_and_a_finished_one_does_not(turn):
    t = turn(trip)
    t.begin()
    t.done("book#1", 11)
    t.done("book#2", 22)
    assert t.cancel() == ["step.abandoned look#1", "step.started undo:book#2 (idempotent)"]
    other = turn(trip)
    other.begin()
    other.done("book#1", 11)
    other.done("book#2", 22)
    assert other.done("look#1", 1) == ["run.succeeded"]


# Version guards


def guarded(*, looks):
    """An agent as it is after a change: a guarded peek was put before the last look."""

    @hf.agent
    async def job() -> int:
        await asyncio.gather(*(look(n) for n in range(looks)))
        if hf.version_guard("peek first"):
            await peek(0)
        return await look(9)

    return job


@hf.agent
async def unguarded() -> int:
    await look(0)
    return await look(9)


def test_a_new_run_passes_the_guard_and_remembers_it(turn):
    t = turn(guarded(looks=1))
    t.begin()
    assert t.done("look#1", 0) == ["version.marked 'peek first'", "step.started peek#1 (read)"]
    t.done("peek#1", 0)
    t.done("look#2", 1)
    assert t.replay().ended


def test_an_old_run_keeps_to_the_old_code_behind_the_guard(turn):
    t = turn(unguarded)
    t.begin()
    t.done("look#1", 0)
    assert list(t.replay(guarded(looks=1)).calls) == ["look#2"]
    t.done("look#2", 1)
    assert t.replay(guarded(looks=1)).ended


def test_an_old_run_that_has_not_come_so_far_takes_the_new_code(turn):
    t = turn(unguarded)
    t.begin()
    machine = t.replay(guarded(looks=1))
    assert [str(command.body) for command in machine.issued] == []
    machine.feed(t.record(ev.StepFinished("look#1"), b"0"))
    assert [command.body for command in machine.issued] == [
        ev.VersionMarked("peek first"),
        ev.StepStarted("peek#1", "read"),
    ]


def test_a_guard_gives_the_same_answer_all_through_a_turn(turn):
    @hf.agent
    async def job() -> list[bool]:
        first = hf.version_guard("g")
        await look(1)
        return [first, hf.version_guard("g"), hf.version_guard("other")]

    t = turn(job)
    t.begin()
    t.done("look#1", 1)
    assert t.result == [True, True, True]
    assert t.said.count("version.marked 'g'") == 1


# Sync agents


@hf.step
def read_file(name: str) -> str: ...


@hf.agent
def sync_job(name: str) -> str:
    return read_file(name) + read_file(name + "2")


def test_a_sync_agent_waits_in_the_middle_of_a_call(turn):
    t = turn(sync_job, "a")
    assert t.begin() == ["step.started read_file#1 (read)"]
    assert t.done("read_file#1", "x") == ["step.started read_file#2 (read)"]
    assert t.done("read_file#2", "y") == ["run.succeeded"]
    assert t.result == "xy"
    assert t.replay().ended


def test_an_async_agent_may_call_a_sync_step(turn):
    @hf.agent
    async def mixed(name: str) -> str:
        return read_file(name) + str(await look(1))

    t = turn(mixed, "a")
    t.begin()
    t.done("read_file#1", "x")
    t.done("look#1", 1)
    assert t.result == "x1"


def test_a_cancelled_sync_agent_may_clean_up(turn):
    @hf.agent
    def tidy(name: str) -> str:
        try:
            return read_file(name)
        finally:
            read_file("cleanup")

    t = turn(tidy, "a")
    t.begin()
    assert t.cancel() == ["step.abandoned read_file#1", "step.started read_file#2 (read)"]
    assert t.done("read_file#2", "x") == ["run.cancelled"]
    assert t.replay().ended


def test_an_agent_cancelled_in_a_sync_step_is_told_once(turn):
    @hf.agent
    async def tidy(name: str) -> str:
        try:
            return read_file(name)
        finally:
            await look(1)
            tidied.append(read_file("cleanup"))

    tidied = []
    t = turn(tidy, "a")
    t.begin()
    assert t.cancel() == ["step.abandoned read_file#1", "step.started look#1 (read)"]
    assert t.done("look#1", 1) == ["step.started read_file#2 (read)"]
    assert t.done("read_file#2", "x") == ["run.cancelled"]
    assert tidied == ["x"]


def test_a_sync_agent_waits_for_its_effect_before_it_is_cancelled(turn):
    @hf.tool(effect="once")
    def pay(cents: int) -> str: ...

    @hf.agent
    def job() -> str:
        pay(5)
        return read_file("never")

    t = turn(job)
    t.begin()
    assert t.cancel() == []
    assert t.done("pay#1", "ok") == ["run.cancelled"]


def test_a_cancelled_sync_agent_cancels_its_child(turn):
    @hf.agent
    def parent() -> str:
        return sync_job("a")

    t = turn(parent)
    t.begin()
    assert t.cancel() == [
        "message.sent cancel:sync_job#1 to 'run-1/sync_job#1'",
        "run.cancelled",
    ]


def test_a_sync_step_called_through_to_thread_is_one_of_the_turn(turn):
    @hf.agent
    async def job() -> str:
        return await asyncio.to_thread(read_file, "a")

    t = turn(job)
    t.begin()
    t.done("read_file#1", "x")
    assert t.result == "x"


def test_a_sync_step_called_in_a_thread_of_its_own_is_refused(turn):
    @hf.agent
    async def job() -> list[str]:
        def work():
            try:
                read_file("a")
            except UsageError as error:
                errors.append(str(error))

        errors = []
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=[work])
        thread.start()
        thread.join()
        return errors

    t = turn(job)
    assert t.begin() == ["run.succeeded"]
    assert "in a thread" in t.result[0]


def streamed(turn, use):
    """A sync agent that reads the stream ``words``, as the sync HTTP client does."""

    @hf.agent
    def job() -> str:
        machine = current()
        return use(machine.wait_parts(machine.step(spec_of(words), b"{}")))

    t = turn(job)
    t.begin()
    return t


def test_sync_code_hears_a_stream_part_by_part(turn):
    heard = []
    t = streamed(turn, lambda parts: str([heard.append(part) for part in parts]))
    t.part("words#1", 1, "a")
    assert heard == [b'"a"']
    t.part("words#1", 2, "b")
    assert t.done("words#1", 2) == ["run.succeeded"]
    assert heard == [b'"a"', b'"b"']
    assert t.replay().ended


def test_sync_code_is_told_that_a_stream_failed(turn):
    t = streamed(turn, lambda parts: str(list(parts)))
    t.part("words#1", 1, "a")
    assert t.failed("words#1", "ConnectionError", "cut") == ["run.failed"]
    assert t.result["message"] == "cut"


def test_a_stream_that_sync_code_left_open_is_abandoned_at_the_end_of_the_turn(turn):
    kept = []

    def first(parts):
        kept.append(parts)
        return next(parts).decode()

    t = streamed(turn, first)
    assert t.part("words#1", 1, "a") == ["step.abandoned words#1", "run.succeeded"]


def test_sync_code_that_closes_a_stream_abandons_it(turn):
    def first(parts):
        part = next(parts)
        parts.close()
        return part.decode()

    t = streamed(turn, first)
    assert t.part("words#1", 1, "a") == ["step.abandoned words#1", "run.succeeded"]


# Turns with state


def test_a_turn_hands_over_reply_and_state(turn):
    @hf.agent
    async def count(state: dict[str, int], message: str) -> int:
        state[message] = state.get(message, 0) + await look(1)
        return state[message]

    t = turn(count, state={"a": 1}, turn=2)
    t.begin("a")
    assert t.done("look#1", 5) == ["turn.finished"]
    assert t.result == {"reply": 6, "state": {"a": 6}}


def test_a_turn_may_return_its_state(turn):
    @hf.agent
    async def count(state: int, message: int) -> tuple[int, str]:
        return state + message, "noted"

    t = turn(count, turn=1)
    t.begin(4)
    assert t.result == {"reply": "noted", "state": 4}


def test_a_turn_that_raises_has_failed(turn):
    @hf.agent
    async def count(state: dict[str, int], message: str) -> int:
        return state[message]

    t = turn(count)
    assert t.begin("a") == ["turn.failed"]
    assert t.result == {"type": "KeyError", "message": "'a'", "retryable": False}


def test_a_message_of_the_wrong_type_fails_the_turn_with_its_path(turn):
    @hf.agent
    async def count(state: int, message: list[int]) -> int:
        return state + sum(message)

    t = turn(count)
    assert t.begin([1, "x"]) == ["turn.failed"]
    assert "$[1]" in t.result["message"]


def test_a_result_of_the_wrong_type_fails_the_run_with_its_path(turn):
    @hf.agent
    async def bad() -> list[int]:
        return [1, "x"]

    t = turn(bad)
    assert t.begin() == ["run.failed"]
    assert "$[1]" in t.result["message"]


# Stuck, spinning, closed


def test_waiting_for_what_no_event_can_bring_fails_the_run(turn):
    @hf.agent
    async def stuck() -> None:
        await asyncio.get_running_loop().create_future()

    t = turn(stuck)
    assert t.begin() == ["run.failed"]
    assert "no event can bring" in t.result["message"]


def test_being_stuck_is_seen_behind_a_last_word_too(turn):
    @hf.agent
    async def stuck() -> None:
        hf.emit("a last word")
        await asyncio.get_running_loop().create_future()

    t = turn(stuck)
    assert t.begin() == ["stream.emitted", "run.failed"]
    assert "no event can bring" in t.result["message"]


def test_spinning_fails_the_run(turn, monkeypatch):
    monkeypatch.setattr("holdfast.core.loop.CALLBACKS_MAX", 1000)

    @hf.agent
    async def spin() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(again, loop)
        await loop.create_future()

    def again(loop):
        loop.call_soon(again, loop)

    t = turn(spin)
    assert t.begin() == ["run.failed"]
    assert "spins" in t.result["message"]


def test_io_in_an_agent_fails_the_run_and_names_the_decorator(turn):
    @hf.agent
    async def reach() -> None:
        await asyncio.open_connection("localhost", 1)

    t = turn(reach)
    assert t.begin() == ["run.failed"]
    assert t.result["type"] == IoOutsideStep.__name__
    assert "@hf.step" in t.result["message"]


def test_closing_unwinds_the_coroutines_and_asks_for_nothing(turn):
    seen = []

    @hf.agent
    async def job() -> None:
        try:
            await asyncio.gather(look(1), peek(1))
        except BaseException as error:
            seen.append(type(error))
            raise
        finally:
            seen.append("finally")
            await look(2)

    t = turn(job)
    t.begin()
    t.machine.close()
    assert seen == [RunSuspended, "finally"]
    assert not t.machine.issued
    assert t.machine.loop.is_closed()


def test_closing_unwinds_sync_code_too(turn):
    seen = []

    @hf.agent
    def job() -> None:
        try:
            read_file("a")
        except BaseException as error:
            seen.append(type(error))
            raise

    t = turn(job)
    t.begin()
    t.machine.close()
    assert seen == [RunSuspended]


def test_ambient_functions_outside_a_run_say_so():
    for ask in (hf.now, hf.random, hf.uuid, hf.run_id):
        with pytest.raises(NotInRun, match=f"hf.{ask.__name__}"):
            ask()


def test_a_machine_leaves_no_trace_in_the_context_around_it(turn):
    t = turn(two_looks, 1)
    t.begin()
    with pytest.raises(NotInRun):
        hf.now()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_two_machines_do_not_see_each_other(turn):
    @hf.agent
    async def who() -> str:
        await look(1)
        return hf.run_id()

    first = turn(who)
    other = Machine(agent_spec(who), run="run-2", seed=1)
    first.begin()
    other.feed(first.log[0])
    other.feed(first.log[1])
    first.done("look#1", 1)
    other.feed(first.log[2])
    assert first.result == "run-1"
    assert other.issued[0].payload == b'"run-2"'
