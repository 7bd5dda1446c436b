"""Steps inside the log's own transaction, side by side with others.

*Goal*: each transactional step is made once, in its turn, whatever else is under way; one that
raises undoes its own statements alone. *Method*: several at once, between reads, with a kill at
each write; the rows they leave are counted.
"""

import asyncio
import itertools

import pytest

import holdfast as hf


@hf.tool(effect="transactional")
def book(n: int) -> int:
    execute = hf.transaction().execute
    execute("CREATE TABLE IF NOT EXISTS book (n INTEGER)")
    execute("INSERT INTO book VALUES (?)", (n,))
    if n == 2:
        raise ValueError("no two")
    return execute("SELECT count(*) FROM book")[0][0]


@hf.step
async def look(n: int) -> int:
    return n


@hf.tool(effect="transactional")
async def book_later(n: int) -> int:
    execute = hf.transaction().execute
    execute("CREATE TABLE IF NOT EXISTS book (n INTEGER)")
    execute("INSERT INTO book VALUES (?)", (n,))
    return execute("SELECT count(*) FROM book")[0][0]


@hf.tool(effect="transactional")
async def booked() -> list[int]:
    return [n for (n,) in hf.transaction().execute("SELECT n FROM book ORDER BY n")]


@hf.agent
async def job() -> list[str]:
    at_once = [book_later(1), look(5), book_later(3), look(6), book_later(4)]
    answers = await asyncio.gather(*at_once)
    try:
        book(2)
    except hf.StepFailed as error:
        answers.append(error.error_message)
    return [str(answer) for answer in [*answers, await booked()]]


@pytest.mark.parametrize("made", [False, True])
def test_several_at_once_and_one_that_raises_through_a_kill_at_every_write(stage, made):
    for write in itertools.count(1):
        s = stage(job)
        s.start(job)
        killed = s.work_until_killed(write, made=made)
        s.play()
        counts = sorted(s.result()[n] for n in (0, 2, 4))
        assert counts == ["1", "2", "3"]
        assert s.result()[5:] == ["no two", "[1, 3, 4]"]
        if not killed:
            break
    assert write > 8


def test_a_body_that_waits_is_told_that_it_cannot(stage):
    @hf.tool(effect="transactional")
    async def wait() -> None:
        await asyncio.sleep(0)

    @hf.agent
    async def waiter() -> str:
        try:
            await wait()
        except hf.StepFailed as error:
            return str(error)
        return ""

    s = stage(waiter)
    s.start(waiter)
    s.play()
    assert "tool 'wait' awaits something inside the log's transaction" in s.result()


def test_the_transaction_is_for_transactional_steps_alone(stage):
    @hf.tool(effect="idempotent", retry=hf.Retry(attempts=1))
    async def cheat() -> None:
        try:
            hf.transaction()
        except hf.UsageError as error:
            raise hf.NotDone(str(error)) from error

    @hf.agent
    async def cheater() -> str:
        try:
            await cheat()
        except hf.StepFailed as error:
            return str(error)
        return ""

    s = stage(cheater)
    s.start(cheater)
    s.play()
    assert "step cheat#1: hf.transaction() is for effect='transactional' only" in s.result()
