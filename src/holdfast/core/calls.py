"""What passes between an agent's code and its machine: calls that wait, commands that come out."""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from holdfast.core import events as ev
from holdfast.core.failures import failure_error
from holdfast.core.loop import Waiter
from holdfast.core.redaction import Cleaner, same_but_marks
from holdfast.core.specs import StepSpec
from holdfast.errors import CodecError, Diverged

__all__ = ["Call", "Command", "Decode", "describe", "divergence", "excerpt", "same_payload"]

EXCERPT_CHARS = 300

Decode: TypeAlias = Callable[[bytes], Any]
"""Reads a payload back into the value that it stands for."""


class Call:
    """Something the agent waits for: a step's outcome, a message, a child's end."""

    __slots__ = (
        "abandoned",
        "args",
        "done",
        "effect",
        "error",
        "key",
        "kind",
        "parts",
        "spec",
        "topic",
        "value",
        "waiter",
    )

    def __init__(self, key: str, kind: str, effect: str = "read") -> None:
        self.key = key
        self.kind = kind
        """``step``, ``message``, ``child``, or ``timer`` for sync code that sleeps."""
        self.effect = effect
        self.spec: StepSpec | None = None
        self.args = b""
        self.topic = ""
        self.value: bytes | None = None
        self.error: bytes | None = None
        self.done = False
        """Whether there is an outcome: a value or an error."""
        self.parts: deque[bytes] = deque()
        self.waiter: Waiter | None = None
        self.abandoned = False

    def end(self, payload: bytes, *, failed: bool) -> None:
        """Take in the outcome and wake who waits for it."""
        if failed:
            self.error = payload
        else:
            self.value = payload
        self.done = True
        self.wake()

    @property
    def may_be_abandoned(self) -> bool:
        """Whether a cancelled wait ends at once: the outcome of an effect is always waited for."""
        return self.kind != "step" or self.effect == "read"

    def result(self) -> bytes:
        """Return the outcome's value.

        Raises:
            StepFailed: the outcome is a failure.
        """
        if self.error is not None:
            raise failure_error(self.error, self.key)
        assert self.value is not None
        return self.value

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Command(NamedTuple):
    """What the machine asks of the world.

    The note to append, the call behind it, if it waits for one, and how its payload is read.
    """

    body: ev.Body
    payload: bytes | None
    cause: int
    call: Call | None = None
    decode: Decode | None = None


def same_payload(event: ev.Event, payload: bytes | None, decode: Decode | None) -> bool:
    """Tell whether an event's payload is these bytes, or others that stand for the same value.

    A set is written in no order, and another release of pydantic may write a date otherwise. Of an
    erased payload nothing can be told, so it passes; and where a secret was taken out of what was
    recorded, anything may have stood.
    """
    if payload is None or event.salt is None or event.payload == payload:
        return True
    if ev.commitment(event.salt, payload) == event.committed:
        return True
    if event.payload is None:
        return False
    same = same_but_marks(event.payload, payload)
    if same or decode is None:
        return same
    try:
        return bool(decode(event.payload) == decode(payload))
    except CodecError:
        return False


def describe(body: ev.Body) -> str:
    """Return a body as one readable phrase, such as ``step.started refund#1 (once)``."""
    match body:
        case ev.StepStarted():
            return f"{body.type} {body.key} ({body.effect})"
        case ev.MessageSent():
            return f"{body.type} {body.key} to {body.to!r}"
        case ev.ChildStarted():
            return f"{body.type} {body.key} ({body.agent_called})"
        case ev.VersionMarked():
            return f"{body.type} {body.name!r}"
        case ev.TimerFired():
            return f"{body.type} {body.timer}"
        case _:
            key = getattr(body, "key", "")
            return f"{body.type} {key}".rstrip()


def divergence(run: str, event: ev.Event, command: Command | None, cleaner: Cleaner) -> Diverged:
    """Return the error that an event is not what the agent asked for, or asked for nothing."""
    recorded = describe(event.body)
    requested = describe(command.body) if command else "nothing more here"
    if command and recorded == requested:
        recorded += f" with {excerpt(event.payload)}"
        payload = None if command.payload is None else cleaner.clean(command.payload)
        requested += f" with {excerpt(payload)}"
    return Diverged(
        f"run {run!r} event {event.seq}: the stream holds {recorded}, the agent asked for"
        f" {requested}. Hint: guard the new path with hf.version_guard, or accept the change by"
        " holdfast accept.",
        seq=event.seq,
        recorded=recorded,
        requested=requested,
    )


def excerpt(payload: bytes | None) -> str:
    """Return the beginning of a payload, for an error message."""
    text = (payload or b"nothing").decode("utf-8", "replace")
    return (
        text if len(text) <= EXCERPT_CHARS else f"{text[:EXCERPT_CHARS]}… ({len(text)} characters)"
    )
