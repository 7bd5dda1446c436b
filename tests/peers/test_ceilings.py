"""A run may be long and its values large; what is over the limit fails once, by name.

The fault: a history of 51,200 events or 50 MB ends the run, a payload over 2 MB is refused and the
refused call is retried for ever. Reported as temporalio/sdk-python #1890 and pydantic-ai #3359,
#7157.

*Goal*: no ceiling on events; 10 MB values pass; an over-limit value fails its step, once, and the
error names step and limit. *Method*: 20,000 events in one turn on the memory store, then a restart
in the middle; large values on SQLite.
"""

import pytest

import holdfast as hf
from holdfast.core import codec
from holdfast.core import events as ev
from holdfast.stores.sqlite import SqliteStore

STEPS = 10_000


@hf.step
async def count(n: int) -> int:
    return n + 1


@hf.agent
async def long(resume_at: int) -> int:
    n = 0
    while n < STEPS:
        n = await count(n)
        if n == resume_at:
            await hf.receive("go on")
    return n


def test_twenty_thousand_events_and_a_restart_among_them(stage):
    s = stage(long)
    s.start(long, STEPS - 100)
    s.play()
    assert s.status() == "waiting"
    s.tell(None, topic="go on")
    s.play()  # another worker replays what was
    assert s.result() == STEPS
    assert len(s.events()) > 2 * STEPS


@hf.step
async def read_file(megabytes: int) -> str:
    return "x" * (megabytes * 1_000_000)


@hf.agent
async def large(text: str) -> str:
    more = await read_file(10)
    return f"{len(text) + len(more)}"


def test_ten_megabytes_in_and_out_of_a_step(stage, tmp_path):
    s = stage(large)
    s.store = s.run(SqliteStore.open(tmp_path / "s.db", inline=True))
    s.start(large, "y" * 10_000_000)
    s.play()
    assert s.result() == "20000000"
    s.run(s.store.close())


@pytest.fixture
def limit(monkeypatch):
    monkeypatch.setattr(codec, "PAYLOAD_BYTES_MAX", 1_000_000)


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize("effect", ["read", "idempotent", "once"])
def test_a_result_over_the_limit_fails_its_step_once(stage, effect):
    tries = []

    @hf.step(effect=effect)
    async def read_file(megabytes: int) -> str:
        tries.append(megabytes)
        return "x" * (megabytes * 1_000_000)

    @hf.agent
    async def job() -> str:
        try:
            return await read_file(2)
        except hf.StepFailed as error:
            return str(error)

    s = stage(job)
    s.start(job)
    s.play()
    assert s.result() == (
        "step read_file#1: PayloadTooLarge: the result of step 'read_file' has 2000002 bytes as"
        " JSON; at most 1000000 are possible (PAYLOAD_BYTES_MAX). Hint: keep large data elsewhere"
        " and pass a reference."
    )
    assert tries == [2]
    failed = [e.body for e in s.events() if isinstance(e.body, ev.StepFailed)]
    assert [body.final for body in failed] == [True]


@pytest.mark.usefixtures("limit")
def test_arguments_over_the_limit_never_reach_the_log(stage):
    @hf.agent
    async def job() -> str:
        try:
            return await send("x" * 2_000_000)
        except hf.CodecError as error:
            return str(error)

    @hf.step
    async def send(text: str) -> str:
        return text

    s = stage(job)
    s.start(job)
    s.play()
    assert s.result().startswith("the arguments of step 'send' has 2000011 bytes")
    assert not [e for e in s.events() if isinstance(e.body, ev.StepStarted)]
