"""A value keeps its type or fails at once; an exception is data.

The fault: types that the serializer does not know come back as a dict or as None after a restart,
and exceptions cannot be unpickled, which kills recovery. Reported as langgraph #7066, #6970 and
dbos #371.

*Goal*: what the agent got before the restart it gets after it, and what cannot be kept fails its
step once, with the path. *Method*: results and exceptions of many kinds, used before and after a
wait in another process.
"""

import dataclasses
import datetime as dt
import enum
import threading
import uuid

import pydantic
import pytest

import holdfast as hf
from holdfast.core import events as ev


class Colour(enum.Enum):
    RED = "red"


class Item(pydantic.BaseModel):
    name: str
    colour: Colour = Colour.RED


@dataclasses.dataclass
class Basket:
    items: dict[str, Item]
    at: dt.datetime
    id: uuid.UUID


@hf.step
async def fetch() -> Basket:
    when = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
    return Basket({"a": Item(name="a")}, when, uuid.UUID(int=7))


@hf.agent
async def shop() -> list[str]:
    basket = await fetch()
    before = repr(basket)
    await hf.receive("go on")
    return [before, repr(basket), type(basket.items["a"].colour).__name__, str(basket.at.year)]


def test_types_are_the_same_in_another_process(stage):
    s = stage(shop)
    s.start(shop)
    s.play()
    s.tell(None, topic="go on")
    s.play()
    before, after, colour, year = s.result()
    assert before == after
    assert before.startswith("Basket(items={'a': Item(name='a', colour=<Colour.RED: 'red'>)}")
    assert (colour, year) == ("Colour", "2026")


class Odd:
    """A type that no JSON stands for."""


@pytest.mark.parametrize("effect", ["read", "idempotent", "once"])
def test_a_type_that_cannot_be_kept_fails_its_step_once_with_the_path(stage, effect):
    tries = []

    @hf.step(effect=effect)
    async def fetch() -> dict[str, object]:
        tries.append(1)
        return {"items": [1, Odd()]}

    @hf.agent
    async def job() -> str:
        try:
            await fetch()
        except hf.StepFailed as error:
            return str(error)
        return "it came back as something"

    s = stage(job)
    s.start(job)
    s.play()
    assert s.result().startswith(
        "step fetch#1: CodecError: the result of step 'fetch', $.items[1]: Odd cannot be written"
    )
    assert tries == [1]


class Sealed(Exception):  # noqa: N818 - what matters is that it cannot be made from its arguments
    def __init__(self, *, code):
        super().__init__(f"code {code}")
        self.code = code
        self.lock = threading.Lock()

    def __reduce__(self):
        raise TypeError("cannot be pickled")


@hf.step(retry=hf.Retry(attempts=1))
async def fail() -> None:
    raise Sealed(code=7)


@hf.agent
async def careful() -> list[str]:
    try:
        await fail()
    except hf.StepFailed as error:
        kept = error
    before = f"{kept.error_type}: {kept.error_message}"
    await hf.receive("go on")
    try:
        await fail()
    except hf.StepFailed as error:
        return [before, f"{error.error_type}: {error.error_message}", str(kept)]
    return []


def test_an_exception_is_data_and_the_same_after_a_restart(stage):
    s = stage(careful)
    s.start(careful)
    s.play()
    s.tell(None, topic="go on")
    s.play()
    assert s.result() == ["Sealed: code 7", "Sealed: code 7", "step fail#1: Sealed: code 7"]
    failures = [e.payload for e in s.events() if isinstance(e.body, ev.StepFailed)]
    assert failures[0] == b'{"type":"Sealed","message":"code 7","retryable":true}'


def test_an_exception_whose_text_is_no_text_is_recorded_all_the_same(stage):
    @hf.step(retry=hf.Retry(attempts=1))
    async def fail() -> None:
        raise ValueError("half a surrogate: \ud800")

    @hf.agent
    async def job() -> str:
        try:
            await fail()
        except hf.StepFailed as error:
            return error.error_message
        return ""

    s = stage(job)
    s.start(job)
    s.play()
    assert s.result() == "half a surrogate: ?"
