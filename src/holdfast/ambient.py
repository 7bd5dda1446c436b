"""What code inside a run, or inside a step's body, may ask of its surroundings.

Nothing here depends on the world: time is that of the last event, chance is drawn from the run's
seed, and what is sent, asked or received goes through the log.
"""

import asyncio
import datetime as dt
import uuid as uuids
from typing import Any, overload

from holdfast.core.codec import Codec, json_bytes
from holdfast.core.limits import (
    MESSAGE_ID_CHARS_MAX,
    RUN_ID_CHARS_MAX,
    TOPIC_CHARS_MAX,
    check_name,
)
from holdfast.core.machine import current
from holdfast.core.retry import draw
from holdfast.errors import NotInRun, UsageError
from holdfast.ports import Transaction
from holdfast.runtime.context import STEP, StepContext
from holdfast.runtime.verdicts import NOT_DONE, UNKNOWN

__all__ = [
    "NOT_DONE",
    "UNKNOWN",
    "ask",
    "attempt",
    "emit",
    "idempotency_key",
    "now",
    "random",
    "receive",
    "run_id",
    "send",
    "transaction",
    "uuid",
    "version_guard",
]


def now() -> dt.datetime:
    """Return the time of the last event, in UTC; it stands still between events."""
    return dt.datetime.fromtimestamp(current("hf.now()").loop.time(), dt.UTC)


def random() -> float:
    """Return a number in [0, 1), drawn from the run's seed."""
    machine = current("hf.random()")
    return draw(machine.seed, "random", machine.turn, machine.next_draw())


def uuid() -> uuids.UUID:
    """Return a UUID (version 4 in form), drawn from the run's seed."""
    machine = current("hf.uuid()")
    n = machine.next_draw()
    bits = 0
    for part in range(3):
        bits = bits << 53 | int(draw(machine.seed, "uuid", machine.turn, n, part) * 2**53)
    return uuids.UUID(int=bits & (2**128 - 1), version=4)


def run_id() -> str:
    """Return the id of the run this code is in, in a turn or in a step's body."""
    context = STEP.get()
    return context.run if context is not None else current("hf.run_id()").run


def version_guard(name: str) -> bool:
    """Tell whether new code may run: not where this turn had passed before there was a guard.

    ::

        if hf.version_guard("audit before refund"):
            await audit(order)
        await refund(order, cents)
    """
    return current("hf.version_guard()").version_guard(name)


def emit(value: Any) -> None:
    """Hand a value to whoever follows the run's stream; recorded once, in order."""
    codec = Codec(type(value), "an emitted value")
    current("hf.emit()").emit(codec.encode(value), codec.decode)


def send(run: str, message: Any, *, topic: str = "", id: str = "") -> None:  # noqa: A002 - the word users know
    """Send a message to another run, exactly once.

    Args:
        run: The id of the receiving run.
        message: Any value that survives the log.
        topic: What ``receive`` asks for; empty: the message begins a turn of an agent with state.
        id: The receiver takes only one message of each id; by default each call has its own.

    Raises:
        UsageError: a name is empty or too long.
    """
    check_name("run id", run, RUN_ID_CHARS_MAX)
    check_name("topic", topic, TOPIC_CHARS_MAX, empty=True)
    check_name("message id", id, MESSAGE_ID_CHARS_MAX, empty=True)
    machine = current("hf.send()")
    codec = Codec(type(message), "a message")
    machine.send(run, topic, codec.encode(message), id, codec.decode)


async def receive(topic: str, type: Any = Any, timeout: float | None = None) -> Any:  # noqa: A002, ASYNC109 - the words users know
    """Wait for the next message of a topic; a parked run costs no memory meanwhile.

    Args:
        topic: The topic, not empty.
        type: The annotation that the message is decoded by.
        timeout: Seconds, or None to wait for ever.

    Raises:
        TimeoutError: nothing came in time.
        CodecError: the message is not of that type; it counts as taken.
    """
    check_name("topic", topic, TOPIC_CHARS_MAX)
    machine = current("hf.receive()")
    call = machine.receive(topic)
    async with asyncio.timeout(timeout):
        data = await machine.outcome(call)
    return Codec(type, f"a message of topic {topic!r}").decode(data)


@overload
async def ask(question: str) -> str: ...
@overload
async def ask(question: str, schema: Any) -> Any: ...
async def ask(question: str, schema: Any = str) -> Any:
    """Ask a person and wait for the answer, for weeks if need be.

    Args:
        question: What to ask.
        schema: The type of the answer.

    Raises:
        CodecError: the answer is not of that type.
    """
    machine = current("hf.ask()")
    codec = Codec(schema, "the answer")
    call = machine.ask(json_bytes({"question": question, "schema": codec.schema()}))
    return codec.decode(await machine.outcome(call))


def _step(what: str) -> StepContext:
    context = STEP.get()
    if context is None:
        raise NotInRun(
            f"{what} was called outside a step's body. Hint: call it in a function under @hf.tool."
        )
    return context


def idempotency_key() -> str:
    """Return the key of the effect under way.

    The same for all its attempts, and no other effect's.
    """
    return _step("hf.idempotency_key()").idempotency_key


def attempt() -> int:
    """Return which attempt at the step this is, from 1."""
    return _step("hf.attempt()").attempt


def transaction() -> Transaction:
    """Return the log's own transaction, in the body of a ``transactional`` step.

    Raises:
        UsageError: the step has another contract.
    """
    context = _step("hf.transaction()")
    if context.transaction is None:
        raise UsageError(
            f"step {context.key}: hf.transaction() is for effect='transactional' only. Hint:"
            " @hf.tool(effect='transactional')"
        )
    return context.transaction
